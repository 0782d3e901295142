"""Which dataset owns a target: the target's row in its lock table names the dataset that publishes to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import LOCK_KEY, Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook
from data_share.sql_files import render_sql
from data_share.sql_text import sql_string, written
from data_share.sync import Sync


class TargetTakenError(ShareError, AirflowFailException):
    """Another dataset publishes to the target: each would overwrite what the other loads."""

    code = FailureCode.TARGET_TAKEN


def select_lock(dataset: Dataset, share: Share) -> str:
    """
    Return the statement of ``select_lock.sql`` for whoever reads a lock outside of a sync.

    The lock table does not exist before the first sync to a target.
    """
    # The file reads only what follows from dataset and share, so the sync needs no run.
    sync = Sync(dataset, share, dag_run=None, ti=None, params={})
    file = render_sql("select_lock", share=share, sync=sync)
    (statement,) = DataShareSnowflakeHook.split_sql_string(file, strip_semicolon=True)
    return statement


def refuse_target_of_another(
    dataset: Dataset, share: Share, rows: Sequence[Mapping[str, Any]], *, unchanged: str = ""
) -> None:
    """
    Refuse a target that another dataset has published to: of this Airflow, of another one, or a former dataset.

    :param dataset: the dataset that is going to publish
    :param share: the deployment, with the lock table
    :param rows: rows that ``select_lock.sql`` returned; none before the first sync to the target
    :param unchanged: sentence to add to the message
    :raises TargetTakenError: another dataset has published to the target
    """
    for row in rows:
        if row["DATASET"] not in (share.owner(dataset.name), ""):
            key = [str(row[column.upper()]) for column in LOCK_KEY]
            taken = f"{'.'.join(map(written, key))} is the target of the dataset {row['DATASET']}, whose sync"
            raise TargetTakenError(
                f"{taken} {row['RUN_KEY']} was published to it last. {unchanged}".rstrip(),
                what_to_do=f"Give one of the two datasets another target_table. If {row['DATASET']} was deleted, or is "
                f"the former name of {dataset.name}, take over the target in Snowflake, and start the sync again: "
                + take_over_statement(dataset, share, key),
            )


def take_over_statement(dataset: Dataset, share: Share, key: Sequence[str]) -> str:
    """Return the statement that makes a dataset the owner of a target, found in its lock table by ``key``."""
    condition = " AND ".join(f"{column} = {sql_string(part)}" for column, part in zip(LOCK_KEY, key, strict=True))
    owner = sql_string(share.owner(dataset.name))
    return f"UPDATE {share.lock_table(dataset.target_table)} SET dataset = {owner} WHERE {condition};"  # noqa: S608
