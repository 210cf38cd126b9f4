// Publishing (PROTOCOL §7): which of a client's messages goes by which stream, so
// that those to one topic stay in order.

import { onAbort } from "./abort.js";
import type { Connection } from "./connection.js";
import type { Drops } from "./drops.js";
import { type TidewireError, NO_CONNECTION, fail, numbered } from "./errors.js";
import { type Outgoing, writePublish } from "./frames.js";
import type { Position } from "./message.js";
import { checkRest } from "./options.js";
import { Publication, type Publishing, ageOf, outcomeUnknown, timeLeft } from "./publication.js";

/** The longest PUBLISH that goes on the control stream. */
const MAX_SINGLE = 16 << 10;
/** What a PUBLISH frame is longer than its payload, its topic and its headers, at most. */
const PUBLISH_OVERHEAD = 512;
/** A second publish to a topic within this time opens a publication. */
const REPEAT_MS = 10_000;
/** A publication that was not used for this time is closed. */
const IDLE_MS = 30_000;
/** How often both are looked at. */
const SWEEP_MS = 5000;
/** Bytes of messages that may wait on a connection, of all topics together. */
const MAX_WAITING = 16 << 20;
/** The same without a connection, unless the application says otherwise. */
const MAX_OFFLINE = 1 << 20;

/** What becomes of messages that are published while there is no connection. */
export interface OfflineOptions {
  /**
   * The bytes that may wait for the next connection, in order, 64 a message beside what
   * it carries; 1 MiB by default. Beyond, publishing rejects with `queue_full`.
   */
  maxBytes?: number;
  /** Let nothing wait: publishing rejects at once with `offline`. */
  refuse?: boolean;
}

/** What a message counts for while it waits: an empty one takes memory too. */
function sizeOf({ data, key, id, headers }: Outgoing): number {
  return 62 + data.length + [key, id, headers].join().length; // two commas
}

/** The error of one message of a batch; what ends all of them is not of one. */
function ofBatch(e: TidewireError, i: number): TidewireError {
  return e.codeName === "aborted" || e.codeName === "closed" ? e : numbered(e, i);
}

/** What is published to one topic. */
class TopicPublisher {
  readonly name: string;
  /** Not sent yet, or to be sent again, in order. */
  readonly waiting: Publishing[] = [];
  /** The last sequence that was used. */
  sequence: number;
  /** Whether a single PUBLISH on the control stream waits for its answer. */
  single = false;
  /** Whether it is published to often enough for a publication. */
  frequent = false;
  usedAt = Date.now();
  publication: Publication | undefined;

  constructor(name: string, sequence: number) {
    this.name = name;
    this.sequence = sequence;
  }

  get isIdle(): boolean {
    return this.waiting.length === 0 && !this.single && (this.publication?.isIdle ?? true);
  }
}

/**
 * Publishes for a client, across its connections. A message that was not sent
 * when a connection is lost is sent on the next one. One that was sent and has no
 * answer is sent again, under the same sequence, so that the broker knows it, if the
 * client was given its id again, or if it has an idempotency key; else, or if the broker
 * may have forgotten it, it is lost to knowledge: `connection_lost`.
 */
export class Publisher {
  readonly #drops: Drops;
  readonly #offline: Required<OfflineOptions>;
  /** By name, the least recently used first. */
  readonly #topics = new Map<string, TopicPublisher>();
  #connection: Connection | undefined;
  #publications = 0; // of the connection, that have not ended
  #waiting = 0; // bytes
  #last = 0; // no sequence of a topic that was forgotten is above it
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lost: TidewireError | undefined; // why the last connection ended
  #error: TidewireError | undefined;

  /** Throws a TypeError for a bound that is no number. */
  constructor(drops: Drops, offline: OfflineOptions) {
    const { maxBytes = MAX_OFFLINE, refuse = false, ...rest } = offline;
    checkRest(rest);
    if (!(maxBytes >= 0)) throw new TypeError("offline.maxBytes is below 0");
    this.#drops = drops;
    this.#offline = { maxBytes, refuse };
  }

  /**
   * Publishes messages to a valid topic, one behind the other, and waits for the
   * acknowledgements. Of a batch they go on a publication, and the error tells the number
   * of the message, from 0.
   */
  publish(
    topic: string,
    messages: readonly Outgoing[],
    signal: AbortSignal | undefined,
  ): Promise<Position[]> {
    const error = this.#error ?? this.#refusal(messages);
    if (error) return Promise.reject(error);
    const t = this.#topic(topic);
    if (messages.length > 1) t.frequent = true;
    const done = messages.map((m) => this.#enqueue(t, m, signal));
    this.#pump(t);
    if (done.length === 1) return Promise.all(done);
    return Promise.all(done.map((p, i) => p.catch((e: TidewireError) => Promise.reject(ofBatch(e, i)))));
  }

  /** Why messages cannot wait; undefined if they can. */
  #refusal(messages: readonly Outgoing[]): TidewireError | undefined {
    const connected = this.#connection && !this.#connection.error;
    if (!connected && this.#offline.refuse) return fail("offline", NO_CONNECTION);
    const most = connected ? MAX_WAITING : this.#offline.maxBytes;
    const size = messages.reduce((n, m) => n + sizeOf(m), this.#waiting);
    return size > most ? fail("queue_full", `more than ${most} bytes wait to be published`) : undefined;
  }

  #enqueue(t: TopicPublisher, outgoing: Outgoing, signal?: AbortSignal): Promise<Position> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        m.settled = true;
        stop();
      };
      const m: Publishing = {
        ...outgoing,
        since: Date.now(),
        sequence: 0,
        sent: 0,
        sentTick: 0,
        again: false,
        client: "",
        settled: false,
        resolve: (p) => (settle(), resolve(p)),
        reject: (e) => {
          settle();
          // It was published before, and where is not known any more.
          if (e.codeName === "duplicate") resolve({ epoch: 0, offset: 0 });
          // It was published or not, and where is not known any more either.
          else reject(e.codeName === "forgotten" ? outcomeUnknown(e) : e);
        },
      };
      this.#waiting += sizeOf(m);
      t.waiting.push(m);
      const stop = onAbort(signal, (error) => {
        m.settled = true;
        this.#forget(t, m);
        reject(error);
      });
    });
  }

  /**
   * Sends a lossy message; without a connection it is dropped and counted, unless that
   * is refused.
   */
  lossy(topic: string, m: Outgoing): void {
    const c = this.#connection;
    if (c && !c.error) {
      c.checkPayload(m);
      c.lossy(writePublish(0, topic, m));
    } else if (this.#offline.refuse) throw fail("offline", NO_CONNECTION);
    else this.#drops.unsent++;
  }

  /** Returns the state of a topic, now the most recently used. */
  #topic(name: string): TopicPublisher {
    const now = Date.now();
    let t = this.#topics.get(name);
    if (!t) t = new TopicPublisher(name, this.#last);
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
    this.#waiting -= sizeOf(m);
  }

  #take(t: TopicPublisher): Publishing | undefined {
    const m = t.waiting.shift();
    if (m) this.#waiting -= sizeOf(m);
    return m;
  }

  /** Gives back what was sent and has no answer, in order: it goes before the rest. */
  #giveBack(t: TopicPublisher, messages: readonly Publishing[]): void {
    const again = messages.filter((m) => !m.settled);
    if (this.#error) {
      for (const m of again) m.reject(outcomeUnknown(this.#error));
      return;
    }
    for (const m of again) {
      m.again = true;
      this.#waiting += sizeOf(m);
    }
    t.waiting.unshift(...again);
  }

  /** Whether a message was sent and cannot be sent again: the broker would not know it. */
  #isLost(c: Connection, m: Publishing): boolean {
    return m.again && m.client !== c.id && !m.id;
  }

  /** Gives a message the sequence under which it is sent. */
  #number(c: Connection, t: TopicPublisher, m: Publishing): number {
    if (m.client !== c.id) m.sequence = 0; // another publisher has another count
    m.client = c.id;
    if (!m.sent) {
      m.sent = Date.now();
      m.sentTick = performance.now();
    }
    m.sequence ||= t.sequence = Math.max(t.sequence + 1, t.publication?.next ?? 0);
    return m.sequence;
  }

  /** Sends what waits, as far as can be now. */
  #pump(t: TopicPublisher): void {
    const c = this.#connection;
    if (!c || c.error) return;
    for (let m = t.waiting[0]; m; m = t.waiting[0]) {
      const { publication } = t;
      const tooLarge = c.tooLarge(m);
      if (tooLarge) {
        this.#take(t)?.reject(tooLarge);
      } else if (m.ttl && !m.sent && m.since + m.ttl <= Date.now()) {
        this.#take(t)?.reject(fail("expired", "its ttl was over before it was sent"));
      } else if (this.#isLost(c, m)) {
        this.#take(t)?.reject(outcomeUnknown(this.#lost));
      } else if (t.single || (publication && !publication.isSendable)) {
        return; // whatever is next, it goes when there is an answer (PROTOCOL §7.2)
      } else if (!publication && (t.frequent || this.#isLong(t, m)) && this.#open(c, t)) {
        return;
      } else {
        const sequence = this.#number(c, t, m);
        if (publication && publication.next !== sequence) {
          publication.close(); // a stream leaves no number out (PROTOCOL §7.6)
          return;
        }
        this.#take(t);
        if (publication) publication.send(m);
        else void this.#single(c, t, m);
      }
    }
  }

  /** Whether a message is too long for the control stream. */
  #isLong(t: TopicPublisher, m: Publishing): boolean {
    const headers = m.headers?.join("").length ?? 0;
    return m.data.length + 3 * (t.name.length + headers) + PUBLISH_OVERHEAD > MAX_SINGLE;
  }

  async #single(c: Connection, t: TopicPublisher, m: Publishing): Promise<void> {
    t.single = true;
    try {
      m.resolve(await c.requests.publish(t.name, { ...m, ttl: timeLeft(m), age: ageOf(m) }, m.sequence));
    } catch (e) {
      if ((e as TidewireError).codeName === "connection_lost") this.#giveBack(t, [m]);
      else m.reject(e as TidewireError);
    }
    t.single = false;
    this.#pump(t);
  }

  /**
   * Opens a publication; false if the broker's limit has no room for it. Those that are
   * there may be busy for ever, so the topic goes by the control stream meanwhile.
   */
  #open(c: Connection, t: TopicPublisher): boolean {
    const limit = Math.max(1, c.welcome?.limits.publications ?? 0);
    if (this.#publications >= limit / 2) this.#closeOne();
    if (this.#publications >= limit) return false;
    const [head] = t.waiting;
    const first = (head?.client === c.id && head.sequence) || t.sequence + 1;
    const p = new Publication(c, t.name, first, {
      sendable: () => this.#pump(t),
      idle: () => {
        if (this.#publications >= limit) this.#closeOne();
      },
      ended: (error, open) => {
        this.#publications--;
        t.publication = undefined;
        this.#giveBack(t, open);
        if (error) this.#rejectAll(t, error);
        if (c === this.#connection) this.connected(c);
      },
    });
    t.publication = p;
    this.#publications++;
    void p.run();
    return true;
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
      } else if (now - t.usedAt >= REPEAT_MS) {
        this.#topics.delete(t.name);
        this.#last = Math.max(this.#last, t.sequence);
      }
    }
    if (this.#topics.size > 0) this.#timer = setTimeout(() => this.#sweep(), SWEEP_MS);
  }

  /**
   * Of a message that was sent nobody knows whether it was published, where the code
   * invites to publish again.
   */
  #rejectAll(t: TopicPublisher, error: TidewireError): void {
    for (let m = this.#take(t); m; m = this.#take(t)) {
      m.reject(m.again && error.code >= 300 ? outcomeUnknown(error) : error);
    }
  }

  /** There is a connection: what waits is sent. */
  connected(c: Connection): void {
    this.#connection = c;
    for (const t of this.#topics.values()) this.#pump(t);
  }

  /** The connection has ended; its streams tell for themselves. */
  disconnected(error: TidewireError): void {
    this.#connection = undefined;
    this.#lost = error;
  }

  /** The end of the client: what waits is refused, and so is what comes. */
  close(error: TidewireError): void {
    this.#error = error;
    this.#connection = undefined;
    clearTimeout(this.#timer);
    for (const t of this.#topics.values()) {
      for (let m = this.#take(t); m; m = this.#take(t)) m.reject(m.again ? outcomeUnknown(error) : error);
    }
    this.#topics.clear();
  }
}
