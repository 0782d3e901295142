"""Syncs that a person clears, and steps that a person marks: what counts is what this time has made."""

from __future__ import annotations

from typing import Any

import pytest

from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import NotPublishedError
from data_share.sync import ResultMissingError
from tests.sandbox.load.driver import STEPS, Row, Run, Share

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

MODES: dict[str, dict[str, Any]] = {
    "replace": {"load_mode": "replace"},
    "append": {"load_mode": "append"},
    "merge": {"load_mode": "merge", "merge_keys": ("k",)},
}
FIRST: list[Row] = [{"k": 1, "name": "one", "amount": 1.0}]
SECOND: list[Row] = [{"k": 1, "name": "ONE", "amount": 2.0}, {"k": 2, "name": "two", "amount": 2.0}]
ALL = ("export_to_s3", "wait_for_export", *STEPS, "finish_sync")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dataset(a_share: Share, mode: str) -> Dataset:
    return a_share.dataset(**MODES[mode])


@pytest.fixture
def first(a_share: Share, dataset: Dataset) -> Run:
    """A sync that was published, while its source has changed since."""
    a_share.write(dataset, FIRST)
    run = a_share.sync(dataset)
    a_share.write(dataset, SECOND)
    return run


def clear(run: Run, task_id: str) -> None:
    """Clear a task with those that follow it."""
    run.clear(*ALL[ALL.index(task_id) :])


def mark(run: Run, *task_ids: str) -> None:
    """Mark tasks as a success before their processes have begun."""
    run.states.update(dict.fromkeys(task_ids, "success"))


def test_a_publish_that_is_marked_has_published_nothing(a_share: Share, dataset: Dataset, first: Run) -> None:
    before = a_share.everything(dataset)
    clear(first, "export_to_s3")
    a_share.export(dataset, first)
    for task_id in STEPS[:2]:
        a_share.step(first, task_id)
    mark(first, "publish")
    with pytest.raises(NotPublishedError, match="not published; the target is as it was") as caught:
        a_share.step(first, "finish_sync")
    assert (caught.value.failure.step, caught.value.failure.code) == ("publish", FailureCode.RESULT_MISSING)
    assert a_share.everything(dataset)[:3] == before[:3]


def test_a_copy_that_is_marked_has_loaded_nothing(a_share: Share, dataset: Dataset, first: Run) -> None:
    before = a_share.everything(dataset)
    # Staging tables that were left behind.
    clear(first, "copy_into_staging")
    a_share.step(first, "copy_into_staging")
    clear(first, "export_to_s3")
    a_share.export(dataset, first)
    mark(first, "copy_into_staging", "check_staging")
    with pytest.raises(ResultMissingError, match="copy_into_staging has loaded"):
        a_share.step(first, "publish")
    with pytest.raises(NotPublishedError, match="copy_into_staging has loaded"):
        a_share.step(first, "finish_sync")
    assert a_share.everything(dataset)[:3] == before[:3]


@pytest.mark.parametrize("task_id", [task_id for task_id in ALL if task_id not in ("wait_for_export", "check_staging")])
def test_a_sync_that_is_cleared_and_goes_well_is_a_success(
    a_share: Share, dataset: Dataset, mode: str, first: Run, task_id: str
) -> None:
    # check_staging has no staging table any more: what is cleared is the copy.
    clear(first, task_id)
    if task_id == "export_to_s3":
        a_share.export(dataset, first)
    for following in ALL[max(ALL.index(task_id), 2) :]:
        # What follows a publish that needs no staging tables finds none.
        a_share.step(first, following)
    anew = task_id == "export_to_s3" and mode != "append"
    assert a_share.target(dataset) == (SECOND if anew else FIRST)
    assert len(a_share.ledger(dataset)) == 1, "a sync counts once"
