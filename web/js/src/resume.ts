// How far a subscription has come, and so where it goes on (PROTOCOL §4.8, §6.1).

import type { Field } from "./envelope.js";
import type { Subscribed } from "./frames.js";
import { MAX_ANNOUNCEMENTS } from "./limits.js";
import type { Gap, Position } from "./message.js";
import { type From, type Place, fitting, fromField } from "./options.js";
import type { Announced, TopicState } from "./sequence.js";

/** A gap of which the client learns when it is back. */
function away(topic: string | undefined, from?: Position, to?: Position): Gap {
  const count = from && to && to.offset - from.offset;
  return { kind: "gap", topic, from, to, reason: "reconnect", count };
}

/**
 * The topics that are remembered: those that count on a stream, which names the ones
 * that it forgets, and as many of the streams before.
 */
const MAX_REMEMBERED = 2 * MAX_ANNOUNCEMENTS;

/** How far a topic has come. */
interface Known extends Place {
  /** When its newest message was sequenced, in milliseconds since the Unix epoch. */
  readonly time?: number;
  /** Something is to come that was there when the subscription began. */
  readonly behind?: boolean;
}

/**
 * The place at which a subscription goes on after a reconnect: the position of an
 * exact pattern, else those of as many topics as SUBSCRIBE has room for, and for every
 * other topic the time since which nothing of it has come. What is known and had no room
 * comes again, and is not handed out.
 */
export class Resume {
  readonly #exact: boolean;
  readonly #from: From | undefined;
  /** By topic, the one that was used the longest ago first. */
  readonly #positions = new Map<string, Known>();
  /** The topics that the last SUBSCRIBE named: the broker begins there, or says where. */
  #named = new Set<string>();
  /** Milliseconds since the Unix epoch by the broker's clock. */
  #since: number | undefined;
  /** Topics of which something of the beginning is to come, and nobody knows which. */
  #owing = 0;
  /** It is known of which topics, and they cannot be named. */
  #unnamed = false;
  #begun = false;
  /** What is older than the stream are last values: it is the first one, and began now. */
  #snapshots = false;
  /** A gap in every topic was told when the stream began. */
  #told = false;
  #client = "";

  /** Throws `invalid_option` or `invalid_topic` for a `from` that cannot be. */
  constructor(pattern: string, exact: boolean, from: From | undefined) {
    fromField(from, 0, exact);
    this.#exact = exact;
    this.#from = from;
    if (from === "beginning") this.#since = 0;
    else if (from && "position" in from) this.#positions.set(pattern, from.position);
    else if (from && "since" in from) {
      this.#since = from.since.getTime();
      if ("positions" in from) {
        this.#positions = new Map(Object.entries(from.positions));
        this.#named = new Set(this.#positions.keys());
      }
    }
  }

  /** Where to go on, as a field of SUBSCRIBE. */
  field(base: number): Field {
    if (!this.#begun) return fromField(this.#from, base, this.#exact);
    if (this.#exact) {
      const [position] = this.#positions.values();
      return fromField(position && { position }, base, true);
    }
    if (this.#since === undefined) return undefined;
    const positions = Object.fromEntries(fitting(this.#positions));
    this.#named = new Set(Object.keys(positions));
    this.#unnamed = [...this.#positions].some(([topic, p]) => p.behind && !this.#named.has(topic));
    return fromField({ positions, since: new Date(this.#since) }, base, false);
  }

  /** Whether the field needs the base of the broker's times. */
  get timed(): boolean {
    if (this.#begun) return !this.#exact && this.#since !== undefined;
    return typeof this.#from === "object" && "since" in this.#from;
  }

  /** Takes note of the beginning; returns the gap that it shows. */
  subscribed(s: Subscribed, base: number, client: string): Gap | undefined {
    const again = this.#begun;
    const { time } = s;
    this.#told =
      again &&
      !this.#exact &&
      // Another id: the broker was restarted, and nobody knows what it had.
      (this.#owing > 0 || this.#unnamed || this.#client !== client || this.#since === undefined);
    this.#owing = !again && this.#since === undefined ? (s.topics ?? 0) : 0;
    this.#snapshots = !again && this.#from === undefined;
    this.#begun = true;
    this.#client = client;
    if (time !== undefined) this.#since ??= base + time;
    return this.#told ? away(undefined) : undefined;
  }

  /**
   * Takes note of a topic that is announced; returns the gap that it shows, and the offset
   * up to which what comes is known.
   */
  announced({ name, epoch, offset, last }: Announced): { gap: Gap | undefined; known: number } {
    if (last !== undefined && this.#owing > 0) this.#owing--;
    const from = this.#positions.get(name);
    const to = { epoch, offset };
    const same = from?.epoch === epoch;
    // Of a topic that was named the broker says where it goes on.
    const known = same && !this.#exact && !this.#named.has(name) ? Math.max(offset, from.offset) : offset;
    const values = this.#snapshots ? last : this.#values(name, epoch);
    this.#keep(name, { epoch, offset: known, values });
    const gapless = !from || this.#told || (same && offset <= from.offset);
    // Positions of two epochs cannot be compared, so nobody knows how far it goes.
    return { gap: gapless ? undefined : away(name, { epoch: from.epoch, offset: from.offset }, same ? to : undefined), known };
  }

  /** Up to where only last values are wanted of a topic. */
  #values(topic: string, epoch: number): number | undefined {
    const at = this.#positions.get(topic);
    return at?.epoch === epoch ? at.values : undefined;
  }

  #keep(topic: string, p: Known): void {
    this.#positions.delete(topic); // it becomes the newest
    this.#positions.set(topic, p);
    if (this.#positions.size <= MAX_REMEMBERED) return;
    const [[oldest, { time = 0 }] = [topic, p]] = this.#positions;
    // It counts as one of which nothing came.
    this.#positions.delete(oldest);
    if (this.#since !== undefined) this.#since = Math.max(this.#since, time);
  }

  /** Takes note of how far topics had come that the stream knows no more. */
  ended(topics: Iterable<TopicState>): void {
    // The newest first to be named; before them those of which something is owed.
    const rank = (t: TopicState): number => (t.synced ? t.base + t.time : Infinity);
    for (const t of [...topics].toSorted((a, b) => rank(a) - rank(b))) {
      this.#named.delete(t.name);
      this.#keep(t.name, {
        epoch: t.epoch,
        offset: t.last,
        values: this.#values(t.name, t.epoch),
        time: t.base + t.time,
        behind: !t.synced,
      });
    }
  }
}
