// What a room makes of what its subscription brings, whatever comes first.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Room } from "../page/room.js";

/** A room whose broker is the test: `bring` is what its subscription yields. */
function open() {
  const published = [];
  let bring;
  const link = {
    id: "me",
    state: "connected",
    isMine: (publisher) => publisher === "me",
    subscribe(topic, options, onItem) {
      bring = onItem;
      return { ready: Promise.resolve(), close() {} };
    },
    publish: (topic, payload, { id }) => new Promise((acknowledge, fail) => published.push({ payload, id, acknowledge, fail })),
  };
  const reads = { get: () => ({ epoch: 1, offset: 0 }), set() {} };
  const room = new Room(link, reads, "lobby", () => {});
  return { room, link, published, bring };
}

const message = (payload, epoch, offset) => ({ kind: "message", topic: "chat.lobby.messages", value: payload, publisher: "me", time: new Date(), epoch, offset, replayed: false });
const gap = (reason, from, to) => ({ kind: "gap", topic: "chat.lobby.messages", reason, from, to, count: from && to && to.offset - from.offset });
const texts = (entries) => entries.filter((e) => e.kind === "message").map((e) => e.text);
const settled = () => new Promise((done) => setImmediate(done));

// The broker has begun anew: the gap and what was sent again come on one stream, the
// acknowledgement on another, at any time.
for (const order of [
  ["ack", "gap", "message"],
  ["gap", "ack", "message"],
  ["gap", "message", "ack"],
]) {
  test(`what was held has one line: ${order.join(", ")}`, async () => {
    const { room, published, bring } = open();
    room.say("Ada", "held", undefined);
    const [{ payload, acknowledge }] = published;
    const happens = {
      ack: () => acknowledge({ epoch: 2, offset: 1 }),
      gap: () => bring(gap("reconnect", { epoch: 1, offset: 7 })),
      message: () => bring(message(payload, 2, 1)),
    };
    for (const what of order) {
      happens[what]();
      await settled();
    }
    assert.deepEqual(texts(room.entries), ["held"]);
    assert.equal(room.pending.length, 0);
    assert.equal(room.entries.filter((e) => e.kind === "gap").length, 1);
  });
}

// Two messages of one's own: the gap covers the first one.
for (const ackFirst of [true, false]) {
  test(`what lies in a gap gets its place before it, acknowledged ${ackFirst ? "before" : "after"} it`, async () => {
    const { room, published, bring } = open();
    room.say("Ada", "missed", undefined);
    room.say("Ada", "comes", undefined);
    const acknowledge = async () => {
      published.forEach((p, i) => p.acknowledge({ epoch: 1, offset: 5 + i }));
      await settled();
    };
    if (ackFirst) await acknowledge();
    bring(gap("overflow", { epoch: 1, offset: 3 }, { epoch: 1, offset: 5 }));
    if (!ackFirst) await acknowledge();
    assert.deepEqual(texts(room.pending), ["comes"]);
    bring(message(published[1].payload, 1, 6));
    assert.deepEqual(texts(room.entries), ["missed", "comes"]);
    assert.equal(room.pending.length, 0);
  });
}

test("what was acknowledged by a broker that has begun anew since does not come", async () => {
  const { room, published, bring } = open();
  room.say("Ada", "gone", undefined);
  published[0].acknowledge({ epoch: 1, offset: 9 });
  await settled();
  bring(gap("reconnect", { epoch: 1, offset: 8 }));
  assert.deepEqual(texts(room.entries), ["gone"]);
  assert.equal(room.pending.length, 0);
});
