// The grammar of topics and patterns (PROTOCOL §3).

import { fail } from "./errors.js";
import { MAX_TOKENS, MAX_TOPIC } from "./limits.js";
import { encodeUtf8 } from "./utf8.js";


// White space, control characters, and surrogates without their other half,
// which have no form in UTF-8.
// oxlint-disable-next-line no-control-regex
const forbidden = /[\0-\x20\x7f-\xa0\p{White_Space}\p{Surrogate}]/u;

/** Returns what is wrong with s; "" if nothing is. */
function wrong(s: string, wildcards: boolean): string {
  const tokens = s.split(".");
  if (encodeUtf8(s).length > MAX_TOPIC || tokens.length > MAX_TOKENS) return "too long";
  if (forbidden.test(s)) return "white space or a control character";
  for (const [i, token] of tokens.entries()) {
    if (!token) return "an empty token";
    const last = i + 1 === tokens.length;
    const wildcard = wildcards && (token === "*" || (token === ">" && last));
    if (!wildcard && /[*>]/.test(token)) return "a misplaced wildcard";
  }
  return "";
}

function quoted(s: string): string {
  return JSON.stringify(s.length > 64 ? `${s.slice(0, 64)}…` : s);
}

/** Throws `invalid_topic` unless name is a topic. */
export function checkTopic(name: string): void {
  const reason = wrong(name, false);
  if (reason) throw fail("invalid_topic", `${quoted(name)}: ${reason}`);
}

/** Throws `invalid_pattern` unless pattern is one. */
export function checkPattern(pattern: string): void {
  const reason = wrong(pattern, true);
  if (reason) throw fail("invalid_pattern", `${quoted(pattern)}: ${reason}`);
}

/** Throws `system_topic` if a valid topic or pattern belongs to the system. */
export function checkNotSystem(s: string): void {
  if (isSystem(s)) throw fail("system_topic", quoted(s));
}

/** Throws unless a name is a topic that clients may use. */
export function checkUsable(topic: string): void {
  checkTopic(topic);
  checkNotSystem(topic);
}

/** Whether a topic or pattern belongs to the system: it begins with $ or _. */
export function isSystem(s: string): boolean {
  return s.startsWith("$") || s.startsWith("_");
}

/** Whether a valid pattern has no wildcard, so that it is a topic. */
export function isExact(pattern: string): boolean {
  return !/[*>]/.test(pattern);
}

/**
 * Whether a valid pattern matches a valid topic (PROTOCOL.md §3): `*` stands for
 * one token, `>` at the end for one or more. A pattern that begins with either
 * never matches a topic of the system (first token with `$` or `_`).
 */
export function matches(pattern: string, topic: string): boolean {
  return contains(pattern, topic);
}

/**
 * Whether a valid pattern contains another one: every topic that `inner` matches
 * is matched by `outer` (PROTOCOL.md §3). A permission for `outer` permits to
 * subscribe to `inner`.
 */
export function contains(outer: string, inner: string): boolean {
  if (isSystem(inner) && /^[*>]/.test(outer)) return false;
  const o = outer.split(".");
  const i = inner.split(".");
  for (const [at, token] of o.entries()) {
    const other = i[at];
    if (other === undefined) return false;
    if (token === ">") return true;
    if (other === ">" || (token !== "*" && token !== other)) return false;
  }
  return o.length === i.length;
}
