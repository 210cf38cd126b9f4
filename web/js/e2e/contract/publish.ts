// Steps that publish.

import type { BatchItem, Position, PublishOptions } from "../../src/index.js";
import { limited, mismatch, step } from "./interpreter.js";
import { type Json, expand } from "./value.js";

/** One message, or several that are alike. */
interface Outgoing {
  topic: string;
  value?: Json;
  encoding?: "json";
  count?: number;
  key?: Json;
  keys?: string[];
  ttl?: number;
  headers?: Record<string, Json>;
  retain?: boolean;
  id?: string;
  as?: string;
}

const outgoing = "topic value encoding count key keys ttl headers retain id as";

interface BatchFields {
  client?: string;
  topic: string;
  messages: Outgoing[];
  as?: string;
}

/** One of them. */
interface One {
  topic: string;
  value: unknown;
  options: PublishOptions;
  as: string | undefined;
}

/** The messages, the n-th from 1 on. */
function each(o: Outgoing): One[] {
  return Array.from({ length: o.count ?? 1 }, (_, i) => {
    const options: Record<string, unknown> = {};
    for (const k of ["encoding", "key", "ttl", "headers", "retain", "id"] as const) {
      if (o[k] !== undefined) options[k] = k === "key" || k === "headers" ? expand(o[k], i + 1) : o[k];
    }
    if (o.keys) options["key"] = o.keys[i % o.keys.length];
    const as = o.as && o.count ? `${o.as}${i + 1}` : o.as;
    return { topic: o.topic, value: expand(o.value, i + 1), options: options as PublishOptions, as };
  });
}

export const publishSteps = {
  publish: step(`client typed ${outgoing}`, async (run, f: Outgoing & { client?: string; typed?: boolean }) => {
    const client = run.client(f.client);
    for (const m of each(f)) {
      const { topic, value, options } = m;
      const published = f.typed ? client.topic(topic).publish(value, options) : client.publish(topic, value, options);
      run.keep(m.as, await published);
    }
  }),

  publishLossy: step(`client ${outgoing}`, (run, f: Outgoing & { client?: string }) => {
    const client = run.client(f.client);
    for (const m of each(f)) client.publishLossy(m.topic, m.value, m.options);
  }),

  publishBatch: step("client topic messages as", async (run, f: BatchFields) => {
    const items = f.messages.flatMap((m) => each({ ...m, topic: f.topic }));
    const batch = items.map((m): BatchItem => ({ value: m.value, ...m.options }));
    const positions = await run.client(f.client).publishBatch(f.topic, batch);
    if (positions.length !== batch.length) mismatch(`${positions.length} positions for ${batch.length} messages`);
    for (const [i, p] of positions.entries()) run.keep(`${f.as}${i + 1}`, p);
  }),

  publishAsync: step(`client ${outgoing}`, (run, f: Outgoing & { client?: string }) => {
    const client = run.client(f.client);
    const results = each(f).map((m) => client.publish(m.topic, m.value, m.options));
    for (const r of results) r.catch(() => undefined); // settle tells
    run.kept.set(`published ${f.as}`, results);
  }),

  settle: step("as", async (run, f: { as: string }) => {
    const results = run.kept.get(`published ${f.as}`) as Promise<Position>[] | undefined;
    if (!results?.length) return mismatch(`nothing is published as ${f.as}`);
    const all = await limited(Promise.allSettled(results), () => "some have no answer");
    const refused = all.filter((r) => r.status === "rejected");
    if (refused.length > 0 && refused.length < all.length) mismatch(`${refused.length} of ${all.length} were refused`);
    if (refused[0]) throw refused[0].reason;
  }),
};
