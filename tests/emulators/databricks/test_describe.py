"""The export's SQL with mode describe: the manifest alone, of what an export would have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from data_share.source import Source
from emulators.databricks.errors import StatementError
from emulators.databricks.export import Session
from emulators.databricks.unity_catalog import write_table
from tests.emulators.databricks.test_chosen_columns import HOSTILE, PEOPLE, SECRETS, job
from tests.emulators.databricks.test_export import SQL, read
from tests.export_job import UNPLANNED
from tests.sandbox.kinds import KINDS, source

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

DESCRIBE = {"mode": "describe", "proof": "described", "source": ""}
Run = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture
def run(lake: str, files: Any, tmp_path: Any) -> Run:
    """Execute the SQL for rows of a source; returns the manifest, and the directories that were written."""
    share = f"databricks-snowflake-share/{tmp_path.name}/"

    def execute(rows: pa.Table, parameters: dict[str, str], sql: str = SQL) -> tuple[dict[str, Any], list[str]]:
        if files.exists(share):
            files.rm(share, recursive=True)
        write_table(lake, "main.weather.described", rows)
        values = {"source_table": "main.weather.described", "run_key": "key", "dataset": "chosen"}
        values |= {"data_path": f"s3://{share}data/", "manifest_path": f"s3://{share}manifest/", "mode": ""} | UNPLANNED
        session = Session(lake, files, SECRETS)
        try:
            session.execute(sql, values | parameters)
        finally:
            session.close()
            files.invalidate_cache()
            execute.written = sorted({path.removeprefix(share).split("/")[0] for path in files.find(share)})  # type: ignore[attr-defined]
        [manifest] = read(files, f"{share}manifest/")[0].to_pylist()
        return manifest, execute.written  # type: ignore[attr-defined]

    return execute


def columns(manifest: dict[str, Any]) -> dict[str, str]:
    return {column["name"]: column["type"] for column in json.loads(manifest["column_types"])}


HOSTILE_ROWS = pa.table({"id": [7], **{name: ["v"] for name in HOSTILE}})


@pytest.mark.parametrize(
    ("rows", "fields", "stay"),
    [
        (PEOPLE, {}, []),
        (PEOPLE, {"columns": ["NAME", "id"]}, ["Ssn", "born"]),
        (PEOPLE, {"columns": ["id", "ssn"], "rename": {"SSN": "person"}, "hash": ["ssn"]}, ["born", "name"]),
        (PEOPLE, {"exclude": ["ssn", "born"]}, ["Ssn", "born"]),
        (PEOPLE, {"hash": ["born"]}, []),
        (PEOPLE, {"where": "born > 1995"}, []),
        (PEOPLE, {"where": "name = 'no'", "exclude": ["ssn"]}, ["Ssn"]),
        (PEOPLE.slice(0, 0), {"exclude": ["ssn"]}, ["Ssn"]),
        (HOSTILE_ROWS, {"exclude": HOSTILE[:3], "hash": HOSTILE[3:5], "rename": {HOSTILE[5]: "`x"}}, HOSTILE[:3]),
        (source(KINDS), {}, []),
    ],
)
def test_the_manifest_is_that_of_an_export_but_for_the_data(
    run: Run, rows: pa.Table, fields: dict[str, Any], stay: list[str]
) -> None:
    chosen = Source.model_validate(fields)
    choice = json.dumps(chosen.parameter()) if fields else ""
    sql = job(chosen.where)
    described, written = run(rows, {**DESCRIBE, "source": choice}, sql)
    assert written == ["manifest"]
    exported, written = run(rows, {"proof": "chosen_checksums" if fields else "checksums", "source": choice}, sql)
    assert written == ["data", "manifest"]
    assert columns(described) == columns(exported)
    assert json.loads(described["columns_that_stay"]) == stay
    # An export of a whole table does not look at its columns.
    assert json.loads(exported["columns_that_stay"]) == stay
    for name in ("run_key", "dataset", "source_table", "row_count", "source_choice", "source_condition"):
        assert described[name] == exported[name], name
    assert (described["file_count"], described["bytes_exported"]) == (0, None)
    assert exported["bytes_exported"] is not None


EARLIER = SQL.replace("  WHEN 'described' THEN FALSE\n", "")


@pytest.mark.parametrize(
    ("parameters", "message", "sql"),
    [
        ({"mode": "describe", "proof": "checksums"}, "The job parameter mode must be empty, or describe with", SQL),
        ({"mode": "describe", "proof": "chosen_counts"}, "The job parameter mode must be empty, or describe", SQL),
        ({"mode": "", "proof": "described"}, "The job parameter mode must be empty, or describe with the proof", SQL),
        ({"mode": "Describe", "proof": "described"}, "The job parameter mode must be empty", SQL),
        ({"mode": "export", "proof": "counts"}, "The job parameter mode must be empty", SQL),
        # A job that does not know the mode would export.
        (DESCRIBE, "The job parameter proof must be checksums or counts", EARLIER),
        ({"source": '{"columns": [{"name": "ssm", "alias": "ssm", "how": "kept"}], "others": "kept"}'}, "ssm", SQL),
        ({"source_table": "main.weather.absent"}, "TABLE_OR_VIEW_NOT_FOUND", SQL),
    ],
)
def test_what_does_not_fit_writes_nothing(run: Run, parameters: dict[str, str], message: str, sql: str) -> None:
    with pytest.raises(StatementError, match=message):
        run(PEOPLE, DESCRIBE | parameters, sql)
    assert run.written == []  # type: ignore[attr-defined]


def test_a_job_without_the_parameter_mode_does_nothing(lake: str, files: Any) -> None:
    session = Session(lake, files)
    values = dict.fromkeys(("source_table", "run_key", "dataset", "source"), "main.weather.forecasts")
    paths = dict.fromkeys(("data_path", "manifest_path"), "s3://databricks-snowflake-share/no/mode/")
    with pytest.raises(StatementError, match=r"UNBOUND_SQL_PARAMETER.*mode"):
        session.execute(SQL, {**values, **paths, "proof": "checksums"})
    session.close()
    assert files.find("databricks-snowflake-share/no/") == []
