// A topic whose last values are read as a whole (PROTOCOL §4.5).

import { deferred } from "./deferred.js";
import { type TidewireError, fail } from "./errors.js";
import type { Message } from "./message.js";
import { bad } from "./options.js";
import type { Subscription } from "./subscription.js";

/** Options of {@link Client.map}. */
export interface MapOptions {
  /** The most keys; 10,000 by default. More end the map with `queue_full`. */
  maxKeys?: number;
  /** 0 (first) to 7 (last); 3 by default. */
  priority?: number;
  /** Ends the map with `aborted`. */
  signal?: AbortSignal;
}

/** A key of a live map has another value, or none any more. */
export interface MapChange<T> {
  readonly key: string;
  /** The last value; undefined: the key was cleared. */
  readonly message: Message<T> | undefined;
}

const DEFAULT_MAX_KEYS = 10_000;

/**
 * The last values of a topic by key, kept up to date. After a reconnect, or a gap, it
 * is read again as a whole. Every message with a key sets it, an empty one clears it;
 * those that are not retained only for who is there.
 */
export class LiveMap<T = unknown> {
  /**
   * Resolves when all values are there. Rejects with the reason if the map ends
   * before. Need not be awaited.
   */
  readonly ready: Promise<void>;
  /** Resolves when the map has ended: with the error, or with undefined. Never rejects. */
  readonly closed: Promise<TidewireError | undefined>;
  readonly #subscription: Subscription<T>;
  readonly #ready = deferred<void>();
  readonly #messages = new Map<string, Message<T>>();
  readonly #watchers = new Set<Changes<T>>();
  readonly #maxKeys: number;
  #error: TidewireError | undefined;

  /** @internal `subscription` is fresh. */
  constructor(subscription: Subscription<T>, o: MapOptions) {
    this.#maxKeys = o.maxKeys ?? DEFAULT_MAX_KEYS;
    if (!(this.#maxKeys > 0)) throw bad("maxKeys is not above 0");
    this.#subscription = subscription;
    this.ready = this.#ready.promise;
    this.closed = subscription.closed.then((error) => this.#error ?? error);
    void this.#run();
  }

  /** Reads the subscription to its end; never rejects. */
  async #run(): Promise<void> {
    const s = this.#subscription;
    let stale = new Set<string>(); // keys that have not come since it began anew
    try {
      for (let e = await s.queue.take(); e; e = await s.queue.take()) {
        if (e.kind === "begun") stale = new Set(this.#messages.keys());
        else if (e.kind === "synced") {
          for (const key of stale) this.#set(key, undefined);
          stale.clear();
          this.#ready.resolve();
        } else if (e.kind === "gap") {
          // What was conflated has a newer value; otherwise nobody knows.
          if (e.reason !== "conflated") s.restart();
        } else {
          const m = s.message(e);
          if (m.key === undefined) continue;
          stale.delete(m.key);
          this.#set(m.key, m.data.length > 0 ? m : undefined);
        }
      }
    } catch (e) {
      this.#error = e as TidewireError;
    }
    this.#ready.reject(this.#error ?? fail("closed"));
    for (const w of this.#watchers) w.end(this.#error);
  }

  #set(key: string, message: Message<T> | undefined): void {
    if (message) this.#messages.set(key, message);
    else if (!this.#messages.delete(key)) return;
    if (this.#messages.size > this.#maxKeys) {
      this.#subscription.end(fail("queue_full", `more than maxKeys, ${this.#maxKeys}`), true);
    }
    for (const w of this.#watchers) w.put({ key, message });
  }

  /** The last value of a key; undefined if there is none, or it has expired. */
  message(key: string): Message<T> | undefined {
    const m = this.#messages.get(key);
    const now = Date.now() - this.#subscription.behind; // by the broker's clock
    return m?.expires && m.expires.getTime() <= now ? undefined : m;
  }

  /** The same, decoded: see {@link Message.value}. */
  get(key: string): T | undefined {
    return this.message(key)?.value;
  }

  /** How many keys there are. */
  get size(): number {
    return this.#messages.size;
  }

  /** The keys with their last values. */
  *[Symbol.iterator](): IterableIterator<[string, T]> {
    for (const key of this.#messages.keys()) {
      const m = this.message(key);
      if (m) yield [key, m.value];
    }
  }

  /**
   * Yields what is there now, and then every change; of a key that changes faster than
   * it is taken, only the newest. It ends as the map does.
   */
  changes(): AsyncIterableIterator<MapChange<T>, undefined, void> {
    const w = new Changes<T>(() => this.#watchers.delete(w));
    this.#watchers.add(w);
    for (const [key, message] of this.#messages) w.put({ key, message });
    void this.closed.then((error) => w.end(error));
    return w;
  }

  /** Ends the map. */
  close(): void {
    this.#subscription.close();
  }
}

/** The changes of a map that were not taken yet, one of each key. */
class Changes<T> implements AsyncIterableIterator<MapChange<T>, undefined, void> {
  readonly #changes = new Map<string, MapChange<T>>();
  readonly #returned: () => void;
  #wake = deferred<void>();
  #ended = false;
  #error: TidewireError | undefined;

  constructor(returned: () => void) {
    this.#returned = returned;
  }

  put(change: MapChange<T>): void {
    this.#changes.set(change.key, change);
    this.#wake.resolve();
  }

  end(error: TidewireError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake.resolve();
  }

  async next(): Promise<IteratorResult<MapChange<T>, undefined>> {
    for (;;) {
      const [change] = this.#changes.values();
      if (change) {
        this.#changes.delete(change.key);
        return { done: false, value: change };
      }
      const error = this.#error;
      this.#error = undefined; // told once
      if (error) throw error;
      if (this.#ended) return { done: true, value: undefined };
      this.#wake = deferred<void>();
      await this.#wake.promise;
    }
  }

  async return(): Promise<IteratorResult<MapChange<T>, undefined>> {
    this.end(undefined);
    this.#returned();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
