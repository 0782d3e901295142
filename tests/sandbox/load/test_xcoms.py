"""What the steps of a sync ask Airflow for: each XCom is a call of the api-server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data_share.outcome.report import FAILURE_KEY, NotPublishedError
from data_share.snowflake.check import CheckFailedError
from tests.airflow_double import TaskInstance
from tests.sandbox.load.driver import STEPS, Share

pytestmark = pytest.mark.sandbox

ROWS = [{"k": 1, "name": "a", "amount": 1.0}]
LAST = "finish_sync"
Pulls = Counter[tuple[str, str, str]]


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulls]:
    """Count what is pulled: by whom, from whom, under which key."""
    counted: Pulls = Counter()
    xcom_pull = TaskInstance.xcom_pull

    def pull(ti: TaskInstance, task_ids: str, *, key: str = "return_value", **more: Any) -> Any:
        counted[ti.task_id, task_ids, key] += 1
        return xcom_pull(ti, task_ids, key=key, **more)

    monkeypatch.setattr(TaskInstance, "xcom_pull", pull)
    return counted


def test_a_good_sync_pulls_each_value_once_and_no_failure(
    a_share: Share, pulls: Pulls, record_property: Callable[[str, object], None]
) -> None:
    dataset = a_share.dataset(max_row_change_percent=50)
    a_share.write(dataset, ROWS)
    run = a_share.run(dataset)
    # What the two steps on Databricks ask for, they ask while their fields are rendered.
    run.prepared("export_to_s3")
    a_share.export(dataset, run)
    run.prepared("wait_for_export")
    a_share.export(dataset, run)
    a_share.steps(run)
    a_share.step(run, LAST)
    record_property("xcom_pulls", pulls.total())  # for tests.measure_house
    assert pulls == {
        ("wait_for_export", "export_to_s3", "run_id"): 1,
        ("copy_into_staging", "export_to_s3", "export"): 1,
        ("copy_into_staging", "wait_for_export", "return_value"): 1,
        ("check_staging", "copy_into_staging", "return_value"): 1,
        ("publish", "copy_into_staging", "return_value"): 1,
        ("publish", "check_staging", "return_value"): 1,
        # When the export was requested; for a source with versions, also what it was made with.
        ("publish", "export_to_s3", "export"): 1,
        (LAST, "publish", "return_value"): 1,
    }


def test_the_reports_are_read_after_a_failure(a_share: Share, pulls: Pulls) -> None:
    dataset = a_share.dataset(checks={"never": "FALSE"})
    a_share.write(dataset, ROWS)
    run = a_share.run(dataset)
    a_share.export(dataset, run)
    a_share.step(run, "copy_into_staging")
    with pytest.raises(CheckFailedError):
        a_share.step(run, "check_staging")
    with pytest.raises(NotPublishedError, match="check_staging: 1 of 7 checks failed"):
        a_share.step(run, LAST)
    read = {from_task for task, from_task, key in pulls if (task, key) == (LAST, FAILURE_KEY)}
    assert read == {"export_to_s3", "wait_for_export", *STEPS}
