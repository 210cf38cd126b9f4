// Steps about presence and health.

import type { Gap, PresenceEvent, PresenceWatch } from "../../src/index.js";
import { type Run, eventually, limited, mismatch, step } from "./interpreter.js";
import { type Json, equal, expand, show } from "./value.js";

interface WantEvent {
  joined?: string;
  updated?: string;
  left?: string;
  counted?: number;
  state?: Json;
  topic?: string;
}

function checkEvent(run: Run, w: WantEvent, e: PresenceEvent | Gap): void {
  if (e.kind === "gap") return mismatch(`the event is ${show(e)}; want ${show(w)}`);
  if (e.kind === "counted") {
    const same = w.counted === e.count && (w.topic ?? e.topic) === e.topic;
    return same ? undefined : mismatch(`the event is ${show(e)}; want ${show(w)}`);
  }
  const name = w[e.kind];
  if (name === undefined || run.client(name).id !== e.member.client) mismatch(`the event is ${show(e)}; want ${show(w)}`);
  if (w.topic !== undefined && w.topic !== e.topic) mismatch(`the topic is ${e.topic}; want ${w.topic}`);
  if (w.state !== undefined && !equal(e.member.state, w.state)) {
    mismatch(`the state is ${show(e.member.state)}; want ${show(w.state)}`);
  }
}

type Watch = AsyncGenerator<PresenceEvent | Gap>;

interface ExpectFields {
  watch?: string;
  events: WantEvent[];
  among?: boolean;
  anyOrder?: boolean;
}

interface SubHealth {
  bytes?: number | [number, number];
  messages?: number | [number, number];
  conflated?: number | [number, number];
  dropped?: number | [number, number];
}

export const presenceSteps = {
  enter: step("client topic state", (run, f: { client?: string; topic: string; state: Json }) =>
    run.client(f.client).enter(f.topic, expand(f.state, 1)),
  ),

  leave: step("client topic", (run, f: { client?: string; topic: string }) => run.client(f.client).leave(f.topic)),

  presence: step(
    "client topic members",
    (run, f: { client?: string; topic: string; members: Record<string, Json> }) =>
      eventually(async () => {
        const members = await run.client(f.client).presence(f.topic);
        const got = Object.fromEntries(members.map((m) => [m.client, m.state]));
        const want = Object.fromEntries(Object.entries(f.members).map(([name, s]) => [run.client(name).id, s]));
        if (!equal(got, want)) mismatch(`present are ${show(got)}; want ${show(want)}`);
      }),
  ),

  presenceCount: step(
    "client pattern counts",
    (run, f: { client?: string; pattern: string; counts: Record<string, number> }) =>
      eventually(async () => {
        const got = Object.fromEntries(await run.client(f.client).presenceCount(f.pattern));
        if (!equal(got, f.counts)) mismatch(`the counts are ${show(got)}; want ${show(f.counts)}`);
      }),
  ),

  watchPresence: step("client pattern as", async (run, f: { client?: string; pattern: string; as?: string }) => {
    const watch: PresenceWatch = run.client(f.client).watchPresence(f.pattern);
    await watch.ready;
    run.kept.set(`watch ${f.as}`, watch[Symbol.asyncIterator]());
  }),

  expectPresence: step("watch events among anyOrder", async (run, f: ExpectFields) => {
    const watch = (run.kept.get(`watch ${f.watch}`) as Watch | undefined) ?? mismatch(`there is no watch ${f.watch}`);
    const left = [...f.events];
    while (left.length > 0) {
      const { value } = await limited(watch.next(), () => `no event came; want ${show(left[0])}`);
      const event = value ?? mismatch("the watch has ended");
      let first: unknown;
      const at = (f.anyOrder ? left : left.slice(0, 1)).findIndex((w) => {
        try {
          checkEvent(run, w, event);
          return true;
        } catch (e) {
          first ??= e;
          return false;
        }
      });
      if (at >= 0) left.splice(at, 1);
      else if (!f.among) throw first;
    }
  }),

  health: step(
    "client rtt subs",
    (run, f: { client?: string; rtt?: boolean; subs?: Record<string, SubHealth> }) =>
      eventually(async () => {
        const health = await run.client(f.client).health();
        if (f.rtt && !(health.rtt > 0)) mismatch("the round trip is not known");
        for (const [name, wanted] of Object.entries(f.subs ?? {})) {
          const { subscription } = run.reader(name);
          const got =
            health.subscriptions.find((s) => s.subscription === subscription) ??
            mismatch(`nothing is told of subscription ${name}`);
          for (const what of ["bytes", "messages", "conflated", "dropped"] as const) {
            const span = [wanted[what] ?? [0, Infinity]].flat();
            if (got[what] < (span[0] ?? 0) || got[what] > (span.at(-1) ?? 0)) {
              mismatch(`${what} of ${name} is ${got[what]}; want ${show(wanted[what])}`);
            }
          }
        }
      }),
  ),
};
