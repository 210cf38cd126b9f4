// The chat: which room is shown, and what belongs together.

import { About } from "./about.js";
import { sayOrDo } from "./commands.js";
import { Composer } from "./composer.js";
import { Cursors } from "./cursors.js";
import { byId } from "./dom.js";
import { Link } from "./link.js";
import { Name } from "./name.js";
import { roomToken } from "./payload.js";
import { Presence } from "./presence.js";
import { Reads } from "./reads.js";
import { Room } from "./room.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";
import { Typing } from "./typing.js";

const FIRST_ROOM = "lobby";
/** Rooms that stay subscribed, so that nothing said there is missed. */
const MAX_VISITED = 8;

const status = new Status();

/** The room that the address names. */
function roomOfHash() {
  try {
    return roomToken(decodeURIComponent(location.hash.slice(1)));
  } catch {
    return FIRST_ROOM;
  }
}

function start(link) {
  const visited = new Map(); // rooms by name, the one visited the longest ago first
  let current;
  const reads = new Reads();

  const me = new Name(() => {
    presence.announce();
    showPeople();
  });
  const name = () => me.value;
  const sidebar = new Sidebar();
  const about = new About(link);
  const timeline = new Timeline((room) => older(room.fetchOlder()));
  const typing = new Typing(link, name, byId("typing"));
  const cursors = new Cursors(link, name, timeline, { stage: byId("stage"), layer: byId("cursors"), column: byId("log") });
  const presence = new Presence(link, name, showPeople, (error) => status.failed("Who is here cannot be told.", error));
  const composer = new Composer({
    async say(text) {
      typing.stops();
      if (link.state === "closed") throw new Error("This session has ended; reload the page to go on.");
      await sayOrDo(link, current, name(), text);
    },
    writes: (isEmpty) => typing.writes(isEmpty),
  });

  function showPeople() {
    if (!current) return;
    sidebar.rooms(current.name, visited, presence.rooms());
    sidebar.people(current.name, name(), presence.others());
    const unread = [...visited.values()].reduce((n, r) => n + r.unread, 0);
    document.title = `${unread ? `(${unread}) ` : ""}#${current.name} · Tidewire chat`;
  }

  /** A room has changed: see Room. */
  function changed(room, change, entry) {
    if (change === "add" && entry.kind === "message" && room === current) typing.forget(entry.publisher);
    if (room === current) timeline.change(change, entry);
    if (change === "add") showPeople();
  }

  async function older(fetching) {
    try {
      await fetching;
    } catch (error) {
      status.failed("Older messages cannot be shown.", error);
    }
  }

  /** Subscribes to a room, which becomes the one visited last. */
  function visit(name) {
    const room = visited.get(name) ?? new Room(link, reads, name, changed);
    visited.delete(name);
    visited.set(name, room);
    if (visited.size > MAX_VISITED) {
      const [oldest] = visited.values();
      oldest.close();
      visited.delete(oldest.name);
    }
    return room;
  }

  function enter() {
    const token = roomOfHash();
    if (current?.name === token) return;
    const room = visit(token);
    current?.look(false);
    typing.stops();
    current = room;
    room.look(!document.hidden);
    const optional = (what) => (error) => status.failed(`${what} cannot be shown.`, error);
    timeline.show(room);
    const stage = byId("stage");
    delete stage.dataset.ready;
    about.enter(token, optional("What the room is about"));
    const ready = [room.ready, older(room.fetchContext()), presence.enter(token), typing.enter(token, optional("Who is writing")), cursors.enter(token, optional("Pointers"))];
    // One may have gone on to another room before: what was for this one is closed then.
    void Promise.allSettled(ready).then(() => {
      if (room === current) stage.dataset.ready = token; // from now on nothing is missed; the tests wait for it
    });
    composer.enter(token);
    sidebar.entered();
    showPeople();
  }

  document.addEventListener("visibilitychange", () => {
    current.look(!document.hidden);
    showPeople();
  });
  addEventListener("hashchange", enter);
  // What was missed elsewhere counts too.
  for (const name of reads.rooms().slice(-MAX_VISITED)) visit(name);
  enter();
  status.watch(link);

  return (change) => {
    status.state(change);
    if (change.state !== "connected") return;
    for (const room of visited.values()) room.connected();
  };
}

/** Connects for the first time; from then on the client keeps the connection. */
async function open() {
  status.connecting();
  let onState = () => {};
  try {
    const link = await Link.open((change) => onState(change));
    onState = start(link);
  } catch (error) {
    status.refused(error, open);
  }
}

void open();
