// Whether the other side is still there (PROTOCOL §5.9).

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import * as Type from "../src/frame-types.js";
import * as frames from "./broker-frames.js";
import { connected, connecting } from "./connected.js";
import { MockBroker, type MockSession } from "./mock.js";
import { coded, serve } from "./serve.js";
import { turn, until } from "./until.js";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function pong(session: MockSession, number: number): void {
  const none = { rtt: undefined, sent: undefined, lost: undefined, subscriptions: [] };
  session.control.send(frames.writePong({ number, ...none }));
}

/** Takes PING and returns its number. */
async function ping(session: MockSession): Promise<number> {
  const p = frames.parsePing(await session.control.want(Type.PING));
  expect(p.subscriptions).toBe(false);
  return p.number;
}

/** Lets time pass, and what comes of it happen. */
async function pass(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
  for (let i = 0; i < 4; i++) await turn();
}

describe("a client", () => {
  test("asks after 5 s of silence, and goes on with an answer", async () => {
    const { client, session } = await connected();
    await pass(4999);
    expect(session.control.frames.size).toBe(0);
    await pass(1);
    pong(session, await ping(session));
    await pass(4990);
    expect([client.state, session.control.frames.size]).toEqual(["connected", 0]);
    await pass(10);
    pong(session, await ping(session));
    await turn();
    await client.close();
  });

  test("does not ask while anything comes", async () => {
    const { client, session } = await connected();
    client.subscribe("a");
    const stream = await serve(session);
    for (let to = 1; to < 10; to++) {
      await pass(4000);
      stream.send(frames.writeSkip({ topic: 1, to }));
      await turn();
    }
    expect(session.control.frames.size).toBe(0);
  });

  test("takes the connection for lost 5 s after it asked in vain", async () => {
    const { client, session } = await connected();
    const lost = new Promise((resolve) => client.on("state", resolve));
    await pass(9999);
    expect(client.state).toBe("connected");
    await pass(1);
    expect(await lost).toMatchObject({
      state: "disconnected",
      error: coded("connection_lost", { reason: "nothing comes any more" }),
    });
    expect(await session.closedByClient).toEqual({ closeCode: 1 }); // a session that has not left
    expect(session.control.frames.size).toBe(1);
  });

  test("takes anything for an answer", async () => {
    const { client, session } = await connected();
    await pass(9000);
    session.datagram(new Uint8Array(1));
    await pass(2000);
    expect(client.state).toBe("connected");
  });

  test("has other times, if the options say so", async () => {
    const { client, session } = await connected({ pingAfter: 100, pingTimeout: 30 });
    await pass(100);
    await ping(session);
    await pass(29);
    expect(client.state).toBe("connected");
    await pass(1);
    expect(client.state).not.toBe("connected");
  });

  test.each([{ pingAfter: 0 }, { pingTimeout: -1 }, { pingAfter: NaN }])("%j is a TypeError", async (o) => {
    await expect(connecting(new MockBroker(), o)).rejects.toThrow(TypeError);
  });
});

/** A page, as far as the client looks at it. */
class FakeDocument extends EventTarget {
  visibilityState = "visible";
}

function page(): { document: FakeDocument; window: EventTarget } {
  const document = new FakeDocument();
  const window = new EventTarget();
  vi.stubGlobal("document", document);
  vi.stubGlobal("addEventListener", window.addEventListener.bind(window));
  vi.stubGlobal("removeEventListener", window.removeEventListener.bind(window));
  return { document, window };
}

test("times beyond what a timer can wait are waited for all the same", async () => {
  const broker = new MockBroker();
  const forever = Infinity;
  const reconnect = { initial: 1e12, max: 1e12 };
  vi.spyOn(Math, "random").mockReturnValue(0.5);
  const client = connecting(broker, { connectTimeout: forever, pingAfter: forever, pingTimeout: forever, reconnect });
  const session = await broker.session();
  await session.hello();
  await pass(1_000_000);
  session.welcome();
  const { state } = await client;
  expect(state).toBe("connected");
  const timers = vi.spyOn(globalThis, "setTimeout");
  await pass(1_000_000);
  expect([session.control.frames.size, timers.mock.calls.length]).toEqual([0, 0]);
  session.lose();
  await pass(1_000_000);
  expect(broker.waiting).toBe(0);
  vi.restoreAllMocks();
});

describe("a page", () => {
  test("in the background asks half as often", async () => {
    const { document } = page();
    const { session } = await connected();
    document.visibilityState = "hidden";
    await pass(9999);
    expect(session.control.frames.size).toBe(0);
    await pass(1);
    await ping(session);
  });

  test.each(["pageshow", "online"])("asks at once at %s", async (event) => {
    const { window } = page();
    const { client, session } = await connected();
    window.dispatchEvent(new Event(event));
    pong(session, await ping(session));
    await pass(4000);
    expect(client.state).toBe("connected");
    await client.close();
    window.dispatchEvent(new Event(event)); // nobody listens any more
  });

  test("asks at once when it is seen again, and not when it is hidden", async () => {
    const { document } = page();
    const { client, session } = await connected();
    document.visibilityState = "hidden";
    document.dispatchEvent(new Event("visibilitychange"));
    expect(session.control.frames.size).toBe(0);
    document.visibilityState = "visible";
    document.dispatchEvent(new Event("visibilitychange"));
    await ping(session);
    await pass(5000);
    expect(client.state).not.toBe("connected");
  });

  test("that was suspended asks once more before it gives up", async () => {
    const { client, session } = await connected();
    await pass(5000);
    await ping(session);
    vi.setSystemTime(Date.now() + 3_600_000); // its timer fires when it is back
    await pass(5000);
    pong(session, await ping(session));
    await pass(1000);
    expect(client.state).toBe("connected");
  });

  test("connects at once when it comes back", async () => {
    const { window } = page();
    const { broker, client, session } = await connected({ reconnect: { initial: 60_000, max: 60_000 } });
    vi.spyOn(Math, "random").mockReturnValue(0.9);
    session.lose();
    await until(() => expect(client.state).toBe("disconnected"));
    window.dispatchEvent(new Event("online"));
    const next = await broker.session();
    await next.hello();
    next.welcome();
    await until(() => expect(client.state).toBe("connected"));
    vi.restoreAllMocks();
  });

  test("that comes back during an attempt makes the next one at once, once", async () => {
    vi.spyOn(Math, "random").mockReturnValue(0.9);
    const { window } = page();
    const { broker, client, session } = await connected({ reconnect: { initial: 60_000, max: 60_000 } });
    session.lose();
    await until(() => expect(client.state).toBe("disconnected"));
    await pass(60_000);
    const hung = await broker.session();
    window.dispatchEvent(new Event("online"));
    hung.lose();
    const second = await broker.session();
    second.lose();
    await until(() => expect(client.state).toBe("disconnected"));
    await pass(50_000);
    expect(broker.waiting).toBe(0);
    await pass(10_000);
    const third = await broker.session();
    window.dispatchEvent(new Event("online"));
    await third.hello();
    third.refuse(403, "busy", 5000);
    await until(() => expect(client.state).toBe("disconnected"));
    await pass(4000);
    expect(broker.waiting).toBe(0);
    vi.restoreAllMocks();
  });

  test("waits all the same if the broker asked for it", async () => {
    const { window } = page();
    const { broker, client, session } = await connected();
    session.refuse(403, "busy", 5000);
    await until(() => expect(client.state).toBe("disconnected"));
    window.dispatchEvent(new Event("online"));
    await pass(4000);
    expect(broker.waiting).toBe(0);
    await pass(1100);
    expect(broker.waiting).toBe(1);
  });
});

describe("health", () => {
  test("tells how the broker sees the connection and its subscriptions", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    await serve(session);
    const health = client.health();
    const p = frames.parsePing(await session.control.want(Type.PING));
    expect(p.subscriptions).toBe(true);
    const counts = { bytes: 5, messages: 4, conflated: 3, dropped: 2 };
    const subscriptions = [{ subscription: 1, ...counts }, { subscription: 99, ...counts }];
    session.control.send(frames.writePong({ number: p.number, rtt: 31_000, sent: 10, lost: 1, subscriptions }));
    expect(await health).toEqual({ rtt: 31, sent: 10, lost: 1, subscriptions: [{ subscription, ...counts }] });
  });

  test("measures where nobody knows, and takes what the browser knows", async () => {
    const { client, session } = await connected();
    const measured = client.health();
    pong(session, frames.parsePing(await session.control.want(Type.PING)).number);
    expect((await measured).rtt).toBeGreaterThan(0);
    Object.assign(session, { getStats: async () => ({ smoothedRtt: 12.5 }) });
    const known = client.health();
    pong(session, frames.parsePing(await session.control.want(Type.PING)).number);
    expect((await known).rtt).toBe(12.5);
    Object.assign(session, { getStats: () => Promise.reject(new Error("not implemented")) });
    const again = client.health();
    pong(session, frames.parsePing(await session.control.want(Type.PING)).number);
    expect((await again).rtt).toBeGreaterThan(0);
  });

  test("rejects when the connection is lost", async () => {
    const { client, session } = await connected();
    const health = client.health();
    await session.control.want(Type.PING);
    session.lose();
    await expect(health).rejects.toThrow(coded("connection_lost"));
  });
});

describe("a token", () => {
  /** A client whose token lives for 100 s. */
  async function expiring(getToken: () => string | Promise<string>) {
    vi.setSystemTime(1_790_000_000_000);
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    const c = await connected({ getToken, pingAfter: 1e6 }, {}, { expires: 100_000 });
    return c;
  }

  afterEach(() => {
    vi.restoreAllMocks();
  });

  test("is replaced when it has lived for most of its time, and so is the next one", async () => {
    let n = 0;
    const { client, session } = await expiring(() => `token ${++n}`);
    await pass(74_999);
    expect(n).toBe(1);
    await pass(1);
    const first = frames.parseAuth(await session.control.want(Type.AUTH));
    expect(first.token).toBe("token 2");
    session.control.send(frames.writeAuthenticated({ number: first.number, expires: 175_000 }));
    await pass(74_999);
    expect(n).toBe(2);
    await pass(1);
    const second = frames.parseAuth(await session.control.want(Type.AUTH));
    session.control.send(frames.writeAuthenticated({ number: second.number, expires: undefined }));
    await pass(1_000_000 - 150_001);
    expect([n, client.state]).toEqual([3, "connected"]);
  });

  test.each([new Error("no network"), undefined])("that cannot be had (%s), or is refused, is asked for again", async (why) => {
    let n = 0;
    const { client, session } = await expiring(async () => {
      if (++n === 2) throw why;
      return `token ${n}`;
    });
    await pass(75_000);
    expect([n, session.control.frames.size]).toEqual([2, 0]);
    await pass(1);
    const bad = frames.parseAuth(await session.control.want(Type.AUTH));
    expect(bad.token).toBe("token 3");
    const error = { code: 200, reason: "", retry: undefined };
    session.control.send(frames.writeNack({ sequence: bad.number, error }));
    await pass(1);
    const good = frames.parseAuth(await session.control.want(Type.AUTH));
    expect(good.token).toBe("token 4");
    session.control.send(frames.writeAuthenticated({ number: good.number, expires: undefined }));
    await turn();
    expect(client.state).toBe("connected");
  });

  test("that was given by hand is replaced later", async () => {
    let n = 0;
    const { client, session } = await expiring(() => `token ${++n}`);
    const done = client.auth("by hand");
    const { number } = frames.parseAuth(await session.control.want(Type.AUTH));
    session.control.send(frames.writeAuthenticated({ number, expires: 400_000 }));
    await done;
    await pass(299_999);
    expect(n).toBe(1);
    await pass(1);
    expect(n).toBe(2);
  });

  test("is not asked for when the connection is gone", async () => {
    let n = 0;
    const { session } = await expiring(() => `token ${++n}`);
    session.refuse(203);
    await pass(100_000);
    expect(n).toBe(1);
  });

  test("whose time is over by this clock is left to the notice", async () => {
    let n = 0;
    vi.setSystemTime(1_790_000_000_000 + 1e6);
    await connected({ getToken: () => `token ${++n}`, pingAfter: 1e6 }, {}, { expires: 100_000 });
    await pass(200_000);
    expect(n).toBe(1);
  });
});
