// Datagrams (PROTOCOL §8): those that come are handed to the streams on which
// their topic was announced; those that go wait in a short queue.

import type { Drops } from "./drops.js";
import { parseDatagram } from "./frame-buffer.js";
import * as Type from "./frame-types.js";
import { type MessageFrame, expect, parseMessage } from "./frames.js";

/** The bounds of what waits for its topic to be announced (PROTOCOL §8). */
const MAX_EARLY = 64;
const MAX_EARLY_BYTES = 64 << 10;
const EARLY_MS = 1000;

/** Datagrams that wait to be sent; beyond, the oldest is dropped. */
const MAX_UNSENT = 64;

/** A subscription's stream, as far as datagrams concern it. */
export interface DatagramSink {
  datagram(frame: MessageFrame): void;
}

interface Early {
  readonly frame: MessageFrame;
  readonly size: number;
  readonly until: number;
}

/** Hands the datagrams of a connection to its subscriptions. */
export class DatagramRouter {
  readonly #drops: Drops;
  readonly #routes = new Map<number, Set<DatagramSink>>();
  #early: Early[] = []; // in the order of `until`
  #earlyBytes = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(drops: Drops) {
    this.#drops = drops;
  }

  /** The number of a topic was announced on the stream of a subscription. */
  announce(topic: number, sink: DatagramSink): void {
    const sinks = this.#routes.get(topic);
    if (sinks) sinks.add(sink);
    else this.#routes.set(topic, new Set([sink]));
    const now = this.#early.filter((e) => e.frame.topic === topic);
    if (now.length === 0) return;
    this.#keep(this.#early.filter((e) => e.frame.topic !== topic));
    for (const e of now) sink.datagram(e.frame);
  }

  /** The number means nothing on that stream any more. */
  forget(topic: number, sink: DatagramSink): void {
    const sinks = this.#routes.get(topic);
    sinks?.delete(sink);
    if (sinks?.size === 0) this.#routes.delete(topic);
  }

  /** The stream has ended. */
  forgetAll(sink: DatagramSink): void {
    for (const topic of this.#routes.keys()) this.forget(topic, sink);
  }

  /** Takes a datagram; it may wait a little if nobody knows its topic yet. */
  dispatch(datagram: Uint8Array): void {
    let frame: MessageFrame;
    try {
      const f = parseDatagram(datagram);
      expect(f, Type.MESSAGE);
      frame = parseMessage(f);
    } catch {
      this.#drops.bad_datagram++; // no error, by PROTOCOL §8
      return;
    }
    const sinks = this.#routes.get(frame.topic);
    if (sinks) {
      for (const sink of sinks) sink.datagram(frame);
      return;
    }
    const size = datagram.length;
    if (this.#early.length === MAX_EARLY || this.#earlyBytes + size > MAX_EARLY_BYTES) {
      this.#drops.unknown_topic++;
      return;
    }
    this.#early.push({ frame, size, until: Date.now() + EARLY_MS });
    this.#earlyBytes += size;
    this.#timer ??= setTimeout(() => this.#expire(), EARLY_MS);
  }

  #keep(early: Early[]): void {
    this.#early = early;
    this.#earlyBytes = early.reduce((n, e) => n + e.size, 0);
  }

  #expire(): void {
    this.#timer = undefined;
    const now = Date.now();
    const kept = this.#early.filter((e) => e.until > now);
    this.#drops.unknown_topic += this.#early.length - kept.length;
    this.#keep(kept);
    const first = kept[0];
    if (first) this.#timer = setTimeout(() => this.#expire(), first.until - now);
  }

  /** The end of the connection. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#drops.unknown_topic += this.#early.length;
    this.#keep([]);
    this.#routes.clear();
  }
}

/** Sends datagrams; where the transport is slow only the newest are kept. */
export class DatagramSender {
  readonly #drops: Drops;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #unsent: Uint8Array[] = [];
  #running = false;
  #ended = false;

  constructor(writable: WritableStream<Uint8Array>, drops: Drops) {
    this.#writer = writable.getWriter();
    this.#drops = drops;
  }

  send(datagram: Uint8Array): void {
    if (this.#ended) {
      this.#drops.unsent++;
      return;
    }
    if (this.#unsent.length === MAX_UNSENT) {
      this.#unsent.shift();
      this.#drops.unsent++;
    }
    this.#unsent.push(datagram);
    if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    this.#running = true;
    try {
      for (let next = this.#unsent.shift(); next; next = this.#unsent.shift()) {
        await this.#writer.write(next);
      }
    } catch {
      this.#ended = true;
      this.#drops.unsent += this.#unsent.length;
      this.#unsent = [];
    }
    this.#running = false;
  }
}
