// Reads the snippets in TypeScript out of the guide, as ../page_test.go does those
// in Go, and makes a module of each.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const folder = fileURLToPath(new URL("../../../docs/guide", import.meta.url));

/** The fenced blocks of a page in TypeScript, each with the configuration above it. */
function parse(page, text) {
  const found = [];
  let config = "";
  let open;
  text.split("\n").forEach((line, i) => {
    const fence = /^\s*```(.*)$/.exec(line.trimEnd())?.[1];
    if (fence === undefined) {
      if (open) open.lines.push(line);
    } else if (!open) {
      open = { page, line: i + 2, lang: fence, config, lines: [] };
    } else {
      if (open.lang === "yaml") config = `${open.lines.join("\n")}\n`;
      if (open.lang === "ts") found.push(open);
      open = undefined;
    }
  });
  return found.map(({ lines, ...snippet }) => {
    const name = `${page}:${snippet.line}`;
    const at = lines.indexOf("// Output:");
    if (at < 0) throw new Error(`${name}: the snippet does not say what it prints`);
    const output = lines.slice(at + 1).map((l) => {
      if (!l.startsWith("//")) throw new Error(`${name}: there is code behind the output`);
      return l.replace(/^\/\/ ?/, "").trimEnd();
    });
    return { ...snippet, name, code: lines.slice(0, at), output };
  });
}

/** All of them, in the order of the pages. */
export function snippets() {
  return readdirSync(folder)
    .filter((file) => file.endsWith(".md"))
    .flatMap((page) => parse(page, readFileSync(join(folder, page), "utf8")));
}

/** The name of a snippet's module, without its extension. */
export const moduleName = ({ page, line }) => `${page.replace(/\.md$/, "")}-${line}`;

/**
 * The module of a snippet: a function of what it is given. Its lines have the
 * numbers that they have on the page, so that the compiler names these.
 */
export function moduleOf({ line, code }) {
  const isImport = (l) => l.startsWith("import ");
  const header = [
    'import type { Given } from "./given.js";',
    ...code.filter(isImport),
    "export default async function ({ client, url, options, fetchToken, restartBroker }: Given): Promise<void> {",
  ].join(" ");
  const body = code.map((l) => (isImport(l) ? "" : l));
  return `${"\n".repeat(line - 2)}${header}\n${body.join("\n")}\n}\n`;
}

/** What given.d.ts says: the names that docs/guide/README.md lists. */
export const given = `
import type { Client, ConnectOptions } from "tidewire";
export interface Given {
  client: Client;
  url: string;
  options: ConnectOptions;
  fetchToken: (...patterns: string[]) => Promise<string>;
  restartBroker: () => Promise<void>;
}
`;
