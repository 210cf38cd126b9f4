import type { MessageFrame } from "./frames.js";
import { type Encoding, decodePayload, encodingName } from "./payload.js";

/** A place in the sequence of one topic (PROTOCOL.md §4.2). */
export interface Position {
  /** A random integer, new whenever the topic's log was lost or evicted. */
  readonly epoch: number;
  /** Increases within the epoch, not always by one. */
  readonly offset: number;
}

/** Returns the form of RFC 9562 §4 of 16 bytes. */
export function formatId(id: Uint8Array): string {
  const hex = Array.from(id, (b) => b.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

const undecoded = Symbol();

/** A message, as a subscription yields it. */
export class Message<T = unknown> {
  /** Tells a message from a {@link Gap}. */
  readonly kind = "message";
  /** The topic that it was published to. */
  readonly topic: string;
  /** The epoch of its position. */
  readonly epoch: number;
  /** Whether it was published as lossy (PROTOCOL.md §4.4). */
  readonly lossy: boolean;
  readonly #frame: MessageFrame;
  readonly #base: number;
  #value: T | typeof undecoded = undecoded;

  /** @internal */
  constructor(topic: string, epoch: number, base: number, frame: MessageFrame) {
    this.topic = topic;
    this.epoch = epoch;
    this.lossy = frame.reliable !== undefined;
    this.#frame = frame;
    this.#base = base;
  }

  /** The offset of its position. */
  get offset(): number {
    return this.#frame.offset;
  }

  /** When the broker sequenced it, by the broker's clock. */
  get time(): Date {
    return new Date(this.#base + this.#frame.time);
  }

  /**
   * The client id of the publisher, a UUID; undefined if it was published in the
   * broker's process or by a program that is no Tidewire client.
   */
  get publisher(): string | undefined {
    return this.#frame.publisher && formatId(this.#frame.publisher);
  }

  /** What the bytes of {@link data} are. */
  get encoding(): Encoding {
    return encodingName(this.#frame.encoding);
  }

  /** The payload as it came. */
  get data(): Uint8Array {
    return this.#frame.data;
  }

  /**
   * The payload decoded by its encoding, when first asked for: `bytes` and
   * encodings of a later version give the bytes, `text` a string, `json` and
   * `msgpack` their value. Nothing checks that it is a `T`. Throws a SyntaxError
   * if the payload is not what its encoding says.
   */
  get value(): T {
    if (this.#value === undecoded) {
      this.#value = decodePayload(this.#frame.encoding, this.#frame.data) as T;
    }
    return this.#value;
  }
}

const reasons = [
  "unknown",
  "overflow",
  "conflated",
  "lost",
  "expired",
  "history",
  "reconnect",
  "bus",
] as const;

/** Why messages are missing (PROTOCOL.md §6.6). */
export type GapReason = (typeof reasons)[number];

/** Returns the name of a reason's number; "unknown" for one of a later version. */
export function gapReason(n: number): GapReason {
  return reasons[n] ?? reasons[0];
}

/** Tells that messages will not come, or may be missing; the iteration goes on. */
export interface Gap {
  /** Tells a gap from a {@link Message}. */
  readonly kind: "gap";
  /** The topic; undefined: every topic of the pattern. */
  readonly topic: string | undefined;
  /** The last position before the gap, if known. */
  readonly from: Position | undefined;
  /** The last position in the gap, if known. */
  readonly to: Position | undefined;
  /** What happened. */
  readonly reason: GapReason;
  /** How many messages are missing, if known; 0: none is. */
  readonly count: number | undefined;
}

/** What a subscription yields: `item.kind` tells which of both. */
export type Item<T = unknown> = Message<T> | Gap;
