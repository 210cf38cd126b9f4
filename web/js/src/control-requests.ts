// The requests of a control stream, and their answers (PROTOCOL §5, §7).

import { onAbort } from "./abort.js";
import type { Frame } from "./envelope.js";
import { type TidewireError, fail } from "./errors.js";
import * as Type from "./frame-types.js";
import {
  type Outgoing,
  parseAck,
  parseAuthenticated,
  parseNack,
  writeAuth,
  writePublish,
} from "./frames.js";
import type { Position } from "./message.js";
import type { Payload } from "./payload.js";
import {
  type Counts,
  type Pong,
  type Request,
  type Response,
  parseCounts,
  parseDone,
  parsePong,
  parseResponse,
  writeCancel,
  writeCount,
  writePing,
  writePresence,
  writeRequest,
} from "./request-frames.js";

/** A request of the control stream that waits for its answer. */
interface Pending {
  /** The type of the frame that answers it; NACK answers all. */
  readonly type: number;
  /** Takes what the answer says. */
  resolve(answer: unknown): void;
  reject(error: TidewireError): void;
  /** Takes what comes before the answer. */
  readonly each: ((r: Response) => void) | undefined;
}

/** The error of a request whose connection ended before its answer came. */
export function unanswered(cause: TidewireError | undefined): TidewireError {
  if (cause?.codeName === "closed") return cause;
  return fail("connection_lost", "before the answer came: it may have been carried out", cause);
}

/**
 * The requests of one connection that have no answer yet. All reject with
 * `connection_lost` if it ends before.
 */
export class ControlRequests {
  readonly #send: (frame: Uint8Array) => void;
  readonly #pending = new Map<number, Pending>();
  #last = 0;
  #error: TidewireError | undefined; // why the connection has ended

  /** `send` writes a frame to the control stream. */
  constructor(send: (frame: Uint8Array) => void) {
    this.#send = send;
  }

  /**
   * Publishes one message on the control stream; `order` is its sequence in its
   * topic. Rejects with the NACK, or with `connection_lost` if the connection ends
   * before the answer, when it is unknown whether the message was published.
   */
  publish(topic: string, m: Outgoing, order: number): Promise<Position> {
    return this.#request(Type.ACK, (sequence) => writePublish(sequence, topic, m, order));
  }

  /** Replaces the token (PROTOCOL §5.3); rejects as publish does. Resolves with its expiry. */
  auth(token: string): Promise<number | undefined> {
    return this.#request(Type.AUTHENTICATED, (number) => writeAuth(number, token));
  }

  /** Enters a topic with a state, or leaves it (PROTOCOL §7.8); rejects as publish does. */
  presence(topic: string, state: Payload | undefined): Promise<Position> {
    return this.#request(Type.ACK, (number) => writePresence(number, topic, state));
  }

  /** Asks how many sessions are present in topics. */
  count(pattern: string): Promise<Counts> {
    return this.#request(Type.COUNTS, (number) => writeCount(number, pattern));
  }

  /** Asks for a sign of life, and how the subscriptions stand. */
  ping(subscriptions: boolean): Promise<Pong> {
    return this.#request(Type.PONG, (number) => writePing(number, subscriptions));
  }

  /**
   * Sends a request (PROTOCOL §7.7), and hands out the replies. Resolves when there
   * were as many as were asked for; rejects with the reason of another end. The signal
   * cancels it.
   */
  async request(r: Request, each: (r: Response) => void, signal: AbortSignal): Promise<void> {
    const number = this.#last + 1;
    const done = this.#request<void>(Type.DONE, (n) => writeRequest(n, r), each);
    const stop = onAbort(signal, () => {
      if (this.#pending.delete(number)) this.#send(writeCancel(number));
    });
    await done.finally(stop);
  }

  #request<T>(
    type: number,
    frame: (sequence: number) => Uint8Array,
    each?: (r: Response) => void,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#error) return reject(unanswered(this.#error));
      const sequence = ++this.#last;
      this.#pending.set(sequence, { type, resolve: resolve as (v: unknown) => void, reject, each });
      this.#send(frame(sequence));
    });
  }

  /** Takes a frame of the broker; false if it is no answer. */
  frame(f: Frame): boolean {
    switch (f.type) {
      case Type.ACK: {
        const { sequence, epoch, offsets } = parseAck(f);
        const [offset] = offsets;
        if (offset === undefined || offsets.length > 1) throw fail("protocol_violation");
        this.#answer(sequence, f.type).resolve({ epoch, offset });
        break;
      }
      case Type.AUTHENTICATED: {
        const { number, expires } = parseAuthenticated(f);
        this.#answer(number, f.type).resolve(expires);
        break;
      }
      case Type.PONG: {
        const pong = parsePong(f);
        this.#answer(pong.number, f.type).resolve(pong);
        break;
      }
      case Type.COUNTS: {
        const counts = parseCounts(f);
        this.#answer(counts.number, f.type).resolve(counts);
        break;
      }
      // What was cancelled may still be answered.
      case Type.RESPONSE: {
        const r = parseResponse(f);
        this.#pending.get(r.number)?.each?.(r);
        break;
      }
      case Type.DONE: {
        const { number, error } = parseDone(f);
        const request = this.#pending.get(number);
        if (request?.type !== f.type) break;
        this.#pending.delete(number);
        if (error.code) request.reject(error);
        else request.resolve(undefined);
        break;
      }
      case Type.NACK: {
        const n = parseNack(f);
        this.#answer(n.sequence).reject(n.error);
        break;
      }
      default:
        return false;
    }
    return true;
  }

  #answer(sequence: number, type?: number): Pending {
    const request = this.#pending.get(sequence);
    if (!request || (type ?? request.type) !== request.type) {
      throw fail("protocol_violation", `answer to ${sequence}`);
    }
    this.#pending.delete(sequence);
    return request;
  }

  /** The end of the connection. */
  end(error: TidewireError): void {
    this.#error = error;
    for (const r of this.#pending.values()) r.reject(unanswered(error));
    this.#pending.clear();
  }
}
