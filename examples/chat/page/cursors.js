// Other people's pointers over the conversation. They go by datagram: an old place
// of a pointer is worth nothing, and must not hold up a message.

import { el, hueOf } from "./dom.js";
import { readCursor, topics } from "./payload.js";

/** Places are sent at most this often: about 30 a second. */
const SEND_MS = 33;
/** A pointer that has not moved for this long is hidden. */
const STALE_MS = 5000;
/** A pointer comes this much nearer to its place, in e-folds, a millisecond. */
const GLIDE = 1 / 55;
const MAX_SHOWN = 30;
const PRIORITY = 6;

const still = matchMedia("(prefers-reduced-motion: reduce)");

// A height beside a message: within it the share of its height, since the lines
// of others break elsewhere; above and below it pixels.
const toRelative = (y, { top, height }) => (y < top ? y - top : y > top + height ? 1 + y - top - height : (y - top) / height);
const fromRelative = (y, { top, height }) => (y < 0 ? top + y : y > 1 ? top + height + y - 1 : top + y * height);

export class Cursors {
  #link;
  #name;
  #timeline;
  #stage;
  #layer;
  #column;
  #room;
  #subscription;
  #people = new Map(); // by publisher
  #sent = 0;
  #timer;
  #last; // the event that is to be sent
  #frame = 0;
  #before = 0; // time of the last frame

  constructor(link, name, timeline, { stage, layer, column }) {
    this.#link = link;
    this.#name = name;
    this.#timeline = timeline;
    this.#stage = stage;
    this.#layer = layer;
    this.#column = column;
    // A finger shows where it taps; the pointer of a mouse or pen is followed.
    stage.addEventListener("pointermove", (e) => this.#moved(e));
    stage.addEventListener("pointerdown", (e) => this.#moved(e));
    stage.addEventListener("pointerleave", (e) => e.pointerType !== "touch" && this.#left());
    document.addEventListener("visibilitychange", () => document.hidden && this.#left());
  }

  /** Shows the pointers of another room; resolves when they come. */
  enter(room, failed) {
    this.#left();
    this.#subscription?.close();
    for (const id of [...this.#people.keys()]) this.forget(id);
    this.#room = room;
    this.#subscription = this.#link.subscribe(
      topics.cursors(room),
      { class: "sequenced", noEcho: true, priority: PRIORITY },
      (item) => item.kind === "message" && this.#take(item), // the newest place counts: gaps do not matter
      failed,
    );
    return this.#subscription.ready;
  }

  forget(publisher) {
    this.#people.get(publisher)?.element.remove();
    this.#people.delete(publisher);
  }

  #moved(event) {
    this.#last = { x: event.clientX, y: event.clientY };
    if (this.#timer) return;
    const rest = this.#sent + SEND_MS - performance.now();
    this.#timer = setTimeout(() => this.#send(), Math.max(0, rest));
  }

  #send() {
    this.#timer = undefined;
    this.#sent = performance.now();
    if (!this.#room || !this.#last) return;
    const column = this.#column.getBoundingClientRect();
    const x = (this.#last.x - column.left) / column.width;
    // The place is beside a message, so that it is the same for all, wherever they
    // have scrolled to; a share of the area where there is no message yet.
    const near = this.#timeline.nearest(this.#last.y);
    const area = this.#stage.getBoundingClientRect();
    const y = near ? toRelative(this.#last.y, near.rect) : (this.#last.y - area.top) / area.height;
    this.#publish({ x: round(x), y: round(y), on: near?.key ?? "" });
  }

  #left() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#last) this.#publish({});
    this.#last = undefined;
  }

  #publish(place) {
    this.#link.publishLossy(topics.cursors(this.#room), { name: this.#name(), ...place });
  }

  #take(message) {
    const c = readCursor(message);
    const id = message.publisher;
    if (!c) return;
    let p = this.#people.get(id);
    if (!p) {
      if (c.x === undefined || this.#people.size >= MAX_SHOWN) return;
      p = { element: makeCursor(), shown: false };
      this.#people.set(id, p);
      this.#layer.append(p.element);
    }
    p.place = c.x === undefined ? undefined : c;
    p.until = performance.now() + STALE_MS;
    const label = p.element.querySelector("span");
    if (label.textContent !== c.name) {
      label.textContent = c.name;
      p.element.style.setProperty("--hue", hueOf(c.name));
    }
    this.#run();
  }

  #run() {
    if (this.#frame) return;
    this.#before = performance.now();
    this.#frame = requestAnimationFrame((now) => this.#step(now));
  }

  /** Draws every pointer a step nearer to its place. */
  #step(now) {
    const near = still.matches ? 1 : 1 - Math.exp(-GLIDE * Math.max(0, now - this.#before));
    this.#before = now;
    const area = this.#stage.getBoundingClientRect();
    const column = this.#column.getBoundingClientRect();
    for (const [id, p] of this.#people) {
      const target = now < p.until ? this.#target(p.place, area, column) : undefined;
      if (target) {
        // One that appears begins at its place.
        const from = p.shown ? p.at : target;
        p.at = { x: from.x + (target.x - from.x) * near, y: from.y + (target.y - from.y) * near };
        p.element.style.transform = `translate(${p.at.x}px, ${p.at.y}px)`;
        p.element.classList.toggle("flip", p.at.x > area.width - 140);
      }
      p.shown = target !== undefined;
      p.element.classList.toggle("on", p.shown);
      if (now > p.until + STALE_MS) this.forget(id);
    }
    this.#frame = 0;
    // While anybody is shown the conversation may scroll under the pointers.
    if (this.#people.size > 0) {
      this.#frame = requestAnimationFrame((next) => this.#step(next));
    }
  }

  /** Where a place is in the area; undefined if it is out of sight. */
  #target(place, area, column) {
    if (!place) return undefined;
    const x = column.left + place.x * column.width - area.left;
    let y = place.y * area.height;
    if (place.on) {
      const element = this.#timeline.elementOf(place.on);
      if (!element) return undefined; // said before this page was here
      y = fromRelative(place.y, element.getBoundingClientRect()) - area.top;
    }
    if (y < -4 || y > area.height - 4) return undefined;
    return { x: Math.min(area.width - 12, Math.max(2, x)), y };
  }
}

const round = (n) => Math.round(n * 1000) / 1000;

function makeCursor() {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", "M2 1.5 17 9l-6.8 1.9L7 17.5z");
  svg.append(path);
  return el("div", { className: "cursor" }, svg, el("span"));
}
