"""Dataset files: what is accepted, and how a wrong one is reported without stopping the others."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import _serialize_dags
from pydantic import ValidationError

from data_share.column_types import SYNONYMS
from data_share.datasets import (
    CHECKS_OF_EVERY_SYNC,
    DATASETS_FOLDER,
    InvalidDatasetDag,
    InvalidDatasetError,
    LoadMode,
    SchemaDrift,
    read_dataset,
    read_datasets,
)

PROJECT = Path(__file__).resolve().parents[3]
VALID = {
    "description": "Tides by harbour.",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "load_mode": "replace",
    "required_columns": ["harbour"],
}
TEXT = yaml.safe_dump(VALID)
MERGE = {"load_mode": "merge", "merge_keys": ["harbour"]}
COLUMNS = {"create_table": "from_columns", "columns": {"harbour": "VARCHAR(80)"}}
LEFT_OUT = object()

COLUMN_PATTERN = "'^[A-Za-z_][A-Za-z0-9_]{0,254}$'"
SOURCE_PATTERN = r"'^[A-Za-z0-9_]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+$'"
TARGET_PATTERN = r"'^([A-Za-z_][A-Za-z0-9_]*\.){0,2}[A-Za-z_][A-Za-z0-9_]{0,199}$'"
CHECK_NAME_PATTERN = "'^[a-z][a-z0-9_]{0,99}$'"
NAME_PATTERN = "'^[a-z][a-z0-9_]{0,59}$'"
KNOWN_TYPES = (
    f"known are {', '.join(name for names in SYNONYMS.values() for name in names)}, with NOT NULL behind them or not"
)
NO_TYPE = "'DATE); DROP TABLE X' is no type of Snowflake that is known here"
PRESETS = "@continuous, @daily, @hourly, @monthly, @once, @quarterly, @weekly, @yearly"
NOT_YAML = "it cannot be read as YAML"


def write(folder: Path, stem: str = "tides", **changes: Any) -> Path:
    """Write a dataset file that is right but for the changes."""
    return write_text(folder, text(**changes), stem)


def text(**changes: Any) -> str:
    """Return the text of a dataset file that is right but for the changes."""
    return yaml.safe_dump({key: value for key, value in {**VALID, **changes}.items() if value is not LEFT_OUT})


def write_text(folder: Path, content: str, stem: str = "tides") -> Path:
    path = folder / "include" / "datasets" / f"{stem}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def problem_with(path: Path) -> str:
    """Return what is said about a file that is not valid."""
    with pytest.raises(InvalidDatasetError) as caught:
        read_dataset(path)
    return str(caught.value)


def test_the_datasets_of_this_project_are_valid() -> None:
    datasets, invalid = read_datasets()
    assert invalid == []
    assert "shared_forecasts" in [dataset.name for dataset in datasets]
    assert len(datasets) == len(list(DATASETS_FOLDER.glob("*.yaml")))


def test_a_file_becomes_a_dataset_named_after_it(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, checks={"harbour_short": "LENGTH(harbour) < 40"}, schedule="0 5 * * *"))
    assert (dataset.name, dataset.dag_id) == ("tides", "sync_tides")
    assert dataset.required_columns == ("harbour",)
    assert dataset.checks == {"harbour_short": "LENGTH(harbour) < 40"}
    assert dataset.schedule == "0 5 * * *"
    assert not dataset.allow_empty
    assert dataset.schema_drift is SchemaDrift.STRICT


def test_a_dataset_is_merged_on_keys_into_a_table_made_from_its_columns(tmp_path: Path) -> None:
    columns = {"harbour": "VARCHAR(80)", "Day": "DATE", "depth": "NUMBER(6, 2)"}
    dataset = read_dataset(
        write(
            tmp_path,
            load_mode="merge",
            merge_keys=["HARBOUR", "day"],
            delete_missing=True,
            max_row_change_percent=30,
            schema_drift="add_new",
            create_table="from_columns",
            columns=columns,
        )
    )
    assert (dataset.load_mode, dataset.merge_keys, dataset.delete_missing) == (LoadMode.MERGE, ("HARBOUR", "day"), True)
    assert (dataset.create_table, dataset.columns) == ("from_columns", columns)
    assert dataset.max_row_change_percent == 30
    assert dataset.schema_drift is SchemaDrift.ADD_NEW


def test_types_of_columns_have_any_name_of_snowflakes_in_any_case(tmp_path: Path) -> None:
    columns = {
        "harbour": "Text not  null",
        "a": "BIGINT",
        "b": "decimal(38,6)",
        "c": "CHAR(20) NOT NULL",
        "d": "timestamp",
        "e": "double precision",
    }
    dataset = read_dataset(write(tmp_path, create_table="from_columns", columns=columns))
    assert dataset.columns == {
        "harbour": "VARCHAR NOT NULL",
        "a": "NUMBER(38, 0)",
        "b": "NUMBER(38, 6)",
        "c": "VARCHAR(20) NOT NULL",
        "d": "TIMESTAMP_NTZ",
        "e": "FLOAT",
    }


def test_a_target_is_made_from_the_source_with_casts_and_defaults(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, create_table="from_source", casts=["depth"], target_defaults=["loaded_at"]))
    assert (dataset.create_table, dataset.casts, dataset.target_defaults) == ("from_source", ("depth",), ("loaded_at",))


def test_keys_and_required_columns_bring_checks_along(tmp_path: Path) -> None:
    checks = {"deep": "depth > 0"}
    dataset = read_dataset(
        write(
            tmp_path,
            load_mode="merge",
            # The second one is a key word of SQL.
            merge_keys=["harbour", "group"],
            required_columns=["group", "depth"],
            checks=checks,
        )
    )
    assert dataset.all_checks == {
        "harbour_not_null": '"HARBOUR" IS NOT NULL',
        "group_not_null": '"GROUP" IS NOT NULL',
        "depth_not_null": '"DEPTH" IS NOT NULL',
        "merge_keys_unique": 'COUNT(*) = COUNT(DISTINCT "HARBOUR", "GROUP")',
        "deep": "depth > 0",
    }


def test_a_dataset_takes_the_place_of_no_check_of_the_dag(sync_datasets: ModuleType, tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, max_row_change_percent=10, checks={"deep": "depth > 0"}))
    checks = sync_datasets.sync_dag(dataset).get_task("check_staging").checks
    # The values are compared beside the conditions.
    assert {*checks, "values_match_manifest"} - set(dataset.all_checks) == CHECKS_OF_EVERY_SYNC


def test_a_dataset_is_frozen(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        dataset.target_table = "other"  # type: ignore[misc]


@pytest.mark.parametrize("schedule", [None, "@daily", "*/15 * * * *"])
def test_a_schedule_is_nothing_a_preset_or_a_cron_expression(tmp_path: Path, schedule: str | None) -> None:
    assert read_dataset(write(tmp_path, schedule=schedule)).schedule == schedule


# What is wrong, the file, and the one line that is said about it.
MISTAKES = [
    ("unknown field", text(colour="blue"), "colour: Extra inputs are not permitted (found: 'blue')"),
    ("field that is no text", TEXT + "1: x\n", "1: Keys should be strings (found: 1)"),
    ("missing field", text(source_table=LEFT_OUT), "source_table: Field required (found: nothing)"),
    ("field without a value", TEXT + "checks:\n", "checks: Input should be a mapping (found: None)"),
    (
        "empty description",
        text(description=""),
        "description: String should have at least 1 character (found: '')",
    ),
    (
        "date for a text",
        TEXT.replace("Tides by harbour.", "2026-02-03"),
        "description: Input should be a valid string (found: datetime.date(2026, 2, 3))",
    ),
    (
        "text for a list",
        text(required_columns="harbour"),
        "required_columns: Input should be a list (found: 'harbour')",
    ),
    (
        "list for a text",
        text(target_table=["tides"]),
        "target_table: Input should be a valid string (found: ['tides'])",
    ),
    ("list for a mapping", text(checks=["depth > 0"]), "checks: Input should be a mapping (found: ['depth > 0'])"),
    ("text for a boolean", text(allow_empty="true"), "allow_empty: Input should be a valid boolean (found: 'true')"),
    (
        "number for a boolean",
        text(delete_missing=1, **MERGE),
        "delete_missing: Input should be a valid boolean (found: 1)",
    ),
    (
        "text for a number",
        text(export_timeout_minutes="30"),
        "export_timeout_minutes: Input should be a valid integer (found: '30')",
    ),
    (
        "number for a condition",
        text(checks={"depth": 1}),
        "checks.depth: Input should be a valid string (found: 1)",
    ),
    (
        "timeout of 0",
        text(export_timeout_minutes=0),
        "export_timeout_minutes: Input should be greater than or equal to 1 (found: 0)",
    ),
    (
        "timeout too large",
        text(export_timeout_minutes=1441),
        "export_timeout_minutes: Input should be less than or equal to 1440 (found: 1441)",
    ),
    (
        "timeout with more digits than Python writes",
        TEXT + f"export_timeout_minutes: 0x{'f' * 5000}\n",
        "export_timeout_minutes: Input should be less than or equal to 1440 (found: a huge number)",
    ),
    (
        "percent of 0",
        text(max_row_change_percent=0),
        "max_row_change_percent: Input should be greater than 0 (found: 0)",
    ),
    (
        "endless percent",
        text(max_row_change_percent=float("inf")),
        "max_row_change_percent: Input should be a finite number (found: inf)",
    ),
    (
        "source without catalog",
        text(source_table="sea.tides"),
        f"source_table: String should match pattern {SOURCE_PATTERN} (found: 'sea.tides')",
    ),
    (
        "SQL in the source",
        text(source_table="main.sea.tides; DROP TABLE x"),
        f"source_table: String should match pattern {SOURCE_PATTERN} (found: 'main.sea.tides; DROP TABLE x')",
    ),
    (
        "quotes in the source",
        text(source_table="main.sea.`tides`"),
        f"source_table: String should match pattern {SOURCE_PATTERN} (found: 'main.sea.`tides`')",
    ),
    (
        "SQL in the target",
        text(target_table="tides; DROP TABLE x"),
        f"target_table: String should match pattern {TARGET_PATTERN} (found: 'tides; DROP TABLE x')",
    ),
    (
        "line break after the target",
        text(target_table="tides\n"),
        f"target_table: String should match pattern {TARGET_PATTERN} (found: 'tides\\n')",
    ),
    (
        "target of four parts",
        text(target_table="a.b.c.d"),
        f"target_table: String should match pattern {TARGET_PATTERN} (found: 'a.b.c.d')",
    ),
    (
        "digit before the target",
        text(target_table="1tides"),
        f"target_table: String should match pattern {TARGET_PATTERN} (found: '1tides')",
    ),
    (
        "no required column",
        text(required_columns=[]),
        "required_columns: List should have at least 1 item after validation, not 0 (found: [])",
    ),
    (
        "SQL in the only required column",
        text(required_columns=["a OR 1=1"]),
        f"required_columns.0: String should match pattern {COLUMN_PATTERN} (found: 'a OR 1=1')",
    ),
    (
        "SQL in another required column",
        text(required_columns=["harbour", "a OR 1=1"]),
        f"required_columns.1: String should match pattern {COLUMN_PATTERN} (found: 'a OR 1=1')",
    ),
    (
        "SQL in a merge key",
        text(load_mode="merge", merge_keys=["harbour) OR (1=1"]),
        f"merge_keys.0: String should match pattern {COLUMN_PATTERN} (found: 'harbour) OR (1=1')",
    ),
    (
        "SQL in a column",
        text(create_table="from_columns", columns={"harbour": "DATE", "a DATE, b": "DATE"}),
        f"columns.a DATE, b.[key]: String should match pattern {COLUMN_PATTERN} (found: 'a DATE, b')",
    ),
    (
        "SQL in the name of a check",
        text(checks={"x' AS a": "depth > 0"}),
        f"checks.x' AS a.[key]: String should match pattern {CHECK_NAME_PATTERN} (found: \"x' AS a\")",
    ),
    (
        "semicolon in a check",
        text(checks={"deep": "depth > 0; DROP TABLE x"}),
        "checks.deep: String should match pattern '^[^;]*$' (found: 'depth > 0; DROP TABLE x')",
    ),
    (
        "check of blanks",
        text(checks={"deep": "   "}),
        "checks.deep: String should have at least 1 character (found: '   ')",
    ),
    (
        "check with a name of every sync",
        text(checks={"rows_match_manifest": "TRUE"}),
        "checks: rows_match_manifest would replace the check of this name that each sync has",
    ),
    (
        "check with the name of a required column's",
        text(checks={"harbour_not_null": "TRUE"}),
        "checks: harbour_not_null would replace the check of this name that each sync has",
    ),
    (
        "unknown load mode",
        text(load_mode="truncate"),
        "load_mode: Input should be 'replace', 'append' or 'merge' (found: 'truncate')",
    ),
    ("merge without keys", text(load_mode="merge"), "merge_keys: load_mode merge needs at least one"),
    ("keys for replace", text(merge_keys=["harbour"]), "merge_keys: only for load_mode merge, not for replace"),
    (
        "delete_missing for append",
        text(load_mode="append", delete_missing=True),
        "delete_missing: only for load_mode merge, not for append",
    ),
    (
        "required column twice, in another case",
        text(required_columns=["harbour", "HARBOUR"]),
        "required_columns: HARBOUR is there more than once (case does not count) (found: ['harbour', 'HARBOUR'])",
    ),
    (
        "key twice, in another case",
        text(load_mode="merge", merge_keys=["Harbour", "harbour"]),
        "merge_keys: HARBOUR is there more than once (case does not count) (found: ['Harbour', 'harbour'])",
    ),
    (
        "column twice, in another case",
        text(create_table="from_columns", columns={"day": "DATE", "Day": "DATE"}),
        "columns: DAY is there more than once (case does not count) (found: {'Day': 'DATE', 'day': 'DATE'})",
    ),
    (
        "schedule in words",
        text(schedule="every day"),
        f"schedule: 'every day' is neither a cron expression nor one of {PRESETS} (found: 'every day')",
    ),
    (
        "unknown preset",
        text(schedule="@sometimes"),
        f"schedule: '@sometimes' is neither a cron expression nor one of {PRESETS} (found: '@sometimes')",
    ),
    (
        "minute 61",
        text(schedule="61 * * * *"),
        f"schedule: '61 * * * *' is neither a cron expression nor one of {PRESETS} (found: '61 * * * *')",
    ),
    (
        "30 February",
        text(schedule="0 6 30 2 *"),
        "schedule: '0 6 30 2 *' never comes (found: '0 6 30 2 *')",
    ),
    (
        "more digits than Snowflake has",
        text(create_table="from_columns", columns={"day": "DATE", "depth": "NUMBER(39, 2)"}),
        f"columns.depth: 'NUMBER(39, 2)': a number has 1 to 38 digits; {KNOWN_TYPES} (found: 'NUMBER(39, 2)')",
    ),
    (
        "unknown drift policy",
        text(schema_drift="allow"),
        "schema_drift: Input should be 'strict', 'ignore_new' or 'add_new' (found: 'allow')",
    ),
    (
        "unknown column type",
        text(create_table="from_columns", columns={"harbour": "jsonb"}),
        f"columns.harbour: 'JSONB' is no type of Snowflake that is known here; {KNOWN_TYPES} (found: 'jsonb')",
    ),
    (
        "SQL in a column type",
        text(create_table="from_columns", columns={"harbour": "DATE); DROP TABLE x"}),
        f"columns.harbour: {NO_TYPE}; {KNOWN_TYPES} (found: 'DATE); DROP TABLE x')",
    ),
    (
        "columns without create_table",
        text(columns={"harbour": "DATE"}),
        "columns: only with create_table: from_columns",
    ),
    (
        "columns for a table made from the source",
        text(**{**COLUMNS, "create_table": "from_source"}),
        "columns: only with create_table: from_columns",
    ),
    (
        "cast of a merge key, in another case",
        text(load_mode="merge", merge_keys=["harbour", "Day"], casts=["depth", "DAY"]),
        "casts: DAY is a merge key; if it changed, another row would be overwritten",
    ),
    (
        "cast of a column that is not in columns",
        text(casts=["depth"], **COLUMNS),
        "casts: depth not in columns",
    ),
    (
        "default of a required column",
        text(target_defaults=["loaded_at", "Harbour"]),
        "target_defaults: Harbour must come from the source: a key or a required column",
    ),
    (
        "create_table without columns",
        text(create_table="from_columns"),
        "columns: create_table from_columns needs them",
    ),
    (
        "unknown way to create the table",
        text(**{**COLUMNS, "create_table": "from_export"}),
        "create_table: Input should be 'from_columns' or 'from_source' (found: 'from_export')",
    ),
    (
        "key that is not in columns",
        text(load_mode="merge", merge_keys=["harbour", "day"], **COLUMNS),
        "merge_keys: day not in columns",
    ),
    (
        "required column that is not in columns",
        text(required_columns=["HARBOUR", "day"], **COLUMNS),
        "required_columns: day not in columns",
    ),
    ("name in the file", text(name="tides"), "name: the file's name is the dataset's name; leave this field out"),
    ("empty file", "", "it must hold fields, as in 'source_table: main.weather.forecasts'"),
    ("comments only", "# tides\n", "it must hold fields, as in 'source_table: main.weather.forecasts'"),
    ("a list", "- main.sea.tides", "it must hold fields, as in 'source_table: main.weather.forecasts'"),
    ("a sentence", "just words", "it must hold fields, as in 'source_table: main.weather.forecasts'"),
    (
        "not YAML",
        "description: [",
        f"{NOT_YAML}: while parsing a flow node: did not find expected node content (line 2, column 1)",
    ),
    (
        "preset without quotes",
        TEXT + "schedule: @daily\n",
        (
            f"{NOT_YAML}: while scanning for the next token: found character that cannot start any token"
            " (line 7, column 11)"
        ),
    ),
    (
        "two documents",
        f"{TEXT}---\n{TEXT}",
        f"{NOT_YAML}: expected a single document in the stream: but found another document (line 7, column 1)",
    ),
    ("field twice", TEXT + "load_mode: append\n", f"{NOT_YAML}: load_mode is there more than once (line 7, column 1)"),
    (
        "check twice",
        TEXT + "checks:\n  deep: depth > 0\n  deep: depth > 1\n",
        f"{NOT_YAML}: deep is there more than once (line 9, column 3)",
    ),
    ("no such date", TEXT + "schedule: 2026-02-30\n", f"{NOT_YAML}: day is out of range for month"),
    (
        "a list as a field",
        TEXT + "? [a, b]\n: c\n",
        f"{NOT_YAML}: while constructing a mapping: found unhashable key (line 7, column 3)",
    ),
    (
        "a Python object",
        TEXT + "checks: !!python/object/apply:os.system [ls]\n",
        (
            f"{NOT_YAML}: could not determine a constructor for the tag"
            " 'tag:yaml.org,2002:python/object/apply:os.system' (line 7, column 9)"
        ),
    ),
    (
        "a Python name",
        TEXT + "checks: !!python/name:os.system\n",
        (
            f"{NOT_YAML}: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'"
            " (line 7, column 9)"
        ),
    ),
    (
        "fields taken over with <<",
        TEXT + "checks:\n  <<: {deep: depth > 0}\n",
        f"{NOT_YAML}: << is not supported (line 8, column 3)",
    ),
    ("a file of 1 MB", TEXT + "#" * 1_000_000, f"{NOT_YAML}: more than 100000 characters"),
]


@pytest.mark.parametrize(
    ("content", "line"), [pytest.param(content, line, id=mistake) for mistake, content, line in MISTAKES]
)
def test_a_mistake_is_reported_in_one_line_with_file_field_and_reason(tmp_path: Path, content: str, line: str) -> None:
    assert problem_with(write_text(tmp_path, content)) == (
        f"include/datasets/tides.yaml is not a valid dataset file:\n  {line}"
    )


def test_each_wrong_field_has_its_own_line(tmp_path: Path) -> None:
    problem = problem_with(write(tmp_path, load_mode="truncate", source_table=LEFT_OUT))
    assert [line.split(":")[0].strip() for line in problem.splitlines()[1:]] == ["source_table", "load_mode"]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    assert problem_with(path).splitlines()[1:] == [
        f"  {NOT_YAML}: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    ]


def test_a_file_that_is_not_there_any_more_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.unlink()
    assert f"{NOT_YAML}: [Errno 2] No such file or directory" in problem_with(path)


def aliases_of_aliases(innermost: str, item: str) -> str:
    """Return lines of YAML, each ten times as large as the line before."""
    lines = [f"a0: &a0 {innermost}"]
    lines += [f"a{n}: &a{n} {item.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 13)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(aliases_of_aliases("[x]", "[{}]") + text(), id="lists"),
        pytest.param(aliases_of_aliases("{x: y}", "{{<<: [{}]}}") + text(), id="merged mappings"),
        pytest.param(aliases_of_aliases("[x]", "[{}]") + text(required_columns=LEFT_OUT) + "required_columns: *a12\n"),
        pytest.param(TEXT + "checks: &checks {deep: *checks}\n", id="in itself"),
        pytest.param(TEXT + f"checks: {'[' * 45_000}{']' * 45_000}\n", id="deep"),
        pytest.param(text(required_columns=[1] * 20_000), id="many mistakes"),
        pytest.param(text(source_table="x" * 90_000), id="a long value"),
    ],
)
def test_what_is_said_about_a_huge_value_is_short(tmp_path: Path, content: str) -> None:
    assert len(problem_with(write_text(tmp_path, content))) < 10_000


@pytest.mark.parametrize("opened", [("[", "]"), ("{a: ", "}")])
def test_a_value_that_is_too_deep_is_refused(tmp_path: Path, opened: tuple[str, str]) -> None:
    before, after = opened
    assert "more than 20 levels" in problem_with(write_text(tmp_path, TEXT + f"checks: {before * 20}{after * 20}\n"))
    assert "levels" not in problem_with(write_text(tmp_path, TEXT + f"checks: {before * 19}{after * 19}\n"))


def test_a_value_may_be_named_and_used_again(tmp_path: Path) -> None:
    content = text(required_columns=LEFT_OUT, load_mode="merge") + "merge_keys: &keys [a, b]\nrequired_columns: *keys\n"
    assert read_dataset(write_text(tmp_path, content)).required_columns == ("a", "b")


def test_of_many_mistakes_the_first_twenty_are_listed(tmp_path: Path) -> None:
    lines = problem_with(write(tmp_path, required_columns=list(range(23)))).splitlines()[1:]
    assert len(lines) == 21
    assert lines[19].startswith("  required_columns.19: ")
    assert lines[20] == "  and 3 more"


@pytest.mark.parametrize("name", ["Tides", "1tides", "tides-of-may", "t" * 61])
def test_a_file_name_that_is_no_dataset_name_is_refused(tmp_path: Path, name: str) -> None:
    path = write_text(tmp_path, TEXT, name)
    assert problem_with(path).splitlines()[1:] == [
        f"  name: String should match pattern {NAME_PATTERN} (found: '{name}')"
    ]


def test_an_invalid_file_leaves_the_others_valid(tmp_path: Path) -> None:
    write(tmp_path, "a_valid", target_table="a")
    bad = write(tmp_path, "b_bad", load_mode="truncate")
    write(tmp_path, "c_valid", target_table="c")
    datasets, invalid = read_datasets(bad.parent)
    assert [dataset.name for dataset in datasets] == ["a_valid", "c_valid"]
    assert [error.path for error in invalid] == [bad]


def test_a_target_belongs_to_one_dataset(tmp_path: Path) -> None:
    first = write(tmp_path, "first", target_table="sea.tides")
    second = write(tmp_path, "second", target_table="SEA.Tides")
    write(tmp_path, "third", target_table="tides")
    datasets, invalid = read_datasets(first.parent)
    assert [dataset.name for dataset in datasets] == ["third"]
    # Neither is taken: the one that comes first in the alphabet might be the one that was added by mistake.
    assert [(error.path, error.problems) for error in invalid] == [
        (first, ["target_table: sea.tides is the target of second too"]),
        (second, ["target_table: SEA.Tides is the target of first too"]),
    ]


def test_files_that_are_not_yaml_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path)
    for name in ("dataset.schema.json", "README.md", ".tides.yaml.swp", ".#tides.yaml"):
        (path.parent / name).write_text("{}")
    datasets, invalid = read_datasets(path.parent)
    assert ([dataset.name for dataset in datasets], invalid) == (["tides"], [])


@pytest.mark.parametrize("ending", [".yml", ".YAML", ".Yml"])
def test_a_file_with_another_ending_is_refused_and_not_passed_over(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path)
    other = path.rename(path.with_suffix(ending))
    assert [(error.path, error.problems) for error in read_datasets(path.parent)[1]] == [
        (other, ["the file's name must end in .yaml"])
    ]


@pytest.fixture
def project_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the DAGs and what they read, and have the datasets read from the copy."""
    for folder in ("dags", "include"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(read_datasets, "__defaults__", (tmp_path / "include" / "datasets",))
    return tmp_path


@pytest.mark.parametrize("name", ["b_bad", "bad name", "Bädname", "b" * 250])
def test_airflow_shows_an_invalid_dataset_as_one_import_error_and_keeps_the_others(
    project_copy: Path, name: str
) -> None:
    write(project_copy, name, load_mode="truncate")
    bag = DagBag(project_copy / "dags" / "sync_datasets.py", bundle_path=project_copy, bundle_name="copy")
    serialized, errors = _serialize_dags(bag, structlog.get_logger())

    assert bag.import_errors == {}
    assert sorted(dag.dag_id for dag in serialized) == [dataset.dag_id for dataset in read_datasets(DATASETS_FOLDER)[0]]
    assert list(errors) == [f"include/datasets/{name}.yaml"]
    [error] = errors.values()
    assert f"include/datasets/{name}.yaml is not a valid dataset file" in error
    assert "load_mode: Input should be 'replace'" in error
    assert "(found: 'truncate')" in error


def test_the_stand_in_of_an_invalid_dataset_keeps_the_dataset_file_as_its_own(tmp_path: Path) -> None:
    dag = InvalidDatasetDag(InvalidDatasetError(write(tmp_path), ["load_mode: wrong"]))
    dag.relative_fileloc = "sync_datasets.py"
    assert dag.relative_fileloc == "include/datasets/tides.yaml"
