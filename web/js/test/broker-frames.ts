// The other side of frames.ts: what a broker writes and parses. The client has no
// need of it; the scripted broker and the golden vectors do.

import { type FieldReader, FrameWriter } from "../src/envelope.js";
import { fail } from "../src/errors.js";
import {
  type Ack,
  type Authenticated,
  type End,
  type GapFrame,
  type MessageFrame,
  type Nack,
  type NoticeFrame,
  type Resume,
  type Skip,
  type StreamEnd,
  type Subscribed,
  type TopicFrame,
  Type,
  type Welcome,
  expect,
} from "../src/frames.js";
import { MAX_AGENT, MAX_FIRST_FRAME, MAX_SECRET, MAX_TOKEN } from "../src/limits.js";
import { checkPattern, checkTopic } from "../src/topics.js";

export function writeWelcome(w: Welcome): Uint8Array {
  return new FrameWriter(Type.WELCOME, 8)
    .uint(w.version)
    .uint(w.capabilities)
    .bytes(w.client)
    .bytes(w.secret)
    .list(5)
    .uint(w.limits.payload)
    .uint(w.limits.subscriptions)
    .uint(w.limits.publications)
    .uint(w.limits.publicationCredit)
    .uint(w.limits.subscriptionCredit)
    .uint(w.base)
    .optional(w.expires)
    .optionalText(w.server)
    .frame();
}

export function writeAuthenticated(a: Authenticated): Uint8Array {
  return new FrameWriter(Type.AUTHENTICATED, 2).uint(a.number).optional(a.expires).frame();
}

export function writeNotice(n: NoticeFrame): Uint8Array {
  return new FrameWriter(Type.NOTICE, 3).uint(n.code).text(n.reason).optional(n.deadline).frame();
}

export function writeEnd(e: Partial<End>): Uint8Array {
  return new FrameWriter(Type.END, 5)
    .uint(e.code ?? 0)
    .text(e.reason ?? "")
    .optional(e.retry)
    .optional(e.epoch)
    .optional(e.offset)
    .frame();
}

export function writeStreamEnd(e: StreamEnd): Uint8Array {
  return new FrameWriter(Type.STREAM_END, 4)
    .uint(e.subscription)
    .uint(e.code)
    .text(e.reason)
    .optional(e.retry)
    .frame();
}

export function writeSubscribed(s: Subscribed): Uint8Array {
  if (s.topic === 0) return new FrameWriter(Type.SUBSCRIBED, 0).frame();
  return new FrameWriter(Type.SUBSCRIBED, 3).uint(s.topic).uint(s.epoch).uint(s.offset).frame();
}

export function writeTopic(t: TopicFrame): Uint8Array {
  return new FrameWriter(Type.TOPIC, 4)
    .uint(t.topic)
    .text(t.name)
    .uint(t.epoch)
    .uint(t.offset)
    .frame();
}

export function writeMessage(m: MessageFrame): Uint8Array {
  const fields = m.reliable !== undefined ? 8 : m.publisher ? 7 : 6;
  const w = new FrameWriter(Type.MESSAGE, fields)
    .uint(m.topic)
    .uint(m.offset)
    .uint(m.previous)
    .uint(m.time)
    .uint(m.encoding)
    .bytes(m.data);
  if (fields >= 7) w.optionalBytes(m.publisher);
  if (fields >= 8) w.optional(m.reliable);
  return w.frame();
}

export function writeGap(g: GapFrame): Uint8Array {
  return new FrameWriter(Type.GAP, 6)
    .uint(g.topic)
    .optional(g.epoch)
    .optional(g.from)
    .optional(g.to)
    .uint(g.reason)
    .optional(g.count)
    .frame();
}

export function writeSkip(s: Skip): Uint8Array {
  return new FrameWriter(Type.SKIP, 2).uint(s.topic).uint(s.to).frame();
}

export function writeAck(a: Ack): Uint8Array {
  const w = new FrameWriter(Type.ACK, 4).uint(a.sequence);
  if (a.offsets.length === 0) w.nil();
  else w.uint(a.epoch);
  w.list(a.offsets.length);
  let last = 0;
  for (const offset of a.offsets) {
    w.uint(offset - last);
    last = offset;
  }
  return w.optional(a.limit).frame();
}

export function writeNack(n: Nack): Uint8Array {
  return new FrameWriter(Type.NACK, 5)
    .uint(n.sequence)
    .uint(n.code)
    .text(n.reason)
    .optional(n.retry)
    .optional(n.limit)
    .frame();
}

export interface ParsedHello {
  readonly version: number;
  readonly capabilities: number;
  readonly token: string;
  readonly resume: Resume | undefined;
  readonly agent: string;
}

export function parseHello(f: FieldReader): ParsedHello {
  expect(f, Type.HELLO);
  const version = f.uint();
  const capabilities = f.uint();
  const token = f.optionalText(MAX_TOKEN);
  let resume: Resume | undefined;
  if (!f.absent()) {
    if (f.list(2) !== 2) throw fail("malformed_frame", "resume is not a list of two");
    resume = { client: f.id(), secret: f.bytes(MAX_SECRET) };
  }
  const agent = f.optionalText(MAX_AGENT);
  f.end();
  return { version, capabilities, token, resume, agent };
}

export function parseAuth(f: FieldReader): { number: number; token: string } {
  expect(f, Type.AUTH);
  const a = { number: f.uint(), token: f.text(MAX_TOKEN) };
  f.end();
  return a;
}

export function parseFlow(f: FieldReader): {
  subscription: number;
  limit: number;
  offset: number | undefined;
} {
  expect(f, Type.FLOW);
  const w = { subscription: f.uint(), limit: f.uint(), offset: f.optional() };
  f.end();
  return w;
}

export interface ParsedSubscribe {
  readonly number: number;
  readonly pattern: string;
  readonly class: number;
  readonly priority: number;
  readonly credit: number;
}

export function parseSubscribe(f: FieldReader): ParsedSubscribe {
  expect(f, Type.SUBSCRIBE);
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
  f.end();
  return s;
}

export interface ParsedPublication {
  readonly topic: string;
  readonly publisher: Uint8Array | undefined;
  readonly first: number;
}

export function parsePublication(f: FieldReader): ParsedPublication {
  expect(f, Type.PUBLICATION);
  const p = { topic: f.text(MAX_FIRST_FRAME), publisher: f.optionalId(), first: f.uint() };
  if (p.first === 0) throw fail("malformed_frame", "a sequence is at least 1");
  checkTopic(p.topic);
  f.end();
  return p;
}

export interface ParsedPublish {
  readonly sequence: number;
  readonly topic: string;
  readonly mode: number;
  readonly encoding: number;
  readonly data: Uint8Array;
}

export function parsePublish(f: FieldReader): ParsedPublish {
  expect(f, Type.PUBLISH);
  const p = {
    sequence: f.uint(),
    topic: f.optionalText(MAX_FIRST_FRAME),
    mode: f.uint(1),
    encoding: f.uint(255),
    data: f.bytes(),
  };
  f.end();
  return p;
}
