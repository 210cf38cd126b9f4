// Whether the other side is still there (PROTOCOL §5.9).

import { MAX_TIMER } from "./limits.js";

/** How much later than it should a timer may fire; else the page was suspended. */
const LATE_MS = 1000;

/** What is to be done about it. */
export interface LivenessEvents {
  /** Ask for a sign of life. */
  ask(): void;
  /** Nothing came after it was asked. */
  lost(): void;
}

/** Whether the page is in the background; a Worker never is. */
function hidden(): boolean {
  const { document } = globalThis as { document?: { visibilityState?: string } };
  return document?.visibilityState === "hidden";
}

/**
 * Asks when nothing has come for a while, twice as long in a page in the background,
 * and tells when there is no answer. The time for which a page was suspended does
 * not count.
 */
export class Liveness {
  readonly #events: LivenessEvents;
  readonly #after: number;
  readonly #timeout: number;
  #heardAt = Date.now();
  #asked = false; // and nothing has come since
  #due = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Both in milliseconds. It begins at once. */
  constructor(after: number, timeout: number, events: LivenessEvents) {
    this.#after = after;
    this.#timeout = timeout;
    this.#events = events;
    this.#wait(after);
  }

  /** Something has come. */
  heard(): void {
    this.#heardAt = Date.now();
    this.#asked = false;
  }

  /** Asks at once: the page may have been away for long. */
  probe(): void {
    this.#asked = true;
    this.#events.ask();
    this.#wait(this.#timeout);
  }

  #wait(ms: number): void {
    clearTimeout(this.#timer);
    const wait = Math.min(ms, MAX_TIMER); // and then it looks again
    this.#due = Date.now() + wait;
    this.#timer = setTimeout(() => this.#look(), wait);
  }

  #look(): void {
    const now = Date.now();
    const left = this.#heardAt + this.#after * (hidden() ? 2 : 1) - now;
    if (this.#asked && now < this.#due + LATE_MS) this.#events.lost();
    else if (this.#asked || left <= 0) this.probe();
    else this.#wait(left);
  }

  /** The end of the connection. */
  stop(): void {
    clearTimeout(this.#timer);
  }
}

/**
 * Calls back when a page comes back from the background, and when the network does.
 * The function that it returns ends that.
 */
export function onWake(f: () => void): () => void {
  const page = globalThis as Partial<EventTarget> & { document?: EventTarget };
  const awake = (): void => {
    if (!hidden()) f();
  };
  const places: [Partial<EventTarget> | undefined, string][] = [
    [page, "pageshow"],
    [page, "online"],
    [page.document, "visibilitychange"],
    [page.document, "resume"],
  ];
  for (const [target, event] of places) target?.addEventListener?.(event, awake);
  return () => {
    for (const [target, event] of places) target?.removeEventListener?.(event, awake);
  };
}
