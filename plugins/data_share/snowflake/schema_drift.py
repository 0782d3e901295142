"""Compares the columns of an export with those of its target."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.column_types import Verdict, fit, new_column_type
from data_share.datasets import Dataset, SchemaDrift
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.exported_schema import exported_columns
from data_share.sql_text import MAX_NAME_CHARACTERS, alike, folded, quoted, written

_UNCHANGED = "The target is as it was."
_EXPORT_AFTER_CHANGE = "start a sync without reload_run_key after a change of the source"


class SchemaDriftError(ShareError, AirflowFailException):
    """The export and the target have different columns."""

    code = FailureCode.SCHEMA_DRIFT


class TypesLoseValuesError(ShareError, AirflowFailException):
    """A column of the target may change values of the source without an error."""

    code = FailureCode.TYPES_LOSE_VALUES


@dataclass(frozen=True)
class Comparison:
    """
    The result of a comparison: how the load adapts to the export.

    :param new_columns: columns to add to the target, with their types
    :param defaults: columns of the target that the export lacks, which get their default
    """

    new_columns: dict[str, str] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()


def compare_columns(
    column_types: str | None, target: Sequence[Mapping[str, Any]], dataset: Dataset, *, is_reload: bool = False
) -> Comparison:
    """
    Compare an export with its target.

    :param column_types: the manifest's schema; None for an export without rows
    :param target: the target's columns: rows of ``DESCRIBE TABLE``
    :param dataset: the dataset, with the differences that it allows
    :param is_reload: whether an earlier export is loaded; then the advice is not to change the source
    :raises SchemaDriftError: the export lacks a column, or has new ones that the dataset does not allow
    :raises TypesLoseValuesError: a column of the target may change values of the source
    """
    if column_types is None:
        return Comparison()
    exported = exported_columns(column_types)
    described = {str(row["name"]): row for row in target}
    _refuse_names_alike("the export", exported)
    _refuse_names_alike(dataset.target_table, described)
    found, known = {folded(name) for name in exported}, {folded(name) for name in described}
    lacking = [name for name in described if folded(name) not in found]
    defaults = tuple(name for name in lacking if name in dataset.target_defaults)
    new = {name: kind for name, kind in exported.items() if folded(name) not in known}

    problems, advice = [], []
    if missing := sorted(set(lacking) - set(defaults)):
        problems.append(f"the export lacks {', '.join(missing)}")
        advice += _advice_for_missing(missing, new, dataset, is_reload)
    if without := sorted(name for name in defaults if described[name]["default"] is None):
        columns = ", ".join(without)
        problems.append(f"target_defaults lists {columns}, which the export lacks and which has no DEFAULT")
        advice.append(
            f"Take {columns} out of {dataset.target_table} (ALTER TABLE ... DROP COLUMN) and out of target_defaults in "
            "the dataset file, or add it again with a DEFAULT (ALTER TABLE ... ADD COLUMN ... DEFAULT ...)."
        )
    if new and dataset.schema_drift is SchemaDrift.STRICT:
        listed = ", ".join(f"{column} ({kind})" for column, kind in new.items())
        problems.append(f"the export has {listed}, which {dataset.target_table} does not have")
        # Do not recommend add_new for columns that it cannot add: it would fail as well.
        can_be_added = not _unsafe_names(new) and None not in _snowflake_types(new, dataset).values()
        adds = f" add_new adds new columns to {dataset.target_table};" if can_be_added else ""
        advice.append(f"Set schema_drift in the dataset file:{adds} ignore_new leaves them out.")
    lossy = lossy_columns(exported, {name: str(row["type"]) for name, row in described.items()}, dataset)
    if problems:
        lines = "".join(f"\n- {sentence}" for sentence in lossy.values())
        if lossy:
            advice.append(_advice_for_types(lossy, dataset, is_reload))
        raise SchemaDriftError(
            f"The columns of the export are not those of the target: {'; '.join(problems)}. {_UNCHANGED}{lines}",
            what_to_do=f"{' '.join(advice)} Then start the sync again.",
        )
    if lossy:
        raise _lossy_error(lossy, dataset, _advice_for_types(lossy, dataset, is_reload))
    if dataset.schema_drift is SchemaDrift.IGNORE_NEW:
        return Comparison(defaults=defaults)
    return Comparison(new_columns=types_of_new_columns(new, dataset, is_reload=is_reload), defaults=defaults)


def types_of_new_columns(new: Mapping[str, str], dataset: Dataset, *, is_reload: bool = False) -> dict[str, str]:
    """
    Return the Snowflake types of the columns to add to the target, by the names that they get.

    :param new: types of these columns in the source, by name
    :param dataset: the dataset, with the columns that may be cast
    :param is_reload: whether an earlier export is loaded; then the advice is not to change the source
    :raises SchemaDriftError: Snowflake does not accept a name, or two names differ only by case
    :raises TypesLoseValuesError: no Snowflake type holds the values of a column
    """
    _refuse_names_alike("the export", new)
    remedies = []
    if dataset.create_table != "from_source":
        remedies.append("set schema_drift: ignore_new in the dataset file, which leaves new columns out")
    if unsafe := _unsafe_names(new):
        remedies.append(_EXPORT_AFTER_CHANGE if is_reload else "rename these in the source")
        raise SchemaDriftError(
            f"These column names cannot be added to {dataset.target_table}: {', '.join(map(repr, unsafe))}. "
            f"{_UNCHANGED}",
            what_to_do=f"{_as_sentence(remedies)} Then start the sync again.",
        )
    types = _snowflake_types(new, dataset)
    without_type = {
        name: f"{name}: {kind} has no counterpart. {_advice_to_cast(kind)}"
        for name, kind in new.items()
        if types[_stored_name(name)] is None
    }
    if without_type:
        remedies.append(_EXPORT_AFTER_CHANGE if is_reload else "cast these columns in the source")
        if castable := [name for name in without_type if new_column_type(new[name], with_cast=True) is not None]:
            listed = _as_written(map(_stored_name, castable))
            remedies.append(f"list {listed} in casts of the dataset file if changed values are right")
        raise _lossy_error(without_type, dataset, _as_sentence(remedies))
    return {name: kind for name, kind in types.items() if kind is not None}


def _refuse_names_alike(table: str, columns: Collection[str]) -> None:
    if same := alike(columns):
        raise SchemaDriftError(
            f"The columns {', '.join(same)} of {table} differ only by case, and COPY INTO does not distinguish them. "
            f"{_UNCHANGED}",
            what_to_do="Rename one of them, and start a sync without reload_run_key.",
        )


def _unsafe_names(new: Collection[str]) -> list[str]:
    return [column for column in new if len(column) > MAX_NAME_CHARACTERS or not column.isprintable()]


def _stored_name(name: str) -> str:
    """Return the name of a new column in Snowflake: in upper case if that spares people to quote it, else unchanged."""
    return name.upper() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else name


def _snowflake_types(new: Mapping[str, str], dataset: Dataset) -> dict[str, str | None]:
    return {
        _stored_name(name): new_column_type(kind, with_cast=_stored_name(name) in dataset.casts)
        for name, kind in new.items()
    }


def lossy_columns(exported: Mapping[str, str], target: Mapping[str, str], dataset: Dataset) -> dict[str, str]:
    """
    Return a sentence for each column of the target that may change values of the source, by column.

    :param exported: types in the source, by column
    :param target: types in the target, by column
    :param dataset: the dataset; columns in its ``casts`` may change values
    """
    by_name = {folded(name): kind for name, kind in exported.items()}
    sentences = {}
    for name, kind in target.items():
        source = by_name.get(folded(name))
        if source is None or name in dataset.casts:
            continue
        found = fit(source, kind)
        if found.verdict is not Verdict.SILENT:
            continue
        better = new_column_type(source)
        if better is None:
            fix = _advice_to_cast(source)
        else:
            fix = f"Make it {better}: {change_type(dataset.target, name, better)}."
        if name in dataset.merge_keys:
            fix += " It is a merge key: a changed value would overwrite another row."
        sentences[name] = f"{name}: {source} into {kind}, where {found.reason}. {fix}"
    return sentences


def change_type(table: str, column: str, kind: str) -> str:
    """
    Return the statements that replace a column by one of another type: ALTER COLUMN cannot change scale or kind.

    :param table: the table, as SQL
    :param column: the column's name in Snowflake
    :param kind: the new type
    """
    old, new = quoted(column), quoted(f"{column}__NEW")
    return "; ".join(
        (
            f"ALTER TABLE {table} ADD COLUMN {new} {kind}",
            f"UPDATE {table} SET {new} = {old}",  # noqa: S608 - shown to people, not executed here
            f"ALTER TABLE {table} DROP COLUMN {old}",
            f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}",
        )
    )


def _advice_to_cast(kind: str) -> str:
    return f"Cast it in the source, e.g. in a view: {kind} has no type in Snowflake that holds its values."


def _lossy_error(sentences: Mapping[str, str], dataset: Dataset, what_to_do: str) -> TypesLoseValuesError:
    lines = "\n".join(f"- {sentence}" for sentence in sentences.values())
    return TypesLoseValuesError(
        f"Values of {len(sentences)} column(s) could change on their way into {dataset.target_table}, without an "
        f"error. {_UNCHANGED}\n{lines}",
        what_to_do=f"{what_to_do} Then start the sync again.",
    )


def _advice_for_types(lossy: Collection[str], dataset: Dataset, is_reload: bool) -> str:
    """Return the advice for types that change values; the sentence of each column has the statements to run."""
    remedies = ["give each of these columns the type that is named for it"]
    if castable := [name for name in lossy if name not in dataset.merge_keys]:
        remedies.append(f"list {_as_written(castable)} in casts of the dataset file if changed values are right")
    if is_reload:
        remedies.append(_EXPORT_AFTER_CHANGE)
    return _as_sentence(remedies)


def _advice_for_missing(missing: Sequence[str], new: Collection[str], dataset: Dataset, is_reload: bool) -> list[str]:
    """Return the advice for columns that the export lacks; no ``schema_drift`` setting allows that."""
    columns, table = ", ".join(missing), dataset.target_table
    advice = [
        f"This is the export of an earlier sync: start one without reload_run_key, or take {columns} out of "
        f"{table} (ALTER TABLE ... DROP COLUMN)."
        if is_reload
        else f"Bring {columns} back in the source, or take it out of {table} (ALTER TABLE ... DROP COLUMN)."
    ]
    if dataset.keeps_new_columns_back and not is_reload:
        advice.append(
            "If the source has it, and the target has got it since the last publish, the job did not know that: start "
            "the sync again, which asks Snowflake for the columns."
        )
    needed = (*dataset.merge_keys, *dataset.required_columns)
    if also := [column for column in missing if column in needed]:
        advice.append(f"Then also remove {', '.join(also)} from required_columns and merge_keys in the dataset file.")
    # With ignore_new, a column with a new name stays in Databricks, so the export does not show it.
    if new or dataset.schema_drift is SchemaDrift.IGNORE_NEW:
        advice.append(
            "A column that was renamed in the source is renamed in the target (ALTER TABLE ... RENAME COLUMN)."
        )
    return advice


def _as_written(columns: Iterable[str]) -> str:
    """Return columns as one writes them in a dataset file."""
    return ", ".join(map(written, columns))


def _as_sentence(remedies: Sequence[str]) -> str:
    joined = ", or ".join(remedies)
    return f"{joined[:1].upper()}{joined[1:]}."
