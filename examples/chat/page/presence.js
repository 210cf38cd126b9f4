// Who is in which room: everybody announces it again and again, and an
// announcement that is not repeated runs out.

import { HERE_EVERY, HOLDS, readAnnouncement, topics } from "./payload.js";

/** People that are kept, of all rooms together. */
const MAX_PEOPLE = 500;
/** Within this time one answers somebody who asks, so that not all answer at once. */
const ANSWER_MS = 400;
const SWEEP_MS = 1000;
/** How long a page is in the background until it says so. */
const AWAY_AFTER = 1500;
const PRIORITY = 4;

export class Presence {
  #link;
  #changed;
  #name = () => "";
  #room;
  #people = new Map(); // by publisher; each has a room
  #answer; // timer of an answer that is due
  #hidden = false; // the page has been left, and may come back

  /** `name()` is one's own name; `changed()` is called when somebody came or left. */
  constructor(link, name, changed, failed) {
    this.#link = link;
    this.#name = name;
    this.#changed = changed;
    link.subscribe(topics.everywhere, { priority: PRIORITY }, (item) => item.kind === "message" && this.#meet(item), failed);
    setInterval(() => this.announce(), HERE_EVERY);
    setInterval(() => this.#sweep(), SWEEP_MS);
    // A page that is being closed becomes invisible first, and nobody is to wait for
    // one that is gone as long as for one in the background.
    document.addEventListener("visibilitychange", () => setTimeout(() => this.announce(), AWAY_AFTER));
    addEventListener("pagehide", () => {
      this.#leave();
      // A stream may not be flushed any more when a page goes; a datagram more likely is.
      this.#link.publishLossy(topics.here(this.#room), this.#announcement("left"));
      this.#hidden = true; // the page becomes invisible after this, which is no sign of life
    });
    addEventListener("pageshow", () => {
      this.#hidden = false;
      this.announce(true);
    });
  }

  /** The others in a room, in the order of their names. */
  in(room) {
    return [...this.#people.values()].filter((p) => p.room === room).sort((a, b) => a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
  }

  /** The rooms in which somebody is, with how many. */
  rooms() {
    const counts = new Map();
    for (const { room } of this.#people.values()) counts.set(room, (counts.get(room) ?? 0) + 1);
    return counts;
  }

  /** One is in another room now. */
  enter(room) {
    if (this.#room && this.#room !== room) this.#leave();
    this.#room = room;
    this.announce(true);
  }

  /** The connection is back. `renamed`: the broker knows nobody from before. */
  connected(renamed) {
    if (renamed) {
      this.#people.clear();
      this.#changed();
    }
    this.announce(true);
  }

  /** Tells that one is here; with `ask`, everybody else answers. */
  announce(ask = false) {
    this.#publish(document.hidden ? "away" : "here", ask);
  }

  #leave() {
    this.#publish("left", false);
  }

  #publish(status, ask) {
    clearTimeout(this.#answer);
    this.#answer = undefined;
    // Without a connection it would only come too late.
    if (!this.#room || this.#hidden || this.#link.state !== "connected") return;
    this.#link
      .publish(topics.here(this.#room), this.#announcement(status, ask))
      .catch(() => {}); // the next one comes soon; the foot of the page shows the error
  }

  #announcement(status, ask = false) {
    return { name: this.#name(), status, via: "browser", ask };
  }

  #meet(message) {
    const a = readAnnouncement(message);
    if (!a || message.publisher === this.#link.id) return;
    const id = message.publisher;
    const room = topics.room(message.topic);
    const before = this.#people.get(id);
    if (a.status === "left") {
      if (before?.room === room) this.#people.delete(id);
    } else if (before || this.#people.size < MAX_PEOPLE) {
      this.#people.set(id, { id, room, name: a.name, status: a.status, via: a.via, until: Date.now() + HOLDS[a.status] });
    }
    if (a.ask && room === this.#room) this.#answer ??= setTimeout(() => this.announce(), Math.random() * ANSWER_MS);
    this.#changed();
  }

  #sweep() {
    const now = Date.now();
    let gone = false;
    for (const [id, p] of this.#people) if (p.until < now) gone = this.#people.delete(id);
    if (gone) this.#changed();
  }
}
