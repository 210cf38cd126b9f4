// What the scenarios have in common.

import { TidewireError, connect } from "/tidewire.js";

export function assert(condition, what) {
  if (!condition) throw new Error(what);
}

export function equal(got, want, what) {
  const g = JSON.stringify(got);
  const w = JSON.stringify(want);
  assert(g === w, `${what}: got ${g}, want ${w}`);
}

/** The error that a promise rejects with. */
export async function refusal(promise, what) {
  const error = await promise.then(
    () => undefined,
    (e) => e,
  );
  assert(error instanceof TidewireError, `${what}: got ${error}, want a TidewireError`);
  return error;
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits for at most 10 s until f holds. */
export async function until(f, what) {
  for (let n = 0; !f(); n++) {
    assert(n < 200, what);
    await sleep(50);
  }
}

let tests = 0;

/** A topic that no other scenario uses. */
export function unique(name) {
  return `a.${name}-${++tests}-${Math.random().toString(36).slice(2)}`;
}

/** Runs f with a client, and closes it whatever happens. */
export async function withClient(env, f, options = {}, url = env.open) {
  const client = await connect(url, { certificateHashes: [env.hash], ...options });
  try {
    await f(client);
  } finally {
    await client.close();
  }
}

/** Takes n items out of a subscription, without ending it. */
export async function take(subscription, n) {
  const iterator = subscription[Symbol.asyncIterator]();
  const items = [];
  while (items.length < n) {
    const { done, value } = await iterator.next();
    assert(!done, `the iteration ended after ${items.length} of ${n} items`);
    items.push(value);
  }
  return items;
}

export async function post(path, parameters = {}) {
  const response = await fetch(path, { method: "POST", body: new URLSearchParams(parameters) });
  const text = await response.text();
  assert(response.ok, `${path}: ${text}`);
  return text;
}

export function stateOf(client, want) {
  if (client.state === want) return Promise.resolve();
  return new Promise((resolve) => {
    const off = client.on("state", ({ state }) => {
      if (state !== want) return;
      off();
      resolve();
    });
  });
}
