// Steps about clients, time, and what was kept.

import { type ConnectOptions, connect } from "../../src/index.js";
import { type User, limited, mismatch, step, world } from "./interpreter.js";
import type { Json } from "./value.js";

/** What a token gives; see Grant of internal/contract. */
type Grant = { [name: string]: Json };

async function token(grant: Grant): Promise<string> {
  return (await world("token", grant)) as string;
}

/** Whether list has the elements of part in their order. */
function subsequence(part: string[], list: string[]): boolean {
  let at = 0;
  return part.every((want) => {
    at = list.indexOf(want, at) + 1;
    return at > 0;
  });
}

interface ConnectFields {
  client?: string;
  broker?: number;
  token?: Grant;
  badToken?: boolean;
  getToken?: (Grant | null)[];
  offline?: { maxBytes?: number; refuse?: boolean };
  pingAfter?: number;
  pingTimeout?: number;
}

interface StateFields {
  client?: string;
  is?: string;
  isNot?: string;
  only?: boolean;
  seen?: string[];
}

export const connectSteps = {
  connect: step("client broker token badToken getToken offline pingAfter pingTimeout", async (run, f: ConnectFields) => {
    const name = f.client ?? "a";
    const where = await world("address", { client: name, broker: f.broker ?? 0 });
    const { url, hash } = where as { url: string; hash: string };
    const options: ConnectOptions = {
      certificateHashes: [hash],
      connectTimeout: 2000,
      reconnect: { initial: 20, max: 100 },
    };
    if (f.badToken) options.token = "none";
    if (f.token) options.token = await token(f.token);
    if (f.offline) options.offline = f.offline;
    if (f.pingAfter) options.pingAfter = f.pingAfter;
    if (f.pingTimeout) options.pingTimeout = f.pingTimeout;
    if (f.getToken) {
      const grants = [...f.getToken];
      options.getToken = () => {
        const grant = grants.length > 1 ? grants.shift() : grants[0];
        if (!grant) throw new Error("no token just now");
        return token(grant);
      };
    }
    const client = await connect(url, options);
    const user: User = { client, states: [client.state], changed: new Set() };
    client.on("state", ({ state }) => {
      user.states.push(state);
      for (const listener of user.changed) listener();
    });
    const old = run.clients.get(name);
    if (old) run.old.push(old.client);
    run.clients.set(name, user);
  }),

  close: step("client", (run, f: { client?: string }) => run.client(f.client).close()),

  state: step("client is isNot only seen", async (run, f: StateFields) => {
    const user = run.user(f.client);
    const reached = (): boolean => {
      const now = user.states.at(-1);
      return (f.isNot === undefined ? now === f.is : now !== f.isNot) && subsequence(f.seen ?? [], user.states);
    };
    if (!reached()) {
      let look = (): void => undefined;
      const came = new Promise<void>((resolve) => {
        look = () => reached() && resolve();
        user.changed.add(look);
      });
      await limited(came, () => `the states were ${user.states.join(", ")}`);
      user.changed.delete(look);
    }
    if (f.only && user.states.length > 1) mismatch(`the states were ${user.states.join(", ")}`);
    user.states = user.states.slice(-1);
  }),

  authenticate: step("client token", async (run, f: { client?: string; token?: Grant }) => {
    await run.client(f.client).auth(f.token ? await token(f.token) : "none");
  }),

  clientId: step("client as is isNot", (run, f: { client?: string; as?: string; is?: string; isNot?: string }) => {
    const { id } = run.client(f.client);
    if (f.as) run.kept.set(`id ${f.as}`, id);
    if (f.is && run.kept.get(`id ${f.is}`) !== id) mismatch("the client id is another one");
    if (f.isNot && run.kept.get(`id ${f.isNot}`) === id) mismatch("the client id is the same");
  }),

  wait: step("ms", (_, f: { ms: number }) => new Promise<void>((resolve) => {
    setTimeout(resolve, f.ms);
  })),

  now: step("as", (run, f: { as: string }) => void run.times.set(f.as, new Date())),

  join: step("steps", async (run, f: { steps: string[] }) => {
    for (const name of f.steps) {
      const done = run.pending.get(name) ?? mismatch(`there is no step ${name}`);
      run.pending.delete(name);
      await done;
    }
  }),

  same: step("a b is", (run, f: { a: string; b: string; is: string }) => {
    const [a, b] = [run.position(f.a), run.position(f.b)];
    const epoch = a.epoch === b.epoch;
    const ok = {
      equal: epoch && a.offset === b.offset,
      later: epoch && a.offset < b.offset,
      epoch,
      otherEpoch: !epoch,
    }[f.is];
    if (!ok) mismatch(`${JSON.stringify(a)} and ${JSON.stringify(b)} are not: ${f.is}`);
  }),
};
