"""What the SQL files and the templated fields of a sync can use, beside Airflow's own variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data_share import share
from data_share.datasets import Dataset


def sync_macros(dataset: Dataset) -> dict[str, Any]:
    """
    Return the macros of a dataset's DAG; most take ``dag_run``, which every template has.

    ``dataset`` and ``share`` are the dataset and the names of the share; ``run_key(dag_run)``,
    ``export_path(dag_run, attempt)``, ``staging_table(dag_run)``, ``staging_manifest(dag_run)`` name the things of one
    sync; ``path_in_stage(export)`` takes what ``wait_for_export`` returned.
    """

    def of_run(name: Callable[[str, str], str]) -> Callable[[Any], str]:
        return lambda dag_run: name(dataset.target_table, share.run_key_of(dag_run))

    return {
        "dataset": dataset,
        "share": share,
        "run_key": share.run_key_of,
        "export_path": lambda dag_run, attempt: share.export_path(dataset.name, share.run_key_of(dag_run), attempt),
        "staging_table": of_run(share.staging_table),
        "staging_manifest": of_run(share.staging_manifest),
        "path_in_stage": lambda export: share.path_in_stage(str(export["export_path"]), dataset.name),
    }


SQL_FILTERS: dict[str, Callable[[object], str]] = {"sql_string": share.sql_string}
"""Filters for values in SQL; see :func:`data_share.share.sql_string`."""
