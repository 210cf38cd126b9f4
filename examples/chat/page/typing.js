// Who is writing: lossy messages, of which only the newest of each person counts.

import { readTyping, topics } from "./payload.js";

/** One tells again that one writes after this time, */
const REPEAT_MS = 1500;
/** and is no longer shown as writing after this. */
const HOLDS_MS = 4000;
const MAX_SHOWN = 20;
const PRIORITY = 5;

export class Typing {
  #link;
  #name;
  #element;
  #room;
  #subscription;
  #people = new Map(); // by publisher, which the broker vouches for
  #told = 0; // when one told that one writes; 0: one does not

  constructor(link, name, element) {
    this.#link = link;
    this.#name = name;
    this.#element = element;
    setInterval(() => this.#show(), 500);
  }

  /** Shows who writes in another room; resolves when that is told. */
  enter(room, failed) {
    this.#subscription?.close();
    this.#room = room;
    this.#people.clear();
    this.#told = 0;
    this.#subscription = this.#link.subscribe(
      topics.typing(room),
      { class: "sequenced", noEcho: true, priority: PRIORITY },
      (item) => item.kind === "message" && this.#take(item), // the newest tells all: gaps do not matter
      failed,
    );
    this.#show();
    return this.#subscription.ready;
  }

  /** One has changed what one writes. */
  writes(isEmpty) {
    if (isEmpty) return this.stops();
    if (Date.now() - this.#told < REPEAT_MS) return;
    this.#told = Date.now();
    this.#publish(true);
  }

  stops() {
    if (this.#told) this.#publish(false);
    this.#told = 0;
  }

  /** Somebody has said it, or has left. */
  forget(publisher) {
    if (this.#people.delete(publisher)) this.#show();
  }

  #publish(typing) {
    this.#link.publishLossy(topics.typing(this.#room), { name: this.#name(), typing });
  }

  #take(message) {
    const t = readTyping(message);
    const id = message.publisher;
    if (!t) return;
    if (!t.typing) this.#people.delete(id);
    else if (this.#people.has(id) || this.#people.size < MAX_SHOWN) this.#people.set(id, { name: t.name, until: Date.now() + HOLDS_MS });
    this.#show();
  }

  #show() {
    const now = Date.now();
    for (const [id, p] of this.#people) if (p.until < now) this.#people.delete(id);
    const names = [...this.#people.values()].map((p) => p.name);
    let text = "";
    if (names.length === 1) text = `${names[0]} is writing`;
    else if (names.length === 2) text = `${names[0]} and ${names[1]} are writing`;
    else if (names.length > 2) text = `${names[0]} and ${names.length - 1} others are writing`;
    if (this.#element.textContent === text) return;
    this.#element.textContent = text;
    this.#element.classList.toggle("on", text !== "");
  }
}
