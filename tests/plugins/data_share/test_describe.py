"""Descriptions of sources while Databricks or Snowflake fails: each source has its own answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from data_share import describe as describe_module
from data_share.databricks.follow import DatabricksRunFailedError, FinishedRun
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.datasets import Dataset
from data_share.describe import Description, SourceUnknownError, describe_all
from data_share.share import Share

Described = dict[str, Description | SourceUnknownError]


def dataset(number: int) -> Dataset:
    return Dataset.model_validate(
        {
            "name": f"people_{number}",
            "description": "Made by a test.",
            "source_table": "main.care.people",
            "target_table": f"people_{number}",
            "load_mode": "replace",
            "required_columns": ("id",),
        }
    )


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """A stand-in of the hook; the ids of its runs are the numbers of the datasets."""
    monkeypatch.setenv(f"AIRFLOW_VAR_{Share().export_job_variable.upper()}", "4711")
    hook = mock.MagicMock(spec=DataShareDatabricksHook)
    hook.made = mock.Mock(return_value=hook)
    hook.run_now.side_effect = lambda body: int(body["job_parameters"]["dataset"].removeprefix("people_"))
    monkeypatch.setattr(describe_module, "DataShareDatabricksHook", hook.made)
    return hook


@pytest.fixture
def described(hook: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Described]:
    """Describe sources, some of which fail while they are followed, by number."""
    read = mock.Mock(side_effect=lambda request, run, share: mock.Mock(spec=Description))
    hook.read = read

    def run(count: int, failing: dict[int, BaseException] | None = None) -> Described:
        async def follow(hook: Any, run_id: int, *_: Any) -> FinishedRun:
            if failing and run_id in failing:
                raise failing[run_id]
            return FinishedRun(run_id, "page", {})

        monkeypatch.setattr(describe_module, "follow_run", follow)
        monkeypatch.setattr(describe_module, "_read", read)
        return describe_all([dataset(number) for number in range(1, count + 1)], Share())

    return run


def failed(described: Described) -> dict[str, str]:
    return {name: each.message for name, each in described.items() if isinstance(each, SourceUnknownError)}


def test_an_outage_is_waited_out_for_less_long_than_in_a_sync(
    hook: mock.Mock, described: Callable[..., Described]
) -> None:
    described(1)
    hook.made.assert_called_once_with(Share().databricks_conn_id, tries=3, caller="describe")
