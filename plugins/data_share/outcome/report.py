"""
What went wrong: one report for each failed step, the same for people and for programs.

It is the XCom ``failure`` of the task that failed, and of the last task of a sync that was not published; it is in the
log, in the alert and in a backend's answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow.sdk.exceptions import (
    AirflowFailException,
)

from data_share.outcome.codes import FailureCode

FAILURE_KEY = "failure"
"""XCom key of the report."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """
    The report of a failed step.

    :param step: the task that failed
    :param code: what went wrong
    :param message: what happened, in the other system's words
    :param databricks_run_url: page of the export on Databricks, if it is known
    :param snowflake_query_id: the query in Snowflake's history, if there is one
    :param what_to_do: what helps in this case; by default, what the code says
    :param retriable: whether to start again with nothing changed may help; by default, what the code says
    """

    step: str
    code: FailureCode
    message: str
    databricks_run_url: str | None = None
    snowflake_query_id: str | None = None
    what_to_do: str | None = None
    retriable: bool | None = None

    def __post_init__(self) -> None:
        """Take from the code what this case does not say."""
        if self.what_to_do is None:
            object.__setattr__(self, "what_to_do", self.code.what_to_do)
        if self.retriable is None:
            object.__setattr__(self, "retriable", self.code.retriable)

    def __str__(self) -> str:
        """Return the report for people."""
        return f"{self.step}: {with_advice(self.message, str(self.what_to_do))}"

    def to_xcom(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {**asdict(self), "code": self.code.name}

    @staticmethod
    def of_xcom(report: Mapping[str, Any]) -> Failure:
        """Return the report that a step left as its XCom."""
        return Failure(
            step=report["step"],
            code=FailureCode[report["code"]],
            message=report["message"],
            databricks_run_url=report["databricks_run_url"],
            snowflake_query_id=report["snowflake_query_id"],
            what_to_do=report["what_to_do"],
            retriable=report["retriable"],
        )


class ShareError(Exception):
    """
    An error of this package: it knows its code, and its text ends with what to do.

    :param message: what happened, in the other system's words
    :param code: if it is another one than that of the class
    :param databricks_run_url: page of the export on Databricks
    :param snowflake_query_id: the query in Snowflake's history
    :param what_to_do: what helps in this case, where that of the code would not; whole sentences
    :param retriable: whether to start again with nothing changed may help, where the code says otherwise
    """

    code = FailureCode.UNEXPECTED

    def __init__(
        self,
        message: str,
        *,
        code: FailureCode | None = None,
        databricks_run_url: str | None = None,
        snowflake_query_id: str | None = None,
        what_to_do: str | None = None,
        retriable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.what_to_do = what_to_do or self.code.what_to_do
        self.retriable = self.code.retriable if retriable is None else retriable
        self.databricks_run_url = databricks_run_url
        self.snowflake_query_id = snowflake_query_id

    @property
    def message(self) -> str:
        """What happened, without what to do."""
        return str(self.args[0])

    def __str__(self) -> str:
        return with_advice(self.message, self.what_to_do)


def with_advice(message: str, what_to_do: str) -> str:
    """Return a failure as a text for people: what happened, which may be a list, and what to do."""
    return message + ("\n" if "\n" in message else " ") + what_to_do


class NotPublishedError(AirflowFailException):
    """The sync ended without a publish, for the reason that the report gives."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def logged(failure: Failure) -> dict[str, Any]:
    """Write a report to the log, and return it as an XCom."""
    report = failure.to_xcom()
    _log.error("Failure report: %s", json.dumps(report))
    return report
