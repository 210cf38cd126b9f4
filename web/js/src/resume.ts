// How far a subscription has come, and so where it goes on (PROTOCOL §4.8, §6.1).

import type { Field } from "./envelope.js";
import type { Subscribed } from "./frames.js";
import { MAX_POSITIONS } from "./limits.js";
import type { Gap, Position } from "./message.js";
import { type From, fromField, type Place } from "./options.js";
import type { Announced, TopicState } from "./sequence.js";

/** A gap of which the client learns when it is back. */
function away(topic: string | undefined, from?: Position, to?: Position): Gap {
  const count = from && to && to.offset - from.offset;
  return { kind: "gap", topic, from, to, reason: "reconnect", count };
}

/**
 * The place at which a subscription goes on after a reconnect: the position of an
 * exact pattern, else those of at most 1,024 topics, and for every other topic the
 * time since which nothing of it has come.
 */
export class Resume {
  readonly #exact: boolean;
  readonly #from: From | undefined;
  /** By topic, the one that was heard of the longest ago first. */
  #positions = new Map<string, Place>();
  /** Milliseconds since the Unix epoch by the broker's clock. */
  #since: number | undefined;
  #overflowed = false;
  /** Topics of which something of the beginning is to come, and nobody knows which. */
  #owing = 0;
  #begun = false;
  /** What is older than the stream are last values: it is the first one, and began now. */
  #snapshots = false;
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
      if ("positions" in from) this.#positions = new Map(Object.entries(from.positions));
    }
  }

  /** Where to go on. */
  get #where(): From | undefined {
    if (!this.#begun) return this.#from;
    const [position] = this.#positions.values();
    if (this.#exact) return position && { position };
    if (this.#since === undefined) return undefined;
    return { positions: Object.fromEntries(this.#positions), since: new Date(this.#since) };
  }

  /** The same as a field of SUBSCRIBE. */
  field(base: number): Field {
    return fromField(this.#where, base, this.#exact);
  }

  /** Whether the field needs the base of the broker's times. */
  get timed(): boolean {
    const where = this.#where;
    return typeof where === "object" && "since" in where;
  }

  /** Takes note of the beginning; returns the gap that it shows. */
  subscribed(s: Subscribed, base: number, client: string): Gap | undefined {
    const again = this.#begun;
    // Another id: the broker was restarted, and nobody knows what it had.
    const lost =
      this.#overflowed || this.#owing > 0 || this.#client !== client || this.#since === undefined;
    this.#owing = !again && this.#since === undefined ? (s.topics ?? 0) : 0;
    this.#snapshots = !again && this.#from === undefined;
    this.#begun = true;
    this.#client = client;
    if (this.#exact) return undefined;
    if (again && lost) this.#positions.clear();
    if (again ? lost : this.#since === undefined) {
      this.#since = s.time === undefined ? undefined : base + s.time;
    }
    this.#overflowed = false;
    return again && lost ? away(undefined) : undefined;
  }

  /** Takes note of a topic that is announced; returns the gap that it shows. */
  announced({ name, epoch, offset, last }: Announced): Gap | undefined {
    if (last !== undefined && this.#owing > 0) this.#owing--;
    const from = this.#positions.get(name);
    const to = { epoch, offset };
    this.#keep(name, { ...to, values: this.#snapshots ? last : this.#values(name, epoch) });
    if (!from || (from.epoch === epoch && offset <= from.offset)) return undefined;
    // Positions of two epochs cannot be compared, so nobody knows how far it goes.
    return away(name, from, from.epoch === epoch ? to : undefined);
  }

  /** Up to where only last values are wanted of a topic. */
  #values(topic: string, epoch: number): number | undefined {
    const at = this.#positions.get(topic);
    return at?.epoch === epoch ? at.values : undefined;
  }

  #keep(topic: string, p: Place): void {
    this.#positions.delete(topic); // it becomes the newest
    this.#positions.set(topic, p);
  }

  /** Takes note of how far the topics of a stream had come. */
  ended(topics: Iterable<TopicState>): void {
    let newest = 0;
    for (const t of topics) {
      this.#keep(t.name, { epoch: t.epoch, offset: t.last, values: this.#values(t.name, t.epoch) });
      newest = Math.max(newest, t.base + t.time);
    }
    for (const topic of this.#positions.keys()) {
      if (this.#positions.size <= MAX_POSITIONS) return;
      // It counts as one of which nothing came, so everything up to now is left out.
      this.#positions.delete(topic);
      this.#overflowed = true;
      this.#since = newest + 1;
    }
  }
}
