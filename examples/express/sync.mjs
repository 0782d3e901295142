#!/usr/bin/env node
/**
 * Start, follow and cancel syncs of the data share through Airflow's REST API: airflow_client.py in plain Node.js.
 *
 * One file to copy into a backend; it needs Node.js 20 and no packages. docs/backend.md describes the calls.
 *
 *     const airflow = new AirflowClient(url, user, password);
 *     let sync = await airflow.requestSync("shared_forecasts", { conf: { requested_by: "ada@example.com" } });
 *     sync = await airflow.wait(sync.dataset, sync.runId, { deadlineSeconds: 3600 });
 *     console.log(sync.complete ? "Sync Complete" : sync.failure.sentence);
 *
 * It is a command too, with AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD in the environment:
 *
 *     node sync.mjs shared_forecasts
 */
import { createHash, randomUUID } from "node:crypto";
import { realpathSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const STEPS = ["export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync"];

/** Base of all errors of this client. The message is for people and contains no secret. */
export class SyncError extends Error {
  name = this.constructor.name;
}
/** Airflow does not accept the user or the password, or refuses a token that it has just issued. */
export class NotSignedInError extends SyncError {}
/** The account lacks a right (403). */
export class NotAllowedError extends SyncError {}
/** Airflow has no such dataset (404); the message lists the datasets that the account may see. */
export class UnknownDatasetError extends SyncError {}
/** The dataset has no run with this id (404). */
export class UnknownSyncError extends SyncError {}
/** Airflow refuses the conf or the run id (400); the message is Airflow's. */
export class InvalidConfError extends SyncError {}
/** The dataset is paused: Airflow would accept the run but never start it. */
export class PausedError extends SyncError {}
/** The deadline has passed. The sync goes on in Airflow; it can be followed again or cancelled. */
export class SyncTimeoutError extends SyncError {}
/** No answer, 429 or 5xx after several attempts. It is unknown whether the call had an effect. */
export class AirflowUnavailableError extends SyncError {}

/**
 * The client's methods return a sync, in its current state, as a plain object:
 *   dataset, runId
 *   state             "queued", "running", "success" or "failed"
 *   started, ended    Date or null
 *   steps             in order: { name, state, started, ended }; state is null until Airflow schedules the step
 *   result            if the sync succeeded: its row in the ledger (dry run: what would change; verification: what
 *                     was compared); else null
 *   failure           if it failed: { step, code, message, cause, what_to_do, databricks_run_url,
 *                     snowflake_query_id, retriable, repair, sentence }; else null; docs/failures.md lists the codes
 *   airflowUrl, databricksRunUrl
 *   rowsLoaded        number of rows, when the load has ended; else null
 *   requestedBy       the person in the conf, or the user of Airflow who started the run; null for a schedule
 *   note              the text that Airflow shows for the run, or null
 *   cancelledBy       who has cancelled the sync, as its note says; null if nobody has, or nobody knows
 *   finished          whether the sync has ended
 *   complete          whether to show "Sync Complete"
 */
export class AirflowClient {
  #url;
  #user;
  #password;
  #timeout;
  #backOff;
  #outage;
  #token = null;
  #signingIn = null;

  /**
   * url: address of Airflow. user, password: the service account. All in seconds: timeout: max. time of one attempt of
   * a call; backOff: pauses between the attempts of a call that gets no answer, 429 or 5xx; outage: max. time without
   * an answer, for example during a restart of Airflow, while a sync is followed.
   */
  constructor(url, user, password, { timeout = 30, backOff = [0.5, 1, 2], outage = 330 } = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#user = user;
    this.#password = password;
    this.#timeout = timeout * 1000;
    this.#backOff = backOff;
    this.#outage = outage * 1000;
  }

  /** The datasets that the account may see. */
  async datasets() {
    const names = [];
    for (;;) {
      const query = `tags=data-share&tags=sync&tags_match_mode=all&limit=100&offset=${names.length}`;
      const page = await this.#ask("GET", `/api/v2/dags?${query}`);
      names.push(...page.dags.map((dag) => dag.dag_id.replace(/^sync_/, "")));
      if (page.dags.length === 0 || names.length >= page.total_entries) return names.sort();
    }
  }

  /**
   * Start a sync. If a run with this runId exists already, start nothing and return that run.
   * runId: your own id for the request, up to 200 of A-Za-z0-9_.~:+-; default: each call is a new sync.
   */
  async start(dataset, { runId = `request_${randomUUID().replaceAll("-", "")}`, conf = {} } = {}) {
    await this.#checkReady(dataset);
    return this.#start(dataset, runId, conf);
  }

  /**
   * Return a sync whose export begins after this call: a queued one, or a new one. Use it for a button.
   *
   * A new run waits until the running one has ended. Requests at the same moment, also from other backends, start only
   * one run: they see the same newest run and derive the same id from it.
   */
  async requestSync(dataset, { conf = {} } = {}) {
    await this.#checkReady(dataset);
    const runs = await this.#newest(dataset, 20);
    for (const run of runs) {
      if (["queued", "running"].includes(run.state) && sameWork(run.conf) === sameWork(conf)) {
        const sync = await this.sync(dataset, run.dag_run_id);
        if (sync.steps.length > 0 && [null, "scheduled", "queued"].includes(sync.steps[0].state)) return sync;
      }
    }
    const after = `${runs.length > 0 ? runs[0].dag_run_id : ""} ${sameWork(conf)}`;
    const runId = `request_after_${createHash("sha256").update(after).digest("hex").slice(0, 12)}`;
    return this.#start(dataset, runId, conf);
  }

  /** The current state of a sync. */
  async sync(dataset, runId) {
    return this.#look(dataset, runId);
  }

  /** The newest sync of a dataset, whoever started it; null if there is none. */
  async newest(dataset) {
    const runs = await this.#newest(dataset, 1);
    return runs.length > 0 ? this.sync(dataset, runs[0].dag_run_id) : null;
  }

  /**
   * Yield the sync now and whenever it changes, until it is finished.
   * Throws SyncTimeoutError after deadlineSeconds; the sync goes on.
   */
  async *follow(dataset, runId, { deadlineSeconds }) {
    let answered = performance.now();
    let changed = answered;
    const deadline = answered + deadlineSeconds * 1000;
    let known = null;
    for (;;) {
      let seen = null;
      try {
        const signal = AbortSignal.timeout(Math.max(Math.ceil(deadline - performance.now()), 0));
        seen = await orAbort(this.#look(dataset, runId, known, signal), signal);
      } catch (error) {
        if (error.name === "TimeoutError") {
          const state = known?.state ?? "not known";
          throw new SyncTimeoutError(
            `The sync of ${dataset} has not ended in ${deadlineSeconds} s (state: ${state}). It goes on.`,
          );
        }
        const away = performance.now() - answered;
        if (!(error instanceof AirflowUnavailableError) || away > this.#outage) throw error;
      }
      if (seen) {
        answered = performance.now();
        if (JSON.stringify(seen) !== JSON.stringify(known)) {
          changed = answered;
          known = seen;
          yield seen;
        }
        if (seen.finished) return;
      }
      // 0.5 s after a change, growing to 5 s, which is enough while Databricks works for an hour.
      const pause = 500 + 0.05 * (performance.now() - changed);
      await sleep(Math.max(Math.min(pause, 5000, deadline - performance.now()), 0));
    }
  }

  /** The sync when it is finished; see follow. */
  async wait(dataset, runId, { deadlineSeconds }) {
    let last = null;
    for await (const sync of this.follow(dataset, runId, { deadlineSeconds })) last = sync;
    return last;
  }

  /**
   * Cancel a sync, on Databricks and Snowflake too; seconds later it is "failed". A finished one is unchanged.
   * by: who cancels it, for the note of the run; default: Airflow names only the account of this client.
   */
  async cancel(dataset, runId, { by = null } = {}) {
    const { finished, note } = await this.sync(dataset, runId);
    if (finished) return;
    // Below what others have written there.
    const said = by ? { note: [note, `Cancelled by ${by}`].filter(Boolean).join("\n\n") } : {};
    await this.#ask("PATCH", `${runs(dataset)}/${encodeURIComponent(runId)}`, { body: { state: "failed", ...said } });
  }

  async #checkReady(dataset) {
    if ((await this.#askOf(dataset, "GET", dag(dataset))).is_paused) {
      throw new PausedError(`The dataset ${dataset} is paused in Airflow: unpause it there, then try again`);
    }
  }

  async #start(dataset, runId, conf) {
    if (runId.length > 200 || runId.endsWith("\n")) {
      // Airflow would accept it, but the sync would fail without a reason: its log folder cannot be created.
      throw new InvalidConfError("A run id has at most 200 characters, and no line end");
    }
    const body = { dag_run_id: runId, logical_date: null, conf };
    // 409 is a success too: another call, or an earlier attempt of this call, has started the run.
    await this.#askOf(dataset, "POST", runs(dataset), { body });
    return this.sync(dataset, runId);
  }

  async #newest(dataset, limit) {
    return (await this.#askOf(dataset, "GET", `${runs(dataset)}?order_by=-id&limit=${limit}`)).dag_runs;
  }

  async #look(dataset, runId, known = null, signal = undefined) {
    const path = `${runs(dataset)}/${encodeURIComponent(runId)}`;
    const missing = new UnknownSyncError(`Airflow knows no sync ${runId} of ${dataset}`);
    const run = await this.#ask("GET", path, { missing, signal });
    const tasks = (await this.#ask("GET", `${path}/taskInstances`, { missing, signal })).task_instances;
    const steps = STEPS.map((name) => tasks.find((task) => task.task_id === name))
      .filter(Boolean)
      .map((task) => ({
        name: task.task_id,
        state: task.state,
        started: time(task.start_date),
        ended: time(task.end_date),
      }));
    const xcom = async (task, key) =>
      (await this.#ask("GET", `${path}/taskInstances/${task}/xcomEntries/${key}`, { signal }))?.value ?? null;
    // Airflow keeps the XCom of an earlier attempt when a step was cleared and then did not begin, or a person marked it.
    // So compare the attempt's id in the XCom.
    const fromLastAttempt = (name, value) => {
      const task = tasks.find((one) => one.task_id === name);
      return task && value?.task_instance_id === task.id ? value : null;
    };

    let databricksRunUrl = known?.databricksRunUrl ?? null;
    if (databricksRunUrl === null && steps[0]?.state === "success") {
      databricksRunUrl = await xcom("export_to_s3", "run_page_url");
    }
    let rowsLoaded = known?.rowsLoaded ?? null;
    const isLoaded = steps.some((step) => step.name === "copy_into_staging" && step.state === "success");
    if (rowsLoaded === null && isLoaded && run.state !== "success") {
      rowsLoaded = fromLastAttempt("copy_into_staging", await xcom("copy_into_staging", "return_value"))?.rows_loaded ?? null;
    }
    const result = run.state === "success" ? fromLastAttempt("publish", await xcom("publish", "return_value")) : null;
    if (result) rowsLoaded = result.rows_loaded ?? null;
    let state = run.state;
    let failure = null;
    if (state === "queued" && steps.length > 0 && steps.slice(0, -1).every((step) => step.state === "skipped")) {
      // Cancelled while it was queued. Airflow sets it to failed only when the run before it has ended.
      state = "failed";
      const message = "The sync was cancelled before it began.";
      failure = toFailure(STEPS[0], { code: "CANCELLED", message, cause: message, retriable: true });
    } else if (state === "failed") {
      const step = steps.find((one) => one.state === "failed")?.name ?? "sync";
      failure = toFailure(step, fromLastAttempt(STEPS.at(-1), await xcom(STEPS.at(-1), "failure")));
    } else if (state === "success" && result === null) {
      const message = "Airflow reports success, but nothing was published this time: was a step marked by hand?";
      failure = toFailure("publish", message);
    }
    return {
      dataset,
      runId,
      state,
      started: time(run.start_date),
      ended: time(run.end_date),
      steps,
      result,
      failure,
      airflowUrl: `${this.#url}/dags/sync_${encodeURIComponent(dataset)}/runs/${encodeURIComponent(runId)}`,
      databricksRunUrl,
      rowsLoaded,
      requestedBy: run.conf?.requested_by || run.triggering_user_name || null,
      note: run.note ?? null,
      cancelledBy: failure?.code === "CANCELLED" ? cancellerIn(run.note ?? "") : null,
      finished: state === "success" || state === "failed",
      complete: state === "success" && failure === null,
    };
  }

  /** The answer's JSON; if the dataset does not exist, throws an error that lists the datasets. */
  async #askOf(dataset, method, path, options = {}) {
    const missing = new UnknownDatasetError(dataset);
    try {
      return await this.#ask(method, path, { missing, ...options });
    } catch (error) {
      if (error !== missing) throw error;
      const known = (await this.datasets()).join(", ") || "none";
      throw new UnknownDatasetError(`Airflow has no dataset ${dataset}; it has ${known}`);
    }
  }

  /** The answer's JSON; null for 409; for 404, throws `missing` if it is given, otherwise returns null. */
  async #ask(method, path, { missing = null, body, signal } = {}) {
    const token = await this.#signIn();
    let answer = await this.#send(method, path, token, body, signal);
    // Airflow answers an expired token with 401, a revoked token, or one signed with an older key, with 403.
    if (answer.status === 401 || (answer.status === 403 && answer.text.includes("Invalid JWT"))) {
      answer = await this.#send(method, path, await this.#signIn(token), body, signal);
    }
    if (answer.status >= 200 && answer.status < 300) return toJson(answer, method, path);
    if (answer.status === 409 || (answer.status === 404 && !missing)) return null;
    if (answer.status === 404) throw missing;
    const words = answer.type.includes("json") ? (toJson(answer, method, path).detail ?? answer.text) : "";
    const Kind = { 400: InvalidConfError, 401: NotSignedInError, 403: NotAllowedError }[answer.status] ?? SyncError;
    const detail = (typeof words === "string" ? words : JSON.stringify(words)).slice(0, 500);
    throw new Kind(`Airflow refuses ${method} ${path} (HTTP ${answer.status}): ${detail}`);
  }

  /** The token, or a new one if there is none or it was refused. Concurrent calls share one sign-in. */
  async #signIn(refused = null) {
    if (this.#token === null || this.#token === refused) {
      this.#signingIn ??= this.#newToken().finally(() => (this.#signingIn = null));
      await this.#signingIn;
    }
    return this.#token;
  }

  async #newToken() {
    const body = { username: this.#user, password: this.#password };
    const answer = await this.#send("POST", "/auth/token", null, body);
    // Without the answer's text: if Airflow cannot read the body, it repeats the password.
    if (answer.status !== 201) {
      throw new NotSignedInError(`Airflow does not sign ${this.#user} in (HTTP ${answer.status})`);
    }
    this.#token = toJson(answer, "POST", "/auth/token").access_token;
  }

  async #send(method, path, token, body, signal) {
    let problem = "";
    for (const pause of [...this.#backOff, null]) {
      let wanted = 0;
      try {
        const response = await fetch(this.#url + path, {
          method,
          headers: {
            ...(token && { Authorization: `Bearer ${token}` }),
            ...(body && { "Content-Type": "application/json" }),
          },
          body: body && JSON.stringify(body),
          redirect: "manual",
          signal: AbortSignal.any([AbortSignal.timeout(this.#timeout), ...(signal ? [signal] : [])]),
        });
        const { status, headers } = response;
        const text = await response.text();
        if (status !== 429 && status < 500) return { status, text, type: headers.get("content-type") ?? "" };
        problem = `answers ${method} ${path} with HTTP ${status}`;
        const after = headers.get("retry-after") ?? "";
        wanted = /^\d+$/.test(after) ? Math.min(Number(after), 30) : 0;
      } catch (error) {
        problem = `does not answer ${method} ${path}: ${error.cause?.code ?? error.name}`;
      }
      signal?.throwIfAborted();
      if (pause !== null) await sleep(Math.max(pause, wanted) * 1000, undefined, { signal });
    }
    throw new AirflowUnavailableError(`Airflow ${problem}, also after ${this.#backOff.length + 1} attempts`);
  }
}

const dag = (dataset) => `/api/v2/dags/sync_${encodeURIComponent(dataset)}`;
const runs = (dataset) => `${dag(dataset)}/dagRuns`;
const time = (text) => (text ? new Date(text) : null);

/** The promise's result, or the signal's reason as an error, whichever comes first. */
function orAbort(promise, signal) {
  const abort = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  return Promise.race([promise, abort]);
}

/** A conf without its requester, for comparison: a request must not join, say, somebody's dry run. */
function sameWork(conf) {
  const options = Object.entries(conf ?? {}).filter(([key, value]) => value && key !== "requested_by");
  return JSON.stringify(Object.fromEntries(options.sort(([one], [other]) => (one < other ? -1 : 1))));
}

/** The failure for a report, or for a message; null for an unknown reason. */
function toFailure(step, report) {
  const message = typeof report === "string" ? report : "failed without a reason; see Airflow's log of the step";
  const found = report !== null && typeof report === "object" ? report : { message };
  const failure = {
    step: found.step ?? step,
    code: found.code ?? "UNEXPECTED",
    message: found.message ?? "",
    cause: found.cause ?? "",
    what_to_do: found.what_to_do ?? "",
    databricks_run_url: found.databricks_run_url ?? null,
    snowflake_query_id: found.snowflake_query_id ?? null,
    retriable: found.retriable ?? false,
    repair: found.repair ?? null,
  };
  return { ...failure, sentence: `${failure.step}: ${failure.message}` };
}

/**
 * Who has cancelled a run, by its note. At the end, the data share writes the last line, by Airflow's own record of who
 * has called. A queued sync that was cancelled ends later; until then there is only what the caller has said.
 */
function cancellerIn(note) {
  return /^cancelled by (.+?)(?: through [^:\n]+)?(?:: |$)/im.exec(note.split("\n\n---\n\n").at(-1))?.[1] ?? null;
}

function toJson(answer, method, path) {
  try {
    return JSON.parse(answer.text);
  } catch {
    throw new SyncError(`The answer to ${method} ${path} is not Airflow's`);
  }
}

async function main([dataset, ...rest]) {
  const { AIRFLOW_URL, AIRFLOW_USER, AIRFLOW_PASSWORD } = process.env;
  if (!dataset || rest.length > 0 || !AIRFLOW_URL || !AIRFLOW_USER || !AIRFLOW_PASSWORD) {
    console.error("Usage: node sync.mjs <dataset>, with AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD set");
    return 2;
  }
  const began = performance.now();
  const seconds = () => ((performance.now() - began) / 1000).toFixed(1);
  const airflow = new AirflowClient(AIRFLOW_URL, AIRFLOW_USER, AIRFLOW_PASSWORD);
  try {
    const { runId } = await airflow.requestSync(dataset, { conf: { requested_by: AIRFLOW_USER } });
    const shown = {};
    let sync = null;
    for await (sync of airflow.follow(dataset, runId, { deadlineSeconds: 6 * 3600 })) {
      for (const step of sync.steps.filter(({ name, state }) => state !== null && state !== shown[name])) {
        shown[step.name] = step.state;
        console.log(`${seconds().padStart(8)} s  ${step.name.padEnd(18)} ${step.state}`);
      }
    }
    if (!sync.complete) throw new SyncError(`${sync.failure.sentence}\n${sync.airflowUrl}`);
    console.log(`${answerOf(sync.result)} rows in ${dataset}, ${seconds()} s`);
    const { incremental, export_mode: mode, export_reason: reason } = sync.result;
    const what = isOfChanges(sync.result) ? "Only changes" : "All rows";
    if (incremental && reason) console.log(`${what} were exported (${mode}): ${reason}.`);
    return 0;
  } catch (error) {
    if (!(error instanceof SyncError)) throw error;
    console.error(error.message);
    return 1;
  }
}

/** What a sync that succeeded has done, in words that end with a number. */
function answerOf(result) {
  if (result.verified) return `Verified: ${rows(result.rows)}`;
  const what = result.unchanged ? "Up to date, nothing new at the source" : "Sync Complete";
  const changed = result.rows_inserted + result.rows_updated + result.rows_deleted;
  const changes = isOfChanges(result) ? `${rows(changed)} ${changed === 1 ? "row" : "rows"} changed, ` : "";
  return `${what}: ${changes}${rows(result.rows_in_target)}`;
}

const isOfChanges = (result) => ["feed", "compare"].includes(result.export_mode);

const rows = (count) => count.toLocaleString("en-US");

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = await main(process.argv.slice(2));
}
