"""The steps of the set-up: they check and create the targets of the datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from data_share.datasets import Dataset
from data_share.snowflake.sql_api import (
    SnowflakeStatementError,
)
from data_share.snowflake.statements import NOT_THERE, SnowflakeStatementsOperator
from data_share.snowflake.target_lock import TargetTakenError, refuse_target_of_another, select_lock


class SnowflakeCreateTargetOperator(SnowflakeStatementsOperator):
    """
    Creates one target table: an instance of a mapped task.

    :param target: name of the dataset, or a SQL file; the SQL finds it in ``task.target``
    """

    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target


class SnowflakeTargetsCheckOperator(SnowflakeStatementsOperator):
    """
    Fails if another dataset publishes to one of the targets, perhaps one of another Airflow.

    :param datasets: whose targets are looked at
    """

    template_fields: Sequence[str] = ("snowflake_conn_id",)

    def __init__(self, *, datasets: Sequence[Dataset], **kwargs: Any) -> None:
        super().__init__(sql="", **kwargs)
        self.datasets = datasets

    def execute(self, context: Context) -> None:
        """Look at the lock of each target."""
        self._context = context
        taken = []
        for dataset in self.datasets:
            try:
                rows = self._run_file(select_lock(dataset, self.share), f"lock {dataset.name}")[-1].rows
                refuse_target_of_another(dataset, self.share, rows)
            except SnowflakeStatementError as error:
                if NOT_THERE not in str(error):
                    raise
            except TargetTakenError as error:
                taken.append(error)
        if taken:
            raise TargetTakenError(
                "\n".join(error.message for error in taken),
                what_to_do="\n".join(dict.fromkeys(str(error.what_to_do) for error in taken)),
            )
