// A peer for the interoperability tests: a browser. The Go package interop says
// what it is told and what it prints.
//
//	node main.mjs chromium client
//	node main.mjs firefox client
//
// The cases run in a page, page/cases.js.

import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const { chromium, firefox } = createRequire(new URL("../../web/js/package.json", import.meta.url))("playwright-core");

const browsers = {
  chromium: {
    name: "Chromium",
    // As root, and in containers, Chromium's sandbox cannot be had.
    launch: () =>
      chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] }),
  },
  firefox: {
    name: "Firefox ESR",
    launch: () =>
      firefox.launch({ channel: "moz-firefox", executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr" }),
  },
};

const CASE_MS = 30_000;

/** Serves the page on loopback, which is a secure context. */
async function servePage() {
  const files = {
    "/": ["page/index.html", "text/html"],
    "/cases.js": ["page/cases.js", "text/javascript"],
  };
  const server = createServer((request, response) => {
    const file = files[request.url];
    if (!file) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { "content-type": file[1] });
    createReadStream(fileURLToPath(new URL(file[0], import.meta.url))).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, server };
}

/** Runs a case in the page, and gives it up after a time. */
async function run(page, task) {
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(() => resolve({ case: task.case, error: "no end" }), CASE_MS);
  });
  try {
    return await Promise.race([
      page.evaluate(async (t) => (await import("/cases.js")).run(t), task),
      late,
    ]);
  } catch (error) {
    return { case: task.case, error: String(error) };
  } finally {
    clearTimeout(timer);
  }
}

const [which, role] = process.argv.slice(2);
if (!browsers[which] || role !== "client") {
  console.error("say chromium or firefox, and client");
  process.exit(1);
}
const { name, launch } = browsers[which];
const { url, server } = await servePage();
const browser = await launch();
try {
  const page = await browser.newPage();
  await page.goto(url);
  console.log(JSON.stringify({ peer: `${name} ${browser.version().split(".")[0]}` }));
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await run(page, JSON.parse(line))));
  }
} finally {
  await browser.close();
  server.close();
}
