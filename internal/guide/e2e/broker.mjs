// The broker as a program, with a configuration file.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
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

/** An address of this machine that nobody uses just now. */
async function freeAddr() {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return `127.0.0.1:${port}`;
}

/**
 * Starts a broker. When it is restarted it keeps its address, and with it its identity.
 */
export async function start(binary, dir, config) {
  writeFileSync(join(dir, "broker.yaml"), config);
  let running;
  for (let attempt = 1; !running; attempt++) {
    try {
      running = await spawned(binary, dir, await freeAddr());
    } catch (e) {
      if (attempt === 3) throw e; // somebody else may have taken the port
    }
  }
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
