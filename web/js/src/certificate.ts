import type { CertificateHashes } from "./client-options.js";
import type { TransportOptions } from "./transport.js";

/**
 * Reads the SHA-256 of a certificate: 32 bytes, or text in base64 or in
 * hexadecimal digits, with or without colons. Throws a TypeError for anything
 * else.
 */
export function parseCertificateHash(hash: string | Uint8Array): Uint8Array<ArrayBuffer> {
  let b: Iterable<number> = [];
  if (typeof hash !== "string") b = hash;
  else if (/^([0-9a-f]{2}:?){32}$/i.test(hash)) {
    b = (hash.match(/\w\w/g) ?? []).map((digits) => parseInt(digits, 16));
  } else if (/^[\w+/]{43}=?$/.test(hash)) b = Array.from(atob(hash), (c) => c.charCodeAt(0));
  const bytes = Uint8Array.from(b);
  if (bytes.length !== 32) throw new TypeError(`"${hash}" is no SHA-256 in base64 or hex: copy the hash that the broker prints`);
  return bytes;
}

/** What makes a transport trust certificates. Throws a TypeError for a hash that is none. */
export function transportOptions(hashes: CertificateHashes = []): TransportOptions {
  const list = hashes.map((hash) => ({
    algorithm: "sha-256" as const,
    value: parseCertificateHash(hash),
  }));
  return list.length > 0 ? { serverCertificateHashes: list } : {};
}
