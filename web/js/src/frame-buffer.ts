import { Frame } from "./envelope.js";
import { fail } from "./errors.js";

/** A variable-length integer of RFC 9000 §16. */
interface Varint {
  readonly value: number;
  /** The bytes that it takes. */
  readonly size: number;
}

/**
 * Reads a variable-length integer at `at`; undefined if b[:end] ends within it. A
 * value above 2^53 - 1 loses its last bits, and is above every limit all the
 * same.
 */
function readVarint(b: Uint8Array, at: number, end: number): Varint | undefined {
  if (at >= end) return undefined;
  const first = b[at] as number;
  const size = 1 << (first >> 6);
  if (end - at < size) return undefined;
  let value = first & 0x3f;
  for (let i = 1; i < size; i++) value = value * 256 + (b[at + i] as number);
  return { value, size };
}

const EMPTY = new Uint8Array(0);

/**
 * Cuts what a stream brings, in chunks of any size, into frames. What it keeps
 * of an incomplete frame is at most twice what has really come, whatever the
 * frame's length promises (PROTOCOL §2.3).
 */
export class FrameBuffer {
  #b: Uint8Array = EMPTY; // b[start:end] is unread
  #start = 0;
  #end = 0;
  #own = false; // b is ours to write to, and not a chunk of the transport

  /** Takes a chunk; it must not be written to afterwards. */
  push(chunk: Uint8Array): void {
    const rest = this.#end - this.#start;
    if (rest === 0) {
      this.#b = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      this.#own = false;
      return;
    }
    if (!this.#own || this.#end + chunk.length > this.#b.length) {
      const grown = new Uint8Array(Math.max(2 * rest, rest + chunk.length));
      grown.set(this.#b.subarray(this.#start, this.#end));
      this.#b = grown;
      this.#start = 0;
      this.#end = rest;
      this.#own = true;
    }
    this.#b.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  /** Whether there are bytes of an incomplete frame. */
  get pending(): boolean {
    return this.#end > this.#start;
  }

  /**
   * Returns the next frame, or undefined if it has not come whole. A frame whose body is longer than maxFrame bytes is refused
   * as soon as its length is there.
   */
  next(maxFrame: number): Frame | undefined {
    const length = readVarint(this.#b, this.#start, this.#end);
    if (!length) return undefined;
    if (length.value > maxFrame) {
      throw fail("frame_too_large", `${length.value} bytes`);
    }
    const body = this.#start + length.size;
    const end = body + length.value;
    if (end > this.#end) return undefined;
    const frame = new Frame(this.#b.subarray(body, end), end - this.#start);
    this.#start = end;
    return frame;
  }
}

/** Returns the one frame that a datagram holds (PROTOCOL §8). */
export function parseDatagram(b: Uint8Array): Frame {
  const buffer = new FrameBuffer();
  buffer.push(b);
  const frame = buffer.next(b.length);
  if (!frame || buffer.pending) throw fail("malformed_frame"); // exactly one
  return frame;
}
