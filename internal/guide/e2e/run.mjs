// Checks the types of the snippets in TypeScript of docs/guide, and runs them in
// Chromium and Firefox, with web/js/dist/tidewire.js, each against a broker of its
// own. What they print is compared with what the guide says.
//
//	node internal/guide/e2e/run.mjs [--browser chromium|firefox] [PAGE…]

import { spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { build, start } from "./broker.mjs";
import { given, moduleName, moduleOf, snippets } from "./snippets.mjs";

const SNIPPET_MS = 20_000;
const web = fileURLToPath(new URL("../../../web/js", import.meta.url));
const require = createRequire(join(web, "package.json"));
const esbuild = require("esbuild");
const { chromium, firefox } = require("playwright-core");

const browsers = {
  chromium: {
    path: process.env.CHROMIUM ?? "/usr/bin/chromium",
    install: "apt-get install -y chromium",
    launch: (executablePath) => chromium.launch({ executablePath, args: ["--no-sandbox"] }),
  },
  firefox: {
    path: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
    install: "apt-get install -y --no-install-recommends firefox-esr",
    launch: (executablePath) => firefox.launch({ channel: "moz-firefox", executablePath }),
  },
};

const { values, positionals } = parseArgs({ options: { browser: { type: "string" } }, allowPositionals: true });
const all = snippets().filter((s) => positionals.length === 0 || positionals.includes(s.page));
if (all.length === 0) throw new Error("no snippets were found");

const dir = mkdtempSync(join(tmpdir(), "tidewire-guide-"));
try {
  checkTypes(join(dir, "types"));
  await runAll();
} finally {
  rmSync(dir, { recursive: true });
}

/** Compiles all snippets against the sources of the client. */
function checkTypes(folder) {
  mkdirSync(folder);
  for (const s of all) writeFileSync(join(folder, `${moduleName(s)}.ts`), moduleOf(s));
  writeFileSync(join(folder, "given.d.ts"), given);
  const config = {
    extends: join(web, "tsconfig.json"),
    compilerOptions: {
      noEmit: true,
      rootDir: "/",
      noUnusedParameters: false, // not every snippet needs all that it is given
      paths: { tidewire: [join(web, "src/index.ts")] },
    },
    include: ["*.ts"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const { status, stdout, error } = spawnSync(join(web, "node_modules/.bin/tsc"), ["-p", folder], { encoding: "utf8" });
  if (error) throw error;
  if (status !== 0) {
    throw new Error(`the snippets of docs/guide do not compile; PAGE-N.ts is PAGE.md:\n${stdout}`);
  }
  console.log(`ok   types of ${all.length} snippets`);
}

/** Signs a token as an application's own server does: for some patterns, or for all. */
function token(config, patterns = []) {
  const key = /^jwt-hmac-key: *"?([^"\n]*)"?$/m.exec(config)?.[1];
  if (key === undefined) return undefined;
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const allowed = patterns.length > 0 ? patterns : [">"];
  const claims = { sub: "ada", publish: allowed, subscribe: allowed, exp: Math.floor(Date.now() / 1000) + 3600 };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", key).update(signed).digest("base64url")}`;
}

/** Serves the page and the modules of the snippets. */
async function serve() {
  const html = readFileSync(new URL("page.html", import.meta.url));
  const modules = new Map([["/tidewire.js", readFileSync(join(web, "dist/tidewire.js"))]]);
  for (const s of all) {
    const { code } = await esbuild.transform(moduleOf(s), { loader: "ts", target: "es2022" });
    modules.set(`/${moduleName(s)}.js`, code);
  }
  const server = createServer((request, response) => {
    const module = modules.get(request.url);
    response.setHeader("Content-Type", module ? "text/javascript" : "text/html");
    response.end(module ?? html);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

/** Runs in the page: one snippet, and what it printed. */
async function inPage([module, url, hash, token]) {
  const { connect } = await import("tidewire");
  const { default: snippet } = await import(module);
  const printed = [];
  const { log } = console;
  console.log = (...values) =>
    printed.push(values.map((v) => (typeof v === "string" ? v : (JSON.stringify(v) ?? String(v)))).join(" "));
  const options = { certificateHashes: [hash] };
  const client = await connect(url, token ? { ...options, token } : options);
  try {
    const fetchToken = (...patterns) => globalThis.control("token", patterns);
    const restartBroker = () => globalThis.control("restart");
    await snippet({ client, url, options, fetchToken, restartBroker });
  } catch (e) {
    printed.push(`${e?.stack ?? e}`);
  } finally {
    console.log = log;
    await client.close();
  }
  return printed.join("\n");
}

async function limited(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${SNIPPET_MS} ms`)), SNIPPET_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function runAll() {
  const binary = build(dir);
  const server = await serve();
  let passed = 0;
  let failed = 0;
  for (const [name, { path, install, launch }] of Object.entries(browsers)) {
    if (values.browser && values.browser !== name) continue;
    if (!existsSync(path)) throw new Error(`${path} is missing: ${install}`);
    const browser = await launch(path);
    const page = await browser.newPage();
    let broker;
    await page.exposeFunction("control", (what, patterns) =>
      what === "restart" ? broker.restart() : token(broker.config, patterns),
    );
    const origin = `http://127.0.0.1:${server.address().port}/`;
    await page.goto(origin);
    for (const s of all) {
      broker = { ...(await start(binary, dir, s.config)), config: s.config };
      try {
        const given = [`/${moduleName(s)}.js`, broker.url, broker.hash, token(s.config)];
        const got = trimmed((await limited(page.evaluate(inPage, given))).split("\n"));
        const want = trimmed(s.output);
        if (got !== want) throw new Error(`it printed\n${got}\nand the guide says\n${want}`);
        passed++;
        console.log(`ok   ${name}: ${s.name}`);
      } catch (e) {
        failed++;
        console.log(`FAIL ${name}: ${s.name}\n     ${e.message.replaceAll("\n", "\n     ")}`);
        await page.goto(origin); // what the snippet left there is gone
      } finally {
        await broker.stop();
      }
    }
    await browser.close();
  }
  server.close();
  console.log(`${passed} passed, ${failed} failed`);
  if (failed > 0 || passed === 0) process.exitCode = 1;
}

function trimmed(lines) {
  return lines.map((l) => l.trimEnd()).join("\n").trim();
}
