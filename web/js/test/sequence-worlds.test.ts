// PROTOCOL §9 through random worlds: whatever the network does and however slow the
// application is, no message of a key comes after a newer one of it, none comes twice, and
// one that does not come is told by a gap.

import { expect, test } from "vitest";
import type { Gap } from "../src/message.js";
import { ItemQueue } from "../src/queue.js";
import { Resume } from "../src/resume.js";
import { type Arrival, Sequence } from "../src/sequence.js";
import { messageFrame } from "./mock.js";

const EPOCH = 7;
const COST = 10;

interface Published {
  readonly offset: number;
  readonly previous: number;
  /** The distance to the last reliable one, of a lossy message. */
  readonly reliable: number | undefined;
  readonly key: string;
}

/** Numbers from 0 to 1, the same ones for a seed: mulberry32. */
function random(seed: number): () => number {
  let s = seed;
  return () => {
    s = (s + 0x6d2b79f5) | 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** One subscription to a topic, over the connections of a broker that keeps everything reliable. */
class World {
  readonly #chance: () => number;
  readonly #class: number;
  readonly #log: Published[] = [];
  readonly #items: (Arrival | Gap)[] = [];
  readonly #queue = new ItemQueue({ freed: () => {}, dropped: () => {} });
  readonly #resume = new Resume("a", true, undefined);
  #sequence!: Sequence;
  #offset = 0;
  #reliable = 0;
  /** What is under way. */
  #stream: (() => void)[] = [];
  #datagrams: (() => void)[] = [];
  #taking = false;

  constructor(seed: number, cls: number) {
    this.#chance = random(seed);
    this.#class = cls;
    this.#begin(0);
  }

  #begin(offset: number): void {
    this.#sequence = new Sequence(this.#class, this.#queue);
    const at = { topic: 1, epoch: EPOCH, offset };
    this.#resume.subscribed({ ...at, last: undefined, time: undefined, class: undefined, topics: undefined }, 0, "c");
    const announced = { ...at, name: "a", last: this.#offset };
    const { gap } = this.#resume.announced(announced);
    if (gap) this.#queue.gap(gap);
    this.#sequence.announce(announced, 0);
  }

  #send(m: Published): void {
    this.#stream.push(() => {
      this.#queue.pending += COST;
      this.#sequence.message(messageFrame(m), COST);
    });
  }

  #publish(reliable = this.#chance() < 0.5): Published {
    const previous = 1 + (this.#chance() < 0.1 ? Math.floor(this.#chance() * 3) : 0);
    const offset = (this.#offset += previous);
    const behind = this.#reliable && offset - this.#reliable;
    if (reliable) this.#reliable = offset;
    const key = this.#chance() < 0.5 ? `k${Math.floor(this.#chance() * 3)}` : "";
    const m = { offset, previous, reliable: reliable ? undefined : behind, key };
    this.#log.push(m);
    return m;
  }

  #deliver(m: Published): void {
    if (this.#class === 2 || (this.#class === 0 && m.reliable !== undefined)) {
      const copies = this.#chance() < 0.1 ? 2 : 1;
      for (let i = 0; i < copies; i++) {
        if (this.#chance() < 0.85) this.#datagrams.push(() => this.#sequence.datagram(messageFrame(m)));
      }
    } else if (this.#chance() < 0.07) {
      const gap = { topic: 1, epoch: EPOCH, from: m.offset - m.previous, to: m.offset, reason: 1, count: 1 };
      this.#stream.push(() => this.#sequence.gap(gap));
    } else this.#send(m);
  }

  #reconnect(): void {
    this.#resume.ended(this.#sequence.topics);
    this.#sequence.end();
    this.#stream = [];
    this.#datagrams = [];
    const [, , offset = 0] = this.#resume.field(0) as number[];
    this.#begin(offset);
    for (const m of this.#log) if (m.offset > offset && m.reliable === undefined) this.#send(m);
  }

  #take(): void {
    if (this.#taking) return;
    this.#taking = true;
    void this.#queue.take().then((e) => {
      this.#taking = false;
      if (e?.kind === "arrival" || e?.kind === "gap") this.#items.push(e);
    });
  }

  /** Lets it live; `taken` is the chance that the application takes something in a step. */
  async run(steps: number, taken: number): Promise<void> {
    for (let step = 0; step < steps; step++) {
      const what = this.#chance();
      if (what < 0.45) this.#deliver(this.#publish());
      else if (what < 0.65) this.#stream.shift()?.();
      else if (what < 0.85) {
        const [f] = this.#datagrams.splice(Math.floor(this.#chance() ** 2 * this.#datagrams.length), 1);
        f?.();
      } else if (what < 0.87) this.#reconnect();
      if (this.#chance() < taken) this.#take();
      await Promise.resolve();
      await Promise.resolve();
    }
    // Everything under way arrives, and then a reliable message.
    for (const f of [...this.#stream, ...this.#datagrams]) f();
    const last = this.#publish(true);
    this.#stream = [];
    this.#send(last);
    this.#stream[0]?.();
    do {
      this.#take();
      await Promise.resolve();
      await Promise.resolve();
    } while (!this.#taking);
  }

  /** What is wrong with what the application got. */
  faults(): string[] {
    const faults: string[] = [];
    const came = new Set<number>();
    const newest = new Map<string, number>();
    const gaps: Gap[] = [];
    for (const e of this.#items) {
      if (e.kind === "gap") {
        gaps.push(e);
        continue;
      }
      const { offset, key } = e.frame;
      if (came.has(offset)) faults.push(`${offset} came twice`);
      came.add(offset);
      const of = this.#class === 2 ? key : ""; // only there a key has an order of its own
      const before = Math.max(newest.get(of) ?? 0, of ? 0 : (newest.get("all") ?? 0));
      if (offset < before) faults.push(`${offset} of key ${key} came after ${before}`);
      newest.set(of, offset);
      newest.set("all", Math.max(newest.get("all") ?? 0, offset));
    }
    const within = (g: Gap, o: number): boolean => (g.from?.offset ?? 0) < o && o <= (g.to?.offset ?? Infinity);
    for (const { offset } of this.#log) {
      if (!came.has(offset) && !gaps.some((g) => within(g, offset))) faults.push(`${offset} is missing without a gap`);
    }
    if (this.#queue.pending !== 0) faults.push(`${this.#queue.pending} bytes of credit are gone`);
    return faults;
  }
}

test.each([
  ["reliable", 0, 1],
  ["reliable", 0, 0.03],
  ["latest", 1, 1],
  ["latest", 1, 0.03],
  ["sequenced", 2, 1],
  ["sequenced", 2, 0.03],
])("class %s (%i), where the application takes with a chance of %d", async (_, cls, taken) => {
  for (let seed = 1; seed <= 60; seed++) {
    const world = new World(seed, cls);
    await world.run(1500, taken);
    expect(world.faults(), `seed ${seed}`).toEqual([]);
  }
});
