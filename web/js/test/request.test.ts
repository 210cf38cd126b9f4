// Requests and replies (PROTOCOL §7.7).

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { ConnectOptions } from "../src/client-options.js";
import * as Type from "../src/frame-types.js";
import type { Reply } from "../src/message.js";
import * as frames from "./broker-frames.js";
import { connected } from "./connected.js";
import { CLIENT, CLIENT_ID, type MockSession, message } from "./mock.js";
import { coded, serve } from "./serve.js";
import { turn, until } from "./until.js";

// The time that is left is exact then.
beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"] });
});

afterEach(() => {
  vi.useRealTimers();
});

const text = (s: string) => new TextEncoder().encode(s);

async function request(session: MockSession): Promise<frames.ParsedRequest> {
  return frames.parseRequest(await session.control.want(Type.REQUEST));
}

const response = (number: number, value: string): Uint8Array =>
  frames.writeResponse({ number, encoding: 3, data: text(value), publisher: CLIENT, headers: ["h", "v"] });

function respond(session: MockSession, number: number, value: string): void {
  session.control.send(response(number, value));
}

function done(session: MockSession, number: number, code: number): void {
  session.control.send(frames.writeDone({ number, error: { code, reason: "", retry: undefined } }));
}

describe("request", () => {
  test("resolves with the reply", async () => {
    const { client, session } = await connected();
    const reply = client.request("svc.add", "1+1", { timeout: 700, key: "k", headers: { a: "b" } });
    const r = await request(session);
    expect(r).toEqual({
      number: 1,
      topic: "svc.add",
      timeout: 700,
      limit: 1,
      encoding: 3,
      data: text("1+1"),
      key: "k",
      headers: ["a", "b"],
    });
    respond(session, r.number, "2");
    done(session, r.number, 0);
    const { value, encoding, publisher, headers, data } = await reply;
    expect([value, encoding, publisher, headers, data]).toEqual(["2", "text", CLIENT_ID, { h: "v" }, text("2")]);
    expect(session.control.frames.size).toBe(0);
  });

  test.each([
    [404, "no_responders"],
    [405, "request_timeout"],
    [202, "publish_denied"],
    [308, "too_many_requests"],
  ])("rejects with DONE's code %i", async (code, codeName) => {
    const { client, session } = await connected();
    const reply = client.request("svc", 1);
    done(session, (await request(session)).number, code);
    await expect(reply).rejects.toThrow(coded(codeName, { remote: true }));
  });

  test("is never sent twice", async () => {
    const { broker, client, session } = await connected();
    const reply = client.request("svc", 1);
    await request(session);
    session.lose();
    await expect(reply).rejects.toThrow(coded("connection_lost"));
    const next = await broker.session();
    await next.hello();
    next.welcome();
    await until(() => expect(client.state).toBe("connected"));
    expect(next.control.frames.size).toBe(0);
  });

  test("waits for a connection, and has less time then", async () => {
    const { broker, client, session } = await connected();
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    vi.useFakeTimers({ toFake: ["Date"] });
    const reply = client.request("svc", 1, { timeout: 60_000 });
    await turn();
    vi.setSystemTime(Date.now() + 24_000);
    const next = await broker.session();
    await next.hello();
    next.welcome();
    const r = await request(next);
    expect(r.timeout).toBe(36_000);
    respond(next, r.number, "yes");
    expect((await reply).value).toBe("yes");
  });

  test("does not wait for a connection for longer than it may", async () => {
    const { client, session } = await connected({ reconnect: { initial: 1e6, max: 1e6 } });
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    await expect(client.request("svc", 1, { timeout: 5 })).rejects.toThrow(coded("request_timeout"));
  });

  test("ends soon after its time although the broker is not heard", async () => {
    const { client, session } = await connected();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      const reply = client.request("svc", 1, { timeout: 5 });
      const refused = expect(reply).rejects.toThrow(coded("request_timeout"));
      const { number } = await request(session);
      let over = false;
      void reply.catch(() => (over = true));
      await vi.advanceTimersByTimeAsync(1004);
      expect(over).toBe(false);
      await vi.advanceTimersByTimeAsync(1);
      await refused;
      expect(frames.parseCancel(await session.control.want(Type.CANCEL)).number).toBe(number);
    } finally {
      vi.useRealTimers();
    }
  });

  test("a signal cancels it, and what still comes is ignored", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const reply = client.request("svc", 1, { signal: controller.signal });
    const { number } = await request(session);
    controller.abort();
    await expect(reply).rejects.toThrow(coded("aborted"));
    expect(frames.parseCancel(await session.control.want(Type.CANCEL)).number).toBe(number);
    respond(session, number, "late");
    done(session, number, 0);
    await turn();
    expect(client.state).toBe("connected");
  });

  test.each([
    [{ timeout: 0 }, "invalid_option"],
    [{ timeout: 600_001 }, "invalid_option"],
    [{ key: "" }, "invalid_option"],
    [{ headers: { "": "x" } }, "invalid_option"],
  ])("with %j is refused at once", async (options, codeName) => {
    const { client, session } = await connected();
    await expect(client.request("svc", 1, options)).rejects.toThrow(coded(codeName));
    await expect(client.request("$SYS", 1)).rejects.toThrow(coded("system_topic"));
    expect(session.control.frames.size).toBe(0);
  });
});

describe("requestMany", () => {
  async function collect(replies: AsyncIterable<Reply>): Promise<unknown[]> {
    const values = [];
    for await (const r of replies) values.push(r.value);
    return values;
  }

  test("yields replies until there are enough", async () => {
    const { client, session } = await connected();
    const replies = collect(client.requestMany("svc", 1, { max: 2 }));
    const r = await request(session);
    expect([r.limit, r.timeout]).toEqual([2, 5000]);
    respond(session, r.number, "x");
    respond(session, r.number, "y");
    done(session, r.number, 0);
    expect(await replies).toEqual(["x", "y"]);
  });

  test("ends with its time, if there was a reply", async () => {
    const { client, session } = await connected();
    const replies = collect(client.requestMany("svc", 1));
    const r = await request(session);
    expect(r.limit).toBe(100);
    respond(session, r.number, "x");
    done(session, r.number, 405);
    expect(await replies).toEqual(["x"]);
    const none = collect(client.requestMany("svc", 1));
    done(session, (await request(session)).number, 405);
    await expect(none).rejects.toThrow(coded("request_timeout"));
  });

  test("ends when more replies wait than may, in bytes", async () => {
    const { client, session } = await connected();
    const replies = client.requestMany("svc", 1)[Symbol.asyncIterator]();
    const first = replies.next();
    const { number } = await request(session);
    respond(session, number, "x");
    expect((await first).value?.value).toBe("x");
    const large = response(number, "x".repeat(256 << 10));
    for (let i = 0; i <= 16; i++) session.control.whole(large);
    expect(frames.parseCancel(await session.control.want(Type.CANCEL)).number).toBe(number);
    for (let i = 0; i < 16; i++) expect((await replies.next()).done).toBe(false);
    await expect(replies.next()).rejects.toThrow(coded("queue_full"));
  });

  test("leaving the loop cancels it", async () => {
    const { client, session } = await connected();
    const first = (async () => {
      for await (const r of client.requestMany("svc", 1)) return r.value;
      return undefined;
    })();
    const { number } = await request(session);
    respond(session, number, "x");
    expect(await first).toBe("x");
    expect(frames.parseCancel(await session.control.want(Type.CANCEL)).number).toBe(number);
  });
});

describe("a reply", () => {
  test("goes to the address of the request", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe<string>("svc");
    const stream = await serve(session);
    stream.send(message({ offset: 1, reply: new Uint8Array([1, 2]) }), message({ offset: 2 }));
    const iterator = subscription[Symbol.asyncIterator]();
    const m = (await iterator.next()).value;
    if (m?.kind !== "message") throw new Error("no message");
    expect(m.request).toBe(true);
    m.reply("pong", { headers: { a: "b" } });
    expect(frames.parseReply(await session.control.want(Type.REPLY))).toEqual({
      to: new Uint8Array([1, 2]),
      encoding: 3,
      data: text("pong"),
      headers: ["a", "b"],
    });
    const other = (await iterator.next()).value;
    if (other?.kind !== "message") throw new Error("no message");
    expect(other.request).toBe(false);
    other.reply("nobody asked");
    expect(() => m.reply(1, { headers: { "": "" } })).toThrow(coded("invalid_option"));
    await turn();
    expect(session.control.frames.size).toBe(0);
  });

  /** A request that came, and a client that has lost its connection since. */
  async function away(options: ConnectOptions = {}) {
    const { broker, client, session } = await connected(options);
    const subscription = client.subscribe("svc");
    const stream = await serve(session);
    stream.send(message({ offset: 1, time: 1000, expires: 61_000, reply: new Uint8Array([1, 2]) }));
    const m = (await subscription[Symbol.asyncIterator]().next()).value;
    if (m?.kind !== "message") throw new Error("no message");
    session.lose();
    await until(() => expect(client.state).not.toBe("connected"));
    const back = async (): Promise<MockSession> => {
      const next = await broker.session();
      await next.hello();
      next.welcome();
      await until(() => expect(client.state).toBe("connected"));
      return next;
    };
    return { client, m, back };
  }

  test("waits for a connection", async () => {
    const { client, m, back } = await away();
    m.reply("1");
    m.reply("2");
    const next = await back();
    const to = new Uint8Array([1, 2]);
    for (const value of ["1", "2"]) {
      const reply = frames.parseReply(await next.control.want(Type.REPLY));
      expect(reply).toMatchObject({ to, data: text(value) });
    }
    expect(client.drops.unsent).toBe(0);
  });

  test("does not wait longer than the one who asked", async () => {
    const timeouts: number[] = [];
    const over = new AbortController();
    const timeout = vi.spyOn(AbortSignal, "timeout").mockImplementation((ms) => {
      timeouts.push(ms);
      return over.signal;
    });
    const { client, m, back } = await away();
    m.reply("late");
    timeout.mockRestore();
    expect(timeouts).toEqual([60_000]);
    over.abort();
    await until(() => expect(client.drops.unsent).toBe(1));
    const next = await back();
    await turn();
    expect(next.control.frames.size).toBe(0);
  });

  test("is dropped, and counted, if too many wait or nothing may", async () => {
    const { client, m, back } = await away();
    m.reply(new Uint8Array(1 << 20));
    await until(() => expect(client.drops.unsent).toBe(1));
    m.reply("small");
    const next = await back();
    expect(frames.parseReply(await next.control.want(Type.REPLY)).data).toEqual(text("small"));

    const refusing = await away({ offline: { refuse: true } });
    refusing.m.reply("now or never");
    await until(() => expect(refusing.client.drops.unsent).toBe(1));
  });
});
