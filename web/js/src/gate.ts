import { onAbort } from "./abort.js";

/** Lets at most so many through at a time; the others wait in order. */
export class Gate {
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(places: number) {
    this.#free = places;
  }

  /**
   * Waits for a place. Whoever has one gives it back by leave, once. Rejects with
   * `aborted`, and without a place.
   */
  enter(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const enter = (): void => {
        stop();
        resolve();
      };
      this.#waiting.add(enter);
      const stop = onAbort(signal, (error) => {
        this.#waiting.delete(enter);
        reject(error);
      });
      this.#next();
    });
  }

  /** Gives a place to the next one. */
  leave(): void {
    this.#free++;
    this.#next();
  }

  #next(): void {
    const [next] = this.#waiting;
    if (!next || this.#free === 0) return;
    this.#free--;
    this.#waiting.delete(next);
    next();
  }
}
