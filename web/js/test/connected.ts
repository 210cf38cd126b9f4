import { afterEach } from "vitest";
import type { Client } from "../src/client.js";
import type { ConnectOptions } from "../src/client-options.js";
import type { Welcome } from "../src/frames.js";
import { connect } from "../src/index.js";
import { MockBroker, type MockOptions, type MockSession } from "./mock.js";

export const URL = "https://broker.example/tidewire";

const clients: Client[] = [];

// What a test leaves open would go on in the next one.
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
});

/** Starts to connect; the attempt waits for the broker's script. */
export function connecting(
  broker: MockBroker,
  options: ConnectOptions = {},
): Promise<Client> {
  const client = connect(URL, { webTransport: broker.WebTransport, ...options });
  client.then(
    (c) => clients.push(c),
    () => {}, // the test looks at it
  );
  return client;
}

export interface Connected {
  readonly broker: MockBroker;
  readonly client: Client;
  readonly session: MockSession;
}

/** A client with a session that stands. */
export async function connected(
  options: ConnectOptions = {},
  mock: MockOptions = {},
  welcome: Partial<Welcome> = {},
): Promise<Connected> {
  const broker = new MockBroker(mock);
  const client = connecting(broker, { reconnect: { initial: 1, max: 1 }, ...options });
  const session = await broker.session();
  await session.hello();
  session.welcome(welcome);
  return { broker, client: await client, session };
}
