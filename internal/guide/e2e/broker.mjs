// The broker as a program, with a configuration file.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** Builds the broker into a folder. */
export function build(dir) {
  const binary = join(dir, "broker");
  const { status, error } = spawnSync("go", ["build", "-o", binary, "./cmd/broker"], { cwd: root, stdio: "inherit" });
  if (status !== 0) throw error ?? new Error("the broker does not build");
  return binary;
}

async function spawned(binary, dir, addr) {
  const args = ["serve", "--config", join(dir, "broker.yaml"), "--addr", addr, "--log-level", "warn", "--state-dir", dir];
  const child = spawn(binary, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  const told = {};
  for await (const line of createInterface({ input: child.stdout })) {
    const [word, value] = line.trim().split(/\s+/);
    told[word] = value;
    if (word !== "Ctrl-C") continue;
    return {
      url: told.URL,
      hash: told.certificate,
      async stop() {
        child.kill("SIGTERM");
        await exited;
      },
    };
  }
  throw new Error(`the broker ended with ${(await exited)[0]}`);
}

/** Starts a broker, which keeps its address when it is restarted. */
export async function start(binary, dir, config) {
  writeFileSync(join(dir, "broker.yaml"), config);
  let running = await spawned(binary, dir, "127.0.0.1:0");
  const { url, hash } = running;
  return {
    url,
    hash,
    async restart() {
      await running.stop();
      running = await spawned(binary, dir, new URL(url).host);
    },
    stop: () => running.stop(),
  };
}
