from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sandbox.databricks import export
from sandbox.databricks.export import InterruptedStatementError, Session, StatementError, resolve_references
from sandbox.sources import forecasts, write_source

pytestmark = pytest.mark.sandbox

SQL = (Path(__file__).parents[3] / "include" / "sql" / "databricks" / "export_dataset.sql").read_text()
PART = re.compile(r"part-0000\d-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-c000\.snappy\.parquet")


@pytest.fixture
def share(tmp_path: Path) -> str:
    return f"databricks-snowflake-share/{tmp_path.name}/"


@pytest.fixture
def values(share: str) -> dict[str, str]:
    return {
        "source_table": "main.weather.forecasts",
        "data_path": f"s3://{share}data/",
        "manifest_path": f"s3://{share}manifest/",
        "run_key": 'it\'s a "key"; DROP TABLE x --',
        "dataset": "weather",
    }


def execute(files: Any, sql: str, parameters: dict[str, str]) -> None:
    session = Session(files.client_kwargs["endpoint_url"], files)
    try:
        session.execute(sql, parameters)
    finally:
        session.close()


def names(files: Any, directory: str) -> list[str]:
    return [file.removeprefix(directory) for file in files.find(directory)]


def read(files: Any, directory: str) -> tuple[pa.Table, list[Any]]:
    """The rows of a directory, and its files' metadata."""
    parts = [pq.ParquetFile(files.open(file)) for file in files.find(directory) if file.endswith(".parquet")]
    return pa.concat_tables([part.read() for part in parts]), [part.metadata for part in parts]


def test_the_sql_file_exports_the_table_and_counts_the_files(files: Any, values: dict[str, str], share: str) -> None:
    execute(files, SQL, values)

    rows, metadata = read(files, f"{share}data/")
    assert rows == forecasts()
    assert [part.row_group(0).column(0).compression for part in metadata] == ["SNAPPY"]
    assert str(metadata[0].schema.column(0).logical_type) == "Date"
    manifest, metadata = read(files, f"{share}manifest/")
    row = manifest.to_pylist()[0]
    assert manifest.num_rows == 1
    assert {name: row[name] for name in ("run_key", "dataset", "source_table", "row_count")} == {
        "run_key": values["run_key"],
        "dataset": "weather",
        "source_table": "main.weather.forecasts",
        "row_count": 1461,
    }
    assert metadata[0].schema.column(4).physical_type == "INT96"  # Spark's default for timestamps


def test_what_lies_beside_the_data(files: Any, values: dict[str, str], share: str) -> None:
    execute(files, SQL, values)

    found = names(files, f"{share}data/")
    success, committed, started, part = found
    assert PART.fullmatch(part)
    assert success == "_SUCCESS"
    assert started.removeprefix("_started_") == committed.removeprefix("_committed_")
    content = json.loads(files.cat_file(f"{share}data/{committed}"))
    assert content == {"added": [part], "removed": []}


def test_overwriting_removes_what_was_there(files: Any, values: dict[str, str], share: str) -> None:
    execute(files, SQL, values)
    before = names(files, f"{share}data/")
    execute(files, SQL, values)

    after = names(files, f"{share}data/")
    assert len(after) == 4
    assert set(before) & set(after) == {"_SUCCESS"}
    content = json.loads(files.cat_file(f"{share}data/{after[1]}"))
    assert content == {"added": [after[3]], "removed": [before[3]]}
    assert read(files, f"{share}manifest/")[0]["row_count"].to_pylist() == [1461]


def test_a_large_result_gives_several_files(
    files: Any, values: dict[str, str], share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_ROWS_PER_FILE", 487)  # a third of the rows

    execute(files, SQL, values)

    rows, metadata = read(files, f"{share}data/")
    assert [part.num_rows for part in metadata] == [487, 487, 487]
    assert rows == forecasts()
    assert read(files, f"{share}manifest/")[0]["row_count"].to_pylist() == [1461]


def test_an_empty_result_gives_one_file_without_rows(lake: str, files: Any, values: dict[str, str], share: str) -> None:
    write_source(lake, "main.weather.empty", forecasts().slice(0, 0))

    execute(files, SQL, values | {"source_table": "main.weather.empty"})

    rows, metadata = read(files, f"{share}data/")
    assert (rows.num_rows, rows.schema, len(metadata)) == (0, forecasts().schema, 1)
    assert read(files, f"{share}manifest/")[0]["row_count"].to_pylist() == [0]


def test_a_table_may_be_named_in_any_way_that_databricks_knows(files: Any, values: dict[str, str], share: str) -> None:
    sql = (
        """
        INSERT OVERWRITE DIRECTORY :data_path || 'a/' USING parquet
        WITH cold AS (SELECT * FROM IDENTIFIER('main.' || :s || '.forecasts') AS f WHERE f.forecast_temp_min_f < 20)
        SELECT cold.weather_date, forecasts.weather
        FROM cold JOIN Main.weather.FORECASTS ON cold.weather_date = forecasts.weather_date;

        -- a comment; with a semicolon
        INSERT OVERWRITE DIRECTORY 's3://"""
        + share
        + """b' USING PARQUET
        SELECT count(*) AS n, min(p.weather_date) AS first FROM parquet.`s3://"""
        + share
        + """data/a` AS p;
    """
    )
    execute(files, sql, values | {"s": "weather"})

    expected = [row for row in forecasts().to_pylist() if row["forecast_temp_min_f"] < 20]
    assert read(files, f"{share}b/")[0].to_pylist() == [{"n": len(expected), "first": expected[0]["weather_date"]}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source_table": "main.weather.absent"},
            r"\[TABLE_OR_VIEW_NOT_FOUND\] The table or view `main`.`weather`.`absent`",
        ),
        ({"source_table": "absent"}, r"\[TABLE_OR_VIEW_NOT_FOUND\] The table or view `absent` cannot be found"),
        ({"source_table": ""}, r"\[PARSE_SYNTAX_ERROR\]"),
        ({"source_table": "main.weather.forecasts; DROP"}, r"\[TABLE_OR_VIEW_NOT_FOUND\]"),
        ({"source_table": "parquet.`/etc/`"}, r"PERMISSION_DENIED: No parent external location found for path '/etc/'"),
        ({"source_table": "parquet.`s3://unity-catalog/absent/`"}, r"\[PATH_NOT_FOUND\]"),
        ({"data_path": ""}, r"\[INVALID_EMPTY_LOCATION\]"),
        ({"data_path": "data/"}, r"PERMISSION_DENIED: No parent external location found for path 'data/'"),
        ({"data_path": "s3://another-bucket/data/"}, "PERMISSION_DENIED"),
        ({"data_path": "s3://databricks-snowflake-share/"}, "PERMISSION_DENIED"),
        ({"data_path": "s3://databricks-snowflake-share/../unity-catalog/x"}, "PERMISSION_DENIED"),
        ({"data_path": "file:///tmp/x/"}, "PERMISSION_DENIED"),
    ],
)
def test_wrong_values_fail_in_databricks_words(
    files: Any, values: dict[str, str], share: str, change: dict[str, str], message: str
) -> None:
    with pytest.raises(StatementError, match=message):
        execute(files, SQL, values | change)
    assert names(files, f"{share}manifest/") == []


@pytest.mark.parametrize("name", ["data_path", "source_table", "run_key"])
def test_a_marker_without_a_value_fails(files: Any, values: dict[str, str], name: str) -> None:
    del values[name]
    with pytest.raises(StatementError, match=rf"\[UNBOUND_SQL_PARAMETER\] Found the unbound parameter: {name}\."):
        execute(files, SQL, values)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE main.weather.forecasts", r"\[PARSE_SYNTAX_ERROR\] Syntax error at or near 'DROP'"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING CSV SELECT 1", r"\[DATA_SOURCE_NOT_FOUND\].*CSV"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING PARQUET", r"\[PARSE_SYNTAX_ERROR\]"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING PARQUET SELECT FROM WHERE", r"\[PARSE_SYNTAX_ERROR\]"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING PARQUET SELECT nothing_such AS a", "nothing_such"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING PARQUET SELECT * FROM IDENTIFIER(now())", "NOT_A_CONSTANT"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING PARQUET SELECT * FROM read_text('/etc/passwd')", "Error|cannot"),
    ],
)
def test_wrong_statements_fail(files: Any, values: dict[str, str], share: str, statement: str, message: str) -> None:
    with pytest.raises(StatementError, match=message):
        execute(files, statement, values)
    assert names(files, f"{share}data/") == []


def test_an_interrupted_statement_commits_nothing(lake: str, files: Any, values: dict[str, str], share: str) -> None:
    session = Session(lake, files)
    sql = """
        INSERT OVERWRITE DIRECTORY :data_path USING PARQUET
        SELECT a.* FROM main.weather.forecasts a CROSS JOIN main.weather.forecasts b, main.weather.forecasts c
    """
    timer = threading.Timer(0.3, session.interrupt)
    timer.start()
    with pytest.raises(InterruptedStatementError):
        session.execute(sql, values)
    timer.join()
    session.close()
    assert not [name for name in names(files, f"{share}data/") if name.startswith(("_SUCCESS", "_committed_"))]


def test_references_to_job_parameters() -> None:
    parameters = {"export_path": "s3://share/{{job.parameters.dataset}}/", "dataset": "weather"}
    assert resolve_references("{{job.parameters.export_path}}data/", parameters) == (
        "s3://share/{{job.parameters.dataset}}/data/"
    )
    assert resolve_references("{{ job.parameters.dataset }}-{{job.parameters.absent}}", parameters) == (
        "weather-{{job.parameters.absent}}"
    )
