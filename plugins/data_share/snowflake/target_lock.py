"""Whose target a table is: what the target's row in its lock table says of another dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import LOCK_KEY, Share, is_target
from data_share.sql_text import sql_string, written


class TargetTakenError(ShareError, AirflowFailException):
    """Another dataset publishes to the target: each would undo what the other loads."""

    code = FailureCode.TARGET_TAKEN


def select_lock(dataset: Dataset, share: Share) -> str:
    """Return the statement that reads the target's row in its lock table; there is no such table before a sync."""
    # Names are safe, and parts are literals.
    return f"SELECT * FROM {share.lock_table(dataset.target_table)} WHERE {is_target(dataset.target_table)}"  # noqa: S608


def refuse_target_of_another(
    dataset: Dataset, share: Share, rows: Sequence[Mapping[str, Any]], *, unchanged: str = ""
) -> None:
    """
    Refuse a target that another dataset has published to, be it of this Airflow, of another one, or of before.

    :param dataset: who is going to publish
    :param share: where the target has its lock
    :param rows: what ``select_lock.sql`` has found; nothing before the first sync to the target
    :param unchanged: what else is said of the target
    :raises TargetTakenError: another one has published
    """
    for row in rows:
        if row["DATASET"] not in (dataset.name, ""):
            key = [str(row[column.upper()]) for column in LOCK_KEY]
            taken = f"{'.'.join(map(written, key))} is the target of the dataset {row['DATASET']}, whose sync"
            raise TargetTakenError(
                f"{taken} {row['RUN_KEY']} was published to it last. {unchanged}".rstrip(),
                what_to_do=f"Give one of the two datasets another target_table. If {row['DATASET']} is no more, or is "
                f"{dataset.name} under its name of before, say so in Snowflake, and start the sync again: "
                + take_over(dataset, share, key),
            )


def take_over(dataset: Dataset, share: Share, key: Sequence[str]) -> str:
    """Return the statement that makes a target, by its full name, that of another dataset."""
    condition = " AND ".join(f"{column} = {sql_string(part)}" for column, part in zip(LOCK_KEY, key, strict=True))
    return (
        f"UPDATE {share.lock_table(dataset.target_table)} SET dataset = {sql_string(dataset.name)} WHERE {condition};"  # noqa: S608
    )
