// The one registry of error codes (PROTOCOL §11), and the one boundary at which
// what a browser throws becomes a TidewireError.

const codes = {
  ok: 0,
  replaced: 1,
  protocol_violation: 100,
  frame_too_large: 101,
  malformed_frame: 102,
  unknown_frame: 103,
  unexpected_frame: 104,
  unsupported_version: 105,
  invalid_topic: 106,
  invalid_pattern: 107,
  unsupported_class: 108,
  duplicate_number: 109,
  credit_exceeded: 110,
  payload_too_large: 111,
  stream_timeout: 112,
  hello_timeout: 113,
  invalid_option: 114,
  unauthorized: 200,
  token_expired: 201,
  publish_denied: 202,
  subscribe_denied: 203,
  system_topic: 204,
  resume_denied: 205,
  permission_revoked: 206,
  too_many_subscriptions: 300,
  too_many_publications: 301,
  too_many_streams: 302,
  too_many_sessions: 303,
  rate_limited: 304,
  slow_subscriber: 305,
  shutting_down: 400,
  internal: 401,
  bus_unavailable: 402,
  overloaded: 403,
  connection_lost: 500,
  connect_timeout: 501,
  connect_failed: 502,
  unsupported: 503,
  closed: 504,
  aborted: 505,
} as const;

/** The name of a code that this version knows. */
export type KnownCodeName = keyof typeof codes;

/**
 * The name of an error code in the registry (PROTOCOL.md §11), or `code_N` for a
 * code of a later version.
 */
export type CodeName = KnownCodeName | `code_${number}`;

function nameOf(code: number): CodeName {
  for (const [name, c] of Object.entries(codes)) if (c === code) return name as KnownCodeName;
  return `code_${code}`;
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
    const name = nameOf(code);
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

/** Makes an error that this side found. */
export function fail(name: KnownCodeName, reason: string, cause?: unknown): TidewireError {
  return new TidewireError(codes[name], reason, cause === undefined ? {} : { cause });
}

/** Makes an error that the broker told. */
export function remote(code: number, reason: string, retry?: number): TidewireError {
  return new TidewireError(code, reason, { remote: true, retry });
}

/**
 * Maps what a browser threw. The text of a browser's error says little (Safari
 * leaves it empty, a refused handshake looks the same for every cause), so the
 * caller gives the code and says what was tried.
 */
export function mapped(name: KnownCodeName, tried: string, thrown: unknown): TidewireError {
  if (thrown instanceof TidewireError) return thrown;
  const text = thrown instanceof Error ? thrown.message : "";
  return fail(name, text ? `${tried}: ${text}` : tried, thrown);
}
