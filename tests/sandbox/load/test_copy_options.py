"""What the options of COPY INTO, and the session that it runs in, make of exported values."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from data_share.outcome.classify import failure_of
from data_share.snowflake.sql_api import SnowflakeStatementError
from tests.sandbox.load.driver import Share

pytestmark = pytest.mark.sandbox


def test_an_instant_is_the_same_in_each_type_of_timestamp(a_share: Share) -> None:
    types = {"ltz": "TIMESTAMP_LTZ", "tz": "TIMESTAMP_TZ", "ntz": "TIMESTAMP_NTZ"}
    dataset = a_share.dataset({"k": "NUMBER(38, 0)"} | types)
    # The next day in half of the world, the same day in the other.
    at = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
    schema = pa.schema({"k": pa.int64()} | {name: pa.timestamp("us", "UTC") for name in types})
    a_share.write(dataset, [{"k": 1, **dict.fromkeys(types, at)}], schema)
    a_share.sync(dataset)
    assert a_share.target(dataset, "k") == [{"k": 1, "ltz": at, "tz": at, "ntz": at.replace(tzinfo=None)}]


def test_a_text_that_is_too_long_is_told_with_its_column(a_share: Share) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "name": "VARCHAR(5)", "amount": "DOUBLE"})
    rows = [{"k": key, "name": "row " + "x" * key, "amount": None} for key in (1, 2)]
    a_share.write(dataset, rows[:1])
    a_share.sync(dataset)

    a_share.write(dataset, rows)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    with pytest.raises(SnowflakeStatementError) as caught:
        a_share.step(run, "copy_into_staging")
    report = failure_of(caught.value, "copy_into_staging")
    assert "exceeded by string 'row xx'" in report.message
    assert '["NAME":2]' in report.message
    assert a_share.target(dataset) == rows[:1]
