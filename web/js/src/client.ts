/// <reference lib="esnext.disposable" preserve="true" />

import { abortable, onAbort, sleep } from "./abort.js";
import { Backoff } from "./backoff.js";
import { transportOptions } from "./certificate.js";
import type {
  BatchItem,
  ClientEvents,
  ClientState,
  ConnectOptions,
  PublishLossyOptions,
  PublishOptions,
} from "./client-options.js";
import { Connection } from "./connection.js";
import { type Deferred, deferred } from "./deferred.js";
import { type Drops, noDrops } from "./drops.js";
import { type TidewireError, NO_CONNECTION, fail, mapped } from "./errors.js";
import { FLAG_PRESENCE, type NoticeFrame, type Resume } from "./frames.js";
import { type Health, readHealth } from "./health.js";
import { type HistoryOptions, type HistoryPage, checkHistory, fetchPage } from "./history.js";
import { MAX_AGENT } from "./limits.js";
import { LiveMap, type MapOptions } from "./live-map.js";
import { onWake } from "./liveness.js";
import type { Position, Replier, Reply } from "./message.js";
import { bad, headerList } from "./options.js";
import { outgoing } from "./outgoing.js";
import { type KnownEncoding, encodePayload } from "./payload.js";
import { type Member, PresenceWatch, type WatchOptions, readMembers } from "./presence.js";
import { Presences } from "./presences.js";
import { Publisher } from "./publisher.js";
import { writeReply } from "./request-frames.js";
import { type RequestManyOptions, type RequestOptions, replies } from "./request.js";
import {
  type InternalOptions,
  type SubscribeOptions,
  Subscription,
  type SubscriptionHost,
} from "./subscription.js";
import { TokenKeeper } from "./token.js";
import { Topic } from "./topic.js";
import { checkNotSystem, checkPattern, checkUsable } from "./topics.js";
import { encodeUtf8 } from "./utf8.js";
import type { TransportConstructor, TransportOptions } from "./transport.js";

const CONNECT_TIMEOUT = 10_000;
/** A connection that stood this long was a good one: the backoff begins anew. */
const STABLE_MS = 5000;
const PING_AFTER = 5000;
const PING_TIMEOUT = 5000;

/** A client of a broker, made by {@link connect}. It may be used in a Worker. */
export class Client {
  /**
   * Closes the client at the end of an `await using` block, as {@link close} does.
   * It is there where the runtime has the symbol.
   */
  declare readonly [Symbol.asyncDispose]: () => Promise<void>;

  readonly #url: string;
  readonly #options: ConnectOptions;
  readonly #construct: TransportConstructor;
  #transportOptions: TransportOptions | undefined; // undefined: it is asked for
  readonly #backoff: Backoff;
  readonly #events = new EventTarget(); // it reports what listeners throw
  readonly #drops = noDrops();
  readonly #publisher: Publisher;
  readonly #subscriptions = new Set<Subscription>();
  readonly #host: SubscriptionHost;
  readonly #presences = new Presences((lost) => this.#emit("presence", lost));
  readonly #lifetime = new AbortController(); // aborted when the client ends

  #state: ClientState = "connecting";
  #token: string | undefined;
  #keeper: TokenKeeper | undefined; // of the connection
  #next: Deferred<Connection> | undefined; // the connection that is waited for
  #hurry = (): void => {}; // ends the wait for the next attempt
  #reason: TidewireError | undefined; // why the client has ended
  #connection: Connection | undefined; // while it stands or is tried
  #id = "";
  #resume: Resume | undefined;
  #ended: Promise<void> = Promise.resolve(); // of the loop that reconnects

  /** @internal It does no I/O; throws for options that cannot be. */
  constructor(url: string, options: ConnectOptions) {
    this.#url = url;
    this.#options = options;
    this.#token = options.token;
    const backoff = options.reconnect || {};
    this.#backoff = new Backoff(backoff);
    this.#publisher = new Publisher(this.#drops, options.offline ?? {});
    this.#host = {
      drops: this.#drops,
      backoff,
      reply: (to, value, o) => this.#reply(to, value, o),
      open: (s) => this.#open(s),
      ended: (s) => void this.#subscriptions.delete(s),
    };
    for (const ms of [options.pingAfter, options.pingTimeout]) {
      if (ms !== undefined && !(ms > 0)) throw new TypeError("pingAfter and pingTimeout are above 0");
    }
    const hashes = options.certificateHashes;
    if (typeof hashes !== "function") this.#transportOptions = transportOptions(hashes);
    if (encodeUtf8(options.agent ?? "").length > MAX_AGENT) {
      throw new TypeError(`agent is longer than ${MAX_AGENT} bytes`);
    }
    const global = globalThis as { WebTransport?: TransportConstructor };
    const construct = options.webTransport ?? global.WebTransport;
    if (!construct) throw fail("unsupported", "no WebTransport here: it takes a newer browser, and a secure page");
    this.#construct = construct;
    const dispose = Symbol.asyncDispose as symbol | undefined;
    if (dispose) Object.defineProperty(this, dispose, { value: () => this.close() });
  }

  /** The state now. {@link Client.on} tells when it changes. */
  get state(): ClientState {
    return this.#state;
  }

  /**
   * The client id, a UUID. It stays the same across reconnects unless the broker
   * has forgotten it. It is public and grants nothing.
   */
  get id(): string {
    return this.#id;
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
  async start(): Promise<void> {
    const stop = onAbort(this.#options.signal, (error) => this.#end(error));
    try {
      const connection = await this.#attempt();
      this.#ended = this.#keep(connection);
    } catch (e) {
      this.#end(e as TidewireError);
      throw e;
    } finally {
      stop();
    }
  }

  /** Keeps the client connected until it ends; never rejects. */
  async #keep(connection: Connection): Promise<void> {
    const asleep = onWake(() => {
      this.#connection?.probe();
      this.#hurry();
    });
    await this.#reconnect(connection);
    asleep();
  }

  async #reconnect(connection: Connection): Promise<void> {
    for (;;) {
      const since = Date.now();
      let error = await connection.closed;
      this.#publisher.disconnected(error);
      if (Date.now() - since >= STABLE_MS) this.#backoff.reset();
      for (;;) {
        if (this.#reason) return;
        if (!this.#mayReturn(error)) return this.#end(error);
        this.#change("disconnected", error);
        await this.#pause(error);
        try {
          connection = await this.#attempt();
          break;
        } catch (e) {
          error = e as TidewireError;
        }
      }
    }
  }

  /** Waits before the next attempt; not for long when the page or the network is back. */
  async #pause(error: TidewireError): Promise<void> {
    const hurry = new AbortController();
    const stop = onAbort(this.#lifetime.signal, () => hurry.abort());
    // What the broker asked for is waited for all the same.
    if (error.retry === undefined) this.#hurry = () => hurry.abort();
    await sleep(this.#backoff.next(error.retry), hurry.signal);
    this.#hurry = () => {};
    stop();
  }

  /** Whether another attempt can succeed where one ended so (PROTOCOL §11). */
  #mayReturn(error: TidewireError): boolean {
    if (this.#options.reconnect === false) return false;
    if (error.codeName === "resume_denied") {
      this.#resume = undefined;
      return true;
    }
    if (error.codeName === "token_expired") return this.#options.getToken !== undefined;
    return error.code >= 300 && error.codeName !== "unsupported";
  }

  /** Tries to connect once; rejects with a TidewireError. */
  async #attempt(): Promise<Connection> {
    this.#change("connecting");
    const token = await this.#askToken();
    const trusted = this.#transportOptions ?? (await this.#askHashes());
    if (this.#reason) throw this.#reason;
    let connection: Connection;
    try {
      const transport = new this.#construct(this.#url, trusted);
      connection = new Connection(transport, {
        drops: this.#drops,
        pingAfter: this.#options.pingAfter ?? PING_AFTER,
        pingTimeout: this.#options.pingTimeout ?? PING_TIMEOUT,
        notice: (n) => this.#notice(n),
      });
    } catch (cause) {
      throw mapped("connect_failed", cause);
    }
    this.#connection = connection;
    const ms = this.#options.connectTimeout ?? CONNECT_TIMEOUT;
    const timer = setTimeout(
      () => connection.fail(fail("connect_timeout", `no broker within ${ms} ms; is UDP blocked?`)),
      ms,
    );
    try {
      const { agent } = this.#options;
      const hello = { token, resume: this.#resume, agent };
      // What has a time in it waits for WELCOME, which says from when times count.
      const early = this.#detached().filter((s) => !s.timed);
      const w = await connection.open(hello, early);
      this.#id = connection.id;
      this.#resume = { client: w.client, secret: w.secret };
      if (this.#options.getToken) {
        const backoff = this.#options.reconnect || {};
        this.#keeper = new TokenKeeper(connection, () => this.#askToken(), backoff);
        this.#keeper.expires(w.expires);
      }
    } finally {
      clearTimeout(timer);
    }
    for (const s of this.#detached()) connection.subscribe(s);
    this.#presences.connected(connection);
    this.#change("connected");
    this.#publisher.connected(connection);
    this.#next?.resolve(connection);
    this.#next = undefined;
    return connection;
  }

  /** The connection, now or as soon as there is one. */
  async #connected(signal: AbortSignal | undefined): Promise<Connection> {
    this.#orClosed();
    const c = this.#connection;
    if (this.#state === "connected" && c && !c.error) return c;
    if (this.#options.offline?.refuse) throw fail("offline", NO_CONNECTION);
    this.#next ??= deferred<Connection>();
    return abortable(this.#next.promise, signal);
  }

  /** The subscriptions that have no stream. */
  #detached(): Subscription[] {
    return [...this.#subscriptions].filter((s) => s.detached);
  }

  async #askToken(): Promise<string | undefined> {
    const { getToken } = this.#options;
    return getToken ? this.#ask(getToken) : this.#token;
  }

  async #askHashes(): Promise<TransportOptions> {
    const { certificateHashes: hashes } = this.#options;
    if (typeof hashes !== "function") return {};
    return this.#ask(async () => transportOptions(await hashes()));
  }

  /** Asks the application for what an attempt needs. */
  async #ask<T>(f: () => T | Promise<T>): Promise<T> {
    try {
      return await abortable((async () => f())(), this.#lifetime.signal);
    } catch (cause) {
      throw this.#reason ?? mapped("connect_failed", cause);
    }
  }

  #change(state: ClientState, error?: TidewireError): void {
    if (this.#state === "closed" || this.#state === state) return;
    this.#state = state;
    this.#emit("state", { state, error });
  }

  #notice(n: NoticeFrame): void {
    const { code, codeName, reason } = n.error;
    const base = this.#connection?.base ?? 0;
    const deadline = n.deadline === undefined ? undefined : new Date(base + n.deadline);
    this.#emit("notice", { code, codeName, reason, deadline });
    if (codeName === "token_expired") this.#keeper?.expired();
  }

  #reply(...[to, value, o]: Parameters<Replier>): void {
    const frame = writeReply(to, encodePayload(value, o.encoding), headerList(o.headers));
    this.#connection?.control(frame);
  }

  /** Opens a stream for a subscription, if there is a connection. */
  #open(s: Subscription): void {
    if (s.detached && this.#state === "connected") this.#connection?.subscribe(s);
  }

  #subscribe<T>(pattern: string, o: SubscribeOptions, internal?: InternalOptions): Subscription<T> {
    this.#orClosed();
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
    const [position] = await this.publishBatch(topic, [{ ...options, value }], { ...(signal && { signal }) });
    return position as Position;
  }

  /**
   * Publishes messages to one topic, one behind the other, which is one write and one
   * answer. Resolves with their positions; rejects as {@link publish} does, with the
   * first refusal, when others may have been published.
   */
  async publishBatch(
    topic: string,
    items: readonly BatchItem[],
    options: { signal?: AbortSignal } = {},
  ): Promise<Position[]> {
    checkUsable(topic);
    this.#orClosed();
    const messages = items.map((item) => outgoing(item.value, false, item));
    return this.#publisher.publish(topic, messages, options.signal);
  }

  /**
   * Publishes a message of which only the newest counts. It goes by datagram if it
   * fits into one, and may be lost; without a connection it is dropped, as is one that
   * is larger than the broker takes. The drops of this side are counted in {@link drops}.
   *
   * Throws `invalid_topic`, `system_topic`, `invalid_option` or `closed`, or a
   * TypeError for a value that cannot be encoded; never because of a loss.
   */
  publishLossy(topic: string, value: unknown, options: PublishLossyOptions = {}): void {
    checkUsable(topic);
    this.#orClosed();
    if ("retain" in options || "id" in options) throw bad("a lossy message has no retain and no id");
    this.#publisher.lossy(topic, outgoing(value, true, options));
  }

  /** Returns the same methods for one topic whose messages are of type `T`. */
  topic<T = unknown>(name: string): Topic<T> {
    checkUsable(name);
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
    const c = await this.#connected(options.signal);
    return fetchPage<T>(c, topic, options, this.#host.reply);
  }

  /**
   * Opens a live map: the last values of a topic, by key. Throws as {@link subscribe}
   * does.
   */
  map<T = unknown>(topic: string, options: MapOptions = {}): LiveMap<T> {
    checkUsable(topic);
    const { priority, signal } = options;
    const o: SubscribeOptions = { class: "latest" };
    if (priority !== undefined) o.priority = priority;
    if (signal) o.signal = signal;
    return new LiveMap<T>(this.#subscribe<T>(topic, o, { fresh: true }), options);
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
    this.#orClosed();
    return replies<T>((signal) => this.#connected(signal), topic, value, options);
  }

  /**
   * Enters a topic: this client is present in it, with a state of 1 byte to 1 KiB once
   * encoded, until it leaves or ends. To enter again changes the state. After a
   * reconnect it is entered again; if that is refused the event `presence` tells.
   * Rejects with the broker's refusal, or as {@link history} does.
   */
  async enter(
    topic: string,
    state: unknown = null,
    options: { encoding?: KnownEncoding; signal?: AbortSignal } = {},
  ): Promise<void> {
    checkUsable(topic);
    const payload = encodePayload(state, options.encoding);
    const { signal } = options;
    await this.#presences.enter(() => this.#connected(signal), topic, payload, signal);
  }

  /** Leaves a topic. Rejects with the broker's refusal, or with `closed`. */
  async leave(topic: string): Promise<void> {
    checkUsable(topic);
    this.#orClosed();
    await this.#presences.leave(this.#state === "connected" ? this.#connection : undefined, topic);
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

  #presence<S>(pattern: string, { signal }: WatchOptions): Subscription<S> {
    const o: SubscribeOptions = signal ? { class: "latest", signal } : { class: "latest" };
    return this.#subscribe<S>(pattern, o, { fresh: true, flags: FLAG_PRESENCE });
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
    const c = await this.#connected(options.signal);
    const { topics, more } = await abortable(c.count(pattern), options.signal);
    return Object.assign(new Map(topics), { more });
  }

  /**
   * Returns how the connection and the subscriptions stand. Rejects as {@link history}
   * does.
   */
  async health(options: { signal?: AbortSignal } = {}): Promise<Health> {
    const c = await this.#connected(options.signal);
    return abortable(readHealth(c, this.#subscriptions), options.signal);
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
    this.#orClosed();
    if (this.#state === "connected" && this.#connection) {
      const expires = await abortable(this.#connection.auth(token), options.signal);
      this.#keeper?.expires(expires);
    }
    this.#token = token;
  }

  #orClosed(): void {
    if (this.#reason) throw fail("closed", "", this.#reason);
  }

  /**
   * Ends the session and the client: all iterations are done, all that waits
   * rejects with `closed`. Resolves when the connection is closed, within about a
   * second; it may be called more than once.
   */
  async close(): Promise<void> {
    const connection = this.#connection;
    this.#finish(undefined);
    await connection?.close();
    await this.#ended;
  }

  /** The end of the client, at once. */
  #end(error: TidewireError): void {
    this.#finish(error);
    this.#connection?.fail(error);
  }

  /** Ends all but the connection. */
  #finish(error: TidewireError | undefined): void {
    if (this.#reason) return;
    this.#reason = error ?? fail("closed");
    this.#change("closed", error);
    this.#lifetime.abort();
    for (const s of this.#subscriptions) s.end(error, error === undefined);
    this.#publisher.close(this.#reason);
    this.#next?.reject(this.#reason);
  }
}
