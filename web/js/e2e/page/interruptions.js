// What interrupts a page: the network, the broker, a certificate, and sleep.

import { assert, equal, post, sleep, stateOf, take, unique, until, withClient } from "/tools.js";

/** A client that soon notices what happens to its connection. */
const quick = { pingAfter: 300, pingTimeout: 300, reconnect: { initial: 50, max: 200 }, connectTimeout: 1000 };

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

  async "the page sleeps: it asks at once when it is back, and misses nothing"(env) {
    await withClient(env, async (client) => {
      const topic = unique("sleep");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      await post("/publish", { topic, value: "before" });
      equal(values(await take(subscription, 1)), ["before"], "before");
      // The tests' program has the page sleep, and publishes meanwhile.
      await globalThis.sleepWhile(topic, 2500);
      equal(values(await take(subscription, 3)), ["1", "2", "3"], "meanwhile");
      await until(() => client.state === "connected", "connected");
      await client.publish(topic, "after");
      equal(values(await take(subscription, 1)), ["after"], "after");
    }, quick);
  },

  async "a page that comes back to a dead connection has another at once"(env) {
    const { random } = Math;
    await withClient(env, async (client) => {
      const topic = unique("wake");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const gone = stateOf(client, "disconnected");
      Math.random = () => 0.9; // of the backoff: no attempt is under way when the network is back
      await post("/network", { is: "cut" });
      try {
        // Nothing is noticed by itself for 10 s.
        dispatchEvent(new Event("online"));
        await gone;
      } finally {
        await post("/network", { is: "back" });
      }
      const begun = performance.now();
      dispatchEvent(new Event("online"));
      await stateOf(client, "connected");
      assert(performance.now() - begun < 5000, "it did not wait for the backoff");
      await client.publish(topic, 1);
      equal(values(await take(subscription, 1)), [1], "message");
    }, { ...quick, pingAfter: 5000, reconnect: { initial: 15_000, max: 20_000 } }).finally(() => {
      Math.random = random;
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
