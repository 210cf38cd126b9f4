import type { BatchItem, MessageOptions, PublishOptions } from "./client-options.js";
import type { Outgoing } from "./frames.js";
import { MAX_KEY, MAX_LABEL } from "./limits.js";
import { bad, checkLabel, checkRest, checkNumber, headerList } from "./options.js";
import { encodePayload } from "./payload.js";

/**
 * Checks what a message carries, and encodes its value. Throws `invalid_option`, or a
 * TypeError for a value that cannot be encoded.
 */
export function outgoing(value: unknown, lossy: boolean, o: MessageOptions): Outgoing {
  const { key, ttl, retain, id, headers, encoding, value: _value, signal: _signal, ...rest } = o as BatchItem & PublishOptions;
  checkRest(rest);
  if (lossy && (retain || id !== undefined)) throw bad("a lossy message has no retain and no id");
  checkLabel("a key", key, MAX_KEY);
  checkLabel("an id", id, MAX_LABEL);
  if (ttl !== undefined) checkNumber("ttl", ttl, 1, Number.MAX_SAFE_INTEGER);
  return { ...encodePayload(value, encoding), lossy, key, ttl, headers: headerList(headers), retain, id };
}
