"""COPY INTO from the external stage."""

from __future__ import annotations

import datetime
import io
import json
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


@pytest.fixture
def load(api: Any, table: str, folder: str) -> Callable[..., Any]:
    """Load the folder into the table with options of a file format, copy options, and fields of the request."""

    def run(file_format: str, options: str = "", verb: str = "rows", **request: Any) -> Any:
        stated = f"FILE_FORMAT = (TYPE = PARQUET {file_format}) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE {options}"
        return getattr(api, verb)(f"COPY INTO {table} FROM @exports/{folder} {stated}", **request)

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
    put(f"{folder}x.parquet", {"id": [2]})
    assert copy()[0][1] == "LOADED"
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
        # 16:00:01 in Los Angeles, the zone of an account where nobody has set another.
        (pa.array([86_401_000_001], pa.timestamp("us", "UTC")), "TIME(3)", "57601.000000000"),
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


UTC_2330 = datetime.datetime(2026, 7, 1, 23, 30)
SHIFT = datetime.timedelta(hours=7)
"""What the time in Los Angeles is behind that of UTC in July."""


def an_instant(kind: str) -> bytes:
    """Return a file whose column ``at`` holds an instant, or a time without zone."""
    buffer = io.BytesIO()
    zone = "UTC" if kind == "instant" else None
    at = pa.table({"at": pa.array([UTC_2330], pa.timestamp("us", zone))})
    pq.write_table(at, buffer, use_deprecated_int96_timestamps=kind == "int96")
    return buffer.getvalue()


@pytest.mark.parametrize("type_", ["TIMESTAMP_LTZ", "TIMESTAMP_TZ", "TIMESTAMP_NTZ"])
@pytest.mark.parametrize(
    ("kind", "is_instant"),
    [("instant", True), ("int96", True), ("time", False)],
)
def test_times_and_the_zone_of_the_session(
    load: Callable[..., Any],
    folder: str,
    put: Any,
    api: Any,
    table: str,
    kind: str,
    is_instant: bool,
    type_: str,
) -> None:
    put(f"{folder}a.parquet", an_instant(kind))
    found = []
    for zone in (None, "utc"):
        api.ok(f"CREATE OR REPLACE TABLE {table} (at {type_})")
        parameters = {"timezone": zone} if zone else {}
        load("USE_VECTORIZED_SCANNER = TRUE", parameters=parameters)
        [[at]] = api.rows(f"SELECT at FROM {table}")
        found.append(datetime.datetime.fromtimestamp(float(at), datetime.UTC).replace(tzinfo=None))
    # An instant becomes the time of the session's zone where it has none; a time without zone is taken for one of it.
    los_angeles = UTC_2330
    if is_instant and type_ == "TIMESTAMP_NTZ":
        los_angeles -= SHIFT
    elif not is_instant and type_ != "TIMESTAMP_NTZ":
        los_angeles += SHIFT
    assert found == [los_angeles, UTC_2330]


NESTED = {
    "m": pa.array([[("k1", "v1"), ("k2", None)]], pa.map_(pa.string(), pa.string())),
    "s": [{"it's": "Adam", "nick": None, "in": {"no": None}, "n": [1, None, 2], "e": []}],
    "l": [[{"a": None, "b": 1}, None, {"a": 'x"y', "b": None}]],
}


def test_nested_values(load: Callable[..., Any], folder: str, put: Any, api: Any, table: str) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (m VARIANT, s VARIANT, l VARIANT)")
    put(f"{folder}a.parquet", pa.table(NESTED))
    load("USE_VECTORIZED_SCANNER = TRUE")
    [row] = api.rows(f"SELECT * FROM {table}")
    assert [json.loads(value) for value in row] == [
        {"k1": "v1", "k2": None},
        {"it's": "Adam", "nick": None, "in": {"no": None}, "n": [1, None, 2], "e": []},
        [{"a": None, "b": 1}, None, {"a": 'x"y', "b": None}],
    ]


TEXTS = ["\\N", " a\t", "2", ""]


@pytest.mark.parametrize(
    ("file_format", "ids", "texts"),
    [
        ("", ["1", "2", "3", "4"], [None, *TEXTS[1:]]),
        ("NULL_IF = ()", ["1", "2", "3", "4"], TEXTS),
        ("NULL_IF = ('2', '')", ["1", None, "3", "4"], [*TEXTS[:2], None, None]),
        ("NULL_IF = () TRIM_SPACE = FALSE", ["1", "2", "3", "4"], TEXTS),
        ("NULL_IF = () TRIM_SPACE = TRUE", ["1", "2", "3", "4"], ["\\N", "a", "2", ""]),
    ],
)
def test_texts_that_stand_for_null_and_blanks(
    load: Callable[..., Any], folder: str, put: Any, api: Any, table: str, file_format: str, ids: Any, texts: Any
) -> None:
    put(f"{folder}a.parquet", {"id": [1, 2, 3, 4], "name": TEXTS})
    load(f"USE_VECTORIZED_SCANNER = TRUE {file_format}")
    assert api.rows(f"SELECT * FROM {table}") == [[*row] for row in zip(ids, texts, strict=True)]


def test_bytes_that_are_no_text(load: Callable[..., Any], folder: str, put: Any, api: Any, table: str) -> None:
    raw = pa.array([b"good", b"a\xffb"], pa.binary())
    put(f"{folder}a.parquet", pa.table({"id": [1, 2], "Name": pa.Array.from_buffers(pa.string(), 2, raw.buffers())}))
    for file_format in ("", "REPLACE_INVALID_CHARACTERS = FALSE"):
        code, message = load(f"USE_VECTORIZED_SCANNER = TRUE {file_format}", verb="error")
        assert (code, message.split("\n")[0]) == ("100144", "Invalid UTF8 detected in string 'a0xFFb'")
        assert f'Row 2, column "{table}"["NAME":2]' in message


@pytest.mark.parametrize("others", ["", "BINARY_AS_TEXT = TRUE USE_LOGICAL_TYPE = FALSE"])
def test_bytes_without_a_logical_type(
    load: Callable[..., Any], folder: str, put: Any, api: Any, table: str, others: str
) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (raw BINARY, day DATE)")
    put(f"{folder}a.parquet", {"raw": [b"\xff"], "day": [datetime.date(1970, 1, 2)]})
    load(f"USE_VECTORIZED_SCANNER = TRUE {others}")
    assert api.rows(f"SELECT * FROM {table}") == [["FF", "1"]]


@pytest.mark.parametrize("option", ["", "TRUNCATECOLUMNS = FALSE", "ENFORCE_LENGTH = TRUE"])
def test_a_text_that_is_too_long_for_its_column(
    load: Callable[..., Any], folder: str, put: Any, api: Any, table: str, option: str
) -> None:
    api.ok(f"CREATE OR REPLACE TABLE {table} (id NUMBER, name VARCHAR(3))")
    put(f"{folder}a.parquet", {"id": [1, 2], "name": ["äöü", "äöüß"]})
    code, message = load("USE_VECTORIZED_SCANNER = TRUE", option, verb="error")
    assert (code, message.split("\n")[0]) == ("100074", "User character length limit (3) exceeded by string 'äöüß'")
    assert f'Row 2, column "{table}"["NAME":2]' in message
    assert api.rows(f"SELECT * FROM {table}") == []


@pytest.mark.parametrize("codec", ["SNAPPY", "ZSTD", "GZIP", "NONE"])
def test_compressions(load: Callable[..., Any], folder: str, put: Any, codec: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": [1]}), buffer, compression=codec)
    put(f"{folder}a.parquet", buffer.getvalue())
    assert load("USE_VECTORIZED_SCANNER = TRUE COMPRESSION = AUTO")[0][1] == "LOADED"


def test_options_that_say_what_is_done_anyway(load: Callable[..., Any], folder: str, put: Any) -> None:
    put(f"{folder}a.parquet", {"id": [1]})
    options = "FORCE = FALSE PURGE = FALSE RETURN_FAILED_ONLY = FALSE"
    scanner = "USE_VECTORIZED_SCANNER = TRUE REPLACE_INVALID_CHARACTERS = FALSE"
    # No file is uncertain: load metadata do not end here.
    for uncertain, loaded in (("TRUE", "LOADED"), ("FALSE", NOTHING[0][0])):
        [row] = load(scanner, f"{options} LOAD_UNCERTAIN_FILES = {uncertain}")
        assert loaded in row


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


INVALID_VALUE = "001008"
UNKNOWN_PROPERTY = "001420"
SYNTAX = "001003"
NOT_HERE = "000002"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("NONSENSE = 1", SYNTAX),
        ("FORCE = FALSE FORCE = FALSE", SYNTAX),
        ("TRUNCATECOLUMNS = FALSE ENFORCE_LENGTH = TRUE", SYNTAX),
        ("FORCE = 'FALSE'", INVALID_VALUE),
        ("PURGE = 1", INVALID_VALUE),
        ("ON_ERROR = STOP", INVALID_VALUE),
        ("LOAD_UNCERTAIN_FILES = 1", INVALID_VALUE),
        ("SIZE_LIMIT = 100", NOT_HERE),
        ("FILES = ('a.parquet')", NOT_HERE),
        ("FORCE = TRUE", NOT_HERE),
        ("PURGE = TRUE", NOT_HERE),
        ("RETURN_FAILED_ONLY = TRUE", NOT_HERE),
        ("TRUNCATECOLUMNS = TRUE", NOT_HERE),
        ("ENFORCE_LENGTH = FALSE", NOT_HERE),
        ("ON_ERROR = CONTINUE", NOT_HERE),
        ("ON_ERROR = 'SKIP_FILE_10%'", NOT_HERE),
        ("VALIDATION_MODE = RETURN_ERRORS", NOT_HERE),
        ("INCLUDE_METADATA = (name = METADATA$FILENAME)", NOT_HERE),
        ("LOAD_MODE = FULL_INGEST", NOT_HERE),
        ("CLUSTER_AT_INGEST_TIME = FALSE", NOT_HERE),
    ],
)
def test_copy_options_that_are_refused(load: Callable[..., Any], options: str, code: str) -> None:
    assert load("USE_VECTORIZED_SCANNER = TRUE", options, verb="error")[0] == code


@pytest.mark.parametrize(
    ("file_format", "code"),
    [
        ("TYPE = CSV", NOT_HERE),
        ("TYPE = PARQUET", NOT_HERE),
        ("TYPE = PARQUET USE_LOGICAL_TYPE = TRUE", NOT_HERE),
        ("TYPE = PARQUET USE_VECTORIZED_SCANNER = FALSE USE_LOGICAL_TYPE = TRUE", NOT_HERE),
        ("TYPE = PARQUET USE_VECTORIZED_SCANNER = TRUE COMPRESSION = SNAPPY", NOT_HERE),
        ("TYPE = PARQUET USE_VECTORIZED_SCANNER = TRUE REPLACE_INVALID_CHARACTERS = TRUE", NOT_HERE),
        ("TYPE = PARQUET TYPE = PARQUET USE_VECTORIZED_SCANNER = TRUE", SYNTAX),
        ("TYPE = PARQUET FORMAT_NAME = 'f' USE_VECTORIZED_SCANNER = TRUE", UNKNOWN_PROPERTY),
        ("TYPE = PARQUET SKIP_HEADER = 1 USE_VECTORIZED_SCANNER = TRUE", UNKNOWN_PROPERTY),
        ("TYPE = PARQUET SNAPPY_COMPRESSION = TRUE USE_VECTORIZED_SCANNER = TRUE", UNKNOWN_PROPERTY),
        ("TYPE = PARQUET COMPRESSION = GZIP USE_VECTORIZED_SCANNER = TRUE", INVALID_VALUE),
        ("TYPE = PARQUET NULL_IF = 'x' USE_VECTORIZED_SCANNER = TRUE", INVALID_VALUE),
        ("TYPE = PARQUET TRIM_SPACE = YES USE_VECTORIZED_SCANNER = TRUE", INVALID_VALUE),
        ("TYPE = PARQUET USE_VECTORIZED_SCANNER = 1", INVALID_VALUE),
    ],
)
def test_file_formats_that_are_refused(api: Any, table: str, folder: str, file_format: str, code: str) -> None:
    source = f"@exports/{folder} FILE_FORMAT = ({file_format}) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
    assert api.error(f"COPY INTO {table} FROM {source}")[0] == code


@pytest.mark.parametrize(("match", "code"), [("NONE", "002019"), ("'CASE'", INVALID_VALUE)])
def test_columns_are_matched_by_name_or_not_at_all(api: Any, table: str, tools: Any, match: str, code: str) -> None:
    source = f"@exports/x/ {tools.FILE_FORMAT} MATCH_BY_COLUMN_NAME = {match}"
    assert api.error(f"COPY INTO {table} FROM {source}")[0] == code


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
