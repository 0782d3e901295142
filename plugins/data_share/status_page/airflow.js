// Calls Airflow's REST API with the viewer's cookie: Airflow decides what the viewer may see and start.

const ROOT = new URL("../", import.meta.url);
const TIMEOUT_MILLISECONDS = 20_000;

let clockOffset = 0;

/** The current time of Airflow's api-server, in milliseconds. */
export const now = () => Date.now() + clockOffset;

export const SIGNED_OUT = 401;
export const FORBIDDEN = 403;
export const NOT_FOUND = 404;

export class AirflowError extends Error {
  /** `status` is the HTTP status, or 0 if there was no answer. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The address of a page of Airflow's UI. */
export const uiAddress = (...parts) => new URL(parts.map(encodeURIComponent).join("/"), ROOT).href;

/** Call `api/v2/<parts>` with GET or, if there is a body, with POST or another method. */
export async function ask(parts, { query = [], body = null, method = body ? "POST" : "GET" } = {}) {
  const url = new URL(`api/v2/${parts.map(encodeURIComponent).join("/")}`, ROOT);
  url.search = new URLSearchParams(query);
  let response;
  try {
    response = await fetch(url, {
      method,
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    });
  } catch {
    throw new AirflowError(0, "Airflow does not answer.");
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (!Number.isNaN(date)) clockOffset = date - Date.now();
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new AirflowError(response.status, reason(response.status, answer?.detail));
  if (answer === null) throw new AirflowError(0, "The answer is not Airflow's.");
  return answer;
}

function reason(status, detail) {
  if (status === SIGNED_OUT) return "You are signed out of Airflow. Reload the page to sign in.";
  if (typeof detail === "string") return `Airflow says: ${detail} (${status})`;
  if (Array.isArray(detail)) return `Airflow says: ${detail.map((part) => part.msg).join("; ")} (${status})`;
  return `Airflow answers with status ${status}${detail?.reason ? `: ${detail.reason}` : ""}.`;
}
