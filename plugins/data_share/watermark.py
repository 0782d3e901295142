"""
What Airflow remembers of a dataset's last publish: by it, the next sync knows whether anything is new at the source.

It is stored with an asset of the dataset, in Airflow's asset state store (Airflow 3.3), which belongs to no run: so it
stays when runs are cleared or deleted, and no order of runs has to be found out. It is not stored with the asset of the
source: a dataset that gets another source, and later its first one back, would find what was published from that one,
and its target has what was published since from the other.

A step marks the store before it does something whose end it may not live to report: ``export_to_s3`` before it starts
an export, ``publish`` before its transaction. Only a publish that has ended well removes the mark. With the mark of
``publish``, nobody knows what the target holds, and everything is exported again. With that of ``export_to_s3``, the
target is as it was; but the target's columns are asked for again, as they may be what failed the sync.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowRuntimeError
from pydantic import BaseModel, ConfigDict, ValidationError

from data_share.datasets import Dataset, LoadMode
from data_share.share import Share
from data_share.steps import PUBLISH, Step

_EPOCH = datetime.fromtimestamp(0, UTC)

_log = logging.getLogger(__name__)


class Published(BaseModel):
    """
    The last publish of a dataset.

    :param dataset_digest: digest of the dataset file and of what it was exported with
    :param rows_digest: digest of those fields that decide what the target has of a row
    :param target: URI of the target, in its account
    :param run_key: the sync that has published
    :param published_at: when, in UTC, as the ledger has it
    :param source_version: the version of the source that was published
    :param source_committed_at: when it was committed, in UTC, as the ledger has it
    :param source_has_feed: whether the change data feed was known to be on in this version
    :param table_id: tells a table that was dropped and made again from the one that was published
    :param rows_in_target: number of rows in the target afterwards
    :param columns: names of the target's columns; None if the job was not told them
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_digest: str
    rows_digest: str
    target: str
    run_key: str
    published_at: str
    source_version: int
    source_committed_at: str
    source_has_feed: bool
    table_id: str
    rows_in_target: int
    columns: tuple[str, ...] | None

    def lacked(self, columns: Iterable[str] | None) -> list[str]:
        """
        Return which columns the target did not have after this publish: the rows that were there lack their values.

        :param columns: the target's columns now; None if they are not known
        """
        known = self.columns
        return [] if columns is None or known is None else [name for name in columns if name not in known]


class Watermark(BaseModel):
    """
    The state of a dataset in Airflow's store.

    :param published: the last publish; None if everything has to be exported
    :param begun_step: the step that began last; empty after a sync that ended well
    :param begun_run_key: its sync
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    published: Published | None = None
    begun_step: str = ""
    begun_run_key: str = ""


def source_asset(dataset: Dataset, share: Share) -> Asset:
    """
    Return the source table as an asset, which Airflow's graph of assets shows before the syncs of it.

    Its URI has the form of the provider's; in the place of the workspace's host, which only the connection knows, it
    has the name of the connection.
    """
    parts = "/".join(quote(part, safe="") for part in dataset.source_table.lower().split("."))
    return Asset(f"databricks://{quote(share.databricks_conn_id, safe='')}/{parts}")


def state_asset(dataset: Dataset) -> Asset:
    """Return the asset that keeps the watermark of a dataset: steps that name it as an inlet may read and write it."""
    return Asset(f"data-share://{dataset.name}")


# The fields that decide what the target has of a row of the source.
_FIELDS_OF_ROWS = (
    *("name", "share", "source_table", "source", "target_table", "load_mode", "merge_keys", "delete_missing"),
    *("schema_drift", "create_table", "columns", "casts", "target_defaults"),
)


def digest_of(dataset: Dataset, share: Share, *, of_rows: bool = False) -> str:
    """
    Return a digest of the dataset file and of the names of the secret that hashes are made with.

    ``max_age_minutes`` is not in it.

    :param of_rows: only of the fields that decide what the target has of a row
    """
    fields = set(_FIELDS_OF_ROWS) if of_rows else None
    # How old the data may be decides nothing about a sync: to write it into a file exports nothing again.
    dumped = dataset.model_dump(mode="json", include=fields, exclude={"max_age_minutes"})
    known = [dumped, share.hash_secret_scope, share.hash_secret_key]
    if of_rows and dataset.load_mode is LoadMode.APPEND and not dataset.incremental:
        known.append("each sync adds all rows")  # so the target may have some twice
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def digests_of(dataset: Dataset, share: Share) -> dict[str, str]:
    """Return the digests that a publish is remembered with."""
    return {"dataset_digest": digest_of(dataset, share), "rows_digest": digest_of(dataset, share, of_rows=True)}


def published_of(
    row: Mapping[str, Any], dataset: Dataset, share: Share, *, target: str, columns: Sequence[str] | None
) -> Published | None:
    """
    Return what is to be remembered of a publish; None if the source has no version, or the ledger has no room for it.

    :param row: the ledger row as JSON
    :param target: URI of the target
    :param columns: names of the target's columns
    """
    if row.get("source_version") is None or row.get("source_committed_at") is None:
        return None
    return Published(
        **digests_of(dataset, share),
        target=target,
        run_key=row["run_key"],
        published_at=row["published_at"],
        source_version=row["source_version"],
        source_committed_at=row["source_committed_at"],
        source_has_feed=bool(row.get("source_has_feed")),
        table_id=row["source_table_id"],
        rows_in_target=row["rows_in_target"],
        columns=None if columns is None else tuple(columns),
    )


def full_because(
    watermark: Watermark,
    dataset: Dataset,
    share: Share,
    *,
    target: str,
    is_full_refresh: bool = False,
    is_verification: bool = False,
) -> str | None:
    """
    Return why everything has to be exported, whatever the source says; None if the job may compare versions.

    The same reasons keep a verification from knowing what the target must hold.

    :param target: URI of the target
    :param is_full_refresh: whether somebody asked for it
    :param is_verification: whether only those fields of the dataset file count that decide what the target has of a row
    """
    published = watermark.published
    if not dataset.pinned:
        return "the dataset file says pinned: false"
    if is_full_refresh:
        return "full_refresh was asked for"
    if watermark.begun_step == PUBLISH.id:
        return "it is not certain what the last publish has left"
    if published is None:
        return "no earlier publish is known"
    # To export all rows is no way for an increment that is appended: there, only what rows depend on counts.
    is_same = (
        published.rows_digest == digest_of(dataset, share, of_rows=True)
        if dataset.only_appends_increments or is_verification
        else published.dataset_digest == digest_of(dataset, share)
    )
    if not is_same:
        return "the dataset file has changed since the last publish"
    if published.target != target:
        return "the last publish had another target"
    if dataset.source.may_choose_others_later:
        return "source.where may choose other rows at another time"
    return None


def published_parameter(
    dataset: Dataset,
    published: Published | None,
    because: str | None,
    no_increment_because: str | None = None,
    *,
    is_verification: bool = False,
) -> dict[str, str]:
    """
    Return the parameter of the export job that says what was published last.

    :param published: None if everything has to be exported
    :param because: why, if there is a reason that the job does not know
    :param no_increment_because: why no changes may be exported, but everything, if anything is new
    :param is_verification: whether all rows are exported as they were in the version that was published last
    """
    known: dict[str, Any]
    if published is None:
        known = {} if because is None else {"full_because": because}
        if not dataset.pinned:
            known["pinned"] = "false"
    else:
        committed = datetime.fromisoformat(published.source_committed_at).replace(tzinfo=UTC)
        known = {
            "version": str(published.source_version),
            # In microseconds since 1970, as the job has it.
            "committed_at": str((committed - _EPOCH) // timedelta(microseconds=1)),
            "table_id": published.table_id,
            "has_feed": "true" if published.source_has_feed else "",
        }
        if is_verification:
            known["verify"] = "true"
        elif dataset.increment is not None:
            known["increment"] = dataset.increment
            if no_increment_because is not None:
                known["no_increment_because"] = no_increment_because
    return {"published": json.dumps(known)}


class DatasetState:
    """
    The watermark of a dataset in Airflow's store.

    :param context: context of a step that has :func:`state_asset` as an inlet
    """

    def __init__(self, context: Mapping[str, Any], dataset: Dataset) -> None:
        self._store = context["asset_state_store"][state_asset(dataset)]
        self._key = "data_share.published"

    def read(self) -> Watermark:
        """Return the watermark; an empty one if there is none, or if another version of this package has written it."""
        stored = self._store.get(self._key)
        try:
            return Watermark.model_validate(stored) if stored is not None else Watermark()
        except ValidationError:
            _log.info("What another version of data_share remembered of the last publish is not used")
            return Watermark()

    def begin(self, step: Step, run_key: str) -> Watermark:
        """Mark that a step of a sync has begun; return the watermark as it was."""
        known = self.read()
        # What an unfinished publish has left stays unknown until another publish has ended well.
        if step is PUBLISH or known.begun_step != PUBLISH.id:
            self._write(known.model_copy(update={"begun_step": step.id, "begun_run_key": run_key}))
        return known

    def end(self, step: Step, run_key: str, published: Published | None) -> None:
        """
        Remember a publish, and remove the mark of the step that began it.

        Without this mark, another sync has begun since: this one, of which a step was cleared or was believed dead,
        does not know what the target holds now.
        """
        known = self.read()
        if (known.begun_step, known.begun_run_key) == (step.id, run_key):
            self._write(Watermark(published=published))

    def _write(self, watermark: Watermark) -> None:
        try:
            self._store.set(self._key, watermark.model_dump(mode="json"))
        except AirflowRuntimeError as error:
            if (error.error.detail or {}).get("status_code") != HTTPStatus.NOT_FOUND:
                raise
            # Nothing can be read then either, so each sync exports everything.
            _log.warning("Airflow does not know the asset of the dataset (yet), so it remembers no publish: %s", error)
