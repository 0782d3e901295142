"""
Says what the next sync of a dataset would do, and what stands in its way: ``python -m data_share.plan <dataset>``.

It changes nothing. It makes the doctor's checks for this one dataset, lets the export job describe the source, and
compares the source's columns with the target's by the code that decides in a sync. The exit code is 0 if nothing stands
in the way, 1 if something does, and 2 if no plan can be made, e.g. of an unknown dataset. With ``--json`` it prints one
JSON object, whose keys docs/plan.md explains; all other output then goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_share.dataset_files import read_datasets
from data_share.datasets import Dataset, LoadMode
from data_share.describe import TIMEOUT_SECONDS, Description, describe
from data_share.doctor import sources
from data_share.doctor.deployment import Deployment, State, error_text
from data_share.doctor.run import Finding, examine
from data_share.doctor.snowflake import columns_of, ledger_columns
from data_share.fit import Column, ColumnState, Fit, fit_of, target_to_be
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import shares
from data_share.share_file import InvalidShareFileError
from data_share.snowflake.set_up import target_files
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import DOES_NOT_EXIST, TARGET_UNCHANGED
from data_share.snowflake.target_lock import select_lock
from data_share.sql_text import sql_string
from data_share.sync import INCREMENTS

# More columns than this are listed only if there is something to say about them.
_MAX_LISTED_COLUMNS = 30
_WIDTH = 110
# The doctor compares the target with the last export; the plan, with the source as it is now.
_REPLACED_CHECK = "column types"
# Columns of the ledger.
_OF_LAST_SYNC = ("run_key", "rows_exported", "published_at", "export_mode", "source_version", "source_rows")


@dataclass(frozen=True)
class Change:
    """
    Something that is created, added or changed.

    :param by: ``sync`` for what a sync does itself, ``set_up_snowflake`` for what this DAG does
    :param action: ``create_table`` or ``add_column``
    :param table: the table
    :param column: the column, for ``add_column``
    :param type: its type, for ``add_column``
    :param text: the change in words
    """

    by: str
    action: str
    table: str
    text: str
    column: str | None = None
    type: str | None = None


@dataclass(frozen=True)
class Problem:
    """
    Something that stands in the way of a sync.

    :param where: ``Databricks``, ``Snowflake`` or ``source``; ``files`` if there is no plan
    :param check: the check of the doctor that found it; else the code of the failure that a sync would end with; if
        there is no plan, the kind of file
    :param text: what is wrong
    :param what_to_do: how to fix it; empty if the text says so
    """

    where: str
    check: str
    text: str
    what_to_do: str = ""


@dataclass
class Plan:
    """
    What the next sync of a dataset would do.

    :param source: what the export job says; None if it could not be asked
    :param fit: how its columns fit the target; None if one of the two is not known
    :param target_exists: None if Snowflake could not be asked
    :param rows_in_target: None if there is no target, or it cannot be read
    :param last_sync: ``run_key``, ``rows_exported``, ``published_at``, ``export_mode``, ``source_version`` and
        ``source_rows`` of the newest row of the ledger; the last three are None in the ledger of an earlier version
    """

    dataset: Dataset
    source: Description | None = None
    fit: Fit | None = None
    target_exists: bool | None = None
    rows_in_target: int | None = None
    last_sync: dict[str, Any] | None = None
    changes: list[Change] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows_after_sync(self) -> int | None:
        """Rows of the target after the next sync, if they can be known before it."""
        if self.source is None:
            return None
        if self.dataset.load_mode is LoadMode.REPLACE or self.dataset.delete_missing or self.target_exists is False:
            return self.source.rows
        if self.dataset.load_mode is LoadMode.APPEND and self.rows_in_target is not None:
            if not self.dataset.only_appends_increments or self.last_sync is None:
                return self.rows_in_target + self.source.rows
            # Only the rows that are new since are added; the source has lost none, or the sync would fail.
            rows_then = self.last_sync["source_rows"]
            new = None if rows_then is None else self.source.rows - rows_then
            return None if new is None or new < 0 else self.rows_in_target + new
        return None

    @property
    def row_change_percent(self) -> float | None:
        """Change of the number of the source's rows since the last sync; None without a last sync that had rows."""
        last = self.rows_then
        return (self.source.rows - last) * 100 / last if self.source is not None and last else None

    @property
    def rows_then(self) -> int | None:
        """Rows that the source had at the last sync, which may have exported only changes; None without one."""
        if self.last_sync is None:
            return None
        rows: int | None = self.last_sync["source_rows"]
        if rows is None and self.last_sync["export_mode"] not in INCREMENTS:
            rows = self.last_sync["rows_exported"]
        return rows


def plan_of(
    dataset: Dataset, deployment: Deployment, *, timeout_seconds: float = TIMEOUT_SECONDS, say: Callable[[str], object]
) -> Plan:
    """
    Make the plan of a dataset.

    :param deployment: the deployment, with this dataset alone
    :param timeout_seconds: max. time of the run of the export job that describes the source
    :param say: is told what is being waited for
    """
    plan = Plan(dataset)
    findings = list(examine(deployment, ("Databricks", "Snowflake")))
    passed = {finding.name for finding in findings if finding.state in (State.OK, State.ADVICE)}
    is_signed_in = "database and schema" in passed
    target = _read_target(plan, deployment) if is_signed_in else None
    if is_signed_in:
        _read_rows(plan, deployment)
        _compare_ledger(plan, deployment)
    missing = [name for name in sources.NEEDS if name not in passed]
    if not missing:
        say(f"Asking the export job about {dataset.source_table}, which is a run on Databricks ...")
        _describe(plan, deployment, timeout_seconds)
    is_created = plan.target_exists is False and dataset.create_table == "from_source"
    if plan.source is not None and (target is not None or is_created):
        _compare(plan, plan.source, target)
    _take_over(plan, findings)
    return plan


def _read_target(plan: Plan, deployment: Deployment) -> list[dict[str, Any]] | None:
    """Return the target as ``DESCRIBE TABLE`` does; None if it cannot be read, or the first sync creates it."""
    dataset = plan.dataset
    try:
        rows = deployment.rows(f"DESCRIBE TABLE {dataset.target}")
    except SnowflakeStatementError as error:
        if DOES_NOT_EXIST not in str(error):
            return None
        plan.target_exists = False
        if dataset.create_table is None and f"{dataset.name}.sql" not in target_files([dataset], deployment.share):
            return None
        if dataset.create_table != "from_source":
            text = f"create {dataset.target_table}"
            plan.changes.append(Change("set_up_snowflake", "create_table", dataset.target_table, text))
        return target_to_be(dataset) if dataset.create_table == "from_columns" else None
    plan.target_exists = True
    return rows


def _read_rows(plan: Plan, deployment: Deployment) -> None:
    """Read the rows of the target and the last row of the ledger, as far as the role may."""
    dataset = plan.dataset
    with contextlib.suppress(SnowflakeStatementError):
        plan.rows_in_target = int(deployment.rows(f"SELECT COUNT(*) AS total FROM {dataset.target}")[0]["TOTAL"])  # noqa: S608
    with contextlib.suppress(SnowflakeStatementError):
        rows = deployment.rows(
            # All columns: the ledger of an earlier version lacks some.
            f"SELECT * FROM {deployment.share.ledger_table} "  # noqa: S608
            f"WHERE dataset = {sql_string(dataset.name)} ORDER BY published_at DESC LIMIT 1"
        )
        plan.last_sync = {name: rows[0].get(name.upper()) for name in _OF_LAST_SYNC} if rows else None
    if plan.target_exists is False and plan.last_sync:
        # Snowflake does not tell a table that is hidden from one that is not there.
        plan.notes.append(
            f"{dataset.target_table} was there at the last sync: it was dropped or renamed, or the role does not see "
            "it any more. Without a target, all columns leave that the dataset file does not keep back."
        )


def _compare_ledger(plan: Plan, deployment: Deployment) -> None:
    """Note the tables and columns of the share that are missing, and who creates them."""
    for table, wanted in ledger_columns(deployment.share).items():
        found = columns_of(deployment, table)
        if isinstance(found, str):
            plan.changes.append(Change("set_up_snowflake", "create_table", table, f"create {table}"))
            continue
        plan.changes += [
            Change("set_up_snowflake", "add_column", table, f"add {name.upper()} {kind} to {table}", name.upper(), kind)
            for name, kind in wanted.items()
            if name.upper() not in found
        ]
    try:
        deployment.rows(select_lock(plan.dataset, deployment.share))
    except SnowflakeStatementError:
        lock = deployment.share.lock_table(plan.dataset.target_table)
        plan.changes.append(Change("sync", "create_table", lock, f"create {lock}, in which publishes take turns"))


def _describe(plan: Plan, deployment: Deployment, timeout_seconds: float) -> None:
    dataset = plan.dataset
    try:
        plan.source = describe(dataset, deployment.share, timeout_seconds=timeout_seconds)
    except ShareError as error:
        page = f" Run: {error.databricks_run_url}" if error.databricks_run_url else ""
        text = deployment.without_secrets(error.message)
        where = "Databricks" if error.code is FailureCode.EXPORT_JOB_REFUSED else "source"
        plan.problems.append(Problem(where, error.code.name, text, f"{error.what_to_do}{page}"))
    except Exception as error:
        text = deployment.without_secrets(f"The export job cannot be started: {error_text(error)}.")
        plan.problems.append(Problem("Databricks", FailureCode.EXPORT_JOB_REFUSED.name, text))


def _compare(plan: Plan, source: Description, target: list[dict[str, Any]] | None) -> None:
    """Compare the source with the target, and its rows with those of the last sync."""
    dataset = plan.dataset
    plan.fit = fit_of(source, target, dataset)
    plan.notes += plan.fit.notes
    if dataset.incremental:
        plan.notes.append(_of_increments(plan, source))
    if target is None:
        text = f"create {dataset.target_table} with the columns of the source"
        plan.changes.append(Change("sync", "create_table", dataset.target_table, text))
    plan.changes += [
        Change("sync", "add_column", dataset.target_table, f"add {name} {kind} to {dataset.target_table}", name, kind)
        for name, kind in plan.fit.new_columns.items()
        if target is not None
    ]
    if plan.fit.problem is not None:
        problem = plan.fit.problem
        text = problem.message.replace(f" {TARGET_UNCHANGED}", "")
        plan.problems.append(Problem("source", problem.code.name, text, problem.what_to_do))
    limit, change = dataset.max_row_change_percent, plan.row_change_percent
    if source.rows == 0 and not dataset.allow_empty:
        plan.problems.append(
            Problem(
                "source",
                FailureCode.NOTHING_LOADED.name,
                "No row of the source would leave.",
                "Fill the source, or set allow_empty: true in the dataset file if it may be empty.",
            )
        )
    elif limit is not None and change is not None and abs(change) > limit:
        plan.problems.append(
            Problem(
                "source",
                FailureCode.CHECKS_FAILED.name,
                f"The number of rows has changed by {change:+.1f} % since the last sync, and max_row_change_percent is "
                f"{limit:g}.",
                "If the source is right, start the sync with accept_row_change: true.",
            )
        )


def _of_increments(plan: Plan, source: Description) -> str:
    """Say that the job decides what is exported, and what can be told already."""
    last = plan.last_sync
    if last is None or last["source_version"] is None:
        known = "No version is known that was published last: changes cannot be told."
    elif source.source_version is None:
        known = f"Changes cannot be told: {source.export_reason}."
    elif last["source_version"] == source.source_version:
        known = (
            f"The source still has version {source.source_version}, which was published last: there is nothing to "
            "export, unless the table was made again, the dataset file has changed, or the last sync ended badly."
        )
    else:
        known = (
            f"The source was published last in version {last['source_version']} and now has version "
            f"{source.source_version}."
        )
    return (
        "incremental: the export job decides at each sync whether it exports only what has changed, and says why; what "
        f"leaves is counted above as if all rows did. {known}"
    )


def _take_over(plan: Plan, findings: Sequence[Finding]) -> None:
    """Take what the doctor found wrong into the plan, before all else: mostly it is the cause of the rest."""
    replaced = (_REPLACED_CHECK,) if plan.fit is not None else ()
    told = [finding for finding in findings if finding.name not in replaced]
    wrong = [Problem(each.group, each.name, each.text) for each in told if each.state is State.WRONG]
    plan.problems = [*wrong, *plan.problems]
    plan.notes += [f"{each.name}: {each.text}" for each in told if each.state is State.ADVICE]
    if unknown := [each.name for each in told if each.state is State.UNKNOWN]:
        plan.notes.append(f"Not checked, because of what is in the way: {', '.join(unknown)}.")


# ---- for people


def as_text(plan: Plan) -> str:
    """Return the plan for people."""
    dataset = plan.dataset
    what = f"{dataset.name}: {dataset.source_table} -> {dataset.target_table}"
    mode = f"load_mode {dataset.load_mode}{', incremental' if dataset.incremental else ''}"
    lines = [f"{what} ({mode}, schema_drift {dataset.schema_drift})", "", *_rows_as_text(plan)]
    if plan.fit is not None:
        lines += ["", *_columns_as_text(plan.fit.columns)]
    for by, heading in (("set_up_snowflake", "The DAG set_up_snowflake would"), ("sync", "The next sync would")):
        if changes := [change for change in plan.changes if change.by == by]:
            lines += ["", heading, *(f"  + {change.text}" for change in changes)]
    if plan.problems:
        lines += ["", "In the way"]
        for problem in plan.problems:
            lines += _wrapped(f"{problem.where}, {problem.check}: {problem.text}", "  ! ")
            lines += _wrapped(problem.what_to_do, "    -> ")
    if plan.notes:
        lines += ["", "To know", *(line for note in plan.notes for line in _wrapped(note, "  - "))]
    return "\n".join([*lines, "", _verdict(plan), ""])


def _wrapped(text: str, mark: str) -> list[str]:
    """Return the lines of a text for a terminal, behind a mark."""
    parts = [textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False) for line in text.splitlines()]
    lines = [line for part in parts for line in part]
    return [f"{mark if number == 0 else ' ' * len(mark)}{line}" for number, line in enumerate(lines)]


def _verdict(plan: Plan) -> str:
    if plan.problems:
        count = len(plan.problems)
        return f"{count} thing{'s' if count > 1 else ''} in the way: a sync would fail."
    if any(change.by == "sync" for change in plan.changes):
        return "Nothing is in the way: a sync does the rest itself."
    return "Nothing to do before a sync."


def _rows_as_text(plan: Plan) -> list[str]:
    def count(number: int | None) -> str:
        return "not known" if number is None else f"{number:,}"

    rows = [("rows in the source", count(plan.source.rows if plan.source else None), "")]
    if plan.source is not None:
        rows[0] = (*rows[0][:2], _of_source(plan.source))
    last = plan.last_sync
    rows.append(
        (
            "rows in the last sync",
            count(plan.rows_then) if last else "none yet",
            f"  {last['published_at']:%Y-%m-%d %H:%M} UTC{_of_changes(last)}" if last else "",
        )
    )
    now = "no target yet" if plan.target_exists is False else count(plan.rows_in_target)
    rows.append(("rows in the target", now, ""))
    if plan.rows_after_sync is not None:
        rows.append(("after a sync", count(plan.rows_after_sync), ""))
    width = max(len(number) for _, number, _ in rows)
    return [f"  {name:22} {number:>{width}}{more}" for name, number, more in rows]


def _of_changes(last: Mapping[str, Any]) -> str:
    return f", of which {last['rows_exported']:,} left, as changes" if last["export_mode"] in INCREMENTS else ""


def _of_source(source: Description) -> str:
    committed = f" of {source.source_committed_at:%Y-%m-%d %H:%M} UTC" if source.source_committed_at else ""
    version = f"version {source.source_version}{committed}"
    if source.source_version is None:
        version = f"no version: {source.export_reason}"
    return f"  {version}" + (f", where {source.source_condition}" if source.source_condition else "")


_WORDS = {
    ColumnState.FITS: "fits",
    ColumnState.CAST: "cast, as the dataset file allows",
    ColumnState.CHANGES_VALUES: "REFUSED",
    ColumnState.ADDED: "new, the sync adds it",
    ColumnState.REFUSED: "REFUSED",
    ColumnState.STAYS: "stays in Databricks",
    ColumnState.LEFT_OUT: "the load leaves it out",
    ColumnState.DEFAULT: "gets its DEFAULT",
    ColumnState.MISSING: "MISSING",
}


def _columns_as_text(columns: Sequence[Column]) -> list[str]:
    listed = columns
    if len(columns) > _MAX_LISTED_COLUMNS:
        listed = [column for column in columns if column.state is not ColumnState.FITS]
    rows = [("source", "", "target", "", "")]
    rows += [
        (
            column.source or "-",
            column.source_type or "",
            column.target or "-",
            column.target_type or "",
            _WORDS[column.state] + (f": {column.note}" if column.note else ""),
        )
        for column in listed
    ]
    widths = [min(max(len(row[place]) for row in rows), 40) for place in range(4)]
    lines = [
        "  " + "  ".join([*(f"{cell:{width}}" for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    ]
    if hidden := len(columns) - len(listed):
        lines.append(f"  {hidden} more columns fit.")
    return lines


# ---- for programs


# The keys of the plan; those that nobody knows without a dataset are null.
_KEYS = (
    *("dataset", "share", "ok", "verdict", "load_mode", "incremental", "schema_drift", "source", "target", "last_sync"),
    *("rows_after_sync", "row_change_percent", "columns", "changes", "problems", "notes"),
)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan for programs; the keys are public: docs/plan.md explains them."""
    dataset, source, last = plan.dataset, plan.source, plan.last_sync
    verdict = "blocked" if plan.problems else "changes" if plan.changes else "nothing_to_do"
    return {
        "dataset": dataset.name,
        "share": dataset.share,
        "ok": not plan.problems,
        "verdict": verdict,
        "load_mode": str(dataset.load_mode),
        "incremental": dataset.incremental,
        "schema_drift": str(dataset.schema_drift),
        "source": {
            "table": dataset.source_table,
            "is_known": source is not None,
            "rows": source.rows if source else None,
            "version": source.source_version if source else None,
            "committed_at": source.source_committed_at.isoformat() if source and source.source_committed_at else None,
            "condition": source.source_condition or None if source else None,
            "run_page_url": source.run_page_url if source else None,
        },
        "target": {"table": dataset.target_table, "exists": plan.target_exists, "rows": plan.rows_in_target},
        "last_sync": last and {**last, "published_at": last["published_at"].isoformat()},
        "rows_after_sync": plan.rows_after_sync,
        "row_change_percent": plan.row_change_percent,
        "columns": [asdict(column) for column in plan.fit.columns] if plan.fit else [],
        "changes": [asdict(change) for change in plan.changes],
        "problems": [asdict(problem) for problem in plan.problems],
        "notes": plan.notes,
    }


def _tell_no_plan(dataset: str, check: str, text: str, *, for_programs: bool) -> int:
    """Say why there is no plan; return the exit code."""
    sys.stderr.write(f"{text}\n")
    if for_programs:
        lists = {"columns": [], "changes": [], "problems": [asdict(Problem("files", check, text))], "notes": []}
        answer = {**dict.fromkeys(_KEYS), "dataset": dataset, "ok": False, "verdict": "no_plan", **lists}
        sys.stdout.write(json.dumps(answer) + "\n")
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan of a dataset, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="data-share plan", description="Say what the next sync of a dataset would do; changes nothing."
    )
    parser.add_argument("dataset", help="name of the dataset: of its file, without .yaml")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    options = parser.parse_args(arguments)
    try:
        # As the dag-processor does: a dataset whose conditions it refuses has no DAG.
        known, errors = read_datasets(check_sql=True)
        share_of = shares()
    except InvalidShareFileError as error:
        return _tell_no_plan(options.dataset, "share file", str(error), for_programs=options.json)
    dataset = next((each for each in known if each.name == options.dataset), None)
    if dataset is None:
        own = [str(error) for error in errors if error.path.stem == options.dataset]
        names = ", ".join(each.name for each in known) or "none"
        text = "\n".join(own) or f"There is no dataset {options.dataset}; known are {names}."
        return _tell_no_plan(options.dataset, "dataset file", text, for_programs=options.json)
    deployment = Deployment(share_of[dataset.share], datasets=[dataset])
    # After `kill` as after Ctrl-C: the run on Databricks is cancelled.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Airflow logs to standard output.
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            plan = plan_of(dataset, deployment, say=lambda text: sys.stderr.write(f"{text}\n"))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; a run of the export job that had begun is cancelled.\n")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    answer = json.dumps(as_json(plan)) + "\n" if options.json else as_text(plan)
    sys.stdout.write(answer)
    return 1 if plan.problems else 0


if __name__ == "__main__":
    sys.exit(main())
