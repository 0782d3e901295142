"""The texts that people read about a sync (headline, steps, reason), and the HTML that shows them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from examples.backend.airflow_client import Step, Sync

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
    "skipped": "not run",
}

ENDING = "Ending"
CHANGES = (
    ("rows_inserted", "inserted"),
    ("rows_updated", "updated"),
    ("rows_deleted", "deleted"),
    ("rows_in_target", "now in the target"),
)
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
    if steps[-1]["state"] == "failed" and sync.failure and sync.failure.step != FINISH:
        # finish_sync fails in every sync that was not published; here another step failed, and it did its work.
        steps[-1]["state"] = "done"
    states = [step["state"] for step in steps]
    if sync.state == "running" and not {"now", "retry", "failed"} & set(states) and "todo" in states:
        # Between two steps, show the next one as running.
        steps[states.index("todo")]["state"] = "now"
    for step in steps:
        step["words"] = STEP_WORDS[step["state"]]
    return steps


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
    changes: list[tuple[str, int]] = field(default_factory=list)
    as_of: str = ""
    """How old the data are, and that nothing was new if that is so."""
    details: list[str] = field(default_factory=list)
    """Sentences for those who want to know more: what was exported and why, and what it has cost."""
    step: str = ""
    """Title of the step that failed."""
    reason: str = ""
    what_to_do: str = ""
    query_id: str | None = None

    @property
    def done(self) -> int:
        """Number of steps that have ended."""
        return sum(step["state"] in ("done", "skipped") for step in self.steps)


def view_of(sync: Sync) -> View:
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
    )
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
        # Show "Sync Complete" only if rows were published.
        view.headline, view.tone = "Sync Complete", "done"
        if result.get("unchanged"):
            view.headline = "Up to date"
        elif result.get("verified"):
            view.headline = "Verified"
        elif result.get("dry_run"):
            view.headline = "Dry run complete"
        view.as_of = as_of(result)
        changed = changed_rows(result)
        loaded = result.get("rows" if result.get("verified") else "rows_loaded")
        view.rows, view.only_changes = (loaded, False) if changed is None else (changed, True)
        view.details = [sentence for sentence in (export_of(result), cost_of(result)) if sentence]
        view.changes = [(words, result[column]) for column, words in CHANGES if result.get(column) is not None]
    elif failure:
        if failure.code == "CANCELLED":
            # No step is at fault.
            view.headline, view.tone = "Sync cancelled", "cancelled"
        else:
            view.step = TITLES.get(failure.step, failure.step)
        view.reason, view.what_to_do, view.query_id = failure.message, failure.what_to_do, failure.snowflake_query_id
    else:
        view.reason, view.what_to_do = "Airflow reports no reason.", "Look at the run in Airflow."
    return view


def as_of(result: dict[str, Any]) -> str:
    """Return how old the data of a sync are, by the version of the source; empty if it has none."""
    version, committed = result.get("source_version"), result.get("source_committed_at")
    if version is None or not committed:
        return ""
    when = f"{committed[:16].replace('T', ' ')} UTC (version {version})"
    if result.get("verified"):
        return f"The target holds what the source held on {when}"
    return f"Nothing new at the source since {when}" if result.get("unchanged") else f"Data as of {when}"


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
    if any(step["state"] == "failed" for step in steps):
        return ENDING
    for number, step in enumerate(steps, 1):
        if step["state"] in ("now", "retry"):
            again = " (trying again)" if step["state"] == "retry" else ""
            return f"Step {number} of {len(steps)}: {step['doing']}{again}"
    return ENDING


TEMPLATES = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
TEMPLATES.filters |= {"title_of": title_of, "view_of": view_of}


def as_html(sync: Sync) -> str:
    """Return the HTML that shows a sync on the page."""
    return TEMPLATES.get_template("sync.html").render(sync=sync)
