// The other side of frames.ts: what a broker writes and parses. The client has no
// need of it; the scripted broker and the golden vectors do.

import { type Field, type FieldReader, type Frame, writeFrame, writeShort } from "../src/envelope.js";
import { type TidewireError, fail } from "../src/errors.js";
import * as Type from "../src/frame-types.js";
import {
  type Ack,
  type Authenticated,
  type GapFrame,
  type MessageFrame,
  type Resume,
  type Skip,
  type Subscribed,
  type TopicFrame,
  type Welcome,
  parseHeaders,
  parseLabel,
} from "../src/frames.js";
import {
  MAX_AGENT,
  MAX_CONDITIONS,
  MAX_HEADER_BYTES,
  MAX_EPOCH,
  MAX_FIRST_FRAME,
  MAX_KEY,
  MAX_LABEL,
  MAX_LAST,
  MAX_PAGE,
  MAX_POSITIONS,
  MAX_REPLIES,
  MAX_REPLY,
  MAX_SECRET,
  MAX_TIMEOUT,
  MAX_TOKEN,
} from "../src/limits.js";
import { checkHeaders, checkNumber } from "../src/options.js";
import type { Payload } from "../src/payload.js";
import type { Counts, Page, Pong, Response } from "../src/request-frames.js";
import { checkPattern, checkTopic, isExact } from "../src/topics.js";
import { encodeUtf8 } from "../src/utf8.js";

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

type Announced = "last" | "class" | "time" | "topics";

export function writeSubscribed(
  s: Omit<Subscribed, Announced> & Partial<Pick<Subscribed, Announced>>,
): Uint8Array {
  const at = s.topic === 0 ? [undefined, undefined, undefined] : [s.topic, s.epoch, s.offset];
  return writeShort(Type.SUBSCRIBED, ...at, s.last, s.time, s.class, s.topics);
}

export function writeTopic(
  t: Omit<TopicFrame, "last" | "class"> & Partial<Pick<TopicFrame, "last" | "class">>,
): Uint8Array {
  return writeShort(Type.TOPIC, t.topic, t.name, t.epoch, t.offset, t.last, t.class);
}

export function writeMessage(m: MessageFrame): Uint8Array {
  return writeShort(
    Type.MESSAGE,
    m.topic,
    m.offset,
    m.previous,
    m.time,
    m.encoding,
    m.data,
    m.publisher,
    m.reliable,
    m.key || undefined,
    m.expires,
    m.headers.length > 0 ? m.headers : undefined,
    undefined,
    m.reply,
    m.retain ? 1 : undefined,
  );
}

export function writePong(p: Pong): Uint8Array {
  const list = p.subscriptions.map((s) => [
    s.subscription,
    s.bytes,
    s.messages,
    s.conflated,
    s.dropped,
  ]);
  return writeFrame(Type.PONG, p.number, p.rtt, p.sent, p.lost, list.length > 0 ? list : undefined);
}

export function writePage(p: Page): Uint8Array {
  return writeFrame(Type.PAGE, p.topic, p.epoch, p.first, p.last);
}

export function writeCounts(c: Counts): Uint8Array {
  return writeFrame(Type.COUNTS, c.number, [...c.topics].flat(), c.more ? 1 : 0);
}

export function writeResponse(r: Response): Uint8Array {
  const headers = r.headers.length > 0 ? r.headers : undefined;
  return writeFrame(Type.RESPONSE, r.number, r.encoding, r.data, r.publisher, headers);
}

export function writeDone(d: { number: number; error: Failure }): Uint8Array {
  return writeFrame(Type.DONE, d.number, d.error.code, d.error.reason);
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
  /** As it came (PROTOCOL §4.8). */
  readonly from: Field;
  readonly flags: number;
  /** As it came (PROTOCOL §6.10). */
  readonly filter: readonly [string, number, ...string[]][];
  readonly group: string;
}

/** Reads a list of any length, so that too long a one is a bad option. */
function anyList(f: FieldReader): FieldReader {
  return f.list(MAX_FIRST_FRAME);
}

function invalid(reason: string): Error {
  return fail("invalid_option", reason);
}

/** Reads `from` (PROTOCOL §4.8). */
function parseFrom(f: Frame): Field {
  if (f.absent()) return undefined;
  const l = f.list(4);
  const form = l.uint();
  const lengths = [3, 2, 2, 1, 3];
  if (form >= lengths.length) throw invalid(`form ${form}`);
  const from: Field[] = [form];
  if (form === 0) from.push(...parsePosition(l));
  if (form === 1) {
    const last = l.uint();
    checkNumber("last", last, 1, MAX_LAST);
    from.push(last);
  }
  if (form === 2 || form === 4) from.push(l.uint());
  if (form === 4) from.push(parsePositions(l.list(MAX_POSITIONS)));
  if (l.length !== lengths[form] && (form > 0 || l.length < 3)) throw fail("malformed_frame", "from");
  return from;
}

function parsePositions(l: FieldReader): Field[] {
  return Array.from({ length: l.length }, () => {
    const p = l.list(4);
    if (p.length < 3) throw fail("malformed_frame", "a position");
    const topic = p.text(MAX_FIRST_FRAME);
    checkTopic(topic);
    return [topic, ...parsePosition(p)];
  });
}

/** Epoch and offset, and up to where only last values are wanted if that is beyond. */
function parsePosition(l: FieldReader): number[] {
  const at = [l.uint(MAX_EPOCH - 1), l.uint()];
  const values = l.optional() ?? 0;
  return values > (at[1] ?? 0) ? [...at, values] : at;
}

function parseFilter(f: FieldReader): [string, number, ...string[]][] {
  if (f.absent()) return [];
  const l = anyList(f);
  checkNumber("conditions", l.length, 0, MAX_CONDITIONS);
  let size = 0;
  return Array.from({ length: l.length }, () => {
    const c = anyList(l);
    if (c.length < 2) throw invalid("a condition");
    const name = c.text(MAX_FIRST_FRAME);
    checkHeaders([name, ""]);
    const operator = c.uint();
    checkNumber("operator", operator, 0, 6);
    const values = Array.from({ length: c.length - 2 }, () => c.text(MAX_FIRST_FRAME));
    for (const value of values) checkHeaders(["x", value]);
    for (const text of [name, ...values]) size += encodeUtf8(text).length;
    checkNumber("bytes", size, 0, MAX_HEADER_BYTES);
    const [least, most] = operator === 2 || operator === 3 ? [0, 0] : [1, operator > 4 ? 1 : MAX_CONDITIONS];
    checkNumber("values", values.length, least, most);
    if (operator > 4 && !/^[+-]?(\d+\.?\d*|\.\d+)$/.test(values[0] as string)) throw invalid("number");
    return [name, operator, ...values];
  });
}

export function parseSubscribe(f: Frame): ParsedSubscribe {
  const s = {
    number: f.uint(),
    pattern: f.text(MAX_FIRST_FRAME),
    class: f.uint(),
    priority: f.uint(),
    credit: f.uint(),
    from: parseFrom(f),
  };
  const options = f.absent() ? undefined : anyList(f);
  if ((options?.length ?? 0) > 3) throw invalid("an option that is not known");
  const flags = options?.optional() ?? 0;
  if (flags > 7) throw invalid(`flags ${flags}`);
  const filter = options ? parseFilter(options) : [];
  const group = options ? parseLabel(options, "a group", MAX_LABEL) : "";
  if (s.number === 0 || s.credit === 0) throw fail("malformed_frame", "at least 1");
  if (s.class > 3) throw fail("unsupported_class", `class ${s.class}`);
  if (s.priority > 7) throw invalid(`priority ${s.priority}`);
  checkPattern(s.pattern);
  const form = (s.from as number[] | undefined)?.[0];
  if (form === (isExact(s.pattern) ? 4 : 0)) throw invalid("this from with this pattern");
  if (group && (s.from || flags & 4)) throw invalid("a group with these options");
  return { ...s, flags, filter, group };
}

export function parsePriority(f: Frame): { subscription: number; priority: number } {
  return { subscription: f.uint(), priority: f.uint(7) };
}

export function parsePing(f: Frame): { number: number; subscriptions: boolean } {
  return { number: f.uint(), subscriptions: ((f.optional() ?? 0) & 1) === 1 };
}

export interface ParsedFetch {
  readonly topic: string;
  readonly from: Field;
  readonly backward: boolean;
  readonly limit: number;
}

export function parseFetch(f: Frame): ParsedFetch {
  const topic = f.text(MAX_FIRST_FRAME);
  const from = parseFrom(f);
  const direction = f.uint();
  const limit = f.uint();
  checkNumber("direction", direction, 0, 1);
  checkNumber("limit", limit, 1, MAX_PAGE);
  const form = (from as number[] | undefined)?.[0] ?? 0;
  const values = form === 0 && (from as number[] | undefined)?.[3] !== undefined;
  if (form === 4 || values || (direction === 1 && form > 0)) throw invalid("a page from there");
  checkTopic(topic);
  return { topic, from, backward: direction === 1, limit };
}

export interface ParsedPresence {
  readonly number: number;
  readonly topic: string;
  readonly state: Payload | undefined;
}

export function parsePresence(f: Frame): ParsedPresence {
  const p = { number: f.uint(), topic: f.text(MAX_FIRST_FRAME) };
  if (!f.absent()) return { ...p, state: { encoding: f.uint(255), data: f.bytes() } };
  if (!f.absent()) throw fail("malformed_frame", "a state without an encoding");
  return { ...p, state: undefined };
}

export function parseCount(f: Frame): { number: number; pattern: string } {
  return { number: f.uint(), pattern: f.text(MAX_FIRST_FRAME) };
}

export interface ParsedRequest extends Payload {
  readonly number: number;
  readonly topic: string;
  readonly timeout: number;
  readonly limit: number;
  readonly key: string;
  readonly headers: readonly string[];
}

export function parseRequest(f: Frame): ParsedRequest {
  const r = {
    number: f.uint(),
    topic: f.text(MAX_FIRST_FRAME),
    timeout: f.uint(),
    limit: f.uint(),
    encoding: f.uint(255),
    data: f.bytes(),
    key: parseLabel(f, "a key", MAX_KEY),
    headers: parseHeaders(f),
  };
  checkNumber("timeout", r.timeout, 1, MAX_TIMEOUT);
  checkNumber("limit", r.limit, 1, MAX_REPLIES);
  return r;
}

export interface ParsedReply extends Payload {
  readonly to: Uint8Array;
  readonly headers: readonly string[];
}

export function parseReply(f: Frame): ParsedReply {
  return {
    to: f.bytes(MAX_REPLY),
    encoding: f.uint(255),
    data: f.bytes(),
    headers: parseHeaders(f),
  };
}

export function parseCancel(f: Frame): { number: number } {
  return { number: f.uint() };
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
  readonly key: string;
  readonly ttl: number | undefined;
  readonly headers: readonly string[];
  readonly retain: boolean;
  readonly id: string;
  readonly order: number | undefined;
  readonly age: number | undefined;
}

export function parsePublish(f: Frame): ParsedPublish {
  const p = {
    sequence: f.uint(),
    topic: f.optionalText(MAX_FIRST_FRAME),
    mode: f.uint(1),
    encoding: f.uint(255),
    data: f.bytes(),
    key: parseLabel(f, "a key", MAX_KEY),
    ttl: f.optional(),
    headers: parseHeaders(f),
  };
  const flags = f.optional() ?? 0;
  const id = parseLabel(f, "an idempotency key", MAX_LABEL);
  const order = f.optional();
  const age = f.optional();
  if (flags > 1 || p.ttl === 0 || (flags && p.mode)) throw invalid("publish");
  return { ...p, retain: flags === 1, id, order, age };
}
