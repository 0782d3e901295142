"""
Start, follow and cancel syncs of the data share through Airflow's REST API.

One file to copy into a backend: Python 3.11 and ``httpx``, nothing else. ``docs/backend.md`` is the contract behind it.

    async with AirflowClient(url, user, password) as airflow:
        sync = await airflow.press("shared_forecasts", conf={"requested_by": "ada@example.com"})
        sync = await airflow.wait(sync.dataset, sync.run_id, deadline_seconds=3600)
        print("Sync Complete" if sync.complete else sync.failure.sentence)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import httpx

STEPS = ("export_to_s3", "wait_for_export", "copy_into_staging", "check_staging", "publish", "finish_sync")


class SyncError(Exception):
    """Base of all errors of this client. The message is for people and holds no secret."""


class NotSignedInError(SyncError):
    """Airflow does not know the user or the password, or refuses a token that it has just made."""


class NotAllowedError(SyncError):
    """The account lacks a right (403)."""


class UnknownDatasetError(SyncError):
    """Airflow has no such dataset (404); the message names those that the account may see."""


class UnknownSyncError(SyncError):
    """The dataset has no run of this id (404)."""


class InvalidConfError(SyncError):
    """Airflow refuses the conf or the run id (400), in its words."""


class PausedError(SyncError):
    """The dataset is paused: Airflow would accept the run and never start it."""


class SyncTimeoutError(SyncError):
    """The deadline is over. The sync goes on in Airflow, and may be followed again or cancelled."""


class AirflowUnavailableError(SyncError):
    """No answer, 429 or 5xx, also after some attempts. Whether the call had an effect is not known."""


@dataclass(frozen=True)
class Step:
    """One step of a sync, with Airflow's state of it: None before its turn, then ``running``, ``success``, ..."""

    name: str
    state: str | None
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class Failure:
    """Why a sync failed; ``docs/failures.md`` lists the codes. ``retriable``: the same again may succeed."""

    step: str
    code: str
    message: str
    what_to_do: str = ""
    databricks_run_url: str | None = None
    snowflake_query_id: str | None = None
    retriable: bool = False

    @property
    def sentence(self) -> str:
        """What to show to a person."""
        return f"{self.step}: {self.message}"


@dataclass(frozen=True)
class Sync:
    """
    A sync as it is now.

    ``state`` is ``queued``, ``running``, ``success`` or ``failed``. ``result`` is the ledger's row of a sync that
    succeeded (of a dry run: what would change), ``failure`` the reason of one that did not, or that a person has set to
    success.
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

    @property
    def finished(self) -> bool:
        """Whether nothing more happens."""
        return self.state in ("success", "failed")

    @property
    def complete(self) -> bool:
        """Whether the user may read "Sync Complete"."""
        return self.state == "success" and self.failure is None


class AirflowClient:
    """
    Airflow's REST API for a backend's service account; an async context manager, to be shared by all requests.

    :param url: address of Airflow, such as ``https://airflow.example.com``
    :param user: name of the service account
    :param password: its password, exchanged for a token at the first call and whenever a token is refused
    :param timeout: seconds until one attempt of a call is given up
    :param back_off: seconds between the attempts of a call that Airflow does not answer, or with 429 or 5xx
    :param outage: seconds that Airflow may be away, say for its restart, while a sync is followed
    :param transport: takes the place of the network in tests
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

    async def datasets(self) -> list[str]:
        """Return the datasets that the account may see."""
        names: list[str] = []
        while True:
            params = {"tags": ["data-share", "sync"], "tags_match_mode": "all", "limit": 100, "offset": len(names)}
            page = await self.ask("GET", "/api/v2/dags", params=params)
            names += [dag["dag_id"].removeprefix("sync_") for dag in page["dags"]]
            if not page["dags"] or len(names) >= page["total_entries"]:
                return sorted(names)

    async def start(self, dataset: str, *, run_id: str | None = None, conf: dict[str, Any] | None = None) -> Sync:
        """
        Start a sync, once: with a ``run_id`` that Airflow knows already, nothing starts and that run is returned.

        :param run_id: your own id of the press, up to 200 of ``A-Za-z0-9_.~:+-``; without one, each call is a new sync
        :raises PausedError, UnknownDatasetError, InvalidConfError: it was not started, and will not be
        """
        await self._check_ready(dataset)
        return await self._start(dataset, run_id or f"press_{uuid.uuid4().hex}", conf)

    async def press(self, dataset: str, *, conf: dict[str, Any] | None = None) -> Sync:
        """
        Do what a person wants who presses Sync Data: a sync whose export begins after this moment.

        That is a run which waits for its turn, or a new one, which waits behind the one that is running. Presses at the
        same moment, of other backends too, start one run: they see the same newest run and derive the same id from it.
        """
        await self._check_ready(dataset)
        runs = await self._newest(dataset, 20)
        for run in runs:
            if run["state"] in ("queued", "running") and _same_work(run["conf"]) == _same_work(conf):
                sync = await self.sync(dataset, run["dag_run_id"])
                if sync.steps and sync.steps[0].state in (None, "scheduled", "queued"):
                    return sync
        after = f"{runs[0]['dag_run_id'] if runs else ''} {_same_work(conf)}"
        return await self._start(dataset, f"press_after_{hashlib.sha256(after.encode()).hexdigest()[:12]}", conf)

    async def sync(self, dataset: str, run_id: str) -> Sync:
        """Return a sync as it is now."""
        return await self._look(dataset, run_id)

    async def newest(self, dataset: str) -> Sync | None:
        """Return the newest sync of a dataset, whoever started it; None if there has been none."""
        runs = await self._newest(dataset, 1)
        return await self.sync(dataset, runs[0]["dag_run_id"]) if runs else None

    async def follow(self, dataset: str, run_id: str, *, deadline_seconds: float) -> AsyncIterator[Sync]:
        """
        Yield the sync now and each time that something of it changes; the last one is finished.

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
            # Often while much happens; every 5 s while Databricks works for an hour.
            pause = min(0.5 + 0.05 * (time.monotonic() - changed), 5, deadline - time.monotonic())
            await asyncio.sleep(max(pause, 0))

    async def wait(self, dataset: str, run_id: str, *, deadline_seconds: float) -> Sync:
        """Return the sync when it is finished; see :meth:`follow`."""
        async for sync in self.follow(dataset, run_id, deadline_seconds=deadline_seconds):
            last = sync
        return last

    async def cancel(self, dataset: str, run_id: str) -> None:
        """Cancel a sync, on Databricks and Snowflake too; it is ``failed`` some seconds later. A finished one stays."""
        if not (await self.sync(dataset, run_id)).finished:
            await self.ask("PATCH", f"{_runs(dataset)}/{quote(run_id, safe='')}", json={"state": "failed"})

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
        if (await self._ask_of(dataset, "GET", _dag(dataset)))["is_paused"]:
            raise PausedError(f"The dataset {dataset} is paused in Airflow: unpause it there, then press again")

    async def _start(self, dataset: str, run_id: str, conf: dict[str, Any] | None) -> Sync:
        if len(run_id) > 200 or run_id.endswith("\n"):
            # Airflow takes it, and fails without a reason: it cannot make the folder of its logs.
            raise InvalidConfError("A run id has at most 200 characters, and no line end")
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}}
        # 409, the id is known, is as good as 200: another call, or an attempt of this one, was first.
        await self._ask_of(dataset, "POST", _runs(dataset), json=body)
        return await self.sync(dataset, run_id)

    async def _newest(self, dataset: str, limit: int) -> list[dict[str, Any]]:
        params = {"order_by": "-id", "limit": limit}
        runs: list[dict[str, Any]] = (await self._ask_of(dataset, "GET", _runs(dataset), params=params))["dag_runs"]
        return runs

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

        def of_this_time(task: str, left: Any) -> Any:
            # A step that was cleared, and then did not begin or was marked by a person, keeps what an earlier attempt
            # has left: it says whose it is.
            by = left.get("task_instance_id") if isinstance(left, dict) else None
            return left if task in by_name and by == by_name[task]["id"] else None

        databricks_run_url = known.databricks_run_url if known else None
        if databricks_run_url is None and steps and steps[0].state == "success":
            databricks_run_url = await xcom("export_to_s3", "run_page_url")
        state, failure = run["state"], None
        result = of_this_time("publish", await xcom("publish", "return_value")) if state == "success" else None
        if state == "queued" and steps and all(step.state == "skipped" for step in steps[:-1]):
            # Cancelled while it waited for its turn. Airflow says so only when that comes.
            state = "failed"
            failure = Failure(STEPS[0], "CANCELLED", "The sync was cancelled before it began.", retriable=True)
        elif state == "failed":
            step = next((step.name for step in steps if step.state == "failed"), "sync")
            failure = _failure(step, of_this_time(STEPS[-1], await xcom(STEPS[-1], "failure")))
        elif state == "success" and result is None:
            told = "Airflow says success, but nothing was published this time: marked by hand, or cleaned up?"
            failure = _failure("publish", told)
        airflow_url = f"{self._url}/dags/sync_{quote(dataset, safe='')}/runs/{quote(run_id, safe='')}"
        started, ended = _time(run["start_date"]), _time(run["end_date"])
        return Sync(dataset, run_id, state, started, ended, steps, result, failure, airflow_url, databricks_run_url)

    async def _ask_of(self, dataset: str, method: str, path: str, **options: Any) -> Any:
        """Return the answer's JSON; when there is no such dataset, say which there are."""
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
                    # Not the answer's words: Airflow repeats a body that it does not understand.
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
    """What a conf asks for, whoever asks: a press may not be answered with somebody's dry run."""
    asked = {key: value for key, value in (conf or {}).items() if value and key != "requested_by"}
    return json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _failure(step: str, told: Any) -> Failure:
    if isinstance(told, dict):
        known = {field.name: told[field.name] for field in fields(Failure) if field.name in told}
        return Failure(**{"step": step, "code": "UNEXPECTED", "message": "", **known})
    return Failure(step, "UNEXPECTED", told or "failed without a reason; Airflow's log of the step has more")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise SyncError(f"The answer to {answer.request.method} {answer.request.url.path} is not Airflow's") from None
