// Who is in the room, each with a small state, and how many are in the others.

import { readPerson, topics } from "./payload.js";

/** The numbers of the rooms are asked for again after this time. */
const COUNT_EVERY = 3000;

export class Presence {
  #link;
  #name;
  #changed;
  #failed;
  #room;
  #watch;
  #counts = new Map();

  /** `name()` is one's own name; `changed()` is called when somebody came or left. */
  constructor(link, name, changed, failed) {
    this.#link = link;
    this.#name = name;
    this.#changed = changed;
    this.#failed = failed;
    setInterval(() => this.#count(), COUNT_EVERY);
    document.addEventListener("visibilitychange", () => this.announce());
    // A page that goes says so; if that is lost the broker's grace ends the presence.
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", (e) => e.persisted && this.announce());
  }

  /** The others in the room, in the order of their names. */
  others() {
    if (!this.#watch) return [];
    const others = this.#watch.members(topics.room(this.#room)).filter((m) => !this.#link.isMine(m.client));
    return others.map((m) => ({ id: m.client, ...readPerson(m) })).sort((a, b) => a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
  }

  /** The rooms in which somebody is, with how many. */
  rooms() {
    return new Map(this.#counts).set(this.#room, this.others().length + 1); // of this one it is known at once
  }

  /** One is in another room now; resolves when it is told who else is. */
  async enter(room) {
    this.#leave();
    this.#watch?.close();
    this.#room = room;
    this.#watch = this.#link.watchPresence(topics.room(room), () => this.#changed(), this.#failed);
    const { ready } = this.#watch;
    await Promise.all([ready.catch(() => {}), this.announce()]);
    void this.#count();
  }

  /** Tells who one is, and whether one looks at the page. The client repeats it after a reconnect. */
  async announce() {
    if (!this.#room) return;
    try {
      await this.#link.client.enter(topics.room(this.#room), { name: this.#name(), via: "browser", away: document.hidden });
    } catch (error) {
      this.#failed(error);
    }
  }

  #leave() {
    if (this.#room) this.#link.client.leave(topics.room(this.#room)).catch(() => {}); // then it ends with the connection
  }

  async #count() {
    if (document.hidden || this.#link.state !== "connected") return;
    try {
      const counts = await this.#link.client.presenceCount(topics.room("*"));
      this.#counts = new Map([...counts].map(([topic, n]) => [topics.roomOf(topic), n]));
      this.#changed();
    } catch (error) {
      this.#link.lastError = error; // it is asked again
    }
  }
}
