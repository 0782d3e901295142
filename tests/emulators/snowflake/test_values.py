"""Values that a column or an operation does not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]


@pytest.fixture(scope="module", autouse=True)
def table(api: Any) -> None:
    api.ok("CREATE TABLE narrow (id NUMBER(3, 0) NOT NULL, amount NUMBER(5, 2), name VARCHAR(3), zero NUMBER)")
    api.ok("INSERT INTO narrow VALUES (1, 1.5, 'abc', 0)")


LONG = ("100078", "String 'abcd' is too long and would be truncated")
RANGE = "Number out of representable range: type FIXED"
DIVISION = ("100051", "Division by zero")


@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("INSERT INTO narrow VALUES (2, 1, 'abcd', 0)", *LONG),
        ("INSERT INTO narrow SELECT 2, 1, 'abcd', 0", *LONG),
        ("UPDATE narrow SET name = 'abcd'", *LONG),
        ("MERGE INTO narrow USING (SELECT 'abcd' AS n) s ON TRUE WHEN MATCHED THEN UPDATE SET name = s.n", *LONG),
        ("INSERT OVERWRITE INTO narrow SELECT 2, 1, 'abcd', 0", *LONG),
        ("INSERT INTO narrow VALUES (1000, 1, 'a', 0)", "100046", f"{RANGE}[SB2](3,0){{nullable}}, value 1000"),
        ("UPDATE narrow SET amount = 1234.5", "100046", f"{RANGE}[SB4](5,2)"),
        ("INSERT INTO narrow VALUES (1, '12345', 'a', 0)", "100046", f"{RANGE}[SB4](5,2){{nullable}}, value 12345"),
        ("INSERT INTO narrow VALUES (1, 'x', 'a', 0)", "100038", "Numeric value 'x' is not recognized"),
        ("INSERT INTO narrow (name) VALUES ('a')", "100072", "NULL result in a non-nullable column"),
        ("SELECT 1 / 0", *DIVISION),
        ("SELECT id / zero FROM narrow", *DIVISION),
        ("SELECT 1 + 2 / (3 / (zero * 2)) AS x FROM narrow WHERE id = 1", *DIVISION),
        ("SELECT id % zero FROM narrow", *DIVISION),
        ("SELECT SUM(id) / SUM(zero) AS x FROM narrow", *DIVISION),
        ("SELECT * FROM narrow WHERE id / zero > 1", *DIVISION),
    ],
)
def test_a_value_that_does_not_fit(api: Any, statement: str, code: str, words: str) -> None:
    said = api.error(statement)
    assert (said[0], words in said[1]) == (code, True), said
    assert api.rows("SELECT id, amount, name FROM narrow") == [["1", "1.50", "abc"]]


def test_divisions_that_are_none(api: Any) -> None:
    sql = "SELECT NULL / zero AS a, DIV0(1, zero) AS b, 1 / NULLIF(zero, 0) AS c, amount / 2 AS d FROM narrow"
    assert [value and float(value) for value in api.rows(sql)[0]] == [None, 0.0, None, 0.75]
    assert api.rows("SELECT name FROM narrow GROUP BY name, id / 2 ORDER BY COUNT(*) / 2") == [["abc"]]


def test_lengths_stay_with_a_copy_of_the_table(api: Any, put: Callable[..., None], folder: str, tools: Any) -> None:
    api.ok("CREATE OR REPLACE TABLE twin LIKE narrow")
    assert api.error("INSERT INTO twin VALUES (2, 1, 'abcd', 0)") == LONG
    api.ok("ALTER TABLE twin RENAME TO twin_2")
    assert api.error("INSERT INTO twin_2 VALUES (2, 1, 'abcd', 0)") == LONG
    # In characters, not bytes; and a new table of the name has no lengths but its own.
    api.ok("INSERT INTO twin_2 VALUES (2, 1, 'äöü', 0)")
    api.ok("CREATE OR REPLACE TABLE twin_2 (id NUMBER, name VARCHAR)")
    api.ok("INSERT INTO twin_2 VALUES (1, 'abcd')")
    api.ok(f"CREATE STAGE lengths URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT")
    put(f"{folder}a.parquet", {"id": [1], "name": ["abc"]})
    put(f"{folder}b.parquet", {"id": [2], "name": ["abcd"]})
    api.ok("CREATE OR REPLACE TABLE twin LIKE narrow")
    code, message = api.error(f"COPY INTO twin FROM @lengths/{folder} {tools.COPY}")
    assert code == "100074"
    assert f"exceeded by string 'abcd'\n  File 'dataset/{folder}b.parquet'" in message
    assert api.rows("SELECT COUNT(*) FROM twin") == [["0"]]


def test_a_table_describes_its_types(api: Any) -> None:
    types = [
        *("NUMBER(38,0)", "NUMBER(12,2)", "FLOAT", "VARCHAR(16777216)", "VARCHAR(7)", "BOOLEAN", "DATE"),
        *("TIME(9)", "TIME(3)", "TIMESTAMP_NTZ(9)", "TIMESTAMP_LTZ(9)", "TIMESTAMP_LTZ(6)", "TIMESTAMP_TZ(0)"),
        *("VARIANT", "OBJECT", "ARRAY"),
    ]
    listed = ", ".join(f"c{number} {kind}" for number, kind in enumerate(types))
    api.ok(f"CREATE OR REPLACE TABLE typed ({listed})")
    api.ok("CREATE OR REPLACE TABLE typed_like LIKE typed")
    api.ok("ALTER TABLE typed_like ADD COLUMN more TIMESTAMP_TZ(1)")
    assert [row[1] for row in api.rows("DESCRIBE TABLE typed")] == types
    assert [row[1] for row in api.rows("DESCRIBE TABLE typed_like")] == [*types, "TIMESTAMP_TZ(1)"]
    # What is there stays what it is, and another table of the name is another.
    api.ok("CREATE TABLE IF NOT EXISTS typed (c0 TIME(2))")
    assert [row[1] for row in api.rows("DESCRIBE TABLE typed")] == types
    api.ok("CREATE OR REPLACE TABLE typed (c4 VARCHAR, c7 TIME)")
    assert [row[1] for row in api.rows("DESCRIBE TABLE typed")] == ["VARCHAR(16777216)", "TIME(9)"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("NUMBER(38, 38)", "Invalid scale: 38. Must be between 0 and 37"),
        *((kind, "Unsupported feature") for kind in ("DECFLOAT", "GEOGRAPHY", "VECTOR(FLOAT, 3)", "MAP(VARCHAR, INT)")),
    ],
)
def test_types_that_there_are_not(api: Any, kind: str, words: str) -> None:
    assert words in api.error(f"CREATE TABLE none_such (c {kind})")[1]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MD5('Snowflake')", "edf1439075a83a447fb8b630ddc9c8de"),
        ("TO_NUMBER('ae5', 'XXX')", "2789"),
        ("TO_NUMBER('fffffffffffffff', 'XXXXXXXXXXXXXXX')", "1152921504606846975"),
        ("RTRIM('$125.00', '0.')", "$125"),
        ("RTRIM(RTRIM(TO_VARCHAR(100::NUMBER(38, 2)), '0'), '.')", "100"),
        ("HEX_ENCODE(TO_BINARY('00fe', 'HEX'))", "00FE"),
        ("DECODE(NULL::BOOLEAN, TRUE, '1', FALSE, '0')", None),
        ("DECODE(FALSE, TRUE, '1', FALSE, '0')", "0"),
        ("DATEDIFF(DAY, '1970-01-01'::DATE, '0001-01-01'::DATE)", "-719162"),
        ("DATE_PART(EPOCH_MICROSECOND, '9999-12-31 23:59:59.999999'::TIMESTAMP_NTZ)", "253402300799999999"),
        ("DATE_PART(EPOCH_MICROSECOND, '1970-01-01 01:00:00 +0100'::TIMESTAMP_TZ)", "0"),
        (
            "COUNT(IFF(ABS(x) < 'inf'::FLOAT, 1, NULL)) FROM (SELECT 'NaN'::FLOAT AS x UNION ALL SELECT '-inf'::FLOAT)",
            "0",
        ),
    ],
)
def test_texts_and_digits(api: Any, expression: str, expected: str | None) -> None:
    assert api.ok(f"SELECT {expression}")["data"] == [[expected]]


@pytest.mark.parametrize("call", ["TO_NUMBER('ffff', 'XXX')", "TO_NUMBER('xyz', 'XXX')", "TO_NUMBER('1', '999')"])
def test_digits_that_a_format_does_not_take(api: Any, call: str) -> None:
    assert api.post(f"SELECT {call}").status_code == 422
