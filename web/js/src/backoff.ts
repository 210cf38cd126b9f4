import { MAX_TIMER } from "./limits.js";
import { checkRest } from "./options.js";

/** How long to wait between attempts to connect again. */
export interface BackoffOptions {
  /** The upper bound of the first wait, in milliseconds; 500 by default. */
  initial?: number;
  /** The upper bound of every wait, in milliseconds; 20,000 by default. */
  max?: number;
  /** What the bound is multiplied with after each attempt; 2 by default. */
  factor?: number;
}

/**
 * Gives the waits between attempts: random up to a bound that grows to a cap, so
 * that the clients of a broker that was restarted do not come back all at once.
 */
export class Backoff {
  readonly #initial: number;
  readonly #max: number;
  readonly #factor: number;
  #attempt = 0;

  constructor(o: BackoffOptions = {}) {
    const { initial = 500, max = 20_000, factor = 2, ...rest } = o;
    checkRest(rest);
    this.#initial = initial;
    this.#max = max;
    this.#factor = factor;
    if (!(initial > 0 && max >= initial && factor >= 1)) {
      throw new TypeError("reconnect: not 0 < initial <= max and factor >= 1");
    }
  }

  /** The next wait in milliseconds, at least what the broker asked for. */
  next(least = 0): number {
    const bound = Math.min(this.#max, this.#initial * this.#factor ** this.#attempt++);
    return Math.min(MAX_TIMER, least + Math.random() * bound);
  }

  /** Begins anew, after a connection that lasted. */
  reset(): void {
    this.#attempt = 0;
  }
}
