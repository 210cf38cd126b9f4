// The contract's interpreter for browsers, as the page has it.

import { connectSteps } from "./connect.js";
import { type Scenario, runScenario } from "./interpreter.js";
import { historySteps } from "./history.js";
import { presenceSteps } from "./presence.js";
import { publishSteps } from "./publish.js";
import { requestSteps } from "./request.js";
import { subscribeSteps } from "./subscribe.js";

/** Carries out a scenario; rejects if something else comes about than it says. */
export function run(scenario: Scenario): Promise<void> {
  return runScenario({ ...connectSteps, ...publishSteps, ...subscribeSteps, ...historySteps, ...requestSteps, ...presenceSteps }, scenario);
}
