"""The texts that people read about a sync (headline, steps, reason), and the HTML that shows them."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from examples.backend.airflow_client import Failure, Step, Sync

PAGE = Path(__file__).with_name("page")

# The steps of a sync in order: task id, title, and the sentence shown while the step runs. The page shows steps with
# the same title as one.
STEPS: list[dict[str, str]] = json.loads(Path(__file__).with_name("steps.json").read_text(encoding="utf-8"))
TITLES = {step["id"]: step["title"] for step in STEPS}
FINISH = STEPS[-1]["id"]
STEP_STATES = {
    "success": "done",
    "skipped": "skipped",
    "running": "now",
    "deferred": "now",
    "up_for_retry": "retry",
    "up_for_reschedule": "now",
    "failed": "failed",
    "upstream_failed": "skipped",
    "removed": "skipped",
}
STEP_WORDS = {
    "todo": "not yet",
    "now": "under way",
    "done": "done",
    "retry": "failed, will be tried again",
    "failed": "failed",
    "stopped": "stopped",
    "skipped": "not run",
}

ENDING = "Ending"
CHANGES = (
    ("rows_inserted", "inserted"),
    ("rows_updated", "updated"),
    ("rows_deleted", "deleted"),
    ("rows_in_target", "now in the target"),
)
# In the message of a failed check_staging, each line that begins so is about a check.
FAILED_CHECK = re.compile(r"^- (\w+): ", re.MULTILINE)
# By export_mode of an answer.
EXPORTS = {
    "full": "All rows were exported",
    "feed": "Only changes were exported",
    "compare": "Only changes were exported",
}


def title_of(dataset: str) -> str:
    """Return a dataset's name for people."""
    return dataset.replace("_", " ").capitalize()


def duration(seconds: float) -> str:
    """Return seconds in words, such as ``6.2 s``, ``1 min 05 s`` or ``2 h 03 min``; whole ones as ``6 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if isinstance(seconds, float) else f"{seconds} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def limit_of(max_age: timedelta) -> str:
    """Return how old data may be, as people say it: ``24 h``, ``3 days``, ``90 min``."""
    minutes = max_age.total_seconds() / 60
    for unit, size in (("days", 1440), ("h", 60)):
        if minutes >= 2 * size and minutes % size == 0:
            return f"{minutes / size:.0f} {unit}"
    return f"{minutes:g} min"


def in_utc(moment: datetime) -> str:
    """Return a moment in words; the page's script replaces them by words in the reader's time zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def step_state(step: Step | None) -> str:
    """Return the page's state of a step: a key of ``STEP_WORDS``."""
    return STEP_STATES.get(step.state or "", "todo") if step else "todo"


def progress_of(sync: Sync) -> list[dict[str, str]]:
    """Return the steps of a sync for the page, in order."""
    known = {step.name: step for step in sync.steps}
    steps = []
    for title, tasks in itertools.groupby(STEPS, key=itemgetter("title")):
        doing = {task["doing"]: step_state(known.get(task["id"])) for task in tasks}
        steps.append({"name": title, "doing": doing_in(doing), "state": state_of(list(doing.values()))})
    if may_be_cancelled(sync):
        for step in steps:
            # Perhaps nothing has failed, and somebody has stopped it.
            step["state"] = "stopped" if step["state"] == "failed" else step["state"]
    if steps[-1]["state"] in ("failed", "stopped") and sync.failure and sync.failure.step != FINISH:
        # finish_sync fails in every sync that was not published; here another step failed, and it did its work.
        steps[-1]["state"] = "done"
    states = [step["state"] for step in steps]
    if sync.state == "running" and not {"now", "retry", "failed", "stopped"} & set(states) and "todo" in states:
        # Between two steps, show the next one as running.
        steps[states.index("todo")]["state"] = "now"
    for step in steps:
        step["words"] = STEP_WORDS[step["state"]]
    return steps


def may_be_cancelled(sync: Sync) -> bool:
    """Return whether a person has ended the sync; while it ends, also whether that is possible."""
    if sync.failure is not None:
        return sync.failure.code == "CANCELLED"
    # Of a cancelled run, Airflow skips the steps that have not begun; those after a failed step are upstream_failed.
    # After publish there are none.
    return sync.state == "running" and "upstream_failed" not in [step.state for step in sync.steps]


def state_of(states: list[str]) -> str:
    """Return the combined state of several tasks that the page shows as one step."""
    for state in ("failed", "retry", "now", "todo"):
        if state in states:
            return state
    return states[-1]


def doing_in(doing: dict[str, str]) -> str:
    """Return the sentence for a step: that of its first task that has not ended, otherwise of its last task."""
    return next((words for words, state in doing.items() if state not in ("done", "skipped")), [*doing][-1])


@dataclass
class View:
    """What the page shows for a sync."""

    headline: str
    tone: str
    steps: list[dict[str, str]]
    links: list[tuple[str, str]]
    seconds: float | None = None
    duration: str = ""
    rows: int | None = None
    only_changes: bool = False
    """Whether the rows are those that the sync has changed, instead of all that it has loaded."""
    compared: str = ""
    """How many rows there were before, where the rows take the place of all that were there."""
    changes: list[tuple[str, int]] = field(default_factory=list)
    who: str = ""
    """Who has started it, if it was somebody else."""
    of_source: str = ""
    """Of which version of the source the data are, where the sync has not made them new."""
    details: list[str] = field(default_factory=list)
    """Sentences for those who want to know more: the report of a failure, what was exported and why, what it cost."""
    step: str = ""
    """Title of the step that failed."""
    reason: str = ""
    what_to_do: str = ""
    ids: list[tuple[str, str]] = field(default_factory=list)
    """By which names other systems know the sync."""

    @property
    def done(self) -> int:
        """Number of steps that have ended."""
        return sum(step["state"] in ("done", "skipped") for step in self.steps)


@dataclass(frozen=True)
class Viewer:
    """
    Who looks at the page.

    :param name: the name that the backend knows, which is that of its requests; None if it knows none
    :param account: the backend's account in Airflow
    """

    name: str | None = None
    account: str = ""

    def person(self, name: str | None) -> str:
        """Return another person, or an account, as this viewer calls it; empty if it is not known."""
        if name and name == self.name:
            return "you"
        return "this page" if name and name == self.account else name or ""


NOBODY = Viewer()


def view_of(sync: Sync, viewer: Viewer = NOBODY) -> View:
    """Return what the page shows for a sync."""
    result, failure = sync.result or {}, sync.failure
    databricks_run_url = sync.databricks_run_url or (failure.databricks_run_url if failure else None)
    links = [("Airflow run", sync.airflow_url), ("Databricks run", databricks_run_url)]
    view = View(
        headline="Sync failed",
        tone="failed",
        steps=progress_of(sync),
        # Only web addresses: another system's text must not become a link that runs a script.
        links=[(name, url) for name, url in links if url and urlsplit(url).scheme in ("http", "https")],
        ids=[("Run in Airflow", sync.run_id)],
        rows=sync.rows_loaded,
    )
    starter = viewer.person(sync.requested_by)
    view.who = "" if starter in ("", "you", "this page") else f"Started by {starter}"
    if sync.started:
        view.seconds = max(0.0, ((sync.ended or datetime.now(UTC)) - sync.started).total_seconds())
        view.duration = duration(view.seconds if sync.ended else int(view.seconds))
    if sync.state == "queued":
        view.headline, view.tone = "Queued", "queued"
        view.reason = "It starts as soon as no other sync of this dataset is running."
    elif sync.state == "running":
        view.headline, view.tone = doing_of(view.steps), "running"
        if view.headline == ENDING:
            view.reason = "Its staging tables are removed. The target stays as it was."
    elif sync.complete:
        _show_result(view, result)
    elif failure:
        _show_failure(view, failure, viewer.person(sync.cancelled_by))
    else:
        view.reason, view.what_to_do = "Airflow reports no reason.", "Look at the run in Airflow."
    return view


def _show_result(view: View, result: dict[str, Any]) -> None:
    # Show "Sync Complete" only if rows were published.
    view.headline, view.tone = "Sync Complete", "done"
    if result.get("unchanged"):
        view.headline = "Up to date"
    elif result.get("verified"):
        view.headline = "Verified"
    elif result.get("dry_run"):
        view.headline, view.reason = "Dry run complete", "Nothing was published. A sync would change:"
        if compared := compared_of(result):
            would = f"{rows_of(result['rows_inserted'])}, {compared}"
            view.reason = f"Nothing was published. After a sync, the target would have {would}."
    changed = changed_rows(result)
    loaded = result.get("rows" if result.get("verified") else "rows_loaded")
    view.rows, view.only_changes = (loaded, False) if changed is None else (changed, True)
    view.compared = compared_of(result)
    if result.get("verified") or result.get("unchanged"):
        view.of_source = as_of(result)
    elif when := version_in_words(result):
        view.details = [f"The source has changed last on {when}."]
    view.details += [sentence for sentence in (export_of(result), cost_of(result)) if sentence]
    if not view.compared:
        view.changes = [(words, result[column]) for column, words in CHANGES if result.get(column) is not None]
    if result.get("run_key"):
        view.ids.append(("Run key in the ledger", result["run_key"]))


def _show_failure(view: View, failure: Failure, canceller: str) -> None:
    message, cause = failure.message, failure.cause
    if failure.code == "CANCELLED":
        # No step is at fault.
        by = {"": "", "this page": " on this page"}.get(canceller, f" by {canceller}")
        view.headline, view.tone = f"Sync cancelled{by}", "cancelled"
        view.reason = message.removeprefix(cause).strip() or message
    else:
        view.step = TITLES.get(failure.step, failure.step)
        # An earlier version of the data share gives no cause.
        view.reason = cause or message
        if cause and message != cause:
            view.details = [message]
        if failure.code == "CHECKS_FAILED" and (names := dict.fromkeys(FAILED_CHECK.findall(message))):
            view.reason = f"{cause} Not passed: {', '.join(names)}."
    view.what_to_do = failure.what_to_do
    view.ids.append(("Failure code", failure.code))
    if failure.snowflake_query_id:
        view.ids.append(("Snowflake query", failure.snowflake_query_id))


def compared_of(result: dict[str, Any]) -> str:
    """Return how many rows a replace has left, compared with those before; empty for other syncs."""
    if result.get("load_mode") != "replace" or result.get("export_mode") in ("feed", "compare"):
        return ""
    before, after = result.get("rows_deleted"), result.get("rows_inserted")
    if before is None or after is None:
        return ""
    if not before:
        return "where there were none"
    if before == after:
        return "as many as before"
    return f"{abs(after - before):,} {'more' if after > before else 'fewer'} than before"


def as_of(result: dict[str, Any]) -> str:
    """Return of which version of the source the rows are; empty if it has none."""
    when = version_in_words(result)
    if result.get("verified"):
        return when and f"The target holds what the source held on {when}"
    return when and f"{'Nothing new at the source since' if result.get('unchanged') else 'Data as of'} {when}"


def version_in_words(result: dict[str, Any]) -> str:
    """Return the version of the source and when it was committed; empty if it has none."""
    version, committed = result.get("source_version"), result.get("source_committed_at")
    return "" if version is None or not committed else f"{committed[:16].replace('T', ' ')} UTC (version {version})"


def changed_rows(result: dict[str, Any]) -> int | None:
    """Return how many rows a sync has changed in the target; None if it has published an export of all rows."""
    if result.get("export_mode") not in ("feed", "compare") or result.get("dry_run"):
        return None
    return sum(int(result[column]) for column in ("rows_inserted", "rows_updated", "rows_deleted"))


def export_of(result: dict[str, Any]) -> str:
    """Return what was exported, and why; empty if the answer does not say it."""
    mode, reason = result.get("export_mode"), result.get("export_reason")
    return f"{EXPORTS[mode]} ({mode}): {reason}." if mode in EXPORTS and reason else ""


def cost_of(result: dict[str, Any]) -> str:
    """Return what a sync has cost; empty if the answer does not say it, as before an upgrade of the ledger."""
    written, size, loaded = (result.get(name) for name in ("rows_exported", "bytes_exported", "rows_loaded"))
    if written is None or size is None or loaded is None:
        return ""
    seconds = result.get("statement_seconds")
    worked = "" if seconds is None else f"; Snowflake's statements before the publish took {seconds:.1f} s"
    return f"Written to S3: {rows_of(written)}, {size_of(size)}. Loaded: {rows_of(loaded)}{worked}."


def rows_of(count: int) -> str:
    """Return a number of rows in words."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def size_of(count: float) -> str:
    """Return a number of bytes in words, such as ``24.9 kB``."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def doing_of(steps: list[dict[str, str]]) -> str:
    """Return the headline of a running sync: its current step."""
    if any(step["state"] in ("failed", "stopped") for step in steps):
        return ENDING
    for number, step in enumerate(steps, 1):
        if step["state"] in ("now", "retry"):
            again = " (trying again)" if step["state"] == "retry" else ""
            return f"Step {number} of {len(steps)}: {step['doing']}{again}"
    return ENDING


@dataclass(frozen=True)
class Line:
    """
    One of the last syncs of a dataset, in their list.

    ``tone`` is that of the sync, ``who`` has started it.
    """

    sync: Sync
    tone: str
    who: str
    rows: str
    duration: str
    result: str


def line_of(sync: Sync, viewer: Viewer) -> Line:
    """Return a line of the list of the last syncs."""
    view = view_of(sync, viewer)
    who = viewer.person(sync.requested_by) or "schedule"
    result = "Running" if view.tone == "running" else view.headline.removeprefix("Sync ").capitalize()
    if view.tone == "failed" and view.step:
        result = f"{result}: {view.step}"
    rows = "" if view.rows is None else f"{view.rows:,}{' changed' if view.only_changes else ''}"
    return Line(sync, view.tone, who, rows, view.duration if sync.ended else "", result)


TEMPLATES = Environment(
    loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters |= {
    "title_of": title_of,
    "view_of": view_of,
    "line_of": line_of,
    "rows_of": rows_of,
    "duration": duration,
    "in_utc": in_utc,
    "limit_of": limit_of,
}


def as_html(template: str, **values: Any) -> str:
    """
    Return a piece of the page.

    :param template: ``sync`` shows a sync to a viewer, ``about`` what is known of a dataset, ``history`` its last syncs
    """
    return TEMPLATES.get_template(f"{template}.html").render(values)
