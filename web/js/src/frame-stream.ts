import type { Frame } from "./envelope.js";
import { fail } from "./errors.js";
import { FrameBuffer } from "./frame-buffer.js";

/**
 * Reads a stream to its end and hands out its frames. It resolves at FIN, and
 * rejects with a TidewireError for bytes that are no frames or that `frame`
 * refused, else with what the transport threw. `heard` is called for all that comes.
 */
export async function readFrames(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  maxFrame: () => number,
  frame: (f: Frame) => void,
  heard: () => void,
): Promise<void> {
  const buffer = new FrameBuffer();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    heard();
    buffer.push(value);
    for (let f = buffer.next(maxFrame()); f; f = buffer.next(maxFrame())) frame(f);
  }
  if (buffer.pending) throw fail("malformed_frame", "cut off");
}
