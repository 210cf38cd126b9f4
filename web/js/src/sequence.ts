// One sequence (PROTOCOL §9): joins what comes by stream and by datagram, so that
// an older message is never handed out after a newer one, and that what is
// missing is known.

import type { DropReason } from "./drops.js";
import { fail } from "./errors.js";
import type { GapFrame, MessageFrame, Skip, TopicFrame } from "./frames.js";
import { type Gap, type Position, gapReason } from "./message.js";

/** What is known of one topic of a subscription, in one epoch. */
export interface TopicState {
  readonly number: number;
  readonly name: string;
  readonly epoch: number;
  /** Milliseconds since the Unix epoch at which the broker's times begin. */
  readonly base: number;
  /** Up to here everything has come, or was told not to come. */
  last: number;
  /** The same for reliable messages. */
  reliable: number;
  /** Messages of unknown offsets are missing, and a gap was given for them. */
  told: boolean;
  /** The newest lossy message that came before its reliable one. */
  held: Arrival | undefined;
  /** The last offset that went into the subscription's queue. */
  queued: number;
  /** The last offset that the application took out of it; the queue's. */
  taken: number;
}

/** A message that has come. */
export interface Arrival {
  readonly kind: "arrival";
  readonly topic: TopicState;
  readonly frame: MessageFrame;
  /** The bytes of credit that it took; 0 for a datagram. */
  readonly cost: number;
  /** Whether a newer message of the topic may take its place. */
  readonly replaceable: boolean;
  /** TopicState.queued before this message. */
  prior: number;
  /** Messages above this offset and before this one were lost on the way. */
  lostFrom: number | undefined;
}

/** Where a Sequence hands its results to. */
export interface SequenceSink {
  /** A message that is in order. */
  put(arrival: Arrival): void;
  /** A message that will not be handed out. */
  drop(arrival: Arrival, reason: DropReason): void;
  /** A gap that the broker told. */
  gap(gap: Gap): void;
}

/** The offset of the last reliable message before a lossy one; 0: there is none. */
function needs(frame: MessageFrame): number {
  return frame.reliable ? frame.offset - frame.reliable : 0;
}

function position(epoch: number | undefined, offset: number | undefined): Position | undefined {
  return epoch === undefined || offset === undefined ? undefined : { epoch, offset };
}

/**
 * The sequences of the topics of one subscription, for the life of one stream.
 * An error that it throws is one of the broker and ends the subscription.
 */
export class Sequence {
  readonly #merges: boolean;
  readonly #sink: SequenceSink;
  readonly #topics = new Map<number, TopicState>();
  readonly #numbers = new Map<string, number>();

  /** `merges` is true for the class `reliable`. */
  constructor(merges: boolean, sink: SequenceSink) {
    this.#merges = merges;
    this.#sink = sink;
  }

  /**
   * Takes note of a topic's number, and of the base of the broker's times. It
   * returns the number under which the topic was known before, if that is another.
   */
  announce(t: TopicFrame, base: number): number | undefined {
    const old = this.#topics.get(t.topic);
    // Announced again in the same epoch: what has come since counts.
    if (old?.epoch === t.epoch && old.name === t.name) return undefined;
    const before = this.#numbers.get(t.name);
    this.forget(t.topic);
    if (before !== undefined) this.forget(before);
    this.#numbers.set(t.name, t.topic);
    this.#topics.set(t.topic, {
      number: t.topic,
      name: t.name,
      epoch: t.epoch,
      base,
      last: t.offset,
      reliable: t.offset,
      told: false,
      held: undefined,
      queued: t.offset,
      taken: t.offset,
    });
    return before === t.topic ? undefined : before;
  }

  /** Forgets a topic. */
  forget(number: number): void {
    const t = this.#topics.get(number);
    if (!t) return;
    this.#topics.delete(number);
    this.#numbers.delete(t.name);
    if (t.held) this.#sink.drop(t.held, "late");
  }

  /** The end of the stream: what is held will not be handed out. */
  end(): void {
    for (const number of this.#topics.keys()) this.forget(number);
  }

  #topic(number: number): TopicState {
    const t = this.#topics.get(number);
    if (!t) throw fail("protocol_violation", `topic ${number} is not announced`);
    return t;
  }

  /** Takes a message that came by stream and took `cost` bytes of credit. */
  message(frame: MessageFrame, cost: number): void {
    const t = this.#topic(frame.topic);
    const a = this.#arrival(t, frame, cost);
    if (this.#merges && frame.reliable === undefined) {
      if (frame.offset <= t.reliable) {
        this.#sink.drop(a, "late");
        throw fail("protocol_violation", `offset ${frame.offset} is not new`);
      }
      t.reliable = frame.offset;
      this.#hand(a);
      this.#settle(t);
    } else this.#lossy(a);
  }

  /** Takes a message that came by datagram. */
  datagram(frame: MessageFrame): void {
    // A datagram goes to every subscription, and this one gets its reliable
    // messages by stream (PROTOCOL §9).
    if (this.#merges && frame.reliable === undefined) return;
    this.#lossy(this.#arrival(this.#topic(frame.topic), frame, 0));
  }

  #arrival(topic: TopicState, frame: MessageFrame, cost: number): Arrival {
    const replaceable = !this.#merges || frame.reliable !== undefined;
    return { kind: "arrival", topic, frame, cost, replaceable, prior: 0, lostFrom: undefined };
  }

  #lossy(a: Arrival): void {
    const t = a.topic;
    if (!this.#merges || needs(a.frame) <= t.reliable) {
      this.#hand(a);
      this.#settle(t);
    } else if (t.held && t.held.frame.offset >= a.frame.offset) this.#sink.drop(a, "late");
    else {
      // It is above t.last, since what it needs is.
      if (t.held) this.#sink.drop(t.held, "superseded");
      t.held = a;
    }
  }

  /** Hands a message out, unless a newer one was (§9, 1), with what is missing before it (3). */
  #hand(a: Arrival): void {
    const t = a.topic;
    const { offset, previous } = a.frame;
    if (offset <= t.last) return this.#sink.drop(a, "late");
    if (offset - previous > t.last && !t.told) a.lostFrom = t.last;
    t.told = false;
    t.last = offset;
    a.prior = t.queued;
    t.queued = offset;
    this.#sink.put(a);
  }

  /** Hands the held message out, or drops it, if it can be told which (§9, 2). */
  #settle(t: TopicState): void {
    const held = t.held;
    if (!held || (held.frame.offset > t.last && needs(held.frame) > t.reliable)) return;
    t.held = undefined;
    this.#hand(held);
  }

  /** Takes a gap that the broker told (PROTOCOL §6.6). */
  gap(g: GapFrame): void {
    const one = g.topic === 0 ? undefined : this.#topic(g.topic);
    const epoch = g.epoch ?? one?.epoch;
    this.#sink.gap({
      kind: "gap",
      topic: one?.name,
      from: position(epoch, g.from),
      to: position(epoch, g.to),
      reason: gapReason(g.reason),
      count: g.count,
    });
    for (const t of one ? [one] : this.#topics.values()) {
      // Positions of another epoch cannot be compared.
      if (one && g.to !== undefined && (g.epoch ?? t.epoch) === t.epoch) this.#advance(t, g.to);
      else t.told = true;
    }
  }

  /** The position up to which everything of a topic has come or was told not to. */
  position(number: number): Position | undefined {
    const t = this.#topics.get(number);
    return t && { epoch: t.epoch, offset: t.last };
  }

  /** Takes note of messages that were withheld (PROTOCOL §6.7). */
  skip(s: Skip): void {
    this.#advance(this.#topic(s.topic), s.to);
  }

  #advance(t: TopicState, to: number): void {
    t.last = Math.max(t.last, to);
    t.reliable = Math.max(t.reliable, to);
    this.#settle(t);
  }
}
