// The state of each dataset, kept up to date with few calls.
//
// For any number of datasets, a refresh makes these calls: the DAGs; the runs that changed since the last refresh; the
// dataset files that Airflow cannot read; and, if runs are active, their steps. Details of a card (history, rows,
// failure, Databricks run) are read once, when the card is on screen.

import { AirflowError, FORBIDDEN, NOT_FOUND, ask, now } from "./airflow.js";

export const HISTORY = 30;
const PAGE = 100; // Airflow's own limit
const CALLS_AT_ONCE = 4;
const TAGS = ["data-share", "sync"];
const DAG_PREFIX = "sync_";
const DATASET_FILES = "include/datasets/";
// A tag of the DAG says how old the data may be.
const MAX_AGE_TAG = "max-age-minutes:";
// How this package's line in the note of a run begins; what a person wrote stands above it.
const ABOVE_THE_LINE = "\n\n---\n\n";
const CANCELLED = /^cancelled(?: by (.+?))?: (?:A person ended the sync in Airflow\. )?(.*)$/s;
// Airflow sets the time of a change before it commits the change: so read changes again that are this old.
const OVERLAP_MILLISECONDS = 15_000;

const ACTIVE_STATES = ["queued", "running"];
const TASK_STATES = ["scheduled", "queued", "running", "deferred", "restarting", "up_for_retry", "up_for_reschedule"];
// The steps of a sync in order, each with its task (id), its title, and the sentence shown while it runs (doing).
const STEPS = await (await fetch(new URL("steps.json", import.meta.url))).json();
const TITLES = [...new Set(STEPS.map((step) => step.title))];
const LAST_TASK = STEPS.at(-1).id;

// In the message of a failed check_staging, each line that begins so is about a check.
const FAILED_CHECK = /^- (\w+): /gm;

// The modes of an export that has only what has changed.
const OF_CHANGES = ["feed", "compare"];

const isActive = (run) => ACTIVE_STATES.includes(run.state);
const isDryRun = (run) => run.conf?.dry_run === true;
const isVerification = (run) => run.conf?.verify === true;
const published = (run) => run.state === "success" && !isDryRun(run) && !isVerification(run);
const lineOf = (run) => (run.note ?? "").split(ABOVE_THE_LINE).at(-1);
const foundNothingNew = (run) => lineOf(run).startsWith("nothing new at the source");
const wasSetByHand = (run) => lineOf(run).startsWith("set to success by a person");

/** The state of a run: Airflow's, or "cancelled" for a failed one that a person has ended. */
export const stateOf = (run) => (run.state === "failed" && CANCELLED.test(lineOf(run)) ? "cancelled" : run.state);

/** Who has cancelled a run, or null, and what that has left: `{who, effect}`. */
export function cancelOf(run) {
  const [, who = null, effect] = CANCELLED.exec(lineOf(run));
  return { who, effect };
}

/** The time in a run key, in milliseconds: "20260102T030405_0a1b2c3d". */
function timeOf(runKey) {
  const found = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)_/.exec(runKey);
  return found && Date.UTC(found[1], found[2] - 1, ...found.slice(3));
}

const latestFirst = (one, other) => Date.parse(other.run_after) - Date.parse(one.run_after);

class Dataset {
  isOnScreen = false;
  hasHistory = false;
  task = null; // the task instance that the active run executes
  failure = null;
  cancelled = new Set(); // runs that were cancelled here, and that may go on for some seconds
  #runs = new Map();
  #rows = new Map();
  #askedOf = new Set(); // successful runs that existed when the rows were read
  #rowsSince = 0;
  #olderSuccess = null;
  #databricks = null;
  #asked = new Map();

  constructor(dag) {
    this.dag = dag;
    this.dagId = dag.dag_id;
    this.name = dag.dag_id.slice(DAG_PREFIX.length);
  }

  /** The last runs, newest first. */
  get runs() {
    return [...this.#runs.values()].sort(latestFirst).slice(0, HISTORY);
  }

  get active() {
    return this.runs.filter(isActive);
  }

  get running() {
    return this.active.find((run) => run.state === "running") ?? null;
  }

  get queued() {
    return this.active.find((run) => run.state === "queued") ?? null;
  }

  get lastEnded() {
    return this.runs.find((run) => !isActive(run)) ?? null;
  }

  /** The last run that published. Dry runs, verifications, and runs that a person set to success, published nothing. */
  get lastSuccess() {
    return this.runs.find((run) => published(run) && !this.#isKnownToHaveNoRows(run)) ?? this.#olderSuccess;
  }

  #isKnownToHaveNoRows(run) {
    const rowsWereRead = this.#askedOf.has(key(run)) && Date.parse(run.end_date) > this.#rowsSince;
    return rowsWereRead && !this.#rows.has(run.dag_run_id);
  }

  /** Address of the last run's export on Databricks, or null. */
  get databricksUrl() {
    return this.#databricks?.url ?? null;
  }

  /** The state of the last sync: running, queued, failed, cancelled, success or never; stale if it is only too old. */
  get state() {
    if (this.running) return "running";
    if (this.queued) return "queued";
    const state = this.lastEnded ? stateOf(this.lastEnded) : "never";
    return state === "success" && this.isStale ? "stale" : state;
  }

  /** How old the data may be, in seconds; null if the dataset file does not say it. */
  get maxAge() {
    const tag = this.dag.tags?.find(({ name }) => name.startsWith(MAX_AGE_TAG));
    return tag ? 60 * Number(tag.name.slice(MAX_AGE_TAG.length)) : null;
  }

  /**
   * The time, in milliseconds, from which the target has the source as it was then; null if it is not known.
   *
   * A publish says it. A sync that found nothing new has looked after its start. Of a publish that was not read (yet),
   * the same is true, but of one that loaded an earlier export.
   */
  get asOf() {
    for (const run of [...this.runs, ...(this.#olderSuccess ? [this.#olderSuccess] : [])]) {
      if (!published(run) || wasSetByHand(run)) continue;
      const known = this.rowsOf(run);
      // The ledger's times are in UTC, without saying so.
      if (known?.asOf) return Date.parse(`${known.asOf}Z`);
      if (this.#isKnownToHaveNoRows(run) && !foundNothingNew(run)) continue;
      return run.conf?.reload_run_key ? timeOf(run.conf.reload_run_key) : Date.parse(run.start_date ?? run.run_after);
    }
    return null;
  }

  /** Whether the data are older than the dataset file allows. */
  get isStale() {
    return this.maxAge !== null && this.asOf !== null && now() - this.asOf > 1000 * this.maxAge;
  }

  /** What a run did in place of a publish, in words; empty for a sync. */
  kindOf(run) {
    return isVerification(run) ? "verification" : isDryRun(run) ? "dry run" : "";
  }

  /** Whether a run has found that the target holds what was published; its note says so in this package's words. */
  isVerified(run) {
    return run.state === "success" && isVerification(run) && (run.note ?? "").includes("verified: ");
  }

  /** Whether a run found nothing new at the source; its note says so in this package's words. */
  isUnchanged(run) {
    return published(run) && this.#isKnownToHaveNoRows(run) && foundNothingNew(run);
  }

  /**
   * What a run published, or null if not known (yet): `{count, isOfChanges, inTarget, at, asOf, version, committedAt,
   * mode, reason, written, bytes, loaded, seconds}`. count are the loaded rows or, of an export of changes, the changed ones;
   * mode and reason say what was exported, the last four what it has cost. What is not known is null: the version of a
   * source that has none, and the cost of a publish to a ledger of an earlier version.
   */
  rowsOf(run) {
    return this.#rows.get(run.dag_run_id) ?? null;
  }

  merge(run) {
    this.#runs.set(run.dag_run_id, run);
  }

  async complete() {
    await this.#askHistory();
    if (!this.isOnScreen) return;
    await this.#askOlderSuccess();
    await Promise.all([this.#askRows(), this.#askFailure(), this.#askDatabricksUrl()]);
  }

  needsHistory() {
    return !this.hasHistory && (this.isOnScreen || this.#runs.size === 0);
  }

  async #askHistory() {
    await this.#once("history", this.hasHistory ? null : "all", async () => {
      const query = { limit: HISTORY, order_by: "-run_after" };
      const answer = await optional(ask(["dags", this.dagId, "dagRuns"], { query }));
      for (const run of answer?.dag_runs ?? []) this.merge(run);
      this.hasHistory = true;
    });
  }

  async #askOlderSuccess() {
    const isBeyond = this.runs.length === HISTORY && !this.runs.some(published);
    await this.#once("older success", isBeyond ? "all" : null, async () => {
      const query = { limit: 1, order_by: "-run_after", state: "success" };
      const answer = await optional(ask(["dags", this.dagId, "dagRuns"], { query }));
      this.#olderSuccess = answer?.dag_runs.find(published) ?? null;
    });
  }

  /** Read the rows of the whole history in one call: each publish is an asset event with its rows. */
  async #askRows() {
    const successes = this.runs.filter(published);
    const run = successes[0] ?? this.#olderSuccess;
    await this.#once("rows", run && key(run), async () => {
      const query = { source_dag_id: this.dagId, source_task_id: "publish", order_by: "-timestamp", limit: PAGE };
      const answer = await optional(ask(["assets", "events"], { query }));
      if (answer === null) return;
      const events = answer.asset_events;
      // Oldest first: if a cleared run has published again, its last publish counts.
      for (const { source_run_id: id, extra, timestamp: at } of [...events].reverse()) {
        this.#rows.set(id, { ...publishOf(extra ?? {}), at });
      }
      this.#askedOf = new Set(successes.map(key));
      this.#rowsSince = events.length < PAGE ? 0 : Date.parse(events.at(-1).timestamp);
    });
  }

  async #askFailure() {
    // Of a cancelled run, the note says everything.
    const run = this.lastEnded && stateOf(this.lastEnded) === "failed" ? this.lastEnded : null;
    await this.#once("failure", run && key(run), async () => {
      const [value, task] = await Promise.all([
        this.#xcom(run, LAST_TASK, "failure"),
        optional(ask(["dags", this.dagId, "dagRuns", run.dag_run_id, "taskInstances", LAST_TASK])),
      ]);
      // Airflow keeps the report of an earlier attempt when a step was cleared and did not begin: compare the attempt's
      // id.
      const report = value?.task_instance_id && value.task_instance_id === task?.id ? value : {};
      const said = [report.step, report.message].filter(Boolean).join(": ") || run.note || null;
      const checks = report.code === "CHECKS_FAILED" ? [...(report.message ?? "").matchAll(FAILED_CHECK)] : [];
      const names = new Set(checks.map(([, name]) => name));
      const notPassed = names.size > 0 ? ` Not passed: ${[...names].join(", ")}.` : "";
      const cause = report.cause ? `${report.cause}${notPassed}` : null;
      this.failure = {
        run,
        sentence: cause ?? said,
        whatToDo: report.what_to_do ?? null,
        databricksUrl: report.databricks_run_url ?? null,
        // For those who want to know more; an earlier version of the package gave no cause.
        details: cause && said,
        ids: { "Failure code": report.code, "Snowflake query": report.snowflake_query_id, Run: run.dag_run_id },
      };
    });
  }

  async #askDatabricksUrl() {
    const run = this.runs.find((one) => one.state !== "queued") ?? null;
    if (this.#databricks?.run !== run?.dag_run_id) this.#databricks = run && { run: run.dag_run_id, url: null };
    if (run === null || this.#databricks.url !== null) return;
    // Read it again while the run is active: it is known some time after the start of the run.
    const about = isActive(run) ? `${key(run)} ${now()}` : key(run);
    await this.#once("databricks", about, async () => {
      const url = await this.#xcom(run, "export_to_s3", "run_page_url");
      if (this.#databricks?.run === run.dag_run_id) this.#databricks.url = url;
    });
  }

  /** Call once for each `about` that is not null; after an error, call again the next time. */
  async #once(what, about, call) {
    if (about === null || this.#asked.get(what) === about) return;
    this.#asked.set(what, about);
    try {
      await call();
    } catch (error) {
      this.#asked.delete(what);
      throw error;
    }
  }

  async #xcom(run, task, name) {
    const path = ["dags", this.dagId, "dagRuns", run.dag_run_id, "taskInstances", task, "xcomEntries", name];
    const answer = await optional(ask(path));
    return answer?.value ?? null;
  }
}

/** What the asset event of a publish says; see rowsOf. */
function publishOf(extra) {
  const inserted = extra.rows_inserted ?? 0;
  const updated = extra.rows_updated ?? 0;
  const mode = extra.export_mode ?? null;
  const isOfChanges = OF_CHANGES.includes(mode);
  // An event of an earlier version has no loaded rows: there, each was either inserted or updated.
  const loaded = extra.rows_loaded ?? inserted + updated;
  return {
    count: isOfChanges ? inserted + updated + (extra.rows_deleted ?? 0) : loaded,
    isOfChanges,
    inTarget: extra.rows_in_target ?? null,
    asOf: extra.data_as_of ?? null,
    version: extra.source_version ?? null,
    committedAt: extra.source_committed_at ?? null,
    mode,
    reason: extra.export_reason ?? null,
    written: extra.rows_exported ?? null,
    bytes: extra.bytes_exported ?? null,
    loaded,
    seconds: extra.statement_seconds ?? null,
  };
}

/** Identifies a run together with its end: a cleared run ends again. */
const key = (run) => `${run.dag_run_id} ${run.state} ${run.end_date}`;

/** The answer, or null if the viewer may not see it or it does not exist. */
async function optional(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof AirflowError && [FORBIDDEN, NOT_FOUND].includes(error.status)) return null;
    throw error;
  }
}

export class Shares {
  datasets = new Map();
  invalidFiles = [];
  refreshedAt = null;
  #changedSince = null;

  get all() {
    return [...this.datasets.values()];
  }

  get isActive() {
    return this.all.some((dataset) => dataset.running || (dataset.queued && !dataset.dag.is_paused));
  }

  /** Read all changes. If it throws an AirflowError, the previous state is kept. */
  async refresh() {
    const asked = now();
    await Promise.all([this.#askDags(), this.#askInvalidFiles()]);
    if (this.#changedSince === null) await this.#askLatestRuns();
    else await this.#askChangedRuns();
    this.#changedSince = new Date(asked - OVERLAP_MILLISECONDS).toISOString();
    await Promise.all([this.#askTasks(), this.complete()]);
    this.refreshedAt = Date.now();
  }

  /** Read the missing details of the cards on screen. */
  async complete() {
    const waiting = this.all.filter((dataset) => dataset.isOnScreen || dataset.needsHistory());
    const worker = async () => {
      for (let dataset = waiting.shift(); dataset; dataset = waiting.shift()) await dataset.complete();
    };
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, worker));
  }

  /** Start a sync; Airflow decides whether the viewer may. */
  async start(dataset) {
    dataset.merge(await ask(["dags", dataset.dagId, "dagRuns"], { body: { logical_date: null, conf: {} } }));
  }

  /** Cancel a sync, on Databricks and Snowflake too; Airflow decides whether the viewer may. */
  async cancel(dataset, run) {
    // The call would turn a run that has just succeeded into a failed one.
    const current = await ask(["dags", dataset.dagId, "dagRuns", run.dag_run_id]);
    dataset.merge(current);
    if (!isActive(current)) return;
    const body = { state: "failed" };
    dataset.merge(await ask(["dags", dataset.dagId, "dagRuns", run.dag_run_id], { body, method: "PATCH" }));
    dataset.cancelled.add(run.dag_run_id);
  }

  async #askDags() {
    const found = new Map();
    for (let offset = 0, total = 1; offset < total; offset += PAGE) {
      const query = [...TAGS.map((tag) => ["tags", tag]), ["tags_match_mode", "all"], ["limit", PAGE], ["offset", offset]];
      const answer = await ask(["dags"], { query });
      for (const dag of answer.dags) {
        if (dag.dag_id.startsWith(DAG_PREFIX)) found.set(dag.dag_id, dag);
      }
      total = answer.total_entries;
    }
    const datasets = [...found.values()].sort((one, other) => one.dag_id.localeCompare(other.dag_id)).map((dag) => {
      const dataset = this.datasets.get(dag.dag_id) ?? new Dataset(dag);
      dataset.dag = dag;
      return [dag.dag_id, dataset];
    });
    this.datasets = new Map(datasets);
  }

  async #askInvalidFiles() {
    const answer = await optional(ask(["importErrors"], { query: { limit: PAGE } }));
    this.invalidFiles = (answer?.import_errors ?? [])
      .filter((error) => error.filename.includes(DATASET_FILES))
      .map((error) => ({
        file: error.filename,
        name: error.filename.split("/").at(-1).replace(/\.ya?ml$/, ""),
        problems: problemsIn(error.stack_trace),
      }));
  }

  async #askLatestRuns() {
    if (this.datasets.size === 0) return;
    const body = { dag_ids: [...this.datasets.keys()], order_by: "-run_after", page_limit: PAGE };
    const answer = await ask(["dags", "~", "dagRuns", "list"], { body });
    this.#merge(answer.dag_runs);
    // If the answer has all runs, every dataset has its history; otherwise each reads it when its card is on screen.
    const areAll = answer.total_entries <= answer.dag_runs.length;
    for (const dataset of this.all) dataset.hasHistory = areAll;
  }

  async #askChangedRuns() {
    const query = {
      dag_id_prefix_pattern: DAG_PREFIX,
      updated_at_gte: this.#changedSince,
      order_by: "-updated_at",
      limit: PAGE,
    };
    const answer = await ask(["dags", "~", "dagRuns"], { query });
    this.#merge(answer.dag_runs);
    if (answer.total_entries > answer.dag_runs.length) for (const dataset of this.all) dataset.hasHistory = false;
  }

  async #askTasks() {
    const running = this.all.flatMap((dataset) => dataset.running ?? []);
    const tasks = new Map();
    if (running.length > 0) {
      const body = {
        dag_ids: running.map((run) => run.dag_id),
        dag_run_ids: running.map((run) => run.dag_run_id),
        state: TASK_STATES,
        page_limit: PAGE,
      };
      const answer = await optional(ask(["dags", "~", "dagRuns", "~", "taskInstances", "list"], { body }));
      for (const task of answer?.task_instances ?? []) tasks.set(task.dag_id, task);
    }
    for (const dataset of this.all) {
      const isSameRun = dataset.task?.dag_run_id === dataset.running?.dag_run_id;
      // Between two tasks, no task is active: keep showing the last one.
      dataset.task = tasks.get(dataset.dagId) ?? (isSameRun ? dataset.task : null);
    }
  }

  #merge(runs) {
    for (const run of runs) this.datasets.get(run.dag_id)?.merge(run);
  }
}

/** The message at the end of a stack trace; for a dataset file, its list of problems. */
function problemsIn(stackTrace) {
  const [, afterHeading] = stackTrace.split("is not a valid dataset file:\n");
  const lines = (afterHeading ?? stackTrace).split("\n").map((line) => line.trim()).filter(Boolean);
  return afterHeading === undefined ? lines.slice(-1) : lines;
}

/** A task in words: "Step 2 of 5: Loading into Snowflake". Tasks with the same title count as one step. */
export function inWords(task) {
  const step = STEPS.find((one) => one.id === task.task_id);
  return step ? `Step ${TITLES.indexOf(step.title) + 1} of ${TITLES.length}: ${step.doing}` : task.task_id;
}
