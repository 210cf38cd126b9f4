// PROTOCOL §9, through the queue: what the application gets in the end.

import { describe, expect, test } from "vitest";
import type { DropReason } from "../src/drops.js";
import type { GapFrame, MessageFrame } from "../src/frames.js";
import type { Gap } from "../src/message.js";
import { ItemQueue } from "../src/queue.js";
import { Sequence } from "../src/sequence.js";
import { messageFrame } from "./mock.js";

/** A subscription to topic 1, announced at offset 10 of epoch 7. */
class Script {
  readonly drops: DropReason[] = [];
  readonly queue = new ItemQueue({ freed: () => {}, dropped: (reason) => this.drops.push(reason) });
  readonly sequence: Sequence;

  constructor(cls: "reliable" | "latest" | "sequenced" | "unreliable", ordered = true) {
    const number = ["reliable", "latest", "sequenced", "unreliable"].indexOf(cls);
    this.sequence = new Sequence(number, this.queue, ordered);
    this.announce(1, "a", 7, 10);
  }

  announce(topic: number, name: string, epoch: number, offset: number): number | undefined {
    return this.sequence.announce({ topic, name, epoch, offset }, 0);
  }

  /** A reliable message by stream. */
  stream(offset: number, m: Partial<MessageFrame> = {}): void {
    const cost = 10;
    this.queue.waiting += cost;
    this.sequence.message(messageFrame({ offset, ...m }), cost);
  }

  datagram(offset: number, m: Partial<MessageFrame> = {}): void {
    this.sequence.datagram(messageFrame({ offset, ...m }));
  }

  /** A lossy message by datagram, that many behind the last reliable one. */
  lossy(offset: number, reliable: number, previous = 1): void {
    this.datagram(offset, { reliable, previous });
  }

  gap(g: Partial<GapFrame>): void {
    const none = { epoch: undefined, from: undefined, to: undefined, count: undefined };
    this.sequence.gap({ topic: 1, reason: 1, ...none, ...g });
  }

  /** Everything that the application would get now, in short. */
  async got(): Promise<string> {
    const items: string[] = [];
    this.queue.end(undefined, false);
    for (let e = await this.queue.take(); e; e = await this.queue.take()) {
      if (e.kind === "gap") items.push(short(e));
      else if (e.kind !== "arrival") items.push(e.kind);
      else items.push(`${e.topic.name}${e.frame.offset}${e.frame.reliable === undefined ? "" : "~"}`);
    }
    expect(this.queue.waiting).toBe(0);
    return items.join(" ");
  }
}

function short(g: Gap): string {
  const count = g.count === undefined ? "" : ` ${g.count}`;
  return `[${g.topic ?? "*"} ${g.from?.offset ?? "?"}-${g.to?.offset ?? "?"} ${g.reason}${count}]`;
}

describe("reliable", () => {
  test("messages in order", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.stream(13, { previous: 2 });
    expect(await s.got()).toBe("a11 a13");
  });

  test("a lossy message that comes in order is merged", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.lossy(12, 1);
    s.stream(13);
    expect(await s.got()).toBe("a11 a12~ a13");
  });

  test("a lossy message waits for its reliable one", async () => {
    const s = new Script("reliable");
    s.lossy(13, 1);
    s.stream(11);
    s.stream(12);
    expect(await s.got()).toBe("a11 a12 a13~");
    expect(s.drops).toEqual([]);
  });

  test("of those that wait only the newest is kept", async () => {
    const s = new Script("reliable");
    s.lossy(12, 1);
    s.lossy(13, 2);
    s.stream(11);
    expect(await s.got()).toBe("a11 [a 11-12 lost 1] a13~");
    expect(s.drops).toEqual(["superseded"]);
  });

  test("an older one does not take the place of a newer one that waits", async () => {
    const s = new Script("reliable");
    s.lossy(13, 2);
    s.lossy(12, 1);
    s.stream(11);
    expect(await s.got()).toBe("a11 [a 11-12 lost 1] a13~");
    expect(s.drops).toEqual(["late"]);
  });

  test("one that waits is dropped when something newer came first", async () => {
    const s = new Script("reliable");
    s.lossy(12, 1); // wants 11, which never comes
    s.stream(13, { previous: 1 });
    expect(await s.got()).toBe("[a 10-12 lost 2] a13");
    expect(s.drops).toEqual(["late"]);
  });

  test("a lossy message that is older than the last one is dropped", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.stream(13, { previous: 1 });
    s.lossy(12, 1);
    expect(await s.got()).toBe("a11 [a 11-12 lost 1] a13");
    expect(s.drops).toEqual(["late"]);
  });

  test("a lossy message before any reliable one of the epoch waits for nothing", async () => {
    const s = new Script("reliable");
    s.announce(2, "b", 1, 0);
    s.datagram(1, { topic: 2, reliable: 0 });
    expect(await s.got()).toBe("b1~");
  });

  test("a reliable message by datagram is another subscription's", async () => {
    const s = new Script("reliable");
    s.datagram(11);
    s.stream(11);
    expect(await s.got()).toBe("a11");
    expect(s.drops).toEqual([]);
  });

  test("a reliable message that is not new is an error of the broker", async () => {
    const s = new Script("reliable");
    s.stream(11);
    expect(() => s.stream(11)).toThrow(expect.objectContaining({ codeName: "protocol_violation" }));
    expect(await s.got()).toBe("a11");
  });

  test("a message of a topic that was not announced is an error of the broker", () => {
    const s = new Script("reliable");
    expect(() => s.stream(1, { topic: 9 })).toThrow(
      expect.objectContaining({ codeName: "protocol_violation" }),
    );
  });

  test("a gap that was told is not told again", async () => {
    const s = new Script("reliable");
    s.gap({ from: 10, to: 19, count: 9 });
    s.stream(20);
    expect(await s.got()).toBe("[a 10-19 overflow 9] a20");
  });

  test("a gap of unknown extent covers the next hole, and no further one", async () => {
    const s = new Script("reliable");
    s.gap({ topic: 0, reason: 7 });
    s.stream(20);
    s.stream(30);
    expect(await s.got()).toBe("[* ?-? bus] a20 [a 20-29 lost 9] a30");
  });

  test("a gap lets a lossy message go that waited", async () => {
    const s = new Script("reliable");
    s.lossy(16, 1);
    s.gap({ from: 10, to: 15 });
    expect(await s.got()).toBe("[a 10-15 overflow] a16~");
  });

  test("a gap in another epoch says nothing about offsets of this one", async () => {
    const s = new Script("reliable");
    s.gap({ epoch: 8, from: 100, to: 200 });
    s.stream(15);
    expect(await s.got()).toBe("[a 100-200 overflow] a15");
  });

  test("what was withheld is no gap", async () => {
    const s = new Script("reliable");
    s.sequence.skip({ topic: 1, to: 14 });
    s.stream(15);
    expect(await s.got()).toBe("a15");
  });

  test("announced again in the same epoch, what came counts", async () => {
    const s = new Script("reliable");
    s.stream(11);
    expect(s.announce(1, "a", 7, 20)).toBeUndefined();
    s.stream(21);
    expect(await s.got()).toBe("a11 [a 11-20 lost 9] a21");
  });

  test("a new epoch begins anew", async () => {
    const s = new Script("reliable");
    s.lossy(13, 1);
    expect(s.announce(1, "a", 8, 3)).toBeUndefined();
    s.stream(4);
    expect(await s.got()).toBe("a4");
    expect(s.drops).toEqual(["late"]);
  });

  test("a topic that comes under another number leaves the old one", async () => {
    const s = new Script("reliable");
    expect(s.announce(5, "a", 8, 0)).toBe(1);
    expect(() => s.sequence.skip({ topic: 1, to: 12 })).toThrow("topic 1 is not announced");
    s.stream(1, { topic: 5 });
    expect(await s.got()).toBe("a1");
  });

  test("the position is how far everything has come", () => {
    const s = new Script("reliable");
    s.stream(11);
    const positions = () => [...s.sequence.topics].map((t) => [t.name, t.epoch, t.last]);
    expect(positions()).toEqual([["a", 7, 11]]);
    s.gap({ from: 11, to: 15 });
    expect(positions()).toEqual([["a", 7, 15]]);
  });
});

describe("sequenced", () => {
  test("only what is newer comes", async () => {
    const s = new Script("sequenced");
    s.datagram(12);
    s.datagram(11);
    s.datagram(13);
    expect(await s.got()).toBe("[a 10-11 lost 1] a12 a13");
    expect(s.drops).toEqual(["late"]);
  });

  test("lossy messages wait for nothing", async () => {
    const s = new Script("sequenced");
    s.lossy(12, 1);
    s.stream(13);
    expect(await s.got()).toBe("[a 10-11 lost 1] a12~ a13");
  });
});

describe("the queue", () => {
  test("without an application the newest lossy messages are kept", async () => {
    const s = new Script("reliable");
    s.stream(11);
    for (let offset = 12; offset < 12 + 66; offset++) s.lossy(offset, offset - 11);
    const got = await s.got();
    expect(got).toMatch(/^a11 \[a 11-13 conflated 2\] a14~ a15~ .* a77~$/);
    expect(got.split(" ")).toHaveLength(1 + 4 + 64);
    expect(s.drops).toEqual(["queue", "queue"]);
  });

  test("reliable messages are kept meanwhile", async () => {
    const s = new Script("reliable");
    for (let offset = 11; offset < 11 + 200; offset += 2) {
      s.stream(offset);
      s.lossy(offset + 1, 1);
    }
    const items = (await s.got()).split(" ").filter((i) => /^a\d+$/.test(i));
    expect(items).toHaveLength(100);
    expect(s.drops).toHaveLength(36);
  });

  test("a topic that changes often does not push out another one", async () => {
    const s = new Script("sequenced");
    s.announce(2, "b", 1, 0);
    s.datagram(1, { topic: 2 });
    for (let offset = 11; offset < 200; offset++) s.datagram(offset);
    expect(await s.got()).toMatch(/^b1 \[a 10-136 conflated 126\] a137 /);
  });

  test("what was lost on the way and what gave way here are one gap", async () => {
    const s = new Script("sequenced");
    for (let offset = 11; offset < 11 + 64; offset++) s.datagram(offset);
    s.datagram(80); // 75 to 79 were lost; 11 gives way
    s.datagram(81); // 12 gives way
    const got = await s.got();
    expect(got).toMatch(/^\[a 10-12 conflated 2\] a13 /);
    expect(got).toMatch(/ a74 \[a 74-79 lost 5\] a80 a81$/);
  });

  test("gaps of one kind that wait become one", async () => {
    const s = new Script("reliable");
    s.gap({ from: 10, to: 12, count: 2 });
    s.gap({ from: 12, to: 15, count: 3 });
    s.queue.end(undefined, false);
    expect(await s.queue.take()).toEqual({
      kind: "gap",
      topic: "a",
      from: { epoch: 7, offset: 10 },
      to: { epoch: 7, offset: 15 },
      reason: "overflow",
      count: 5,
    });
    expect(await s.queue.take()).toBeUndefined();
  });

  test("too many gaps become one of unknown extent", async () => {
    const s = new Script("reliable");
    for (let offset = 11; offset < 11 + 600; offset += 2) {
      s.stream(offset);
      s.gap({ from: offset, to: offset + 1, reason: offset % 4 === 1 ? 1 : 7 });
    }
    const items = (await s.got()).match(/\[.*?\]/g) ?? [];
    expect(items).toHaveLength(256);
    expect(items.at(-1)).toBe("[* ?-? unknown]");
    expect(items.at(-2)).toBe("[a 519-520 bus]");
  });

  test("those who wait are served in turn, and all of them at the end", async () => {
    const s = new Script("reliable");
    const waiting = [s.queue.take(), s.queue.take(), s.queue.take()];
    s.stream(11);
    s.stream(12);
    s.queue.end(undefined, false);
    const offsets = (await Promise.all(waiting)).map((e) => e?.kind === "arrival" && e.frame.offset);
    expect(offsets).toEqual([11, 12, false]);
  });

  test("an end with an error is told once, behind what waited", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.queue.end(new Error("over") as never, false);
    expect(await s.queue.take()).toMatchObject({ frame: { offset: 11 } });
    await expect(s.queue.take()).rejects.toThrow("over");
    expect(await s.queue.take()).toBeUndefined();
  });

  test("an end may discard what waits", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.stream(15);
    s.queue.end(undefined, true);
    expect(await s.queue.take()).toBeUndefined();
  });

  test("thousands that wait are taken in order", async () => {
    const s = new Script("reliable");
    for (let offset = 11; offset < 5011; offset++) s.stream(offset);
    const items = (await s.got()).split(" ");
    expect(items).toHaveLength(5000);
    expect(items[4999]).toBe("a5010");
  });
});
