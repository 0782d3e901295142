"""The generated documents: up to date, complete, and of one mind with the code."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openapi_spec_validator
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.docs.markdown import PROJECT, Page, pages

pytestmark = pytest.mark.tier("full")

SCRIPT = PROJECT / "docs" / "generate_docs.py"
SCHEMA_LINE = "# yaml-language-server: $schema=dataset.schema.json"

REPLACE = {
    "description": "Tides by harbour.",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "load_mode": "replace",
    "required_columns": ["harbour"],
}
MERGE = {**REPLACE, "load_mode": "merge", "merge_keys": ["harbour"]}
CREATED = {**REPLACE, "create_table": "from_columns", "columns": {"harbour": "VARCHAR(80)"}}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema(script: ModuleType) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(script.dataset_schema())
    return content


@pytest.fixture
def accepted_by_schema(schema: dict[str, Any]) -> Callable[[Any], bool]:
    return Draft202012Validator(schema).is_valid


def accepted_by_model(folder: Path, content: Any) -> bool:
    from data_share.dataset_files import InvalidDatasetError, read_dataset

    path = folder / "tides.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        read_dataset(path)
    except InvalidDatasetError:
        return False
    return True


# ---- the files are those that the model gives


@pytest.fixture
def run_script(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the script, and return its exit code and what it prints."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["generate_docs.py", *arguments])
        return script.main(), capsys.readouterr().out

    return run


def test_the_files_are_up_to_date(run_script: Callable[..., tuple[int, str]]) -> None:
    assert run_script("--check") == (0, "")


def test_check_names_stale_files_and_leaves_them(
    script: ModuleType,
    run_script: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script, "PROJECT", tmp_path)
    for path in script.generated():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    run_script()
    assert run_script("--check") == (0, "")
    for path in script.generated():
        (tmp_path / path).write_text("old")
        assert run_script("--check") == (1, f"{path} is out of date: make docs\n")
        assert (tmp_path / path).read_text() == "old"
        (tmp_path / path).unlink()
        assert run_script("--check") == (1, f"{path} is out of date: make docs\n")
        assert not (tmp_path / path).exists()
        assert run_script() == (0, f"{path} is written\n")


@pytest.mark.parametrize("path", ["docs/airflow-openapi.yaml", "examples/backend/openapi.yaml"])
def test_the_descriptions_of_calls_are_valid_openapi(path: str) -> None:
    openapi_spec_validator.validate(yaml.safe_load((PROJECT / path).read_text()))


# ---- failures


def test_each_code_and_each_field_of_a_failure_is_explained(script: ModuleType) -> None:
    page = Page.read("docs/failures.md").text
    missing = [
        code.name for code in script.FailureCode if f"| `{code.name}` | {code.cause} | {code.what_to_do} |" not in page
    ]
    assert missing == []
    assert list(script.FAILURE_FIELDS) == list(script.EXAMPLE.to_xcom())


def reports_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the reports of failures in a JSON value."""
    if isinstance(value, dict):
        if {"step", "code", "message"} <= value.keys():
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from reports_in(item)


def test_each_failure_that_a_page_shows_is_one_that_a_step_leaves(script: ModuleType) -> None:
    shown = [
        (page.name, report)
        for page in pages()
        for block in page.blocks
        if block.language == "json"
        for report in reports_in(json.loads(block.content))
    ]
    assert {"docs/alerts.md", "docs/backend.md", "docs/failures.md"} <= {page for page, _ in shown}
    found = []
    for page, report in shown:
        # A field of this name stands for fields that are not shown.
        is_whole = "..." not in report
        # Who left it, the XCom says beside the report.
        beside = {"...", "task_instance_id", "clear_number"}
        of_it = {name: value for name, value in report.items() if name not in beside}
        given = {name: of_it.get(name) for name in ("step", "message", "databricks_run_url", "snowflake_query_id")}
        left = script.Failure(code=script.FailureCode[of_it["code"]], **given).to_xcom()
        made = [(name, left[name]) for name in left if is_whole or name in of_it]
        if made != list(of_it.items()):
            found.append(f"{page} shows {of_it}, and it is {dict(made)}")
    assert not found, "\n".join(found)


# ---- the page


def wrong_rows(script: ModuleType, page: str) -> Iterator[str]:
    from data_share.datasets import SchemaDrift

    for field, info in script.Dataset.model_fields.items():
        rows = [line for line in page.splitlines() if line.startswith(f"| `{field}` |")]
        # The name is the file's name, and no field of the file.
        if len(rows) != (field != "name"):
            yield f"{field} has {len(rows)} rows"
        for row in rows:
            _, kind, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
            if not kind or meaning != info.description or (default == "**required**") != info.is_required():
                yield f"the row of {field} is wrong: {row}"
    for mode in script.LoadMode:
        section = re.split(r"^#{2,3} ", page.partition(f"### `{mode}`\n")[2], flags=re.MULTILINE)[0]
        if f"load_mode: {mode}" not in section:
            yield f"{mode} has no section with an example"
    for policy in SchemaDrift:
        if f"\n| `{policy}` |" not in page.partition("## Schema drift")[2]:
            yield f"{policy} has no row"


def test_the_page_explains_each_field_load_mode_and_drift_policy(script: ModuleType) -> None:
    page = Page.read("docs/datasets.md")
    found = list(wrong_rows(script, page.text))
    assert not found, "\n".join(found)
    assert "name is the file's name" in " ".join(page.text.split())
    assert len([block for block in page.blocks if block.language == "yaml"]) >= 5


# ---- the JSON Schema


def test_the_schema_is_a_valid_one_and_describes_each_field(script: ModuleType, schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema["properties"]) == [name for name in script.Dataset.model_fields if name != "name"]
    assert all(field["description"] for field in schema["properties"].values())
    assert schema["additionalProperties"] is False


def test_the_schema_accepts_the_datasets_of_this_project(accepted_by_schema: Callable[[Any], bool]) -> None:
    from data_share.dataset_files import read_datasets
    from data_share.share_file import share_file

    texts = {path.stem: path.read_text() for path in sorted(share_file().datasets_folder.glob("*.yaml"))}
    datasets, errors = read_datasets()
    # The schema beside them is no dataset file.
    assert ([dataset.name for dataset in datasets], errors) == (list(texts), [])
    assert [name for name, text in texts.items() if text.splitlines()[0] != SCHEMA_LINE] == []
    assert [name for name, text in texts.items() if not accepted_by_schema(yaml.safe_load(text))] == []


ACCEPTED: list[dict[str, Any]] = [
    REPLACE,
    MERGE,
    CREATED,
    {**REPLACE, "load_mode": "append", "schedule": "@hourly"},
    {**REPLACE, "schedule": {"cron": "0 6 * * *", "time_zone": "Europe/Berlin"}, "owner": "sea", "retries": 0},
    {**REPLACE, "schedule": {"asset": "s3://bucket/tides"}, "tags": ["sea", "gold"]},
    {**REPLACE, "schedule": None, "create_table": None, "max_row_change_percent": None},
    {**REPLACE, "merge_keys": [], "delete_missing": False, "columns": {}, "checks": {}},
    {**MERGE, "delete_missing": True, "max_row_change_percent": 2.5, "export_timeout_minutes": 1440},
    {**CREATED, "columns": {"harbour": "char varying (80) Not  Null", "depth": "timestamp(3) with time zone"}},
    {**REPLACE, "create_table": "from_source", "casts": ["depth"], "target_defaults": ["loaded_at"]},
    {**REPLACE, "checks": {"deep": "depth > 0\nOR depth IS NULL"}, "schema_drift": "add_new"},
]
REFUSED: list[Any] = [
    None,
    [REPLACE],
    {**REPLACE, "colour": "blue"},
    {**REPLACE, "name": "tides"},
    *({key: value for key, value in REPLACE.items() if key != field} for field in REPLACE),
    *(
        {**REPLACE, field: value}
        for field, value in [
            ("description", ""),
            ("description", 1),
            ("source_table", "sea.tides"),
            ("source_table", "main.sea.tides; DROP TABLE x"),
            ("target_table", "a.b.c.d"),
            ("target_table", "tides; DROP TABLE x"),
            ("load_mode", "truncate"),
            ("load_mode", "merge"),
            ("merge_keys", ["harbour"]),
            ("delete_missing", True),
            ("schedule", 5),
            ("schedule", {"cron": "0 6 * * *"}),
            ("schedule", {"asset": ""}),
            ("owner", "a, b"),
            ("tags", ["a", "a"]),
            ("retries", 21),
            ("required_columns", []),
            ("required_columns", "harbour"),
            ("required_columns", ["a OR 1=1"]),
            ("required_columns", ["harbour", "harbour"]),
            ("checks", ["depth > 0"]),
            ("checks", {"Deep": "depth > 0"}),
            ("checks", {"deep": "depth > 0; DROP TABLE x"}),
            ("checks", {"deep": ""}),
            ("checks", {"deep": True}),
            ("max_row_change_percent", 0),
            ("max_row_change_percent", "10"),
            ("allow_empty", "true"),
            ("schema_drift", "allow"),
            ("export_timeout_minutes", 0),
            ("export_timeout_minutes", 1441),
            ("export_timeout_minutes", True),
            ("export_timeout_minutes", 1.5),
            ("create_table", "from_columns"),
            ("create_table", "from_export"),
            ("columns", {"harbour": "VARCHAR(80)"}),
        ]
    ),
    {**MERGE, "merge_keys": []},
    {**MERGE, "merge_keys": ["a) OR (1=1"]},
    {**MERGE, "load_mode": "append"},
    {**CREATED, "columns": {}},
    {**CREATED, "columns": {"harbour": "JSONB"}},
    {**CREATED, "columns": {"harbour": "DATE); DROP TABLE x"}},
    {**CREATED, "create_table": "from_source"},
    {**CREATED, "columns": {"harbour": "DATE", "a b": "DATE"}},
]


@pytest.mark.parametrize(("contents", "accepted"), [(ACCEPTED, True), (REFUSED, False)], ids=["accept", "refuse"])
def test_schema_and_model_agree(
    tmp_path: Path, accepted_by_schema: Callable[[Any], bool], contents: list[Any], accepted: bool
) -> None:
    answers = [(content, accepted_by_model(tmp_path, content), accepted_by_schema(content)) for content in contents]
    found = [
        f"{content}: model {model}, schema {schema}"
        for content, model, schema in answers
        if not model == schema == accepted
    ]
    assert not found, "\n".join(found)
