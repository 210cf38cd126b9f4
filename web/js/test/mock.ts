// A scripted broker behind a transport that behaves as browsers' do where it
// matters: it copies what it is given, cuts it at odd places, and breaks all
// streams when the session ends. Tests read as "want this, send that".

import { deferred } from "../src/deferred.js";
import type { Frame } from "../src/envelope.js";
import { FrameBuffer, parseDatagram } from "../src/frame-buffer.js";
import * as Type from "../src/frame-types.js";
import type { MessageFrame, Welcome } from "../src/frames.js";
import type {
  Transport,
  TransportCloseInfo,
  TransportConstructor,
  TransportDatagrams,
  TransportOptions,
  TransportStream,
} from "../src/transport.js";
import * as frames from "./broker-frames.js";
import { Mailbox } from "./mailbox.js";

/** Sizes of the chunks that a stream is cut into, in turn. */
const CUTS = [1, 2, 5, 3, 64, 1, 1000];

const MAX_FRAME = 1 << 20;

class Broken extends Error {
  override name = "WebTransportError";
}

/** One stream, seen from the broker. */
export class MockStream implements TransportStream {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  readonly frames = new Mailbox<Frame>();
  /** Resolves at the client's FIN. */
  readonly fin: Promise<void>;
  /** Resolves when the client reads no more. */
  readonly cancelled: Promise<void>;
  /** How many writes the client has made. */
  writes = 0;
  #down!: ReadableStreamDefaultController<Uint8Array>;
  #ended = false;
  #cut = 0;
  #broken: Broken | undefined;

  constructor() {
    const fin = deferred<void>();
    const cancelled = deferred<void>();
    this.fin = fin.promise;
    this.cancelled = cancelled.promise;
    this.readable = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#down = controller;
      },
      cancel: () => {
        this.#ended = true;
        cancelled.resolve();
      },
    });
    const buffer = new FrameBuffer();
    this.writable = new WritableStream<Uint8Array>({
      write: (chunk) => {
        if (this.#broken) throw this.#broken;
        this.writes++;
        buffer.push(chunk.slice());
        for (let f = buffer.next(MAX_FRAME); f; f = buffer.next(MAX_FRAME)) this.frames.put(f);
      },
      close: () => fin.resolve(),
    });
  }

  /** Sends frames down, cut into pieces. */
  send(...list: Uint8Array[]): void {
    this.raw(...list);
  }

  /** Sends bytes down, cut into pieces. */
  raw(...list: Uint8Array[]): void {
    if (this.#ended) return;
    const all = new Uint8Array(list.flatMap((b) => [...b]));
    for (let at = 0; at < all.length; ) {
      const size = CUTS[this.#cut++ % CUTS.length] as number;
      this.#down.enqueue(all.slice(at, at + size));
      at += size;
    }
  }

  /** Sends much down, in one piece: cut up it would take seconds. */
  whole(bytes: Uint8Array): void {
    if (!this.#ended) this.#down.enqueue(bytes.slice());
  }

  /** Sends FIN. */
  close(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#down.close();
  }

  /** Ends the stream as PROTOCOL §5.7 wants it. */
  end(code: number, reason = "", retry?: number): void {
    this.send(frames.writeEnd({ error: { code, reason, retry } }));
    this.close();
  }

  /** Breaks the stream, as a reset or the end of the session does. */
  break(): void {
    this.#broken = new Broken("The stream broke.");
    if (this.#ended) return;
    this.#ended = true;
    this.#down.error(this.#broken);
  }

  /** Waits for the next frame, which must be of this type. */
  async want(type: number): Promise<Frame> {
    const f = await this.frames.next();
    if (f.type !== type) throw new Error(`frame of type ${f.type}, want ${type}`);
    return f;
  }
}

/** What a session does that is not the default. */
export interface MockOptions {
  /** Whether there are datagrams; true by default. */
  datagrams?: boolean;
  maxDatagramSize?: number;
  /** Whether FIN on the control stream is answered by END; true by default. */
  answersFin?: boolean;
  /** `ready` rejects. */
  refused?: boolean;
  /** `ready` never settles. */
  silent?: boolean;
}

export const CLIENT = new Uint8Array(16).fill(0xc1);
export const CLIENT_ID = "c1c1c1c1-c1c1-c1c1-c1c1-c1c1c1c1c1c1";
export const BASE = 1_790_000_000_000;

export const welcome: Welcome = {
  version: 1,
  capabilities: 1,
  client: CLIENT,
  secret: new Uint8Array([1, 2, 3]),
  limits: {
    payload: 256 << 10,
    subscriptions: 1024,
    publications: 256,
    publicationCredit: 256 << 10,
    subscriptionCredit: 1 << 20,
  },
  base: BASE,
  expires: undefined,
  server: "mock",
};

/** One session, seen from the broker. */
export class MockSession implements Transport {
  readonly url: string;
  readonly options: TransportOptions | undefined;
  readonly ready: Promise<void>;
  readonly closed: Promise<TransportCloseInfo | undefined>;
  readonly datagrams?: TransportDatagrams;
  /** Streams in the order in which the client opened them. */
  readonly streams = new Mailbox<MockStream>();
  readonly datagramsUp = new Mailbox<Frame>();
  /** Resolves with what the client closed the session with. */
  readonly closedByClient: Promise<TransportCloseInfo>;
  #opened: MockStream[] = [];
  #datagramsDown: ReadableStreamDefaultController<Uint8Array> | undefined;
  #closed = deferred<TransportCloseInfo | undefined>();
  #closedByClient = deferred<TransportCloseInfo>();
  #over = false;
  readonly #answersFin: boolean;
  control!: MockStream;

  constructor(url: string, options: TransportOptions | undefined, mock: MockOptions) {
    this.url = url;
    this.options = options;
    this.#answersFin = mock.answersFin ?? true;
    this.closed = this.#closed.promise;
    this.closedByClient = this.#closedByClient.promise;
    const ready = deferred<void>();
    this.ready = ready.promise;
    if (mock.refused) {
      ready.reject(new Broken("Opening handshake failed."));
      this.#closed.reject(new Broken("Opening handshake failed."));
      this.#over = true;
    } else if (!mock.silent) ready.resolve();
    if (mock.datagrams !== false) {
      this.datagrams = {
        maxDatagramSize: mock.maxDatagramSize ?? 1200,
        readable: new ReadableStream({
          start: (controller) => {
            this.#datagramsDown = controller;
          },
        }),
        writable: new WritableStream({
          write: (chunk) => this.datagramsUp.put(parseDatagram(chunk.slice())),
        }),
      };
    }
  }

  async createBidirectionalStream(): Promise<TransportStream> {
    await this.ready;
    if (this.#over) throw new Broken("The session is closed.");
    const stream = new MockStream();
    this.#opened.push(stream);
    this.streams.put(stream);
    return stream;
  }

  #end(): void {
    this.#over = true;
    for (const s of this.#opened) s.break();
    this.#datagramsDown?.error(new Broken("The session is closed."));
    this.#datagramsDown = undefined;
  }

  /** By the client. */
  close(info: TransportCloseInfo = {}): void {
    this.#closedByClient.resolve(info);
    this.#closed.resolve(info);
    this.#end();
  }

  /** The broker closes the session. */
  shut(closeCode: number, reason = ""): void {
    this.#closed.resolve({ closeCode, reason });
    this.#end();
  }

  /** The network is gone. */
  lose(): void {
    this.#closed.reject(new Broken("Connection lost."));
    this.#end();
  }

  /** Takes the control stream and its HELLO. */
  async hello(): Promise<frames.ParsedHello> {
    const control = await this.streams.next();
    this.control = control;
    if (this.#answersFin) void control.fin.then(() => control.end(0));
    return frames.parseHello(await this.control.want(Type.HELLO));
  }

  /** Answers HELLO. */
  welcome(w: Partial<Welcome> = {}): void {
    this.control.send(frames.writeWelcome({ ...welcome, ...w }));
  }

  /** Refuses HELLO, or ends the session. */
  refuse(code: number, reason = "", retry?: number): void {
    this.control.end(code, reason, retry);
  }

  /** Takes the next stream, which must be a subscription. */
  async subscription(): Promise<{ stream: MockStream; subscribe: frames.ParsedSubscribe }> {
    const stream = await this.streams.next();
    return { stream, subscribe: frames.parseSubscribe(await stream.want(Type.SUBSCRIBE)) };
  }

  /** Takes the next stream, which must be a publication. */
  async publication(): Promise<{ stream: MockStream; publication: frames.ParsedPublication }> {
    const stream = await this.streams.next();
    return { stream, publication: frames.parsePublication(await stream.want(Type.PUBLICATION)) };
  }

  datagram(b: Uint8Array): void {
    this.#datagramsDown?.enqueue(b.slice());
  }
}

/** Where clients connect to. */
export class MockBroker {
  readonly WebTransport: TransportConstructor;
  readonly #sessions = new Mailbox<MockSession>();

  /** `options` may change between attempts. */
  constructor(options: MockOptions = {}) {
    const sessions = this.#sessions;
    this.WebTransport = class extends MockSession {
      constructor(url: string, transportOptions?: TransportOptions) {
        super(url, transportOptions, options);
        sessions.put(this);
      }
    };
  }

  /** Takes the next session. */
  session(): Promise<MockSession> {
    return this.#sessions.next();
  }

  /** How many attempts were not looked at. */
  get waiting(): number {
    return this.#sessions.size;
  }
}

/** A reliable message of text, unless `m` says otherwise. */
export function message(m: Partial<MessageFrame> & { offset: number }): Uint8Array {
  return frames.writeMessage(messageFrame(m));
}

export function messageFrame(m: Partial<MessageFrame> & { offset: number }): MessageFrame {
  return {
    topic: 1,
    previous: 1,
    time: 0,
    encoding: 3,
    data: new TextEncoder().encode(String(m.offset)),
    publisher: undefined,
    reliable: undefined,
    key: "",
    expires: undefined,
    headers: [],
    reply: undefined,
    retain: false,
    ...m,
  };
}
