// The box in which one writes.

import { byId } from "./dom.js";
import { MAX_TEXT, cleanText } from "./payload.js";

/** From how many characters before the limit on the rest is shown. */
const WARN = 200;

export class Composer {
  #form = byId("composer");
  #text = byId("text");
  #send = byId("send");
  #note = byId("composer-note");
  #drafts = new Map(); // by room
  #room = "";

  /** `say(text)` resolves, or rejects with an Error for people; `writes(isEmpty)`. */
  constructor({ say, writes }) {
    this.#text.maxLength = MAX_TEXT;
    this.#text.addEventListener("input", () => {
      this.#changed();
      writes(this.#text.value.trim() === "");
    });
    this.#text.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
      e.preventDefault();
      this.#form.requestSubmit();
    });
    this.#form.addEventListener("submit", (e) => {
      e.preventDefault();
      const text = cleanText(this.#text.value);
      if (!text) return;
      this.#text.value = "";
      this.#changed();
      say(text).catch((error) => this.#refused(text, error));
      this.#text.focus();
    });
  }

  /** Shows the draft of another room. */
  enter(room) {
    this.#drafts.set(this.#room, this.#text.value);
    this.#room = room;
    this.#text.value = this.#drafts.get(room) ?? "";
    this.#drafts.delete(room);
    this.#text.placeholder = `Say something in #${room}`;
    this.#changed();
    // On a phone this would bring up the keyboard.
    if (matchMedia("(hover: hover)").matches) this.#text.focus();
  }

  /** Gives back what was not said, unless somebody writes already. */
  #refused(text, error) {
    this.#text.value ||= text;
    this.#changed();
    this.#note.textContent = error.message;
  }

  #changed() {
    const rest = MAX_TEXT - this.#text.value.length;
    this.#send.disabled = this.#text.value.trim() === "";
    this.#note.textContent = rest > WARN ? "" : rest === 1 ? "1 character left" : `${rest} characters left`;
    // The box grows with what is written, up to the limit of the style sheet.
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
