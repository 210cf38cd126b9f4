// The one registry of error codes (PROTOCOL §11), and the one boundary at which
// what a browser throws becomes a TidewireError.

/** The names of the codes: those of 0, 1, …, then those of 100, 101, … */
const names = [
  ["ok", "replaced", "duplicate", "forgotten"],
  [
    "protocol_violation",
    "frame_too_large",
    "malformed_frame",
    "unknown_frame",
    "unexpected_frame",
    "unsupported_version",
    "invalid_topic",
    "invalid_pattern",
    "unsupported_class",
    "duplicate_number",
    "credit_exceeded",
    "payload_too_large",
    "invalid_option",
    "not_offered",
  ],
  [
    "unauthorized",
    "token_expired",
    "publish_denied",
    "subscribe_denied",
    "system_topic",
    "resume_denied",
    "permission_revoked",
  ],
  [
    "too_many_subscriptions",
    "too_many_publications",
    "too_many_streams",
    "too_many_sessions",
    "rate_limited",
    "slow_subscriber",
    "stream_timeout",
    "hello_timeout",
    "too_many_requests",
    "too_many_presences",
  ],
  [
    "shutting_down",
    "internal",
    "bus_unavailable",
    "overloaded",
    "no_responders",
    "request_timeout",
  ],
  [
    "connection_lost",
    "connect_timeout",
    "connect_failed",
    "unsupported",
    "closed",
    "aborted",
    "queue_full",
    "offline",
    "expired",
  ],
] as const;

/** The name of a code that this version knows. */
export type KnownCodeName = (typeof names)[number][number];

/**
 * The name of an error code in the registry (PROTOCOL.md §11), or `code_N` for a
 * code of a later version.
 */
export type CodeName = KnownCodeName | `code_${number}`;

/** Returns the name of a code. */
export function codeName(code: number): CodeName {
  return names[Math.floor(code / 100)]?.[code % 100] ?? `code_${code}`;
}

/** Returns the code of a name. */
function codeOf(name: KnownCodeName): number {
  const range = names.findIndex((r: readonly string[]) => r.includes(name));
  return 100 * range + (names[range] as readonly string[]).indexOf(name);
}

/**
 * Every error of this library that is not a mistake in the types of its
 * arguments. Its code is one of the registry in PROTOCOL.md §11; the hundreds of
 * the code tell what to do: 1xx the request is wrong, 2xx not permitted, 3xx a
 * limit was reached, 4xx the broker cannot just now, 5xx made by this client.
 */
export class TidewireError extends Error {
  /** The code, for example 203. */
  readonly code: number;
  /** The name of the code, for example `"subscribe_denied"`. */
  readonly codeName: CodeName;
  /** What happened, for people; may be empty. */
  readonly reason: string;
  /** Whether the broker said so; otherwise this client found it. */
  readonly remote: boolean;
  /**
   * The least number of milliseconds to wait before trying again, if the broker
   * named one.
   */
  readonly retry: number | undefined;

  /** Makes an error; programs have no need to, except in their own tests. */
  constructor(
    code: number,
    reason = "",
    options: { cause?: unknown; remote?: boolean; retry?: number | undefined } = {},
  ) {
    const name = codeName(code);
    const message = reason ? `${name} (${code}): ${reason}` : `${name} (${code})`;
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.name = "TidewireError";
    this.code = code;
    this.codeName = name;
    this.reason = reason;
    this.remote = options.remote ?? false;
    this.retry = options.retry;
  }
}

/** Why nothing waits for a connection. */
export const NO_CONNECTION = "there is no connection, and offline.refuse is set";

/** Makes an error that this side found. */
export function fail(name: KnownCodeName, reason = "", cause?: unknown): TidewireError {
  return new TidewireError(codeOf(name), reason, cause === undefined ? {} : { cause });
}

/** Makes an error that the broker told. */
export function remote(code: number, reason: string, retry?: number): TidewireError {
  return new TidewireError(code, reason, { remote: true, retry });
}

/**
 * Maps what a browser threw. The text of a browser's error says little (Safari
 * leaves it empty, a refused handshake looks the same for every cause), so the
 * caller gives the code and may give a hint; the text is only added to them.
 */
export function mapped(name: KnownCodeName, thrown: unknown, hint = ""): TidewireError {
  if (thrown instanceof TidewireError) return thrown;
  return fail(name, (thrown instanceof Error ? thrown.message : "") + hint, thrown);
}

/** The same error, which tells of which message of a batch it is. */
export function numbered(e: TidewireError, i: number): TidewireError {
  const { code, reason, remote: told, retry } = e;
  return new TidewireError(code, `message ${i}: ${reason || e.codeName}`, { cause: e, remote: told, retry });
}
