"""The SQL of the export on real Spark, and what the sandbox's own engine makes of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_share.render import export_sql
from data_share.snowflake.exported_schema import exported_columns
from data_share.source import Source
from data_share.sql_text import source_name
from emulators.databricks import parquet
from emulators.databricks.export import StatementError
from tests.sandbox.kinds import KINDS, ROWS, comparable, source, spark_types
from tests.sandbox.spark.engines import EXPORT, EXPORT_SQL, HASH_KEY, MANIFEST_SQL, SHARE, Engines, Export
from tests.source_names import KEY_WORDS, NO_SOURCES, SOURCES, WITHOUT_BACKTICKS, no_paths

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox, pytest.mark.spark]

# TYPEOF writes the names in a struct without quotes.
STRUCT_AS_IT_IS = {"struct": spark_types()["struct"].replace("`", "")}
CHECK_OF_THE_SOURCE = re.findall(r"SET VAR source_table = CASE[^;]*", EXPORT_SQL)[0]
PART = re.compile(r"part-\d{5}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-c\d{3}\.snappy\.parquet")


@pytest.fixture(scope="module")
def table(engines: Engines) -> str:
    """A source table with a column of each type."""
    return engines.write_source(source(), spark_types())


@pytest.fixture(scope="module")
def exports(engines: Engines, table: str) -> tuple[Export, Export]:
    """That table, exported by Spark and by the emulator."""
    return engines.export(table)


def leaves(part: pq.ParquetFile, column: str) -> list[dict[str, Any]]:
    """What a file says of a column, or of the columns that a nested one consists of."""
    group = part.metadata.row_group(0)
    return [
        {
            "path": leaf.path,
            "physical": leaf.physical_type,
            "length": leaf.length,
            "logical": str(leaf.logical_type),
            "converted": leaf.converted_type,
            "decimal": (leaf.precision, leaf.scale),
            # Repetition: what is optional or repeated on the way to the values.
            "levels": (leaf.max_definition_level, leaf.max_repetition_level),
            "compression": group.column(number).compression,
        }
        for number, leaf in enumerate(map(part.schema.column, range(len(part.schema))))
        if leaf.path == column or leaf.path.startswith(f"{column}.")
    ]


def schema(part: pq.ParquetFile) -> str:
    """The columns as Parquet's own tools write them, with repetition, physical and logical types."""
    return str(part.schema).split("\n", 1)[1]


@pytest.mark.parametrize("column", ["k", *KINDS])
def test_each_type_is_written_as_spark_writes_it(exports: tuple[Export, Export], column: str) -> None:
    on_spark, on_emulator = (export.parts() for export in exports)
    assert len(on_spark) == len(on_emulator) == 1
    assert leaves(on_emulator[0], column) == leaves(on_spark[0], column) != []


@pytest.mark.parametrize("column", ["k", *KINDS])
def test_each_value_is_that_of_spark_and_of_the_source(exports: tuple[Export, Export], column: str) -> None:
    on_spark, on_emulator = (comparable(export.rows()[column]) for export in exports)
    assert on_spark == comparable(source()[column])
    assert on_emulator == on_spark


def test_whole_files_have_the_same_columns(exports: tuple[Export, Export]) -> None:
    for directory in ("data", "manifest"):
        [on_spark], [on_emulator] = (export.parts(directory) for export in exports)
        assert schema(on_emulator) == schema(on_spark)


def test_the_manifest_is_that_of_spark(exports: tuple[Export, Export], table: str) -> None:
    manifests = [export.manifest() for export in exports]
    for row in manifests:
        age = datetime.now(UTC) - row.pop("exported_at").replace(tzinfo=UTC)
        assert timedelta() < age < timedelta(minutes=10)
    # Each engine packs the rows in its own way.
    told = [row.pop("bytes_exported") for row in manifests]
    assert told == [sum(path.stat().st_size for path in export.folder.glob("data/*.parquet")) for export in exports]
    on_spark, on_emulator = manifests
    columns = on_spark.pop("column_types"), on_emulator.pop("column_types")
    assert exported_columns(columns[0]) == exported_columns(columns[1]) == spark_types() | STRUCT_AS_IT_IS
    assert on_emulator == on_spark
    assert on_spark == {
        "run_key": 'it\'s a "key" -- ü',
        "dataset": "everything",
        "source_table": table,
        "row_count": ROWS,
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
        "source_rows": ROWS,
        "source_has_feed": None,
    }


def test_a_manifest_of_a_version_is_that_of_spark(engines: Engines, exports: tuple[Export, Export], table: str) -> None:
    row = {"to_version": "7", "committed_at": "1764403200123000", "table_id": "176", "export_reason": "it's a reason"}
    given = {"source_table": table, "run_key": "key", "dataset": "everything", "proof": "counts", "source": ""}
    written = engines.on_spark(MANIFEST_SQL, {**given, **row, "data_path": f"{exports[0].folder}/data/"})
    manifest = written.manifest()
    told = {name: manifest[name] for name in ("source_version", "source_table_id", "export_mode", "export_reason")}
    assert told == {
        "source_version": 7,
        "source_table_id": "176",
        "export_mode": "full",
        "export_reason": "it's a reason",
    }
    assert manifest["source_committed_at"].replace(tzinfo=UTC) == datetime(2025, 11, 29, 8, 0, 0, 123_000, UTC)
    assert manifest["from_version"] is None


def sums(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the values of each column sum up to; the two engines write a DOUBLE as different texts."""
    columns: list[dict[str, Any]] = json.loads(manifest["column_types"])
    for column in columns:
        for name in ("minimum", "maximum", "total", "magnitude"):
            if column.get(name) is not None:
                column[name] = float(column[name])
    return columns


def test_the_sums_of_the_values_are_those_of_spark(exports: tuple[Export, Export]) -> None:
    on_spark, on_emulator = (sums(export.manifest()) for export in exports)
    for column, same in zip(on_spark, on_emulator, strict=True):
        assert same == column
    proven = {column["type"] for column in on_spark if column.get("checksum") or "finite" in column}
    nested = {column["type"] for column in on_spark if column["type"].startswith(("array", "map", "struct"))}
    assert proven == {column["type"] for column in on_spark} - nested


def test_spark_reads_the_files_of_the_emulator_as_its_own(spark: Any, exports: tuple[Export, Export]) -> None:
    on_spark, on_emulator = (spark.read.parquet(f"{export.folder}/data").orderBy("k") for export in exports)
    assert on_emulator.schema.json() == on_spark.schema.json()
    text = [
        f"HEX(`{name}`)" if kind == "binary" else f"CAST(`{name.replace('`', '``')}` AS STRING)"
        for name, kind in spark_types().items()
    ]
    rows = on_spark.selectExpr(*text).collect()
    assert on_emulator.selectExpr(*text).collect() == rows
    assert len(rows) == ROWS


def test_the_zone_of_the_session_changes_nothing(
    spark: Any, engines: Engines, table: str, exports: tuple[Export, Export]
) -> None:
    zone = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "Asia/Kolkata")
    try:
        elsewhere = engines.export(table)[0].rows()
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    here = exports[1].rows()
    for column in here.column_names:
        assert comparable(elsewhere[column]) == comparable(here[column]), column


def test_an_empty_table(engines: Engines) -> None:
    exports = engines.export(engines.write_source(source().slice(0, 0), spark_types()))
    [on_spark], [on_emulator] = (export.parts() for export in exports)
    assert schema(on_emulator) == schema(on_spark)
    assert on_emulator.metadata.num_rows == on_spark.metadata.num_rows == 0
    for export in exports:
        row = export.manifest()
        assert (row["row_count"], row["file_count"]) == (0, 0)
        assert exported_columns(row["column_types"]) == spark_types() | STRUCT_AS_IT_IS


@pytest.mark.parametrize("rows", [1, 0])
def test_names_that_look_like_types_are_told_apart(spark: Any, engines: Engines, rows: int) -> None:
    columns = {
        "a:int,b": "1",
        "c<decimal(38,9)>": "'x'",
        "größe ``in`` m": "CAST(1.5 AS DECIMAL(10, 2))",
        'say "it"': "ARRAY(NAMED_STRUCT('odd, name', 1, 'b:int,c', MAP('k', 2)))",
        "\\N": "NAMED_STRUCT('c', 1, 'a:int,b', 'x')",
        "nothing": "CAST(NULL AS MAP<STRING, ARRAY<INT>>)",
        "files": "TIMESTAMP_NTZ'2026-01-01 00:00:00'",
        "_metadata": "'x'",
        "__METADATA": "NAMED_STRUCT('file_path', 'x')",
        "{}": "1",
        "$a": "1",
        "{b}$": "1",
        "names": "'x'",
        "n": "DATE'2026-01-01'",
        "counted_rows": "1",
    }
    listed = ", ".join(f"{value} AS `{name}`" for name, value in columns.items())
    spark.sql(f"SELECT {listed} FROM RANGE({rows})").write.parquet(f"{engines.scratch}/odd_{rows}/data")
    found = engines.manifest_of(f"{engines.scratch}/odd_{rows}/data/")
    assert exported_columns(found["column_types"]) == {
        "a:int,b": "int",
        "c<decimal(38,9)>": "string",
        "größe `in` m": "decimal(10,2)",
        'say "it"': "array<struct<odd, name:int,b:int,c:map<string,int>>>",
        "\\N": "struct<c:int,a:int,b:string>",
        "nothing": "map<string,array<int>>",
        "files": "timestamp_ntz",
        "_metadata": "string",
        "__METADATA": "struct<file_path:string>",
        "{}": "int",
        "$a": "int",
        "{b}$": "int",
        "names": "string",
        "n": "date",
        "counted_rows": "int",
    }
    assert (found["row_count"], found["file_count"]) == (rows, rows)


def test_several_files(spark: Any, engines: Engines, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_ROWS_PER_FILE", ROWS - 1)
    spark.conf.set("spark.sql.files.maxRecordsPerFile", ROWS - 1)
    try:
        exports = engines.export(table)
    finally:
        spark.conf.unset("spark.sql.files.maxRecordsPerFile")
    on_spark, on_emulator = exports
    assert [part.metadata.num_rows for part in on_spark.parts()] == [ROWS - 1, 1]
    assert [part.metadata.num_rows for part in on_emulator.parts()] == [ROWS - 1, 1]
    assert {schema(part) for part in on_emulator.parts()} == {schema(part) for part in on_spark.parts()}
    for column in on_spark.rows().column_names:
        assert comparable(on_emulator.rows()[column]) == comparable(on_spark.rows()[column]), column
    manifests = [export.manifest() for export in exports]
    assert [row["file_count"] for row in manifests] == [2, 2]
    assert sums(manifests[0]) == sums(manifests[1])


def test_the_names_of_the_files(exports: tuple[Export, Export]) -> None:
    on_spark, on_emulator = (export.names() for export in exports)
    assert [PART.sub("part", name) for name in on_spark] == ["_SUCCESS", "part"]
    # Databricks commits in its own way, and leaves two files more.
    assert [re.sub(r"\d+", "", PART.sub("part", name)) for name in on_emulator] == [
        "_SUCCESS",
        "_committed_",
        "_started_",
        "part",
    ]


def test_a_column_may_be_named_as_the_files_own(engines: Engines) -> None:
    paths = [{"file_path": name} for name in "abc"]
    rows = pa.table({"k": [1, 2, 3], "_Metadata": paths, "s": [{"_metadata": path} for path in paths]})
    struct = "struct<file_path: string>"
    types = {"k": "bigint", "_Metadata": struct, "s": f"struct<_metadata: {struct}>"}
    manifests = [export.manifest() for export in engines.export(engines.write_source(rows, types))]
    assert [(row["row_count"], row["file_count"]) for row in manifests] == [(3, 1)] * 2


@pytest.mark.parametrize("name", ["prod-eu", "größe", "2026", "1e5", "order", "say``hi", "o'clock"])
def test_a_source_may_have_any_name_of_unity_catalog(engines: Engines, name: str) -> None:
    from pyspark.errors import PySparkException

    # The session's own catalog lets no table have such a name; it is understood when it is told as it was meant.
    source = source_name(f"spark_catalog.lo-ad.{name if '`' not in name else f'`{name}`'}")
    message = re.escape(f"The table or view `spark_catalog`.`lo-ad`.`{name}` cannot be found")
    parameters = {"source_table": source, "run_key": "key", "dataset": "everything", "proof": "counts", "source": ""}
    with pytest.raises(PySparkException, match=message):
        engines.on_spark(EXPORT_SQL, parameters)
    with pytest.raises(StatementError, match=message):
        engines.on_emulator(EXPORT_SQL, parameters)


def test_each_source_of_a_dataset_file_is_asked_for_by_its_name(engines: Engines) -> None:
    from pyspark.errors import PySparkException

    values = {
        "source_table": "spark_catalog.`lo-ad`.absent",
        "run_key": "key",
        "dataset": "all",
        "proof": "counts",
        "source": "",
    }
    engines.on_spark(EXPORT_SQL.partition(EXPORT)[0], values)
    for name in sorted(set(map(source_name, SOURCES))):
        engines.on_spark(CHECK_OF_THE_SOURCE, values | {"source_table": name})
        part = name.removeprefix("main.sea.")
        if part == name or (len(part) > 3 and part not in KEY_WORDS):  # each character once
            continue
        asked = f"spark_catalog.`lo-ad`.{part}"
        with pytest.raises(PySparkException) as caught:
            engines.on_spark(f"{CHECK_OF_THE_SOURCE};{EXPORT}", values | {"source_table": asked})
        said = f"`spark_catalog`.`lo-ad`.{part if '`' in part else f'`{part}`'}"
        assert f"The table or view {said} cannot be found" in str(caught.value)


def test_a_name_that_needs_backticks_is_refused_without_them(engines: Engines) -> None:
    from pyspark.errors import PySparkException

    engines.on_spark("DECLARE OR REPLACE VARIABLE source_table STRING", {})
    for name in WITHOUT_BACKTICKS.values():
        with pytest.raises(PySparkException, match=r"\[USER_RAISED_EXCEPTION\] The job parameter source_table must be"):
            engines.on_spark(CHECK_OF_THE_SOURCE, {"source_table": name})


def hostile() -> dict[str, dict[str, str]]:
    """The parameter that each group of values is given to."""
    paths = no_paths("/tmp/share/export/data/")
    return {"source_table": NO_SOURCES, "data_path": paths, "manifest_path": paths}


@pytest.mark.parametrize("name", ["source_table", "data_path", "manifest_path"])
def test_what_may_not_become_sql_ends_the_export_before_it_writes(engines: Engines, table: str, name: str) -> None:
    from pyspark.errors import PySparkException

    values = {"source_table": table, "run_key": "key", "dataset": "all", "proof": "counts", "source": ""}
    before = set(engines.scratch.rglob("*"))
    wrong = {}
    for kind, text in hostile()[name].items():
        with pytest.raises(PySparkException) as caught:
            engines.on_spark(EXPORT_SQL, values | {name: text})
        if not re.match(rf"\[USER_RAISED_EXCEPTION\] The (job )?parameter {name} must be a ", str(caught.value)):
            wrong[kind] = str(caught.value)
    assert wrong == {}
    assert set(engines.scratch.rglob("*")) == before
    assert not Path("/tmp/share/export").exists()


def test_what_is_bound_may_hold_anything(engines: Engines, table: str) -> None:
    text = " ".join(no_paths("s3://bucket/path/").values()) + "'; DROP TABLE x -- {} :dataset ? */ \\ ${env:HOME}"
    values = {"source_table": table, "run_key": text, "dataset": text[::-1], "proof": "counts", "source": ""}
    row = engines.on_spark(EXPORT_SQL, values).manifest()
    assert (row["run_key"], row["dataset"], row["source_table"], row["row_count"]) == (text, text[::-1], table, ROWS)


def test_a_column_whose_name_spark_would_replace_is_refused(spark: Any, engines: Engines) -> None:
    from pyspark.errors import PySparkException

    path = f"{engines.scratch}/replaced/data/"
    spark.createDataFrame([(1, 2)], ["a", "x${env:HOME}"]).write.parquet(path)
    with pytest.raises(PySparkException, match=r"\[USER_RAISED_EXCEPTION\] A column has a dollar sign before a brace"):
        engines.manifest_of(path)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT NULL AS nothing, 1 AS one, 'x' AS text, CAST(1.5 AS DECIMAL(3, 1)) AS number",
        "SELECT MAP('a', NULL) AS pairs, ARRAY(1, 2) AS list, NAMED_STRUCT('n', NULL) AS pair",
        "SELECT MAX(k) AS last, MIN(`timestamp_ntz`) AS first FROM IDENTIFIER(:source_table)",
    ],
)
def test_types_of_calculations(engines: Engines, table: str, query: str) -> None:
    sql = f"INSERT OVERWRITE DIRECTORY '{{data_path}}' USING PARQUET {query};"
    parameters = {"source_table": table}
    [on_spark] = engines.on_spark(sql, parameters).parts()
    [on_emulator] = engines.on_emulator(sql, parameters).parts()
    # What is never NULL is known to both only for what the manifest is made of.
    assert schema(on_emulator).replace("required", "optional") == schema(on_spark).replace("required", "optional")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT CAST('10:00:00' AS TIME) AS it", r"\[UNSUPPORTED_TIME_TYPE\] The data type TIME is not supported"),
        (
            "SELECT 1 AS it, 2 AS It",
            r"\[COLUMN_ALREADY_EXISTS\] The column `it` already exists. Choose another name or rename the existing",
        ),
        ("SELECT * FROM spark_catalog.load.absent", r"\[TABLE_OR_VIEW_NOT_FOUND\] The table or view"),
        (
            "SELECT * FROM IDENTIFIER('spark_catalog.lo-ad.tides')",
            r"\[INVALID_IDENTIFIER\] The unquoted identifier lo-ad is invalid and must be back quoted as: `lo-ad`",
        ),
        ("SELECT * FROM IDENTIFIER(:absent)", r"\[UNBOUND_SQL_PARAMETER\] Found the unbound parameter: absent"),
    ],
)
def test_what_spark_refuses_is_refused_in_its_words(engines: Engines, query: str, message: str) -> None:
    sql = f"INSERT OVERWRITE DIRECTORY '{{data_path}}' USING PARQUET {query};"
    from pyspark.errors import PySparkException

    with pytest.raises(PySparkException, match=message):
        engines.on_spark(sql, {})
    with pytest.raises(StatementError, match=message):
        engines.on_emulator(sql, {})


@pytest.mark.parametrize(
    "fields",
    [
        {"columns": ["K", "a`b", "text", "day"], "rename": {"text": "x` AS y, '{}'"}, "hash": ["TEXT", "k", "day"]},
        {"exclude": ["TEXT"], "hash": ["a`b"]},
        {"rename": {"text": "a`b", "a`b": "text"}},
    ],
)
def test_chosen_columns_are_those_of_spark(engines: Engines, fields: dict[str, Any]) -> None:
    # Spark has no secrets; its AES_ENCRYPT is the one of Databricks.
    secret = f"CREATE OR REPLACE TEMPORARY FUNCTION secret(s STRING, k STRING) RETURNS STRING RETURN '{HASH_KEY}'"
    engines.spark.sql(secret)
    rows = pa.table(
        {
            "k": pa.array([1, 2], pa.int64()),
            "text": ["größe", None],
            "a`b": pa.array([True, None]),
            "day": pa.array([datetime(2026, 1, 2, tzinfo=UTC).date(), None]),
        }
    )
    name = engines.write_source(rows, {"k": "BIGINT", "text": "STRING", "a`b": "BOOLEAN", "day": "DATE"})
    parameters = {"source_table": name, "run_key": "key", "dataset": "chosen", "proof": "chosen_checksums"}
    parameters["source"] = json.dumps(Source.model_validate(fields).parameter())
    on_spark, on_emulator = engines.on_spark(EXPORT_SQL, parameters), engines.on_emulator(EXPORT_SQL, parameters)
    tables = [pa.concat_tables([part.read() for part in export.parts()]) for export in (on_spark, on_emulator)]
    assert tables[0].to_pydict() == tables[1].to_pydict()
    told = [export.manifest()["column_types"] for export in (on_spark, on_emulator)]
    assert [json.loads(text) for text in told] == [json.loads(told[0])] * 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"columns": ["K", "a`b", "text"], "rename": {"text": "x` AS y, '{}'"}, "hash": ["a`b"]},
        {"exclude": ["TEXT"], "where": "k > 1 AND text <> ')'"},
    ],
)
def test_a_source_is_described_as_spark_does_it(engines: Engines, fields: dict[str, Any]) -> None:
    engines.spark.sql(
        f"CREATE OR REPLACE TEMPORARY FUNCTION secret(s STRING, k STRING) RETURNS STRING RETURN '{HASH_KEY}'"
    )
    rows = pa.table({"k": pa.array([1, 2], pa.int64()), "text": ["a", "b"], "a`b": pa.array([True, None])})
    types = {"k": "BIGINT", "text": "STRING", "a`b": "BOOLEAN"}
    chosen = Source.model_validate(fields)
    of_dataset: Any = SimpleNamespace(name="chosen", source=chosen)
    sql = export_sql([of_dataset], SHARE)
    parameters = {
        "source_table": engines.write_source(rows, types),
        "run_key": "key",
        "dataset": "chosen",
        "mode": "describe",
        "proof": "described",
        "source": json.dumps(chosen.parameter()) if fields else "",
    }
    exports = [engines.on_spark(sql, parameters), engines.on_emulator(sql, parameters)]
    assert [[path.name for path in export.folder.iterdir()] for export in exports] == [["manifest"]] * 2
    told = [export.manifest() for export in exports]
    for manifest in told:
        manifest.pop("exported_at")
    assert told[0] == told[1]
    assert told[0]["row_count"] == (1 if "where" in fields else 2)
    assert json.loads(told[0]["columns_that_stay"]) == (["text"] if "exclude" in fields else [])
    # As an export has them.
    del parameters["mode"]
    parameters["proof"] = "chosen_checksums" if fields else "checksums"
    exported = engines.on_spark(sql, parameters).manifest()["column_types"]
    assert exported_columns(told[0]["column_types"]) == exported_columns(exported)
    # A job without the mode, or another proof, does not describe.
    with pytest.raises(Exception, match="The job parameter mode must be empty, or describe"):
        engines.on_spark(sql, {**parameters, "mode": "describe"})


def test_a_description_has_the_types_of_an_export_on_spark(engines: Engines, table: str) -> None:
    parameters = {"source_table": table, "run_key": "key", "dataset": "everything", "source": ""}
    described = engines.on_spark(EXPORT_SQL, {**parameters, "mode": "describe", "proof": "described"}).manifest()
    assert exported_columns(described["column_types"]) == spark_types() | STRUCT_AS_IT_IS
    assert described["row_count"] == ROWS


def test_a_choice_that_is_none_ends_the_export_on_spark_too(engines: Engines, table: str) -> None:
    values = {"source_table": table, "run_key": "key", "dataset": "chosen", "proof": "checksums"}
    for text, said in {
        "no JSON": "The job parameter source must be JSON",
        '{"columns": [{"name": "k"}], "others": "kept"}': "The job parameter source must list columns",
        '{"columns": [{"name": "k", "alias": "${a}", "how": "kept"}], "others": "kept"}': "must list columns",
        json.dumps(Source(exclude=("absent",)).parameter()): "The source lacks these columns",
    }.items():
        with pytest.raises(Exception, match=said):
            engines.on_spark(EXPORT_SQL, values | {"source": text})
