// The client's side of every case, in a browser.

// What both sides of a case agree on.
const TEXT_UP = "both ways";
const STREAM_COUNT = 100;
const STREAM_SIZE = 1000;
const TURNOVER = 300;
const MEGABYTE = 1 << 20;
const DATAGRAMS = 200;
const DATAGRAM_MS = 1000;
const CLIENT_CODE = 17;
const CLIENT_REASON = "the client's reason ✓";
const OFFERED = ["interop.v1", "other"];
const SEEN_MS = 5000;
const late = Symbol("late");
const STREAM_CODES = [0, 29, 30, 255, 256, 2 ** 32 - 1];

/** Runs a case, and returns what this side saw of it. */
export async function run(task) {
  const report = { case: task.case };
  try {
    await tryCase(task, report);
  } catch (error) {
    report.error = `${error}`;
  }
  return report;
}

async function tryCase({ url, hash }, report) {
  const value = Uint8Array.from(hash.match(/../g), (byte) => parseInt(byte, 16));
  const transport = new WebTransport(url, {
    serverCertificateHashes: [{ algorithm: "sha-256", value }],
    protocols: OFFERED,
  });
  transport.closed.catch(() => {}); // where it matters it is awaited
  try {
    await transport.ready;
  } catch (error) {
    if (report.case !== "reject") throw error;
    report.status = -1; // rejected, and a page does not learn more
    return;
  }
  report.subprotocol = transport.protocol ?? "";
  try {
    await sides[report.case]?.(transport, report);
  } finally {
    if (report.case === "close-by-client") {
      transport.close({ closeCode: CLIENT_CODE, reason: CLIENT_REASON });
    } else {
      transport.close();
    }
    await transport.closed.catch(() => {});
  }
}

/** What the client does while the session is open. */
const sides = {
  async bidi(transport) {
    await exchange(transport, encode(TEXT_UP));
    const stream = await next(transport.incomingBidirectionalStreams);
    await stream.readable.pipeTo(stream.writable);
  },
  async uni(transport) {
    await exchangeUni(transport, encode("one way"));
  },
  async megabyte(transport) {
    await exchange(transport, encode("0123456789abcdef".repeat(MEGABYTE / 16)));
  },
  async streams(transport, report) {
    const streams = [];
    for (let i = 0; i < STREAM_COUNT; i++) {
      const { readable, writable } = await transport.createBidirectionalStream();
      const writer = writable.getWriter();
      await writer.write(Uint8Array.of(i));
      streams.push({ readable, writer });
    }
    report.count = 0;
    for (const [i, { readable, writer }] of streams.entries()) {
      const data = new Uint8Array(STREAM_SIZE).fill(i);
      await writer.write(data.subarray(1));
      await writer.close();
      wanted(data, await readAll(readable));
      report.count++;
    }
  },
  async "server-streams"(transport) {
    // Until the server closes the session, which Chromium may call a lost connection.
    const reader = transport.incomingBidirectionalStreams.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        value.readable.pipeTo(value.writable).catch(() => {});
      }
    } catch {
      await transport.closed.catch(() => {});
    }
  },
  async turnover(transport, report) {
    for (report.count = 0; report.count < TURNOVER; report.count++) {
      await exchangeUni(transport, encode(`stream ${report.count}`));
    }
  },
  async datagrams(transport, report) {
    const writable = transport.datagrams.createWritable?.() ?? transport.datagrams.writable;
    const writer = writable.getWriter();
    const reader = transport.datagrams.readable.getReader();
    report.count = 0;
    let reading = reader.read();
    for (let i = 0; i < DATAGRAMS; i++) {
      const data = new Uint8Array(i + 1).fill(i);
      await writer.write(data);
      const got = await Promise.race([reading, delay(DATAGRAM_MS)]);
      if (!got) continue;
      if (equal(data, got.value)) report.count++;
      reading = reader.read();
    }
  },
  async "reset-by-client"(transport) {
    await eachOpened(transport, async ({ writer, readable, code }) => {
      writer.abort(cancelled(code)).catch(() => {});
      await readAll(readable);
    });
  },
  async "reset-by-server"(transport, report) {
    report.codes = [];
    await eachOpened(transport, async ({ readable, writer }) => {
      await writer.write(Uint8Array.of(2));
      report.codes.push(await codeOf(readAll(readable)));
    });
  },
  async "stop-by-client"(transport) {
    await eachOpened(transport, async ({ readable, code }) => {
      readable.cancel(cancelled(code)).catch(() => {});
      // The server says on a stream that it has seen it. What it saw is compared.
      const seen = next(transport.incomingUnidirectionalStreams).then(readAll);
      seen.catch(() => {});
      return Promise.race([seen, delay(SEEN_MS).then(() => late)]);
    });
  },
  async "stop-by-server"(transport, report) {
    report.codes = [];
    await eachOpened(transport, async ({ writer }) => {
      await writer.write(Uint8Array.of(2));
      report.codes.push(await codeOf(writer.closed));
    });
  },
  async "close-by-server"(transport, report) {
    const { closeCode, reason } = await transport.closed;
    report.closed = { how: "close", code: closeCode, reason };
  },
  async "drain-by-server"(transport, report) {
    if (!("draining" in transport)) return;
    report.drained = await Promise.race([transport.draining.then(() => true), delay(5000).then(() => false)]);
  },
  async "drain-by-client"(transport) {
    // A page cannot ask for it. The session goes on.
    await exchange(transport, encode("to the end"));
  },
};

/** Sends data on a new stream and wants it back. */
async function exchange(transport, data) {
  const { readable, writable } = await transport.createBidirectionalStream();
  const [got] = await Promise.all([readAll(readable), send(writable, data)]);
  wanted(data, got);
}

/** Sends data on a new stream and wants it back on one of the server's. */
async function exchangeUni(transport, data) {
  await send(await transport.createUnidirectionalStream(), data);
  wanted(data, await readAll(await next(transport.incomingUnidirectionalStreams)));
}

async function send(writable, data) {
  const writer = writable.getWriter();
  await writer.write(data);
  await writer.close();
}

/** Opens a stream for each code, has a byte echoed on it, and calls f, until f returns late. */
async function eachOpened(transport, f) {
  for (const code of STREAM_CODES) {
    const { readable, writable } = await transport.createBidirectionalStream();
    const writer = writable.getWriter();
    writer.closed.catch(() => {});
    await writer.write(Uint8Array.of(1));
    const reader = readable.getReader();
    wanted(Uint8Array.of(1), (await reader.read()).value);
    reader.releaseLock();
    if ((await f({ readable, writer, code })) === late) return;
  }
}

/** The next of a stream of streams. */
async function next(incoming) {
  const reader = incoming.getReader();
  const { done, value } = await reader.read();
  reader.releaseLock();
  if (done) throw new Error("the session ended");
  return value;
}

async function readAll(readable) {
  const chunks = [];
  const reader = readable.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** The error that cancels a stream with a code, or with the nearest that there is. */
function cancelled(code) {
  return new WebTransportError({ message: "cancelled", streamErrorCode: code });
}

/** The code with which the server cancelled, -1 if there is none. */
async function codeOf(promise) {
  const error = await promise.then(
    (v) => new Error(`no reset, but ${JSON.stringify(v)}`),
    (e) => e,
  );
  if (error instanceof WebTransportError) return error.streamErrorCode;
  if (error.message.startsWith("no reset")) throw error;
  return -1;
}

function encode(text) {
  return new TextEncoder().encode(text);
}

function delay(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function equal(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function wanted(want, got) {
  if (!equal(want, got)) {
    throw new Error(`${got.length} bytes came back and differ from the ${want.length} sent`);
  }
}
