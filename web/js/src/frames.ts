// The frames of PROTOCOL §5 to §8 as this side needs them: written if the client
// sends them, parsed if the broker does. A field that is nil is undefined here.

import { type Frame, writeFrame } from "./envelope.js";
import { type TidewireError, fail, remote } from "./errors.js";
import * as Type from "./frame-types.js";
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

/** Throws unless f is of the type that belongs here (PROTOCOL §2.1). */
export function expect(f: Frame, type: number): void {
  if (f.type !== type) throw unexpected(f);
}

/** The error for a frame that must not be where it is. */
export function unexpected(f: Frame): Error {
  return fail(Type.isKnown(f.type) ? "unexpected_frame" : "unknown_frame", `type ${f.type}`);
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
  const resume = h.resume && [h.resume.client, h.resume.secret];
  return writeFrame(Type.HELLO, VERSION, h.capabilities, h.token || undefined, resume, h.agent || undefined);
}

/** AUTH (PROTOCOL §5.3). */
export function writeAuth(number: number, token: string): Uint8Array {
  return writeFrame(Type.AUTH, number, token);
}

/** FLOW (PROTOCOL §5.5). `limit` is in bytes since the beginning of the stream. */
export function writeFlow(subscription: number, limit: number, offset?: number): Uint8Array {
  return writeFrame(Type.FLOW, subscription, limit, offset);
}

/** SUBSCRIBE (PROTOCOL §6.1). `credit` is in bytes, at least 1. */
export function writeSubscribe(
  number: number,
  pattern: string,
  cls: number,
  priority: number,
  credit: number,
): Uint8Array {
  return writeFrame(Type.SUBSCRIBE, number, pattern, cls, priority, credit);
}

/** PUBLICATION (PROTOCOL §7.1). */
export function writePublication(
  topic: string,
  publisher: Uint8Array | undefined,
  first: number,
): Uint8Array {
  return writeFrame(Type.PUBLICATION, topic, publisher, first);
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
  return writeFrame(Type.PUBLISH, sequence, topic, m.lossy ? 1 : 0, m.encoding, m.data);
}

// Parsed by the client. The type of the frame has been checked by the caller.

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

/** The most limits that a later version may send. */
const MAX_LIMIT_FIELDS = 64;

function limits(l: ReturnType<Frame["list"]>): Limits {
  return {
    payload: l.uint(),
    subscriptions: l.uint(),
    publications: l.uint(),
    publicationCredit: l.uint(),
    subscriptionCredit: l.uint(),
  };
}

export function parseWelcome(f: Frame): Welcome {
  return {
    version: f.uint(),
    capabilities: f.uint(),
    client: f.id(),
    secret: f.bytes(MAX_SECRET),
    limits: limits(f.list(MAX_LIMIT_FIELDS)),
    base: f.uint(),
    expires: f.optional(),
    server: f.optionalText(MAX_AGENT),
  };
}

/** AUTHENTICATED (PROTOCOL §5.3). */
export interface Authenticated {
  readonly number: number;
  readonly expires: number | undefined;
}

export function parseAuthenticated(f: Frame): Authenticated {
  return { number: f.uint(), expires: f.optional() };
}

/** The largest error code. */
const MAX_CODE = 2 ** 32 - 1;

/** Reads a code, a reason and, where there is one, when to try again. */
function failure(f: Frame, retries = true): TidewireError {
  const code = f.uint(MAX_CODE);
  return remote(code, f.text(MAX_REASON), retries ? f.optional() : undefined);
}

/** NOTICE (PROTOCOL §5.4). */
export interface NoticeFrame {
  /** With what the session will end. */
  readonly error: TidewireError;
  readonly deadline: number | undefined;
}

export function parseNotice(f: Frame): NoticeFrame {
  return { error: failure(f, false), deadline: f.optional() };
}

/** END (PROTOCOL §5.7). */
export interface End {
  /** Its code may be 0: a clean end. */
  readonly error: TidewireError;
  readonly epoch: number | undefined;
  readonly offset: number | undefined;
}

export function parseEnd(f: Frame): End {
  return { error: failure(f), epoch: f.optional(), offset: f.optional() };
}

/** STREAM_END (PROTOCOL §5.6). */
export interface StreamEnd {
  readonly subscription: number;
  readonly error: TidewireError;
}

export function parseStreamEnd(f: Frame): StreamEnd {
  return { subscription: f.uint(), error: failure(f) };
}

function topicNumber(v: number): number {
  if (v === 0) throw fail("malformed_frame", "topic 0");
  return v;
}

/** SUBSCRIBED (PROTOCOL §6.2); topic is 0 for a pattern that is not exact. */
export interface Subscribed {
  readonly topic: number;
  readonly epoch: number;
  readonly offset: number;
}

export function parseSubscribed(f: Frame): Subscribed {
  if (f.absent()) return { topic: 0, epoch: 0, offset: 0 };
  return { topic: topicNumber(f.uint()), epoch: f.uint(MAX_EPOCH - 1), offset: f.uint() };
}

/** TOPIC (PROTOCOL §6.3). */
export interface TopicFrame {
  readonly topic: number;
  readonly name: string;
  readonly epoch: number;
  readonly offset: number;
}

export function parseTopic(f: Frame): TopicFrame {
  const t = {
    topic: topicNumber(f.uint()),
    name: f.text(MAX_TOPIC),
    epoch: f.uint(MAX_EPOCH - 1),
    offset: f.uint(),
  };
  checkTopic(t.name);
  return t;
}

/** MESSAGE (PROTOCOL §6.5). */
export interface MessageFrame {
  readonly topic: number;
  readonly offset: number;
  readonly previous: number;
  readonly time: number;
  readonly encoding: number;
  readonly data: Uint8Array;
  readonly publisher: Uint8Array | undefined;
  /** Undefined on a reliable message. */
  readonly reliable: number | undefined;
}

export function parseMessage(f: Frame): MessageFrame {
  const m = {
    topic: topicNumber(f.uint()),
    offset: f.uint(),
    previous: f.uint(),
    time: f.uint(),
    encoding: f.uint(255),
    data: f.bytes(),
    publisher: f.optionalId(),
    reliable: f.optional(),
  };
  // Neither distance goes beyond the beginning of the topic.
  if (m.previous === 0 || m.previous > m.offset || (m.reliable ?? 0) > m.offset) {
    throw fail("malformed_frame", "a distance is out of range");
  }
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

export function parseGap(f: Frame): GapFrame {
  const g = {
    topic: f.uint(),
    epoch: f.optional(),
    from: f.optional(),
    to: f.optional(),
    reason: f.uint(255),
    count: f.optional(),
  };
  if (g.from !== undefined && g.to !== undefined && g.from > g.to) {
    throw fail("malformed_frame", "a gap from its end");
  }
  return g;
}

/** SKIP (PROTOCOL §6.7). */
export interface Skip {
  readonly topic: number;
  readonly to: number;
}

export function parseSkip(f: Frame): Skip {
  return { topic: f.uint(), to: f.uint() };
}

/** ACK (PROTOCOL §7.4); offsets are absolute here. */
export interface Ack {
  readonly sequence: number;
  readonly epoch: number;
  readonly offsets: readonly number[];
  readonly limit: number | undefined;
}

export function parseAck(f: Frame): Ack {
  const sequence = f.uint();
  const epoch = f.optional();
  const distances = f.list(MAX_ACK_BATCH);
  const offsets: number[] = [];
  let last = 0;
  while (offsets.length < distances.length) {
    const distance = distances.uint();
    last += distance;
    if (distance === 0 || last > Number.MAX_SAFE_INTEGER || epoch === undefined) {
      throw fail("malformed_frame", "a distance is out of range, or the epoch is missing");
    }
    offsets.push(last);
  }
  return { sequence, epoch: epoch ?? 0, offsets, limit: f.optional() };
}

/** NACK (PROTOCOL §7.5). */
export interface Nack {
  readonly sequence: number;
  readonly error: TidewireError;
  readonly limit: number | undefined;
}

export function parseNack(f: Frame): Nack {
  return { sequence: f.uint(), error: failure(f), limit: f.optional() };
}
