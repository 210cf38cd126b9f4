import type { MessageFrame } from "./frames.js";
import { MAX_TIMEOUT } from "./limits.js";
import type { Headers } from "./options.js";
import { type Encoding, type KnownEncoding, decodePayload, encodingName } from "./payload.js";

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

/** What a message and a reply have in common. */
export interface Delivered {
  readonly encoding: number;
  readonly data: Uint8Array;
  readonly publisher: Uint8Array | undefined;
  /** Names and values in turn. */
  readonly headers: readonly string[];
}

/** A payload that came, and who sent it: a reply to a request. */
export class Reply<T = unknown> {
  readonly #frame: Delivered;
  #value: T | typeof undecoded = undecoded;

  /** @internal */
  constructor(frame: Delivered) {
    this.#frame = frame;
  }

  /**
   * The client id of the publisher, a UUID; undefined if it was published in the
   * broker's process or by a program that is no Tidewire client.
   */
  get publisher(): string | undefined {
    return this.#frame.publisher && formatId(this.#frame.publisher);
  }

  /** The headers, by name. */
  get headers(): Headers {
    const list = this.#frame.headers;
    const entries = list.flatMap((name, i) => (i % 2 ? [] : [[name, list[i + 1] as string]]));
    return Object.fromEntries(entries) as Headers;
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

/** Options of {@link Message.reply}. */
export interface ReplyOptions {
  encoding?: KnownEncoding;
  headers?: Headers;
}

/** Where a message came from. */
export interface Origin {
  readonly name: string;
  readonly epoch: number;
  readonly base: number;
  /** Messages up to this offset were there before the subscription began. */
  readonly replay: number;
}

/** Sends a reply to an address, which is good for so many milliseconds at most. */
export type Replier = (to: Uint8Array, value: unknown, options: ReplyOptions, life: number) => void;

/** A message, as a subscription yields it. */
export class Message<T = unknown> extends Reply<T> {
  /** Tells a message from a {@link Gap}. */
  readonly kind = "message";
  /** The topic that it was published to. */
  readonly topic: string;
  /** The epoch of its position. */
  readonly epoch: number;
  /** Whether it was published as lossy (PROTOCOL.md §4.4). */
  readonly lossy: boolean;
  /** Whether it was there before the subscription began: history or a last value. */
  readonly replayed: boolean;
  readonly #frame: MessageFrame;
  readonly #base: number;
  readonly #replier: Replier | undefined;

  /** @internal */
  constructor(origin: Origin, frame: MessageFrame, replier?: Replier) {
    super(frame);
    this.topic = origin.name;
    this.epoch = origin.epoch;
    this.lossy = frame.reliable !== undefined;
    this.replayed = frame.offset <= origin.replay;
    this.#frame = frame;
    this.#base = origin.base;
    this.#replier = replier;
  }

  /** The offset of its position. */
  get offset(): number {
    return this.#frame.offset;
  }

  /** When the broker sequenced it, by the broker's clock. */
  get time(): Date {
    return new Date(this.#base + this.#frame.time);
  }

  /** Its key within the topic, if it has one (PROTOCOL.md §4.5). */
  get key(): string | undefined {
    return this.#frame.key || undefined;
  }

  /** When it expires, by the broker's clock, if it does. */
  get expires(): Date | undefined {
    const { expires } = this.#frame;
    return expires === undefined ? undefined : new Date(this.#base + expires);
  }

  /** Whether it is the last value of its key, or of its topic if it has no key. */
  get retained(): boolean {
    return this.#frame.retain;
  }

  /** Whether it asks for a {@link reply}. */
  get request(): boolean {
    return this.#frame.reply !== undefined;
  }

  /**
   * Replies to a request. It does nothing for a message that is none. Without a
   * connection the reply waits for one, until the time of the request is over; beyond
   * 1 MiB of such replies, or with {@link ConnectOptions.offline} `refuse`, it is dropped
   * and counted in {@link Client.drops}. The broker drops one that comes too late. Throws
   * a TypeError for a value that cannot be encoded, `invalid_option` for headers that
   * cannot be, `payload_too_large`, or `closed`.
   */
  reply(value: unknown, options: ReplyOptions = {}): void {
    const { reply, time, expires = time + MAX_TIMEOUT } = this.#frame;
    if (reply) this.#replier?.(reply, value, options, expires - time);
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
  "priority",
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
