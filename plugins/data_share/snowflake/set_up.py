"""The set-up's steps that check and create the targets of the datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Context

from data_share.datasets import Dataset
from data_share.share import Share
from data_share.share_file import DEFAULT
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import DOES_NOT_EXIST, SnowflakeStatementsOperator
from data_share.snowflake.target_lock import TargetTakenError, refuse_target_of_another, select_lock
from data_share.sql_files import search_path


def target_files(datasets: Sequence[Dataset], share: Share) -> list[str]:
    """
    Return the files in ``targets/`` that create targets of a share.

    A file belongs to the share of the dataset of the same name, and without such a dataset to the default share.

    :param datasets: the datasets of all shares
    """
    shares = {dataset.name: dataset.share for dataset in datasets}
    names = {path.name: path.stem for folder in search_path() for path in Path(folder, "targets").glob("*.sql")}
    return sorted(name for name, stem in names.items() if shares.get(stem, DEFAULT) == share.name)


class SnowflakeCreateTargetOperator(SnowflakeStatementsOperator):
    """
    Creates one target table; each table is one instance of a mapped task.

    :param target: name of the dataset, or a SQL file; the SQL reads it as ``task.target``
    """

    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target


class SnowflakeTargetsCheckOperator(SnowflakeStatementsOperator):
    """
    Fails if another dataset, perhaps one of another Airflow, publishes to one of the targets.

    :param datasets: the datasets whose targets are checked
    """

    template_fields: Sequence[str] = ("snowflake_conn_id",)

    def __init__(self, *, datasets: Sequence[Dataset], **kwargs: Any) -> None:
        super().__init__(sql="", **kwargs)
        self.datasets = datasets

    def execute(self, context: Context) -> None:
        """Read the lock of each target, and report all targets that other datasets publish to."""
        self._context = context
        taken = []
        for dataset in self.datasets:
            try:
                rows = self._run_file(select_lock(dataset, self.share), f"lock {dataset.name}")[-1].rows
                refuse_target_of_another(dataset, self.share, rows)
            except SnowflakeStatementError as error:
                if DOES_NOT_EXIST not in str(error):
                    raise
            except TargetTakenError as error:
                taken.append(error)
        if taken:
            raise TargetTakenError(
                "\n".join(error.message for error in taken),
                what_to_do="\n".join(dict.fromkeys(str(error.what_to_do) for error in taken)),
            )
