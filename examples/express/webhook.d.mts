/** Types of webhook.mjs, and of the events that the webhook sends; docs/alerts.md explains them. */
import type { Answer, Report } from "./sync.mjs";

/** The fields of each event. New ones may be added. */
interface AnyEvent {
  /** The same in each attempt to send the event, and in the header webhook-id: ignore an id that you have seen. */
  event_id: string;
  dataset: string;
  dag_id: string;
  dag_run_id: string;
  run_key: string;
  requested_by: string | null;
  /** The run's page in Airflow. */
  airflow_run_url: string;
  /** In ISO 8601. */
  sent_at: string;
}

/** The run succeeded. The sync is complete only if there is a result: a person may have marked a step. */
export interface SyncSucceeded extends AnyEvent {
  event: "sync_succeeded";
  state: "success";
  result: Answer | null;
  failure: null;
  deadline: null;
}

/** The run failed, was cancelled, or took longer than Airflow allows. */
export interface SyncFailed extends AnyEvent {
  event: "sync_failed";
  state: "failed";
  result: null;
  /** Without the two fields, no step has reported the reason. */
  failure: Report & { task_instance_id?: string; clear_number?: number };
  deadline: null;
}

/** The sync has not ended in time; it goes on. */
export interface SyncDeadlineMissed extends AnyEvent {
  event: "sync_deadline_missed";
  state: "queued" | "running" | "success" | "failed";
  result: null;
  failure: null;
  /** The missed time, in ISO 8601. */
  deadline: string;
}

export type SyncEvent = SyncSucceeded | SyncFailed | SyncDeadlineMissed;

/**
 * Whether the data share has sent a request, within the last five minutes.
 *
 * @param headers the headers, with names in lower case, as Node.js gives them
 * @param body the body as it was received, before it is parsed
 * @param secret the webhook's secret: "whsec_" and base64
 */
export function isGenuine(
  headers: Readonly<Record<string, string | string[] | undefined>>,
  body: Buffer,
  secret: string,
): boolean;
