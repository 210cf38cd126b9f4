import type { DropReason } from "./drops.js";
import type { TidewireError } from "./errors.js";
import type { Gap } from "./message.js";
import { type Arrival, type TopicState, UNRELIABLE, unknown } from "./sequence.js";

/** Messages that may wait although they need no credit; beyond, the newest count. */
const MAX_REPLACEABLE = 64;
/** Gaps that may wait apart from each other. */
const MAX_GAPS = 256;
/** How many taken entries are let go at once. */
const STEP = 1024;

/**
 * A place among what waits: the subscription has begun (again), or everything of a
 * topic from before it began has come.
 */
export type Mark =
  | { readonly kind: "begun"; readonly topic: string }
  | { readonly kind: "synced"; readonly topic: string };

/** What waits: a message, a gap that the broker or a reconnect gave, or a mark. */
export type Entry = Arrival | Gap | Mark;

interface Waiter {
  resolve(entry: Entry | undefined): void;
  reject(error: TidewireError): void;
}

/** What a queue tells its owner. */
export interface QueueEvents {
  /** Credit became free: a message was taken or dropped. */
  freed(): void;
  /** A message was dropped. */
  dropped(reason: DropReason): void;
}

/**
 * What a subscription has received and the application has not taken yet, in
 * order. It is bounded: what came by stream by the credit that was given for it,
 * the rest by numbers. Where the newest counts a message may take an older one's
 * place; the hole shows as a gap before the topic's next message.
 */
export class ItemQueue {
  /** Bytes of credit that what waits has taken. */
  pending = 0;
  /** Whether marks are of use to whoever takes what waits. */
  marks = false;
  readonly #events: QueueEvents;
  #entries: Entry[] = [];
  #head = 0; // entries[head:] waits
  #replaceable = 0; // of those that wait
  #gaps = 0; // of those that wait
  #next: Arrival | undefined; // a message whose gap was handed out before it
  #missed: Gap | undefined; // what gave way, and no message that waits tells of
  #waiters: Waiter[] = [];
  #ended = false;
  #error: TidewireError | undefined;

  constructor(events: QueueEvents) {
    this.#events = events;
  }

  /** How many messages and gaps wait. */
  get waiting(): number {
    return this.#entries.length - this.#head + Number(!!this.#next) + Number(!!this.#missed);
  }

  /** Gives back the credit of a message. */
  #free(cost: number): void {
    this.pending -= cost;
    if (cost) this.#events.freed();
  }

  /** Drops a message whose cost was counted in `pending`. */
  drop(a: Arrival, reason: DropReason): void {
    this.#events.dropped(reason);
    this.#free(a.cost);
  }

  /** Puts a message in whose cost was counted in `pending`. */
  put(a: Arrival): void {
    if (a.replaceable) {
      if (this.#replaceable === MAX_REPLACEABLE) this.#replace(a);
      this.#replaceable++;
    }
    a.conflated = a.topic.dropped;
    a.topic.dropped = 0;
    this.#push(a);
  }

  /**
   * Makes room for a: the oldest of its key gives way, else the topic's oldest, else
   * the oldest of all.
   */
  #replace({ topic, behind, frame: { key } }: Arrival): void {
    const waits = this.#entries.slice(this.#head).filter((e) => e.kind === "arrival");
    const may = waits.filter((e) => e.replaceable);
    const ofTopic = may.filter((e) => e.topic === topic);
    const old = ofTopic.find((e) => key && e.frame.key === key) ?? ofTopic[0] ?? (may[0] as Arrival);
    // The next one of its topic that can tells how many are missing before it.
    const count = old.conflated + 1;
    const next = waits.find((e, i) => i > waits.indexOf(old) && e.topic === old.topic && !e.behind);
    if (next) next.conflated += old.behind ? 0 : count; // it was counted when it did not come in time
    else if (old.topic === topic && !behind) topic.dropped += count;
    else this.#miss(old, count);
    this.#replaceable--;
    this.#entries.splice(this.#entries.indexOf(old, this.#head), 1);
    this.drop(old, "queue");
  }

  /**
   * Takes note of messages up to one that gives way, and none that waits can tell of it.
   * Perhaps none of its topic follows, so it is told before everything that waits.
   */
  #miss({ topic: t, frame, lostFrom }: Arrival, count: number): void {
    if (t.class === UNRELIABLE) return;
    t.taken = Math.max(t.taken, frame.offset);
    const m = this.#missed;
    const before = m ? m.count : 0;
    this.#missed = {
      ...unknown,
      topic: !m || m.topic === t.name ? t.name : undefined,
      reason: "overflow",
      count: lostFrom === undefined && before !== undefined ? before + count : undefined,
    };
  }

  /** Puts a mark in, where marks are of use. */
  mark(kind: Mark["kind"], topic: string): void {
    if (this.marks) this.#push({ kind, topic });
  }

  /** Drops a message that took `cost` and has no topic that is known. */
  unknown(cost: number): void {
    this.#events.dropped("unknown_topic");
    this.#free(cost);
  }

  synced(t: TopicState): void {
    this.mark("synced", t.name);
  }

  /**
   * Lets the messages of a group that wait go without credit: another stream counts from
   * now on. The oldest stay, up to `most` bytes; a gap tells of the others.
   */
  forgetCredit(most: number): void {
    let size = 0;
    let count = 0;
    this.#entries = this.#entries.slice(this.#head).filter((e) => {
      if (e.kind !== "arrival") return true;
      e.cost = 0;
      delete e.done;
      size += e.size;
      if (size <= most) return true;
      count++;
      this.#events.dropped("queue");
      return false;
    });
    this.#head = this.pending = 0;
    if (count) this.gap({ ...unknown, reason: "overflow", count });
  }

  /**
   * Puts a gap in. It joins one of the same kind that is the last to wait; where
   * too many wait, the last one becomes a gap of unknown extent.
   */
  gap(g: Gap): void {
    const last = this.#entries.at(-1);
    if (last?.kind === "gap" && last.topic === g.topic && last.reason === g.reason) {
      const count = last.count === undefined || g.count === undefined ? undefined : last.count + g.count;
      this.#entries[this.#entries.length - 1] = { ...g, from: last.from, count };
    } else if (this.#gaps < MAX_GAPS) {
      this.#gaps++;
      this.#push(g);
    } else {
      const i = this.#entries.findLastIndex((e) => e.kind === "gap");
      this.#entries[i] = { ...unknown, reason: "unknown" };
    }
  }

  #push(e: Entry): void {
    this.#entries.push(e);
    this.#serve();
  }

  /** Ends the queue. What waits can still be taken, unless `discard` is set. */
  end(error: TidewireError | undefined, discard: boolean): void {
    this.#ended = true;
    this.#error = error;
    if (discard) {
      this.#entries = [];
      this.#head = this.#replaceable = this.pending = 0;
      this.#next = this.#missed = undefined;
    }
    this.#serve();
  }

  /** Takes the next entry out. */
  #pop(): Entry | undefined {
    let a = this.#next;
    this.#next = undefined;
    if (!a) {
      const missed = this.#missed;
      this.#missed = undefined;
      if (missed) return missed;
      const entry = this.#entries[this.#head];
      if (!entry) return undefined;
      this.#head++;
      if (this.#head === STEP || this.#head === this.#entries.length) {
        this.#entries.splice(0, this.#head);
        this.#head = 0;
      }
      if (entry.kind !== "arrival") {
        if (entry.kind === "gap") this.#gaps--;
        return entry;
      }
      if (entry.replaceable) this.#replaceable--;
      a = entry;
      const gap = missing(a);
      if (gap) {
        this.#next = a;
        return gap;
      }
    }
    this.#free(a.cost);
    return a;
  }

  /** Hands entries, or the end, to those who wait. */
  #serve(): void {
    while (this.#waiters.length > 0) {
      const entry = this.#pop();
      if (!entry && !this.#ended) return;
      const waiter = this.#waiters.shift();
      const error = this.#error;
      if (entry || !error) waiter?.resolve(entry);
      else {
        this.#error = undefined; // told once
        waiter?.reject(error);
      }
    }
  }

  /**
   * Returns the next entry, when there is one; undefined at the end. The error of
   * the end rejects once.
   */
  take(): Promise<Entry | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      this.#serve();
    });
  }
}

/**
 * The gap between what was taken of a message's topic before and the message:
 * what was lost on the way, and what gave way here to something newer.
 */
function missing(a: Arrival): Gap | undefined {
  const { topic: t, frame, lostFrom, prior } = a;
  // Of class unreliable nothing is said about what is missing.
  if (t.class === UNRELIABLE || a.behind) return undefined;
  const from = t.taken < prior ? t.taken : lostFrom;
  t.taken = Math.max(t.taken, frame.offset);
  if (from === undefined) return undefined;
  const lost = lostFrom === undefined ? 0 : frame.offset - frame.previous - lostFrom;
  const to = lost ? frame.offset - frame.previous : prior;
  return {
    kind: "gap",
    topic: t.name,
    from: { epoch: t.epoch, offset: from },
    to: { epoch: t.epoch, offset: to },
    reason: lost ? "lost" : "conflated",
    count: lost + a.conflated || undefined,
  };
}
