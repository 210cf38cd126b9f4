// What is read as a whole: presence (PROTOCOL §7.8), live maps (§4.5), history (§6.8).

import { afterEach, describe, expect, test, vi } from "vitest";
import { deferred } from "../src/deferred.js";
import * as Type from "../src/frame-types.js";
import type { MessageFrame } from "../src/frames.js";
import { encodeMsgpack } from "../src/msgpack.js";
import * as frames from "./broker-frames.js";
import { type Connected, connected } from "./connected.js";
import { type MockSession, type MockStream, message } from "./mock.js";
import { EPOCH, coded } from "./serve.js";
import { turn, until } from "./until.js";

const text = (s: string) => new TextEncoder().encode(s);

/** A retained message with a key; without a value it clears the key. */
function keyed(offset: number, key: string, value?: string, m: Partial<MessageFrame> = {}): Uint8Array {
  const payload = value === undefined ? { encoding: 0, data: text("") } : { data: text(value) };
  return message({ offset, key, retain: true, time: offset, ...payload, ...m });
}

/** Takes a subscription to one topic, and answers it with what is to be replayed. */
async function begin(session: MockSession, last: number, flags = 0): Promise<MockStream> {
  const { stream, subscribe } = await session.subscription();
  expect(subscribe).toMatchObject({ from: undefined, flags, class: 1 });
  stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset: 0, last }));
  return stream;
}

async function again({ broker, session }: Connected): Promise<MockSession> {
  session.lose();
  const next = await broker.session();
  await next.hello();
  next.welcome();
  return next;
}

describe("a live map", () => {
  test("with a bound that is none is refused, and keeps no subscription", async () => {
    const { client, session } = await connected();
    expect(() => client.map("m", { maxKeys: 0 })).toThrow(coded("invalid_option"));
    const { stream } = await session.subscription();
    await stream.fin;
  });

  test("has the last values, and follows them", async () => {
    const { client, session } = await connected();
    const map = client.map<string>("m");
    const stream = await begin(session, 9);
    stream.send(frames.writeSkip({ topic: 1, to: 3 }), keyed(4, "x", "1"), keyed(7, "y", "2", { previous: 3 }));
    await turn();
    stream.send(frames.writeSkip({ topic: 1, to: 9 }));
    await map.ready;
    expect([...map]).toEqual([["x", "1"], ["y", "2"]]);
    expect([map.size, map.get("x"), map.get("z"), map.message("y")?.replayed]).toEqual([2, "1", undefined, true]);
    const changes = map.changes();
    const next = async () => {
      const { value } = await changes.next();
      return [value?.key, value?.message?.value];
    };
    expect([await next(), await next()]).toEqual([["x", "1"], ["y", "2"]]);
    stream.send(keyed(10, "x", "3"), keyed(11, "x", "4"), keyed(12, "y"), message({ offset: 13 }));
    stream.send(keyed(14, "z", "5", { retain: false }));
    await until(() => expect(map.get("z")).toBe("5"));
    expect([await next(), await next(), await next()]).toEqual([["x", "4"], ["y", undefined], ["z", "5"]]);
    expect([...map]).toEqual([["x", "4"], ["z", "5"]]);
    await changes.return?.();
    expect(await changes.next()).toEqual({ done: true, value: undefined });
    map.close();
    expect(await map.closed).toBeUndefined();
  });

  test("tells nothing of keys that came and went before they were taken", async () => {
    const { client, session } = await connected();
    const map = client.map<string>("m", { maxKeys: 3 });
    const stream = await begin(session, 1);
    stream.send(keyed(1, "a", "1"));
    await map.ready;
    const changes = map.changes();
    const next = async () => {
      const { value } = await changes.next();
      return [value?.key, value?.message?.value];
    };
    expect(await next()).toEqual(["a", "1"]);
    for (let i = 1; i <= 20; i++) stream.send(keyed(2 * i, `k${i}`, "1"), keyed(2 * i + 1, `k${i}`));
    stream.send(keyed(42, "a"), keyed(43, "b", "2"), keyed(44, "b", "3"));
    await until(() => expect([...map]).toEqual([["b", "3"]]));
    expect([await next(), await next()]).toEqual([["a", undefined], ["b", "3"]]);
    stream.send(keyed(45, "b"), keyed(46, "c", "4"));
    expect([await next(), await next()]).toEqual([["b", undefined], ["c", "4"]]);
  });

  test("is read anew after a reconnect, without what is gone", async () => {
    const c = await connected();
    const map = c.client.map<string>("m");
    (await begin(c.session, 2)).send(keyed(1, "x", "1"), keyed(2, "y", "1"));
    await map.ready;
    const next = await again(c);
    const stream = await begin(next, 5);
    stream.send(frames.writeSkip({ topic: 1, to: 4 }), keyed(5, "y", "2"));
    await until(() => expect([...map]).toEqual([["y", "2"]]));
  });

  test("is read anew after a gap, unless something newer came", async () => {
    const { client, session } = await connected();
    const map = client.map<string>("m");
    const stream = await begin(session, 1);
    stream.send(keyed(1, "x", "1"));
    await map.ready;
    const gap = { topic: 1, epoch: EPOCH, count: 1 };
    stream.send(frames.writeGap({ ...gap, from: 1, to: 2, reason: 2 }), keyed(3, "y", "1"));
    await until(() => expect(map.size).toBe(2));
    stream.send(frames.writeGap({ ...gap, from: 3, to: 4, reason: 1 }));
    await stream.fin;
    (await begin(session, 4)).send(frames.writeSkip({ topic: 1, to: 3 }), keyed(4, "x", "2"));
    await until(() => expect([...map]).toEqual([["x", "2"]]));
  });

  test("a signal ends the iteration over its changes, and no more", async () => {
    const { client, session } = await connected();
    const map = client.map<string>("m");
    (await begin(session, 1)).send(keyed(1, "x", "1"));
    await map.ready;
    const controller = new AbortController();
    const changes = map.changes({ signal: controller.signal });
    expect((await changes.next()).value).toMatchObject({ key: "x" });
    const next = expect(changes.next()).rejects.toThrow(coded("aborted", { cause: "enough" }));
    controller.abort("enough");
    await next;
    expect((await changes.next()).done).toBe(true);
    await expect(map.changes({ signal: controller.signal }).next()).rejects.toThrow(coded("aborted"));
    await expect(map.changes({ sginal: 1 } as never).next()).rejects.toThrow(coded("invalid_option"));
    expect(map.get("x")).toBe("1");
  });

  test("has the error in the place of a value that is none, and all the others", async () => {
    const { client, session } = await connected();
    const map = client.map<number>("m");
    const stream = await begin(session, 2);
    const packed = (byte: number) => ({ encoding: 1, data: Uint8Array.of(byte), retain: true });
    stream.send(message({ offset: 1, key: "bad", ...packed(0xc1) }), message({ offset: 2, key: "x", ...packed(7) }));
    await map.ready;
    expect([...map]).toEqual([["bad", undefined, expect.any(SyntaxError)], ["x", 7]]);
    expect(() => map.get("bad")).toThrow(SyntaxError);
  });

  test("is read anew although the broker cannot at once", async () => {
    const { client, session } = await connected();
    const map = client.map<string>("m");
    const stream = await begin(session, 1);
    stream.send(keyed(1, "x", "1"));
    await map.ready;
    stream.send(frames.writeGap({ topic: 1, epoch: EPOCH, from: 1, to: 2, reason: 1, count: 1 }));
    for (const code of [300, 402, 403]) (await session.subscription()).stream.end(code, "", 1);
    (await begin(session, 3)).send(frames.writeSkip({ topic: 1, to: 2 }), keyed(3, "x", "2"));
    await until(() => expect(map.get("x")).toBe("2"));
  });

  test("ends with the refusal, and with too many keys", async () => {
    const { client, session } = await connected();
    const refused = client.map("m");
    const changes = refused.changes();
    (await session.subscription()).stream.end(203);
    await expect(refused.ready).rejects.toThrow(coded("subscribe_denied"));
    await expect(changes.next()).rejects.toThrow(coded("subscribe_denied"));
    expect((await changes.next()).done).toBe(true);
    const small = client.map("m", { maxKeys: 1 });
    (await begin(session, 2)).send(keyed(1, "x", "1"), keyed(2, "y", "1"));
    expect(await small.closed).toEqual(coded("queue_full"));
  });

  test("leaves out what has expired, by the broker's clock", async () => {
    const { client, session } = await connected();
    const map = client.map<string>("m");
    const { stream } = await session.subscription();
    stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset: 0, last: 2, time: 5000 }));
    stream.send(keyed(1, "x", "1", { expires: 4000 }), keyed(2, "y", "1", { expires: 65_000 }));
    await map.ready;
    expect([...map]).toEqual([["y", "1"]]);
    expect(map.size).toBe(1);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 60_000 });
    expect([...map]).toEqual([]);
    vi.useRealTimers();
  });
});

describe("presence", () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  const presence = async (s: MockSession) => frames.parsePresence(await s.control.want(Type.PRESENCE));
  const ack = (s: MockSession, sequence: number) =>
    s.control.send(frames.writeAck({ sequence, epoch: 1, offsets: [1], limit: undefined }));

  test("is entered, changed and left", async () => {
    const { client, session } = await connected();
    const entered = client.enter("room", { name: "x" });
    const first = await presence(session);
    expect(first).toMatchObject({ topic: "room", state: { encoding: 1, data: encodeMsgpack({ name: "x" }) } });
    ack(session, first.number);
    await entered;
    const none = client.enter("room");
    const second = await presence(session);
    expect(second.state?.data).toEqual(new Uint8Array([0xc0]));
    ack(session, second.number);
    await none;
    const left = client.leave("room");
    const third = await presence(session);
    expect(third.state).toBeUndefined();
    ack(session, third.number);
    await left;
  });

  test("is entered again after a reconnect, and a refusal is told", async () => {
    const c = await connected();
    for (const topic of ["x", "y"]) {
      const entered = c.client.enter(topic, topic);
      ack(c.session, (await presence(c.session)).number);
      await entered;
    }
    const told = new Promise((resolve) => c.client.on("presence", resolve));
    const next = await again(c);
    const x = await presence(next);
    const y = await presence(next);
    expect([x.topic, y.topic, y.state?.data]).toEqual(["x", "y", text("y")]);
    ack(next, y.number);
    const error = { code: 203, reason: "", retry: undefined };
    next.control.send(frames.writeNack({ sequence: x.number, error }));
    expect(await told).toEqual({ topic: "x", error: coded("subscribe_denied") });
    const third = await again({ ...c, session: next });
    expect((await presence(third)).topic).toBe("y");
    await turn();
    expect(third.control.frames.size).toBe(0);
  });

  test("that was not confirmed is entered with the next connection", async () => {
    const c = await connected();
    const entered = c.client.enter("room", 1);
    await presence(c.session);
    const next = await again(c);
    ack(next, (await presence(next)).number);
    await entered;
  });

  test("that was left before its answer is not entered again", async () => {
    const c = await connected();
    const entered = c.client.enter("x", 1);
    const { number } = await presence(c.session);
    const left = [c.client.leave("x"), c.client.enter("w", 1), c.client.leave("w")];
    for (const topic of ["x", "w"]) {
      const f = await presence(c.session);
      expect([f.topic, f.state]).toEqual([topic, undefined]);
      ack(c.session, f.number);
    }
    ack(c.session, number);
    await Promise.all([entered, ...left]);

    const unsure = c.client.enter("y", 1);
    await presence(c.session);
    c.session.lose();
    await until(() => expect(c.client.state).toBe("disconnected"));
    const waiting = c.client.enter("z", 1);
    await c.client.leave("y");
    await c.client.leave("z");
    const next = await c.broker.session();
    await next.hello();
    next.welcome();
    await Promise.all([unsure, waiting]);
    await turn();
    expect(next.control.frames.size).toBe(0);
  });

  test("whose enter is given up is as before", async () => {
    const c = await connected();
    for (const before of [undefined, "before"]) {
      const entered = before && c.client.enter("x", before);
      if (entered) ack(c.session, (await presence(c.session)).number);
      await entered;
      const stop = new AbortController();
      const after = expect(c.client.enter("x", "after", stop)).rejects.toThrow(coded("aborted"));
      const given = await presence(c.session);
      stop.abort();
      await after;
      const back = await presence(c.session);
      expect([back.topic, back.state?.data]).toEqual(["x", before && text(before)]);
      for (const { number } of [given, back]) ack(c.session, number);
    }
    await turn();
    expect(c.session.control.frames.size).toBe(0);
  });

  test("is entered again until the broker can, unless it was left meanwhile", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0); // of the waits
    const c = await connected();
    for (const topic of ["x", "y", "z"]) {
      const entered = c.client.enter(topic, topic);
      ack(c.session, (await presence(c.session)).number);
      await entered;
    }
    const lost: unknown[] = [];
    c.client.on("presence", (e) => lost.push(e));
    const next = await again(c);
    const [x, y, z] = [await presence(next), await presence(next), await presence(next)];
    const changed = c.client.enter("z", "newer");
    expect((await presence(next)).topic).toBe("z");
    const left = c.client.leave("y");
    const away = await presence(next);
    expect([away.topic, away.state]).toEqual(["y", undefined]);
    ack(next, away.number);
    await left;
    for (const [{ number }, code] of [[x, 304], [y, 304], [z, 403]] as const) {
      next.control.send(frames.writeNack({ sequence: number, error: { code, reason: "", retry: undefined } }));
    }
    const second = await presence(next);
    expect([second.topic, second.state?.data]).toEqual(["x", text("x")]);
    next.control.send(frames.writeNack({ sequence: second.number, error: { code: 403, reason: "", retry: 1 } }));
    const third = await presence(next);
    expect(third.topic).toBe("x");
    ack(next, third.number);
    ack(next, z.number + 1);
    await changed;
    await turn();
    expect([next.control.frames.size, lost]).toEqual([0, []]);
  });

  test("with an empty state is entered without one", async () => {
    const { client, session } = await connected();
    const entered = client.enter("room", "");
    const { number, state } = await presence(session);
    expect(state).toEqual({ encoding: 1, data: Uint8Array.of(0xc0) });
    ack(session, number);
    await entered;
  });

  test("with a state that is too large is refused at once", async () => {
    const { client } = await connected();
    await expect(client.enter("room", "x".repeat(1025))).rejects.toThrow(coded("payload_too_large"));
  });

  test("is read at once", async () => {
    const { client, session } = await connected();
    const members = client.presence<string>("room");
    const stream = await begin(session, 6, 4);
    stream.send(keyed(1, "id1", "here"), keyed(2, "id2", "there"), keyed(3, "id1"));
    stream.send(frames.writeSkip({ topic: 1, to: 6 }));
    expect(await members).toEqual([
      { topic: "room", client: "id2", state: "there", since: new Date(1_790_000_000_002) },
    ]);
    await stream.fin;
    const strange = client.presence("room");
    (await begin(session, 1, 4)).send(keyed(1, "id1", "", { encoding: 1, data: Uint8Array.of(0xc1) }));
    const [member] = await strange;
    expect(member?.client).toBe("id1");
    expect(() => member?.state).toThrow(SyntaxError);
    const nobody = client.presence("room");
    await begin(session, 0, 4);
    expect(await nobody).toEqual([]);
    const counts = client.presence("room");
    (await begin(session, 1, 4)).send(message({ offset: 1, encoding: 1, data: encodeMsgpack(3) }));
    await expect(counts).rejects.toThrow(coded("not_offered"));
  });

  test("is watched, and compared after a reconnect", async () => {
    const c = await connected();
    const watch = c.client.watchPresence<string>("room.*");
    const events = watch[Symbol.asyncIterator]();
    const next = async () => {
      const { value: e } = await events.next();
      if (!e) return "done";
      if (e.kind === "gap") return `gap ${e.reason}`;
      if (e.kind === "counted") return `${e.topic} ${e.count}`;
      return `${e.kind} ${e.topic} ${e.member.client} ${e.member.state}`;
    };
    const announce = (number: number, name: string, last: number) =>
      frames.writeTopic({ topic: number, name: `$presence.${name}`, epoch: EPOCH, offset: 0, last });
    const serve = async (session: MockSession) => {
      const { stream, subscribe } = await session.subscription();
      expect(subscribe).toMatchObject({ flags: 4, from: undefined, pattern: "room.*" });
      stream.send(frames.writeSubscribed({ topic: 0, epoch: 0, offset: 0, time: 5 }));
      return stream;
    };
    const stream = await serve(c.session);
    stream.send(
      announce(1, "room.a", 2),
      keyed(1, "id1", "x"),
      keyed(2, "id2", "x"),
      keyed(3, "id1", "y"),
      keyed(4, "id2"),
      announce(2, "room.b", 1),
      keyed(1, "id3", "x", { topic: 2 }),
      announce(3, "room.c", 1),
      message({ topic: 3, offset: 1, encoding: 1, data: encodeMsgpack(12) }),
      announce(4, "room.d", 2),
      message({ topic: 4, offset: 1, encoding: 1, data: encodeMsgpack(1) }),
      message({ topic: 4, offset: 2, encoding: 0, data: text("") }),
    );
    const got = [];
    while (got.length < 8) got.push(await next());
    expect(got).toEqual([
      "joined room.a id1 x",
      "joined room.a id2 x",
      "updated room.a id1 y",
      "left room.a id2 x",
      "joined room.b id3 x",
      "room.c 12",
      "room.d 1",
      "room.d 0",
    ]);
    expect(watch.members("room.a").map((m) => m.client)).toEqual(["id1"]);

    const session = await again(c);
    const second = await serve(session);
    second.send(
      announce(1, "room.a", 6),
      keyed(3, "id1", "y", { previous: 3 }),
      keyed(6, "id4", "x", { previous: 3 }),
    );
    const pending = next();
    const { number, pattern } = frames.parseCount(await session.control.want(Type.COUNT));
    expect(pattern).toBe("room.*");
    session.control.send(frames.writeCounts({ number, topics: new Map([["room.a", 2]]), more: false }));
    expect(await pending).toBe("left room.b id3 x");
    expect(await next()).toBe("room.c 0");
    expect(await next()).toBe("joined room.a id4 x"); // and nothing of id1
    await events.return(undefined);
    await second.fin;
  });

  test("is counted", async () => {
    const { client, session } = await connected();
    const counts = client.presenceCount("room.>");
    const { number } = frames.parseCount(await session.control.want(Type.COUNT));
    session.control.send(frames.writeCounts({ number, topics: new Map([["room.a", 3]]), more: true }));
    expect([[...(await counts)], (await counts).more]).toEqual([[["room.a", 3]], true]);
    await expect(client.presenceCount("a..b")).rejects.toThrow(coded("invalid_pattern"));
  });
});

describe("history", () => {
  /** Takes the next stream, which must fetch. */
  async function fetched(session: MockSession): Promise<{ stream: MockStream; fetch: frames.ParsedFetch }> {
    const stream = await session.streams.next();
    return { stream, fetch: frames.parseFetch(await stream.want(Type.FETCH)) };
  }

  function end(stream: MockStream, offset?: number): void {
    const at = offset === undefined ? {} : { epoch: EPOCH, offset };
    stream.send(frames.writeEnd({ error: { code: 0, reason: "", retry: undefined }, ...at }));
    stream.close();
  }

  test("gives a page, with gaps, and from where the next one goes on", async () => {
    const { client, session } = await connected();
    const page = client.history<string>("a", { from: { last: 10 }, limit: 3 });
    const { stream, fetch } = await fetched(session);
    expect(fetch).toEqual({ topic: "a", from: [1, 10], backward: false, limit: 3 });
    stream.send(
      frames.writePage({ topic: 1, epoch: EPOCH, first: 5, last: 20 }),
      message({ offset: 5 }),
      frames.writeGap({ topic: 1, epoch: EPOCH, from: 5, to: 7, reason: 4, count: 2 }),
      message({ offset: 8 }),
    );
    end(stream, 8);
    const { messages, first, last, next, more } = await page;
    const short = messages.map((m) => (m.kind === "gap" ? m.reason : [m.offset, m.value, m.replayed]));
    expect(short).toEqual([[5, "5", true], "expired", [8, "8", true]]);
    const at = (offset: number) => ({ epoch: EPOCH, offset });
    expect({ first, last, next, more }).toEqual({ first: at(5), last: at(20), next: at(8), more: true });
    await stream.fin;
  });

  test("backward, from a position", async () => {
    const { client, session } = await connected();
    const page = client.history("a", { backward: true, from: { position: { epoch: 1, offset: 9 } } });
    const { stream, fetch } = await fetched(session);
    expect(fetch).toEqual({ topic: "a", from: [0, 1, 9], backward: true, limit: 100 });
    stream.send(frames.writePage({ topic: 1, epoch: EPOCH, first: 0, last: 0 }));
    end(stream);
    expect(await page).toMatchObject({ messages: [], first: undefined, more: false, next: undefined });
  });

  test("rejects with the refusal, with faults, and with the connection", async () => {
    const { client, session } = await connected();
    const refused = client.history("a");
    (await fetched(session)).stream.end(113);
    await expect(refused).rejects.toThrow(coded("not_offered", { remote: true }));
    const wrong = client.history("a");
    (await fetched(session)).stream.send(message({ offset: 1 }));
    await expect(wrong).rejects.toThrow(coded("unexpected_frame"));
    const lost = client.history("a");
    await fetched(session);
    session.lose();
    await expect(lost).rejects.toThrow(coded("connection_lost"));
  });

  test("a signal ends it", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const page = client.history("a", { signal: controller.signal });
    const { stream } = await fetched(session);
    controller.abort();
    await expect(page).rejects.toThrow(coded("aborted"));
    await stream.fin;
  });

  test("a signal ends the wait for a stream, and for a turn, which goes to another", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const { signal } = controller;
    const open = session.createBidirectionalStream.bind(session);
    const opened = deferred<void>();
    session.createBidirectionalStream = () => opened.promise.then(open);
    const all = Array.from({ length: 8 }, (_, i) => client.history("a", i === 0 ? { signal } : {}));
    const late = client.history("late", { signal });
    const next = client.history("next");
    await turn();
    controller.abort();
    await expect(all[0]).rejects.toThrow(coded("aborted"));
    await expect(late).rejects.toThrow(coded("aborted"));
    await expect(client.history("a", { signal })).rejects.toThrow(coded("aborted"));
    opened.resolve();
    const first = await fetched(session);
    await first.stream.fin;
    first.stream.end(0);
    for (let i = 1; i < 8; i++) (await fetched(session)).stream.end(113);
    const { stream, fetch } = await fetched(session);
    expect(fetch.topic).toBe("next");
    stream.end(113);
    await expect(next).rejects.toThrow(coded("not_offered"));
    await Promise.allSettled(all);
  });

  test("no more than eight pages are fetched at a time", async () => {
    const { client, session } = await connected();
    const pages = Array.from({ length: 9 }, () => client.history("a"));
    const streams = [];
    for (let i = 0; i < 8; i++) streams.push((await fetched(session)).stream);
    await turn();
    expect(session.streams.size).toBe(0);
    for (const stream of streams) stream.end(113);
    (await fetched(session)).stream.end(113);
    for (const p of await Promise.allSettled(pages)) expect(p.status).toBe("rejected");
  });

  test.each([
    [{ limit: 0 }],
    [{ limit: 1001 }],
    [{ backward: true, from: "beginning" as const }],
    [{ from: { positions: {}, since: new Date(0) } as never }],
  ])("with %j is refused at once", async (options) => {
    const { client, session } = await connected();
    await expect(client.history("a", options)).rejects.toThrow(coded("invalid_option"));
    expect(session.streams.size).toBe(0);
  });
});

test("a typed topic has the same methods", async () => {
  const { client, session } = await connected();
  const topic = client.topic<{ n: number }>("t");
  expect(topic.name).toBe("t");
  topic.publishLossy({ n: 1 });
  expect(frames.parsePublish(await session.datagramsUp.next()).topic).toBe("t");
  const done = topic.publish({ n: 2 }, { key: "k" });
  const p = frames.parsePublish(await session.control.want(Type.PUBLISH));
  session.control.send(frames.writeAck({ sequence: p.sequence, epoch: 1, offsets: [1], limit: undefined }));
  expect([p.topic, p.key, await done]).toEqual(["t", "k", { epoch: 1, offset: 1 }]);
  const subscription = topic.subscribe({ class: "latest" });
  expect((await session.subscription()).subscribe).toMatchObject({ pattern: "t", class: 1 });
  subscription.close();
  const history = topic.history({ limit: 2 }).catch(() => {});
  (await session.streams.next()).end(113);
  await history;
  const request = topic.request<string>({ n: 3 }).catch((e: unknown) => e);
  const r = frames.parseRequest(await session.control.want(Type.REQUEST));
  expect(r.topic).toBe("t");
  session.control.send(frames.writeDone({ number: r.number, error: { code: 404, reason: "", retry: undefined } }));
  expect(await request).toEqual(coded("no_responders"));
  topic.map().close();
  const batch = topic.publishBatch([{ value: { n: 4 } }, { value: { n: 5 } }]);
  void batch.catch(() => {});
  expect(() => client.topic("a b")).toThrow(coded("invalid_pattern"));
  expect(() => client.topic("$sys.x")).toThrow(coded("system_topic"));
});

test("a typed topic may be a pattern, which is only subscribed to", async () => {
  const { client, session } = await connected();
  const readings = client.topic<number>("readings.*");
  const invalid = coded("invalid_topic");
  expect(() => readings.publishLossy(1)).toThrow(invalid);
  await expect(readings.publish(1)).rejects.toThrow(invalid);
  await expect(readings.publishBatch([{ value: 1 }])).rejects.toThrow(invalid);
  await expect(readings.request(1)).rejects.toThrow(invalid);
  await expect(readings.history()).rejects.toThrow(invalid);
  expect(() => readings.map()).toThrow(invalid);
  readings.subscribe();
  expect((await session.subscription()).subscribe.pattern).toBe("readings.*");
});
