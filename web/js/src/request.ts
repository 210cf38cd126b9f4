// Requests and replies (PROTOCOL §7.7).

import { onAbort } from "./abort.js";
import type { Connection } from "./connection.js";
import { type TidewireError, fail } from "./errors.js";
import { MAX_KEY, MAX_REPLIES, MAX_TIMEOUT } from "./limits.js";
import { Reply } from "./message.js";
import { type Headers, checkLabel, checkNumber, checkRest, headerList } from "./options.js";
import { type KnownEncoding, encodePayload } from "./payload.js";

/** Options of {@link Client.request}. */
export interface RequestOptions {
  /**
   * How long to wait, in milliseconds, 1 to 600,000; 5,000 by default. The broker tells
   * when it is over; where it is not heard the request ends a second later.
   */
  timeout?: number;
  /** By default as for publish. */
  encoding?: KnownEncoding;
  headers?: Headers;
  key?: string;
  /** Stops waiting. */
  signal?: AbortSignal;
}

/** Options of {@link Client.requestMany}. */
export interface RequestManyOptions extends RequestOptions {
  /** The most replies, 1 to 65,535; 100 by default. */
  max?: number;
}

const DEFAULT_TIMEOUT = 5000;
const DEFAULT_MAX = 100;
/** Bytes of replies that may wait for the application; a request with more ends. */
const MAX_WAITING = 4 << 20;
/** How much longer than the timeout the broker's word is awaited that it is over, in milliseconds. */
const UNHEARD = 1000;

/**
 * Sends a request when there is a connection, and yields the replies until there are
 * enough of them, or the time is over and there was one. It throws what ended it
 * otherwise.
 */
export async function* replies<T>(
  connected: (signal: AbortSignal) => Promise<Connection>,
  topic: string,
  value: unknown,
  o: RequestManyOptions,
): AsyncGenerator<Reply<T>, void, void> {
  const { timeout = DEFAULT_TIMEOUT, max = DEFAULT_MAX, key, headers, encoding, signal, ...rest } = o;
  checkRest(rest);
  checkNumber("timeout", timeout, 1, MAX_TIMEOUT);
  checkNumber("max", max, 1, MAX_REPLIES);
  checkLabel("a key", key, MAX_KEY);
  const payload = { ...encodePayload(value, encoding), key, headers: headerList(headers) };
  const begun = Date.now();
  const waiting: Reply<T>[] = [];
  let bytes = 0; // of these
  const stop = new AbortController();
  let over = false;
  let any = false;
  let error: TidewireError | undefined;
  let wake = (): void => {};
  const end = (e?: TidewireError): void => {
    over = true;
    error ??= e;
    wake();
  };
  const stopListening = onAbort(signal, end);
  // The broker counts the time from when it has the request.
  let timer = setTimeout(() => {
    if (!sent) return end(fail("request_timeout", "there was no connection"));
    timer = setTimeout(() => end(fail("request_timeout", "no reply came, and the broker is not heard")), UNHEARD);
  }, timeout);
  let sent = false;
  const run = async (): Promise<void> => {
    const c = await connected(stop.signal);
    c.checkPayload(payload);
    if (over) return;
    sent = true;
    const left = Math.max(1, timeout - (Date.now() - begun));
    await c.requests.request(
      { ...payload, topic, timeout: left, limit: max },
      (r) => {
        bytes += r.data.length;
        if (bytes > MAX_WAITING) {
          end(fail("queue_full", "replies come faster than they are taken"));
          return stop.abort();
        }
        waiting.push(new Reply<T>(r));
        wake();
      },
      stop.signal,
    );
  };
  void run().then(() => end(), end);
  try {
    for (;;) {
      const next = waiting.shift();
      if (next) {
        any = true;
        bytes -= next.data.length;
        yield next;
      } else if (over) break;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
    // Nobody knows how many would reply: the time is what ends it.
    if (error && !(any && error.codeName === "request_timeout")) throw error;
  } finally {
    clearTimeout(timer);
    stopListening();
    stop.abort();
  }
}
