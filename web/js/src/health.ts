import type { Connection } from "./connection.js";
import type { Subscription } from "./subscription.js";

/** How a subscription stands, as the broker sees it. */
export interface SubscriptionHealth {
  readonly subscription: Subscription;
  /** Bytes and messages that wait at the broker. */
  readonly bytes: number;
  readonly messages: number;
  /** Messages since the stream of the subscription began. */
  readonly conflated: number;
  readonly dropped: number;
}

/** How a connection and its subscriptions stand. */
export interface Health {
  /** The round trip in milliseconds, as the browser or the broker knows it, else as it was now. */
  readonly rtt: number;
  /** The packets that the broker has sent, and those of them that were lost, if it knows. */
  readonly sent: number | undefined;
  readonly lost: number | undefined;
  readonly subscriptions: readonly SubscriptionHealth[];
}

/** Asks the broker. */
export async function readHealth(
  c: Connection,
  subscriptions: Iterable<Subscription>,
): Promise<Health> {
  const begun = performance.now();
  const [pong, stats] = await Promise.all([c.requests.ping(true), c.transportStats()]);
  const measured = performance.now() - begun;
  const { sent, lost } = pong;
  const known = pong.rtt === undefined ? undefined : pong.rtt / 1000;
  const byNumber = new Map([...subscriptions].map((s) => [s.number, s]));
  return {
    rtt: stats?.smoothedRtt || known || measured,
    sent,
    lost,
    subscriptions: pong.subscriptions.flatMap(({ subscription: number, ...counts }) => {
      const subscription = byNumber.get(number);
      return subscription ? [{ subscription, ...counts }] : [];
    }),
  };
}
