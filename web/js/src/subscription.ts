import { onAbort } from "./abort.js";
import { deferred } from "./deferred.js";
import type { Drops } from "./drops.js";
import { type TidewireError, fail } from "./errors.js";
import { type Item, Message, type Position } from "./message.js";
import { ItemQueue } from "./queue.js";
import type { SubscriptionStream } from "./subscription-stream.js";
import { checkNotSystem, checkPattern, isExact } from "./topics.js";

const classes = { reliable: 0, sequenced: 2 } as const;

/** How the messages of a subscription travel (PROTOCOL.md §9). */
export type SubscriptionClass = keyof typeof classes;

/** Options of a subscription. */
export interface SubscribeOptions {
  /**
   * `reliable` (the default): every reliable message in order by stream, lossy
   * ones by datagram, merged. `sequenced`: all by datagram, never an older one
   * after a newer.
   */
  class?: SubscriptionClass;
  /** 0 (first) to 7 (last); 3 by default. */
  priority?: number;
  /**
   * The bytes of messages that may wait for the application; 256 KiB by default.
   * The broker may use less (1 MiB by default).
   */
  credit?: number;
  /** Ends the subscription: its iteration throws `aborted`. */
  signal?: AbortSignal;
}

const DEFAULT_CREDIT = 256 << 10;
const DEFAULT_PRIORITY = 3;
const MAX_PRIORITY = 7;

/** What a subscription needs of its client. */
export interface SubscriptionHost {
  readonly drops: Drops;
  /** The subscription has ended. */
  ended(s: Subscription): void;
}

/**
 * A subscription: an async iterable of messages and gaps. It outlives the
 * connection: after each reconnect it subscribes again and yields a gap with the
 * reason `reconnect`, unless its position shows that nothing was missed.
 *
 * The iteration ends when the subscription does: after {@link close} or a clean
 * end it is done, else it throws a TidewireError. Leaving a `for await`
 * loop closes the subscription. Several iterations share what comes.
 */
export class Subscription<T = unknown> {
  /** The topic or pattern. */
  readonly pattern: string;
  /**
   * Resolves when the broker has first confirmed the subscription: what is
   * published from then on comes. Rejects with the reason if the subscription
   * ends before. Need not be awaited.
   */
  readonly ready: Promise<void>;
  /**
   * Resolves when the subscription has ended: with the error, or with undefined
   * after a clean end. Never rejects.
   */
  readonly closed: Promise<TidewireError | undefined>;

  /** @internal */
  readonly classNumber: number;
  /** @internal */
  readonly priority: number;
  /** @internal */
  readonly window: number;
  /** @internal */
  readonly queue: ItemQueue;

  readonly #host: SubscriptionHost;
  readonly #stopListening: () => void;
  readonly #ready = deferred<void>();
  readonly #closed = deferred<TidewireError | undefined>();
  #stream: SubscriptionStream | undefined;
  #ended = false;
  #subscribedBefore = false;
  #position: Position | undefined; // of an exact pattern, when its last stream ended

  /** @internal Throws `invalid_pattern`, `system_topic` and `invalid_option`. */
  constructor(host: SubscriptionHost, pattern: string, o: SubscribeOptions) {
    checkPattern(pattern);
    checkNotSystem(pattern);
    const { priority = DEFAULT_PRIORITY, credit = DEFAULT_CREDIT } = o;
    if (!(Number.isInteger(priority) && priority >= 0 && priority <= MAX_PRIORITY)) {
      throw fail("invalid_option", `priority ${priority}`);
    }
    if (!(Number.isSafeInteger(credit) && credit > 0)) {
      throw fail("invalid_option", `credit ${credit}`);
    }
    const cls = o.class ?? "reliable";
    if (!Object.hasOwn(classes, cls)) {
      throw fail("unsupported_class", `class ${cls}`);
    }
    this.#host = host;
    this.pattern = pattern;
    this.classNumber = classes[cls];
    this.priority = priority;
    this.window = credit;
    this.queue = new ItemQueue({
      freed: () => this.#stream?.flow(),
      dropped: (reason) => void host.drops[reason]++,
    });
    this.ready = this.#ready.promise;
    this.closed = this.#closed.promise;
    this.#stopListening = onAbort(o.signal, (error) => this.end(error, true));
    if (this.#ended) this.#stopListening();
  }

  /**
   * Unsubscribes. What was not taken yet is discarded, and the iteration is done.
   * It may be called more than once.
   */
  close(): void {
    this.end(undefined, true);
  }

  /** Yields messages and gaps as they come. */
  [Symbol.asyncIterator](): AsyncIterator<Item<T>, undefined, void> {
    return {
      next: async () => {
        const entry = await this.queue.take();
        if (!entry) return { done: true, value: undefined };
        if (entry.kind === "gap") return { done: false, value: entry };
        const { name, epoch, base } = entry.topic;
        return { done: false, value: new Message<T>(name, epoch, base, entry.frame) };
      },
      return: async () => {
        this.close();
        return { done: true, value: undefined };
      },
    };
  }

  /** @internal The connection has a stream for it. */
  attach(stream: SubscriptionStream): void {
    this.#stream = stream;
  }

  /** @internal Whether it waits for a connection. */
  get detached(): boolean {
    return !this.#stream && !this.#ended;
  }

  /** @internal */
  subscribed(to: Position | undefined): void {
    const from = this.#position;
    // Only an unchanged position proves that nothing was missed.
    if (this.#subscribedBefore && !(to && from?.epoch === to.epoch && from.offset === to.offset)) {
      const topic = isExact(this.pattern) ? this.pattern : undefined;
      this.queue.gap({ kind: "gap", topic, from, to, reason: "reconnect", count: undefined });
    }
    this.#subscribedBefore = true;
    this.#ready.resolve();
  }

  /** @internal */
  streamEnded(why: TidewireError | undefined, at: Position | undefined): void {
    this.#stream = undefined;
    this.#position = at ?? this.#position;
    // With the connection, or with a broker that stops, the subscription does not
    // end: it waits for the next connection.
    if (why && why.codeName !== "shutting_down") this.end(why.code ? why : undefined, false);
  }

  /** @internal Ends the subscription; what waits stays to be taken, or not. */
  end(error: TidewireError | undefined, discard: boolean): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stopListening?.();
    this.#stream?.close();
    this.#stream = undefined;
    this.queue.end(error, discard);
    this.#ready.reject(error ?? fail("closed"));
    this.#closed.resolve(error);
    this.#host.ended(this);
  }
}
