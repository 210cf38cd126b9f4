/**
 * The browser client of Tidewire: real-time pub/sub over WebTransport.
 *
 * @packageDocumentation
 */

import { Client } from "./client.js";
import type { ConnectOptions } from "./client-options.js";

export type { BackoffOptions } from "./backoff.js";
export type { Client } from "./client.js";
export type {
  BatchItem,
  CertificateHashes,
  ClientEvents,
  ClientState,
  ConnectOptions,
  MessageOptions,
  Notice,
  PresenceLost,
  PublishLossyOptions,
  PublishOptions,
  StateChange,
} from "./client-options.js";
export type { DropReason, Drops } from "./drops.js";
export { type CodeName, type KnownCodeName, TidewireError } from "./errors.js";
export type { Health, SubscriptionHealth } from "./health.js";
export type { HistoryOptions, HistoryPage } from "./history.js";
export type { LiveMap, MapChange, MapEntry, MapOptions } from "./live-map.js";
export type { Gap, GapReason, Item, Message, Position, Reply, ReplyOptions } from "./message.js";
export type { Condition, Filter, From, Headers } from "./options.js";
export type { Encoding, KnownEncoding } from "./payload.js";
export type { Member, PresenceEvent, PresenceWatch, WatchOptions } from "./presence.js";
export type { OfflineOptions } from "./publisher.js";
export type { RequestManyOptions, RequestOptions } from "./request.js";
export type {
  SubscribeOptions,
  Subscription,
  SubscriptionClass,
  SubscriptionState,
  SubscriptionStats,
} from "./subscription.js";
export type { Topic } from "./topic.js";
export { contains, matches } from "./topics.js";
export type {
  Transport,
  TransportCloseInfo,
  TransportConstructor,
  TransportDatagrams,
  TransportOptions,
  TransportStats,
  TransportStream,
} from "./transport.js";

/**
 * Connects to the broker at a URL such as `https://broker.example/tidewire`.
 *
 * Resolves when the session stands. Rejects if the first attempt fails, which is
 * not repeated: with the TidewireError of the broker's refusal (`unauthorized`,
 * `overloaded`, …), with `connect_timeout`, `connect_failed`, `unsupported` or
 * `aborted`, or with a TypeError for options that cannot be. From then on the
 * client replaces a lost connection by itself, until it is closed or the broker
 * says that coming back is of no use.
 */
export async function connect(url: string, options: ConnectOptions = {}): Promise<Client> {
  const client = new Client(url, options);
  await client.start();
  return client;
}
