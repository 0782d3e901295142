"""A source table with a column of each type, and values at the ends of what each can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

UTC_MICROSECONDS = pa.timestamp("us", "UTC")
LOCAL_MICROSECONDS = pa.timestamp("us")
# Years after 9999, which Python's own types do not have.
DAY_IN_12345 = 3_789_666
SECOND_IN_12345 = DAY_IN_12345 * 86_400


@dataclass(frozen=True)
class Kind:
    """
    A column.

    :param spark: its type in Spark's words
    :param arrow: the same type in Arrow's
    :param snowflake: a type of Snowflake that holds its values; empty where none does
    :param values: at most three; there are NULLs besides. For years that Python does not have: days, microseconds
    """

    spark: str
    arrow: pa.DataType
    snowflake: str
    values: tuple[Any, ...]


def _local(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type]


def _decimal(precision: int, scale: int) -> Kind:
    whole, fraction = "9" * (precision - scale) or "0", "9" * scale
    largest, smallest = f"{whole}.{fraction}".rstrip("."), f"1E-{scale}"
    kind = f"{precision},{scale}"
    values = (Decimal(largest), Decimal(f"-{largest}"), Decimal(smallest))
    return Kind(f"decimal({kind})", pa.decimal128(precision, scale), f"NUMBER({kind})", values)


def _whole(name: str, bits: int) -> Kind:
    arrow = getattr(pa, f"int{bits}")()
    return Kind(name, arrow, "NUMBER(38, 0)", (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0))


_INSTANTS = (
    datetime(1899, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(2026, 3, 29, 1, 30, 0, 1, UTC),
    datetime(1969, 12, 31, 23, 59, 59, 5, UTC),
)
_STRUCT = pa.struct([("x", pa.int32()), ("odd, name", pa.string()), ("at", LOCAL_MICROSECONDS)])

KINDS: dict[str, Kind] = {
    "boolean": Kind("boolean", pa.bool_(), "BOOLEAN", (True, False)),
    "tinyint": _whole("tinyint", 8),
    "smallint": _whole("smallint", 16),
    "int": _whole("int", 32),
    "bigint": _whole("bigint", 64),
    "float": Kind("float", pa.float32(), "DOUBLE", (1.5, -0.0, 3.4028234663852886e38)),
    "float_special": Kind("float", pa.float32(), "DOUBLE", (math.nan, math.inf, -math.inf)),
    "double": Kind("double", pa.float64(), "DOUBLE", (0.1, 5e-324, 1.7976931348623157e308)),
    "double_special": Kind("double", pa.float64(), "DOUBLE", (math.nan, math.inf, -math.inf)),
    "decimal_1_0": _decimal(1, 0),
    "decimal_9_2": _decimal(9, 2),
    "decimal_10_2": _decimal(10, 2),
    "decimal_18_0": _decimal(18, 0),
    "decimal_18_18": _decimal(18, 18),
    "decimal_19_4": _decimal(19, 4),
    "decimal_38_0": _decimal(38, 0),
    "decimal_38_10": _decimal(38, 10),
    "decimal_38_38": _decimal(38, 38),
    "string": Kind("string", pa.string(), "VARCHAR", ("", "Zoë, \U0001f326 'quoted' \"twice\"\n\t", "a" * 70_000)),
    "binary": Kind("binary", pa.binary(), "BINARY", (b"", b"\x00\xff\xfe", bytes(range(256)))),
    "date": Kind("date", pa.date32(), "DATE", (date(1, 1, 1), date(1582, 10, 4), date(9999, 12, 31))),
    "date_far": Kind("date", pa.date32(), "", (DAY_IN_12345, -DAY_IN_12345, -719_529)),
    "timestamp": Kind("timestamp", UTC_MICROSECONDS, "TIMESTAMP_LTZ", _INSTANTS),
    "timestamp_wide": Kind(
        "timestamp",
        UTC_MICROSECONDS,
        "TIMESTAMP_LTZ",
        (datetime(1, 1, 1, 0, 0, 0, 1, UTC), datetime.max.replace(tzinfo=UTC), datetime(2262, 4, 12, tzinfo=UTC)),
    ),
    "timestamp_far": Kind("timestamp", UTC_MICROSECONDS, "", (SECOND_IN_12345 * 10**6 + 1, -(10**17))),
    "timestamp_ntz": Kind(
        "timestamp_ntz", LOCAL_MICROSECONDS, "TIMESTAMP_NTZ", tuple(at.replace(tzinfo=None) for at in _INSTANTS)
    ),
    "timestamp_ntz_wide": Kind(
        "timestamp_ntz", LOCAL_MICROSECONDS, "TIMESTAMP_NTZ", (_local(1, 1, 1, 0, 0, 0, 1), datetime.max)
    ),
    "timestamp_ntz_far": Kind("timestamp_ntz", LOCAL_MICROSECONDS, "", (SECOND_IN_12345 * 10**6 + 1, -(10**17))),
    "array": Kind("array<int>", pa.list_(pa.int32()), "VARIANT", ([1, None, 3], [])),
    "array_of_arrays": Kind(
        "array<array<timestamp>>", pa.list_(pa.list_(UTC_MICROSECONDS)), "VARIANT", ([[_INSTANTS[0]], None, []],)
    ),
    "map": Kind(
        "map<string,decimal(20,3)>",
        pa.map_(pa.string(), pa.decimal128(20, 3)),
        "VARIANT",
        ([("a", Decimal("1.500")), ("b", None)], []),
    ),
    "map_of_times": Kind(
        "map<int,timestamp_ntz>", pa.map_(pa.int32(), LOCAL_MICROSECONDS), "VARIANT", ([(1, _local(1850, 1, 1))],)
    ),
    "struct": Kind(
        "struct<x:int,`odd, name`:string,at:timestamp_ntz>",
        _STRUCT,
        "VARIANT",
        ({"x": 1, "odd, name": "ü", "at": _local(2026, 1, 2, 3, 4, 5, 6)}, {"x": None, "odd, name": None, "at": None}),
    ),
    "array_of_structs": Kind(
        "array<struct<m:map<string,array<binary>>>>",
        pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.binary())))])),
        "VARIANT",
        ([{"m": [("a", [b"\x00", None])]}, None],),
    ),
    "Odd name, with `ticks` and (brackets)": Kind("string", pa.string(), "", ("x",)),
    "all_null": Kind("string", pa.string(), "VARCHAR", ()),
    "timestamp_ntz_all_null": Kind("timestamp_ntz", LOCAL_MICROSECONDS, "TIMESTAMP_NTZ", ()),
}
# The last row is NULL in each of them.
ROWS = 1 + max(len(kind.values) for kind in KINDS.values())


def source(kinds: dict[str, Kind] | None = None) -> pa.Table:
    """Return a row for each value, with a key ``k``; a column that has fewer values than others ends in NULLs."""
    columns = {name: _column(kind) for name, kind in (kinds or KINDS).items()}
    return pa.table({"k": pa.array(range(ROWS), pa.int64()), **columns})


def spark_types(kinds: dict[str, Kind] | None = None) -> dict[str, str]:
    """Return the type of each column of :func:`source`."""
    return {"k": "bigint"} | {name: kind.spark for name, kind in (kinds or KINDS).items()}


def comparable(column: pa.ChunkedArray) -> list[Any]:
    """Return values that are equal when they are the same: NaN too, -0.0 not 0.0; any year, with or without zone."""
    kind = column.type
    if pa.types.is_floating(kind):
        whole = pa.int32() if kind == pa.float32() else pa.int64()
        column = pa.chunked_array([chunk.view(whole) for chunk in column.chunks], whole)
    elif pa.types.is_timestamp(kind):
        column = column.cast(LOCAL_MICROSECONDS).cast(pa.int64())
    elif pa.types.is_date(kind):
        column = column.cast(pa.int32())
    return [_without_zone(value) for value in column.to_pylist()]


def _without_zone(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)  # all of them are in UTC
    if isinstance(value, (list, tuple)):
        return [_without_zone(part) for part in value]
    if isinstance(value, dict):
        return {name: _without_zone(part) for name, part in value.items()}
    return value


def _column(kind: Kind) -> pa.Array:
    values = [*kind.values, *[None] * (ROWS - len(kind.values))]
    if kind.snowflake:
        return pa.array(values, kind.arrow)
    numbers = {pa.date32(): pa.int32(), pa.string(): pa.string()}  # of days, and of microseconds
    return pa.array(values, numbers.get(kind.arrow, pa.int64())).cast(kind.arrow)
