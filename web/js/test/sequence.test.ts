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
    return this.sequence.announce({ topic, name, epoch, offset }, 0)?.number;
  }

  /** A reliable message by stream. */
  stream(offset: number, m: Partial<MessageFrame> = {}): void {
    const cost = 10;
    this.queue.pending += cost;
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
    expect(this.queue.pending).toBe(0);
    return items.join(" ");
  }
}

function short(g: Gap): string {
  const count = g.count === undefined ? "" : ` ${g.count}`;
  return `[${g.topic ?? "*"} ${g.from?.offset ?? "?"}-${g.to?.offset ?? "?"} ${g.reason}${count}]`;
}

describe("reliable", () => {
  test("a gap begins behind what has come", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.gap({ epoch: 7, from: 0, to: 13, reason: 3 });
    s.stream(14);
    expect(await s.got()).toBe("a11 [a 11-13 lost] a14");
  });

  test("what gives way to messages of other topics is told", async () => {
    const s = new Script("reliable");
    for (let topic = 2; topic <= 66; topic++) {
      s.announce(topic, `t${topic}`, 8, 0);
      s.datagram(1, { topic, reliable: 0 });
    }
    s.datagram(2, { topic: 66, reliable: 0 });
    expect(await s.got()).toMatch(/^\[t2 \?-\? overflow 1\] t31~ .* \[t66 0-1 conflated 1\] t662~$/);
  });

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

  test("a gap of unknown extent covers no hole", async () => {
    const s = new Script("reliable");
    s.gap({ topic: 0, reason: 7 });
    s.stream(20);
    s.stream(30);
    expect(await s.got()).toBe("[* ?-? bus] [a 10-19 lost 9] a20 [a 20-29 lost 9] a30");
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
    expect(await s.got()).toBe("[a 100-200 overflow] [a 10-14 lost 4] a15");
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
    s.sequence.skip({ topic: 1, to: 12 });
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

describe("latest", () => {
  test("everything comes by stream, and what the broker conflated is a gap", async () => {
    const s = new Script("latest");
    s.datagram(11, { reliable: 0 }); // another subscription's
    s.stream(11, { reliable: 0 });
    s.gap({ from: 11, to: 15, reason: 2, count: 4 });
    s.stream(16, { key: "k" });
    expect(await s.got()).toBe("a11~ [a 11-15 conflated 4] a16");
    expect(s.drops).toEqual([]);
  });

  test("nothing gives way in the queue: credit bounds it", async () => {
    const s = new Script("latest");
    for (let offset = 11; offset < 211; offset++) s.stream(offset, { reliable: 0 });
    expect((await s.got()).split(" ")).toHaveLength(200);
  });
});

describe("sequenced with keys", () => {
  test("an older message of another key comes, one of the same key does not", async () => {
    const s = new Script("sequenced");
    s.datagram(12, { key: "x" });
    s.datagram(11, { key: "y" });
    s.datagram(13, { key: "y" });
    s.datagram(11, { key: "x" });
    s.datagram(12, { key: "y" });
    expect(await s.got()).toBe("[a 10-11 lost 1] a12 a11 a13");
    expect(s.drops).toEqual(["late", "late"]);
  });

  test("a key that was forgotten counts as the topic does", async () => {
    const s = new Script("sequenced");
    s.datagram(11, { key: "first" });
    for (let i = 0; i < 1024; i++) s.datagram(12 + i, { key: `k${i}` });
    s.datagram(1200, { key: "z", previous: 100 });
    s.datagram(500, { key: "first" });
    expect(s.drops.filter((d) => d === "late")).toHaveLength(1);
    s.datagram(1100, { key: "first" });
    expect(s.drops.filter((d) => d === "late")).toHaveLength(1);
  });

  test("in the queue the oldest of the same key gives way", async () => {
    const s = new Script("sequenced");
    for (let offset = 11; offset < 11 + 64; offset++) s.datagram(offset, { key: `k${offset}` });
    s.datagram(75, { key: "k13" });
    const got = await s.got();
    expect(got).toMatch(/^a11 a12 \[a 12-13 conflated 1\] a14 .* a75$/);
  });
});

describe("unreliable", () => {
  test("all comes as it comes, and there are no gaps", async () => {
    const s = new Script("unreliable");
    s.datagram(15);
    s.datagram(12);
    s.datagram(12);
    s.stream(20, { reliable: 3 });
    for (let offset = 30; offset < 100; offset++) s.datagram(offset);
    const items = (await s.got()).split(" ");
    expect(items).toHaveLength(64);
    expect(items.at(-1)).toBe("a99");
    expect(items.join()).not.toContain("[");
  });
});

test.each(["reliable", "sequenced", "unreliable"] as const)(
  "in class %s a datagram from before the subscription is dropped",
  async (cls) => {
    const s = new Script(cls);
    s.sequence.announce({ topic: 2, name: "b", epoch: 7, offset: 0, last: 5 }, 0);
    s.datagram(5, { topic: 2, key: "k", reliable: 0 });
    s.datagram(6, { topic: 2, key: "k", reliable: 0, previous: 6 });
    expect(await s.got()).toBe("b6~");
    expect(s.drops).toEqual(["late"]);
  },
);

describe("the class in force", () => {
  test("is the weaker one", async () => {
    const s = new Script("reliable");
    s.sequence.announce({ topic: 2, name: "b", epoch: 7, offset: 0, class: 2 }, 0);
    s.datagram(2, { topic: 2 });
    expect(await s.got()).toBe("[b 0-1 lost 1] b2");
    const t = new Script("unreliable");
    t.sequence.announce({ topic: 2, name: "b", epoch: 7, offset: 0, class: 0 }, 0);
    t.datagram(2, { topic: 2 });
    expect(await t.got()).toBe("b2");
  });
});

describe("a group", () => {
  test("waits with a lossy message for no reliable one: another member may have it", async () => {
    const script = new Script("reliable", false);
    script.stream(12, { reliable: 1 });
    script.stream(14, { reliable: 1 });
    script.stream(13);
    expect(await script.got()).toBe("a12~ a14~ a13");
    expect(script.drops).toEqual([]);
  });

  test("has no order, and nothing is late", async () => {
    const s = new Script("reliable", false);
    s.stream(15);
    s.stream(12);
    s.stream(12);
    expect(await s.got()).toBe("a15 a12 a12");
  });
});

describe("own messages", () => {
  test("by datagram count as having come", async () => {
    const s = new Script("sequenced");
    s.sequence.datagram(messageFrame({ offset: 11 }), true);
    s.datagram(12);
    s.sequence.datagram(messageFrame({ offset: 15 }), true);
    s.sequence.datagram(messageFrame({ offset: 13 }), true);
    s.datagram(16);
    expect(await s.got()).toBe("a12 [a 12-14 lost 2] a16");
  });

  test("wait for their reliable one, which is not late then", async () => {
    const s = new Script("reliable");
    s.sequence.datagram(messageFrame({ offset: 12, reliable: 1 }), true);
    s.stream(11);
    s.stream(13);
    expect(await s.got()).toBe("a11 a13");
    expect(s.drops).toEqual([]);
  });
});

describe("a hole before a gap", () => {
  test("is a gap of its own", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.gap({ from: 15, to: 20 });
    s.stream(21);
    expect(await s.got()).toBe("a11 [a 11-15 lost 4] [a 15-20 overflow] a21");
  });

  test("is told once where the gap has no end", async () => {
    const s = new Script("reliable");
    s.stream(11);
    s.gap({ from: 15, reason: 7 });
    s.stream(19);
    expect(await s.got()).toBe("a11 [a 11-15 lost 4] [a 15-? bus] [a 15-18 lost 3] a19");
  });

  test("is none where it was withheld", async () => {
    const s = new Script("reliable");
    s.sequence.skip({ topic: 1, to: 15 });
    s.gap({ from: 15, to: 20 });
    expect(await s.got()).toBe("[a 15-20 overflow]");
  });
});

describe("a gap that was told already", () => {
  test("is not told again", async () => {
    const s = new Script("reliable");
    s.stream(15);
    s.gap({ from: 10, to: 14 });
    expect(await s.got()).toBe("[a 10-14 lost 4] a15");
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

test("topics beyond the bound are forgotten, the one announced longest ago first", async () => {
  const s = new Script("reliable");
  const bound = 32_768;
  let forgotten = 0;
  for (let n = 2; n <= bound; n++) if (s.announce(n, `t${n}`, 7, 0) !== undefined) forgotten++;
  expect(forgotten).toBe(0);
  s.announce(1, "a", 7, 10); // again, so that the second is the oldest
  expect(s.announce(bound + 1, "new", 7, 0)).toBe(2);
  expect(s.sequence.knows("t2")).toBe(false);
  s.stream(11);
  s.stream(1, { topic: 2 });
  s.gap({ topic: 2, from: 1, to: 2 });
  s.sequence.skip({ topic: 2, to: 3 });
  s.datagram(4, { topic: 2, reliable: 0 });
  s.stream(12);
  expect(await s.got()).toBe("a11 [* ?-? unknown] [* ?-? overflow] a12");
  expect(s.drops).toEqual(["unknown_topic"]);
});

test("class unreliable has no gaps, whatever the broker tells", async () => {
  const s = new Script("unreliable");
  s.gap({ epoch: 7, from: 10, to: 12 });
  s.gap({ topic: 0, reason: 7 });
  s.announce(2, "a", 8, 0);
  s.stream(13);
  s.stream(5, { topic: 2 });
  expect(await s.got()).toBe("a5");
});

test("a stalled member keeps what waits over connections, within its credit", async () => {
  const s = new Script("reliable", false);
  const size = 10;
  s.stream(11);
  s.gap({ topic: 0, reason: 1, count: 3 });
  s.stream(12);
  s.queue.forgetCredit(3 * size);
  expect(s.queue.pending).toBe(0);
  for (const offset of [13, 14, 15]) s.stream(offset);
  s.queue.forgetCredit(3 * size);
  s.stream(16);
  s.queue.forgetCredit(3 * size);
  s.stream(17);
  expect(s.queue.pending).toBe(size);
  expect(await s.got()).toBe("a11 [* ?-? overflow 3] a12 a13 [* ?-? overflow 3] a17");
  expect([s.queue.pending, s.drops]).toEqual([0, ["queue", "queue", "queue"]]);
});

test("a message of the number that a topic had before is a gap", async () => {
  const s = new Script("reliable");
  s.stream(11);
  s.announce(2, "a", 8, 0);
  s.stream(12);
  s.stream(1, { topic: 2 });
  expect(await s.got()).toBe("a11 [* ?-? unknown] a1");
});
