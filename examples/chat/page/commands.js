// What is not said but done: lines that begin with a slash.

import { FADE_MS, readThrown, topics } from "./payload.js";

const ROLL_TIMEOUT = 5000;
const HELP = "/topic TEXT: what the room is about · /fade TEXT: gone after 30 s · /roll 2d6: throw dice";

/**
 * Says a text in a room, or does what it asks for. Rejects with an Error for people.
 */
export async function sayOrDo(link, room, name, text) {
  const [, command, rest] = /^\/(\w+)\s*(.*)$/su.exec(text) ?? [];
  switch (command) {
    case undefined:
      return room.say(name, text);
    case "topic":
      await link.publish(topics.about(room.name), rest ? { name, text: rest } : new Uint8Array(), { retain: true });
      return;
    case "fade":
      if (rest) room.say(name, rest, FADE_MS);
      return;
    case "roll":
      return roll(link, room, name, rest);
    default:
      throw new Error(HELP);
  }
}

/** Asks the dice. What fell is said in the room; a request that has no answer is not repeated. */
async function roll(link, room, name, dice) {
  let reply;
  try {
    reply = await link.client.request(topics.roll(room.name), { name, dice }, { timeout: ROLL_TIMEOUT });
  } catch (error) {
    link.lastError = error;
    throw new Error(error.codeName === "no_responders" ? "There are no dice here." : `No dice: ${error.codeName ?? error.message}`, { cause: error });
  }
  const wrong = readThrown(reply);
  if (wrong) throw new Error(wrong);
}
