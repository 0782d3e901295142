"""COPY INTO from the external stage."""

from __future__ import annotations

import datetime
import io
import re
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

SQL = Path(__file__).resolve().parents[3] / "include" / "sql" / "snowflake"
NOTHING = [["Copy executed with 0 files processed."]]


@pytest.fixture(scope="module", autouse=True)
def stage(api: Any, tools: Any) -> None:
    api.ok(f"CREATE STAGE exports URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT {tools.FILE_FORMAT}")


@pytest.fixture
def table(api: Any) -> Iterator[str]:
    name = f"T_{uuid.uuid4().hex}".upper()
    api.ok(f"CREATE TABLE {name} (id NUMBER, name VARCHAR)")
    yield name
    api.ok(f"DROP TABLE {name}")


@pytest.fixture
def copy(api: Any, table: str, folder: str, tools: Any) -> Callable[..., Any]:
    """Load the folder, or a path, into the table."""

    def run(path: str | None = None, options: str = "", verb: str = "rows") -> Any:
        source = f"@exports/{folder if path is None else path}"
        return getattr(api, verb)(f"COPY INTO {table} FROM {source} {tools.COPY} {options}")

    return run


def test_loads_the_files_that_the_pattern_lets_through(
    api: Any, table: str, folder: str, copy: Any, put: Any, tools: Any
) -> None:
    put(f"{folder}part-0.parquet", {"id": [1, 2], "name": ["a", "b"]})
    put(f"{folder}deeper/part-1.parquet", {"NAME": ["c"], "Id": [3], "extra": [True]})
    for name in ("_SUCCESS", "_committed_1", "_started_1", "part-2.parquet.crc"):
        put(f"{folder}{name}", b"not parquet")
    answer = copy(verb="ok")
    names = [column["name"] for column in answer["resultSetMetaData"]["rowType"]]
    assert names == [
        "file", "status", "rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error", "first_error_line",
        "first_error_character", "first_error_column_name",
    ]  # fmt: skip
    nulls = [None] * 4
    assert answer["data"] == [
        [f"{tools.URL}{folder}deeper/part-1.parquet", "LOADED", "1", "1", "1", "0", *nulls],
        [f"{tools.URL}{folder}part-0.parquet", "LOADED", "2", "2", "1", "0", *nulls],
    ]
    assert api.rows(f"SELECT * FROM {table} ORDER BY id") == [["1", "a"], ["2", "b"], ["3", "c"]]


def test_the_path_is_a_plain_prefix(copy: Any, folder: str, put: Any) -> None:
    put(f"{folder}abc/x.parquet", {"id": [1]})
    put(f"{folder}abc_old/x.parquet", {"id": [2]})
    assert len(copy(f"{folder}abc/")) == 1
    # The file below abc/ was loaded already, the neighbour is new.
    (row,) = copy(f"{folder}abc")
    assert row[0].endswith("abc_old/x.parquet")


def test_a_path_without_a_slash_matches_its_neighbours(copy: Any, folder: str, put: Any) -> None:
    for name in ("1/x.parquet", "10/x.parquet", "1.parquet", "2/x.parquet"):
        put(f"{folder}{name}", {"id": [1]})
    assert [row[0].rsplit(folder, 1)[1] for row in copy(f"{folder}1")] == ["1.parquet", "1/x.parquet", "10/x.parquet"]
    assert copy(f"{folder}1/") == NOTHING  # loaded already, and the neighbours are not looked at
    assert len(copy(f"{folder}2/")) == 1


@pytest.mark.parametrize(
    ("pattern", "loads"),
    [
        (".*[.]parquet", True),
        (".*/deep/x[.]parquet", True),
        ("x[.]parquet", False),
        ("[.]parquet", False),
        (".*[.]parque", False),
        (".*[.]PARQUET", False),
        # Matches in one of the two readings alone: the entire location, or the path below the stage.
        ("s3://.*/x[.]parquet", False),
        (".*dataset/run_.*", False),
        ("run_[^/]*/deep/x[.]parquet", False),
    ],
)
def test_the_pattern_must_match_the_whole_path(
    folder: str, put: Any, api: Any, table: str, tools: Any, pattern: str, loads: bool
) -> None:
    put(f"{folder}deep/x.parquet", {"id": [1]})
    options = f"{tools.FILE_FORMAT} MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE PATTERN = '{pattern}'"
    answer = api.rows(f"COPY INTO {table} FROM @exports/{folder} {options}")
    assert (answer != NOTHING) == loads


def test_the_products_pattern_holds_in_every_reading(tools: Any) -> None:
    """Whatever Snowflake matches: the entire location, the key, the path below the stage or below FROM."""
    (pattern,) = set(
        re.findall(r"^PATTERN = '(.*)'$", "".join(path.read_text() for path in sorted(SQL.glob("copy_*.sql"))), re.M)
    )
    below = "shared_forecasts/20261009T123456_0123abcd/1/data/"
    for name, loads in {
        "part-00000-tid-1-0f0e-c000.snappy.parquet": True,
        "part-00000-0f0e-c000.snappy.parquet": True,
        "_SUCCESS": False,
        "_started_123": False,
        "_committed_123": False,
        "part-00000.snappy.parquet.crc": False,
    }.items():
        for reading in (f"{tools.URL}{below}{name}", f"dataset/{below}{name}", f"{below}{name}", name):
            assert bool(re.fullmatch(pattern, reading)) == loads, reading


def test_no_files(copy: Any) -> None:
    assert copy() == NOTHING


def test_a_loaded_file_is_skipped_until_it_or_the_table_is_new(
    copy: Any, folder: str, put: Any, api: Any, table: str
) -> None:
    put(f"{folder}x.parquet", {"id": [1]})
    assert len(copy()) == 1
    assert copy() == NOTHING
    assert copy(options="FORCE = TRUE")[0][1] == "LOADED"
    put(f"{folder}x.parquet", {"id": [2]})
    assert copy()[0][1] == "LOADED"
    assert copy(options="FILES = ('x.parquet')")[0][1] == "LOAD_SKIPPED"
    api.ok(f"CREATE OR REPLACE TABLE {table} (id NUMBER, name VARCHAR)")
    assert copy()[0][1] == "LOADED"
    api.ok(f"TRUNCATE TABLE {table}")
    assert copy()[0][1] == "LOADED"
    api.ok(f"BEGIN; TRUNCATE TABLE {table}; ROLLBACK", count=3)
    assert copy() == NOTHING
    # It belongs to the object, not to its name.
    api.ok(f"ALTER TABLE {table} RENAME TO {table}_2")
    api.ok(f"CREATE TABLE {table} (id NUMBER, name VARCHAR)")
    assert copy()[0][1] == "LOADED"
    api.ok(f"DROP TABLE {table}")
    api.ok(f"ALTER TABLE {table}_2 RENAME TO {table}")
    assert copy() == NOTHING


def test_named_files(copy: Any, folder: str, put: Any) -> None:
    put(f"{folder}a.parquet", {"id": [1]})
    put(f"{folder}b.parquet", {"id": [2]})
    assert [row[0].rsplit("/", 1)[1] for row in copy(options="FILES = ('b.parquet')")] == ["b.parquet"]
    code, message = copy(options="FILES = ('a.parquet', 'c.parquet')", verb="error")
    assert code == "091016"
    assert "c.parquet' was not found" in message
    assert copy(options="FILES = ('a.parquet')")[0][1] == "LOADED"
    names = ", ".join(f"'{number}.parquet'" for number in range(1001))
    assert copy(options=f"FILES = ({names})", verb="error")[0] == "000002"
    # A name is put behind the path as it is.
    assert copy(folder.rstrip("/"), options="FILES = ('/b.parquet') FORCE = TRUE")[0][1] == "LOADED"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "Parquet file size is 0 bytes"), (b"no parquet file", "Parquet magic bytes not found in footer")],
)
def test_not_a_parquet_file(copy: Any, folder: str, put: Any, api: Any, table: str, content: bytes, words: str) -> None:
    put(f"{folder}a.parquet", {"id": [1]})
    put(f"{folder}b.parquet", content)
    _, message = copy(verb="error")
    assert "Error parsing the parquet file: Invalid: " + words in message
    assert f"File 'dataset/{folder}b.parquet'" in message
    assert api.rows(f"SELECT COUNT(*) FROM {table}") == [["0"]]


def test_a_bad_value_leaves_nothing(copy: Any, folder: str, put: Any, api: Any, table: str) -> None:
    put(f"{folder}a.parquet", {"id": [1, 2]})
    put(f"{folder}b.parquet", {"id": ["3", "abc"]})
    code, message = copy(verb="error")
    assert code == "100071"
    assert message.startswith('Failed to cast variant value "abc" to FIXED\n')
    assert f"File 'dataset/{folder}b.parquet', line 2" in message
    assert f'Row 2, column "{table}"["ID":1]' in message
    assert api.rows(f"SELECT COUNT(*) FROM {table}") == [["0"]]
    # Nor is it remembered that the first file was loaded.
    put(f"{folder}b.parquet", {"id": ["3"]})
    assert len(copy()) == 2


@pytest.mark.parametrize(
    ("value", "type_", "words"),
    [
        (pa.array([datetime.datetime(2026, 1, 1)]), "DATE", "to DATE"),
        (pa.array([1]), "BOOLEAN", "Failed to cast variant value 1 to BOOLEAN"),
        (pa.array([1]), "DATE", "to DATE"),
        (pa.array(["x"]), "TIMESTAMP_NTZ", 'Failed to cast variant value "x" to TIMESTAMP_NTZ'),
        (pa.array([[1]]), "NUMBER", "to FIXED"),
        (pa.array([b"x"]), "NUMBER", "to FIXED"),
    ],
    ids=["timestamp to date", "number to boolean", "number to date", "text to timestamp", "list", "binary"],
)
def test_casts_that_snowflake_refuses(
    copy: Any, folder: str, put: Any, api: Any, table: str, value: pa.Array, type_: str, words: str
) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (v {type_})")
    put(f"{folder}a.parquet", pa.table({"v": value}))
    code, message = copy(verb="error")
    assert (code, words in message) == ("100071", True), message


@pytest.mark.parametrize(
    ("value", "type_", "loaded"),
    [
        (pa.array([Decimal("19.99")], pa.decimal128(12, 2)), "NUMBER", "20"),
        (pa.array([Decimal("0.49")], pa.decimal128(12, 2)), "NUMBER(12, 1)", "0.5"),
        (pa.array([1.6]), "NUMBER(38, 0)", "2"),
        (pa.array(["1.6"]), "NUMBER(38, 0)", "2"),
        (pa.array([2**53 + 1]), "FLOAT", str(float(2**53))),
        (pa.array([0.12345678901234567]), "VARCHAR", "0.123456789"),
        (pa.array(["2026-01-02 03:04:05"]), "DATE", "20455"),
        (pa.array(["0041"]), "BINARY", "0041"),
        (pa.array([7]), "TIMESTAMP_NTZ", "7.000000000"),
        (pa.array([-1], pa.timestamp("us")), "TIMESTAMP_NTZ(3)", "-0.001000000"),
        (pa.array([1_999_999], pa.timestamp("us", "UTC")), "TIMESTAMP_LTZ(0)", "1.000000000"),
        (pa.array([86_401_000_001], pa.timestamp("us", "UTC")), "TIME(3)", "1.000000000"),
        (pa.array(["x"]), "ARRAY", '[\n  "x"\n]'),
    ],
)
def test_casts_that_change_a_value(
    copy: Any, folder: str, put: Any, api: Any, table: str, value: pa.Array, type_: str, loaded: str
) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (v {type_})")
    put(f"{folder}a.parquet", pa.table({"v": value}))
    copy()
    assert api.rows(f"SELECT v FROM {table}") == [[loaded]]


def test_types(copy: Any, folder: str, put: Any, api: Any, table: str) -> None:
    api.ok(
        f"CREATE OR REPLACE TABLE {table} (d DATE, n NUMBER(10, 2), ntz TIMESTAMP_NTZ, ltz TIMESTAMP_LTZ, b BOOLEAN,"
        " f FLOAT, v VARIANT, x BINARY, text_of_number VARCHAR)"
    )
    at = datetime.datetime(2026, 10, 9, 12, 34, 56, 123456)
    put(
        f"{folder}a.parquet",
        pa.table(
            {
                "d": pa.array([at.date()]),
                "n": pa.array([Decimal("12.34")]),
                "ntz": pa.array([at], pa.timestamp("us")),
                "ltz": pa.array([at.replace(tzinfo=datetime.UTC)], pa.timestamp("us", "UTC")),
                "b": [True],
                "f": [1.5],
                "v": [{"a": [1]}],
                "x": [b"\x01\xff"],
                "text_of_number": [7],
            }
        ),
    )
    assert len(copy()) == 1
    (row,) = api.rows(f"SELECT * FROM {table}")
    seconds = "1791549296.123456000"
    assert [*row[:6], *row[7:]] == ["20735", "12.34", seconds, seconds, "true", "1.5", "01FF", "7"]
    assert api.rows(f"SELECT v:a[0] FROM {table}") == [["1"]]


@pytest.mark.parametrize("type_", ["TIMESTAMP_NTZ", "TIMESTAMP_LTZ"])
def test_int96_timestamps(copy: Any, folder: str, put: Any, api: Any, table: str, type_: str) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (at {type_})")
    buffer = io.BytesIO()
    at = pa.array([datetime.datetime(2026, 10, 9, 12, 34, 56)], pa.timestamp("ns"))
    pq.write_table(pa.table({"at": at}), buffer, use_deprecated_int96_timestamps=True)
    put(f"{folder}a.parquet", buffer.getvalue())
    copy()
    assert api.rows(f"SELECT at FROM {table}") == [["1791549296.000000000"]]


def test_no_column_matches(copy: Any, folder: str, put: Any, api: Any, table: str) -> None:
    put(f"{folder}a.parquet", {"other": [1, 2]})
    assert copy()[0][3] == "2"
    assert api.rows(f"SELECT * FROM {table}") == [[None, None], [None, None]]


@pytest.mark.parametrize("content", [{"id": [1, None]}, {"other": [1, 2]}], ids=["null", "no such column"])
def test_null_in_a_column_that_takes_none(
    copy: Any, folder: str, put: Any, api: Any, table: str, content: dict[str, Any]
) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (id NUMBER NOT NULL)")
    put(f"{folder}a.parquet", content)
    code, message = copy(verb="error")
    assert code == "100072"
    assert "NULL result in a non-nullable column" in message
    assert '["ID":1]' in message


def test_columns_whose_names_collide(copy: Any, folder: str, put: Any) -> None:
    put(f"{folder}a.parquet", {"id": [1], "ID": [2]})
    code, message = copy(verb="error")
    assert (code, "duplicate column name 'ID'" in message) == ("002025", True)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("NONSENSE = 1", "001003"),
        ("VALIDATION_MODE = RETURN_ERRORS", "000002"),
        ("PURGE = TRUE", "000002"),
        ("ON_ERROR = CONTINUE", "000002"),
        ("SIZE_LIMIT = 10", "000002"),
        ("MATCH_BY_COLUMN_NAME = NONE", "002019"),
        ("FILE_FORMAT = (TYPE = CSV)", "000002"),
        ("FILE_FORMAT = (TYPE = PARQUET)", "000002"),
    ],
)
def test_options_that_are_not_known_are_errors(copy: Any, options: str, code: str) -> None:
    assert copy(options=options, verb="error")[0] == code


def test_missing_objects(api: Any, table: str, tools: Any) -> None:
    code, message = api.error(f"COPY INTO {table} FROM @nope/x/ {tools.COPY}")
    assert (code, "Stage 'DATA_SHARE.PUBLIC.NOPE' does not exist" in message) == ("002003", True)
    code, message = api.error(f"COPY INTO nope FROM @exports/x/ {tools.COPY}")
    assert (code, "Object 'NOPE' does not exist" in message) == ("002003", True)


def test_stages_are_bound_by_their_integration(api: Any) -> None:
    stage = "CREATE STAGE elsewhere URL = '{}' STORAGE_INTEGRATION = {}"
    for url in ("s3://other-bucket/dataset/", "s3://databricks-snowflake-share/private/"):
        code, message = api.error(stage.format(url, "S3_SHARE_INT"))
        assert code == "003127"
        assert f"Location '{url}' is not allowed by integration 'S3_SHARE_INT'." in message
    assert "Integration 'NOPE' does not exist" in api.error(stage.format("s3://x/", "NOPE"))[1]
    assert api.error("CREATE STAGE exports URL = 's3://x/' STORAGE_INTEGRATION = S3_SHARE_INT")[0] == "003127"


def test_copy_is_part_of_an_open_transaction(api: Any, table: str, folder: str, put: Any, tools: Any) -> None:
    put(f"{folder}a.parquet", {"id": [1]})
    statement = f"COPY INTO {table} FROM @exports/{folder} {tools.COPY}"
    api.ok(f"BEGIN; {statement}; ROLLBACK", count=3)
    assert api.rows(f"SELECT COUNT(*) FROM {table}") == [["0"]]
    assert len(api.rows(statement)) == 1
