/** The most bytes that are joined into one write. */
const MAX_WRITE = 64 << 10;

/**
 * Writes frames to a stream in order. What is written in one task, or while a
 * write is under way, goes out together in one write. Its backlog is bounded by
 * its callers: by credit, by the number of requests, or by looking at it. A
 * stream that cannot be written to takes no more; who reads it learns why.
 */
export class StreamWriter {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #frames: Uint8Array[] = [];
  #backlog = 0;
  #closing = false;
  #ended = false;
  #done: Promise<void> | undefined; // of the loop that writes, while it runs

  constructor(writable: WritableStream<Uint8Array>) {
    this.#writer = writable.getWriter();
  }

  /** Bytes that the transport has not taken yet. */
  get backlog(): number {
    return this.#backlog;
  }

  /** Writes a frame; after close it is ignored. */
  write(frame: Uint8Array): void {
    if (this.#closing || this.#ended) return;
    this.#frames.push(frame);
    this.#backlog += frame.length;
    this.#done ??= this.#run();
  }

  /**
   * Sends FIN behind what was written. It resolves when the transport has taken
   * it, or the stream is dead; never rejects.
   */
  close(): Promise<void> {
    this.#closing = true;
    this.#done ??= this.#run();
    return this.#done;
  }

  async #run(): Promise<void> {
    try {
      await undefined; // what is written in this task goes together
      while (this.#frames.length > 0 && !this.#ended) {
        const chunk = this.#join();
        await this.#writer.write(chunk);
        this.#backlog -= chunk.length;
      }
      if (this.#closing && !this.#ended) {
        this.#ended = true;
        await this.#writer.close();
      }
      this.#done = this.#ended ? Promise.resolve() : undefined;
    } catch {
      this.#ended = true;
      this.#frames = [];
    }
  }

  /** Takes frames for one write; a longer one goes alone. */
  #join(): Uint8Array {
    let n = 0;
    let size = 0;
    for (const f of this.#frames) {
      if (n > 0 && size + f.length > MAX_WRITE) break;
      n++;
      size += f.length;
    }
    const frames = this.#frames.splice(0, n);
    if (n === 1) return frames[0] as Uint8Array;
    const chunk = new Uint8Array(size);
    let at = 0;
    for (const f of frames) {
      chunk.set(f, at);
      at += f.length;
    }
    return chunk;
  }
}
