// The frames of PROTOCOL §5 to §8 as this side needs them: written if the client
// sends them, parsed if the broker does. A field that is nil is undefined here.

import { FieldReader, FrameWriter } from "./envelope.js";
import { fail } from "./errors.js";
import {
  type Limits,
  MAX_ACK_BATCH,
  MAX_AGENT,
  MAX_EPOCH,
  MAX_REASON,
  MAX_SECRET,
  MAX_TOPIC,
} from "./limits.js";
import { checkTopic } from "./topics.js";

/** The version of the protocol that this client speaks. */
export const VERSION = 1;
/** Capability bit 0: datagrams (PROTOCOL §5.1). */
export const CAP_DATAGRAMS = 1;

/** The frame types of version 1 (PROTOCOL §5 to §7). */
export const Type = {
  HELLO: 1,
  WELCOME: 2,
  AUTH: 3,
  AUTHENTICATED: 4,
  NOTICE: 5,
  END: 6,
  FLOW: 7,
  STREAM_END: 8,
  SUBSCRIBE: 16,
  SUBSCRIBED: 17,
  TOPIC: 18,
  MESSAGE: 19,
  GAP: 20,
  SKIP: 21,
  PUBLICATION: 32,
  PUBLISH: 33,
  ACK: 34,
  NACK: 35,
} as const;

const known: ReadonlySet<number> = new Set(Object.values(Type));

/** Throws unless f is of the type that belongs here (PROTOCOL §2.1). */
export function expect(f: FieldReader, type: number): void {
  if (f.type !== type) throw unexpected(f);
}

/** The error for a frame that must not be where it is. */
export function unexpected(f: FieldReader): Error {
  return known.has(f.type)
    ? fail("unexpected_frame", `a frame of type ${f.type} must not be here`)
    : fail("unknown_frame", `a frame of type ${f.type} is not known`);
}

// Written by the client.

/** HELLO (PROTOCOL §5.1). */
export interface Hello {
  readonly capabilities: number;
  readonly token?: string | undefined;
  readonly resume?: Resume | undefined;
  readonly agent?: string | undefined;
}

/** What resumes a session: both as WELCOME gave them (PROTOCOL §5.1). */
export interface Resume {
  readonly client: Uint8Array;
  readonly secret: Uint8Array;
}

export function writeHello(h: Hello): Uint8Array {
  const w = new FrameWriter(Type.HELLO, 5)
    .uint(VERSION)
    .uint(h.capabilities)
    .optionalText(h.token);
  if (h.resume) w.list(2).bytes(h.resume.client).bytes(h.resume.secret);
  else w.nil();
  return w.optionalText(h.agent).frame();
}

/** AUTH (PROTOCOL §5.3). */
export function writeAuth(number: number, token: string): Uint8Array {
  return new FrameWriter(Type.AUTH, 2).uint(number).text(token).frame();
}

/** FLOW (PROTOCOL §5.5). `limit` is in bytes since the beginning of the stream. */
export function writeFlow(subscription: number, limit: number, offset?: number): Uint8Array {
  return new FrameWriter(Type.FLOW, 3).uint(subscription).uint(limit).optional(offset).frame();
}

/** SUBSCRIBE (PROTOCOL §6.1). `credit` is in bytes, at least 1. */
export function writeSubscribe(
  number: number,
  pattern: string,
  cls: number,
  priority: number,
  credit: number,
): Uint8Array {
  return new FrameWriter(Type.SUBSCRIBE, 5)
    .uint(number)
    .text(pattern)
    .uint(cls)
    .uint(priority)
    .uint(credit)
    .frame();
}

/** PUBLICATION (PROTOCOL §7.1). */
export function writePublication(
  topic: string,
  publisher: Uint8Array | undefined,
  first: number,
): Uint8Array {
  return new FrameWriter(Type.PUBLICATION, 3)
    .text(topic)
    .optionalBytes(publisher)
    .uint(first)
    .frame();
}

/** What PUBLISH carries besides where it goes (PROTOCOL §7.2). */
export interface Outgoing {
  readonly lossy: boolean;
  readonly encoding: number;
  readonly data: Uint8Array;
}

/**
 * PUBLISH (PROTOCOL §7.2). `topic` is undefined on a publication stream;
 * `sequence` 0 asks for no answer.
 */
export function writePublish(
  sequence: number,
  topic: string | undefined,
  m: Outgoing,
): Uint8Array {
  return new FrameWriter(Type.PUBLISH, 5, m.data.length + (topic ? 3 * topic.length : 0) + 32)
    .uint(sequence)
    .optionalText(topic)
    .uint(m.lossy ? 1 : 0)
    .uint(m.encoding)
    .bytes(m.data)
    .frame();
}

// Parsed by the client. Each parser has checked the type of the frame.

/** WELCOME (PROTOCOL §5.2). */
export interface Welcome {
  readonly version: number;
  readonly capabilities: number;
  readonly client: Uint8Array;
  readonly secret: Uint8Array;
  readonly limits: Limits;
  /** Milliseconds since the Unix epoch at which the broker's times begin. */
  readonly base: number;
  /** When the token expires, in milliseconds since base. */
  readonly expires: number | undefined;
  readonly server: string;
}

/** How many limits version 1 has, and the most that a later one may send. */
const LIMIT_FIELDS = 5;
const MAX_LIMIT_FIELDS = 64;

export function parseWelcome(f: FieldReader): Welcome {
  expect(f, Type.WELCOME);
  const version = f.uint();
  const capabilities = f.uint();
  // These outlive the chunk that they came in.
  const client = f.id().slice();
  const secret = f.bytes(MAX_SECRET).slice();
  const n = f.list(MAX_LIMIT_FIELDS);
  if (n < LIMIT_FIELDS) throw fail("malformed_frame", "fewer limits than version 1 has");
  const limits: Limits = {
    payload: f.uint(),
    subscriptions: f.uint(),
    publications: f.uint(),
    publicationCredit: f.uint(),
    subscriptionCredit: f.uint(),
  };
  for (let i = LIMIT_FIELDS; i < n; i++) f.uint();
  const base = f.uint();
  const expires = f.optional();
  const server = f.optionalText(MAX_AGENT);
  f.end();
  return { version, capabilities, client, secret, limits, base, expires, server };
}

/** AUTHENTICATED (PROTOCOL §5.3). */
export interface Authenticated {
  readonly number: number;
  readonly expires: number | undefined;
}

export function parseAuthenticated(f: FieldReader): Authenticated {
  expect(f, Type.AUTHENTICATED);
  const a = { number: f.uint(), expires: f.optional() };
  f.end();
  return a;
}

/** The largest error code. */
const MAX_CODE = 2 ** 32 - 1;

/** NOTICE (PROTOCOL §5.4). */
export interface NoticeFrame {
  readonly code: number;
  readonly reason: string;
  readonly deadline: number | undefined;
}

export function parseNotice(f: FieldReader): NoticeFrame {
  expect(f, Type.NOTICE);
  const n = { code: f.uint(MAX_CODE), reason: f.text(MAX_REASON), deadline: f.optional() };
  f.end();
  return n;
}

/** END (PROTOCOL §5.7). */
export interface End {
  readonly code: number;
  readonly reason: string;
  readonly retry: number | undefined;
  readonly epoch: number | undefined;
  readonly offset: number | undefined;
}

export function parseEnd(f: FieldReader): End {
  expect(f, Type.END);
  const e = {
    code: f.uint(MAX_CODE),
    reason: f.text(MAX_REASON),
    retry: f.optional(),
    epoch: f.optional(),
    offset: f.optional(),
  };
  f.end();
  return e;
}

/** STREAM_END (PROTOCOL §5.6). */
export interface StreamEnd {
  readonly subscription: number;
  readonly code: number;
  readonly reason: string;
  readonly retry: number | undefined;
}

export function parseStreamEnd(f: FieldReader): StreamEnd {
  expect(f, Type.STREAM_END);
  const e = {
    subscription: f.uint(),
    code: f.uint(MAX_CODE),
    reason: f.text(MAX_REASON),
    retry: f.optional(),
  };
  f.end();
  return e;
}

function topicNumber(v: number): number {
  if (v === 0) throw fail("malformed_frame", "a topic's number is at least 1");
  return v;
}

/** SUBSCRIBED (PROTOCOL §6.2); topic is 0 for a pattern that is not exact. */
export interface Subscribed {
  readonly topic: number;
  readonly epoch: number;
  readonly offset: number;
}

export function parseSubscribed(f: FieldReader): Subscribed {
  expect(f, Type.SUBSCRIBED);
  let s: Subscribed = { topic: 0, epoch: 0, offset: 0 };
  const exact = !f.absent();
  if (exact) {
    s = { topic: topicNumber(f.uint()), epoch: f.uint(MAX_EPOCH - 1), offset: f.uint() };
  } else {
    const epoch = f.optional();
    const offset = f.optional();
    if (epoch !== undefined || offset !== undefined) {
      throw fail("malformed_frame", "an epoch or offset without a topic");
    }
  }
  f.end();
  return s;
}

/** TOPIC (PROTOCOL §6.3). */
export interface TopicFrame {
  readonly topic: number;
  readonly name: string;
  readonly epoch: number;
  readonly offset: number;
}

export function parseTopic(f: FieldReader): TopicFrame {
  expect(f, Type.TOPIC);
  const t = {
    topic: topicNumber(f.uint()),
    name: f.text(MAX_TOPIC),
    epoch: f.uint(MAX_EPOCH - 1),
    offset: f.uint(),
  };
  checkTopic(t.name);
  f.end();
  return t;
}

/** MESSAGE (PROTOCOL §6.5). */
export interface MessageFrame {
  readonly topic: number;
  readonly offset: number;
  readonly previous: number;
  readonly time: number;
  readonly encoding: number;
  /** A copy, so that a message does not keep the chunk alive that it came in. */
  readonly data: Uint8Array;
  readonly publisher: Uint8Array | undefined;
  /** Undefined on a reliable message. */
  readonly reliable: number | undefined;
}

export function parseMessage(f: FieldReader): MessageFrame {
  expect(f, Type.MESSAGE);
  const m = {
    topic: topicNumber(f.uint()),
    offset: f.uint(),
    previous: f.uint(),
    time: f.uint(),
    encoding: f.uint(255),
    data: f.bytes().slice(),
    publisher: f.optionalId()?.slice(),
    reliable: f.optional(),
  };
  if (m.previous === 0 || m.previous > m.offset) {
    throw fail("malformed_frame", "previous is at least 1 and at most the offset");
  }
  if ((m.reliable ?? 0) > m.offset) {
    throw fail("malformed_frame", "the last reliable message is before the first");
  }
  f.end();
  return m;
}

/** GAP (PROTOCOL §6.6). */
export interface GapFrame {
  /** 0: every topic of the pattern. */
  readonly topic: number;
  readonly epoch: number | undefined;
  readonly from: number | undefined;
  readonly to: number | undefined;
  readonly reason: number;
  readonly count: number | undefined;
}

export function parseGap(f: FieldReader): GapFrame {
  expect(f, Type.GAP);
  const g = {
    topic: f.uint(),
    epoch: f.optional(),
    from: f.optional(),
    to: f.optional(),
    reason: f.uint(255),
    count: f.optional(),
  };
  if (g.from !== undefined && g.to !== undefined && g.from > g.to) {
    throw fail("malformed_frame", "a gap ends before it begins");
  }
  f.end();
  return g;
}

/** SKIP (PROTOCOL §6.7). */
export interface Skip {
  readonly topic: number;
  readonly to: number;
}

export function parseSkip(f: FieldReader): Skip {
  expect(f, Type.SKIP);
  const s = { topic: f.uint(), to: f.uint() };
  f.end();
  return s;
}

/** ACK (PROTOCOL §7.4); offsets are absolute here. */
export interface Ack {
  readonly sequence: number;
  readonly epoch: number;
  readonly offsets: readonly number[];
  readonly limit: number | undefined;
}

export function parseAck(f: FieldReader): Ack {
  expect(f, Type.ACK);
  const sequence = f.uint();
  const epoch = f.optional();
  const n = f.list(MAX_ACK_BATCH);
  const offsets: number[] = [];
  let last = 0;
  for (let i = 0; i < n; i++) {
    const distance = f.uint();
    last += distance;
    if (distance === 0 || last > Number.MAX_SAFE_INTEGER) {
      throw fail("malformed_frame", "offsets do not increase");
    }
    offsets.push(last);
  }
  const limit = f.optional();
  if (n > 0 && epoch === undefined) throw fail("malformed_frame", "offsets without an epoch");
  f.end();
  return { sequence, epoch: n > 0 ? (epoch ?? 0) : 0, offsets, limit };
}

/** NACK (PROTOCOL §7.5). */
export interface Nack {
  readonly sequence: number;
  readonly code: number;
  readonly reason: string;
  readonly retry: number | undefined;
  readonly limit: number | undefined;
}

export function parseNack(f: FieldReader): Nack {
  expect(f, Type.NACK);
  const n = {
    sequence: f.uint(),
    code: f.uint(MAX_CODE),
    reason: f.text(MAX_REASON),
    retry: f.optional(),
    limit: f.optional(),
  };
  f.end();
  return n;
}
