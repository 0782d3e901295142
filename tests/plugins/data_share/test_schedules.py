"""When a dataset is synced, and by whom: what a file may say, what Airflow makes of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pendulum
import pytest
import yaml
from airflow.sdk import DAG

from data_share.dag_defaults import DEFAULT_ARGS
from data_share.dataset_files import InvalidDatasetError, read_dataset
from data_share.datasets import Dataset

TIDES = {
    "description": "Tides.",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "load_mode": "replace",
    "required_columns": ["harbour"],
}
BERLIN = "Europe/Berlin"


@pytest.fixture(autouse=True)
def as_airflow_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's test mode makes cron expressions data intervals, as Airflow 2 did."""
    monkeypatch.setenv("AIRFLOW__SCHEDULER__CREATE_CRON_DATA_INTERVALS", "False")


@pytest.fixture
def tides(tmp_path: Path) -> Callable[..., Dataset]:
    """Read a dataset file with these fields."""

    def read(**fields: Any) -> Dataset:
        path = tmp_path / "tides.yaml"
        path.write_text(yaml.safe_dump({**TIDES, **fields}))
        return read_dataset(path)

    return read


def first_runs(dag: DAG, after: str, count: int) -> list[str]:
    """Return the times of a DAG's runs, in UTC, as Airflow's scheduler computes them."""
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.timetables.base import TimeRestriction

    timetable = coerce_to_core_timetable(dag.timetable)
    restriction = TimeRestriction(earliest=pendulum.parse(after), latest=None, catchup=True)  # type: ignore[arg-type]
    times, last = [], None
    for _ in range(count):
        info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        assert info is not None
        last = info.data_interval
        times.append(f"{info.run_after:%m-%d %H:%M}")
    return times


IN_BERLIN = {
    "in winter and in summer": ("0 6 * * *", "2026-03-28", ["03-28 05:00", "03-29 04:00", "03-30 04:00"]),
    "a time that is skipped": ("30 2 * * *", "2026-03-28", ["03-28 01:30", "03-29 01:30", "03-30 00:30"]),
    "a time that comes twice": ("30 2 * * *", "2026-10-24", ["10-24 00:30", "10-25 01:30", "10-26 01:30"]),
    "each hour": ("30 * * * *", "2026-10-24T23:50", ["10-25 00:30", "10-25 01:30", "10-25 02:30"]),
    "a preset": ("@daily", "2026-06-01", ["06-01 22:00", "06-02 22:00", "06-03 22:00"]),
}


@pytest.mark.parametrize(("cron", "after", "times"), IN_BERLIN.values(), ids=IN_BERLIN)
def test_a_time_zone_is_that_of_the_clock_there(
    tides: Callable[..., Dataset], sync_datasets: ModuleType, cron: str, after: str, times: list[str]
) -> None:
    dag = sync_datasets.sync_dag(tides(schedule={"cron": cron, "time_zone": BERLIN}))
    assert first_runs(dag, f"{after}Z" if "T" in after else f"{after}T00:00:00Z", len(times)) == times


def test_a_cron_expression_alone_is_in_utc(tides: Callable[..., Dataset], sync_datasets: ModuleType) -> None:
    dag = sync_datasets.sync_dag(tides(schedule="0 6 * * *"))
    assert first_runs(dag, "2026-03-28T00:00:00Z", 2) == ["03-28 06:00", "03-29 06:00"]


def test_the_kind_of_timetable_is_the_same_with_and_without_a_time_zone(
    tides: Callable[..., Dataset], sync_datasets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in ("False", "True"):
        monkeypatch.setenv("AIRFLOW__SCHEDULER__CREATE_CRON_DATA_INTERVALS", setting)
        kinds = {
            type(sync_datasets.sync_dag(tides(schedule=schedule)).timetable)
            for schedule in ("0 6 * * *", {"cron": "0 6 * * *", "time_zone": BERLIN})
        }
        assert len(kinds) == 1, setting


@pytest.mark.parametrize(
    ("asset", "reference"),
    [
        ("tides updated", "AssetNameRef(name='tides updated')"),
        # As Airflow writes it.
        ("s3://bucket/tides/", "AssetUriRef(uri='s3://bucket/tides')"),
        (
            "snowflake://myorg-share/data_share/public/tides",
            "AssetUriRef(uri='snowflake://myorg-share/data_share/public/tides')",
        ),
    ],
)
def test_an_asset_of_another_dag_starts_syncs(
    tides: Callable[..., Dataset], sync_datasets: ModuleType, asset: str, reference: str
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = sync_datasets.sync_dag(tides(schedule={"asset": asset}))
    assert repr(dag.timetable.asset_condition) == reference
    serialized = DagSerialization.to_dict(dag)["dag"]["timetable"]
    assert asset.rstrip("/") in str(serialized)


def test_owner_tags_and_retries_are_those_of_the_file(tides: Callable[..., Dataset], sync_datasets: ModuleType) -> None:
    plain = sync_datasets.sync_dag(tides())
    own = sync_datasets.sync_dag(tides(owner="Marine Data", tags=["sea", "gold:2"], retries=0))
    assert (plain.tags, own.tags) == ({"data-share", "sync"}, {"data-share", "sync", "sea", "gold:2"})
    # For those who see the DAG, and no dataset file.
    assert sync_datasets.sync_dag(tides(max_age_minutes=90)).tags == {"data-share", "sync", "max-age-minutes:90"}
    for dag, owner, retries in ((plain, DEFAULT_ARGS["owner"], 2), (own, "Marine Data", 0)):
        assert {task.owner for task in dag.tasks} == {owner}
        tries = {task.task_id: task.retries for task in dag.tasks}
        # A failed export stays failed, and the end must tidy up: whatever the file says.
        assert (tries.pop("wait_for_export"), tries.pop("finish_sync")) == (0, 5)
        assert set(tries.values()) == {retries}
    # One dataset's do not become another's.
    assert DEFAULT_ARGS["retries"] == 2


SHAPE = "write a cron expression or a preset in quotes, {cron: '0 6 * * *', time_zone: Europe/Berlin}, or"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt zone": (
        {"schedule": {"cron": "0 6 * * *", "time_zone": "Europe/Berln"}},
        "schedule: 'Europe/Berln' is no time zone of the IANA database; did you mean Europe/Berlin?",
    ),
    "another case": ({"schedule": {"cron": "0 6 * * *", "time_zone": "europe/berlin"}}, "did you mean Europe/Berlin?"),
    "an offset": ({"schedule": {"cron": "0 6 * * *", "time_zone": "+02:00"}}, "is no time zone"),
    "a folder of zones": ({"schedule": {"cron": "0 6 * * *", "time_zone": "Europe"}}, "'Europe' is no time zone"),
    "a way up": ({"schedule": {"cron": "0 6 * * *", "time_zone": "../UTC"}}, "'../UTC' is no time zone"),
    "a zone that few machines have": ({"schedule": {"cron": "0 6 * * *", "time_zone": "right/UTC"}}, "is no time zone"),
    "the zone of the machine": ({"schedule": {"cron": "0 6 * * *", "time_zone": "localtime"}}, "is no time zone"),
    "a number for a zone": ({"schedule": {"cron": "0 6 * * *", "time_zone": 2}}, "2 is no time zone"),
    "no cron": ({"schedule": {"cron": "every day", "time_zone": BERLIN}}, "is neither a cron expression nor one of"),
    "a cron that is misread": ({"schedule": {"cron": "*/90 * * * *", "time_zone": BERLIN}}, "has the step 90"),
    "a cron that is no text": ({"schedule": {"cron": 6, "time_zone": BERLIN}}, "cron must be a text in quotes, not 6"),
    "a preset without a time": ({"schedule": {"cron": "@once", "time_zone": BERLIN}}, "@once has no time"),
    "a zone alone": ({"schedule": {"time_zone": BERLIN}}, SHAPE),
    "a cron alone in a mapping": ({"schedule": {"cron": "0 6 * * *"}}, SHAPE),
    "an unknown field": ({"schedule": {"cron": "0 6 * * *", "timezone": BERLIN}}, SHAPE),
    "cron and asset": ({"schedule": {"cron": "0 6 * * *", "asset": "x"}}, SHAPE),
    "a list": ({"schedule": ["0 6 * * *"]}, SHAPE),
    "an asset that is empty": ({"schedule": {"asset": ""}}, "asset must be a name or a URI of 1 to 1500 printable"),
    "an asset with a line feed": ({"schedule": {"asset": "a\nb"}}, "asset must be a name or a URI"),
    "an asset that Airflow refuses": ({"schedule": {"asset": "airflow://x"}}, "Airflow does not accept the asset"),
    "owners": ({"owner": "a, b"}, "owner: String should match pattern"),
    "an empty owner": ({"owner": ""}, "owner: String should match pattern"),
    "a tag that is there": ({"tags": ["sync"]}, "tags: sync: the DAG has this tag already, or it is given twice"),
    "a tag twice": ({"tags": ["a", "a"]}, "tags: a: the DAG has this tag already"),
    "a tag of another field": ({"tags": ["max-age-minutes:5"]}, "the DAG gets this tag from max_age_minutes"),
    "a tag with a comma": ({"tags": ["a,b"]}, "tags.0: String should match pattern"),
    "tags that are a text": ({"tags": "a"}, "tags: Input should be a list"),
    "verified without versions": ({"verify_schedule": "@weekly", "pinned": False}, "verify_schedule: needs versions"),
    "verified under a condition that moves": (
        {"verify_schedule": "@weekly", "source": {"where": "day >= current_date()"}},
        "verify_schedule: not with a source.where that may choose other rows at another time",
    ),
    "an append of all rows verified": (
        {"verify_schedule": "@weekly", "load_mode": "append"},
        "verify_schedule: an append of all rows holds more than the source; only with incremental: true",
    ),
    "retries as text": ({"retries": "3"}, "retries: Input should be a valid integer"),
    "retries without end": ({"retries": 21}, "retries: Input should be less than or equal to 20"),
    "fewer than none": ({"retries": -1}, "retries: Input should be greater than or equal to 0"),
}


@pytest.mark.parametrize(("fields", "words"), WRONG.values(), ids=WRONG)
def test_what_would_not_be_understood_is_refused_with_the_reason(
    tides: Callable[..., Dataset], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidDatasetError) as caught:
        tides(**fields)
    [told] = caught.value.problems
    assert words in told
