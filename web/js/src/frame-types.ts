// The frame types of version 1 (PROTOCOL §5 to §7).

export const HELLO = 1;
export const WELCOME = 2;
export const AUTH = 3;
export const AUTHENTICATED = 4;
export const NOTICE = 5;
export const END = 6;
export const FLOW = 7;
export const STREAM_END = 8;
export const PING = 9;
export const PONG = 10;
export const PRIORITY = 11;

export const SUBSCRIBE = 16;
export const SUBSCRIBED = 17;
export const TOPIC = 18;
export const MESSAGE = 19;
export const GAP = 20;
export const SKIP = 21;
export const FETCH = 22;
export const PAGE = 23;

export const PUBLICATION = 32;
export const PUBLISH = 33;
export const ACK = 34;
export const NACK = 35;

export const PRESENCE = 48;
export const COUNT = 49;
export const COUNTS = 50;

export const REQUEST = 64;
export const RESPONSE = 65;
export const DONE = 66;
export const REPLY = 67;
export const CANCEL = 68;

/** Whether version 1 has a frame of this type. */
export function isKnown(type: number): boolean {
  return (
    (type >= HELLO && type <= PRIORITY) ||
    (type >= SUBSCRIBE && type <= PAGE) ||
    (type >= PUBLICATION && type <= NACK) ||
    (type >= PRESENCE && type <= COUNTS) ||
    (type >= REQUEST && type <= CANCEL)
  );
}
