"""What the checks look at, what they return, and what several of them use."""

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
from data_share.dataset_files import DATASETS_FOLDER, InvalidDatasetError, read_datasets
from data_share.datasets import Dataset
from data_share.outcome.classify import is_certificate_error
from data_share.outcome.report import ShareError
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook

PROJECT = Path(__file__).resolve().parents[3]
BUNDLE = PROJECT / "include" / "databricks" / "databricks.yml"

LARGEST_SKEW_SECONDS = 60
"""Clocks further apart than this are wrong: sign-ins are dated."""

HTTP_SECONDS = 15
_STATEMENT_SECONDS = 60
_SNOWFLAKE_TRIES = 3
_MOST_CHARACTERS = 1000
# Not what tells where a key is.
_SECRET_EXTRAS = re.compile(r"(?!.*(_file|_path|_url|_endpoint)$).*(key|secret|token|pass)", re.IGNORECASE)


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WRONG = "wrong"
    ADVICE = "advice"
    """It works, and could be better."""
    UNKNOWN = "not checked"


@dataclass(frozen=True)
class Answer:
    """What a check returns: how it came out, and a sentence; if it is wrong, with the way to mend it."""

    state: State
    text: str


@dataclass(frozen=True)
class Check:
    """
    One check.

    :param looked_at: what is looked at; ``{share...}`` stands for a name of the deployment
    :param needs: names of checks that must have come out well before
    """

    group: str
    name: str
    looked_at: str
    answer: Callable[[Deployment], Answer]
    needs: tuple[str, ...] = ()


class Deployment:
    """
    What the checks look at; each part is looked up once.

    :param share: the names of its parts
    :param datasets_folder: folder of the dataset files
    :param now: the clock of this machine
    """

    def __init__(
        self,
        share: Share,
        *,
        datasets_folder: Path = DATASETS_FOLDER,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.share = share
        self.datasets_folder = datasets_folder
        self.now = now
        self.skews: dict[str, float] = {}
        """System -> by how many seconds this machine is ahead of it."""
        self.session: dict[str, Any] = {}
        self.job: dict[str, Any] = {}
        self.role_refused = ""

    @cached_property
    def datasets(self) -> tuple[list[Dataset], list[InvalidDatasetError]]:
        """The valid datasets, and what is wrong with the others."""
        return read_datasets(self.datasets_folder, self.share)

    @cached_property
    def databricks(self) -> DataShareDatabricksHook:
        """The hook of the syncs, which does not try again here."""
        return DataShareDatabricksHook(
            self.share.databricks_conn_id, timeout_seconds=HTTP_SECONDS, tries=1, caller="doctor"
        )

    @cached_property
    def snowflake(self) -> DataShareSnowflakeHook:
        """The hook of the syncs, which has less patience here."""
        return DataShareSnowflakeHook(
            self.share.snowflake_conn_id,
            query_tag={"task": "doctor"},
            statement_timeout=_STATEMENT_SECONDS,
            tries=_SNOWFLAKE_TRIES,
        )

    @cached_property
    def bundle_job(self) -> dict[str, Any]:
        """The export job as the asset bundle describes it."""
        job: dict[str, Any] = yaml.safe_load(BUNDLE.read_text(encoding="utf-8"))["resources"]["jobs"]["export_dataset"]
        return job

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""
        return self.snowflake.run_statement(sql).rows

    def rolled_back(self, statements: Sequence[str]) -> None:
        """Run statements in a transaction that is rolled back."""
        self.snowflake.run_transaction(["BEGIN TRANSACTION", *statements, "ROLLBACK"])

    def without_secrets(self, text: str) -> str:
        """Return a text in which no secret of the connections stands."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."

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
        # A shorter one would be found in ordinary words.
        return {secret for secret in found if len(secret) >= 6}


def ok(text: str) -> Answer:
    """Answer that it is well; the text says what was found."""
    return Answer(State.OK, text)


def wrong(text: str) -> Answer:
    """Answer that it is wrong; the text says what, and how to mend it."""
    return Answer(State.WRONG, text)


def verdict(problems: Sequence[str], well: str) -> Answer:
    """Answer with the problems, if there are any."""
    return wrong(" ".join(problems)) if problems else ok(well)


def error_text(error: Exception) -> str:
    """Return what an error says, on one line and without a full stop."""
    # What to do is said by the check that failed.
    said = error.message if isinstance(error, ShareError) else str(error)
    text = " ".join(said.split()).rstrip(".")
    return text if isinstance(error, AirflowFailException) else f"{type(error).__name__}: {text}"


def listed(names: Any) -> str:
    """Return names with commas between them."""
    return ", ".join(names) or "nothing"


def with_advice(problems: list[str], advice: str) -> list[str]:
    """Return problems with how to mend them, if there are any."""
    return [*problems, advice] if problems else []


def connection_of(conn_id: str) -> Any:
    """Return an Airflow connection, or None if there is none."""
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None


def no_connection(conn_id: str) -> Answer:
    """Answer that a connection does not exist."""
    return wrong(
        f"The Airflow connection {conn_id} does not exist. Create it in Airflow's UI or secrets backend, or as "
        f"AIRFLOW_CONN_{conn_id.upper()}: README.md, Real accounts."
    )


def check_fields(conn_id: str, missing: Sequence[str]) -> Answer:
    """Answer whether a connection lacks any of its fields."""
    problems = [f"The Airflow connection {conn_id} lacks: {', '.join(missing)}. README.md, Real accounts."]
    return verdict(problems if missing else [], "complete.")


def check_reachable(deployment: Deployment, system: str, url: str, field: str) -> Answer:
    """Answer whether anything answers at an address, whatever it says; its clock is noted on the way."""
    before = deployment.now()
    try:
        # Whatever it answers, also that nobody has signed in, it is there.
        response = requests.get(url, timeout=HTTP_SECONDS, allow_redirects=False)
    except OSError as error:
        if is_certificate_error(error):
            return wrong(
                f"The certificate at {url} is refused: {error_text(error)}. Check {field} of the connection; where a "
                "proxy opens the traffic, give Airflow its certificate authority (REQUESTS_CA_BUNDLE and "
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
    """Return by how many seconds this machine is ahead of another one that was asked between two times."""
    return ((before + (after - before) / 2) - theirs).total_seconds()


def clock(deployment: Deployment, system: str) -> Answer:
    """Answer whether the clocks of this machine and of a system agree."""
    skew = deployment.skews.get(system)
    if skew is None:
        return Answer(State.UNKNOWN, f"because {system} does not say what time it is.")
    if abs(skew) > LARGEST_SKEW_SECONDS:
        way = "ahead of" if skew > 0 else "behind"
        return wrong(
            f"The clock of this machine is {abs(skew):,.0f} seconds {way} that of {system}: sign-ins are dated, and "
            "are refused. Synchronise it (NTP)."
        )
    return ok(f"within {LARGEST_SKEW_SECONDS} seconds.")
