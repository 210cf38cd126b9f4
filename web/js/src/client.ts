/// <reference lib="esnext.disposable" preserve="true" />

import { abortable, onAbort, sleep } from "./abort.js";
import { Backoff, type BackoffOptions } from "./backoff.js";
import { parseCertificateHash } from "./certificate.js";
import { Connection } from "./connection.js";
import { type Drops, noDrops } from "./drops.js";
import { type CodeName, type TidewireError, fail, mapped } from "./errors.js";
import type { NoticeFrame, Resume } from "./frames.js";
import { MAX_AGENT } from "./limits.js";
import { type Position, formatId } from "./message.js";
import { type KnownEncoding, encodePayload } from "./payload.js";
import { Publisher } from "./publisher.js";
import { type SubscribeOptions, Subscription } from "./subscription.js";
import { checkNotSystem, checkTopic } from "./topics.js";
import { encodeUtf8 } from "./utf8.js";
import type { TransportConstructor, TransportOptions } from "./transport.js";

/** A token, or a function that is asked for one, for each connection attempt. */
export type Token = string | (() => string | Promise<string>);

/** Options of {@link connect}. */
export interface ConnectOptions {
  /**
   * The token that the broker's authenticator wants. A function is asked for each
   * connection attempt, and when the broker tells that the token expires.
   */
  token?: Token;
  /**
   * The SHA-256 of certificates to trust in place of a certificate authority, in
   * base64, in hex with or without colons, or as 32 bytes. Browsers take this for
   * ECDSA certificates that are valid for at most 14 days.
   */
  certificateHashes?: (string | Uint8Array)[];
  /** The constructor to use in place of `globalThis.WebTransport`. */
  webTransport?: TransportConstructor;
  /** How long a connection attempt may take, in milliseconds; 10,000 by default. */
  connectTimeout?: number;
  /** Cancels the first connection attempt. It has no effect afterwards. */
  signal?: AbortSignal;
  /** How a lost connection is replaced; `false`: not at all. */
  reconnect?: BackoffOptions | false;
  /** Names the program in the broker's logs; at most 128 bytes. */
  agent?: string;
}

/**
 * - `connecting`: an attempt is under way;
 * - `connected`;
 * - `disconnected`: the connection was lost, the next attempt comes after a wait;
 * - `closed`: for good, by {@link Client.close} or by a final error.
 */
export type ClientState = "connecting" | "connected" | "disconnected" | "closed";

/** What the event `state` tells. */
export interface StateChange {
  readonly state: ClientState;
  /** Why, for `disconnected` and for `closed` by an error. */
  readonly error: TidewireError | undefined;
}

/** What the event `notice` tells: the session will end (PROTOCOL.md §5.4). */
export interface Notice {
  /** The code with which it will end. */
  readonly code: number;
  /** The name of the code: `token_expired` or `shutting_down`. */
  readonly codeName: CodeName;
  /** What happened, for people. */
  readonly reason: string;
  /** When it will end, by the broker's clock, if known. */
  readonly deadline: Date | undefined;
}

/** The events of a client: see {@link Client.on}. */
export interface ClientEvents {
  state: StateChange;
  notice: Notice;
}

/** Options of {@link Client.publish}. */
export interface PublishOptions {
  /**
   * By default bytes stay bytes, a string becomes text, and everything else
   * MessagePack.
   */
  encoding?: KnownEncoding;
  /** Stops waiting. A message that was sent already may be published all the same. */
  signal?: AbortSignal;
}

const CONNECT_TIMEOUT = 10_000;
/** A connection that stood this long was a good one: the backoff begins anew. */
const STABLE_MS = 5000;
/** A token is asked for at a random time within this, so that not all ask at once. */
const TOKEN_JITTER_MS = 5000;

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
  readonly #transportOptions: TransportOptions;
  readonly #backoff: Backoff;
  readonly #events = new EventTarget(); // it reports what listeners throw
  readonly #drops = noDrops();
  readonly #publisher = new Publisher(this.#drops);
  readonly #subscriptions = new Set<Subscription>();
  readonly #lifetime = new AbortController(); // aborted when the client ends

  #state: ClientState = "connecting";
  #token: Token | undefined;
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
    this.#backoff = new Backoff(options.reconnect || {});
    const hashes = options.certificateHashes?.map((hash) => ({
      algorithm: "sha-256" as const,
      value: parseCertificateHash(hash),
    }));
    this.#transportOptions = hashes?.length ? { serverCertificateHashes: hashes } : {};
    if (encodeUtf8(options.agent ?? "").length > MAX_AGENT) {
      throw new TypeError(`agent is longer than ${MAX_AGENT} bytes`);
    }
    const global = globalThis as { WebTransport?: TransportConstructor };
    const construct = options.webTransport ?? global.WebTransport;
    if (!construct) throw fail("unsupported", "no WebTransport here");
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
   * broker tells that the session will end. The function that it returns takes
   * the listener away.
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
    for (;;) {
      const since = Date.now();
      let error = await connection.closed;
      this.#publisher.disconnected();
      if (Date.now() - since >= STABLE_MS) this.#backoff.reset();
      for (;;) {
        if (this.#reason) return;
        if (!this.#mayReturn(error)) return this.#end(error);
        this.#change("disconnected", error);
        await sleep(this.#backoff.next(error.retry), this.#lifetime.signal);
        try {
          connection = await this.#attempt();
          break;
        } catch (e) {
          error = e as TidewireError;
        }
      }
    }
  }

  /** Whether another attempt can succeed where one ended so (PROTOCOL §11). */
  #mayReturn(error: TidewireError): boolean {
    if (this.#options.reconnect === false) return false;
    if (error.codeName === "resume_denied") {
      this.#resume = undefined;
      return true;
    }
    if (error.codeName === "token_expired") return typeof this.#token === "function";
    return error.code >= 300 && error.codeName !== "unsupported";
  }

  /** Tries to connect once; rejects with a TidewireError. */
  async #attempt(): Promise<Connection> {
    this.#change("connecting");
    const token = await this.#askToken();
    if (this.#reason) throw this.#reason;
    let connection: Connection;
    try {
      const transport = new this.#construct(this.#url, this.#transportOptions);
      connection = new Connection(transport, { drops: this.#drops, notice: (n) => this.#notice(n) });
    } catch (cause) {
      throw mapped("connect_failed", cause);
    }
    this.#connection = connection;
    const ms = this.#options.connectTimeout ?? CONNECT_TIMEOUT;
    const timer = setTimeout(
      () => connection.fail(fail("connect_timeout", `${ms} ms`)),
      ms,
    );
    try {
      const { agent } = this.#options;
      const hello = { token, resume: this.#resume, agent };
      const w = await connection.open(hello, this.#detached());
      this.#id = formatId(w.client);
      this.#resume = { client: w.client, secret: w.secret };
    } finally {
      clearTimeout(timer);
    }
    for (const s of this.#detached()) connection.subscribe(s);
    this.#change("connected");
    this.#publisher.connected(connection);
    return connection;
  }

  /** The subscriptions that have no stream. */
  #detached(): Subscription[] {
    return [...this.#subscriptions].filter((s) => s.detached);
  }

  async #askToken(): Promise<string | undefined> {
    const token = this.#token;
    if (typeof token !== "function") return token;
    try {
      return await abortable((async () => token())(), this.#lifetime.signal);
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
    if (codeName === "token_expired" && typeof this.#token === "function") void this.#renew();
  }

  /** Replaces the token that expires; never rejects. */
  async #renew(): Promise<void> {
    const connection = this.#connection;
    await sleep(Math.random() * TOKEN_JITTER_MS, connection?.signal);
    try {
      const token = await this.#askToken();
      if (token !== undefined) await connection?.auth(token);
    } catch {
      // The session ends when the token's time is over, and the next attempt asks
      // for a token again, and tells why there is none.
    }
  }

  /**
   * Subscribes to a topic or pattern. It returns at once; without a connection the
   * subscription begins with the next one. Throws a TidewireError with
   * `invalid_pattern`, `system_topic`, `unsupported_class`, `invalid_option`, or
   * `closed`.
   */
  subscribe<T = unknown>(pattern: string, options: SubscribeOptions = {}): Subscription<T> {
    this.#orClosed();
    const host = {
      drops: this.#drops,
      ended: (s: Subscription) => void this.#subscriptions.delete(s),
    };
    const s = new Subscription<T>(host, pattern, options);
    if (!s.detached) return s; // its signal was aborted already
    this.#subscriptions.add(s);
    if (this.#state === "connected") this.#connection?.subscribe(s);
    return s;
  }

  /**
   * Publishes a message and waits until the broker's bus has sequenced it, which
   * does not mean that it was delivered. Messages to one topic keep their order.
   * While there is no connection it waits for one.
   *
   * Rejects with the TidewireError of the broker's refusal, with `connection_lost`
   * if the connection was lost before the answer (the message may have been
   * published or not), with `invalid_topic`, `system_topic`, `payload_too_large`,
   * `aborted` or `closed`; with `rate_limited` if more than 16 MiB wait; with a
   * TypeError for a value that cannot be encoded.
   */
  async publish(topic: string, value: unknown, options: PublishOptions = {}): Promise<Position> {
    checkTopic(topic);
    checkNotSystem(topic);
    this.#orClosed();
    return this.#publisher.publish(topic, encodePayload(value, options.encoding), options.signal);
  }

  /**
   * Publishes a message of which only the newest counts. It goes by datagram if it
   * fits into one, and may be lost; without a connection it is dropped. The drops
   * of this side are counted in {@link drops}.
   *
   * Throws `invalid_topic`, `system_topic` or `closed`, or a TypeError for a value
   * that cannot be encoded; never because of a loss.
   */
  publishLossy(topic: string, value: unknown, options: { encoding?: KnownEncoding } = {}): void {
    checkTopic(topic);
    checkNotSystem(topic);
    this.#orClosed();
    this.#publisher.lossy(topic, encodePayload(value, options.encoding));
  }

  /**
   * Replaces the token in place. The new one must be of the same principal.
   * Subscriptions and publications that it does not permit end with
   * `permission_revoked`. Later attempts to connect use it, unless the token is a
   * function, which is asked then; without a connection nothing else happens.
   *
   * Rejects with the broker's refusal, after which the old token stays in force;
   * with `connection_lost`, `aborted` or `closed`.
   */
  async auth(token: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    this.#orClosed();
    if (this.#state === "connected" && this.#connection) {
      await abortable(this.#connection.auth(token), options.signal);
    }
    if (typeof this.#token !== "function") this.#token = token;
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
  }
}
