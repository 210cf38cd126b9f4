// Where a subscription begins, and where it goes on (PROTOCOL §4.8, §6.1).

import { describe, expect, test } from "vitest";
import * as Type from "../src/frame-types.js";
import type { Position } from "../src/message.js";
import type { From } from "../src/options.js";
import { Resume } from "../src/resume.js";
import * as frames from "./broker-frames.js";
import { type Connected, connected } from "./connected.js";
import { BASE, CLIENT, type MockSession, type MockStream, message } from "./mock.js";
import { EPOCH, coded, serve, take } from "./serve.js";
import { turn, until } from "./until.js";

/** Loses the session, and answers the next HELLO. */
async function again(c: Connected, session: MockSession, w = {}): Promise<MockSession> {
  session.lose();
  const next = await c.broker.session();
  await next.hello();
  next.welcome(w);
  return next;
}

/** Takes the next stream, a subscription to a pattern, and answers it. */
async function servePattern(
  session: MockSession,
  time: number,
  topics?: number,
): Promise<{ stream: MockStream; subscribe: frames.ParsedSubscribe }> {
  const s = await session.subscription();
  s.stream.send(frames.writeSubscribed({ topic: 0, epoch: 0, offset: 0, time, topics }));
  return s;
}

function topic(number: number, name: string, epoch: number, offset: number, last?: number): Uint8Array {
  return frames.writeTopic({ topic: number, name, epoch, offset, last });
}

describe("a subscription begins", () => {
  const at = { epoch: 3, offset: 4 };
  test.each([
    ["a", { position: at }, [0, 3, 4]],
    ["a", { last: 5 }, [1, 5]],
    ["a.*", { since: new Date(BASE + 5000) }, [2, 5000]],
    ["a", { since: new Date(BASE - 5000) }, [2, 0]],
    ["a", "beginning" as const, [3]],
    ["a.*", { positions: { "a.b": at }, since: new Date(BASE + 7) }, [4, 7, [["a.b", 3, 4]]]],
  ] as [string, From, unknown][])("%s from %j", async (pattern, from, want) => {
    const { client, session } = await connected();
    client.subscribe(pattern, { from });
    expect((await session.subscription()).subscribe.from).toEqual(want);
  });

  test("where its options say", async () => {
    const { client, session } = await connected();
    client.subscribe("a.*", {
      class: "latest",
      noEcho: true,
      noRetained: true,
      filter: {
        kind: ["x", "y"],
        level: { atLeast: -3.5, atMost: 1e21 },
        debug: { exists: false },
        trace: { exists: true, prefix: "t", not: "t9" },
      },
    });
    expect((await session.subscription()).subscribe).toMatchObject({
      class: 1,
      flags: 3,
      filter: [
        ["kind", 0, "x", "y"],
        ["level", 5, "-3.5"],
        ["level", 6, "1000000000000000000000"],
        ["debug", 3],
        ["trace", 1, "t9"],
        ["trace", 2],
        ["trace", 4, "t"],
      ],
    });
  });

  test("behind a position of another epoch with a gap from there", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { from: { position: at } });
    expect(subscription.position).toEqual(at);
    (await serve(session, 0, 1)).send(message({ offset: 1 }));
    expect(await take(subscription, 2)).toEqual(["[a 4-? reconnect]", "a1"]);
  });

  test("with messages that are replayed and others that are not", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { from: { last: 1 } });
    const stream = await serve(session, 4, 5);
    stream.send(message({ offset: 5, retain: true, key: "k" }), message({ offset: 6 }));
    const items = [];
    for await (const m of subscription) {
      if (m.kind === "message") items.push([m.offset, m.replayed, m.retained, m.key]);
      if (items.length === 2) break;
    }
    expect(items).toEqual([
      [5, true, true, "k"],
      [6, false, false, undefined],
    ]);
  });
});

describe("after a reconnect a subscription to one topic", () => {
  test("goes on behind what has come, twice in a row", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    (await serve(c.session)).send(message({ offset: 1 }), message({ offset: 2 }));
    expect(await take(subscription, 2)).toEqual(["a1", "a2"]);
    let session = c.session;
    for (const offset of [3, 4]) {
      session = await again(c, session);
      const { stream, subscribe } = await session.subscription();
      expect(subscribe.from).toEqual([0, EPOCH, offset - 1]);
      const at = { topic: 1, epoch: EPOCH, offset: offset - 1, last: offset };
      stream.send(frames.writeSubscribed(at), message({ offset }));
      expect(await take(subscription, 1)).toEqual([`a${offset}`]);
    }
    expect(subscription.position).toEqual({ epoch: EPOCH, offset: 4 });
    expect(subscription.stats()).toMatchObject({ delivered: 4, gaps: 0, dropped: 0, waiting: 0 });
  });

  test("has what waits and the gap, as its counts tell", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    (await serve(c.session)).send(message({ offset: 1 }), message({ offset: 2 }));
    await until(() => expect(subscription.stats().waiting).toBe(2));
    const stream = await serve(await again(c, c.session), 4);
    stream.send(message({ offset: 9, previous: 1 }));
    await until(() => expect(subscription.stats().waiting).toBe(4));
    const left = [];
    for (let i = 0; i < 5; i++) {
      await take(subscription, 1);
      left.push(subscription.stats().waiting);
    }
    expect(left).toEqual([3, 2, 1, 1, 0]); // the fourth is the gap before the last message
    expect(subscription.stats()).toMatchObject({ delivered: 3, gaps: 2 });
  });

  test("goes on with the last values that it lacks, as often as it is cut off among them", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    const first = await c.session.subscription();
    first.stream.send(
      frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset: 0, last: 9 }),
      message({ offset: 2, retain: true, previous: 2 }),
    );
    expect(await take(subscription, 1)).toEqual(["a2"]);
    let session = c.session;
    for (const offset of [2, 5]) {
      session = await again(c, session);
      const { stream, subscribe } = await session.subscription();
      expect(subscribe.from).toEqual([0, EPOCH, offset, 9]);
      const at = { topic: 1, epoch: EPOCH, offset, last: 12 };
      stream.send(frames.writeSubscribed(at), message({ offset: offset + 3, retain: true, previous: 3 }));
      expect(await take(subscription, 1)).toEqual([`a${offset + 3}`]);
    }
    session = await again(c, session);
    const { stream, subscribe } = await session.subscription();
    expect(subscribe.from).toEqual([0, EPOCH, 8, 9]);
    // In another epoch they mean nothing.
    stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH + 1, offset: 0, last: 3 }));
    await turn();
    session = await again(c, session);
    expect((await session.subscription()).subscribe.from).toEqual([0, EPOCH + 1, 0]);
  });

  test("goes on behind what it was told to be missing", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    const gap = { topic: 1, epoch: EPOCH, from: 0, to: 8, reason: 1, count: 8 };
    (await serve(c.session)).send(frames.writeGap(gap), frames.writeSkip({ topic: 1, to: 9 }));
    await take(subscription, 1);
    await until(() => expect(subscription.position?.offset).toBe(9));
    const next = await again(c, c.session);
    expect((await next.subscription()).subscribe.from).toEqual([0, EPOCH, 9]);
  });

  test("is where all has been taken, and what the broker left out is behind", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    const at = (offset: number, epoch = EPOCH) => ({ epoch, offset });
    const stream = await serve(c.session);
    stream.send(message({ offset: 1 }), message({ offset: 2 }), frames.writeSkip({ topic: 1, to: 7 }));
    await take(subscription, 1);
    await until(() => expect(subscription.stats().waiting).toBe(1));
    expect(subscription.position).toEqual(at(1));
    await take(subscription, 1);
    await until(() => expect(subscription.position).toEqual(at(7)));
    expect(subscription.positions).toBeUndefined(); // nobody told since when
    const next = await again(c, c.session);
    expect(subscription.position).toEqual(at(7));
    const { stream: second } = await next.subscription();
    second.send(frames.writeSubscribed({ topic: 1, epoch: 8, offset: 3, time: 100 }));
    await until(() => expect(subscription.stats().waiting).toBe(1));
    expect(subscription.position).toEqual(at(7));
    expect(await take(subscription, 1)).toEqual(["[a 7-? reconnect]"]);
    expect(subscription.position).toEqual(at(3, 8)); // of the new epoch
    second.send(frames.writeSkip({ topic: 1, to: 5 }));
    await until(() => expect(subscription.position).toEqual(at(5, 8)));
    subscription.close();
    expect(subscription.position).toEqual(at(5, 8));
    expect(subscription.positions).toEqual({ positions: { a: at(5, 8) }, since: new Date(BASE + 100) });
  });

  test("tells a gap where the epoch is another one", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    (await serve(c.session)).send(message({ offset: 5, previous: 5 }));
    await take(subscription, 1);
    const next = await again(c, c.session);
    const { stream } = await next.subscription();
    stream.send(
      frames.writeSubscribed({ topic: 1, epoch: 8, offset: 0, last: 2 }),
      message({ offset: 1 }),
      message({ offset: 2 }),
    );
    expect(await take(subscription, 3)).toEqual(["[a 5-? reconnect]", "a1", "a2"]);
    expect(subscription.position).toEqual({ epoch: 8, offset: 2 });
  });

  test("takes a position beyond the end as the broker says", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a", { from: { position: { epoch: EPOCH, offset: 99 } } });
    const stream = await serve(c.session, 3, 4);
    const none = { epoch: undefined, from: undefined, to: undefined, count: undefined };
    stream.send(frames.writeGap({ topic: 1, reason: 5, ...none }), message({ offset: 4 }));
    expect(await take(subscription, 2)).toEqual(["[a ?-? history]", "a4"]);
  });

  test("begins where it was told to, if it never began", async () => {
    const c = await connected();
    c.client.subscribe("a", { from: { last: 3 } });
    await c.session.subscription();
    const next = await again(c, c.session);
    expect((await next.subscription()).subscribe.from).toEqual([1, 3]);
  });

  test("waits for WELCOME where a time is in it", async () => {
    const c = await connected();
    c.client.subscribe("a", { from: { since: new Date(BASE + 5000) } });
    await c.session.subscription();
    c.session.lose();
    const next = await c.broker.session();
    await next.hello();
    expect(next.streams.size).toBe(0);
    next.welcome({ base: BASE + 1000 });
    expect((await next.subscription()).subscribe.from).toEqual([2, 4000]);
  });

  test("has no gaps in class unreliable", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a", { class: "unreliable" });
    (await serve(c.session)).send(message({ offset: 1, reliable: 0 }));
    await take(subscription, 1);
    const next = await again(c, c.session);
    (await serve(next, 8)).send(message({ offset: 9, reliable: 0 }));
    expect(await take(subscription, 1)).toEqual(["a9"]);
  });
});

describe("after a reconnect a subscription to a pattern", () => {
  test("goes on at the positions of its topics, and since it began", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*");
    const { stream } = await servePattern(c.session, 100);
    stream.send(
      topic(1, "a.x", 5, 10),
      message({ offset: 11 }),
      topic(2, "a.y", 6, 0),
      message({ topic: 2, offset: 1 }),
      message({ topic: 1, offset: 12 }),
    );
    await take(subscription, 3);
    const positions = { "a.y": { epoch: 6, offset: 1 }, "a.x": { epoch: 5, offset: 12 } };
    expect(subscription.positions).toEqual({ positions, since: new Date(BASE + 100) });
    const next = await again(c, c.session, { base: BASE + 40 });
    const second = await servePattern(next, 500);
    expect(second.subscribe.from).toEqual([4, 60, [["a.x", 5, 12], ["a.y", 6, 1]]]);
    second.stream.send(
      topic(3, "a.y", 7, 0), // another epoch: it was lost meanwhile
      message({ topic: 3, offset: 1 }),
      topic(1, "a.x", 5, 12),
      message({ topic: 1, offset: 13 }),
      topic(4, "a.z", 1, 0),
      message({ topic: 4, offset: 1 }),
    );
    expect(await take(subscription, 4)).toEqual(["[a.y 1-? reconnect]", "a.y1", "a.x13", "a.z1"]);
    const third = await again(c, next, { base: BASE });
    const positionsThen = [["a.y", 7, 1], ["a.x", 5, 13], ["a.z", 1, 1]];
    expect((await third.subscription()).subscribe.from).toEqual([4, 100, positionsThen]);
  });

  test("tells one gap of all topics under another id", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*");
    const { stream } = await servePattern(c.session, 100);
    stream.send(topic(1, "a.x", 5, 10), message({ offset: 11 }));
    await take(subscription, 1);
    const next = await again(c, c.session, { client: new Uint8Array(16) });
    const second = await servePattern(next, 7);
    second.stream.send(topic(1, "a.x", 6, 0), message({ offset: 1 }));
    expect(await take(subscription, 2)).toEqual(["[* ?-? reconnect]", "a.x1"]);
  });

  test("tells one gap of all topics if it was cut off before they were known", async () => {
    for (const options of [{}, { from: { last: 2 } }]) {
      const c = await connected();
      const subscription = c.client.subscribe("a.*", options);
      const { stream } = await servePattern(c.session, 100, 2);
      stream.send(topic(1, "a.x", 5, 10, 12), topic(1, "a.x", 5, 10, 12), topic(2, "a.new", 6, 0));
      await turn();
      const next = await again(c, c.session);
      const second = await servePattern(next, 200);
      expect(await take(subscription, 1)).toEqual(["[* ?-? reconnect]"]);
      second.stream.send(topic(1, "a.x", 5, 10, 12), message({ offset: 11 }));
      expect(await take(subscription, 1)).toEqual(["a.x11"]);
      const third = await servePattern(await again(c, next), 300); // it was told
      third.stream.send(topic(1, "a.x", 5, 11), message({ offset: 12 }));
      expect(await take(subscription, 1)).toEqual(["a.x12"]);
      await c.client.close();
    }
  });

  test("goes on with the last values that it lacks in each topic", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*");
    const { stream } = await servePattern(c.session, 100, 2);
    stream.send(topic(1, "a.x", 5, 0, 12), topic(2, "a.y", 6, 0, 1));
    stream.send(message({ offset: 11, retain: true, previous: 11 }), topic(3, "a.new", 7, 3));
    expect(await take(subscription, 1)).toEqual(["a.x11"]);
    const second = await servePattern(await again(c, c.session), 200);
    expect(second.subscribe.from).toEqual([4, 100, [["a.new", 7, 3], ["a.x", 5, 11, 12], ["a.y", 6, 0, 1]]]);
  });

  test("goes on in all topics that were known, whatever came of them", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*", { from: { last: 2 } });
    const { stream } = await servePattern(c.session, 100, 2);
    stream.send(topic(1, "a.x", 5, 10, 12), topic(2, "a.y", 6, 0, 1));
    await turn();
    const second = await servePattern(await again(c, c.session), 200);
    expect(second.subscribe.from).toEqual([4, 100, [["a.x", 5, 10], ["a.y", 6, 0]]]);
    second.stream.send(topic(2, "a.y", 6, 0, 1), message({ topic: 2, offset: 1 }));
    expect(await take(subscription, 1)).toEqual(["a.y1"]);
  });

  test("with more topics than it can name goes on without a gap, and hands nothing out twice", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*", { credit: 1 << 20 });
    const { stream } = await servePattern(c.session, 100);
    for (let n = 1; n <= 1026; n++) {
      stream.whole(topic(n, `a.${n}x`, 5, 0));
      stream.whole(message({ topic: n, offset: 1, time: 1000 + n }));
    }
    await take(subscription, 1026);
    const next = await again(c, c.session);
    const second = await servePattern(next, 5000);
    const [form, since, positions] = second.subscribe.from as [number, number, unknown[]];
    expect([form, since, positions.length, positions[0]]).toEqual([4, 100, 1024, ["a.3x", 5, 1]]);
    // Of those that were not named comes everything since then.
    second.stream.send(topic(1, "a.1x", 5, 0, 2), topic(2, "a.2x", 6, 0));
    second.stream.send(message({ offset: 1 }), message({ offset: 2, time: 5000 }));
    expect(await take(subscription, 2)).toEqual(["[a.2x 1-? reconnect]", "a.1x2"]);
    const third = (await (await again(c, next)).subscription()).subscribe.from as [number, number, unknown[]];
    expect([third[1], third[2].at(-1)]).toEqual([100, ["a.1x", 5, 2]]);
  });

  test("names no more topics than fit into a first frame", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.>");
    const { stream } = await servePattern(c.session, 100);
    const name = (n: number) => `a.${"é".repeat(60)}.${n}`;
    for (let n = 1; n <= 1000; n++) {
      stream.whole(topic(n, name(n), 2 ** 47, 5));
      stream.whole(message({ topic: n, offset: 6, time: n }));
    }
    await take(subscription, 1000);
    const from = subscription.positions as { positions: Record<string, Position>; since: Date };
    expect(Object.keys(from.positions).at(-1)).toBe(name(1000));
    expect(() => c.client.subscribe("b.>", { from })).not.toThrow();
    const more = { ...from, positions: { ...from.positions, [name(1)]: { epoch: 1, offset: 1 } } };
    expect(() => c.client.subscribe("b.>", { from: more })).toThrow(coded("invalid_option"));
    const next = await again(c, c.session);
    const second = await (await next.streams.next()).want(Type.SUBSCRIBE);
    expect(second.size).toBeLessThan(64 << 10);
    const [, , positions] = frames.parseSubscribe(second).from as [number, number, unknown[]];
    expect(positions.length).toBeGreaterThan(300);
    expect(positions.at(-1)).toEqual([name(1000), 2 ** 47, 6]);
  });

  test.each([
    [1024, 0],
    [1025, 1],
  ])("cut off before the last values of %i topics, tells %i gaps", async (behind, gaps) => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*");
    const { stream } = await servePattern(c.session, 100, behind);
    for (let n = 1; n <= behind; n++) stream.whole(topic(n, `a.${n}x`, 5, 0, 1));
    stream.send(topic(2000, "a.new", 5, 0), message({ topic: 2000, offset: 1 }));
    expect(await take(subscription, 1)).toEqual(["a.new1"]);
    const next = await again(c, c.session);
    const second = await servePattern(next, 200);
    second.stream.send(topic(2000, "a.new", 5, 0), message({ topic: 2000, offset: 2 }));
    expect(await take(subscription, gaps + 1)).toEqual([...Array<string>(gaps).fill("[* ?-? reconnect]"), "a.new2"]);
  });

  test("remembers a bounded number of topics, those that were used last", () => {
    const resume = new Resume("a.>", false, undefined);
    const begin = { topic: 0, epoch: undefined, offset: undefined, last: undefined, class: undefined };
    resume.subscribed({ ...begin, time: 100, topics: undefined } as never, BASE, "c");
    const announce = (n: number, offset: number) =>
      resume.announced({ topic: n, name: `a.${n}`, epoch: 1, offset }).gap;
    for (let n = 0; n <= 1 << 16; n++) announce(n, 1);
    expect(announce(1, 2)).toMatchObject({ topic: "a.1", count: 1 });
    expect(announce(0, 2)).toBeUndefined(); // it is not known that anything is missing
  });

  test("a topic that was forgotten and is announced again has no gap", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a.*");
    const { stream } = await servePattern(c.session, 100);
    stream.send(topic(1, "a.first", 5, 0), message({ offset: 1 }), message({ offset: 2 }));
    expect(await take(subscription, 2)).toEqual(["a.first1", "a.first2"]);
    for (let n = 2; n <= 32_769; n++) stream.whole(topic(n, `a.${n}`, 5, 0));
    stream.send(topic(1, "a.first", 5, 2), message({ offset: 3 }));
    expect(await take(subscription, 1)).toEqual(["a.first3"]);
  });
});

describe("a group", () => {
  const size = message({ offset: 1 }).length;

  test("is told of each message that the application has finished", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("jobs", { group: "workers", credit: 1000 });
    const { stream, subscribe } = await session.subscription();
    expect(subscribe).toMatchObject({ group: "workers", credit: 1000 });
    stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset: 0 }));
    for (const offset of [3, 9, 3]) stream.send(message({ offset }));
    const iterator = subscription[Symbol.asyncIterator]();
    await iterator.next();
    await until(() => expect(subscription.queue.pending).toBe(2 * size));
    expect(session.control.frames.size).toBe(0);
    await iterator.next();
    const flow = async () => frames.parseFlow(await session.control.want(7));
    expect(await flow()).toMatchObject({ subscription: 1, limit: 1000 + size });
    await iterator.next();
    expect(await flow()).toMatchObject({ limit: 1000 + 2 * size });
  });

  test("is told of all that was taken at once, when the next is asked for", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("jobs", { group: "workers", credit: 1000 });
    const stream = await serve(session);
    const iterator = subscription[Symbol.asyncIterator]();
    const both = [iterator.next(), iterator.next()];
    stream.send(message({ offset: 1 }), message({ offset: 2 }));
    await Promise.all(both);
    void iterator.next();
    const limits = [];
    for (let i = 0; i < 2; i++) limits.push(frames.parseFlow(await session.control.want(7)).limit);
    expect(limits).toEqual([1000 + size, 1000 + 2 * size]);
  });

  test("after a reconnect it has what it had not taken, which takes none of the new credit", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("jobs", { group: "workers", credit: 3 * size });
    const first = await serve(c.session);
    for (const offset of [1, 2, 3]) first.send(message({ offset }));
    const iterator = subscription[Symbol.asyncIterator]();
    const want = async (offset: number) => expect((await iterator.next()).value).toMatchObject({ offset });
    await want(1);
    await until(() => expect(subscription.queue.pending).toBe(2 * size));
    const next = await again(c, c.session);
    const { stream, subscribe } = await next.subscription();
    expect(subscribe).toMatchObject({ credit: 3 * size, from: undefined });
    stream.send(frames.writeSubscribed({ topic: 1, epoch: 9, offset: 3 }), message({ offset: 4 }));
    await until(() => expect(subscription.queue.pending).toBe(size));
    for (const offset of [2, 3, 4]) await want(offset);
    expect(next.control.frames.size).toBe(0); // what was finished is of the other stream
    void iterator.next();
    expect(frames.parseFlow(await next.control.want(7))).toMatchObject({ limit: 4 * size });
    expect(subscription.position).toBeUndefined();
  });

  test("and a filter get nothing by datagram", async () => {
    const { client, session } = await connected();
    const group = client.subscribe("a", { group: "g" });
    const filtered = client.subscribe("a", { filter: { kind: "x" } });
    const plain = client.subscribe("a");
    const streams = [await serve(session), await serve(session), await serve(session)];
    await Promise.all([group.ready, filtered.ready, plain.ready]);
    session.datagram(message({ offset: 1, reliable: 0 }));
    expect(await take(plain, 1)).toEqual(["a1"]);
    for (const s of streams) s.send(message({ offset: 2 }));
    expect(await take(group, 1)).toEqual(["a2"]);
    expect(await take(filtered, 1)).toEqual(["[a 0-1 lost]"]); // it was not told by SKIP
  });
});

test("without echo own datagrams are not handed out, and are no gap", async () => {
  const { client, session } = await connected();
  const quiet = client.subscribe("a", { noEcho: true, class: "sequenced" });
  const loud = client.subscribe("a", { class: "sequenced" });
  await serve(session);
  await serve(session);
  await Promise.all([quiet.ready, loud.ready]);
  session.datagram(message({ offset: 1, publisher: CLIENT }));
  session.datagram(message({ offset: 2, publisher: new Uint8Array(16) }));
  expect(await take(loud, 2)).toEqual(["a1", "a2"]);
  expect(await take(quiet, 1)).toEqual(["a2"]);
});

describe("the priority", () => {
  test("is changed live", async () => {
    const c = await connected();
    const subscription = c.client.subscribe("a");
    const { stream, subscribe } = await c.session.subscription();
    expect(subscribe.priority).toBe(3);
    subscription.setPriority(1); // the broker does not know the number yet
    expect(c.session.control.frames.size).toBe(0);
    stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset: 0 }));
    expect(frames.parsePriority(await c.session.control.want(11))).toEqual({ subscription: 1, priority: 1 });
    subscription.setPriority(7);
    expect(frames.parsePriority(await c.session.control.want(11)).priority).toBe(7);
    expect(() => subscription.setPriority(8)).toThrow("invalid_option");
    const next = await again(c, c.session);
    expect((await next.subscription()).subscribe.priority).toBe(7);
  });
});
