"""
Start, follow and cancel syncs of the data share through Airflow's REST API.

One file to copy into a backend; it needs Python 3.11 and ``httpx``. ``docs/backend.md`` describes the calls.

    async with AirflowClient(url, user, password) as airflow:
        sync = await airflow.request_sync("shared_forecasts", conf={"requested_by": "ada@example.com"})
        sync = await airflow.wait(sync.dataset, sync.run_id, deadline_seconds=3600)
        print("Sync Complete" if sync.complete else sync.failure.sentence)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import httpx

CANCELLED_BY = re.compile(r"^[Cc]ancelled by (.+?)(?: through [^:\n]+)?(?:: |$)", re.MULTILINE)
"""How the note of a cancelled run begins: ``cancelled by ada@example.com through svc-sync: ...``."""

STEPS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")


class SyncError(Exception):
    """Base of all errors of this client. The message is for people and contains no secret."""


class NotSignedInError(SyncError):
    """Airflow does not accept the user or the password, or refuses a token that it has just issued."""


class NotAllowedError(SyncError):
    """The account lacks a right (403)."""


class UnknownDatasetError(SyncError):
    """Airflow has no such dataset (404); the message lists the datasets that the account may see."""


class UnknownSyncError(SyncError):
    """The dataset has no run with this id (404)."""


class InvalidConfError(SyncError):
    """Airflow refuses the conf or the run id (400); the message is Airflow's."""


class PausedError(SyncError):
    """The dataset is paused: Airflow would accept the run but never start it."""


class SyncTimeoutError(SyncError):
    """The deadline has passed. The sync goes on in Airflow; it can be followed again or cancelled."""


class AirflowUnavailableError(SyncError):
    """No answer, 429 or 5xx after several attempts. It is unknown whether the call had an effect."""


@dataclass(frozen=True)
class Step:
    """One step of a sync, with its state in Airflow: None until it is scheduled, then ``running``, ``success``, ..."""

    name: str
    state: str | None
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class Failure:
    """
    Why a sync failed; ``docs/failures.md`` lists the codes.

    ``cause``: what went wrong, in words without ids; empty if an earlier version of the data share has left the report.
    ``retriable``: the same request may succeed later. ``repair``: the key of the conf with which a sync repairs what
    was found, e.g. ``full_refresh``.
    """

    step: str
    code: str
    message: str
    cause: str = ""
    what_to_do: str = ""
    databricks_run_url: str | None = None
    snowflake_query_id: str | None = None
    retriable: bool = False
    repair: str | None = None

    @property
    def sentence(self) -> str:
        """The failure as one sentence for people."""
        return f"{self.step}: {self.message}"


@dataclass(frozen=True)
class Sync:
    """
    The current state of a sync.

    ``state`` is ``queued``, ``running``, ``success`` or ``failed``. If the sync succeeded, ``result`` is its row in the
    ledger or, for a dry run, what would change; for a verification, what was compared. If it failed, or a person set it
    to success, ``failure`` is the reason. ``rows_loaded`` is known when the load has ended. ``requested_by`` is the
    person in the conf, or the user of Airflow who started the run; None for a schedule. ``note`` is the text that
    Airflow shows for the run.
    """

    dataset: str
    run_id: str
    state: str
    started: datetime | None
    ended: datetime | None
    steps: tuple[Step, ...]
    result: dict[str, Any] | None
    failure: Failure | None
    airflow_url: str
    databricks_run_url: str | None
    rows_loaded: int | None = None
    requested_by: str | None = None
    note: str | None = None

    @property
    def cancelled_by(self) -> str | None:
        """Who has cancelled the sync, as its note says; None if nobody has, or nobody knows."""
        if self.failure is None or self.failure.code != "CANCELLED":
            return None
        # At the end, the data share writes the last line, by Airflow's own record of who has called. A queued sync that
        # was cancelled ends later; until then there is only what the caller has said.
        found = CANCELLED_BY.search((self.note or "").rpartition("\n\n---\n\n")[2])
        return found[1] if found else None

    @property
    def finished(self) -> bool:
        """Whether the sync has ended."""
        return self.state in ("success", "failed")

    @property
    def complete(self) -> bool:
        """Whether to show "Sync Complete"."""
        return self.state == "success" and self.failure is None


class AirflowClient:
    """
    Airflow's REST API for a backend's service account; an async context manager. Share one client among all requests.

    :param url: address of Airflow, such as ``https://airflow.example.com``
    :param user: name of the service account
    :param password: its password; exchanged for a token at the first call, and again when a token is refused
    :param timeout: max. seconds of one attempt of a call
    :param back_off: seconds between the attempts of a call that gets no answer, 429 or 5xx
    :param outage: max. seconds without an answer, for example during a restart of Airflow, while a sync is followed
    :param transport: replaces the network in tests
    """

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        timeout: float = 30,
        back_off: Sequence[float] = (0.5, 1, 2),
        outage: float = 330,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._user = user
        self._password = password
        self._back_off = back_off
        self._outage = outage
        self._http = httpx.AsyncClient(base_url=self._url, timeout=timeout, transport=transport)
        self._token: str | None = None
        self._signing_in = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def user(self) -> str:
        """Name of the service account."""
        return self._user

    async def datasets(self) -> list[str]:
        """Return the datasets that the account may see."""
        return sorted(await self.dags())

    async def dags(self) -> dict[str, dict[str, Any]]:
        """Return what Airflow says of the DAG of each dataset that the account may see, by the dataset's name."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            params = {"tags": ["data-share", "sync"], "tags_match_mode": "all", "limit": 100, "offset": len(found)}
            page = await self.ask("GET", "/api/v2/dags", params=params)
            found |= {dag["dag_id"].removeprefix("sync_"): dag for dag in page["dags"]}
            if not page["dags"] or len(found) >= page["total_entries"]:
                return found

    async def dag(self, dataset: str) -> dict[str, Any]:
        """Return what Airflow says of the DAG of a dataset."""
        dag: dict[str, Any] = await self._ask_of(dataset, "GET", _dag(dataset))
        return dag

    async def start(self, dataset: str, *, run_id: str | None = None, conf: dict[str, Any] | None = None) -> Sync:
        """
        Start a sync. If a run with this ``run_id`` exists already, start nothing and return that run.

        :param run_id: your own id for the request, up to 200 of ``A-Za-z0-9_.~:+-``; default: each call is a new sync
        :raises PausedError, UnknownDatasetError, InvalidConfError: the sync was not started
        """
        await self._check_ready(dataset)
        return await self._start(dataset, run_id or f"request_{uuid.uuid4().hex}", conf)

    async def request_sync(self, dataset: str, *, conf: dict[str, Any] | None = None) -> Sync:
        """
        Return a sync whose export begins after this call: a queued one, or a new one. Use it for a button.

        A new run waits until the running one has ended. Requests at the same moment, also from other backends, start
        only one run: they see the same newest run and derive the same id from it.
        """
        await self._check_ready(dataset)
        runs = await self.runs(dataset, 20)
        for run in runs:
            if run["state"] in ("queued", "running") and _same_work(run["conf"]) == _same_work(conf):
                sync = await self.sync(dataset, run["dag_run_id"])
                if sync.steps and sync.steps[0].state in (None, "scheduled", "queued"):
                    return sync
        after = f"{runs[0]['dag_run_id'] if runs else ''} {_same_work(conf)}"
        return await self._start(dataset, f"request_after_{hashlib.sha256(after.encode()).hexdigest()[:12]}", conf)

    async def sync(self, dataset: str, run_id: str) -> Sync:
        """Return the current state of a sync."""
        return await self._look(dataset, run_id)

    async def newest(self, dataset: str) -> Sync | None:
        """Return the newest sync of a dataset, whoever started it; None if there is none."""
        runs = await self.runs(dataset, 1)
        return await self.sync(dataset, runs[0]["dag_run_id"]) if runs else None

    async def runs(self, dataset: str, limit: int, **filters: Any) -> list[dict[str, Any]]:
        """
        Return what Airflow says of the last runs of a dataset, newest first.

        :param limit: max. number of runs, up to 100
        :param filters: parameters of Airflow's REST API, such as ``state="success"``
        """
        params = {"order_by": "-id", "limit": limit, **filters}
        runs: list[dict[str, Any]] = (await self._ask_of(dataset, "GET", _runs(dataset), params=params))["dag_runs"]
        return runs

    async def follow(self, dataset: str, run_id: str, *, deadline_seconds: float) -> AsyncIterator[Sync]:
        """
        Yield the sync now and whenever it changes, until it is finished.

        :raises SyncTimeoutError: after ``deadline_seconds``; the sync goes on
        """
        answered = changed = time.monotonic()
        deadline = answered + deadline_seconds
        known: Sync | None = None
        while True:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    seen = await self._look(dataset, run_id, known)
            except TimeoutError:
                state = known.state if known else "not known"
                message = f"The sync of {dataset} has not ended in {deadline_seconds:g} s (state: {state}). It goes on."
                raise SyncTimeoutError(message) from None
            except AirflowUnavailableError:
                if time.monotonic() - answered > self._outage:
                    raise
            else:
                answered = time.monotonic()
                if seen != known:
                    changed, known = answered, seen
                    yield seen
                if seen.finished:
                    return
            # 0.5 s after a change, growing to 5 s, which is enough while Databricks works for an hour.
            pause = min(0.5 + 0.05 * (time.monotonic() - changed), 5, deadline - time.monotonic())
            await asyncio.sleep(max(pause, 0))

    async def wait(self, dataset: str, run_id: str, *, deadline_seconds: float) -> Sync:
        """Return the sync when it is finished; see :meth:`follow`."""
        async for sync in self.follow(dataset, run_id, deadline_seconds=deadline_seconds):
            last = sync
        return last

    async def cancel(self, dataset: str, run_id: str, *, by: str | None = None) -> None:
        """
        Cancel a sync, on Databricks and Snowflake too; it fails seconds later. A finished sync is unchanged.

        :param by: who cancels it, for the note of the run; default: Airflow names only the account of this client
        """
        sync = await self.sync(dataset, run_id)
        if sync.finished:
            return
        body = {"state": "failed"}
        if by:
            # Below what others have written there.
            body["note"] = "\n\n".join(filter(None, (sync.note, f"Cancelled by {by}")))
        await self.ask("PATCH", f"{_runs(dataset)}/{quote(run_id, safe='')}", json=body)

    async def ask(self, method: str, path: str, *, missing: SyncError | None = None, **options: Any) -> Any:
        """
        Make any call of Airflow's REST API, signed in, with the same attempts, and return the answer's JSON.

        :param path: such as ``/api/v2/dags``
        :param missing: what to raise for 404; without it, 404 returns None, as 409 does
        :param options: of ``httpx``, such as ``json`` and ``params``
        """
        token = await self._sign_in()
        answer = await self._send(method, path, token, **options)
        # A token that has expired gets 401; one that was revoked, or signed with an older key, 403.
        if answer.status_code == 401 or (answer.status_code == 403 and "Invalid JWT" in answer.text):
            answer = await self._send(method, path, await self._sign_in(refused=token), **options)
        if answer.is_success:
            return _json(answer)
        if answer.status_code == 409 or (answer.status_code == 404 and missing is None):
            return None
        if answer.status_code == 404 and missing:
            raise missing
        words = _json(answer).get("detail", answer.text) if "json" in answer.headers.get("content-type", "") else ""
        kind = {400: InvalidConfError, 401: NotSignedInError, 403: NotAllowedError}.get(answer.status_code, SyncError)
        raise kind(f"Airflow refuses {method} {path} (HTTP {answer.status_code}): {str(words)[:500]}")

    async def _check_ready(self, dataset: str) -> None:
        if (await self.dag(dataset))["is_paused"]:
            raise PausedError(f"The dataset {dataset} is paused in Airflow: unpause it there, then try again")

    async def _start(self, dataset: str, run_id: str, conf: dict[str, Any] | None) -> Sync:
        if len(run_id) > 200 or run_id.endswith("\n"):
            # Airflow would accept it, but the sync would fail without a reason: its log folder cannot be created.
            raise InvalidConfError("A run id has at most 200 characters, and no line end")
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        # 409 is a success too: another call, or an earlier attempt of this call, has started the run.
        await self._ask_of(dataset, "POST", _runs(dataset), json=body)
        return await self.sync(dataset, run_id)

    async def _look(self, dataset: str, run_id: str, known: Sync | None = None) -> Sync:
        path = f"{_runs(dataset)}/{quote(run_id, safe='')}"
        unknown = UnknownSyncError(f"Airflow knows no sync {run_id} of {dataset}")
        run = await self.ask("GET", path, missing=unknown)
        tasks = (await self.ask("GET", f"{path}/taskInstances", missing=unknown))["task_instances"]
        by_name = {task["task_id"]: task for task in tasks}
        steps = tuple(
            Step(name, by_name[name]["state"], _time(by_name[name]["start_date"]), _time(by_name[name]["end_date"]))
            for name in STEPS
            if name in by_name
        )

        async def xcom(task: str, key: str) -> Any:
            answer = await self.ask("GET", f"{path}/taskInstances/{task}/xcomEntries/{key}")
            return answer and answer["value"]

        def from_last_attempt(task: str, value: Any) -> Any:
            # Airflow keeps the XCom of an earlier attempt when a step was cleared and then did not begin, or a person
            # marked it. So compare the attempt's id in the XCom.
            attempt = value.get("task_instance_id") if isinstance(value, dict) else None
            return value if task in by_name and attempt == by_name[task]["id"] else None

        databricks_run_url = known.databricks_run_url if known else None
        if databricks_run_url is None and steps and steps[0].state == "success":
            databricks_run_url = await xcom("export_to_s3", "run_page_url")
        state, failure = run["state"], None
        rows_loaded = known.rows_loaded if known else None
        is_loaded = any(step.name == "copy_into_staging" and step.state == "success" for step in steps)
        if rows_loaded is None and is_loaded and state != "success":
            copied = from_last_attempt("copy_into_staging", await xcom("copy_into_staging", "return_value"))
            rows_loaded = copied and copied["rows_loaded"]
        result = from_last_attempt("publish", await xcom("publish", "return_value")) if state == "success" else None
        if result:
            rows_loaded = result.get("rows_loaded")
        if state == "queued" and steps and all(step.state == "skipped" for step in steps[:-1]):
            # Cancelled while it was queued. Airflow sets it to failed only when the run before it has ended.
            state = "failed"
            words = "The sync was cancelled before it began."
            failure = Failure(STEPS[0], "CANCELLED", words, words, retriable=True)
        elif state == "failed":
            step = next((step.name for step in steps if step.state == "failed"), "sync")
            failure = _failure(step, from_last_attempt(STEPS[-1], await xcom(STEPS[-1], "failure")))
        elif state == "success" and result is None:
            message = "Airflow reports success, but nothing was published this time: was a step marked by hand?"
            failure = _failure("publish", message)
        airflow_url = f"{self._url}/dags/sync_{quote(dataset, safe='')}/runs/{quote(run_id, safe='')}"
        started, ended = _time(run["start_date"]), _time(run["end_date"])
        return Sync(
            *(dataset, run_id, state, started, ended, steps, result, failure, airflow_url, databricks_run_url),
            rows_loaded=rows_loaded,
            requested_by=(run.get("conf") or {}).get("requested_by") or run.get("triggering_user_name"),
            note=run.get("note"),
        )

    async def _ask_of(self, dataset: str, method: str, path: str, **options: Any) -> Any:
        """Return the answer's JSON; if the dataset does not exist, raise an error that lists the datasets."""
        try:
            return await self.ask(method, path, missing=UnknownDatasetError(dataset), **options)
        except UnknownDatasetError:
            known = ", ".join(await self.datasets()) or "none"
            raise UnknownDatasetError(f"Airflow has no dataset {dataset}; it has {known}") from None

    async def _sign_in(self, refused: str | None = None) -> str:
        async with self._signing_in:
            if self._token is None or self._token == refused:
                body = {"username": self._user, "password": self._password}
                answer = await self._send("POST", "/auth/token", None, json=body)
                if answer.status_code != 201:
                    # Without the answer's text: if Airflow cannot read the body, it repeats the password.
                    raise NotSignedInError(f"Airflow does not sign {self._user} in (HTTP {answer.status_code})")
                self._token = str(_json(answer)["access_token"])
            return self._token

    async def _send(self, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for pause in (*self._back_off, None):
            wanted = 0.0
            try:
                answer = await self._http.request(method, path, headers=headers, **options)
            except httpx.RequestError as error:
                problem = f"does not answer {method} {path}: {type(error).__name__}"
            else:
                if answer.status_code != 429 and answer.status_code < 500:
                    return answer
                problem = f"answers {method} {path} with HTTP {answer.status_code}"
                after = answer.headers.get("retry-after", "")
                wanted = min(float(after), 30) if after.isdecimal() else 0.0
            if pause is not None:
                await asyncio.sleep(max(pause, wanted))
        raise AirflowUnavailableError(f"Airflow {problem}, also after {len(self._back_off) + 1} attempts")


def _dag(dataset: str) -> str:
    return f"/api/v2/dags/sync_{quote(dataset, safe='')}"


def _runs(dataset: str) -> str:
    return f"{_dag(dataset)}/dagRuns"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _same_work(conf: dict[str, Any] | None) -> str:
    """Return a conf without its requester, for comparison: a request must not join, say, somebody's dry run."""
    options = {key: value for key, value in (conf or {}).items() if value and key != "requested_by"}
    return json.dumps(options, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _failure(step: str, report: Any) -> Failure:
    """Return the failure for a report, or for a message; None for an unknown reason."""
    if isinstance(report, dict):
        known = {field.name: report[field.name] for field in fields(Failure) if field.name in report}
        return Failure(**{"step": step, "code": "UNEXPECTED", "message": "", **known})
    return Failure(step, "UNEXPECTED", report or "failed without a reason; see Airflow's log of the step")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise SyncError(f"The answer to {answer.request.method} {answer.request.url.path} is not Airflow's") from None
