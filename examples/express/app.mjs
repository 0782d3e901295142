/**
 * An Express app with a Sync Data button for each dataset, and a receiver for the data share's webhook.
 *
 * It has the credentials for Airflow, which keeps all state. README.md says what to change before users get it.
 */
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";

import express from "express";

import {
  AirflowClient,
  AirflowUnavailableError,
  InvalidConfError,
  NotAllowedError,
  NotSignedInError,
  PausedError,
  SyncError,
  UnknownDatasetError,
  UnknownSyncError,
} from "./sync.mjs";
import { isGenuine } from "./webhook.mjs";

/** Ids of events that are remembered, as an event may arrive twice. */
const MAX_SEEN_EVENTS = 1000;

const DOING = {
  export_to_s3: "Starting the export",
  wait_for_export: "Waiting for Databricks to export",
  copy_into_staging: "Loading into Snowflake",
  check_staging: "Checking the rows",
  publish: "Publishing",
  finish_sync: "Finishing",
};

/**
 * @typedef {object} Options
 * @property {string[]} hosts names of this host; others are refused, so that no other site can pose as this one
 * @property {string} [userHeader] header in which the sign-in before this app names the user; it must set or remove it
 *   in each request
 * @property {string} [webhookSecret] the webhook's secret; without one, no event is received
 * @property {(event: import("./webhook.mjs").SyncEvent) => void} [onEvent] what to do about an event
 */

/**
 * Return the app.
 *
 * @param {AirflowClient} airflow
 * @param {Options} options
 */
export function createApp(airflow, { hosts, userHeader, webhookSecret, onEvent = logEvent }) {
  const app = express();
  app.disable("x-powered-by");

  if (webhookSecret) {
    // Raw, as the signature is of the body as it was received. It needs no other protection.
    const asReceived = express.raw({ type: () => true, inflate: false, limit: "1mb" });
    app.post("/hooks/syncs", asReceived, receiver(webhookSecret, onEvent));
  }

  app.use(keepsToItself(hosts));
  app.use(express.static(fileURLToPath(new URL("public", import.meta.url))));

  app.param("dataset", onlyAs(/^[a-z][a-z0-9_]*$/));
  app.param("runId", onlyAs(/^(?!\.+$)[A-Za-z0-9_.~:+-]{1,250}$/));

  /** @param {express.Request} request */
  const userOf = (request) => {
    const user = userHeader && request.get(userHeader);
    return user ? Buffer.from(user, "latin1").toString() : null;
  };

  app.get("/datasets", async (_request, response) => {
    const datasets = await airflow.datasets();
    response.json(await Promise.all(datasets.map((dataset) => newestOf(airflow, dataset))));
  });

  app.post("/datasets/:dataset/syncs", ownPageOnly, async (request, response) => {
    const user = userOf(request);
    const conf = user ? { requested_by: user } : {};
    response.status(202).json(shown(await airflow.requestSync(request.params.dataset, { conf })));
  });

  app.get("/datasets/:dataset/syncs/:runId", async ({ params }, response) => {
    response.json(shown(await airflow.sync(params.dataset, params.runId)));
  });

  app.post("/datasets/:dataset/syncs/:runId/cancel", ownPageOnly, async (request, response) => {
    const { params } = request;
    await airflow.cancel(params.dataset, params.runId, { by: userOf(request) });
    response.status(202).json(shown(await airflow.sync(params.dataset, params.runId)));
  });

  app.use(sayWhatFailed);
  return app;
}

/**
 * The newest sync of a dataset, or what is wrong with this dataset: it must not hide the others.
 *
 * @param {AirflowClient} airflow
 * @param {string} dataset
 */
async function newestOf(airflow, dataset) {
  try {
    return { dataset, sync: shown(await airflow.newest(dataset)) };
  } catch (error) {
    return { dataset, sync: null, problem: told(error)[1] };
  }
}

/**
 * What the page shows of a sync.
 *
 * @param {import("./sync.mjs").Sync | null} sync
 */
export function shown(sync) {
  return sync && { dataset: sync.dataset, runId: sync.runId, finished: sync.finished, ...wordsOn(sync) };
}

/**
 * @param {import("./sync.mjs").Sync} sync
 * @returns {{ headline: string, text: string }}
 */
function wordsOn(sync) {
  if (!sync.finished) {
    if (sync.state === "queued") return { headline: "Queued", text: "It starts in a moment, or when the sync before it has ended." };
    const step = sync.steps.find(({ state }) => state !== "success" && state !== "skipped");
    return { headline: "Running", text: `${DOING[step?.name ?? "finish_sync"]}.` };
  }
  if (!sync.complete) {
    const { code, step, cause, message, what_to_do } = sync.failure;
    if (code !== "CANCELLED") {
      const where = step === "sync" ? "" : `${DOING[step]}: `;
      return { headline: "Sync failed", text: `${where}${message} ${what_to_do}` };
    }
    // No step is at fault, and the headline says the cause.
    const rest = message.startsWith(cause) ? message.slice(cause.length).trim() : message;
    return { headline: sync.cancelledBy ? `Cancelled by ${sync.cancelledBy}` : "Cancelled", text: rest || message };
  }
  const answer = sync.result;
  if (answer.verified) return { headline: "Verified", text: `${rows(answer.rows)} are as they were published.` };
  if (answer.unchanged) return { headline: "Up to date", text: `Nothing new: ${rows(answer.rows_in_target)}.` };
  const changed = answer.rows_inserted + answer.rows_updated + answer.rows_deleted;
  if (answer.dry_run) return { headline: "Dry run complete", text: `${rows(changed)} would change.` };
  const text = `${rows(answer.rows_loaded)} loaded, ${rows(answer.rows_in_target)} in all.`;
  return { headline: "Sync Complete", text };
}

/** @param {number} count */
const rows = (count) => `${count.toLocaleString("en-US")} ${count === 1 ? "row" : "rows"}`;

// ---- the webhook

/**
 * A handler that accepts genuine events, each once.
 *
 * @param {string} secret
 * @param {NonNullable<Options["onEvent"]>} onEvent
 * @returns {express.RequestHandler}
 */
function receiver(secret, onEvent) {
  // With several processes, use a table with a unique column in its place.
  const seen = new Set();
  return (request, response) => {
    if (!isGenuine(request.headers, request.body ?? Buffer.alloc(0), secret)) {
      response.status(401).json({ message: "The signature is wrong, or older than five minutes." });
      return;
    }
    // The sender waits 10 s for the answer, and sends the event again without it: answer first, then work.
    response.status(204).end();
    const id = request.get("webhook-id");
    if (seen.has(id)) return;
    seen.add(id);
    if (seen.size > MAX_SEEN_EVENTS) seen.delete(seen.values().next().value);
    onEvent(JSON.parse(request.body.toString()));
  };
}

/** @param {import("./webhook.mjs").SyncEvent} event */
function logEvent({ event, dataset, dag_run_id: runId, failure }) {
  console.log(`${event}: ${dataset} ${runId}${failure ? `: ${failure.step}: ${failure.message}` : ""}`);
}

// ---- protection, and errors

/**
 * Refuse other names for this host, and let nobody frame or cache an answer.
 *
 * @param {string[]} hosts
 * @returns {express.RequestHandler}
 */
function keepsToItself(hosts) {
  return (request, response, next) => {
    response.set({
      "Cache-Control": "no-store",
      "Content-Security-Policy":
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self'; style-src 'self'; " +
        "frame-ancestors 'none'",
      "X-Content-Type-Options": "nosniff",
    });
    if (hosts.includes(request.hostname)) return next();
    response.status(400).json({ message: "This is none of the names of this host: see BACKEND_HOSTS." });
  };
}

/**
 * Refuse what another site's page sends: browsers say in a header where a request comes from.
 *
 * @type {express.RequestHandler<any>}
 */
function ownPageOnly(request, response, next) {
  const site = request.get("sec-fetch-site");
  const origin = request.get("origin");
  // Old browsers, and pages without TLS, send only the origin.
  const isOwn = site ? site === "same-origin" : hostOf(origin ?? "") === request.get("host");
  if (isOwn) return next();
  response.status(403).json({ message: "The request did not come from the page of this app: nothing was done." });
}

/** @param {string} origin */
const hostOf = (origin) => (URL.canParse(origin) ? new URL(origin).host : null);

/**
 * @param {RegExp} pattern
 * @returns {express.RequestParamHandler}
 */
function onlyAs(pattern) {
  return (_request, response, next, value) => {
    if (pattern.test(value)) return next();
    response.status(404).json({ message: "There is no such dataset or sync." });
  };
}

/** @type {express.ErrorRequestHandler} */
function sayWhatFailed(error, _request, response, _next) {
  // Of the body: too large, or compressed.
  if (error.expose) return void response.status(error.status).json({ message: error.message });
  const [status, message] = told(error);
  response.status(status).json({ message });
}

/**
 * The status and the sentence for people; the log gets the technical message.
 *
 * @param {unknown} error
 * @returns {[number, string]}
 */
function told(error) {
  console.error(error instanceof SyncError ? `${error.name}: ${error.message}` : error);
  if (error instanceof UnknownDatasetError || error instanceof UnknownSyncError) return [404, error.message];
  if (error instanceof InvalidConfError) return [400, error.message];
  if (error instanceof PausedError) return [409, error.message];
  if (error instanceof AirflowUnavailableError) {
    return [503, "Airflow does not answer. Running syncs go on there. Try again in a moment."];
  }
  // Not 401 or 403: Airflow refuses the account of this app, not its user.
  if (error instanceof NotSignedInError) return [502, "Airflow does not accept the credentials of this app."];
  if (error instanceof NotAllowedError) return [502, "The account of this app lacks a right in Airflow."];
  return [error instanceof SyncError ? 502 : 500, "Something went wrong; the log of this app says what."];
}

// ---- the command

function main() {
  const { AIRFLOW_URL, AIRFLOW_USER, AIRFLOW_PASSWORD } = process.env;
  const { BACKEND_HOSTS, BACKEND_USER_HEADER, WEBHOOK_SECRET, PORT } = process.env;
  if (!AIRFLOW_URL || !AIRFLOW_USER || !AIRFLOW_PASSWORD) {
    console.error("Set AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD. For the stack of make up: eval \"$(make env)\"");
    process.exit(2);
  }
  if (WEBHOOK_SECRET !== undefined && !/^whsec_[A-Za-z0-9+/]{32,}={0,2}$/.test(WEBHOOK_SECRET)) {
    console.error("WEBHOOK_SECRET must be whsec_ and at least 24 bytes in base64");
    process.exit(2);
  }
  const app = createApp(new AirflowClient(AIRFLOW_URL, AIRFLOW_USER, AIRFLOW_PASSWORD), {
    hosts: (BACKEND_HOSTS ?? "127.0.0.1,localhost").split(","),
    ...(BACKEND_USER_HEADER && { userHeader: BACKEND_USER_HEADER }),
    ...(WEBHOOK_SECRET && { webhookSecret: WEBHOOK_SECRET }),
  });
  const server = app.listen(Number(PORT ?? 3000), "127.0.0.1", (error) => {
    if (error) {
      console.error(`Cannot listen: ${error.message}. Set another PORT.`);
      process.exit(1);
    }
    const address = server.address();
    console.log(`Sync Data: http://127.0.0.1:${typeof address === "object" && address?.port}/  (Ctrl-C ends it)`);
  });
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main();
