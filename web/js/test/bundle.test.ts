// The committed bundle, whose internal names are shortened: everything public is
// still there, and works. Types are those of src.

import { readFileSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import type * as Tidewire from "../src/index.js";
import * as Type from "../src/frame-types.js";
import * as frames from "./broker-frames.js";
import { BASE, CLIENT, CLIENT_ID, MockBroker, message } from "./mock.js";

const bundle = new URL("../dist/tidewire.js", import.meta.url);
const { connect, contains, matches, TidewireError } = (await import(
  bundle.href
)) as typeof Tidewire;

const script = new URL("../scripts/bundle.mjs", import.meta.url);
const { internal } = (await import(script.href)) as { internal: string[] };

const clients: Tidewire.Client[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
});

test("its options, properties and methods have the names that the types give", async () => {
  const broker = new MockBroker();
  const connecting = connect("https://broker.example", {
    webTransport: broker.WebTransport,
    getToken: () => "t",
    certificateHashes: [new Uint8Array(32)],
    connectTimeout: 5000,
    signal: new AbortController().signal,
    reconnect: { initial: 1, max: 1, factor: 1 },
    agent: "bundle",
  });
  const session = await broker.session();
  expect(session.options?.serverCertificateHashes?.[0]?.value).toHaveLength(32);
  expect(await session.hello()).toMatchObject({ token: "t", agent: "bundle" });
  session.welcome();
  const client = await connecting;
  clients.push(client);
  expect([client.id, client.state]).toEqual([CLIENT_ID, "connected"]);
  expect(Object.keys(client.drops).toSorted()).toEqual([
    "bad_datagram",
    "late",
    "queue",
    "superseded",
    "unknown_topic",
    "unsent",
  ]);

  const told: unknown[] = [];
  client.on("notice", (notice) => told.push(notice));
  const off = client.on("state", (change) => told.push(change));

  const subscription = client.subscribe<string>("a", {
    class: "sequenced",
    priority: 1,
    credit: 1000,
    signal: new AbortController().signal,
  });
  const { stream, subscribe } = await session.subscription();
  expect(subscribe).toMatchObject({ number: 1, pattern: "a", class: 2, priority: 1, credit: 1000 });
  stream.send(
    frames.writeSubscribed({ topic: 1, epoch: 7, offset: 0 }),
    message({ offset: 2, time: 5, publisher: CLIENT, reliable: 0 }),
  );
  await subscription.ready;
  expect(subscription.pattern).toBe("a");
  const iterator = subscription[Symbol.asyncIterator]();
  expect((await iterator.next()).value).toEqual({
    kind: "gap",
    topic: "a",
    from: { epoch: 7, offset: 0 },
    to: { epoch: 7, offset: 1 },
    reason: "lost",
    count: 1,
  });
  const m = (await iterator.next()).value as Tidewire.Message<string>;
  expect({
    kind: m.kind,
    topic: m.topic,
    epoch: m.epoch,
    offset: m.offset,
    time: m.time,
    publisher: m.publisher,
    lossy: m.lossy,
    encoding: m.encoding,
    data: m.data,
    value: m.value,
  }).toEqual({
    kind: "message",
    topic: "a",
    epoch: 7,
    offset: 2,
    time: new Date(BASE + 5),
    publisher: CLIENT_ID,
    lossy: true,
    encoding: "text",
    data: new TextEncoder().encode("2"),
    value: "2",
  });

  const position = client.publish("b", { n: 1 }, { encoding: "json" });
  const p = frames.parsePublish(await session.control.want(Type.PUBLISH));
  expect(p.encoding).toBe(2);
  session.control.send(frames.writeAck({ sequence: p.sequence, epoch: 7, offsets: [9], limit: undefined }));
  expect(await position).toEqual({ epoch: 7, offset: 9 });

  client.publishLossy("c", 1);
  expect(frames.parsePublish(await session.datagramsUp.next()).topic).toBe("c");

  const auth = client.auth("next");
  const { number } = frames.parseAuth(await session.control.want(Type.AUTH));
  const refusal = { code: 304, reason: "slow down", retry: 100 };
  session.control.send(frames.writeNack({ sequence: number, error: refusal }));
  const error = (await auth.catch((e: unknown) => e)) as Tidewire.TidewireError;
  expect(error).toBeInstanceOf(TidewireError);
  expect(error).toMatchObject({
    name: "TidewireError",
    code: 304,
    codeName: "rate_limited",
    reason: "slow down",
    remote: true,
    retry: 100,
    message: "rate_limited (304): slow down",
  });

  const notice = { error: { code: 400, reason: "stopping", retry: undefined }, deadline: 3 };
  session.control.send(frames.writeNotice(notice));
  session.refuse(400);
  const next = await broker.session();
  await next.hello();
  next.welcome();
  (await next.subscription()).stream.end(0);
  expect(await subscription.closed).toBeUndefined();
  off();
  subscription.close();
  await client.close();
  expect(told).toEqual([
    { code: 400, codeName: "shutting_down", reason: "stopping", deadline: new Date(BASE + 3) },
    { state: "disconnected", error: expect.any(TidewireError) },
    { state: "connecting", error: undefined },
    { state: "connected", error: undefined },
  ]);
});

// What programs write or read, besides what the first test uses.
const publicNames = `
  atLeast atMost auth backward beginning certificateHashes changes client closed conflated count
  credit delivered dropped enter exists expires factor filter first from gaps getToken group
  headers health history id initial key kind last leave limit lost map max maxBytes maxKeys
  member members message messages more name next noEcho noRetained not offline on pingAfter
  pingTimeout position positions prefix presence presenceCount priority publishBatch ready
  refuse replayed reply request requestMany retain retained rtt sent setPriority since size
  state stats subscription subscriptions time timeout topic ttl value waiting watchPresence
`.trim().split(/\s+/);

test("no public name is shortened", () => {
  const source = readFileSync(bundle, "utf8");
  for (const name of publicNames) {
    expect(internal, name).not.toContain(name);
    expect(source, name).toMatch(new RegExp(`\\b${name}\\b`));
  }
});

test("it has the functions on patterns", () => {
  expect(matches("chat.*", "chat.a")).toBe(true);
  expect(contains("chat.>", "chat.*")).toBe(true);
});

test("it needs nothing else, and names no file of the machine that built it", () => {
  const source = readFileSync(bundle, "utf8");
  expect(source).not.toMatch(/\bimport\b|\brequire\b|sourceMappingURL|node_modules|\/src\//);
});
