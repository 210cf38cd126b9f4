// What must hold in a real browser, against a real broker. Each scenario throws if
// it does not. env tells where everything is: see testbroker.

import { connect } from "/tidewire.js";
import { capabilities } from "/capabilities.js";
import { asleep, interruptions } from "/interruptions.js";
import { assert, equal, post, refusal, sleep, stateOf, take, unique, until, withClient } from "/tools.js";

export { asleep };

export const scenarios = {
  ...capabilities,
  ...interruptions,

  async "publish and subscribe"(env) {
    await withClient(env, async (client) => {
      assert(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(client.id), `id ${client.id}`);
      const topic = unique("hello");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const values = ["text", { n: 1, list: [true, null] }, new Uint8Array([1, 2, 3])];
      for (const value of values) await client.publish(topic, value);
      await client.publish(topic, { as: "json" }, { encoding: "json" });
      const items = await take(subscription, 4);
      equal(items.map((m) => m.encoding), ["text", "msgpack", "bytes", "json"], "encodings");
      equal(items.slice(0, 2).map((m) => m.value), values.slice(0, 2), "values");
      equal([...items[2].value], [1, 2, 3], "bytes");
      equal(items[3].value, { as: "json" }, "JSON");
      for (const m of items) {
        equal(m.topic, topic, "topic");
        equal(m.publisher, client.id, "publisher");
        assert(!m.lossy, "it is not lossy");
        assert(Math.abs(Date.now() - m.time) < 60_000, `time ${m.time}`);
      }
    });
  },

  async "a wildcard matches what it should"(env) {
    await withClient(env, async (client) => {
      const base = unique("wild");
      const one = client.subscribe(`${base}.*`);
      const rest = client.subscribe(`${base}.>`);
      await Promise.all([one.ready, rest.ready]);
      for (const name of ["x", "x.y", "z"]) await client.publish(`${base}.${name}`, name);
      equal((await take(one, 2)).map((m) => m.value).toSorted(), ["x", "z"], "*");
      equal((await take(rest, 3)).map((m) => m.value).toSorted(), ["x", "x.y", "z"], ">");
    });
  },

  async "an acknowledgement gives the position"(env) {
    await withClient(env, async (client) => {
      const topic = unique("ack");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const positions = await Promise.all([1, 2, 3, 4, 5].map((n) => client.publish(topic, n)));
      const items = await take(subscription, 5);
      equal(items.map((m) => m.value), [1, 2, 3, 4, 5], "order");
      equal(
        items.map((m) => ({ epoch: m.epoch, offset: m.offset })),
        positions,
        "positions",
      );
    });
  },

  async "what is not permitted is refused"(env) {
    await withClient(
      env,
      async (client) => {
        equal((await refusal(client.publish("b", 1), "publish")).codeName, "publish_denied", "publish");
        const large = client.publish("b.large", new Uint8Array(20_000));
        equal((await refusal(large, "publication")).codeName, "publish_denied", "publication");
        const wide = client.subscribe(">");
        equal((await refusal(take(wide, 1), "subscribe")).codeName, "subscribe_denied", "subscribe");
        await client.publish("a.ok", 1); // and nothing else is lost
      },
      { token: env.token },
      env.jwt,
    );
  },

  async "lossy messages go by datagram, and merge into the sequence"(env) {
    await withClient(env, async (client) => {
      const topic = unique("lossy");
      const subscription = client.subscribe(topic);
      const sequenced = client.subscribe(topic, { class: "sequenced" });
      await Promise.all([subscription.ready, sequenced.ready]);
      await client.publish(topic, "reliable");
      // Each is sent when the one before has come. On loopback none is lost.
      const [reliable] = await take(subscription, 1);
      const got = [];
      for (let n = 0; n < 20; n++) {
        client.publishLossy(topic, n);
        got.push(...(await take(subscription, 1)));
      }
      equal(got.map((m) => m.value), got.map((_, n) => n), "lossy messages");
      assert(got.every((m) => m.lossy && m.epoch === reliable.epoch), "they are lossy");
      // The other subscription got all of them by datagram.
      const all = await take(sequenced, 21);
      equal(all.map((m) => m.offset), [reliable, ...got].map((m) => m.offset), "sequenced");
    });
  },

  async "a burst of lossy messages: what comes is in order, what is missing is a gap"(env) {
    await withClient(env, async (client) => {
      const topic = unique("burst");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      for (let n = 0; n < 300; n++) client.publishLossy(topic, n);
      // This one is sequenced among them or after them.
      await client.publish(topic, "last");
      let offset = 0;
      let last = -1;
      for (let reached = false; !reached; ) {
        const [item] = await take(subscription, 1);
        if (item.kind === "gap") {
          equal(item.from.offset, offset, "from");
          offset = item.to.offset;
          continue;
        }
        equal(item.offset, offset + 1, "offset");
        offset = item.offset;
        reached = item.value === "last";
        if (reached) continue;
        assert(item.value > last, `${item.value} after ${last}`);
        last = item.value;
      }
    });
  },

  async "a lossy message that fits no datagram comes by stream"(env) {
    await withClient(env, async (client) => {
      const topic = unique("large-lossy");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      client.publishLossy(topic, new Uint8Array(10_000));
      const [m] = await take(subscription, 1);
      equal([m.lossy, m.data.length], [true, 10_000], "message");
    });
  },

  async "1 MB in many messages, in order and without a gap"(env) {
    await withClient(env, async (client) => {
      const topic = unique("many");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const count = 1000;
      const sent = Array.from({ length: count }, (_, n) => {
        const b = new Uint8Array(1050);
        new DataView(b.buffer).setUint32(0, n);
        return client.publish(topic, b);
      });
      const items = await take(subscription, count);
      await Promise.all(sent);
      for (const [n, m] of items.entries()) {
        equal(m.kind, "message", `item ${n}`);
        equal(new DataView(m.data.buffer, m.data.byteOffset).getUint32(0), n, "order");
      }
    });
  },

  async "large messages up to the limit, and none beyond it"(env) {
    await withClient(env, async (client) => {
      const topic = unique("large");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const b = new Uint8Array(256 << 10).map((_, i) => i);
      await client.publish(topic, b);
      const [m] = await take(subscription, 1);
      assert(
        m.data.length === b.length && m.data.every((v, i) => v === b[i]),
        "the bytes are the same",
      );
      const beyond = client.publish(topic, new Uint8Array((256 << 10) + 1));
      equal((await refusal(beyond, "beyond")).codeName, "payload_too_large", "beyond");
    });
  },

  async "subscriptions that nobody reads delay no other"(env) {
    await withClient(env, async (client) => {
      const stalled = Array.from({ length: env.stalled }, () => unique("stalled"));
      const idle = stalled.map((topic) => client.subscribe(topic));
      const topic = unique("live");
      const live = client.subscribe(topic);
      await Promise.all([...idle, live].map((s) => s.ready));
      // More than the broker may send ahead of those who read nothing.
      const payload = new Uint8Array(16 << 10);
      await Promise.all(
        stalled.flatMap((t) => Array.from({ length: 100 }, () => client.publish(t, payload))),
      );
      const sent = Array.from({ length: 200 }, (_, n) => client.publish(topic, n));
      const items = await take(live, 200);
      equal(items.map((m) => m.value), Array.from({ length: 200 }, (_, n) => n), "live");
      await Promise.all(sent);
      // Those who read in the end get what fits, and are told of the rest.
      const [first] = await take(idle[0], 1);
      equal(first.kind, "message", "stalled");
    });
  },

  async "leaving the loop unsubscribes"(env) {
    await withClient(env, async (client) => {
      const topic = unique("leave");
      for (let n = 0; n < 5; n++) {
        const subscription = client.subscribe(topic);
        await subscription.ready;
        await client.publish(topic, n);
        for await (const m of subscription) {
          equal(m.value, n, "value");
          break;
        }
        equal(await subscription.closed, undefined, "closed");
      }
    });
  },

  async "a broker that was restarted: connected again, with a gap"(env) {
    await withClient(env, async (client) => {
      const topic = unique("restart");
      const subscription = client.subscribe(topic);
      const pattern = client.subscribe(`${topic}.*`);
      await Promise.all([subscription.ready, pattern.ready]);
      await client.publish(topic, "before");
      const [before] = await take(subscription, 1);
      const notice = new Promise((resolve) => client.on("notice", resolve));
      const gone = stateOf(client, "disconnected");
      await post("/stop");
      equal((await notice).codeName, "shutting_down", "notice");
      await gone;
      const waiting = client.publish(topic, "after");
      await post("/start");
      await stateOf(client, "connected");
      const position = await waiting;
      assert(position.epoch !== before.epoch, "a new epoch");
      const [gap] = await take(subscription, 1);
      equal([gap.kind, gap.reason, gap.topic], ["gap", "reconnect", topic], "gap");
      equal(gap.from, { epoch: before.epoch, offset: before.offset }, "from");
      equal((await take(pattern, 1))[0].reason, "reconnect", "gap of the pattern");
      await client.publish(topic, "and after");
      for (;;) {
        const [m] = await take(subscription, 1);
        if (m.value === "and after") break;
      }
    }, { reconnect: { initial: 50, max: 200 } });
  },

  async "a broker that is gone at once: connected again, with a gap"(env) {
    await withClient(env, async (client) => {
      const topic = unique("killed");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const gone = stateOf(client, "disconnected");
      await post("/stop", { at: "once" });
      await gone;
      await post("/start");
      await stateOf(client, "connected");
      const [gap] = await take(subscription, 1);
      equal([gap.kind, gap.reason], ["gap", "reconnect"], "gap");
    }, { reconnect: { initial: 50, max: 200 } });
  },

  async "a refused token is told in band"(env) {
    for (const token of [undefined, "no token at all"]) {
      const options = { certificateHashes: [env.hash], ...(token && { token }) };
      const error = await refusal(connect(env.jwt, options), "connect");
      equal([error.codeName, error.remote], ["unauthorized", true], "error");
    }
  },

  async "a token is replaced before it expires, and in place by hand"(env) {
    let asked = 0;
    const getToken = () => {
      asked++;
      return post("/token", { seconds: asked < 3 ? "2" : "3600" });
    };
    await withClient(
      env,
      async (client) => {
        const changes = [];
        client.on("state", ({ state }) => changes.push(state));
        // Both tokens of 2 s live and are replaced meanwhile.
        await until(() => asked === 3, "it was asked three times");
        await sleep(1000);
        await client.publish("a.renewed", 1);
        equal(changes, [], "changes of the state");
        await client.auth(await post("/token", { seconds: "3600" }));
        const bad = await refusal(client.auth("no token at all"), "auth");
        equal(bad.codeName, "unauthorized", "auth");
        await client.publish("a.renewed", 2);
      },
      { getToken },
      env.jwt,
    );
  },

  async "a session's close code is told"(env) {
    const url = `${env.shut}?code=303&reason=full`;
    const error = await refusal(connect(url, { certificateHashes: [env.hash] }), "connect");
    equal([error.code, error.codeName, error.reason, error.remote], [303, "too_many_sessions", "full", true], "error");
  },

  async "a broker that does not answer is a connect_timeout"(env) {
    const options = { certificateHashes: [env.hash], connectTimeout: 800 };
    const begun = performance.now();
    const error = await refusal(connect(env.silent, options), "connect");
    equal(error.codeName, "connect_timeout", "error");
    assert(performance.now() - begun < 5000, "it took no longer than it should");
  },

  async "an address where nobody is, and a wrong certificate"(env) {
    const options = { certificateHashes: [env.hash], connectTimeout: 800 };
    const nobody = await refusal(connect("https://127.0.0.1:1/tidewire", options), "nobody");
    assert(["connect_failed", "connect_timeout"].includes(nobody.codeName), `nobody: ${nobody}`);
    const wrong = await refusal(
      connect(env.open, { ...options, certificateHashes: [new Uint8Array(32)] }),
      "wrong certificate",
    );
    assert(["connect_failed", "connect_timeout"].includes(wrong.codeName), `wrong: ${wrong}`);
    const plain = await refusal(connect("http://127.0.0.1:1/", options), "not https");
    equal(plain.codeName, "connect_failed", "not https");
  },

  async "a signal cancels an attempt"(env) {
    const controller = new AbortController();
    const attempt = connect(env.silent, {
      certificateHashes: [env.hash],
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(), 50);
    equal((await refusal(attempt, "connect")).codeName, "aborted", "error");
  },

  async "many subscriptions at once"(env) {
    await withClient(env, async (client) => {
      const base = unique("fan");
      const subscriptions = Array.from({ length: 100 }, (_, n) => client.subscribe(`${base}.${n}`));
      await Promise.all(subscriptions.map((s) => s.ready));
      await Promise.all(subscriptions.map((_, n) => client.publish(`${base}.${n}`, n)));
      for (const [n, s] of subscriptions.entries()) {
        equal((await take(s, 1))[0].value, n, `subscription ${n}`);
      }
    });
  },
};

/** The scenarios that are also run in a Worker. */
export const inWorker = [
  "publish and subscribe",
  "lossy messages go by datagram, and merge into the sequence",
  "1 MB in many messages, in order and without a gap",
  "a refused token is told in band",
];

/** Runs a scenario in a Worker. */
export function runInWorker(name, env) {
  const worker = new Worker("/worker.js", { type: "module" });
  return new Promise((resolve, reject) => {
    worker.addEventListener("message", ({ data }) => {
      if (data.error) reject(new Error(data.error));
      else resolve();
    });
    worker.addEventListener("error", (e) => reject(new Error(e.message || "the worker failed")));
    worker.postMessage({ name, env });
  }).finally(() => worker.terminate());
}
