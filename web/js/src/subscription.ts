import { onAbort } from "./abort.js";
import { Backoff, type BackoffOptions } from "./backoff.js";
import type { Connection } from "./connection.js";
import { deferred } from "./deferred.js";
import type { Drops } from "./drops.js";
import type { Field } from "./envelope.js";
import { type TidewireError, fail } from "./errors.js";
import { FLAG_NO_ECHO, FLAG_NO_RETAINED, type Subscribed } from "./frames.js";
import { MAX_LABEL, MAX_POSITIONS } from "./limits.js";
import { type Gap, type Item, Message, type Position, type Replier } from "./message.js";
import { type Filter, type From, bad, checkLabel, checkNumber, checkRest, filterField, fitting } from "./options.js";
import { ItemQueue } from "./queue.js";
import { Resume } from "./resume.js";
import { type Announced, type Arrival, type TopicState, UNRELIABLE } from "./sequence.js";
import type { SubscriptionStream } from "./subscription-stream.js";
import { checkNotSystem, checkPattern, isExact } from "./topics.js";

const classes = ["reliable", "latest", "sequenced", "unreliable"] as const;

/** How the messages of a subscription travel (PROTOCOL.md §9). */
export type SubscriptionClass = (typeof classes)[number];

/**
 * - `subscribing`: it waits for a connection, or for the broker;
 * - `subscribed`: the broker has confirmed it;
 * - `unsubscribed`: it has ended.
 */
export type SubscriptionState = "subscribing" | "subscribed" | "unsubscribed";

/** Options of a subscription. */
export interface SubscribeOptions {
  /**
   * What happens to messages on the way. The class in force for a topic is the weaker
   * one of this and of the topic's own.
   * - `reliable` (the default): every reliable message in order by stream, lossy ones
   *   by datagram, merged;
   * - `latest`: in order by stream; a slow reader skips to the newest of each key;
   * - `sequenced`: all by datagram, never an older one of a key after a newer;
   * - `unreliable`: all by datagram, as they come, and nothing is said about gaps.
   */
  class?: SubscriptionClass;
  /** 1 (first) to 7 (last); 3 by default. See {@link Subscription.setPriority}. */
  priority?: number;
  /**
   * The bytes of messages that may wait for the application; 256 KiB by default, 64 KiB
   * in a group. The broker may use less (1 MiB by default).
   */
  credit?: number;
  /**
   * Where to begin. By default with the last values, and then with what is published
   * from now on.
   */
  from?: From;
  /** Without the messages of this client. */
  noEcho?: boolean;
  /** Without last values at the beginning. */
  noRetained?: boolean;
  /** Only messages whose headers fit, as the broker finds. */
  filter?: Filter;
  /**
   * Of all subscriptions with the same group, text of at most 64 bytes, one gets each
   * message. A message counts as consumed when the iteration is asked for the next
   * one; what a member has not consumed when it ends goes to another, so a message may
   * come twice. What it has not taken when its connection is lost it keeps, as much as
   * its credit, beside what comes on the next one. In no order, and without `from` and
   * `noEcho`.
   */
  group?: string;
  /** Ends the subscription: its iteration throws `aborted`. */
  signal?: AbortSignal;
}

/** How a subscription stands. */
export interface SubscriptionStats {
  /** Messages and gaps that have come and wait for the application. */
  readonly waiting: number;
  /** Messages that were handed to the application. */
  readonly delivered: number;
  /** Gaps that were handed to the application. */
  readonly gaps: number;
  /** Messages that this side dropped, for the reasons of {@link Client.drops}. */
  readonly dropped: number;
}

const DEFAULT_CREDIT = 256 << 10;
/** In a group: what one member holds the others do not get. */
const GROUP_CREDIT = 64 << 10;
const DEFAULT_PRIORITY = 3;
const MAX_PRIORITY = 7;
/** Ends that say nothing about a subscription, not even about its first stream. */
const PASSING = [302, 306, 500]; // too_many_streams, stream_timeout, connection_lost
/** A stream that stood this long was a good one: the backoff begins anew. */
const STABLE_MS = 5000;

/** What a subscription needs of its client. */
export interface SubscriptionHost {
  readonly drops: Drops;
  /** How long to wait before a subscription that ended for now begins again. */
  readonly backoff: BackoffOptions;
  readonly reply: Replier;
  /** Opens a stream for the subscription, if there is a connection. */
  open(s: Subscription): void;
  /** The subscription has ended. */
  ended(s: Subscription): void;
}

/** Options that are not the application's. */
export interface InternalOptions {
  /** A sum of further flags of SUBSCRIBE. */
  readonly flags?: number;
  /**
   * It begins anew after each reconnect, and has marks in its queue that tell where.
   */
  readonly fresh?: boolean;
}

/**
 * A subscription: an async iterable of messages and gaps. It outlives the
 * connection: after each reconnect it goes on behind what has come, without a gap if
 * the broker has kept the messages, else with one. It does the same when the broker
 * ends it for a while only.
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
   * ends before, also where the broker cannot just now (`too_many_subscriptions`,
   * `overloaded`, `bus_unavailable`): only one that stood once tries again. Need not be
   * awaited.
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
  readonly window: number;
  /** @internal */
  readonly flags: number;
  /** @internal */
  readonly filter: Field;
  /** @internal */
  readonly group: string | undefined;
  /** @internal */
  readonly queue: ItemQueue;
  /** @internal How far the broker's clock is behind this one, in milliseconds. */
  behind = 0;

  readonly #host: SubscriptionHost;
  readonly #stopListening: () => void;
  readonly #ready = deferred<void>();
  readonly #closed = deferred<TidewireError | undefined>();
  readonly #exact: boolean;
  /** Undefined where it does not go on, but begins anew: in a group, and if it is fresh. */
  readonly #resume: Resume | undefined;
  readonly #backoff: Backoff;
  /** The positions that the application has got to, the topic it heard of last at the end. */
  #consumed = new Map<string, Position>();
  #since: Date | undefined; // when a pattern's subscription first began
  #stream: SubscriptionStream | undefined;
  #priority: number;
  #ended = false;
  #live = false; // it was confirmed once
  #liveSince = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stats = { delivered: 0, gaps: 0, dropped: 0 };

  /**
   * @internal Throws `invalid_pattern`, `system_topic`, `unsupported_class` and
   * `invalid_option`.
   */
  constructor(
    host: SubscriptionHost,
    pattern: string,
    o: SubscribeOptions,
    internal: InternalOptions = {},
  ) {
    checkPattern(pattern);
    checkNotSystem(pattern);
    const {
      class: name = "reliable",
      priority = DEFAULT_PRIORITY,
      group,
      credit = group ? GROUP_CREDIT : DEFAULT_CREDIT,
      from,
      noEcho,
      noRetained,
      filter,
      signal,
      ...rest
    } = o;
    checkRest(rest);
    checkNumber("priority", priority, 1, MAX_PRIORITY);
    checkNumber("credit", credit, 1, Number.MAX_SAFE_INTEGER);
    checkLabel("a group", group, MAX_LABEL);
    if (group && (from || noEcho)) throw bad("a group has no from, and no noEcho");
    this.classNumber = classes.indexOf(name);
    if (this.classNumber < 0) throw fail("unsupported_class", `there is no class ${name}`);
    this.#host = host;
    this.pattern = pattern;
    this.#priority = priority;
    this.window = credit;
    this.flags =
      (noEcho ? FLAG_NO_ECHO : 0) |
      (noRetained ? FLAG_NO_RETAINED : 0) |
      (internal.flags ?? 0);
    this.filter = filterField(filter);
    this.group = group;
    this.#exact = isExact(pattern);
    const { fresh = false } = internal;
    if (!fresh && !group) this.#resume = new Resume(pattern, this.#exact, from);
    if (from === "beginning") this.#since = new Date(0);
    else if (from && "position" in from) this.#consumed.set(pattern, from.position);
    else if (from && "since" in from) {
      this.#since = from.since;
      if ("positions" in from) this.#consumed = new Map(Object.entries(from.positions as Record<string, Position>));
    }
    this.#backoff = new Backoff(host.backoff);
    this.queue = new ItemQueue({
      freed: () => this.#stream?.flow(),
      dropped: (reason) => {
        host.drops[reason]++;
        this.#stats.dropped++;
      },
    });
    this.queue.marks = fresh;
    this.ready = this.#ready.promise;
    this.closed = this.#closed.promise;
    this.#stopListening = onAbort(signal, (error) => this.end(error, true));
    if (this.#ended) this.#stopListening();
  }

  /** The state now. */
  get state(): SubscriptionState {
    if (this.#ended) return "unsubscribed";
    return this.#stream?.live ? "subscribed" : "subscribing";
  }

  /** The priority now: 1 (first) to 7 (last). */
  get priority(): number {
    return this.#priority;
  }

  /**
   * Changes the priority, from the next message on. Throws `invalid_option` for one
   * that is not 1 to 7.
   */
  setPriority(priority: number): void {
    checkNumber("priority", priority, 1, MAX_PRIORITY);
    this.#priority = priority;
    this.#stream?.prioritize();
  }

  /**
   * The position up to which the iteration has given everything, of a subscription to
   * one topic, once it is known; not in a group. Another subscription `from` there goes
   * on with what follows the last item that was taken, and what the broker has left out
   * behind that, for a filter or as an echo, is not asked for again.
   */
  get position(): Position | undefined {
    if (!this.#exact || this.group !== undefined) return undefined;
    const at = this.queue.waiting === 0 && !this.#ended ? this.#stream?.position : undefined;
    return at ?? this.#consumed.get(this.pattern);
  }

  /**
   * How far the iteration has given everything, by topic, and when the subscription first
   * began: of a pattern it is a {@link SubscribeOptions.from}, with the topics that were
   * heard of last, as many as that takes. What came of other topics comes again.
   */
  get positions(): { positions: Record<string, Position>; since: Date } | undefined {
    if (!this.#since) return undefined;
    return { positions: Object.fromEntries(fitting(this.#consumed)), since: this.#since };
  }

  /** Returns counts since the subscription was made. */
  stats(): SubscriptionStats {
    return { waiting: this.queue.waiting, ...this.#stats };
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
    // The application has them until it asks for the next: several if it asked for as many
    // at once.
    const taken: Arrival[] = [];
    const next = async (): Promise<IteratorResult<Item<T>, undefined>> => {
      for (const a of taken.splice(0)) a.done?.();
      const entry = await this.queue.take();
      if (!entry) return { done: true, value: undefined };
      if (entry.kind === "gap") return { done: false, value: this.#gap(entry) };
      if (entry.kind !== "arrival") return next();
      taken.push(entry);
      return { done: false, value: this.message(entry) };
    };
    return {
      next,
      return: async () => {
        this.close();
        return { done: true, value: undefined };
      },
    };
  }

  /** @internal Makes the message of what was taken from the queue. */
  message(a: Arrival): Message<T> {
    this.#stats.delivered++;
    this.#consume(a.topic.name, { epoch: a.topic.epoch, offset: a.frame.offset });
    return new Message<T>(a.topic, a.frame, this.#host.reply);
  }

  #gap(g: Gap): Gap {
    this.#stats.gaps++;
    if (g.topic !== undefined && g.to) this.#consume(g.topic, g.to);
    return g;
  }

  /** Keeps how far a stream has come that ends, where nothing of it waits. */
  #keep(): void {
    const at = this.position;
    if (at) this.#consume(this.pattern, at);
  }

  #consume(topic: string, p: Position): void {
    const old = this.#consumed.get(topic);
    if (this.group !== undefined || (old?.epoch === p.epoch && old.offset > p.offset)) return;
    this.#consumed.delete(topic); // it becomes the newest
    this.#consumed.set(topic, p);
    if (this.#consumed.size <= MAX_POSITIONS) return;
    this.#consumed.delete(this.#consumed.keys().next().value as string);
  }

  /** @internal The connection has a stream for it. */
  attach(stream: SubscriptionStream): void {
    clearTimeout(this.#timer);
    this.#stream = stream;
  }

  /** @internal Whether it waits for a connection. */
  get detached(): boolean {
    return !this.#stream && !this.#ended;
  }

  /** @internal Whether SUBSCRIBE has a time in it, which needs WELCOME. */
  get timed(): boolean {
    return this.#resume?.timed ?? false;
  }

  /** @internal */
  from(base: number): Field {
    return this.#resume?.field(base);
  }

  /** @internal The number of its stream on the connection, while there is one. */
  get number(): number | undefined {
    return this.#stream?.number;
  }

  /** @internal */
  subscribed(s: Subscribed, c: Connection): void {
    this.#liveSince = Date.now();
    this.queue.mark("begun", this.pattern);
    this.#tell(this.#resume?.subscribed(s, c.base, c.id));
    if (s.time !== undefined) {
      this.behind = this.#liveSince - c.base - s.time;
      this.#since ??= new Date(c.base + s.time);
    }
    this.#live = true;
    this.#ready.resolve();
  }

  /** @internal */
  announced(t: Announced): number {
    const { gap, known } = this.#resume?.announced(t) ?? { gap: undefined, known: t.offset };
    this.#tell(gap);
    if (this.#exact && !this.#consumed.has(t.name)) {
      this.#consume(t.name, { epoch: t.epoch, offset: t.offset });
    }
    return known;
  }

  /** @internal */
  forgot(t: TopicState): void {
    this.#resume?.ended([t]);
  }

  /** Puts a gap into the queue, where gaps are told at all. */
  #tell(gap: Gap | undefined): void {
    if (gap && this.classNumber !== UNRELIABLE) this.queue.gap(gap);
  }

  /** @internal */
  streamEnded(why: TidewireError | undefined, topics: Iterable<TopicState>): void {
    this.#keep();
    this.#stream = undefined;
    this.#resume?.ended(topics);
    // What waits was not consumed: other members get it, if there are any, and this
    // one keeps it for the case that there are none.
    if (this.group !== undefined) this.queue.forgetCredit(this.window);
    // With the connection, or with a broker that stops, the subscription does not
    // end: it waits for the next connection.
    if (!why || why.codeName === "shutting_down" || this.#ended) return;
    // Nor does one that stood where the broker cannot just now; whether to try again where
    // none has begun is for the application to say.
    if (PASSING.includes(why.code) || (this.#live && why.code >= 300)) this.#again(why.retry);
    else this.end(why.code ? why : undefined, false);
  }

  /** Opens another stream, after a wait that grows while streams do not last. */
  #again(least?: number): void {
    if (Date.now() - this.#liveSince >= STABLE_MS) this.#backoff.reset();
    this.#timer = setTimeout(() => this.#host.open(this), this.#backoff.next(least));
  }

  /** @internal Begins anew, for one that is fresh: its state is of no use any more. */
  restart(): void {
    if (!this.#stream) return;
    this.#stream.close();
    this.#stream = undefined;
    this.#again();
  }

  /** @internal Ends the subscription; what waits stays to be taken, or not. */
  end(error: TidewireError | undefined, discard: boolean): void {
    if (this.#ended) return;
    this.#keep();
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#stopListening?.();
    this.#stream?.close();
    this.#stream = undefined;
    this.queue.end(error, discard);
    this.#ready.reject(error ?? fail("closed"));
    this.#closed.resolve(error);
    this.#host.ended(this);
  }
}

