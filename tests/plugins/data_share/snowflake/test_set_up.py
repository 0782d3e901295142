from __future__ import annotations

import pytest

from data_share.share import Share
from data_share.snowflake.set_up import SnowflakeTargetsCheckOperator
from data_share.snowflake.target_lock import TargetTakenError, select_lock
from tests.plugins.data_share.conftest import Snowflake, tides
from tests.plugins.data_share.snowflake.examples import LOCK, NO_LOCK, MakeContext


def test_all_targets_of_others_are_told_at_once(snowflake: Snowflake, task_context: MakeContext) -> None:
    datasets = [tides(name=name, target_table=f"public.{name}") for name in ("tides", "waves", "winds", "new")]
    found = [[{**LOCK, "DATASET": "a"}], [{**LOCK, "DATASET": "waves"}], [{**LOCK, "DATASET": "b"}], NO_LOCK]
    for dataset, rows in zip(datasets, found, strict=True):
        snowflake.answer(select_lock(dataset, Share()), rows)  # type: ignore[arg-type]
    task = SnowflakeTargetsCheckOperator(share=Share(), task_id="check_targets", datasets=datasets)
    with pytest.raises(TargetTakenError) as caught:
        task.execute(task_context(task))  # type: ignore[arg-type]
    assert [f"target of the dataset {name}" in caught.value.message for name in ("a", "waves", "b")] == [
        True,
        False,
        True,
    ]
    assert str(caught.value.what_to_do).count("UPDATE staging.publish_lock__") == 2
    assert len(snowflake.statements) == len(datasets)


def test_targets_that_nobody_else_publishes_to_are_right(snowflake: Snowflake, task_context: MakeContext) -> None:
    snowflake.answer(select_lock(tides(), Share()), [LOCK])
    task = SnowflakeTargetsCheckOperator(share=Share(), task_id="check_targets", datasets=[tides()])
    task.execute(task_context(task))  # type: ignore[arg-type]
    assert len(snowflake.statements) == 1
