/**
 * Calls sync.mjs for the tests: one JSON object a line comes in, {id, call, args}, and one goes out,
 * {id, value} or {id, error: {type, message, shown}}. follow() gives a list, and json() the text of a sync.
 */
import { createInterface } from "node:readline";
import { inspect } from "node:util";

import { AirflowClient, SyncError } from "../../../examples/express/sync.mjs";

const [url, user, password, options] = process.argv.slice(2);
const airflow = new AirflowClient(url, user, password, JSON.parse(options));

async function carryOut(call, args) {
  if (call === "inspect") return inspect(airflow, { depth: 9, showHidden: true });
  if (call === "json") return JSON.stringify(await airflow.sync(...args));
  if (call !== "follow") return airflow[call](...args);
  const seen = [];
  for await (const sync of airflow.follow(...args)) seen.push(sync);
  return seen;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, call, args } = JSON.parse(line);
  carryOut(call, args)
    .then((value) => ({ value: value ?? null }))
    .catch((error) => ({
      error: {
        type: error instanceof SyncError ? error.constructor.name : `not a SyncError: ${inspect(error)}`,
        message: error.message,
        shown: inspect(error, { depth: 9, showHidden: true }),
      },
    }))
    .then((answer) => console.log(JSON.stringify({ id, ...answer })));
}
