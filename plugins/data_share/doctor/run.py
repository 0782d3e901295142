"""
Checks a deployment step by step, and reports what is wrong and how to fix it.

The checks are functions in the modules beside this one, one module for each system; :data:`CHECKS` lists them in order.
Each returns an ``Answer``. A check is skipped if a check that it needs has failed; its finding then names that check.
Checks change nothing: they roll back what they write, or write to a table of their own and drop it. Secrets of the
connections are removed from all texts.

The DAG ``doctor`` runs the checks inside Airflow, with Airflow's secrets and network; ``python -m data_share.doctor``
runs them from a shell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability import stats

from data_share.doctor import airflow, databricks, snowflake, sources
from data_share.doctor.deployment import Answer, Check, Deployment, State, error_text, wrong
from data_share.outcome.codes import FailureCode
from data_share.outcome.metrics import PREFIX
from data_share.outcome.report import ShareError
from data_share.share import Share

CHECKS: tuple[Check, ...] = (*airflow.CHECKS, *databricks.CHECKS, *snowflake.CHECKS)
"""All checks, in order."""


@dataclass(frozen=True)
class Finding:
    """
    The result of one check.

    :param group: the system that was checked: ``Airflow``, ``Databricks`` or ``Snowflake``; ``Sources`` if asked for
    :param name: the check
    :param looked_at: what was checked
    :param text: what was found and, if it is wrong, how to fix it
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
    """Checks of the deployment failed; the message has the texts of all failed checks."""

    code = FailureCode.SHARE_BROKEN


def examine(deployment: Deployment, groups: Sequence[str] = (), *, with_sources: bool = False) -> Iterator[Finding]:
    """
    Run the checks in order.

    :param groups: the systems to check; default: all
    :param with_sources: also compare each source with its target, which starts a run of the export job for each dataset
    """
    passed: set[str] = set()
    for check in CHECKS:
        if groups and check.group not in groups:
            continue
        missing = [name for name in check.needs if name not in passed]
        if missing:
            answer = Answer(State.UNKNOWN, f"because a check before it did not pass: {', '.join(missing)}.")
        else:
            answer = _answer(check, deployment)
        if answer.state in (State.OK, State.ADVICE):
            passed.add(check.name)
        text = deployment.without_secrets(answer.text)
        looked_at = check.looked_at.format(share=deployment.share)
        yield Finding(check.group, check.name, looked_at, answer.state, text)
    if not with_sources:
        return
    missing = [name for name in sources.NEEDS if name not in passed]
    for name, answer in sources.answers(deployment, missing):
        text = deployment.without_secrets(answer.text)
        yield Finding(sources.GROUP, name, "a run of the export job", answer.state, text)


def _answer(check: Check, deployment: Deployment) -> Answer:
    try:
        return check.answer(deployment)
    except Exception as error:
        return wrong(f"{error_text(error)}.")


class DoctorOperator(BaseOperator):
    """
    Runs the checks of one system, and returns the findings. Fails if one is wrong, with the texts of all wrong ones.

    After a failure, the XCom ``findings`` has all findings.

    :param group: the system: ``Airflow``, ``Databricks`` or ``Snowflake``
    :param share: the names of the deployment
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
        """Run the checks."""
        deployment = Deployment(self.share)
        findings = []
        for finding in examine(deployment, [self.group]):
            self.log.info("%s", finding.line())
            findings.append(finding)
        answer = [{name: str(value) for name, value in asdict(finding).items()} for finding in findings]
        wrong = [finding for finding in findings if finding.state is State.WRONG]
        tags = {"dag_id": context["ti"].dag_id, "system": self.group}
        stats.gauge(f"{PREFIX}doctor_problems", len(wrong), tags=tags)
        if wrong:
            context["ti"].xcom_push(key="findings", value=answer)
            sentences = "\n".join(f"- {finding.name}: {finding.text}" for finding in wrong)
            raise ShareIsBrokenError(f"{len(wrong)} of {len(findings)} checks of {self.group} failed.\n{sentences}")
        return answer
