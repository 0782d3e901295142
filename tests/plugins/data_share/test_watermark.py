"""What Airflow remembers of the last publish, and when it is not to be relied on."""

from __future__ import annotations

import itertools
import json
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from data_share.datasets import Dataset
from data_share.share import Share
from data_share.steps import EXPORT_TO_S3, PUBLISH
from data_share.watermark import (
    DatasetState,
    Published,
    Watermark,
    digest_of,
    full_because,
    published_of,
    published_parameter,
    source_asset,
)
from tests.airflow_double import AssetState, DagRun
from tests.plugins.data_share.conftest import tides

TARGET = "snowflake://account/db/public/tides"
ROW = {
    "run_key": "20260102T030405_0a1b2c3d",
    "published_at": "2026-01-02T03:05:00",
    "source_version": 812,
    "source_committed_at": "2026-01-02T02:41:00.123456",
    "source_table_id": "made once",
    "rows_in_target": 40,
}


def published(dataset: Dataset | None = None, **changes: Any) -> Published:
    found = published_of({**ROW, **changes}, dataset or tides(), Share(), target=TARGET, columns=["HARBOUR"])
    assert found is not None
    return found


def state(run: DagRun, dataset: Dataset | None = None) -> DatasetState:
    return DatasetState(run.context(), dataset or tides())


def because(watermark: Watermark, dataset: Dataset | None = None, **changes: Any) -> str | None:
    asked = {"target": TARGET, "is_full_refresh": False, **changes}
    return full_because(watermark, dataset or tides(), Share(), **asked)


def test_the_source_is_an_asset_with_the_form_of_the_provider() -> None:
    plain = source_asset(tides(source_table="Main.sea.Tides"), Share())
    assert plain == Asset("databricks://databricks_default/main/sea/tides")
    strange = source_asset(tides(source_table="main.`sea-side`.`größe`"), Share(databricks_conn_id="emea.prod"))
    assert strange.uri == "databricks://emea.prod/main/%60sea-side%60/%60gr%C3%B6%C3%9Fe%60"


def test_a_publish_is_remembered_to_the_microsecond() -> None:
    run = DagRun()
    state(run).begin(PUBLISH, "a")
    state(run).end(PUBLISH, "a", published())
    known = state(run).read()
    assert known == Watermark(published=published())
    assert published_parameter(tides(), known.published, None) == {
        "published": json.dumps(
            {"version": "812", "committed_at": "1767321660123456", "table_id": "made once", "has_feed": ""}
        )
    }


def incremental(**fields: Any) -> Dataset:
    return tides(**{"load_mode": "merge", "merge_keys": ["harbour"], "incremental": True, **fields})


def test_the_job_is_told_how_changes_are_loaded_and_why_not_this_time() -> None:
    dataset = incremental(delete_missing=True)
    last = published(dataset, source_has_feed=True)
    told = json.loads(published_parameter(dataset, last, None)["published"])
    assert told["has_feed"] == "true"
    assert told["increment"] == {"load": "merge", "keys": ["HARBOUR"], "deletes": "true"}
    told = json.loads(published_parameter(incremental(), last, None, "the last sync has failed")["published"])
    assert told["increment"]["deletes"] == "false"
    assert told["no_increment_because"] == "the last sync has failed"
    # Others export everything anyway.
    assert (
        "no_increment_because" not in published_parameter(tides(), last, None, "the last sync has failed")["published"]
    )
    append = tides(load_mode="append", incremental=True)
    assert json.loads(published_parameter(append, last, None)["published"])["increment"] == {"load": "append"}
    # Without a version to start from, there are no changes.
    assert json.loads(published_parameter(dataset, None, "why")["published"]) == {"full_because": "why"}


@pytest.mark.parametrize(
    ("fields", "of_merge", "of_append"),
    [
        ({"description": "Others.", "checks": {"deep": "depth > 1"}, "retries": 1}, True, False),
        ({"source": {"exclude": ["note"]}}, True, True),
        ({"source_table": "main.sea.others"}, True, True),
        ({"schema_drift": "add_new"}, True, True),
    ],
)
def test_an_append_of_changes_goes_on_unless_the_rows_would_be_others(
    fields: dict[str, Any], of_merge: bool, of_append: bool
) -> None:
    changed = "the dataset file has changed since the last publish"
    before, after = incremental(), incremental(**fields)
    assert because(Watermark(published=published(before)), after) == (changed if of_merge else None)
    append = {"load_mode": "append", "merge_keys": []}
    before, after = incremental(**append), incremental(**append, **fields)
    assert because(Watermark(published=published(before)), after) == (changed if of_append else None)


def test_a_verification_asks_for_the_version_itself() -> None:
    incremental = tides(load_mode="merge", merge_keys=("harbour",), incremental=True)
    told = published_parameter(incremental, published(), None, is_verification=True)
    known = json.loads(told["published"])
    assert (known["version"], known["verify"]) == ("812", "true")
    assert "increment" not in known


def test_a_verification_asks_only_for_what_decides_on_the_rows() -> None:
    known = Watermark(published=published())
    for changes, is_known in (({"checks": {"a": "b > 0"}}, True), ({"schema_drift": "ignore_new"}, False)):
        assert (because(known, tides(**changes), is_verification=True) is None) == is_known


def test_datasets_remember_their_own() -> None:
    run = DagRun()
    state(run).begin(PUBLISH, "a")
    assert state(run, tides(name="another")).read() == Watermark()


@pytest.mark.parametrize("stored", [{"published": 1}, {"more": 1}, "text", {"published": {"run_key": "a"}}])
def test_what_another_version_has_stored_is_nothing(stored: Any) -> None:
    run = DagRun()
    state(run).begin(PUBLISH, "a")
    [values] = run.asset_states.values()
    values[next(iter(values))] = stored
    assert state(run).read() == Watermark()


def refused(status: int) -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status}))


def test_an_asset_that_airflow_does_not_know_stops_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    run = DagRun()
    monkeypatch.setattr(AssetState, "set", mock.Mock(side_effect=refused(404)))
    assert state(run).begin(PUBLISH, "a") == Watermark()
    state(run).end(PUBLISH, "a", published())
    assert state(run).read() == Watermark()


def test_a_mark_that_cannot_be_set_lets_the_step_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the mark, the sync after a transaction without an end would rely on the publish before it.
    monkeypatch.setattr(AssetState, "set", mock.Mock(side_effect=refused(503)))
    with pytest.raises(AirflowRuntimeError):
        state(DagRun()).begin(PUBLISH, "a")


STEPS = (EXPORT_TO_S3, PUBLISH)


@pytest.mark.parametrize("orders", [*itertools.product(itertools.product(STEPS, "ab"), repeat=2)])
@pytest.mark.parametrize("ends", [*itertools.product(STEPS, "ab")])
def test_only_what_began_last_may_end(orders: Any, ends: Any) -> None:
    """All pairs of beginnings, and all ends after them: an end is heard if the mark is its own."""
    run = DagRun()
    state(run).begin(PUBLISH, "before")
    state(run).end(PUBLISH, "before", published())
    mark = ("", "")
    for step, key in orders:
        was = state(run).begin(step, key)
        assert (was.begun_step, was.begun_run_key) == mark
        if step is PUBLISH or mark[0] != PUBLISH.id:
            mark = (step.id, key)
    later = published(source_version=813)
    step, key = ends
    state(run).end(step, key, later)
    if (step.id, key) == mark:
        assert state(run).read() == Watermark(published=later)
    else:
        assert state(run).read() == Watermark(published=published(), begun_step=mark[0], begun_run_key=mark[1])


def test_without_doubt_the_job_may_compare_versions() -> None:
    assert because(Watermark(published=published())) is None
    # The target was not touched by an export that did not get that far.
    assert because(Watermark(published=published(), begun_step=EXPORT_TO_S3.id, begun_run_key="a")) is None


@pytest.mark.parametrize(
    ("watermark", "dataset", "changes", "told"),
    [
        (Watermark(), {}, {}, "no earlier publish is known"),
        (Watermark(published=published(), begun_step=PUBLISH.id), {}, {}, "not certain what the last publish has left"),
        (Watermark(published=published()), {}, {"is_full_refresh": True}, "full_refresh was asked for"),
        (Watermark(published=published()), {}, {"target": f"{TARGET}_2"}, "had another target"),
        (Watermark(published=published()), {"checks": {"deep": "depth > 0"}}, {}, "the dataset file has changed"),
        (Watermark(published=published()), {"source": {"exclude": ["depth"]}}, {}, "the dataset file has changed"),
        (Watermark(published=published()), {"pinned": False}, {}, "pinned: false"),
    ],
)
def test_a_doubt_exports_everything_and_is_told(
    watermark: Watermark, dataset: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    found = because(watermark, tides(**dataset), **changes)
    assert found is not None
    assert told in found
    parameter = json.loads(published_parameter(tides(**dataset), None, found)["published"])
    assert parameter.pop("full_because") == found
    assert parameter == ({"pinned": "false"} if dataset == {"pinned": False} else {})


def test_a_new_limit_of_the_age_exports_nothing_again() -> None:
    assert digest_of(tides(max_age_minutes=60), Share()) == digest_of(tides(), Share())


def test_names_of_the_secret_count_too() -> None:
    # Other hashes leave Databricks, although the source and the dataset file are the same.
    assert digest_of(tides(), Share()) != digest_of(tides(), Share(hash_secret_key="another"))


@pytest.mark.parametrize("lacking", ["source_version", "source_committed_at"])
def test_without_a_version_nothing_is_remembered(lacking: str) -> None:
    for row in ({**ROW, lacking: None}, {name: value for name, value in ROW.items() if name != lacking}):
        assert published_of(row, tides(), Share(), target=TARGET, columns=None) is None


FIXED = [
    "depth > 0",
    "status = 'paid' AND NOT is_test",
    "UPPER(TRIM(name)) IN ('A', 'B') OR depth BETWEEN 1 AND 2",
    "name LIKE 'user%' AND (depth + 1) * (depth - 1) > 3",
    "name <> 'select now()'",
    "name IS DISTINCT FROM 'x'",
    "CAST(day AS DATE) >= DATE '2026-01-01'",
    "`current_date` = 1",
    "CASE WHEN (depth) > 1 THEN TRUE ELSE FALSE END",
    "COALESCE(name, 'on that day') = 'x'",
]
MOVING = [
    "day >= CURRENT_DATE",
    "day >= current_date()",
    "day >= CURRENT_DATE - INTERVAL 30 DAYS",
    "at > now()",
    "at > NOW ()",
    "at > localtimestamp",
    "RAND() < 0.1",
    "id IN (SELECT id FROM main.a.b)",
    "EXISTS (TABLE main.a.b)",
    "day >= DATE 'today'",
    "day >= 'yesterday'",
    "at < TIMESTAMP 'now'",
    'at < " tomorrow UTC"',
    "owner = current_user()",
    "owner = session_user",
    "is_account_group_member('a')",
    "main.a.is_new(id)",
    "`main`.`a`.`is_new`(id)",
    "_metadata.file_modification_time > '2026-01-01'",
    "unheard_of(id) = 1",
    "uuid() > 'a'",
]


@pytest.mark.parametrize("where", FIXED)
def test_a_condition_on_the_rows_alone_chooses_the_same_rows_again(where: str) -> None:
    dataset = tides(source={"where": where})
    assert not dataset.source.may_choose_others_later
    assert because(Watermark(published=published(dataset)), dataset) is None


@pytest.mark.parametrize("where", MOVING)
def test_a_condition_that_may_choose_other_rows_exports_everything(where: str) -> None:
    dataset = tides(source={"where": where})
    told = because(Watermark(published=published(dataset)), dataset)
    assert told == "source.where may choose other rows at another time"
