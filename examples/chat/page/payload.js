// What the page and the terminal agree on: the topics, and what their messages
// carry. README.md is its description, and payload.go the other half of this file.

export const MAX_TEXT = 2000;
export const MAX_NAME = 32;
const MAX_ROOM = 32;

/** How long an announcement holds, in milliseconds, by its status. */
export const HOLDS = { here: 8000, away: 90_000, left: 0 };
/** After which time one announces oneself again. */
export const HERE_EVERY = 3000;

export const topics = {
  messages: (room) => `chat.${room}.messages`,
  here: (room) => `chat.${room}.here`,
  everywhere: "chat.*.here",
  // Of a lossy message only the newest of its topic counts, so everybody has a
  // topic of their own.
  typing: (room, id) => `chat.${room}.typing.${id}`,
  cursor: (room, id) => `chat.${room}.cursors.${id}`,
  /** The room of a topic. */
  room: (topic) => topic.split(".")[1],
};

/**
 * Makes the token of a topic from what somebody calls a room: lower case, with a
 * dash for what a token or a URL cannot have. Throws an Error that says what is
 * wrong, for people.
 */
export function roomToken(name) {
  const words = name.trim().toLowerCase().match(/[\p{L}\p{N}]+/gu);
  if (!words) throw new Error("The name of a room needs a letter or a number.");
  const token = words.join("-");
  if ([...token].length > MAX_ROOM) throw new Error(`The name of a room has at most ${MAX_ROOM} characters.`);
  return token;
}

/** Cuts a text to n characters. */
const cut = (text, n) => (text.length <= n ? text : [...text].slice(0, n).join(""));

/** Drops control characters, and those that change the direction of what follows. */
const printable = (value) =>
  typeof value === "string" ? value.replace(/\t/g, " ").replace(/[^\P{Cc}\n]|\p{Bidi_Control}/gu, "") : "";

/** Makes a name fit to be shown: one line, never empty. */
export function cleanName(value) {
  return cut(printable(value).trim().split(/\s+/u).join(" "), MAX_NAME) || "somebody";
}

/** Makes what somebody says fit to be shown; "" if nothing is left. */
export const cleanText = (value) => cut(printable(value).trim(), MAX_TEXT);

/** The value of a message if it is a map; undefined for what is none of the chat's. */
function mapOf(message) {
  try {
    const value = message.value;
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined; // not what its encoding says
  }
}

/** Reads a message of chat.ROOM.messages. */
export function readSaid(message) {
  const v = mapOf(message);
  const text = cleanText(v?.text);
  if (!text) return undefined;
  return { id: typeof v.id === "string" ? cut(v.id, 64) : "", name: cleanName(v.name), text };
}

/** Reads a message of chat.ROOM.here. */
export function readAnnouncement(message) {
  const v = mapOf(message);
  if (!v || !message.publisher || !Object.hasOwn(HOLDS, v.status)) return undefined;
  return {
    name: cleanName(v.name),
    status: v.status,
    via: v.via === "terminal" ? "terminal" : "browser",
    ask: v.ask === true,
  };
}

/** Reads a message of chat.ROOM.typing.ID. */
export function readTyping(message) {
  const v = mapOf(message);
  return v && message.publisher ? { name: cleanName(v.name), typing: v.typing === true } : undefined;
}

/** Reads a message of chat.ROOM.cursors.ID; `x` undefined: the pointer has left. */
export function readCursor(message) {
  const v = mapOf(message);
  if (!v || !message.publisher) return undefined;
  const { x, y, on } = v;
  const name = cleanName(v.name);
  if (!Number.isFinite(x) || !Number.isFinite(y)) return { name };
  return { name, x: Math.min(1.5, Math.max(-0.5, x)), y, on: typeof on === "string" ? on : "" };
}
