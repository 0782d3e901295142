"""What a source has is learnt from a run of the export job alone, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_share import describe as describe_module
from data_share.databricks.follow import FinishedRun
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.datasets import Dataset
from data_share.describe import MAX_RUNS, Description, SourceUnknownError, describe, describe_all
from data_share.doctor.deployment import Deployment
from data_share.doctor.run import examine
from data_share.outcome.codes import FailureCode
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from tests.emulators.databricks.conftest import BUNDLE, WorkspaceServer, wait_for
from tests.export_job import UNPLANNED

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox, pytest.mark.usefixtures("administer", "deployed")]

SQL = BUNDLE.parents[1] / "sql" / "databricks" / "export_dataset.sql"


@pytest.fixture(autouse=True)
def nothing_is_left_behind(workspace: WorkspaceServer) -> Iterator[None]:
    """Neither a run that works, nor a table: neither after a description nor after a failure."""
    yield
    workspace.order("release")
    assert workspace.get("jobs/runs/list", active_only="true").get("runs", []) == []
    hook = DataShareSnowflakeHook("administrator")
    tables = hook.run_statement(f"SHOW TABLES LIKE '%describe%' IN SCHEMA {Share().staging_schema}").rows
    assert tables == []


def exports_of(files: Any, dataset: Dataset) -> list[str]:
    """What is in the bucket of a dataset: the directories of each attempt."""
    files.invalidate_cache()
    folder = f"{Share().url.removeprefix('s3://')}{dataset.name}/"
    return sorted({path.removeprefix(folder).split("/")[2] for path in files.find(folder)})


def test_a_source_is_described(people: Callable[..., Dataset], files: Any) -> None:
    dataset = people(source={"exclude": ["SSN"], "rename": {"id": "Person"}}, required_columns=('"Person"',))
    found = describe(dataset, Share())
    assert found.columns == {"Person": "bigint", "born": "decimal(12,2)"}
    assert (found.rows, found.columns_that_stay, found.source_condition) == (3, ("ssn",), "")
    assert (found.dataset, found.source_table) == (dataset.name, dataset.source_table)
    assert "/run/" in found.run_page_url
    assert exports_of(files, dataset) == ["manifest"]


@pytest.mark.tier("nightly")
def test_several_sources_are_described_some_at_a_time(
    people: Callable[..., Dataset], workspace: WorkspaceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    active: list[int] = []
    follow = describe_module.follow_run

    async def watched(*arguments: Any) -> FinishedRun:
        active.append(len(workspace.get("jobs/runs/list", active_only="true").get("runs", [])))
        return await follow(*arguments)

    monkeypatch.setattr(describe_module, "follow_run", watched)
    datasets = [people(is_there=number != 1) for number in range(MAX_RUNS + 2)]
    described = describe_all(datasets, Share())
    assert list(described) == [dataset.name for dataset in datasets]
    assert [isinstance(each, Description) for each in described.values()] == [True, False, *[True] * MAX_RUNS]
    assert max(active) <= MAX_RUNS


@pytest.mark.parametrize(
    ("fields", "message", "advice"),
    [
        (
            {"is_there": False},
            r"^\[TABLE_OR_VIEW_NOT_FOUND\] The table or view `main`.`care`.* found\.$",
            "grant SELECT",
        ),
        (
            {"source": {"exclude": ["ssm"]}},
            "^The source lacks these columns, which the dataset file names: ssm",
            "Corr",
        ),
        ({"source": {"where": "id > 1"}}, "^This job has another condition for the rows of people_", "make render"),
        ({"source": {"exclude": ["ssn", "id", "born"]}, "required_columns": ("x",)}, "^No column is left", "page"),
    ],
)
def test_a_source_that_cannot_be_exported_is_not_described(
    people: Callable[..., Dataset], files: Any, fields: dict[str, Any], message: str, advice: str
) -> None:
    dataset = people(**fields)
    with pytest.raises(SourceUnknownError) as caught:
        describe(dataset, Share())
    assert re.search(message, caught.value.message), caught.value.message
    assert advice in caught.value.what_to_do
    assert caught.value.code is FailureCode.EXPORT_FAILED
    assert "/run/" in str(caught.value.databricks_run_url)
    assert exports_of(files, dataset) == []


@contextlib.contextmanager
def job_with(workspace: WorkspaceServer, folder: Path, sql: str, *, without: str = "") -> Iterator[None]:
    """The job of an earlier version: with other SQL, without a parameter, and without the tasks before the export."""
    file = folder / "export_dataset.sql"
    file.write_text(sql)
    before = workspace.get("jobs/get", job_id=workspace.job_id)["settings"]
    settings = json.loads(json.dumps(before))
    settings["tasks"] = [each for each in settings["tasks"] if each["task_key"] == "export"]
    settings["tasks"][0]["depends_on"] = []
    task = settings["tasks"][0]["sql_task"]
    task["file"]["path"] = str(file)
    task["parameters"] |= dict.fromkeys(UNPLANNED, "")
    task["parameters"].pop(without, None)
    settings["parameters"] = [each for each in settings["parameters"] if each["name"] != without]
    workspace.post("jobs/reset", job_id=workspace.job_id, new_settings=settings)
    try:
        yield
    finally:
        workspace.post("jobs/reset", job_id=workspace.job_id, new_settings=before)


def test_a_job_that_does_not_know_the_mode_exports_nothing(
    people: Callable[..., Dataset], workspace: WorkspaceServer, files: Any, tmp_path: Path
) -> None:
    sql = re.sub(
        r"SET VAR only_describes = CASE.*?END;", "SET VAR only_describes = FALSE;", SQL.read_text(), flags=re.S
    )
    sql = sql.replace("  WHEN 'described' THEN FALSE\n", "")
    assert ":mode" not in re.sub("--.*", "", sql)
    dataset = people()
    with (
        job_with(workspace, tmp_path, sql, without="mode"),
        pytest.raises(SourceUnknownError, match="The job parameter proof must be") as caught,
    ):
        describe(dataset, Share())
    assert "deploy the bundle again" in caught.value.what_to_do
    assert exports_of(files, dataset) == []


def test_a_description_that_takes_too_long_is_cancelled(
    people: Callable[..., Dataset], workspace: WorkspaceServer
) -> None:
    workspace.order("hold", at="start")
    with pytest.raises(SourceUnknownError, match=r"not described within 0.0167 minutes.*was cancelled") as caught:
        describe(people(), Share(), timeout_seconds=1)
    assert caught.value.code is FailureCode.EXPORT_TIMED_OUT
    [run] = workspace.get("jobs/runs/list", limit=1)["runs"]
    assert workspace.result(run["run_id"]) == ("TERMINATED", "CANCELED")


@pytest.mark.parametrize("when", ["while it runs", "before its answer"])
def test_an_interrupted_description_cancels_its_run(
    people: Callable[..., Dataset], workspace: WorkspaceServer, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    workspace.order("hold", at="start")
    before = {run["run_id"] for run in workspace.get("jobs/runs/list").get("runs", [])}

    start, calls = DataShareDatabricksHook.run_now, itertools.count()

    async def interrupted(*_: Any) -> FinishedRun:
        raise KeyboardInterrupt

    def unanswered(hook: DataShareDatabricksHook, body: dict[str, Any]) -> int:
        run_id = start(hook, body)
        if next(calls) == 0:
            raise KeyboardInterrupt
        return run_id

    dataset = people()
    with monkeypatch.context() as patch:
        if when == "while it runs":
            patch.setattr(describe_module, "follow_run", interrupted)
        else:
            patch.setattr(DataShareDatabricksHook, "run_now", unanswered)
        with pytest.raises(KeyboardInterrupt):
            describe(dataset, Share())
    [run] = [run for run in workspace.get("jobs/runs/list").get("runs", []) if run["run_id"] not in before]
    wait_for(lambda: workspace.result(run["run_id"]) == ("TERMINATED", "CANCELED"))


def test_a_manifest_of_another_run_describes_nothing(
    people: Callable[..., Dataset], files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, runs = people(), list[FinishedRun]()
    follow = describe_module.follow_run

    async def remembered(*arguments: Any) -> FinishedRun:
        runs.append(await follow(*arguments))
        return runs[reported]

    monkeypatch.setattr(describe_module, "follow_run", remembered)
    reported = -1
    assert describe(dataset, Share()).rows == 3
    reported = 0  # the path of the run before
    with pytest.raises(SourceUnknownError, match=r"left 1 manifest rows at .*, and not the one of") as caught:
        describe(dataset, Share())
    assert caught.value.code is FailureCode.MANIFEST_INVALID
    files.rm(runs[0].job_parameters["export_path"], recursive=True)
    with pytest.raises(SourceUnknownError, match="left 0 manifest rows") as caught:
        describe(dataset, Share())
    assert caught.value.code is FailureCode.MANIFEST_MISSING
    runs[0].job_parameters["export_path"] = "s3://databricks-snowflake-share/dataset/people_1/elsewhere/"
    with pytest.raises(SourceUnknownError) as caught:
        describe(dataset, Share())
    assert caught.value.code is FailureCode.EXPORT_PATH_INVALID


def test_a_right_that_is_missing_in_snowflake_is_named(
    people: Callable[..., Dataset], administer: Callable[..., object]
) -> None:
    share = Share()
    grant = f"USAGE ON INTEGRATION {share.storage_integration} {{}} ROLE {share.loader_role}"
    administer(f"REVOKE {grant.format('FROM')}")
    try:
        with pytest.raises(SourceUnknownError, match="The manifest of the description cannot be read") as caught:
            describe(people(), share)
    finally:
        administer(f"GRANT {grant.format('TO')}")
    assert share.storage_integration.upper() in caught.value.message.upper()


@pytest.mark.tier("nightly")
def test_the_doctor_compares_sources_and_targets_only_if_asked(
    people: Callable[..., Dataset], target: Callable[..., Dataset], workspace: WorkspaceServer
) -> None:
    narrow = "id NUMBER(38, 0), born NUMBER(12, 2)"
    datasets = {
        "fits": target(people()),
        "stays": target(people(schema_drift="ignore_new"), narrow),
        "new": target(people(), narrow),
        "added": target(people(schema_drift="add_new"), narrow),
        "rounded": target(people(), "id NUMBER(38, 0), ssn VARCHAR, born NUMBER(38, 0)"),
        "no cast": target(people(), "id NUMBER(38, 0), ssn VARCHAR, born DATE"),
        "created": people(create_table="from_source"),
        "no source": target(people(is_there=False)),
        "no target": people(),
    }
    deployment = Deployment(Share(), datasets=list(datasets.values()))
    before = len(workspace.get("jobs/runs/list").get("runs", []))
    assert {finding.group for finding in examine(deployment, ("Databricks", "Snowflake"))} == {
        "Databricks",
        "Snowflake",
    }
    assert len(workspace.get("jobs/runs/list").get("runs", [])) == before
    found = {
        finding.name: finding
        for finding in examine(deployment, ("Databricks", "Snowflake"), with_sources=True)
        if finding.group == "Sources"
    }
    told = {name: found[f"source of {dataset.name}"] for name, dataset in datasets.items()}
    assert {name: str(finding.state) for name, finding in told.items()} == {
        "fits": "ok",
        "stays": "ok",
        "new": "wrong",
        "added": "ok",
        "rounded": "wrong",
        "no cast": "wrong",
        "created": "ok",
        "no source": "wrong",
        "no target": "not checked",
    }
    for name, said in {
        "fits": "3 rows, 3 columns, which fit.",
        "stays": "In Databricks stay ssn.",
        "new": "the export has ssn (string), which",
        "added": "The next sync adds SSN.",
        "rounded": "BORN: decimal(12,2) into NUMBER(38,0), where digits after the point are rounded away",
        "no cast": "BORN: decimal(12,2) into DATE",
        "created": "The next sync adds ID, SSN, BORN.",
        "no source": "[TABLE_OR_VIEW_NOT_FOUND]",
        "no target": "because the target cannot be read",
    }.items():
        assert said in told[name].text


def test_the_doctor_describes_nothing_without_the_job(
    people: Callable[..., Dataset], workspace: WorkspaceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIRFLOW_VAR_{Share().export_job_variable.upper()}", "4711")
    before = len(workspace.get("jobs/runs/list").get("runs", []))
    deployment = Deployment(Share(), datasets=[people()])
    [found] = [each for each in examine(deployment, with_sources=True) if each.group == "Sources"]
    assert (str(found.state), found.text) == (
        "not checked",
        "because a check before it did not pass: job, job task.",
    )
    assert len(workspace.get("jobs/runs/list").get("runs", [])) == before
