// The values that scenarios speak of.

/** A value of JSON. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/**
 * Makes the value that data stand for, the n-th of several: "#" is n, {"$text": k} a
 * text of k bytes, {"$bytes": [...]} bytes.
 */
export function expand(v: Json | undefined, n: number): unknown {
  if (typeof v === "string") return v === "#" ? n : v.replaceAll("#", String(n));
  if (Array.isArray(v)) return v.map((x) => expand(x, n));
  if (v === null || typeof v !== "object") return v;
  const { $text, $bytes } = v;
  if (typeof $text === "number") return "x".repeat($text);
  if (Array.isArray($bytes)) return new Uint8Array($bytes as number[]);
  return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, expand(x, n)]));
}

/** Whether two values are the same, whatever the order of members. */
export function equal(a: unknown, b: unknown): boolean {
  if (a instanceof Uint8Array || b instanceof Uint8Array) {
    return a instanceof Uint8Array && b instanceof Uint8Array && String(a) === String(b);
  }
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((x, i) => equal(x, b[i]));
  }
  if (a && b && typeof a === "object" && typeof b === "object" && !Array.isArray(a) && !Array.isArray(b)) {
    const [x, y] = [a, b] as [Record<string, unknown>, Record<string, unknown>];
    const names = Object.keys(x);
    return names.length === Object.keys(y).length && names.every((k) => k in y && equal(x[k], y[k]));
  }
  return a === b || (typeof a === "bigint" && typeof b === "number" && a === BigInt(b));
}

/** A value for people. */
export function show(v: unknown): string {
  const text = JSON.stringify(v, (_, x: unknown) => (typeof x === "bigint" ? String(x) : x)) ?? String(v);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

/** The number that a value is, or that stands as its member n. */
export function number(v: unknown): number | undefined {
  const n = v && typeof v === "object" && "n" in v ? v.n : v;
  return typeof n === "number" ? n : undefined;
}
