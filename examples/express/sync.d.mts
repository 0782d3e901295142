/** Types of sync.mjs, and of what its syncs answer; docs/backend.md and docs/failures.md explain the fields. */

/** A step of a sync: the id of its task in Airflow. */
export type StepName =
  | "export_to_s3"
  | "wait_for_export"
  | "copy_into_staging"
  | "check_staging"
  | "publish"
  | "finish_sync";

/** A step's state in Airflow; null until Airflow schedules the step. "deferred": Databricks works. */
export type StepState =
  | "removed"
  | "scheduled"
  | "queued"
  | "running"
  | "success"
  | "restarting"
  | "failed"
  | "up_for_retry"
  | "up_for_reschedule"
  | "upstream_failed"
  | "skipped"
  | "deferred"
  | "awaiting_input"
  | null;

export interface Step {
  name: StepName;
  state: StepState;
  started: Date | null;
  ended: Date | null;
}

/** The options of a sync; all may be left out. The README explains them. */
export interface Conf {
  /** Who requested the sync: one line of at most 100 characters. */
  requested_by?: string | null;
  full_refresh?: boolean;
  accept_row_change?: boolean;
  dry_run?: boolean;
  verify?: boolean;
  /** Run key of an earlier sync, whose export is loaded again. */
  reload_run_key?: string | null;
}

export type LoadMode = "replace" | "append" | "merge";

/** What was exported: all rows, or changes by the source's feed or by comparison of two versions. */
export type ExportMode = "full" | "feed" | "compare";

/** Which attempt of a step has left a value. */
interface MadeBy {
  /** Airflow's id of the attempt. */
  task_instance_id: string;
  /** How often the run had been cleared. */
  clear_number: number;
}

/** The publish that the target has. All times are in UTC, in ISO 8601 without a time zone. */
interface OnPublish extends MadeBy {
  dataset: string;
  source_table: string;
  target_table: string;
  run_key: string;
  published_at: string;
}

/**
 * The answer of a sync that has published: its row in the ledger. Fields with a question mark are missing until
 * set_up_snowflake has added their columns to the ledger of an earlier version.
 */
export interface Published extends OnPublish {
  dry_run?: undefined;
  unchanged?: undefined;
  verified?: undefined;
  dag_run_id: string;
  attempt: number;
  load_mode: LoadMode;
  rows_exported: number;
  rows_loaded: number;
  rows_inserted: number;
  rows_updated: number;
  rows_deleted: number;
  rows_in_target: number;
  export_path: string;
  /** Above 2^53 it is not exact: show databricksRunUrl. */
  databricks_run_id: number;
  /** A JSON array as text. */
  query_ids: string;
  requested_by: string | null;
  started_at: string;
  /** The target has the source as it was at this moment. */
  data_as_of: string;
  /** JSON as text. */
  source_choice?: string | null;
  source_condition?: string | null;
  package_version?: string | null;
  bytes_exported?: number | null;
  statement_seconds?: number | null;
  source_table_id?: string | null;
  source_version?: number | null;
  source_committed_at?: string | null;
  source_has_feed?: boolean | null;
  from_version?: number | null;
  export_mode?: ExportMode | null;
  /** Ends a sentence: "the source has changed since version 811". */
  export_reason?: string | null;
  source_rows?: number | null;
  /** Only of a dataset with incremental: true. */
  incremental?: true;
}

/** The answer of a dry run: what would change. */
export interface DryRun extends MadeBy {
  dry_run: true;
  unchanged?: undefined;
  verified?: undefined;
  load_mode: LoadMode;
  export_path: string;
  export_mode: ExportMode | null;
  rows_inserted: number;
  rows_updated: number;
  rows_deleted: number;
}

/** The answer of a sync that found nothing new at the source: the last publish. Show it as "Up to date". */
export interface UpToDate extends OnPublish {
  dry_run?: undefined;
  unchanged: true;
  verified?: undefined;
  /** The target has the source as it was at this moment. */
  data_as_of: string;
  source_version: number;
  source_committed_at: string;
  rows_in_target: number;
}

/** The answer of a verification that found no difference: the last publish. Show it as "Verified". */
export interface Verified extends OnPublish {
  dry_run?: undefined;
  unchanged?: undefined;
  verified: true;
  source_version: number;
  source_committed_at: string;
  /** Number of rows that were compared. */
  rows: number;
  /** Columns whose types Snowflake does not compare. */
  not_compared: string[];
}

/** The answer of a sync that has succeeded; dry_run, unchanged or verified tells which. */
export type Answer = Published | DryRun | UpToDate | Verified;

/** Why a sync failed. Treat a code that you do not know like UNEXPECTED: new ones may be added. */
export type FailureCode =
  | "CONFIGURATION_MISSING"
  | "CERTIFICATE_REFUSED"
  | "DATABRICKS_SIGN_IN"
  | "EXPORT_JOB_REFUSED"
  | "DATABRICKS_UNAVAILABLE"
  | "EXPORT_FAILED"
  | "EXPORT_CANCELED"
  | "EXPORT_TIMED_OUT"
  | "EXPORT_MISSING"
  | "RESULT_MISSING"
  | "EXPORT_PATH_INVALID"
  | "CONF_UNKNOWN"
  | "RUN_KEY_UNKNOWN"
  | "SNOWFLAKE_SIGN_IN"
  | "SNOWFLAKE_REFUSED"
  | "SNOWFLAKE_STATEMENT_FAILED"
  | "LOAD_TIMED_OUT"
  | "SNOWFLAKE_UNAVAILABLE"
  | "MANIFEST_MISSING"
  | "MANIFEST_INVALID"
  | "NOTHING_LOADED"
  | "SCHEMA_DRIFT"
  | "TYPES_LOSE_VALUES"
  | "POLICY_FOUND"
  | "ROWS_HIDDEN"
  | "CHECKS_FAILED"
  | "TARGET_MISSING"
  | "TARGET_TAKEN"
  | "SUPERSEDED"
  | "TARGET_DIVERGED"
  | "INCREMENT_IMPOSSIBLE"
  | "VALUES_DIFFER"
  | "VERIFY_IMPOSSIBLE"
  | "LEDGER_ROW_MISSING"
  | "TIMED_OUT"
  | "ENDED_AFTER_PUBLISH"
  | "CANCELLED"
  | "STEP_DIED"
  | "SHARE_BROKEN"
  | "UNEXPECTED"
  // Keeps the names above as suggestions of editors.
  | (string & {});

/** The report of a failed sync. */
export interface Report {
  /** The step that failed; "sync" if Airflow ended the run. */
  step: StepName | "sync";
  code: FailureCode;
  message: string;
  /** What went wrong, in words without names and ids. */
  cause: string;
  what_to_do: string;
  databricks_run_url: string | null;
  snowflake_query_id: string | null;
  /** Whether the same request may succeed later. */
  retriable: boolean;
  /** The key of the conf with which a new request repairs what was found. */
  repair: keyof Conf | null;
}

export interface Failure extends Report {
  /** Step and message as one sentence for people. */
  sentence: string;
}

interface AnySync {
  dataset: string;
  runId: string;
  started: Date | null;
  ended: Date | null;
  /** In order; empty until Airflow has made them. */
  steps: Step[];
  /** The run's page in Airflow. */
  airflowUrl: string;
  /** The run's page on Databricks. */
  databricksRunUrl: string | null;
  /** Known when the load has ended. */
  rowsLoaded: number | null;
  /** The person in the conf, or the user of Airflow who started the run; null for a schedule. */
  requestedBy: string | null;
  /** The text that Airflow shows for the run. */
  note: string | null;
  /** Who has cancelled the sync, as its note says; null if nobody has, or nobody knows. */
  cancelledBy: string | null;
}

export interface ActiveSync extends AnySync {
  state: "queued" | "running";
  result: null;
  failure: null;
  finished: false;
  complete: false;
}

/** The only one to be shown as "Sync Complete", or as its result says. */
export interface CompleteSync extends AnySync {
  state: "success";
  result: Answer;
  failure: null;
  finished: true;
  complete: true;
}

/** A failed or cancelled sync, or one that a person marked as a success in Airflow, which is not complete either. */
export interface FailedSync extends AnySync {
  state: "failed" | "success";
  result: null;
  failure: Failure;
  finished: true;
  complete: false;
}

export type FinishedSync = CompleteSync | FailedSync;

/** The current state of a sync; finished and complete tell which of the three it is. */
export type Sync = ActiveSync | FinishedSync;

/** All in seconds. */
export interface ClientOptions {
  /** Max. time of one attempt of a call. Default: 30. */
  timeout?: number;
  /** Pauses between the attempts of a call that gets no answer, 429 or 5xx. Default: 0.5, 1, 2. */
  backOff?: readonly number[];
  /** Max. time without an answer while a sync is followed. Default: 330. */
  outage?: number;
}

/** Airflow's REST API for a backend's service account. Share one client among all requests. */
export class AirflowClient {
  constructor(url: string, user: string, password: string, options?: ClientOptions);

  /** The datasets that the account may see. */
  datasets(): Promise<string[]>;

  /**
   * Start a sync. If a run with this runId exists already, start nothing and return that run.
   *
   * @param options.runId your own id for the request, up to 200 of A-Za-z0-9_.~:+-; default: each call is a new sync
   * @throws PausedError, UnknownDatasetError, InvalidConfError: the sync was not started
   */
  start(dataset: string, options?: { runId?: string; conf?: Conf }): Promise<Sync>;

  /**
   * Return a sync whose export begins after this call: a queued one, or a new one. Use it for a button.
   *
   * @throws PausedError, UnknownDatasetError, InvalidConfError: the sync was not started
   */
  requestSync(dataset: string, options?: { conf?: Conf }): Promise<Sync>;

  /**
   * The current state of a sync.
   *
   * @throws UnknownSyncError if there is none
   */
  sync(dataset: string, runId: string): Promise<Sync>;

  /** The newest sync of a dataset, whoever started it; null if there is none. */
  newest(dataset: string): Promise<Sync | null>;

  /**
   * Yield the sync now and whenever it changes, until it is finished.
   *
   * @throws SyncTimeoutError after deadlineSeconds; the sync goes on
   */
  follow(dataset: string, runId: string, options: { deadlineSeconds: number }): AsyncGenerator<Sync, void, undefined>;

  /** The sync when it is finished; see follow. */
  wait(dataset: string, runId: string, options: { deadlineSeconds: number }): Promise<FinishedSync>;

  /**
   * Cancel a sync, on Databricks and Snowflake too; seconds later it is "failed". A finished one is unchanged.
   *
   * @param options.by who cancels it, for the note of the run; default: Airflow names the account of this client
   */
  cancel(dataset: string, runId: string, options?: { by?: string | null }): Promise<void>;
}

/** Base of all errors of this client. The message is for people and contains no secret. */
export class SyncError extends Error {}

/** Airflow does not accept the user or the password, or refuses a token that it has just issued. */
export class NotSignedInError extends SyncError {
  name: "NotSignedInError";
}

/** The account lacks a right (403). */
export class NotAllowedError extends SyncError {
  name: "NotAllowedError";
}

/** Airflow has no such dataset (404); the message lists the datasets that the account may see. */
export class UnknownDatasetError extends SyncError {
  name: "UnknownDatasetError";
}

/** The dataset has no run with this id (404). */
export class UnknownSyncError extends SyncError {
  name: "UnknownSyncError";
}

/** Airflow refuses the conf or the run id (400); the message is Airflow's. */
export class InvalidConfError extends SyncError {
  name: "InvalidConfError";
}

/** The dataset is paused: Airflow would accept the run but never start it. */
export class PausedError extends SyncError {
  name: "PausedError";
}

/** The deadline has passed. The sync goes on in Airflow; it can be followed again or cancelled. */
export class SyncTimeoutError extends SyncError {
  name: "SyncTimeoutError";
}

/** No answer, 429 or 5xx after several attempts. It is unknown whether the call had an effect. */
export class AirflowUnavailableError extends SyncError {
  name: "AirflowUnavailableError";
}
