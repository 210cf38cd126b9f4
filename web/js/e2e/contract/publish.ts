// Steps that publish.

import type { PublishOptions } from "../../src/index.js";
import { step } from "./interpreter.js";
import { type Json, expand } from "./value.js";

/** One message, or several that are alike. */
interface Outgoing {
  topic: string;
  value?: Json;
  encoding?: "json";
  count?: number;
  key?: string;
  keys?: string[];
  ttl?: number;
  headers?: Record<string, string>;
  retain?: boolean;
  id?: string;
  as?: string;
}

const outgoing = "topic value encoding count key keys ttl headers retain id as";

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
      if (o[k] !== undefined) options[k] = o[k];
    }
    if (o.keys) options["key"] = o.keys[i % o.keys.length];
    const as = o.as && o.count ? `${o.as}${i + 1}` : o.as;
    return { topic: o.topic, value: expand(o.value, i + 1), options: options as PublishOptions, as };
  });
}

export const publishSteps = {
  publish: step(`client ${outgoing}`, async (run, f: Outgoing & { client?: string }) => {
    const client = run.client(f.client);
    for (const m of each(f)) run.keep(m.as, await client.publish(m.topic, m.value, m.options));
  }),

  publishLossy: step(`client ${outgoing}`, (run, f: Outgoing & { client?: string }) => {
    const client = run.client(f.client);
    for (const m of each(f)) client.publishLossy(m.topic, m.value, m.options);
  }),
};

