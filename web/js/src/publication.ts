import type { Connection } from "./connection.js";
import type { Frame } from "./envelope.js";
import { type TidewireError, fail } from "./errors.js";
import * as Type from "./frame-types.js";
import {
  type Outgoing,
  parseAck,
  parseNack,
  unexpected,
  writePublication,
  writePublish,
} from "./frames.js";
import type { Position } from "./message.js";
import type { StreamWriter } from "./stream-writer.js";

/** A message that waits to be acknowledged. */
export interface Publishing extends Outgoing {
  /** When it was published, and so its time to live begins. */
  readonly since: number;
  /** Its number among those of the topic, once it was sent (PROTOCOL §7.6). */
  sequence: number;
  /** When it was sent first; 0: it was not. */
  sent: number;
  /** The same by the clock that nobody sets. */
  sentTick: number;
  /** Whether it was sent and got no answer: it may have been published. */
  again: boolean;
  /** The client id under which it was sent. */
  client: string;
  /** Whether its caller waits no more. */
  settled: boolean;
  resolve(p: Position): void;
  reject(error: TidewireError): void;
}

/** What is left of a message's time to live; undefined if it has none. */
export function timeLeft(m: Publishing): number | undefined {
  return m.ttl && Math.max(1, m.ttl - (Date.now() - m.since));
}

/** The error of a message that was sent, and may have been published or not. */
export function outcomeUnknown(cause: TidewireError | undefined): TidewireError {
  if (cause?.codeName === "closed") return cause;
  const reason = "the message may have been published or not; one with an id can be published again without coming twice";
  return fail("connection_lost", reason, cause);
}

/**
 * How long ago a message was sent first; undefined if it was not sent before. The wall
 * clock may have been set back, and the other one may stand still while the device sleeps.
 */
export function ageOf(m: Publishing): number | undefined {
  if (!m.again) return undefined;
  return Math.max(Date.now() - m.sent, Math.floor(performance.now() - m.sentTick));
}

/** What a publication tells the publisher of its topic. */
export interface PublicationOwner {
  /** It can send: it was opened, or credit came. */
  sendable(): void;
  /** Nothing that was sent waits for an answer any more. */
  idle(): void;
  /**
   * The stream has ended: with an error that the topic's other messages would meet
   * as well, or without one, cleanly or with the connection. What was sent and has no
   * answer is given back, in order.
   */
  ended(error: TidewireError | undefined, unanswered: Publishing[]): void;
}

/** A publication stream: messages up, acknowledgements and credit down (PROTOCOL §7). */
export class Publication {
  readonly topic: string;
  readonly #connection: Connection;
  readonly #owner: PublicationOwner;
  readonly #inFlight = new Map<number, Publishing>();
  #writer: StreamWriter | undefined;
  #next: number; // the sequence of the next message
  #sent = 0; // bytes of PUBLISH frames since the beginning of the stream
  #limit: number; // of the credit, from the same beginning
  #closing = false;

  /** `first` is the sequence of the first message that it will send. */
  constructor(connection: Connection, topic: string, first: number, owner: PublicationOwner) {
    this.#connection = connection;
    this.topic = topic;
    this.#next = first;
    this.#owner = owner;
    this.#limit = connection.welcome?.limits.publicationCredit ?? 0;
  }

  /** The sequence that the next message must have. */
  get next(): number {
    return this.#next;
  }

  /** Whether FIN was sent: no message can follow. */
  get closing(): boolean {
    return this.#closing;
  }

  /** Whether nothing that was sent waits for its answer. */
  get isIdle(): boolean {
    return this.#inFlight.size === 0;
  }

  /** Whether a message can be sent now (PROTOCOL §7.3). */
  get isSendable(): boolean {
    return this.#writer !== undefined && !this.#closing && this.#sent < this.#limit;
  }

  /** Opens the stream and reads it to its end; never rejects. */
  async run(): Promise<void> {
    const c = this.#connection;
    const end = await c.runStream(
      (writer) => {
        this.#writer = writer;
        writer.write(writePublication(this.topic, c.welcome?.client, this.#next));
        this.#owner.sendable();
        // With nothing to send it would have no answer, and would be in the way.
        if (this.#closing || this.isIdle) this.close();
      },
      (f) => this.#frame(f),
    );
    this.#closing = true;
    const why = end?.error;
    // A broker that ends cleanly has answered everything.
    if (why?.code === 0) for (const m of this.#inFlight.values()) m.reject(outcomeUnknown(why));
    // A broker that stops ends its publications before the session, and a stream that
    // broke is only a stream.
    const passing = ["ok", "shutting_down", "connection_lost"];
    const fatal = why && !passing.includes(why.codeName) ? why : undefined;
    this.#owner.ended(fatal, [...this.#inFlight.values()]);
  }

  #frame(f: Frame): void {
    switch (f.type) {
      case Type.ACK: {
        const a = parseAck(f);
        for (const [i, offset] of a.offsets.entries()) {
          this.#answer(a.sequence + i).resolve({ epoch: a.epoch, offset });
        }
        return this.#answered(a.limit);
      }
      case Type.NACK: {
        const n = parseNack(f);
        this.#answer(n.sequence).reject(n.error);
        return this.#answered(n.limit);
      }
      default:
        throw unexpected(f);
    }
  }

  #answer(sequence: number): Publishing {
    const m = this.#inFlight.get(sequence);
    if (!m) throw fail("protocol_violation", `answer to ${sequence}`);
    this.#inFlight.delete(sequence);
    return m;
  }

  #answered(limit = 0): void {
    const blocked = !this.isSendable;
    this.#limit = Math.max(this.#limit, limit);
    if (blocked && this.isSendable) this.#owner.sendable();
    if (this.isIdle) this.#owner.idle();
  }

  /** Sends a message; isSendable must hold, and its sequence be `next`. */
  send(m: Publishing): void {
    const sequence = this.#next++;
    const frame = writePublish(sequence, undefined, { ...m, ttl: timeLeft(m), age: ageOf(m) });
    this.#sent += frame.length;
    this.#inFlight.set(sequence, m);
    this.#writer?.write(frame);
  }

  /** FIN: the broker answers what is open, and then ends the stream. */
  close(): void {
    this.#closing = true;
    void this.#writer?.close();
  }
}
