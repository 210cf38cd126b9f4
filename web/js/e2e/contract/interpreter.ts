// What carries out scenarios with the browser client: see internal/contract.

import { type Client, type Item, type Position, type Subscription, TidewireError } from "../../src/index.js";
import type { Json } from "./value.js";

/** The fields of a step, as the scenario has them. */
export type Fields = { [name: string]: Json };

/** A scenario, as far as an interpreter needs it. */
export interface Scenario {
  name: string;
  together?: string;
  steps: { [name: string]: Fields }[];
}

/** Something else came about than a step expects; no "error" of a step means it. */
export class Mismatch extends Error {}

export function mismatch(text: string): never {
  throw new Mismatch(text);
}

/** A client, and the states that it went through. */
export interface User {
  client: Client;
  states: string[];
  changed: Set<() => void>;
}

/** A subscription that is read when a step asks for it. */
export interface Reader {
  subscription: Subscription;
  iterator: AsyncIterator<Item>;
  /** An item that was asked for in vain. */
  waiting: Promise<IteratorResult<Item>> | undefined;
}

/** One run of a scenario. */
export class Run {
  readonly clients = new Map<string, User>();
  readonly readers = new Map<string, Reader>();
  readonly positions = new Map<string, Position>();
  readonly times = new Map<string, Date>();
  readonly pending = new Map<string, Promise<unknown>>();
  /** What some steps keep for others, by kind and name. */
  readonly kept = new Map<string, unknown>();
  readonly old: Client[] = [];

  user(name: string | undefined): User {
    return this.clients.get(name ?? "a") ?? mismatch(`there is no client ${name ?? "a"}`);
  }

  client(name: string | undefined): Client {
    return this.user(name).client;
  }

  reader(name: string | undefined): Reader {
    return this.readers.get(name ?? "s") ?? mismatch(`there is no subscription ${name ?? "s"}`);
  }

  position(name: string): Position {
    return this.positions.get(name) ?? mismatch(`there is no position ${name}`);
  }

  keep(name: string | undefined, p: Position): void {
    if (name !== undefined) this.positions.set(name, { epoch: p.epoch, offset: p.offset });
  }
}

/** A step with the fields that it knows: `name?` need not be there. */
export interface Step {
  fields: readonly string[];
  do(run: Run, f: Fields): Promise<void> | void;
}

/** Defines a step whose fields have the type F. */
export function step<F>(fields: string, f: (run: Run, fields: F) => Promise<void> | void): Step {
  return { fields: fields.split(" "), do: (run, given) => f(run, given as F) };
}

const STEP_MS = 15_000;

/** A promise that is given up after the time of a step. */
export async function limited<T>(promise: Promise<T>, what: () => string, ms = STEP_MS): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Mismatch(what())), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Repeats f until it throws nothing. */
export async function eventually(f: () => Promise<void> | void): Promise<void> {
  for (const end = performance.now() + STEP_MS - 1000; ; ) {
    try {
      return await f();
    } catch (e) {
      if (!(e instanceof Mismatch) || performance.now() > end) throw e;
    }
    await new Promise((resolve) => {
      setTimeout(resolve, 10);
    });
  }
}

/** Has the world carry out a step. */
export async function world(name: string, fields: Fields): Promise<Json> {
  const response = await fetch("/world", { method: "POST", body: JSON.stringify({ [name]: fields }) });
  if (!response.ok) throw new Mismatch(await response.text());
  return (await response.json()) as Json;
}

/** The next item; undefined after a clean end. */
export async function next(reader: Reader, what: () => string): Promise<Item | undefined> {
  reader.waiting ??= reader.iterator.next();
  const { waiting } = reader;
  const { value } = await limited(waiting, what).catch((e: unknown) => {
    if (!(e instanceof Mismatch)) reader.waiting = undefined;
    throw e;
  });
  reader.waiting = undefined;
  return value;
}

async function carryOut(run: Run, steps: { [name: string]: Step }, name: string, all: Fields): Promise<void> {
  const { error, ...fields } = all;
  delete fields["async"];
  const known = steps[name];
  const unknown = known && Object.keys(fields).find((k) => !known.fields.includes(k));
  if (unknown) mismatch(`${name} has no field ${unknown}`);
  try {
    if (known) await limited((async () => known.do(run, fields))(), () => "it has no end", STEP_MS + 1000);
    else await world(name, fields);
  } catch (e) {
    if (typeof error !== "string" || e instanceof Mismatch) throw e;
    if (!(e instanceof TidewireError)) mismatch(`the error is ${String(e)}; want ${error}`);
    if (!error.split("|").includes(e.codeName)) mismatch(`the error is ${e.codeName} (${e.message}); want ${error}`);
    return;
  }
  if (error !== undefined) mismatch(`there is no error; want ${JSON.stringify(error)}`);
}

/** Carries out a scenario; rejects if something else comes about than it says. */
export async function runScenario(steps: { [name: string]: Step }, scenario: Scenario): Promise<void> {
  const run = new Run();
  await world("begin", { together: scenario.together !== undefined });
  try {
    for (const [i, given] of scenario.steps.entries()) {
      const [[name, fields] = ["", {}], ...others] = Object.entries(given);
      if (others.length > 0) mismatch("a step has one name");
      const done = carryOut(run, steps, name, fields).catch((e: unknown) => {
        const text = e instanceof Error ? e.message : String(e);
        throw new Mismatch(`step ${i + 1}, ${name} ${JSON.stringify(fields)}: ${text}`);
      });
      const { async: later } = fields;
      if (typeof later !== "string") await done;
      else {
        done.catch(() => undefined); // join tells
        run.pending.set(later, done);
      }
    }
    for (const name of run.pending.keys()) mismatch(`nobody joined ${name}`);
  } finally {
    await Promise.all([...run.clients.values()].map((u) => u.client.close()));
    await Promise.all(run.old.map((c) => c.close()));
    await world("end", {});
  }
}
