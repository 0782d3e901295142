"""What was loaded is what was exported, value by value: each sync sums up both, and a difference names the column."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from data_share.snowflake_operators import CheckFailedError
from tests.sandbox.load.driver import Run, Share

pytestmark = pytest.mark.sandbox

INSTANT = datetime(2026, 3, 29, 1, 30, 0, 1, UTC)
# Type in the source, type in the target, values of three rows, and how one of them can be changed in the staging table.
CHANGES: dict[str, tuple[pa.DataType, str, list[Any], str]] = {
    "tinyint": (pa.int8(), "NUMBER(38, 0)", [-128, 127, None], '-"V"'),
    "bigint": (pa.int64(), "NUMBER(38, 0)", [2**63 - 1, -(2**63), None], '"V" - 1'),
    "integer as text": (pa.int32(), "VARCHAR", [-7, 12, None], "'-8'"),
    "integer as fraction": (pa.int32(), "FLOAT", [-7, 12, None], '"V" + 0.000001'),
    "decimal": (pa.decimal128(18, 4), "NUMBER(18, 4)", [Decimal("1.5000"), Decimal("-0.0001"), None], '"V" + 0.0001'),
    "decimal of larger scale": (pa.decimal128(10, 2), "NUMBER(20, 6)", [Decimal("100.00"), None], '"V" + 0.000001'),
    "decimal of 38 digits": (pa.decimal128(38, 10), "NUMBER(38, 10)", [Decimal("9" * 28 + "." + "9" * 10)], '-"V"'),
    "text": (pa.string(), "VARCHAR", ["Straße", "", None], "'Strasse'"),
    "case of a letter": (pa.string(), "VARCHAR", ["abc", "\U0001f326", None], "'aBc'"),
    "blank at the end": (pa.string(), "VARCHAR", ["abc", None], "'abc '"),
    "NULL in place of ''": (pa.string(), "VARCHAR", ["", "x"], "NULL"),
    "'' in place of NULL": (pa.string(), "VARCHAR", [None, "x"], "''"),
    "boolean": (pa.bool_(), "BOOLEAN", [True, False, None], 'NOT "V"'),
    "boolean as number": (pa.bool_(), "NUMBER(1, 0)", [True, False, None], "0"),
    "date": (pa.date32(), "DATE", [date(1582, 10, 4), date(9999, 12, 31), None], "'1582-10-05'::DATE"),
    "timestamp": (pa.timestamp("us", "UTC"), "TIMESTAMP_LTZ", [INSTANT, None], 'DATEADD(MICROSECOND, 1, "V")'),
    "timestamp as NTZ": (pa.timestamp("us", "UTC"), "TIMESTAMP_NTZ", [INSTANT, None], 'DATEADD(HOUR, 1, "V")'),
    "timestamp_ntz": (pa.timestamp("us"), "TIMESTAMP_NTZ", [INSTANT.replace(tzinfo=None)], 'DATEADD(SECOND, 1, "V")'),
    "binary": (pa.binary(), "BINARY", [b"\x00\xff", b"", None], "TO_BINARY('00FE', 'HEX')"),
    "double": (pa.float64(), "FLOAT", [1.5, -2e300, 1e-300, None], '"V" * 1.000001'),
    "double's sign": (pa.float64(), "FLOAT", [0.25, -3.0, None], '-"V"'),
    "double in the middle": (pa.float64(), "FLOAT", [2.0, 1.0, 3.0], '"V" * 1.000001'),
    "float": (pa.float32(), "FLOAT", [1.100000023841858, None], '"V" * 1.000001'),
    "NaN": (pa.float64(), "FLOAT", [math.nan, 1.0], "'inf'::FLOAT"),
    "infinity": (pa.float64(), "FLOAT", [math.inf, 1.0], "'-inf'::FLOAT"),
}


def copied(share: Share, kind: pa.DataType, target: str, values: list[Any], **fields: Any) -> tuple[Run, str]:
    """Do a sync up to its check; return it, and its staging table."""
    dataset = share.dataset({"k": "NUMBER(38, 0)", "v": target}, **fields)
    rows = [{"k": number, "v": value} for number, value in enumerate(values)]
    share.write(dataset, rows, pa.schema({"k": pa.int64(), "v": kind}))
    run = share.run(dataset)
    share.export(dataset, run)
    share.step(run, "copy_into_staging")
    return run, str(run.dag.user_defined_macros["staging_table"](run.dag_run))  # type: ignore[index]


@pytest.mark.parametrize("change", CHANGES)
def test_a_value_that_changed_on_its_way_is_noticed(a_share: Share, change: str) -> None:
    kind, target, values, other = CHANGES[change]
    run, staging = copied(a_share, kind, target, values)
    a_share.step(run, "check_staging")

    a_share.query(f'UPDATE {staging} SET "V" = {other} WHERE "K" = 0')
    with pytest.raises(CheckFailedError, match=r'(?s)^1 of \d+ checks failed.*values_match_manifest: column "V": '):
        a_share.step(run, "check_staging")
