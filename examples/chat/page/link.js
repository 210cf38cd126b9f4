// The page's way to the broker: the client of Tidewire, and the counts that the
// foot of the page shows.

import { connect } from "./tidewire.js";
import { load, save } from "./storage.js";

const CONNECT_TIMEOUT = 4000;
const RECONNECT = { initial: 400, max: 4000 };
/** Bytes of messages that may wait for a connection. */
const MAX_OFFLINE = 64 << 10;
const IDS = "tidewire-chat-ids";
/** Client ids of this tab that are remembered: a page has another one when it was reloaded. */
const MAX_IDS = 20;

async function readConfig() {
  const response = await fetch("config.json", { cache: "no-store" });
  if (!response.ok) throw new Error(`config.json: ${response.status}`);
  return response.json();
}

export class Link {
  /** What went over the wire, as far as this page counts. */
  counts = { in: 0, out: 0, lossyIn: 0, lossyOut: 0, gaps: 0 };
  /** How long the last acknowledgement took, in milliseconds. */
  ackTime;
  /** The last error that was met, of any kind. */
  lastError;
  #client;
  #url;
  #ids = new Set(load(sessionStorage, IDS, []));

  /** Connects. Rejects with the TidewireError, or with what fetch threw. */
  static async open(onState) {
    if (typeof WebTransport === "undefined") throw new Error("This browser has no WebTransport.");
    const link = new Link();
    const { url } = await readConfig();
    link.#url = url;
    link.#client = await connect(url, {
      // A server that was started again has another certificate.
      certificateHashes: async () => [(await readConfig()).hash],
      connectTimeout: CONNECT_TIMEOUT,
      reconnect: RECONNECT,
      offline: { maxBytes: MAX_OFFLINE },
      agent: "tidewire-chat-page",
    });
    link.#remember();
    link.#client.on("state", (change) => {
      if (change.error) link.lastError = change.error;
      if (change.state === "connected") link.#remember();
      onState(change);
    });
    link.#client.on("presence", ({ error }) => (link.lastError = error));
    return link;
  }

  /** The client itself: for history, requests, presence and health. */
  get client() {
    return this.#client;
  }
  get state() {
    return this.#client.state;
  }
  get id() {
    return this.#client.id;
  }
  get url() {
    return this.#url;
  }

  /** Whether a client id is, or was, this tab's. */
  isMine(id) {
    return this.#ids.has(id);
  }

  #remember() {
    if (this.#ids.has(this.id)) return;
    this.#ids.add(this.id);
    save(sessionStorage, IDS, [...this.#ids].slice(-MAX_IDS));
  }

  /** Publishes, and resolves with the position. */
  async publish(topic, value, options) {
    const began = performance.now();
    try {
      const position = await this.#client.publish(topic, value, options);
      this.ackTime = performance.now() - began;
      this.counts.out++;
      return position;
    } catch (error) {
      this.lastError = error;
      throw error;
    }
  }

  /**
   * Publishes what may be lost; without a connection it is. The key makes the newest of
   * this client count for a subscriber that is slow.
   */
  publishLossy(topic, value) {
    if (this.state !== "connected") return;
    this.#client.publishLossy(topic, value, { key: this.id });
    this.counts.lossyOut++;
  }

  /**
   * Hands each item of a subscription to `take`, until the subscription, which it
   * returns, is closed. `failed` is told if the broker ends it.
   */
  subscribe(pattern, options, take, failed) {
    const subscription = this.#client.subscribe(pattern, options);
    subscription.ready.catch(() => {}); // the iteration throws the same
    void this.#each(subscription, failed, (item) => {
      if (item.kind === "gap") this.counts.gaps += options.class === "sequenced" ? 0 : 1;
      else if (item.lossy) this.counts.lossyIn++;
      else this.counts.in++;
      take(item);
    });
    return subscription;
  }

  /** Tells who comes and goes in the topics of a pattern, likewise. */
  watchPresence(pattern, take, failed) {
    const watch = this.#client.watchPresence(pattern);
    watch.ready.catch(() => {});
    void this.#each(watch, failed, take);
    return watch;
  }

  async #each(items, failed, take) {
    try {
      for await (const item of items) take(item);
    } catch (error) {
      this.lastError = error;
      failed(error);
    }
  }
}
