"""The Jobs API does what the product relies on, with a copy of the export job."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.databricks.exceptions import DatabricksApiError
from airflow.providers.databricks.hooks.databricks import DatabricksHook

from data_share.databricks import follow
from tests.contracts.conftest import until
from tests.live.accounts import DATABRICKS_CONN, FEED, LONGEST_RUN, Scratch

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def workspace(scratch: Scratch) -> DatabricksHook:
    """The provider's hook, as the product uses it."""
    return DatabricksHook(DATABRICKS_CONN, caller="LiveTest")


@pytest.fixture
def start(workspace: DatabricksHook, scratch: Scratch) -> Callable[..., int]:
    """Start a run of the scratch job that exports to a place of its own, ``jobs/<key>/1/`` of the scratch folder."""

    def run(token: str | None = None, key: str = "", **parameters: str) -> int:
        key = key or uuid.uuid4().hex
        given = {
            "dataset": "live",
            "source_table": scratch.settings.dataset.source_table,
            "run_key": key,
            "export_path": f"{scratch.url}jobs/{key}/1/",
            "proof": "checksums",
            **parameters,
        }
        body: dict[str, Any] = {"job_id": scratch.job_id, "job_parameters": given}
        return int(workspace.run_now(body | ({"idempotency_token": token} if token else {})))

    return run


@pytest.fixture
def ended(workspace: DatabricksHook) -> Callable[[int], dict[str, Any]]:
    """Wait for a run's end."""

    def look(run_id: int) -> dict[str, Any] | None:
        run = workspace.get_run(run_id)
        over = run["state"]["life_cycle_state"] in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
        return dict(run) if over else None

    return lambda run_id: dict(until(lambda: look(run_id), LONGEST_RUN))


def test_a_token_starts_one_run(
    workspace: DatabricksHook, start: Callable[..., int], ended: Callable[[int], dict[str, Any]]
) -> None:
    token = uuid.uuid4().hex
    run_id = start(token)
    assert start(token) == run_id
    run = ended(run_id)
    assert run["state"]["result_state"] == "SUCCESS"
    assert start(token) == run_id, "also when the run has ended"
    given = {parameter["name"]: parameter["value"] for parameter in run["job_parameters"]}
    assert given["export_path"].endswith("/1/")
    assert given["dataset"] == "live"


@pytest.mark.assumption("queue_start_time")
def test_runs_over_the_limit_wait_in_the_queue(
    start: Callable[..., int], ended: Callable[[int], dict[str, Any]], answer: Callable[[object], None]
) -> None:
    runs = [ended(run_id) for run_id in [start(), start(), start()]]
    assert {run["state"]["result_state"] for run in runs} == {"SUCCESS"}
    spans = sorted((int(task_of(run, "plan")["start_time"]), int(task_of(run, "export")["end_time"])) for run in runs)
    after = [(start_time - spans[0][0], end_time - spans[0][0]) for start_time, end_time in spans]
    answer(f"start of the first task and end of the last of three runs, in milliseconds after the first start: {after}")
    for (_, ends), (begins, _) in itertools.pairwise(spans):
        assert ends <= begins, "the job takes one run at a time"


def test_a_run_is_cancelled(
    workspace: DatabricksHook, start: Callable[..., int], ended: Callable[[int], dict[str, Any]]
) -> None:
    run_id = start()
    workspace.cancel_run(run_id)
    assert ended(run_id)["state"]["result_state"] == "CANCELED"


@pytest.mark.assumption("failure_reason")
def test_the_reason_of_a_failure_is_in_the_output_of_its_task(
    workspace: DatabricksHook,
    start: Callable[..., int],
    ended: Callable[[int], dict[str, Any]],
    answer: Callable[[object], None],
) -> None:
    table = scratch_free_name()
    run = ended(start(source_table=table))
    assert run["state"]["result_state"] == "FAILED"
    output = workspace.get_run_output(task_of(run, "export")["run_id"])
    answer(f"error: {output.get('error', 'nothing')[:200]}")
    assert "TABLE_OR_VIEW_NOT_FOUND" in output.get("error", "")
    with pytest.raises(DatabricksApiError, match="400"):
        workspace.get_run_output(run["run_id"])


def test_an_unknown_run_is_told(workspace: DatabricksHook) -> None:
    with pytest.raises(DatabricksApiError) as caught:
        workspace.get_run(1)
    assert caught.value.http_status_code in (400, 404)


# ---- the plan


@pytest.fixture(scope="module")
def source(scratch: Scratch) -> str:
    """A Delta table of one version with three rows."""
    return scratch.make_source(pa.table({"k": [1, 2, 3]}))


@pytest.fixture
def export(scratch: Scratch, start: Callable[..., int], ended: Callable[[int], dict[str, Any]], source: str) -> Any:
    """Export a table; returns the run, with what its references have become, and the rows of its manifest."""

    def run(**parameters: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        key = uuid.uuid4().hex
        made = ended(start(key=key, **{"source_table": source, **parameters}))
        failed = [task["run_id"] for task in made["tasks"] if task["state"].get("result_state") == "FAILED"]
        reasons = [scratch.databricks("GET", "jobs/runs/get-output", run_id=run_id).get("error") for run_id in failed]
        assert made["state"]["result_state"] == "SUCCESS", reasons
        told = scratch.databricks("GET", "jobs/runs/get", run_id=made["run_id"], include_resolved_values="true")
        return told, scratch.read(f"jobs/{key}/1/manifest/")

    return run


def parameters_of(run: dict[str, Any]) -> dict[str, str]:
    """Return the parameters of a run's export, as it got them."""
    return dict(task_of(run, "export").get("resolved_values", {}).get("sql_task", {}).get("parameters", {}))


@pytest.mark.assumption("first_row")
def test_the_tasks_that_follow_get_the_row_of_the_plan(export: Any, answer: Callable[[object], None]) -> None:
    run, [manifest] = export()
    given = {name: parameters_of(run).get(name) for name in ("export_mode", "export_reason", "to_version")}
    answer(f"the export got {given}, and wrote {manifest['export_reason']}")
    assert manifest["export_mode"] == "full"
    assert manifest["export_reason"] not in ("", "the plan of the export did not reach the export")
    assert task_of(run, "changed")["condition_task"]["outcome"] == "true"


@pytest.mark.assumption("history")
def test_the_plan_finds_the_version_of_a_table(export: Any, answer: Callable[[object], None], source: str) -> None:
    _, [manifest] = export()
    found = {name: manifest[name] for name in ("source_version", "source_committed_at", "source_table_id")}
    answer(f"{found}, because {manifest['export_reason']}")
    assert manifest["export_reason"] == "no published version is known"
    assert manifest["source_version"] == 0
    assert manifest["source_committed_at"] is not None
    assert manifest["source_table_id"].isdigit()


@pytest.mark.assumption("version_as_of")
def test_an_export_reads_the_version_that_was_planned(
    export: Any, scratch: Scratch, answer: Callable[[object], None]
) -> None:
    _, [manifest] = export(source='{"columns": [], "others": "kept", "known": ["K"]}', proof="chosen_checksums")
    answer(f"version {manifest['source_version']}, {manifest['row_count']} rows")
    assert (manifest["source_version"], manifest["row_count"], manifest["source_rows"]) == (0, 3, 3)


@pytest.mark.assumption("false_condition")
def test_a_run_that_exports_nothing_succeeds_and_tells_why(export: Any, answer: Callable[[object], None]) -> None:
    run, _ = export()
    got = parameters_of(run)
    known = {"version": got["to_version"], "committed_at": got["committed_at"], "table_id": got["table_id"]}

    run, manifests = export(published=json.dumps(known))

    changed, left_out = task_of(run, "changed"), task_of(run, "export")
    answer(f"condition {changed.get('condition_task')}, export {left_out['state']}, run {run['state']}")
    assert changed["condition_task"]["outcome"] == "false"
    assert changed["state"]["result_state"] == "SUCCESS"
    assert left_out["state"]["result_state"] == "EXCLUDED"
    assert run["state"]["result_state"] == "SUCCESS"
    assert manifests == []
    assert follow._is_unchanged(run)


# ---- increments


ROWS = pa.table({"k": list(range(1, 13)), "v": [f"value {number}" for number in range(1, 13)]})
CHANGES = (
    "UPDATE {table} SET v = 'new' WHERE k = 2",
    "UPDATE {table} SET k = k + 100 WHERE k = 3",
    "DELETE FROM {table} WHERE k = 4",
)
"""Versions 1 to 3 of a table. They are few enough of its rows for an increment."""
CHANGED = [(2, "new", False), (3, "value 3", True), (4, "value 4", True), (103, "value 3", False)]
"""What an export has of them, and whether it is gone."""


@pytest.fixture
def export_changes(export: Any, scratch: Scratch, answer: Callable[[object], None]) -> Any:
    """Export a table, change it, and export what has changed; returns the rows of this, and both manifests."""

    def run(table: str) -> tuple[list[tuple[Any, ...]], dict[str, Any], dict[str, Any]]:
        _, [first] = export(source_table=table)
        [[committed_at]] = scratch.sql(
            f"SELECT CAST(UNIX_MICROS(timestamp) AS STRING) FROM (DESCRIBE HISTORY {table}) WHERE version = 0"
        )
        for statement in CHANGES:
            scratch.sql(statement.format(table=table))
        known = {
            "version": "0",
            "committed_at": committed_at,
            "table_id": first["source_table_id"],
            "increment": {"load": "merge", "keys": ["K"], "deletes": "true"},
        }
        _, [second] = export(source_table=table, published=json.dumps(known))
        rows = sorted(tuple(row.values()) for row in scratch.read(f"jobs/{second['run_key']}/1/data/"))
        answer(f"{second['export_mode']}, because {second['export_reason']}: {rows}")
        return rows, first, second

    return run


def versions_of(manifest: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a manifest says of an increment: mode, both versions, and the number of rows of the source."""
    return tuple(manifest[name] for name in ("export_mode", "from_version", "source_version", "source_rows"))


def history_of(scratch: Scratch, table: str, operation: str, *told: str) -> list[list[str | None]]:
    """Return what the history tells of each commit of an operation."""
    return scratch.sql(
        f"SELECT {', '.join(told)} FROM (DESCRIBE HISTORY {table}) WHERE operation = '{operation}' ORDER BY version"
    )


@pytest.mark.assumption("feed_property")
def test_the_plan_finds_that_the_feed_is_on(export: Any, scratch: Scratch, answer: Callable[[object], None]) -> None:
    created, altered = scratch.make_source(ROWS, has_feed=True), scratch.make_source(ROWS)
    scratch.sql(f"ALTER TABLE {altered} SET TBLPROPERTIES ({FEED})")
    found = {}
    for table in (created, altered):
        _, [manifest] = export(source_table=table)
        found[table] = manifest["source_has_feed"]
        answer(scratch.sql(f"SELECT operation, TO_JSON(operationParameters) FROM (DESCRIBE HISTORY {table})"))
    assert found == {created: True, altered: True}


@pytest.mark.assumption("change_files")
def test_the_history_tells_the_files_of_the_feed(scratch: Scratch, answer: Callable[[object], None]) -> None:
    table = scratch.make_source(ROWS, has_feed=True)
    for statement in CHANGES:
        scratch.sql(statement.format(table=table))
    files = "TRY_ELEMENT_AT(operationMetrics, 'numAddedChangeFiles')"
    updates, deletes = (history_of(scratch, table, operation, files) for operation in ("UPDATE", "DELETE"))
    answer(f"numAddedChangeFiles of UPDATE: {updates}, of DELETE: {deletes}")
    assert [int(number or 0) > 0 for [number] in updates] == [True, True]


@pytest.mark.assumption("feed_export")
def test_an_export_by_the_feed_has_what_has_changed(export_changes: Any, scratch: Scratch) -> None:
    rows, _, manifest = export_changes(scratch.make_source(ROWS, has_feed=True))
    assert versions_of(manifest) == ("feed", 0, 3, 11)
    assert rows == CHANGED


@pytest.mark.assumption("compare_export")
def test_an_export_by_comparison_has_what_has_changed(export_changes: Any, scratch: Scratch) -> None:
    rows, first, manifest = export_changes(scratch.make_source(ROWS))
    assert not first["source_has_feed"]
    assert versions_of(manifest) == ("compare", 0, 3, 11)
    assert rows == CHANGED


@pytest.mark.assumption("vacuum_retention")
def test_the_history_tells_what_vacuum_keeps(scratch: Scratch, answer: Callable[[object], None]) -> None:
    table = scratch.make_source(ROWS)
    scratch.sql(f"VACUUM {table}")
    names = ("specifiedRetentionMillis", "defaultRetentionMillis")
    told = history_of(scratch, table, "VACUUM START", *(f"TRY_ELEMENT_AT(operationParameters, '{n}')" for n in names))
    answer(f"{' and '.join(names)}: {told}")
    kept = [int(number) for row in told for number in row if number is not None]
    assert kept[:1] == [timedelta(days=7) // timedelta(milliseconds=1)]


def task_of(run: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a task of a run."""
    return next(task for task in run["tasks"] if task["task_key"] == key)


def scratch_free_name() -> str:
    """Return the name of a table that does not exist, in a catalog that does."""
    return f"samples.nyctaxi.nothing_{uuid.uuid4().hex}"
