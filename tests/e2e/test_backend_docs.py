"""The examples of docs/backend.md: each call is made on a running share, and its answer is the one that is shown."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import yaml

from sandbox.settings import PROJECT
from tests.e2e.share import DAG_ID, SYNC_SECONDS, RunningShare, wait_for

pytestmark = pytest.mark.tier("full")

PAGE = PROJECT / "docs" / "backend.md"
LEFT_OUT = "..."
"""A field of this name stands for fields that are not shown."""

EXAMPLE = re.compile(
    r"^```http\n(?P<request>.*?)^```\n(?P<between>.*?)^```json\n(?P<answer>.*?)^```$", re.DOTALL | re.MULTILINE
)

# What is another each time, though of the same form.
VOLATILE = [
    (r"https?://[\w.:-]+", "<address>"),
    (r"eyJ[\w.-]+", "<token>"),
    (r"when you look for ID \w{8}$", "when you look for ID <id>"),
    (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?", "<time>"),
    (r"\d{8}T\d{6}_[0-9a-f]{8}", "<run key>"),
    (r"/\d+-[0-9a-f]{8}/", "/<attempt>/"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<query id>"),
    (r"\d{9,}", "<number>"),
    (r"^\d+\.\d+\.\d+$", "<version>"),
    (r"since version \d+$", "since version <number>"),
]


@dataclass(frozen=True)
class Example:
    section: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    answer: Any

    def __str__(self) -> str:
        return f"{self.section}: {self.method} {self.path}"


def examples(text: str) -> Iterator[Example]:
    """Take the examples out of a page: a block of http, a line "Answer <status>:", a block of json."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = list(EXAMPLE.finditer(section))
        assert len(found) == section.count("```http\n") == section.count("```json\n"), section.splitlines()[0]
        for block in found:
            status = re.fullmatch(r"\nAnswer (\d{3}):\n\n", block["between"])
            assert status, f"no status between request and answer: {block['between']!r}"
            head, _, body = block["request"].partition("\n\n")
            first, *headers = head.splitlines()
            method, path = first.split()
            yield Example(
                section.splitlines()[0],
                method,
                path,
                dict(line.split(": ", 1) for line in headers),
                json.loads(body) if body else None,
                int(status[1]),
                json.loads(block["answer"]),
            )


def differences(shown: Any, real: Any, at: str = "answer") -> Iterator[str]:
    """Yield where a real answer is not as shown, in its fields, or in its values apart from what is volatile."""
    if isinstance(shown, dict) and isinstance(real, dict):
        named = set(shown) - {LEFT_OUT}
        if missing := named - set(real):
            yield f"{at} has no {', '.join(sorted(missing))}"
        if LEFT_OUT not in shown and (more := set(real) - named):
            yield f"{at} has {', '.join(sorted(more))} too"
        for name in sorted(named & set(real)):
            yield from differences(shown[name], real[name], f"{at}.{name}")
    elif isinstance(shown, list) and isinstance(real, list):
        if len(shown) != len(real):
            yield f"{at} has {len(real)} items and not {len(shown)}"
        for number, (one, other) in enumerate(zip(shown, real, strict=False)):
            yield from differences(one, other, f"{at}[{number}]")
    elif at.endswith((".source_version", ".bytes_exported")) and type(shown) is type(real) is int:
        return  # how often the source was written to, and how well a library packs the rows
    elif _stable(shown) != _stable(real):
        yield f"{at} is {real!r} and not {shown!r}"


def _stable(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, name in VOLATILE:
            value = re.sub(pattern, name, value)
        return value
    if isinstance(value, float):
        return float
    return "<number>" if type(value) is int and value > 10**9 else value


class Backend:
    """Makes the calls of the examples, with run ids of its own in the place of those that are shown."""

    def __init__(self, share: RunningShare) -> None:
        self._endpoints = share.endpoints
        self._own = f"{uuid.uuid4().hex[:8]}-"
        self._http = httpx.Client(base_url=share.endpoints.airflow_url, timeout=60)
        self._token = ""

    def close(self) -> None:
        self._http.close()

    def run_id(self, shown: str) -> str:
        return shown.replace("request-", f"request-{self._own}")

    def differences(self, example: Example) -> list[str]:
        """Make the call and return how its answer differs. What is only looked at may need some time to become so."""
        deadline = time.monotonic() + 2 * SYNC_SECONDS
        while True:
            wrong = self._differences(example)
            if not wrong or example.method != "GET" or time.monotonic() > deadline:
                return wrong
            time.sleep(0.2)

    def _differences(self, example: Example) -> list[str]:
        users = {"<user>": self._endpoints.airflow_user, "<password>": self._endpoints.airflow_password}
        whole = self.run_id(json.dumps([example.path, example.headers, example.body]))
        for name, value in {**users, "<token>": self._token}.items():
            whole = whole.replace(name, value)
        path, headers, body = json.loads(whole)
        response = self._http.request(example.method, path, headers=headers, content=body and json.dumps(body))
        answer = json.loads(response.text.replace(self._own, ""))
        self._token = answer.get("access_token", self._token)
        if response.status_code != example.status:
            return [f"the status is {response.status_code} and not {example.status}: {response.text[:300]}"]
        if "task_instances" in answer:
            order = [task["task_id"] for task in example.answer["task_instances"]]
            answer["task_instances"].sort(key=lambda task: order.index(task["task_id"]))
        return list(differences(example.answer, answer))


class Situations:
    """What has to be so before the examples of a section."""

    def __init__(self, share: RunningShare, run_id: Callable[[str], str]) -> None:
        self._share = share
        self._run_id = run_id
        self.of_section: dict[str, Callable[[], None]] = {
            "Start": lambda: share.hold_export("start"),
            "Complete": share.release_export,
            "Failed": self._a_failing_sync,
            "Cancel": self._a_held_sync,
            "Cancel a queued run": self._a_held_sync_and_one_that_waits,
            "Paused": self._paused,
            "Errors": self.all_over,
        }

    def _a_failing_sync(self) -> None:
        self._share.databricks("POST", "/_sandbox/fail_next", {"message": "Out of memory in stage 3"})
        self._start("request-4712")

    def _a_held_sync(self, shown: str = "request-4713") -> None:
        self._share.hold_export("start")
        self._start(shown)

        def held() -> bool:
            step = self._share.airflow.tasks(DAG_ID, self._run_id(shown))["wait_for_export"]
            return step["state"] == "deferred" and bool(self._share.databricks("GET", "/_sandbox/state")["held"])

        wait_for(held, f"the export of {shown} is held", SYNC_SECONDS)

    def _a_held_sync_and_one_that_waits(self) -> None:
        self._a_held_sync("request-4714")
        self._start("request-4715")

    def _paused(self) -> None:
        self._end(self._run_id("request-4714"))
        self._share.airflow.wait(DAG_ID, self._run_id("request-4715"), SYNC_SECONDS)
        self._set_paused(True)

    def all_over(self) -> None:
        """End what is going on, and unpause the dataset."""
        self._share.release_export()
        params = {"state": ["queued", "running"]}
        active = self._share.airflow.ask("GET", f"/dags/{DAG_ID}/dagRuns", params=params)["dag_runs"]
        for run in active:
            self._end(run["dag_run_id"])
        self._set_paused(False)
        for run in active:
            self._share.airflow.wait(DAG_ID, run["dag_run_id"], SYNC_SECONDS)

    def _start(self, shown: str) -> None:
        body = {"dag_run_id": self._run_id(shown), "logical_date": None}
        self._share.airflow.ask("POST", f"/dags/{DAG_ID}/dagRuns", json=body)

    def _end(self, run_id: str) -> None:
        self._share.airflow.ask("PATCH", f"/dags/{DAG_ID}/dagRuns/{run_id}", json={"state": "failed"})

    def _set_paused(self, is_paused: bool) -> None:
        self._share.airflow.ask("PATCH", f"/dags/{DAG_ID}", json={"is_paused": is_paused})


def test_every_call_is_answered_as_shown(share: RunningShare) -> None:
    if not share.target():
        # In the examples there is a sync before, whose rows are replaced.
        share.sync()
    found = list(examples(PAGE.read_text()))
    backend = Backend(share)
    situations = Situations(share, backend.run_id)
    assert set(situations.of_section) < {example.section for example in found}
    section = ""
    try:
        for example in found:
            if example.section != section:
                section = example.section
                situations.of_section.get(section, lambda: None)()
            wrong = backend.differences(example)
            assert wrong == [], example
    finally:
        situations.all_over()
        backend.close()


def test_the_openapi_file_is_what_airflow_serves(share: RunningShare) -> None:
    """The file comes from Airflow's package; this is what the running api-server says of itself."""
    from docs.generate_docs import backend_calls

    file = yaml.safe_load((PROJECT / "docs" / "airflow-openapi.yaml").read_text())
    served = [
        httpx.get(f"{share.endpoints.airflow_url}{path}", timeout=30).raise_for_status().json()
        for path in ("/openapi.json", "/auth/openapi.json")
    ]
    api, auth = served
    # The auth manager is an application of its own below this path.
    auth["paths"] = {f"/auth{path}": operations for path, operations in auth["paths"].items()}
    part = backend_calls(api, auth)
    assert part["components"] == file["components"]
    assert part["paths"] == file["paths"]


def test_the_openapi_file_has_each_call_of_the_page() -> None:
    file = yaml.safe_load((PROJECT / "docs" / "airflow-openapi.yaml").read_text())
    forms = {
        (method.upper(), re.compile(re.sub(r"{\w+}", "[^/]+", path))): {one["name"] for one in operation["parameters"]}
        for path, operations in file["paths"].items()
        for method, operation in operations.items()
    }
    found = set()
    for example in examples(PAGE.read_text()):
        path, _, query = example.path.partition("?")
        (form,) = [form for form in forms if form[0] == example.method and form[1].fullmatch(path)]
        assert {key for key, _ in parse_qsl(query)} <= forms[form], example
        found.add(form)
    assert found == set(forms)


def test_the_page_shows_each_status_that_airflow_gives() -> None:
    assert {example.status for example in examples(PAGE.read_text())} == {200, 201, 400, 401, 403, 404, 409, 422}


RIGHT = """## Start

```http
POST /api/v2/dags/x/dagRuns
Authorization: Bearer <token>

{"dag_run_id": "request-1"}
```

Answer 200:

```json
{"state": "queued", "at": "2026-01-02T03:04:05Z", "...": ""}
```
"""


def test_the_examples_of_a_page() -> None:
    (example,) = examples(RIGHT)

    assert str(example) == "Start: POST /api/v2/dags/x/dagRuns"
    assert (example.headers, example.body) == ({"Authorization": "Bearer <token>"}, {"dag_run_id": "request-1"})
    assert (example.status, example.answer["state"]) == (200, "queued")


@pytest.mark.parametrize("part", ["Answer 200:\n", "```http", '```json\n{"state"'])
def test_a_page_in_another_form_is_refused(part: str) -> None:
    with pytest.raises(AssertionError):
        list(examples(RIGHT.replace(part, "")))


@pytest.mark.parametrize(
    ("real", "difference"),
    [
        ({"state": "queued", "at": "2027-11-12T13:14:15.5Z", "more": 1}, []),
        ({"state": "running", "at": "2026-01-02T03:04:05Z"}, ["answer.state is 'running' and not 'queued'"]),
        ({"state": "queued"}, ["answer has no at"]),
        ({"state": "queued", "at": None}, ["answer.at is None and not '2026-01-02T03:04:05Z'"]),
        ([], ["answer is [] and not {'state': 'queued', 'at': '2026-01-02T03:04:05Z', '...': ''}"]),
    ],
)
def test_what_differs_is_found(real: Any, difference: list[str]) -> None:
    (example,) = examples(RIGHT)

    assert list(differences(example.answer, real)) == difference


def test_more_fields_differ_where_none_are_left_out() -> None:
    assert list(differences({"a": [1]}, {"a": [1, 2], "b": 1})) == [
        "answer has b too",
        "answer.a has 2 items and not 1",
    ]
