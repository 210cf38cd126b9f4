// What a message and a subscription may carry besides (PROTOCOL §4.5 to §4.8, §6.10),
// checked before it is sent.

import type { Field } from "./envelope.js";
import { type TidewireError, fail } from "./errors.js";
import {
  MAX_CONDITIONS,
  MAX_EPOCH,
  MAX_HEADERS,
  MAX_HEADER_BYTES,
  MAX_HEADER_NAME,
  MAX_HEADER_VALUE,
  MAX_LAST,
  MAX_POSITIONS,
  MAX_POSITIONS_BYTES,
} from "./limits.js";
import type { Position } from "./message.js";
import { checkTopic } from "./topics.js";
import { encodeUtf8 } from "./utf8.js";

/**
 * The headers of a message: at most 16, names of 1 to 64 printable ASCII characters
 * without space and colon, values of at most 512 bytes, all together at most 4 KiB.
 */
export type Headers = Readonly<Record<string, string>>;

/** The error for an option that cannot be. */
export function bad(reason: string): TidewireError {
  return fail("invalid_option", reason);
}

/**
 * Throws `invalid_option` if options are left over when those that are known were taken:
 * in plain JavaScript their names may be misspelt.
 */
export function checkRest(rest: object): void {
  for (const name in rest) throw bad(`there is no ${name}`);
}

/** Throws `invalid_option` unless v is a whole number within bounds. */
export function checkNumber(what: string, v: number, least: number, most: number): void {
  if (!(Number.isSafeInteger(v) && v >= least && v <= most)) {
    throw bad(`${what} is ${v}, not ${least} to ${most}`);
  }
}

/** Throws `invalid_option` unless a text has 1 to `limit` bytes. */
export function checkLabel(what: string, s: string | undefined, limit: number): void {
  if (s !== undefined && (s === "" || encodeUtf8(s).length > limit)) {
    throw bad(`${what} is not 1 to ${limit} bytes`);
  }
}

function checkHeader(name: string): void {
  if (!/^[!-9;-~]+$/.test(name) || name.length > MAX_HEADER_NAME) {
    throw bad(`header ${JSON.stringify(name.slice(0, MAX_HEADER_NAME))}`);
  }
}

function checkValue(value: string): number {
  if (typeof value !== "string") throw bad("a header's value is no text");
  const { length } = encodeUtf8(value);
  if (length > MAX_HEADER_VALUE) throw bad(`a header's value of ${length} bytes`);
  return length;
}

/** Throws `invalid_option` for headers, given as names and values in turn. */
export function checkHeaders(list: readonly string[]): void {
  let size = 0;
  const names = new Set<string>();
  for (const [i, text] of list.entries()) {
    size += i % 2 ? checkValue(text) : text.length;
    if (i % 2) continue;
    checkHeader(text);
    if (names.has(text)) throw bad(`header ${text} stands twice`);
    names.add(text);
  }
  if (names.size > MAX_HEADERS || size > MAX_HEADER_BYTES) {
    throw bad(`${names.size} headers of ${size} bytes`);
  }
}

/** Returns headers as they are sent; undefined if there are none. */
export function headerList(headers: Headers | undefined): string[] | undefined {
  const list = Object.entries(headers ?? {}).flat();
  checkHeaders(list);
  return list.length > 0 ? list : undefined;
}

/**
 * Where a subscription, or a page of history, begins:
 * - `position`: behind this position of the topic;
 * - `positions`: of a pattern, behind these positions by topic, at most 1,024 and 48 KiB,
 *   where a topic takes the bytes of its name and 30; every other topic with the messages
 *   `since` a time;
 * - `last`: with so many messages, 1 to 10,000;
 * - `since`: with the messages since a time, by the broker's clock;
 * - `"beginning"`: with the oldest message that is kept.
 */
export type From =
  | { readonly position: Position }
  | { readonly positions: Readonly<Record<string, Position>>; readonly since: Date }
  | { readonly last: number }
  | { readonly since: Date }
  | "beginning";

/** Where a subscription goes on: up to `values` only last values are wanted (PROTOCOL §4.8). */
export interface Place extends Position {
  readonly values?: number | undefined;
}

function checkPosition({ epoch, offset, values = 0 }: Place): readonly number[] {
  checkNumber("epoch", epoch, 0, MAX_EPOCH - 1);
  checkNumber("offset", offset, 0, Number.MAX_SAFE_INTEGER);
  return values > offset ? [epoch, offset, values] : [epoch, offset];
}

/**
 * Of positions by topic, the one used last at the end, the last ones: as many as SUBSCRIBE
 * has room for.
 */
export function fitting<P>(positions: Iterable<readonly [string, P]>): (readonly [string, P])[] {
  const newest = [...positions].toReversed();
  let bytes = 0;
  const most = newest.findIndex(([topic], i) => {
    bytes += encodeUtf8(topic).length + 30; // of which 30 are the numbers, at most
    return i === MAX_POSITIONS || bytes > MAX_POSITIONS_BYTES;
  });
  return newest.slice(0, most < 0 ? undefined : most).toReversed();
}

function brokerTime(since: Date, base: number): number {
  const ms = since?.getTime(); // who writes JavaScript may have left it out
  if (!Number.isFinite(ms)) throw bad("since is no time");
  return Math.max(0, ms - base);
}

/**
 * Returns the field `from` (PROTOCOL §4.8), for times that are counted from `base`.
 * Throws `invalid_option` or `invalid_topic`.
 */
export function fromField(from: From | undefined, base: number, exact: boolean): Field {
  if (from === undefined) return undefined;
  if (from === "beginning") return [3];
  if (typeof from === "string") throw bad(`from is ${from as string}`);
  if ("position" in from) {
    if (!exact) throw bad("a position is of one topic");
    return [0, ...checkPosition(from.position)];
  }
  if ("positions" in from) {
    if (exact) throw bad("positions are of a pattern");
    const list = Object.entries(from.positions);
    if (fitting(list).length < list.length) {
      throw bad("positions of more than 1,024 topics or 48 KiB: leave those out that were heard of the longest ago");
    }
    const positions = list.map(([topic, p]) => {
      checkTopic(topic);
      return [topic, ...checkPosition(p)];
    });
    return [4, brokerTime(from.since, base), positions];
  }
  if ("last" in from) {
    checkNumber("last", from.last, 1, MAX_LAST);
    return [1, from.last];
  }
  return [2, brokerTime(from.since, base)];
}

/**
 * What a header must be; with several conditions all of them hold:
 * - a text or a list of texts: one of these;
 * - `not`: none of these, or missing;
 * - `exists`: there, or with `false` missing;
 * - `prefix`: begins with one of these;
 * - `atLeast`, `atMost`: a decimal number within this bound.
 */
export type Condition =
  | string
  | readonly string[]
  | {
      readonly not?: string | readonly string[];
      readonly exists?: boolean;
      readonly prefix?: string | readonly string[];
      readonly atLeast?: number;
      readonly atMost?: number;
    };

/**
 * A filter on the headers of messages, evaluated by the broker: a message comes if
 * the condition of every name holds. At most 16 conditions, with at most 16 values of
 * at most 512 bytes each, and 4 KiB in all.
 */
export type Filter = Readonly<Record<string, Condition>>;

function isText(c: unknown): c is string | readonly string[] {
  return typeof c === "string" || Array.isArray(c);
}

/** A number as the broker reads it: without an exponent. */
function decimal(n: number): string {
  if (!Number.isFinite(n)) throw bad(`a condition compares with ${n}`);
  const s = String(n);
  if (!s.includes("e")) return s;
  return Math.abs(n) < 1 ? n.toFixed(20) : BigInt(n).toString();
}

/** Returns the field `filter` (PROTOCOL §6.10). Throws `invalid_option`. */
export function filterField(filter: Filter | undefined): Field {
  if (!filter) return undefined;
  const conditions: Field[] = [];
  const add = (name: string, operator: number, values: readonly string[]): void => {
    checkHeader(name);
    if (operator !== 2 && operator !== 3) checkNumber("the number of values", values.length, 1, MAX_CONDITIONS);
    values.forEach(checkValue);
    conditions.push([name, operator, ...values]);
  };
  for (const [name, c] of Object.entries(filter)) {
    const before = conditions.length;
    if (isText(c)) {
      add(name, 0, [c].flat());
      continue;
    }
    const { not, exists, prefix, atLeast, atMost, ...rest } = c;
    checkRest(rest);
    if (not !== undefined) add(name, 1, [not].flat());
    if (exists !== undefined) add(name, exists ? 2 : 3, []);
    if (prefix !== undefined) add(name, 4, [prefix].flat());
    if (atLeast !== undefined) add(name, 5, [decimal(atLeast)]);
    if (atMost !== undefined) add(name, 6, [decimal(atMost)]);
    // It would let everything through, where an operator was misspelt.
    if (conditions.length === before) throw bad(`there is no condition on ${name}`);
  }
  checkNumber("the number of conditions", conditions.length, 0, MAX_CONDITIONS);
  return conditions.length > 0 ? conditions : undefined;
}
