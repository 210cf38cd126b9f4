import { afterEach, describe, expect, test, vi } from "vitest";
import type { StateChange } from "../src/client-options.js";
import { connect } from "../src/index.js";
import * as Type from "../src/frame-types.js";
import * as frames from "./broker-frames.js";
import { URL, connected, connecting } from "./connected.js";
import { turn, until } from "./until.js";
import { BASE, CLIENT, CLIENT_ID, MockBroker } from "./mock.js";

afterEach(() => {
  vi.useRealTimers();
});

const coded = (codeName: string, more = {}) => expect.objectContaining({ codeName, ...more });

describe("connect", () => {
  test("sends HELLO, and resolves with WELCOME", async () => {
    const broker = new MockBroker();
    const client = connecting(broker, { token: "t.o.k", agent: "test/1" });
    const session = await broker.session();
    expect(session.url).toBe(URL);
    expect(session.options).toEqual({});
    expect(await session.hello()).toEqual({
      version: 1,
      capabilities: 1,
      token: "t.o.k",
      resume: undefined,
      agent: "test/1",
    });
    session.welcome();
    const c = await client;
    expect(c.id).toBe(CLIENT_ID);
    expect(c.state).toBe("connected");
  });

  test("has the browser hold more than one datagram", async () => {
    const { session } = await connected();
    const many = { incomingHighWaterMark: 256, incomingMaxBufferedDatagrams: 256 };
    expect(session.datagrams).toMatchObject(many);
  });

  test("a transport without datagrams is told so", async () => {
    const broker = new MockBroker({ datagrams: false });
    const client = connecting(broker);
    const session = await broker.session();
    expect(await session.hello()).toMatchObject({ capabilities: 0 });
    session.welcome();
    await client;
  });

  test("trusts certificates by their hash, however it is written", async () => {
    const bytes = new Uint8Array(32).map((_, i) => i * 8);
    const hex = Buffer.from(bytes).toString("hex");
    const base64 = Buffer.from(bytes).toString("base64");
    const colons = hex.toUpperCase().replace(/..(?=.)/g, "$&:");
    const broker = new MockBroker();
    const client = connecting(broker, { certificateHashes: [bytes, hex, base64, colons] });
    const session = await broker.session();
    const want = { algorithm: "sha-256", value: bytes };
    expect(session.options).toEqual({ serverCertificateHashes: [want, want, want, want] });
    await session.hello();
    session.welcome();
    await client;
  });

  test.each([
    ["a hash that is none", { certificateHashes: ["abc"] }],
    ["a hash of 31 bytes", { certificateHashes: [new Uint8Array(31)] }],
    ["a hash with other digits", { certificateHashes: ["zz".repeat(32)] }],
    ["a backoff that shrinks", { reconnect: { factor: 0.5 } }],
    ["an agent that is too long", { agent: "é".repeat(65) }],
  ])("%s is a TypeError", async (_, options) => {
    const broker = new MockBroker();
    await expect(connecting(broker, options)).rejects.toThrow(TypeError);
    expect(broker.waiting).toBe(0);
  });

  test("asks for the hashes for each attempt, where they are a function", async () => {
    let n = 0;
    const { broker, session } = await connected({
      certificateHashes: async () => [new Uint8Array(32).fill(++n)],
    });
    expect(session.options?.serverCertificateHashes?.[0]?.value[0]).toBe(1);
    session.lose();
    const next = await broker.session();
    expect(next.options?.serverCertificateHashes?.[0]?.value[0]).toBe(2);
    await next.hello();
    next.welcome();
    const bad = connecting(new MockBroker(), { certificateHashes: () => ["none"] });
    await expect(bad).rejects.toThrow(coded("connect_failed", { cause: expect.any(TypeError) }));
  });

  test("a refusal comes in band, with its code", async () => {
    const broker = new MockBroker();
    const client = connecting(broker);
    const session = await broker.session();
    await session.hello();
    session.refuse(200, "no such token");
    await expect(client).rejects.toThrow(
      coded("unauthorized", { code: 200, reason: "no such token", remote: true, retry: undefined }),
    );
    expect(await session.closedByClient).toEqual({});
    expect(broker.waiting).toBe(0);
  });

  test("a refusal by the close code alone keeps its code", async () => {
    const broker = new MockBroker();
    const client = connecting(broker);
    const session = await broker.session();
    await session.hello();
    session.shut(303, "full");
    await expect(client).rejects.toThrow(coded("too_many_sessions", { remote: true, reason: "full" }));
  });

  test("a close code that comes after the streams broke is told all the same", async () => {
    const broker = new MockBroker();
    const client = connecting(broker);
    const session = await broker.session();
    await session.hello();
    session.control.break();
    await turn();
    session.shut(303, "full");
    await expect(client).rejects.toThrow(coded("too_many_sessions"));
  });

  test("a handshake that fails is connect_failed, with the browser's error as cause", async () => {
    const client = connecting(new MockBroker({ refused: true }));
    await expect(client).rejects.toThrow(
      coded("connect_failed", { remote: false, cause: expect.objectContaining({ name: "WebTransportError" }) }),
    );
  });

  test("a constructor that throws is connect_failed", async () => {
    const webTransport = class {
      constructor() {
        throw new SyntaxError("not https");
      }
    } as never;
    await expect(connect("http://broker.example", { webTransport })).rejects.toThrow(
      coded("connect_failed", { reason: "not https" }),
    );
  });

  test("without WebTransport it is unsupported", async () => {
    await expect(connect(URL)).rejects.toThrow(coded("unsupported"));
  });

  test.each(["silent transport", "silent broker"])("a %s is a connect_timeout", async (what) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const broker = new MockBroker({ silent: what === "silent transport" });
    const client = connecting(broker, { connectTimeout: 2500 });
    const refused = expect(client).rejects.toThrow(coded("connect_timeout"));
    const session = await broker.session();
    await vi.advanceTimersByTimeAsync(2499);
    const closed = vi.fn();
    void session.closedByClient.then(closed);
    await vi.advanceTimersByTimeAsync(0);
    expect(closed).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    await refused;
    expect(await session.closedByClient).toEqual({ closeCode: 1 }); // a session that was resumed has not left
  });

  test("a signal cancels the attempt", async () => {
    const broker = new MockBroker();
    const controller = new AbortController();
    const client = connecting(broker, { signal: controller.signal });
    const session = await broker.session();
    await session.hello();
    controller.abort(new Error("enough"));
    await expect(client).rejects.toThrow(coded("aborted", { cause: new Error("enough") }));
    await session.closedByClient;
  });

  test("a signal that was aborted before lets nothing begin", async () => {
    const broker = new MockBroker();
    await expect(connecting(broker, { signal: AbortSignal.abort() })).rejects.toThrow(coded("aborted"));
    expect(broker.waiting).toBe(0);
  });

  test("a signal has no effect on a client that stands", async () => {
    const controller = new AbortController();
    const { client } = await connected({ signal: controller.signal });
    controller.abort();
    expect(client.state).toBe("connected");
  });

  test("a signal ends the wait for a token", async () => {
    const controller = new AbortController();
    const client = connecting(new MockBroker(), {
      signal: controller.signal,
      getToken: () => new Promise(() => {}),
    });
    controller.abort();
    await expect(client).rejects.toThrow(coded("aborted"));
  });

  test("a token function that fails ends the attempt", async () => {
    const getToken = () => Promise.reject(new Error("no network"));
    await expect(connecting(new MockBroker(), { getToken })).rejects.toThrow(
      coded("connect_failed", { cause: new Error("no network") }),
    );
  });

  test.each([
    ["another version", () => frames.writeWelcome({ ...welcomeOf(), version: 2 }), "unsupported_version"],
    ["a frame before WELCOME", () => frames.writeAuthenticated({ number: 1, expires: undefined }), "unexpected_frame"],
    ["a frame that is not known", () => new Uint8Array([2, 0x91, 99]), "unknown_frame"],
    ["a body that is no frame", () => new Uint8Array([1, 0xc0]), "malformed_frame"],
    ["a frame that is too large", () => new Uint8Array([0x80, 1, 0, 1]), "frame_too_large"],
  ])("%s ends the session with its code", async (_, bytes, codeName) => {
    const broker = new MockBroker();
    const client = connecting(broker);
    const session = await broker.session();
    await session.hello();
    session.control.send(bytes());
    await expect(client).rejects.toThrow(coded(codeName, { remote: false }));
    expect((await session.closedByClient).closeCode).toBeGreaterThan(100);
  });

  test("a control stream that ends without END is a lost connection", async () => {
    const broker = new MockBroker();
    const client = connecting(broker);
    const session = await broker.session();
    await session.hello();
    session.control.close();
    await expect(client).rejects.toThrow(coded("connection_lost"));
  });
});

function welcomeOf() {
  return {
    version: 1,
    capabilities: 1,
    client: CLIENT,
    secret: new Uint8Array(0),
    limits: { payload: 1, subscriptions: 1, publications: 1, publicationCredit: 1, subscriptionCredit: 1 },
    base: BASE,
    expires: undefined,
    server: "",
  };
}

describe("reconnect", () => {
  test("a lost connection is replaced, under the same id", async () => {
    const { broker, client, session } = await connected();
    const states: StateChange[] = [];
    client.on("state", (change) => states.push(change));
    session.lose();
    const next = await broker.session();
    expect(await next.hello()).toMatchObject({
      resume: { client: CLIENT, secret: new Uint8Array([1, 2, 3]) },
    });
    next.welcome();
    await until(() => expect(client.state).toBe("connected"));
    expect(states).toEqual([
      { state: "disconnected", error: coded("connection_lost") },
      { state: "connecting", error: undefined },
      { state: "connected", error: undefined },
    ]);
  });

  test("a listener is taken away by the function that adding it gave", async () => {
    const { client } = await connected();
    const listener = vi.fn();
    client.on("state", listener)();
    await client.close();
    expect(listener).not.toHaveBeenCalled();
  });

  test("waits longer each time, at random, and at least as the broker says", async () => {
    const random = vi.spyOn(Math, "random").mockReturnValue(1);
    const { broker, client, session } = await connected({ reconnect: { initial: 100, max: 300 } });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      session.refuse(400, "stopping", 1000);
      await until(() => expect(client.state).toBe("disconnected"));
      await vi.advanceTimersByTimeAsync(1099);
      expect(broker.waiting).toBe(0);
      await vi.advanceTimersByTimeAsync(1);
      for (const wait of [200, 300, 300]) {
        const next = await broker.session();
        await next.hello();
        next.refuse(403);
        await until(() => expect(client.state).toBe("disconnected"));
        await vi.advanceTimersByTimeAsync(wait - 1);
        expect(broker.waiting).toBe(0);
        await vi.advanceTimersByTimeAsync(1);
      }
      const last = await broker.session();
      await last.hello();
      last.welcome();
      await until(() => expect(client.state).toBe("connected"));
    } finally {
      random.mockRestore();
    }
  });

  test.each([
    [1, "replaced"],
    [0, "ok"],
    [105, "unsupported_version"],
    [200, "unauthorized"],
    [201, "token_expired"],
    [199, "code_199"],
  ])("END %i (%s) is final", async (code, codeName) => {
    const { broker, client, session } = await connected({ token: "t" });
    const subscription = client.subscribe("a");
    const waiting = expect(client.publish("b", 1)).rejects.toThrow(coded("connection_lost"));
    const changes: StateChange[] = [];
    client.on("state", (change) => changes.push(change));
    await session.subscription();
    session.refuse(code, "go away");
    await expect(subscription[Symbol.asyncIterator]().next()).rejects.toThrow(coded(codeName));
    await waiting;
    expect(client.state).toBe("closed");
    expect(changes).toEqual([{ state: "closed", error: coded(codeName, { remote: true }) }]);
    expect(() => client.subscribe("a")).toThrow(coded(codeName));
    await expect(client.publish("a", 1)).rejects.toThrow(coded(codeName));
    expect(() => client.publishLossy("a", 1)).toThrow(coded(codeName));
    await expect(client.auth("t")).rejects.toThrow(coded(codeName));
    await client.close();
    expect(broker.waiting).toBe(0);
  });

  test("a final code of an attempt is final too", async () => {
    const { broker, client, session } = await connected();
    session.lose();
    const next = await broker.session();
    await next.hello();
    next.refuse(200);
    await until(() => expect(client.state).toBe("closed"));
  });

  test("a token function is asked again when the token has expired", async () => {
    let n = 0;
    const { broker, session } = await connected({ getToken: async () => `token ${++n}` });
    session.refuse(201);
    const next = await broker.session();
    expect(await next.hello()).toMatchObject({ token: "token 2" });
    next.welcome();
  });

  test("without resume, where resume is denied", async () => {
    const { broker, session } = await connected();
    session.lose();
    const denied = await broker.session();
    await denied.hello();
    denied.refuse(205);
    const next = await broker.session();
    expect(await next.hello()).toMatchObject({ resume: undefined });
    next.welcome();
  });

  test("not at all, if the options say so", async () => {
    const { broker, client, session } = await connected({ reconnect: false });
    session.lose();
    await until(() => expect(client.state).toBe("closed"));
    expect(broker.waiting).toBe(0);
  });

  test("close ends the wait for the next attempt", async () => {
    const { broker, client, session } = await connected({ reconnect: { initial: 1e6, max: 1e6 } });
    session.lose();
    await until(() => expect(client.state).toBe("disconnected"));
    await client.close();
    expect(client.state).toBe("closed");
    expect(broker.waiting).toBe(0);
  });

  test("close ends an attempt", async () => {
    const { broker, client, session } = await connected();
    session.lose();
    const next = await broker.session();
    await next.hello();
    await client.close();
    await next.closedByClient;
    expect(broker.waiting).toBe(0);
  });
});

describe("close", () => {
  test("without a connection asks for no token and no certificates any more", async () => {
    const getToken = vi.fn(() => "t");
    const certificateHashes = vi.fn(() => []);
    const reconnect = { initial: 1e6, max: 1e6 };
    const { client, session } = await connected({ getToken, certificateHashes, reconnect });
    session.lose();
    await until(() => expect(client.state).toBe("disconnected"));
    await client.close();
    expect([getToken.mock.calls.length, certificateHashes.mock.calls.length]).toEqual([1, 1]);
  });

  test("sends FIN on the control stream, and waits for the broker", async () => {
    const { client, session } = await connected();
    const closing = client.close();
    expect(client.state).toBe("closed");
    await session.control.fin;
    await closing;
    expect(await session.closedByClient).toEqual({});
    await client.close();
  });

  test("does not wait for long", async () => {
    const { client, session } = await connected({}, { answersFin: false });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const closing = client.close();
    await session.control.fin;
    await vi.advanceTimersByTimeAsync(1000);
    await closing;
    await session.closedByClient;
  });

  test("ends all iterations without an error, and all that waits with closed", async () => {
    const { client, session } = await connected();
    const subscription = client.subscribe("a");
    const next = subscription[Symbol.asyncIterator]().next();
    await session.subscription();
    const published = expect(client.publish("a", 1)).rejects.toThrow(coded("closed"));
    await session.control.want(Type.PUBLISH);
    const auth = expect(client.auth("new")).rejects.toThrow(coded("closed"));
    const closing = client.close();
    expect(await next).toEqual({ done: true, value: undefined });
    expect(await subscription.closed).toBeUndefined();
    await closing;
    await published;
    await auth;
  });
});

test("await using closes the client, where the runtime has it", async () => {
  const { client, session } = await connected();
  const dispose = Symbol.asyncDispose as symbol | undefined;
  if (dispose) await client[Symbol.asyncDispose]();
  else await client.close();
  expect(client.state).toBe("closed");
  await session.closedByClient;
});

describe("auth", () => {
  test("replaces the token in place, and for later attempts", async () => {
    const { broker, client, session } = await connected({ token: "old" });
    const done = client.auth("new");
    const { number, token } = frames.parseAuth(await session.control.want(Type.AUTH));
    expect(token).toBe("new");
    session.control.send(frames.writeAuthenticated({ number, expires: 1000 }));
    await done;
    session.lose();
    const next = await broker.session();
    expect(await next.hello()).toMatchObject({ token: "new" });
    next.welcome();
  });

  test.each([{}, { token: "old" }, { getToken: () => "old" }])("during an attempt with %j the new one follows", async (o) => {
    const { broker, client, session } = await connected(o);
    session.lose();
    const next = await broker.session();
    const { token } = await next.hello();
    await client.auth("new");
    next.welcome();
    await until(() => expect(client.state).toBe("connected"));
    const { number, ...auth } = frames.parseAuth(await next.control.want(Type.AUTH));
    expect([token, auth.token]).toEqual(["token" in o || "getToken" in o ? "old" : "", "new"]);
    next.control.send(frames.writeNack({ sequence: number, error: { code: 200, reason: "", retry: undefined } }));
    next.lose();
    const third = await broker.session();
    expect((await third.hello()).token).toBe("getToken" in o ? "old" : "new");
    third.welcome();
    await until(() => expect(client.state).toBe("connected"));
    expect(third.control.frames.size).toBe(0);
  });

  test("a refusal leaves the old token", async () => {
    const { broker, client, session } = await connected({ token: "old" });
    const done = client.auth("new");
    const { number } = frames.parseAuth(await session.control.want(Type.AUTH));
    const error = { code: 200, reason: "another principal", retry: undefined };
    session.control.send(frames.writeNack({ sequence: number, error }));
    await expect(done).rejects.toThrow(coded("unauthorized", { reason: "another principal" }));
    session.lose();
    const next = await broker.session();
    expect(await next.hello()).toMatchObject({ token: "old" });
    next.welcome();
  });

  test("a signal stops the waiting", async () => {
    const { client, session } = await connected();
    const controller = new AbortController();
    const done = client.auth("new", { signal: controller.signal });
    await session.control.want(Type.AUTH);
    controller.abort();
    await expect(done).rejects.toThrow(coded("aborted"));
    expect(client.state).toBe("connected");
  });

  test("an answer that nothing asked for ends the session", async () => {
    const { client, session } = await connected({ reconnect: false });
    session.control.send(frames.writeAuthenticated({ number: 5, expires: undefined }));
    await until(() => expect(client.state).toBe("closed"));
    expect(await session.closedByClient).toEqual({ closeCode: 100, reason: "answer to 5" });
  });

  test("a notice is told, and a token function is asked for the next token", async () => {
    const random = vi.spyOn(Math, "random").mockReturnValue(0);
    let n = 0;
    const { client, session } = await connected({ getToken: () => `token ${++n}` });
    const notices: unknown[] = [];
    client.on("notice", (notice) => notices.push(notice));
    const error = { code: 201, reason: "send AUTH", retry: undefined };
    session.control.send(frames.writeNotice({ error, deadline: 25_000 }));
    const auth = frames.parseAuth(await session.control.want(Type.AUTH));
    expect(auth.token).toBe("token 2");
    session.control.send(frames.writeAuthenticated({ number: auth.number, expires: undefined }));
    expect(notices).toEqual([
      { code: 201, codeName: "token_expired", reason: "send AUTH", deadline: new Date(BASE + 25_000) },
    ]);
    random.mockRestore();
  });

  test("a notice without a token function is only told", async () => {
    const { client, session } = await connected({ token: "t" });
    const told = new Promise((resolve) => client.on("notice", resolve));
    const error = { code: 400, reason: "", retry: undefined };
    session.control.send(frames.writeNotice({ error, deadline: undefined }));
    expect(await told).toMatchObject({ codeName: "shutting_down", deadline: undefined });
  });
});

test("an option whose name is misspelt is refused", async () => {
  const { client } = await connected();
  const misspelt = { signl: undefined } as object;
  const error = coded("invalid_option");
  await expect(client.publish("a", 1, misspelt)).rejects.toThrow(error);
  await expect(client.publishBatch("a", [{ value: 1, ...misspelt }])).rejects.toThrow(error);
  expect(() => client.publishLossy("a", 1, misspelt)).toThrow(error);
  await expect(client.history("a", misspelt)).rejects.toThrow(error);
  await expect(client.request("a", 1, misspelt)).rejects.toThrow(error);
  expect(() => client.map("a", misspelt)).toThrow(error);
  expect(() => client.watchPresence("a", misspelt)).toThrow(error);
  for (const options of [misspelt, { reconnect: misspelt }, { offline: misspelt }]) {
    await expect(connecting(new MockBroker(), options)).rejects.toThrow(error);
  }
});

test("the time to connect covers what the application is asked", async () => {
  const broker = new MockBroker();
  const never = () => new Promise<string>(() => {});
  const late = connecting(broker, { connectTimeout: 20, getToken: never });
  await expect(late).rejects.toThrow(coded("connect_timeout"));
});

test("without a connection nothing lossy waits, and nothing at all if that is chosen", async () => {
  const { client, session } = await connected({ reconnect: { initial: 1000, max: 1000 } });
  session.lose();
  await until(() => expect(client.state).toBe("disconnected"));
  client.publishLossy("a", 1);
  expect(client.drops.unsent).toBe(1);
  const other = await connected({ offline: { refuse: true }, reconnect: { initial: 1000, max: 1000 } });
  other.session.lose();
  await until(() => expect(other.client.state).toBe("disconnected"));
  expect(() => other.client.publishLossy("a", 1)).toThrow(coded("offline"));
  await expect(other.client.history("a")).rejects.toThrow(coded("offline"));
});
