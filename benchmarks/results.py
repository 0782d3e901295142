"""
What a benchmark says: figures, the bars that they have to keep, and where the time goes when a bar is missed.

A figure is a number, or a :func:`spread` of several runs, of which the median is compared to the bar. Each benchmark
prints one line of JSON on standard output, for programs:

    {"name": ..., <figures>, "bars": {<figure>: <at most>}, "met": true, "machine": {...}}

and a table on standard error, for people. It exits with 0 if all bars are met, with 1 if one is missed, and with 2 if
it could not measure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULT_RUNS = 7

Figure = float | dict[str, Any]


class BenchmarkError(RuntimeError):
    """Nothing could be measured; the message says why."""


@dataclass(frozen=True)
class Result:
    """
    What a benchmark has measured.

    :param name: the benchmark
    :param figures: figure -> number, spread, or a group of such figures
    :param bars: figure -> what it may be at most
    :param where: lines that say where the time goes; shown when a bar is missed
    """

    name: str
    figures: Mapping[str, Any]
    bars: Mapping[str, float] = field(default_factory=dict)
    where: Sequence[str] = ()

    def missed(self) -> list[str]:
        """Return a line for each bar that is missed: by how much."""
        values = {name: middle(self.figures[name]) for name in self.bars}
        return [
            f"{name} is {values[name]:.4g} and may be {bar:.4g}: {too_much(values[name], bar)}"
            for name, bar in self.bars.items()
            if values[name] > bar
        ]

    def line(self) -> str:
        """Return the line of JSON."""
        answer = {"name": self.name, **self.figures, "bars": dict(self.bars), "met": not self.missed()}
        return json.dumps(answer | {"machine": machine()})


def spread(values: Iterable[float], digits: int = 3) -> dict[str, Any]:
    """Return median, minimum and maximum of some runs, and how many there were."""
    numbers = list(values)
    figures = {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}
    return {name: round(value, digits) for name, value in figures.items()} | {"runs": len(numbers)}


def middle(figure: Figure) -> float:
    """Return a number itself, and the median of a spread."""
    return float(figure["median"] if isinstance(figure, dict) else figure)


def ratio(figure: Figure, other: Figure) -> float:
    """Return the ratio of two medians."""
    return round(middle(figure) / middle(other), 3)


def too_much(value: float, bar: float) -> str:
    """Say by how much a bar is missed."""
    over = value - bar
    return f"{over:.3g} too much" + (f" ({over / bar:.0%})" if bar else "")


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the straight line through some points that fits best."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def longest(steps: Mapping[str, Figure], count: int = 4, unit: str = "s") -> list[str]:
    """Return a line for each of the largest figures, the largest first."""
    ordered = sorted(steps.items(), key=lambda step: -middle(step[1]))
    return [f"{name}: {middle(figure):.2f} {unit}" for name, figure in ordered[:count]]


def machine() -> dict[str, Any]:
    """Return what the figures depend on: the machine, and what else it does."""
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the bars of some results, given as their JSON."""
    rows = ["| Benchmark | Figure | Measured | At most | Met |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        for name, bar in result["bars"].items():
            figure = result[name]
            met = "yes" if middle(figure) <= bar else f"no, {too_much(middle(figure), bar)}"
            rows.append(f"| `{result['name']}` | `{name}` | {in_words(figure)} | {bar:.3g} | {met} |")
    return "\n".join(rows)


def in_words(figure: Figure) -> str:
    """Return a figure for people."""
    if isinstance(figure, dict):
        return f"{figure['median']:.4g} ({figure['min']:.4g} to {figure['max']:.4g})"
    return f"{figure:.4g}"


def details(figures: Mapping[str, Any], indent: str = "  ") -> list[str]:
    """Return a line for each figure, groups of figures indented."""
    lines = []
    for name, figure in figures.items():
        if isinstance(figure, dict) and "median" not in figure:
            lines += [f"{indent}{name}", *details(figure, indent + "  ")]
        else:
            shown = in_words(figure) if isinstance(figure, (int, float, dict)) else str(figure)
            lines.append(f"{indent}{name:{max(1, 42 - len(indent))}} {shown}")
    return lines


def tell(result: Result) -> int:
    """Print a result, and return the exit code."""
    say(f"{result.name}: medians, with minimum and maximum", *details(result.figures))
    if result.bars:
        say("", table([json.loads(result.line())]))
    if missed := result.missed():
        say("", *(f"MISSED: {line}" for line in missed))
        if result.where:
            say("Where it goes:", *(f"  {line}" for line in result.where))
    print(result.line(), flush=True)
    return 1 if missed else 0


def say(*lines: str) -> None:
    """Print for people."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def parser(doc: str | None, runs: int = DEFAULT_RUNS) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's options."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "runs of each side, which take turns (default: %(default)s)"
    made.add_argument("--runs", type=int, default=runs, help=text)
    return made


def finish(measure: Callable[[], Result]) -> int:
    """Measure, tell, and return the exit code."""
    try:
        return tell(measure())
    except BenchmarkError as error:
        say(f"error: {error}")
        return 2
