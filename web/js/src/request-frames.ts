// The frames of health, history, presence and requests (PROTOCOL §5.9, §6.8, §7.7 and
// §7.8): written if the client sends them, parsed if the broker does.

import { type Field, type Frame, writeFrame, writeShort, contradictory } from "./envelope.js";
import { type TidewireError, remote } from "./errors.js";
import * as Type from "./frame-types.js";
import { parseHeaders } from "./frames.js";
import { MAX_EPOCH, MAX_LISTED, MAX_REASON, MAX_TOPIC } from "./limits.js";
import type { Payload } from "./payload.js";

/** PING (PROTOCOL §5.9). */
export function writePing(number: number, subscriptions: boolean): Uint8Array {
  return writeShort(Type.PING, number, subscriptions ? 1 : undefined);
}

/** How a subscription stands, as the broker sees it. */
export interface SubscriptionCounts {
  readonly subscription: number;
  /** Bytes and messages that wait. */
  readonly bytes: number;
  readonly messages: number;
  /** Messages since the subscription began. */
  readonly conflated: number;
  readonly dropped: number;
}

/** PONG (PROTOCOL §5.9). */
export interface Pong {
  readonly number: number;
  /** Microseconds. */
  readonly rtt: number | undefined;
  /** Packets. */
  readonly sent: number | undefined;
  readonly lost: number | undefined;
  readonly subscriptions: readonly SubscriptionCounts[];
}

export function parsePong(f: Frame): Pong {
  const pong = { number: f.uint(), rtt: f.optional(), sent: f.optional(), lost: f.optional() };
  const subscriptions: SubscriptionCounts[] = [];
  if (f.absent()) return { ...pong, subscriptions };
  const list = f.list(MAX_LISTED);
  while (subscriptions.length < list.length) {
    const l = list.list(5);
    subscriptions.push({
      subscription: l.uint(),
      bytes: l.uint(),
      messages: l.uint(),
      conflated: l.uint(),
      dropped: l.uint(),
    });
  }
  return { ...pong, subscriptions };
}

/** FETCH (PROTOCOL §6.8). */
export function writeFetch(topic: string, from: Field, backward: boolean, limit: number): Uint8Array {
  return writeFrame(Type.FETCH, topic, from, backward ? 1 : 0, limit);
}

/** PAGE (PROTOCOL §6.8). */
export interface Page {
  readonly topic: number;
  readonly epoch: number;
  /** Of the oldest message that is kept; 0: none is. */
  readonly first: number;
  /** Of the last message that is given. */
  readonly last: number;
}

export function parsePage(f: Frame): Page {
  const p = { topic: f.uint(), epoch: f.uint(MAX_EPOCH - 1), first: f.uint(), last: f.uint() };
  if (p.topic === 0 || p.first > p.last) throw contradictory();
  return p;
}

/** PRESENCE (PROTOCOL §7.8); without a state the session is not present any more. */
export function writePresence(
  number: number,
  topic: string,
  state: Payload | undefined,
): Uint8Array {
  return writeShort(Type.PRESENCE, number, topic, state?.encoding, state?.data);
}

/** COUNT (PROTOCOL §7.8). */
export function writeCount(number: number, pattern: string): Uint8Array {
  return writeFrame(Type.COUNT, number, pattern);
}

/** COUNTS (PROTOCOL §7.8). */
export interface Counts {
  readonly number: number;
  /** How many sessions are present, by topic. */
  readonly topics: ReadonlyMap<string, number>;
  /** Whether there are other topics. */
  readonly more: boolean;
}

export function parseCounts(f: Frame): Counts {
  const number = f.uint();
  const l = f.list(2 * MAX_LISTED);
  if (l.length % 2) throw contradictory();
  const topics = new Map<string, number>();
  for (let n = l.length; n > 0; n -= 2) topics.set(l.text(MAX_TOPIC), l.uint());
  return { number, topics, more: f.uint(1) === 1 };
}

/** REQUEST (PROTOCOL §7.7). */
export interface Request extends Payload {
  readonly topic: string;
  /** Milliseconds. */
  readonly timeout: number;
  /** The most replies. */
  readonly limit: number;
  readonly key: string | undefined;
  readonly headers: readonly string[] | undefined;
}

export function writeRequest(number: number, r: Request): Uint8Array {
  return writeFrame(
    Type.REQUEST,
    number,
    r.topic,
    r.timeout,
    r.limit,
    r.encoding,
    r.data,
    r.key,
    r.headers,
  );
}

/** RESPONSE (PROTOCOL §7.7): one reply. */
export interface Response extends Payload {
  readonly number: number;
  readonly publisher: Uint8Array | undefined;
  /** Names and values in turn. */
  readonly headers: readonly string[];
}

export function parseResponse(f: Frame): Response {
  return {
    number: f.uint(),
    encoding: f.uint(255),
    data: f.bytes(),
    publisher: f.optionalId(),
    headers: parseHeaders(f),
  };
}

/** DONE (PROTOCOL §7.7): the end of a request. */
export interface Done {
  readonly number: number;
  /** Its code is 0 if there were as many replies as were asked for. */
  readonly error: TidewireError;
}

export function parseDone(f: Frame): Done {
  const number = f.uint();
  const code = f.uint(2 ** 32 - 1);
  return { number, error: remote(code, f.text(MAX_REASON)) };
}

/** REPLY (PROTOCOL §7.7). */
export function writeReply(
  to: Uint8Array,
  p: Payload,
  headers: readonly string[] | undefined,
): Uint8Array {
  return writeFrame(Type.REPLY, to, p.encoding, p.data, headers);
}

/** CANCEL (PROTOCOL §7.7). */
export function writeCancel(number: number): Uint8Array {
  return writeFrame(Type.CANCEL, number);
}
