// The other side of frames.ts: what a broker writes and parses. The client has no
// need of it; the scripted broker and the golden vectors do.

import { type Frame, writeFrame } from "../src/envelope.js";
import { type TidewireError, fail } from "../src/errors.js";
import * as Type from "../src/frame-types.js";
import type {
  Ack,
  Authenticated,
  GapFrame,
  MessageFrame,
  Resume,
  Skip,
  Subscribed,
  TopicFrame,
  Welcome,
} from "../src/frames.js";
import { MAX_AGENT, MAX_FIRST_FRAME, MAX_SECRET, MAX_TOKEN } from "../src/limits.js";
import { checkPattern, checkTopic } from "../src/topics.js";

/** What a refusal tells. */
export type Failure = Pick<TidewireError, "code" | "reason" | "retry">;

export function writeWelcome(w: Welcome): Uint8Array {
  const l = w.limits;
  const limits = [
    l.payload,
    l.subscriptions,
    l.publications,
    l.publicationCredit,
    l.subscriptionCredit,
  ];
  return writeFrame(
    Type.WELCOME,
    w.version,
    w.capabilities,
    w.client,
    w.secret,
    limits,
    w.base,
    w.expires,
    w.server || undefined,
  );
}

export function writeAuthenticated(a: Authenticated): Uint8Array {
  return writeFrame(Type.AUTHENTICATED, a.number, a.expires);
}

export function writeNotice(n: { error: Failure; deadline: number | undefined }): Uint8Array {
  return writeFrame(Type.NOTICE, n.error.code, n.error.reason, n.deadline);
}

export function writeEnd(e: {
  error: Failure;
  epoch?: number | undefined;
  offset?: number | undefined;
}): Uint8Array {
  const { code, reason, retry } = e.error;
  return writeFrame(Type.END, code, reason, retry, e.epoch, e.offset);
}

export function writeStreamEnd(e: { subscription: number; error: Failure }): Uint8Array {
  return writeFrame(Type.STREAM_END, e.subscription, e.error.code, e.error.reason, e.error.retry);
}

export function writeSubscribed(s: Subscribed): Uint8Array {
  if (s.topic === 0) return writeFrame(Type.SUBSCRIBED);
  return writeFrame(Type.SUBSCRIBED, s.topic, s.epoch, s.offset);
}

export function writeTopic(t: TopicFrame): Uint8Array {
  return writeFrame(Type.TOPIC, t.topic, t.name, t.epoch, t.offset);
}

export function writeMessage(m: MessageFrame): Uint8Array {
  const fields = [m.topic, m.offset, m.previous, m.time, m.encoding, m.data];
  if (m.reliable !== undefined) {
    return writeFrame(Type.MESSAGE, ...fields, m.publisher, m.reliable);
  }
  return m.publisher
    ? writeFrame(Type.MESSAGE, ...fields, m.publisher)
    : writeFrame(Type.MESSAGE, ...fields);
}

export function writeGap(g: GapFrame): Uint8Array {
  return writeFrame(Type.GAP, g.topic, g.epoch, g.from, g.to, g.reason, g.count);
}

export function writeSkip(s: Skip): Uint8Array {
  return writeFrame(Type.SKIP, s.topic, s.to);
}

export function writeAck(a: Ack): Uint8Array {
  const distances = a.offsets.map((offset, i) => offset - (a.offsets[i - 1] ?? 0));
  const epoch = a.offsets.length === 0 ? undefined : a.epoch;
  return writeFrame(Type.ACK, a.sequence, epoch, distances, a.limit);
}

export function writeNack(n: {
  sequence: number;
  error: Failure;
  limit?: number | undefined;
}): Uint8Array {
  const { code, reason, retry } = n.error;
  return writeFrame(Type.NACK, n.sequence, code, reason, retry, n.limit);
}

export interface ParsedHello {
  readonly version: number;
  readonly capabilities: number;
  readonly token: string;
  readonly resume: Resume | undefined;
  readonly agent: string;
}

function parseResume(l: ReturnType<Frame["list"]>): Resume {
  if (l.length !== 2) throw fail("malformed_frame", "resume is not a list of two");
  return { client: l.id(), secret: l.bytes(MAX_SECRET) };
}

export function parseHello(f: Frame): ParsedHello {
  return {
    version: f.uint(),
    capabilities: f.uint(),
    token: f.optionalText(MAX_TOKEN),
    resume: f.absent() ? undefined : parseResume(f.list(2)),
    agent: f.optionalText(MAX_AGENT),
  };
}

export function parseAuth(f: Frame): { number: number; token: string } {
  return { number: f.uint(), token: f.text(MAX_TOKEN) };
}

export interface ParsedFlow {
  readonly subscription: number;
  readonly limit: number;
  readonly offset: number | undefined;
}

export function parseFlow(f: Frame): ParsedFlow {
  return { subscription: f.uint(), limit: f.uint(), offset: f.optional() };
}

export interface ParsedSubscribe {
  readonly number: number;
  readonly pattern: string;
  readonly class: number;
  readonly priority: number;
  readonly credit: number;
}

export function parseSubscribe(f: Frame): ParsedSubscribe {
  const s = {
    number: f.uint(),
    pattern: f.text(MAX_FIRST_FRAME),
    class: f.uint(),
    priority: f.uint(),
    credit: f.uint(),
  };
  const from = f.absent();
  const options = f.absent();
  if (s.number === 0 || s.credit === 0) throw fail("malformed_frame", "at least 1");
  if (s.class > 3) throw fail("unsupported_class", `class ${s.class}`);
  if (s.priority > 7) throw fail("invalid_option", `priority ${s.priority}`);
  if (!from || !options) throw fail("invalid_option", "reserved");
  checkPattern(s.pattern);
  return s;
}

export interface ParsedPublication {
  readonly topic: string;
  readonly publisher: Uint8Array | undefined;
  readonly first: number;
}

export function parsePublication(f: Frame): ParsedPublication {
  const p = { topic: f.text(MAX_FIRST_FRAME), publisher: f.optionalId(), first: f.uint() };
  if (p.first === 0) throw fail("malformed_frame", "a sequence is at least 1");
  checkTopic(p.topic);
  return p;
}

export interface ParsedPublish {
  readonly sequence: number;
  readonly topic: string;
  readonly mode: number;
  readonly encoding: number;
  readonly data: Uint8Array;
}

export function parsePublish(f: Frame): ParsedPublish {
  return {
    sequence: f.uint(),
    topic: f.optionalText(MAX_FIRST_FRAME),
    mode: f.uint(1),
    encoding: f.uint(255),
    data: f.bytes(),
  };
}
