// One scenario for each capability of the client, against a real broker.

import { assert, equal, post, refusal, sleep, take, unique, until, withClient } from "/tools.js";

const values = (items) => items.map((m) => (m.kind === "gap" ? `gap ${m.reason}` : m.value));

/** Collects what an iteration yields, while it goes on. */
function collect(iterable) {
  const items = [];
  const done = (async () => {
    for await (const item of iterable) items.push(item);
  })();
  return { items, done };
}

export const capabilities = {
  async "every class brings what a subscriber that keeps up should see"(env) {
    await withClient(env, async (client) => {
      const topic = unique("classes");
      const classes = ["reliable", "latest", "sequenced", "unreliable"];
      const subscriptions = classes.map((cls) => client.subscribe(topic, { class: cls }));
      await Promise.all(subscriptions.map((s) => s.ready));
      for (const n of [1, 2, 3]) {
        await client.publish(topic, n, { key: "k" });
        for (const [i, s] of subscriptions.entries()) equal(values(await take(s, 1)), [n], classes[i]);
      }
    });
  },

  async "a slow subscriber of class latest ends with the newest of each key"(env) {
    await withClient(env, async (client) => {
      const topic = unique("latest");
      const subscription = client.subscribe(topic, { class: "latest", credit: 4096 });
      await subscription.ready;
      const payload = "x".repeat(1000);
      const last = {};
      const sent = Array.from({ length: 200 }, (_, n) => {
        last[`k${n % 2}`] = n;
        return client.publish(topic, [n, payload], { key: `k${n % 2}` });
      });
      await Promise.all(sent);
      const newest = {};
      let messages = 0;
      while (newest.k0 !== last.k0 || newest.k1 !== last.k1) {
        const [item] = await take(subscription, 1);
        if (item.kind === "gap") {
          equal(item.reason, "conflated", "gap");
          continue;
        }
        messages++;
        assert(item.value[0] > (newest[item.key] ?? -1), `${item.value[0]} after ${newest[item.key]}`);
        newest[item.key] = item.value[0];
      }
      assert(messages < 100, `${messages} of 200 messages came`);
    });
  },

  async "a subscription begins where it is told to"(env) {
    await withClient(env, async (client) => {
      const base = unique("from");
      const topic = `${base}.x`;
      const positions = [];
      for (const n of [1, 2, 3, 4]) positions.push(await client.publish(topic, n));
      const from = async (f, pattern = topic) => {
        const subscription = client.subscribe(pattern, { from: f });
        await subscription.ready;
        await client.publish(topic, "end");
        const got = [];
        while (got.at(-1) !== "end") got.push(...values(await take(subscription, 1)));
        subscription.close();
        return got.filter((v) => v !== "end");
      };
      equal(await from({ position: positions[1] }), [3, 4], "position");
      equal(await from({ last: 1 }), [], "last 1 is end of the one before");
      equal(await from("beginning"), [1, 2, 3, 4], "beginning");
      equal(await from({ since: new Date(Date.now() - 30_000) }), [1, 2, 3, 4], "since");
      equal(await from(undefined), [], "now");
      const positionsOf = { positions: { [topic]: positions[2] }, since: new Date() };
      equal(await from(positionsOf, `${base}.*`), [4], "positions");
    });
  },

  async "history in pages, in both directions"(env) {
    await withClient(env, async (client) => {
      const topic = unique("history");
      await client.publishBatch(topic, [1, 2, 3, 4, 5].map((value) => ({ value })));
      const pages = [];
      for (let from; ; ) {
        const page = await client.history(topic, { limit: 2, ...(from && { from }) });
        pages.push(values(page.messages));
        if (!page.more) break;
        from = { position: page.next };
      }
      equal(pages.flat(), [1, 2, 3, 4, 5], "forward");
      const first = await client.history(topic, { backward: true, limit: 3 });
      equal(values(first.messages), [5, 4, 3], "backward");
      const rest = await client.history(topic, { backward: true, from: { position: first.next } });
      equal([values(rest.messages), rest.more], [[2, 1], false], "the rest");
    });
  },

  async "last values, and a topic of them as a live map"(env) {
    await withClient(env, async (client) => {
      const topic = unique("map");
      await client.publish(topic, "x1", { key: "x", retain: true });
      await client.publish(topic, "y1", { key: "y", retain: true });
      await client.publish(topic, "x2", { key: "x", retain: true });
      await client.publish(topic, "not retained");
      const subscription = client.subscribe(topic);
      const items = await take(subscription, 2);
      equal(items.map((m) => [m.key, m.value, m.retained, m.replayed]).toSorted(), [
        ["x", "x2", true, true],
        ["y", "y1", true, true],
      ], "last values");
      const map = client.map(topic);
      await map.ready;
      equal([...map].toSorted(), [["x", "x2"], ["y", "y1"]], "map");
      const changes = map.changes();
      await client.publish(topic, new Uint8Array(0), { key: "x", retain: true });
      await client.publish(topic, "z1", { key: "z", retain: true });
      await until(() => map.get("z") === "z1", "z");
      equal([...map].toSorted(), [["y", "y1"], ["z", "z1"]], "map then");
      await changes.return();
      map.close();
      const none = client.subscribe(topic, { noRetained: true });
      await none.ready;
      await client.publish(topic, "live");
      equal(values(await take(none, 1)), ["live"], "without last values");
    });
  },

  async "what has expired is a gap"(env) {
    await withClient(env, async (client) => {
      const topic = unique("ttl");
      await client.publish(topic, "stays");
      await client.publish(topic, "goes", { ttl: 50 });
      const at = await client.publish(topic, "stays too", { ttl: 60_000 });
      await sleep(200);
      const subscription = client.subscribe(topic, { from: "beginning" });
      const items = await take(subscription, 3);
      equal(values(items), ["stays", "gap expired", "stays too"], "items");
      equal([items[1].count, items[1].to.offset], [1, at.offset - 1], "gap");
      const left = items[2].expires - items[2].time;
      assert(left > 59_000 && left <= 60_000, `it expires after ${left} ms`);
    });
  },

  async "a batch is one behind the other, and an id is published once"(env) {
    await withClient(env, async (client) => {
      const topic = unique("batch");
      const subscription = client.subscribe(topic);
      await subscription.ready;
      const items = Array.from({ length: 100 }, (_, value) => ({ value }));
      const positions = await client.publishBatch(topic, items);
      const got = await take(subscription, 100);
      equal(values(got), items.map((i) => i.value), "values");
      equal(got.map((m) => m.offset), positions.map((p) => p.offset), "positions");
      const once = await client.publish(topic, "once", { id: "order-17" });
      equal(await client.publish(topic, "once", { id: "order-17" }), once, "the position it had");
      await client.publish(topic, "next");
      equal(values(await take(subscription, 2)), ["once", "next"], "once");
    });
  },

  async "not to myself"(env) {
    await withClient(env, async (client) => {
      await withClient(env, async (other) => {
        const topic = unique("echo");
        const quiet = client.subscribe(topic, { noEcho: true });
        const loud = client.subscribe(topic);
        await Promise.all([quiet.ready, loud.ready]);
        await client.publish(topic, "mine");
        client.publishLossy(topic, "mine, lossy");
        await take(loud, 2);
        await other.publish(topic, "theirs");
        equal(values(await take(quiet, 1)), ["theirs"], "quiet");
        equal(values(await take(loud, 1)), ["theirs"], "loud");
      });
    });
  },

  async "headers, and a filter on them"(env) {
    await withClient(env, async (client) => {
      const topic = unique("filter");
      const all = client.subscribe(topic);
      const some = client.subscribe(topic, { filter: { kind: ["a", "b"], level: { atLeast: 3 } } });
      await Promise.all([all.ready, some.ready]);
      const headers = [{ kind: "a", level: "2" }, { kind: "b", level: "3.5" }, { kind: "c", level: "9" }, {}];
      for (const [n, h] of headers.entries()) await client.publish(topic, n, { headers: h });
      await client.publish(topic, "end", { headers: { kind: "a", level: "10" } });
      equal((await take(all, 4)).map((m) => m.headers), headers, "headers");
      equal(values(await take(some, 2)), [1, "end"], "filtered, without a gap");
    });
  },

  async "request and reply, many replies, and nobody there"(env) {
    await withClient(env, async (client) => {
      await withClient(env, async (service) => {
        const topic = unique("service");
        equal((await refusal(client.request(topic, 1), "nobody")).codeName, "no_responders", "nobody");
        const subscription = service.subscribe(topic);
        await subscription.ready;
        const serving = (async () => {
          for await (const m of subscription) {
            if (m.kind === "message" && m.request) for (const n of [1, 2]) m.reply(m.value + n, { headers: { n: String(n) } });
          }
        })();
        const reply = await client.request(topic, 40);
        equal([reply.value, reply.publisher, reply.headers], [41, service.id, { n: "1" }], "reply");
        const many = [];
        for await (const r of client.requestMany(topic, 10, { max: 2 })) many.push(r.value);
        equal(many, [11, 12], "many");
        subscription.close();
        await serving;
      });
    });
  },

  async "each message to one member of a group, and to another when it leaves"(env) {
    await withClient(env, async (client) => {
      const topic = unique("group");
      const members = [client.subscribe(topic, { group: "g" }), client.subscribe(topic, { group: "g" })];
      await Promise.all(members.map((s) => s.ready));
      const collected = members.map((s) => collect(s));
      await client.publishBatch(topic, Array.from({ length: 50 }, (_, value) => ({ value })));
      const got = () => collected.flatMap((c) => values(c.items)).toSorted((a, b) => a - b);
      await until(() => got().length >= 50, "all 50");
      equal(got(), Array.from({ length: 50 }, (_, n) => n), "each once");
      // This one takes nothing, and leaves.
      const idle = client.subscribe(topic, { group: "h" });
      await idle.ready;
      await client.publish(topic, "left behind");
      const heir = client.subscribe(topic, { group: "h" });
      await heir.ready;
      idle.close();
      equal(values(await take(heir, 1)), ["left behind"], "heir");
    });
  },

  async "presence: who is there, who comes and goes, and how many"(env) {
    await withClient(env, async (client) => {
      const topic = unique("room");
      const watch = client.watchPresence(topic);
      const { items, done } = collect(watch);
      const told = () => items.map((e) => `${e.kind} ${e.member?.state}`);
      await withClient(env, async (other) => {
        await other.enter(topic, "Ann");
        await until(() => told().length === 1, "joined");
        await other.enter(topic, "Anna");
        await client.enter(topic);
        await until(() => told().length === 3, "updated, and joined");
        const members = await client.presence(topic);
        equal(members.map((m) => [m.client, m.state]).toSorted(), [[client.id, null], [other.id, "Anna"]].toSorted(), "members");
        equal([...(await client.presenceCount(topic))], [[topic, 2]], "count");
        await client.leave(topic);
      });
      await until(() => told().length === 5, "both have left");
      equal(told(), ["joined Ann", "updated Anna", "joined null", "left null", "left Anna"], "events");
      watch.close();
      await done;
    });
  },

  async "a priority is changed live, and health is told"(env) {
    await withClient(env, async (client) => {
      const topic = unique("health");
      const subscription = client.subscribe(topic, { credit: 1000, priority: 7 });
      await subscription.ready;
      subscription.setPriority(1);
      await client.publishBatch(topic, Array.from({ length: 20 }, () => ({ value: "x".repeat(500) })));
      const health = await client.health();
      assert(health.rtt > 0 && health.rtt < 10_000, `rtt ${health.rtt}`);
      const [s] = health.subscriptions;
      assert(s.subscription === subscription && s.messages > 0 && s.bytes > s.messages * 500, JSON.stringify({ ...s, subscription: 0 }));
      equal([subscription.state, subscription.stats().delivered], ["subscribed", 0], "stats");
    });
  },

  async "a subscription that is revoked ends, and the others go on"(env) {
    await withClient(
      env,
      async (client) => {
        const kept = client.subscribe("a.kept");
        const gone = client.subscribe("a.gone");
        await Promise.all([kept.ready, gone.ready]);
        await client.auth(await post("/token", { seconds: "3600", subscribe: "a.kept" }));
        equal((await gone.closed).codeName, "permission_revoked", "gone");
        await client.publish("a.kept", 1);
        equal(values(await take(kept, 1)), [1], "kept");
      },
      { token: env.token },
      env.jwt,
    );
  },
};
