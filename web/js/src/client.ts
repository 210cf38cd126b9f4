/// <reference lib="esnext.disposable" preserve="true" />

import { abortable } from "./abort.js";
import type {
  BatchItem,
  ClientEvents,
  ClientState,
  ConnectOptions,
  PublishLossyOptions,
  PublishOptions,
} from "./client-options.js";
import type { Connection } from "./connection.js";
import { type Drops, noDrops } from "./drops.js";
import { TidewireError, fail, numbered } from "./errors.js";
import { FLAG_PRESENCE } from "./frames.js";
import { type Health, readHealth } from "./health.js";
import { type HistoryOptions, type HistoryPage, checkHistory, fetchPage } from "./history.js";
import { LiveMap, type MapOptions } from "./live-map.js";
import type { Position, Replier, Reply } from "./message.js";
import { headerList } from "./options.js";
import { outgoing } from "./outgoing.js";
import { type KnownEncoding, encodePayload } from "./payload.js";
import { type Member, PresenceWatch, type WatchOptions, readMembers } from "./presence.js";
import { Presences } from "./presences.js";
import { Publisher } from "./publisher.js";
import { writeReply } from "./request-frames.js";
import { type RequestManyOptions, type RequestOptions, replies } from "./request.js";
import { Session } from "./session.js";
import {
  type InternalOptions,
  type SubscribeOptions,
  Subscription,
  type SubscriptionHost,
} from "./subscription.js";
import { Topic } from "./topic.js";
import { checkNotSystem, checkPattern, checkUsable } from "./topics.js";

/** Bytes of replies that may wait for a connection. */
const MAX_REPLIES_WAITING = 1 << 20;

/** A client of a broker, made by {@link connect}. It may be used in a Worker. */
export class Client {
  /**
   * Closes the client at the end of an `await using` block, as {@link close} does.
   * It is there where the runtime has the symbol.
   */
  declare readonly [Symbol.asyncDispose]: () => Promise<void>;

  readonly #session: Session;
  readonly #events = new EventTarget(); // it reports what listeners throw
  readonly #drops = noDrops();
  readonly #publisher: Publisher;
  readonly #subscriptions = new Set<Subscription>();
  readonly #host: SubscriptionHost;
  #replies = 0; // bytes of replies that wait for a connection
  readonly #presences = new Presences((lost) => this.#emit("presence", lost));

  /** @internal It does no I/O; throws for options that cannot be. */
  constructor(url: string, options: ConnectOptions) {
    this.#publisher = new Publisher(this.#drops, options.offline ?? {});
    this.#host = {
      drops: this.#drops,
      backoff: options.reconnect || {},
      reply: (...args) => this.#reply(...args),
      open: (s) => this.#open(s),
      ended: (s) => void this.#subscriptions.delete(s),
    };
    this.#session = new Session(url, options, {
      drops: this.#drops,
      detached: () => this.#detached(),
      changed: (state, error) => this.#emit("state", { state, error }),
      notice: (n) => this.#emit("notice", n),
      connected: (c) => {
        for (const s of this.#detached()) c.subscribe(s);
        this.#presences.connected(c);
        this.#publisher.connected(c);
      },
      disconnected: (error) => this.#publisher.disconnected(error),
      ended: (reason, error) => {
        for (const s of this.#subscriptions) s.end(error, error === undefined);
        this.#publisher.close(reason);
      },
    });
    const dispose = Symbol.asyncDispose as symbol | undefined;
    if (dispose) Object.defineProperty(this, dispose, { value: () => this.close() });
  }

  /** The state now. {@link Client.on} tells when it changes. */
  get state(): ClientState {
    return this.#session.state;
  }

  /**
   * The client id, a UUID. It stays the same across reconnects unless the broker
   * has forgotten it. It is public and grants nothing.
   */
  get id(): string {
    return this.#session.id;
  }

  /** How many messages this client has dropped so far, by reason. */
  get drops(): Readonly<Drops> {
    return { ...this.#drops };
  }

  /**
   * Listens to an event: `state` when the state has changed, `notice` when the
   * broker tells that the session will end, `presence` when a topic could not be
   * entered again after a reconnect. The function that it returns takes the listener
   * away.
   */
  on<K extends keyof ClientEvents>(event: K, listener: (detail: ClientEvents[K]) => void): () => void {
    const f = (e: Event): void => listener((e as CustomEvent<ClientEvents[K]>).detail);
    this.#events.addEventListener(event, f);
    return () => this.#events.removeEventListener(event, f);
  }

  #emit<K extends keyof ClientEvents>(event: K, detail: ClientEvents[K]): void {
    this.#events.dispatchEvent(new CustomEvent(event, { detail }));
  }

  /** @internal */
  start(): Promise<void> {
    return this.#session.start();
  }

  /** The subscriptions that have no stream. */
  #detached(): Subscription[] {
    return [...this.#subscriptions].filter((s) => s.detached);
  }

  #reply(...[to, value, o, life]: Parameters<Replier>): void {
    const payload = encodePayload(value, o.encoding);
    const frame = writeReply(to, payload, headerList(o.headers));
    const send = (c: Connection): void => {
      c.checkPayload(payload);
      c.control(frame);
    };
    const c = this.#session.connection;
    if (c) return send(c);
    // The request may be open still when there is a connection again.
    this.#replies += frame.length;
    const room = this.#replies <= MAX_REPLIES_WAITING;
    void (room ? this.#session.reach(AbortSignal.timeout(life)).then(send) : Promise.reject())
      .catch(() => this.#drops.unsent++)
      .finally(() => (this.#replies -= frame.length));
  }

  /** Opens a stream for a subscription, if there is a connection. */
  #open(s: Subscription): void {
    if (s.detached) this.#session.connection?.subscribe(s);
  }

  #subscribe<T>(pattern: string, o: SubscribeOptions, internal?: InternalOptions): Subscription<T> {
    this.#session.check();
    const s = new Subscription<T>(this.#host, pattern, o, internal);
    if (!s.detached) return s; // its signal was aborted already
    this.#subscriptions.add(s);
    this.#open(s);
    return s;
  }

  /**
   * Subscribes to a topic or pattern. It returns at once; without a connection the
   * subscription begins with the next one. Throws a TidewireError with
   * `invalid_pattern`, `system_topic`, `unsupported_class`, `invalid_option`, or
   * `closed`.
   */
  subscribe<T = unknown>(pattern: string, options: SubscribeOptions = {}): Subscription<T> {
    return this.#subscribe<T>(pattern, options);
  }

  /**
   * Publishes a message and waits until the broker's bus has sequenced it, which
   * does not mean that it was delivered. Messages to one topic keep their order.
   * While there is no connection it waits for one, within {@link
   * ConnectOptions.offline}. What has no answer when a connection is lost is published
   * again, once, if the client comes back under its id or if the message has an `id`,
   * within the time for which the topic remembers what was published (two minutes, unless
   * it is configured otherwise).
   * If the broker has published it before and does not know where any more, the
   * position is zero.
   *
   * Rejects with the TidewireError of the broker's refusal, with `connection_lost`
   * if the connection was lost before the answer and the message cannot be published
   * again (it may have been published or not), with `invalid_topic`, `system_topic`,
   * `invalid_option`, `payload_too_large`, `queue_full`, `offline`, `aborted` or
   * `closed`; with a TypeError for a value that cannot be encoded.
   */
  async publish(topic: string, value: unknown, options: PublishOptions = {}): Promise<Position> {
    const { signal } = options;
    const [position] = await this.publishBatch(topic, [{ ...options, value }], signal && { signal });
    return position as Position;
  }

  /**
   * Publishes messages to one topic, one behind the other, which is one write and one
   * answer. Resolves with their positions; rejects as {@link publish} does, with the
   * first refusal, when others may have been published. The reason of a refusal begins
   * with its message, counted from 0: `message 1: …`.
   */
  async publishBatch(
    topic: string,
    items: readonly BatchItem[],
    options: { signal?: AbortSignal } = {},
  ): Promise<Position[]> {
    checkUsable(topic);
    this.#session.check();
    const messages = items.map((item, i) => {
      try {
        return outgoing(item.value, false, item);
      } catch (e) {
        throw items.length > 1 && e instanceof TidewireError ? numbered(e, i) : e;
      }
    });
    return this.#publisher.publish(topic, messages, options.signal);
  }

  /**
   * Publishes a message of which only the newest counts. It goes by datagram if it
   * fits into one, and may be lost; without a connection it is dropped. The drops of
   * this side are counted in {@link drops}.
   *
   * Throws `invalid_topic`, `system_topic`, `invalid_option`, `payload_too_large` or
   * `closed`, `offline` if nothing is to be published without a connection, or a
   * TypeError for a value that cannot be encoded; never because of a loss.
   */
  publishLossy(topic: string, value: unknown, options: PublishLossyOptions = {}): void {
    checkUsable(topic);
    this.#session.check();
    this.#publisher.lossy(topic, outgoing(value, true, options));
  }

  /**
   * Returns the same methods for one topic, or for a pattern to subscribe to, whose
   * messages are all of type `T`. Throws `invalid_pattern` or `system_topic`.
   */
  topic<T = unknown>(name: string): Topic<T> {
    checkPattern(name);
    checkNotSystem(name);
    return new Topic<T>(this, name);
  }

  /**
   * Fetches a page of a topic's history, without a subscription. Rejects with the
   * broker's refusal (`subscribe_denied`, `not_offered`, …), with `invalid_topic`,
   * `system_topic`, `invalid_option`, `connection_lost`, `aborted`, `offline` or
   * `closed`.
   */
  async history<T = unknown>(topic: string, options: HistoryOptions = {}): Promise<HistoryPage<T>> {
    checkUsable(topic);
    checkHistory(options);
    const c = await this.#session.reach(options.signal);
    return fetchPage<T>(c, topic, options);
  }

  /**
   * Opens a live map: the last values of a topic, by key. Throws as {@link subscribe}
   * does.
   */
  map<T = unknown>(topic: string, options: MapOptions = {}): LiveMap<T> {
    checkUsable(topic);
    const { maxKeys, ...o } = options;
    const s = this.#subscribe<T>(topic, { ...o, class: "latest" }, { fresh: true });
    return new LiveMap<T>(s, maxKeys);
  }

  /**
   * Asks for one reply to a message. Rejects with `no_responders`, at once, if nobody
   * is subscribed to the topic, with `request_timeout`, with the broker's refusal, or
   * as {@link publish} does. A request is never sent twice.
   */
  async request<T = unknown>(
    topic: string,
    value: unknown,
    options: RequestOptions = {},
  ): Promise<Reply<T>> {
    for await (const reply of this.requestMany<T>(topic, value, { ...options, max: 1 })) return reply;
    throw fail("request_timeout"); // not reached: without a reply there is an error
  }

  /**
   * Asks for many replies: an async iterable of them, which ends when there are `max`
   * of them, or when the time is over and there was one. Otherwise it throws, as
   * {@link request} rejects. Leaving the loop cancels the request.
   */
  requestMany<T = unknown>(
    topic: string,
    value: unknown,
    options: RequestManyOptions = {},
  ): AsyncIterable<Reply<T>> {
    checkUsable(topic);
    this.#session.check();
    return replies<T>((signal) => this.#session.reach(signal), topic, value, options);
  }

  /**
   * Enters a topic: this client is present in it, with a state of at most 1 KiB once
   * encoded, until it leaves or ends. To enter again changes the state. After a
   * reconnect it is entered again; if that is refused the event `presence` tells.
   * Rejects with the broker's refusal, or as {@link history} does; the client is as
   * present as before then.
   */
  async enter(
    topic: string,
    state: unknown = null,
    options: { encoding?: KnownEncoding; signal?: AbortSignal } = {},
  ): Promise<void> {
    checkUsable(topic);
    const { encoding, signal } = options;
    const payload = encodePayload(state, encoding);
    await this.#presences.enter(() => this.#session.reach(signal), topic, payload, signal);
  }

  /**
   * Leaves a topic. Without a connection it is left when the broker's grace is over.
   * Rejects with the broker's refusal, or with `aborted` or `closed`.
   */
  async leave(topic: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    checkUsable(topic);
    const signal = options.signal;
    await abortable(this.#presences.leave(this.#session.connection, topic), signal);
  }

  /**
   * Returns who is present in a topic. Rejects as {@link history} does, and with
   * `not_offered` where a topic only counts: see {@link presenceCount}.
   */
  async presence<S = unknown>(
    topic: string,
    options: { signal?: AbortSignal } = {},
  ): Promise<Member<S>[]> {
    checkUsable(topic);
    return readMembers(this.#presence<S>(topic, options));
  }

  /** Watches who is present in the topics of a pattern. Throws as {@link subscribe} does. */
  watchPresence<S = unknown>(pattern: string, options: WatchOptions = {}): PresenceWatch<S> {
    return new PresenceWatch<S>(this.#presence<S>(pattern, options), (p) => this.presenceCount(p));
  }

  #presence<S>(pattern: string, o: WatchOptions): Subscription<S> {
    const flags = FLAG_PRESENCE;
    return this.#subscribe<S>(pattern, { ...o, class: "latest" }, { fresh: true, flags });
  }

  /**
   * Returns how many sessions are present in the topics of a pattern, by topic, of at
   * most 1,024 topics; `more` tells whether there are others. Rejects as {@link
   * history} does.
   */
  async presenceCount(
    pattern: string,
    options: { signal?: AbortSignal } = {},
  ): Promise<Map<string, number> & { readonly more: boolean }> {
    checkPattern(pattern);
    checkNotSystem(pattern);
    const signal = options.signal;
    const c = await this.#session.reach(signal);
    const { topics, more } = await abortable(c.requests.count(pattern), signal);
    return Object.assign(new Map(topics), { more });
  }

  /**
   * Returns how the connection and the subscriptions stand. Rejects as {@link history}
   * does.
   */
  async health(options: { signal?: AbortSignal } = {}): Promise<Health> {
    const signal = options.signal;
    const c = await this.#session.reach(signal);
    return abortable(readHealth(c, this.#subscriptions), signal);
  }

  /**
   * Replaces the token in place. The new one must be of the same principal.
   * Subscriptions and publications that it does not permit end with
   * `permission_revoked`. Later attempts to connect use it, unless there is
   * {@link ConnectOptions.getToken}, which is asked then; without a connection nothing
   * else happens.
   *
   * Rejects with the broker's refusal, after which the old token stays in force;
   * with `connection_lost`, `aborted` or `closed`.
   */
  async auth(token: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#session.auth(token, options.signal);
  }

  /**
   * Ends the session and the client: all iterations are done, all that waits
   * rejects with `closed`. Resolves when the connection is closed, within about a
   * second; it may be called more than once.
   */
  close(): Promise<void> {
    return this.#session.close();
  }
}
