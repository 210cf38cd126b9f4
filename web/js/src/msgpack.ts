// MessagePack for payloads: all of the format except extensions other than
// timestamps. The envelope's strict profile is in envelope.ts.

/** How deep arrays and maps may be nested; deeper is an error, both ways. */
const MAX_DEPTH = 64;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The extension type of timestamps. */
const TIMESTAMP = -1;

class Encoder {
  #b = new Uint8Array(256);
  #view = new DataView(this.#b.buffer);
  #at = 0;

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

  #byte(v: number): void {
    const at = this.#room(1);
    this.#b[at] = v;
  }

  #append(b: Uint8Array): void {
    const at = this.#room(b.length);
    this.#b.set(b, at);
  }

  #u16(code: number, v: number): void {
    const at = this.#room(3);
    this.#b[at] = code;
    this.#view.setUint16(at + 1, v);
  }

  #u32(code: number, v: number): void {
    const at = this.#room(5);
    this.#b[at] = code;
    this.#view.setUint32(at + 1, v);
  }

  /**
   * Writes the header of n elements: in `fix` where it holds fewer than `few`,
   * in one byte behind `code8` if there is such a form, else in two or four
   * behind the codes from `code16` on.
   */
  #header(n: number, fix: number, few: number, code8: number, code16: number): void {
    if (n < few) this.#byte(fix | n);
    else if (code8 && n < 0x100) {
      this.#byte(code8);
      this.#byte(n);
    } else if (n < 0x10000) this.#u16(code16, n);
    else this.#u32(code16 + 1, n);
  }

  #text(s: string): void {
    const b = encoder.encode(s);
    this.#header(b.length, 0xa0, 32, 0xd9, 0xda);
    this.#append(b);
  }

  #number(v: number): void {
    if (!Number.isSafeInteger(v) || Object.is(v, -0)) {
      const at = this.#room(9);
      this.#b[at] = 0xcb;
      this.#view.setFloat64(at + 1, v);
    } else if (v >= 0) {
      if (v < 0x80) this.#byte(v);
      else if (v < 0x100) {
        this.#byte(0xcc);
        this.#byte(v);
      } else if (v < 0x10000) this.#u16(0xcd, v);
      else if (v < 2 ** 32) this.#u32(0xce, v);
      else this.#bigint(BigInt(v));
    } else if (v >= -32) this.#byte(v & 0xff);
    else if (v >= -0x80) {
      this.#byte(0xd0);
      this.#byte(v & 0xff);
    } else if (v >= -0x8000) this.#u16(0xd1, v & 0xffff);
    else if (v >= -(2 ** 31)) this.#u32(0xd2, v >>> 0);
    else this.#bigint(BigInt(v));
  }

  #bigint(v: bigint): void {
    if (BigInt.asUintN(64, v) !== v && BigInt.asIntN(64, v) !== v) {
      throw new TypeError("MessagePack has no integer of more than 64 bits");
    }
    const at = this.#room(9);
    this.#b[at] = v < 0n ? 0xd3 : 0xcf;
    this.#view.setBigUint64(at + 1, BigInt.asUintN(64, v));
  }

  #date(v: Date): void {
    const ms = v.getTime();
    if (Number.isNaN(ms)) throw new TypeError("an invalid Date has no MessagePack");
    const at = this.#room(15); // the form of 96 bits holds every Date
    const seconds = Math.floor(ms / 1000);
    this.#b.set([0xc7, 12, TIMESTAMP & 0xff], at);
    this.#view.setUint32(at + 3, (ms - seconds * 1000) * 1e6);
    this.#view.setBigInt64(at + 7, BigInt(seconds));
  }

  value(v: unknown, depth: number): void {
    switch (typeof v) {
      case "undefined":
        return this.#byte(0xc0);
      case "boolean":
        return this.#byte(v ? 0xc3 : 0xc2);
      case "number":
        return this.#number(v);
      case "bigint":
        return this.#bigint(v);
      case "string":
        return this.#text(v);
      case "object":
        return this.#object(v, depth);
      default:
        throw new TypeError(`a ${typeof v} has no MessagePack`);
    }
  }

  #object(v: object | null, depth: number): void {
    if (v === null) return this.#byte(0xc0);
    if (v instanceof Date) return this.#date(v);
    if (ArrayBuffer.isView(v)) v = new Uint8Array(v.buffer, v.byteOffset, v.byteLength);
    else if (v instanceof ArrayBuffer) v = new Uint8Array(v);
    if (v instanceof Uint8Array) {
      this.#header(v.length, 0, 0, 0xc4, 0xc5);
      return this.#append(v);
    }
    if (depth === MAX_DEPTH) throw new TypeError(`a value is nested deeper than ${MAX_DEPTH}, or in itself`);
    if (Array.isArray(v)) {
      this.#header(v.length, 0x90, 16, 0, 0xdc);
      for (const item of v) this.value(item, depth + 1);
      return;
    }
    let entries: [unknown, unknown][] = [...(v instanceof Map ? v : Object.entries(v))];
    if (!(v instanceof Map)) entries = entries.filter(([, item]) => item !== undefined);
    this.#header(entries.length, 0x80, 16, 0, 0xde);
    for (const [key, item] of entries) {
      this.value(key, depth + 1);
      this.value(item, depth + 1);
    }
  }

  result(): Uint8Array {
    return this.#b.slice(0, this.#at);
  }
}

/**
 * Encodes a value: null and undefined, booleans, numbers (whole ones up to 2^53
 * as integers, others as floats of 64 bits), bigints of 64 bits, strings, bytes
 * (every ArrayBuffer and its views), arrays, Dates as timestamps, Maps, and the
 * own properties of other objects, those that are undefined left out. Throws a
 * TypeError for anything else, and for what is nested deeper than 64.
 */
export function encodeMsgpack(value: unknown): Uint8Array {
  const e = new Encoder();
  e.value(value, 0);
  return e.result();
}

class Decoder {
  readonly #b: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(b: Uint8Array) {
    this.#b = b;
    this.#view = new DataView(b.buffer, b.byteOffset, b.byteLength);
  }

  get rest(): number {
    return this.#b.length - this.#at;
  }

  /** Takes n bytes and returns where they begin. */
  #take(n: number): number {
    if (n > this.rest) throw new SyntaxError("MessagePack ends within a value");
    const at = this.#at;
    this.#at += n;
    return at;
  }

  /** Takes an unsigned integer of 1, 2 or 4 bytes. */
  #uint(size: number): number {
    const at = this.#take(size);
    if (size === 1) return this.#view.getUint8(at);
    return size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #bytes(n: number): Uint8Array {
    const at = this.#take(n);
    return this.#b.slice(at, at + n);
  }

  #text(n: number): string {
    const at = this.#take(n);
    return decoder.decode(this.#b.subarray(at, at + n));
  }

  /** Checks that n values can come, each of at least a byte, before room is taken. */
  #nested(n: number, depth: number): void {
    if (n > this.rest) throw new SyntaxError("MessagePack ends within a value");
    if (depth === MAX_DEPTH) throw new SyntaxError(`MessagePack is nested deeper than ${MAX_DEPTH}`);
  }

  #array(n: number, depth: number): unknown[] {
    this.#nested(n, depth);
    const list: unknown[] = [];
    for (let i = 0; i < n; i++) list.push(this.value(depth + 1));
    return list;
  }

  #map(n: number, depth: number): Record<string, unknown> {
    this.#nested(2 * n, depth);
    const map: Record<string, unknown> = {};
    for (let i = 0; i < n; i++) {
      const key = this.value(depth + 1);
      if (typeof key === "object" && key !== null) {
        throw new SyntaxError("MessagePack has a map with a key that is no scalar");
      }
      const name = String(key);
      const value = this.value(depth + 1);
      // Assigning __proto__ would change what the object is.
      if (name === "__proto__") {
        Object.defineProperty(map, name, { value, writable: true, enumerable: true, configurable: true });
      } else map[name] = value;
    }
    return map;
  }

  #extension(n: number): Date {
    const type = this.#view.getInt8(this.#take(1));
    const at = this.#take(n);
    let nanoseconds = 0;
    let seconds = 0;
    if (type === TIMESTAMP && n === 4) seconds = this.#view.getUint32(at);
    else if (type === TIMESTAMP && n === 8) {
      const high = this.#view.getUint32(at);
      nanoseconds = high >>> 2;
      seconds = (high & 3) * 2 ** 32 + this.#view.getUint32(at + 4);
    } else if (type === TIMESTAMP && n === 12) {
      nanoseconds = this.#view.getUint32(at);
      seconds = Number(this.#view.getBigInt64(at + 4));
    } else throw new SyntaxError(`MessagePack extension ${type} of ${n} bytes is not known`);
    return new Date(seconds * 1000 + Math.floor(nanoseconds / 1e6));
  }

  #long(v: bigint): number | bigint {
    const n = Number(v);
    return Number.isSafeInteger(n) ? n : v;
  }

  value(depth: number): unknown {
    const c = this.#uint(1);
    if (c < 0x80) return c;
    if (c < 0x90) return this.#map(c & 0x0f, depth);
    if (c < 0xa0) return this.#array(c & 0x0f, depth);
    if (c < 0xc0) return this.#text(c & 0x1f);
    if (c >= 0xe0) return c - 0x100;
    switch (c) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return c === 0xc3;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#bytes(this.#uint(1 << (c - 0xc4)));
      case 0xc7:
      case 0xc8:
      case 0xc9:
        return this.#extension(this.#uint(1 << (c - 0xc7)));
      case 0xca:
        return this.#view.getFloat32(this.#take(4));
      case 0xcb:
        return this.#view.getFloat64(this.#take(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#uint(1 << (c - 0xcc));
      case 0xcf:
        return this.#long(this.#view.getBigUint64(this.#take(8)));
      case 0xd0:
        return this.#view.getInt8(this.#take(1));
      case 0xd1:
        return this.#view.getInt16(this.#take(2));
      case 0xd2:
        return this.#view.getInt32(this.#take(4));
      case 0xd3:
        return this.#long(this.#view.getBigInt64(this.#take(8)));
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.#extension(1 << (c - 0xd4));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#text(this.#uint(1 << (c - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.#array(this.#uint(c === 0xdc ? 2 : 4), depth);
      case 0xde:
      case 0xdf:
        return this.#map(this.#uint(c === 0xde ? 2 : 4), depth);
      default:
        throw new SyntaxError("MessagePack has no code 0xc1");
    }
  }
}

/**
 * Decodes exactly one value. Maps become objects, integers beyond 2^53 bigints,
 * timestamps Dates. Throws a SyntaxError for anything that is not one value of
 * MessagePack, for other extensions, and for what is nested deeper than 64.
 */
export function decodeMsgpack(b: Uint8Array): unknown {
  const d = new Decoder(b);
  const value = d.value(0);
  if (d.rest > 0) throw new SyntaxError("MessagePack has bytes behind its value");
  return value;
}
