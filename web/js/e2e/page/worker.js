// Runs one scenario in a Worker.

import { scenarios } from "./scenarios.js";

addEventListener("message", async ({ data: { name, env } }) => {
  try {
    await scenarios[name](env);
    postMessage({});
  } catch (e) {
    postMessage({ error: e.stack ?? String(e) });
  }
});
