// The session of a client: its connection, and the next one when that is lost.

import { abortable, onAbort, sleep } from "./abort.js";
import { Backoff } from "./backoff.js";
import { transportOptions } from "./certificate.js";
import type { ClientState, ConnectOptions, Notice } from "./client-options.js";
import { Connection } from "./connection.js";
import { type Deferred, deferred } from "./deferred.js";
import type { Drops } from "./drops.js";
import { type TidewireError, NO_CONNECTION, fail, mapped } from "./errors.js";
import type { NoticeFrame, Resume } from "./frames.js";
import { MAX_AGENT, MAX_TIMER, MAX_TOKEN } from "./limits.js";
import { onWake } from "./liveness.js";
import { checkRest } from "./options.js";
import type { StreamOwner } from "./subscription-stream.js";
import { TokenKeeper } from "./token.js";
import type { TransportConstructor, TransportOptions } from "./transport.js";
import { encodeUtf8 } from "./utf8.js";

const CONNECT_TIMEOUT = 10_000;
/** A connection that stood this long was a good one: the backoff begins anew. */
const STABLE_MS = 5000;
const PING_AFTER = 5000;
const PING_TIMEOUT = 5000;

/** What a session needs of its client. */
export interface SessionHost {
  readonly drops: Drops;
  /** The subscriptions that have no stream. */
  detached(): (StreamOwner & { readonly timed: boolean })[];
  changed(state: ClientState, error: TidewireError | undefined): void;
  notice(n: Notice): void;
  /** There is a connection, before the state tells so. */
  connected(c: Connection): void;
  disconnected(error: TidewireError): void;
  /** The end, for good: `error` is undefined after close. */
  ended(reason: TidewireError, error: TidewireError | undefined): void;
}

/** Throws `unauthorized` for a token that no broker takes (PROTOCOL §10). */
function checkToken(token = ""): void {
  if (encodeUtf8(token).length > MAX_TOKEN) throw fail("unauthorized", "the token is too long");
}

/** Connects, and connects again, until it ends. */
export class Session {
  readonly #url: string;
  readonly #options: ConnectOptions & { connectTimeout: number; pingAfter: number; pingTimeout: number };
  readonly #host: SessionHost;
  readonly #construct: TransportConstructor;
  #transportOptions: TransportOptions | undefined; // undefined: it is asked for
  readonly #backoff: Backoff;
  readonly #lifetime = new AbortController(); // aborted at the end

  #state: ClientState = "connecting";
  #token: string | undefined;
  #keeper: TokenKeeper | undefined; // of the connection
  #next: Deferred<Connection> | undefined; // the connection that is waited for
  #hurry = (): void => {}; // ends the wait for the next attempt
  #reason: TidewireError | undefined; // why it has ended
  #connection: Connection | undefined; // while it stands or is tried
  #id = "";
  #resume: Resume | undefined;
  #ended: Promise<void> = Promise.resolve(); // of the loop that reconnects

  /** It does no I/O; throws for options that cannot be. */
  constructor(url: string, options: ConnectOptions, host: SessionHost) {
    const {
      token,
      getToken: _getToken,
      certificateHashes,
      webTransport = (globalThis as { WebTransport?: TransportConstructor }).WebTransport,
      connectTimeout = CONNECT_TIMEOUT,
      signal: _signal,
      reconnect,
      offline: _offline,
      pingAfter = PING_AFTER,
      pingTimeout = PING_TIMEOUT,
      agent = "",
      ...rest
    } = options;
    checkRest(rest);
    this.#url = url;
    this.#options = { ...options, connectTimeout, pingAfter, pingTimeout };
    this.#host = host;
    this.#token = token;
    this.#backoff = new Backoff(reconnect || {});
    if (!(pingAfter > 0 && pingTimeout > 0)) throw new TypeError("pingAfter and pingTimeout are above 0");
    if (typeof certificateHashes !== "function") {
      this.#transportOptions = transportOptions(certificateHashes);
    }
    if (encodeUtf8(agent).length > MAX_AGENT) {
      throw new TypeError(`agent is longer than ${MAX_AGENT} bytes`);
    }
    if (!webTransport) throw fail("unsupported", "no WebTransport here: it takes a newer browser, and a secure page");
    this.#construct = webTransport;
  }

  get state(): ClientState {
    return this.#state;
  }

  /** The client id. */
  get id(): string {
    return this.#id;
  }

  /** Throws why the session has ended, if it has. */
  check(): void {
    if (this.#reason) throw this.#reason;
  }

  /** The connection; undefined while none stands. Throws when the session has ended. */
  get connection(): Connection | undefined {
    this.check();
    const c = this.#connection;
    return this.#state === "connected" && !c?.error ? c : undefined;
  }

  /** Tries to connect, once, and keeps connected from then on. */
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
      this.#host.disconnected(error);
      if (Date.now() - since >= STABLE_MS) this.#backoff.reset();
      let awake = false; // the page or the network came back during the attempt
      for (;;) {
        if (this.#reason) return;
        if (!this.#mayReturn(error)) return this.#end(error);
        this.#change("disconnected", error);
        await this.#pause(error, awake);
        if (this.#reason) return; // nobody is asked for a token any more
        awake = false;
        this.#hurry = () => {
          awake = true;
        };
        try {
          connection = await this.#attempt();
          break;
        } catch (e) {
          error = e as TidewireError;
        }
      }
    }
  }

  /**
   * Waits before the next attempt; not for long when the page or the network is back,
   * and not at all if they came back during the last attempt.
   */
  async #pause(error: TidewireError, awake: boolean): Promise<void> {
    const hurry = new AbortController();
    const stop = onAbort(this.#lifetime.signal, () => hurry.abort());
    const wait = this.#backoff.next(error.retry);
    // What the broker asked for is waited for all the same.
    this.#hurry = () => {
      if (error.retry === undefined) hurry.abort();
    };
    if (awake) this.#hurry();
    await sleep(wait, hurry.signal);
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

  /** Tries to connect once, within the time for that; rejects with a TidewireError. */
  async #attempt(): Promise<Connection> {
    this.#change("connecting");
    const ms = this.#options.connectTimeout;
    const over = new AbortController(); // of what the application is asked
    const stop = onAbort(this.#lifetime.signal, () => over.abort());
    let late: TidewireError | undefined;
    const timer = setTimeout(() => {
      late = fail("connect_timeout", `no broker within ${ms} ms; is UDP blocked?`);
      over.abort();
      this.#connection?.fail(late);
    }, Math.min(ms, MAX_TIMER));
    try {
      return await this.#open(over.signal);
    } catch (e) {
      throw this.#reason ?? late ?? mapped("connect_failed", e);
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  async #open(signal: AbortSignal): Promise<Connection> {
    const { agent, getToken, certificateHashes: hashes, pingAfter, pingTimeout } = this.#options;
    const token = await this.#askToken(signal);
    const asked = async () => (typeof hashes === "function" ? transportOptions(await hashes()) : {});
    const trusted = this.#transportOptions ?? (await abortable(asked(), signal));
    this.check();
    const c = new Connection(new this.#construct(this.#url, trusted), {
      drops: this.#host.drops,
      pingAfter,
      pingTimeout,
      notice: (n) => this.#notice(n),
    });
    this.#connection = c;
    // What has a time in it waits for WELCOME, which says from when times count.
    const early = this.#host.detached().filter((s) => !s.timed);
    const w = await c.open({ token, resume: this.#resume, agent }, early);
    this.#id = c.id;
    this.#resume = { client: w.client, secret: w.secret };
    if (getToken) {
      this.#keeper = new TokenKeeper(c, () => this.#askToken(), this.#options.reconnect || {});
      this.#keeper.expires(w.expires);
    }
    if (this.#token !== token && this.#token !== undefined) { // it was given meanwhile
      c.requests.auth(this.#token).then((expires) => this.#keeper?.expires(expires), () => {});
    }
    this.#host.connected(c);
    this.#change("connected");
    this.#next?.resolve(c);
    this.#next = undefined;
    return c;
  }

  /** The connection, now or as soon as there is one. */
  async reach(signal: AbortSignal | undefined): Promise<Connection> {
    const c = this.connection;
    if (c) return c;
    if (this.#options.offline?.refuse) throw fail("offline", NO_CONNECTION);
    this.#next ??= deferred<Connection>();
    return abortable(this.#next.promise, signal);
  }

  async #askToken(signal = this.#lifetime.signal): Promise<string | undefined> {
    const { getToken } = this.#options;
    const token = getToken ? await abortable((async () => getToken())(), signal) : this.#token;
    checkToken(token);
    this.#token = token;
    return token;
  }

  #change(state: ClientState, error?: TidewireError): void {
    if (this.#state === "closed" || this.#state === state) return;
    this.#state = state;
    this.#host.changed(state, error);
  }

  #notice(n: NoticeFrame): void {
    const { code, codeName, reason } = n.error;
    const base = this.#connection?.base ?? 0;
    const deadline = n.deadline === undefined ? undefined : new Date(base + n.deadline);
    this.#host.notice({ code, codeName, reason, deadline });
    if (codeName === "token_expired") this.#keeper?.expired();
  }

  /** Replaces the token, on the connection or for the next one. */
  async auth(token: string, signal: AbortSignal | undefined): Promise<void> {
    const c = this.connection;
    checkToken(token);
    if (c) {
      const expires = await abortable(c.requests.auth(token), signal);
      this.#keeper?.expires(expires);
    }
    this.#token = token;
  }

  /** Ends the session, and resolves when the connection is closed. */
  async close(): Promise<void> {
    const connection = this.#connection;
    this.#finish(undefined);
    await connection?.close();
    await this.#ended;
  }

  /** The end, at once. */
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
    this.#host.ended(this.#reason, error);
    this.#next?.reject(this.#reason);
  }
}
