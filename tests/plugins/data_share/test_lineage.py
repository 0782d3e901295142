"""What a sync tells OpenLineage: which table, files and columns have become which, and what steps say nothing of."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from openlineage.client.serde import Serde

from data_share import lineage
from data_share.lineage import Moved
from data_share.share import Share
from data_share.snowflake.check import SnowflakeCheckOperator
from data_share.snowflake.publish import SnowflakePublishOperator
from data_share.sync import SyncStep
from tests.plugins.data_share.conftest import known_sync, tides

SOURCE = ("databricks://dbc-1.cloud.databricks.com", "main.sea.tides")
FILES = ("s3://bucket", "share/dataset/tides")
TARGET = ("snowflake://org-account", "DB.PUBLIC.TIDES")
PATH = "s3://bucket/share/dataset/tides/20260102T030405_0a1b2c3d/1-4f2a/"
ROW = {
    "export_path": PATH,
    "source_version": 812,
    "rows_exported": 14,
    "bytes_exported": 2048,
    "files_exported": 2,
    "rows_loaded": 14,
    "rows_inserted": 3,
    "rows_updated": 9,
    "rows_deleted": 2,
}


def moved(source: dict[str, Any] | None = None, **changes: Any) -> Moved:
    fields: dict[str, Any] = {
        "dataset": tides(**({"source": source} if source else {})),
        "row": ROW,
        "workspace": "dbc-1.cloud.databricks.com",
        "account": "org-account",
        "target": ("DB", "PUBLIC", "TIDES"),
        "exported": {"harbour": "string", "height": "double"},
        "loaded": {"HARBOUR": "VARCHAR", "HEIGHT": "FLOAT"},
    }
    return Moved(**(fields | changes))


class Told(dict[str, Any]):
    """An event, or what a step returns, as JSON without what the client adds."""

    @classmethod
    def by(cls, thing: Any) -> Told:
        return cls(_plain(Serde.to_dict(thing)))

    def names(self, side: str) -> list[tuple[str, str]]:
        return [(found["namespace"], found["name"]) for found in self[side]]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not name.startswith("_")}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def origin(field: dict[str, Any]) -> tuple[str, str, str, bool]:
    (found,) = field["inputFields"]
    (way,) = found["transformations"]
    return found["namespace"], found["name"], found["field"], way["masking"]


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Catch what is sent beside the step's own event; the run is that of no Airflow."""
    from airflow.providers.openlineage import api
    from airflow.providers.openlineage.plugins import macros

    sent: list[Any] = []
    monkeypatch.setattr(api, "emit", sent.append)
    monkeypatch.setattr(macros, "lineage_root_run_id", lambda _: "01234567-89ab-7def-8123-456789abcdef")
    monkeypatch.setattr(macros, "lineage_root_job_name", lambda ti: ti.dag_id)
    monkeypatch.setattr(macros, "lineage_root_job_namespace", lambda _: "default")
    return sent


TI = SimpleNamespace(dag_id="sync_tides", task_id="publish")


def test_the_event_of_the_export_leads_from_the_table_to_the_files(emitted: list[Any]) -> None:
    lineage.published(moved(), TI)

    (event,) = map(Told.by, emitted)
    assert (event["eventType"], event["job"]["name"]) == ("COMPLETE", "sync_tides.wait_for_export")
    assert event["run"]["facets"]["parent"]["job"]["name"] == "sync_tides"
    (source,), (files,) = event["inputs"], event["outputs"]
    assert (event.names("inputs"), event.names("outputs")) == ([SOURCE], [FILES])
    assert source["facets"]["version"] == {"datasetVersion": "812"}
    assert files["facets"]["version"] == {"datasetVersion": "20260102T030405_0a1b2c3d/1-4f2a"}
    for dataset in (source, files):
        fields = [(field["name"], field["type"]) for field in dataset["facets"]["schema"]["fields"]]
        assert fields == [("harbour", "string"), ("height", "double")]
    assert files["outputFacets"]["outputStatistics"] == {"rowCount": 14, "size": 2048, "fileCount": 2}


def test_the_event_of_publish_leads_from_the_files_to_the_target(emitted: list[Any]) -> None:
    told = Told.by(lineage.published(moved(), TI))

    (files,), (target,) = told["inputs"], told["outputs"]
    assert (told.names("inputs"), told.names("outputs")) == ([FILES], [TARGET])
    assert files["inputFacets"]["inputStatistics"]["rowCount"] == 14
    assert target["outputFacets"]["outputStatistics"]["rowCount"] == 12, "inserted and updated"
    fields = [(field["name"], field["type"]) for field in target["facets"]["schema"]["fields"]]
    assert fields == [("HARBOUR", "VARCHAR"), ("HEIGHT", "FLOAT")]
    origins = {name: origin(field) for name, field in target["facets"]["columnLineage"]["fields"].items()}
    assert origins == {"HARBOUR": (*FILES, "harbour", False), "HEIGHT": (*FILES, "height", False)}


def test_columns_have_their_names_at_the_source_and_hashed_ones_are_masked(emitted: list[Any]) -> None:
    choice = {"columns": ["port", "height"], "rename": {"port": "harbour"}, "hash": ["port"]}
    lineage.published(moved(source=choice), TI)

    fields = Told.by(emitted[0])["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert {name: origin(field) for name, field in fields.items()} == {
        "harbour": (*SOURCE, "port", True),
        "height": (*SOURCE, "height", False),
    }


def test_a_repeated_event_of_an_export_is_the_same_event(emitted: list[Any]) -> None:
    for path in (PATH, PATH, PATH.replace("/1-", "/2-")):
        lineage.published(moved(row={**ROW, "export_path": path}), TI)
    first, again, other = (event.run.runId for event in emitted)
    assert first == again != other


def test_a_reload_sends_no_second_event_of_the_export(emitted: list[Any]) -> None:
    assert Told.by(lineage.published(moved(workspace=""), TI)).names("outputs") == [TARGET]
    assert emitted == []


def test_the_ledger_of_an_earlier_version_tells_less(emitted: list[Any]) -> None:
    told = Told.by(lineage.published(moved(row={"export_path": PATH}, exported={}), TI))
    assert told.names("outputs") == [TARGET]
    assert Told.by(emitted[0])["outputs"][0]["outputFacets"]["outputStatistics"] == {}


# The steps


def publish_step(**known: Any) -> SnowflakePublishOperator:
    """Make the step as it is when the provider asks it: in a copy of its process, where it must ask nobody."""
    step = SnowflakePublishOperator(share=Share(), task_id="publish", dataset=tides(), sql={})
    sync = known_sync(step.dataset, **known)
    with (
        mock.patch.object(SyncStep, "_sync_of", autospec=True, return_value=sync),
        mock.patch.object(lineage, "is_on", autospec=True, return_value=True),
    ):
        step.sync = step._sync_of({})
    step.sync = known_sync(step.dataset, **{name: value for name, value in known.items() if name != "found_export"})
    return step


EXPORT = {"run_page_url": "https://dbc-1.cloud.databricks.com/?o=1#job/2/run/3"}


@pytest.mark.parametrize(
    ("known", "inputs"),
    [
        pytest.param({"unchanged": {"source_version": 812}, "found_export": EXPORT}, [SOURCE], id="nothing new"),
        pytest.param({"found_export": EXPORT}, [SOURCE], id="failed"),
        pytest.param({"found_export": None}, [], id="a reload that failed"),
    ],
)
def test_without_a_publish_nothing_has_been_written(known: dict[str, Any], inputs: list[Any]) -> None:
    told = Told.by(publish_step(**known).get_openlineage_facets_on_complete(TI))
    assert (told.names("inputs"), told["outputs"]) == (inputs, [])


def test_publish_tells_what_it_has_published(emitted: list[Any]) -> None:
    loaded = {"files_exported": 2, "kinds": {"HARBOUR": "VARCHAR"}, "exported_columns": {"harbour": "string"}}
    step = publish_step(found_export=EXPORT, loaded=loaded)
    step._row = ROW
    hook = mock.Mock(lineage_account="org-account", **{"full_name.return_value": ["DB", "PUBLIC", "TIDES"]})
    with mock.patch.object(type(step), "_hook", hook):
        told = Told.by(step.get_openlineage_facets_on_complete(TI))
    assert (told.names("inputs"), told.names("outputs")) == ([FILES], [TARGET])
    assert Told.by(emitted[0])["outputs"][0]["outputFacets"]["outputStatistics"]["fileCount"] == 2


def test_other_steps_do_not_let_the_provider_ask_snowflake() -> None:
    step = SnowflakeCheckOperator(share=Share(), task_id="check_staging", dataset=tides(), sql={"check": "SELECT 1"})
    for told in (step.get_openlineage_facets_on_start(), step.get_openlineage_facets_on_complete(TI)):
        assert (told.inputs, told.outputs, told.run_facets) == ([], [], {})


@pytest.mark.parametrize("disabled", ["True", "False"])
def test_it_is_on_where_the_provider_is_installed_and_turned_on(monkeypatch: pytest.MonkeyPatch, disabled: str) -> None:
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__DISABLED", disabled)
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", '{"type": "console"}')
    assert lineage.is_on() is (disabled == "False")


def test_it_is_off_where_the_provider_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", None)
    assert lineage.is_on() is False
