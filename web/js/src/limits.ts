// The fixed limits and the defaults of PROTOCOL §10, in bytes unless a name says
// otherwise.

export const MAX_FIRST_FRAME = 64 << 10;
export const MAX_TOPIC = 255;
export const MAX_TOKENS = 32;
export const MAX_TOKEN = 16 << 10;
export const MAX_AGENT = 128;
export const MAX_REASON = 512;
export const MAX_SECRET = 64;
/** What a frame may be longer than the payload limit. */
export const FRAME_OVERHEAD = 4 << 10;
/** The payload limit of a broker that has not told another (PROTOCOL §10). */
export const DEFAULT_PAYLOAD = 256 << 10;
/** The first number that is no epoch (PROTOCOL §4.2). */
export const MAX_EPOCH = 2 ** 48;
/** Streams that a client may open before WELCOME, the control stream included. */
export const MAX_EARLY_STREAMS = 32;
/** The most offsets that one ACK holds (PROTOCOL §7.4). */
export const MAX_ACK_BATCH = 1024;

/** What a broker announces in WELCOME (PROTOCOL §5.2). */
export interface Limits {
  /** Bytes of a message's payload. */
  readonly payload: number;
  /** Subscriptions of a session at a time. */
  readonly subscriptions: number;
  /** Publications of a session at a time. */
  readonly publications: number;
  /** Bytes of PUBLISH frames on one publication that are not granted again. */
  readonly publicationCredit: number;
  /** The most bytes of credit that the broker takes for a subscription. */
  readonly subscriptionCredit: number;
}
