import { abortable, sleep } from "./abort.js";
import { Backoff } from "./backoff.js";
import type { PresenceLost } from "./client-options.js";
import type { Connection } from "./connection.js";
import { type TidewireError, fail } from "./errors.js";
import { MAX_STATE } from "./limits.js";
import type { Payload } from "./payload.js";

/** The state where there is none, `nil`: no bytes at all would tell that the client has left. */
const NO_STATE: Payload = { encoding: 1, data: Uint8Array.of(0xc0) };

/** A call that enters a topic. */
interface Entering {
  readonly topic: string;
  /** Whether the topic was left after the call. */
  left: boolean;
}

/** The topics that a client has entered (PROTOCOL §7.8), over its connections. */
export class Presences {
  /** The states there. */
  readonly #entered = new Map<string, Payload>();
  /** What has no answer yet: it goes before what is entered again. */
  readonly #entering = new Set<Entering>();
  readonly #lost: (lost: PresenceLost) => void;

  /** `lost` is told of a topic that could not be entered again. */
  constructor(lost: (lost: PresenceLost) => void) {
    this.#lost = lost;
  }

  /**
   * Enters a topic, on the next connection if this one is lost before the answer, unless
   * it is left meanwhile.
   */
  async enter(
    connection: () => Promise<Connection>,
    topic: string,
    state: Payload,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { length } = state.data;
    if (length > MAX_STATE) throw fail("payload_too_large", `a state of ${length} bytes; the limit is ${MAX_STATE}`);
    if (length === 0) state = NO_STATE;
    const entering: Entering = { topic, left: false };
    this.#entering.add(entering);
    try {
      while (!entering.left) {
        const c = await connection();
        if (entering.left) return;
        try {
          await abortable(c.requests.presence(topic, state), signal);
          if (!entering.left) this.#entered.set(topic, state);
          return;
        } catch (e) {
          const { codeName } = e as TidewireError;
          if (codeName === "aborted" && !entering.left) {
            entering.left = true;
            this.#back(c, topic);
          }
          if (codeName !== "connection_lost") throw e;
        }
      }
    } finally {
      this.#entering.delete(entering);
    }
  }

  /** Takes back what was sent and is not waited for any more. */
  #back(c: Connection, topic: string): void {
    const state = this.#entered.get(topic);
    if (state) void this.#again(c, topic, state);
    else if (!this.#newer(topic)) c.requests.presence(topic, undefined).catch(() => {});
  }

  /** Whether a call enters the topic that has no answer yet. */
  #newer(topic: string): boolean {
    return [...this.#entering].some((e) => e.topic === topic && !e.left);
  }

  /** Leaves a topic; without a connection it is left when the broker's grace is over. */
  async leave(c: Connection | undefined, topic: string): Promise<void> {
    this.#entered.delete(topic);
    for (const e of this.#entering) if (e.topic === topic) e.left = true;
    await c?.requests.presence(topic, undefined).catch((e: TidewireError) => {
      if (e.codeName !== "connection_lost") throw e;
    });
  }

  /** There is a new connection: everything is entered again. */
  connected(c: Connection): void {
    for (const [topic, state] of this.#entered) void this.#again(c, topic, state);
  }

  /** Never rejects. */
  async #again(c: Connection, topic: string, state: Payload): Promise<void> {
    const backoff = new Backoff();
    while (!c.error && this.#entered.get(topic) === state) {
      try {
        if (!this.#newer(topic)) return void (await c.requests.presence(topic, state));
        await sleep(backoff.next(), c.signal);
      } catch (e) {
        const error = e as TidewireError;
        if (error.codeName === "rate_limited" || error.code >= 400) {
          await sleep(backoff.next(error.retry), c.signal); // it cannot just now
        } else if (this.#entered.get(topic) === state) {
          this.#entered.delete(topic);
          this.#lost({ topic, error });
        }
      }
    }
  }
}
