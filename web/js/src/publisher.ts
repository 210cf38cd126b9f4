// Publishing (PROTOCOL §7): which of a client's messages goes by which stream, so
// that those to one topic stay in order.

import { onAbort } from "./abort.js";
import type { Connection } from "./connection.js";
import type { Drops } from "./drops.js";
import { type TidewireError, fail } from "./errors.js";
import { writePublish } from "./frames.js";
import type { Position } from "./message.js";
import type { Payload } from "./payload.js";
import { Publication, type Publishing } from "./publication.js";

/** The longest PUBLISH that goes on the control stream. */
const MAX_SINGLE = 16 << 10;
/** What a PUBLISH frame is longer than its payload and its topic, at most. */
const PUBLISH_OVERHEAD = 32;
/** A second publish to a topic within this time opens a publication. */
const REPEAT_MS = 10_000;
/** A publication that was not used for this time is closed. */
const IDLE_MS = 30_000;
/** How often both are looked at. */
const SWEEP_MS = 5000;
/** Payload bytes that may wait to be sent, of all topics together. */
const MAX_WAITING = 16 << 20;

/** What is published to one topic. */
class TopicPublisher {
  readonly name: string;
  /** Not sent yet, in order. */
  readonly waiting: Publishing[] = [];
  /** Whether a single PUBLISH on the control stream waits for its answer. */
  single = false;
  /** Whether it is published to often enough for a publication. */
  frequent = false;
  usedAt = Date.now();
  publication: Publication | undefined;

  constructor(name: string) {
    this.name = name;
  }

  get isIdle(): boolean {
    return this.waiting.length === 0 && !this.single && (this.publication?.isIdle ?? true);
  }
}

/**
 * Publishes for a client, across its connections. A message that was not sent
 * when a connection is lost is sent on the next one; one that was sent and has no
 * answer is lost to knowledge: `connection_lost`.
 */
export class Publisher {
  readonly #drops: Drops;
  /** By name, the least recently used first. */
  readonly #topics = new Map<string, TopicPublisher>();
  #connection: Connection | undefined;
  #publications = 0; // of the connection, that have not ended
  #waiting = 0; // bytes
  #timer: ReturnType<typeof setTimeout> | undefined;
  #error: TidewireError | undefined;

  constructor(drops: Drops) {
    this.#drops = drops;
  }

  /** Publishes and waits for the acknowledgement. The topic must be valid. */
  publish(topic: string, payload: Payload, signal: AbortSignal | undefined): Promise<Position> {
    return new Promise((resolve, reject) => {
      if (this.#error) return reject(this.#error);
      const size = payload.data.length;
      if (this.#waiting + size > MAX_WAITING) {
        return reject(fail("rate_limited", `${MAX_WAITING} bytes wait`));
      }
      const t = this.#topic(topic);
      const m: Publishing = {
        ...payload,
        lossy: false,
        resolve: (p) => (stop(), resolve(p)),
        reject: (e) => (stop(), reject(e)),
      };
      this.#waiting += size;
      t.waiting.push(m);
      const stop = onAbort(signal, (error) => {
        this.#forget(t, m);
        reject(error);
      });
      this.#pump(t);
    });
  }

  /** Sends a lossy message; without a connection it is dropped and counted. */
  lossy(topic: string, payload: Payload): void {
    const c = this.#connection;
    if (!c || this.#tooLarge(c, payload)) this.#drops.unsent++;
    else c.lossy(writePublish(0, topic, { ...payload, lossy: true }));
  }

  #tooLarge(c: Connection, payload: Payload): boolean {
    return payload.data.length > (c.welcome?.limits.payload ?? Infinity);
  }

  /** Returns the state of a topic, now the most recently used. */
  #topic(name: string): TopicPublisher {
    const now = Date.now();
    let t = this.#topics.get(name);
    if (!t) t = new TopicPublisher(name);
    else if (now - t.usedAt < REPEAT_MS || !t.isIdle) t.frequent = true;
    t.usedAt = now;
    this.#topics.delete(name);
    this.#topics.set(name, t);
    this.#timer ??= setTimeout(() => this.#sweep(), SWEEP_MS);
    return t;
  }

  /** Takes a message back that was not sent. */
  #forget(t: TopicPublisher, m: Publishing): void {
    const i = t.waiting.indexOf(m);
    if (i < 0) return;
    t.waiting.splice(i, 1);
    this.#waiting -= m.data.length;
  }

  #take(t: TopicPublisher): Publishing | undefined {
    const m = t.waiting.shift();
    if (m) this.#waiting -= m.data.length;
    return m;
  }

  /** Sends what waits, as far as can be now. */
  #pump(t: TopicPublisher): void {
    const c = this.#connection;
    if (!c || c.error) return;
    for (let m = t.waiting[0]; m; m = t.waiting[0]) {
      if (this.#tooLarge(c, m)) {
        this.#take(t)?.reject(fail("payload_too_large", `${m.data.length} bytes`));
      } else if (t.publication) {
        if (!t.publication.isSendable) return;
        this.#take(t);
        t.publication.send(m);
      } else if (t.single) {
        return; // whatever is next, it goes when the answer is there (PROTOCOL §7.2)
      } else if (t.frequent || m.data.length + 3 * t.name.length + PUBLISH_OVERHEAD > MAX_SINGLE) {
        this.#open(c, t);
        return;
      } else {
        this.#take(t);
        void this.#single(c, t, m);
      }
    }
  }

  async #single(c: Connection, t: TopicPublisher, m: Publishing): Promise<void> {
    t.single = true;
    try {
      m.resolve(await c.publish(t.name, m));
    } catch (e) {
      m.reject(e as TidewireError);
    }
    t.single = false;
    this.#pump(t);
  }

  /** Opens a publication, if the broker's limit has room for it. */
  #open(c: Connection, t: TopicPublisher): void {
    const limit = Math.max(1, c.welcome?.limits.publications ?? 0);
    if (this.#publications >= limit / 2) this.#closeOne();
    if (this.#publications >= limit) return; // the end of another one opens it
    const p = new Publication(c, t.name, {
      sendable: () => this.#pump(t),
      idle: () => {
        if (this.#publications >= limit) this.#closeOne();
      },
      ended: (error) => {
        this.#publications--;
        t.publication = undefined;
        if (error) this.#rejectAll(t, error);
        if (c === this.#connection) this.connected(c);
      },
    });
    t.publication = p;
    this.#publications++;
    void p.run();
  }

  /** Closes the publication that was used the longest ago, of those that are idle. */
  #closeOne(): void {
    for (const t of this.#topics.values()) {
      if (t.publication && !t.publication.closing && t.isIdle) return this.#finish(t);
    }
  }

  #finish(t: TopicPublisher): void {
    t.publication?.close();
    t.frequent = false;
  }

  /** Closes and forgets what has not been used for long. */
  #sweep(): void {
    this.#timer = undefined;
    const now = Date.now();
    for (const t of this.#topics.values()) {
      if (!t.isIdle) continue;
      if (t.publication) {
        if (!t.publication.closing && now - t.usedAt >= IDLE_MS) this.#finish(t);
      } else if (now - t.usedAt >= REPEAT_MS) this.#topics.delete(t.name);
    }
    if (this.#topics.size > 0) this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS);
  }

  #rejectAll(t: TopicPublisher, error: TidewireError): void {
    for (let m = this.#take(t); m; m = this.#take(t)) m.reject(error);
  }

  /** There is a connection: what waits is sent. */
  connected(c: Connection): void {
    this.#connection = c;
    for (const t of this.#topics.values()) this.#pump(t);
  }

  /** The connection has ended; its streams tell for themselves. */
  disconnected(): void {
    this.#connection = undefined;
  }

  /** The end of the client: what waits is refused, and so is what comes. */
  close(error: TidewireError): void {
    this.#error = error;
    this.#connection = undefined;
    clearTimeout(this.#timer);
    for (const t of this.#topics.values()) this.#rejectAll(t, error);
    this.#topics.clear();
  }
}
