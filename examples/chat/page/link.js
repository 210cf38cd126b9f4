// The page's way to the broker: the client of Tidewire, the identity of the
// server, and the counts that the foot of the page shows.

import { connect } from "./tidewire.js";

const CONNECT_TIMEOUT = 4000;
const RECONNECT = { initial: 400, max: 4000 };
/** How often a server that is away is asked for its identity. */
const ASK_EVERY = 1000;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function readConfig() {
  const response = await fetch("config.json", { cache: "no-store" });
  if (!response.ok) throw new Error(`config.json: ${response.status}`);
  const { url, hash } = await response.json();
  return { url, hash: Uint8Array.from(atob(hash), (c) => c.charCodeAt(0)) };
}

export class Link {
  /** What went over the wire, as far as this page counts. */
  counts = { in: 0, out: 0, lossyIn: 0, lossyOut: 0, gaps: 0 };
  /** How long the last acknowledgement took, in milliseconds. */
  ackTime;
  /** The last error that was met, of any kind. */
  lastError;
  #client;
  #config;
  #transport;
  #onState;

  /** Connects. Rejects with the TidewireError, or with what fetch threw. */
  static async open(onState) {
    const link = new Link();
    link.#onState = onState;
    link.#config = await readConfig();
    // Each attempt uses the newest identity: a server that was started again has
    // another certificate.
    class Transport extends WebTransport {
      constructor() {
        const { url, hash } = link.#config;
        super(url, { serverCertificateHashes: [{ algorithm: "sha-256", value: hash }] });
        link.#transport = this;
      }
    }
    if (typeof WebTransport === "undefined") throw new Error("This browser has no WebTransport.");
    link.#client = await connect(link.#config.url, {
      webTransport: Transport,
      connectTimeout: CONNECT_TIMEOUT,
      reconnect: RECONNECT,
      agent: "tidewire-chat-page",
    });
    link.#client.on("state", (change) => {
      if (change.error) link.lastError = change.error;
      if (change.state === "disconnected") link.#followIdentity();
      onState(change);
    });
    return link;
  }

  get state() {
    return this.#client.state;
  }
  get id() {
    return this.#client.id;
  }
  get url() {
    return this.#config.url;
  }
  /** The most bytes of a datagram; 0: none go. */
  get datagramSize() {
    return this.#transport?.datagrams?.maxDatagramSize ?? 0;
  }

  /** Asks for the server's identity until there is a connection again. */
  async #followIdentity() {
    while (this.state === "disconnected" || this.state === "connecting") {
      try {
        this.#config = await readConfig();
      } catch {
        // The server is away.
      }
      await wait(ASK_EVERY);
    }
  }

  /** Publishes, and resolves with the position. */
  async publish(topic, value) {
    const began = performance.now();
    try {
      const position = await this.#client.publish(topic, value);
      this.ackTime = performance.now() - began;
      this.counts.out++;
      return position;
    } catch (error) {
      this.lastError = error;
      throw error;
    }
  }

  /** Publishes what may be lost; without a connection it is. */
  publishLossy(topic, value) {
    if (this.state !== "connected") return;
    this.#client.publishLossy(topic, value);
    this.counts.lossyOut++;
  }

  /**
   * Hands each item of a subscription to `take`, until `close` of what it returns
   * is called. `ready` resolves when the broker has confirmed the subscription, or
   * when there is none any more. `failed` is told if the broker ends it.
   */
  subscribe(pattern, options, take, failed) {
    const subscription = this.#client.subscribe(pattern, options);
    const run = async () => {
      try {
        for await (const item of subscription) {
          if (item.kind === "gap") this.counts.gaps += item.count === 0 || options.class === "sequenced" ? 0 : 1;
          else if (item.lossy) this.counts.lossyIn++;
          else this.counts.in++;
          take(item);
        }
      } catch (error) {
        this.lastError = error;
        failed(error);
      }
    };
    void run();
    return { ready: subscription.ready.catch(() => {}), close: () => subscription.close() };
  }
}
