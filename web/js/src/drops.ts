/**
 * Why this client dropped a message:
 * - `late`: a newer message of the topic was handed out before it came;
 * - `superseded`: it waited for a reliable message, and a newer one took its place;
 * - `queue`: the application did not take it in time, and a newer one took its place;
 * - `unknown_topic`: a message of a topic that was not announced in time, or was forgotten;
 * - `bad_datagram`: a datagram that is no message;
 * - `unsent`: a lossy message that could not be sent: no connection, or too many
 *   were waiting.
 */
export type DropReason =
  | "late"
  | "superseded"
  | "queue"
  | "unknown_topic"
  | "bad_datagram"
  | "unsent";

/** How many messages a client dropped, by reason. */
export type Drops = Record<DropReason, number>;

export function noDrops(): Drops {
  return { late: 0, superseded: 0, queue: 0, unknown_topic: 0, bad_datagram: 0, unsent: 0 };
}
