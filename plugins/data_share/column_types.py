"""
Which types of Snowflake keep the values of which types of Databricks: one table of pairs.

Each sync compares types with it before it loads, new columns get their types from it, the doctor checks targets with
it, and it is the table "Types" of ``docs/datasets.md``. Its statements about casts come from Snowflake's pages: data
type conversion, the conversion functions, numeric, date and time, and semi-structured types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What can happen to a value when it is loaded into a column."""

    EXACT = "exact"
    """The column can hold each value of the source's type."""
    LOUD = "loud"
    """The value is unchanged, or the load fails and names the column."""
    SILENT = "silent"
    """The value can change without an error."""


@dataclass(frozen=True)
class SourceType:
    """
    A type of Databricks.

    :param text: as ``TYPEOF`` writes it
    :param kind: its first word, in lower case; ``other`` for an unknown type
    :param precision: digits of a decimal
    :param scale: digits after the decimal point
    """

    text: str
    kind: str
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True)
class TargetType:
    """
    A type of Snowflake.

    :param kind: its name, as ``DESCRIBE TABLE`` writes it; ``OTHER`` for an unknown type
    :param size: precision of a number, length of text or bytes, digits of a fraction of a second; None for a type
        without a size and for an unknown type
    :param scale: digits of a number after the decimal point
    :param text: the type for SQL
    """

    kind: str
    size: int | None
    scale: int
    text: str


@dataclass(frozen=True)
class Fit:
    """
    What can happen to values of one type in a column of another type.

    :param reason: for ``loud`` and ``silent``: what can happen, in words
    """

    verdict: Verdict
    reason: str = ""


# ---- the types of Databricks

_INTEGER_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
_SOURCE_KINDS = (
    *_INTEGER_DIGITS,
    *("decimal", "float", "double", "string", "binary", "boolean", "date", "timestamp", "timestamp_ntz", "time"),
    *("interval", "void", "variant", "array", "map", "struct", "geography", "geometry"),
)
# A CHAR or VARCHAR is mostly "string" in the manifest, as Parquet has no lengths.
_SOURCE_SYNONYMS = {"char": "string", "varchar": "string", "null": "void", "byte": "tinyint", "short": "smallint"}
_SOURCE_SYNONYMS |= {"long": "bigint", "integer": "int", "timestamp_ltz": "timestamp"}
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)", re.IGNORECASE)


def source_type(text: str) -> SourceType:
    """
    Read a type of Databricks.

    :param text: as ``TYPEOF`` writes it, e.g. ``decimal(10,2)``, ``string collate UTF8_LCASE`` or ``array<int>``
    """
    if decimal := _DECIMAL.fullmatch(text):
        return SourceType(text, "decimal", int(decimal[1]), int(decimal[2]))
    word = (re.match(r"[a-zA-Z_]*", text) or [""])[0].lower()
    word = _SOURCE_SYNONYMS.get(word, word)
    return SourceType(text, word if word in _SOURCE_KINDS else "other", _INTEGER_DIGITS.get(word, 0))


# ---- the types of Snowflake

MAX_DIGITS = 38
MAX_SCALE = 37
"""Databricks allows one digit more after the point: ``decimal(38,38)`` has no counterpart."""
_FRACTION_DIGITS = 9
_MICROSECONDS = 6

# The name that DESCRIBE TABLE shows for a type -> all names that Snowflake accepts for it.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "NUMBER": ("NUMBER", "DECIMAL", "DEC", "NUMERIC", "INT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT", "BYTEINT"),
    "DECFLOAT": ("DECFLOAT",),
    "FLOAT": ("FLOAT", "FLOAT4", "FLOAT8", "DOUBLE", "DOUBLE PRECISION", "REAL"),
    "VARCHAR": (
        *("VARCHAR", "STRING", "TEXT", "NVARCHAR", "NVARCHAR2", "CHAR VARYING", "NCHAR VARYING"),
        *("CHAR", "CHARACTER", "NCHAR"),
    ),
    "BINARY": ("BINARY", "VARBINARY"),
    "BOOLEAN": ("BOOLEAN",),
    "DATE": ("DATE",),
    "TIME": ("TIME",),
    "TIMESTAMP_NTZ": ("TIMESTAMP_NTZ", "TIMESTAMPNTZ", "TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMP", "DATETIME"),
    "TIMESTAMP_LTZ": ("TIMESTAMP_LTZ", "TIMESTAMPLTZ", "TIMESTAMP WITH LOCAL TIME ZONE"),
    "TIMESTAMP_TZ": ("TIMESTAMP_TZ", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"),
    "VARIANT": ("VARIANT",),
    "OBJECT": ("OBJECT",),
    "ARRAY": ("ARRAY",),
}
_KIND_OF = {synonym: kind for kind, synonyms in SYNONYMS.items() for synonym in synonyms}
_WITHOUT_SIZE = {"INT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT", "BYTEINT", *SYNONYMS["FLOAT"], "DECFLOAT"}
_WITHOUT_SIZE |= {"BOOLEAN", "DATE", "VARIANT", "OBJECT", "ARRAY"}
_ONE_CHARACTER = {"CHAR", "CHARACTER", "NCHAR"}
_MAX_SIZE = {"VARCHAR": 134_217_728, "BINARY": 67_108_864, "TIME": 9}
_MAX_SIZE |= dict.fromkeys(("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"), _FRACTION_DIGITS)
_WRITTEN_TYPE = re.compile(r"([A-Z][A-Z0-9_ ]*?) ?(?:\( ?(\d{1,9}) ?(?:, ?(\d{1,3}) ?)?\) ?)?(WITH(?:OUT)? .*)?")


def type_pattern() -> str:
    """Return a pattern for the types that :func:`target_type` reads. For editors only: it allows wrong sizes."""
    names = sorted((name for names in SYNONYMS.values() for name in names), key=len, reverse=True)
    written = "|".join(_any_case(name) for name in names)
    size = r" *(\( *[0-9]{1,9} *(, *[0-9]{1,2} *)?\))?"
    zone = f"( +{_any_case('WITH')}({_any_case('OUT')}| +{_any_case('LOCAL')})? +{_any_case('TIME ZONE')})?"
    return f"^ *({written}){size}{zone}( +{_any_case('NOT NULL')})? *$"


def _any_case(words: str) -> str:
    letters = (f"[{letter}{letter.lower()}]" if letter.isalpha() else letter for letter in words)
    return "".join(letters).replace(" ", " +")


class UnknownTypeError(ValueError):
    """A text is not a type of Snowflake that this package knows. The message says why."""


def target_type(text: str) -> TargetType:
    """
    Read a type of Snowflake, by any of its names and in any case.

    :param text: e.g. ``NUMBER(38,0)``, ``decimal(10, 2)``, ``String``
    :raises UnknownTypeError: for an unknown type, or a size that the type does not allow
    """
    words = " ".join(text.upper().split())
    found = _WRITTEN_TYPE.fullmatch(words)
    # In `TIMESTAMP(3) WITH TIME ZONE` the size is in the middle of the name.
    name = " ".join(part for part in (found[1], found[4]) if part) if found else ""
    if found is None or name not in _KIND_OF:
        raise UnknownTypeError(f"{text!r} is no type of Snowflake that is known here")
    kind, size, scale = _KIND_OF[name], found[2], found[3]
    if size is not None and name in _WITHOUT_SIZE:
        raise UnknownTypeError(f"{text!r}: {name} takes no size")
    if scale is not None and kind != "NUMBER":
        raise UnknownTypeError(f"{text!r}: {name} takes one size, not two")
    if kind == "NUMBER":
        return _number(text, int(size or MAX_DIGITS), int(scale or 0))
    if kind not in _MAX_SIZE:
        return TargetType(kind, None, 0, kind)
    min_size, max_size = (0 if kind.startswith("TIME") else 1), _MAX_SIZE[kind]
    if size is None:
        if name in _ONE_CHARACTER:
            return TargetType(kind, 1, 0, f"{kind}(1)")
        return TargetType(kind, _FRACTION_DIGITS if kind.startswith("TIME") else None, 0, kind)
    if not min_size <= int(size) <= max_size:
        raise UnknownTypeError(f"{text!r}: the size of {name} is {min_size} to {max_size}")
    return TargetType(kind, int(size), 0, f"{kind}({int(size)})")


def _number(text: str, precision: int, scale: int) -> TargetType:
    if not 1 <= precision <= MAX_DIGITS:
        raise UnknownTypeError(f"{text!r}: a number has 1 to {MAX_DIGITS} digits")
    if scale > min(precision, MAX_SCALE):
        raise UnknownTypeError(f"{text!r}: its scale is at most its precision, and at most {MAX_SCALE}")
    return TargetType("NUMBER", precision, scale, f"NUMBER({precision}, {scale})")


def described_type(text: str) -> TargetType:
    """
    Read a type as ``DESCRIBE TABLE`` writes it.

    An unknown type is no error here: a target may have columns of any type, and :func:`fit` judges them.
    """
    try:
        # Remove a collation after the type: it changes comparisons, not the stored text.
        return target_type(re.sub(r" COLLATE '[^']*'$", "", text))
    except UnknownTypeError:
        return TargetType("OTHER", None, 0, text)


# ---- the table of pairs

_Condition = Callable[[SourceType, TargetType], bool]


@dataclass(frozen=True)
class Case:
    """
    The verdict on a pair of types, if a condition is true.

    :param reason: what can happen to a value
    :param words: the condition in words, for the documents
    """

    verdict: Verdict
    reason: str = ""
    words: str = ""
    condition: _Condition = lambda source, target: True


def _exact(words: str = "") -> tuple[Case, ...]:
    return (Case(Verdict.EXACT, words=words),)


def _loud(reason: str) -> tuple[Case, ...]:
    return (Case(Verdict.LOUD, reason),)


def _silent(reason: str) -> tuple[Case, ...]:
    return (Case(Verdict.SILENT, reason),)


_TOO_LONG = "a longer value is refused"
_ROUNDED = "digits after the point are rounded away"
_LARGEST_EXACT = "whole numbers beyond 2^53 are rounded"
MAX_VARIANT_DIGITS = 15
"""Max. digits of a decimal that survive the conversion to a 64-bit binary number and back."""

# An integer has no digits after the point: it is kept unchanged, or it is too large.
_WHOLE_TO_NUMBER = (
    Case(
        Verdict.LOUD,
        "a larger number is refused",
        "with fewer digits before the point",
        lambda source, target: (target.size or 0) - target.scale < source.precision,
    ),
    Case(Verdict.EXACT),
)
_DECIMAL_TO_NUMBER = (
    Case(Verdict.SILENT, _ROUNDED, "of a smaller scale", lambda source, target: target.scale < source.scale),
    Case(
        Verdict.LOUD,
        "a larger number is refused",
        "with fewer digits before the point",
        lambda source, target: (target.size or 0) - target.scale < source.precision - source.scale,
    ),
    Case(Verdict.EXACT, words="of the same or a larger scale"),
)
_DECIMAL_TO_FLOAT = (
    Case(
        Verdict.SILENT,
        "most decimal fractions have no exact binary form",
        "from a scale above 0",
        lambda source, target: source.scale > 0,
    ),
    Case(
        Verdict.SILENT,
        _LARGEST_EXACT,
        f"from more than {MAX_VARIANT_DIGITS} digits",
        lambda source, target: source.precision > MAX_VARIANT_DIGITS,
    ),
    Case(Verdict.EXACT, words=f"from at most {MAX_VARIANT_DIGITS} digits of scale 0"),
)
_MANY_DIGITS = f"a decimal of more than {MAX_VARIANT_DIGITS} digits may become a binary number"
_DECIMAL_TO_VARIANT = (
    Case(
        Verdict.SILENT,
        _MANY_DIGITS,
        f"from more than {MAX_VARIANT_DIGITS} digits",
        lambda source, target: source.precision > MAX_VARIANT_DIGITS,
    ),
    Case(Verdict.EXACT, words=f"from at most {MAX_VARIANT_DIGITS} digits"),
)


def _of_possible_scale(kept: Case) -> tuple[Case, ...]:
    lost = Case(
        Verdict.SILENT,
        f"no number of Snowflake has more than {MAX_SCALE} digits after the point",
        f"from a scale of {MAX_SCALE + 1}",
        lambda source, target: source.scale > MAX_SCALE,
    )
    return (lost, kept)


def _fraction(kept: tuple[Case, ...] = _exact("with 6 to 9 digits of a second")) -> tuple[Case, ...]:
    cut = Case(
        Verdict.SILENT,
        "microseconds are cut off",
        "with fewer than 6 digits of a second",
        lambda source, target: target.size is not None and target.size < _MICROSECONDS,
    )
    return (cut, *kept)


def _parts_of(text: str) -> Iterator[SourceType]:
    """Yield the types within a nested type. A field name that looks like a type may count too, which is safe."""
    # A word that is followed by a colon, before any comma or bracket, is a field name.
    for found in re.finditer(r"[a-z_]+(\(\d+,\d+\))?(?![^<>,]*:)", text, re.IGNORECASE):
        yield source_type(found[0])


def _has_part(*kinds: str) -> _Condition:
    return lambda source, target: any(part.kind in kinds for part in _parts_of(source.text))


def _has_long_decimal(source: SourceType, target: TargetType) -> bool:
    return any(part.kind == "decimal" and part.precision > MAX_VARIANT_DIGITS for part in _parts_of(source.text))


def _has_odd_key(source: SourceType, target: TargetType) -> bool:
    keys = re.findall(r"map<\s*([a-z_]+)", source.text, re.IGNORECASE)
    return any(source_type(key).kind not in ("string", *_INTEGER_DIGITS) for key in keys)


_NESTED = (
    Case(Verdict.SILENT, _MANY_DIGITS, f"with decimals of more than {MAX_VARIANT_DIGITS} digits", _has_long_decimal),
    Case(
        Verdict.SILENT,
        "Snowflake does not document how COPY loads such parts",
        "with parts of type BINARY, INTERVAL, VARIANT, GEOGRAPHY or GEOMETRY",
        _has_part("binary", "interval", "variant", "geography", "geometry"),
    ),
    Case(Verdict.SILENT, "keys become text", "with map keys that are neither text nor integers", _has_odd_key),
    Case(Verdict.EXACT),
)
_AS_TEXT = "its text depends on {} of the account"
_WRAPPED = _silent("a value that is no array becomes the only element of an array")
_NO_COUNTERPART = {
    "interval": "the file has a plain number of months or microseconds, without the unit",
    "variant": "the file has two fields of bytes, which COPY does not read as a VARIANT",
    "geography": "Snowflake does not document how COPY loads it",
    "geometry": "Snowflake does not document how COPY loads it",
    "other": "this package does not know the type",
}
_INSTANT_OR_LOCAL = {
    "VARCHAR": _silent(_AS_TEXT.format("TIMESTAMP_OUTPUT_FORMAT") + ", which cuts off microseconds"),
    "DATE": _silent("the time of the day is cut off"),
    "TIME": _silent("the date is cut off"),
    "VARIANT": _exact(),
    "ARRAY": _WRAPPED,
}
_NO_ZONE = _silent("it becomes an instant in a time zone that the source does not name")
_TO_OTHER = _silent("values of such a column cannot be compared with those of the source")
_WHOLE = {
    "NUMBER": _WHOLE_TO_NUMBER,
    "DECFLOAT": _exact(),
    "FLOAT": _exact(),
    "VARCHAR": _loud(_TOO_LONG),
    "BOOLEAN": _silent("every number but 0 becomes TRUE"),
    "TIMESTAMP_NTZ": _silent("it is read as seconds since 1970"),
    "TIMESTAMP_LTZ": _silent("it is read as seconds since 1970"),
    "TIMESTAMP_TZ": _silent("it is read as seconds since 1970"),
    "VARIANT": _exact(),
    "ARRAY": _WRAPPED,
}
_TO_JSON = _silent("it becomes a text of JSON")
_OBJECT = {"VARIANT": _NESTED, "OBJECT": _NESTED, "ARRAY": _WRAPPED, "VARCHAR": _TO_JSON}
_BINARY_FLOAT = {
    "NUMBER": _silent("it is rounded"),
    "DECFLOAT": _silent("only 38 digits are kept, and a binary number can have more"),
    "FLOAT": _exact(),
    "VARCHAR": _silent("its text has fewer digits than the number"),
    "BOOLEAN": _silent("every number but 0 becomes TRUE"),
    "VARIANT": _exact(),
    "ARRAY": _WRAPPED,
}

PAIRS: Mapping[str, Mapping[str, tuple[Case, ...]]] = {
    **dict.fromkeys(("tinyint", "smallint", "int"), _WHOLE),
    "bigint": {**_WHOLE, "FLOAT": _silent(_LARGEST_EXACT)},
    "decimal": {
        **_WHOLE,
        "NUMBER": _DECIMAL_TO_NUMBER,
        "DECFLOAT": _of_possible_scale(Case(Verdict.EXACT)),
        "FLOAT": _DECIMAL_TO_FLOAT,
        "VARCHAR": _of_possible_scale(Case(Verdict.LOUD, _TOO_LONG)),
        "VARIANT": _DECIMAL_TO_VARIANT,
    },
    "float": _BINARY_FLOAT,
    "double": _BINARY_FLOAT,
    "string": {
        "NUMBER": _silent("text is read as a number, and rounded"),
        "DECFLOAT": _silent("text is read as a number"),
        "FLOAT": _silent("text is read as a number, and rounded"),
        "VARCHAR": _loud(_TOO_LONG),
        "BINARY": _silent("text is read as hexadecimal digits"),
        "BOOLEAN": _silent("'no', 'off' and '0' become FALSE, others TRUE"),
        "DATE": _silent("text is read as a date, in a guessed format"),
        "TIME": _silent("text is read as a time, in a guessed format"),
        "TIMESTAMP_NTZ": _silent("text is read as a time, in a guessed format"),
        "TIMESTAMP_LTZ": _silent("text is read as a time, in a guessed format"),
        "TIMESTAMP_TZ": _silent("text is read as a time, in a guessed format"),
        "VARIANT": _loud(_TOO_LONG),
        "ARRAY": _WRAPPED,
    },
    "binary": {
        "BINARY": _loud(_TOO_LONG),
        "VARCHAR": _silent(_AS_TEXT.format("BINARY_OUTPUT_FORMAT")),
        "VARIANT": _silent("Snowflake does not document how COPY loads bytes into a VARIANT"),
        "ARRAY": _WRAPPED,
    },
    "boolean": {
        "BOOLEAN": _exact(),
        "NUMBER": _exact("as 0 and 1"),
        "DECFLOAT": _exact("as 0 and 1"),
        "VARCHAR": _loud(_TOO_LONG),
        "VARIANT": _exact(),
        "ARRAY": _WRAPPED,
    },
    "date": {
        "DATE": _exact(),
        "VARCHAR": _silent(_AS_TEXT.format("DATE_OUTPUT_FORMAT")),
        "TIMESTAMP_NTZ": _exact("as midnight"),
        "TIMESTAMP_LTZ": _NO_ZONE,
        "TIMESTAMP_TZ": _NO_ZONE,
        "VARIANT": _exact(),
        "ARRAY": _WRAPPED,
    },
    "timestamp": {
        **_INSTANT_OR_LOCAL,
        # Exported in UTC, and loaded in a session in UTC.
        "TIMESTAMP_NTZ": _fraction(_exact("with 6 to 9 digits of a second, as the time in UTC")),
        "TIMESTAMP_LTZ": _fraction(),
        "TIMESTAMP_TZ": _fraction(),
    },
    "timestamp_ntz": {
        **_INSTANT_OR_LOCAL,
        "TIMESTAMP_NTZ": _fraction(),
        "TIMESTAMP_LTZ": _NO_ZONE,
        "TIMESTAMP_TZ": _NO_ZONE,
    },
    "time": {
        "TIME": _fraction(),
        "VARCHAR": _silent(_AS_TEXT.format("TIME_OUTPUT_FORMAT") + ", which cuts off fractions"),
        "VARIANT": _exact(),
        "ARRAY": _WRAPPED,
    },
    "array": {"VARIANT": _NESTED, "ARRAY": _NESTED, "VARCHAR": _TO_JSON},
    "map": _OBJECT,
    "struct": _OBJECT,
    # A column of type VOID has only NULLs.
    "void": {kind: _exact() for kind in (*SYNONYMS, "OTHER")},
    **{source: {kind: _silent(reason) for kind in SYNONYMS} for source, reason in _NO_COUNTERPART.items()},
}
"""
Kind of the source's type -> kind of the target's type -> cases; the first case whose condition is true applies.

For a missing pair Snowflake has no cast: any value makes the load fail.
"""

NO_CAST = "Snowflake has no cast between them, so any value is refused"
"""The reason for a pair of types without a cast."""


def fit(source: str, target: str) -> Fit:
    """
    Return what can happen to the values of a source column in a target column.

    :param source: type of the source's column, as ``TYPEOF`` writes it
    :param target: type of the target's column, as ``DESCRIBE TABLE`` writes it
    """
    from_type, to_type = source_type(source), described_type(target)
    default = _TO_OTHER if to_type.kind == "OTHER" else _loud(NO_CAST)
    cases = PAIRS[from_type.kind].get(to_type.kind, default)
    case = next(case for case in cases if case.condition(from_type, to_type))
    return Fit(case.verdict, case.reason)


# ---- the type of a new column

# The widest types, so that a source column that becomes wider later mostly still fits.
NEW_COLUMN = {
    **dict.fromkeys(_INTEGER_DIGITS, "NUMBER(38, 0)"),
    "float": "FLOAT",
    "double": "FLOAT",
    "string": "VARCHAR",
    "binary": "BINARY",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP_LTZ",
    "timestamp_ntz": "TIMESTAMP_NTZ",
    "time": "TIME",
    **dict.fromkeys(("void", "array", "map", "struct"), "VARIANT"),
}
"""Kind of the source's type -> the type of a new column; for a decimal, it is the NUMBER with the same digits."""


def new_column_type(source: str, *, with_cast: bool = False) -> str | None:
    """
    Return the type of a new column: a type that keeps each value unchanged, or None if there is none.

    :param source: type of the source's column, as ``TYPEOF`` writes it
    :param with_cast: whether values may change
    """
    known = source_type(source)
    if known.kind == "decimal":
        text = f"NUMBER({known.precision}, {known.scale})" if known.scale <= MAX_SCALE else ""
    else:
        text = NEW_COLUMN.get(known.kind, "")
    if not text or (fit(source, text).verdict is Verdict.SILENT and not with_cast):
        return None
    return text
