// Steps that subscribe, and look at what comes.

import type { From, Gap, Item, Message, Position, Reply, SubscribeOptions } from "../../src/index.js";
import { type Run, eventually, mismatch, next, step } from "./interpreter.js";
import { type Json, equal, expand, number, show } from "./value.js";

/** Where a subscription or a page begins: see from of internal/contract. */
export interface FromFields {
  position?: string;
  plus?: number;
  positions?: string;
  last?: number;
  since?: string;
  beginning?: boolean;
  next?: string;
}

/** What the client takes. */
export function fromOf(run: Run, f: FromFields): From {
  if (f.position !== undefined) {
    const { epoch, offset } = run.position(f.position);
    return { position: { epoch, offset: offset + (f.plus ?? 0) } };
  }
  if (f.last !== undefined) return { last: f.last };
  if (f.beginning) return "beginning";
  if (f.since !== undefined) return { since: run.times.get(f.since) ?? mismatch(`there is no time ${f.since}`) };
  const kept = run.kept.get(f.positions === undefined ? `page ${f.next}` : `positions ${f.positions}`);
  return (kept as From | undefined) ?? mismatch("from says nothing");
}

interface SubscribeFields {
  client?: string;
  as?: string;
  pattern: string;
  from?: FromFields;
  typed?: boolean;
}

/** An item that must come: see want of internal/contract. */
export interface Want {
  value?: Json;
  topic?: string;
  key?: string;
  headers?: Record<string, string>;
  encoding?: string;
  publisher?: string;
  at?: string;
  lossy?: boolean;
  retained?: boolean;
  replayed?: boolean;
  expires?: boolean;
  request?: boolean;
  as?: string;
  gap?: string;
  orGap?: string;
  from?: string | null;
  to?: string | null;
  count?: number;
}

const wants = new Set(
  "value topic key headers encoding publisher at lossy retained replayed expires request as gap orGap from to count".split(" "),
);

/** An item for people. */
export function describe(item: Item): string {
  if (item.kind === "gap") return `a gap, ${item.reason}, of ${item.topic}, ${show(item.from)} to ${show(item.to)}`;
  return `${show(item.value)} of ${item.topic} at ${item.offset}`;
}

function sameEnd(run: Run, what: string, want: string | null | undefined, got: Position | undefined): void {
  if (want === undefined) return;
  const at = want === null ? undefined : run.position(want);
  if (got?.epoch !== at?.epoch || got?.offset !== at?.offset) mismatch(`the gap's ${what} is ${show(got)}; want ${show(at)}`);
}

function checkGap(run: Run, w: Want, gap: Gap): void {
  if (!w.gap?.split("|").includes(gap.reason)) mismatch(`the gap's reason is ${gap.reason}; want ${w.gap}`);
  if (w.topic !== undefined && w.topic !== gap.topic) mismatch(`the gap's topic is ${gap.topic}; want ${w.topic}`);
  if (w.count !== undefined && w.count !== (gap.count ?? 0)) mismatch(`the gap counts ${gap.count}; want ${w.count}`);
  sameEnd(run, "from", w.from, gap.from);
  sameEnd(run, "to", w.to, gap.to);
}

/** Throws if an item is not what is wanted. */
export function checkItem(run: Run, w: Want, n: number, item: Item): void {
  const unknown = Object.keys(w).find((k) => !wants.has(k));
  if (unknown) mismatch(`an item has no ${unknown}`);
  if (item.kind === "gap") {
    if (w.gap === undefined && w.orGap === undefined) mismatch("a gap; want a message");
    return checkGap(run, w.orGap === undefined ? w : { gap: w.orGap }, item);
  }
  if (w.gap !== undefined) mismatch(`a message; want a gap: ${w.gap}`);
  checkMessage(run, w, n, item);
}

/** Throws if what a message and a reply have in common is not what is wanted. */
export function checkReply(run: Run, w: Want, n: number, m: Reply): void {
  compare("the value", m.value, expand(w.value, n));
  compare("the encoding", m.encoding, w.encoding);
  compare("the publisher", m.publisher, w.publisher && run.client(w.publisher).id);
  compare("the headers", { ...m.headers }, w.headers);
}

function compare(what: string, got: unknown, want: unknown): void {
  if (want !== undefined && !equal(got, want)) mismatch(`${what} is ${show(got)}; want ${show(want)}`);
}

function checkMessage(run: Run, w: Want, n: number, m: Message): void {
  checkReply(run, w, n, m);
  compare("the topic", m.topic, w.topic);
  compare("the key", m.key ?? "", w.key);
  compare("the position", { epoch: m.epoch, offset: m.offset }, w.at && run.position(w.at));
  for (const flag of ["lossy", "retained", "replayed", "request"] as const) compare(flag, m[flag], w[flag]);
  compare("expires", m.expires !== undefined, w.expires);
  run.keep(w.as, m);
}

interface ExpectFields {
  sub?: string;
  items?: Want[];
  count?: number;
  value?: Json;
  anyOrder?: boolean;
  skipGaps?: boolean;
}

interface UntilFields {
  sub?: string;
  value?: Json;
  gap?: string;
  topic?: string;
  increasing?: boolean;
  covered?: boolean;
  after?: string;
  atMost?: number;
  atLeast?: number;
  total?: number;
  maxBytes?: number;
  newest?: Record<string, number>;
  gaps?: string[];
}

const options = "class priority credit noEcho noRetained filter group";

export const subscribeSteps = {
  subscribe: step(`client as pattern from typed ${options}`, async (run, f: SubscribeFields) => {
    const { client: name, as, pattern, from, typed, ...given } = f;
    const o: SubscribeOptions = given;
    if (from) o.from = fromOf(run, from);
    const client = run.client(name);
    const subscription = typed ? client.topic(pattern).subscribe(o) : client.subscribe(pattern, o);
    await subscription.ready;
    const iterator = subscription[Symbol.asyncIterator]();
    run.readers.set(as ?? "s", { subscription, iterator, waiting: undefined });
  }),

  unsubscribe: step("sub", (run, f: { sub?: string }) => run.reader(f.sub).subscription.close()),

  expect: step("sub items count value anyOrder skipGaps", async (run, f: ExpectFields) => {
    const reader = run.reader(f.sub);
    const left = (f.items ?? []).map((want, i) => ({ want, n: i + 1 }));
    for (let n = 1; n <= (f.count ?? 0); n++) left.push({ want: { value: f.value ?? null }, n });
    for (let got = 0; left.length > 0; ) {
      const item = await next(reader, () => `nothing more came after ${got} items`);
      if (!item) return mismatch(`the subscription has ended after ${got} items`);
      if (f.skipGaps && item.kind === "gap") continue;
      got++;
      let first: unknown;
      const at = (f.anyOrder ? left : left.slice(0, 1)).findIndex(({ want, n }) => {
        try {
          checkItem(run, want, n, item);
          return true;
        } catch (e) {
          first ??= e;
          return false;
        }
      });
      if (at < 0) mismatch(`item ${got}, ${describe(item)}: ${first instanceof Error ? first.message : String(first)}`);
      left.splice(at, 1);
    }
  }),

  until: step(
    "sub value gap topic increasing covered after atMost atLeast total maxBytes newest gaps",
    async (run, f: UntilFields) => {
      const reader = run.reader(f.sub);
      let [messages, missing, bytes] = [0, 0, 0];
      const reasons = new Set<string>();
      const newest = new Map<string, number>();
      let last: Position = f.after ? run.position(f.after) : { epoch: -1, offset: 0 };
      for (;;) {
        const item = await next(reader, () => `nothing more came after ${messages} messages`);
        if (!item) return mismatch(`the subscription has ended after ${messages} messages`);
        if (f.topic !== undefined && item.topic !== f.topic) mismatch(`${describe(item)}; want one of ${f.topic}`);
        if (item.kind === "gap") {
          reasons.add(item.reason);
          missing += item.count ?? 0;
          if (item.from && item.to) {
            if (f.covered && item.from.epoch === last.epoch && item.from.offset < last.offset) {
              mismatch(`${describe(item)} begins before ${show(last)}`);
            }
            last = item.to;
          }
          if (f.gap === item.reason) break;
          continue;
        }
        messages++;
        if (f.covered && item.epoch === last.epoch && item.offset !== last.offset + 1) {
          mismatch(`${describe(item)} comes after ${show(last)}, and no gap between`);
        }
        last = { epoch: item.epoch, offset: item.offset };
        const n = number(item.value);
        if (n !== undefined) {
          const key = item.key ?? "";
          if (f.increasing && n <= (newest.get(key) ?? -Infinity)) mismatch(`${n} came after ${newest.get(key)}`);
          newest.set(key, n);
        }
        if ((f.value !== undefined && equal(item.value, expand(f.value, 0))) || (n !== undefined && n === f.value)) break;
        bytes += item.data.length;
      }
      if (messages > (f.atMost ?? Infinity) || messages < (f.atLeast ?? 0)) mismatch(`${messages} messages came`);
      if (f.total && messages + missing !== f.total) {
        mismatch(`${messages} messages came, and the gaps count ${missing}; want ${f.total} together`);
      }
      if (f.newest && !equal(Object.fromEntries(newest), f.newest)) {
        mismatch(`the newest of each key are ${show(Object.fromEntries(newest))}; want ${show(f.newest)}`);
      }
      if (bytes > (f.maxBytes ?? Infinity)) mismatch(`${bytes} bytes came before the last message`);
      const got = [...reasons].toSorted().join(", ");
      if (f.gaps && got !== f.gaps.toSorted().join(", ")) mismatch(`gaps with the reasons ${got} came; want ${f.gaps.join(", ")}`);
    },
  ),

  ended: step("sub", async (run, f: { sub?: string }) => {
    const item = await next(run.reader(f.sub), () => "it does not end");
    if (item) mismatch(`${describe(item)}; want the end`);
  }),

  position: step("sub as", (run, f: { sub?: string; as: string }) => {
    run.keep(f.as, run.reader(f.sub).subscription.position ?? mismatch("the position is not known"));
  }),

  positions: step("sub as", (run, f: { sub?: string; as: string }) => {
    const positions = run.reader(f.sub).subscription.positions ?? mismatch("the positions are not known");
    run.kept.set(`positions ${f.as}`, positions);
  }),

  setPriority: step("sub priority", (run, f: { sub?: string; priority: number }) => {
    run.reader(f.sub).subscription.setPriority(f.priority);
  }),

  subState: step("sub is", (run, f: { sub?: string; is: string }) => {
    const { subscription } = run.reader(f.sub);
    return eventually(() => {
      if (subscription.state !== f.is) mismatch(`the subscription is ${subscription.state}; want ${f.is}`);
    });
  }),
};
