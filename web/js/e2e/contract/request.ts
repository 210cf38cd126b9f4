// Steps about requests and groups.

import type { Item, Message, RequestManyOptions } from "../../src/index.js";
import { type Run, Mismatch, mismatch, next, step } from "./interpreter.js";
import { type Want, checkItem, checkReply, describe } from "./subscribe.js";
import { type Json, expand, number, show } from "./value.js";

interface RequestFields {
  client?: string;
  topic: string;
  value: Json;
  headers?: Record<string, string>;
  timeout?: number;
  max?: number;
  reply?: Want;
  replies?: Want[];
}

function requestOptions(f: RequestFields): RequestManyOptions {
  const o: RequestManyOptions = {};
  if (f.headers) o.headers = f.headers;
  if (f.timeout !== undefined) o.timeout = f.timeout;
  if (f.max !== undefined) o.max = f.max;
  return o;
}

interface RespondFields {
  sub?: string;
  subs?: string[];
  item?: Want;
  value?: Json;
  values?: Json[];
  headers?: Record<string, string>;
}

/** Whether f throws no Mismatch. */
function holds(f: () => void): boolean {
  try {
    f();
    return true;
  } catch (e) {
    if (e instanceof Mismatch) return false;
    throw e;
  }
}

function respondTo(run: Run, f: RespondFields, item: Item | undefined): void {
  const m = item ?? mismatch("the subscription has ended");
  checkItem(run, f.item ?? {}, 1, m);
  for (const v of f.values ?? [f.value]) {
    (m as Message).reply(expand(v, 1), f.headers ? { headers: f.headers } : {});
  }
}

/** Reads several subscriptions at once, until enough says so. */
async function readAll(run: Run, subs: string[], enough: (sub: string, item: Item) => boolean): Promise<void> {
  let count = 0;
  let over = false;
  const read = async (name: string): Promise<void> => {
    while (!over) {
      const item = await next(run.reader(name), () => `nothing more came after ${count} items`);
      if (!item) return mismatch(`subscription ${name} has ended`);
      count++;
      over = enough(name, item);
    }
  };
  const readers = subs.map(read);
  for (const r of readers) r.catch(() => undefined); // those that are left without an item
  await Promise.race(readers);
}

export const requestSteps = {
  request: step("client topic value headers timeout reply", async (run, f: RequestFields) => {
    const reply = await run.client(f.client).request(f.topic, expand(f.value, 1), requestOptions(f));
    checkReply(run, f.reply ?? {}, 1, reply);
  }),

  requestMany: step("client topic value headers timeout max replies", async (run, f: RequestFields) => {
    const left = [...(f.replies ?? [])];
    for await (const reply of run.client(f.client).requestMany(f.topic, expand(f.value, 1), requestOptions(f))) {
      const at = left.findIndex((w) => holds(() => checkReply(run, w, 1, reply)));
      if (at < 0) mismatch(`the reply ${show(reply.value)}; want one of ${show(left)}`);
      left.splice(at, 1);
    }
    if (left.length > 0) mismatch(`${left.length} replies did not come`);
  }),

  respond: step("sub item value values headers", async (run, f: RespondFields) => {
    respondTo(run, f, await next(run.reader(f.sub), () => "no request came"));
  }),

  respondAny: step("subs item value values headers", (run, f: RespondFields) =>
    readAll(run, f.subs ?? [], (_, item) => {
      respondTo(run, f, item);
      return true;
    }),
  ),

  expectShared: step(
    "subs count value atLeast others",
    async (run, f: { subs: string[]; count: number; value: Json; atLeast?: number; others?: boolean }) => {
      const left = new Set(Array.from({ length: f.count }, (_, i) => i + 1));
      let wrong: string | undefined;
      await readAll(run, f.subs, (sub, item) => {
        const n = [...left].find((x) => holds(() => checkItem(run, { value: f.value }, x, item)));
        if (n === undefined && !f.others) wrong = `${sub} got ${describe(item)}, which is none of those that were left`;
        if (n !== undefined) left.delete(n);
        return wrong !== undefined || f.count - left.size >= (f.atLeast ?? f.count);
      });
      if (wrong) mismatch(wrong);
    },
  ),

  untilEither: step("subs gap value", async (run, f: { subs: string[]; gap: string; value: number }) => {
    let found = false;
    for (const name of f.subs) {
      for (let n = 0; ; n++) {
        const item = await next(run.reader(name), () => `nothing more came after ${n} items`);
        if (!item) return mismatch(`subscription ${name} has ended`);
        if (item.kind === "gap") {
          checkItem(run, { gap: f.gap }, n, item);
          found = true;
          break;
        }
        if (number(item.value) === f.value) break;
      }
    }
    if (!found) mismatch("there was no gap");
  }),
};
