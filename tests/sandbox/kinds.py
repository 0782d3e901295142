"""
A source table with a column of each type, and hard values of each: those at the ends of what it can hold, and others
that are easily taken for something else.

It is exported by Spark and by the sandbox's own engine, and loaded from the files of both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
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
    :param values: there are NULLs besides. For years that Python does not have: days, microseconds
    """

    spark: str
    arrow: pa.DataType
    snowflake: str
    values: tuple[Any, ...]


def _decimal(precision: int, scale: int) -> Kind:
    whole, fraction = "9" * (precision - scale) or "0", "9" * scale
    largest, smallest = f"{whole}.{fraction}".rstrip("."), f"1E-{scale}"
    kind = f"{precision},{scale}"
    values = (Decimal(largest), Decimal(f"-{largest}"), Decimal(smallest), Decimal(0))
    # No number of Snowflake has 38 digits behind the point.
    return Kind(f"decimal({kind})", pa.decimal128(precision, scale), f"NUMBER({kind})" if scale < 38 else "", values)


def _whole(name: str, bits: int) -> Kind:
    arrow = getattr(pa, f"int{bits}")()
    return Kind(name, arrow, "NUMBER(38, 0)", (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, -1))


_DAYS = (
    date(1, 1, 1),
    date(1582, 10, 4),  # the last day of the Julian calendar
    date(1582, 10, 10),  # no day of any calendar but the proleptic one
    date(1582, 10, 15),
    date(1900, 2, 28),
    date(1969, 12, 31),
    date(2261, 12, 31),
    date(9999, 12, 31),
)
_INSTANTS = (
    datetime(1, 1, 1, 0, 0, 0, 1, UTC),
    datetime(1582, 10, 4, 23, 59, 59, 999_999, UTC),
    datetime(1582, 10, 10, 12, tzinfo=UTC),
    datetime(1899, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(1900, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 5, UTC),
    datetime(2026, 3, 29, 1, 30, 0, 1, UTC),  # an hour that clocks in Europe leave out
    datetime(2026, 7, 1, 23, 30, tzinfo=UTC),  # the next day, in Europe
    datetime(2261, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(2262, 4, 12, tzinfo=UTC),  # later than nanoseconds since 1970 in 64 bits
    datetime.max.replace(tzinfo=UTC),
)
_TEXTS = (
    "",
    "\\N",
    "NULL",
    " ",
    " two blanks at each end  ",
    "\t\r\n",
    "\0a\0",
    "Zoë, \U0001f326 'quoted' \"twice\" $1 {{ x }} %s",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \ufeff",
    "0041",
    "1970-01-01",
    "ü" * 2**19,  # 1 MB
)
_FLOATS = (math.nan, math.inf, -math.inf, -0.0, 0.0)
_STRUCT = pa.struct([("x", pa.int32()), ("odd, name", pa.string()), ("at", LOCAL_MICROSECONDS)])
_MAP_OF_BYTES = pa.map_(pa.string(), pa.list_(pa.binary()))


def _local(instants: Sequence[datetime]) -> tuple[datetime, ...]:
    return tuple(at.replace(tzinfo=None) for at in instants)


KINDS: dict[str, Kind] = {
    "boolean": Kind("boolean", pa.bool_(), "BOOLEAN", (True, False)),
    "tinyint": _whole("tinyint", 8),
    "smallint": _whole("smallint", 16),
    "int": _whole("int", 32),
    "bigint": _whole("bigint", 64),
    "float": Kind(
        "float", pa.float32(), "DOUBLE", (1.5, 0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45)
    ),
    "float_special": Kind("float", pa.float32(), "DOUBLE", _FLOATS),
    "double": Kind("double", pa.float64(), "DOUBLE", (0.1, 5e-324, 1.7976931348623157e308, -(2.0**53) - 2, 1 / 3)),
    "double_special": Kind("double", pa.float64(), "DOUBLE", _FLOATS),
    # Of each number of digits, and with the point before, in, and behind them.
    **{f"decimal_{digits}_{digits // 2}": _decimal(digits, digits // 2) for digits in range(1, 39)},
    **{f"decimal_{digits}_0": _decimal(digits, 0) for digits in (9, 10, 18, 19, 37)},
    **{f"decimal_{digits}_{digits}": _decimal(digits, digits) for digits in (1, 9, 10, 18, 19, 37)},
    "decimal_38_0": _decimal(38, 0),
    "decimal_38_37": _decimal(38, 37),
    "decimal_38_38": _decimal(38, 38),
    "string": Kind("string", pa.string(), "VARCHAR", _TEXTS),
    "binary": Kind(
        "binary", pa.binary(), "BINARY", (b"", b"\0", b"\x00\xff\xfe", b"\\N", b"x ", bytes(range(256)) * 9)
    ),
    "date": Kind("date", pa.date32(), "DATE", _DAYS),
    "date_far": Kind("date", pa.date32(), "", (DAY_IN_12345, -DAY_IN_12345, -719_529)),
    "timestamp": Kind("timestamp", UTC_MICROSECONDS, "TIMESTAMP_LTZ", _INSTANTS),
    "timestamp_far": Kind("timestamp", UTC_MICROSECONDS, "", (SECOND_IN_12345 * 10**6 + 1, -(10**17))),
    "timestamp_ntz": Kind("timestamp_ntz", LOCAL_MICROSECONDS, "TIMESTAMP_NTZ", _local(_INSTANTS)),
    "timestamp_ntz_far": Kind("timestamp_ntz", LOCAL_MICROSECONDS, "", (SECOND_IN_12345 * 10**6 + 1, -(10**17))),
    "array": Kind("array<int>", pa.list_(pa.int32()), "VARIANT", ([1, None, -(2**31)], [], [None])),
    "array_of_arrays": Kind(
        "array<array<timestamp>>",
        pa.list_(pa.list_(UTC_MICROSECONDS)),
        "VARIANT",
        ([[_INSTANTS[0], _INSTANTS[-1]], None, []],),
    ),
    "array_of_texts": Kind("array<string>", pa.list_(pa.string()), "VARIANT", ([*_TEXTS[:-1], None], [""])),
    "map": Kind(
        "map<string,decimal(15,3)>",
        pa.map_(pa.string(), pa.decimal128(15, 3)),
        "VARIANT",
        ([("a", Decimal("1.500")), ("", Decimal("999999999999.999")), ("\\N", None)], []),
    ),
    "map_of_times": Kind(
        "map<int,timestamp_ntz>",
        pa.map_(pa.int32(), LOCAL_MICROSECONDS),
        "VARIANT",
        ([(1, datetime(1850, 1, 1)), (-1, None)],),
    ),
    "map_of_long_decimals": Kind(
        "map<string,decimal(38,9)>", pa.map_(pa.string(), pa.decimal128(38, 9)), "", ([("a", Decimal("1E-9"))],)
    ),
    "struct": Kind(
        "struct<x:int,`odd, name`:string,at:timestamp_ntz>",
        _STRUCT,
        "VARIANT",
        (
            {"x": 1, "odd, name": "ü", "at": datetime(2026, 1, 2, 3, 4, 5, 6)},
            {"x": None, "odd, name": None, "at": None},
        ),
    ),
    "array_of_structs": Kind(
        "array<struct<m:map<string,double>>>",
        pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.float64()))])),
        "VARIANT",
        ([{"m": [("a", 0.1), ("b", None)]}, None, {"m": None}],),
    ),
    "array_of_bytes": Kind(
        "array<struct<m:map<string,array<binary>>>>",
        pa.list_(pa.struct([("m", _MAP_OF_BYTES)])),
        "",
        ([{"m": [("a", [b"\x00", None])]}, None],),
    ),
    "Odd name, with `ticks` and (brackets)": Kind("string", pa.string(), "", ("x",)),
    "all_null": Kind("string", pa.string(), "VARCHAR", ()),
    "timestamp_ntz_all_null": Kind("timestamp_ntz", LOCAL_MICROSECONDS, "TIMESTAMP_NTZ", ()),
}
# What is another type in the source only, or becomes another one in the target.
_OTHER_NAMES = {
    "collated": Kind("string collate UTF8_LCASE", pa.string(), "VARCHAR", _TEXTS[:-1]),
    "varchar": Kind("varchar(5)", pa.string(), "VARCHAR(5)", ("", "\\N", " x ", "\U0001f326" * 5)),
    "char": Kind("char(5)", pa.string(), "VARCHAR(5)", ("abc  ", "     ", "\U0001f326" * 5)),
    "timestamp_in_ntz": Kind("timestamp", UTC_MICROSECONDS, "TIMESTAMP_NTZ", _INSTANTS),
    "timestamp_in_tz": Kind("timestamp", UTC_MICROSECONDS, "TIMESTAMP_TZ", _INSTANTS),
}
LOADED = {name: kind for name, kind in KINDS.items() if kind.snowflake} | _OTHER_NAMES
"""The columns that Snowflake has a place for, and such whose type has another name."""
NESTED = {name for name, kind in LOADED.items() if pa.types.is_nested(kind.arrow)}
"""Those of them that have no checksum."""

# The last row is NULL in each of them.
ROWS = 1 + max(len(kind.values) for kind in LOADED.values())


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
    if pa.types.is_temporal(kind.arrow) and isinstance(values[0], int):  # days, or microseconds
        return pa.array(values, pa.int32() if kind.arrow == pa.date32() else pa.int64()).cast(kind.arrow)
    return pa.array(values, kind.arrow)


# ---- what was loaded


def differences(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind] = LOADED) -> list[str]:
    """
    Compare the target's rows with those of the source, value by value; return what differs.

    :param rows: those of these kinds, as Snowflake's API gives them, by name and in the order of ``k``
    """
    assert [row["k"] for row in rows] == list(range(ROWS))
    assert set(rows[0]) == {"k", *kinds}
    return [
        f"{kind.spark} into {kind.snowflake}, column {name}, row {k}: {wanted:.100} became {loaded:.100}"
        for name, kind in kinds.items()
        for k, value in enumerate(source({name: kind})[name].to_pylist())
        if (wanted := _as_text(kind, value)) != (loaded := _as_text(kind, rows[k][name], is_loaded=True))
    ]


def _as_text(kind: Kind, value: Any, *, is_loaded: bool = False) -> str:
    """
    Write a value so that the same is the same and nothing else is: NaN is not equal to itself, and 0.0 is to -0.0.

    :param is_loaded: whether it comes from Snowflake, whose API gives nested values as JSON, and bytes as digits
    """
    if value is None:
        return "NULL"
    if pa.types.is_nested(kind.arrow):
        return repr(_loaded_part(json.loads(value, parse_float=Decimal)) if is_loaded else _part(kind.arrow, value))
    if pa.types.is_binary(kind.arrow):
        return str(value) if is_loaded else value.hex().upper()
    if pa.types.is_decimal(kind.arrow):
        return format(Decimal(value), "f") if is_loaded and isinstance(value, (int, Decimal)) else format(value, "f")
    if kind.arrow == UTC_MICROSECONDS:
        has_zone = is_loaded and kind.snowflake != "TIMESTAMP_NTZ"
        return repr(value.astimezone(UTC) if has_zone else value.replace(tzinfo=UTC))
    return repr(value)


def _part(kind: pa.DataType, value: Any) -> Any:
    """A part of a nested value, as JSON can have it."""
    if value is None:
        return None
    if isinstance(kind, pa.MapType):
        return {str(key): _part(kind.item_type, part) for key, part in value}
    if isinstance(kind, pa.ListType):
        return [_part(kind.value_type, part) for part in value]
    if isinstance(kind, pa.StructType):
        return {part.name: _part(part.type, value[part.name]) for part in kind}
    if isinstance(value, (float, Decimal)):
        return Decimal(str(value)).normalize()
    return value.replace(tzinfo=None).isoformat(" ") if isinstance(value, datetime) else value


def _loaded_part(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _loaded_part(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_loaded_part(part) for part in value]
    if isinstance(value, Decimal):
        return value.normalize()
    # How a VARIANT shows an instant is not documented; the emulator shows its zone.
    is_instant = isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:.*\+00", value)
    return value.removesuffix("+00") if is_instant else value
