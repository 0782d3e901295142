"""How old the data in a target are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from data_share.freshness import age_of
from tests.plugins.data_share.conftest import tides

AS_OF = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
NOW = datetime(2026, 1, 2, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(("max_age", "is_stale"), [(None, False), (59.9, True), (60, False), (61, False)])
def test_data_are_stale_when_they_are_older_than_the_dataset_file_allows(max_age: float | None, is_stale: bool) -> None:
    age = age_of(tides(max_age_minutes=max_age), {"data_as_of": "2026-01-02T03:00:00"}, now=NOW)
    assert age is not None
    assert (age.as_of, age.seconds, age.is_stale) == (AS_OF, 3600, is_stale)


@pytest.mark.parametrize(
    "answer",
    [
        {"data_as_of": "2026-01-02T03:00:00", "started_at": "2026-01-02T02:00:00"},
        # Of an earlier version, and of the ledger.
        {"started_at": "2026-01-02T03:00:00", "published_at": "2026-01-02T03:30:00"},
        {"started_at": datetime(2026, 1, 2, 3)},
        {"data_as_of": "2026-01-02T04:00:00+01:00"},
    ],
)
def test_the_age_is_that_of_the_look_at_the_source(answer: dict[str, Any]) -> None:
    age = age_of(tides(), answer, now=NOW)
    assert age is not None
    assert age.as_of == AS_OF


@pytest.mark.parametrize("answer", [None, {}, {"dry_run": True}, {"verified": True, "published_at": "2026-01-02"}])
def test_without_a_look_at_the_source_no_age_is_known(answer: dict[str, Any] | None) -> None:
    assert age_of(tides(max_age_minutes=1), answer) is None


def test_clocks_that_differ_make_no_age_negative() -> None:
    age = age_of(tides(), {"data_as_of": "2026-01-02T04:00:01"}, now=NOW)
    assert age is not None
    assert age.seconds == 0
