import { abortable, sleep } from "./abort.js";
import { ControlRequests } from "./control-requests.js";
import { DatagramRouter, DatagramSender } from "./datagrams.js";
import { deferred } from "./deferred.js";
import type { Drops } from "./drops.js";
import type { Frame } from "./envelope.js";
import { TidewireError, fail, mapped, remote } from "./errors.js";
import { readFrames } from "./frame-stream.js";
import * as Type from "./frame-types.js";
import {
  CAP_DATAGRAMS,
  type End,
  type Hello,
  type NoticeFrame,
  VERSION,
  type Welcome,
  expect,
  parseEnd,
  parseNotice,
  parseStreamEnd,
  parseWelcome,
  unexpected,
  writeHello,
} from "./frames.js";
import { Gate } from "./gate.js";
import {
  DEFAULT_PAYLOAD,
  FRAME_OVERHEAD,
  MAX_EARLY_STREAMS,
  MAX_FIRST_FRAME,
  MAX_PAGES,
} from "./limits.js";
import { Liveness } from "./liveness.js";
import { formatId } from "./message.js";
import type { Payload } from "./payload.js";
import { StreamWriter } from "./stream-writer.js";
import { type StreamOwner, SubscriptionStream } from "./subscription-stream.js";
import type {
  Transport,
  TransportCloseInfo,
  TransportStats,
  TransportStream,
} from "./transport.js";

/** How long the end of the control stream and that of the transport may be apart. */
const SETTLE_MS = 250;
/** How long the broker may take to answer the end of the session. */
const CLOSE_MS = 1000;
/** How long STREAM_END may come after the reset of which it tells. */
const RESET_MS = 5000;
/** Datagrams that the browser may hold for this client; it reads them at once. */
const MAX_INCOMING_DATAGRAMS = 256;
/** What may wait on the control stream before lossy messages are dropped. */
const MAX_CONTROL_BACKLOG = 256 << 10;

/** What a connection needs of its client. */
export interface ConnectionHost {
  readonly drops: Drops;
  /** After so many milliseconds of silence it asks, and waits for as many. */
  readonly pingAfter: number;
  readonly pingTimeout: number;
  notice(n: NoticeFrame): void;
}

/**
 * The life of one transport: the session on it, its control stream, its
 * datagrams and the streams of subscriptions. It ends once, with an error that
 * tells why; a new connection is a new Connection.
 */
export class Connection {
  readonly router: DatagramRouter;
  readonly requests = new ControlRequests((frame) => this.control(frame));
  /** Lets so many pages of history through as the broker takes at a time. */
  readonly pages = new Gate(MAX_PAGES);

  readonly #transport: Transport;
  readonly #host: ConnectionHost;
  readonly #lifetime = new AbortController();
  readonly #streams = new Map<number, SubscriptionStream>();
  readonly #welcomed = deferred<Welcome>();
  readonly #closed = deferred<TidewireError>();
  #welcome: Welcome | undefined;
  #id = "";
  #liveness: Liveness | undefined;
  #error: TidewireError | undefined;
  #closing = false;
  #control: StreamWriter | undefined;
  #datagrams: DatagramSender | undefined;
  /** Streams that have no answer yet: before WELCOME the broker takes no more (§10). */
  readonly #opening = new Gate(MAX_EARLY_STREAMS - 1);
  #lastStream = 0;

  constructor(transport: Transport, host: ConnectionHost) {
    this.#transport = transport;
    this.#host = host;
    this.router = new DatagramRouter(host.drops);
  }

  /** Resolves with the reason when the connection has ended; never rejects. */
  get closed(): Promise<TidewireError> {
    return this.#closed.promise;
  }

  /** What the broker told in WELCOME, once it has come. */
  get welcome(): Welcome | undefined {
    return this.#welcome;
  }

  /** Why it has ended; undefined while it has not. */
  get error(): TidewireError | undefined {
    return this.#error;
  }

  /** Aborted when the connection ends. */
  get signal(): AbortSignal {
    return this.#lifetime.signal;
  }

  /** The base of the broker's times; known once WELCOME has come. */
  get base(): number {
    return this.#welcome?.base ?? 0;
  }

  /** The client id, once WELCOME has come. */
  get id(): string {
    return this.#id;
  }

  /** Whether an id is that of this client. */
  isOwn(publisher: Uint8Array | undefined): boolean {
    const own = this.#welcome?.client;
    return own !== undefined && publisher !== undefined && own.every((b, i) => b === publisher[i]);
  }

  /** The most bytes of a frame's body, on streams of subscriptions and publications. */
  get #maxFrame(): number {
    return (this.#welcome?.limits.payload ?? DEFAULT_PAYLOAD) + FRAME_OVERHEAD;
  }

  /**
   * Opens the session. The subscriptions in `early` are sent together with HELLO,
   * as many as may be (PROTOCOL §5). Resolves with WELCOME, else rejects with
   * the reason of the connection's end.
   */
  async open(hello: Omit<Hello, "capabilities">, early: StreamOwner[]): Promise<Welcome> {
    try {
      await abortable(this.#transport.ready, this.signal);
      const { readable, writable } = await this.#openStream();
      const { datagrams } = this.#transport;
      this.#control = new StreamWriter(writable);
      this.#control.write(writeHello({ ...hello, capabilities: datagrams ? CAP_DATAGRAMS : 0 }));
      for (const owner of early) this.subscribe(owner);
      void this.#watch(readable.getReader());
      if (datagrams) {
        // By default browsers keep one, and drop what comes in the same moment. The
        // second name is the older one of the same.
        const incomingMaxBufferedDatagrams = MAX_INCOMING_DATAGRAMS;
        const incomingHighWaterMark = MAX_INCOMING_DATAGRAMS;
        Object.assign(datagrams, { incomingMaxBufferedDatagrams, incomingHighWaterMark });
        void this.#readDatagrams(datagrams.readable.getReader());
      }
    } catch (cause) {
      // Browsers do not tell pages why.
      this.fail(mapped("connect_failed", cause, " (no broker there, another path or certificate, or a refused origin)"));
    }
    return this.#welcomed.promise;
  }

  /** Opens a stream. Rejects when the connection has ended, whatever became of the transport. */
  async #openStream(): Promise<TransportStream> {
    if (this.#error) throw this.#error;
    return abortable(this.#transport.createBidirectionalStream(), this.signal);
  }

  /**
   * Opens a stream, lets `opened` write to it, and hands the frames that come to
   * `frame`, until the stream ends. It resolves with why: the broker's END, whose
   * code may be 0, or the fault that was found; undefined if it ended with the
   * connection. Never rejects.
   */
  async runStream(
    opened: (writer: StreamWriter) => void,
    frame: (f: Frame) => void,
  ): Promise<End | undefined> {
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
    let writer: StreamWriter | undefined;
    let end: End | undefined;
    let answered = false;
    await this.#opening.enter();
    try {
      const { readable, writable } = await this.#openStream();
      reader = readable.getReader();
      writer = new StreamWriter(writable);
      opened(writer);
      // Frames are understood with what WELCOME told. It was sent before them, so
      // waiting for it cannot keep it from coming.
      await this.#welcomed.promise;
      await readFrames(
        reader,
        () => this.#maxFrame,
        (f) => {
          if (!answered) this.#opening.leave();
          answered = true;
          if (f.type === Type.END) end ??= parseEnd(f);
          else if (!end) frame(f);
        },
        () => this.#liveness?.heard(),
      );
      return end ?? failed(fail("protocol_violation", "no END"));
    } catch (cause) {
      if (end) return end;
      if (!(cause instanceof TidewireError)) {
        // Either the connection is about to end, which tells more, or the stream
        // was reset, of which STREAM_END tells.
        await sleep(RESET_MS, this.signal);
      }
      return this.#error ? undefined : failed(mapped("connection_lost", cause));
    } finally {
      if (!answered) this.#opening.leave();
      void writer?.close();
      reader?.cancel().catch(() => {}); // a fault leaves it unread
    }
  }

  /** Opens the stream of a subscription. */
  subscribe(owner: StreamOwner): void {
    const stream = new SubscriptionStream(this, ++this.#lastStream, owner);
    this.#streams.set(stream.number, stream);
    owner.attach(stream);
    void stream.run().then(() => this.#streams.delete(stream.number));
  }

  /** The error for a payload that the broker does not take; undefined if it does. */
  tooLarge({ data }: Payload): TidewireError | undefined {
    const limit = this.#welcome?.limits.payload ?? Infinity;
    if (data.length <= limit) return undefined;
    return fail("payload_too_large", `${data.length} bytes; the broker takes ${limit}`);
  }

  /** Throws the same error. */
  checkPayload(p: Payload): void {
    const error = this.tooLarge(p);
    if (error) throw error;
  }

  /** Writes a frame to the control stream. */
  control(frame: Uint8Array): void {
    this.#control?.write(frame);
  }

  /** Asks at once whether the other side is there: the page may have been away. */
  probe(): void {
    this.#liveness?.probe();
  }

  /** What the browser knows of the transport; undefined where it does not tell. */
  async transportStats(): Promise<TransportStats | undefined> {
    try {
      return await this.#transport.getStats?.();
    } catch {
      return undefined; // some have the method, and no more
    }
  }

  /** Sends a lossy PUBLISH by datagram, else on the control stream (PROTOCOL §8). */
  lossy(frame: Uint8Array): void {
    const most = this.#datagrams ? (this.#transport.datagrams?.maxDatagramSize ?? 0) : 0;
    if (frame.length <= most) this.#datagrams?.send(frame);
    else if ((this.#control?.backlog ?? Infinity) <= MAX_CONTROL_BACKLOG) this.control(frame);
    else this.#host.drops.unsent++;
  }

  /** Watches the control stream and the transport, and ends with whichever ends first. */
  async #watch(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    let info: TransportCloseInfo | undefined;
    let cause: unknown;
    const closed = this.#transport.closed.then(
      (i) => void (info = i),
      (e) => void (cause ??= e),
    );
    const control = readFrames(
      reader,
      () => MAX_FIRST_FRAME + (this.#welcome ? FRAME_OVERHEAD + this.#welcome.limits.payload : 0),
      (f) => this.#frame(f),
      () => this.#liveness?.heard(),
    ).catch((e: unknown) => {
      if (e instanceof TidewireError) this.fail(e);
      cause ??= e;
    });
    await Promise.race([closed, control]);
    if (this.#error) return;
    // END on the control stream tells more than the close code, and this more
    // than a broken stream; they may come in any order.
    await Promise.race([Promise.all([closed, control]), sleep(SETTLE_MS, this.signal)]);
    const code = info?.closeCode;
    this.fail(
      code
        ? remote(code, info?.reason ?? "")
        : mapped("connection_lost", cause),
    );
  }

  #frame(f: Frame): void {
    if (this.#error) return;
    if (f.type === Type.END) {
      return this.fail(parseEnd(f).error);
    }
    if (!this.#welcome) {
      expect(f, Type.WELCOME);
      return this.#welcomeFrame(parseWelcome(f));
    }
    if (this.requests.frame(f)) return;
    switch (f.type) {
      case Type.NOTICE:
        return this.#host.notice(parseNotice(f));
      case Type.STREAM_END: {
        const end = parseStreamEnd(f);
        return this.#streams.get(end.subscription)?.reset(end.error);
      }
      default:
        throw unexpected(f);
    }
  }

  #welcomeFrame(w: Welcome): void {
    if (w.version !== VERSION) {
      throw fail("unsupported_version", `version ${w.version}`);
    }
    this.#welcome = w;
    this.#id = formatId(w.client);
    this.#liveness = new Liveness(this.#host.pingAfter, this.#host.pingTimeout, {
      ask: () => void this.requests.ping(false).catch(() => {}),
      lost: () => this.fail(fail("connection_lost", "nothing comes any more")),
    });
    const { datagrams } = this.#transport;
    if (datagrams && w.capabilities & CAP_DATAGRAMS) {
      const writable = datagrams.writable ?? datagrams.createWritable?.();
      if (writable) this.#datagrams = new DatagramSender(writable, this.#host.drops);
    }
    this.#welcomed.resolve(w);
  }

  async #readDatagrams(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.#error) return;
        this.#liveness?.heard();
        this.router.dispatch(value);
      }
    } catch {
      // The connection has ended, and tells elsewhere why.
    }
  }

  /**
   * Ends the session: FIN on the control stream, and when the broker has answered,
   * or has had its time, the transport is closed.
   */
  async close(): Promise<void> {
    this.#closing = true;
    if (!this.#error && this.#control) {
      void this.#control.close();
      await Promise.race([this.closed, sleep(CLOSE_MS, this.signal)]);
    }
    this.fail(fail("closed"));
  }

  /** Ends the connection at once; only the first reason counts. */
  fail(error: TidewireError): void {
    if (this.#error) return;
    if (this.#closing) error = fail("closed"); // however the broker answers
    this.#error = error;
    this.#liveness?.stop();
    this.#welcomed.reject(error);
    this.#closed.resolve(error);
    this.#lifetime.abort();
    this.requests.end(error);
    this.router.close();
    // Whatever the transport promised and now breaks was told by `error`.
    this.#transport.ready.catch(() => {});
    this.#transport.closed.catch(() => {});
    try {
      const own = !error.remote && error.code < 500;
      // Without a code it has left: a connection that is given up is replaced (1).
      const given = error.code >= 500 && error.code <= 502 ? { closeCode: 1 } : {};
      this.#transport.close(own ? { closeCode: error.code, reason: error.reason } : given);
    } catch {
      // It was closed already.
    }
  }
}

/** The end of a stream by a fault. */
function failed(error: TidewireError): End {
  return { error, epoch: undefined, offset: undefined };
}

