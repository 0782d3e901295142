"""
A sync that succeeds, one that finds nothing new, one that fails, one that is cancelled: what machines are told of them.

The stack is one of its own, whose Airflow sends metrics by StatsD, lineage to a file, and logs in JSON. A real
Prometheus, where it is installed, reads the metrics and answers the queries of the alerts and of the dashboard.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import yaml

from sandbox.settings import HOST, PROJECT, Settings, free_ports
from sandbox.stack import Stack
from tests.deploy.test_observability import ALERTS, dashboard_queries
from tests.e2e.metrics import Packet, StatsdReceiver, receiver, served
from tests.e2e.share import DAG_ID, SOURCE, TARGET, RunningShare, wait_for
from tests.shipped import left_out

pytestmark = pytest.mark.tier("nightly")

SYNC = {"dataset": TARGET, "kind": "sync"}
FAILED = {**SYNC, "step": "wait_for_export", "code": "EXPORT_FAILED"}
COUNTED = ("rows_exported", "bytes_exported", "rows_loaded", "rows_inserted", "rows_updated", "rows_deleted")
# UDP packets of this machine arrive at once; those of the scheduler come just before its transaction ends.
ARRIVAL_SECONDS = 20
DOCTOR_SECONDS = 180


@dataclass
class Watched:
    """A stack and what it tells: its packets, its events of lineage, its logs."""

    share: RunningShare
    received: StatsdReceiver
    lineage_file: Path
    seen: int = 0
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    packets: dict[str, list[Packet]] = field(default_factory=dict)

    def ended(self, outcome: str, run_id: str) -> None:
        """Note what was told between the last run and the end of this one."""
        self.runs[outcome] = {**self.share.end_of(run_id), "run_id": run_id}

        def is_told() -> bool:
            return any(packet.name.endswith(".syncs") for packet in self._new())

        wait_for(is_told, f"the end of {run_id} is told", ARRIVAL_SECONDS)
        # The packets of one end are sent together, before the run's state is stored.
        self.packets[outcome], self.seen = self._new(), len(self.received.packets)

    def _new(self) -> list[Packet]:
        new = self.received.packets[self.seen :]
        return [packet for packet in new if packet.name.startswith("airflow.data_share.")]

    def told(self, outcome: str) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return tags and value of each packet, by the name of the metric, but for what steps and Airflow count."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for packet in self.packets[outcome]:
            name = packet.name.removeprefix("airflow.data_share.")
            if name != "requests" and not name.startswith("callback"):
                found.setdefault(name, []).append((dict(packet.labels), packet.value))
        return found

    def step_seconds(self, outcome: str) -> dict[str, float]:
        """Return what Airflow's REST API says of the steps that ran."""
        tasks = self.share.tasks(self.runs[outcome]["run_id"])
        return {name: task["duration"] for name, task in tasks.items() if task["state"] in ("success", "failed")}

    def lineage(self, outcome: str) -> list[dict[str, Any]]:
        """Return the events of a run: they and the run of the DAG have one parent."""
        events = [json.loads(line) for line in self.lineage_file.read_text().splitlines()]
        return [event for event in events if self.runs[outcome]["run_id"] in json.dumps(event)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Run the four syncs."""
    home = tmp_path_factory.mktemp("watched")
    for name in ("dags", "plugins", "include"):
        shutil.copytree(PROJECT / name, home / "project" / name, ignore=left_out)
    limited = home / "project" / "include" / "datasets" / f"{TARGET}.yaml"
    file = [line for line in limited.read_text().splitlines() if not line.startswith("max_age_minutes:")]
    limited.write_text("\n".join([*file, "max_age_minutes: 90", ""]))
    lineage_file = home / "lineage.jsonl"
    stack = Stack(Settings(state=home / "state", places=1, ports={}), home / "project")
    with receiver() as received:
        settings = {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": HOST,
            "AIRFLOW__METRICS__STATSD_PORT": str(received.port),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__METRICS__STATSD_DISABLED_TAGS": "job_id,run_id,kwargs,result",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage_file), "append": True}
            ),
            "AIRFLOW__LOGGING__JSON_LOGS": "True",
        }
        try:
            with mock.patch.dict(os.environ, settings):
                share = RunningShare(stack, stack.start())
            share.reset()
            found = Watched(share, received, lineage_file, seen=len(received.packets))
            found.ended("published", share.start_sync())
            share.let_sources_change(False)
            found.ended("unchanged", share.start_sync())
            share.let_sources_change(True)
            share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
            found.ended("failed", share.start_sync())
            share.hold_export("start")
            cancelled = share.start_sync()
            share.wait_until_held(cancelled)
            share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{cancelled}", json={"state": "failed"})
            found.ended("cancelled", cancelled)
            share.release_export()
            doctor = share.airflow.trigger("doctor")
            assert share.airflow.wait("doctor", doctor, DOCTOR_SECONDS)["state"] == "success"
            yield found
            share.close()
        finally:
            stack.stop()


def moment(text: str) -> float:
    told = datetime.fromisoformat(text)
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()


# Metrics


@pytest.mark.parametrize("outcome", ["published", "unchanged", "failed", "cancelled"])
def test_each_end_is_counted_once_with_its_seconds(watched: Watched, outcome: str) -> None:
    told, run = watched.told(outcome), watched.runs[outcome]
    assert told["syncs"] == [({**SYNC, "outcome": outcome}, 1)]
    ((tags, milliseconds),) = told["sync_duration"]
    assert tags == {**SYNC, "outcome": outcome}
    assert milliseconds == pytest.approx(1000 * (moment(run["end_date"]) - moment(run["start_date"])), abs=1)
    steps = {tags["step"]: milliseconds / 1000 for tags, milliseconds in told["step_duration"]}
    assert steps == pytest.approx(watched.step_seconds(outcome), abs=0.01)
    assert "wait_for_export" in steps, "the triggerer has run it"
    assert told["max_age_seconds"] == [({"dataset": TARGET}, 5400)]


def test_a_publish_tells_what_its_ledger_row_tells(watched: Watched) -> None:
    told, run = watched.told("published"), watched.runs["published"]
    row = watched.share.xcom(run["run_id"], "publish")
    assert {name: told[name] for name in COUNTED} == {name: [({"dataset": TARGET}, row[name])] for name in COUNTED}
    assert row["rows_exported"] == 1461
    assert told["rows_in_target"] == [({"dataset": TARGET}, 1461)]
    assert told["statement_duration"][0][1] == pytest.approx(1000 * row["statement_seconds"])
    assert told["data_as_of_time"][0][1] == pytest.approx(moment(row["data_as_of"]))
    assert told["last_success_time"] == [(SYNC, pytest.approx(moment(run["end_date"])))]
    assert not {"failures", "last_failure_time"} & told.keys()


def test_up_to_date_makes_the_data_young_and_moves_nothing(watched: Watched) -> None:
    told, before = watched.told("unchanged"), watched.told("published")
    assert not set(COUNTED) & told.keys()
    assert told["rows_in_target"] == [({"dataset": TARGET}, 1461)]
    assert told["data_as_of_time"][0][1] > before["data_as_of_time"][0][1]
    assert told["last_success_time"][0][1] == pytest.approx(moment(watched.runs["unchanged"]["end_date"]))


def test_a_failure_tells_step_and_code_and_a_cancel_tells_neither(watched: Watched) -> None:
    told = watched.told("failed")
    assert told["failures"] == [(FAILED, 1)]
    assert told["last_failure_time"] == [(FAILED, pytest.approx(moment(watched.runs["failed"]["end_date"])))]
    always = {"syncs", "sync_duration", "step_duration", "max_age_seconds"}
    assert told.keys() == always | {"failures", "last_failure_time"}
    assert watched.told("cancelled").keys() == always


def test_the_requests_of_the_workers_are_counted(watched: Watched) -> None:
    requests = [dict(packet.labels) for packet in watched.packets["published"] if packet.name.endswith(".requests")]
    assert {request["system"] for request in requests} == {"databricks", "snowflake"}
    assert {request["status"] for request in requests} <= {"200", "202", "422"}


def test_no_tag_has_an_id_of_a_run(watched: Watched) -> None:
    ids = {run["run_id"] for run in watched.runs.values()}
    values = {value for packet in watched.received.packets for _, value in packet.labels}
    assert not [value for value in values if any(run_id in value for run_id in ids)]
    # A name or tag that StatsD does not take is an error in the log, at each end.
    for log in watched.share.stack.logs.glob("*.log"):
        assert "Invalid stat name" not in log.read_text(), log
        assert "Dropping invalid tag" not in log.read_text(), log


# Prometheus


@pytest.mark.skipif(not shutil.which("statsd_exporter"), reason="statsd_exporter is not here: it has no package")
def test_the_real_exporter_makes_the_same_series(watched: Watched) -> None:
    packets, port = free_ports(2)
    command = ["statsd_exporter", f"--statsd.listen-udp={HOST}:{packets}", f"--web.listen-address={HOST}:{port}"]
    process = subprocess.Popen([*command, "--statsd.listen-tcp="], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def series(page: str) -> dict[str, float]:
        found = (line.rpartition(" ") for line in page.splitlines() if line.startswith("airflow_data_share_"))
        return {
            f"{name.partition('{')[0]} {sorted(name.partition('{')[2].strip('}').split(','))}": float(value)
            for name, _, value in found
            if "quantile=" not in name
        }

    def page() -> str:
        try:
            return httpx.get(f"http://{HOST}:{port}/metrics", timeout=5).text
        except httpx.TransportError:
            return ""

    try:
        wait_for(lambda: "statsd_exporter" in page(), "the exporter listens")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for line in watched.received.lines:
                if line.startswith("airflow.data_share."):
                    client.sendto(line.encode(), (HOST, packets))
        expected = series(watched.received.page())
        wait_for(lambda: len(series(page())) >= len(expected), "the exporter has all series")
        wait_for(lambda: series(page()) == pytest.approx(expected), "they have the same values", 10)
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def prometheus(home: Path, port_of_metrics: int) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Start a Prometheus with our alerts; return what asks it a query."""
    (port,) = free_ports(1)
    settings = home / "prometheus.yml"
    settings.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(ALERTS)],
                "scrape_configs": [
                    {"job_name": "statsd", "static_configs": [{"targets": [f"{HOST}:{port_of_metrics}"]}]}
                ],
            }
        )
    )
    command = ["prometheus", f"--config.file={settings}", f"--storage.tsdb.path={home / 'tsdb'}"]
    with (home / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={HOST}:{port}"], stdout=log, stderr=log)
    url = f"http://{HOST}:{port}"

    def ask(query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def is_ready() -> bool:
        assert process.poll() is None, (home / "prometheus.log").read_text()
        try:
            return httpx.get(f"{url}/-/ready", timeout=5).is_success and bool(ask("airflow_data_share_syncs"))
        except httpx.TransportError:
            return False

    try:
        wait_for(is_ready, "Prometheus has read the metrics")
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not here: Debian's package is prometheus")
def test_prometheus_answers_every_query_and_fires_for_the_failure_alone(watched: Watched, tmp_path: Path) -> None:
    row = watched.share.xcom(watched.runs["published"]["run_id"], "publish")
    with served(watched.received) as port, prometheus(tmp_path, port) as ask:

        def answer(query: str) -> list[dict[str, Any]]:
            # On a busy machine a look takes more than its second, and all series are stale until the next one.
            answers: list[list[dict[str, Any]]] = []
            wait_for(lambda: answers.append(ask(query)) or answers[-1] != [], f"there is an answer to {query}", 15)  # type: ignore[func-returns-value]
            return answers[-1]

        def value(query: str) -> float:
            (found,) = answer(query)
            return float(found["value"][1])

        by_outcome = {found["metric"]["outcome"]: found["value"][1] for found in answer("airflow_data_share_syncs")}
        assert by_outcome == dict.fromkeys(("published", "unchanged", "failed", "cancelled"), "1")
        assert value("sum(airflow_data_share_rows_loaded)") == 1461
        assert value("airflow_data_share_statement_duration_sum") == pytest.approx(row["statement_seconds"])
        age = value("time() - airflow_data_share_data_as_of_time")
        as_of = moment(watched.share.xcom(watched.runs["unchanged"]["run_id"], "publish")["data_as_of"])
        assert age == pytest.approx(time.time() - as_of, abs=30)

        # What fires is what failed and has not succeeded since; the data are not too old.
        wait_for(lambda: ask('ALERTS{alertstate="firing"}') != [], "an alert fires", 30)
        firing = [found["metric"] for found in ask('ALERTS{alertstate="firing"}')]
        assert [(alert["alertname"], alert["dataset"], alert["code"]) for alert in firing] == [
            ("DataShareSyncFailed", TARGET, "EXPORT_FAILED")
        ]
        # Each query of the dashboard finds what was told. An increase needs two looks of Prometheus.
        for query in dashboard_queries():
            if not query.startswith("label_values"):
                asked = query.replace("$dataset", ".+").replace("$__rate_interval", "1m")
                answer(asked)

        # A later success ends the alert.
        watched.ended("after the failure", watched.share.start_sync())
        wait_for(lambda: ask("ALERTS") == [], "no alert fires", 30)


# Lineage


def datasets(event: dict[str, Any], side: str) -> list[tuple[str, str]]:
    return [(found["namespace"], found["name"]) for found in event[side]]


def ended_jobs(watched: Watched, outcome: str) -> dict[str, dict[str, Any]]:
    """Return the last event of each job of a run."""
    return {
        event["job"]["name"].removeprefix(f"{DAG_ID}."): event
        for event in watched.lineage(outcome)
        if event["eventType"] in ("COMPLETE", "FAIL")
    }


def test_a_publish_leads_from_table_to_files_to_target(watched: Watched) -> None:
    run_id = watched.runs["published"]["run_id"]
    row, columns = watched.share.xcom(run_id, "publish"), watched.share.source(SOURCE).column_names
    path = watched.share.export_path(run_id)
    bucket, _, folder = path.removeprefix("s3://").partition("/")
    files = (f"s3://{bucket}", f"dataset/{TARGET}")
    assert folder.startswith(f"dataset/{TARGET}/")

    publish = ended_jobs(watched, "published")["publish"]
    assert publish["eventType"] == "COMPLETE"
    assert datasets(publish, "inputs") == [files]
    assert datasets(publish, "outputs") == [("snowflake://sandbox-datashare", f"DATA_SHARE.PUBLIC.{TARGET.upper()}")]
    target = publish["outputs"][0]
    assert target["outputFacets"]["outputStatistics"]["rowCount"] == row["rows_inserted"] == 1461
    assert set(target["facets"]["columnLineage"]["fields"]) == {column.upper() for column in columns}

    # Its parent is the run of the DAG; the text of the event has no run id.
    events = [json.loads(line) for line in watched.lineage_file.read_text().splitlines()]
    parent = ended_jobs(watched, "published")["publish"]["run"]["facets"]["parent"]["run"]["runId"]
    (export,) = [
        event
        for event in events
        if event["job"]["name"] == f"{DAG_ID}.wait_for_export"
        and event["eventType"] == "COMPLETE"
        and event["run"]["facets"]["parent"]["run"]["runId"] == parent
    ]
    assert datasets(export, "inputs") == [(f"databricks://{HOST}", SOURCE)]
    assert datasets(export, "outputs") == [files]
    assert export["inputs"][0]["facets"]["version"]["datasetVersion"] == str(row["source_version"])
    fields = export["outputs"][0]["facets"]["schema"]["fields"]
    assert sorted(column["name"] for column in fields) == sorted(columns)
    written = export["outputs"][0]["outputFacets"]["outputStatistics"]
    assert (written["rowCount"], written["size"]) == (1461, row["bytes_exported"])


@pytest.mark.parametrize("outcome", ["unchanged", "failed", "cancelled"])
def test_what_publishes_nothing_names_no_output(watched: Watched, outcome: str) -> None:
    events = watched.lineage(outcome)
    assert events
    assert [event for event in events if event["outputs"]] == []
    # What was read has one name, that of its workspace.
    read = {name for event in events for name in datasets(event, "inputs")}
    assert read == {(f"databricks://{HOST}", SOURCE)}
    last = ended_jobs(watched, outcome)["finish_sync"]["eventType"]
    assert last == ("COMPLETE" if outcome == "unchanged" else "FAIL")


# Logs


def test_each_line_of_a_step_has_dataset_and_run_key(watched: Watched) -> None:
    run_id = watched.runs["published"]["run_id"]
    row = watched.share.xcom(run_id, "publish")
    folder = watched.share.stack.logs / "tasks" / f"dag_id={DAG_ID}" / f"run_id={run_id}"
    for step in ("export_to_s3", "copy_into_staging", "check_staging", "publish", "finish_sync"):
        lines = [json.loads(line) for line in (folder / f"task_id={step}" / "attempt=1.log").read_text().splitlines()]
        ours = [line for line in lines if line.get("dataset")]
        assert ours, step
        assert {(line["dataset"], line["run_key"], line["task_id"]) for line in ours} == {
            (TARGET, row["run_key"], step)
        }


def test_each_line_of_the_processes_is_json(watched: Watched) -> None:
    for name in ("scheduler", "triggerer", "dag-processor", "api-server"):
        lines = (watched.share.stack.logs / f"{name}.log").read_text().splitlines()
        assert lines
        # Python prints a warning before Airflow has set its logs up.
        wrong = [line for line in lines if line and not line.startswith("{") and "Warning: " not in line]
        assert wrong == [], name
