"""Stands for the DAG of a dataset whose file has an error; apart from its reading, which needs nothing of Airflow."""

from __future__ import annotations

import hashlib
from typing import Any

from airflow.sdk import DAG

from data_share.dataset_files import InvalidDatasetError


class InvalidDatasetDag(DAG):
    """
    Replaces the DAG of an invalid dataset, so that Airflow shows the error as an import error of the dataset file.

    Airflow stores import errors by file and stops every DAG of such a file: an error raised in the DAG file would stop
    all datasets. This DAG claims the dataset file as its own file, and fails only when Airflow serializes it.

    :param error: what is wrong
    """

    def __init__(self, error: InvalidDatasetError) -> None:
        self.error = error
        # Hash the file name: it may itself be an invalid dag_id, and an invalid dag_id breaks every DAG of this file.
        digest = hashlib.sha256(error.path.stem.encode()).hexdigest()[:12]
        super().__init__(dag_id=f"invalid_dataset_{digest}", schedule=None)

    @property
    def relative_fileloc(self) -> str:
        """The dataset file, instead of the DAG file that Airflow sets."""
        return self.error.place

    @relative_fileloc.setter
    def relative_fileloc(self, value: str | None) -> None:
        pass

    def get_serialized_fields(self) -> Any:  # type: ignore[override]
        """Fail with the dataset's error."""
        raise self.error
