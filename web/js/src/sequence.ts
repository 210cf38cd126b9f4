// One sequence (PROTOCOL §9): joins what comes by stream and by datagram, so that
// an older message is never handed out after a newer one, and that what is
// missing is known.

import type { DropReason } from "./drops.js";
import { fail } from "./errors.js";
import type { GapFrame, MessageFrame, Skip } from "./frames.js";
import { MAX_ANNOUNCEMENTS } from "./limits.js";
import { type Gap, type Position, gapReason } from "./message.js";

/** The classes of PROTOCOL §6.1, by number. */
export const RELIABLE = 0;
export const LATEST = 1;
export const SEQUENCED = 2;
export const UNRELIABLE = 3;

/** What is known of one topic of a subscription, in one epoch. */
export interface TopicState {
  readonly number: number;
  readonly name: string;
  readonly epoch: number;
  /** Milliseconds since the Unix epoch at which the broker's times begin. */
  readonly base: number;
  /** The class in force. */
  readonly class: number;
  /** Messages up to here were there before the subscription began. */
  readonly replay: number;
  /** Up to here everything has come, or was told not to come. */
  last: number;
  /** The same for reliable messages. */
  reliable: number;
  /** When its newest message was sequenced, in milliseconds since base. */
  time: number;
  /** Whether everything up to `replay` has come. */
  synced: boolean;
  /** The newest lossy message that came before its reliable one. */
  held: Arrival | undefined;
  /** In class `sequenced` the last offset of each key, the oldest first. */
  keys: Map<string, number> | undefined;
  /** Above every key that was forgotten. */
  forgotten: number;
  /** The last offset that went into the subscription's queue. */
  queued: number;
  /** The last offset that the application took out of it; the queue's. */
  taken: number;
  /** Messages that gave way in the queue behind the last one there; the queue's. */
  dropped: number;
}

/** A topic as SUBSCRIBED or TOPIC announces it. */
export interface Announced {
  readonly topic: number;
  readonly name: string;
  readonly epoch: number;
  readonly offset: number;
  readonly last?: number | undefined;
  readonly class?: number | undefined;
}

/** A message that has come. */
export interface Arrival {
  readonly kind: "arrival";
  readonly topic: TopicState;
  readonly frame: MessageFrame;
  /** Its bytes if it came by stream; 0 for a datagram. */
  readonly size: number;
  /** The bytes of credit that it takes: its size, until another stream counts. */
  cost: number;
  /** Whether a newer message of the topic may take its place. */
  readonly replaceable: boolean;
  /** Whether it counts as having come, and is not handed out. */
  readonly muted: boolean;
  /**
   * It came after newer messages of its topic, and is the newest of its key only: what is
   * missing before it was told with those, and no gap before it can tell of others.
   */
  behind: boolean;
  /** TopicState.queued before this message. */
  prior: number;
  /** Messages above this offset and before this one were lost on the way. */
  lostFrom: number | undefined;
  /** Messages that gave way in the queue before this one; the queue's. */
  conflated: number;
  /** In a group: tells that the application has finished it. */
  done?: () => void;
}

/** Where a Sequence hands its results to. */
export interface SequenceSink {
  /** A message that is in order. */
  put(arrival: Arrival): void;
  /** A message that will not be handed out. */
  drop(arrival: Arrival, reason: DropReason): void;
  /** A gap that the broker told. */
  gap(gap: Gap): void;
  /** A message of a topic whose number was forgotten. */
  unknown(cost: number): void;
  /** Everything of a topic from before the subscription began has come. */
  synced(topic: TopicState): void;
}

/** A gap of which nothing is known. */
export const unknown = { kind: "gap", topic: undefined, from: undefined, to: undefined, count: undefined } as const;

/** The keys of a topic that are remembered (PROTOCOL §9, 4). */
const MAX_KEYS = 1024;

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
  readonly #class: number;
  readonly #ordered: boolean;
  readonly #sink: SequenceSink;
  readonly #topics = new Map<number, TopicState>();
  readonly #numbers = new Map<string, number>();
  #forgot = false; // some number: one that is not known is no error

  /**
   * `cls` is the class of the subscription; `ordered` is false in a group, where
   * nothing is said about order (PROTOCOL §6.9).
   */
  constructor(cls: number, sink: SequenceSink, ordered = true) {
    this.#class = cls;
    this.#sink = sink;
    this.#ordered = ordered;
  }

  /**
   * Takes note of a topic's number, and of the base of the broker's times. Of what
   * comes up to the offset `known` nothing is handed out. It returns the topic whose
   * number means nothing any more, if there is one: the same one under its number
   * before, or the one announced longest ago.
   */
  announce(t: Announced, base: number, known = t.offset): TopicState | undefined {
    const old = this.#topics.get(t.topic);
    // Announced again in the same epoch: what has come since counts.
    if (old?.epoch === t.epoch && old.name === t.name) {
      this.#topics.delete(t.topic); // to the end: the last to be forgotten
      this.#topics.set(t.topic, old);
      return undefined;
    }
    const number = this.#numbers.get(t.name);
    let before = number === undefined || number === t.topic ? undefined : this.#topics.get(number);
    this.forget(t.topic);
    if (before) this.forget(before.number);
    this.#numbers.set(t.name, t.topic);
    const state: TopicState = {
      number: t.topic,
      name: t.name,
      epoch: t.epoch,
      base,
      class: Math.max(this.#class, t.class ?? RELIABLE),
      replay: t.last ?? t.offset,
      last: known,
      reliable: t.offset,
      time: 0,
      synced: false,
      held: undefined,
      keys: undefined,
      forgotten: known,
      queued: known,
      taken: known,
      dropped: 0,
    };
    this.#topics.set(t.topic, state);
    if (this.#topics.size > MAX_ANNOUNCEMENTS) {
      [before = state] = this.#topics.values();
      this.forget(before.number);
    }
    this.#sync(state);
    return before;
  }

  /** Whether a topic of that name was announced. */
  knows(name: string): boolean {
    return this.#numbers.has(name);
  }

  /** The topics that were announced. */
  get topics(): Iterable<TopicState> {
    return this.#topics.values();
  }

  #sync(t: TopicState): void {
    if (t.synced || t.last < t.replay) return;
    t.synced = true;
    this.#sink.synced(t);
  }

  /** Forgets a topic. */
  forget(number: number): void {
    const t = this.#topics.get(number);
    if (!t) return;
    this.#forgot = true;
    this.#topics.delete(number);
    this.#numbers.delete(t.name);
    if (t.held) this.#drop(t.held, "late");
  }

  /** The end of the stream: what is held will not be handed out. */
  end(): void {
    for (const number of this.#topics.keys()) this.forget(number);
  }

  /** Undefined for a number that may have been forgotten (PROTOCOL §6.3). */
  #topic(number: number): TopicState | undefined {
    const t = this.#topics.get(number);
    if (!t && !this.#forgot) throw fail("protocol_violation", `topic ${number} is not announced`);
    return t;
  }

  /** Takes a message that came by stream and took `cost` bytes of credit. */
  message(frame: MessageFrame, cost: number): void {
    const t = this.#topic(frame.topic);
    if (!t) {
      this.#gap({ ...unknown, reason: "unknown" });
      return this.#sink.unknown(cost);
    }
    const a = this.#arrival(t, frame, cost);
    if (t.class === RELIABLE && this.#ordered && frame.reliable === undefined) {
      if (frame.offset <= t.reliable) {
        this.#sink.drop(a, "late");
        throw fail("protocol_violation", `offset ${frame.offset} is not new`);
      }
      t.reliable = frame.offset;
      this.#hand(a);
      this.#settle(t);
    } else this.#lossy(a);
  }

  /**
   * Takes a message that came by datagram; one that is `muted` counts as having come
   * and is not handed out.
   */
  datagram(frame: MessageFrame, muted = false): void {
    const t = this.#topics.get(frame.topic);
    // A datagram goes to every subscription: this one gets its messages of class
    // latest, and the reliable ones of class reliable, by stream (PROTOCOL §8).
    if (!t || t.class === LATEST || (t.class === RELIABLE && frame.reliable === undefined)) return;
    const a = this.#arrival(t, frame, 0, muted);
    // It was on its way for another subscription before this one began.
    if (frame.offset <= t.replay) this.#drop(a, "late");
    else this.#lossy(a);
  }

  #arrival(topic: TopicState, frame: MessageFrame, cost: number, muted = false): Arrival {
    const replaceable =
      this.#ordered &&
      topic.class !== LATEST &&
      (topic.class !== RELIABLE || frame.reliable !== undefined);
    return {
      kind: "arrival",
      topic,
      frame,
      size: cost,
      cost,
      replaceable,
      muted,
      behind: false,
      prior: 0,
      lostFrom: undefined,
      conflated: 0,
    };
  }

  #lossy(a: Arrival): void {
    const t = a.topic;
    // In a group its reliable one may be another member's.
    if (t.class !== RELIABLE || !this.#ordered || needs(a.frame) <= t.reliable) {
      this.#hand(a);
      this.#settle(t);
    } else if (t.held && t.held.frame.offset >= a.frame.offset) this.#drop(a, "late");
    else {
      // It is above t.last, since what it needs is.
      if (t.held) this.#drop(t.held, "superseded");
      t.held = a;
    }
  }

  /** Drops a message; of those that are not handed out anyway nobody is told. */
  #drop(a: Arrival, reason: DropReason): void {
    if (!a.muted) this.#sink.drop(a, reason);
  }

  /** Tells what is missing up to an offset, of which no message tells that is handed out. */
  #tell(t: TopicState, to: number): void {
    if (to <= t.last) return;
    this.#gap({
      kind: "gap",
      topic: t.name,
      from: position(t.epoch, t.last),
      to: position(t.epoch, to),
      reason: "lost",
      count: to - t.last,
    }, t);
  }

  /** Hands a message out, unless a newer one was (§9, 1), with what is missing before it (3). */
  #hand(a: Arrival): void {
    const t = a.topic;
    const { offset, previous, key, time } = a.frame;
    t.time = Math.max(t.time, time);
    if (t.class === UNRELIABLE || !this.#ordered) {
      t.last = Math.max(t.last, offset);
      if (!a.muted) this.#sink.put(a);
      return this.#sync(t);
    }
    if (t.class === SEQUENCED && key) {
      if (!this.#newest(t, key, offset)) return this.#drop(a, "late");
      if (offset <= t.last) {
        a.behind = true;
        return a.muted ? undefined : this.#sink.put(a);
      }
    }
    if (offset <= t.last) return this.#drop(a, "late");
    if (a.muted) this.#tell(t, offset - previous);
    else if (offset - previous > t.last) a.lostFrom = t.last;
    t.last = offset;
    if (!a.muted) {
      a.prior = t.queued;
      t.queued = offset;
      this.#sink.put(a);
    }
    this.#sync(t);
  }

  /** Takes note of a key's offset; false if it is not above the last one (§9, 4). */
  #newest(t: TopicState, key: string, offset: number): boolean {
    const keys = (t.keys ??= new Map<string, number>());
    if (offset <= (keys.get(key) ?? t.forgotten)) return false;
    keys.delete(key); // it becomes the newest
    keys.set(key, offset);
    if (keys.size > MAX_KEYS) {
      keys.delete(keys.keys().next().value as string);
      t.forgotten = t.last;
    }
    return true;
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
    // It was told already, as the gap of a reconnect or as lost.
    if (one && epoch === one.epoch && (g.to ?? Infinity) <= one.last) return;
    // What lies before it is missing too, and nothing else tells of it.
    if (one && epoch === one.epoch && this.#ordered && g.from !== undefined) {
      this.#tell(one, g.from);
      one.last = Math.max(one.last, g.from);
    }
    // It may begin before what has come: what was sent by datagram and did not arrive.
    const from = one && g.from !== undefined && epoch === one.epoch ? Math.max(g.from, one.last) : one && g.from;
    this.#gap({
      kind: "gap",
      topic: one?.name,
      from: position(epoch, from),
      to: one && position(epoch, g.to),
      reason: gapReason(g.reason),
      count: g.count,
    }, one);
    // Positions of another epoch cannot be compared.
    if (one && g.to !== undefined && epoch === one.epoch) this.#advance(one, g.to);
  }

  /** Hands a gap out, unless the class says nothing about gaps (§9, 5). */
  #gap(g: Gap, t?: TopicState): void {
    if ((t?.class ?? this.#class) !== UNRELIABLE) this.#sink.gap(g);
  }

  /** Takes note of messages that were withheld (PROTOCOL §6.7). */
  skip(s: Skip): void {
    const t = this.#topic(s.topic);
    if (t) this.#advance(t, s.to);
  }

  #advance(t: TopicState, to: number): void {
    t.last = Math.max(t.last, to);
    t.reliable = Math.max(t.reliable, to);
    this.#settle(t);
    this.#sync(t);
  }
}
