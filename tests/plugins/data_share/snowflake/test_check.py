from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from data_share.snowflake.check import CheckFailedError, SnowflakeCheckOperator
from data_share.snowflake.load import ManifestError, NothingLoadedError
from data_share.snowflake.schema_drift import SchemaDriftError
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import TARGET_UNCHANGED
from tests.plugins.data_share.conftest import Snowflake
from tests.plugins.data_share.snowflake.examples import MakeContext

CHECKS = {"rows_match": "COUNT(*) = 5", "depth_known": "depth IS NOT NULL", "depth_possible": "depth > -12000"}


def answered(*results: int | None) -> list[dict[str, Any]]:
    return [
        {"CHECK_NAME": name, "CONDITION": condition, "WHAT_TO_DO": None, "CHECK_RESULT": result}
        for (name, condition), result in zip(CHECKS.items(), results, strict=True)
    ]


NOT_DEEP = "FROM staging.tides WHERE NOT COALESCE((depth > -12000), FALSE)"
NO_AGGREGATE_IN_WHERE = SnowflakeStatementError("Invalid aggregate function in where clause [COUNT(*)]")


def failure_of(check: SnowflakeCheckOperator, task_context: MakeContext) -> str:
    with pytest.raises(CheckFailedError) as caught:
        check.execute(task_context(check))  # type: ignore[arg-type]
    return caught.value.message


def test_a_failed_check_is_told_with_its_condition_and_rows_that_break_it(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", answered(1, 1, 0))
    snowflake.answer(f"SELECT COUNT(*) AS total {NOT_DEEP}", [{"TOTAL": 1234}])
    rows = [{"HARBOUR": "Oslo", "DEPTH": -13000.0}, {"HARBOUR": None, "DEPTH": None}]
    snowflake.answer(f"SELECT * {NOT_DEEP} LIMIT 5", rows)
    message = failure_of(check, task_context)
    assert message.startswith("1 of 3 checks failed on staging.tides.")
    assert message.endswith(
        "\n- depth_possible: depth > -12000. Not true for 1,234 row(s), e.g. "
        "HARBOUR=Oslo, DEPTH=-13000.0; HARBOUR=None, DEPTH=None"
    )
    assert TARGET_UNCHANGED in message
    assert "depth_known" not in message
    assert "SELECT checks" not in message


def test_at_most_five_rows_are_asked_for_and_none_is_shown_at_length(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", answered(1, 1, 0))
    snowflake.answer(f"SELECT COUNT(*) AS total {NOT_DEEP}", [{"TOTAL": 5}])
    snowflake.answer(f"SELECT * {NOT_DEEP} LIMIT 5", [{"NOTE": "x" * 10_000}] * 5)
    message = failure_of(check, task_context)
    assert [one for one in snowflake.statements if one.startswith("SELECT *")] == [f"SELECT * {NOT_DEEP} LIMIT 5"]
    assert message.count("NOTE=") == 5
    assert len(message) < 5 * 300 + 500


def test_checks_without_an_answer_have_failed(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", [])
    assert failure_of(check, task_context) == (
        f"The query of the checks returned no row on staging.tides. {TARGET_UNCHANGED}"
    )
    snowflake.answer("SELECT checks", answered(None, None, None))
    for condition in CHECKS.values():
        count = f"SELECT COUNT(*) AS total FROM staging.tides WHERE NOT COALESCE(({condition}), FALSE)"
        snowflake.answer(count, NO_AGGREGATE_IN_WHERE)
    assert "3 of 3 checks failed" in failure_of(check, task_context)


def test_the_checks_tell_the_time_that_they_took(
    snowflake: Snowflake, check: SnowflakeCheckOperator, task_context: MakeContext
) -> None:
    snowflake.answer("SELECT checks", answered(1, 1, 1))
    context = task_context(check)
    assert check.execute(context) == {  # type: ignore[arg-type]
        "statement_seconds": 1.235,
        "task_instance_id": str(context["ti"].id),
        "clear_number": context["dag_run"].clear_number,
    }


def test_killing_the_checks_cancels_their_query(
    snowflake: Snowflake,
    check: SnowflakeCheckOperator,
    task_context: MakeContext,
) -> None:
    snowflake.answer("SELECT checks", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        check.execute(task_context(check))  # type: ignore[arg-type]
    check.on_kill()
    snowflake.hook.stop.assert_called_once_with()


def test_data_that_is_not_fit_is_not_tried_again() -> None:
    for error in (NothingLoadedError, ManifestError, CheckFailedError, SchemaDriftError):
        assert issubclass(error, AirflowFailException)
