// What interrupts a page: the network, the broker, a certificate, and sleep.

import { assert, equal, post, sleep, stateOf, take, unique, until, withClient } from "/tools.js";

/** A client that soon notices what happens to its connection. */
const quick = { pingAfter: 300, pingTimeout: 300, reconnect: { initial: 50, max: 200 }, connectTimeout: 1000 };

/** A client that notices nothing by itself for longer than a scenario may take. */
const late = { ...quick, pingAfter: 30_000 };

/** Waits for p, for much less than `late` would take. */
async function soon(p, what) {
  const begun = performance.now();
  await Promise.race([p, sleep(8000)]);
  assert(performance.now() - begun < 8000, what);
}

/** Rids the broker of connections that have died: a graceful stop would wait for them. */
async function bury() {
  await post("/stop", { at: "once" });
  await post("/start");
}

const values = (items) => items.map((m) => (m.kind === "gap" ? `gap ${m.reason}` : m.value));

export const interruptions = {
  async "the network is cut and comes back: nothing is lost, and nothing comes twice"(env) {
    await withClient(env, async (client) => {
      const topic = unique("cut");
      const subscription = client.subscribe(topic);
      const pattern = client.subscribe(`${topic}.>`);
      await Promise.all([subscription.ready, pattern.ready]);
      await client.publish(topic, "before");
      await client.publish(`${topic}.x`, "before");
      equal(values(await take(subscription, 1)), ["before"], "before");
      equal(values(await take(pattern, 1)), ["before"], "before");
      const gone = stateOf(client, "disconnected");
      await post("/network", { is: "cut" });
      const unknown = client.publish(topic, "sent into the void");
      try {
        await gone;
        for (const t of [topic, `${topic}.x`, `${topic}.y`]) await post("/publish", { topic: t, value: "meanwhile" });
      } finally {
        await post("/network", { is: "back" });
      }
      const waited = client.publish(topic, "while it was away");
      await Promise.all([unknown, waited]);
      await client.publish(topic, "end");
      equal(values(await take(subscription, 4)), ["meanwhile", "sent into the void", "while it was away", "end"], "topic");
      equal(values(await take(pattern, 2)), ["meanwhile", "meanwhile"], "pattern");
      equal(subscription.stats(), { waiting: 0, delivered: 5, gaps: 0, dropped: 0 }, "stats");
    }, quick);
  },

  async "the network is cut for a moment only: nobody notices"(env) {
    await withClient(env, async (client) => {
      const topic = unique("moment");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const changes = [];
      client.on("state", ({ state }) => changes.push(state));
      await post("/network", { is: "cut" });
      const sent = client.publish(topic, "through");
      await sleep(200);
      await post("/network", { is: "back" });
      await sent;
      equal(values(await take(subscription, 1)), ["through"], "message");
      equal(changes, [], "changes");
    });
  },

  async "a page that comes back to a dead connection has another at once"(env) {
    const { random } = Math;
    const signs = [
      [globalThis, "online"],
      [globalThis, "pageshow"],
      [document, "visibilitychange"],
      [document, "resume"],
    ];
    await withClient(env, async (client) => {
      const topic = unique("wake");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      for (const [place, sign] of signs) {
        const gone = stateOf(client, "disconnected");
        Math.random = () => 0.9; // of the backoff: no attempt is under way when the network is back
        await post("/network", { is: "cut" });
        try {
          place.dispatchEvent(new Event(sign));
          await soon(gone, `it asked at ${sign}`);
        } finally {
          await post("/network", { is: "back" });
        }
        const back = stateOf(client, "connected");
        place.dispatchEvent(new Event(sign));
        await soon(back, `it did not wait for the backoff at ${sign}`);
        await client.publish(topic, sign);
        equal(values(await take(subscription, 1)), [sign], "message");
      }
    }, { ...late, reconnect: { initial: 15_000, max: 20_000 } }).finally(async () => {
      Math.random = random;
      await bury();
    });
  },

  async "the certificate changes: the next connection trusts the new one"(env) {
    let hash = env.hash;
    await withClient(env, async (client) => {
      const topic = unique("certificate");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      hash = await post("/renew");
      await client.publish(topic, "the connection stays");
      equal(values(await take(subscription, 1)), ["the connection stays"], "before");
      const restart = async () => {
        const gone = stateOf(client, "disconnected");
        await post("/stop");
        await gone;
        await post("/start");
        await stateOf(client, "connected");
      };
      await restart();
      await client.publish(topic, "again");
      const [gap, m] = await take(subscription, 2);
      equal([gap.reason, m.value], ["reconnect", "again"], "after");
      hash = await post("/renew", { to: "first" });
      equal(hash, env.hash, "the first one again");
      await restart();
    }, { ...quick, certificateHashes: async () => [hash] });
  },
};

/** Hides the page, frozen for 3 s, and checks that it was: its timers stood still. */
async function freeze(what) {
  const seen = [];
  const note = (e) => seen.push(e.type);
  for (const type of ["freeze", "resume"]) document.addEventListener(type, note);
  let last = performance.now();
  let pause = 0;
  const tick = setInterval(() => {
    pause = Math.max(pause, performance.now() - last);
    last = performance.now();
  }, 100);
  await globalThis.hide({ ...what, ms: 3000 });
  await until(() => pause > 2000, "the page's timers stood still");
  clearInterval(tick);
  for (const type of ["freeze", "resume"]) document.removeEventListener(type, note);
  equal(seen, ["freeze", "resume"], "the page's life");
}

/** What runs in a page that can be hidden and frozen; 1, 2 and 3 are published meanwhile. */
export const asleep = {
  async "the page sleeps: it connects at once when it is back, and misses nothing"(env) {
    const { random } = Math;
    await withClient(env, async (client) => {
      const topic = unique("sleep");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      await post("/publish", { topic, value: "before" });
      equal(values(await take(subscription, 1)), ["before"], "before");
      Math.random = () => 0.9; // of the backoff: it would wait for 13 s
      const gone = stateOf(client, "disconnected");
      await freeze({ topic });
      await soon(gone, "the browser ends the connections of a page that it freezes");
      equal([client.state, document.visibilityState], ["disconnected", "hidden"], "before it is back");
      const back = stateOf(client, "connected");
      await globalThis.show();
      await soon(back, "it did not wait for the backoff");
      equal(values(await take(subscription, 3)), ["1", "2", "3"], "meanwhile");
      await client.publish(topic, "after");
      equal(values(await take(subscription, 1)), ["after"], "after");
    }, { ...late, reconnect: { initial: 15_000, max: 20_000 } }).finally(() => {
      Math.random = random;
    });
  },

  async "the network goes while the page is in the background: it asks at once when it is back, and misses nothing"(env) {
    await withClient(env, async (client) => {
      const topic = unique("hidden");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const gone = stateOf(client, "disconnected");
      try {
        await globalThis.hide({ topic, network: "cut" });
        equal(client.state, "connected", "before it is back");
        await globalThis.show();
        await soon(gone, "it asked when it was back");
      } finally {
        await post("/network", { is: "back" });
      }
      await soon(stateOf(client, "connected"), "connected");
      equal(values(await take(subscription, 3)), ["1", "2", "3"], "meanwhile");
      await client.publish(topic, "after");
      equal(values(await take(subscription, 1)), ["after"], "after");
    }, late).finally(bury);
  },
};
