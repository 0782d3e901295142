from __future__ import annotations

import uuid
from typing import Any

import pytest

from data_share.share import Share, run_key_of
from data_share.snowflake.check import SnowflakeCheckOperator
from data_share.snowflake.clean_up import SnowflakeCleanUpOperator
from data_share.snowflake.load import SnowflakeCopyIntoOperator
from data_share.snowflake.publish import SnowflakePublishOperator
from data_share.snowflake.statements import SnowflakeStatementsOperator
from tests.plugins.data_share.conftest import Snowflake
from tests.plugins.data_share.snowflake.examples import MakeContext


def test_statements_run_one_by_one_in_their_order(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="-- why\nCREATE a;\n\nCREATE b;\nCREATE c;")
    task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.statements == ["CREATE a", "CREATE b", "CREATE c"]


def request_ids(snowflake: Snowflake, context: dict[str, Any]) -> list[Any]:
    """Run a step with the same statement at three places; return its request ids."""
    snowflake.request_ids.clear()
    task = SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a; CREATE a;\nCREATE a;")
    task.execute(context)  # type: ignore[arg-type]
    return list(snowflake.request_ids)


def test_request_ids_are_of_the_place_and_the_attempt(snowflake: Snowflake, task_context: MakeContext) -> None:
    first = request_ids(snowflake, task_context(try_number=1))
    assert first == request_ids(snowflake, task_context(try_number=1)), "a repetition must find its statements"
    second = request_ids(snowflake, task_context(try_number=2))
    assert len({*first, *second}) == 6, "a new attempt must run its statements again"


def test_another_airflow_has_other_request_ids(snowflake: Snowflake, task_context: MakeContext) -> None:
    here, elsewhere = task_context(), task_context()
    elsewhere["ti"].id = uuid.uuid4()
    assert set(request_ids(snowflake, here)).isdisjoint(request_ids(snowflake, elsewhere))


def test_statements_are_tagged_with_where_they_come_from(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(
        share=Share(snowflake_conn_id="other"), task_id="set_up", sql="DROP a; DROP b;", statement_timeout=12
    )
    context = task_context(task, try_number=3)
    task.execute(context)  # type: ignore[arg-type]
    assert snowflake.statements == ["DROP a", "DROP b"], "one file is enough"
    snowflake.hook_class.assert_called_once_with(
        "other",
        query_tag={
            "dag": "sync_shared_forecasts",
            "run": "manual__o'clock--1",
            "task": "set_up",
            "try": 3,
            "run_key": run_key_of(context["dag_run"]),
        },
        statement_timeout=12,
    )


def test_killing_a_step_cancels_the_query_that_runs(snowflake: Snowflake, task_context: MakeContext) -> None:
    task = SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a; CREATE b; CREATE c;")
    snowflake.answer("CREATE b", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        task.execute(task_context(task))  # type: ignore[arg-type]
    snowflake.hook.stop.assert_not_called()
    task.on_kill()
    snowflake.hook.stop.assert_called_once_with()


def test_a_step_that_is_killed_before_it_begins_submits_nothing(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.hook.stop.side_effect = KeyboardInterrupt
    for task in (SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a"), check):
        task.on_kill()
        with pytest.raises(KeyboardInterrupt):
            task.execute(task_context(task))  # type: ignore[arg-type]
    assert snowflake.hook.stop.call_count == 2
    assert snowflake.statements == []


def test_a_step_never_takes_up_the_statements_of_an_earlier_attempt() -> None:
    assert SnowflakeStatementsOperator(share=Share(), task_id="set_up", sql="CREATE a").durable is False


def test_rendered_fields_name_the_connection_and_hold_nothing_secret() -> None:
    shown_to_users = {"sql", "snowflake_conn_id", "select_old_exports"}
    for operator in (
        SnowflakeStatementsOperator,
        SnowflakeCopyIntoOperator,
        SnowflakeCheckOperator,
        SnowflakePublishOperator,
        SnowflakeCleanUpOperator,
    ):
        assert {"snowflake_conn_id"} <= set(operator.template_fields) <= shown_to_users, operator
