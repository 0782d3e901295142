"""
Comparing what the values of an export sum up to with what those of its staging table sum up to, column by column.

The sums are made by ``include/sql/databricks/export_dataset.sql`` and by ``include/sql/snowflake/check_values.sql``, of
the same text for the same value. They do not depend on the order of the rows, so two values of one column that are
exchanged between rows are not seen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.column_types import described_type, source_type
from data_share.datasets import Dataset, Proof
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.sql_text import folded


class Form(StrEnum):
    """How a column of the staging table is summed up; the texts are in ``check_values.sql``."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    BINARY = "binary"
    FRACTION = "fraction"
    """Not by checksum: the text of a binary fraction is not the same everywhere."""


class InvalidProofError(ShareError, AirflowFailException):
    """The manifest's sums cannot be read."""

    code = FailureCode.MANIFEST_INVALID


_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_TIMESTAMPS = ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ")
# Kind in the source, kind in the staging table: what both sides make the same text of.
_FORMS: Mapping[tuple[str, str], Form] = {
    **{(kind, target): Form.NUMBER for kind in (*_INTEGERS, "decimal") for target in ("NUMBER", "FLOAT")},
    ("boolean", "NUMBER"): Form.NUMBER,
    **{(kind, "VARCHAR"): Form.TEXT for kind in (*_INTEGERS, "string")},
    ("boolean", "BOOLEAN"): Form.BOOLEAN,
    ("date", "DATE"): Form.DATE,
    **{("timestamp", target): Form.TIMESTAMP for target in _TIMESTAMPS},
    ("timestamp_ntz", "TIMESTAMP_NTZ"): Form.TIMESTAMP,
    ("binary", "BINARY"): Form.BINARY,
    **{(kind, "FLOAT"): Form.FRACTION for kind in ("float", "double")},
}
_COUNTS = ("finite", "infinite", "negative_infinite")
_LIMITS = ("minimum", "maximum")
_COUNT = re.compile(r"[0-9]{1,38}")
_FRACTION = re.compile(r"-?[0-9]+([.][0-9]+)?(e[+-]?[0-9]+)?|-?inf(inity)?|nan", re.IGNORECASE)

# A number passes through texts of 15 to 17 digits on its way here.
_TEXT_ERROR = 1e-12
# A sum of n numbers is wrong by less than n times this, in whatever order it is made, and in practice by far less.
_ERROR_PER_VALUE = 1e-15
_LARGEST_ERROR = 1e-9

_NO_SUMS = "the manifest has no checksums: the export was made without, or by a job that was deployed before"


def proven_columns(
    column_types: str | None, staged: Mapping[str, str], dataset: Dataset
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """
    Return the columns whose values are compared, with what the manifest says of them, and why the others are not.

    :param column_types: the manifest's schema, with or without sums
    :param staged: the staging table's columns with their types, as ``DESCRIBE TABLE`` writes both
    :param dataset: says whether values are compared, and of which columns they may change
    :raises InvalidProofError: the manifest's sums are none
    """
    if dataset.proof_of_values is Proof.COUNTS:
        return [], dict.fromkeys(staged, "the dataset says proof: counts")
    # Of a job that was deployed before, this is no list.
    entries = json.loads(column_types) if column_types and column_types.startswith("[") else []
    exported = {folded(entry["name"]): entry for entry in entries if "filled" in entry}
    proven, unproven = [], {}
    for column, text in staged.items():
        entry = exported.get(folded(column))
        if entry is None:
            unproven[column] = _NO_SUMS
            continue
        target = described_type(text)
        form = _FORMS.get((source_type(entry["type"]).kind, target.kind))
        if column in dataset.casts:
            unproven[column] = "listed in casts, so its values may change"
        elif form is None:
            unproven[column] = f"no checksum is known for {entry['type']} in {text}"
        else:
            # Only whole numbers may be loaded into binary fractions.
            scale = None if target.kind == "FLOAT" else target.scale
            proven.append({"column": column, "form": form.value, "scale": scale, **_sums(entry, form)})
    return proven, unproven


def _sums(entry: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Return what an entry of the manifest says, as JSON has it: counts and checksums as texts of digits."""
    try:
        if form is not Form.FRACTION:
            return {name: _count(entry[name]) for name in ("filled", "checksum")}
        counts = {name: _count(entry[name]) for name in ("filled", *_COUNTS)}
        return counts | {name: _fraction(entry[name]) for name in (*_LIMITS, "total", "magnitude")}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidProofError(
            f"What the manifest says of the values of column {entry['name']!r} cannot be read ({error}). The "
            "target is as it was.",
            what_to_do="Start a sync without reload_run_key; if it fails in the same way, deploy the asset bundle "
            "again.",
        ) from error


def _count(value: str | None) -> str | None:
    if value is not None and not _COUNT.fullmatch(value):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _fraction(value: str | None) -> str | None:
    if value is not None and not _FRACTION.fullmatch(value):
        raise ValueError(f"{value!r} is no number")
    return value


def differences(proven: Sequence[Mapping[str, Any]], staged: Mapping[str, Any]) -> list[str]:
    """
    Return a sentence for each column whose values are not those of the export.

    :param proven: from :func:`proven_columns`
    :param staged: the row of ``check_values.sql``
    """
    sentences = []
    for number, column in enumerate(proven):
        names = ("filled", "checksum", *_COUNTS, *_LIMITS, "total")
        found = {name: staged[f"{name}_{number}".upper()] for name in names if name in column}
        wrong = [name for name in found if not _is_same(name, column, found[name])]
        if wrong:
            told = "; ".join(
                f"{name} {_shown(column[name])} in the files, {_shown(found[name])} here" for name in wrong
            )
            sentences.append(f'column "{column["column"]}": {told}')
    return sentences


def _is_same(name: str, column: Mapping[str, Any], found: Any) -> bool:
    expected = column[name]
    if expected is None or found is None:
        return expected is None and found is None
    if name not in (*_LIMITS, "total"):
        return int(expected) == int(found)
    expected, found = float(expected), float(found)
    if name in _LIMITS:
        return math.isclose(expected, found, rel_tol=_TEXT_ERROR)
    magnitude = float(column["magnitude"])
    if not math.isfinite(magnitude):
        return True  # too large to be summed up: it depends on the order of the rows whether the sum is infinite
    error = min(_LARGEST_ERROR, max(_TEXT_ERROR, int(column["finite"]) * _ERROR_PER_VALUE))
    return bool(abs(expected - found) <= error * magnitude)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
