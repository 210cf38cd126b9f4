// Pages of a topic's history, without a subscription (PROTOCOL §6.8).

import { onAbort } from "./abort.js";
import type { Connection } from "./connection.js";
import { unanswered } from "./control-requests.js";
import { deferred } from "./deferred.js";
import type { Frame } from "./envelope.js";
import { fail } from "./errors.js";
import * as Type from "./frame-types.js";
import { expect, parseGap, parseMessage, unexpected } from "./frames.js";
import { MAX_PAGE } from "./limits.js";
import { type Item, Message, type Position, gapReason } from "./message.js";
import { type From, bad, checkNumber, checkRest, fromField } from "./options.js";
import { type Page, parsePage, writeFetch } from "./request-frames.js";
import type { StreamWriter } from "./stream-writer.js";

/** Options of {@link Client.history}. */
export interface HistoryOptions {
  /**
   * Where to begin; by default with the oldest message that is kept, or backward with
   * the newest. Backward only `{ position }`: the messages before it.
   */
  from?: Exclude<From, { readonly positions: unknown }>;
  /** The newest first. */
  backward?: boolean;
  /** The most messages, 1 to 1,000; 100 by default. The broker may give fewer. */
  limit?: number;
  /** Stops waiting. */
  signal?: AbortSignal;
}

/** A page of a topic's history. */
export interface HistoryPage<T = unknown> {
  /** In the order that was asked for; a gap stands where some are missing. */
  readonly messages: readonly Item<T>[];
  /** The position of the oldest message that is kept, if any is. */
  readonly first: Position | undefined;
  /** The position of the last message that the topic has given out. */
  readonly last: Position;
  /** From where the next page goes on, if anything is left. */
  readonly next: Position | undefined;
  /** Whether anything is left. */
  readonly more: boolean;
}

/** The most messages of a page, unless the application says otherwise. */
const DEFAULT_PAGE = 100;

/** Throws `invalid_option` for options that cannot be. */
export function checkHistory(o: HistoryOptions): void {
  const { from, backward, limit = DEFAULT_PAGE, signal: _signal, ...rest } = o;
  checkRest(rest);
  checkNumber("limit", limit, 1, MAX_PAGE);
  fromField(from, 0, true);
  const behind = typeof from === "object" && "position" in from;
  if (backward && from && !behind) throw bad("backward begins at a position");
}

/** Fetches a page. The topic and the options must be valid. */
export async function fetchPage<T>(
  c: Connection,
  topic: string,
  o: HistoryOptions,
): Promise<HistoryPage<T>> {
  const messages: Item<T>[] = [];
  let page: Page | undefined;
  let stream: StreamWriter | undefined;
  const frame = (f: Frame): void => {
    if (!page) {
      expect(f, Type.PAGE);
      page = parsePage(f);
      return;
    }
    const { epoch } = page;
    if (messages.length > 2 * MAX_PAGE) throw fail("protocol_violation", "too long a page");
    if (f.type === Type.MESSAGE) {
      const origin = { name: topic, epoch, base: c.base, replay: Infinity };
      // Of a request nobody waits for the reply any more.
      messages.push(new Message<T>(origin, { ...parseMessage(f), reply: undefined }));
    } else if (f.type === Type.GAP) {
      const g = parseGap(f);
      const at = (offset?: number): Position | undefined =>
        offset === undefined ? undefined : { epoch: g.epoch ?? epoch, offset };
      const reason = gapReason(g.reason);
      messages.push({ kind: "gap", topic, from: at(g.from), to: at(g.to), reason, count: g.count });
    } else throw unexpected(f);
  };
  await c.pages.enter(o.signal);
  const aborted = deferred<never>();
  const stop = onAbort(o.signal, (error) => {
    void stream?.close();
    aborted.reject(error);
  });
  const ended = c.runStream((writer) => {
    stream = writer;
    writer.write(writeFetch(topic, fromField(o.from, c.base, true), !!o.backward, o.limit ?? DEFAULT_PAGE));
    if (o.signal?.aborted) void writer.close();
  }, frame);
  void ended.then(() => {
    c.pages.leave();
    stop();
  });
  const end = await Promise.race([ended, aborted.promise]);
  if (!end || !page) throw end?.error.code ? end.error : unanswered(c.error);
  if (end.error.code) throw end.error;
  const { epoch, first, last } = page;
  const next =
    end.offset === undefined ? undefined : { epoch: end.epoch ?? epoch, offset: end.offset };
  return {
    messages,
    first: first ? { epoch, offset: first } : undefined,
    last: { epoch, offset: last },
    next,
    more: next !== undefined,
  };
}
