"""The one thing to bring back from real accounts: what the suite has found, without secrets, as JSON and as a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_share.doctor.run import Finding
from tests.live.assumptions import ASSUMPTIONS, Result

PROJECT = Path(__file__).resolve().parents[2]
FILES = ("live-report.json", "live-report.md")
PACKAGES = (
    "apache-airflow",
    "apache-airflow-providers-databricks",
    "apache-airflow-providers-snowflake",
    "apache-airflow-providers-common-sql",
)
_MOST_CHARACTERS = 2000
_SHORTEST_SECRET = 5
# Not where a key is, nor how somebody signs in.
_SECRET_EXTRAS = re.compile(r"(?!.*(_file|_path|_url|_endpoint)$).*(key|secret|token|pass)", re.IGNORECASE)
_RESULTS = list(Result)


@dataclass
class Tried:
    """What became of one assumption."""

    result: Result = Result.NOT_TRIED
    answers: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class LiveReport:
    """What a run of the suite has found."""

    versions: dict[str, str] = field(default_factory=dict)
    preflight: list[Finding] = field(default_factory=list)
    assumptions: dict[str, Tried] = field(default_factory=lambda: {name: Tried() for name in ASSUMPTIONS})
    unknown_fields: set[str] = field(default_factory=set)
    tests: dict[str, list[str]] = field(default_factory=dict)
    """Outcome -> the tests that came out so; failed ones with the reason."""
    seconds: float = 0.0
    hidden: dict[str, str] = field(default_factory=dict)
    """What must not leave this machine -> what stands for it."""

    def note(self, name: str, test: str, result: Result, answers: Iterable[str], seconds: float) -> None:
        """Note what a test has found of an assumption: of several, the worst counts."""
        tried = self.assumptions[name]
        is_first = not tried.tests
        tried.tests.append(test)
        tried.answers += answers
        tried.seconds += seconds
        tried.result = result if is_first else max(tried.result, result, key=_RESULTS.index)

    def hide(self, connections: Mapping[str, Mapping[str, Any]], s3_prefix: str) -> None:
        """
        Keep secrets, and the names of the accounts, out of all that is written.

        :param connections: Airflow connections, by the service
        :param s3_prefix: where the scratch files are
        """
        for service, connection in connections.items():
            extra = connection.get("extra") or {}
            extra = json.loads(extra) if isinstance(extra, str) else extra
            secrets = [connection.get("password"), *(v for k, v in extra.items() if _SECRET_EXTRAS.match(str(k)))]
            self._hide(secrets, "***")
            hosts = [re.sub(r"^https?://|/.*$", "", str(connection.get("host") or "")), extra.get("host")]
            self._hide([*hosts, extra.get("account"), connection.get("login")], f"<{service}>")
            if account := str(extra.get("account") or ""):
                self._hide([account.replace("_", "-"), account.lower(), *account.split("-")[:1]], f"<{service}>")
        aws = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        self._hide([os.environ.get(name) for name in aws], "***")
        self._hide([s3_prefix.removeprefix("s3://").partition("/")[0]], "<bucket>")

    def _hide(self, texts: Iterable[Any], instead: str) -> None:
        for text in texts:
            # A shorter one would be found in ordinary words.
            if text and len(str(text)) >= _SHORTEST_SECRET and str(text) not in self.hidden:
                self.hidden[str(text)] = instead

    def without_secrets(self, text: str) -> str:
        """Return a text without what is hidden, shortened if it is long."""
        for secret in sorted(self.hidden, key=len, reverse=True):
            # In an error of JSON, line breaks of a key are escaped.
            for written in {secret, json.dumps(secret)[1:-1]}:
                text = re.sub(
                    re.escape(written), lambda _, secret=secret: self.hidden[secret], text, flags=re.IGNORECASE
                )
        text = re.sub(r"(arn:aws:\w+::)\d{12}", r"\1<account>", text)
        text = re.sub(r"Bearer [\w.~+/=-]+", "Bearer ***", text)
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."

    def as_json(self) -> dict[str, Any]:
        """Return the report for a machine."""
        told = {
            "versions": self.versions,
            "preflight": [
                {"side": one.group, "right": one.name, "state": str(one.state), "text": one.text}
                for one in self.preflight
            ],
            "assumptions": {
                name: {
                    "sentence": ASSUMPTIONS[name].sentence,
                    "result": str(tried.result),
                    "answers": tried.answers,
                    "tests": tried.tests,
                    "seconds": round(tried.seconds, 1),
                }
                for name, tried in self.assumptions.items()
            },
            "unknown_fields": sorted(self.unknown_fields),
            "tests": self.tests,
            "seconds": round(self.seconds, 1),
        }
        return dict(self._cleaned(told))

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._cleaned(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._cleaned(part) for part in value]
        return self.without_secrets(value) if isinstance(value, str) else value

    def write(self, folder: Path) -> None:
        """Write both files into a folder."""
        told = self.as_json()
        (folder / FILES[0]).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / FILES[1]).write_text(_page(told), encoding="utf-8")


def versions_here() -> dict[str, str]:
    """Return what this machine runs: the package, and what it stands on."""
    git = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "not in a clone"
    return {"commit": commit, **{name: version(name) for name in PACKAGES}}


def _page(told: Mapping[str, Any]) -> str:
    counts = {outcome: len(tests) for outcome, tests in told["tests"].items()}
    lines = ["# Report of the live suite", "", f"{told['seconds']} seconds; tests: {counts or 'none was run'}.", ""]
    lines += ["## Versions", "", *_table(("What", "Version"), told["versions"].items())]
    lines += ["## Assumptions", ""]
    rows = [
        (f"`{name}`", one["result"], one["sentence"], "<br>".join(one["answers"]), one["seconds"])
        for name, one in told["assumptions"].items()
    ]
    lines += _table(("Id", "Result", "Assumption", "Answer", "Seconds"), rows)
    lines += ["## Preflight", ""]
    rows = [(one["side"], one["right"], one["state"], one["text"]) for one in told["preflight"]]
    lines += _table(("Side", "Right", "State", "What was found"), rows)
    lines += ["## Fields that the contracts do not know", ""]
    lines += [f"- `{name}`" for name in told["unknown_fields"]] or ["None."]
    lines += ["", "## Tests that did not pass", ""]
    others = [(outcome, test) for outcome, tests in told["tests"].items() if outcome != "passed" for test in tests]
    lines += _table(("Outcome", "Test"), others) if others else ["None.", ""]
    return "\n".join(lines)


def _table(titles: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"

    titles = list(titles)
    return [line(titles), line("---" for _ in titles), *map(line, rows), ""]
