// A token is replaced before it expires (PROTOCOL §5.3, §5.4).

import { sleep } from "./abort.js";
import { Backoff, type BackoffOptions } from "./backoff.js";
import type { Connection } from "./connection.js";
import { mapped } from "./errors.js";
import { MAX_TIMER } from "./limits.js";

/** How far into its life a token is replaced: at random between both. */
const EARLIEST = 0.7;
const LATEST = 0.8;
/** After a notice a token is asked for at a random time within this, so that not all ask at once. */
const JITTER_MS = 5000;

/**
 * Keeps the token of one connection from expiring: asks for the next one in time, and
 * again with a growing wait while there is none, as long as the connection lasts. If
 * none comes in time the session ends, and the next attempt asks again.
 */
export class TokenKeeper {
  readonly #connection: Connection;
  readonly #ask: () => Promise<string | undefined>;
  readonly #backoff: Backoff;
  #renewing = false;
  #stop = new AbortController(); // of the wait for the next time

  constructor(
    connection: Connection,
    ask: () => Promise<string | undefined>,
    backoff: BackoffOptions,
  ) {
    this.#connection = connection;
    this.#ask = ask;
    this.#backoff = new Backoff(backoff);
  }

  /**
   * The token in force expires at that many milliseconds after the base. By a clock
   * for which it has expired already nothing can be planned: the notice tells.
   */
  expires(at: number | undefined): void {
    this.#stop.abort();
    if (at === undefined) return;
    const left = this.#connection.base + at - Date.now();
    if (left <= 0) return;
    const part = EARLIEST + Math.random() * (LATEST - EARLIEST);
    void this.#wait(Math.min(left * part, MAX_TIMER));
  }

  /** The broker tells that the token has expired. */
  expired(): void {
    void this.#wait(Math.random() * JITTER_MS);
  }

  async #wait(ms: number): Promise<void> {
    const stop = (this.#stop = new AbortController());
    const end = (): void => stop.abort();
    this.#connection.signal.addEventListener("abort", end);
    await sleep(ms, stop.signal);
    this.#connection.signal.removeEventListener("abort", end);
    if (!stop.signal.aborted) await this.#renew();
  }

  /** Never rejects. */
  async #renew(): Promise<void> {
    if (this.#renewing) return;
    this.#renewing = true;
    this.#backoff.reset();
    while (!this.#connection.error) {
      try {
        const token = await this.#ask();
        if (token === undefined) break;
        this.expires(await this.#connection.requests.auth(token));
        break;
      } catch (e) {
        const { codeName, remote } = mapped("connection_lost", e); // of whatever the application throws
        if (codeName === "unauthorized" && !remote) break; // there is no use in asking again
        await sleep(this.#backoff.next(), this.#connection.signal);
      }
    }
    this.#renewing = false;
  }
}
