"""Alerts and dashboard: they read metrics that there are, documents explain each, and Prometheus takes the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_share.outcome.codes import FailureCode
from data_share.outcome.metrics import End, metrics_of
from data_share.outcome.report import Failure

PROJECT = Path(__file__).resolve().parents[2]
ALERTS = PROJECT / "deploy" / "observability" / "alerts.yaml"
DASHBOARD = PROJECT / "deploy" / "observability" / "dashboard.json"
CASES = Path(__file__).parent / "alerts_test.yaml"

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ROW = {
    **dict.fromkeys(("rows_exported", "bytes_exported", "rows_loaded", "rows_inserted", "rows_updated"), 1),
    **dict.fromkeys(("rows_deleted", "rows_in_target", "statement_seconds"), 1),
    "published_at": "2026-01-02T00:00:00",
    "data_as_of": "2026-01-02T00:00:00",
}
# What steps send themselves; the test of each step holds it to that.
OF_STEPS = {
    "requests": ("counter", ("system", "status")),
    "doctor_problems": ("gauge", ("dag_id", "system")),
}
# What Airflow itself sends, and the label by which the files read it.
OF_AIRFLOW = {
    "airflow_deadline_alerts_deadline_missed": {"dag_id"},
    "airflow_data_share_callback_failed": {"dag_id"},
    "airflow_deadline_alerts_callback_failed": {"dag_id"},
    "airflow_scheduler_heartbeat": set[str](),
}


def sent() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return type and tags of each metric that there is."""
    failure = Failure("publish", FailureCode.UNEXPECTED, "why").to_xcom()
    ends = [
        End("tides", {}, "success", NOW, NOW, 0, answer=ROW, step_seconds={"publish": 1}),
        End("tides", {}, "failed", NOW, NOW, 0, failure=failure),
    ]
    found = {metric.name: (metric.kind, tuple(metric.tags)) for end in ends for metric in metrics_of(end)}
    return found | OF_STEPS


def in_prometheus() -> dict[str, set[str]]:
    """Return the labels of each series, by the name that the StatsD exporter gives it."""
    found = dict(OF_AIRFLOW)
    for name, (kind, tags) in sent().items():
        for ending in ("_sum", "_count") if kind == "timer" else ("",):
            found[f"airflow_data_share_{name}{ending}"] = set(tags)
    return found


def queries() -> Iterator[str]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    yield from dashboard_queries()


def dashboard_queries() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_reads_metrics_and_labels_that_there_are(query: str) -> None:
    read = set(re.findall(r"\bairflow_\w+", query))
    assert read
    assert read <= in_prometheus().keys()
    labels = {label for name in read for label in in_prometheus()[name]}
    named = {
        label.strip()
        for listed in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) + re.findall(r"{(\w+)[=!]", query)
        for label in listed.split(",")
    }
    assert named <= labels


def test_the_document_explains_each_metric_with_its_type_and_tags() -> None:
    page = (PROJECT / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `data_share\.(\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", page, re.MULTILINE)
    assert {name: (kind, tuple(re.findall(r"\w+", tags))) for name, kind, tags in rows} == sent()


def test_the_document_explains_each_alert() -> None:
    page = (PROJECT / "docs" / "observability.md").read_text()
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(DataShare\w+)` \|", page, re.MULTILINE) == [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["labels"].keys() == {"severity"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_no_two_panels_of_the_dashboard_share_an_id_or_a_place() -> None:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(panel["title"] and panel["description"] for panel in panels)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here: Debian's package is prometheus")
@pytest.mark.parametrize(("action", "file"), [("check", ALERTS), ("test", CASES)])
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(action: str, file: Path) -> None:
    command = ["promtool", action, "rules", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
