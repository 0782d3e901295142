"""
Policies of Snowflake that change what the role of the syncs reads: which there are, and whether they do.

A masking policy applies wherever a column is read, in the join of a MERGE too, and a row access policy hides rows from
the owner of a table as well. So a role that is not exempt publishes masked values for good, and a merge inserts anew
what it does not see. What the loader can know of them, by Snowflake's pages:

- DESCRIBE TABLE names a masking policy that is set on a column; one that comes by a tag is not told.
- The plan of a query says that a table has a row access policy, and not which.
- Values that are written and read again are others if they are masked, however the policy came.
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
    """A policy can change what the loader reads, and nothing shows that it does not."""

    code = FailureCode.POLICY_FOUND


class RowsHiddenError(ShareError, AirflowFailException):
    """After the change, the loader did not see the rows in the target that must be there."""

    code = FailureCode.ROWS_HIDDEN


def masking_policies(described: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """
    Return the masking policies that are set on columns, by column.

    :param described: what ``DESCRIBE TABLE`` answers
    """
    return {str(row["name"]): str(row["policy name"]) for row in described if row.get("policy name")}


def has_row_access_policy(plan: Iterable[Mapping[str, Any]]) -> bool:
    """
    Say whether a table has a row access policy.

    :param plan: what ``EXPLAIN`` answers to a query of this table alone
    """
    return any(_ROW_ACCESS_POLICY in str(row.get("objects") or row.get("object") or "") for row in plan)


def hidden_rows(message: str) -> tuple[int, int, int] | None:
    """
    Return what a refused publish counted: staged keys that are not found, rows that are seen, rows that must be there.

    :param message: the error of Snowflake; None for any other one
    """
    found = _HIDDEN.search(message)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def samples(text: str) -> tuple[str, str] | None:
    """
    Return two different values of a type for SQL: a policy that shows the same for all values changes one of them.

    :param text: the type, as ``DESCRIBE TABLE`` writes it
    :return: None for a type that is not known
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


def sample_statements(table: str, columns: Mapping[str, str]) -> list[str]:
    """
    Return the statements that write two rows of samples into a table, count what is read of them, and delete them.

    The answer to the second is for :func:`columns_read_otherwise`.

    :param table: an empty table, for SQL
    :param columns: types by column, as ``DESCRIBE TABLE`` writes them; of a type that is not known, nothing is written
    """
    known = _with_samples(columns)
    listed = ", ".join(map(quoted, known))
    rows = " UNION ALL ".join(f"SELECT {', '.join(values[row] for values in known.values())}" for row in (0, 1))
    counts = ", ".join(
        f"COUNT(CASE WHEN {_compared(quoted(name), columns[name])} = {_compared(value, columns[name])} THEN 1 END)"
        f" AS sample_{number}_{row}"
        for number, (name, values) in enumerate(known.items())
        for row, value in enumerate(values)
    )
    return [
        f"INSERT INTO {table} ({listed}) {rows}",
        f"SELECT {counts} FROM {table}",  # noqa: S608
        f"DELETE FROM {table}",  # noqa: S608
    ]


def columns_read_otherwise(columns: Mapping[str, str], counted: Mapping[str, Any]) -> list[str]:
    """
    Return the columns in which not each sample is read once.

    :param columns: as for :func:`sample_statements`
    :param counted: the row that its second statement answers
    """
    return [
        name
        for number, name in enumerate(_with_samples(columns))
        if any(counted[f"SAMPLE_{number}_{row}"] != 1 for row in (0, 1))
    ]


def _with_samples(columns: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name: values for name, text in columns.items() if (values := samples(text)) is not None}


def _compared(expression: str, text: str) -> str:
    # Objects and arrays are compared by their text.
    return f"TO_JSON({expression})" if described_type(text).kind in _SEMI_STRUCTURED else expression


def way_out(role: str, dataset: Dataset) -> str:
    """
    Return what helps against a policy, in whole sentences.

    :param role: the role of the syncs
    :param dataset: its file may say already that the role is exempt
    """
    check = f"IS_ROLE_IN_SESSION('{role}')"
    then = "" if dataset.policies == "exempt" else f" Then say policies: exempt in {dataset.name}.yaml."
    return (
        f"Exempt the role of the syncs in the policy's body: CASE WHEN {check} THEN val ELSE ... END in a masking "
        f"policy, {check} OR ... in a row access policy.{then}"
    )


def told(table: str, masked: Mapping[str, str], *, is_filtered: bool) -> str:
    """
    Return the policies that were found on a table, for people; nothing when there are none.

    :param masked: masking policies by column
    :param is_filtered: whether there is a row access policy
    """
    found = [f"{table} column {column} has the masking policy {policy}" for column, policy in masked.items()]
    return "; ".join([*found, *([f"{table} has a row access policy"] if is_filtered else [])])
