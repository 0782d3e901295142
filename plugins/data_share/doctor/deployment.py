"""The deployment that the checks look at, the answers that they return, and functions that several checks use."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
import yaml
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from data_share.databricks.hook import DataShareDatabricksHook
from data_share.dataset_files import InvalidDatasetError, read_datasets
from data_share.datasets import Dataset
from data_share.outcome.classify import is_certificate_error
from data_share.outcome.report import ShareError
from data_share.package import INCLUDE
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook

BUNDLE = INCLUDE / "databricks" / "databricks.yml"

MAX_SKEW_SECONDS = 60
"""Max. difference between two clocks. A sign-in carries the time; a system refuses a time far from its own."""

HTTP_SECONDS = 15
_STATEMENT_SECONDS = 60
_SNOWFLAKE_TRIES = 3
_MAX_TEXT_CHARACTERS = 1000
# Names of extras that contain secrets; names of files and addresses are no secrets.
_SECRET_EXTRAS = re.compile(r"(?!.*(_file|_path|_url|_endpoint)$).*(key|secret|token|pass)", re.IGNORECASE)


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    WRONG = "wrong"
    ADVICE = "advice"
    """It works, but should be improved."""
    UNKNOWN = "not checked"


@dataclass(frozen=True)
class Answer:
    """What a check returns: its result, and a text that says what was found and, if it is wrong, how to fix it."""

    state: State
    text: str


@dataclass(frozen=True)
class Check:
    """
    One check.

    :param looked_at: what is checked; ``{share.stage}`` stands for the name of the stage, and so on
    :param needs: names of checks that must have passed before
    """

    group: str
    name: str
    looked_at: str
    answer: Callable[[Deployment], Answer]
    needs: tuple[str, ...] = ()


class Deployment:
    """
    The deployment that the checks look at; each part is read once.

    :param share: the names of the deployment
    :param datasets_folder: folder of the dataset files; default: the deployment's
    :param datasets: the datasets to check; default: all of the folder
    :param now: returns the time of this machine
    """

    def __init__(
        self,
        share: Share,
        *,
        datasets_folder: Path | None = None,
        datasets: Sequence[Dataset] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.share = share
        self.datasets_folder = datasets_folder
        self._chosen = datasets
        self.now = now
        self.skews: dict[str, float] = {}
        """System -> seconds by which this machine's clock is ahead of the system's clock."""
        self.session: dict[str, Any] = {}
        """What Snowflake answers about the session: its role, warehouse, database and schema; empty before sign-in."""
        self.job: dict[str, Any] = {}
        """The export job as Databricks returns it; empty before it was found."""
        self.role_error = ""
        """Why Snowflake refused the role of the connection; empty if it did not."""

    @cached_property
    def datasets(self) -> tuple[list[Dataset], list[InvalidDatasetError]]:
        """The valid datasets of this share, and the errors of all invalid files."""
        if self._chosen is not None:
            return list(self._chosen), []
        datasets, errors = read_datasets(self.datasets_folder)
        return [dataset for dataset in datasets if dataset.share == self.share.name], errors

    @cached_property
    def databricks(self) -> DataShareDatabricksHook:
        """The same hook as in the syncs, without retries."""
        return DataShareDatabricksHook(
            self.share.databricks_conn_id, timeout_seconds=HTTP_SECONDS, tries=1, caller="doctor"
        )

    @cached_property
    def snowflake(self) -> DataShareSnowflakeHook:
        """The same hook as in the syncs, with fewer retries and a shorter timeout."""
        return DataShareSnowflakeHook(
            self.share.snowflake_conn_id,
            query_tag={"task": "doctor"},
            statement_timeout=_STATEMENT_SECONDS,
            tries=_SNOWFLAKE_TRIES,
        )

    @cached_property
    def bundle_job(self) -> dict[str, Any]:
        """The export job as defined in the asset bundle."""
        job: dict[str, Any] = yaml.safe_load(BUNDLE.read_text(encoding="utf-8"))["resources"]["jobs"]["export_dataset"]
        return job

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""
        return self.snowflake.run_statement(sql).rows

    def rolled_back(self, statements: Sequence[str]) -> None:
        """Run statements in a transaction that is rolled back."""
        self.snowflake.run_statements(["BEGIN TRANSACTION", *statements, "ROLLBACK"])

    def without_secrets(self, text: str) -> str:
        """Return a text with all secrets of the connections replaced."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text if len(text) <= _MAX_TEXT_CHARACTERS else f"{text[:_MAX_TEXT_CHARACTERS]} ..."

    @cached_property
    def _secrets(self) -> set[str]:
        found: set[str] = set()
        for conn_id in (self.share.databricks_conn_id, self.share.snowflake_conn_id):
            with contextlib.suppress(Exception):
                connection = BaseHook.get_connection(conn_id)
                found.add(connection.password or "")
                found |= {
                    str(value) for name, value in connection.extra_dejson.items() if _SECRET_EXTRAS.match(str(name))
                }
        # A shorter secret would be found in ordinary words.
        return {secret for secret in found if len(secret) >= 6}


def ok(text: str) -> Answer:
    """Return the answer of a passed check; the text says what was found."""
    return Answer(State.OK, text)


def wrong(text: str) -> Answer:
    """Return the answer of a failed check; the text says what is wrong, and how to fix it."""
    return Answer(State.WRONG, text)


def verdict(problems: Sequence[str], passed_text: str) -> Answer:
    """Return a failed answer if there are problems, otherwise a passed one."""
    return wrong(" ".join(problems)) if problems else ok(passed_text)


def error_text(error: Exception) -> str:
    """Return the message of an error, on one line and without a full stop."""
    # Without the error's remedy: the check gives its own.
    message = error.message if isinstance(error, ShareError) else str(error)
    text = " ".join(message.split()).rstrip(".")
    return text if isinstance(error, AirflowFailException) else f"{type(error).__name__}: {text}"


def listed(names: Any) -> str:
    """Return names separated by commas."""
    return ", ".join(names) or "nothing"


def with_advice(problems: list[str], advice: str) -> list[str]:
    """Return the problems and, if there are any, how to fix them."""
    return [*problems, advice] if problems else []


def connection_of(conn_id: str) -> Any:
    """Return an Airflow connection, or None if there is none."""
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None


def no_connection(conn_id: str) -> Answer:
    """Return the answer for a connection that does not exist."""
    return wrong(
        f"The Airflow connection {conn_id} does not exist. Create it in Airflow's UI or secrets backend, or as "
        f"AIRFLOW_CONN_{conn_id.upper()}: README.md, Real accounts."
    )


def check_fields(conn_id: str, missing: Sequence[str]) -> Answer:
    """Return the answer for a connection: failed if fields are missing."""
    problems = [f"The Airflow connection {conn_id} lacks: {', '.join(missing)}. README.md, Real accounts."]
    return verdict(problems if missing else [], "complete.")


def check_reachable(deployment: Deployment, system: str, url: str, field: str) -> Answer:
    """Return whether a server answers at an address; also note the difference to its clock."""
    before = deployment.now()
    try:
        # Any answer will do, also a refusal because nobody has signed in.
        response = requests.get(url, timeout=HTTP_SECONDS, allow_redirects=False)
    except OSError as error:
        if is_certificate_error(error):
            return wrong(
                f"The certificate at {url} is refused: {error_text(error)}. Check {field} of the connection; if a "
                "proxy decrypts the traffic, give Airflow its certificate authority (REQUESTS_CA_BUNDLE and "
                "SSL_CERT_FILE)."
            )
        return wrong(
            f"{system} cannot be reached at {url}: {error_text(error)}. Check {field} of the connection, and DNS, "
            "proxy and firewall of this machine."
        )
    with contextlib.suppress(KeyError, TypeError, ValueError):
        theirs = parsedate_to_datetime(response.headers["Date"])
        deployment.skews[system] = skew_between(before, theirs, deployment.now())
    return ok(f"{url} answers.")


def skew_between(before: datetime, theirs: datetime, after: datetime) -> float:
    """
    Return the seconds by which this machine's clock is ahead of another clock.

    :param before: this machine's time before the call that read the other clock
    :param theirs: the time of the other clock
    :param after: this machine's time after the call
    """
    return ((before + (after - before) / 2) - theirs).total_seconds()


def clock(deployment: Deployment, system: str) -> Answer:
    """Return whether the clocks of this machine and of a system agree."""
    skew = deployment.skews.get(system)
    if skew is None:
        return Answer(State.UNKNOWN, f"because {system} answered without the header Date.")
    if abs(skew) > MAX_SKEW_SECONDS:
        way = "ahead of" if skew > 0 else "behind"
        return wrong(
            f"The clock of this machine is {abs(skew):,.0f} seconds {way} that of {system}: sign-ins carry the time, "
            "and are refused. Synchronise it (NTP)."
        )
    return ok(f"within {MAX_SKEW_SECONDS} seconds.")
