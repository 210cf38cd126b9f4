/** Waits for turns of the event loop, not for time, until `f` no longer throws. */
export async function until(f: () => void): Promise<void> {
  for (let turns = 0; ; turns++) {
    try {
      return f();
    } catch (e) {
      if (turns === 1000) throw e;
    }
    await turn();
  }
}

/** Waits for one turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
