"""The names of one sync: stable, distinct, and safe wherever they are put."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError

from data_share import share
from data_share.share import Share
from data_share.sync import InvalidExportPathError
from tests.airflow_double import DagRun
from tests.source_names import no_paths

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = "20260102T030405_0a1b2c3d"
PATH = f"{Share().url}shared_forecasts/{KEY}/1-0a1b2c3d/"


def key(run_id: str = "manual__1", at: datetime = AT, dag_id: str = "sync_shared_forecasts") -> str:
    return share.run_key(dag_id, run_id, at)


def test_a_run_key_is_the_same_for_the_same_run() -> None:
    # A literal: a key that changes with a release would not find its ledger row again.
    assert key() == key() == "20260102T030405_8a1ed80b"
    assert share.run_key_of(DagRun(dag_id="sync_shared_forecasts", run_id="manual__1", run_after=AT)) == key()


def test_run_keys_differ_between_runs_of_the_same_second_and_between_dags() -> None:
    assert len({key("a"), key("b"), key("a", dag_id="sync_other"), key("a\nb"), key("a b")}) == 5


def test_a_run_key_has_only_characters_that_are_safe_everywhere() -> None:
    for run_id in ("manual__2026-01-02T03:04:05+00:00", "o'clock", "a/../b", "ü" * 200, "; DROP TABLE x"):
        assert re.fullmatch(r"[0-9]{8}T[0-9]{6}_[0-9a-f]{8}", key(run_id))


def test_run_keys_sort_by_time() -> None:
    times = [AT + timedelta(seconds=step) for step in (0, 1, 60, 3600, 86400 * 40)]
    keys = [key(at=at) for at in times]
    assert sorted(keys) == keys


def test_a_run_key_says_the_time_in_utc() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=-9)))
    assert key(at=elsewhere) == key()


def test_each_attempt_exports_to_its_own_folder() -> None:
    path = Share().export_path("tides", KEY, 2, "an id")
    assert re.fullmatch(rf"s3://databricks-snowflake-share/dataset/tides/{KEY}/2-[0-9a-f]{{8}}/", path)
    assert share.attempt_of(path) == 2
    assert path == Share().export_path("tides", KEY, 2, "an id")
    # The second run of this name: the first one was deleted.
    assert path != Share().export_path("tides", KEY, 2, "another id")


def test_an_own_export_path_can_be_loaded() -> None:
    path = Share().export_path("tides", key(), 12, "an id")
    assert Share().path_in_stage(path, "tides") == path.removeprefix(Share().url)
    assert share.attempt_of(path) == 12


NO_SHARES = no_paths("s3://some-bucket/dataset/")
# A path that ends in no slash, or in none yet, makes one all the same with the dataset's name behind it.
del NO_SHARES["no slash at the end"], NO_SHARES["the bucket"]


@pytest.mark.parametrize("url", NO_SHARES.values(), ids=list(NO_SHARES))
def test_a_share_that_the_sql_of_the_export_cannot_name_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"url\n  Value error, (write s3://|it must )"):
        Share(url=url)


@pytest.mark.parametrize("url", ["s3://bucket/a/", "s3://my-bucket-2/a/b_c/day=1/v1.0/"])
def test_the_share_may_be_any_folder_of_plain_names(url: str) -> None:
    path = Share(url=url).export_path("tides", KEY, 2, "an id")
    assert Share(url=url).path_in_stage(path, "tides") == path.removeprefix(url)


OUTSIDE = {
    "another dataset": f"{Share().url}other/{KEY}/1-0a1b2c3d/",
    "a way up": f"{Share().url}shared_forecasts/../other/{KEY}/1-0a1b2c3d/",
    "a way up at the end": f"{Share().url}shared_forecasts/{KEY}/1-0a1b2c3d/../2/",
    "a quote": f"{Share().url}shared_forecasts/{KEY}/1-0a1b2c3'/",
    "no id of the attempt": f"{Share().url}shared_forecasts/{KEY}/1/",
    "a neighbour with the same prefix": f"{Share().url}shared_forecasts_old/{KEY}/1-0a1b2c3d/",
    "no slash at the end": PATH.rstrip("/"),
    "another bucket": PATH.replace("databricks-snowflake-share", "somewhere-else"),
    "another scheme": PATH.replace("s3://", "S3://"),
    "a newline at the end": PATH + "\n",
    "a newline inside": PATH.replace("/1-", "/\n1-"),
    "a folder below": PATH + "data/",
    "the whole dataset": f"{Share().url}shared_forecasts/",
    "an empty folder": PATH.replace("dataset/shared", "dataset//shared"),
    "something before": f"x{PATH}",
    "no path": "None",
    "empty": "",
}


def refusal_of(path: str) -> str:
    """Return what is said about a path that is not loaded; nothing when it is."""
    try:
        Share().path_in_stage(path, "shared_forecasts")
    except ValueError as error:
        return str(error)
    return ""


def test_a_path_outside_the_dataset_is_never_loaded() -> None:
    said = {kind: refusal_of(path) for kind, path in OUTSIDE.items()}
    refused = {kind for kind, message in said.items() if "Nothing was loaded" in message}
    assert set(OUTSIDE) - refused == set()
    assert {kind for kind, path in OUTSIDE.items() if repr(path) not in said[kind]} == set()


def test_a_wrong_path_is_not_tried_again() -> None:
    assert issubclass(InvalidExportPathError, AirflowFailException)


ATTEMPT = "1_b16dffff"


def staging_table(target: str, key: str = KEY, attempt: int = 1, attempt_id: object = "attempt 1") -> str:
    return Share().staging_table(target, key, attempt, attempt_id)


def test_staging_tables_live_in_the_staging_schema_whatever_the_schema_of_the_target() -> None:
    for target in ("tides", "public.tides", "share_db.public.tides"):
        table = staging_table(target)
        assert table == f"staging.tides__{KEY}__{ATTEMPT}"
        assert share.staging_manifest(table) == f"{table}__manifest"


def test_each_attempt_to_copy_has_a_staging_table_of_its_own() -> None:
    # The number comes again when a run is deleted and made again; Airflow's id does not.
    attempts = [(1, "a"), (2, "b"), (1, "c")]
    assert len({staging_table("tides", KEY, *attempt) for attempt in attempts}) == 3


def test_a_staging_table_has_a_plain_name() -> None:
    tables = {
        "order": "order",
        'public."Tides 2026"': "Tides_2026",
        '"a.b"."c.d"': "c_d",
        '"2026"': "_2026",
        '"größe"': "gr__e",
        '"TIDES"': "tides",
    }
    assert {target: staging_table(target) for target in tables} == {
        target: f"staging.{table}__{KEY}__{ATTEMPT}" for target, table in tables.items()
    }
    assert [
        name for name in tables.values() if share.staged_by_run_of(f"{name}__{KEY}__{ATTEMPT}".upper()) is None
    ] == []


def test_no_name_that_is_made_of_a_target_is_longer_than_snowflake_allows() -> None:
    target = "t" * 200  # more is refused in a dataset file
    manifest = share.staging_manifest(staging_table(target, KEY, 9999))
    assert max(len(name.partition(".")[2]) for name in (manifest, Share().lock_table(target))) <= 255


def test_a_staging_table_tells_the_time_of_its_run() -> None:
    for target in ("tides", "public.tides_2__now"):
        table = staging_table(target, key())
        for name in (table, share.staging_manifest(table)):
            # As Snowflake lists it: without its schema, in upper case.
            assert share.staged_by_run_of(name.upper().removeprefix("STAGING.")) == AT


def test_a_staging_table_is_known_by_its_run_and_its_target() -> None:
    table = staging_table("public.tides")
    for name in (table, share.staging_manifest(table)):
        listed = name.upper().removeprefix("STAGING.")
        assert Share().is_staging_of_run(name, "tides", KEY)
        assert Share().is_staging_of_run(listed, "tides", KEY)
        for other in (
            listed.replace("_", "X"),
            f"OTHER_{listed}",
            f"{listed}__MORE",
            listed.replace(KEY.upper(), "20260102T030405_FFFFFFFF"),
        ):
            assert not Share().is_staging_of_run(other, "tides", KEY), other


def test_every_spelling_of_a_target_has_one_lock_table() -> None:
    spellings = ("sales", "Sales", '"SALES"', "public.sales", "DATA_SHARE.PUBLIC.SALES", '"other"."PUBLIC".sales')
    assert {Share().lock_table(spelling) for spelling in spellings} == {"staging.publish_lock__sales__f6075f13"}


def test_other_targets_have_other_lock_tables_with_plain_names() -> None:
    targets = ["sales", '"sales"', '"Sales"', "sales_2", '"sales 2"', '"sales.2"', '"public.sales"', '"2"', '"größe"']
    names = [Share().lock_table(target) for target in targets]
    # Without quotes, Snowflake does not tell them by case.
    assert len({name.upper() for name in names}) == len(targets)
    assert [name for name in names if not re.fullmatch(r"staging\.[a-zA-Z_][a-zA-Z0-9_]*", name)] == []


def test_no_lock_table_is_taken_for_a_staging_table() -> None:
    for target in (
        "tides",
        f'"{KEY}"',
        f"x__{KEY}",
        f"tides__{KEY}__{ATTEMPT}",
        f"tides__{KEY}__manifest",
        f"x__{KEY[:15]}",
    ):
        listed = Share().lock_table(target).upper().removeprefix("STAGING.")
        assert share.staged_by_run_of(listed) is None, listed
        assert not Share().is_staging_of_run(listed, target, KEY)


def test_a_table_that_no_run_named_has_no_time() -> None:
    tables = (
        "TIDES",
        "TIDES__20260102",
        "__20260102T030405_0A1B2C3D",
        "TIDES_20260102T030405_0A1B2C3D",
        "TIDES__20260102T030405_0A1B2C3",
        "TIDES__20260102T030405_0A1B2C3G",
        "TIDES__20260102T030405_0A1B2C3D__BACKUP",
        "TIDES__20260102T030405_0A1B2C3D__1_0A1B2C3",
        "TIDES__20260102T030405_0A1B2C3D_1_0A1B2C3D",
        "TIDES__20260102T030405_0A1B2C3D\n",
        "tides__20260102t030405_0a1b2c3d",
        'TI"DES__20260102T030405_0A1B2C3D',
        "",
    )
    assert [table for table in tables if share.staged_by_run_of(table) is not None] == []
