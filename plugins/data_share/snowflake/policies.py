"""
Finds Snowflake policies on a table, and whether they change what the role of the syncs reads.

A masking policy applies wherever a column is read, even in the join of a MERGE. A row access policy hides rows even
from the owner of the table. So a role that is not exempt publishes masked values permanently, and its merges insert
duplicates of the rows that it does not see. By Snowflake's documentation, the loader can detect policies in three ways:

- DESCRIBE TABLE names a masking policy that is set on a column, but not one that is set through a tag.
- The plan of a query shows that a table has a row access policy, but not which one.
- Values that were just written are read back differently if any masking policy applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.column_types import described_type
from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.sql_text import quoted
from data_share.sync import ROWS_HIDDEN

_ROW_ACCESS_POLICY = "RowAccessPolicy"
_HIDDEN = re.compile(rf"{ROWS_HIDDEN}(\d+), (\d+) of (\d+)")


class PolicyFoundError(ShareError, AirflowFailException):
    """A policy may change what the loader reads, and nothing proves that it does not."""

    code = FailureCode.POLICY_FOUND


class RowsHiddenError(ShareError, AirflowFailException):
    """The loader does not see all rows that the target must have."""

    code = FailureCode.ROWS_HIDDEN


def masking_policies(described: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """
    Return the masking policies that are set on columns, by column.

    :param described: rows of ``DESCRIBE TABLE``
    """
    return {str(row["name"]): str(row["policy name"]) for row in described if row.get("policy name")}


def has_row_access_policy(plan: Iterable[Mapping[str, Any]]) -> bool:
    """
    Return whether a table has a row access policy.

    :param plan: rows of ``EXPLAIN`` for a query that reads only this table
    """
    return any(_ROW_ACCESS_POLICY in str(row.get("objects") or row.get("object") or "") for row in plan)


def hidden_rows(message: str) -> tuple[int, int, int] | None:
    """
    Return the counts in the error of a publish that ``check_visible.sql`` refused; None for another error.

    They are: staged keys that the loader does not find in the target, rows that it sees, and rows that must be there.

    :param message: Snowflake's error
    """
    found = _HIDDEN.search(message)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def sample_values(text: str) -> tuple[str, str] | None:
    """
    Return two different sample values of a type, as SQL; None for an unknown type.

    One value is not enough: it could be the constant that a masking policy shows for all values.

    :param text: the type, as ``DESCRIBE TABLE`` writes it
    """
    kind = described_type(text)
    if kind.kind == "NUMBER":
        return _number("4711", kind.size, kind.scale), _number("1147", kind.size, kind.scale)
    if kind.kind == "VARCHAR":
        return _text("4711 Ada.Lovelace@example.com", kind.size), _text("1147 Grace.Hopper@example.com", kind.size)
    if kind.kind == "BINARY":
        return _bytes("4711", kind.size), _bytes("1147", kind.size)
    return _SAMPLES.get(kind.kind)


def _number(digits: str, size: int | None, scale: int) -> str:
    return format(Decimal(digits[: size or None]).scaleb(-scale), "f")


def _text(text: str, size: int | None) -> str:
    return f"'{text[: size or None]}'"


def _bytes(digits: str, size: int | None) -> str:
    return f"TO_BINARY('{digits[: 2 * size if size else None]}', 'HEX')"


_SAMPLES: Mapping[str, tuple[str, str]] = {
    "DECFLOAT": ("4711.5", "1147.25"),
    "FLOAT": ("4711.5", "1147.25"),
    "BOOLEAN": ("TRUE", "FALSE"),
    "DATE": ("'2011-04-07'::DATE", "'1947-11-04'::DATE"),
    "TIME": ("'04:07:11'::TIME", "'11:47:00'::TIME"),
    **{
        kind: (f"'2011-04-07 11:47:11'::{kind}", f"'1947-11-04 04:07:00'::{kind}")
        for kind in ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ")
    },
    "VARIANT": ("PARSE_JSON('{\"sample\": 4711}')", "PARSE_JSON('{\"sample\": 1147}')"),
    "OBJECT": ("OBJECT_CONSTRUCT('sample', 4711)", "OBJECT_CONSTRUCT('sample', 1147)"),
    "ARRAY": ("ARRAY_CONSTRUCT(4711)", "ARRAY_CONSTRUCT(1147)"),
}
_SEMI_STRUCTURED = ("VARIANT", "OBJECT", "ARRAY")


class Samples:
    """
    Two rows of sample values, to be written to a table and read back: a masking policy changes what is read.

    :param columns: types by column, as ``DESCRIBE TABLE`` writes them; columns of unknown types are left out
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = {name: kind for name, kind in columns.items() if sample_values(kind) is not None}
        """Types by column."""
        self.unknown = [name for name in columns if name not in self.columns]
        """Columns for whose types there are no sample values."""
        self._values = {name: sample_values(kind) or () for name, kind in self.columns.items()}

    @property
    def names(self) -> str:
        """The columns as a SQL list."""
        return ", ".join(map(quoted, self.columns))

    @property
    def rows(self) -> str:
        """The query that returns the two rows."""
        return " UNION ALL ".join(
            f"SELECT {', '.join(values[row] for values in self._values.values())}" for row in (0, 1)
        )

    @property
    def counts(self) -> str:
        """The expressions of a query on the table that count how often each value is read back."""
        return ", ".join(
            f"COUNT(CASE WHEN {_compared(quoted(name), kind)} = {_compared(value, kind)} THEN 1 END)"
            f" AS sample_{number}_{row}"
            for number, (name, kind) in enumerate(self.columns.items())
            for row, value in enumerate(self._values[name])
        )

    def altered(self, counted: Mapping[str, Any]) -> list[str]:
        """
        Return the columns in which a sample value is not read back exactly once.

        :param counted: a row with the values of :attr:`counts`
        """
        return [
            name
            for number, name in enumerate(self.columns)
            if any(counted[f"SAMPLE_{number}_{row}"] != 1 for row in (0, 1))
        ]


def _compared(expression: str, text: str) -> str:
    # Semi-structured values are compared as text.
    return f"TO_JSON({expression})" if described_type(text).kind in _SEMI_STRUCTURED else expression


def exemption_advice(role: str, dataset: Dataset) -> str:
    """
    Return the advice how to exempt the role of the syncs from a policy, in whole sentences.

    :param role: the role of the syncs
    :param dataset: the dataset; its file may already say that the role is exempt
    """
    check = f"IS_ROLE_IN_SESSION('{role}')"
    then = "" if dataset.policies == "exempt" else f" Then set policies: exempt in {dataset.name}.yaml."
    return (
        f"Exempt the role of the syncs in the policy's body: CASE WHEN {check} THEN val ELSE ... END in a masking "
        f"policy, {check} OR ... in a row access policy.{then}"
    )


def describe_policies(table: str, masked: Mapping[str, str], *, is_filtered: bool) -> str:
    """
    Return the policies of a table as a text for people; empty if there are none.

    :param table: the table
    :param masked: masking policies by column
    :param is_filtered: whether the table has a row access policy
    """
    found = [f"{table} column {column} has the masking policy {policy}" for column, policy in masked.items()]
    return "; ".join([*found, *([f"{table} has a row access policy"] if is_filtered else [])])
