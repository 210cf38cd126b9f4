// The frames of PROTOCOL §5 to §8 as this side needs them: written if the client
// sends them, parsed if the broker does. A field that is nil is undefined here.

import { type Field, type FieldReader, type Frame, writeFrame, writeShort, contradictory } from "./envelope.js";
import { type TidewireError, fail, remote } from "./errors.js";
import * as Type from "./frame-types.js";
import {
  type Limits,
  MAX_ACK_BATCH,
  MAX_AGENT,
  MAX_EPOCH,
  MAX_FIRST_FRAME,
  MAX_HEADERS,
  MAX_KEY,
  MAX_REASON,
  MAX_REPLY,
  MAX_SECRET,
  MAX_TOPIC,
} from "./limits.js";
import { checkHeaders, checkLabel } from "./options.js";
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

/** SUBSCRIBE (PROTOCOL §6.1). */
export interface Subscribe {
  readonly number: number;
  readonly pattern: string;
  readonly class: number;
  readonly priority: number;
  /** In bytes, at least 1. */
  readonly credit: number;
  readonly from?: Field;
  /** A sum of the FLAG_ constants. */
  readonly flags?: number;
  readonly filter?: Field;
  readonly group?: string | undefined;
}

/** The flags of SUBSCRIBE. */
export const FLAG_NO_ECHO = 1;
export const FLAG_NO_RETAINED = 2;
export const FLAG_PRESENCE = 4;

export function writeSubscribe(s: Subscribe): Uint8Array {
  const { flags, filter, group } = s;
  const options = flags || filter || group ? [flags || undefined, filter, group] : undefined;
  return writeShort(
    Type.SUBSCRIBE,
    s.number,
    s.pattern,
    s.class,
    s.priority,
    s.credit,
    s.from,
    options,
  );
}

/** PRIORITY (PROTOCOL §5.8). */
export function writePriority(subscription: number, priority: number): Uint8Array {
  return writeFrame(Type.PRIORITY, subscription, priority);
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
  readonly key?: string | undefined;
  /** Milliseconds, at least 1. */
  readonly ttl?: number | undefined;
  /** Names and values in turn. */
  readonly headers?: readonly string[] | undefined;
  readonly retain?: boolean | undefined;
  /** The idempotency key. */
  readonly id?: string | undefined;
  /** Milliseconds since it was sent first; undefined: this is the first time. */
  readonly age?: number | undefined;
}

/**
 * PUBLISH (PROTOCOL §7.2). `topic` is undefined on a publication stream;
 * `sequence` 0 asks for no answer. `order` is the publisher's sequence, on the
 * control stream.
 */
export function writePublish(
  sequence: number,
  topic: string | undefined,
  m: Outgoing,
  order?: number,
): Uint8Array {
  const { key, ttl, headers, id } = m;
  const mode = m.lossy ? 1 : 0;
  const retain = m.retain ? 1 : undefined;
  return writeShort(
    Type.PUBLISH,
    sequence,
    topic,
    mode,
    m.encoding,
    m.data,
    key,
    ttl,
    headers,
    retain,
    id,
    order,
    m.age,
  );
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
  if (v === 0) throw contradictory();
  return v;
}

const MAX_CLASS = 3;

/** What SUBSCRIBED and TOPIC tell of a topic. */
export interface Announcement {
  readonly topic: number;
  readonly epoch: number;
  /** The last offset before the first message that follows. */
  readonly offset: number;
  /** The topic's last offset then; undefined: the same as `offset`. */
  readonly last: number | undefined;
  /** The class in force; undefined: that of SUBSCRIBE. */
  readonly class: number | undefined;
}

/** SUBSCRIBED (PROTOCOL §6.2); topic is 0 for a pattern that is not exact. */
export interface Subscribed extends Announcement {
  /** When the subscription began. */
  readonly time: number | undefined;
  /** Topics of a pattern of which something older is to come; undefined: none. */
  readonly topics: number | undefined;
}

/** Throws unless `last` fits to the rest. */
function checkAnnouncement(a: Announcement): void {
  if (a.last !== undefined && (a.topic === 0 || a.last < a.offset)) {
    throw contradictory();
  }
}

function optionalClass(f: Frame): number | undefined {
  return f.absent() ? undefined : f.uint(MAX_CLASS);
}

export function parseSubscribed(f: Frame): Subscribed {
  let [topic, epoch, offset] = [0, 0, 0];
  if (!f.absent()) {
    topic = topicNumber(f.uint());
    epoch = f.uint(MAX_EPOCH - 1);
    offset = f.uint();
  } else if ((f.optional() ?? f.optional()) !== undefined) {
    throw contradictory();
  }
  const s = {
    topic,
    epoch,
    offset,
    last: f.optional(),
    time: f.optional(),
    class: optionalClass(f),
    topics: f.optional(),
  };
  checkAnnouncement(s);
  if (topic && s.topics !== undefined) {
    throw contradictory();
  }
  return s;
}

/** TOPIC (PROTOCOL §6.3). */
export interface TopicFrame extends Announcement {
  readonly name: string;
}

export function parseTopic(f: Frame): TopicFrame {
  const t = {
    topic: topicNumber(f.uint()),
    name: f.text(MAX_TOPIC),
    epoch: f.uint(MAX_EPOCH - 1),
    offset: f.uint(),
    last: f.optional(),
    class: optionalClass(f),
  };
  checkAnnouncement(t);
  checkTopic(t.name);
  return t;
}

/** Reads headers: names and values in turn (PROTOCOL §4.7). */
export function parseHeaders(f: FieldReader): readonly string[] {
  if (f.absent()) return [];
  const l = f.list(2 * MAX_HEADERS);
  const headers: string[] = [];
  if (l.length % 2) throw contradictory();
  while (headers.length < l.length) headers.push(l.text(MAX_FIRST_FRAME));
  checkHeaders(headers);
  return headers;
}

/** Reads a text of 1 to `limit` bytes, or "" if it is absent. */
export function parseLabel(f: FieldReader, what: string, limit: number): string {
  if (f.absent()) return "";
  const s = f.text(MAX_FIRST_FRAME);
  checkLabel(what, s, limit);
  return s;
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
  /** "": none. */
  readonly key: string;
  readonly expires: number | undefined;
  /** Names and values in turn. */
  readonly headers: readonly string[];
  /** On a request, where to send replies. */
  readonly reply: Uint8Array | undefined;
  readonly retain: boolean;
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
    key: parseLabel(f, "a key", MAX_KEY),
    expires: f.optional(),
    headers: parseHeaders(f),
    // Between them the content encoding, which nobody sends.
    reply: (f.optionalText(MAX_AGENT), f.absent() ? undefined : f.bytes(MAX_REPLY)),
    retain: ((f.optional() ?? 0) & 1) === 1,
  };
  // Neither distance goes beyond the beginning of the topic.
  if (m.previous === 0 || m.previous > m.offset || (m.reliable ?? 0) > m.offset) {
    throw contradictory();
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
    throw contradictory();
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
      throw contradictory();
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
