"""How the columns of a source fit their target: what a sync would do with each, by the code that decides in a sync."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from data_share.column_types import NO_CAST, Verdict, fit
from data_share.databricks.export import TooManyColumnsError, excess_of
from data_share.datasets import Dataset, SchemaDrift
from data_share.describe import Description
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.schema_drift import Comparison, compare_columns, types_of_new_columns
from data_share.snowflake.statements import TARGET_UNCHANGED
from data_share.sql_text import folded

# Characters of a VARCHAR without a size. A column as long as that needs no note that it refuses longer texts.
_LONG = 16_777_216
_ONCE_IT_HAS_ROWS = "once it has rows"


class LoadWouldFailError(ShareError):
    """Snowflake would refuse each value of a column."""

    code = FailureCode.SNOWFLAKE_STATEMENT_FAILED


class ColumnState(StrEnum):
    """What a sync would do with a column."""

    FITS = "fits"
    """The target keeps each value, or the load fails at one that it cannot hold."""
    CAST = "cast"
    """Values may change, which the dataset file allows (``casts``)."""
    CHANGES_VALUES = "changes values"
    """Values could change without an error: the sync fails."""
    ADDED = "added"
    """The target lacks it: the sync adds it, or creates it with the target."""
    REFUSED = "refused"
    """The sync fails: the target lacks it, or no value of its type can be loaded."""
    STAYS = "stays"
    """It stays in Databricks: by ``source``, or as the target lacks it (``ignore_new``)."""
    LEFT_OUT = "left out"
    """It reaches the bucket, and the load leaves it out (``ignore_new``): the export job cannot be told the target."""
    DEFAULT = "default"
    """The source lacks it: new rows get its DEFAULT (``target_defaults``)."""
    MISSING = "missing"
    """The source lacks it: the sync fails."""


@dataclass(frozen=True)
class Column:
    """
    One column of a source, of its target, or of both.

    :param source: its name in the export; None if the target alone has it
    :param source_type: its type in Databricks; None for a column that stays by ``source``, whose type is not read
    :param target: its name in the target; None if the export alone has it
    :param target_type: its type in Snowflake, or the type that it gets
    :param note: why, or when it fails, in words; empty if there is nothing to say
    """

    state: ColumnState
    source: str | None = None
    source_type: str | None = None
    target: str | None = None
    target_type: str | None = None
    note: str = ""


_LEFT_OUT = Column(
    ColumnState.LEFT_OUT, note="it reaches the bucket, as the names of the target are too long for the export job"
)


@dataclass(frozen=True)
class Fit:
    """
    How a source fits its target.

    :param columns: each column
    :param new_columns: the columns that the sync adds to the target, or creates it with, with their types
    :param problem: why a sync would fail because of its columns; None if it would not
    :param notes: what else to know about the columns
    """

    columns: tuple[Column, ...]
    new_columns: dict[str, str] = field(default_factory=dict)
    problem: ShareError | None = None
    notes: tuple[str, ...] = ()


def fit_of(description: Description, target: Sequence[Mapping[str, Any]] | None, dataset: Dataset) -> Fit:
    """
    Compare a source with its target as the next sync would.

    :param target: rows of ``DESCRIBE TABLE``; None if this sync has to create the target from the source
    """
    exported = description.columns
    problem: ShareError | None = None
    compared, created = Comparison(), dict[str, str]()
    try:
        if target is None:
            created = types_of_new_columns(exported, dataset)
        else:
            compared = compare_columns(description.column_types, target, dataset)
    except ShareError as error:
        problem = error
    new = created or compared.new_columns
    by_name = {folded(str(row["name"])): row for row in target or ()}
    excess = _excess_of_names(target, dataset)
    if excess and not dataset.source.is_everything:
        problem = TooManyColumnsError(dataset, len(by_name), excess)
    without = Column(ColumnState.REFUSED, note="the target lacks it")
    if target is not None and dataset.schema_drift is SchemaDrift.IGNORE_NEW:
        without = _LEFT_OUT if excess else Column(ColumnState.STAYS, note="the target lacks it (ignore_new)")
    columns = [
        _exported(name, kind, by_name.get(folded(name)), new, dataset, without=without)
        for name, kind in exported.items()
    ]
    columns += [
        Column(ColumnState.STAYS, source=name, note="by source in the dataset file")
        for name in description.columns_that_stay
    ]
    if problem is None and (never := [column for column in columns if column.note == NO_CAST]):
        listed = "; ".join(f"{each.target}: {each.source_type} into {each.target_type}" for each in never)
        problem = LoadWouldFailError(
            f"The load would fail at the first value of these columns, as {NO_CAST}: {listed}.",
            what_to_do=f"Give these columns of {dataset.target_table} another type, or cast them in the source.",
        )
    found = {folded(name) for name in exported}
    columns += [
        _without_source(str(row["name"]), str(row["type"]), dataset) for key, row in by_name.items() if key not in found
    ]
    if description.rows == 0 and target is not None:
        is_refused = isinstance(problem, TooManyColumnsError) or (
            dataset.schema_drift is SchemaDrift.STRICT and not excess and not found <= set(by_name)
        )
        return _without_rows(Fit(tuple(columns), new, problem), is_refused=is_refused)
    return Fit(tuple(columns), new, problem)


def _without_rows(found: Fit, *, is_refused: bool) -> Fit:
    """
    Return how an empty source fits: the load compares no columns and adds none, as there is no value to change.

    :param is_refused: whether the export refuses the columns, which it does before it knows the rows
    """
    columns = tuple(
        replace(column, note=_ONCE_IT_HAS_ROWS) if column.state is ColumnState.ADDED else column
        for column in found.columns
    )
    if found.problem is None or is_refused:
        return Fit(columns, problem=found.problem)
    told = found.problem.message.replace(f" {TARGET_UNCHANGED}", "")
    note = (
        f"The source is empty, so its columns are not compared. {_ONCE_IT_HAS_ROWS.capitalize()}, a sync would fail: "
    )
    return Fit(columns, notes=(f"{note}{told}",))


def target_to_be(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the target that set_up_snowflake creates from ``columns``, in the form of ``DESCRIBE TABLE``."""
    return [
        {"name": name, "type": kind.removesuffix(" NOT NULL"), "default": None}
        for name, kind in dataset.columns.items()
    ]


def _excess_of_names(target: Sequence[Mapping[str, Any]] | None, dataset: Dataset) -> int:
    """Return the size of the job's parameters with the target's columns if it is more than possible; else 0."""
    if target is None or not dataset.keeps_new_columns_back:
        return 0
    # A run has its key and its path too, which are short.
    told = {"dataset": dataset.name, "source_table": dataset.source_table}
    return excess_of(told | dataset.source_parameters([str(row["name"]) for row in target]))


def _exported(
    name: str, kind: str, row: Mapping[str, Any] | None, new: Mapping[str, str], dataset: Dataset, *, without: Column
) -> Column:
    """
    Return what a sync would do with a column of the export.

    :param without: what it does with a column that the target neither has nor gets
    """
    if row is None:
        added = {folded(each): each for each in new}.get(folded(name))
        if added is not None:
            return Column(ColumnState.ADDED, name, kind, added, new[added])
        return replace(without, source=name, source_type=kind)
    target, target_type = str(row["name"]), str(row["type"])
    found = fit(kind, target_type)
    state = ColumnState.REFUSED if found.reason == NO_CAST else ColumnState.FITS
    if found.verdict is Verdict.SILENT:
        state = ColumnState.CAST if target in dataset.casts else ColumnState.CHANGES_VALUES
    length = re.match(r"VARCHAR\((\d+)\)", target_type)
    is_long = length is not None and int(length[1]) >= _LONG
    return Column(state, name, kind, target, target_type, "" if state is ColumnState.FITS and is_long else found.reason)


def _without_source(name: str, kind: str, dataset: Dataset) -> Column:
    state = ColumnState.DEFAULT if name in dataset.target_defaults else ColumnState.MISSING
    return Column(state, target=name, target_type=kind, note="the source lacks it")
