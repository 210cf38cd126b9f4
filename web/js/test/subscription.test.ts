import { afterEach, describe, expect, test, vi } from "vitest";
import type { Item, Message } from "../src/message.js";
import type { Subscription } from "../src/subscription.js";
import { encodeMsgpack } from "../src/msgpack.js";
import * as Type from "../src/frame-types.js";
import * as frames from "./broker-frames.js";
import { connected } from "./connected.js";
import { BASE, CLIENT, CLIENT_ID, type MockSession, type MockStream, message, welcome } from "./mock.js";
import { turn, until } from "./until.js";

afterEach(() => {
  vi.useRealTimers();
});

const coded = (codeName: string, more = {}) => expect.objectContaining({ codeName, ...more });

const EPOCH = 7;

/** Answers SUBSCRIBE to an exact pattern as topic 1. */
function subscribed(stream: MockStream, offset = 0): void {
  stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset }));
}

/** Takes the next stream and answers it as topic 1. */
async function serve(session: MockSession, offset = 0): Promise<MockStream> {
  const { stream } = await session.subscription();
  subscribed(stream, offset);
  return stream;
}

/** Takes n items, each in short. */
async function take(subscription: Subscription, n: number): Promise<string[]> {
  const items: string[] = [];
  if (n === 0) return items;
  const iterator = subscription[Symbol.asyncIterator]();
  while (items.length < n) {
    const { done, value } = await iterator.next();
    if (done) return [...items, "done"];
    items.push(short(value));
  }
  return items;
}

function short(i: Item): string {
  if (i.kind === "message") return `${i.topic}${i.offset}`;
  return `[${i.topic ?? "*"} ${i.from?.offset ?? "?"}-${i.to?.offset ?? "?"} ${i.reason}]`;
}

describe("subscribe", () => {
  test("opens a stream with what was asked for", async () => {
    const { client, session } = await connected();
    client.subscribe("a.b");
    client.subscribe("c.>", { class: "sequenced", priority: 1, credit: 1000 });
    expect((await session.subscription()).subscribe).toEqual({
      number: 1,
      pattern: "a.b",
      class: 0,
      priority: 3,
      credit: 256 << 10,
      from: undefined,
      flags: 0,
      filter: [],
      group: "",
    });
    expect((await session.subscription()).subscribe).toMatchObject({
      number: 2,
      pattern: "c.>",
      class: 2,
      priority: 1,
      credit: 1000,
    });
  });

  test("gives the broker no more credit than it takes", async () => {
    const { client, session } = await connected();
    client.subscribe("a", { credit: 10 << 20 });
    expect((await session.subscription()).subscribe.credit).toBe(1 << 20);
  });

  test.each([
    ["a..b", {}, "invalid_pattern"],
    ["$JS.API.>", {}, "system_topic"],
    ["_INBOX.x", {}, "system_topic"],
    ["a", { priority: 8 }, "invalid_option"],
    ["a", { priority: 0 }, "invalid_option"],
    ["a", { prority: 1 } as object, "invalid_option"],
    ["a", { filter: { kind: { atLeast: 1, atmost: 2 } as object } }, "invalid_option"],
    ["a", { priority: 1.5 }, "invalid_option"],
    ["a", { credit: 0 }, "invalid_option"],
    ["a", { credit: NaN }, "invalid_option"],
    ["a", { class: "best" as never }, "unsupported_class"],
    ["a", { group: "" }, "invalid_option"],
    ["a", { group: "x".repeat(65) }, "invalid_option"],
    ["a", { group: "g", from: "beginning" as const }, "invalid_option"],
    ["a", { from: { last: 0 } }, "invalid_option"],
    ["a", { from: { last: 10_001 } }, "invalid_option"],
    ["a.*", { from: { position: { epoch: 1, offset: 1 } } }, "invalid_option"],
    ["a", { from: { position: { epoch: 2 ** 48, offset: 1 } } }, "invalid_option"],
    ["a", { from: { positions: {}, since: new Date() } }, "invalid_option"],
    ["a", { from: { since: new Date(NaN) } }, "invalid_option"],
    ["a", { from: {} as never }, "invalid_option"],
    ["a", { from: "begin" as never }, "invalid_option"],
    ["a.*", { from: { positions: { "a b": { epoch: 1, offset: 1 } }, since: new Date(0) } }, "invalid_topic"],
    ["a", { filter: { "no name": "x" } }, "invalid_option"],
    ["a", { filter: { x: [] } }, "invalid_option"],
    ["a", { filter: { x: { atLeast: NaN } } }, "invalid_option"],
    ["a", { filter: { x: "v".repeat(513) } }, "invalid_option"],
    ["a", { filter: { x: { above: 3 } as never } }, "invalid_option"],
    ["a", { filter: { x: 3 as never } }, "invalid_option"],
    ["a", { filter: { x: [3 as never] } }, "invalid_option"],
  ])("%s with %j is refused at once: %s", async (pattern, options, codeName) => {
    const { client, session } = await connected();
    expect(() => client.subscribe(pattern, options)).toThrow(coded(codeName, { remote: false }));
    expect(session.streams.size).toBe(0);
  });

  test("yields messages with all that is known of them", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe<{ n: number }>("a");
    expect(subscription.pattern).toBe("a");
    const stream = await serve(session, 41);
    await subscription.ready;
    const data = encodeMsgpack({ n: 1 });
    stream.send(message({ offset: 42, time: 1500, encoding: 1, data, publisher: CLIENT }));
    for await (const m of subscription) {
      if (m.kind === "gap") throw new Error("a gap");
      expect(m.topic).toBe("a");
      expect([m.epoch, m.offset]).toEqual([EPOCH, 42]);
      expect(m.time).toEqual(new Date(BASE + 1500));
      expect(m.publisher).toBe(CLIENT_ID);
      expect(m.lossy).toBe(false);
      expect(m.encoding).toBe("msgpack");
      expect(m.data).toEqual(data);
      expect(m.value.n).toBe(1);
      expect(m.value).toBe(m.value);
      break;
    }
  });

  test.each([
    [0, new Uint8Array([1]), "bytes", new Uint8Array([1])],
    [2, new TextEncoder().encode('{"a":1}'), "json", { a: 1 }],
    [3, new TextEncoder().encode("é"), "text", "é"],
    [9, new Uint8Array([2]), "encoding_9", new Uint8Array([2])],
  ])("decodes encoding %i", async (encoding, data, name, value) => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    (await serve(session)).send(message({ offset: 1, encoding, data }));
    const { value: m } = await subscription[Symbol.asyncIterator]().next();
    expect((m as Message).encoding).toBe(name);
    expect((m as Message).value).toEqual(value);
    expect((m as Message).publisher).toBeUndefined();
  });

  test("a payload that is not what it says spoils nothing else", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.send(message({ offset: 1, encoding: 1, data: new Uint8Array([0xc1]) }));
    stream.send(message({ offset: 2 }));
    const iterator = subscription[Symbol.asyncIterator]();
    const bad = (await iterator.next()).value as Message;
    expect(() => bad.value).toThrow(SyntaxError);
    expect(bad.data).toEqual(new Uint8Array([0xc1]));
    expect(((await iterator.next()).value as Message).value).toBe("2");
  });

  test("the topics of a pattern have their names and sequences", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("chat.*");
    const { stream } = await session.subscription();
    stream.send(
      frames.writeSubscribed({ topic: 0, epoch: 0, offset: 0 }),
      frames.writeTopic({ topic: 5, name: "chat.a", epoch: 1, offset: 10 }),
      message({ topic: 5, offset: 11 }),
      frames.writeTopic({ topic: 6, name: "chat.b", epoch: 2, offset: 0 }),
      message({ topic: 6, offset: 1 }),
      message({ topic: 5, offset: 14 }),
    );
    expect(await take(subscription, 4)).toEqual([
      "chat.a11",
      "chat.b1",
      "[chat.a 11-13 lost]",
      "chat.a14",
    ]);
  });

  test("gaps are items, and the iteration goes on", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    const gap = { topic: 1, epoch: EPOCH, from: 1, to: 9, reason: 1, count: 8 };
    stream.send(message({ offset: 1 }), frames.writeGap(gap), message({ offset: 10 }));
    const iterator = subscription[Symbol.asyncIterator]();
    await iterator.next();
    expect((await iterator.next()).value).toEqual({
      kind: "gap",
      topic: "a",
      from: { epoch: EPOCH, offset: 1 },
      to: { epoch: EPOCH, offset: 9 },
      reason: "overflow",
      count: 8,
    });
    expect(((await iterator.next()).value as Message).offset).toBe(10);
  });

  test("what was withheld is no gap", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.send(frames.writeSkip({ topic: 1, to: 4 }), message({ offset: 5 }));
    expect(await take(subscription, 1)).toEqual(["a5"]);
  });

  test("one that is not read delays no other", async () => {
    const { client, session } = await connected();
    client.subscribe("a", { credit: 100 });
    const other = client.subscribe("b");
    const stalled = await serve(session);
    const live = await serve(session);
    for (let offset = 1; offset <= 8; offset++) stalled.send(message({ offset }));
    for (let offset = 1; offset <= 100; offset++) live.send(message({ offset }));
    expect(await take(other, 100)).toHaveLength(100);
  });
});

describe("the end of a subscription", () => {
  test("leaving the loop unsubscribes by FIN, and what still comes is read", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.send(message({ offset: 1 }));
    for await (const item of subscription) {
      expect(short(item)).toBe("a1");
      break;
    }
    await stream.fin;
    expect(await subscription.closed).toBeUndefined();
    stream.send(message({ offset: 2 }));
    stream.end(0);
    subscription.close();
    expect(await take(subscription, 1)).toEqual(["done"]);
  });

  test("close discards what waits, and ends the iteration", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    const next = take(subscription, 1);
    stream.send(message({ offset: 1 }), message({ offset: 2 }));
    expect(await next).toEqual(["a1"]);
    subscription.close();
    expect(await take(subscription, 1)).toEqual(["done"]);
    await stream.fin;
  });

  test("close before the stream stands unsubscribes all the same", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    subscription.close();
    await expect(subscription.ready).rejects.toThrow(coded("closed"));
    const { stream } = await session.subscription();
    await stream.fin;
  });

  test("the broker's refusal is thrown out of the iteration", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("secret");
    const { stream } = await session.subscription();
    stream.end(203, "not for you");
    const iterator = subscription[Symbol.asyncIterator]();
    const error = coded("subscribe_denied", { remote: true, reason: "not for you" });
    await expect(iterator.next()).rejects.toThrow(error);
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
    await expect(subscription.ready).rejects.toThrow(error);
    expect(await subscription.closed).toEqual(error);
    await stream.fin;
  });

  test("what came before an end comes first", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.send(message({ offset: 1 }), message({ offset: 2 }));
    stream.end(206, "revoked");
    expect(await take(subscription, 2)).toEqual(["a1", "a2"]);
    await expect(take(subscription, 1)).rejects.toThrow(coded("permission_revoked"));
  });

  test("what comes behind an end is ignored", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    const error = { code: 206, reason: "", retry: undefined };
    stream.send(frames.writeEnd({ error }), message({ offset: 1 }));
    stream.end(0);
    await expect(take(subscription, 1)).rejects.toThrow(coded("permission_revoked"));
  });

  test("a clean end ends the iteration", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.send(message({ offset: 1 }));
    stream.end(0);
    expect(await take(subscription, 2)).toEqual(["a1", "done"]);
    expect(await subscription.closed).toBeUndefined();
  });

  test("a signal throws out of the iteration, and unsubscribes", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const subscription = client.subscribe("a", { signal: controller.signal });
    const stream = await serve(session);
    const next = take(subscription, 1);
    controller.abort();
    await expect(next).rejects.toThrow(coded("aborted"));
    await stream.fin;
  });

  test("a signal that was aborted before lets nothing begin", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { signal: AbortSignal.abort() });
    await expect(take(subscription, 1)).rejects.toThrow(coded("aborted"));
    expect(session.streams.size).toBe(0);
  });

  test("STREAM_END tells of a stream that was reset", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    await subscription.ready;
    stream.break();
    const error = { code: 206, reason: "revoked", retry: undefined };
    session.control.send(frames.writeStreamEnd({ subscription: 1, error }));
    await expect(take(subscription, 1)).rejects.toThrow(coded("permission_revoked"));
  });

  test("one for a while only: it goes on behind what has come", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.send(message({ offset: 1 }));
    expect(await take(subscription, 1)).toEqual(["a1"]);
    expect(subscription.state).toBe("subscribed");
    const error = { code: 305, reason: "not read", retry: 1 };
    stream.break();
    session.control.send(frames.writeStreamEnd({ subscription: 1, error }));
    await until(() => expect(subscription.state).toBe("subscribing"));
    const { stream: second, subscribe } = await session.subscription();
    expect(subscribe).toMatchObject({ number: 2, from: [0, EPOCH, 1] });
    subscribed(second, 1);
    second.end(402, "", 1);
    const third = await session.subscription();
    expect(third.subscribe).toMatchObject({ number: 3, from: [0, EPOCH, 1] });
    third.stream.send(
      frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset: 1, last: 2 }),
      message({ offset: 2 }),
      message({ offset: 3 }),
    );
    const iterator = subscription[Symbol.asyncIterator]();
    const items = [(await iterator.next()).value, (await iterator.next()).value] as Message[];
    expect(items.map((m) => [m.offset, m.replayed])).toEqual([[2, true], [3, false]]);
  });

  test.each([
    [300, "too_many_subscriptions"],
    [402, "bus_unavailable"],
    [403, "overloaded"],
  ])("a refusal to begin for a while (%i) is one, which tells when to try again", async (code, name) => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    (await session.subscription()).stream.end(code, "later", 1);
    await expect(subscription.ready).rejects.toThrow(coded(name, { retry: 1, reason: "later" }));
    expect(await subscription.closed).toMatchObject({ codeName: name });
    expect(subscription.state).toBe("unsubscribed");
  });

  test.each([302, 306])("a refusal of the stream alone (%i) is none", async (code) => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    (await session.subscription()).stream.end(code);
    await serve(session);
    await subscription.ready;
  });

  test("close ends the wait for another beginning", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    await subscription.ready;
    stream.end(402, "", 1);
    await until(() => expect(subscription.state).toBe("subscribing"));
    subscription.close();
    const other = client.subscribe("b");
    expect((await session.subscription()).subscribe.pattern).toBe("b");
    other.close();
  });

  test("STREAM_END for what has ended is ignored", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    stream.end(0);
    await subscription.closed;
    const error = { code: 305, reason: "", retry: undefined };
    session.control.send(frames.writeStreamEnd({ subscription: 1, error }));
    session.control.send(frames.writeStreamEnd({ subscription: 9, error }));
    const other = client.subscribe("b");
    await serve(session);
    await other.ready;
  });

  test("a stream that breaks without a word is replaced, but not at once", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session, 4);
    await subscription.ready;
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    stream.break();
    await turn();
    await vi.advanceTimersByTimeAsync(4999);
    expect(subscription.state).toBe("subscribed");
    await vi.advanceTimersByTimeAsync(1);
    await until(() => expect(subscription.state).toBe("subscribing"));
    await vi.advanceTimersByTimeAsync(1);
    expect((await session.subscription()).subscribe.from).toEqual([0, EPOCH, 4]);
    expect(client.state).toBe("connected");
  });

  test.each([
    ["a FIN without END", (s: MockStream) => s.close(), "protocol_violation"],
    ["a cut frame", (s: MockStream) => (s.raw(message({ offset: 1 }).slice(0, 5)), s.close()), "malformed_frame"],
    ["a frame that is too large", (s: MockStream) => s.raw(new Uint8Array([0x80, 5, 0, 0])), "frame_too_large"],
    ["a frame of the control stream", (s: MockStream) => s.send(frames.writeWelcome(welcomeLike())), "unexpected_frame"],
    ["a frame that is not known", (s: MockStream) => s.raw(new Uint8Array([2, 0x91, 99])), "unknown_frame"],
    ["a topic that was not announced", (s: MockStream) => s.send(message({ topic: 3, offset: 1 })), "protocol_violation"],
    ["a bad topic", (s: MockStream) => s.send(frames.writeTopic({ topic: 3, name: "a b", epoch: 1, offset: 0 })), "invalid_topic"],
  ])("%s ends it with its code, and nothing else", async (_, fault, codeName) => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    await subscription.ready;
    fault(stream);
    await expect(take(subscription, 1)).rejects.toThrow(coded(codeName, { remote: false }));
    await stream.fin;
    expect(client.state).toBe("connected");
    const other = client.subscribe("b");
    (await serve(session)).send(message({ offset: 1 }));
    expect(await take(other, 1)).toEqual(["b1"]);
  });

  test("frames before SUBSCRIBED end it", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const { stream } = await session.subscription();
    stream.send(message({ offset: 1 }));
    await expect(take(subscription, 1)).rejects.toThrow(coded("unexpected_frame"));
    await stream.cancelled;
  });
});

function welcomeLike() {
  return {
    version: 1,
    capabilities: 0,
    client: CLIENT,
    secret: new Uint8Array(0),
    limits: { payload: 1, subscriptions: 1, publications: 1, publicationCredit: 1, subscriptionCredit: 1 },
    base: 0,
    expires: undefined,
    server: "",
  };
}

describe("credit", () => {
  const size = message({ offset: 1 }).length;

  test("is given again as the application takes messages, by halves", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { credit: 10 * size });
    const stream = await serve(session);
    for (let offset = 1; offset <= 9; offset++) stream.send(message({ offset }));
    await take(subscription, 4);
    expect(session.control.frames.size).toBe(0);
    await take(subscription, 1);
    const flow = frames.parseFlow(await session.control.want(Type.FLOW));
    expect(flow).toEqual({ subscription: 1, limit: 15 * size, offset: undefined });
    await take(subscription, 4);
    expect(session.control.frames.size).toBe(0);
  });

  test("a broker may go beyond it by less than a message, and no further", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { credit: 2 * size - 1 });
    const stream = await serve(session);
    stream.send(message({ offset: 1 }), message({ offset: 2 }));
    expect(await take(subscription, 0)).toEqual([]);
    await subscription.ready;
    stream.send(message({ offset: 3 }));
    await stream.fin;
    expect(await take(subscription, 2)).toEqual(["a1", "a2"]);
    await expect(take(subscription, 1)).rejects.toThrow(coded("credit_exceeded", { remote: false }));
    await stream.cancelled;
  });

  test("frames that are no messages need none", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { credit: 1 });
    const stream = await serve(session);
    for (let to = 1; to <= 100; to++) stream.send(frames.writeSkip({ topic: 1, to }));
    stream.send(message({ offset: 101 }));
    expect(await take(subscription, 1)).toEqual(["a101"]);
  });

  test("a lossy message by stream that comes too late gives its credit back", async () => {
    const { client, session } = await connected();
    client.subscribe("a", { credit: 10 * size });
    const stream = await serve(session, 100);
    for (let offset = 1; offset <= 6; offset++) stream.send(message({ offset, reliable: 0 }));
    await session.control.want(Type.FLOW);
    expect(client.drops.late).toBeGreaterThan(0);
  });
});

describe("datagrams", () => {
  test("come merged with the stream, to every subscription that knows the topic", async () => {
    const { client, session } = await connected();
    const exact = client.subscribe("a");
    const pattern = client.subscribe("*");
    const other = client.subscribe("b");
    const first = await serve(session);
    const { stream: second } = await session.subscription();
    second.send(frames.writeSubscribed({ topic: 0, epoch: 0, offset: 0 }));
    second.send(frames.writeTopic({ topic: 1, name: "a", epoch: EPOCH, offset: 0 }));
    const third = (await session.subscription()).stream;
    third.send(frames.writeSubscribed({ topic: 2, epoch: EPOCH, offset: 0 }));
    first.send(message({ offset: 1 }));
    second.send(message({ offset: 1 }));
    await Promise.all([exact.ready, pattern.ready, other.ready]);
    await until(() => expect(second.writes).toBe(1));
    session.datagram(message({ offset: 2, reliable: 1 }));
    expect(await take(exact, 2)).toEqual(["a1", "a2"]);
    expect(await take(pattern, 2)).toEqual(["a1", "a2"]);
    third.send(message({ topic: 2, offset: 1 }));
    expect(await take(other, 1)).toEqual(["b1"]);
  });

  test("one whose topic is not known yet waits a little", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { class: "sequenced" });
    session.datagram(message({ offset: 1 }));
    await turn();
    await serve(session);
    expect(await take(subscription, 1)).toEqual(["a1"]);
    expect(client.drops.unknown_topic).toBe(0);
  });

  test("those that wait are bounded in number and time", async () => {
    const { client, session } = await connected();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    for (let offset = 1; offset <= 70; offset++) session.datagram(message({ offset }));
    await until(() => expect(client.drops.unknown_topic).toBe(6));
    await vi.advanceTimersByTimeAsync(999);
    expect(client.drops.unknown_topic).toBe(6);
    await vi.advanceTimersByTimeAsync(1);
    expect(client.drops.unknown_topic).toBe(70);
  });

  test("those that wait are bounded in bytes", async () => {
    const { client, session } = await connected();
    const data = new Uint8Array(30 << 10);
    for (let offset = 1; offset <= 3; offset++) session.datagram(message({ offset, data }));
    await until(() => expect(client.drops.unknown_topic).toBe(1));
  });

  test("what is no message is dropped, and is no error", async () => {
    const { client, session } = await connected();
    const m = message({ offset: 1 });
    session.datagram(new Uint8Array(0));
    session.datagram(new Uint8Array([...m, 0]));
    session.datagram(m.slice(0, -1));
    session.datagram(frames.writeSkip({ topic: 1, to: 1 }));
    await until(() => expect(client.drops.bad_datagram).toBe(4));
    expect(client.state).toBe("connected");
  });

  test("of a topic that nobody wants any more are dropped", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a", { class: "sequenced" });
    const stream = await serve(session);
    await subscription.ready;
    subscription.close();
    await stream.fin;
    stream.end(0);
    await turn();
    await turn();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    session.datagram(message({ offset: 1 }));
    await turn();
    await vi.advanceTimersByTimeAsync(1000);
    expect(client.drops.unknown_topic).toBe(1);
  });
});

describe("a reconnect", () => {
  test("subscribes again before WELCOME, and yields a gap", async () => {
    const { broker, client, session } = await connected();
    const subscription = client.subscribe("a");
    (await serve(session)).send(message({ offset: 1 }), message({ offset: 2 }));
    expect(await take(subscription, 2)).toEqual(["a1", "a2"]);
    session.lose();
    const next = await broker.session();
    await next.hello();
    const { stream, subscribe } = await next.subscription();
    expect(subscribe).toMatchObject({ number: 1, pattern: "a", credit: 256 << 10 });
    next.welcome({ base: BASE + 5000 });
    subscribed(stream, 9);
    stream.send(message({ offset: 10, time: 1 }));
    const iterator = subscription[Symbol.asyncIterator]();
    expect((await iterator.next()).value).toEqual({
      kind: "gap",
      topic: "a",
      from: { epoch: EPOCH, offset: 2 },
      to: { epoch: EPOCH, offset: 9 },
      reason: "reconnect",
      count: 7,
    });
    expect(((await iterator.next()).value as Message).time).toEqual(new Date(BASE + 5001));
  });

  test("where nothing was missed there is no gap", async () => {
    const { broker, client, session } = await connected();
    const subscription = client.subscribe("a");
    (await serve(session)).send(message({ offset: 1 }));
    await take(subscription, 1);
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome();
    (await serve(next, 1)).send(message({ offset: 2 }));
    const { value } = await subscription[Symbol.asyncIterator]().next();
    expect(value).toMatchObject({ kind: "message", offset: 2 });
  });

  test("a pattern has a gap of all its topics", async () => {
    const { broker, client, session } = await connected();
    const subscription = client.subscribe("a.*");
    const { stream } = await session.subscription();
    stream.send(frames.writeSubscribed({ topic: 0, epoch: 0, offset: 0 }));
    await subscription.ready;
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome();
    (await next.subscription()).stream.send(frames.writeSubscribed({ topic: 0, epoch: 0, offset: 0 }));
    const { value } = await subscription[Symbol.asyncIterator]().next();
    expect(value).toEqual({
      kind: "gap",
      topic: undefined,
      from: undefined,
      to: undefined,
      reason: "reconnect",
      count: undefined,
    });
  });

  test("what waits is still there, in front of the gap, and counts against the credit", async () => {
    const { broker, client, session } = await connected();
    const size = message({ offset: 1 }).length;
    const subscription = client.subscribe("a", { credit: 10 * size });
    const stream = await serve(session);
    stream.send(message({ offset: 1 }), message({ offset: 2 }), message({ offset: 3 }));
    await until(() => expect(subscription.queue.pending).toBe(3 * size));
    session.lose();
    const next = await broker.session();
    await next.hello();
    const { stream: second, subscribe } = await next.subscription();
    expect(subscribe.credit).toBe(7 * size);
    next.welcome();
    subscribed(second, 5);
    second.send(message({ offset: 6 }));
    expect(await take(subscription, 5)).toEqual(["a1", "a2", "a3", "[a 3-5 reconnect]", "a6"]);
  });

  test("before WELCOME a subscription has no more credit than the broker then tells to take", async () => {
    const size = message({ offset: 1 }).length;
    const limits = { ...welcome.limits, subscriptionCredit: 4 * size };
    const { broker, client, session } = await connected({}, {}, { limits });
    const subscription = client.subscribe("a", { credit: 100 * size });
    await serve(session);
    await subscription.ready;
    session.lose();
    const next = await broker.session();
    await next.hello();
    const { stream, subscribe } = await next.subscription();
    expect(subscribe.credit).toBe(100 * size); // nobody has told yet
    next.welcome({ limits });
    subscribed(stream);
    for (let offset = 1; offset <= 4; offset++) stream.send(message({ offset }));
    await take(subscription, 2);
    const flow = frames.parseFlow(await next.control.want(Type.FLOW));
    expect(flow).toEqual({ subscription: 1, limit: 6 * size, offset: undefined });
  });

  test("goes on where the lost transport never said what became of a stream", async () => {
    const { broker, client, session } = await connected();
    session.createBidirectionalStream = () => new Promise(() => {});
    const subscription = client.subscribe("a");
    await turn();
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome();
    await serve(next);
    await subscription.ready;
  });

  test("no more than 32 streams go without an answer", async () => {
    const { broker, client, session } = await connected();
    for (let i = 0; i < 40; i++) {
      client.subscribe(`a.${i}`);
      await serve(session);
    }
    session.lose();
    const next = await broker.session();
    await next.hello();
    const first: MockStream[] = [];
    for (let i = 0; i < 31; i++) first.push((await next.subscription()).stream);
    next.welcome();
    await until(() => expect(client.state).toBe("connected"));
    await turn();
    expect(next.streams.size).toBe(0);
    for (const [i, stream] of first.slice(0, 9).entries()) {
      if (i % 2 === 0) subscribed(stream);
      else stream.end(203);
      expect((await next.subscription()).subscribe.pattern).toBe(`a.${31 + i}`);
    }
  });

  test("one that is made meanwhile begins with the next connection", async () => {
    const { broker, client, session } = await connected();
    // At once, while it waits for the next attempt: what is made later goes after WELCOME.
    const gone = new Promise<void>((resolve) => client.on("state", () => resolve()));
    session.lose();
    await gone;
    const subscription = client.subscribe("a");
    const next = await broker.session();
    await next.hello();
    const { stream } = await next.subscription();
    next.welcome();
    subscribed(stream);
    stream.send(message({ offset: 1 }));
    expect(await take(subscription, 1)).toEqual(["a1"]);
  });

  test("one that was refused or closed does not come back", async () => {
    const { broker, client, session } = await connected();
    const refused = client.subscribe("a");
    (await session.subscription()).stream.end(203);
    await refused.closed;
    const closed = client.subscribe("b");
    await serve(session);
    closed.close();
    const stays = client.subscribe("c");
    await serve(session);
    session.lose();
    const next = await broker.session();
    await next.hello();
    expect((await next.subscription()).subscribe.pattern).toBe("c");
    next.welcome();
    await until(() => expect(client.state).toBe("connected"));
    expect(next.streams.size).toBe(0);
    stays.close();
  });

  test("a broker that stops ends the streams first, and no subscription", async () => {
    const { broker, client, session } = await connected();
    const subscription = client.subscribe("a");
    const stream = await serve(session);
    await subscription.ready;
    stream.end(400, "stopping", 0);
    await stream.fin;
    session.refuse(400, "stopping", 0);
    const next = await broker.session();
    await next.hello();
    next.welcome();
    (await serve(next, 3)).send(message({ offset: 4 }));
    expect(await take(subscription, 2)).toEqual(["[a 0-3 reconnect]", "a4"]);
  });
});
