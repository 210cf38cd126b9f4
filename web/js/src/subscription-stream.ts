import type { Connection } from "./connection.js";
import type { Field, Frame } from "./envelope.js";
import { type TidewireError, fail } from "./errors.js";
import * as Type from "./frame-types.js";
import {
  FLAG_NO_ECHO,
  FLAG_PRESENCE,
  type MessageFrame,
  type Subscribed,
  expect,
  parseGap,
  parseMessage,
  parseSkip,
  parseSubscribed,
  parseTopic,
  unexpected,
  writeFlow,
  writePriority,
  writeSubscribe,
} from "./frames.js";
import type { Position } from "./message.js";
import type { ItemQueue } from "./queue.js";
import { type Announced, Sequence, type SequenceSink, type TopicState } from "./sequence.js";
import type { StreamWriter } from "./stream-writer.js";

/** What a stream needs of its subscription, which outlives it. */
export interface StreamOwner {
  readonly pattern: string;
  /** The number of the class (PROTOCOL §6.1). */
  readonly classNumber: number;
  /** The priority now. */
  readonly priority: number;
  /** The bytes that may wait for the application. */
  readonly window: number;
  /** A sum of the flags of SUBSCRIBE. */
  readonly flags: number;
  readonly filter: Field;
  readonly group: string | undefined;
  /** Where what comes waits for the application. */
  readonly queue: ItemQueue;
  /** Where to begin, with times that are counted from `base`. */
  from(base: number): Field;
  /** The stream that it has from now on. */
  attach(stream: SubscriptionStream): void;
  /** The subscription stands. */
  subscribed(s: Subscribed, connection: Connection): void;
  /** A topic was announced. Returns the offset up to which it is known what comes. */
  announced(t: Announced): number;
  /** A topic was forgotten: there are too many. */
  forgot(t: TopicState): void;
  /**
   * The stream has ended: with the broker's END, whose code may be 0, or a fault;
   * without an error with its connection. The topics tell how far they had come.
   */
  streamEnded(why: TidewireError | undefined, topics: Iterable<TopicState>): void;
}

/** What the names of presence topics begin with on the wire (PROTOCOL §7.8). */
const PRESENCE = "$presence.";

/** One subscription on one connection: its stream, its credit, its topics. */
export class SubscriptionStream {
  /** The number of the subscription on its connection. */
  readonly number: number;
  readonly #connection: Connection;
  readonly #owner: StreamOwner;
  readonly #sequence: Sequence;
  #writer: StreamWriter | undefined;
  #subscribed = false; // SUBSCRIBED has come: the broker knows the number
  #received = 0; // bytes of MESSAGE frames, since the beginning of the stream
  #finished = 0; // of them what the application of a group's member has finished
  #limit: number; // of the credit, from the same beginning
  #priority: number; // that the broker knows
  #closing = false;

  constructor(connection: Connection, number: number, owner: StreamOwner) {
    this.#connection = connection;
    this.number = number;
    this.#owner = owner;
    const grouped = owner.group !== undefined;
    this.#sequence = new Sequence(
      owner.classNumber,
      grouped ? this.#groupSink() : owner.queue,
      !grouped,
    );
    this.#limit = Math.max(1, this.#window - owner.queue.pending);
    this.#priority = owner.priority;
  }

  /** Puts messages into the queue that tell when the application has finished them. */
  #groupSink(): SequenceSink {
    const { queue } = this.#owner;
    return {
      put: (a) => queue.put({ ...a, done: () => this.#finish(a.cost) }),
      drop: (a, reason) => queue.drop(a, reason),
      gap: (g) => queue.gap(g),
      unknown: (cost) => {
        this.#finish(cost);
        queue.unknown(cost);
      },
      synced: () => {},
    };
  }

  /** The most credit that the broker takes, once WELCOME has told it. */
  get #most(): number {
    return this.#connection.welcome?.limits.subscriptionCredit || Infinity;
  }

  /** The broker may use a lower credit than it is given (PROTOCOL §10). */
  get #window(): number {
    return Math.min(this.#owner.window, this.#most);
  }

  /** How far it has come, of an exact pattern once that is known. */
  get position(): Position | undefined {
    const [t] = this.#sequence.topics;
    return t && { epoch: t.epoch, offset: t.last };
  }

  /** Whether the broker has confirmed it. */
  get live(): boolean {
    return this.#subscribed && !this.#closing;
  }

  /** Opens the stream and reads it to its end; never rejects. */
  async run(): Promise<void> {
    const c = this.#connection;
    const o = this.#owner;
    const end = await c.runStream(
      (writer) => {
        this.#writer = writer;
        writer.write(
          writeSubscribe({
            number: this.number,
            pattern: o.pattern,
            class: o.classNumber,
            priority: this.#priority,
            credit: this.#limit,
            from: o.from(c.base),
            flags: o.flags,
            filter: o.filter,
            group: o.group,
          }),
        );
        if (this.#closing) void writer.close();
      },
      (f) => this.#closing || this.#frame(f),
    );
    c.router.forgetAll(this);
    if (!this.#closing) this.#ended(end?.error);
  }

  #ended(why: TidewireError | undefined): void {
    this.#closing = true;
    this.#owner.streamEnded(why, this.#sequence.topics);
    this.#sequence.end();
  }

  #frame(f: Frame): void {
    if (!this.#subscribed) {
      expect(f, Type.SUBSCRIBED);
      const s = parseSubscribed(f);
      this.#subscribed = true;
      // SUBSCRIBE may have gone with HELLO, before the broker's limit was known.
      this.#limit = Math.min(this.#limit, this.#most);
      this.#owner.subscribed(s, this.#connection);
      if (s.topic) this.#announce({ ...s, name: this.#owner.pattern });
      this.flow();
      this.prioritize();
      return;
    }
    switch (f.type) {
      case Type.MESSAGE:
        return this.#message(parseMessage(f), f.size);
      case Type.TOPIC: {
        const t = parseTopic(f);
        const prefixed = this.#owner.flags & FLAG_PRESENCE && t.name.startsWith(PRESENCE);
        const name = prefixed ? t.name.slice(PRESENCE.length) : t.name;
        return this.#announce({ ...t, name });
      }
      case Type.GAP:
        return this.#sequence.gap(parseGap(f));
      case Type.SKIP:
        return this.#sequence.skip(parseSkip(f));
      default:
        throw unexpected(f);
    }
  }

  #announce(t: Announced): void {
    const known = this.#sequence.knows(t.name) ? undefined : this.#owner.announced(t);
    const before = this.#sequence.announce(t, this.#connection.base, known);
    if (before) {
      this.#connection.router.forget(before.number, this);
      this.#owner.forgot(before);
    }
    this.#connection.router.announce(t.topic, this);
  }

  #message(frame: MessageFrame, size: number): void {
    if (this.#received >= this.#limit) {
      throw fail("credit_exceeded", "by the broker");
    }
    this.#received += size;
    this.#owner.queue.pending += size;
    this.#sequence.message(frame, size);
  }

  /** A datagram of a topic that was announced here (PROTOCOL §8). */
  datagram(frame: MessageFrame): void {
    const { flags, filter, group } = this.#owner;
    if (this.#closing || filter || group) return; // these get everything by stream
    const own = flags & FLAG_NO_ECHO && this.#connection.isOwn(frame.publisher);
    this.#sequence.datagram(frame, !!own);
  }

  /**
   * Gives the broker new credit (PROTOCOL §6.4) when the application has taken
   * half of it. FLOW for a subscription that the broker does not know yet would
   * be ignored, so none goes before SUBSCRIBED.
   */
  flow(): void {
    if (!this.live || this.#owner.group) return;
    const window = this.#window;
    const limit = this.#received + window - this.#owner.queue.pending;
    if (limit - this.#limit < window / 2) return;
    this.#grant(limit);
  }

  /** Tells that the application has finished a message of a group (PROTOCOL §5.5). */
  #finish(cost: number): void {
    this.#finished += cost;
    if (this.live) this.#grant(this.#window + this.#finished);
  }

  #grant(limit: number): void {
    this.#limit = Math.max(this.#limit, limit);
    this.#connection.control(writeFlow(this.number, limit));
  }

  /** Tells the broker the owner's priority, if it knows another one. */
  prioritize(): void {
    const { priority } = this.#owner;
    if (!this.live || priority === this.#priority) return;
    this.#priority = priority;
    this.#connection.control(writePriority(this.number, priority));
  }

  /** STREAM_END told why the stream was reset (PROTOCOL §5.6). */
  reset(why: TidewireError): void {
    if (this.#closing) return;
    void this.#writer?.close();
    this.#ended(why);
  }

  /** Unsubscribes: FIN up, and what still comes is ignored (PROTOCOL §6.1). */
  close(): void {
    if (this.#closing) return;
    this.#closing = true;
    void this.#writer?.close();
  }
}
