/** What has come and was not looked at yet, in order. */
export class Mailbox<T> {
  #items: T[] = [];
  #waiters: ((item: T) => void)[] = [];

  put(item: T): void {
    const waiter = this.#waiters.shift();
    if (waiter) waiter(item);
    else this.#items.push(item);
  }

  /** Waits for the next one. */
  next(): Promise<T> {
    const item = this.#items.shift();
    if (item !== undefined) return Promise.resolve(item);
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  /** How many have come and were not looked at. */
  get size(): number {
    return this.#items.length;
  }
}
