// The list of what has come, newest first. It shows at most the newest ROWS items
// and is drawn at most once a frame, so that no rate of messages stops the page.

import { format } from "./payload.js";

const ROWS = 500;

export class Log {
  #list;
  #count;
  #empty;
  #waiting = []; // newest last
  #frame = 0; // of requestAnimationFrame; 0: none is asked for
  #messages = 0;
  #gaps = 0;

  constructor({ list, count, empty }) {
    this.#list = list;
    this.#count = count;
    this.#empty = empty;
  }

  /** Adds an item of a subscription. */
  add(item) {
    if (item.kind === "gap") this.#gaps++;
    else this.#messages++;
    this.#waiting.push(item);
    // A page in the background draws no frames: what would not be shown is not kept.
    if (this.#waiting.length > 2 * ROWS) this.#waiting = this.#waiting.slice(-ROWS);
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  clear() {
    this.#waiting = [];
    this.#messages = 0;
    this.#gaps = 0;
    this.#list.replaceChildren();
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const rows = this.#waiting.slice(-ROWS).reverse().map(row);
    this.#waiting = [];
    this.#list.prepend(...rows);
    while (this.#list.childElementCount > ROWS) this.#list.lastElementChild.remove();
    const all = this.#messages + this.#gaps;
    this.#empty.hidden = all > 0;
    const counts = [plural(this.#messages, "message")];
    if (this.#gaps > 0) counts.push(plural(this.#gaps, "gap"));
    if (all > ROWS) counts.push(`the newest ${ROWS} are shown`);
    this.#count.textContent = all > 0 ? counts.join(", ") : "";
  }
}

function plural(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

function row(item) {
  return item.kind === "gap" ? gapRow(item) : messageRow(item);
}

function messageRow(message) {
  const about = element("div", "about");
  about.append(
    element("span", "topic", message.topic),
    element("span", "offset", `#${message.offset}`),
    element("span", "", message.encoding),
  );
  if (message.lossy) about.append(element("span", "tag", "lossy"));
  about.append(clock(message.time));
  const li = element("li", "");
  li.append(about, element("pre", "", format(message)));
  return li;
}

function gapRow(gap) {
  const about = element("div", "about");
  const what = gap.count ? `gap of ${plural(gap.count, "message")}` : "gap: messages may be missing";
  about.append(element("span", "what", what), element("span", "", `reason: ${gap.reason}`));
  if (gap.topic !== undefined) about.append(element("span", "topic", gap.topic));
  if (gap.from && gap.to && gap.from.epoch === gap.to.epoch) {
    about.append(element("span", "offset", `#${gap.from.offset + 1} to #${gap.to.offset}`));
  }
  about.append(clock(new Date()));
  const li = element("li", "gap");
  li.append(about);
  return li;
}

function clock(time) {
  const t = element("time", "", time.toLocaleTimeString([], { hour12: false }));
  t.append(element("span", "ms", `.${String(time.getMilliseconds()).padStart(3, "0")}`));
  t.dateTime = time.toISOString();
  return t;
}

function element(name, className, text = "") {
  const e = document.createElement(name);
  e.className = className;
  e.textContent = text;
  return e;
}
