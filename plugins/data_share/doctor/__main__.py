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
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from data_share.doctor.deployment import Deployment, State
from data_share.doctor.run import Finding, examine
from data_share.share import shares
from data_share.share_file import DEFAULT, InvalidShareFileError


def main(arguments: Sequence[str] = ()) -> int:
    """
    Print the findings, and return the exit code: 1 if something is wrong.

    :param arguments: ``--json`` prints one JSON object, for programs; ``--sources`` looks at the sources too
    """
    parser = argparse.ArgumentParser(
        prog="data-share doctor", description="Check a deployment: what is wrong, how to fix it. Changes nothing."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    parser.add_argument(
        "--sources",
        action="store_true",
        help="also compare each source with its target: starts a run of the export job for each dataset",
    )
    options = parser.parse_args(arguments)
    as_json = options.json
    # Airflow logs to standard output.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        counts, findings = _examined(show=not as_json, with_sources=options.sources)
    if as_json:
        answer = {"ok": not counts[State.WRONG], "counts": counts, "findings": findings}
        sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if counts[State.WRONG] else 0


def _examined(*, show: bool, with_sources: bool) -> tuple[dict[State, int], list[dict[str, Any]]]:
    """Return the number of findings by state, and the findings; print each finding at once if ``show`` is true."""
    write = sys.stdout.write if show else lambda _: 0
    counts = dict.fromkeys(State, 0)
    findings: list[dict[str, Any]] = []
    heading = ""
    for share, finding in _findings(with_sources=with_sources):
        own = finding.group if share == DEFAULT else f"{finding.group}, share {share}"
        if own != heading:
            write(f"\n{own}\n")
        heading = own
        counts[finding.state] += 1
        findings.append({"share": share, **asdict(finding)})
        write(f"  {finding.line()}\n")
        sys.stdout.flush()
    write("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")
    return counts, findings


def _findings(*, with_sources: bool) -> Iterator[tuple[str, Finding]]:
    """Yield the findings of all shares with the names of their shares. Airflow is checked once."""
    try:
        known = shares()
    except InvalidShareFileError as error:
        text = " ".join(str(error).split())
        yield DEFAULT, Finding("Airflow", "share file", "include/share.yaml", State.WRONG, text)
        return
    for name, share in known.items():
        groups = () if name == DEFAULT else ("Databricks", "Snowflake")
        for finding in examine(Deployment(share), groups, with_sources=with_sources):
            yield name, finding


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
