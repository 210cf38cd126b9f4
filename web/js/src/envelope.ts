// The MessagePack profile of the envelope (PROTOCOL §2.2) and the layout of a
// frame (§2.1). Payloads have a codec of their own: msgpack.ts.

import { fail, type TidewireError } from "./errors.js";

const encoder = new TextEncoder();
// A byte order mark is a character like any other here.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The largest length that this client can count: 2^53 - 1. */
const MAX_INTEGER = Number.MAX_SAFE_INTEGER;

/** Room for the length before the body: the longest form of RFC 9000 §16. */
const HEAD = 8;

/** A variable-length integer of RFC 9000 §16. */
interface Varint {
  readonly value: number;
  /** The bytes that it takes. */
  readonly size: number;
}

/**
 * Reads a variable-length integer at `at`; undefined if `b` ends within it. A
 * value above 2^53 - 1 loses its last bits, and is above every limit all the
 * same.
 */
export function readVarint(b: Uint8Array, at: number, end: number): Varint | undefined {
  if (at >= end) return undefined;
  const first = b[at] as number;
  const size = 1 << (first >> 6);
  if (end - at < size) return undefined;
  let value = first & 0x3f;
  for (let i = 1; i < size; i++) value = value * 256 + (b[at + i] as number);
  return { value, size };
}

/**
 * Writes one frame, field by field. The body is written behind room for its
 * length, which is put before it in the end, so that nothing is moved.
 */
export class FrameWriter {
  #b: Uint8Array;
  #view: DataView;
  #at = HEAD;

  /** Begins a frame of `fields` fields, the type not counted. */
  constructor(type: number, fields: number, room = 64) {
    this.#b = new Uint8Array(HEAD + room);
    this.#view = new DataView(this.#b.buffer);
    this.list(fields + 1);
    this.uint(type);
  }

  #room(n: number): number {
    const at = this.#at;
    this.#at += n;
    if (this.#at > this.#b.length) {
      const grown = new Uint8Array(Math.max(2 * this.#b.length, this.#at));
      grown.set(this.#b);
      this.#b = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }

  /** Writes a code byte and a big-endian integer of `size` bytes. */
  #head(code: number, v: number, size: number): void {
    const at = this.#room(1 + size);
    this.#b[at] = code;
    if (size === 1) this.#b[at + 1] = v;
    else if (size === 2) this.#view.setUint16(at + 1, v);
    else if (size === 4) this.#view.setUint32(at + 1, v);
    else if (size === 8) {
      this.#view.setUint32(at + 1, Math.floor(v / 2 ** 32));
      this.#view.setUint32(at + 5, v >>> 0);
    }
  }

  uint(v: number): this {
    if (v < 0x80) this.#head(v, 0, 0);
    else if (v < 0x100) this.#head(0xcc, v, 1);
    else if (v < 0x10000) this.#head(0xcd, v, 2);
    else if (v < 2 ** 32) this.#head(0xce, v, 4);
    else this.#head(0xcf, v, 8);
    return this;
  }

  nil(): this {
    this.#head(0xc0, 0, 0);
    return this;
  }

  optional(v: number | undefined): this {
    return v === undefined ? this.nil() : this.uint(v);
  }

  text(s: string): this {
    const b = encoder.encode(s);
    const n = b.length;
    if (n < 32) this.#head(0xa0 | n, 0, 0);
    else if (n < 0x100) this.#head(0xd9, n, 1);
    else if (n < 0x10000) this.#head(0xda, n, 2);
    else this.#head(0xdb, n, 4);
    return this.#append(b);
  }

  optionalText(s: string | undefined): this {
    return s ? this.text(s) : this.nil();
  }

  bytes(b: Uint8Array): this {
    const n = b.length;
    if (n < 0x100) this.#head(0xc4, n, 1);
    else if (n < 0x10000) this.#head(0xc5, n, 2);
    else this.#head(0xc6, n, 4);
    return this.#append(b);
  }

  optionalBytes(b: Uint8Array | undefined): this {
    return b ? this.bytes(b) : this.nil();
  }

  list(n: number): this {
    if (n < 16) this.#head(0x90 | n, 0, 0);
    else this.#head(0xdc, n, 2);
    return this;
  }

  #append(b: Uint8Array): this {
    const at = this.#room(b.length); // may replace the buffer
    this.#b.set(b, at);
    return this;
  }

  /** Ends the frame and returns its bytes, the length included. */
  frame(): Uint8Array {
    const body = this.#at - HEAD;
    const size = body < 0x40 ? 1 : body < 0x4000 ? 2 : 4;
    const start = HEAD - size;
    if (size === 1) this.#b[start] = body;
    else if (size === 2) this.#view.setUint16(start, body | 0x4000);
    else this.#view.setUint32(start, body + 0x8000_0000);
    return this.#b.subarray(start, this.#at);
  }
}

function malformed(reason: string): TidewireError {
  return fail("malformed_frame", reason);
}

/** Reads the fields of one frame in order; every fault is thrown at once. */
export class FieldReader {
  readonly type: number;
  /** Bytes of the frame on the wire, the length included. */
  readonly size: number;
  #b: Uint8Array;
  #at: number;
  #end: number;
  #left: number; // fields of the array that were not read yet

  /** Opens the body b[at:end] of a frame of `size` bytes. */
  constructor(b: Uint8Array, at: number, end: number, size: number) {
    this.#b = b;
    this.#at = at;
    this.#end = end;
    this.#left = 1;
    this.size = size;
    this.#left = this.list(Number.MAX_SAFE_INTEGER);
    this.type = this.uint(127);
  }

  /** Takes note of a field that must be there and returns its first byte. */
  #field(): number {
    if (this.#left <= 0) throw malformed("a field is missing");
    this.#left--;
    return this.#take(1);
  }

  /** Takes a big-endian integer of `size` bytes. */
  #take(size: number): number {
    if (this.#end - this.#at < size) throw malformed("the frame ends within its fields");
    let v = 0;
    for (let i = 0; i < size; i++) v = v * 256 + (this.#b[this.#at++] as number);
    return v;
  }

  /** Reads an unsigned integer of at most `limit`. */
  uint(limit = MAX_INTEGER): number {
    const c = this.#field();
    let v = c;
    if (c > 0x7f) {
      if (c < 0xcc || c > 0xcf) throw malformed("a field is no unsigned integer");
      v = this.#take(1 << (c - 0xcc));
    }
    if (v > limit) throw malformed("an integer is above its limit");
    return v;
  }

  /** Reports whether the next field is nil or left out, and takes it if so. */
  absent(): boolean {
    if (this.#left <= 0) return true;
    if (this.#at < this.#end && this.#b[this.#at] !== 0xc0) return false;
    this.#field();
    return true;
  }

  optional(limit?: number): number | undefined {
    return this.absent() ? undefined : this.uint(limit);
  }

  /** Takes n bytes that refer to the frame. */
  #span(n: number, limit: number): Uint8Array {
    if (n > this.#end - this.#at) throw malformed("the frame ends within its fields");
    if (n > limit) throw malformed("a field is longer than its limit");
    return this.#b.subarray(this.#at, (this.#at += n));
  }

  /** Reads bytes without a copy: they refer to the frame. */
  bytes(limit = MAX_INTEGER): Uint8Array {
    const c = this.#field();
    if (c < 0xc4 || c > 0xc6) throw malformed("a field is not bytes");
    return this.#span(this.#take(1 << (c - 0xc4)), limit);
  }

  text(limit: number): string {
    const c = this.#field();
    let n = c & 0x1f;
    if (c >> 5 !== 5) {
      if (c < 0xd9 || c > 0xdb) throw malformed("a field is not text");
      n = this.#take(1 << (c - 0xd9));
    }
    try {
      return decoder.decode(this.#span(n, limit));
    } catch (e) {
      throw e instanceof TypeError ? malformed("text is not UTF-8") : e;
    }
  }

  optionalText(limit: number): string {
    return this.absent() ? "" : this.text(limit);
  }

  /** Reads 16 bytes that refer to the frame. */
  id(): Uint8Array {
    const b = this.bytes(16);
    if (b.length !== 16) throw malformed("an id is not 16 bytes");
    return b;
  }

  optionalId(): Uint8Array | undefined {
    return this.absent() ? undefined : this.id();
  }

  /**
   * Opens a list of at most `limit` elements; from here on they count as fields
   * of the frame.
   */
  list(limit: number): number {
    const c = this.#field();
    let n = c & 0x0f;
    if (c >> 4 !== 9) {
      if (c !== 0xdc && c !== 0xdd) throw malformed("a field is no list");
      n = this.#take(c === 0xdc ? 2 : 4);
    }
    if (n > limit) throw malformed("a list is longer than its limit");
    this.#left += n;
    return n;
  }

  /**
   * Ends the reading of a frame: what follows the last field of the array is an
   * error, unless fields of a later version come first (PROTOCOL §2.2).
   */
  end(): void {
    if (this.#left === 0 && this.#at < this.#end) throw malformed("bytes behind the last field");
  }
}
