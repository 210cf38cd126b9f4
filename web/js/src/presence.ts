// Who is in a topic (PROTOCOL §7.8).

import { fail } from "./errors.js";
import type { Gap, Message } from "./message.js";
import type { Subscription } from "./subscription.js";

/** A session that is present in a topic. */
export interface Member<S = unknown> {
  readonly topic: string;
  /** The client id. */
  readonly client: string;
  /**
   * The state that it entered with last, decoded when it is asked for: throws a
   * SyntaxError if it is not what its encoding says.
   */
  readonly state: S;
  /** When it did, by the broker's clock. */
  readonly since: Date;
}

/**
 * What a {@link PresenceWatch} tells:
 * - `joined`, `updated` (it has another state) and `left`, of a member;
 * - `counted`: how many are present, where a topic tells no more than that.
 */
export type PresenceEvent<S = unknown> =
  | { readonly kind: "joined" | "updated" | "left"; readonly topic: string; readonly member: Member<S> }
  | { readonly kind: "counted"; readonly topic: string; readonly count: number };

/** Options of {@link Client.watchPresence}. */
export interface WatchOptions {
  /** Ends the watch: its iteration throws `aborted`. */
  signal?: AbortSignal;
}

/** Reads how many sessions are present in the topics of a pattern. */
export type Count = (
  pattern: string,
) => Promise<ReadonlyMap<string, number> & { readonly more: boolean }>;

function memberOf<S>(m: Message<S>): Member<S> {
  return {
    topic: m.topic,
    client: m.key ?? "",
    get state() {
      return m.value;
    },
    since: m.time,
  };
}

/**
 * Who is present in the topics of a pattern: an async iterable of events, and of the
 * gaps in them. It begins with a `joined` of everyone who is there. After a reconnect,
 * or a gap, it compares, and tells what has changed.
 */
export class PresenceWatch<S = unknown> {
  /**
   * Resolves when the broker has confirmed the watch. Rejects with the reason, such as
   * `subscribe_denied`, if it ends before. Need not be awaited.
   */
  readonly ready: Promise<void>;
  readonly #subscription: Subscription<S>;
  readonly #ask: Count;
  readonly #members = new Map<string, Map<string, Member<S>>>();
  /** Topics that told a count, and not of nobody. */
  readonly #counted = new Set<string>();
  /** Members, by topic, who have not come since it began anew. */
  #stale = new Map<string, Set<string>>();

  /** @internal `subscription` is fresh and one to presence. */
  constructor(subscription: Subscription<S>, count: Count) {
    this.#subscription = subscription;
    this.#ask = count;
    this.ready = subscription.ready;
  }

  /** Those who are present, as far as the iteration has told. */
  members(topic: string): Member<S>[] {
    return [...(this.#members.get(topic)?.values() ?? [])];
  }

  /** Ends the watch. */
  close(): void {
    this.#subscription.close();
  }

  /** Yields events and gaps. Leaving the loop closes the watch. */
  async *[Symbol.asyncIterator](): AsyncGenerator<PresenceEvent<S> | Gap, void, void> {
    const s = this.#subscription;
    try {
      for (let e = await s.queue.take(); e; e = await s.queue.take()) {
        if (e.kind === "begun") yield* this.#begun();
        else if (e.kind === "synced") yield* this.#forget(e.topic);
        else if (e.kind === "gap") {
          yield e;
          if (e.reason !== "conflated") s.restart();
        } else yield* this.#message(s.message(e));
      }
    } finally {
      this.close();
    }
  }

  *#message(m: Message<S>): Iterable<PresenceEvent<S>> {
    const { topic, key, data } = m;
    if (key === undefined) {
      yield this.#count(topic, Number(data.length > 0 ? m.value : 0));
      return;
    }
    this.#stale.get(topic)?.delete(key);
    if (data.length === 0 && m.encoding === "bytes") {
      yield* this.#leave(topic, key);
      return;
    }
    let members = this.#members.get(topic);
    if (!members) this.#members.set(topic, (members = new Map<string, Member<S>>()));
    const member = memberOf(m);
    const before = members.get(key);
    members.set(key, member);
    // It is the same one where it came again only because the watch began anew.
    if (before?.since.getTime() === member.since.getTime()) return;
    yield { kind: before ? "updated" : "joined", topic, member };
  }

  #count(topic: string, count: number): PresenceEvent<S> {
    if (count > 0) this.#counted.add(topic);
    else this.#counted.delete(topic);
    return { kind: "counted", topic, count };
  }

  *#leave(topic: string, id: string): Iterable<PresenceEvent<S>> {
    const members = this.#members.get(topic);
    const member = members?.get(id);
    if (!member) return;
    members?.delete(id);
    if (members?.size === 0) this.#members.delete(topic);
    yield { kind: "left", topic, member };
  }

  /** Those who did not come again have left. */
  *#forget(topic: string): Iterable<PresenceEvent<S>> {
    const stale = this.#stale.get(topic) ?? [];
    this.#stale.delete(topic);
    for (const id of stale) yield* this.#leave(topic, id);
  }

  /** The broker tells everything anew, except of topics in which nobody is any more. */
  async *#begun(): AsyncIterable<PresenceEvent<S>> {
    this.#stale = new Map([...this.#members].map(([topic, m]) => [topic, new Set(m.keys())]));
    if (this.#stale.size + this.#counted.size === 0) return;
    const counts = await this.#ask(this.#subscription.pattern).catch(() => undefined);
    if (!counts || counts.more) return;
    for (const topic of this.#stale.keys()) {
      if (!counts.has(topic)) yield* this.#forget(topic);
    }
    for (const topic of this.#counted) {
      if (!counts.has(topic)) yield this.#count(topic, 0);
    }
  }
}

/** Reads who is present in one topic now; the subscription is fresh and is closed. */
export async function readMembers<S>(s: Subscription<S>): Promise<Member<S>[]> {
  const members = new Map<string, Member<S>>();
  try {
    for (let e = await s.queue.take(); e && e.kind !== "synced"; e = await s.queue.take()) {
      if (e.kind === "begun") members.clear();
      if (e.kind !== "arrival") continue;
      const m = s.message(e);
      if (m.data.length === 0 && m.encoding === "bytes") members.delete(m.key ?? "");
      else if (m.key !== undefined) members.set(m.key, memberOf(m));
      else throw fail("not_offered", "the topic only counts: use presenceCount");
    }
  } finally {
    s.close();
  }
  return [...members.values()];
}
