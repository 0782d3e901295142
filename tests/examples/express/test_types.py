"""The types of the Node.js client and of the webhook: a strict program can use them, and they say what is so."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.markdown import Page
from tests.examples.backend.clients import node, open_client
from tests.examples.backend.servers import SmallAirflow, served
from tests.examples.express.declared import TYPES
from tests.examples.express.packages import EXPRESS, copied_to

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

EVERY_EXPORT = Path(__file__).with_name("every_export.mts")

# Answers that no document shows whole. Tests that get them compare them with the types: declared.differences.
OF_PUBLISH = {
    "dataset": "tides",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "source_version": 812,
    "source_committed_at": "2026-01-02T02:41:00.5",
    "run_key": "20260102T030405_0a1b2c3d",
    "published_at": "2026-01-02T03:04:05",
}
ATTEMPT = {"task_instance_id": "019ab4c2-6c1e-7d3a-9d0f-5b8f0a1c2d3e", "clear_number": 0}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_to(tmp_path_factory.mktemp("types"))


@pytest.fixture
def errors_of(copy: Path) -> Callable[..., list[str]]:
    """Let the TypeScript compiler check a program, strictly, and return what it says."""

    def check(program: str, *others: str) -> list[str]:
        (copy / "program.mts").write_text(program)
        options = {"extends": "./tsconfig.json", "files": ["program.mts", *others]}
        (copy / "tsconfig.program.json").write_text(json.dumps(options))
        command = [
            str(copy / "node_modules" / ".bin" / "tsc"),
            "--project",
            "tsconfig.program.json",
            "--strict",
            "--noEmit",
        ]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode == 0) == (not done.stdout), done.stdout + done.stderr
        return done.stdout.splitlines()

    return check


def test_a_strict_program_uses_every_export_and_the_example_is_one(errors_of: Callable[..., list[str]]) -> None:
    program = EVERY_EXPORT.read_text()
    exported = re.findall(r"^export (?:class|interface|type|function) (\w+)", TYPES, re.MULTILINE)
    imports, _, rest = program.partition("\nconst options")
    assert [name for name in exported if not (re.search(rf"\b{name}\b", rest) and name in imports)] == []
    assert errors_of(program, "app.mjs") == []


def test_the_lines_of_the_readme_are_strict(errors_of: Callable[..., list[str]]) -> None:
    variables = "declare const url: string, user: string, password: string;"
    assert errors_of(f"{variables}\n{Page.read('examples/express/README.md').block('ts')}") == []


def test_the_types_declare_what_the_modules_export() -> None:
    names = "Object.keys({...await import('./sync.mjs'), ...await import('./webhook.mjs')})"
    script = f"console.log(JSON.stringify({names}))"
    command = [node(), "--input-type=module", "--eval", script]
    done = subprocess.run(command, cwd=EXPRESS, capture_output=True, text=True, timeout=60, check=True)
    declared = re.findall(r"^export (?:class|function) (\w+)", TYPES, re.MULTILINE)
    assert sorted(declared) == sorted(json.loads(done.stdout))


def test_the_types_know_each_code_step_and_option() -> None:
    from data_share.outcome.codes import FailureCode
    from data_share.steps import STEPS
    from data_share.sync_conf import PARAMS

    def members(name: str) -> list[str]:
        declared = re.search(
            rf"^export (?:type|interface) {name}\b(.*?)^(?=export|interface)", TYPES, re.MULTILINE | re.DOTALL
        )
        assert declared
        return re.findall(r'^  (?:\| "(\w+)"|(\w+)\??:)', declared[1], re.MULTILINE)

    assert [code for code, _ in members("FailureCode")] == [code.name for code in FailureCode]
    assert [name for name, _ in members("StepName")] == [step.id for step in STEPS]
    assert [key for _, key in members("Conf")] == list(PARAMS)


def test_the_types_are_those_of_what_is_answered(errors_of: Callable[..., list[str]]) -> None:
    assert errors_of(_program(_values())) == []


def test_a_field_that_is_missing_or_unknown_is_found(errors_of: Callable[..., list[str]]) -> None:
    values = dict(_values())
    published, event = values["Published"], values["SyncFailed"]
    less = {name: value for name, value in published.items() if name != "rows_in_target"}
    found = errors_of(_program([("Published", less), ("Published", {**published, "colour": 1}), ("SyncFailed", event)]))
    assert len(found) == 2, found
    assert "'rows_in_target' is missing" in found[0]
    assert "'\"colour\"' does not exist" in found[1]


def _program(values: Any) -> str:
    """Return a program that gives each value, as a literal, its type: a literal may have no other field."""
    lines = ['import type * as T from "./sync.mjs";', 'import type * as W from "./webhook.mjs";']
    for number, (kind, value) in enumerate(values):
        literal = re.sub(r'"Date\((.*?)\)"', r'new Date("\1")', json.dumps(value))
        module = "W" if f"interface {kind} extends AnyEvent" in TYPES else "T"
        lines.append(f"export const value{number}: {module}.{kind} = {literal};")
    return "\n".join(lines)


def _values() -> Iterator[tuple[str, Any]]:
    """Yield what the documents show, which other tests hold to the truth, and what the client makes of answers."""
    contract = _json_blocks("docs/backend.md")
    values = [block["value"] for block in contract if isinstance(block.get("value"), dict)]
    published = next(value for value in values if "rows_in_target" in value)
    failure = next(value for value in values if value.get("code") == "EXPORT_FAILED")
    yield "Published", published
    yield "Published", {**published, "incremental": True}
    unchanged = {"unchanged": True, "rows_in_target": 1461, "data_as_of": "2026-01-02T03:04:05"}
    yield "UpToDate", {**OF_PUBLISH, **ATTEMPT, **unchanged}
    yield "Verified", {**OF_PUBLISH, **ATTEMPT, "verified": True, "rows": 1461, "not_compared": ["location"]}
    changes = {f"rows_{what}": 1 for what in ("inserted", "updated", "deleted")}
    told = {"dry_run": True, "load_mode": "merge", "export_path": "s3://x/", "export_mode": None}
    yield "DryRun", {**told, **changes, **ATTEMPT}
    (event,) = [block for block in _json_blocks("docs/alerts.md") if "event" in block]
    yield "SyncFailed", event
    without_report = {name: value for name, value in event["failure"].items() if name not in ATTEMPT}
    yield "SyncFailed", {**event, "failure": without_report}
    none = {"failure": None, "result": None, "deadline": None}
    yield "SyncSucceeded", {**event, **none, "event": "sync_succeeded", "state": "success", "result": published}
    yield (
        "SyncDeadlineMissed",
        {**event, **none, "event": "sync_deadline_missed", "state": "running", "deadline": "now"},
    )
    yield from _syncs(published, failure)


def _syncs(published: dict[str, Any], failure: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    airflow = SmallAirflow("user", "password")
    for number, state in enumerate(["queued", "running", "running", "running", "running"]):
        airflow.add_run(f"request-{number}", state, steps_done=number)
    airflow.end("request-2", "success", result=published)
    airflow.end("request-3", "failed", failure=failure)
    airflow.end("request-4", "success")
    with served(airflow.app) as url:
        client = open_client("node", url, "user", "password")
        for number, kind in enumerate(["ActiveSync", "ActiveSync", "CompleteSync", "FailedSync", "FailedSync"]):
            # As the client gives it, and not with the names that both clients share in their tests.
            sync = json.loads(client.call("json", "shared_forecasts", f"request-{number}"))
            for part in (sync, *sync["steps"]):
                part.update({name: part[name] and f"Date({part[name]})" for name in ("started", "ended")})
            yield kind, sync
        client.close()


def _json_blocks(page: str) -> list[Any]:
    return [json.loads(block.content) for block in Page.read(page).blocks if block.language == "json"]
