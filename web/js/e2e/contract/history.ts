// Steps about histories and live maps.

import type { HistoryOptions, Item, LiveMap } from "../../src/index.js";
import { eventually, mismatch, step } from "./interpreter.js";
import { type FromFields, type Want, checkItem, describe, fromOf } from "./subscribe.js";
import { type Json, equal, show } from "./value.js";

interface HistoryFields {
  client?: string;
  topic: string;
  from?: FromFields;
  backward?: boolean;
  limit?: number;
  items?: Want[];
  count?: number;
  value?: Json;
  atMost?: number;
  more?: boolean;
  as?: string;
}

export const historySteps = {
  history: step("client topic from backward limit items count value atMost more as", async (run, f: HistoryFields) => {
    const options: HistoryOptions = {};
    if (f.from) options.from = fromOf(run, f.from) as Exclude<HistoryOptions["from"], undefined>;
    if (f.backward) options.backward = true;
    if (f.limit !== undefined) options.limit = f.limit;
    const page = await run.client(f.client).history(f.topic, options);
    const items: readonly Item[] = page.messages;
    const wanted = (f.items ?? []).map((want, i) => ({ want, n: i + 1 }));
    for (let n = 1; n <= (f.count ?? 0); n++) wanted.push({ want: { value: f.value ?? null }, n });
    for (const [i, { want, n }] of wanted.entries()) {
      const item = items[i] ?? mismatch(`the page has ${items.length} items; want ${wanted.length}`);
      try {
        checkItem(run, want, n, item);
      } catch (e) {
        mismatch(`item ${i + 1}, ${describe(item)}: ${e instanceof Error ? e.message : String(e)}`);
      }
    }
    const most = Math.max(f.atMost ?? 0, wanted.length);
    if (items.length > most) mismatch(`the page has ${items.length} items; want at most ${most}`);
    if (f.more !== undefined && f.more !== page.more) mismatch(`more is ${page.more}`);
    if (f.as) run.kept.set(`page ${f.as}`, { position: page.next });
  }),

  map: step("client topic as", async (run, f: { client?: string; topic: string; as?: string }) => {
    const map = run.client(f.client).map(f.topic);
    await map.ready;
    run.kept.set(`map ${f.as}`, map);
  }),

  expectMap: step("map entries", (run, f: { map?: string; entries: Record<string, Json> }) => {
    const map = (run.kept.get(`map ${f.map}`) as LiveMap | undefined) ?? mismatch(`there is no map ${f.map}`);
    return eventually(() => {
      const got = Object.fromEntries(map);
      if (!equal(got, f.entries)) mismatch(`the map is ${show(got)}; want ${show(f.entries)}`);
    });
  }),
};
