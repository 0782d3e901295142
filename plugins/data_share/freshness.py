"""How old the data in a target are, and whether they are older than their dataset file allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data_share.datasets import Dataset


@dataclass(frozen=True)
class Age:
    """
    How old the data in a target are.

    :param as_of: the target holds what the source held at this moment, or newer; with a time zone
    :param seconds: the time since then
    :param is_stale: whether that is longer than ``max_age_minutes``; False if the dataset file does not say it
    """

    as_of: datetime
    seconds: float
    is_stale: bool


def age_of(dataset: Dataset, answer: Mapping[str, Any] | None, *, now: datetime | None = None) -> Age | None:
    """
    Return how old the data in a target are, by the answer of the last sync that ended well.

    A sync that finds nothing new makes the data young again: the target holds what the source holds. So a source that
    changes once a week is not stale on the other days, as long as syncs look at it.

    :param dataset: the dataset, which says how old its data may be
    :param answer: what ``publish`` returned, or a row of the ledger with its column names in lower case
    :param now: default: now
    :return: None if the answer says nothing of the age: there is none, or it is of a dry run or of a verification
    """
    # Without data_as_of, the answer is of an earlier version, or of the ledger.
    told = answer and (answer.get("data_as_of") or answer.get("started_at"))
    if not told:
        return None
    as_of = datetime.fromisoformat(str(told))
    # The ledger's times are in UTC, without saying so.
    as_of = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    seconds = max(0.0, ((now or datetime.now(UTC)) - as_of).total_seconds())
    max_minutes = dataset.max_age_minutes
    return Age(as_of, seconds, max_minutes is not None and seconds > 60 * max_minutes)


def in_ledger(moment: datetime) -> str:
    """Return a moment as the ledger has it: in UTC, without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
