// Tries the page for subscribing and publishing by hand in Chromium and Firefox,
// against the broker as a program. Run it with: node cmd/broker/e2e/run.mjs

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "tidewire-broker-"));
const binary = join(folder, "broker");
const env = { ...process.env, TIDEWIRE_STATE_DIR: folder };

const browsers = {
  chromium: {
    path: "/usr/bin/chromium",
    install: "apt-get install -y chromium",
    launch: (p, executablePath) => p.chromium.launch({ executablePath, args: ["--no-sandbox"] }),
  },
  firefox: {
    path: "/usr/bin/firefox-esr",
    install: "apt-get install -y --no-install-recommends firefox-esr",
    launch: (p, executablePath) => p.firefox.launch({ channel: "moz-firefox", executablePath }),
  },
};

/** A port of loopback that is free now, for TCP. */
function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts a broker; resolves when it has said where it serves. */
async function start(addr, ...args) {
  const child = spawn(binary, ["serve", "--addr", addr, ...args], { env, stdio: ["ignore", "pipe", "ignore"] });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  await new Promise((resolve, reject) => {
    child.stdout.on("data", (b) => String(b).includes("Ctrl-C") && resolve());
    exited.then((code) => reject(new Error(`the broker ended with ${code}`)));
  });
  return async () => {
    child.kill("SIGTERM");
    await exited;
  };
}

const state = (page, want) =>
  page.waitForFunction((w) => document.querySelector("#state").dataset.state === w, want, { timeout: 15_000 });
const says = (page, text) =>
  page.waitForFunction((t) => document.querySelector("#messages").textContent.includes(t), text, { timeout: 10_000 });

async function publish(page, topic, payload) {
  await page.fill("#topic", topic);
  await page.fill("#payload", payload);
  await page.click("#publish button[type=submit]");
}

/** What the page does, from the first message to a broker that was restarted. */
async function byHand(page, addr) {
  let stop = await start(addr);
  try {
    await page.goto(`http://${addr}/`);
    await state(page, "connected");
    await page.fill("#pattern", "hand.>");
    await page.click("#subscribe button[type=submit]");
    await page.waitForSelector("#subscriptions li");
    await publish(page, "hand.one", "the first message");
    await says(page, "the first message");

    const { status, stderr } = spawnSync(
      binary,
      ["pub", "--server", `https://${addr}/tidewire`, "hand.two", "<b>from the terminal</b>"],
      { env, encoding: "utf8" },
    );
    if (status !== 0) throw new Error(`pub: ${stderr}`);
    await says(page, "<b>from the terminal</b>"); // as text

    await publish(page, "$SYS.x", "no");
    await page.waitForSelector("#problem:not([hidden])");
    const problem = await page.textContent("#problem-text");
    if (!problem.includes("system_topic")) throw new Error(`the page says ${problem}`);

    await stop();
    stop = await start(addr);
    await state(page, "connected");
    await publish(page, "hand.one", "after the restart");
    await says(page, "after the restart");
    if (!/missing/i.test(await page.textContent("#messages"))) throw new Error("the gap is not shown");
  } finally {
    await stop();
  }
}

/** A token that is missing, one that is not the broker's, and one that is. */
async function token(page, addr) {
  const key = "0123456789abcdef0123456789abcdef";
  const stop = await start(addr, "--jwt-hmac-key", key);
  try {
    const made = spawnSync(binary, ["token", "--hmac-key", key, "--sub", "ada", "--publish", "hand.>", "--subscribe", "hand.>"], {
      env,
      encoding: "utf8",
    });
    const jwt = /ey[\w-]+\.[\w-]+\.[\w-]+/.exec(made.stdout)?.[0];
    if (!jwt) throw new Error(`no token in ${made.stdout}${made.stderr}`);
    await page.goto(`http://${addr}/`);
    await page.waitForSelector("#token-hint:not([hidden])"); // it asks before it tries
    await page.fill("#token", `${jwt}x`);
    await page.click("#connect");
    await page.waitForFunction(
      () => document.querySelector("#problem-text").textContent.includes("unauthorized"),
      undefined,
      { timeout: 10_000 },
    );
    await page.fill("#token", jwt);
    await page.click("#connect");
    await state(page, "connected");
  } finally {
    await stop();
  }
}

const { chromium, firefox } = createRequire(new URL("../../../web/js/package.json", import.meta.url))("playwright-core");
if (spawnSync("go", ["build", "-o", binary, "./cmd/broker"], { cwd: root, stdio: "inherit" }).status !== 0) {
  process.exit(1);
}
let failed = 0;
let passed = 0;
for (const [name, { path, install, launch }] of Object.entries(browsers)) {
  if (!existsSync(path)) {
    console.error(`${path} is missing: ${install}`);
    failed++;
    continue;
  }
  const browser = await launch({ chromium, firefox }, path);
  for (const [title, scene] of Object.entries({ "subscribe and publish by hand": byHand, "a token": token })) {
    const page = await browser.newPage();
    try {
      await scene(page, `127.0.0.1:${await freePort()}`);
      console.log(`ok   ${name}: ${title}`);
      passed++;
    } catch (error) {
      console.log(`FAIL ${name}: ${title}\n${error.stack}`);
      failed++;
    }
    await page.close();
  }
  await browser.close();
}
rmSync(folder, { recursive: true, force: true });
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
