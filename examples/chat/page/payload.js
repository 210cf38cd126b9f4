// What the page and the terminal agree on: the topics, and what their messages
// carry. README.md is its description, and payload.go the other half of this file.

export const MAX_TEXT = 2000;
export const MAX_NAME = 32;
const MAX_ROOM = 32;
const MAX_ABOUT = 200;

/** The time to live of what is said with /fade, in milliseconds. */
export const FADE_MS = 30_000;

export const topics = {
  /** In which one is present. */
  room: (room) => `chat.${room}`,
  messages: (room) => `chat.${room}.messages`,
  about: (room) => `chat.${room}.topic`,
  roll: (room) => `chat.${room}.roll`,
  typing: (room) => `chat.${room}.typing`,
  cursors: (room) => `chat.${room}.cursors`,
  /** The room of a topic. */
  roomOf: (topic) => topic.split(".")[1],
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

/** What `read` gives if it is a map; undefined for what is none of the chat's. */
function mapOf(read) {
  try {
    const value = read();
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined; // not what its encoding says
  }
}

/** Reads a message of chat.ROOM.messages. */
export function readSaid(message) {
  const v = mapOf(() => message.value);
  const text = cleanText(v?.text);
  if (!text) return undefined;
  return { id: typeof v.id === "string" ? cut(v.id, 64) : "", name: cleanName(v.name), text };
}

/** Reads the state of somebody who is present. */
export function readPerson(member) {
  const v = mapOf(() => member.state);
  return { name: cleanName(v?.name), via: v?.via === "terminal" ? "terminal" : "browser", away: v?.away === true };
}

/** Reads a message of chat.ROOM.topic. */
export function readAbout(message) {
  const v = mapOf(() => message.value);
  return { name: cleanName(v?.name), text: cut(printable(v?.text).trim().split(/\s+/u).join(" "), MAX_ABOUT) };
}

/** Reads the reply to a request for dice: what is wrong with it, "" if nothing. */
export function readThrown(reply) {
  return cleanText(mapOf(() => reply.value)?.error);
}

/** Reads a message of chat.ROOM.typing. */
export function readTyping(message) {
  const v = mapOf(() => message.value);
  return v && message.publisher ? { name: cleanName(v.name), typing: v.typing === true } : undefined;
}

/** Reads a message of chat.ROOM.cursors; `x` undefined: the pointer has left. */
export function readCursor(message) {
  const v = mapOf(() => message.value);
  if (!v || !message.publisher) return undefined;
  const { x, y, on } = v;
  const name = cleanName(v.name);
  if (!Number.isFinite(x) || !Number.isFinite(y)) return { name };
  return { name, x: Math.min(1.5, Math.max(-0.5, x)), y, on: typeof on === "string" ? on : "" };
}
