// Tries each way of sending over one WebTransport session.

const byId = (id) => document.getElementById(id);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** @type {WebTransport | undefined} */
let transport;

function log(text) {
  const entry = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  entry.append(time, text);
  byId("log").prepend(entry);
}

function show(state, open) {
  byId("state").textContent = state;
  byId("state").classList.toggle("open", open);
  byId("connect").disabled = open;
  byId("disconnect").disabled = !open;
  for (const button of byId("send").querySelectorAll("button")) button.disabled = !open;
}

/** Opens a session. The server's certificate is another after a restart. */
async function dial(path) {
  const server = await (await fetch("server.json")).json();
  byId("where").textContent = server.url + "/echo";
  const hash = Uint8Array.from(atob(server.hash), (c) => c.charCodeAt(0));
  return new WebTransport(server.url + path, {
    serverCertificateHashes: [{ algorithm: "sha-256", value: hash }],
  });
}

/** Says how a session ended. */
async function ending(session) {
  try {
    const { closeCode, reason } = await session.closed;
    return `closed with code ${closeCode ?? 0}` + (reason ? `: ${reason}` : "");
  } catch (error) {
    return `lost: ${error.message || error.name}`;
  }
}

async function connect() {
  show("connecting", false);
  byId("connect").disabled = true;
  let session;
  try {
    session = await dial("/echo");
  } catch (error) {
    log(`no server: ${error.message}`);
    show("not connected", false);
    return;
  }
  ending(session).then((how) => {
    log(how);
    transport = undefined;
    show(how, false);
  });
  try {
    await session.ready;
  } catch {
    return; // closed says why
  }
  transport = session;
  show("connected", true);
  log("connected");
}

async function readAll(readable) {
  const reader = readable.getReader();
  const chunks = [];
  let size = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    chunks.push(value);
    size += value.byteLength;
  }
  const all = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.byteLength;
  }
  return all;
}

async function writeAll(writable, bytes) {
  const writer = writable.getWriter();
  await writer.write(bytes);
  await writer.close();
}

const ways = {
  async stream(bytes) {
    const { readable, writable } = await transport.createBidirectionalStream();
    const [answer] = await Promise.all([readAll(readable), writeAll(writable, bytes)]);
    return answer;
  },
  async uni(bytes) {
    const writable = await transport.createUnidirectionalStream();
    const incoming = transport.incomingUnidirectionalStreams.getReader();
    try {
      const [{ value }] = await Promise.all([incoming.read(), writeAll(writable, bytes)]);
      return await readAll(value);
    } finally {
      incoming.releaseLock();
    }
  },
  async datagram(bytes) {
    const writer = (transport.datagrams.writable ?? transport.datagrams.createWritable()).getWriter();
    const reader = transport.datagrams.readable.getReader();
    try {
      await writer.write(bytes);
      return (await reader.read()).value;
    } finally {
      writer.releaseLock();
      reader.releaseLock();
    }
  },
};

/** Sends, and says what came back. */
async function send(way) {
  const text = byId("text").value;
  const bytes = way === "megabyte" ? new Uint8Array(1 << 20).fill(46) : encoder.encode(text);
  const began = performance.now();
  try {
    const answer = await (ways[way] ?? ways.stream)(bytes);
    const took = (performance.now() - began).toFixed(1);
    const what = way === "megabyte" ? `${answer.byteLength} bytes` : decoder.decode(answer);
    log(`${way}: ${what} (${took} ms)`);
  } catch (error) {
    log(`${way}: ${error.message || error.name}`);
  }
}

byId("connect").addEventListener("click", connect);
byId("disconnect").addEventListener("click", () => transport?.close({ closeCode: 1, reason: "done" }));
byId("send").addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.submitter?.value ?? "stream");
});
byId("closing").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams({ code: byId("code").value, reason: byId("reason").value });
  try {
    log(`asked for a close: ${await ending(await dial("/close?" + query))}`);
  } catch (error) {
    log(`no server: ${error.message}`);
  }
});

if (typeof WebTransport === "undefined") show("this browser has no WebTransport", false);
else connect();
