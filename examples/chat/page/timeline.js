// Shows what was said in a room, and keeps the newest in sight.

import { avatar, byId, el } from "./dom.js";

/** Messages of one author within this time stand under one name. */
const GROUP_MS = 5 * 60_000;
/** Nearer to the end than this is at the end, in pixels, */
const NEAR = 60;
/** and nearer to the beginning than this older messages are fetched. */
const NEAR_BEGINNING = 80;

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

const gapReasons = {
  overflow: "they came faster than this page could take them",
  conflated: "newer ones took their place",
  lost: "the network lost them",
  reconnect: "the broker began anew meanwhile",
  bus: "they were lost between brokers",
  history: "they are no longer kept",
  expired: "their time was over",
};

function gapText({ count, most }) {
  if (count === 1 || most === 1) return `${count ? "" : "Up to "}1 message could not be kept`;
  if (count) return `${count} messages could not be kept`;
  return most ? `Up to ${most} messages could not be kept` : "Some messages could not be kept";
}

export class Timeline {
  #log = byId("log");
  #pending = byId("pending");
  #scroll = byId("scroll");
  #jump = byId("jump");
  #empty = byId("empty");
  #older = byId("older");
  #elements = new Map(); // by entry
  #keys = new Map(); // elements by key
  #room;
  #missed = 0; // added while out of sight
  #atEnd = true;

  /** `older(room)` is called when older messages are wanted; the change "older" follows. */
  constructor(older) {
    this.#older.addEventListener("click", () => older(this.#room));
    this.#jump.addEventListener("click", () => this.toEnd());
    this.#scroll.addEventListener("scroll", () => {
      const s = this.#scroll;
      this.#atEnd = s.scrollHeight - s.scrollTop - s.clientHeight < NEAR;
      if (this.#atEnd) this.#missed = 0;
      else if (s.scrollTop < NEAR_BEGINNING && this.#room.hasOlder) older(this.#room);
      this.#showJump();
    });
    // The keyboard of a phone, and a banner, make the area smaller.
    new ResizeObserver(() => this.#follow()).observe(this.#scroll);
  }

  /** Shows a room, and its end. */
  show(room) {
    this.#room = room;
    this.#pending.replaceChildren();
    this.#elements.clear();
    this.#fill();
    for (const entry of room.pending) this.#append(this.#pending, entry);
    this.#empty.querySelector("h2").textContent = `It is quiet in #${room.name}`;
    this.#showEmpty();
    this.toEnd();
  }

  /** Shows what was said, from the oldest message that the room has. */
  #fill() {
    this.#log.ariaBusy = "true"; // it is not read out
    this.#keys.clear();
    this.#log.replaceChildren();
    for (const entry of this.#room.entries) this.#append(this.#log, entry);
    this.#log.ariaBusy = "false";
  }

  /** Takes a change of the room that is shown: see Room. */
  change(change, entry) {
    switch (change) {
      case "add":
        this.#append(this.#log, entry, true);
        if (!this.#atEnd && !entry.mine) this.#missed++;
        break;
      case "pending":
        this.#append(this.#pending, entry, true);
        this.toEnd();
        break;
      case "older": {
        const rest = this.#scroll.scrollHeight - this.#scroll.scrollTop;
        this.#fill();
        this.#showEmpty();
        this.#scroll.scrollTop = this.#scroll.scrollHeight - rest; // what is read stays where it is
        return this.#follow();
      }
      case "update":
        this.#mark(this.#elements.get(entry), entry);
        break;
      default: // "settle", "remove"
        this.#take(entry);
    }
    this.#showEmpty();
    this.#follow();
    this.#showJump();
  }

  /** The element of a message that others have too; undefined if it is not shown. */
  elementOf(key) {
    return this.#keys.get(key);
  }

  /** The element nearest above a height on the screen that others have too. */
  nearest(y) {
    let found;
    for (const [key, element] of this.#keys) {
      const rect = element.getBoundingClientRect();
      if (found && rect.top > y) break;
      found = { key, rect };
    }
    return found;
  }

  toEnd() {
    this.#atEnd = true;
    this.#missed = 0;
    this.#follow();
    this.#showJump();
  }

  #follow() {
    if (this.#atEnd) this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  #showEmpty() {
    this.#empty.hidden = this.#room.entries.length + this.#room.pending.length > 0;
    this.#older.hidden = !this.#room.hasOlder || !this.#empty.hidden;
  }

  #showJump() {
    this.#jump.hidden = this.#missed === 0;
    this.#jump.textContent = this.#missed === 1 ? "1 new message" : `${this.#missed} new messages`;
  }

  #append(list, entry, isNew = false) {
    const before = this.#last(list);
    const item = entry.kind === "message" ? this.#message(entry, before) : this.#line(entry);
    if (isNew && !(list === this.#log && entry.mine)) item.classList.add("new");
    this.#elements.set(entry, item);
    if (entry.key) this.#keys.set(entry.key, item.querySelector(".text"));
    item.entry = entry;
    list.append(item);
  }

  /** The entry after which one is appended to a list. */
  #last(list) {
    return (list.lastElementChild ?? (list === this.#pending ? this.#log.lastElementChild : undefined))?.entry;
  }

  #message(entry, before) {
    const same =
      before?.kind === "message" && before.name === entry.name && before.mine === entry.mine &&
      (entry.mine || before.publisher === entry.publisher) && entry.time - before.time < GROUP_MS;
    const time = el("time", { textContent: clock.format(entry.time), dateTime: entry.time.toISOString(), title: entry.time.toLocaleString() });
    const name = el("span", { className: "name", textContent: entry.name });
    const item = el(
      "li",
      { className: same ? "message same" : "message", data: { mine: entry.mine, ...(entry.expires && { fades: "" }) } },
      avatar(entry.name),
      el("p", { className: "by" }, name, ...(entry.mine ? [el("span", { className: "you", textContent: "you" })] : []), time),
      el("p", { className: "text", textContent: entry.text, dir: "auto" }),
      el("p", { className: "mark" }),
    );
    name.style.setProperty("--hue", item.querySelector(".avatar").style.getPropertyValue("--hue"));
    this.#mark(item, entry);
    return item;
  }

  /** Shows how far a message of one's own has come. */
  #mark(item, entry) {
    if (!item) return;
    if (entry.kind === "unread") item.querySelector("b").textContent = `${entry.count} new`;
    if (entry.kind !== "message") return;
    const mark = item.querySelector(".mark");
    item.dataset.state = entry.state;
    mark.replaceChildren();
    if (entry.state === "sending") mark.textContent = "Sending";
    if (entry.state === "held") mark.textContent = "Held back until the connection returns";
    if (entry.state === "sent" && entry.expires) mark.textContent = "Fades";
    if (entry.state !== "failed") return;
    const { codeName, code, message } = entry.error;
    mark.append(
      el("span", { textContent: "Not sent.", title: message }),
      el("code", { textContent: codeName ? `${codeName} ${code}` : message }),
      el("button", { type: "button", textContent: "Send again", onclick: () => this.#room.again(entry) }),
      el("button", { type: "button", textContent: "Discard", onclick: () => this.#room.discard(entry) }),
    );
  }

  /** A line between messages: a gap, where one was away, or the end of the room. */
  #line(entry) {
    if (entry.kind === "unread") {
      const item = el("li", { className: "line unread" }, el("span", {}, el("b")));
      this.#mark(item, entry);
      return item;
    }
    if (entry.kind === "end") return el("li", { className: "line end" }, el("span", {}, entry.text, " ", el("code", { textContent: entry.code })));
    const why = gapReasons[entry.reason];
    return el("li", { className: "line gap" }, el("span", {}, el("b", { textContent: gapText(entry) }), why ? `\u00a0· ${why}` : ""));
  }

  #take(entry) {
    const item = this.#elements.get(entry);
    const next = item?.nextElementSibling;
    item?.remove();
    this.#elements.delete(entry);
    if (entry.key) this.#keys.delete(entry.key);
    // What stood under its name, or is the first one now, has a name of its own.
    const isHead = !item?.classList.contains("same") || !next?.previousElementSibling;
    if (next?.parentElement === this.#log && isHead) next.classList.remove("same");
  }
}
