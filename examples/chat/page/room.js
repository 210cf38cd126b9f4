// A room as this page knows it: what was said, and what is on its way. It has no
// elements; timeline.js shows it.

import { topics, readSaid } from "./payload.js";

/** Entries that a room keeps; the oldest give way. */
const MAX_ENTRIES = 300;
/** Messages that may wait for a connection. */
const MAX_HELD = 20;
/** Read before typing and pointers when the connection is busy. */
const PRIORITY = 2;

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

/** Thrown when no more messages may wait. */
export class TooManyHeld extends Error {}

export class Room {
  /** Messages and gaps in the order of the topic. */
  entries = [];
  /** One's own messages that have not come back yet. */
  pending = [];
  #covered; // where the last gap ends: messages up to there do not come any more
  unread = 0;
  #link;
  #changed;
  #subscription;

  /**
   * Subscribes. `changed(room, change, entry)` is called with the changes "add",
   * "pending", "update", "settle" (a pending one has its place), "discard",
   * and "trim".
   */
  constructor(link, name, changed) {
    this.name = name;
    this.#link = link;
    this.#changed = (change, entry) => changed(this, change, entry);
    this.#subscription = link.subscribe(
      topics.messages(name),
      { priority: PRIORITY },
      (item) => (item.kind === "gap" ? this.#gap(item) : this.#message(item)),
      (error) => this.#add({ kind: "end", text: "This room cannot be read any longer.", code: error.codeName ?? error.name }),
    );
  }

  /** Resolves when what is said comes. */
  get ready() {
    return this.#subscription.ready;
  }

  close() {
    this.#subscription.close();
  }

  #add(entry) {
    this.entries.push(entry);
    this.#changed("add", entry);
    if (this.entries.length > MAX_ENTRIES) this.#changed("trim", this.entries.shift());
  }

  #message(m) {
    const said = readSaid(m);
    if (!said) return;
    const { epoch, offset } = m;
    this.#settleBefore({ epoch, offset });
    const mine = m.publisher === this.#link.id;
    const pending = this.pending.find((e) => e.id === said.id && e.text === said.text);
    const entry = { kind: "message", ...said, mine: mine || pending !== undefined, publisher: m.publisher, time: m.time, key: `${epoch}-${offset}`, state: "sent" };
    if (pending) {
      this.#remove(pending);
      this.#changed("settle", pending);
    } else if (said.id && this.entries.some((e) => e.id === said.id && e.text === said.text)) {
      return; // sent once more by somebody who did not know that it had arrived
    }
    this.#add(entry);
  }

  #gap(gap) {
    if (gap.count === 0) return; // nothing was missed
    // One's own acknowledged messages in it will not come back.
    for (const e of [...this.pending]) if (e.state === "sent") this.#settle(e);
    const { from, to } = gap;
    if (to) this.#covered = to;
    const most = from && to && from.epoch === to.epoch ? to.offset - from.offset : undefined;
    this.#add({ kind: "gap", count: gap.count, most, reason: gap.reason, time: new Date() });
  }

  /** Gives acknowledged messages their place that should have come before a position. */
  #settleBefore({ epoch, offset }) {
    for (const e of [...this.pending]) {
      if (e.position?.epoch === epoch && e.position.offset < offset) this.#settle(e);
    }
  }

  #settle(entry) {
    this.#remove(entry);
    this.#changed("settle", entry);
    this.#add({ ...entry, key: `${entry.position.epoch}-${entry.position.offset}` });
  }

  #remove(entry) {
    this.pending.splice(this.pending.indexOf(entry), 1);
  }

  /**
   * Says something. Without a connection it is held back until there is one again;
   * throws TooManyHeld when too many are.
   */
  say(name, text) {
    if (this.pending.filter((e) => e.state === "held").length >= MAX_HELD) throw new TooManyHeld(`${MAX_HELD} messages wait already`);
    const entry = { kind: "message", id: newId(), name, text, mine: true, publisher: this.#link.id, time: new Date() };
    this.pending.push(entry);
    void this.#send(entry);
    this.#changed("pending", entry);
  }

  /** Sends a message once more, under the same id. */
  again(entry) {
    void this.#send(entry);
    this.#changed("update", entry);
  }

  discard(entry) {
    this.#remove(entry);
    this.#changed("discard", entry);
  }

  async #send(entry) {
    entry.state = this.#link.state === "connected" ? "sending" : "held";
    try {
      entry.position = await this.#link.publish(topics.messages(this.name), { id: entry.id, name: entry.name, text: entry.text });
      entry.state = "sent";
    } catch (error) {
      entry.state = "failed";
      entry.error = error;
    }
    if (!this.pending.includes(entry)) return;
    // The answer may come behind the gap that the message itself lies in.
    const { position } = entry;
    if (entry.state === "sent" && position.epoch === this.#covered?.epoch && position.offset <= this.#covered.offset) this.#settle(entry);
    else this.#changed("update", entry);
  }

  /** The connection is back: what was held is on its way. */
  connected() {
    for (const e of this.pending) {
      if (e.state !== "held") continue;
      e.state = "sending";
      this.#changed("update", e);
    }
  }
}
