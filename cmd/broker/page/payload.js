// Payloads as people write and read them.

const decoder = new TextDecoder("utf-8", { fatal: true });

/** How many characters of a payload are shown. */
const MAX_SHOWN = 4096;

/** Returns the value and options to publish for what was typed; throws an Error
 * that says what is wrong with it. */
export function parse(text, encoding) {
  switch (encoding) {
    case "json":
    case "msgpack":
      try {
        return [JSON.parse(text), { encoding }];
      } catch (error) {
        throw new Error(`the payload is no JSON: ${error.message}`);
      }
    case "bytes":
      return [fromHex(text), { encoding }];
  }
  return [text, { encoding: "text" }];
}

function fromHex(text) {
  const digits = text.replace(/0x|[\s:]/gi, "");
  if (digits.length % 2 !== 0 || /[^0-9a-f]/i.test(digits)) {
    throw new Error("the payload is no hexadecimal: write two digits for each byte");
  }
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** Returns a message's payload as text to read. */
export function format(message) {
  const text = readable(message);
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN)} … (${message.data.length} bytes)`;
}

function readable(message) {
  try {
    switch (message.encoding) {
      case "text":
        return message.value;
      case "json":
      case "msgpack":
        return JSON.stringify(message.value, plain, 1).replace(/\n */g, " ");
    }
    return decoder.decode(message.data);
  } catch {
    return `0x${hex(message.data)}`;
  }
}

/** What JSON cannot hold, as something that it can. */
function plain(_, value) {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return `0x${hex(value)}`;
  return value;
}

function hex(bytes) {
  return Array.from(bytes.subarray(0, MAX_SHOWN), (b) => b.toString(16).padStart(2, "0")).join("");
}

