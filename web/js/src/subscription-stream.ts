import type { Connection } from "./connection.js";
import type { Frame } from "./envelope.js";
import { type TidewireError, fail } from "./errors.js";
import * as Type from "./frame-types.js";
import {
  type MessageFrame,
  expect,
  parseGap,
  parseMessage,
  parseSkip,
  parseSubscribed,
  parseTopic,
  unexpected,
  writeFlow,
  writeSubscribe,
} from "./frames.js";
import type { Position } from "./message.js";
import type { ItemQueue } from "./queue.js";
import { Sequence } from "./sequence.js";
import { StreamWriter } from "./stream-writer.js";

/** What a stream needs of its subscription, which outlives it. */
export interface StreamOwner {
  readonly pattern: string;
  /** The number of the class (PROTOCOL §6.1). */
  readonly classNumber: number;
  readonly priority: number;
  /** The bytes that may wait for the application. */
  readonly window: number;
  /** Where what comes waits for the application. */
  readonly queue: ItemQueue;
  /** The stream that it has from now on. */
  attach(stream: SubscriptionStream): void;
  /** The subscription stands, for an exact pattern at a position. */
  subscribed(at: Position | undefined): void;
  /**
   * The stream has ended: with the broker's END, whose code may be 0, or a fault;
   * without an error with its connection. For an exact pattern up to a position.
   */
  streamEnded(why: TidewireError | undefined, at: Position | undefined): void;
}

const CLASS_RELIABLE = 0;

/** One subscription on one connection: its stream, its credit, its topics. */
export class SubscriptionStream {
  /** The number of the subscription on its connection. */
  readonly number: number;
  readonly #connection: Connection;
  readonly #owner: StreamOwner;
  readonly #sequence: Sequence;
  #writer: StreamWriter | undefined;
  #topic = 0; // the number of an exact pattern's topic
  #subscribed = false; // SUBSCRIBED has come: the broker knows the number
  #received = 0; // bytes of MESSAGE frames, since the beginning of the stream
  #limit: number; // of the credit, from the same beginning
  #closing = false;

  constructor(connection: Connection, number: number, owner: StreamOwner) {
    this.#connection = connection;
    this.number = number;
    this.#owner = owner;
    this.#sequence = new Sequence(owner.classNumber === CLASS_RELIABLE, owner.queue);
    this.#limit = Math.max(1, this.#window - owner.queue.waiting);
  }

  /** The broker may use a lower credit than it is given (PROTOCOL §10). */
  get #window(): number {
    const most = this.#connection.welcome?.limits.subscriptionCredit;
    return Math.max(1, Math.min(this.#owner.window, most ?? Infinity));
  }

  /** Opens the stream and reads it to its end; never rejects. */
  async run(): Promise<void> {
    const c = this.#connection;
    const o = this.#owner;
    const why = await c.runStream(
      (writer) => {
        this.#writer = writer;
        writer.write(
          writeSubscribe(this.number, o.pattern, o.classNumber, o.priority, this.#limit),
        );
        if (this.#closing) void writer.close();
      },
      (f) => this.#closing || this.#frame(f),
    );
    c.router.forgetAll(this);
    if (!this.#closing) this.#ended(why);
  }

  #ended(why: TidewireError | undefined): void {
    this.#owner.streamEnded(why, this.#sequence.position(this.#topic));
    this.#sequence.end();
  }

  #frame(f: Frame): void {
    if (!this.#subscribed) {
      expect(f, Type.SUBSCRIBED);
      const s = parseSubscribed(f);
      this.#subscribed = true;
      this.#topic = s.topic;
      this.#owner.subscribed(s.topic ? { epoch: s.epoch, offset: s.offset } : undefined);
      if (s.topic) this.#announce({ ...s, name: this.#owner.pattern });
      this.flow();
      return;
    }
    switch (f.type) {
      case Type.MESSAGE:
        return this.#message(parseMessage(f), f.size);
      case Type.TOPIC:
        return this.#announce(parseTopic(f));
      case Type.GAP:
        return this.#sequence.gap(parseGap(f));
      case Type.SKIP:
        return this.#sequence.skip(parseSkip(f));
      default:
        throw unexpected(f);
    }
  }

  #announce(t: { topic: number; name: string; epoch: number; offset: number }): void {
    const before = this.#sequence.announce(t, this.#connection.base);
    if (before !== undefined) this.#connection.router.forget(before, this);
    this.#connection.router.announce(t.topic, this);
  }

  #message(frame: MessageFrame, size: number): void {
    if (this.#received >= this.#limit) {
      throw fail("credit_exceeded", "by the broker");
    }
    this.#received += size;
    this.#owner.queue.waiting += size;
    this.#sequence.message(frame, size);
  }

  /** A datagram of a topic that was announced here. */
  datagram(frame: MessageFrame): void {
    if (!this.#closing) this.#sequence.datagram(frame);
  }

  /**
   * Gives the broker new credit (PROTOCOL §6.4) when the application has taken
   * half of it. FLOW for a subscription that the broker does not know yet would
   * be ignored, so none goes before SUBSCRIBED.
   */
  flow(): void {
    if (!this.#subscribed || this.#closing) return;
    const window = this.#window;
    const limit = this.#received + window - this.#owner.queue.waiting;
    if (limit - this.#limit < window / 2) return;
    this.#limit = limit;
    this.#connection.control(writeFlow(this.number, limit));
  }

  /** STREAM_END told why the stream was reset (PROTOCOL §5.6). */
  reset(why: TidewireError): void {
    if (this.#closing) return;
    this.close();
    this.#ended(why);
  }

  /** Unsubscribes: FIN up, and what still comes is ignored (PROTOCOL §6.1). */
  close(): void {
    if (this.#closing) return;
    this.#closing = true;
    void this.#writer?.close();
  }
}

