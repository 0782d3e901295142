"""
What the tests cost, tier by tier: their number, the processor's seconds to collect them, and the seconds to run them.

Run it by `make test-times`. `whole` is a run without a tier, also of an older commit in another folder:

    .venv/bin/python -m tests.measure_tiers --project ../older whole
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
ROW = "{:10} {:>7} {:>22} {:>14} {:>13}  {}"


class Run(NamedTuple):
    """One run of pytest, with its children."""

    wall_seconds: float
    cpu_seconds: float
    last_line: str


def pytest_run(project: Path, *options: str) -> Run:
    """Run pytest in a folder, and return what it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *options]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [line.strip() for line in process.stdout if line.strip()]
        # Counts the processes that pytest has started and waited for too.
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return Run(time.monotonic() - began, used.ru_utime + used.ru_stime, lines[-1] if lines else "")


def main() -> None:
    """Measure the tiers that are asked for, one after another, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("tiers", nargs="*", default=["quick", "quick,full"], help="quick, full, nightly, or whole")
    parser.add_argument("--project", type=Path, default=PROJECT, help="folder of the checkout (default: this one)")
    parser.add_argument("--collect-only", action="store_true", help="do not run the tests")
    arguments = parser.parse_args()
    print(ROW.format("tier", "tests", "collection, CPU s", "wall s", "CPU s", "result"))
    for tier in arguments.tiers:
        chosen = [] if tier == "whole" else ["--tier", tier]
        collected = pytest_run(arguments.project, *chosen, "--collect-only")
        number = re.match(r"(\d+)", collected.last_line)
        cells = [tier, number[1] if number else "?", f"{collected.cpu_seconds:.1f}"]
        if not arguments.collect_only:
            run = pytest_run(arguments.project, *chosen, "--numprocesses", "2", "--no-loadscope-reorder")
            cells += [f"{run.wall_seconds:.0f}", f"{run.cpu_seconds:.0f}", run.last_line]
        print(ROW.format(*cells, *[""] * (6 - len(cells))), flush=True)


if __name__ == "__main__":
    main()
