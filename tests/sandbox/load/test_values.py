"""What was loaded is what was exported, value by value: each sync sums up both, and a difference names the column."""

from __future__ import annotations

import itertools
import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowSkipException
from hypothesis import strategies as st

from data_share.snowflake.check import CheckFailedError
from tests.sandbox.load import driver
from tests.sandbox.load.driver import Run, Share

pytestmark = pytest.mark.sandbox

INSTANT = datetime(2026, 3, 29, 1, 30, 0, 1, UTC)
# Type in the source, type in the target, values of three rows, and how one of them can be changed in the staging table.
CHANGES: dict[str, tuple[pa.DataType, str, list[Any], str]] = {
    "tinyint": (pa.int8(), "NUMBER(38, 0)", [-128, 127, None], '-"{}"'),
    "bigint": (pa.int64(), "NUMBER(38, 0)", [2**63 - 1, -(2**63), None], '"{}" - 1'),
    "integer as text": (pa.int32(), "VARCHAR", [-7, 12, None], "'-8'"),
    "integer as fraction": (pa.int32(), "FLOAT", [-7, 12, None], '"{}" + 0.000001'),
    "decimal": (pa.decimal128(18, 4), "NUMBER(18, 4)", [Decimal("1.5000"), Decimal("-0.0001"), None], '"{}" + 0.0001'),
    "decimal of larger scale": (pa.decimal128(10, 2), "NUMBER(20, 6)", [Decimal("100.00"), None], '"{}" + 0.000001'),
    "decimal of 38 digits": (pa.decimal128(38, 10), "NUMBER(38, 10)", [Decimal("9" * 28 + "." + "9" * 10)], '-"{}"'),
    "text": (pa.string(), "VARCHAR", ["Straße", "", None], "'Strasse'"),
    "case of a letter": (pa.string(), "VARCHAR", ["abc", "\U0001f326", None], "'aBc'"),
    "blank at the end": (pa.string(), "VARCHAR", ["abc", None], "'abc '"),
    "NULL in place of ''": (pa.string(), "VARCHAR", ["", "x"], "NULL"),
    "'' in place of NULL": (pa.string(), "VARCHAR", [None, "x"], "''"),
    "boolean": (pa.bool_(), "BOOLEAN", [True, False, None], 'NOT "{}"'),
    "boolean as number": (pa.bool_(), "NUMBER(1, 0)", [True, False, None], "0"),
    "date": (pa.date32(), "DATE", [date(1582, 10, 4), date(9999, 12, 31), None], "'1582-10-05'::DATE"),
    "timestamp": (pa.timestamp("us", "UTC"), "TIMESTAMP_LTZ", [INSTANT, None], 'DATEADD(MICROSECOND, 1, "{}")'),
    "timestamp as NTZ": (pa.timestamp("us", "UTC"), "TIMESTAMP_NTZ", [INSTANT, None], 'DATEADD(HOUR, 1, "{}")'),
    "timestamp_ntz": (pa.timestamp("us"), "TIMESTAMP_NTZ", [INSTANT.replace(tzinfo=None)], 'DATEADD(SECOND, 1, "{}")'),
    "binary": (pa.binary(), "BINARY", [b"\x00\xff", b"", None], "TO_BINARY('00FE', 'HEX')"),
    "double": (pa.float64(), "FLOAT", [1.5, -2e300, 1e-300, None], '"{}" * 1.000001'),
    "double's sign": (pa.float64(), "FLOAT", [0.25, -3.0, None], '-"{}"'),
    "double in the middle": (pa.float64(), "FLOAT", [2.0, 1.0, 3.0], '"{}" * 1.000001'),
    "float": (pa.float32(), "FLOAT", [1.100000023841858, None], '"{}" * 1.000001'),
    "NaN": (pa.float64(), "FLOAT", [math.nan, 1.0], "'inf'::FLOAT"),
    "infinity": (pa.float64(), "FLOAT", [math.inf, 1.0], "'-inf'::FLOAT"),
}


def copied(
    share: Share, columns: dict[str, tuple[pa.DataType, str]], rows: list[Any], **fields: Any
) -> tuple[Run, str]:
    """Do a sync up to its copy; return it, and its staging table."""
    targets = {name: target for name, (_, target) in columns.items()}
    dataset = share.dataset({"k": "NUMBER(38, 0)"} | targets, **fields)
    schema = pa.schema({"k": pa.int64()} | {name: kind for name, (kind, _) in columns.items()})
    numbered = [{"k": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows)]
    share.write(dataset, numbered, schema)
    run = share.run(dataset)
    share.export(dataset, run)
    share.step(run, "copy_into_staging")
    return run, run.staging_table


def reported(share: Share, run: Run) -> list[str]:
    """Check, and return the columns that are reported."""
    try:
        share.step(run, "check_staging")
    except CheckFailedError as error:
        return re.findall('values_match_manifest: column "([^"]+)": ', str(error))
    return []


@pytest.mark.parametrize("names", [list(CHANGES)[0::2], list(CHANGES)[1::2]])
def test_a_value_that_changed_on_its_way_is_noticed(a_share: Share, names: list[str]) -> None:
    columns = {f"c{number}": CHANGES[name] for number, name in enumerate(names)}
    rows = itertools.zip_longest(*(values for _, _, values, _ in columns.values()))
    run, table = copied(a_share, {name: change[:2] for name, change in columns.items()}, list(rows))
    assert reported(a_share, run) == []

    changes = ", ".join(f'"{c.upper()}" = {other.format(c.upper())}' for c, (*_, other) in columns.items())
    a_share.query(f'UPDATE {table} SET {changes} WHERE "K" = 0')
    assert dict(zip(reported(a_share, run), names, strict=False)) == {
        column.upper(): name for column, name in zip(columns, names, strict=True)
    }


def test_one_change_names_one_column_and_says_what_to_do(a_share: Share) -> None:
    columns = {"price": (pa.decimal128(12, 2), "NUMBER(12, 2)"), "name": (pa.string(), "VARCHAR")}
    run, table = copied(a_share, columns, [(Decimal("19.99"), "x"), (Decimal("0.49"), "y")])
    a_share.query(f'UPDATE {table} SET "PRICE" = 20 WHERE "NAME" = \'x\'')
    with pytest.raises(CheckFailedError) as error:
        a_share.step(run, "check_staging")
    assert re.search(
        r'1 of 6 checks failed on .* The target is as it was.\n- values_match_manifest: column "PRICE": '
        r"checksum \d+ in the files, \d+ here\nOther values were loaded than exported, .*docs/datasets.md, Types",
        str(error.value),
    )
    assert error.value.snowflake_query_id


def test_an_export_without_rows_is_what_was_loaded(a_share: Share) -> None:
    columns = {"name": (pa.string(), "VARCHAR"), "amount": (pa.float64(), "FLOAT")}
    run, _ = copied(a_share, columns, [], allow_empty=True)
    assert len(run.xcoms["copy_into_staging", "return_value"]["proofs"]) == 3
    assert reported(a_share, run) == []


def test_the_order_of_the_rows_does_not_matter(a_share: Share) -> None:
    columns = {"name": (pa.string(), "VARCHAR"), "amount": (pa.float64(), "FLOAT")}
    run, table = copied(a_share, columns, [(str(n), n / 7) for n in range(100)])
    a_share.query(f"CREATE TABLE {table}_copy AS SELECT * FROM {table}")
    a_share.query(f'INSERT OVERWRITE INTO {table} SELECT * FROM {table}_copy ORDER BY "AMOUNT" DESC')
    assert reported(a_share, run) == []


def test_a_failed_check_of_the_dataset_and_changed_values_are_told_together(a_share: Share) -> None:
    run, table = copied(a_share, {"n": (pa.int64(), "NUMBER(38, 0)")}, [(1,)], checks={"small": "n < 10"})
    a_share.query(f'UPDATE {table} SET "N" = 11')
    with pytest.raises(
        CheckFailedError, match=r'(?s)^2 of 7 checks .*\n- small: n < 10.*\n- values_match.* column "N"'
    ):
        a_share.step(run, "check_staging")


def test_what_is_not_compared_is_said(a_share: Share) -> None:
    columns = {
        "pair": (pa.struct([("x", pa.int32())]), "VARIANT"),
        "cut": (pa.decimal128(5, 2), "NUMBER(5, 0)"),
        "n": (pa.int32(), "NUMBER(38, 0)"),
    }
    run, _ = copied(a_share, columns, [({"x": 1}, Decimal("1.25"), 1)], casts=["cut"])
    result = run.xcoms["copy_into_staging", "return_value"]
    assert [column["column"] for column in result["proofs"]] == ["K", "N"]
    assert result["unproven"] == {
        "PAIR": "no checksum is known for struct<x:int> in VARIANT",
        "CUT": "listed in casts, so its values may change",
    }
    assert reported(a_share, run) == []


def test_a_dataset_that_asks_for_counts_compares_no_values(a_share: Share) -> None:
    run, table = copied(a_share, {"n": (pa.int32(), "NUMBER(38, 0)")}, [(1,)], proof="counts")
    a_share.query(f'UPDATE {table} SET "N" = 2')
    assert reported(a_share, run) == []
    assert a_share.wire.calls == 1, "a statement more than with checksums off"
    reasons = run.xcoms["copy_into_staging", "return_value"]["unproven"]
    assert reasons == dict.fromkeys(("K", "N"), "the dataset says proof: counts")


@pytest.mark.parametrize("column_types", ["struct<k:bigint,name:string,amount:double>", None])
def test_an_export_by_a_job_that_was_deployed_before_is_loaded_and_counted(
    a_share: Share, monkeypatch: pytest.MonkeyPatch, column_types: str | None
) -> None:
    monkeypatch.setattr(driver, "proofs_of", lambda _: column_types)
    dataset = a_share.dataset()
    run = a_share.run(dataset)
    a_share.put_export(dataset, run, [{"k": 1, "name": "x", "amount": 1.5}])
    a_share.steps(run)
    reasons = run.xcoms["copy_into_staging", "return_value"]["unproven"]
    assert list(reasons) == ["K", "NAME", "AMOUNT"]
    assert all("older version of the export job" in reason for reason in reasons.values())

    again = a_share.run(dataset, reload_run_key=run.key)
    with pytest.raises(AirflowSkipException):
        a_share.step(again, "export_to_s3")
    a_share.steps(again)
    assert len(a_share.target(dataset)) == 1


def test_a_column_that_is_added_is_compared_too(a_share: Share) -> None:
    dataset = a_share.dataset(schema_drift="add_new")
    rows = [{"k": 1, "name": "x", "amount": 1.5, "added": Decimal("1.25")}]
    a_share.write(dataset, rows, pa.schema([*driver.SCHEMA, pa.field("added", pa.decimal128(5, 2))]))
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    assert reported(a_share, run) == []
    a_share.query(f'UPDATE {run.staging_table} SET "ADDED" = 1.24')
    assert reported(a_share, run) == ["ADDED"]


HARD = {
    "i": (pa.int64(), "NUMBER(38, 0)", st.integers(-(2**63), 2**63 - 1)),
    "d": (
        pa.decimal128(38, 10),
        "NUMBER(38, 10)",
        st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: _decimal(n, 10)),
    ),
    "s": (pa.decimal128(5, 4), "NUMBER(20, 7)", st.integers(-99_999, 99_999).map(lambda n: _decimal(n, 4))),
    "t": (pa.string(), "VARCHAR", st.text(st.characters(exclude_categories=["Cs"]))),
    "b": (pa.bool_(), "BOOLEAN", st.booleans()),
    "day": (pa.date32(), "DATE", st.dates()),
    "at": (pa.timestamp("us", "UTC"), "TIMESTAMP_LTZ", st.datetimes(timezones=st.just(UTC))),
    "at_ntz": (pa.timestamp("us", "UTC"), "TIMESTAMP_NTZ", st.datetimes(timezones=st.just(UTC))),
    "local": (pa.timestamp("us"), "TIMESTAMP_NTZ", st.datetimes()),
    "bytes": (pa.binary(), "BINARY", st.binary(max_size=20)),
    "f": (pa.float32(), "FLOAT", st.floats(width=32)),
    "g": (pa.float64(), "FLOAT", st.floats()),
}


def _decimal(digits: int, scale: int) -> Decimal:
    return Decimal((digits < 0, tuple(map(int, str(abs(digits)))), -scale))


@hypothesis.settings(max_examples=5, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(st.lists(st.tuples(*(values | st.none() for *_, values in HARD.values())), min_size=1, max_size=60))
def test_what_did_not_change_is_never_reported(a_share: Share, rows: list[Any]) -> None:
    run, _ = copied(a_share, {name: kind[:2] for name, kind in HARD.items()}, rows)
    assert [column["column"] for column in run.xcoms["copy_into_staging", "return_value"]["proofs"]] == [
        "K",
        *map(str.upper, HARD),
    ]
    assert reported(a_share, run) == []
