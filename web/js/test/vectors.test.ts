// The golden vectors of the protocol (codec/testdata/vectors), which every
// implementation reads.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Field, Frame } from "../src/envelope.js";
import { TidewireError } from "../src/errors.js";
import { FrameBuffer } from "../src/frame-buffer.js";
import * as Type from "../src/frame-types.js";
import * as frames from "../src/frames.js";
import { FRAME_OVERHEAD, MAX_FIRST_FRAME } from "../src/limits.js";
import * as requests from "../src/request-frames.js";
import * as topics from "../src/topics.js";
import * as broker from "./broker-frames.js";
import { hex, unhex, uuid } from "./hex.js";

function read<T>(name: string): T[] {
  const url = new URL(`../../../codec/testdata/vectors/${name}`, import.meta.url);
  const vectors = JSON.parse(readFileSync(url, "utf8")) as T[];
  expect(vectors.length, `${name} is empty`).toBeGreaterThan(0);
  return vectors;
}

/** A frame type in both directions; a value is what the vectors hold. */
interface Codec {
  parse(f: Frame): unknown;
  write(f: Frame): Uint8Array;
  value(f: Frame): unknown;
}

/** Bytes in hex, ids as UUIDs, what is undefined as null. */
function plain(v: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(v).map(([name, field]) => {
      if (field === undefined) return [name, null];
      if (!(field instanceof Uint8Array)) return [name, field];
      return [name, ["client", "publisher"].includes(name) ? uuid(field) : hex(field)];
    }),
  );
}

/** Spreads the code, reason and retry of an error over what it came with. */
function withError(v: { error: TidewireError }): unknown {
  const { error, ...rest } = v;
  expect(error.remote).toBe(true);
  return plain({ ...rest, code: error.code, reason: error.reason, retry: error.retry });
}

/** A payload is a struct of its own in the vectors. */
function withPayload(v: { encoding: number; data: Uint8Array; headers: readonly string[] }): unknown {
  const { encoding, data, headers, ...rest } = v;
  return { ...plain(rest), payload: { encoding, data: hex(data) }, headers: pairs(headers) };
}

/** Headers as the vectors hold them. */
function pairs(headers: readonly string[]): unknown {
  return headers.flatMap((name, i) => (i % 2 ? [] : [{ name, value: headers[i + 1] }]));
}

/** The field `from` as the vectors hold it. */
function from(field: Field): unknown {
  const f = { kind: 0, epoch: 0, offset: 0, values: 0, n: 0, time: 0, positions: [] as unknown[] };
  if (!Array.isArray(field)) return f;
  const [form, a, b, values = 0] = field as number[];
  if (form === 0) return { ...f, kind: 1, epoch: a, offset: b, values };
  if (form === 1) return { ...f, kind: 2, n: a };
  if (form === 2) return { ...f, kind: 3, time: a };
  if (form === 3) return { ...f, kind: 4 };
  const list = b as unknown as [string, number, number, number?][];
  const positions = list.map(([topic, epoch, offset, end = 0]) => ({ topic, epoch, offset, values: end }));
  return { ...f, kind: 5, time: a, positions };
}

function subscribe(s: broker.ParsedSubscribe): unknown {
  const { flags, ...rest } = s;
  const filter = s.filter.map(([name, operator, ...values]) => ({ name, operator, values }));
  const noEcho = (flags & frames.FLAG_NO_ECHO) !== 0;
  const noRetained = (flags & frames.FLAG_NO_RETAINED) !== 0;
  const presence = (flags & frames.FLAG_PRESENCE) !== 0;
  return { ...rest, filter, noEcho, noRetained, presence, from: from(s.from) };
}

function codec<T extends object>(
  parse: (f: Frame) => T,
  write: (v: T) => Uint8Array,
  value: (v: T) => unknown = plain,
): Codec {
  return { parse, write: (f) => write(parse(f)), value: (f) => value(parse(f)) };
}

/** NOTICE has no retry. */
function notice(n: frames.NoticeFrame): unknown {
  const { retry, ...rest } = withError(n) as Record<string, unknown>;
  expect(retry).toBeNull();
  return rest;
}

const codecs: Record<string, Codec> = {
  HELLO: codec(broker.parseHello, frames.writeHello, (h) => ({
    ...plain(h),
    resume: h.resume ? plain(h.resume) : { client: null, secret: "" },
  })),
  WELCOME: codec(frames.parseWelcome, broker.writeWelcome),
  AUTH: codec(broker.parseAuth, (a) => frames.writeAuth(a.number, a.token)),
  AUTHENTICATED: codec(frames.parseAuthenticated, broker.writeAuthenticated),
  NOTICE: codec(frames.parseNotice, broker.writeNotice, notice),
  END: codec(frames.parseEnd, broker.writeEnd, withError),
  FLOW: codec(broker.parseFlow, (f) => frames.writeFlow(f.subscription, f.limit, f.offset)),
  STREAM_END: codec(frames.parseStreamEnd, broker.writeStreamEnd, withError),
  SUBSCRIBE: codec(
    broker.parseSubscribe,
    (s) =>
      frames.writeSubscribe({
        ...s,
        filter: s.filter.length > 0 ? s.filter : undefined,
        group: s.group || undefined,
      }),
    subscribe,
  ),
  SUBSCRIBED: codec(frames.parseSubscribed, broker.writeSubscribed),
  TOPIC: codec(frames.parseTopic, broker.writeTopic),
  MESSAGE: codec(frames.parseMessage, broker.writeMessage, (m) => ({
    ...(withPayload(m) as object),
    reply: hex(m.reply ?? new Uint8Array(0)),
  })),
  GAP: codec(frames.parseGap, broker.writeGap),
  SKIP: codec(frames.parseSkip, broker.writeSkip),
  PUBLICATION: codec(broker.parsePublication, (p) =>
    frames.writePublication(p.topic, p.publisher, p.first),
  ),
  PUBLISH: codec(
    broker.parsePublish,
    (p) =>
      frames.writePublish(
        p.sequence,
        p.topic || undefined,
        {
          ...p,
          lossy: p.mode === 1,
          key: p.key || undefined,
          headers: p.headers.length > 0 ? p.headers : undefined,
          id: p.id || undefined,
        },
        p.order,
      ),
    (p) => {
      const { ttl, id, ...rest } = withPayload(p) as Record<string, unknown>;
      return { ...rest, tTL: ttl, iD: id };
    },
  ),
  ACK: codec(frames.parseAck, broker.writeAck),
  NACK: codec(frames.parseNack, broker.writeNack, withError),
  PRIORITY: codec(broker.parsePriority, (p) => frames.writePriority(p.subscription, p.priority)),
  PING: codec(broker.parsePing, (p) => requests.writePing(p.number, p.subscriptions)),
  PONG: codec(requests.parsePong, broker.writePong, (p) => {
    const { rtt, ...rest } = plain(p);
    return { ...rest, rTT: rtt };
  }),
  FETCH: codec(
    broker.parseFetch,
    (f) => requests.writeFetch(f.topic, f.from, f.backward, f.limit),
    (f) => ({ ...f, from: from(f.from) }),
  ),
  PAGE: codec(requests.parsePage, broker.writePage),
  PRESENCE: codec(
    broker.parsePresence,
    (p) => requests.writePresence(p.number, p.topic, p.state),
    (p) => ({
      ...p,
      state: { encoding: p.state?.encoding ?? 0, data: hex(p.state?.data ?? new Uint8Array(0)) },
      leave: !p.state,
    }),
  ),
  COUNT: codec(broker.parseCount, (c) => requests.writeCount(c.number, c.pattern)),
  COUNTS: codec(requests.parseCounts, broker.writeCounts, (c) => ({
    ...c,
    topics: [...c.topics].map(([topic, count]) => ({ topic, count })),
  })),
  REQUEST: codec(
    broker.parseRequest,
    (r) =>
      requests.writeRequest(r.number, {
        ...r,
        key: r.key || undefined,
        headers: r.headers.length > 0 ? r.headers : undefined,
      }),
    withPayload,
  ),
  RESPONSE: codec(requests.parseResponse, broker.writeResponse, withPayload),
  DONE: codec(requests.parseDone, broker.writeDone, (d) => {
    const { retry, ...rest } = withError(d) as Record<string, unknown>;
    expect(retry).toBeNull();
    return rest;
  }),
  REPLY: codec(
    broker.parseReply,
    (r) => requests.writeReply(r.to, r, r.headers.length > 0 ? r.headers : undefined),
    withPayload,
  ),
  CANCEL: codec(broker.parseCancel, (c) => requests.writeCancel(c.number)),
};

const { isKnown, ...typeNumbers } = Type;
const types: Record<string, number> = typeNumbers;

const maxFrame = (256 << 10) + FRAME_OVERHEAD;

function codecOf(type: string): Codec {
  const c = codecs[type];
  if (!c) throw new Error(`no codec for ${type}`);
  return c;
}

/** Cuts the one frame from b, handed over in chunks of `size` bytes. */
function cut(b: Uint8Array, size: number, limit = maxFrame): Frame {
  const buffer = new FrameBuffer();
  for (let at = 0; at < b.length; at += size) {
    expect(buffer.next(limit)).toBeUndefined();
    buffer.push(b.slice(at, at + size));
  }
  const frame = buffer.next(limit);
  expect(buffer.pending).toBe(false);
  if (!frame) throw new Error("no frame");
  return frame;
}

describe("frames.json", () => {
  interface Vector {
    name: string;
    type: string;
    value: unknown;
    hex: string;
  }
  const vectors = read<Vector>("frames.json");

  test.each(vectors)("$type: $name", (v) => {
    const b = unhex(v.hex);
    const c = codecOf(v.type);
    // A frame is read once: each look needs one of its own.
    expect(cut(b, b.length).type).toBe(types[v.type]);
    expect(cut(b, b.length).size).toBe(b.length);
    for (const size of [b.length, 1, 7]) expect(c.value(cut(b, size))).toEqual(v.value);
    const written = c.write(cut(b, b.length));
    // The client speaks version 1 and no other.
    if (v.name !== "hello of a later version") expect(hex(written)).toBe(v.hex);
  });

  test("a frame that was damaged is a frame or a coded error", () => {
    let seed = 1;
    const random = (n: number) => {
      seed = (seed * 48_271) % 0x7fff_ffff;
      return seed % n;
    };
    for (const v of vectors) {
      const whole = unhex(v.hex);
      for (let round = 0; round < 50; round++) {
        const b = whole.slice(0, random(8) === 0 ? random(whole.length) + 1 : whole.length);
        for (let n = random(3); n >= 0; n--) b[random(b.length)] = random(256);
        const buffer = new FrameBuffer();
        buffer.push(b);
        try {
          const f = buffer.next(maxFrame);
          if (f) codecOf(v.type).parse(f);
        } catch (e) {
          expect(e, `${v.type} ${hex(b)}`).toBeInstanceOf(TidewireError);
        }
      }
    }
  });

  test("a type is known if it has a name", () => {
    const known = Array.from({ length: 128 }, (_, n) => n).filter(isKnown);
    expect(known).toEqual(Object.values(types).toSorted((a, b) => a - b));
  });

  test("every type has a vector", () => {
    const seen = new Set(vectors.map((v) => v.type));
    expect(seen).toEqual(new Set(Object.keys(types)));
  });
});

test.each(read<{ name: string; type: string; hex: string; code: string }>("rejected.json"))(
  "rejected.json: $type: $name",
  (v) => {
    const refused = () => {
      const frame = cut(unhex(v.hex), 1 << 20, MAX_FIRST_FRAME);
      frames.expect(frame, types[v.type] as number);
      codecOf(v.type).parse(frame);
    };
    expect(refused).toThrow(TidewireError);
    expect(refused).toThrow(expect.objectContaining({ codeName: v.code, remote: false }));
  },
);

describe("topics", () => {
  test.each(read<{ name: string; topic: boolean; pattern: boolean; system: boolean }>("topics.json"))(
    "topics.json: $name",
    (v) => {
      const invalidTopic = expect.objectContaining({ codeName: "invalid_topic" });
      const invalidPattern = expect.objectContaining({ codeName: "invalid_pattern" });
      const topic = expect(() => topics.checkTopic(v.name));
      const pattern = expect(() => topics.checkPattern(v.name));
      if (v.topic) topic.not.toThrow();
      else topic.toThrow(invalidTopic);
      if (v.pattern) pattern.not.toThrow();
      else pattern.toThrow(invalidPattern);
      if (!v.pattern) return;
      expect(topics.isSystem(v.name)).toBe(v.system);
      expect(topics.isExact(v.name)).toBe(v.topic);
    },
  );

  test("half a surrogate pair is no character", () => {
    expect(() => topics.checkTopic("a.\ud800")).toThrow(TidewireError);
  });

  test.each(read<{ pattern: string; topic: string; match: boolean }>("matches.json"))(
    "matches.json: $pattern and $topic",
    (v) => expect(topics.matches(v.pattern, v.topic)).toBe(v.match),
  );

  test.each(read<{ outer: string; inner: string; contains: boolean }>("contains.json"))(
    "contains.json: $outer and $inner",
    (v) => expect(topics.contains(v.outer, v.inner)).toBe(v.contains),
  );
});
