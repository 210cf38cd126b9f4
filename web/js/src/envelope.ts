// Frames as such (PROTOCOL §2): a length, and an array of fields.

import { type TidewireError, fail } from "./errors.js";
import { decodeMsgpack, encodeMsgpack } from "./msgpack.js";
import { encodeUtf8 } from "./utf8.js";

/** Room for the length before the body: what a frame of 1 GiB needs. */
const HEAD = 4;

/** A field of a frame that is written; undefined is nil. */
export type Field = number | string | Uint8Array | undefined | readonly Field[];

/** Writes a frame of its type and its fields. */
export function writeFrame(...fields: Field[]): Uint8Array {
  const b = encodeMsgpack(fields, HEAD);
  const body = b.length - HEAD;
  const form = body < 0x40 ? 0 : body < 0x4000 ? 1 : 2; // 1, 2 or 4 bytes
  const start = HEAD - (1 << form);
  for (let i = HEAD, v = body; i > start; v >>= 8) b[--i] = v;
  b[start] = (b[start] as number) | (form << 6);
  return b.subarray(start);
}

/** Writes a frame without the nil fields at its end (PROTOCOL §2.1). */
export function writeShort(...fields: Field[]): Uint8Array {
  return writeFrame(...fields.slice(0, fields.findLastIndex((f) => f !== undefined) + 1));
}

function malformed(reason: string): TidewireError {
  return fail("malformed_frame", reason);
}

/** The error for fields that cannot be together; only a broker with a fault sends them. */
export function contradictory(): TidewireError {
  return malformed("its fields contradict each other");
}

/** The error for a field of another kind than the one that belongs there, or too long. */
function misfit(kind: string): TidewireError {
  return malformed(`no ${kind} within its limit`);
}

/** Reads the values of a frame, or of a list in it, in order. */
export class FieldReader {
  readonly #values: readonly unknown[];
  #at = 0;

  constructor(values: readonly unknown[]) {
    this.#values = values;
  }

  /** How many fields there are. */
  get length(): number {
    return this.#values.length;
  }

  #next(): unknown {
    return this.#values[this.#at++];
  }

  /** Reads an unsigned integer of at most `limit`. */
  uint(limit = Number.MAX_SAFE_INTEGER): number {
    const v = this.#next();
    if (typeof v !== "number" || v > limit) throw misfit("integer");
    return v;
  }

  /** Reports whether the next field is nil or left out, and takes it if so. */
  absent(): boolean {
    const v = this.#values[this.#at];
    const absent = v === null || this.#at >= this.length;
    if (absent) this.#at++;
    return absent;
  }

  optional(): number | undefined {
    return this.absent() ? undefined : this.uint();
  }

  bytes(limit = Infinity): Uint8Array {
    const v = this.#next();
    if (!(v instanceof Uint8Array && v.length <= limit)) {
      throw misfit("bytes");
    }
    return v;
  }

  text(limit: number): string {
    const v = this.#next();
    if (typeof v !== "string" || encodeUtf8(v).length > limit) {
      throw misfit("text");
    }
    return v;
  }

  optionalText(limit: number): string {
    return this.absent() ? "" : this.text(limit);
  }

  /** Reads 16 bytes. */
  id(): Uint8Array {
    const b = this.bytes(16);
    if (b.length < 16) throw misfit("id");
    return b;
  }

  optionalId(): Uint8Array | undefined {
    return this.absent() ? undefined : this.id();
  }

  /** Reads a list of at most `limit` elements. */
  list(limit: number): FieldReader {
    const v = this.#next();
    if (!(Array.isArray(v) && v.length <= limit)) {
      throw misfit("list");
    }
    return new FieldReader(v);
  }
}

/** A frame that was cut from a stream or datagram: its type, then its fields. */
export class Frame extends FieldReader {
  readonly type: number;
  /** Bytes on the wire, the length included. */
  readonly size: number;

  /** Throws `malformed_frame` for a body that is no frame. It does not keep the body. */
  constructor(body: Uint8Array, size: number) {
    let values: unknown;
    try {
      values = decodeMsgpack(body, true);
    } catch (e) {
      throw malformed((e as SyntaxError).message);
    }
    if (!Array.isArray(values)) throw malformed("not an array");
    super(values);
    this.size = size;
    this.type = this.uint(127);
  }
}
