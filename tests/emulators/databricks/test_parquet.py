from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emulators.databricks.export import Session
from emulators.databricks.parquet import open_directory, overwrite_directory, spark_type

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

MANIFEST = """
    INSERT OVERWRITE DIRECTORY '{out}' USING PARQUET
    SELECT COUNT(*) AS row_count, COUNT(DISTINCT _metadata.file_path) AS file_count,
      MAX(TYPEOF(STRUCT(*))) AS column_types
    FROM IDENTIFIER('parquet.`' || :source || '`')
"""
INSTANT = datetime(2026, 1, 2, 3, 4, 5, 678901)
INT96 = {"use_deprecated_int96_timestamps": True, "store_schema": False}


@pytest.fixture
def folder(tmp_path: Any) -> str:
    return f"s3://databricks-snowflake-share/{tmp_path.name}/in/"


def write(files: Any, folder: str, name: str, table: pa.Table, **options: Any) -> None:
    with files.open(f"{folder}{name}", "wb") as file:
        pq.write_table(table, file, **options)


def manifest(files: Any, folder: str) -> dict[str, Any]:
    out = folder.replace("/in/", "/out/")
    session = Session(files.client_kwargs["endpoint_url"], files)
    try:
        session.execute(MANIFEST.format(out=out), {"source": folder})
    finally:
        session.close()
    (written,) = [file for file in files.find(out) if file.endswith(".parquet")]
    return dict(pq.ParquetFile(files.open(written)).read().to_pylist()[0])


@pytest.mark.parametrize(
    ("value", "kind", "options", "expected"),
    [
        (True, pa.bool_(), {}, "boolean"),
        (1, pa.int8(), {}, "tinyint"),
        (1, pa.int16(), {}, "smallint"),
        (1, pa.int32(), {}, "int"),
        (1, pa.int64(), {}, "bigint"),
        (1, pa.uint8(), {}, "smallint"),
        (1, pa.uint16(), {}, "int"),
        (1, pa.uint32(), {}, "bigint"),
        (1, pa.uint64(), {}, "decimal(20,0)"),
        (1.5, pa.float32(), {}, "float"),
        (1.5, pa.float64(), {}, "double"),
        (Decimal("1.50"), pa.decimal128(10, 2), {}, "decimal(10,2)"),
        (Decimal(1), pa.decimal128(38, 0), {}, "decimal(38,0)"),
        ("x", pa.string(), {}, "string"),
        (b"x", pa.binary(), {}, "binary"),
        (date(2026, 1, 2), pa.date32(), {}, "date"),
        (INSTANT, pa.timestamp("us", "UTC"), {}, "timestamp"),
        (INSTANT, pa.timestamp("us", "UTC"), INT96, "timestamp"),
        (INSTANT, pa.timestamp("us"), {}, "timestamp_ntz"),
        (INSTANT.replace(microsecond=0), pa.timestamp("ms"), {}, "timestamp_ntz"),
        (INSTANT, pa.timestamp("us"), INT96, "timestamp"),
        ([1], pa.list_(pa.int32()), {}, "array<int>"),
        ([[INSTANT]], pa.list_(pa.list_(pa.timestamp("us"))), INT96, "array<array<timestamp>>"),
        ([("x", 1)], pa.map_(pa.string(), pa.int64()), {}, "map<string,bigint>"),
        ([("x", INSTANT)], pa.map_(pa.string(), pa.timestamp("us", "UTC")), INT96, "map<string,timestamp>"),
        ({"x": 1, "y": "z"}, pa.struct([("x", pa.int32()), ("y", pa.string())]), {}, "struct<x:int,y:string>"),
        (None, pa.null(), {}, "void"),
    ],
)
def test_each_type_has_sparks_name(
    files: Any, folder: str, value: Any, kind: pa.DataType, options: dict[str, Any], expected: str
) -> None:
    # Between two others: the INT96 column is found by its place among all columns.
    table = pa.table({"first": [1], "it": pa.array([value], kind), "last": ["x"]})
    write(files, folder, "part.parquet", table, **options)

    assert manifest(files, folder)["column_types"] == f"struct<first:bigint,it:{expected},last:string>"


def test_the_manifest_of_several_files_is_that_of_spark(files: Any, folder: str) -> None:
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("d", pa.decimal128(10, 2)),
            ("date", pa.date32()),
            ("ts", pa.timestamp("us", "UTC")),
            ("st", pa.struct([("x", pa.int32()), ("y", pa.string())])),
            ("arr", pa.list_(pa.int32())),
            ("n", pa.string()),
            ("tn", pa.timestamp("us")),
            ("b", pa.binary()),
        ]
    )
    row = {"id": 1, "d": Decimal("1.50"), "ts": INSTANT.replace(tzinfo=UTC), "arr": [1], "tn": INSTANT, "b": b"x"}
    for name, rows in {"part-0": [], "part-1": [row], "part-2": [row, row], "_SUCCESS": [row], ".part": [row]}.items():
        write(files, folder, f"{name}.parquet", pa.Table.from_pylist(rows, schema))

    assert manifest(files, folder) == {
        "row_count": 3,
        "file_count": 2,
        "column_types": "struct<id:bigint,d:decimal(10,2),date:date,ts:timestamp,st:struct<x:int,y:string>,"
        "arr:array<int>,n:string,tn:timestamp_ntz,b:binary>",
    }


def test_the_manifest_of_files_without_rows_has_no_columns(files: Any, folder: str) -> None:
    for name in ("a", "b"):
        write(files, folder, f"{name}.parquet", pa.table({"id": pa.array([], pa.int64())}))

    assert manifest(files, folder) == {"row_count": 0, "file_count": 0, "column_types": None}


def test_int96_is_an_instant_of_any_year_and_other_columns_are_as_written(files: Any, folder: str) -> None:
    naive = datetime(2300, 1, 2, 3, 4, 5, 678901)  # nanoseconds would end in 2262
    table = pa.table({"at": pa.array([naive], pa.timestamp("us")), "nested": [{"x": [1]}], "note": ["ü"]})
    write(files, folder, "part.parquet", table, **INT96)

    rows = open_directory(files, folder).to_table()

    path = f"{folder}part.parquet"
    assert rows.to_pylist() == [
        {
            "at": naive.replace(tzinfo=UTC),
            "nested": {"x": [1]},
            "note": "ü",
            "_metadata.file_path": path,
            "_metadata.file_name": "part.parquet",
            "_metadata.file_size": files.size(path),
        }
    ]


def test_each_type_is_written_as_spark_writes_it_and_read_again(files: Any, folder: str) -> None:
    columns = {
        "instant": (pa.timestamp("us", "UTC"), INSTANT.replace(tzinfo=UTC), "INT96", "None"),
        "local": (pa.timestamp("us"), INSTANT, "INT64", "Timestamp(isAdjustedToUTC=false, timeUnit=microseconds"),
        "seconds": (
            pa.timestamp("s"),
            INSTANT.replace(microsecond=0),
            "INT64",
            "Timestamp(isAdjustedToUTC=false, time",
        ),
        "nothing": (pa.null(), None, "BOOLEAN", "Null"),
        "short": (pa.decimal128(9, 2), Decimal("1.50"), "INT32", "Decimal(precision=9, scale=2)"),
        "middle": (pa.decimal128(18, 2), Decimal("1.50"), "INT64", "Decimal(precision=18, scale=2)"),
        "long": (pa.decimal128(19, 2), Decimal("1.50"), "FIXED_LEN_BYTE_ARRAY", "Decimal(precision=19, scale=2)"),
        "byte": (pa.int8(), 1, "INT32", "Int(bitWidth=8, isSigned=true)"),
        "unsigned": (pa.uint32(), 2**32 - 1, "INT64", "None"),
        "list": (pa.list_(pa.timestamp("us")), [INSTANT, None], "INT64", "Timestamp(isAdjustedToUTC=false"),
        "pairs": (pa.map_(pa.string(), pa.null()), [("a", None)], "BYTE_ARRAY", "String"),
    }
    table = pa.table({name: pa.array([value, None], kind) for name, (kind, value, *_) in columns.items()})

    overwrite_directory(files, folder, table.to_reader(), lambda: None)

    (path,) = [file for file in files.find(folder) if file.endswith(".parquet")]
    schema = pq.ParquetFile(files.open(path)).schema
    leaves = [schema.column(number) for number in range(len(schema))]
    for name, (_, _, physical, logical) in columns.items():
        leaf = next(leaf for leaf in leaves if leaf.path.split(".")[0] == name)
        assert (name, leaf.physical_type) == (name, physical)
        assert str(leaf.logical_type).startswith(logical), name
        assert leaf.max_definition_level > 0
    assert str(leaves[-1].logical_type) == "Null"
    read = open_directory(files, folder).to_table().select(list(columns)).to_pylist()
    assert read == table.to_pylist()


def test_a_directory_without_data_files_is_none(files: Any, folder: str) -> None:
    files.pipe_file(f"{folder}_SUCCESS", b"")
    with pytest.raises(FileNotFoundError):
        open_directory(files, folder)


@pytest.mark.parametrize("name", ["TIME", "INTERVAL", "STRUCT(x TIME)", "TIMESTAMP_NS"])
def test_what_spark_has_no_type_for(name: str) -> None:
    with pytest.raises(ValueError, match="Spark has no type for"):
        spark_type(duckdb.sqltype(name))
