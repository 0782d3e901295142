"""What a benchmark says of its figures: the line of JSON, the table, and a bar that is missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as all_benchmarks
from benchmarks.results import (
    BenchmarkError,
    Result,
    finish,
    longest,
    parser,
    percentile,
    ratio,
    slope,
    spread,
    table,
    tell,
)

GOOD = Result("latency", {"ratio_script": 1.5, "sync_seconds": spread([5, 4, 9])}, {"ratio_script": 2.0})
BAD = Result(
    "latency",
    {"ratio_script": 3.0, "sync_seconds": spread([5, 4, 9])},
    {"ratio_script": 2.0, "sync_seconds": 5.0},
    ["publish: 1.40 s"],
)


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread([3, 1, 2]) == {"median": 2, "min": 1, "max": 3, "runs": 3}
    assert spread([1, 2]) == {"median": 1.5, "min": 1, "max": 2, "runs": 2}
    assert spread(value / 3 for value in (1, 1)) == {"median": 0.333, "min": 0.333, "max": 0.333, "runs": 2}


def test_ratios_are_of_medians() -> None:
    assert ratio(spread([1, 100, 6]), spread([2, 0, 50])) == 3
    assert ratio(3, 2) == 1.5


def test_slope_and_percentile() -> None:
    assert slope([(1, 3), (2, 5), (10, 21)]) == pytest.approx(2)
    assert [percentile(range(1, 101), percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7, 5], 99) == 7


def test_the_longest_come_first() -> None:
    assert longest({"a": 1, "b": spread([3, 4, 5]), "c": 2.5}, 2) == ["b: 4.00 s", "c: 2.50 s"]


def test_a_line_of_a_result_that_meets_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(GOOD) == 0
    out, told = capsys.readouterr()
    line = json.loads(out)
    assert out.count("\n") == 1
    assert set(line.pop("machine")) == {"cores", "load", "python", "system"}
    assert line == {
        "name": "latency",
        "ratio_script": 1.5,
        "sync_seconds": {"median": 5, "min": 4, "max": 9, "runs": 3},
        "bars": {"ratio_script": 2.0},
        "met": True,
    }
    assert "| `latency` | `ratio_script` | 1.5 | 2 | yes |" in told
    assert "MISSED" not in told


def test_a_bar_that_is_missed_says_by_how_much_and_where_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(BAD) == 1
    out, told = capsys.readouterr()
    assert json.loads(out)["met"] is False
    assert BAD.missed() == ["ratio_script is 3 and may be 2: 1 too much (50%)"]
    assert "| `latency` | `ratio_script` | 3 | 2 | no, 1 too much (50%) |" in told
    # A figure that is as high as its bar meets it.
    assert "| `latency` | `sync_seconds` | 5 (4 to 9) | 5 | yes |" in told
    assert told.endswith(
        "MISSED: ratio_script is 3 and may be 2: 1 too much (50%)\nWhere it goes:\n  publish: 1.40 s\n"
    )


def test_a_bar_of_zero() -> None:
    result = Result("burst", {"slots": 4}, {"slots": 0})
    assert result.missed() == ["slots is 4 and may be 0: 4 too much"]
    assert Result("burst", {"slots": 0}, {"slots": 0}).missed() == []


def test_what_cannot_be_measured_is_neither_met_nor_missed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Result:
        raise BenchmarkError("The stack did not start")

    assert finish(fail) == 2
    assert capsys.readouterr() == ("", "error: The stack did not start\n")
    assert (finish(lambda: GOOD), finish(lambda: BAD)) == (0, 1)


def test_at_least_seven_runs_are_the_default() -> None:
    assert parser("x").parse_args([]).runs == 7
    assert parser("x").parse_args(["--runs", "1"]).runs == 1


def test_the_table_of_lines_that_were_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "bench.jsonl"
    kept.write_text(f"{GOOD.line()}\n{BAD.line()}\n")
    monkeypatch.setattr("sys.argv", ["benchmarks", "--table", str(kept)])
    assert all_benchmarks.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == table([json.loads(GOOD.line()), json.loads(BAD.line())]).splitlines()
    assert [line.partition(" | ")[0] for line in lines[2:]] == ["| `latency`"] * 3


def test_a_benchmark_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "latencies"])
    with pytest.raises(SystemExit):
        all_benchmarks.main()


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([1, 0], 1), ([0, 2], 2), ([1, -9], 2)])
def test_the_exit_code_of_several_is_the_worst(
    codes: list[int], expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = iter(codes)

    class Done:
        stdout = f"{GOOD.line()}\n"

        def __init__(self) -> None:
            self.returncode = next(ended)

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Done())
    assert all_benchmarks.run(["parse", "latency"], []) == expected
    assert capsys.readouterr().out == Done.stdout * 2


def test_each_benchmark_is_a_module_with_bars_of_its_own_figures() -> None:
    folder = Path(all_benchmarks.__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in all_benchmarks.NAMES)
