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
from data_share.outcome.codes import FailureCode
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


def test_a_start_that_is_refused_is_the_answer_of_one_source(
    hook: mock.Mock, described: Callable[..., Described]
) -> None:
    start = hook.run_now.side_effect
    broken = {1: RuntimeError("no such job."), 6: ConnectionError("no route")}

    def run_now(body: dict[str, Any]) -> int:
        if error := broken.get(start(body)):
            raise error
        run_id: int = start(body)
        return run_id

    hook.run_now.side_effect = run_now
    found = described(7)
    assert list(found) == [f"people_{number}" for number in range(1, 8)]
    assert failed(found) == {
        "people_1": "The export job cannot be started: RuntimeError: no such job.",
        "people_6": "The export job cannot be started: ConnectionError: no route.",
    }
    hook.cancel_run.assert_not_called()


def test_a_run_that_cannot_be_followed_is_cancelled_and_the_others_are_described(
    hook: mock.Mock, described: Callable[..., Described]
) -> None:
    broken = {2: KeyError("state"), 3: DatabricksRunFailedError("It cannot be followed any longer.")}
    assert failed(described(5, broken)) == {
        "people_2": "The Databricks run 2 cannot be followed: KeyError: 'state'.",
        "people_3": "It cannot be followed any longer.",
    }
    assert [call.args for call in hook.cancel_run.call_args_list] == [(2,), (3,)]


def test_runs_that_cannot_be_followed_at_all_are_cancelled(
    hook: mock.Mock, described: Callable[..., Described]
) -> None:
    hook.__aenter__.side_effect = OSError("no more files")
    told = "cannot be followed: OSError: no more files."
    assert failed(described(2)) == {f"people_{run}": f"The Databricks run {run} {told}" for run in (1, 2)}
    assert [call.args for call in hook.cancel_run.call_args_list] == [(1,), (2,)]


def test_a_manifest_that_cannot_be_read_is_the_answer_of_one_source(
    hook: mock.Mock, described: Callable[..., Described]
) -> None:
    hook.read.side_effect = [mock.Mock(spec=Description), KeyError("ROW_COUNT"), mock.Mock(spec=Description)]
    assert failed(described(3)) == {"people_2": "The manifest of the description cannot be read: KeyError: 'ROW_COUNT'"}


def test_an_interruption_cancels_what_was_started_and_starts_nothing_anew(
    hook: mock.Mock, described: Callable[..., Described]
) -> None:
    sent: list[int] = []
    start = hook.run_now.side_effect

    def run_now(body: dict[str, Any]) -> int:
        sent.append(start(body))
        if sent == [1]:
            raise RuntimeError("refused")
        if sent == [1, 2, 3]:
            raise KeyboardInterrupt
        return sent[-1]

    hook.run_now.side_effect = run_now
    with pytest.raises(KeyboardInterrupt):
        described(4)
    # The third again, to learn its id; neither the refused one nor the one that was not sent.
    assert sent == [1, 2, 3, 3]
    assert [call.args for call in hook.cancel_run.call_args_list] == [(2,), (3,)]


@pytest.mark.parametrize(
    "message",
    [
        "The Databricks run 1 ended as TIMEDOUT: Run exceeded its time.",
        "The Databricks run 1 took longer than 15 minutes and could not be cancelled: no route.",
    ],
    ids=["ended by the job", "not cancelled"],
)
def test_only_a_run_that_was_cancelled_is_said_to_be(described: Callable[..., Described], message: str) -> None:
    error = DatabricksRunFailedError(message, code=FailureCode.EXPORT_TIMED_OUT, what_to_do="Deploy another bundle.")
    [found] = described(1, {1: error}).values()
    assert isinstance(found, SourceUnknownError)
    assert (found.message, found.code) == (message, FailureCode.EXPORT_TIMED_OUT)
    assert found.what_to_do == "Look at the run's page, and try again when fewer syncs run."


def test_a_run_that_was_cancelled_for_its_time_is_told_in_words_of_a_description(
    described: Callable[..., Described],
) -> None:
    told = "The Databricks run 1 took longer than 15 minutes (export_timeout_minutes in the dataset file)"
    error = DatabricksRunFailedError(f"{told} and was cancelled.", code=FailureCode.EXPORT_TIMED_OUT)
    assert failed(described(1, {1: error})) == {
        "people_1": "It was not described within 15 minutes, its time in the job's queue included, and the run was "
        "cancelled."
    }
