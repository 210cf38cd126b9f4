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
export const FRAME_OVERHEAD = 8 << 10;
/** The payload limit of a broker that has not told another (PROTOCOL §10). */
export const DEFAULT_PAYLOAD = 256 << 10;
export const MAX_KEY = 255;
/** Of an idempotency key, and of a group's name. */
export const MAX_LABEL = 64;
/** Pairs of name and value. */
export const MAX_HEADERS = 16;
export const MAX_HEADER_NAME = 64;
export const MAX_HEADER_VALUE = 512;
/** All names and values of a message. */
export const MAX_HEADER_BYTES = 4 << 10;
/** Conditions of a filter, and values of a condition. */
export const MAX_CONDITIONS = 16;
export const MAX_REPLY = 255;
/** The most messages with which a subscription begins by number. */
export const MAX_LAST = 10_000;
/** Topics of a list of positions. */
export const MAX_POSITIONS = 1024;
/** What such a list takes at most, so that SUBSCRIBE fits into a first frame. */
export const MAX_POSITIONS_BYTES = 48 << 10;
/** Announcements of topics on a stream that count (PROTOCOL §6.3). */
export const MAX_ANNOUNCEMENTS = 32 << 10;
/** Messages of a page of history. */
export const MAX_PAGE = 1000;
/** Page streams of a session at a time. */
export const MAX_PAGES = 8;
/** Subscriptions in one answer about health, and topics in one of counts. */
export const MAX_LISTED = 1024;
/** The state of a presence. */
export const MAX_STATE = 1 << 10;
/** Milliseconds that a request waits at most. */
export const MAX_TIMEOUT = 600_000;
/** Replies to one request. */
export const MAX_REPLIES = 65_535;
/** The first number that is no epoch (PROTOCOL §4.2). */
export const MAX_EPOCH = 2 ** 48;
/** Streams that a client may open before WELCOME, the control stream included. */
export const MAX_EARLY_STREAMS = 32;
/** The most offsets that one ACK holds (PROTOCOL §7.4). */
export const MAX_ACK_BATCH = 1024;

/** The milliseconds that a timer can wait at most; beyond, it does not wait at all. */
export const MAX_TIMER = 2 ** 31 - 1;

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
