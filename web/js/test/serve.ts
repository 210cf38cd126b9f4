// What the tests of subscriptions have in common.

import { expect } from "vitest";
import type { Item } from "../src/message.js";
import type { Subscription } from "../src/subscription.js";
import * as frames from "./broker-frames.js";
import type { MockSession, MockStream } from "./mock.js";

export const EPOCH = 7;

/** A matcher of a TidewireError. */
export const coded = (codeName: string, more = {}) => expect.objectContaining({ codeName, ...more });

/** Takes the next stream, a subscription to one topic, and answers it as topic 1. */
export async function serve(session: MockSession, offset = 0, last = offset): Promise<MockStream> {
  const { stream } = await session.subscription();
  stream.send(frames.writeSubscribed({ topic: 1, epoch: EPOCH, offset, last }));
  return stream;
}

/** Takes n items, each in short. */
export async function take(subscription: Subscription, n: number): Promise<string[]> {
  const items: string[] = [];
  const iterator = subscription[Symbol.asyncIterator]();
  while (items.length < n) {
    const { done, value } = await iterator.next();
    if (done) return [...items, "done"];
    items.push(short(value));
  }
  return items;
}

function short(i: Item): string {
  if (i.kind === "message") return `${i.topic}${i.offset}`;
  return `[${i.topic ?? "*"} ${i.from?.offset ?? "?"}-${i.to?.offset ?? "?"} ${i.reason}]`;
}
