// The page of the broker: subscribe and publish by hand, and see what comes.

import { connect } from "/tidewire.js";
import { Log } from "./log.js";
import { parse } from "./payload.js";

const $ = (id) => document.getElementById(id);
const config = await (await fetch("config.json")).json();
const url = `https://${config.host ?? location.host}${config.path}`;
const log = new Log({ list: $("messages"), count: $("count"), empty: $("nothing") });

/** The client at hand, connected or connecting again; undefined while there is none. */
let client;
/** What the user has subscribed to. An entry outlives its client: the next one
 * subscribes again. */
const subscriptions = new Set();

function showState(state) {
  $("state").dataset.state = state;
  $("state").textContent = state === "disconnected" ? "connection lost, trying again" : state;
  const here = client !== undefined;
  $("connect").textContent = here ? "Use this token" : "Connect";
  $("disconnect").disabled = !here;
  $("client-id").textContent = client?.id || "–";
}

/** Shows the last error, with its code where it has one. */
function showProblem(error) {
  $("problem").hidden = !error;
  if (!error) return;
  const code = error.codeName ? `${error.codeName} (${error.code}): ` : "";
  $("problem-text").textContent = code + (error.reason || error.message || String(error));
}

/** Runs what a user has asked for, and shows its error. */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    showProblem(error);
  }
}

async function open() {
  showProblem();
  showState("connecting");
  $("connect").disabled = true;
  try {
    const next = await connect(url, {
      token: $("token").value.trim() || undefined,
      certificateHashes: config.certificateHashes,
      agent: "tidewire-page",
    });
    client = next;
    next.on("state", ({ state, error }) => {
      if (client !== next) return;
      if (state === "closed") client = undefined;
      showState(state);
      if (error) showProblem(error);
      else if (state === "connected") showProblem();
    });
    next.on("notice", (notice) => {
      if (client === next) showProblem(notice);
    });
    showState(next.state);
    for (const wanted of subscriptions) follow(next, wanted);
  } catch (error) {
    client = undefined;
    showState("closed");
    showProblem(error);
  } finally {
    $("connect").disabled = false;
  }
}

/** Brings what comes on a subscription to the log, until it ends. */
async function follow(from, wanted) {
  try {
    const subscription = from.subscribe(wanted.pattern, { class: wanted.class });
    wanted.close = () => subscription.close();
    wanted.entry.classList.remove("ended");
    for await (const item of subscription) {
      log.add(item);
      if (item.kind === "message") wanted.count(1);
    }
  } catch (error) {
    if (!subscriptions.has(wanted)) return;
    wanted.entry.classList.add("ended");
    // The end of the client is told by its state.
    if (client === from && from.state !== "closed") showProblem(error);
  }
}

function subscribe() {
  if (!client) throw new Error("not connected");
  showProblem();
  const wanted = { pattern: $("pattern").value.trim(), class: $("class").value, close: () => {}, entry: document.createElement("li") };
  const name = document.createElement("code");
  name.textContent = wanted.pattern;
  const note = document.createElement("span");
  let messages = 0;
  wanted.count = (n) => {
    messages += n;
    note.textContent = `${wanted.class}, ${messages}`;
    note.title = `class ${wanted.class}, ${messages} messages`;
  };
  wanted.count(0);
  const end = document.createElement("button");
  end.type = "button";
  end.className = "quiet";
  end.textContent = "×";
  end.setAttribute("aria-label", `Unsubscribe from ${wanted.pattern}`);
  end.addEventListener("click", () => {
    subscriptions.delete(wanted);
    wanted.entry.remove();
    wanted.close();
  });
  wanted.entry.append(name, note, end);
  $("subscriptions").append(wanted.entry);
  subscriptions.add(wanted);
  follow(client, wanted);
}

async function publish() {
  if (!client) throw new Error("not connected");
  showProblem();
  $("published").textContent = "";
  const topic = $("topic").value.trim();
  const [value, options] = parse($("payload").value, $("encoding").value);
  if ($("lossy").checked) {
    client.publishLossy(topic, value, options);
    $("published").textContent = "sent, not acknowledged";
    return;
  }
  const position = await client.publish(topic, value, options);
  $("published").textContent = `acknowledged at #${position.offset}`;
}

function onSubmit(form, action) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(action);
  });
}

onSubmit("connection", async () => {
  if (!client) return open();
  showProblem();
  await client.auth($("token").value.trim());
});
onSubmit("subscribe", subscribe);
onSubmit("publish", publish);
$("disconnect").addEventListener("click", () => attempt(() => client?.close()));
$("problem-close").addEventListener("click", () => showProblem());
$("clear").addEventListener("click", () => log.clear());
// Ctrl+Enter or ⌘+Enter in the payload publishes.
$("payload").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("publish").requestSubmit();
});

$("where").textContent = url;
$("token-hint").hidden = !config.tokens;
document.body.classList.toggle("tokens", config.tokens);
if (!window.isSecureContext) {
  showState("closed");
  showProblem(new Error("browsers have WebTransport only on pages that came over https, or from this machine as http://localhost or http://127.0.0.1"));
} else if (config.tokens) {
  showState("closed");
  $("token").placeholder = "";
  $("token").focus();
} else {
  await open();
}
