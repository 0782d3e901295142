"""
Runs the doctor in a shell with Airflow's environment: ``python -m data_share.doctor``.

It uses the connections and the Variable in the environment or in a secrets backend, prints the findings, and exits with
1 if something is wrong. With ``--json`` it prints one JSON object instead, which sandbox/README.md explains; all other
output then goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from data_share.dag_defaults import SHARE
from data_share.doctor.deployment import Deployment, State
from data_share.doctor.run import examine


def main(arguments: Sequence[str] = ()) -> int:
    """
    Print the findings, and return the exit code: 1 if something is wrong.

    :param arguments: ``--json`` prints one JSON object, for programs
    """
    parser = argparse.ArgumentParser(prog="python -m data_share.doctor")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    as_json = parser.parse_args(arguments).json
    # Airflow logs to standard output.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        counts, findings = _examined(show=not as_json)
    if as_json:
        answer = {"ok": not counts[State.WRONG], "counts": counts, "findings": findings}
        sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if counts[State.WRONG] else 0


def _examined(*, show: bool) -> tuple[dict[State, int], list[dict[str, Any]]]:
    """Return the number of findings by state, and the findings; print each finding at once if ``show`` is true."""
    write = sys.stdout.write if show else lambda _: 0
    counts = dict.fromkeys(State, 0)
    findings: list[dict[str, Any]] = []
    for finding in examine(Deployment(SHARE)):
        if not findings or finding.group != findings[-1]["group"]:
            write(f"\n{finding.group}\n")
        counts[finding.state] += 1
        findings.append(asdict(finding))
        write(f"  {finding.line()}\n")
        sys.stdout.flush()
    write("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")
    return counts, findings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
