"""Comparing the columns of an export with those of its target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.column_types import Verdict, fit, new_column_type
from data_share.datasets import Dataset, SchemaDrift
from data_share.exported_schema import exported_columns
from data_share.failure_codes import FailureCode
from data_share.failures import ShareError

_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_UNCHANGED = "The target is as it was."


class SchemaDriftError(ShareError, AirflowFailException):
    """The columns of the export are not those of the target."""

    code = FailureCode.SCHEMA_DRIFT


class TypesLoseValuesError(ShareError, AirflowFailException):
    """A column of the target can take other values than those of the source, without an error."""

    code = FailureCode.TYPES_LOSE_VALUES


@dataclass(frozen=True)
class Comparison:
    """
    What a load does with the columns of an export.

    :param new_columns: columns to add to the target, with their types
    :param defaults: columns of the target that the export lacks and that keep their default
    """

    new_columns: dict[str, str] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()


def compare_columns(column_types: str | None, target: Sequence[Mapping[str, Any]], dataset: Dataset) -> Comparison:
    """
    Compare an export with its target.

    :param column_types: the manifest's schema; None for an export without a row
    :param target: the target's columns, as ``DESCRIBE TABLE`` answers
    :param dataset: says what is allowed
    :raises SchemaDriftError: for a missing column, and for new ones that the dataset does not allow
    :raises TypesLoseValuesError: for a column that could take other values than those of the source
    """
    if column_types is None:
        return Comparison()
    exported = exported_columns(column_types)
    by_name = {name.upper(): kind for name, kind in exported.items()}
    known = {str(row["name"]).upper(): row for row in target}
    allowed = {name.upper() for name in dataset.target_defaults}
    defaults = tuple(name for name in known if name not in by_name and name in allowed)
    new = {name: kind for name, kind in exported.items() if name.upper() not in known}

    problems = []
    if missing := sorted(name for name in known if name not in by_name and name not in allowed):
        problems.append(f"the export lacks {', '.join(missing)}")
    if without := sorted(name for name in defaults if known[name]["default"] is None):
        problems.append(f"target_defaults lists {', '.join(without)}, which the export lacks and which has no DEFAULT")
    if new and dataset.schema_drift is SchemaDrift.STRICT:
        listed = ", ".join(f"{column} ({kind})" for column, kind in new.items())
        problems.append(f"the export has {listed}, which {dataset.target_table} does not have")
    lossy = lossy_columns(by_name, {name: str(row["type"]) for name, row in known.items()}, dataset)
    if problems:
        told = "".join(f"\n- {sentence}" for sentence in lossy)
        raise SchemaDriftError(
            f"The columns of the export are not those of the target: {'; '.join(problems)}. {_UNCHANGED}{told}"
        )
    if lossy:
        raise _lossy(lossy, dataset)
    if dataset.schema_drift is SchemaDrift.IGNORE_NEW:
        return Comparison(defaults=defaults)
    return Comparison(new_columns=types_of_new_columns(new, dataset), defaults=defaults)


def types_of_new_columns(new: Mapping[str, str], dataset: Dataset) -> dict[str, str]:
    """
    Return the types in Snowflake of columns that the target gets.

    :param new: their names and types in the source
    :param dataset: says for which a cast is allowed
    :raises SchemaDriftError: for names that are not safe in SQL
    :raises TypesLoseValuesError: for a column that no type of Snowflake holds
    """
    if unsafe := [column for column in new if not _SAFE_NAME.fullmatch(column)]:
        raise SchemaDriftError(
            f"Columns with such names are not added to {dataset.target_table}: {', '.join(map(repr, unsafe))}. "
            f"{_UNCHANGED}"
        )
    casts = {name.upper() for name in dataset.casts}
    types = {name.upper(): new_column_type(kind, with_cast=name.upper() in casts) for name, kind in new.items()}
    if homeless := [f"{name}: {kind} has no counterpart. {_in_the_source(kind)}" for name, kind in new.items()
                    if types[name.upper()] is None]:  # fmt: skip
        raise _lossy(homeless, dataset)
    return {name: kind for name, kind in types.items() if kind is not None}


def lossy_columns(exported: Mapping[str, str], target: Mapping[str, str], dataset: Dataset) -> list[str]:
    """
    Return a sentence for each column of the target that can take other values than those of the source.

    :param exported: type in the source by name, in upper case
    :param target: type in the target by name, in upper case
    :param dataset: says for which columns that is wanted
    """
    casts = {name.upper() for name in dataset.casts}
    keys = {name.upper() for name in dataset.merge_keys}
    sentences = []
    for name, kind in target.items():
        source = exported.get(name)
        if source is None or name in casts:
            continue
        found = fit(source, kind)
        if found.verdict is not Verdict.SILENT:
            continue
        better = new_column_type(source)
        if better is None:
            help_ = _in_the_source(source)
        else:
            help_ = f"Make it {better}: {change_type(dataset.target_table, name, better)}."
        if name in keys:
            help_ += " It is a merge key: a changed value would overwrite another row."
        sentences.append(f"{name}: {source} into {kind}, where {found.reason}. {help_}")
    return sentences


def change_type(table: str, column: str, kind: str) -> str:
    """Return the statements that give a column another type: Snowflake alters no scale and no kind of a column."""
    new = f"{column}__NEW"
    return "; ".join(
        (
            f'ALTER TABLE {table} ADD COLUMN "{new}" {kind}',
            f'UPDATE {table} SET "{new}" = "{column}"',  # noqa: S608 - for people to run
            f'ALTER TABLE {table} DROP COLUMN "{column}"',
            f'ALTER TABLE {table} RENAME COLUMN "{new}" TO "{column}"',
        )
    )


def _in_the_source(kind: str) -> str:
    return f"Cast it in the source, e.g. in a view: {kind} has no type in Snowflake that holds its values."


def _lossy(sentences: Sequence[str], dataset: Dataset) -> TypesLoseValuesError:
    told = "\n".join(f"- {sentence}" for sentence in sentences)
    return TypesLoseValuesError(
        f"Values of {len(sentences)} column(s) could change on their way into {dataset.target_table}, without an "
        f"error. {_UNCHANGED}\n{told}"
    )
