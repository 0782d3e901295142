"""
The report of a failed step, the same for people and for programs.

It is the XCom ``failure`` of the failed task, and of the last task of a sync that was not published; logs, alerts and
backends show it too.
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
    :param message: what happened; where another system failed, its message
    :param databricks_run_url: page of the export on Databricks, if known
    :param snowflake_query_id: the query in Snowflake's history, if there is one
    :param what_to_do: remedy for this case; default: that of the code
    :param retriable: whether the same sync may succeed when it is started again; default: that of the code
    """

    step: str
    code: FailureCode
    message: str
    databricks_run_url: str | None = None
    snowflake_query_id: str | None = None
    what_to_do: str | None = None
    retriable: bool | None = None

    def __post_init__(self) -> None:
        """Set the defaults that depend on the code."""
        if self.what_to_do is None:
            object.__setattr__(self, "what_to_do", self.code.what_to_do)
        if self.retriable is None:
            object.__setattr__(self, "retriable", self.code.retriable)

    def __str__(self) -> str:
        """Return the report for people."""
        return f"{self.step}: {with_advice(self.message, str(self.what_to_do))}"

    def to_xcom(self) -> dict[str, Any]:
        """
        Return the report as JSON, with two facts of the code.

        ``cause`` says what went wrong in words without ids; ``repair`` is the key of the conf with which a sync repairs
        what was found.
        """
        return {**asdict(self), "code": self.code.name, "cause": self.code.cause, "repair": self.code.repair}

    @staticmethod
    def from_xcom(report: Mapping[str, Any]) -> Failure:
        """Return the report in the XCom of a step."""
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
    An error of this package. It has a code, and its text ends with what to do.

    :param message: what happened; where another system failed, its message
    :param code: default: the class's code
    :param databricks_run_url: page of the export on Databricks
    :param snowflake_query_id: the query in Snowflake's history
    :param what_to_do: remedy for this case, in whole sentences; default: that of the code
    :param retriable: whether the same sync may succeed when it is started again; default: that of the code
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
        """What happened, without the remedy."""
        return str(self.args[0])

    def __str__(self) -> str:
        return with_advice(self.message, self.what_to_do)


def with_advice(message: str, what_to_do: str) -> str:
    """Return message and remedy as one text; the remedy gets its own line after a message of several lines."""
    return message + ("\n" if "\n" in message else " ") + what_to_do


class NotPublishedError(AirflowFailException):
    """The sync ended without a publish; the report says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def logged(failure: Failure) -> dict[str, Any]:
    """Write a report to the log, and return it as an XCom."""
    report = failure.to_xcom()
    _log.error("Failure report: %s", json.dumps(report))
    return report
