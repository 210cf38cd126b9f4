// The part of WebTransport that this client uses, in types of its own: what
// lib.dom has differs between versions, and a test or a program outside a browser
// brings a constructor of its own.

/** The datagrams of a transport. */
export interface TransportDatagrams {
  /** The most bytes that a datagram sent now may have. */
  readonly maxDatagramSize: number;
  readonly readable: ReadableStream<Uint8Array>;
  /** Browsers have this or {@link createWritable}. */
  readonly writable?: WritableStream<Uint8Array>;
  createWritable?(): WritableStream<Uint8Array>;
}

/** A bidirectional stream of a transport. */
export interface TransportStream {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
}

/** How a transport was closed. */
export interface TransportCloseInfo {
  readonly closeCode?: number;
  readonly reason?: string;
}

/** What a transport tells of itself; browsers have more and less of it. */
export interface TransportStats {
  /** Milliseconds. */
  readonly smoothedRtt?: number;
  /** Packets that this side has sent, and those of them that were lost. */
  readonly packetsSent?: number;
  readonly packetsLost?: number;
}

/** A WebTransport session, as far as this client uses it. */
export interface Transport {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<TransportCloseInfo | undefined>;
  /** Absent if the transport has no datagrams. */
  readonly datagrams?: TransportDatagrams;
  createBidirectionalStream(): Promise<TransportStream>;
  close(info?: TransportCloseInfo): void;
  getStats?(): Promise<TransportStats>;
}

/** What a {@link TransportConstructor} is given. */
export interface TransportOptions {
  serverCertificateHashes?: { algorithm: "sha-256"; value: Uint8Array<ArrayBuffer> }[];
}

/** The constructor `WebTransport` of browsers, or one that does the same. */
export type TransportConstructor = new (url: string, options?: TransportOptions) => Transport;
