import { type TidewireError, fail } from "./errors.js";

/**
 * Calls back once when the signal is aborted, at once if it was already, with the
 * error `aborted`. The function that it returns takes the listener away.
 */
export function onAbort(
  signal: AbortSignal | undefined,
  f: (error: TidewireError) => void,
): () => void {
  const listener = (): void => f(fail("aborted", "", signal?.reason));
  if (signal?.aborted) listener();
  else signal?.addEventListener("abort", listener, { once: true });
  return () => signal?.removeEventListener("abort", listener);
}

/** Settles as the promise does, or rejects with `aborted`. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = onAbort(signal, reject);
    void promise.then(resolve, reject).finally(stop);
  });
}

/** Waits, but not longer than until the signal is aborted; never rejects. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    let stop = (): void => {};
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      stop();
      resolve();
    }
    stop = onAbort(signal, done);
  });
}
