// A room as this page knows it: what was said, and what is on its way. It has no
// elements; timeline.js shows it.

import { topics, readSaid } from "./payload.js";

/** Entries that a room keeps; the oldest give way, and can be fetched again. */
const MAX_ENTRIES = 1000;
/** Messages with which one who was never here begins, and of a page of older ones. */
const PAGE = 40;
/** Read before typing and pointers when the connection is busy. */
const PRIORITY = 2;
/** The longest wait that timers know, in milliseconds. */
const MAX_TIMER = 2 ** 31 - 1;

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
const keyOf = ({ epoch, offset }) => `${epoch}-${offset}`;

export class Room {
  /** Messages and lines between them, in the order of the topic. */
  entries = [];
  /** One's own messages that have not come back yet. */
  pending = [];
  /** How many messages nobody has looked at. */
  unread = 0;
  #link;
  #reads;
  #changed;
  #subscription;
  #looking = false;
  #resumes; // what is replayed was missed, and is not just what was said before one came
  #line; // the line above what was missed
  #before; // there may be older messages before this position
  #isFirst; // what comes next is the oldest that is known
  #fetching = false;
  #context;
  #covered; // where the last gap ends: messages up to there do not come any more

  /**
   * Subscribes: from where one has read, or with the newest messages. `changed(room,
   * change, entry)` is called with the changes "add", "pending", "update", "settle" (a
   * pending one has its place), "remove", and "older" (entries came at the beginning).
   */
  constructor(link, reads, name, changed) {
    this.name = name;
    this.#link = link;
    this.#reads = reads;
    this.#changed = (change, entry) => changed(this, change, entry);
    const read = reads.get(name);
    this.#resumes = read !== undefined;
    this.#isFirst = !read;
    if (read) this.#before = { epoch: read.epoch, offset: read.offset + 1 };
    this.#subscription = link.subscribe(
      topics.messages(name),
      { priority: PRIORITY, from: read ? { position: read } : { last: PAGE } },
      (item) => (item.kind === "gap" ? this.#gap(item) : this.#message(item)),
      (error) => this.#add({ kind: "end", text: "This room cannot be read any longer.", code: error.codeName ?? error.name }),
    );
  }

  /** Resolves when what is said comes. */
  get ready() {
    return this.#subscription.ready.catch(() => {});
  }

  close() {
    this.#subscription.close();
  }

  /** Somebody looks at the room, or no longer does. */
  look(looking) {
    this.#looking = looking;
    if (looking) this.#read();
    else this.#line = undefined; // what comes now stands below a line of its own
  }

  #read() {
    this.unread = 0;
    const last = this.entries.findLast((e) => e.position);
    if (last) this.#reads.set(this.name, last.position);
  }

  /** The connection is back: what was held is on its way, and what was missed comes. */
  connected() {
    this.#resumes = true;
    if (this.#looking) this.#line = undefined;
    for (const e of this.pending) {
      if (e.state !== "held") continue;
      e.state = "sending";
      this.#changed("update", e);
    }
  }

  /** Whether there may be older messages. */
  get hasOlder() {
    return this.#before !== undefined;
  }

  /** Fetches what was read before, once. Rejects with the TidewireError. */
  fetchContext() {
    return (this.#context ??= this.fetchOlder());
  }

  /** Fetches older messages, likewise. */
  async fetchOlder() {
    const before = this.#before;
    if (!before || this.#fetching) return;
    this.#fetching = true;
    try {
      const page = await this.#link.client.history(topics.messages(this.name), { from: { position: before }, backward: true, limit: PAGE });
      this.#before = page.next;
      if (page.last.epoch !== before.epoch) this.#before = undefined; // the broker began anew, and has nothing from then
      else this.entries.unshift(...page.messages.map((item) => this.#entryOf(item)).filter(Boolean).reverse());
    } finally {
      this.#fetching = false;
    }
    this.#changed("older");
  }

  #add(entry) {
    this.entries.push(entry);
    this.#changed("add", entry);
    if (this.entries.length <= MAX_ENTRIES) return;
    this.#changed("remove", this.entries.shift());
    this.#before = this.entries.find((e) => e.position)?.position ?? this.#before;
  }

  #remove(entry) {
    for (const list of [this.entries, this.pending]) {
      const at = list.indexOf(entry);
      if (at >= 0) list.splice(at, 1);
    }
  }

  #drop(entry) {
    this.#remove(entry);
    this.#changed("remove", entry);
  }

  /** Makes an entry of what comes; undefined for what is not shown. */
  #entryOf(item) {
    if (item.kind === "gap") {
      if (item.reason === "expired" || item.count === 0) return undefined; // what was to fade is not missed
      const { from, to } = item;
      const most = from && to && from.epoch === to.epoch ? to.offset - from.offset : undefined;
      return { kind: "gap", count: item.count, most, reason: item.reason, time: new Date() };
    }
    const said = readSaid(item);
    if (!said) return undefined;
    const { epoch, offset, publisher, time, expires } = item;
    const entry = { kind: "message", ...said, mine: this.#link.isMine(publisher), publisher, time, expires, position: { epoch, offset }, key: keyOf(item), state: "sent" };
    if (expires) setTimeout(() => this.#drop(entry), Math.min(expires - Date.now(), MAX_TIMER));
    return entry;
  }

  #message(m) {
    const entry = this.#entryOf(m);
    if (!entry) return;
    this.#settleBefore(m);
    // The id tells one's own, also when the broker knew this page by another one.
    const pending = this.pending.find((e) => e.id === entry.id && e.text === entry.text);
    if (pending) {
      entry.mine = true;
      this.#remove(pending);
      this.#changed("settle", pending);
    }
    if (this.#isFirst && m.offset > 1) this.#before = entry.position;
    this.#isFirst = false;
    const missed = !entry.mine && (m.replayed ? this.#resumes : !this.#looking);
    if (missed) this.#count();
    if (missed && !this.#looking) this.unread++;
    this.#add(entry);
    if (this.#looking) this.#read();
  }

  /** Counts a missed message on the line above it and its like. */
  #count() {
    if (this.#line) {
      this.#line.count++;
      return this.#changed("update", this.#line);
    }
    this.#forgetLine();
    this.#line = { kind: "unread", count: 1 };
    this.#add(this.#line);
  }

  #forgetLine() {
    this.#line = undefined;
    const old = this.entries.find((e) => e.kind === "unread");
    if (old) this.#drop(old);
  }

  #gap(gap) {
    const entry = this.#entryOf(gap);
    if (!entry) return;
    // One's own acknowledged messages in it will not come back, and no others are in it.
    const { from, to, reason } = gap;
    if (to) {
      this.#settleBefore({ epoch: to.epoch, offset: to.offset + 1 });
      this.#covered = to;
    } else if (from && reason === "reconnect") {
      this.#settleBefore({ epoch: from.epoch, offset: Infinity }); // that epoch has ended
    }
    this.#add(entry);
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
    this.#add({ ...entry, key: keyOf(entry.position) });
  }

  /**
   * Says something, with `ttl` for so many milliseconds. Without a connection it waits
   * in the client, which sends it when there is one again.
   */
  say(name, text, ttl) {
    const entry = { kind: "message", id: newId(), name, text, ttl, mine: true, publisher: this.#link.id, time: new Date() };
    this.#forgetLine();
    this.pending.push(entry);
    void this.#send(entry);
    this.#changed("pending", entry);
  }

  /** Sends a message once more, under the same id: should it have arrived, it does not come twice. */
  again(entry) {
    void this.#send(entry);
    this.#changed("update", entry);
  }

  discard(entry) {
    this.#drop(entry);
  }

  async #send(entry) {
    const { id, name, text, ttl } = entry;
    entry.state = this.#link.state === "connected" ? "sending" : "held";
    try {
      entry.position = await this.#link.publish(topics.messages(this.name), { id, name, text }, { id, ...(ttl && { ttl }) });
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
}
