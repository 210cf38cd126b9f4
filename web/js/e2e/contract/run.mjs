// Runs the contract's scenarios (internal/contract/testdata) in real Chromium and
// real Firefox, with the committed dist/tidewire.js: against a broker that stands
// alone, and against two that NATS joins.
//
//	npm run contract [-- chromium|firefox] [-- local|nats] [-- --only WORDS]

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium, firefox } from "playwright-core";

const here = fileURLToPath(new URL(".", import.meta.url));
const testdata = fileURLToPath(new URL("../../../../internal/contract/testdata", import.meta.url));
const SCENARIO_MS = 60_000;

const browsers = {
  chromium: {
    path: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // As root, and in containers, Chromium's sandbox cannot be had.
    launch: (executablePath) => chromium.launch({ executablePath, args: ["--no-sandbox"] }),
  },
  firefox: {
    path: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
    launch: (executablePath) => firefox.launch({ channel: "moz-firefox", executablePath }),
  },
};

const words = process.argv.slice(2);
const onlyAt = words.indexOf("--only");
const only = onlyAt < 0 ? "" : words.splice(onlyAt).slice(1).join(" ");
const all = { browsers: Object.keys(browsers), buses: ["local", "nats"] };
const chosen = (list) => (words.some((w) => list.includes(w)) ? list.filter((w) => words.includes(w)) : list);
const wanted = chosen(all.browsers);
const buses = chosen(all.buses);

function fail(text) {
  console.error(text);
  process.exit(1);
}

for (const word of words) {
  const known = Object.values(all).flat();
  if (!known.includes(word)) fail(`${word} is none of ${known.join(", ")}`);
}
for (const name of wanted) {
  const { path } = browsers[name];
  if (!existsSync(path)) {
    fail(`${path} is not there: run scripts/browsers, or tell with ${name.toUpperCase()}=PATH.`);
  }
}

/** All scenarios; in what they say, unique takes the place of ~. */
function loadScenarios(unique) {
  const list = [];
  const folder = join(testdata, "scenarios");
  for (const file of readdirSync(folder).toSorted()) {
    for (const s of JSON.parse(readFileSync(join(folder, file), "utf8"))) {
      const scenario = JSON.parse(JSON.stringify(s).replaceAll("~", `${unique}${list.length}`));
      list.push({ ...scenario, name: `${basename(file, ".json")}: ${scenario.name}` });
    }
  }
  if (list.length === 0) fail("there are no scenarios");
  return list;
}

/** Why a scenario is not for a browser and a bus; undefined if it is. */
function absent(scenario, environments) {
  const { not, only: where } = scenario;
  for (const env of environments) if (not?.[env] !== undefined) return not[env];
  if (!where || environments.some((env) => env in where)) return undefined;
  return Object.entries(where).map(([env, why]) => `only in ${env}: ${why}`)[0];
}

/** Makes the page and starts the world; returns its URL, and how to stop it. */
async function startWorld(bus) {
  const dir = mkdtempSync(join(tmpdir(), "tidewire-contract-"));
  await build({
    entryPoints: [join(here, "contract.ts")],
    outfile: join(dir, "contract.js"),
    bundle: true,
    format: "esm",
    target: "es2022",
    logLevel: "warning",
    plugins: [
      {
        name: "the client as it is shipped",
        setup: (b) => b.onResolve({ filter: /src\/index\.js$/ }, () => ({ path: "/tidewire.js", external: true })),
      },
    ],
  });
  writeFileSync(join(dir, "index.html"), '<!doctype html><title>contract</title><link rel="icon" href="data:,">');
  const program = join(dir, "server");
  const built = spawn("go", ["build", "-o", program, "./server"], { cwd: here, stdio: "inherit" });
  built.once("error", (e) => fail(`go: ${e.message}`));
  const [status] = await once(built, "exit");
  if (status !== 0) fail("the server does not build");
  const server = spawn(program, ["-page", dir, "-topics", join(testdata, "topics.json"), `-nats=${bus === "nats"}`], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const died = () => fail("the server ended");
  server.once("exit", died);
  const [url] = await once(createInterface({ input: server.stdout }), "line");
  return {
    url,
    async stop() {
      server.off("exit", died);
      const ended = once(server, "exit");
      server.stdin.end();
      await ended;
      rmSync(dir, { recursive: true });
    },
  };
}

let passed = 0;
let failed = 0;

async function check(name, f) {
  const begun = performance.now();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${SCENARIO_MS} ms`)), SCENARIO_MS);
  });
  try {
    await Promise.race([f(), late]);
    passed++;
    console.log(`ok   ${name} (${Math.round(performance.now() - begun)} ms)`);
  } catch (e) {
    failed++;
    console.log(`FAIL ${name}\n     ${String(e.message ?? e).replaceAll("\n", "\n     ")}`);
  } finally {
    clearTimeout(timer);
  }
}

async function runIn(name, bus, url) {
  const { launch, path } = browsers[name];
  const browser = await launch(path);
  try {
    console.log(`# ${name} ${browser.version()}, bus ${bus}`);
    const page = await browser.newPage();
    const unhandled = [];
    page.on("pageerror", (e) => unhandled.push(e));
    await page.goto(url);
    const counts = new Map();
    for (const scenario of loadScenarios(name[0] + bus[0] + Date.now().toString(36))) {
      if (!scenario.name.includes(only)) continue;
      const why = absent(scenario, [name, bus]);
      if (why !== undefined) {
        counts.set(why, (counts.get(why) ?? 0) + 1);
        console.log(`not  ${name}, ${bus}: ${scenario.name}: ${why}`);
        continue;
      }
      await check(`${name}, ${bus}: ${scenario.name}`, () =>
        page.evaluate(async (s) => (await import("/contract.js")).run(s), scenario),
      );
    }
    for (const [why, count] of counts) console.log(`${count} scenarios are not run in ${name}, ${bus}: ${why}`);
    await check(`${name}, ${bus}: no error that nobody handled`, async () => {
      if (unhandled.length > 0) throw unhandled[0];
    });
  } finally {
    await browser.close();
  }
}

for (const bus of buses) {
  const world = await startWorld(bus);
  try {
    for (const name of wanted) await runIn(name, bus, world.url);
  } finally {
    await world.stop();
  }
}
console.log(`${passed} passed, ${failed} failed`);
if (failed > 0 || passed === 0) process.exitCode = 1;
