import { afterEach, describe, expect, test, vi } from "vitest";
import * as Type from "../src/frame-types.js";
import * as frames from "./broker-frames.js";
import { connected } from "./connected.js";
import { CLIENT, type MockSession, type MockStream, welcome } from "./mock.js";
import { turn, until } from "./until.js";

afterEach(() => {
  vi.useRealTimers();
});

const coded = (codeName: string, more = {}) => expect.objectContaining({ codeName, ...more });

const EPOCH = 7;

async function publish(stream: MockStream): Promise<frames.ParsedPublish> {
  return frames.parsePublish(await stream.want(Type.PUBLISH));
}

/** Acknowledges with these offsets. */
function ack(stream: MockStream, sequence: number, offsets: number[], limit?: number): void {
  stream.send(frames.writeAck({ sequence, epoch: EPOCH, offsets, limit }));
}

function nack(stream: MockStream, sequence: number, code: number, limit?: number): void {
  stream.send(frames.writeNack({ sequence, error: { code, reason: "", retry: undefined }, limit }));
}

/** Makes the client open a publication, and takes it. */
async function publication(
  session: MockSession,
  large: () => Promise<unknown>,
): Promise<MockStream> {
  const done = large();
  const { stream } = await session.publication();
  const { sequence } = await publish(stream);
  ack(stream, sequence, [1]);
  await done;
  return stream;
}

const large = new Uint8Array(17 << 10);

describe("a single publish", () => {
  test("goes on the control stream, and resolves with its position", async () => {
    const { client, session } = await connected();
    const done = client.publish("a.b", "hi");
    const p = await publish(session.control);
    expect(p).toEqual({
      sequence: 1,
      topic: "a.b",
      mode: 0,
      encoding: 3,
      data: new TextEncoder().encode("hi"),
      key: "",
      ttl: undefined,
      headers: [],
      retain: false,
      id: "",
      order: 1,
    });
    ack(session.control, p.sequence, [42]);
    expect(await done).toEqual({ epoch: EPOCH, offset: 42 });
    expect(session.streams.size).toBe(0);
  });

  test("rejects with the broker's refusal", async () => {
    const { client, session } = await connected();
    const done = client.publish("a", 1);
    nack(session.control, (await publish(session.control)).sequence, 202);
    await expect(done).rejects.toThrow(coded("publish_denied", { remote: true }));
  });

  test("each topic has its own, at the same time", async () => {
    const { client, session } = await connected();
    const done = ["a", "b", "c"].map((topic) => client.publish(topic, 1));
    for (const topic of ["a", "b", "c"]) {
      const p = await publish(session.control);
      expect(p.topic).toBe(topic);
      ack(session.control, p.sequence, [p.sequence]);
    }
    expect((await Promise.all(done)).map((p) => p.offset)).toEqual([1, 2, 3]);
    expect(session.control.writes).toBe(2); // HELLO, and all three together
  });

  test("one that comes long after another one is single again", async () => {
    const { client, session } = await connected();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    for (const offset of [1, 2]) {
      const done = client.publish("a", 1);
      ack(session.control, (await publish(session.control)).sequence, [offset]);
      expect(await done).toEqual({ epoch: EPOCH, offset });
      await vi.advanceTimersByTimeAsync(10_000);
    }
    expect(session.streams.size).toBe(0);
  });

  test.each([
    ["a b", "x", "invalid_topic"],
    ["a.*", "x", "invalid_topic"],
    ["$SYS.a", "x", "system_topic"],
  ])("to %j is refused at once", async (topic, value, codeName) => {
    const { client, session } = await connected();
    await expect(client.publish(topic, value)).rejects.toThrow(coded(codeName, { remote: false }));
    expect(() => client.publishLossy(topic, value)).toThrow(coded(codeName));
    expect(session.control.frames.size).toBe(0);
  });

  test("of a value that has no encoding is a TypeError", async () => {
    const { client } = await connected();
    await expect(client.publish("a", () => 1)).rejects.toThrow(TypeError);
    expect(() => client.publishLossy("a", Symbol("s"))).toThrow(TypeError);
  });

  test("an ACK of several, or of none that was sent, ends the session", async () => {
    for (const offsets of [[1, 2], []]) {
      const { client, session } = await connected({ reconnect: false });
      const done = client.publish("a", 1);
      ack(session.control, (await publish(session.control)).sequence, offsets);
      await expect(done).rejects.toThrow(coded("connection_lost", { cause: coded("protocol_violation") }));
      expect(client.state).toBe("closed");
    }
  });
});

describe("a publication", () => {
  test("is opened for a topic's second message, when the first has its answer", async () => {
    const { client, session } = await connected();
    const done = [client.publish("a", "1"), client.publish("a", "2"), client.publish("a", "3")];
    const first = await publish(session.control);
    await turn();
    expect(session.streams.size).toBe(0);
    ack(session.control, first.sequence, [1]);
    const { stream, publication: p } = await session.publication();
    expect(p).toEqual({ topic: "a", publisher: CLIENT, first: 2 });
    for (const sequence of [2, 3]) {
      expect(await publish(stream)).toMatchObject({ sequence, topic: "", mode: 0 });
    }
    ack(stream, 2, [2, 5]);
    expect((await Promise.all(done)).map((position) => position.offset)).toEqual([1, 2, 5]);
  });

  test("is opened for a message that comes soon after another one", async () => {
    const { client, session } = await connected();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    const first = client.publish("a", "1");
    ack(session.control, (await publish(session.control)).sequence, [1]);
    await first;
    await vi.advanceTimersByTimeAsync(9999);
    void client.publish("a", "2").catch(() => {});
    await session.publication();
  });

  test("is opened for a large message", async () => {
    const { client, session } = await connected();
    const done = client.publish("a", large);
    const { stream } = await session.publication();
    expect((await publish(stream)).data).toEqual(large);
    ack(stream, 1, [1]);
    await done;
  });

  test("what is published in one task goes in one write", async () => {
    const { client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const writes = stream.writes;
    const done = Array.from({ length: 50 }, (_, i) => client.publish("a", i));
    for (let i = 0; i < 50; i++) expect((await publish(stream)).sequence).toBe(i + 2);
    expect(stream.writes).toBe(writes + 1);
    ack(stream, 2, Array.from({ length: 50 }, (_, i) => i + 2));
    expect((await Promise.all(done)).at(-1)).toEqual({ epoch: EPOCH, offset: 51 });
  });

  test("a refusal of one message concerns no other", async () => {
    const { client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const bad = client.publish("a", "bad");
    const good = client.publish("a", "good");
    await publish(stream);
    await publish(stream);
    nack(stream, 2, 304);
    ack(stream, 3, [9]);
    await expect(bad).rejects.toThrow(coded("rate_limited", { remote: true }));
    expect((await good).offset).toBe(9);
  });

  test("honours credit, in order", async () => {
    const limits = { ...welcome.limits, publicationCredit: 1000 };
    const { client, session } = await connected({}, {}, { limits });
    const data = new Uint8Array(900);
    const done = [1, 2, 3, 4, 5].map(() => client.publish("a", data));
    ack(session.control, (await publish(session.control)).sequence, [1]);
    const { stream } = await session.publication();
    // The second one begins below the limit, and ends above it.
    expect((await publish(stream)).sequence).toBe(2);
    expect((await publish(stream)).sequence).toBe(3);
    await turn();
    expect(stream.frames.size).toBe(0);
    ack(stream, 0, [], 1000); // no more than before
    ack(stream, 2, [2], 1900);
    expect((await publish(stream)).sequence).toBe(4);
    await turn();
    expect(stream.frames.size).toBe(0);
    nack(stream, 3, 304, 5000);
    expect((await publish(stream)).sequence).toBe(5);
    ack(stream, 4, [3, 4]);
    expect((await Promise.allSettled(done)).map((r) => r.status)).toEqual([
      "fulfilled",
      "fulfilled",
      "rejected",
      "fulfilled",
      "fulfilled",
    ]);
  });

  test("one that is idle is closed, and opened again when needed", async () => {
    const { client, session } = await connected();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    const stream = await publication(session, () => client.publish("a", large));
    const fin = vi.fn();
    void stream.fin.then(fin);
    await vi.advanceTimersByTimeAsync(29_000);
    await turn();
    expect(fin).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(6000);
    await stream.fin;
    const done = client.publish("a", "next"); // waits for the end of the first
    await turn();
    expect(session.streams.size).toBe(0);
    stream.end(0);
    ack(session.control, (await publish(session.control)).sequence, [2]);
    await done;
  });

  test("the least recently used gives way, beyond half of the broker's limit", async () => {
    const limits = { ...welcome.limits, publications: 4 };
    const { client, session } = await connected({}, {}, { limits });
    const a = await publication(session, () => client.publish("a", large));
    const b = await publication(session, () => client.publish("b", large));
    const again = client.publish("a", "again");
    ack(a, (await publish(a)).sequence, [2]);
    await again;
    const c = await publication(session, () => client.publish("c", large));
    await b.fin;
    b.end(0);
    await publication(session, () => client.publish("d", large));
    await a.fin;
    expect(c.frames.size).toBe(0);
  });

  test("at the broker's limit the next topic goes by the control stream until another has ended", async () => {
    const limits = { ...welcome.limits, publications: 1 };
    const { client, session } = await connected({}, {}, { limits });
    const first = client.publish("a", large);
    const { stream: a } = await session.publication();
    await publish(a);
    const done = client.publishBatch("b", [{ value: 1 }, { value: large }, { value: 3 }]);
    for (const order of [1, 2]) {
      const m = await publish(session.control);
      expect(m).toMatchObject({ topic: "b", order });
      if (order === 2) {
        ack(a, 1, [1]);
        await first;
        await a.fin; // idle, and in the way
        a.end(0);
        await turn();
      }
      ack(session.control, m.sequence, [order]);
    }
    const { stream: b, publication: p } = await session.publication();
    expect(p).toMatchObject({ topic: "b", first: 3 });
    ack(b, (await publish(b)).sequence, [3]);
    expect((await done).map((at) => at.offset)).toEqual([1, 2, 3]);
  });

  test("END with a code rejects all of the topic, and of no other", async () => {
    const { client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const done = [client.publish("a", 1), client.publish("a", 2)].map((p) =>
      expect(p).rejects.toThrow(coded("permission_revoked", { remote: true })),
    );
    const other = client.publish("b", 1);
    stream.end(206);
    await Promise.all(done);
    ack(session.control, (await publish(session.control)).sequence, [1]);
    await other;
    await stream.fin;
  });

  test("END with a code that invites to publish again does not of what was sent", async () => {
    const { client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const sent = client.publish("a", 1);
    await publish(stream);
    const unknown = coded("connection_lost", { cause: coded("bus_unavailable") });
    const refused = expect(sent).rejects.toThrow(unknown);
    stream.end(402, "", 1);
    await refused;
  });

  test("a topic that may not be published to", async () => {
    const { client, session } = await connected();
    const done = expect(client.publish("a", large)).rejects.toThrow(coded("publish_denied"));
    const { stream } = await session.publication();
    stream.end(202);
    await done;
  });

  test.each([
    ["an answer that nothing asked for", (s: MockStream) => ack(s, 9, [1]), "protocol_violation"],
    ["a frame of another stream", (s: MockStream) => s.send(frames.writeSkip({ topic: 1, to: 1 })), "unexpected_frame"],
    ["a FIN without END", (s: MockStream) => s.close(), "protocol_violation"],
    ["a clean END before the answer", (s: MockStream) => s.end(0), "connection_lost"],
  ])("%s ends it with its code", async (_, fault, codeName) => {
    const { client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const done = expect(client.publish("a", 1)).rejects.toThrow(coded(codeName));
    await publish(stream);
    fault(stream);
    await done;
    expect(client.state).toBe("connected");
  });

  test("a payload over the broker's limit is not sent", async () => {
    const limits = { ...welcome.limits, payload: 10 };
    const { client, session } = await connected({}, {}, { limits });
    const error = coded("payload_too_large", { remote: false });
    await expect(client.publish("a", new Uint8Array(11))).rejects.toThrow(error);
    expect(() => client.publishLossy("a", new Uint8Array(11))).toThrow(error);
    await expect(client.request("a", new Uint8Array(11))).rejects.toThrow(error);
    expect(session.control.frames.size).toBe(0);
  });
});

describe("waiting", () => {
  test("a signal takes back what was not sent", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const first = client.publish("a", 1);
    const second = client.publish("a", 2, { signal: controller.signal });
    const third = client.publish("a", 3);
    controller.abort();
    await expect(second).rejects.toThrow(coded("aborted"));
    ack(session.control, (await publish(session.control)).sequence, [1]);
    await first;
    const { stream } = await session.publication();
    expect(await publish(stream)).toMatchObject({ sequence: 2, data: new Uint8Array([3]) });
    ack(stream, 2, [2]);
    await third;
  });

  test("a signal stops the waiting for an answer", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const done = client.publish("a", 1, { signal: controller.signal });
    const { sequence } = await publish(session.control);
    controller.abort();
    await expect(done).rejects.toThrow(coded("aborted"));
    ack(session.control, sequence, [1]);
    await turn();
    expect(client.state).toBe("connected");
  });

  test("a signal that was aborted before sends nothing", async () => {
    const { client, session } = await connected();
    const done = client.publish("a", 1, { signal: AbortSignal.abort() });
    await expect(done).rejects.toThrow(coded("aborted"));
    await turn();
    expect(session.control.frames.size).toBe(0);
  });

  test("what was sent when the connection is lost is sent again under its sequence", async () => {
    const { broker, client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const done = [client.publish("a", 1), client.publish("a", 2), client.publish("b", 3)];
    expect((await publish(stream)).sequence).toBe(2);
    expect((await publish(stream)).sequence).toBe(3);
    expect(await publish(session.control)).toMatchObject({ topic: "b", order: 1 });
    session.lose();
    const late = client.publish("a", 4);
    const next = await broker.session();
    await next.hello();
    next.welcome();
    const { stream: second, publication: p } = await next.publication();
    expect(p).toMatchObject({ topic: "a", first: 2 });
    for (const sequence of [2, 3, 4]) expect((await publish(second)).sequence).toBe(sequence);
    const b = await publish(next.control);
    expect(b).toMatchObject({ topic: "b", order: 1 });
    nack(second, 2, 2); // it was published before, and nobody knows where
    ack(second, 3, [8, 9]);
    ack(next.control, b.sequence, [5]);
    expect(await done[0]).toEqual({ epoch: 0, offset: 0 });
    expect((await Promise.all([done[1], late, done[2]])).map((at) => at?.offset)).toEqual([8, 9, 5]);
  });

  test("under another id it has an unknown outcome, unless it has an idempotency key", async () => {
    const { broker, client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const lost = expect(client.publish("a", 1)).rejects.toThrow(
      coded("connection_lost", { cause: coded("connection_lost") }),
    );
    const kept = client.publish("a", 2, { id: "two" });
    const single = expect(client.publish("b", 3)).rejects.toThrow(coded("connection_lost"));
    await publish(stream);
    await publish(stream);
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome({ client: new Uint8Array(16) });
    await lost;
    await single;
    const { stream: second } = await next.publication();
    const p = await publish(second);
    expect(p).toMatchObject({ id: "two", data: new Uint8Array([2]) });
    ack(second, p.sequence, [6]);
    expect((await kept).offset).toBe(6);
  });

  test("so it has when the broker may have forgotten it, which it tells by its age", async () => {
    const { broker, client, session } = await connected();
    vi.useFakeTimers({ toFake: ["Date"] });
    const stream = await publication(session, () => client.publish("a", large));
    const lost = expect(client.publish("a", 1)).rejects.toThrow(
      coded("connection_lost", { cause: coded("forgotten") }),
    );
    const single = client.publish("b", 2);
    expect((await publish(stream)).age).toBe(undefined);
    expect((await publish(session.control)).age).toBe(undefined);
    vi.setSystemTime(Date.now() + 120_000);
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome(); // the same id
    const { stream: second } = await next.publication();
    const p = await publish(second);
    expect(p.age).toBe(120_000);
    nack(second, p.sequence, 3);
    await lost;
    const q = await publish(next.control);
    expect(q.age).toBe(120_000);
    ack(next.control, q.sequence, [7]);
    expect((await single).offset).toBe(7);
    const third = client.publish("a", 3);
    const r = await publish(second);
    expect(r.age).toBe(undefined);
    ack(second, r.sequence, [8]);
    await third;
  });

  test("its age counts on where the clock is set back", async () => {
    const { broker, client, session } = await connected();
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
    void client.publish("a", 1).catch(() => {});
    await publish(session.control);
    vi.advanceTimersByTime(120_000);
    vi.setSystemTime(Date.now() - 600_000);
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome();
    expect((await publish(next.control)).age).toBe(120_000);
  });

  test("a hole among what is sent again is a new stream", async () => {
    const { broker, client, session } = await connected();
    const stream = await publication(session, () => client.publish("a", large));
    const done = [1, 2, 3].map((n) => client.publish("a", n));
    for (let i = 0; i < 3; i++) await publish(stream);
    ack(stream, 3, [5]); // the one in the middle
    await done[1];
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.welcome();
    const { stream: second, publication: p } = await next.publication();
    expect(p.first).toBe(2);
    expect((await publish(second)).sequence).toBe(2);
    await second.fin;
    ack(second, 2, [4]);
    second.end(0);
    const { stream: third, publication: q } = await next.publication();
    expect(q.first).toBe(4);
    ack(third, (await publish(third)).sequence, [6]);
    expect((await Promise.all(done)).map((at) => at.offset)).toEqual([4, 5, 6]);
  });

  test("where nobody connects again it has an unknown outcome", async () => {
    const { client, session } = await connected({ reconnect: false });
    const done = expect(client.publish("a", 1)).rejects.toThrow(coded("connection_lost"));
    await publish(session.control);
    session.lose();
    await done;
  });

  test("what was not sent goes with the next connection, in order", async () => {
    const { broker, client, session } = await connected();
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    const done = ["1", "2"].map((value) => client.publish("a", value));
    const next = await broker.session();
    await next.hello();
    await turn();
    expect(next.control.frames.size).toBe(0);
    next.welcome();
    // Two of one topic: the first decides, and goes by a publication.
    const { stream } = await next.publication();
    expect((await publish(stream)).data).toEqual(new TextEncoder().encode("1"));
    expect((await publish(stream)).data).toEqual(new TextEncoder().encode("2"));
    ack(stream, 1, [1, 2]);
    expect((await Promise.all(done)).map((p) => p.offset)).toEqual([1, 2]);
  });

  test("a broker that stops leaves everything to the next connection", async () => {
    const limits = { ...welcome.limits, publicationCredit: 20_000 };
    const { broker, client, session } = await connected({}, {}, { limits });
    const stream = await publication(session, () => client.publish("a", large));
    const sent = client.publish("a", large);
    const waits = client.publish("a", large);
    await publish(stream);
    stream.end(400);
    session.refuse(400);
    const next = await broker.session();
    await next.hello();
    next.welcome();
    const { stream: second } = await next.publication();
    ack(second, (await publish(second)).sequence, [5]);
    ack(second, (await publish(second)).sequence, [6]);
    expect((await Promise.all([sent, waits])).map((at) => at.offset)).toEqual([5, 6]);
  });

  test("without a connection no more waits than may, in bytes", async () => {
    const { client, session } = await connected({ offline: { maxBytes: 3 << 20 } });
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    const mib = new Uint8Array((1 << 20) - 64);
    const waiting = Array.from({ length: 3 }, () => client.publish("a", mib));
    const empty = new Uint8Array(0);
    await expect(client.publish("b", empty)).rejects.toThrow(coded("queue_full", { remote: false }));
    const refused = waiting.map((p) => expect(p).rejects.toThrow(coded("closed")));
    await client.close();
    await Promise.all(refused);
  });

  test("without a connection nothing waits, if the options say so", async () => {
    const { client, session } = await connected({ offline: { refuse: true } });
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    await expect(client.publish("a", 1)).rejects.toThrow(coded("offline"));
    await expect(client.history("a")).rejects.toThrow(coded("offline"));
  });

  test("the time to live goes on while a message waits", async () => {
    const { broker, client, session } = await connected();
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    vi.useFakeTimers({ toFake: ["Date"] });
    const done = client.publish("a", 1, { ttl: 1000 });
    const late = expect(client.publish("b", 1, { ttl: 300 })).rejects.toThrow(coded("expired"));
    vi.setSystemTime(Date.now() + 300);
    const next = await broker.session();
    await next.hello();
    next.welcome();
    const p = await publish(next.control);
    expect(p.ttl).toBe(700);
    ack(next.control, p.sequence, [1]);
    await Promise.all([done, late]);
  });
});

describe("options", () => {
  test("go with the message", async () => {
    vi.useFakeTimers({ toFake: ["Date"] }); // the time to live counts from the call on
    const { client, session } = await connected();
    const headers = { kind: "x", empty: "" };
    const done = client.publish("a", "v", { key: "k", ttl: 5000, headers, retain: true, id: "i" });
    const p = await publish(session.control);
    expect(p).toMatchObject({
      key: "k",
      ttl: 5000,
      headers: ["kind", "x", "empty", ""],
      retain: true,
      id: "i",
    });
    ack(session.control, p.sequence, [1]);
    await done;
    client.publishLossy("a", "v", { key: "k", ttl: 5, headers });
    expect(frames.parsePublish(await session.datagramsUp.next())).toMatchObject({
      mode: 1,
      key: "k",
      ttl: 5,
      headers: ["kind", "x", "empty", ""],
    });
  });

  test.each([
    [{ key: "" }],
    [{ key: "é".repeat(128) }],
    [{ ttl: 0 }],
    [{ ttl: 1.5 }],
    [{ id: "x".repeat(65) }],
    [{ headers: { "": "x" } }],
    [{ headers: { "a b": "x" } }],
    [{ headers: { "a:b": "x" } }],
    [{ headers: { é: "x" } }],
    [{ headers: { ["n".repeat(65)]: "x" } }],
    [{ headers: { a: "x".repeat(513) } }],
    [{ headers: { a: 3 as never } }],
    [{ headers: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`h${i}`, ""])) }],
    [{ headers: Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`h${i}`, "x".repeat(512)])) }],
  ])("%j are refused at once", async (options) => {
    const { client, session } = await connected();
    await expect(client.publish("a", 1, options)).rejects.toThrow(coded("invalid_option"));
    expect(session.control.frames.size).toBe(0);
  });

  test("a lossy message is neither retained nor published once", async () => {
    const { client } = await connected();
    for (const options of [{ retain: true }, { id: "x" }]) {
      expect(() => client.publishLossy("a", 1, options as object)).toThrow(coded("invalid_option"));
    }
  });
});

describe("a batch", () => {
  test("goes on a publication in one write, and resolves with all positions", async () => {
    const { client, session } = await connected();
    const done = client.publishBatch("a", [{ value: "1" }, { value: "2", key: "k" }, { value: 3 }]);
    const { stream, publication: p } = await session.publication();
    expect(p.first).toBe(1);
    expect(await publish(stream)).toMatchObject({ sequence: 1, key: "" });
    expect(await publish(stream)).toMatchObject({ sequence: 2, key: "k" });
    expect(await publish(stream)).toMatchObject({ sequence: 3, encoding: 1 });
    expect(stream.writes).toBe(1);
    ack(stream, 1, [4, 5, 9]);
    expect((await done).map((at) => at.offset)).toEqual([4, 5, 9]);
    expect(await client.publishBatch("a", [])).toEqual([]);
  });

  test("rejects with the first refusal, which tells its message", async () => {
    const { client, session } = await connected();
    const done = client.publishBatch("a", [{ value: 1 }, { value: 2 }, { value: 3 }]);
    const { stream } = await session.publication();
    ack(stream, 1, [1]);
    nack(stream, 2, 304);
    nack(stream, 3, 402);
    const refused = coded("rate_limited", { remote: true, retry: undefined, reason: expect.stringMatching(/^message 1: /) });
    await expect(done).rejects.toThrow(refused);
  });

  test("is refused as a whole for a message that cannot be, which the error tells", async () => {
    const { client, session } = await connected();
    const done = client.publishBatch("a", [{ value: 1 }, { value: 2, key: "" }, { value: 3, ttl: 0 }]);
    await expect(done).rejects.toThrow(coded("invalid_option", { reason: expect.stringMatching(/^message 1: /) }));
    expect(session.streams.size).toBe(0);
  });

  test("is refused as a whole if its signal is aborted", async () => {
    const { client } = await connected();
    const signal = AbortSignal.abort("enough");
    const done = client.publishBatch("a", [{ value: 1 }, { value: 2 }], { signal });
    await expect(done).rejects.toThrow(coded("aborted", { cause: "enough", reason: "" }));
  });
});

describe("a lossy publish", () => {
  test("goes by datagram", async () => {
    const { client, session } = await connected();
    client.publishLossy("cursors.a", { x: 1 });
    expect(frames.parsePublish(await session.datagramsUp.next())).toMatchObject({
      sequence: 0,
      topic: "cursors.a",
      mode: 1,
      encoding: 1,
    });
    expect(client.drops.unsent).toBe(0);
  });

  test.each([
    ["that does not fit", { maxDatagramSize: 20 }, {}],
    ["without datagrams here", { datagrams: false }, {}],
    ["without datagrams there", {}, { capabilities: 0 }],
  ])("%s goes on the control stream", async (_, mock, w) => {
    const { client, session } = await connected({}, mock, w);
    client.publishLossy("cursors.a", "a longer text", { encoding: "json" });
    expect(await publish(session.control)).toMatchObject({ sequence: 0, topic: "cursors.a", mode: 1, encoding: 2 });
    expect(session.datagramsUp.size).toBe(0);
  });

  test("of many at once the newest are sent", async () => {
    const { client, session } = await connected();
    for (let i = 0; i < 100; i++) client.publishLossy("a", i);
    await until(() => expect(client.drops.unsent + session.datagramsUp.size).toBe(100));
    expect(session.datagramsUp.size).toBeGreaterThanOrEqual(64);
    const got: number[] = [];
    while (session.datagramsUp.size > 0) {
      got.push(frames.parsePublish(await session.datagramsUp.next()).data.at(-1) as number);
    }
    expect(got.at(-1)).toBe(99);
    expect(got).toEqual(got.toSorted((a, b) => a - b));
  });

  test("without a connection is dropped and counted", async () => {
    const { client, session } = await connected();
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    client.publishLossy("a", 1);
    expect(client.drops.unsent).toBe(1);
  });

  test("a control stream that is not taken holds no more than so much", async () => {
    const { client, session } = await connected({}, { datagrams: false });
    const data = new Uint8Array(100 << 10);
    for (let i = 0; i < 5; i++) client.publishLossy("a", data);
    expect(client.drops.unsent).toBe(2);
    for (let i = 0; i < 3; i++) await publish(session.control);
  });
});
