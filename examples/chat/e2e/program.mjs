// Starts the chat and its terminals as programs of their own.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "tidewire-chat-"));
const binary = join(folder, "chat");

export function build() {
  const { status } = spawnSync("go", ["build", "-o", binary, "./examples/chat"], { cwd: root, stdio: "inherit" });
  if (status !== 0) throw new Error("go build ./examples/chat failed");
}

export const clean = () => rmSync(folder, { recursive: true, force: true });

/** A running program, and the lines that it has printed. */
class Program {
  lines = [];
  #child;
  #waiting = new Set();

  constructor(args) {
    this.#child = spawn(binary, args, { stdio: ["pipe", "pipe", "inherit"] });
    createInterface(this.#child.stdout).on("line", (line) => {
      this.lines.push(line);
      for (const look of this.#waiting) look();
    });
    this.#child.once("exit", () => {
      for (const look of this.#waiting) look();
    });
  }

  /** Resolves with the first line that matches. */
  sees(pattern, ms = 10_000) {
    return new Promise((resolve, reject) => {
      const done = (settle, value) => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        settle(value);
      };
      const look = () => {
        const line = this.lines.find((l) => pattern.test(l));
        if (line !== undefined) done(resolve, line);
        else if (this.#child.exitCode !== null) done(reject, new Error(`the program ended without ${pattern}`));
      };
      const timer = setTimeout(() => done(reject, new Error(`no ${pattern} in:\n${this.lines.join("\n")}`)), ms);
      this.#waiting.add(look);
      look();
    });
  }

  writes(line) {
    this.#child.stdin.write(`${line}\n`);
  }

  /** Interrupts it, as Ctrl+C does, and waits; throws if it did not end well. */
  async stop() {
    if (this.#child.exitCode !== null) return;
    this.#child.kill("SIGINT");
    const [code] = await once(this.#child, "exit");
    if (code !== 0) throw new Error(`the program ended with ${code}`);
  }
}

/** Starts a server; with `like`, on the addresses of that one. */
export async function serve(like) {
  const program = new Program(["--addr", like?.addr ?? "127.0.0.1:0", "--http", like?.http ?? "127.0.0.1:0"]);
  const http = (await program.sees(/^open /)).match(/http:\/\/([^/]+)/)[1];
  const addr = (await program.sees(/^broker at /)).match(/https:\/\/(.+)/)[1];
  return { http, addr, url: `http://${http}/`, stop: () => program.stop() };
}

export async function joinFromTerminal(server, name, room) {
  const program = new Program(["join", "--name", name, "--server", `http://${server.http}`, room]);
  await program.sees(/^you are in/);
  return program;
}
