"""
What is published equals the source, whatever the types of both sides are: it is equal, or nothing is published.

All pairs of a type of the source and a type of the target, with values at the ends of what the source's type holds.
Each pair is a column, so that a few syncs see them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from data_share.column_types import PAIRS, Verdict, described_type, fit, source_type
from data_share.datasets import Dataset
from data_share.snowflake.schema_drift import SchemaDriftError, TypesLoseValuesError
from data_share.snowflake.sql_api import SnowflakeStatementError
from tests.sandbox.load.driver import Share

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

INSTANT = datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)
LATE = datetime(2026, 3, 28, 23, 30, 0, 123_456, UTC)


@dataclass(frozen=True)
class Source:
    """A type of the source: in Databricks' words, in Arrow's, and hard values of it."""

    spark: str
    arrow: pa.DataType
    values: tuple[Any, ...]


def _decimal(precision: int, scale: int, *values: str) -> Source:
    kind = pa.decimal128(precision, scale)
    return Source(f"decimal({precision},{scale})", kind, tuple(Decimal(value) for value in values))


def _whole(spark: str, bits: int, *values: int) -> Source:
    return Source(spark, getattr(pa, f"int{bits}")(), (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, *values))


SOURCES = [
    _whole("tinyint", 8),
    _whole("smallint", 16),
    _whole("int", 32),
    _whole("bigint", 64, 2**53 + 1),
    _decimal(4, 1, "1.4", "2.5", "-999.9"),
    _decimal(12, 2, "19.99", "0.49", "1000000.50", "-9999999999.99"),
    _decimal(15, 0, "999999999999999", "-1"),
    _decimal(18, 0, "999999999999999999", "-1"),
    _decimal(38, 9, "9" * 29 + "." + "9" * 9, "-0.000000001", "123456789012345678.123456789"),
    _decimal(38, 37, "9." + "9" * 37, "-1E-37"),
    _decimal(38, 38, "0." + "9" * 38, "-1E-38"),
    Source("float", pa.float32(), (1.5, -0.0, 3.4028234663852886e38, 0.10000000149011612)),
    Source("double", pa.float64(), (0.1, 5e-324, 1.7976931348623157e308, -123456789.123456789)),
    Source("string", pa.string(), ("", "\\N", " a ", "Zoë \U0001f326", 'it\'s\n"x"', "0041", "a" * 90)),
    Source("binary", pa.binary(), (b"", b"\x00\xff", b"\xfe" * 40)),
    Source("boolean", pa.bool_(), (True, False)),
    Source("date", pa.date32(), (date(1, 1, 1), date(1582, 10, 4), date(9999, 12, 31))),
    Source("timestamp", pa.timestamp("us", "UTC"), (INSTANT, LATE, datetime(2262, 4, 12, 0, 0, 0, 5, UTC))),
    Source("timestamp_ntz", pa.timestamp("us"), (INSTANT.replace(tzinfo=None), LATE.replace(tzinfo=None))),
    Source("array<bigint>", pa.list_(pa.int64()), ([1, None, 2**53 + 1], [])),
    Source("array<decimal(38,9)>", pa.list_(pa.decimal128(38, 9)), ([Decimal("123456789012345678.123456789")],)),
    Source("array<binary>", pa.list_(pa.binary()), ([b"\x00\xff"],)),
    Source("map<string,double>", pa.map_(pa.string(), pa.float64()), ([("a", 0.1), ("b", None)], [])),
    Source(
        "struct<a:int,b:string,c:decimal(10,2)>",
        pa.struct([("a", pa.int32()), ("b", pa.string()), ("c", pa.decimal128(10, 2))]),
        ({"a": 1, "b": "ü", "c": Decimal("1.25")}, {"a": None, "b": None, "c": None}),
    ),
]
TARGETS = [
    *("NUMBER(38,0)", "NUMBER(19,0)", "NUMBER(10,0)", "NUMBER(2,0)", "NUMBER(12,2)", "NUMBER(38,9)", "NUMBER(38,37)"),
    *("FLOAT", "VARCHAR", "VARCHAR(100)", "VARCHAR(3)", "BINARY", "BOOLEAN", "DATE", "TIME(9)", "TIME(3)"),
    *("TIMESTAMP_NTZ(9)", "TIMESTAMP_NTZ(6)", "TIMESTAMP_NTZ(3)", "TIMESTAMP_LTZ(9)", "TIMESTAMP_LTZ(0)"),
    *("TIMESTAMP_TZ(9)", "TIMESTAMP_TZ(5)", "VARIANT", "OBJECT", "ARRAY"),
]
# A text that a cast takes, where most texts are refused by it.
TEXTS = {
    "NUMBER": "0.333",
    "FLOAT": "1.60",
    "BINARY": "0041",
    "BOOLEAN": "no",
    "DATE": "2026-01-02",
    "TIME": "01:02:03.456789",
    **dict.fromkeys(("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"), "2026-01-02 03:04:05.678901"),
}


@dataclass(frozen=True)
class Pair:
    """A type of the source and one of the target; the column that shows what becomes of the values."""

    source: Source
    target: str
    column: str

    @property
    def verdict(self) -> Verdict:
        return fit(self.source.spark, self.target).verdict

    @property
    def values(self) -> tuple[Any, ...]:
        text = TEXTS.get(described_type(self.target).kind)
        is_cast = self.verdict is Verdict.SILENT and self.source.spark == "string" and text is not None
        return (text,) if is_cast else self.source.values

    @property
    def kinds(self) -> tuple[str, str]:
        return source_type(self.source.spark).kind, described_type(self.target).kind


PAIRS_OF_TYPES = [
    Pair(source, target, f"c{number}")
    for number, (source, target) in enumerate((source, target) for source in SOURCES for target in TARGETS)
]
OF_VERDICT = {verdict: [pair for pair in PAIRS_OF_TYPES if pair.verdict is verdict] for verdict in Verdict}
ROWS = 1 + max(len(source.values) for source in SOURCES)  # the last row is NULL

# Refused, though the emulator shows no other value: why.
NOT_SHOWN = {
    # By the page TO_DATE, a VARIANT that holds a timestamp has no date; by Data type conversion, a timestamp has one.
    ("timestamp", "DATE"),
    ("timestamp_ntz", "DATE"),
    # The same with numbers and truth: the page TO_BOOLEAN, and the error of a VARIANT.
    *((kind, "BOOLEAN") for kind in ("tinyint", "smallint", "int", "bigint", "decimal", "float", "double")),
    # An instant of a zone that the source does not name: the same digits.
    *((kind, target) for kind in ("date", "timestamp_ntz") for target in ("TIMESTAMP_LTZ", "TIMESTAMP_TZ")),
    # By a setting of the account.
    ("date", "VARCHAR"),
    # Not documented.
    ("decimal", "VARIANT"),
    ("array", "VARIANT"),
    ("array", "ARRAY"),
    ("binary", "VARIANT"),
    # The emulator's decimals have the digit that Snowflake's lack.
    ("decimal", "VARCHAR"),
}


def table(pairs: list[Pair], values: Callable[[Pair], tuple[Any, ...]]) -> pa.Table:
    columns = {pair.column: pa.array([*values(pair), *[None] * (ROWS - len(values(pair)))], pair.source.arrow)
               for pair in pairs}  # fmt: skip
    return pa.table({"k": pa.array(range(ROWS), pa.int64()), **columns})


def dataset_of(share: Share, pairs: list[Pair], values: Callable[[Pair], tuple[Any, ...]], **fields: Any) -> Dataset:
    columns = {"k": "NUMBER(38, 0)"} | {pair.column: pair.target for pair in pairs}
    dataset = share.dataset(columns, **fields)
    rows = table(pairs, values)
    share.write(dataset, rows.to_pylist(), rows.schema)
    return dataset


def published(share: Share, dataset: Dataset, pair: Pair) -> list[Any]:
    return [row[pair.column] for row in share.target(dataset, "k")]


def fits(pair: Pair) -> tuple[Any, ...]:
    """The values that the target takes, by its size."""
    target = described_type(pair.target)
    if target.kind == "NUMBER":
        most = Decimal(10) ** ((target.size or 0) - target.scale)
        return tuple(value for value in pair.source.values if abs(Decimal(value)) < most)
    if target.kind == "VARCHAR":
        return tuple(value for value in pair.source.values if len(_text(value)) <= (target.size or 1000))
    return pair.source.values


def _text(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else format(value, "f")
        if isinstance(value, Decimal)
        else str(value)
    )


def equal(value: Any, found: Any, pair: Pair) -> bool:
    """Whether a value of the target is that of the source; a number as text, or in JSON, is the number."""
    if value is None or found is None:
        return value is found
    kind = pair.kinds[1]
    if kind in ("VARIANT", "OBJECT", "ARRAY"):
        loaded = json.loads(found, parse_float=Decimal, parse_int=Decimal)
        return _same(dict(value) if pair.kinds[0] == "map" else value, loaded)
    if isinstance(value, bool) or kind == "BOOLEAN":
        return found in (value, _text(value)) and isinstance(value, bool)
    if kind == "VARCHAR" and not isinstance(value, str):
        return isinstance(value, (int, Decimal)) and Decimal(found) == value
    if isinstance(value, float):
        return isinstance(found, float) and repr(found) == repr(value)
    if isinstance(value, (int, Decimal)):
        return isinstance(found, (int, float, Decimal)) and Decimal(found) == value
    if isinstance(value, datetime):
        if not isinstance(found, datetime):
            return False
        return found.replace(tzinfo=None) == value.replace(tzinfo=None)
    if isinstance(value, date):
        return found in (value, datetime.combine(value, time()))
    if kind == "BINARY" and isinstance(value, str):
        value = value.encode()  # bytes are shown as digits, which may be those of the text
    if isinstance(value, bytes):
        return bool(found == value.hex().upper()) if isinstance(found, str) else bool(found == value)
    return type(found) is type(value) and bool(found == value)


def _same(value: Any, loaded: Any) -> bool:
    """Whether a part of a VARIANT is that of the source."""
    if any(isinstance(value, kind) is not isinstance(loaded, kind) for kind in (list, dict)):
        return False
    if isinstance(value, dict):
        return value.keys() == loaded.keys() and all(_same(part, loaded[name]) for name, part in value.items())
    if isinstance(value, list):
        return len(value) == len(loaded) and all(map(_same, value, loaded))
    if isinstance(value, float):
        return repr(float(loaded)) == repr(value)
    if isinstance(value, datetime):
        return bool(re.sub(r"\+00(:00)?$", "", loaded) == value.replace(tzinfo=None).isoformat(" "))
    if isinstance(value, bytes):
        return bool(loaded == value.decode(errors="replace"))
    return bool(loaded == (value.isoformat() if isinstance(value, date) else value))


def differences(share: Share, dataset: Dataset, pairs: list[Pair], values: Callable[[Pair], Any]) -> Iterator[str]:
    rows = share.target(dataset, "k")
    for pair in pairs:
        wanted = [*values(pair), *[None] * (ROWS - len(values(pair)))]
        for value, row in zip(wanted, rows, strict=True):
            if not equal(value, row[pair.column], pair):
                yield f"{pair.source.spark} into {pair.target}: {value!r} became {row[pair.column]!r}"


def test_there_are_pairs_of_each_verdict() -> None:
    assert {verdict: len(pairs) > 50 for verdict, pairs in OF_VERDICT.items()} == dict.fromkeys(Verdict, True)


@pytest.mark.others_nightly
@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_what_fits_exactly_is_published_as_it_is(a_share: Share, mode: str) -> None:
    pairs = OF_VERDICT[Verdict.EXACT]
    keys = {"merge_keys": ("k",)} if mode == "merge" else {}
    dataset = dataset_of(a_share, pairs, lambda pair: pair.source.values, load_mode=mode, **keys)
    a_share.sync(dataset)
    assert list(differences(a_share, dataset, pairs, lambda pair: pair.source.values)) == []


def test_what_can_only_fail_is_published_as_it_is_where_it_fits(a_share: Share) -> None:
    pairs = [pair for pair in OF_VERDICT[Verdict.LOUD] if pair.kinds[1] in PAIRS[pair.kinds[0]]]
    dataset = dataset_of(a_share, pairs, fits)
    a_share.sync(dataset)
    assert list(differences(a_share, dataset, pairs, fits)) == []


@pytest.mark.tier("nightly")
def test_what_does_not_fit_fails_and_names_the_column(a_share: Share) -> None:
    pairs = [pair for pair in OF_VERDICT[Verdict.LOUD] if len(fits_or_none(pair)) < len(pair.source.values)]
    assert len(pairs) > 50
    dataset = dataset_of(a_share, pairs, lambda pair: tuple(set_apart(pair)))
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    path = run.export_path.removeprefix("s3://databricks-snowflake-share/dataset/")
    passed: list[str] = []
    for pair in pairs:
        a_share.query(f'CREATE OR REPLACE TABLE staging.one ("{pair.column.upper()}" {pair.target})')
        if (refusal := refusal_of(a_share, COPY.format(path=path))) is None:
            passed.append(f"{pair.source.spark} into {pair.target}")
        elif f'["{pair.column.upper()}":1]' not in refusal and "is too long" not in refusal:
            passed.append(f"{pair.source.spark} into {pair.target} names no column: {refusal}")
    assert not passed, "; ".join(passed)


def refusal_of(share: Share, statement: str) -> str | None:
    try:
        share.query(statement)
    except SnowflakeStatementError as error:
        return str(error)
    return None


COPY = (
    "COPY INTO staging.one FROM @s3_share_stage/{path}data/ PATTERN = '.*[.]parquet' FILE_FORMAT = (TYPE = PARQUET "
    "USE_VECTORIZED_SCANNER = TRUE NULL_IF = ()) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
)


def fits_or_none(pair: Pair) -> tuple[Any, ...]:
    """The values that fit; none where there is no cast at all."""
    return fits(pair) if pair.kinds[1] in PAIRS[pair.kinds[0]] else ()


def set_apart(pair: Pair) -> Iterator[Any]:
    """The first value that does not fit."""
    fitting = [repr(value) for value in fits_or_none(pair)]
    # Without a cast, an empty text or an empty list might pass for nothing.
    yield next(value for value in pair.source.values if repr(value) not in fitting and value not in ("", b"", []))


def test_each_pair_that_could_change_a_value_is_refused_by_name(a_share: Share) -> None:
    pairs = OF_VERDICT[Verdict.SILENT]
    dataset = dataset_of(a_share, pairs, lambda pair: pair.values)
    with pytest.raises(TypesLoseValuesError) as caught:
        a_share.sync(dataset)
    message = str(caught.value)
    assert f"Values of {len(pairs)} column(s) could change" in message
    for pair in pairs:
        assert f"\n- {pair.column.upper()}: {pair.source.spark} into " in message
    assert a_share.target(dataset, "k") == []
    assert a_share.ledger(dataset) == []


def test_each_pair_that_is_refused_would_change_a_value(a_share: Share) -> None:
    # Why a type may not become text has nothing to do with the length of the text; the emulator's JSON holds no bytes
    # and no number without a digit before the point.
    pairs = [
        pair
        for pair in OF_VERDICT[Verdict.SILENT]
        if pair.kinds not in REFUSED_LOUDLY
        and not pair.target.startswith("VARCHAR(")
        and not (
            ("binary" in pair.source.spark or pair.source.spark == "decimal(38,38)")
            and pair.kinds[1] in ("VARIANT", "ARRAY")
        )
    ]
    dataset = dataset_of(a_share, pairs, silent_values, casts=[pair.column for pair in pairs])
    a_share.sync(dataset)
    unchanged = set()
    rows = a_share.target(dataset, "k")
    for pair in pairs:
        wanted = [*silent_values(pair), *[None] * (ROWS - len(silent_values(pair)))]
        if all(equal(value, row[pair.column], pair) for value, row in zip(wanted, rows, strict=True)):
            unchanged.add(pair.kinds)
    assert unchanged <= NOT_SHOWN


# The emulator takes the stricter of two readings of Snowflake's pages.
REFUSED_LOUDLY = {kinds for kinds in NOT_SHOWN if kinds[1] in ("DATE", "BOOLEAN")}


def silent_values(pair: Pair) -> tuple[Any, ...]:
    """The values whose cast does not fail, of a pair that can change some."""
    if pair.kinds[1] == "NUMBER" and pair.source.spark != "string":
        most = Decimal(10) ** ((described_type(pair.target).size or 0) - described_type(pair.target).scale)
        return tuple(value for value in pair.values if abs(Decimal(value)) + 1 < most) or (pair.source.values[-1],)
    if pair.kinds[1].startswith("TIMESTAMP") and pair.kinds[0] in ("tinyint", "smallint", "int", "bigint", "decimal"):
        return tuple(value for value in pair.values if abs(value) < 10**10) or (1,)
    return pair.values


# ---- one column, from outside


PRICES = [Decimal("19.99"), Decimal("0.49"), Decimal("1000000.50")]
PRICED = pa.schema({"k": pa.int64(), "price": pa.decimal128(12, 2)})
PRICE_ROWS = [{"k": number, "price": price} for number, price in enumerate(PRICES)]
ROUNDED = {"k": "NUMBER(38, 0)", "price": "NUMBER(38,0)"}


@pytest.mark.parametrize("policy", ["strict", "ignore_new", "add_new"])
def test_prices_are_not_rounded_and_the_advice_of_the_failure_helps(a_share: Share, policy: str) -> None:
    dataset = a_share.dataset(ROUNDED, schema_drift=policy)
    a_share.write(dataset, PRICE_ROWS, PRICED)
    with pytest.raises(TypesLoseValuesError, match=r"PRICE: decimal\(12,2\) into NUMBER\(38,0\)") as caught:
        a_share.sync(dataset)
    assert a_share.target(dataset, "k") == []
    advice = re.search(r"Make it NUMBER\(12, 2\): (.*?)\.$", str(caught.value), re.MULTILINE)
    assert advice is not None
    for statement in advice[1].split("; "):
        a_share.query(statement)
    a_share.sync(dataset)
    assert [row["price"] for row in a_share.target(dataset, "k")] == PRICES


def test_a_cast_that_is_wanted_rounds(a_share: Share) -> None:
    dataset = a_share.dataset(ROUNDED, casts=["Price"])
    a_share.write(dataset, PRICE_ROWS, PRICED)
    a_share.sync(dataset)
    assert [row["price"] for row in a_share.target(dataset, "k")] == [20, 0, 1000001]


def test_a_merge_key_that_would_be_rounded_overwrites_nothing(a_share: Share) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38,0)", "name": "VARCHAR"}, load_mode="merge", merge_keys=("k",))
    whole = pa.schema({"k": pa.int64(), "name": pa.string()})
    a_share.write(dataset, [{"k": 1, "name": "one"}], whole)
    a_share.sync(dataset)
    # The type changes after the first day.
    fraction = pa.schema({"k": pa.decimal128(4, 1), "name": pa.string()})
    a_share.write(dataset, [{"k": Decimal("1.4"), "name": "other"}], fraction)
    with pytest.raises(TypesLoseValuesError, match="It is a merge key"):
        a_share.sync(dataset)
    assert a_share.target(dataset, "k") == [{"k": 1, "name": "one"}]


def test_a_type_that_changes_to_one_that_fits_is_no_drift(a_share: Share) -> None:
    dataset = a_share.dataset({"k": "NUMBER(10,0)", "name": "VARCHAR(100)"})
    for kind in (pa.int8(), pa.int64(), pa.decimal128(9, 0)):
        schema = pa.schema({"k": kind, "name": pa.string()})
        a_share.write(dataset, [{"k": Decimal(7) if kind == pa.decimal128(9, 0) else 7, "name": "x"}], schema)
        a_share.sync(dataset)
        assert a_share.target(dataset, "k") == [{"k": 7, "name": "x"}]


# ---- a target from the source


def test_the_first_sync_creates_the_target_after_the_checks_and_a_dry_run_does_not(a_share: Share) -> None:
    dataset = a_share.dataset(create_table="from_source", checks={"positive": "price > 1"}, max_row_change_percent=1)
    a_share.write(dataset, PRICE_ROWS, PRICED)
    run = a_share.run(dataset, dry_run=True)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    told = a_share.step(run, "publish")
    assert told.pop("task_instance_id")
    assert told == {
        "dry_run": True,
        "load_mode": "replace",
        "export_path": run.export_path,
        "rows_inserted": 3,
        "rows_updated": 0,
        "rows_deleted": 0,
        "clear_number": 0,
        "export_mode": None,
    }
    with pytest.raises(Exception, match="positive"):
        a_share.sync(dataset)
    for number in range(2):
        with pytest.raises(SnowflakeStatementError, match="does not exist"):
            a_share.target(dataset, "k")
        if number == 0:
            a_share.write(dataset, PRICE_ROWS[::2], PRICED)
            a_share.sync(dataset)
            break
    assert [row["price"] for row in a_share.target(dataset, "k")] == PRICES[::2]
    types = {row["name"]: row["type"] for row in a_share.query(f"DESCRIBE TABLE {dataset.target_table}")}
    assert types == {"K": "NUMBER(38,0)", "PRICE": "NUMBER(12,2)"}
    # From then on, it is a target like any other.
    a_share.write(dataset, PRICE_ROWS[2:] + PRICE_ROWS[:1], PRICED)
    again = a_share.sync(dataset)
    assert again.ledger_row["rows_deleted"] == 2
    a_share.write(dataset, [{"k": 1, "price": 1.5}], pa.schema({"k": pa.int64(), "price": pa.float64()}))
    with pytest.raises(TypesLoseValuesError):
        a_share.sync(dataset)


def test_a_source_without_rows_creates_an_empty_target(a_share: Share) -> None:
    dataset = a_share.dataset(create_table="from_source", allow_empty=True, load_mode="append")
    a_share.write(dataset, [], PRICED)
    a_share.sync(dataset)
    assert a_share.target(dataset, "k") == []
    a_share.write(dataset, PRICE_ROWS, PRICED)
    a_share.sync(dataset)
    assert [row["price"] for row in a_share.target(dataset, "k")] == PRICES


# ---- defaults of the target


@pytest.mark.parametrize(
    "mode", ["merge", *[pytest.param(mode, marks=pytest.mark.tier("nightly")) for mode in ("replace", "append")]]
)
def test_a_column_that_the_source_lacks_keeps_its_default_when_the_file_lists_it(a_share: Share, mode: str) -> None:
    columns = {"k": "NUMBER(38, 0)", "price": "NUMBER(12, 2)", "origin": "VARCHAR(9) DEFAULT 'share' NOT NULL"}
    fields: dict[str, Any] = {"load_mode": mode, **({"merge_keys": ("k",)} if mode == "merge" else {})}
    dataset = a_share.dataset(columns, target_defaults=["Origin"], **fields)
    a_share.write(dataset, PRICE_ROWS[:1], PRICED)
    a_share.sync(dataset)
    a_share.query(f"UPDATE {dataset.target_table} SET origin = 'people'")
    a_share.write(dataset, PRICE_ROWS[:1] if mode == "replace" else PRICE_ROWS[1:], PRICED)
    a_share.sync(dataset)
    expected = ["share"] if mode == "replace" else ["people", "share", "share"]
    assert [row["origin"] for row in a_share.target(dataset, "k")] == expected


def test_a_column_without_a_default_is_missing_all_the_same(a_share: Share) -> None:
    dataset = a_share.dataset({"k": "NUMBER(38, 0)", "gone": "DATE"}, target_defaults=["gone"])
    a_share.write(dataset, [{"k": 1}], pa.schema({"k": pa.int64()}))
    with pytest.raises(SchemaDriftError, match="target_defaults lists GONE, which the export lacks"):
        a_share.sync(dataset)
