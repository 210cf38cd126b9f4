import type { BackoffOptions } from "./backoff.js";
import type { CodeName, TidewireError } from "./errors.js";
import type { Headers } from "./options.js";
import type { KnownEncoding } from "./payload.js";
import type { OfflineOptions } from "./publisher.js";
import type { TransportConstructor } from "./transport.js";

/** The SHA-256 of certificates, each as text or as bytes. */
export type CertificateHashes = readonly (string | Uint8Array)[];

/** Options of {@link connect}. */
export interface ConnectOptions {
  /** The token that the broker's authenticator wants. */
  token?: string;
  /**
   * Gives the token, in place of `token`. It is asked for each connection attempt, and
   * for the next token when the one in force has lived for most of its time, or the
   * broker tells that it has expired; again, after a growing wait, while it fails,
   * unless it throws a TidewireError with the code of `unauthorized`, which ends the
   * client with the token.
   */
  getToken?: () => string | Promise<string>;
  /**
   * The SHA-256 of certificates to trust in place of a certificate authority, in
   * base64, in hex with or without colons, or as 32 bytes. Browsers take this for
   * ECDSA certificates that are valid for at most 14 days. A function is asked for each
   * connection attempt, since such certificates change.
   */
  certificateHashes?: CertificateHashes | (() => CertificateHashes | Promise<CertificateHashes>);
  /** The constructor to use in place of `globalThis.WebTransport`. */
  webTransport?: TransportConstructor;
  /** How long a connection attempt may take, in milliseconds; 10,000 by default. */
  connectTimeout?: number;
  /** Cancels the first connection attempt. It has no effect afterwards. */
  signal?: AbortSignal;
  /** How a lost connection is replaced; `false`: not at all. */
  reconnect?: BackoffOptions | false;
  /** What becomes of messages that are published while there is no connection. */
  offline?: OfflineOptions;
  /**
   * After this time without anything from the broker, in milliseconds, the client asks
   * whether it is there; 5,000 by default, and twice as long in a page in the
   * background. When a page comes back from there, or the network does, it asks at
   * once.
   */
  pingAfter?: number;
  /** How long the answer may take, in milliseconds; 5,000 by default. */
  pingTimeout?: number;
  /** Names the program in the broker's logs; at most 128 bytes. */
  agent?: string;
}

/**
 * - `connecting`: an attempt is under way;
 * - `connected`;
 * - `disconnected`: the connection was lost, the next attempt comes after a wait;
 * - `closed`: for good, by {@link Client.close} or by a final error.
 */
export type ClientState = "connecting" | "connected" | "disconnected" | "closed";

/** What the event `state` tells. */
export interface StateChange {
  readonly state: ClientState;
  /** Why, for `disconnected` and for `closed` by an error. */
  readonly error: TidewireError | undefined;
}

/** What the event `notice` tells: the session will end (PROTOCOL.md §5.4). */
export interface Notice {
  /** The code with which it will end. */
  readonly code: number;
  /** The name of the code: `token_expired` or `shutting_down`. */
  readonly codeName: CodeName;
  /** What happened, for people. */
  readonly reason: string;
  /** When it will end, by the broker's clock, if known. */
  readonly deadline: Date | undefined;
}

/** What the event `presence` tells: after a reconnect a topic was not entered again. */
export interface PresenceLost {
  readonly topic: string;
  readonly error: TidewireError;
}

/** The events of a client: see {@link Client.on}. */
export interface ClientEvents {
  state: StateChange;
  notice: Notice;
  presence: PresenceLost;
}

/** Options of {@link Client.publishLossy}. */
export interface PublishLossyOptions {
  /**
   * By default bytes stay bytes, a string becomes text, and everything else
   * MessagePack.
   */
  encoding?: KnownEncoding;
  /** What the message is about within the topic; 1 to 255 bytes. */
  key?: string;
  /** After so many milliseconds nobody wants it any more; at least 1. */
  ttl?: number;
  headers?: Headers;
}

/** What a message of a batch may carry besides its value. */
export interface MessageOptions extends PublishLossyOptions {
  /**
   * It is the last value of its key, or of the topic if it has no key, which a
   * subscription begins with; empty bytes clear it.
   */
  retain?: boolean;
  /**
   * An idempotency key, 1 to 64 bytes: of messages with the same one, to one topic and
   * within the broker's window, one is published.
   */
  id?: string;
}

/** Options of {@link Client.publish}. */
export interface PublishOptions extends MessageOptions {
  /** Stops waiting. A message that was sent already may be published all the same. */
  signal?: AbortSignal;
}

/** A message of {@link Client.publishBatch}. */
export interface BatchItem<T = unknown> extends MessageOptions {
  readonly value: T;
}
