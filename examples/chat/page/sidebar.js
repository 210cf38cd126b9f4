// The rooms, and who is in this one.

import { avatar, byId, el, fill } from "./dom.js";
import { roomToken } from "./payload.js";

const READY = ["lobby", "ideas", "help", "off-topic"];
/** Rooms that are listed; those in which people are come first. */
const MAX_ROOMS = 40;
/** Faces beside the name of the room. */
const MAX_STACK = 5;

const narrow = matchMedia("(max-width: 52rem)");

export class Sidebar {
  #drawer = byId("drawer");
  #opener = byId("open-drawer");

  constructor() {
    this.#opener.addEventListener("click", () => this.#open(true));
    byId("close-drawer").addEventListener("click", () => this.#open(false));
    byId("scrim").addEventListener("click", () => this.#open(false));
    this.#drawer.addEventListener("keydown", (e) => e.key === "Escape" && this.#open(false));
    narrow.addEventListener("change", () => this.#open(false));
    this.#open(false);
    const error = byId("new-room-error");
    const input = byId("new-room-name");
    input.addEventListener("input", () => (error.textContent = ""));
    byId("new-room").addEventListener("submit", (e) => {
      e.preventDefault();
      try {
        location.hash = roomToken(input.value);
        input.value = "";
      } catch (wrong) {
        error.textContent = wrong.message;
      }
    });
  }

  /** Opens or closes the drawer, which is one on narrow screens only. */
  #open(open) {
    const was = document.body.classList.contains("drawer-open");
    document.body.classList.toggle("drawer-open", open);
    byId("scrim").hidden = !open;
    this.#opener.ariaExpanded = String(open);
    this.#drawer.inert = narrow.matches && !open;
    document.querySelector("main").inert = narrow.matches && open;
    if (open) byId("close-drawer").focus();
    else if (was && narrow.matches) this.#opener.focus();
  }

  entered() {
    if (document.body.classList.contains("drawer-open")) this.#open(false);
  }

  /**
   * Shows the rooms: those that are ready, those that were visited, and those in
   * which somebody is.
   */
  rooms(current, visited, counts) {
    const others = new Set([...visited.keys(), ...counts.keys()].filter((r) => !READY.includes(r)));
    others.delete(current);
    const names = [...READY, ...[...others].sort()];
    if (!names.includes(current)) names.splice(READY.length, 0, current);
    const list = byId("rooms");
    fill(list, names.slice(0, MAX_ROOMS), (name) => name, (name) =>
      el("li", {}, el("a", { href: `#${encodeURIComponent(name)}` },
        el("span", { className: "hash", textContent: "#", ariaHidden: "true" }),
        el("span", { className: "label", textContent: name }),
        el("span", { className: "count" }),
        el("span", { className: "unread" }))));
    let elsewhere = 0;
    for (const item of list.children) {
      const name = item.dataset.key;
      const link = item.firstElementChild;
      const unread = visited.get(name)?.unread ?? 0;
      const count = counts.get(name) ?? 0;
      elsewhere += unread;
      if (name === current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      const show = (cls, n, title) => {
        const e = link.querySelector(cls);
        const text = n > 99 ? "99+" : n > 0 ? String(n) : "";
        if (e.textContent !== text) e.textContent = text;
        e.title = n > 0 ? title : "";
        if (n > 0) e.ariaLabel = title;
        else e.removeAttribute("aria-label");
      };
      show(".count", count, count === 1 ? "1 person here" : `${count} people here`);
      show(".unread", unread, `${unread} unread`);
    }
    byId("elsewhere").hidden = elsewhere === 0;
  }

  /** Shows who is in this room, oneself first. */
  people(room, me, others) {
    const all = [{ id: "", name: me, away: false, via: "browser" }, ...others];
    fill(
      byId("people"),
      all,
      (p) => [p.id, p.name, p.away, p.via].join("\n"),
      (p) => {
        const note = p.id === "" ? "you" : p.via === "terminal" ? "terminal" : p.away ? "away" : "";
        return el("li", { data: { away: p.away } }, avatar(p.name), el("span", { className: "name", textContent: p.name }), ...(note ? [el("small", { textContent: note })] : []));
      },
    );
    byId("room-name").textContent = `#${room}`;
    const count = all.length;
    byId("room-people").textContent = count === 1 ? "only you" : `${count} here`;
    fill(byId("stack"), count === 1 ? [] : all.slice(0, MAX_STACK), (p) => p.id + "\n" + p.name, (p) => avatar(p.name));
    byId("stack").dataset.more = count > MAX_STACK ? `+${count - MAX_STACK}` : "";
  }
}
