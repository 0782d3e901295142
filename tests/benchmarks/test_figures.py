"""Each benchmark makes the right figures of what it has measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import burst, cold, cpu, history, latency, parse, requests, rows
from benchmarks.results import Result
from benchmarks.running import DagRun, airflow_part, make_project, requests_between, seconds_of
from emulators.s3 import SHARE_BUCKET

pytestmark = pytest.mark.tier("full")

MIDNIGHT = seconds_of("2026-11-28T00:00:00Z")


def at(second: float) -> str:
    return f"2026-11-28T00:00:{second:06.3f}Z"


def task(name: str, start: float, end: float) -> dict[str, Any]:
    return {"task_id": name, "start_date": at(start), "end_date": at(end)}


def dag_run(seconds: float, start: float = 2.0) -> DagRun:
    tasks = [task("export", start, start + 1), task("load", start + 1.5, start + 2)]
    return DagRun("sync_x", "r", seconds, MIDNIGHT + 1, tasks)


def test_each_second_of_a_run_is_in_one_part() -> None:
    split = dag_run(4.0).split()
    assert {name: round(value, 3) for name, value in split.items()} == {
        "hop to export": 1.0,
        "export": 1.0,
        "hop to load": 0.5,
        "load": 0.5,
        "end seen": 1.0,
    }
    assert sum(split.values()) == pytest.approx(4.0)


def test_the_detection_of_an_end() -> None:
    found = latency.detection(dag_run(4.0), "export", MIDNIGHT + 2.4)
    assert found == {"end of export noticed after": pytest.approx(0.6)}


def test_latency() -> None:
    seconds = {"script": [2.0, 2.0, 9.0], "sync": [5.0, 4.0, 6.0], "stock": [40.0] * 3, "eager_stock": [10.0] * 3}
    split = {"sync": {"publish": [1.0], "check": [3.0], "export on Databricks": [9.0]}, "script": {"copy": [0.1]}}
    result = latency.result(seconds, split)
    figures = result.figures
    assert (figures["ratio_script"], figures["ratio_stock"], figures["ratio_eager_stock"]) == (2.5, 0.125, 0.5)
    assert result.missed() == ["ratio_script is 2.5 and may be 2: 0.5 too much (25%)"]
    assert result.where == ["check: 3.00 s", "publish: 1.00 s"]


def test_cold_compares_each_case_to_the_steady_syncs() -> None:
    found = {
        "steady": [dag_run(4), dag_run(6), dag_run(4)],
        "after triggerer": [dag_run(8, start=6.0)],
        "after start": [dag_run(5)],
    }
    result = cold.result(found)
    assert (result.figures["ratio_after_triggerer"], result.figures["ratio_after_start"]) == (2.0, 1.25)
    assert result.bars == {"ratio_after_triggerer": 1.5, "ratio_after_start": 1.5}
    assert [line.partition(" is ")[0] for line in result.missed()] == ["ratio_after_triggerer"]
    assert "after triggerer: hop to export takes 4.00 s longer than in a steady sync" in result.where


class Clock:
    """Processes whose scheduler uses half a core of the time that the clock shows, and 3 s for each piece of work."""

    def __init__(self) -> None:
        self.now = 0.0
        self.extra = 0.0

    def work(self) -> None:
        self.now += 10
        self.extra += 3

    def rest(self) -> None:
        self.now += 10

    def cpu_seconds(self) -> dict[str, float]:
        return {"scheduler": self.now / 2 + self.extra, "emulators": self.extra}


def test_work_is_told_without_what_the_same_time_takes_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr("time.sleep", lambda _: None)
    rest = cpu.cores(clock, clock.rest)  # type: ignore[arg-type]
    assert rest == {"scheduler": 0.5, "emulators": 0.0}
    used = cpu.used_by(clock, clock.work, rest)  # type: ignore[arg-type]
    assert used == cpu.Used({"scheduler": 3.0, "emulators": 3.0}, {"scheduler": 8.0, "emulators": 3.0})


@pytest.mark.parametrize(("profile", "bar"), [("", 0.40), ("latency", 0.40), ("economy", 0.25)])
def test_cpu_is_of_airflow_without_the_emulators(profile: str, bar: float) -> None:
    used = cpu.Used({"scheduler": 2.0, "others": 1.0, "emulators": 5.0}, {"scheduler": 3.0, "others": 1.0})
    rest = {"scheduler": 0.1, "others": 0.2, "emulators": 1.0}
    result = cpu.result(rest, {"sync": [used], "stock": [used]}, profile)
    assert airflow_part(rest) == pytest.approx(0.3)
    assert result.figures["airflow_seconds"]["median"] == 3.0
    assert result.figures["airflow_seconds_with_rest"]["median"] == 4.0
    assert result.bars == {"airflow_seconds": 2.5, "cores_at_rest": bar}
    assert [line.partition(" is ")[0] for line in result.missed()] == (
        ["airflow_seconds", "cores_at_rest"] if bar < 0.3 else ["airflow_seconds"]
    )


def test_requests_are_those_between_two_counts() -> None:
    before = {"snowflake": {"POST /x": 3, "GET /y": 1}, "databricks": {}}
    after = {"snowflake": {"POST /x": 5, "GET /y": 1, "GET /z": 1}, "databricks": {"GET /a": 2}}
    counted = requests_between(before, after)
    assert counted == {"snowflake": {"GET /z": 1, "POST /x": 2}, "databricks": {"GET /a": 2}}
    many = {"snowflake": {"POST /x": 13}, "databricks": {"GET /a": 2}}
    result = requests.result([many, counted, many])
    assert (result.figures["snowflake"]["median"], result.figures["databricks"]["median"]) == (13, 2)
    assert result.missed() == ["snowflake is 13 and may be 12: 1 too much (8%)"]
    assert result.where == ["snowflake, POST /x: 13", "snowflake, GET /z: 0"]


def of_burst(**changed: Any) -> Result:
    given: dict[str, Any] = {"makespan": 120.0, "least": 100.0, "cpu": 140.0, "waiting": 0, "refused": 0, "failed": 0}
    given |= {"stock_failed": 0}
    given |= {"memory": 900.0, "p99": 0.5, "stock_makespan": 100.0, "stock_waiting": 4, "answers": {200: 1}, **changed}
    return burst.result([given], {200: 100, 409: 100} | given["answers"], part=0.2)


def test_a_burst_that_meets_its_bars() -> None:
    result = of_burst()
    figures = result.figures
    assert (figures["makespan_ratio"]["median"], figures["stock_makespan_scaled"]["median"]) == (1.2, 500)
    assert (figures["makespan_of_stock"], figures["stock_slots_held_waiting"]) == (0.24, 4)
    assert result.missed() == []


@pytest.mark.parametrize(
    ("changed", "bar"),
    [
        ({"makespan": 130.0}, "makespan_ratio"),
        ({"stock_makespan": 70.0}, "makespan_of_stock"),
        ({"waiting": 1}, "slots_held_waiting"),
        ({"refused": 1}, "posts_refused"),
        ({"failed": 1}, "failed"),
        ({"p99": 1.1}, "p99_seconds"),
        ({"answers": {500: 1}}, "presses_refused"),
        ({"answers": {0: 1}}, "presses_refused"),
    ],
)
def test_each_bar_of_a_burst(changed: dict[str, Any], bar: str) -> None:
    assert [line.partition(" is ")[0] for line in of_burst(**changed).missed()] == [bar]


def test_history_tells_the_slope_and_compares_the_ends() -> None:
    result = history.result({1: [5.0], 100: [5.0], 1000: [6.0]}, {1: [60], 100: [60], 1000: [60]})
    assert (result.figures["seconds_ratio"], result.figures["requests_ratio"]) == (1.2, 1.0)
    assert result.figures["seconds_more_per_1000"] == pytest.approx(1.05, abs=0.1)
    assert [line.partition(" is ")[0] for line in result.missed()] == ["seconds_ratio"]
    assert history.requests_of_share({f"LIST {SHARE_BUCKET}": 2, "GET unity-catalog": 7, "GET ": 1}) == 2


def test_rows_tell_seconds_for_a_million_and_compare_memory() -> None:
    result = rows.result({10_000: [5.0], 1_000_000: [14.9]}, {10_000: [800.0], 1_000_000: [900.0]})
    assert result.figures["seconds_per_million"] == 10.0
    assert [line.partition(" is ")[0] for line in result.missed()] == ["memory_ratio"]


def test_parse_tells_milliseconds_of_a_dataset_and_of_a_step() -> None:
    seconds = {
        "parse": {"1": [0.012], "10": [0.030], "500": [1.010]},
        "step": {"1": [0.020, 0.020, 0.9], "10": [0.020], "500": [0.023]},
    }
    result = parse.result(seconds)
    assert result.figures["ms_per_dataset"] == pytest.approx(2.0)
    assert result.figures["step_ratio"] == 1.15
    assert [line.partition(" is ")[0] for line in result.missed()] == ["step_ratio"]


def test_the_copy_of_the_project_has_further_datasets(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", parse.dataset_files(1, 2))
    found = {path.stem for path in (project / "include" / "datasets").glob("forecasts_*.yaml")}
    assert found == {"forecasts_0001", "forecasts_0002"}
    assert (project / "dags" / "sync_datasets.py").exists()
    assert (project / "plugins" / "data_share" / "sync.py").exists()
