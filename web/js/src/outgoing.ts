import type { MessageOptions } from "./client-options.js";
import type { Outgoing } from "./frames.js";
import { MAX_KEY, MAX_LABEL } from "./limits.js";
import { checkLabel, checkNumber, headerList } from "./options.js";
import { encodePayload } from "./payload.js";

/**
 * Checks what a message carries, and encodes its value. Throws `invalid_option`, or a
 * TypeError for a value that cannot be encoded.
 */
export function outgoing(value: unknown, lossy: boolean, o: MessageOptions): Outgoing {
  const { key, ttl, retain, id } = o;
  checkLabel("a key", key, MAX_KEY);
  checkLabel("an id", id, MAX_LABEL);
  if (ttl !== undefined) checkNumber("ttl", ttl, 1, Number.MAX_SAFE_INTEGER);
  const headers = headerList(o.headers);
  return { ...encodePayload(value, o.encoding), lossy, key, ttl, headers, retain, id };
}
