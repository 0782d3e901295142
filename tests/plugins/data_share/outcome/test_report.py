from __future__ import annotations

import json

from airflow.sdk.exceptions import (
    AirflowFailException,
)

from data_share.outcome.classify import failure_of
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import Failure, NotPublishedError, ShareError


class HarbourClosedError(ShareError, AirflowFailException):
    code = FailureCode.EXPORT_FAILED


def test_our_errors_say_what_happened_and_then_what_to_do() -> None:
    error = HarbourClosedError(
        "The harbour is closed.", databricks_run_url="https://d/run/7", snowflake_query_id="01b2"
    )
    assert str(error) == f"The harbour is closed. {FailureCode.EXPORT_FAILED.what_to_do}"
    assert failure_of(error, "wait_for_export").to_xcom() == {
        "step": "wait_for_export",
        "code": "EXPORT_FAILED",
        "message": "The harbour is closed.",
        "what_to_do": FailureCode.EXPORT_FAILED.what_to_do,
        "databricks_run_url": "https://d/run/7",
        "snowflake_query_id": "01b2",
        "retriable": False,
        "cause": FailureCode.EXPORT_FAILED.cause,
        "repair": None,
    }


def test_a_report_says_with_which_conf_a_sync_repairs_what_was_found() -> None:
    codes = [code for code in FailureCode if Failure("step", code, "").to_xcom()["repair"] == "full_refresh"]
    assert codes == [FailureCode.INCREMENT_IMPOSSIBLE, FailureCode.VALUES_DIFFER]


def test_an_error_may_have_another_code_than_its_class() -> None:
    error = HarbourClosedError("Too late.", code=FailureCode.EXPORT_TIMED_OUT)
    assert failure_of(error, "x").code is FailureCode.EXPORT_TIMED_OUT
    assert HarbourClosedError("Closed.").code is FailureCode.EXPORT_FAILED


def test_an_error_may_have_advice_for_its_case() -> None:
    error = HarbourClosedError("The harbour is closed.", what_to_do="Row around it.", retriable=True)
    assert str(error) == "The harbour is closed. Row around it."
    failure = failure_of(error, "wait_for_export")
    report = failure.to_xcom()
    assert (report["code"], report["what_to_do"], report["retriable"]) == ("EXPORT_FAILED", "Row around it.", True)
    assert str(NotPublishedError(failure)) == "wait_for_export: The harbour is closed. Row around it."


def test_a_report_survives_its_way_as_xcom() -> None:
    advice = {"what_to_do": "Row back.", "retriable": False}
    failure = Failure("publish", FailureCode.SUPERSEDED, "Too late.", snowflake_query_id="01b2", **advice)
    assert Failure.from_xcom(json.loads(json.dumps(failure.to_xcom()))) == failure


def test_each_code_has_a_cause_and_a_remedy_of_its_own() -> None:
    for texts in ([code.cause for code in FailureCode], [code.what_to_do for code in FailureCode]):
        assert all(text.endswith(".") for text in texts)
    assert len({code.cause for code in FailureCode}) == len(FailureCode)
