"""
Checking a deployment step by step: what is wrong, in the other system's words, and how to mend it.

The checks are functions, one module for each side beside this one, listed in their order in :data:`CHECKS`. Each
returns an ``Answer``; one whose ground is missing is not made, and says for want of what. Nothing is changed: what is
written is rolled back, or is in a table of the check's own that it drops. Secrets of the connections are taken out of
all that is said.

Inside Airflow, the DAG ``doctor`` makes them, with Airflow's secrets and network; from a shell, ``python -m
data_share.doctor`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from data_share.doctor import airflow, databricks, snowflake
from data_share.doctor.deployment import Answer, Check, Deployment, State, error_text, wrong
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import Share

CHECKS: tuple[Check, ...] = (*airflow.CHECKS, *databricks.CHECKS, *snowflake.CHECKS)
"""All checks, in their order."""


@dataclass(frozen=True)
class Finding:
    """
    A check that was made, or not made.

    :param group: the side that it is about
    :param name: the check
    :param looked_at: what was looked at
    """

    group: str
    name: str
    looked_at: str
    state: State
    text: str

    def line(self) -> str:
        """Return the finding as a line of the list."""
        return f"{self.state:11}  {self.name} ({self.looked_at}): {self.text}"


class ShareIsBrokenError(ShareError, AirflowFailException):
    """A check of the deployment has failed; the message has the sentences of all that have."""

    code = FailureCode.SHARE_BROKEN


def examine(deployment: Deployment, groups: Sequence[str] = ()) -> Iterator[Finding]:
    """
    Make the checks in their order.

    :param groups: the sides to look at; all by default
    """
    well: set[str] = set()
    for check in CHECKS:
        if groups and check.group not in groups:
            continue
        missing = [name for name in check.needs if name not in well]
        if missing:
            answer = Answer(State.UNKNOWN, f"because this did not come out well: {', '.join(missing)}.")
        else:
            answer = _answer(check, deployment)
        if answer.state in (State.OK, State.ADVICE):
            well.add(check.name)
        text = deployment.without_secrets(answer.text)
        looked_at = check.looked_at.format(share=deployment.share)
        yield Finding(check.group, check.name, looked_at, answer.state, text)


def _answer(check: Check, deployment: Deployment) -> Answer:
    try:
        return check.answer(deployment)
    except Exception as error:
        return wrong(f"{error_text(error)}.")


class DoctorOperator(BaseOperator):
    """
    Makes the checks of one side; returns the findings, and fails with the sentences of those that are wrong.

    The findings of a failure are the XCom ``findings``.

    :param group: the side: ``Airflow``, ``Databricks`` or ``Snowflake``
    :param share: what is looked at
    """

    def __init__(
        self,
        *,
        group: str,
        share: Share,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.share = share

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Make the checks."""
        deployment = Deployment(self.share)
        findings = []
        for finding in examine(deployment, [self.group]):
            self.log.info("%s", finding.line())
            findings.append(finding)
        told = [{name: str(value) for name, value in asdict(finding).items()} for finding in findings]
        wrong = [finding for finding in findings if finding.state is State.WRONG]
        if wrong:
            context["ti"].xcom_push(key="findings", value=told)
            sentences = "\n".join(f"- {finding.name}: {finding.text}" for finding in wrong)
            raise ShareIsBrokenError(f"{len(wrong)} of {len(findings)} checks of {self.group} failed.\n{sentences}")
        return told
