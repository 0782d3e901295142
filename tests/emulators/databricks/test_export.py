from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_share.sql_text import source_name
from emulators.databricks import parquet
from emulators.databricks.errors import InterruptedStatementError, StatementError
from emulators.databricks.export import Session
from emulators.databricks.references import resolve_references
from emulators.databricks.unity_catalog import write_table
from sandbox.sources import city_temperatures, daily_observations, forecasts
from tests.export_job import UNPLANNED
from tests.source_names import NO_SOURCES, SOURCES, WITHOUT_BACKTICKS, no_paths

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

SQL = (Path(__file__).parents[3] / "include" / "sql" / "databricks" / "export_dataset.sql").read_text()
FORECASTS_SCHEMA = (
    "struct<date:date,weather_date:date,latitude:double,longitude:double,precipitation_in:double,wind_mph:double,"
    "weather:string,forecast_temp_min_f:double,forecast_temp_max_f:double>"
)
FORECASTS_COLUMNS = dict(field.split(":") for field in FORECASTS_SCHEMA[7:-1].split(","))
# What there is of the manifest alone, for files that are there.
EXPORT = "EXECUTE IMMEDIATE statement USING source_table AS source_table;"
MANIFEST_SQL = SQL.replace(EXPORT, "")
CHECK_OF_THE_SOURCE = re.findall(r"SET VAR source_table = CASE[^;]*", SQL)[0]
INSERT = "INSERT OVERWRITE DIRECTORY {} USING PARQUET SELECT 1 AS a"
PART = re.compile(r"part-0000\d-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-c000\.snappy\.parquet")


def columns(manifest: dict[str, Any]) -> dict[str, str]:
    """The columns that a manifest names, with their types."""
    return {column["name"]: column["type"] for column in json.loads(manifest["column_types"])}


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
        "proof": "checksums",
        "source": "",
        "mode": "",
        **UNPLANNED,
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


def sizes(files: Any, directory: str) -> list[int]:
    """The bytes of each Parquet file of a directory."""
    return [files.size(file) for file in files.find(directory) if file.endswith(".parquet")]


def test_the_sql_file_exports_the_table_and_counts_the_files(files: Any, values: dict[str, str], share: str) -> None:
    execute(files, SQL, values)

    rows, metadata = read(files, f"{share}data/")
    assert rows == forecasts()
    assert [part.row_group(0).column(0).compression for part in metadata] == ["SNAPPY"]
    assert str(metadata[0].schema.column(0).logical_type) == "Date"
    manifest, metadata = read(files, f"{share}manifest/")
    row = manifest.to_pylist()[0]
    assert manifest.num_rows == 1
    exported_at = row.pop("exported_at")
    assert columns(row) == FORECASTS_COLUMNS
    row.pop("column_types")
    assert row == {
        "run_key": values["run_key"],
        "dataset": "weather",
        "source_table": "main.weather.forecasts",
        "row_count": 1461,
        "file_count": 1,
        "source_choice": '{"columns": [], "others": "kept"}',
        "source_condition": "",
        "columns_that_stay": "[]",
        "source_table_id": None,
        "source_version": None,
        "source_committed_at": None,
        "from_version": None,
        "export_mode": "full",
        "export_reason": "nothing was planned",
        "source_rows": 1461,
        "source_has_feed": None,
        "bytes_exported": sum(sizes(files, f"{share}data/")),
    }
    assert abs(exported_at.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=5)
    assert metadata[0].schema.names[-1] == "exported_at"
    written = {column.name: column for column in map(metadata[0].schema.column, range(len(metadata[0].schema)))}
    assert {written[name].physical_type for name in ("exported_at", "source_committed_at")} == {"INT96"}  # as Spark
    assert {name for name, column in written.items() if column.max_definition_level} == {
        name for name, value in row.items() if value is None
    }


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
    monkeypatch.setattr(parquet, "MAX_ROWS_PER_FILE", 487)  # a third of the rows

    execute(files, SQL, values)

    rows, metadata = read(files, f"{share}data/")
    assert [part.num_rows for part in metadata] == [487, 487, 487]
    assert rows == forecasts()
    manifest = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (manifest["row_count"], manifest["file_count"], columns(manifest)) == (1461, 3, FORECASTS_COLUMNS)
    # Each file counts once, however many rows it has, and not once for all files of one size.
    assert manifest["bytes_exported"] == sum(sizes(files, f"{share}data/"))


def test_an_empty_result_gives_one_file_without_rows(lake: str, files: Any, values: dict[str, str], share: str) -> None:
    write_table(lake, "main.weather.empty", forecasts().slice(0, 0))

    execute(files, SQL, values | {"source_table": "main.weather.empty"})

    rows, metadata = read(files, f"{share}data/")
    assert (rows.num_rows, rows.schema, len(metadata)) == (0, forecasts().schema, 1)
    manifest = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (manifest["row_count"], manifest["file_count"], columns(manifest)) == (0, 0, FORECASTS_COLUMNS)
    assert manifest["bytes_exported"] == 0
    assert manifest["run_key"] == values["run_key"]


@pytest.mark.parametrize(
    ("table", "rows", "types"),
    [
        (
            "city_temperatures",
            city_temperatures,
            "struct<city:string,observed_at:timestamp,temperature_f:double>",
        ),
        (
            "daily_observations",
            daily_observations,
            (
                "struct<station:string,observed_on:date,precipitation_in:double,temp_min_f:double,temp_max_f:double,"
                "wind_mph:double,weather:string>"
            ),
        ),
    ],
)
def test_the_other_source_tables_are_exported(
    files: Any, values: dict[str, str], share: str, table: str, rows: Callable[[], pa.Table], types: str
) -> None:
    execute(files, SQL, values | {"source_table": f"main.weather.{table}"})

    exported = parquet.open_directory(files, f"s3://{share}data/").to_table().select(rows().column_names)
    # A source of several batches is read by several threads: the order of the rows is not kept.
    order = [(name, "ascending") for name in rows().column_names]
    assert exported.sort_by(order) == rows().sort_by(order)
    manifest = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (manifest["row_count"], manifest["file_count"]) == (rows().num_rows, 1)
    assert columns(manifest) == dict(field.split(":") for field in types[7:-1].split(","))


def test_only_files_with_rows_are_counted(files: Any, values: dict[str, str], share: str) -> None:
    table = pa.table({"id": [1, 2, 3]})
    for name, part in {"a": table.slice(0, 0), "b": table.slice(0, 1), "c": table.slice(1)}.items():
        with files.open(f"s3://{share}in/{name}.parquet", "wb") as file:
            pq.write_table(part, file)

    execute(files, MANIFEST_SQL, values | {"data_path": f"s3://{share}in/"})

    row = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (row["row_count"], row["file_count"], columns(row)) == (3, 2, {"id": "bigint"})
    assert row["bytes_exported"] == sum(sizes(files, f"{share}in/")[1:])


def test_a_column_that_hides_the_metadata_of_files_changes_no_count(
    files: Any, values: dict[str, str], share: str
) -> None:
    for name in ("a", "b"):
        with files.open(f"s3://{share}in/{name}.parquet", "wb") as file:
            pq.write_table(pa.table({"_metadata": ["x", "x"], "__Metadata": [{"file_path": "x"}] * 2}), file)

    execute(files, MANIFEST_SQL, values | {"data_path": f"s3://{share}in/"})

    row = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (row["row_count"], row["file_count"], list(columns(row))) == (4, 2, ["_metadata", "__Metadata"])
    # Two files of the same size.
    assert row["bytes_exported"] == sum(sizes(files, f"{share}in/"))


def test_checksums_are_sums_of_60_bits_of_md5(lake: str, files: Any, values: dict[str, str], share: str) -> None:
    table = pa.table({"it's `a`": ["x", "", None], "n": pa.array(["1.50", "-0.05", "100"]).cast(pa.decimal128(5, 2))})
    write_table(lake, "main.weather.sums", table)
    execute(files, SQL, values | {"source_table": "main.weather.sums"})

    def checksum(*texts: str) -> str:
        return str(sum(int(hashlib.md5(text.encode()).hexdigest()[:15], 16) for text in texts))

    manifest = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert json.loads(manifest["column_types"]) == [
        {"name": "it's `a`", "type": "string", "filled": "2", "checksum": checksum("x", "")},
        {"name": "n", "type": "decimal(5,2)", "filled": "3", "checksum": checksum("1.5", "-0.05", "100")},
    ]


def test_counts_are_all_that_is_asked_for(files: Any, values: dict[str, str], share: str) -> None:
    execute(files, SQL, values | {"proof": "counts"})
    manifest = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (manifest["row_count"], manifest["file_count"], columns(manifest)) == (1461, 1, FORECASTS_COLUMNS)
    assert {name for column in json.loads(manifest["column_types"]) for name in column} == {"name", "type"}


def test_a_proof_that_is_not_known_ends_the_export_before_it_writes(
    files: Any, values: dict[str, str], share: str
) -> None:
    with pytest.raises(
        StatementError, match=r"^\[USER_RAISED_EXCEPTION\] The job parameter proof must be checksums or"
    ):
        execute(files, SQL, values | {"proof": "all"})
    assert names(files, share) == []


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("DECLARE VARIABLE v STRING", r"\[PARSE_SYNTAX_ERROR\]"),
        ("DECLARE OR REPLACE VARIABLE v STRING DEFAULT 'x'", "without a default"),
        ("SET VAR absent = 'x'", r"\[UNRESOLVED_VARIABLE\] Cannot resolve variable `absent`"),
        ("SET VAR v = absent", "absent"),
        ("SET VAR v = CONV('ff', 16, 2)", "knows CONV only from base 16 to base 10"),
        ("SET VAR v = FORMAT_NUMBER(1.5, '0.0')", "knows FORMAT_NUMBER only"),
        ("SET VAR v = NO_SUCH_FUNCTION(1)", "(?i)no_such_function"),
        ("EXECUTE IMMEDIATE v INTO v", r"\[NULL_QUERY_STRING_EXECUTE_IMMEDIATE\]"),
        ("SET VAR v = 'SELECT 1, 2'; EXECUTE IMMEDIATE v INTO v", r"\[ASSIGNMENT_ARITY_MISMATCH\]"),
        ("SET VAR v = 'SELECT x FROM VALUES (1), (2) AS t (x)'; EXECUTE IMMEDIATE v INTO v", "ROW_SUBQUERY_TOO_MANY"),
        ("SET VAR v = 'SELECT :data_path'; EXECUTE IMMEDIATE v INTO v", r"\[UNBOUND_SQL_PARAMETER\]"),
        ("SET VAR v = 'DROP TABLE t'; EXECUTE IMMEDIATE v INTO v", r"\[INVALID_STATEMENT_FOR_EXECUTE_INTO\]"),
        ("EXECUTE IMMEDIATE 'SELECT 1' INTO v", r"\[PARSE_SYNTAX_ERROR\]"),
        (
            "SET VAR v = 'SELECT :p'; EXECUTE IMMEDIATE v INTO v USING :data_path AS p",
            r"\[UNSUPPORTED_EXPR_FOR_PARAMETER\]",
        ),
        (
            "SET VAR v = 'SELECT :p'; EXECUTE IMMEDIATE v INTO v USING 'a' || 'b' AS p",
            r"\[UNSUPPORTED_EXPR_FOR_PARAMETER\]",
        ),
        (
            "SET VAR v = 'SELECT :p'; EXECUTE IMMEDIATE v INTO v USING absent AS p",
            r"\[UNSUPPORTED_EXPR_FOR_PARAMETER\]",
        ),
        ("SET VAR v = 'SELECT :p'; EXECUTE IMMEDIATE v INTO v USING 'x' AS q", r"\[UNBOUND_SQL_PARAMETER\].*: p\."),
        ("SET VAR v = 'SELECT 1; SELECT 2'; EXECUTE IMMEDIATE v INTO v", r"\[PARSE_SYNTAX_ERROR\].*near ';'"),
        ("SET VAR v = 'EXECUTE IMMEDIATE v'; EXECUTE IMMEDIATE v", r"\[NESTED_EXECUTE_IMMEDIATE\]"),
        ("SET VAR v = 'DROP TABLE t'; EXECUTE IMMEDIATE v", r"\[PARSE_SYNTAX_ERROR\].*near 'DROP'"),
        (f"SET VAR v = '{INSERT.format(':data_path')}'; EXECUTE IMMEDIATE v", r"\[PARSE_SYNTAX_ERROR\].*near ':'"),
        (
            f"SET VAR v = '{INSERT.format(':p')}'; EXECUTE IMMEDIATE v USING 's3://x/y/' AS p",
            r"\[PARSE_SYNTAX_ERROR\].*near ':'",
        ),
        (
            f"SET VAR v = '{INSERT.format('$')}'; EXECUTE IMMEDIATE v INTO v".replace("$", '"s3://x/y/"'),
            r"\[INVALID_STATEMENT_FOR_EXECUTE_INTO\]",
        ),
    ],
)
def test_variables_and_dynamic_sql_are_as_strict_as_sparks(
    files: Any, values: dict[str, str], statements: str, message: str
) -> None:
    with pytest.raises(StatementError, match=message):
        execute(files, f"DECLARE OR REPLACE VARIABLE v STRING; {statements}", values)


def test_a_text_that_ran_before_sets_a_variable_anew(lake: str, files: Any) -> None:
    """Translations are kept: they must not bring the value, the type or the columns of another session."""
    sql = """
        DECLARE OR REPLACE VARIABLE a {kind}; DECLARE OR REPLACE VARIABLE b STRING;
        SET VAR a = :a; SET VAR b = (SELECT TYPEOF(STRUCT(*)) FROM main.weather.kept LIMIT 1);
        SELECT a, b
    """
    found = []
    for kind, value, column in (("INT", "01", "x"), ("STRING", "01", "x"), ("STRING", "02", "y")):
        write_table(lake, "main.weather.kept", pa.table({column: ["z"]}))
        session = Session(lake, files)
        found.append(session.execute(sql.format(kind=kind), {"a": value}))
        session.close()
    assert found == [
        {"a": "1", "b": "struct<x:string>"},
        {"a": "01", "b": "struct<x:string>"},
        {"a": "02", "b": "struct<y:string>"},
    ]


def test_the_metadata_of_files_is_hidden_until_it_is_named(files: Any, values: dict[str, str], share: str) -> None:
    execute(files, SQL, values)
    (path,) = [file for file in files.find(f"{share}data/") if file.endswith(".parquet")]
    sql = f"""
        INSERT OVERWRITE DIRECTORY 's3://{share}plain/' USING PARQUET
        SELECT * FROM IDENTIFIER('parquet.`' || :source || '`');
        INSERT OVERWRITE DIRECTORY "s3://{share}named/" USING PARQUET
        WITH f AS (SELECT *, _metadata.file_name AS name FROM IDENTIFIER('parquet.`' || :source || '`') AS p)
        SELECT f.*, p._METADATA.file_path, p._metadata.file_size,
          TYPEOF(STRUCT(p.*)) AS of_p, TYPEOF(STRUCT(*)) AS of_all
        FROM f JOIN IDENTIFIER('parquet.`' || :source || '`') AS p ON f.weather_date = p.weather_date
    """
    execute(files, sql, {"source": f"s3://{share}data/"})

    assert read(files, f"{share}plain/")[0] == forecasts()
    rows = read(files, f"{share}named/")[0]
    assert rows.column_names == [*forecasts().column_names, "name", "file_path", "file_size", "of_p", "of_all"]
    assert rows.num_rows == 1461
    row = rows.to_pylist()[0]
    assert row["file_path"] == f"s3://{path}"
    assert row["name"] == path.rpartition("/")[2]
    assert row["file_size"] == files.size(path)
    assert row["of_p"] == FORECASTS_SCHEMA
    assert row["of_all"] == f"{FORECASTS_SCHEMA[:-1]},name:string,{FORECASTS_SCHEMA.removeprefix('struct<')}"


def test_the_keys_of_a_struct_are_its_names_whatever_they_hold(lake: str, files: Any, share: str) -> None:
    names = ["a:int,b", "c<`>", 'say "ü"']
    listed = ", ".join("1 AS `{}`".format(name.replace("`", "``")) for name in names)
    keys = "JSON_OBJECT_KEYS(TO_JSON(STRUCT(*){}))"
    head = f"INSERT OVERWRITE DIRECTORY 's3://{share}out/' USING PARQUET"
    kept = keys.format(", MAP('ignoreNullFields', 'false')")
    execute(files, f"{head} SELECT {kept} AS k FROM (SELECT {listed})", {})
    assert read(files, f"{share}out/")[0].to_pylist() == [{"k": names}]
    with pytest.raises(StatementError, match="knows JSON_OBJECT_KEYS only"):
        execute(files, f"{head} SELECT {keys.format('')} AS k FROM (SELECT {listed})", {})


def test_only_files_have_metadata(files: Any, share: str) -> None:
    head = f"INSERT OVERWRITE DIRECTORY 's3://{share}x/' USING PARQUET"
    sql = f"{head} SELECT _metadata.file_path FROM main.weather.forecasts"
    with pytest.raises(StatementError, match="_metadata"):
        execute(files, sql, {})


def test_a_column_named_as_the_metadata_wins_over_it(files: Any, share: str) -> None:
    with files.open(f"s3://{share}in/a.parquet", "wb") as file:
        pq.write_table(pa.table({"_metadata": [{"file_path": "mine"}]}), file)
    head = f"INSERT OVERWRITE DIRECTORY 's3://{share}out/' USING PARQUET"
    sql = f"{head} SELECT *, _metadata.file_path FROM IDENTIFIER(:source)"
    execute(files, sql, {"source": f"parquet.`s3://{share}in/`"})
    assert read(files, f"{share}out/")[0].to_pylist() == [{"_metadata": {"file_path": "mine"}, "file_path": "mine"}]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("TYPEOF(STRUCT(*))", "struct<a:bigint,b:decimal(10,2),c:string>"),
        ("MIN(TYPEOF(STRUCT(t.*)))", "struct<a:bigint,b:decimal(10,2),c:string>"),
        ("TYPEOF(STRUCT(* EXCEPT (b)))", "struct<a:bigint,c:string>"),
        ("TYPEOF(STRUCT(t.c, a AS `it's`, a > 1, 'x'))", "struct<c:string,it's:bigint,col3:boolean,col4:string>"),
        ("TYPEOF(b)", "decimal(10,2)"),
        ("TYPEOF(TYPEOF(b))", "string"),
        ("TYPEOF(:note)", "string"),
        ("TYPEOF(MAX(a))", "bigint"),
        ("TYPEOF(CURRENT_TIMESTAMP())", "timestamp"),
        ("TYPEOF(NULL)", "void"),
        ("(SELECT TYPEOF(STRUCT(*)) FROM u)", "struct<n:bigint>"),
        ("(SELECT TYPEOF(STRUCT(*)) FROM (SELECT a AS x FROM t WHERE c = :note) AS s)", "struct<x:bigint>"),
    ],
)
def test_typeof_answers_in_sparks_words(lake: str, files: Any, share: str, expression: str, expected: str) -> None:
    table = pa.table({"a": [1], "b": pa.array(["1.50"]).cast(pa.decimal128(10, 2)), "c": ["x"]})
    write_table(lake, "main.weather.kinds", table)
    sql = f"""
        INSERT OVERWRITE DIRECTORY 's3://{share}out/' USING PARQUET
        WITH t AS (SELECT * FROM main.weather.kinds), u AS (SELECT COUNT(*) AS n FROM t)
        SELECT {expression} AS answer FROM t
    """
    execute(files, sql, {"note": "x"})
    assert read(files, f"{share}out/")[0].to_pylist() == [{"answer": expected}]


def test_the_type_of_a_join_and_of_what_spark_has_no_type_for(files: Any, share: str) -> None:
    head = f"INSERT OVERWRITE DIRECTORY 's3://{share}out/' USING PARQUET "
    sql = f"""{head} SELECT DISTINCT TYPEOF(STRUCT(*)) AS answer
        FROM main.weather.city_temperatures AS c
        JOIN main.weather.daily_observations AS d ON d.wind_mph > 0 AND c.temperature_f > 70"""
    execute(files, sql, {})
    assert read(files, f"{share}out/")[0].to_pylist() == [
        {
            "answer": "struct<city:string,observed_at:timestamp,temperature_f:double,station:string,observed_on:date,"
            "precipitation_in:double,temp_min_f:double,temp_max_f:double,wind_mph:double,weather:string>"
        }
    ]
    with pytest.raises(StatementError, match=r"\[UNSUPPORTED_DATATYPE\] Spark has no type for TIME"):
        execute(files, f"{head} SELECT TYPEOF(CAST('10:00' AS TIME)) AS a", {})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("CAST('10:00' AS TIME) AS it", r"^\[UNSUPPORTED_TIME_TYPE\] The data type TIME is not supported"),
        (
            "INTERVAL '1' DAY AS it",
            r"^\[UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE\] The Parquet datasource doesn't support the column `it`",
        ),
        ("STRUCT(INTERVAL '1' DAY AS x) AS it", r"^\[UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE\]"),
        ("1 AS it, 2 AS It", r"^\[COLUMN_ALREADY_EXISTS\] The column `it` already exists"),
    ],
)
def test_columns_that_spark_does_not_write_are_refused(files: Any, share: str, query: str, message: str) -> None:
    sql = f"INSERT OVERWRITE DIRECTORY 's3://{share}out/' USING PARQUET SELECT {query}"
    with pytest.raises(StatementError, match=message):
        execute(files, sql, {})
    assert names(files, f"{share}out/") == []


def test_a_table_that_delta_for_python_cannot_read_is_not_called_absent(lake: str, files: Any, share: str) -> None:
    year_12345 = pa.array([3_789_666], pa.int32()).cast(pa.date32())
    write_table(lake, "main.weather.far", pa.table({"day": year_12345}))
    sql = f"INSERT OVERWRITE DIRECTORY 's3://{share}out/' USING PARQUET SELECT * FROM main.weather.far"
    with pytest.raises(
        StatementError, match=r"\[INTERNAL_ERROR\] The sandbox cannot read main.weather.far: .*isoformat"
    ):
        execute(files, sql, {})


def test_a_table_may_be_named_in_any_way_that_databricks_knows(files: Any, values: dict[str, str], share: str) -> None:
    sql = f"""
        INSERT OVERWRITE DIRECTORY 's3://{share}data/a/' USING parquet
        WITH cold AS (SELECT * FROM IDENTIFIER('main.' || :s || '.forecasts') AS f WHERE f.forecast_temp_min_f < 20)
        SELECT cold.weather_date, forecasts.weather
        FROM cold JOIN Main.weather.FORECASTS ON cold.weather_date = forecasts.weather_date;

        -- a comment; with a semicolon
        INSERT OVERWRITE DIRECTORY 's3://{share}b' USING PARQUET
        SELECT count(*) AS n, min(p.weather_date) AS first FROM parquet.`s3://{share}data/a` AS p;
    """
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
        ({"data_path": "/tmp/data/"}, r"PERMISSION_DENIED: No parent external location found for path '/tmp/data/'"),
        ({"data_path": "s3://another-bucket/data/"}, "PERMISSION_DENIED"),
        ({"manifest_path": "s3://another-bucket/manifest/"}, "PERMISSION_DENIED"),
    ],
)
def test_wrong_values_fail_in_databricks_words(
    files: Any, values: dict[str, str], share: str, change: dict[str, str], message: str
) -> None:
    with pytest.raises(StatementError, match=message):
        execute(files, SQL, values | change)
    assert names(files, f"{share}manifest/") == []


@pytest.mark.parametrize("path", ["", "/tmp/data/", "s3://databricks-snowflake-share/../unity-catalog/x"])
def test_a_place_that_nobody_may_write_to_is_refused(files: Any, path: str) -> None:
    with pytest.raises(StatementError, match=r"\[INVALID_EMPTY_LOCATION\]|PERMISSION_DENIED"):
        execute(files, INSERT.format(f"'{path}'"), {})


def refused(files: Any, values: dict[str, str], name: str, texts: dict[str, str]) -> dict[str, str]:
    """What is said, or was written, but for the sentence that names the parameter."""
    before = files.find("databricks-snowflake-share")
    wrong = {}
    for kind, text in texts.items():
        with pytest.raises(StatementError) as caught:
            execute(files, SQL, values | {name: text})
        if not re.match(rf"\[USER_RAISED_EXCEPTION\] The (job )?parameter {name} must be a ", str(caught.value)):
            wrong[kind] = str(caught.value)
    files.invalidate_cache()
    assert files.find("databricks-snowflake-share") == before
    return wrong


def test_a_source_that_is_no_table_in_backticks_ends_the_export_before_it_writes(
    files: Any, values: dict[str, str]
) -> None:
    assert refused(files, values, "source_table", NO_SOURCES | WITHOUT_BACKTICKS) == {}


@pytest.mark.parametrize("name", ["data_path", "manifest_path"])
def test_a_path_of_other_characters_ends_the_export_before_it_writes(
    files: Any, values: dict[str, str], name: str
) -> None:
    assert refused(files, values, name, no_paths(values[name])) == {}


def test_each_source_of_a_dataset_file_is_asked_for_by_its_name(lake: str, files: Any, values: dict[str, str]) -> None:
    session = Session(lake, files)
    session.execute(SQL.partition(EXPORT)[0], values)
    for source in map(source_name, SOURCES[1:]):
        with pytest.raises(StatementError, match=r"^\[TABLE_OR_VIEW_NOT_FOUND\]") as caught:
            session.execute(f"{CHECK_OF_THE_SOURCE}; {EXPORT}", values | {"source_table": source})
        assert ".".join(part if "`" in part else f"`{part}`" for part in source.split(".")) in str(caught.value)
    session.close()


def test_what_is_bound_may_hold_anything(files: Any, values: dict[str, str], share: str) -> None:
    text = (
        " ".join(no_paths("s3://bucket/path/").values()).replace("\x00", "") + "'; DROP TABLE x -- {} :dataset ? */ \\"
    )
    execute(files, SQL, values | {"run_key": text, "dataset": text[::-1]})
    row = read(files, f"{share}manifest/")[0].to_pylist()[0]
    assert (row["run_key"], row["dataset"], row["row_count"]) == (text, text[::-1], 1461)


@pytest.mark.parametrize("proof", ["checksums", "counts"])
def test_a_column_that_spark_would_replace_ends_the_export_without_a_manifest(
    lake: str, files: Any, values: dict[str, str], share: str, proof: str
) -> None:
    write_table(lake, "main.weather.variables", pa.table({"a": [1], "x${env:HOME}": [1]}))
    with pytest.raises(StatementError, match=r"^\[USER_RAISED_EXCEPTION\] A column has a dollar sign before a brace"):
        execute(files, SQL, values | {"source_table": "main.weather.variables", "proof": proof})
    assert names(files, f"{share}manifest/") == []
    write_table(lake, "main.weather.dollars", pa.table({"$a": [1], "{b}$": [1], "{}": [2]}))
    execute(files, SQL, values | {"source_table": "main.weather.dollars", "proof": proof})
    assert list(columns(read(files, f"{share}manifest/")[0].to_pylist()[0])) == ["$a", "{b}$", "{}"]


def test_a_text_writes_what_is_bound_to_it(files: Any, share: str) -> None:
    statements = f"""
        DECLARE OR REPLACE VARIABLE n BIGINT;
        DECLARE OR REPLACE VARIABLE t STRING;
        DECLARE OR REPLACE VARIABLE statement STRING;
        SET VAR n = 5;
        SET VAR t = 'main.weather.forecasts';
        SET VAR statement =
          'INSERT OVERWRITE DIRECTORY "s3://{share}out/" USING PARQUET
           SELECT DISTINCT :n AS n, :x AS x, :y AS y FROM IDENTIFIER(:t) WHERE :n > 4;';
        EXECUTE IMMEDIATE statement USING n AS n, "it's" AS x, 7 AS y, t AS t
    """
    execute(files, statements, {"n": "another"})
    rows, metadata = read(files, f"{share}out/")
    assert rows.to_pylist() == [{"n": 5, "x": "it's", "y": 7}]
    assert metadata[0].schema.column(0).physical_type == "INT64"


@pytest.mark.parametrize("name", ["data_path", "source_table", "run_key"])
def test_a_marker_without_a_value_fails(files: Any, values: dict[str, str], name: str) -> None:
    del values[name]
    with pytest.raises(StatementError, match=rf"\[UNBOUND_SQL_PARAMETER\] Found the unbound parameter: {name}\."):
        execute(files, SQL, values)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE main.weather.forecasts", r"\[PARSE_SYNTAX_ERROR\] Syntax error at or near 'DROP'"),
        ("INSERT OVERWRITE DIRECTORY :data_path USING PARQUET SELECT 1 AS a", r"\[PARSE_SYNTAX_ERROR\].*near ':'"),
        ("INSERT OVERWRITE DIRECTORY ? USING PARQUET SELECT 1 AS a", r"\[PARSE_SYNTAX_ERROR\]"),
        (
            "INSERT OVERWRITE DIRECTORY '{data}' || 'x/' USING PARQUET SELECT 1 AS a",
            r"\[PARSE_SYNTAX_ERROR\].*near '\|\|'",
        ),
        ("INSERT OVERWRITE DIRECTORY IDENTIFIER('{data}') USING PARQUET SELECT 1 AS a", r"\[PARSE_SYNTAX_ERROR\]"),
        ("INSERT OVERWRITE DIRECTORY", r"\[PARSE_SYNTAX_ERROR\]"),
        ("INSERT OVERWRITE DIRECTORY '{data}' USING CSV SELECT 1", r"\[DATA_SOURCE_NOT_FOUND\].*CSV"),
        ("INSERT OVERWRITE DIRECTORY '{data}' USING PARQUET", r"\[PARSE_SYNTAX_ERROR\]"),
        ("INSERT OVERWRITE DIRECTORY '{data}' USING PARQUET SELECT FROM WHERE", r"\[PARSE_SYNTAX_ERROR\]"),
        ("INSERT OVERWRITE DIRECTORY '{data}' USING PARQUET SELECT nothing_such AS a", "nothing_such"),
        ("INSERT OVERWRITE DIRECTORY '{data}' USING PARQUET SELECT * FROM IDENTIFIER(now())", "NOT_A_CONSTANT"),
        ("INSERT OVERWRITE DIRECTORY '{data}' USING PARQUET SELECT * FROM read_text('/etc/passwd')", "Error|cannot"),
    ],
)
def test_wrong_statements_fail(files: Any, values: dict[str, str], share: str, statement: str, message: str) -> None:
    with pytest.raises(StatementError, match=message):
        execute(files, statement.replace("{data}", values["data_path"]), values)
    assert names(files, share) == []


def test_an_interrupted_statement_commits_nothing(lake: str, files: Any, values: dict[str, str], share: str) -> None:
    session = Session(lake, files)
    sql = f"""
        INSERT OVERWRITE DIRECTORY '{values["data_path"]}' USING PARQUET
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
