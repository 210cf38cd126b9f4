const encoder = new TextEncoder();
// A byte order mark is a character like any other here.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Returns the bytes of a text. */
export function encodeUtf8(s: string): Uint8Array {
  return encoder.encode(s);
}

/** Returns the text of bytes; throws a SyntaxError if they are not UTF-8. */
export function decodeUtf8(b: Uint8Array): string {
  try {
    return decoder.decode(b);
  } catch {
    throw new SyntaxError("not UTF-8");
  }
}
