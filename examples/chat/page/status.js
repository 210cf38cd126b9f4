// What goes on: a banner while the connection is not there, and the foot of the
// page, which shows what goes over the wire.

import { byId } from "./dom.js";

const SHOW_EVERY = 500;
/** The broker is asked how the connection stands after this time. */
const ASK_EVERY = 5000;
/** How long it is shown that the connection is back. */
const BACK_MS = 2500;

/** The code of an error, for people. */
export const codeOf = (error) => (error?.codeName ? `${error.codeName} ${error.code}` : "");

export class Status {
  #banner = byId("banner");
  #action = byId("banner-action");
  #timer;
  #gone = false; // the connection was there, and was lost
  #link;
  #health;

  /** From now on the foot shows this connection. */
  watch(link) {
    this.#link = link;
    setInterval(() => this.#show(), SHOW_EVERY);
    setInterval(() => this.#ask(), ASK_EVERY);
    void this.#ask();
    this.state({ state: link.state });
  }

  async #ask() {
    if (document.hidden || this.#link.state !== "connected") return;
    try {
      this.#health = await this.#link.client.health();
    } catch (error) {
      this.#link.lastError = error; // it is asked again
    }
    this.#show();
  }

  /** Takes the state of the client. */
  state({ state, error }) {
    this.#show();
    if (state === "connected") {
      if (this.#gone) this.#say("good", "Connected again.");
      this.#gone = false;
      this.#timer = setTimeout(() => this.#hide(), BACK_MS);
    } else if (state === "disconnected") {
      this.#gone = true;
      this.#say("wait", "The connection is lost. Trying again; what you write now is held back and sent when it returns.", error);
    } else if (state === "closed") {
      this.#say("bad", "The broker has ended this session.", error, "Reload", () => location.reload());
    }
  }

  /** The first connection did not come about. */
  refused(error, again) {
    const reason = error?.codeName ? "The chat cannot be reached." : `The chat cannot be reached: ${error?.message ?? error}`;
    this.#state(codeOf(error) || "not connected", "closed");
    this.#say("bad", reason, error, "Try again", again);
  }

  /** Something other than the connection has failed. */
  failed(what, error) {
    this.#say("bad", what, error, "Close", () => this.#hide());
  }

  connecting() {
    this.#hide();
    this.#state("connecting", "connecting");
  }

  #say(tone, text, error, action, act) {
    clearTimeout(this.#timer);
    this.#banner.dataset.tone = tone;
    const code = codeOf(error);
    this.#banner.querySelector(".text").textContent = code ? `${text} (${code})` : text;
    this.#banner.title = error?.message ?? "";
    this.#action.hidden = action === undefined;
    this.#action.textContent = action ?? "";
    this.#action.onclick = act ?? null;
    this.#banner.hidden = false;
  }

  #hide() {
    clearTimeout(this.#timer);
    this.#banner.hidden = true;
  }

  #state(text, state) {
    byId("wire-state").textContent = text;
    byId("wire-state").dataset.state = state;
  }

  #show() {
    const link = this.#link;
    if (!link) return;
    const set = (id, text) => {
      if (byId(id).textContent !== text) byId(id).textContent = text;
    };
    const { in: received, out, lossyIn, lossyOut, gaps } = link.counts;
    const { rtt, sent, lost } = this.#health ?? {};
    const trip = rtt === undefined ? "unknown" : `${rtt < 10 ? rtt.toFixed(1) : Math.round(rtt)} ms`;
    this.#state(link.state === "disconnected" || (link.state === "connecting" && this.#gone) ? "reconnecting" : link.state, link.state);
    set("wire-id", link.id);
    set("wire-id-short", link.id.slice(0, 8));
    set("wire-broker", link.url);
    set("wire-trip", trip);
    set("wire-trip-short", trip);
    set("wire-packets", sent === undefined ? "unknown" : `${lost} of ${sent}`);
    set("wire-in", `\u2193 ${received + lossyIn}`);
    set("wire-out", `\u2191 ${out + lossyOut}`);
    set("wire-reliable", `${received} in, ${out} out`);
    set("wire-lossy", `${lossyIn} in, ${lossyOut} out`);
    set("wire-ack", link.ackTime === undefined ? "none yet" : `after ${link.ackTime.toFixed(1)} ms`);
    set("wire-gaps", gaps ? String(gaps) : "none");
    set("wire-error", link.lastError ? link.lastError.message : "none");
  }
}
