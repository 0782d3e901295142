"""Results in the SQL API's format: every value is a string, encoded by its type."""

from __future__ import annotations

import binascii
import datetime
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
from fakesnow.rowtype import describe_as_rowtype
from sqlglot import exp

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NAIVE_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_UTC_OFFSET = 1440
"""The offset that a TIMESTAMP_TZ in UTC has: minutes from UTC plus 1440."""

# DuckDB's types that fakesnow cannot describe -> a similar type that it can.
_SAME_KIND = {
    "TINYINT": "BIGINT",
    "SMALLINT": "BIGINT",
    "UTINYINT": "BIGINT",
    "USMALLINT": "BIGINT",
    "UINTEGER": "BIGINT",
    "UHUGEINT": "HUGEINT",
    "FLOAT": "DOUBLE",
    "UUID": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
}
_COUNTS = {
    "number of rows inserted": "numRowsInserted",
    "number of rows updated": "numRowsUpdated",
    "number of rows deleted": "numRowsDeleted",
}


@dataclass
class Result:
    """
    A statement's result.

    :param columns: name and DuckDB type of each column; ``TIMESTAMP_TZ`` is a timestamp that keeps its offset.
    :param rows: the values, encoded.
    :param stats: the numbers of changed rows, for DML.
    """

    columns: list[tuple[str, str]]
    rows: list[list[str | None]]
    stats: dict[str, int] | None = None

    def row_type(self) -> list[dict[str, Any]]:
        """Return the description of the columns for `resultSetMetaData.rowType`."""
        described = []
        for name, type_ in self.columns:
            known = "TIMESTAMP WITH TIME ZONE" if type_ == "TIMESTAMP_TZ" else type_
            (column,) = describe_as_rowtype([(name, known, None, None, None, None)])
            kind = column["type"]
            if kind == "timestamp_tz" and type_ != "TIMESTAMP_TZ":
                kind = "timestamp_ltz"
            described.append({**column, "type": kind})
        return described


def encode(described: Sequence[tuple[str, str]], table: pa.Table | None, statement: exp.Expr) -> Result:
    """
    Encode the result of a statement.

    :param described: name and DuckDB type of each column.
    :param table: the values; None for no rows.
    """
    offsets = _columns_with_offset(statement)
    columns = []
    for index, (name, type_) in enumerate(described):
        known = _SAME_KIND.get(type_, type_)
        if type_.endswith("[]") or type_.startswith(("STRUCT", "MAP")):
            known = "JSON"
        columns.append((name, "TIMESTAMP_TZ" if index in offsets and "TIME ZONE" in type_ else known))
    values: list[list[Any]] = [column.to_pylist() for column in table.columns] if table is not None else []
    rows = [
        [_text(value, type_) for value, (_, type_) in zip(row, columns, strict=True)]
        for row in zip(*values, strict=True)
    ]
    return Result(columns, rows, _stats(columns, rows))


def _columns_with_offset(statement: exp.Expr) -> set[int]:
    """Return the indices of columns cast to TIMESTAMP_TZ, for which DuckDB has the same type as for TIMESTAMP_LTZ."""
    if not isinstance(statement, exp.Select):
        return set()
    found = set()
    for index, item in enumerate(statement.expressions):
        cast = item.unalias()
        if isinstance(cast, exp.Cast) and cast.to.is_type(exp.DataType.Type.TIMESTAMPTZ):
            found.add(index)
    return found


def _stats(columns: list[tuple[str, str]], rows: list[list[str | None]]) -> dict[str, int] | None:
    if len(rows) != 1 or not any(name in _COUNTS for name, _ in columns):
        return None
    stats = dict.fromkeys((*_COUNTS.values(), "numDmlDuplicates"), 0)
    for (name, _), value in zip(columns, rows[0], strict=True):
        if name in _COUNTS:
            stats[_COUNTS[name]] = int(value or 0)
    return stats


def _text(value: Any, type_: str) -> str | None:
    """Encode one value as the SQL API does."""
    if value is None:
        return None
    if type_ == "JSON":
        return _json_text(value)
    match value:
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.hex().upper()
        case Decimal():
            return format(value, "f")
        case float() if math.isnan(value):
            return "NaN"
        case datetime.datetime():
            aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
            seconds = _seconds((aware - _EPOCH) // _MICROSECOND)
            return f"{seconds} {_UTC_OFFSET}" if type_ == "TIMESTAMP_TZ" else seconds
        case datetime.date():
            return str((value - _EPOCH.date()).days)
        case datetime.time():
            since_midnight = datetime.datetime.combine(_EPOCH.date(), value, tzinfo=datetime.UTC) - _EPOCH
            return _seconds(since_midnight // _MICROSECOND)
    return str(value)


def _seconds(microseconds: int) -> str:
    """Format microseconds as seconds with nine decimal places."""
    sign = "-" if microseconds < 0 else ""
    whole, fraction = divmod(abs(microseconds), 1_000_000)
    return f"{sign}{whole}.{fraction:06d}000"


def _json_text(value: Any) -> str:
    """Format JSON as Snowflake does: on several lines, indented by two spaces."""
    parsed = json.loads(value) if isinstance(value, str) else value
    return json.dumps(parsed, indent=2, ensure_ascii=False, default=str)


def bound_value(kind: str, text: str) -> Any:
    """
    Decode the value of a bind variable from a request.

    :param kind: the binding type, in upper case.
    :raises KeyError: if the type does not exist.
    :raises ValueError: if the text is not a value of the type.
    """
    return _BOUND[kind](text)


def _bound_integer(text: str) -> int:
    # int() also accepts `1_000` and ` 1 `.
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(text)
    return int(text)


def _bound_boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _bound_instant(nanoseconds: str) -> datetime.timedelta:
    # Whole microseconds, by integer division: DuckDB stores nothing finer, and a float would not even keep these.
    return datetime.timedelta(microseconds=_bound_integer(nanoseconds) // 1000)


def _bound_timestamp_tz(text: str) -> datetime.datetime:
    nanoseconds, _, offset = text.partition(" ")
    zone = datetime.timezone(datetime.timedelta(minutes=int(offset or _UTC_OFFSET) - _UTC_OFFSET))
    return (_EPOCH + _bound_instant(nanoseconds)).astimezone(zone)


_BOUND: dict[str, Callable[[str], Any]] = {
    "FIXED": _bound_integer,
    "REAL": float,
    "TEXT": str,
    "BINARY": binascii.unhexlify,
    "BOOLEAN": _bound_boolean,
    "DATE": lambda text: _EPOCH.date() + datetime.timedelta(days=_bound_integer(text) // 86_400_000),
    "TIME": lambda text: (_NAIVE_EPOCH + _bound_instant(text)).time(),
    "TIMESTAMP_NTZ": lambda text: _NAIVE_EPOCH + _bound_instant(text),
    "TIMESTAMP_LTZ": lambda text: _EPOCH + _bound_instant(text),
    "TIMESTAMP_TZ": _bound_timestamp_tz,
}
