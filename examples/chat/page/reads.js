// How far one has read in each room: positions, kept in this browser, so that a
// page that comes back gets exactly what was missed.

import { load, save } from "./storage.js";

const KEY = "tidewire-chat-read";
const MAX_ROOMS = 50;

const isPosition = (p) => Number.isSafeInteger(p?.epoch) && Number.isSafeInteger(p.offset) && p.offset >= 0;

export class Reads {
  // By room, the one that was read the longest ago first.
  #positions = new Map(load(localStorage, KEY, []).filter((e) => Array.isArray(e) && typeof e[0] === "string" && isPosition(e[1])));

  get(room) {
    return this.#positions.get(room);
  }

  /** The rooms in which one has read, the last one last. */
  rooms() {
    return [...this.#positions.keys()];
  }

  set(room, position) {
    this.#positions.delete(room);
    this.#positions.set(room, position);
    save(localStorage, KEY, [...this.#positions].slice(-MAX_ROOMS));
  }
}
