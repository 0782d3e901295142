// Uses each export of sync.mjs and webhook.mjs, as a strict program does. test_types.py lets the compiler check it.
import {
  AirflowClient,
  AirflowUnavailableError,
  InvalidConfError,
  NotAllowedError,
  NotSignedInError,
  PausedError,
  SyncError,
  SyncTimeoutError,
  UnknownDatasetError,
  UnknownSyncError,
} from "./sync.mjs";
import type {
  ActiveSync,
  Answer,
  ClientOptions,
  CompleteSync,
  Conf,
  DryRun,
  ExportMode,
  FailedSync,
  Failure,
  FailureCode,
  FinishedSync,
  LoadMode,
  Published,
  Report,
  Step,
  StepName,
  StepState,
  Sync,
  UpToDate,
  Verified,
} from "./sync.mjs";
import { isGenuine } from "./webhook.mjs";
import type { SyncDeadlineMissed, SyncEvent, SyncFailed, SyncSucceeded } from "./webhook.mjs";

const options: ClientOptions = { timeout: 10, backOff: [1, 2], outage: 60 };
const airflow = new AirflowClient("https://airflow.example.com", "user", "password", options);
const conf: Conf = { requested_by: "ada@example.com", dry_run: true };

export async function press(dataset: string): Promise<string> {
  const names: string[] = await airflow.datasets();
  const started: Sync = await airflow.start(names[0] ?? dataset, { runId: "request-1", conf });
  const newest: Sync | null = await airflow.newest(dataset);
  const same: Sync = await airflow.sync(dataset, newest?.runId ?? started.runId);
  for await (const sync of airflow.follow(dataset, same.runId, { deadlineSeconds: 60 })) if (!sync.finished) show(sync);
  await airflow.cancel(dataset, same.runId, { by: "ada@example.com" });
  const requested = await airflow.requestSync(dataset, { conf });
  const ended: FinishedSync = await airflow.wait(dataset, requested.runId, { deadlineSeconds: 3600 });
  // Complete or not decides which of the two is there: no check for null is needed.
  return ended.complete ? words(ended) : told(ended);
}

function show(sync: ActiveSync): void {
  const steps: [StepName, StepState][] = sync.steps.map((step: Step) => [step.name, step.state]);
  const nothing: null = sync.result ?? sync.failure;
  console.log(sync.state === "queued", sync.started?.toISOString(), steps, nothing);
}

function words({ result }: CompleteSync): string {
  const answer: Answer = result;
  if (answer.unchanged) return upToDate(answer);
  if (answer.verified) return verified(answer);
  if (answer.dry_run) return preview(answer);
  return published(answer);
}

const upToDate = (answer: UpToDate): string => `${answer.rows_in_target} rows as of ${answer.source_committed_at}`;
const verified = (answer: Verified): string => `${answer.rows} rows, but for ${answer.not_compared.join(", ")}`;
const preview = (answer: DryRun): string => `${answer.rows_inserted + answer.rows_deleted} rows would change`;

function published(answer: Published): string {
  const [how, what]: [LoadMode, ExportMode | undefined] = [answer.load_mode, answer.export_mode ?? undefined];
  return `${answer.rows_in_target.toFixed()} rows: ${how}, ${what}, ${answer.bytes_exported?.toFixed() ?? "?"} bytes`;
}

function told(sync: FailedSync): string {
  const failure: Failure = sync.failure;
  const { code, repair }: { code: FailureCode; repair: keyof Conf | null } = failure;
  const nothing: null = sync.result;
  return `${code === "CHECKS_FAILED"} ${failure.sentence} ${repair} ${nothing} ${reported(failure)}`;
}

const reported = (report: Report): string => `${report.message} ${report.what_to_do}`;

export function status(error: unknown): number {
  if (!(error instanceof SyncError)) throw error;
  if (error instanceof UnknownDatasetError || error instanceof UnknownSyncError) return 404;
  if (error instanceof InvalidConfError) return 400;
  if (error instanceof PausedError) return 409;
  if (error instanceof NotSignedInError || error instanceof NotAllowedError) return 502;
  if (error instanceof SyncTimeoutError) return 504;
  if (error instanceof AirflowUnavailableError) return 503;
  // Each kind is another type: what is left is the base, with its message.
  return error.message.length;
}

export function receive(headers: Record<string, string | undefined>, body: Buffer): string {
  if (!isGenuine(headers, body, "whsec_...")) return "";
  const event: SyncEvent = JSON.parse(body.toString());
  switch (event.event) {
    case "sync_succeeded":
      return succeeded(event);
    case "sync_failed":
      return failed(event);
    case "sync_deadline_missed":
      return missed(event);
    default:
      return event satisfies never;
  }
}

const succeeded = (event: SyncSucceeded): string => (event.result ? event.result.task_instance_id : event.event_id);
const failed = (event: SyncFailed): string => `${event.failure.code} ${event.failure.repair}`;
const missed = (event: SyncDeadlineMissed): string => new Date(event.deadline).toISOString();

// What a strict program must not get away with: each line is an error, or the check fails.
export function wrong(sync: Sync, event: SyncEvent): unknown[] {
  return [
    // @ts-expect-error a misspelt key of the conf
    airflow.requestSync("x", { conf: { full_refesh: true } }),
    // @ts-expect-error a number where a text is needed
    airflow.start("x", { runId: 4711 }),
    // @ts-expect-error no deadline
    airflow.wait("x", "y"),
    // @ts-expect-error no state of a sync
    sync.state === "complete",
    // @ts-expect-error a result that may be missing
    sync.result.rows_in_target,
    // @ts-expect-error which answers do not all have
    sync.complete && sync.result.rows_in_target,
    // @ts-expect-error a failure that may be missing
    sync.finished && sync.failure.sentence,
    // @ts-expect-error no step of a sync
    sync.steps.find((step) => step.name === "copy"),
    // @ts-expect-error the failure of an event that may be no failure
    event.failure.code,
    // @ts-expect-error a body that was parsed
    isGenuine({}, {}, "whsec_..."),
  ];
}
