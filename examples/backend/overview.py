"""What the page shows of a dataset beside the syncs that are under way: its age, its usual duration, its last syncs."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from examples.backend.airflow_client import AirflowClient, Sync

HISTORY = 10
"""Number of syncs in a dataset's list."""

ACTIVE = ("queued", "running")

_LOOK_BACK = 20  # runs that are read to find the last ones that published
_KEPT_SYNCS = 500
# In the answers of Airflow's list of DAGs, a tag tells how old the data may be.
_MAX_AGE_TAG = "max-age-minutes:"
_ACTIVE_SECONDS = 2.0


@dataclass(frozen=True)
class Overview:
    """
    A dataset, as the page shows it.

    ``newest`` is its newest sync, and ``last`` the one that the data in the target are of: the newest that published,
    or found nothing new. ``usual_seconds`` is the median of the last syncs that published.
    """

    dataset: str
    description: str
    is_paused: bool
    next_run: datetime | None
    max_age: timedelta | None
    newest: Sync | None
    last: Sync | None
    usual_seconds: float | None

    @property
    def as_of(self) -> datetime | None:
        """The target holds what the source held at this moment, or newer."""
        result = (self.last and self.last.result) or {}
        # The ledger of an earlier version has only the start of the sync. Its times are in UTC, without saying so.
        told = result.get("data_as_of") or result.get("started_at")
        return datetime.fromisoformat(told).replace(tzinfo=UTC) if told else None

    @property
    def rows(self) -> int | None:
        """Number of rows in the target after that sync."""
        return ((self.last and self.last.result) or {}).get("rows_in_target")

    @property
    def is_stale(self) -> bool:
        """Whether the data are older than the dataset file allows."""
        return bool(self.as_of and self.max_age and datetime.now(UTC) - self.as_of > self.max_age)


class Overviews:
    """
    Reads what the page shows of datasets; keeps in memory what cannot change any more: syncs that have ended.

    :param client: Airflow's REST API
    """

    def __init__(self, client: AirflowClient) -> None:
        self._client = client
        self._ended: dict[tuple[Any, ...], Sync] = {}
        self._active: list[tuple[str, str]] = []
        self._active_since = -_ACTIVE_SECONDS
        self._asking = asyncio.Lock()

    async def of(self, dataset: str, dag: Mapping[str, Any]) -> Overview:
        """
        Return the overview of a dataset.

        :param dag: what Airflow says of its DAG
        """
        runs = await self._client.runs(dataset, _LOOK_BACK)
        tags = [tag["name"] for tag in dag.get("tags", [])]
        limits = [float(tag.removeprefix(_MAX_AGE_TAG)) for tag in tags if tag.startswith(_MAX_AGE_TAG)]
        next_run = dag.get("next_dagrun_run_after")
        took = [_seconds(run) for run in runs if _has_published(run)][:HISTORY]
        return Overview(
            dataset=dataset,
            description=dag.get("description") or "",
            is_paused=bool(dag.get("is_paused")),
            next_run=datetime.fromisoformat(next_run) if next_run else None,
            max_age=timedelta(minutes=limits[0]) if limits else None,
            newest=await self._sync(dataset, runs[0]) if runs else None,
            last=await self._last(dataset, runs),
            usual_seconds=statistics.median(took) if took else None,
        )

    async def again(self, dataset: str) -> Overview:
        """Return the overview of a dataset whose DAG may have changed too."""
        return await self.of(dataset, await self._client.dag(dataset))

    async def history(self, dataset: str) -> list[Sync]:
        """Return the last syncs of a dataset, newest first."""
        runs = await self._client.runs(dataset, HISTORY)
        return await asyncio.gather(*(self._sync(dataset, run) for run in runs))

    async def active(self) -> list[tuple[str, str]]:
        """Return dataset and run id of all syncs that are queued or running: read once for all pages that are open."""
        async with self._asking:
            if time.monotonic() - self._active_since > _ACTIVE_SECONDS:
                params = {"dag_id_prefix_pattern": "sync_", "state": ACTIVE, "order_by": "-id", "limit": 100}
                runs = (await self._client.ask("GET", "/api/v2/dags/~/dagRuns", params=params))["dag_runs"]
                self._active = [(run["dag_id"].removeprefix("sync_"), run["dag_run_id"]) for run in runs]
                self._active_since = time.monotonic()
            return self._active

    async def _last(self, dataset: str, runs: list[dict[str, Any]]) -> Sync | None:
        for run in runs:
            if run["state"] == "success" and not _publishes_nothing(run):
                sync = await self._sync(dataset, run)
                # A run that a person has set to success has no result.
                if sync.complete:
                    return sync
        if len(runs) < _LOOK_BACK or all(run["state"] == "success" for run in runs):
            return None
        # Behind many failures, there may be an older one.
        return await self._last(dataset, await self._client.runs(dataset, _LOOK_BACK, state="success"))

    async def _sync(self, dataset: str, run: Mapping[str, Any]) -> Sync:
        # A run that is cleared ends again, at another time.
        key = (dataset, run["dag_run_id"], run["state"], run["end_date"])
        sync = self._ended.get(key) or await self._client.sync(dataset, run["dag_run_id"])
        if sync.finished and run["end_date"]:
            self._ended[key] = sync
            while len(self._ended) > _KEPT_SYNCS:
                del self._ended[next(iter(self._ended))]
        return sync


def _publishes_nothing(run: Mapping[str, Any]) -> bool:
    conf = run.get("conf") or {}
    return bool(conf.get("dry_run") or conf.get("verify"))


def _has_published(run: Mapping[str, Any]) -> bool:
    # The note says in words that nothing was new; such a sync is short.
    is_short = "nothing new at the source" in (run.get("note") or "")
    is_whole = run["state"] == "success" and run["start_date"] and run["end_date"]
    return bool(is_whole) and not _publishes_nothing(run) and not is_short


def _seconds(run: Mapping[str, Any]) -> float:
    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()
