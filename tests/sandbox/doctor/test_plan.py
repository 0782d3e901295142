"""The plan of the next sync: what it would do, and what stands in its way; nothing is changed by asking."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from data_share import plan as plan_module
from data_share.datasets import Dataset
from data_share.doctor.deployment import Deployment
from data_share.plan import Plan, as_json, as_text, plan_of
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.sql_files import render_sql
from data_share.sync import Sync
from tests.emulators.databricks.conftest import BUNDLE, WorkspaceServer

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox, pytest.mark.usefixtures("administer", "deployed")]

DOCS = BUNDLE.parents[2] / "docs" / "plan.md"
NARROW = "id NUMBER(38, 0), born NUMBER(12, 2)"


def planned(dataset: Dataset) -> Plan:
    return plan_of(dataset, Deployment(Share(), datasets=[dataset]), say=lambda _: None)


def columns(plan: Plan) -> dict[str, str]:
    """The states of the columns, by their names in lower case."""
    assert plan.fit is not None
    return {str(column.source or column.target).lower(): str(column.state) for column in plan.fit.columns}


def changes(plan: Plan) -> list[tuple[str, str, str | None, str | None]]:
    """What would be changed, but for the lock table of a first sync."""
    return [
        (change.by, change.action, change.column, change.type)
        for change in plan.changes
        if not change.table.startswith(f"{Share().staging_schema}.publish_lock__")
    ]


def problems(plan: Plan) -> list[str]:
    return [problem.check for problem in plan.problems]


@pytest.fixture
def synced(administer: Callable[..., object], target: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """Create the target of a dataset, and what its first sync leaves: the lock table, a row of the ledger."""

    def create(dataset: Dataset, *columns: str, rows: int = 3) -> Dataset:
        target(dataset, *columns)
        sync = Sync(dataset, Share(), dag_run=None, ti=None, params={})
        lock = render_sql("create_lock", share=Share(), sync=sync)
        [statement] = DataShareSnowflakeHook.split_sql_string(lock, strip_semicolon=True)
        values = {
            "run_key": f"'20260102T030405_{dataset.name[-8:]:0>8}'",
            "dataset": f"'{dataset.name}'",
            **dict.fromkeys(("dag_run_id", "load_mode", "source_table", "target_table", "export_path"), "''"),
            "query_ids": "'[]'",
            **dict.fromkeys(("attempt", "rows_loaded", "rows_inserted", "rows_updated", "rows_deleted"), "0"),
            **dict.fromkeys(("rows_in_target", "databricks_run_id"), "0"),
            "rows_exported": str(rows),
            **dict.fromkeys(("started_at", "published_at"), "'2026-01-02 03:04:05'"),
        }
        ledger = f"INSERT INTO {Share().ledger_table} ({', '.join(values)}) SELECT {', '.join(values.values())}"
        administer(statement, ledger, conn_id=Share().snowflake_conn_id)
        return dataset

    return create


def everything() -> list[dict[str, Any]]:
    """What there is in the account: tables with their rows."""
    rows = DataShareSnowflakeHook("administrator").run_statement("SHOW TABLES IN DATABASE data_share").rows
    return sorted(
        ({name: row[name] for name in ("schema_name", "name", "rows")} for row in rows), key=lambda row: str(row)
    )


def test_of_an_increment_it_says_that_the_job_decides(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], administer: Callable[..., object]
) -> None:
    dataset = synced(people(load_mode="merge", merge_keys=("id",), incremental=True, max_row_change_percent=1))
    decides = "incremental: the export job decides at each sync whether it exports only what has changed, and says why"

    def told() -> Plan:
        plan = planned(dataset)
        assert plan.problems == [], "the two changed rows of the last sync are not all that the source had"
        [note] = [note for note in plan.notes if note.startswith(decides)]
        found.append(note)
        return plan

    found: list[str] = []
    where = f"WHERE dataset = '{dataset.name}'"
    assert told().row_change_percent == 0
    ledger = Share().ledger_table
    as_role = Share().snowflake_conn_id
    changes = "rows_exported = 2, source_rows = 3, export_mode = 'feed', source_version"
    administer(f"UPDATE {ledger} SET {changes} = 7 {where}", conn_id=as_role)
    assert told().row_change_percent == 0
    administer(f"UPDATE {ledger} SET {changes} = 0 {where}", conn_id=as_role)
    assert told().row_change_percent == 0
    assert found[0].endswith("No version is known that was published last: changes cannot be told.")
    assert found[1].endswith("The source was published last in version 7 and now has version 0.")
    assert "The source still has version 0, which was published last: there is nothing to export, unless" in found[2]


@pytest.mark.tier("nightly")
def test_the_ledger_of_an_earlier_version_is_read(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], administer: Callable[..., object]
) -> None:
    dataset = synced(people(load_mode="merge", merge_keys=("id",), incremental=True))
    added = {"source_rows": "NUMBER(38, 0)", "export_mode": "VARCHAR", "source_version": "NUMBER(38, 0)"}
    for name in added:
        administer(f"ALTER TABLE {Share().ledger_table} DROP COLUMN {name}", conn_id=Share().snowflake_conn_id)
    try:
        plan = planned(dataset)
    finally:
        for name, kind in added.items():
            administer(f"ALTER TABLE {Share().ledger_table} ADD COLUMN {name} {kind}")
    assert (plan.rows_then, plan.row_change_percent) == (3, 0)


def test_nothing_to_do(people: Callable[..., Dataset], synced: Callable[..., Dataset]) -> None:
    dataset = synced(people())
    before = everything()
    plan = planned(dataset)
    assert everything() == before
    assert (plan.changes, plan.problems, plan.notes) == ([], [], [])
    assert columns(plan) == {"id": "fits", "ssn": "fits", "born": "fits"}
    lines = [line.rstrip() for line in as_text(plan).splitlines()]
    lines[2] = re.sub(r"version 0 of \d{4}-\d\d-\d\d \d\d:\d\d UTC$", "version 0 of <time>", lines[2])
    assert lines == [
        f"{dataset.name}: {dataset.source_table} -> {dataset.target_table} (load_mode replace, schema_drift strict)",
        "",
        "  rows in the source     3  version 0 of <time>",
        "  rows in the last sync  3  2026-01-02 03:04 UTC",
        "  rows in the target     0",
        "  after a sync           3",
        "",
        "  source                 target",
        "  id      bigint         ID      NUMBER(38,0)       fits",
        "  ssn     string         SSN     VARCHAR(16777216)  fits",
        "  born    decimal(12,2)  BORN    NUMBER(12,2)       fits",
        "",
        "Nothing to do before a sync.",
    ]


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("fields", "expected", "is_blocked"),
    [
        ({"create_table": "from_source"}, [("sync", "create_table", None, None)], False),
        (
            {
                "create_table": "from_columns",
                "columns": {"id": "NUMBER(38,0)", "ssn": "VARCHAR", "born": "NUMBER(12, 2)"},
            },
            [("set_up_snowflake", "create_table", None, None)],
            True,
        ),
        ({}, [], True),
    ],
    ids=["from the source", "from columns", "by its owners"],
)
def test_a_new_dataset(
    people: Callable[..., Dataset], fields: dict[str, Any], expected: list[Any], is_blocked: bool
) -> None:
    plan = planned(people(**fields))
    assert changes(plan) == expected
    assert problems(plan) == (["target tables"] if is_blocked else [])
    assert plan.target_exists is False
    assert plan.source is not None
    assert plan.source.rows == plan.rows_after_sync == 3
    if fields:
        state = "added" if fields["create_table"] == "from_source" else "fits"
        assert set(columns(plan).values()) == {state}
    text = as_text(plan)
    assert "no target yet" in text
    assert ("would fail" in text) == is_blocked


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("policy", "state", "expected", "told"),
    [
        ("strict", "refused", [], "The columns of the export are not those of the target: the export has ssn (string)"),
        ("ignore_new", "stays", [], ""),
        ("add_new", "added", [("sync", "add_column", "SSN", "VARCHAR")], ""),
    ],
)
def test_a_new_column(
    people: Callable[..., Dataset],
    synced: Callable[..., Dataset],
    policy: str,
    state: str,
    expected: list[Any],
    told: str,
) -> None:
    plan = planned(synced(people(schema_drift=policy), NARROW))
    assert columns(plan) == {"id": "fits", "ssn": state, "born": "fits"}
    assert changes(plan) == expected
    assert problems(plan) == (["SCHEMA_DRIFT"] if told else [])
    if told:
        assert told in plan.problems[0].text
        assert "add_new adds new columns" in plan.problems[0].what_to_do
    text = as_text(plan)
    if policy == "add_new":
        assert f"  + add SSN VARCHAR to {plan.dataset.target_table}" in text
        assert "Nothing is in the way: a sync does the rest itself." in text


def test_what_source_keeps_and_what_has_a_default(
    people: Callable[..., Dataset], synced: Callable[..., Dataset]
) -> None:
    dataset = people(source={"exclude": ["ssn"], "rename": {"id": "person"}}, required_columns=("person",))
    dataset = dataset.model_copy(update={"target_defaults": ("ORIGIN",)})
    synced(dataset, "person NUMBER(38, 0), born NUMBER(12, 2), origin VARCHAR DEFAULT 'share'")
    plan = planned(dataset)
    assert columns(plan) == {"person": "fits", "born": "fits", "ssn": "stays", "origin": "default"}
    assert plan.problems == []


@pytest.mark.others_nightly
@pytest.mark.parametrize(
    ("definition", "state", "code"),
    [
        ("id NUMBER(38, 0), ssn VARCHAR, born NUMBER(38, 0)", "changes values", "TYPES_LOSE_VALUES"),
        ("id NUMBER(38, 0), ssn VARCHAR, born DATE", "refused", "SNOWFLAKE_STATEMENT_FAILED"),
    ],
)
def test_a_type_that_changed(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], definition: str, state: str, code: str
) -> None:
    plan = planned(synced(people(), definition))
    assert columns(plan)["born"] == state
    assert problems(plan) == [code]
    assert "decimal(12,2) into" in plan.problems[0].text
    assert "REFUSED" in as_text(plan)


def test_a_source_that_lacks_a_column(people: Callable[..., Dataset], synced: Callable[..., Dataset]) -> None:
    plan = planned(synced(people(), f"{NARROW}, ssn VARCHAR, gone DATE"))
    assert columns(plan)["gone"] == "missing"
    assert problems(plan) == ["SCHEMA_DRIFT"]
    assert "the export lacks GONE" in plan.problems[0].text


def test_a_missing_source(people: Callable[..., Dataset], synced: Callable[..., Dataset]) -> None:
    plan = planned(synced(people(is_there=False)))
    assert plan.source is None
    assert problems(plan) == ["EXPORT_FAILED"]
    assert "TABLE_OR_VIEW_NOT_FOUND" in plan.problems[0].text
    assert "grant SELECT" in plan.problems[0].what_to_do
    assert plan.rows_in_target == 0
    assert "rows in the source     not known" in as_text(plan)


def test_a_right_that_is_missing_in_snowflake(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], administer: Callable[..., object]
) -> None:
    dataset = synced(people())
    administer(f"GRANT OWNERSHIP ON TABLE {dataset.target} TO ROLE SYSADMIN REVOKE CURRENT GRANTS")
    administer(f"GRANT SELECT, INSERT ON TABLE {dataset.target} TO ROLE {Share().loader_role}")
    plan = planned(dataset)
    assert problems(plan) == ["rights on the targets"]
    assert "GRANT DELETE ON TABLE" in plan.problems[0].text
    assert set(columns(plan).values()) == {"fits"}


def test_a_right_that_is_missing_on_databricks(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], change: Callable[..., None]
) -> None:
    dataset = synced(people())
    change(Share().databricks_conn_id, password="no such token")
    plan = planned(dataset)
    assert problems(plan) == ["Databricks sign-in"]
    assert plan.source is None
    # What Snowflake says is there all the same.
    assert (plan.target_exists, plan.rows_in_target) == (True, 0)
    assert any(note.startswith("Not checked, because of what is in the way: ") for note in plan.notes)


def test_a_job_of_another_version(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], workspace: WorkspaceServer
) -> None:
    dataset = synced(people(source={"where": "id > 1"}))
    plan = planned(dataset)
    assert problems(plan) == ["EXPORT_FAILED"]
    assert "This job has another condition for the rows" in plan.problems[0].text
    assert plan.problems[0].what_to_do.startswith("Run make render, and deploy the bundle again.")

    before = workspace.get("jobs/get", job_id=workspace.job_id)["settings"]
    settings = {**before, "parameters": [each for each in before["parameters"] if each["name"] != "mode"]}
    workspace.post("jobs/reset", job_id=workspace.job_id, new_settings=settings)
    try:
        plan = planned(synced(people()))
    finally:
        workspace.post("jobs/reset", job_id=workspace.job_id, new_settings=before)
    assert problems(plan)[0] == "job parameters"
    assert "The job lacks the parameters mode" in plan.problems[0].text


def test_rows_that_a_sync_would_refuse(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], s3_url: str
) -> None:
    from emulators.databricks.unity_catalog import write_table

    dataset = synced(people(max_row_change_percent=50.0), rows=30)
    plan = planned(dataset)
    assert problems(plan) == ["CHECKS_FAILED"]
    assert plan.row_change_percent == -90
    assert "accept_row_change" in plan.problems[0].what_to_do
    rows = pa.table({"id": pa.array([], pa.int64()), "ssn": pa.array([], pa.string()), "born": pa.array([], "int64")})
    write_table(s3_url, dataset.source_table, rows)
    assert problems(planned(dataset)) == ["NOTHING_LOADED"]


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"load_mode": "append"}, 5),
        ({"load_mode": "merge", "merge_keys": ("id",)}, None),
        ({"load_mode": "merge", "merge_keys": ("id",), "delete_missing": True}, 3),
    ],
)
def test_the_rows_after_a_sync_as_far_as_they_are_known(
    people: Callable[..., Dataset],
    synced: Callable[..., Dataset],
    administer: Callable[..., object],
    fields: dict[str, Any],
    after: int | None,
) -> None:
    dataset = synced(people(**fields))
    administer(f"INSERT INTO {dataset.target} SELECT 1, 'x', 1", f"INSERT INTO {dataset.target} SELECT 2, 'x', 1")
    plan = planned(dataset)
    assert (plan.rows_in_target, plan.rows_after_sync) == (2, after)


def test_a_target_that_is_gone_is_not_told_as_a_new_one(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], administer: Callable[..., object]
) -> None:
    dataset = synced(people(create_table="from_source"))
    administer(f"ALTER TABLE {dataset.target} RENAME TO people_of_old", conn_id=Share().snowflake_conn_id)
    [note] = planned(dataset).notes
    assert note.startswith(f"{dataset.target_table} was there at the last sync")


@pytest.mark.tier("nightly")
def test_a_ledger_of_an_earlier_version(
    people: Callable[..., Dataset],
    synced: Callable[..., Dataset],
    administer: Callable[..., object],
    command: Callable[..., tuple[int, str, str]],
) -> None:
    dataset = synced(people())
    table = Share().manifest_table
    administer(f"ALTER TABLE {table} DROP COLUMN source_choice", conn_id=Share().snowflake_conn_id)
    try:
        plan = planned(dataset)
        code, told, _ = command([dataset], dataset.name, "--json")
    finally:
        administer(f"ALTER TABLE {table} ADD COLUMN source_choice VARCHAR", conn_id=Share().snowflake_conn_id)
    assert changes(plan) == [("set_up_snowflake", "add_column", "SOURCE_CHOICE", "VARCHAR")]
    # Syncs work without the column.
    assert problems(plan) == []
    [note] = plan.notes
    assert note.startswith(f"ledger tables: {table} has no column source_choice, as in an earlier version.")
    assert (code, json.loads(told)["verdict"]) == (0, "changes")
    assert "a sync would fail" not in as_text(plan)


@pytest.mark.tier("nightly")
def test_many_columns_are_told_in_short(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], s3_url: str
) -> None:
    from emulators.databricks.unity_catalog import write_table

    dataset = people(required_columns=("c0",))
    write_table(s3_url, dataset.source_table, pa.table({f"c{number}": [1] for number in range(40)}))
    synced(dataset, ", ".join(f"c{number} NUMBER(38, 0)" for number in range(39)))
    text = as_text(planned(dataset))
    assert "39 more columns fit." in text
    assert re.search(r"^  c39 +bigint +- +REFUSED: the target lacks it$", text, re.MULTILINE)
    assert "c38 " not in text.partition("In the way")[0]


# ---- the command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command where these datasets are the deployment's."""

    def run(datasets: list[Dataset], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(plan_module, "read_datasets", lambda check_sql: (datasets, []))
        capsys.readouterr()
        code = plan_module.main(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_the_command_says_it_to_people_and_to_programs(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], command: Callable[..., tuple[int, str, str]]
) -> None:
    good, bad = synced(people()), synced(people(), NARROW)
    code, told, _ = command([good, bad], good.name)
    assert (code, told.splitlines()[-1]) == (0, "Nothing to do before a sync.")
    code, told, _ = command([good, bad], bad.name)
    assert (code, told.splitlines()[-1]) == (1, "1 thing in the way: a sync would fail.")
    code, told, error = command([good, bad], bad.name, "--json")
    answer = json.loads(told)
    assert code == 1
    assert (answer["ok"], answer["verdict"]) == (False, "blocked")
    assert [problem["check"] for problem in answer["problems"]] == ["SCHEMA_DRIFT"]
    assert f"Asking the export job about {bad.source_table}" in error
    # What the page names is there, and nothing else.
    named = re.findall(r"^\| `([\w.]+)` \|", DOCS.read_text(), re.MULTILINE)
    found = set(answer)
    for key in ("source", "target", "last_sync"):
        found |= {f"{key}.{name}" for name in answer[key]}
    for key in ("columns", "changes", "problems"):
        found |= {f"{key}.{name}" for item in answer[key] for name in item}
    found |= {f"changes.{name}" for name in ("by", "action", "table", "text", "column", "type")}
    assert set(named) == found


def test_the_command_knows_no_other_dataset(command: Callable[..., tuple[int, str, str]]) -> None:
    code, told, error = command([], "nowhere")
    assert (code, told, error) == (2, "", "There is no dataset nowhere; known are none.\n")


def test_what_programs_read_without_a_plan_has_the_keys_of_a_plan(
    people: Callable[..., Dataset], command: Callable[..., tuple[int, str, str]]
) -> None:
    _, told, _ = command([], "nowhere", "--json")
    assert list(json.loads(told)) == list(as_json(Plan(people())))


def test_the_command_cancels_its_run_when_it_is_stopped(
    people: Callable[..., Dataset],
    synced: Callable[..., Dataset],
    command: Callable[..., tuple[int, str, str]],
    workspace: WorkspaceServer,
) -> None:
    import os
    import signal
    import threading
    import time

    dataset = synced(people())
    workspace.order("hold", at="start")
    before = {run["run_id"] for run in workspace.get("jobs/runs/list").get("runs", [])}

    def stop() -> None:
        while not workspace.orders()["held"]:
            time.sleep(0.05)
        time.sleep(0.5)  # until it is followed
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        code, _, error = command([dataset], dataset.name)
    finally:
        stopper.join()
    assert code == 130
    assert re.search(rf"^\| {code} \| it was interrupted", DOCS.read_text(), re.MULTILINE)
    assert "a run of the export job that had begun is cancelled" in error
    [run] = [run for run in workspace.get("jobs/runs/list").get("runs", []) if run["run_id"] not in before]
    assert workspace.result(run["run_id"]) == ("TERMINATED", "CANCELED")


def test_the_plan_of_the_shape_for_programs_has_no_secret(
    people: Callable[..., Dataset], synced: Callable[..., Dataset], change: Callable[..., None]
) -> None:
    dataset = synced(people())
    change(Share().databricks_conn_id, password="hush-hush-token")
    assert "hush-hush" not in json.dumps(as_json(planned(dataset)), default=str)
