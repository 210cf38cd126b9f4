import type { Client } from "./client.js";
import type { BatchItem, PublishLossyOptions, PublishOptions } from "./client-options.js";
import type { HistoryOptions, HistoryPage } from "./history.js";
import type { LiveMap, MapOptions } from "./live-map.js";
import type { Position, Reply } from "./message.js";
import type { RequestOptions } from "./request.js";
import type { SubscribeOptions, Subscription } from "./subscription.js";

/**
 * A topic, or a pattern to subscribe to, whose messages are all of type `T`: the methods
 * of {@link Client}, with types.
 */
export class Topic<T> {
  /** The topic or pattern. */
  readonly name: string;
  readonly #client: Client;

  /** @internal */
  constructor(client: Client, name: string) {
    this.#client = client;
    this.name = name;
  }

  /** See {@link Client.publish}. */
  publish(value: T, options?: PublishOptions): Promise<Position> {
    return this.#client.publish(this.name, value, options);
  }

  /** See {@link Client.publishBatch}. */
  publishBatch(items: readonly BatchItem<T>[], options?: { signal?: AbortSignal }): Promise<Position[]> {
    return this.#client.publishBatch(this.name, items, options);
  }

  /** See {@link Client.publishLossy}. */
  publishLossy(value: T, options?: PublishLossyOptions): void {
    this.#client.publishLossy(this.name, value, options);
  }

  /** See {@link Client.subscribe}. */
  subscribe(options?: SubscribeOptions): Subscription<T> {
    return this.#client.subscribe<T>(this.name, options);
  }

  /** See {@link Client.request}. */
  request<R = unknown>(value: T, options?: RequestOptions): Promise<Reply<R>> {
    return this.#client.request<R>(this.name, value, options);
  }

  /** See {@link Client.history}. */
  history(options?: HistoryOptions): Promise<HistoryPage<T>> {
    return this.#client.history<T>(this.name, options);
  }

  /** See {@link Client.map}. */
  map(options?: MapOptions): LiveMap<T> {
    return this.#client.map<T>(this.name, options);
  }
}
