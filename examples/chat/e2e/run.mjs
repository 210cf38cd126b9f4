// Tries the chat in real browsers: node examples/chat/e2e/run.mjs
//
//   --browser chromium|firefox   only one of both
//   --screenshots FOLDER         leaves pictures there
//   --scene WORDS                only the scenes with these words in their title
//
// It needs Go, Chromium, Firefox ESR, and playwright-core of web/js.

import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { build, clean } from "./program.mjs";
import { scenes } from "./scenes.mjs";

const { values: options } = parseArgs({ options: { browser: { type: "string" }, screenshots: { type: "string" }, scene: { type: "string" } } });

const browsers = {
  chromium: {
    path: "/usr/bin/chromium",
    install: "apt-get install -y chromium",
    launch: (playwright, executablePath) => playwright.chromium.launch({ executablePath, args: ["--no-sandbox"] }),
  },
  firefox: {
    path: "/usr/bin/firefox-esr",
    install: "apt-get install -y --no-install-recommends firefox-esr",
    launch: (playwright, executablePath) => playwright.firefox.launch({ channel: "moz-firefox", executablePath }),
  },
};

function loadPlaywright() {
  try {
    return createRequire(new URL("../../../web/js/package.json", import.meta.url))("playwright-core");
  } catch (cause) {
    throw new Error("playwright-core is missing: run npm ci in web/js", { cause });
  }
}

/** Runs in a page: `network.cut()` ends its connections as a lost network does, until `network.mend()`. */
function cuttable() {
  if (!("WebTransport" in globalThis)) return; // about:blank
  const open = new Set();
  let isCut = false;
  globalThis.WebTransport = class extends WebTransport {
    constructor(...args) {
      if (isCut) throw new Error("the network is cut");
      super(...args);
      open.add(this);
      this.closed.catch(() => {}).finally(() => open.delete(this));
    }
  };
  globalThis.network = {
    cut() {
      isCut = true;
      for (const transport of open) transport.close({ closeCode: 300, reason: "cut" });
    },
    mend() {
      isCut = false;
    },
  };
}

async function run(name) {
  const { path, install, launch } = browsers[name];
  if (!existsSync(path)) throw new Error(`${path} is missing: ${install}`);
  const browser = await launch(loadPlaywright(), path);
  try {
    for (const [title, scene] of Object.entries(scenes)) {
      if (!title.includes(options.scene ?? "")) continue;
      const began = performance.now();
      const contexts = [];
      const problems = [];
      const stops = [];
      /** Opens the page as somebody with a browser of their own. */
      const visit = async (server, name, { room = "lobby", ...settings } = {}) => {
        const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, ...settings });
        contexts.push(context);
        await context.addInitScript((n) => {
          if (location.protocol === "http:") localStorage["tidewire-chat-name"] ??= JSON.stringify(n); // about:blank has no storage
        }, name);
        await context.addInitScript(cuttable);
        const page = await context.newPage();
        page.setDefaultTimeout(15_000);
        const note = (problem) => {
          // What takes the pictures breaks the policy itself.
          if (!(options.screenshots && /Content.Security.Policy/i.test(problem))) problems.push(`${name}: ${problem}`);
        };
        page.on("pageerror", (error) => note(`${error} ${error.stack}`));
        page.on("console", (m) => /Content.Security.Policy/i.test(m.text()) && note(m.text()));
        await page.goto(`${server.url}#${room}`);
        await page.locator(`#stage[data-ready=${room}]`).waitFor();
        return page;
      };
      /** Takes a picture, if pictures are asked for. */
      const picture = async (page, what) => {
        if (!options.screenshots) return;
        mkdirSync(options.screenshots, { recursive: true });
        await page.screenshot({ animations: "disabled", path: join(options.screenshots, `${name}-${what}.png`) });
      };
      try {
        await scene({ visit, picture, stopLater: (program) => (stops.push(program), program), isChromium: name === "chromium" });
        assert.deepEqual(problems, [], "the pages had errors");
      } catch (cause) {
        for (const [i, context] of contexts.entries()) for (const page of context.pages()) await picture(page, `failed-${i}`).catch(() => {});
        throw new Error(`${name}: ${title}`, { cause });
      } finally {
        for (const context of contexts) await context.close();
        for (const program of stops.reverse()) await program.stop();
      }
      console.log(`ok   ${name}: ${title} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
    }
  } finally {
    await browser.close();
  }
}

try {
  const names = options.browser ? [options.browser] : Object.keys(browsers);
  for (const name of names) if (!browsers[name]) throw new Error(`--browser ${name}: one of ${Object.keys(browsers).join(", ")}`);
  build();
  const ends = await Promise.allSettled(names.map(run));
  for (const { reason } of ends) if (reason) throw reason;
} catch (error) {
  console.error("FAIL", error);
  process.exitCode = 1;
} finally {
  clean();
}
