"""
What a verification compares, and what it says of a difference.

The staging table has the rows of the source in the version that was published last, in the types of the target. So
both tables are compared within Snowflake, exactly, by ``compare_target.sql``: rows are grouped by all their values, and
each group must have as many rows in one table as in the other. The merge keys only tell which rows are to be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.notes import version_of
from data_share.outcome.report import ShareError
from data_share.sql_text import quoted
from data_share.sync import COMPARABLE_KINDS
from data_share.watermark import Published

_MAX_SHOWN_COLUMNS = 20
_MAX_ROW_CHARACTERS = 300


class ValuesDifferError(ShareError, AirflowFailException):
    """
    The target does not hold what was published.

    :param dataset: the dataset of the target
    :param verified: the publish
    :param differences: what differs
    :param snowflake_query_id: the query that found it
    """

    code = FailureCode.VALUES_DIFFER

    def __init__(
        self, dataset: Dataset, verified: Published, differences: str, *, snowflake_query_id: str | None = None
    ) -> None:
        kept = (
            ""
            if dataset.mirrors_source
            else " This also removes the rows that the source lacks, which this dataset keeps otherwise."
        )
        super().__init__(
            f"{dataset.target_table} does not hold what {dataset.source_table} held as of "
            f"{version_of(verified.model_dump())}, which the sync {verified.run_key} has published: {differences}",
            snowflake_query_id=snowflake_query_id,
            what_to_do=f"{self.code.what_to_do}{kept}",
        )


class ComparedColumn(NamedTuple):
    """
    A column whose values are compared.

    :param number: its number in the statements
    :param name: its name as Snowflake stores it
    :param is_text: whether a collation may call different texts equal
    :param is_key: whether it is a merge key
    """

    number: int
    name: str
    is_text: bool
    is_key: bool

    @property
    def value(self) -> str:
        """The name of its values in the statements."""
        return f"value_{self.number}"

    @property
    def stored(self) -> str:
        """Its values in SQL, under this name; texts as they are stored."""
        column = quoted(self.name)
        return f"COLLATE({column}, '') AS {self.value}" if self.is_text else f"{column} AS {self.value}"

    @property
    def differs(self) -> str:
        """The condition that it differs, in SQL, between rows of ``source`` and ``target`` with equal keys."""
        return f"source.{self.value} IS DISTINCT FROM target.{self.value}"


def same_rows(columns: Sequence[ComparedColumn]) -> str:
    """Return the condition that rows of ``source`` and ``target`` have equal merge keys; empty if there are none."""
    return " AND ".join(f"source.{column.value} = target.{column.value}" for column in columns if column.is_key)


def compared_columns(kinds: Mapping[str, str], dataset: Dataset) -> tuple[list[ComparedColumn], list[str]]:
    """
    Return the columns whose values are compared, and the names of the others, whose types Snowflake does not compare.

    :param kinds: names of the columns' types, by column
    """
    names = [name for name, kind in kinds.items() if kind in COMPARABLE_KINDS]
    has_keys = all(key in names for key in dataset.merge_keys)
    columns = [
        ComparedColumn(number, name, kinds[name] == "VARCHAR", has_keys and name in dataset.merge_keys)
        for number, name in enumerate(names)
    ]
    return columns, [name for name in kinds if name not in names]


@dataclass(frozen=True)
class Differences:
    """
    How a target differs from what was published.

    :param different: number of rows with equal keys and other values; 0 without keys
    :param missing: number of rows that the target lacks
    :param added: number of rows that the source lacks
    :param columns: the columns that differ
    :param named: the columns that tell people which row it is: the merge keys or, without them, all
    """

    different: int
    missing: int
    added: int
    columns: tuple[ComparedColumn, ...]
    named: tuple[ComparedColumn, ...]

    @classmethod
    def of(cls, counted: Mapping[str, Any], columns: Sequence[ComparedColumn]) -> Differences:
        """
        Return what was counted.

        :param counted: the row of ``compare_target.sql``
        :param columns: the columns that were compared
        """
        different, missing, added = (int(counted[f"ROWS_{name}"]) for name in ("DIFFERENT", "MISSING", "ADDED"))
        differing = [column for column in columns if int(counted.get(f"DIFFERENT_{column.number}") or 0)]
        keys = [column for column in columns if column.is_key]
        return cls(different, missing, added, tuple(differing), tuple(keys or columns))

    @property
    def exist(self) -> bool:
        """Whether anything differs."""
        return bool(self.different or self.missing or self.added)

    def sentence(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """
        Return what differs, with examples.

        :param rows: those of ``show_differing_rows.sql``
        """
        parts = []
        if self.different:
            parts.append(f"{_rows(self.different, 'has', 'have')} other values, in {self._names}")
        if self.missing:
            parts.append(f"the target lacks {_rows(self.missing)}")
        if self.added:
            parts.append(f"it has {_rows(self.added)} that the source lacks")
        # Without keys, a row with another value is both; then the columns that differ tell which value it is.
        if not self.different and self.missing == self.added and 0 < len(self.columns) < len(self.named):
            parts.append(f"the values that differ are in {self._names}")
        return "\n".join(("; ".join(parts), *(f"- {self._example(row)}" for row in rows)))

    @property
    def _names(self) -> str:
        names = [column.name for column in self.columns[:_MAX_SHOWN_COLUMNS]]
        more = len(self.columns) - len(names)
        return ", ".join((*names, *([f"{more} more"] if more else [])))

    def _example(self, row: Mapping[str, Any]) -> str:
        name = ", ".join(f"{column.name}={row[f'NAMED_{column.number}']}" for column in self.named)
        if row["FOUND_IN"] != "both":
            return f"{name[:_MAX_ROW_CHARACTERS]}: only in the {row['FOUND_IN']}"
        values = "; ".join(
            f"{column.name} is {row[f'SOURCE_{column.number}']} in the source, {row[f'TARGET_{column.number}']} in the "
            "target"
            for column in self.columns
            if row[f"DIFFERENT_{column.number}"]
        )
        return f"{name[:_MAX_ROW_CHARACTERS]}: {values[:_MAX_ROW_CHARACTERS]}"


def _rows(count: int, one: str = "", many: str = "") -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'} {one if count == 1 else many}".rstrip()
