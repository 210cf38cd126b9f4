// The frame types of version 1 (PROTOCOL §5 to §7).

export const HELLO = 1;
export const WELCOME = 2;
export const AUTH = 3;
export const AUTHENTICATED = 4;
export const NOTICE = 5;
export const END = 6;
export const FLOW = 7;
export const STREAM_END = 8;

export const SUBSCRIBE = 16;
export const SUBSCRIBED = 17;
export const TOPIC = 18;
export const MESSAGE = 19;
export const GAP = 20;
export const SKIP = 21;

export const PUBLICATION = 32;
export const PUBLISH = 33;
export const ACK = 34;
export const NACK = 35;

/** Whether version 1 has a frame of this type. */
export function isKnown(type: number): boolean {
  return (
    (type >= HELLO && type <= STREAM_END) ||
    (type >= SUBSCRIBE && type <= SKIP) ||
    (type >= PUBLICATION && type <= NACK)
  );
}
