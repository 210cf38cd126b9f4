// Runs the scenarios of page/scenarios.js in real Chromium and real Firefox,
// against the test broker, with the committed dist/tidewire.js.
//
//	npm run e2e [-- chromium|firefox] [-- --only WORDS]

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium, firefox } from "playwright-core";
import { openFreezable } from "./freezable.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const SCENARIO_MS = 20_000;

const browsers = {
  chromium: {
    path: process.env.CHROMIUM ?? "/usr/bin/chromium",
    package: "chromium",
    // As root, and in containers, Chromium's sandbox cannot be had.
    launch: (executablePath) => chromium.launch({ executablePath, args: ["--no-sandbox"] }),
    stalled: 4,
    hides: true,
  },
  firefox: {
    path: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
    package: "firefox-esr",
    launch: (executablePath) => firefox.launch({ channel: "moz-firefox", executablePath }),
    stalled: 3,
    hides: false,
  },
};

const words = process.argv.slice(2);
const onlyAt = words.indexOf("--only");
const only = onlyAt < 0 ? "" : words.splice(onlyAt).slice(1).join(" ");
const wanted = words.length > 0 ? words : Object.keys(browsers);

for (const name of wanted) {
  const browser = browsers[name];
  if (!browser) fail(`no browser is called ${name}: there are ${Object.keys(browsers).join(", ")}`);
  if (!existsSync(browser.path)) {
    fail(
      `${browser.path} is not there. On Debian: apt-get install ${browser.package}; ` +
        `or tell where it is with ${name.toUpperCase()}=PATH.`,
    );
  }
}

function fail(text) {
  console.error(text);
  process.exit(1);
}

/** Builds the test broker and starts it; returns what it tells, and how to stop it. */
async function startBroker() {
  const dir = mkdtempSync(join(tmpdir(), "tidewire-e2e-"));
  const program = join(dir, "testbroker");
  const build = spawn("go", ["build", "-o", program, "./testbroker"], { cwd: here, stdio: "inherit" });
  build.once("error", (e) => fail(`go: ${e.message}`));
  const [status] = await once(build, "exit");
  if (status !== 0) fail("the test broker does not build");
  const broker = spawn(program, ["-dir", join(here, "page")], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: broker.stdout });
  const died = () => fail("the test broker ended");
  broker.once("exit", died);
  const [line] = await once(lines, "line");
  return {
    env: JSON.parse(line),
    async stop() {
      broker.off("exit", died);
      const ended = once(broker, "exit");
      broker.stdin.end();
      await ended;
      rmSync(dir, { recursive: true });
    },
  };
}

/** Runs f, which is given up after a time. */
async function limited(f) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${SCENARIO_MS} ms`)), SCENARIO_MS);
  });
  try {
    return await Promise.race([f(), late]);
  } finally {
    clearTimeout(timer);
  }
}

let passed = 0;
let failed = 0;

async function check(name, f) {
  const begun = performance.now();
  try {
    await limited(f);
    passed++;
    console.log(`ok   ${name} (${Math.round(performance.now() - begun)} ms)`);
  } catch (e) {
    failed++;
    console.log(`FAIL ${name}\n     ${String(e.message ?? e).replaceAll("\n", "\n     ")}`);
  }
}

/** Runs what is interrupted by the browser: in a page of its own, which is hidden and frozen. */
async function runAsleep(name, browser, env, scenarios) {
  const tell = (path, parameters) =>
    fetch(`${env.http}/${path}`, { method: "POST", body: new URLSearchParams(parameters) });
  const page = await openFreezable(browser, `${env.http}/`, async ({ topic, network }) => {
    if (network) await tell("network", { is: network });
    for (const value of ["1", "2", "3"]) await tell("publish", { topic, value });
  });
  try {
    for (const scenario of scenarios) {
      const call = `scenarios[${JSON.stringify(scenario)}](${JSON.stringify(env)})`;
      await check(`${name}, hidden: ${scenario}`, () =>
        page.evaluate(`import("/interruptions.js").then(({ asleep: scenarios }) => ${call})`),
      );
    }
  } finally {
    await tell("network", { is: "back" });
    await page.close();
  }
}

async function runIn(name, env) {
  const { launch, path, stalled, hides } = browsers[name];
  const browser = await launch(path);
  try {
    console.log(`# ${name} ${browser.version()}`);
    const page = await browser.newPage();
    const unhandled = [];
    page.on("pageerror", (e) => unhandled.push(e));
    await page.goto(`${env.http}/`);
    const list = await page.evaluate(async () => {
      const { scenarios, asleep, inWorker } = await import("/scenarios.js");
      return { all: Object.keys(scenarios), asleep: Object.keys(asleep), inWorker };
    });
    const given = { ...env, stalled };
    for (const scenario of list.all.filter((s) => s.includes(only))) {
      await check(`${name}: ${scenario}`, () =>
        page.evaluate(
          async ([s, e]) => (await import("/scenarios.js")).scenarios[s](e),
          [scenario, given],
        ),
      );
    }
    for (const scenario of list.inWorker.filter((s) => s.includes(only))) {
      await check(`${name}, in a Worker: ${scenario}`, () =>
        page.evaluate(
          async ([s, e]) => (await import("/scenarios.js")).runInWorker(s, e),
          [scenario, given],
        ),
      );
    }
    const asleep = list.asleep.filter((s) => s.includes(only));
    if (asleep.length > 0 && hides) await runAsleep(name, browser, env, asleep);
    for (const scenario of hides ? [] : asleep) {
      console.log(`none ${name}: ${scenario}: it has no way to hide or freeze a page from outside`);
    }
    await check(`${name}: no error that nobody handled`, async () => {
      if (unhandled.length > 0) throw unhandled[0];
    });
  } finally {
    await browser.close();
  }
}

const broker = await startBroker();
try {
  for (const name of wanted) await runIn(name, broker.env);
} finally {
  await broker.stop();
}
console.log(`${passed} passed, ${failed} failed`);
if (failed > 0 || passed === 0) process.exitCode = 1;
