"""What templates can use: the names of the right dataset and the right run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from data_share import share
from data_share.datasets import Dataset
from data_share.share import InvalidExportPathError, run_key_of
from data_share.templates import SQL_FILTERS, sync_macros


def dataset(name: str) -> Dataset:
    return Dataset(
        name=name,
        description="Tides by harbour.",
        source_table=f"main.sea.{name}",
        target_table=f"public.{name}_now",
        load_mode="replace",
        required_columns=("harbour",),
    )


def test_macros_name_the_things_of_one_run(task_context: Callable[..., dict[str, Any]]) -> None:
    macros = sync_macros(dataset("tides"))
    dag_run = task_context()["dag_run"]
    key = run_key_of(dag_run)
    assert macros["run_key"](dag_run) == key
    assert macros["export_path"](dag_run, 3) == f"{share.SHARE_URL}tides/{key}/3/"
    assert macros["staging_table"](dag_run) == f"staging.tides_now__{key}"
    assert macros["staging_manifest"](dag_run) == f"staging.tides_now__{key}__manifest"
    assert macros["share"] is share


def test_each_dataset_keeps_its_own_macros() -> None:
    # Macros made in a loop must not all end up with the last dataset.
    all_macros = [sync_macros(dataset(name)) for name in ("tides", "winds")]
    assert [macros["dataset"].name for macros in all_macros] == ["tides", "winds"]


def test_an_export_is_located_in_the_stage_only_if_it_is_of_the_dataset() -> None:
    path_in_stage = sync_macros(dataset("tides"))["path_in_stage"]
    path = "{0}{1}/20260102T030405_0a1b2c3d/1/"
    assert path_in_stage({"export_path": path.format(share.SHARE_URL, "tides")}) == path.format("", "tides")
    with pytest.raises(InvalidExportPathError):
        path_in_stage({"export_path": path.format(share.SHARE_URL, "winds")})
    with pytest.raises(InvalidExportPathError, match="'None'"):
        path_in_stage({"export_path": None})


def test_values_reach_sql_as_literals() -> None:
    assert SQL_FILTERS["sql_string"]("it's") == "'it''s'"
