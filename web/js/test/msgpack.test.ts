import { describe, expect, test } from "vitest";
import { decodeMsgpack, encodeMsgpack } from "../src/msgpack.js";
import { decodePayload, encodePayload, encodingName } from "../src/payload.js";
import { hex, unhex } from "./hex.js";

const bytes = (n: number) => new Uint8Array(n).fill(7);

/** Values that come back as they were, and how they are written. */
const both: [string, unknown, string][] = [
  ["nil", null, "c0"],
  ["false", false, "c2"],
  ["true", true, "c3"],
  ["0", 0, "00"],
  ["127", 127, "7f"],
  ["128", 128, "cc80"],
  ["255", 255, "ccff"],
  ["256", 256, "cd0100"],
  ["65535", 65535, "cdffff"],
  ["65536", 65536, "ce00010000"],
  ["2^32-1", 2 ** 32 - 1, "ceffffffff"],
  ["2^32", 2 ** 32, "cf0000000100000000"],
  ["2^53-1", Number.MAX_SAFE_INTEGER, "cf001fffffffffffff"],
  ["-1", -1, "ff"],
  ["-32", -32, "e0"],
  ["-33", -33, "d0df"],
  ["-128", -128, "d080"],
  ["-129", -129, "d1ff7f"],
  ["-32768", -32768, "d18000"],
  ["-32769", -32769, "d2ffff7fff"],
  ["-2^31", -(2 ** 31), "d280000000"],
  ["-2^31-1", -(2 ** 31) - 1, "d3ffffffff7fffffff"],
  ["-2^53+1", Number.MIN_SAFE_INTEGER, "d3ffe0000000000001"],
  ["bigint 2^53", 2n ** 53n, "cf0020000000000000"],
  ["bigint 2^64-1", 2n ** 64n - 1n, "cfffffffffffffffff"],
  ["bigint -2^63", -(2n ** 63n), "d38000000000000000"],
  ["1.5", 1.5, "cb3ff8000000000000"],
  ["-0", -0, "cb8000000000000000"],
  ["2^53", 2 ** 53, "cb4340000000000000"],
  ["Infinity", Infinity, "cb7ff0000000000000"],
  ["NaN", NaN, "cb7ff8000000000000"],
  ["empty text", "", "a0"],
  ["text", "grüße", "a76772c3bcc39f65"],
  ["text of 31 bytes", "a".repeat(31), `bf${"61".repeat(31)}`],
  ["text of 32 bytes", "a".repeat(32), `d920${"61".repeat(32)}`],
  ["text of 256 bytes", "a".repeat(256), `da0100${"61".repeat(256)}`],
  ["text of 65536 bytes", "a".repeat(65536), `db00010000${"61".repeat(65536)}`],
  ["byte order mark", "\ufeffa", "a4efbbbf61"],
  ["no bytes", bytes(0), "c400"],
  ["255 bytes", bytes(255), `c4ff${"07".repeat(255)}`],
  ["256 bytes", bytes(256), `c50100${"07".repeat(256)}`],
  ["65536 bytes", bytes(65536), `c600010000${"07".repeat(65536)}`],
  ["empty list", [], "90"],
  ["list", [1, "a", [null]], "9301a16191c0"],
  ["list of 16", Array(16).fill(0), `dc0010${"00".repeat(16)}`],
  ["list of 65536", Array(65536).fill(0), `dd00010000${"00".repeat(65536)}`],
  ["empty map", {}, "80"],
  ["map", { a: 1, b: { c: [] } }, "82a16101a16281a16390"],
  ["time", new Date(1_790_000_000_123), "c70cff0754d4c0000000006ab13b80"],
  ["time before 1970", new Date(-1), "c70cff3b8b87c0ffffffffffffffff"],
];

describe("MessagePack", () => {
  test.each(both)("%s, both ways", (_, value, want) => {
    expect(hex(encodeMsgpack(value))).toBe(want);
    expect(decodeMsgpack(unhex(want))).toEqual(value);
  });

  test("a map of 16 entries", () => {
    const map = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`k${i}`, i]));
    const b = encodeMsgpack(map);
    expect(hex(b).slice(0, 6)).toBe("de0010");
    expect(decodeMsgpack(b)).toEqual(map);
  });

  test.each([
    ["undefined as nil", undefined, "c0"],
    ["undefined in a list", [undefined], "91c0"],
    ["undefined properties are left out", { a: undefined, b: 1 }, "81a16201"],
    ["a bigint that a number holds", 5n, "cf0000000000000005"],
    ["an ArrayBuffer", bytes(1).buffer, "c40107"],
    ["a view of a part", new DataView(new Uint8Array([1, 2, 3]).buffer, 1, 1), "c40102"],
    ["a Map with numbers for keys", new Map([[1, "a"]]), "8101a161"],
  ] as [string, unknown, string][])("written: %s", (_, value, want) => {
    expect(hex(encodeMsgpack(value))).toBe(want);
  });

  test.each([
    ["integers longer than needed", "cf0000000000000001", 1],
    ["int 8", "d005", 5],
    ["int 64 in range", "d3ffffffffffffffff", -1],
    ["float 32", "ca3fc00000", 1.5],
    ["array 32", "dd00000001c3", [true]],
    ["map 32", "df00000001a161c2", { a: false }],
    ["text in 32 bits", "db0000000161", "a"],
    ["keys that are no text", "8201c0c3c0", { "1": null, true: null }],
    ["timestamp 32", "d6ff00000001", new Date(1000)],
    ["timestamp 64", "d7ff0754d4c06ab13b80", new Date(1_790_000_000_030)],
  ] as [string, string, unknown][])("read: %s", (_, b, want) => {
    expect(decodeMsgpack(unhex(b))).toEqual(want);
  });

  test("a key of __proto__ is a key", () => {
    const v = decodeMsgpack(unhex("81a95f5f70726f746f5f5f81a16101")) as object;
    expect(Object.getPrototypeOf(v)).toBe(Object.prototype);
    expect(Object.keys(v)).toEqual(["__proto__"]);
  });

  test.each([
    ["nothing", ""],
    ["bytes behind the value", "c0c0"],
    ["code 0xc1", "c1"],
    ["a cut integer", "cd01"],
    ["cut text", "a261"],
    ["text that is not UTF-8", "a1ff"],
    ["bytes that promise 2^32-1", "c6ffffffff00"],
    ["a list that promises 2^32-1", "ddffffffff"],
    ["a map that promises 2^32-1", "dfffffffff00"],
    ["a map whose values are missing", "82c0c0c0"],
    ["a key that is a list", "8190c0"],
    ["an extension that is no timestamp", "d40100"],
    ["a timestamp of one byte", "d4ff00"],
    ["a cut timestamp", "d6ff0000"],
    ["nesting of 65", `${"91".repeat(65)}c0`],
  ])("refused: %s", (_, b) => {
    expect(() => decodeMsgpack(unhex(b))).toThrow();
    expect(() => decodePayload(1, unhex(b))).toThrow(SyntaxError);
  });

  test("nesting of 64 is taken", () => {
    const b = unhex(`${"91".repeat(64)}c0`);
    expect(encodeMsgpack(decodeMsgpack(b))).toEqual(b);
  });

  test("what has no MessagePack is a TypeError", () => {
    const loop: unknown[] = [];
    loop.push(loop);
    for (const v of [() => 1, Symbol("s"), 2n ** 64n, -(2n ** 63n) - 1n, loop, new Date(NaN)]) {
      expect(() => encodeMsgpack(v)).toThrow(TypeError);
    }
  });
});

describe("payloads", () => {
  test("a value chooses its encoding", () => {
    expect(encodePayload("hi")).toEqual({ encoding: 3, data: unhex("6869") });
    expect(encodePayload(bytes(1))).toEqual({ encoding: 0, data: bytes(1) });
    expect(encodePayload(bytes(1).buffer)).toEqual({ encoding: 0, data: bytes(1) });
    expect(encodePayload(null)).toEqual({ encoding: 1, data: unhex("c0") });
    expect(encodePayload({ a: 1 }, "json")).toEqual({ encoding: 2, data: unhex("7b2261223a317d") });
    expect(encodePayload("a", "msgpack")).toEqual({ encoding: 1, data: unhex("a161") });
    expect(encodePayload("a", "json")).toEqual({ encoding: 2, data: unhex("226122") });
  });

  test("bytes are copied: the caller may go on writing to them", () => {
    const mine = bytes(2);
    const { data } = encodePayload(mine);
    mine[0] = 0;
    expect(data).toEqual(bytes(2));
  });

  test("a value that has no such encoding is a TypeError", () => {
    expect(() => encodePayload(1, "text")).toThrow(TypeError);
    expect(() => encodePayload("a", "bytes")).toThrow(TypeError);
    expect(() => encodePayload(undefined, "json")).toThrow(TypeError);
    expect(() => encodePayload(1n, "json")).toThrow(TypeError);
  });

  test("bytes decode by their encoding", () => {
    expect(decodePayload(0, bytes(1))).toEqual(bytes(1));
    expect(decodePayload(1, unhex("a161"))).toBe("a");
    expect(decodePayload(2, unhex("226122"))).toBe("a");
    expect(decodePayload(3, unhex("61"))).toBe("a");
    expect(decodePayload(200, bytes(1))).toEqual(bytes(1));
    expect(encodingName(2)).toBe("json");
    expect(encodingName(200)).toBe("encoding_200");
  });

  test("bytes that are not what the encoding says are a SyntaxError", () => {
    expect(() => decodePayload(2, unhex("7b"))).toThrow(SyntaxError);
    expect(() => decodePayload(3, unhex("ff"))).toThrow(SyntaxError);
  });
});
