// MessagePack: for payloads all of the format except extensions other than
// timestamps, and for the envelope the profile of PROTOCOL §2.2.

import { decodeUtf8, encodeUtf8 } from "./utf8.js";

/** How deep arrays and maps may be nested; deeper is an error, both ways. */
const MAX_DEPTH = 64;

/** The extension type of timestamps, -1, as a byte. */
const TIMESTAMP = 0xff;

/** Whether a value is bytes. */
export function isBytes(v: unknown): v is ArrayBuffer | ArrayBufferView {
  return v instanceof ArrayBuffer || ArrayBuffer.isView(v);
}

/** Returns the bytes of a value that is bytes, without a copy. */
export function viewBytes(v: ArrayBuffer | ArrayBufferView): Uint8Array {
  return ArrayBuffer.isView(v)
    ? new Uint8Array(v.buffer, v.byteOffset, v.byteLength)
    : new Uint8Array(v);
}

function unencodable(what: string): TypeError {
  return new TypeError(`no MessagePack of a ${what}`);
}

/** Writes values to a buffer that grows. */
class Encoder {
  #b: Uint8Array;
  #view: DataView;
  #at: number;

  /** Begins behind `skip` bytes. */
  constructor(skip: number) {
    this.#b = new Uint8Array(256);
    this.#view = new DataView(this.#b.buffer);
    this.#at = skip;
  }

  /** Takes room for n bytes and returns where it begins; it may replace the buffer. */
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

  /** Writes a code and behind it the lowest `size` bytes of v, at most four. */
  #code(code: number, v = 0, size = 0): void {
    const at = this.#room(1 + size);
    this.#b[at] = code;
    for (let i = size; i > 0; i--, v >>= 8) this.#b[at + i] = v;
  }

  #int64(v: bigint): void {
    const at = this.#room(8);
    this.#view.setBigUint64(at, BigInt.asUintN(64, v));
  }

  /**
   * Writes n, the number of elements that follow or the value itself, in the
   * shortest form: in `fix` if it is less than `few`, else behind `code` in one
   * byte, behind the next code in two, or behind the one after that in four. The
   * form of one byte is left out if `wide` is 1.
   */
  #header(n: number, fix: number, few: number, code: number, wide = 0): void {
    const form = Math.max(wide, n < 0x100 ? 0 : n < 0x10000 ? 1 : 2);
    if (n < few) this.#code(fix | n);
    else this.#code(code + form, n, 1 << form);
  }

  #raw(b: Uint8Array): void {
    const at = this.#room(b.length);
    this.#b.set(b, at);
  }

  #bytes(b: Uint8Array): void {
    this.#header(b.length, 0, 0, 0xc4);
    this.#raw(b);
  }

  #number(v: number): void {
    if (!Number.isSafeInteger(v) || Object.is(v, -0)) {
      this.#code(0xcb);
      const at = this.#room(8);
      this.#view.setFloat64(at, v);
    } else if (v < -(2 ** 31) || v >= 2 ** 32) this.#bigint(BigInt(v));
    else if (v >= 0) this.#header(v, 0, 0x80, 0xcc);
    else if (v >= -32) this.#code(v);
    else {
      const form = v >= -0x80 ? 0 : v >= -0x8000 ? 1 : 2;
      this.#code(0xd0 + form, v, 1 << form);
    }
  }

  #bigint(v: bigint): void {
    if (BigInt.asUintN(64, v) !== v && BigInt.asIntN(64, v) !== v) {
      throw unencodable("bigint of more than 64 bits");
    }
    this.#code(v < 0n ? 0xd3 : 0xcf);
    this.#int64(v);
  }

  #date(v: Date): void {
    const ms = v.getTime();
    if (Number.isNaN(ms)) throw unencodable("invalid Date");
    const seconds = Math.floor(ms / 1000);
    this.#code(0xc7, 12, 1); // the form of 96 bits holds every Date
    this.#code(TIMESTAMP, (ms - seconds * 1000) * 1e6, 4);
    this.#int64(BigInt(seconds));
  }

  #values(values: Iterable<unknown>, depth: number): void {
    for (const v of values) this.value(v, depth + 1);
  }

  value(v: unknown, depth: number): void {
    if (v === undefined || v === null) this.#code(0xc0);
    else if (typeof v === "boolean") this.#code(v ? 0xc3 : 0xc2);
    else if (typeof v === "number") this.#number(v);
    else if (typeof v === "bigint") this.#bigint(v);
    else if (typeof v === "string") {
      const b = encodeUtf8(v);
      this.#header(b.length, 0xa0, 32, 0xd9);
      this.#raw(b);
    } else if (typeof v !== "object") throw unencodable(typeof v);
    else if (v instanceof Date) this.#date(v);
    else if (isBytes(v)) this.#bytes(viewBytes(v));
    else if (depth === MAX_DEPTH) {
      throw unencodable("value nested too deep, or in itself");
    } else if (Array.isArray(v)) {
      this.#header(v.length, 0x90, 16, 0xdb, 1);
      this.#values(v, depth);
    } else {
      const entries =
        v instanceof Map ? [...v] : Object.entries(v).filter(([, item]) => item !== undefined);
      this.#header(entries.length, 0x80, 16, 0xdd, 1);
      this.#values(entries.flat(), depth);
    }
  }

  result(): Uint8Array {
    return this.#b.subarray(0, this.#at);
  }
}

/**
 * Encodes a value: null and undefined, booleans, numbers (whole ones up to 2^53
 * as integers, others as floats of 64 bits), bigints of 64 bits, strings, bytes
 * (every ArrayBuffer and its views), arrays, Dates as timestamps, Maps, and the
 * own properties of other objects, those that are undefined left out. Throws a
 * TypeError for anything else, and for what is nested deeper than 64. The bytes
 * begin behind `skip` bytes of the result that are left to the caller.
 */
export function encodeMsgpack(value: unknown, skip = 0): Uint8Array {
  const e = new Encoder(skip);
  e.value(value, 0);
  return e.result();
}

/** Reads values; what is wrong with them is thrown as a SyntaxError. */
class Decoder {
  readonly #b: Uint8Array;
  readonly #strict: boolean;
  #at = 0;

  constructor(b: Uint8Array, strict: boolean) {
    this.#b = b;
    this.#strict = strict;
  }

  get rest(): number {
    return this.#b.length - this.#at;
  }

  /** Checks that n bytes can come. */
  #within(n: number): void {
    if (n > this.rest) throw new SyntaxError("cut off");
  }

  /** Takes an unsigned integer of n bytes, at most four. */
  #uint(n: number): number {
    this.#within(n);
    let v = 0;
    for (; n > 0; n--) v = v * 256 + (this.#b[this.#at++] as number);
    return v;
  }

  /** Takes n bytes, without a copy. */
  #span(n: number): Uint8Array {
    this.#within(n);
    return this.#b.subarray(this.#at, (this.#at += n));
  }

  /** Takes n bytes to read a number from. */
  #view(n: number): DataView {
    const b = this.#span(n);
    return new DataView(b.buffer, b.byteOffset, n);
  }

  #text(n: number): string {
    return decodeUtf8(this.#span(n));
  }

  /** Takes n values; each has at least a byte, so no more is taken than can come. */
  #values(n: number, depth: number): unknown[] {
    this.#within(n);
    if (depth === MAX_DEPTH) throw new SyntaxError("nested too deep");
    const list: unknown[] = [];
    while (n-- > 0) list.push(this.value(depth + 1));
    return list;
  }

  #map(n: number, depth: number): object {
    const values = this.#values(2 * n, depth);
    const entries: [string, unknown][] = [];
    for (let i = 0; i < values.length; i += 2) {
      const key = values[i];
      if (typeof key === "object" && key !== null) throw new SyntaxError("a key is no scalar");
      entries.push([String(key), values[i + 1]]);
    }
    // In place of assignments, with which a key __proto__ would be more than a key.
    return Object.fromEntries(entries);
  }

  #extension(n: number): Date {
    const type = this.#uint(1);
    const v = this.#view(n);
    if (type !== TIMESTAMP || !(n === 4 || n === 8 || n === 12)) {
      throw new SyntaxError(`extension ${type}`);
    }
    // In 64 bits, the upper 30 are nanoseconds.
    const first = v.getUint32(0);
    const nanoseconds = n === 4 ? 0 : n === 8 ? first >>> 2 : first;
    let seconds = first;
    if (n === 8) seconds = (first & 3) * 2 ** 32 + v.getUint32(4);
    else if (n === 12) seconds = Number(v.getBigInt64(4));
    return new Date(seconds * 1000 + Math.floor(nanoseconds / 1e6));
  }

  #long(signed: boolean): number | bigint {
    const v = this.#view(8)[signed ? "getBigInt64" : "getBigUint64"](0);
    const n = Number(v);
    return Number.isSafeInteger(n) ? n : v;
  }

  value(depth: number): unknown {
    const c = this.#uint(1);
    const v = this.#value(c, depth);
    return this.#strict && isForeign(c) ? undefined : v;
  }

  /** Takes what follows the code c. */
  #value(c: number, depth: number): unknown {
    if (c < 0x80) return c;
    if (c < 0x90) return this.#map(c & 0x0f, depth);
    if (c < 0xa0) return this.#values(c & 0x0f, depth);
    if (c < 0xc0) return this.#text(c & 0x1f);
    if (c === 0xc0) return null;
    if (c === 0xc1) throw new SyntaxError("code 0xc1");
    if (c < 0xc4) return c === 0xc3;
    if (c < 0xc7) return this.#span(this.#uint(1 << (c - 0xc4))).slice();
    if (c < 0xca) return this.#extension(this.#uint(1 << (c - 0xc7)));
    if (c === 0xca) return this.#view(4).getFloat32(0);
    if (c === 0xcb) return this.#view(8).getFloat64(0);
    if (c < 0xcf) return this.#uint(1 << (c - 0xcc));
    if (c === 0xcf) return this.#long(false);
    if (c < 0xd3) {
      const bits = 8 << (c - 0xd0);
      const v = this.#uint(bits / 8);
      return v < 2 ** (bits - 1) ? v : v - 2 ** bits;
    }
    if (c === 0xd3) return this.#long(true);
    if (c < 0xd9) return this.#extension(1 << (c - 0xd4));
    if (c < 0xdc) return this.#text(this.#uint(1 << (c - 0xd9)));
    if (c < 0xde) return this.#values(this.#uint(2 << (c - 0xdc)), depth);
    if (c < 0xe0) return this.#map(this.#uint(2 << (c - 0xde)), depth);
    return c - 0x100;
  }
}

/** Whether a code begins a value that the envelope does not have (PROTOCOL §2.2). */
function isForeign(c: number): boolean {
  if (c < 0xc0) return c >= 0x80 && c < 0x90; // maps
  if (c < 0xd9) return c > 0xc0 && !(c > 0xc3 && c < 0xc7) && !(c > 0xcb && c < 0xd0);
  return c > 0xdd;
}

/**
 * Decodes exactly one value. Maps become objects, integers beyond 2^53 bigints,
 * timestamps Dates, bytes a copy. Throws a SyntaxError for anything that is not
 * one value of MessagePack, for other extensions, and for what is nested deeper
 * than 64. If `strict` is set, what is not part of the envelope (PROTOCOL §2.2)
 * becomes undefined.
 */
export function decodeMsgpack(b: Uint8Array, strict = false): unknown {
  const d = new Decoder(b, strict);
  const value = d.value(0);
  if (d.rest > 0) throw new SyntaxError("bytes behind the value");
  return value;
}
