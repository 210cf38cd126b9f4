// That a typed topic gives and takes its type and nothing else: the compiler checks this
// file, and nothing runs it. A type that decays to any makes an expected error missing.

import type { Client } from "../src/index.js";

interface Reading {
  sensor: string;
  celsius: number;
}

export async function typedTopics(client: Client): Promise<void> {
  const readings = client.topic<Reading>("readings.roof");

  await readings.publish({ sensor: "roof", celsius: 21.5 });
  // @ts-expect-error a field is missing
  await readings.publish({ sensor: "roof" });
  // @ts-expect-error a field is of another type
  await readings.publish({ sensor: "roof", celsius: "warm" });
  // @ts-expect-error a text is no reading
  readings.publishLossy("roof");
  await readings.publishBatch([{ value: { sensor: "roof", celsius: 21.5 }, key: "roof" }]);
  // @ts-expect-error the value of an item is no reading
  await readings.publishBatch([{ value: 21.5 }]);

  for await (const m of readings.subscribe()) {
    // @ts-expect-error a gap has no value
    void m.value;
    if (m.kind === "gap") continue;
    const celsius: number = m.value.celsius;
    // @ts-expect-error the sensor is a text
    const sensor: number = m.value.sensor;
    // @ts-expect-error there is no such field
    void [celsius, sensor, m.value.fahrenheit];
  }

  const page = await readings.history();
  for (const m of page.messages) {
    // @ts-expect-error the sensor is a text
    if (m.kind === "message") void (m.value.sensor satisfies number);
  }

  const map = readings.map();
  // @ts-expect-error a key may have no value
  void map.get("roof").celsius;
  // @ts-expect-error the sensor is a text
  void (map.get("roof")?.sensor satisfies number | undefined);
  for (const [, reading] of map) {
    // @ts-expect-error there is no such field
    void reading.fahrenheit;
  }
  for await (const change of map.changes()) {
    // @ts-expect-error there is no such field
    void change.message?.value.fahrenheit;
  }

  // @ts-expect-error a text is no reading
  await readings.request("roof");
  const frost = await readings.request<boolean>({ sensor: "door", celsius: -1 });
  // @ts-expect-error the reply is a boolean
  void (frost.value satisfies string);
  const unknown = await readings.request({ sensor: "door", celsius: -1 });
  // @ts-expect-error nothing is known of a reply whose type is not named
  void unknown.value.celsius;
}

export async function untypedTopics(client: Client): Promise<void> {
  for await (const m of client.subscribe("readings.roof")) {
    // @ts-expect-error nothing is known of a value whose type is not named
    if (m.kind === "message") void m.value.celsius;
  }
}
