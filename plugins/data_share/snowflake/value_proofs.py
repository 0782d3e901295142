"""
Compares the checksums of an export with those of its staging table, column by column.

``include/sql/databricks/export_dataset.sql`` and ``include/sql/snowflake/check_values.sql`` convert each value to the
same text and sum the hashes of the texts. The sums do not depend on the order of rows, so they do not notice two rows
that exchanged their values of one column.
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
    """How the values of a column are summed; ``check_values.sql`` has the expression for each form."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    BINARY = "binary"
    FRACTION = "fraction"
    """Counts, limits and totals instead of a checksum: engines write the same binary fraction as different texts."""


class InvalidProofError(ShareError, AirflowFailException):
    """The manifest's sums cannot be read."""

    code = FailureCode.MANIFEST_INVALID


_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_TIMESTAMPS = ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ")
# The form by kind in the source and kind in the staging table, for which both engines produce the same text.
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

# Fractions are converted to text with 15 to 17 digits and back.
_TEXT_ERROR = 1e-12
# The rounding error of a sum of n numbers is less than n times this in any order, and in practice far less.
_ERROR_PER_VALUE = 1e-15
_MAX_ERROR = 1e-9

_NO_SUMS = "the manifest has no checksums: the export was made without them, or by an older version of the export job"


def proven_columns(
    column_types: str | None, staged: Mapping[str, str], dataset: Dataset
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """
    Return the columns to compare, with their sums from the manifest, and the reason for each column not to compare.

    :param column_types: the manifest's schema, with or without sums
    :param staged: types of the staging table's columns by name, both as ``DESCRIBE TABLE`` writes them
    :param dataset: decides whether values are compared, and which columns may change them
    :raises InvalidProofError: the manifest's sums cannot be read
    """
    if dataset.proof_of_values is Proof.COUNTS:
        return [], dict.fromkeys(staged, "the dataset says proof: counts")
    # An older version of the export job writes a struct type without sums instead of a list.
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
            # FLOAT has no scale, and only whole numbers may be loaded into it.
            scale = None if target.kind == "FLOAT" else target.scale
            proven.append({"column": column, "form": form.value, "scale": scale, **_sums(entry, form)})
    return proven, unproven


def _sums(entry: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Return the sums of a column from its entry in the manifest; counts and checksums are strings of digits."""
    try:
        if form is not Form.FRACTION:
            return {name: _count(entry[name]) for name in ("filled", "checksum")}
        counts = {name: _count(entry[name]) for name in ("filled", *_COUNTS)}
        return counts | {name: _fraction(entry[name]) for name in (*_LIMITS, "total", "magnitude")}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidProofError(
            f"The manifest's sums of column {entry['name']!r} cannot be read ({error}). The target is as it was.",
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
    Return a sentence for each column whose values differ from those of the export.

    :param proven: columns from :func:`proven_columns`
    :param staged: a row with the values of ``check_values.sql``
    """
    sentences = []
    for number, column in enumerate(proven):
        names = ("filled", "checksum", *_COUNTS, *_LIMITS, "total")
        found = {name: staged[f"{name}_{number}".upper()] for name in names if name in column}
        wrong = [name for name in found if not _is_same(name, column, found[name])]
        if wrong:
            differing = "; ".join(
                f"{name} {_shown(column[name])} in the files, {_shown(found[name])} here" for name in wrong
            )
            sentences.append(f'column "{column["column"]}": {differing}')
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
        return True  # not comparable: whether such a sum becomes infinite depends on the order of the rows
    error = min(_MAX_ERROR, max(_TEXT_ERROR, int(column["finite"]) * _ERROR_PER_VALUE))
    return bool(abs(expected - found) <= error * magnitude)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
