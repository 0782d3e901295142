"""
Runs benchmarks one after the other: ``python -m benchmarks [name ...]``, all without a name.

The lines of JSON go to standard output, the rest to standard error. At the end comes one table of all bars, in
Markdown; ``--table FILE`` prints that of lines that were kept before. The exit code is the highest of the benchmarks':
0 if all bars are met, 1 if one is missed, 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.results import say, table
from sandbox.settings import PROJECT

NAMES = ("parse", "latency", "requests", "cpu", "history", "rows", "increments", "cold", "burst")


def run(names: list[str], options: list[str]) -> int:
    """Run benchmarks, each in a process of its own, and return the exit code."""
    results, code = [], 0
    for name in names:
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        print(done.stdout, end="", flush=True)
        results += [json.loads(line) for line in done.stdout.splitlines()]
        code = max(code, done.returncode if done.returncode in (0, 1) else 2)
    say("", table(results))
    return code


def main() -> int:
    """Run what is asked for, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--runs", type=int, help="runs of each benchmark, instead of its own default")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of lines that were kept")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(NAMES)}")
    if arguments.table:
        print(table(json.loads(line) for line in arguments.table.read_text(encoding="utf-8").splitlines()))
        return 0
    return run(arguments.names or list(NAMES), ["--runs", str(arguments.runs)] if arguments.runs else [])


if __name__ == "__main__":
    sys.exit(main())
