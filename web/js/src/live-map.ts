// A topic whose last values are read as a whole (PROTOCOL §4.5).

import { onAbort } from "./abort.js";
import { deferred } from "./deferred.js";
import { type TidewireError, fail } from "./errors.js";
import type { Message } from "./message.js";
import { bad, checkRest } from "./options.js";
import type { Subscription } from "./subscription.js";

/** Options of {@link Client.map}. */
export interface MapOptions {
  /** The most keys; 10,000 by default. More end the map with `queue_full`. */
  maxKeys?: number;
  /** As of a subscription. */
  priority?: number;
  /** As of a subscription. */
  credit?: number;
  /** Ends the map with `aborted`. */
  signal?: AbortSignal;
}

/** A key of a live map has another value, or none any more. */
export interface MapChange<T> {
  readonly key: string;
  /** The last value; undefined: the key was cleared. */
  readonly message: Message<T> | undefined;
}

/**
 * A key of a live map and its last value; in the place of one that is not what its
 * encoding says, undefined and the error: whoever may publish to the topic can make it.
 */
export type MapEntry<T> = [key: string, value: T] | [key: string, value: undefined, error: SyntaxError];

const DEFAULT_MAX_KEYS = 10_000;

function entryOf<T>(key: string, m: Message<T>): MapEntry<T> {
  try {
    return [key, m.value];
  } catch (e) {
    return [key, undefined, e as SyntaxError];
  }
}

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
  #ended = false;
  #error: TidewireError | undefined;

  /** @internal `subscription` is fresh. */
  constructor(subscription: Subscription<T>, maxKeys = DEFAULT_MAX_KEYS) {
    this.#maxKeys = maxKeys;
    if (!(maxKeys > 0)) {
      subscription.close();
      throw bad("maxKeys is not above 0");
    }
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
    this.#ended = true;
    for (const w of this.#watchers) w.wake();
  }

  #set(key: string, message: Message<T> | undefined): void {
    if (message) this.#messages.set(key, message);
    else if (!this.#messages.delete(key)) return;
    if (this.#messages.size > this.#maxKeys) {
      this.#subscription.end(fail("queue_full", `more than maxKeys, ${this.#maxKeys}`), true);
    }
    for (const w of this.#watchers) w.put(key, message);
  }

  /** The last value of a key; undefined if there is none, or it has expired. */
  message(key: string): Message<T> | undefined {
    const m = this.#messages.get(key);
    const now = Date.now() - this.#subscription.behind; // by the broker's clock
    return m?.expires && m.expires.getTime() <= now ? undefined : m;
  }

  /** The same, decoded. Throws a SyntaxError as {@link Message.value} does. */
  get(key: string): T | undefined {
    return this.message(key)?.value;
  }

  /** How many keys there are, without those that have expired. */
  get size(): number {
    return [...this.#messages.keys()].filter((key) => this.message(key)).length;
  }

  /** The keys with their last values. */
  *[Symbol.iterator](): IterableIterator<MapEntry<T>> {
    for (const key of this.#messages.keys()) {
      const m = this.message(key);
      if (m) yield entryOf(key, m);
    }
  }

  /**
   * Yields what is there when the iteration begins, and then every change; of a key that
   * changes faster than it is taken, only the newest, and of one that came and went
   * meanwhile nothing, so that the keys of the map bound what waits. It ends as the map
   * does, and when the signal is aborted throws `aborted`.
   */
  async *changes(options: { signal?: AbortSignal } = {}): AsyncGenerator<MapChange<T>, void, void> {
    const { signal, ...rest } = options;
    checkRest(rest);
    const w = new Changes<T>();
    const stop = onAbort(signal, () => w.wake());
    for (const [key, message] of this.#messages) w.put(key, message);
    this.#watchers.add(w);
    try {
      for (;;) {
        if (signal?.aborted) throw fail("aborted", "", signal.reason);
        const change = w.take();
        if (change) yield change;
        else if (this.#error) throw this.#error;
        else if (this.#ended) return;
        else await w.more();
      }
    } finally {
      stop();
      this.#watchers.delete(w);
    }
  }

  /** Ends the map. */
  close(): void {
    this.#subscription.close();
  }
}

/** The changes of a map that an iteration has not taken yet, one of each key. */
class Changes<T> {
  readonly #changes = new Map<string, MapChange<T>>(); // the oldest first
  readonly #told = new Set<string>(); // keys that the iteration knows to be there
  #wake = deferred<void>();

  put(key: string, message: Message<T> | undefined): void {
    if (!message && !this.#told.has(key)) this.#changes.delete(key);
    else this.#changes.set(key, { key, message });
    this.wake();
  }

  /** Ends the wait for more. */
  wake(): void {
    this.#wake.resolve();
  }

  more(): Promise<void> {
    this.#wake = deferred<void>();
    return this.#wake.promise;
  }

  take(): MapChange<T> | undefined {
    const [change] = this.#changes.values();
    if (!change) return undefined;
    const { key, message } = change;
    this.#changes.delete(key);
    if (message) this.#told.add(key);
    else this.#told.delete(key);
    return change;
  }
}
