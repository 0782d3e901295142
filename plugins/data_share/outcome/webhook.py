"""
A notifier that posts signed JSON to a web address when a sync ends or misses its deadline.

The requests follow `Standard Webhooks <https://www.standardwebhooks.com>`_, so that receivers can verify them with a
library of their language, or with the few lines in ``docs/alerts.md``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from airflow.sdk import (  # type: ignore[attr-defined]  # its stub lacks the names of deadlines
    AsyncCallback,
    BaseHook,
    BaseNotifier,
    Context,
    DeadlineAlert,
    DeadlineReference,
)
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.execution_time.xcom import XCom
from asgiref.sync import sync_to_async

from data_share.attempts import made_since_clear
from data_share.datasets import Dataset
from data_share.outcome.diagnose import failure_without_report
from data_share.outcome.report import FAILURE_KEY
from data_share.share import Share, run_key
from data_share.steps import FINISH_SYNC, PUBLISH

SYNC_SUCCEEDED = "sync_succeeded"
SYNC_FAILED = "sync_failed"
SYNC_DEADLINE_MISSED = "sync_deadline_missed"

_SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret, but the prefix of all secrets
_MIN_SECRET_BYTES = 24  # the minimum of the standard

_TOTAL_SECONDS = 30.0
_ATTEMPT_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 0.5
_BACKOFF = 2.0

_WORTH_ANOTHER_ATTEMPT = frozenset({408, 425, 429, 500, 502, 503, 504})

# Threads of their own: the triggerer looks up host names in its default threads, so a receiver that hangs would hold up
# the triggers of all exports.
_SENDERS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="data-share-webhook")

log = logging.getLogger(__name__)


class AlertNotSentError(RuntimeError):
    """The receiver did not accept an event. The message contains no secret, and only the host of the address."""


@dataclass(frozen=True)
class Webhook:
    """
    The receiver of events, and the secrets that sign them.

    :param url: address; it is not logged, as it may be a secret too
    :param secrets: keys; each event is signed with all of them, so that secrets can be rotated
    """

    url: str
    secrets: tuple[bytes, ...]

    @classmethod
    def from_connection(cls, connection: Any) -> Webhook:
        """
        Return the webhook that an Airflow connection describes.

        :param connection: the address in ``host``, one or more secrets in ``password``, with blanks between them
        :raises AlertNotSentError: for a connection without a valid address or secret
        """
        where = f"the connection {connection.conn_id}"
        url = connection.host or ""
        if urlsplit(url).scheme not in ("http", "https"):
            raise AlertNotSentError(f"The host of {where} must be a whole address: https://backend.example.com/hooks")
        secrets: list[bytes] = []
        for secret in (connection.password or "").split():
            try:
                key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
            except binascii.Error:
                key = b""
            if not secret.startswith(_SECRET_PREFIX) or len(key) < _MIN_SECRET_BYTES:
                secrets = []
                break
            secrets.append(key)
        if not secrets:
            raise AlertNotSentError(
                f"The password of {where} must be {_SECRET_PREFIX} and {_MIN_SECRET_BYTES} or more bytes in base64"
            )
        return cls(url, tuple(secrets))

    def headers(self, event_id: str, body: bytes, now: float) -> dict[str, str]:
        """Return the headers of one attempt; its time is signed, so that receivers can refuse old requests."""
        timestamp = str(int(now))
        signed = b".".join([event_id.encode(), timestamp.encode(), body])
        signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in self.secrets)
        return {
            "Content-Type": "application/json",
            "User-Agent": "data-share",
            "webhook-id": event_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }

    def deliver(self, event_id: str, event: Mapping[str, Any], total_seconds: float) -> int:
        """
        Post an event until the receiver accepts it.

        :param event_id: the same in each attempt
        :param event: the body
        :param total_seconds: max. time of all attempts and the waits between them
        :return: number of attempts
        :raises AlertNotSentError: the receiver refuses the event, or does not accept it in time
        """
        body = json.dumps(event, default=str).encode()
        deadline = time.monotonic() + total_seconds
        wait = _FIRST_WAIT_SECONDS
        attempt = 0
        while True:
            attempt += 1
            answer = self._post(event_id, body, min(_ATTEMPT_SECONDS, deadline - time.monotonic()))
            if isinstance(answer, int) and 200 <= answer < 300:
                return attempt
            pause = wait * random.uniform(0.5, 1)  # noqa: S311 - spreads the attempts; needs no secure randomness
            final = isinstance(answer, int) and answer not in _WORTH_ANOTHER_ATTEMPT
            if final or time.monotonic() + pause >= deadline:
                reason = f"HTTP {answer}" if isinstance(answer, int) else answer
                raise AlertNotSentError(
                    f"The receiver at {urlsplit(self.url).hostname} did not accept {event['event']} of "
                    f"{event['dag_run_id']} in {attempt} attempt(s): {reason}"
                )
            time.sleep(pause)
            wait *= _BACKOFF

    def _post(self, event_id: str, body: bytes, seconds: float) -> int | str:
        """Return the HTTP status or, if there is none, the reason; always within the given seconds."""
        answers: queue.Queue[int | str] = queue.Queue()

        def post() -> None:
            try:
                with requests.post(
                    self.url,
                    data=body,
                    headers=self.headers(event_id, body, time.time()),
                    timeout=seconds,
                    # A redirect would send the event to an address that nobody configured.
                    allow_redirects=False,
                    # Only the status matters, and the body may be endless.
                    stream=True,
                ) as response:
                    answers.put(response.status_code)
            except Exception as error:
                # Not the error's text: it contains the address.
                answers.put(type(error).__name__)

        # A thread, because the timeout of requests limits each socket operation, not the whole call, and not the DNS
        # lookup. A thread that hangs is abandoned.
        threading.Thread(target=post, name="data-share-webhook", daemon=True).start()
        try:
            return answers.get(timeout=seconds)
        except queue.Empty:
            return "no answer in time"


class WebhookNotifier(BaseNotifier):
    """
    Posts the end of a sync, or a missed deadline, to the address in an Airflow connection, if the connection exists.

    It runs in the triggerer: :mod:`data_share.outcome.events` queues it there for each end, a deadline alert for a
    missed deadline.

    :param conn_id: connection with the address in ``host`` and the secret in ``password``; a template.
        Default: that of the deployment
    """

    template_fields = ("conn_id",)

    def __init__(self, conn_id: str | None = None, context: Context | None = None) -> None:
        super().__init__(context=context)
        self.conn_id = conn_id or Share().webhook_conn_id

    async def async_notify(self, context: Context) -> None:
        """Send the event."""
        await sync_to_async(self._send, thread_sensitive=False, executor=_SENDERS)(context)

    def _send(self, context: Mapping[str, Any]) -> None:
        try:
            connection = BaseHook.get_connection(self.conn_id)
        except AirflowNotFoundException:
            self.log.debug("No event is sent: there is no connection %s", self.conn_id)
            return
        event = event_of(context)
        if event is None:
            return
        attempts = Webhook.from_connection(connection).deliver(event["event_id"], event, _TOTAL_SECONDS)
        self.log.info("%s %s was sent in %s attempt(s)", event["event"], event["event_id"], attempts)


def deadline_alerts(dataset: Dataset, callbacks: Sequence[AsyncCallback]) -> list[DeadlineAlert]:
    """Return the alerts for the dataset's deadline, which includes the time in the queue; none without a deadline."""
    if dataset.sync_deadline_minutes is None:
        return []
    interval = timedelta(minutes=dataset.sync_deadline_minutes)
    return [DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, callback) for callback in callbacks]


def event_of(context: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    Return the event for a callback, or None when no event is to be sent.

    :param context: the run as JSON in ``dag_run``, with the ``reason`` of its end or, as Airflow's deadline alerts give
        it, the missed ``deadline``
    """
    missed = context.get("deadline")
    run = _Run.from_json(context["dag_run"])
    if missed:
        if run.state == "failed" and run.end and run.end <= _time(missed["deadline_time"]):
            # The run failed before its deadline, and sync_failed was sent. Airflow (3.3) drops the deadline of a run
            # only when it succeeds.
            return None
        kind = SYNC_DEADLINE_MISSED
    else:
        kind = SYNC_SUCCEEDED if run.state == "success" else SYNC_FAILED
    url = _run_url(run)
    once = missed["id"] if missed else run.clear_number
    return {
        "event": kind,
        "event_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{url}#{kind}/{once}")),
        "dataset": run.dag_id.removeprefix("sync_"),
        "dag_id": run.dag_id,
        "dag_run_id": run.run_id,
        "run_key": run_key(run.dag_id, run.run_id, run.after),
        "state": run.state,
        "requested_by": run.requested_by,
        "result": _xcom_since_clear(run, PUBLISH.id, XCom.XCOM_RETURN_KEY) if kind == SYNC_SUCCEEDED else None,
        "failure": _failure(run, str(context.get("reason"))) if kind == SYNC_FAILED else None,
        "deadline": _time(missed["deadline_time"]).isoformat() if missed else None,
        "airflow_run_url": url,
        "sent_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class _Run:
    """A DAG run, with those facts that events contain."""

    dag_id: str
    run_id: str
    state: str
    after: datetime
    end: datetime | None
    clear_number: int
    requested_by: str | None

    @classmethod
    def from_json(cls, run: Mapping[str, Any]) -> _Run:
        """Return a run that :mod:`data_share.outcome.events` or, for deadline alerts, the REST API describes."""
        return cls(
            dag_id=run["dag_id"],
            run_id=run.get("dag_run_id") or run["run_id"],
            state=run["state"],
            after=_time(run["run_after"]),
            end=_time(run["end_date"]) if run.get("end_date") else None,
            # Airflow's deadline alerts do not have it.
            clear_number=run.get("clear_number") or 0,
            requested_by=(run.get("conf") or {}).get("requested_by") or run.get("triggering_user_name"),
        )


def _failure(run: _Run, reason: str) -> dict[str, Any]:
    report: dict[str, Any] | None = _xcom_since_clear(run, FINISH_SYNC.id, FAILURE_KEY)
    return report or failure_without_report(reason).to_xcom()


def _xcom_since_clear(run: _Run, task_id: str, key: str) -> Any:
    """Return a step's XCom, or None if it is older than the last clear: a step that did not begin keeps the old one."""
    try:
        value = XCom.get_one(dag_id=run.dag_id, run_id=run.run_id, task_id=task_id, key=key, map_index=-1)
    except Exception:
        # Send the event without these details rather than not at all.
        log.exception("XCom %s of %s cannot be read", key, task_id)
        return None
    return value if made_since_clear(value, run) else None


def _run_url(run: _Run) -> str:
    base = conf.get("api", "base_url", fallback="http://localhost:8080").rstrip("/")
    return f"{base}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}"


def _time(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
