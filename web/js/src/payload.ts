import { decodeMsgpack, encodeMsgpack, isBytes, viewBytes } from "./msgpack.js";
import { decodeUtf8, encodeUtf8 } from "./utf8.js";

const names = ["bytes", "msgpack", "json", "text"] as const;

/** How a value is to be encoded (PROTOCOL.md §4.1). */
export type KnownEncoding = (typeof names)[number];

/**
 * The encoding of a payload (PROTOCOL.md §4.1), or `encoding_N` for one of a
 * later version.
 */
export type Encoding = KnownEncoding | `encoding_${number}`;

/** A payload: bytes, and the number of their encoding. */
export interface Payload {
  readonly encoding: number;
  readonly data: Uint8Array;
}

/** Returns the name of an encoding's number. */
export function encodingName(n: number): Encoding {
  return names[n] ?? `encoding_${n}`;
}

/**
 * Makes a payload of a value. Without an encoding, bytes stay bytes, a string
 * becomes text, and everything else MessagePack. Throws a TypeError for a value
 * that has no such encoding.
 */
export function encodePayload(value: unknown, encoding?: KnownEncoding): Payload {
  // Bytes are copied, since they are sent later.
  const raw = isBytes(value) ? viewBytes(value).slice() : undefined;
  encoding ??= raw ? "bytes" : typeof value === "string" ? "text" : "msgpack";
  let data: Uint8Array;
  if (encoding === "msgpack") data = encodeMsgpack(value);
  else if (encoding === "json") {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) throw new TypeError(`no JSON of a ${typeof value}`);
    data = encodeUtf8(text);
  } else if (encoding === "text" && typeof value === "string") data = encodeUtf8(value);
  else if (encoding === "bytes" && raw) data = raw;
  else throw new TypeError(`no ${encoding} of a ${typeof value}`);
  return { encoding: names.indexOf(encoding), data };
}

/**
 * Decodes a payload by its encoding; one that is not known gives the bytes.
 * Throws a SyntaxError for bytes that are not what the encoding says.
 */
export function decodePayload(encoding: number, data: Uint8Array): unknown {
  if (encoding < 1 || encoding > 3) return data;
  try {
    if (encoding === 1) return decodeMsgpack(data);
    const text = decodeUtf8(data);
    return encoding === 2 ? JSON.parse(text) : text;
  } catch (cause) {
    throw new SyntaxError(`a payload is not ${encodingName(encoding)}`, { cause });
  }
}
