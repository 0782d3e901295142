"""The generated documents: up to date, complete, and of one mind with the code."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from data_share.datasets import (
    DATASETS_FOLDER,
    Dataset,
    InvalidDatasetError,
    LoadMode,
    SchemaDrift,
    read_dataset,
    read_datasets,
)
from data_share.failure_codes import FailureCode

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "docs" / "generate_docs.py"
SCHEMA_LINE = "# yaml-language-server: $schema=dataset.schema.json"
PAGE = (PROJECT / "docs" / "datasets.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
DATASET_FILES = sorted(DATASETS_FOLDER.glob("*.yaml"))
FIELDS = [name for name in Dataset.model_fields if name != "name"]

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
    path = folder / "tides.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        read_dataset(path)
    except InvalidDatasetError:
        return False
    return True


# ---- the files are those that the model gives


def test_the_files_are_up_to_date(script: ModuleType) -> None:
    for path, content in script.generated().items():
        assert (PROJECT / path).read_text(encoding="utf-8") == content, "make docs"


@pytest.fixture
def written(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the script write to a folder of the test."""
    monkeypatch.setattr(script, "PROJECT", tmp_path)
    for folder in ("docs", "include/datasets"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["generate_docs.py"])
    assert script.main() == 0
    return tmp_path


def test_what_was_written_is_up_to_date(
    script: ModuleType, written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["generate_docs.py", "--check"])
    assert script.main() == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stale", ["docs/datasets.md", "docs/failures.md", "include/datasets/dataset.schema.json"])
@pytest.mark.parametrize("missing", [True, False])
def test_check_names_the_stale_file_and_leaves_it(
    script: ModuleType,
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stale: str,
    missing: bool,
) -> None:
    capsys.readouterr()
    (written / stale).write_text("old")
    if missing:
        (written / stale).unlink()
    monkeypatch.setattr(sys, "argv", ["generate_docs.py", "--check"])
    assert script.main() == 1
    assert capsys.readouterr().out == f"{stale} is out of date: make docs\n"
    assert (written / stale).exists() is not missing
    assert missing or (written / stale).read_text() == "old"


# ---- failures


def test_each_code_of_a_failure_is_explained() -> None:
    page = (PROJECT / "docs" / "failures.md").read_text(encoding="utf-8")
    for code in FailureCode:
        assert f"| `{code.name}` | {code.cause} | {code.what_to_do} |" in page


def test_the_command_of_make_check_works(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": "plugins", "HOME": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# ---- the page


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_has_a_row_with_its_meaning(field: str) -> None:
    info = Dataset.model_fields[field]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{field}` |")]
    _, kind, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
    assert kind
    assert meaning == info.description
    assert (default == "**required**") == info.is_required()


def test_the_page_has_no_row_for_the_name_which_is_no_field_of_the_file() -> None:
    assert "| `name` |" not in PAGE
    assert "name is the file's name" in " ".join(PAGE.split())


@pytest.mark.parametrize("mode", LoadMode)
def test_each_load_mode_has_a_section_with_an_example(mode: LoadMode) -> None:
    section = re.split(r"^#{2,3} ", PAGE.partition(f"### `{mode}`\n")[2], flags=re.MULTILINE)[0]
    assert f"load_mode: {mode}" in section


@pytest.mark.parametrize("policy", SchemaDrift)
def test_each_drift_policy_has_a_row(policy: SchemaDrift) -> None:
    assert f"\n| `{policy}` |" in PAGE.partition("## Schema drift")[2]


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 5
    assert PAGE.count("```yaml") == len(EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_valid_dataset_file(
    example: str, tmp_path: Path, accepted_by_schema: Callable[[Any], bool]
) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert read_dataset(path).name == "example"
    assert accepted_by_schema(yaml.safe_load(example))


# ---- the JSON Schema


def test_the_schema_is_a_valid_one_and_describes_each_field(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema["properties"]) == FIELDS
    assert all(field["description"] for field in schema["properties"].values())
    assert schema["additionalProperties"] is False


def test_the_schema_is_no_dataset_file() -> None:
    datasets, errors = read_datasets()
    assert [dataset.name for dataset in datasets] == [path.stem for path in DATASET_FILES]
    assert errors == []


@pytest.mark.parametrize("path", DATASET_FILES, ids=lambda path: path.name)
def test_the_schema_accepts_the_datasets_of_this_project(path: Path, accepted_by_schema: Callable[[Any], bool]) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == SCHEMA_LINE
    assert accepted_by_schema(yaml.safe_load(text))


@pytest.mark.parametrize(
    "content",
    [
        REPLACE,
        MERGE,
        CREATED,
        {**REPLACE, "load_mode": "append", "schedule": "@hourly"},
        {**REPLACE, "schedule": None, "create_table": None, "max_row_change_percent": None},
        {**REPLACE, "merge_keys": [], "delete_missing": False, "columns": {}, "checks": {}},
        {**MERGE, "delete_missing": True, "max_row_change_percent": 2.5, "export_timeout_minutes": 1440},
        {**CREATED, "columns": {"harbour": "char varying (80) Not  Null", "depth": "timestamp(3) with time zone"}},
        {**REPLACE, "create_table": "from_source", "casts": ["depth"], "target_defaults": ["loaded_at"]},
        {**REPLACE, "checks": {"deep": "depth > 0\nOR depth IS NULL"}, "schema_drift": "add_new"},
    ],
)
def test_schema_and_model_accept_the_same(
    content: dict[str, Any], tmp_path: Path, accepted_by_schema: Callable[[Any], bool]
) -> None:
    assert accepted_by_model(tmp_path, content)
    assert accepted_by_schema(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="empty"),
        pytest.param([REPLACE], id="a list"),
        pytest.param({**REPLACE, "colour": "blue"}, id="unknown field"),
        pytest.param({**REPLACE, "name": "tides"}, id="name"),
        *(
            pytest.param({key: value for key, value in REPLACE.items() if key != field}, id=f"no {field}")
            for field in REPLACE
        ),
        *(
            pytest.param({**REPLACE, field: value}, id=f"{field}: {value}")
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
        pytest.param({**MERGE, "merge_keys": []}, id="no merge key"),
        pytest.param({**MERGE, "merge_keys": ["a) OR (1=1"]}, id="SQL in a merge key"),
        pytest.param({**MERGE, "load_mode": "append"}, id="merge keys for append"),
        pytest.param({**CREATED, "columns": {}}, id="no columns"),
        pytest.param({**CREATED, "columns": {"harbour": "JSONB"}}, id="unknown type"),
        pytest.param({**CREATED, "columns": {"harbour": "DATE); DROP TABLE x"}}, id="SQL in a type"),
        pytest.param({**CREATED, "create_table": "from_source"}, id="columns for a table from the source"),
        pytest.param({**CREATED, "columns": {"harbour": "DATE", "a b": "DATE"}}, id="SQL in a column"),
    ],
)
def test_schema_and_model_refuse_the_same(
    content: Any, tmp_path: Path, accepted_by_schema: Callable[[Any], bool]
) -> None:
    assert not accepted_by_model(tmp_path, content)
    assert not accepted_by_schema(content)
