"""Dataset files: what is accepted, and how a wrong one is reported without stopping the others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlglot
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_share.column_types import SYNONYMS
from data_share.dataset_files import InvalidDatasetError, read_dataset, read_datasets
from data_share.datasets import CHECKS_OF_EVERY_SYNC, LoadMode, SchemaDrift, is_about_all_rows, not_one_condition
from data_share.invalid_dataset import InvalidDatasetDag
from data_share.share import Share
from data_share.share_file import share_file
from data_share.sql_files import SQL_FOLDER, render_sql
from data_share.sync import Sync
from tests import shipped
from tests.plugins.data_share.conftest import known_sync
from tests.shipped import left_out

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

NO_COLUMN = """no plain name; put any other name in double quotes, as in '"Net price"'"""
NO_SOURCE = (
    "not of the form catalog.schema.table; a name must not contain a dot, a blank, a slash or a control character, and "
    "a name that contains a backtick must be in backticks"
)
NO_TARGET = (
    "not of the form table, schema.table or database.schema.table; put a name that is not plain in double "
    """quotes, as in 'sea."Tides 2026"'"""
)
KNOWN_TYPES = (
    f"known are {', '.join(name for names in SYNONYMS.values() for name in names)}, with or without NOT NULL after them"
)
PRESETS = "@continuous, @daily, @hourly, @monthly, @once, @quarterly, @weekly, @yearly"
FIVE_FIELDS = "fields; a schedule has five: minute, hour, day of month, month, day of week"
NOT_YAML = "it cannot be read as YAML"


def write(folder: Path, stem: str = "tides", **changes: Any) -> Path:
    """Write a dataset file that is right but for the changes."""
    return write_text(folder, text(**changes), stem)


def text(**changes: Any) -> str:
    """Return the text of a dataset file that is right but for the changes."""
    # JSON is YAML too, and is written a hundred times faster.
    lines = {
        key: json.dumps(value, ensure_ascii=False)
        for key, value in {**VALID, **changes}.items()
        if value is not LEFT_OUT
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


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
    assert len(datasets) == len(list(share_file().datasets_folder.glob("*.yaml")))


def test_a_file_becomes_a_dataset_named_after_it(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, checks={"harbour_short": "LENGTH(harbour) < 40"}, schedule="0 5 * * *"))
    assert (dataset.name, dataset.dag_id) == ("tides", "sync_tides")
    assert dataset.required_columns == ("HARBOUR",)
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
    assert (dataset.load_mode, dataset.merge_keys, dataset.delete_missing) == (LoadMode.MERGE, ("HARBOUR", "DAY"), True)
    stored = {"HARBOUR": "VARCHAR(80)", "DAY": "DATE", "DEPTH": "NUMBER(6, 2)"}
    assert (dataset.create_table, dataset.columns) == ("from_columns", stored)
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
        "HARBOUR": "VARCHAR NOT NULL",
        "A": "NUMBER(38, 0)",
        "B": "NUMBER(38, 6)",
        "C": "VARCHAR(20) NOT NULL",
        "D": "TIMESTAMP_NTZ",
        "E": "FLOAT",
    }


def test_a_target_is_made_from_the_source_with_casts_and_defaults(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, create_table="from_source", casts=["depth"], target_defaults=["loaded_at"]))
    assert (dataset.create_table, dataset.casts, dataset.target_defaults) == ("from_source", ("DEPTH",), ("LOADED_AT",))


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


def test_a_column_is_named_as_snowflake_stores_it(tmp_path: Path) -> None:
    columns = {
        "harbour": "HARBOUR",
        "_x$1": "_X$1",
        '"HARBOUR"': "HARBOUR",
        '"observedAt"': "observedAt",
        '"Net price"': "Net price",
        '"größe"': "größe",
        '"a.b"': "a.b",
        '"say ""hi"""': 'say "hi"',
        '"select"': "select",
        '"\'; -- {{ x }} \\"': "'; -- {{ x }} \\",
    }
    for written, stored in columns.items():
        fields = {"merge_keys": [written], "required_columns": [written], "columns": {written: "DATE"}}
        dataset = read_dataset(write(tmp_path, load_mode="merge", create_table="from_columns", **fields))
        named = (dataset.merge_keys, dataset.required_columns, dataset.columns)
        assert named == ((stored,), (stored,), {stored: "DATE"})
        in_sql = '"' + stored.replace('"', '""') + '"'
        assert f"{in_sql} IS NOT NULL" in dataset.all_checks.values()
        assert dataset.all_checks["merge_keys_unique"] == f"COUNT(*) = COUNT(DISTINCT {in_sql})"


def test_a_target_is_in_quotes_for_snowflake(tmp_path: Path) -> None:
    targets = {
        "tides": '"TIDES"',
        "order": '"ORDER"',
        "Sea.Tides": '"SEA"."TIDES"',
        "share_db.sea.tides": '"SHARE_DB"."SEA"."TIDES"',
        '"my-db".sea."Tides 2026"': '"my-db"."SEA"."Tides 2026"',
        '"a.b"."c""d"': '"a.b"."c""d"',
    }
    datasets = [read_dataset(write(tmp_path, target_table=target)) for target in targets]
    assert {dataset.target_table: dataset.target for dataset in datasets} == targets
    assert [dataset.target for dataset in datasets if not dataset.target.endswith(dataset.target_name)] == []


def test_a_source_is_in_backticks_where_it_needs_them(tmp_path: Path) -> None:
    sources = {
        "main.sea.tides": "main.sea.tides",
        "prod-eu.sales.orders": "`prod-eu`.sales.orders",
        "`prod-eu`.`sales`.orders": "`prod-eu`.sales.orders",
        "main.größe.2026": "main.`größe`.`2026`",
        "main.`say``hi`.o'clock": "main.`say``hi`.`o'clock`",
        "main.{sea}.%tides#": "main.`{sea}`.`%tides#`",
    }
    found = {source: read_dataset(write(tmp_path, source_table=source)).source_table for source in sources}
    assert found == sources


def test_a_dataset_takes_the_place_of_no_check_of_every_sync(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, max_row_change_percent=10, checks={"deep": "depth > 0"}))
    sync = known_sync(dataset, staging_table="t", loaded=Sync.example().loaded)
    names = re.findall(r"'(\w+)' AS check_name", render_sql("check_staging", share=Share(), sync=sync))
    # The values are compared beside the conditions.
    assert {*names, "values_match_manifest"} - set(dataset.all_checks) == CHECKS_OF_EVERY_SYNC
    assert len(CHECKS_OF_EVERY_SYNC) == 6


def test_what_a_load_mode_takes_on_the_target_follows_from_the_dataset(tmp_path: Path) -> None:
    rights = {
        "replace": ("INSERT", "DELETE"),
        "append": ("INSERT",),
        "merge": ("INSERT", "UPDATE"),
        "merge that deletes": ("INSERT", "UPDATE", "DELETE"),
    }
    fields: dict[str, dict[str, Any]] = {
        "replace": {},
        "append": {"load_mode": "append"},
        "merge": MERGE,
        "merge that deletes": {**MERGE, "delete_missing": True},
    }
    assert {name: read_dataset(write(tmp_path, **more)).rights_on_target for name, more in fields.items()} == rights
    assert [mode for mode in LoadMode if not mode.is_repeatable] == ["append"]
    assert [mode for mode in LoadMode if not (SQL_FOLDER / mode.sql_file).is_file()] == []


def test_a_dataset_is_frozen(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path))
    with pytest.raises(ValidationError):
        dataset.target_table = "other"  # type: ignore[misc]


def test_a_schedule_is_nothing_a_preset_or_a_cron_expression(tmp_path: Path) -> None:
    usual = (None, "@daily", "@once", "*/15 * * * *", "0 22-6/2 * * *")
    for schedule in (*usual, "0 6 L * *", "0 6 * * THU#2", "*/60 */24 */31 */12 */7"):
        assert read_dataset(write(tmp_path, schedule=schedule)).schedule == schedule


# What is wrong, the file, and the field and the value that are named. The words between them are pydantic's own.
WRONG_VALUES: dict[str, tuple[str, str, str]] = {
    "unknown field": (text(colour="blue"), "colour", "'blue'"),
    "field that is no text": (TEXT + "1: x\n", "1", "1"),
    "missing field": (text(source_table=LEFT_OUT), "source_table", "nothing"),
    "field without a value": (TEXT + "checks:\n", "checks", "None"),
    "empty description": (text(description=""), "description", "''"),
    "date for a text": (TEXT.replace("Tides by harbour.", "2026-02-03"), "description", "datetime.date(2026, 2, 3)"),
    "text for a list": (text(required_columns="harbour"), "required_columns", "'harbour'"),
    "list for a text": (text(target_table=["tides"]), "target_table", "['tides']"),
    "list for a mapping": (text(checks=["depth > 0"]), "checks", "['depth > 0']"),
    "text for a boolean": (text(allow_empty="true"), "allow_empty", "'true'"),
    "number for a boolean": (text(delete_missing=1, **MERGE), "delete_missing", "1"),
    "text for a number": (text(export_timeout_minutes="30"), "export_timeout_minutes", "'30'"),
    "number for a condition": (text(checks={"depth": 1}), "checks.depth", "1"),
    "timeout of 0": (text(export_timeout_minutes=0), "export_timeout_minutes", "0"),
    "timeout too large": (text(export_timeout_minutes=1441), "export_timeout_minutes", "1441"),
    "timeout with more digits than Python writes": (
        TEXT + f"export_timeout_minutes: 0x{'f' * 5000}\n",
        "export_timeout_minutes",
        "a huge number",
    ),
    "percent of 0": (text(max_row_change_percent=0), "max_row_change_percent", "0"),
    "age of 0": (text(max_age_minutes=0), "max_age_minutes", "0"),
    "text for an age": (text(max_age_minutes="1 h"), "max_age_minutes", "'1 h'"),
    "age of more than a year": (text(max_age_minutes=525601), "max_age_minutes", "525601"),
    "endless percent": (TEXT + "max_row_change_percent: .inf\n", "max_row_change_percent", "inf"),
    "source without catalog": (text(source_table="sea.tides"), "source_table", "'sea.tides'"),
    "SQL in the source": (
        text(source_table="main.sea.tides; DROP TABLE x"),
        "source_table",
        "'main.sea.tides; DROP TABLE x'",
    ),
    "SQL in the target": (text(target_table="tides; DROP TABLE x"), "target_table", "'tides; DROP TABLE x'"),
    "line break after the target": (text(target_table="tides\n"), "target_table", "'tides\\n'"),
    "digit before the target": (text(target_table="1tides"), "target_table", "'1tides'"),
    "no required column": (text(required_columns=[]), "required_columns", "[]"),
    "SQL in the only required column": (text(required_columns=["a OR 1=1"]), "required_columns.0", "'a OR 1=1'"),
    "SQL in another required column": (
        text(required_columns=["harbour", "a OR 1=1"]),
        "required_columns.1",
        "'a OR 1=1'",
    ),
    "SQL in a merge key": (
        text(load_mode="merge", merge_keys=["harbour) OR (1=1"]),
        "merge_keys.0",
        "'harbour) OR (1=1'",
    ),
    "SQL in a column": (
        text(create_table="from_columns", columns={"harbour": "DATE", "a DATE, b": "DATE"}),
        "columns.a DATE, b.[key]",
        "'a DATE, b'",
    ),
    "SQL in the name of a check": (text(checks={"x' AS a": "depth > 0"}), "checks.x' AS a.[key]", '"x\' AS a"'),
    "check of blanks": (text(checks={"deep": "   "}), "checks.deep", "'   '"),
    "unknown load mode": (text(load_mode="truncate"), "load_mode", "'truncate'"),
    "unknown drift policy": (text(schema_drift="allow"), "schema_drift", "'allow'"),
    "unknown way to create the table": (
        text(**{**COLUMNS, "create_table": "from_export"}),
        "create_table",
        "'from_export'",
    ),
}
# What is wrong, the file, and the place that is named. The words are PyYAML's own.
NO_YAML: dict[str, tuple[str, str | None]] = {
    "not YAML": ("description: [", "(line 2, column 1)"),
    "preset without quotes": (TEXT + "schedule: @daily\n", "(line 7, column 11)"),
    "two documents": (f"{TEXT}---\n{TEXT}", "(line 7, column 1)"),
    "no such date": (TEXT + "schedule: 2026-02-30\n", None),
    "a list as a field": (TEXT + "? [a, b]\n: c\n", "(line 7, column 3)"),
    "a Python object": (TEXT + "checks: !!python/object/apply:os.system [ls]\n", "(line 7, column 9)"),
    "a Python name": (TEXT + "checks: !!python/name:os.system\n", "(line 7, column 9)"),
}
# What is wrong, the file, and the one line that is said about it.
BROKEN_RULES: dict[str, tuple[str, str]] = {
    "quotes in the source": (
        text(source_table="main.sea.ti`des"),
        f"source_table: {NO_SOURCE} (found: 'main.sea.ti`des')",
    ),
    **{
        f"a template in the source: {name}": (
            text(source_table=f"main.sea.{name}"),
            (
                f"source_table: contains {name[:2]}, which Airflow or Databricks would replace; export a view instead "
                f"(found: {f'main.sea.{name}'!r})"
            ),
        )
        for name in ("{{conn['get']('snowflake_default')['password']}}", "{%raw%}", "{#a#}", "{{job}}")
    },
    "target of four parts": (text(target_table="a.b.c.d"), f"target_table: {NO_TARGET} (found: 'a.b.c.d')"),
    "target of too many characters": (
        text(target_table=f'"{"a" * 201}"'),
        f"target_table: the table's name has more than 200 characters (found: '\"{'a' * 96}...{'a' * 97}\"')",
    ),
    "table of the share as a target": (
        text(target_table="public.Sync_History"),
        "target_table: all syncs write to a table of this name; choose another (found: 'public.Sync_History')",
    ),
    "name in quotes that ends too early": (
        text(required_columns=['"a"b"']),
        f'required_columns.0: {NO_COLUMN} (found: \'"a"b"\')',
    ),
    "name of too many characters": (
        text(required_columns=["a" * 256]),
        f"required_columns.0: a name has more than 255 characters (found: '{'a' * 97}...{'a' * 98}')",
    ),
    "columns that differ by case alone": (
        text(create_table="from_columns", columns={"harbour": "DATE", '"Harbour"': "DATE"}),
        (
            """columns: "HARBOUR", "Harbour" differ only by case, which COPY INTO ignores """
            """(found: {'"Harbour"': 'DATE', 'harbour': 'DATE'})"""
        ),
    ),
    "key and required column that differ by case alone": (
        text(load_mode="merge", merge_keys=['"harbour"']),
        """"HARBOUR", "harbour" differ only by case, which COPY INTO ignores""",
    ),
    "key in quotes that is not in columns": (
        text(load_mode="merge", merge_keys=['"Day"'], **COLUMNS),
        'merge_keys: "Day" not in columns',
    ),
    "semicolon in a check": (
        text(checks={"deep": "depth > 0; DROP TABLE x"}),
        "checks.deep: contains a semicolon; it must be one condition (found: 'depth > 0; DROP TABLE x')",
    ),
    "check with a name of every sync": (
        text(checks={"rows_match_manifest": "TRUE"}),
        "checks: rows_match_manifest is the name of a check of every sync; choose another",
    ),
    "check with the name of a required column's": (
        text(checks={"harbour_not_null": "TRUE"}),
        "checks: harbour_not_null is the name of a check of every sync; choose another",
    ),
    "merge without keys": (text(load_mode="merge"), "merge_keys: load_mode merge needs at least one"),
    "keys for replace": (text(merge_keys=["harbour"]), "merge_keys: only for load_mode merge, not for replace"),
    "incremental for replace": (
        text(incremental=True),
        "incremental: only for load_mode merge and append; replace exports everything",
    ),
    "incremental without versions": (
        text(incremental=True, pinned=False, **MERGE),
        "incremental: needs versions of the source, so not with pinned: false",
    ),
    "an append of what is new under a condition that moves": (
        text(incremental=True, load_mode="append", source={"where": "day >= current_date()"}),
        "incremental: not with a source.where that may choose other rows at another time",
    ),
    "delete_missing for append": (
        text(load_mode="append", delete_missing=True),
        "delete_missing: only for load_mode merge, not for append",
    ),
    "required column twice, in another case": (
        text(required_columns=["harbour", "HARBOUR"]),
        "required_columns: HARBOUR is given more than once (case does not matter) (found: ['harbour', 'HARBOUR'])",
    ),
    "key twice, in another case": (
        text(load_mode="merge", merge_keys=["Harbour", "harbour"]),
        "merge_keys: HARBOUR is given more than once (case does not matter) (found: ['Harbour', 'harbour'])",
    ),
    "column twice, in another case": (
        text(create_table="from_columns", columns={"day": "DATE", "Day": "DATE"}),
        "columns: DAY is given more than once (case does not matter) (found: {'Day': 'DATE', 'day': 'DATE'})",
    ),
    "schedule in words": (
        text(schedule="every day"),
        f"schedule: 'every day' is neither a cron expression nor one of {PRESETS} (found: 'every day')",
    ),
    "unknown preset": (
        text(schedule="@sometimes"),
        f"schedule: '@sometimes' is neither a cron expression nor one of {PRESETS} (found: '@sometimes')",
    ),
    "minute 61": (
        text(schedule="61 * * * *"),
        f"schedule: '61 * * * *' is neither a cron expression nor one of {PRESETS} (found: '61 * * * *')",
    ),
    **{
        f"cron that Airflow would misread: {cron}": (
            text(schedule=cron),
            f"schedule: {cron!r} {why} (found: {cron!r})",
        )
        for cron, why in {
            "0 6 * * * 30": f"has 6 {FIVE_FIELDS}",
            "0 6 * * * 0 2027": f"has 7 {FIVE_FIELDS}",
            "R 6 * * *": "contains R, a random time that changes whenever Airflow reads it; write the time",
            "r(0-30) 6 * * *": "contains R, a random time that changes whenever Airflow reads it; write the time",
            "*/90 * * * *": "has the step 90, but minute starts again after 60; list the values instead",
            "0 1,0-23/36 * * *": "has the step 36, but hour starts again after 24; list the values instead",
            "0 6 * MAR-3 *": "has MAR-3 for month, which croniter reads as every month; write the value once",
            "00-0 6 * * *": "has 00-0 for minute, which croniter reads as every minute; write the value once",
        }.items()
    },
    "30 February": (text(schedule="0 6 30 2 *"), "schedule: '0 6 30 2 *' never comes (found: '0 6 30 2 *')"),
    **{
        f"column type: {kind}": (
            text(create_table="from_columns", columns={"harbour": kind}),
            f"columns.harbour: {kind.upper()!r}{why}; {KNOWN_TYPES} (found: {kind!r})",
        )
        for kind, why in {
            "NUMBER(39, 2)": ": a number has 1 to 38 digits",
            "jsonb": " is no type of Snowflake that is known here",
            "DATE); DROP TABLE x": " is no type of Snowflake that is known here",
        }.items()
    },
    "columns without create_table": (
        text(columns={"harbour": "DATE"}),
        "columns: only with create_table: from_columns",
    ),
    "columns for a table made from the source": (
        text(**{**COLUMNS, "create_table": "from_source"}),
        "columns: only with create_table: from_columns",
    ),
    "cast of a merge key, in another case": (
        text(load_mode="merge", merge_keys=["harbour", "Day"], casts=["depth", "DAY"]),
        "casts: day is a merge key; a changed key would overwrite another row",
    ),
    "cast of a column that is not in columns": (text(casts=["depth"], **COLUMNS), "casts: depth not in columns"),
    "default of a required column": (
        text(target_defaults=["loaded_at", "Harbour"]),
        "target_defaults: harbour must come from the source, as a merge key or required column",
    ),
    "create_table without columns": (
        text(create_table="from_columns"),
        "columns: create_table from_columns needs them",
    ),
    "key that is not in columns": (
        text(load_mode="merge", merge_keys=["harbour", "day"], **COLUMNS),
        "merge_keys: day not in columns",
    ),
    "required column that is not in columns": (
        text(required_columns=["HARBOUR", "day"], **COLUMNS),
        "required_columns: day not in columns",
    ),
    "name in the file": (text(name="tides"), "name: the file's name is the dataset's name; remove this field"),
    "empty file": ("", "it must contain fields, as in 'source_table: main.weather.forecasts'"),
    "comments only": ("# tides\n", "it must contain fields, as in 'source_table: main.weather.forecasts'"),
    "a list": ("- main.sea.tides", "it must contain fields, as in 'source_table: main.weather.forecasts'"),
    "a sentence": ("just words", "it must contain fields, as in 'source_table: main.weather.forecasts'"),
    "field twice": (TEXT + "load_mode: append\n", f"{NOT_YAML}: load_mode is given more than once (line 7, column 1)"),
    "check twice": (
        TEXT + "checks:\n  deep: depth > 0\n  deep: depth > 1\n",
        f"{NOT_YAML}: deep is given more than once (line 9, column 3)",
    ),
    "fields taken over with <<": (
        TEXT + "checks:\n  <<: {deep: depth > 0}\n",
        f"{NOT_YAML}: << is not supported (line 8, column 3)",
    ),
    "a file of 1 MB": (TEXT + "#" * 1_000_000, f"{NOT_YAML}: more than 100000 characters"),
}


def lines_about(path: Path) -> list[str]:
    """Return what is said about a file, line by line; nothing when it is valid."""
    try:
        read_dataset(path)
    except InvalidDatasetError as error:
        first, *lines = str(error).splitlines()
        assert first == f"include/datasets/{path.name} is not a valid dataset file:"
        return [re.sub(r"^  line \d+: ", "  ", line) for line in lines]
    return []


def test_a_wrong_value_is_reported_in_one_line_with_its_field(tmp_path: Path) -> None:
    said = {mistake: lines_about(write_text(tmp_path, content)) for mistake, (content, _, _) in WRONG_VALUES.items()}
    assert {
        mistake: [
            found.groups() if (found := re.fullmatch(r"  (.*?): .+ \(found: (.*)\)", line)) else line for line in lines
        ]
        for mistake, lines in said.items()
    } == {mistake: [(field, value)] for mistake, (_, field, value) in WRONG_VALUES.items()}


def test_what_is_no_yaml_is_reported_in_one_line_with_its_place(tmp_path: Path) -> None:
    said = {mistake: lines_about(write_text(tmp_path, content)) for mistake, (content, _) in NO_YAML.items()}
    assert {
        mistake: [
            found[1] if (found := re.fullmatch(rf"  {NOT_YAML}: .+?(\(line \d+, column \d+\))?", line)) else line
            for line in lines
        ]
        for mistake, lines in said.items()
    } == {mistake: [place] for mistake, (_, place) in NO_YAML.items()}


def test_a_broken_rule_is_told_in_one_line(tmp_path: Path) -> None:
    said = {mistake: lines_about(write_text(tmp_path, content)) for mistake, (content, _) in BROKEN_RULES.items()}
    assert said == {mistake: [f"  {line}"] for mistake, (_, line) in BROKEN_RULES.items()}


def test_each_wrong_field_has_its_own_line(tmp_path: Path) -> None:
    problem = problem_with(write(tmp_path, load_mode="truncate", source_table=LEFT_OUT))
    assert [line.strip().rpartition("line 3: ")[2].partition(":")[0] for line in problem.splitlines()[1:]] == [
        "source_table",
        "load_mode",
    ]


def test_each_broken_rule_about_several_fields_has_its_own_line(tmp_path: Path) -> None:
    path = write(tmp_path, merge_keys=["harbour"], delete_missing=True, columns={"harbour": "DATE"}, casts=["day"])
    assert lines_about(path) == [
        "  merge_keys: only for load_mode merge, not for replace",
        "  delete_missing: only for load_mode merge, not for replace",
        "  columns: only with create_table: from_columns",
        "  casts: day not in columns",
    ]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    assert problem_with(path).splitlines()[1:] == [
        f"  {NOT_YAML}: it is not a text in UTF-8 (byte 0xff in line 1); save it as UTF-8"
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


HUGE = {
    "lists": aliases_of_aliases("[x]", "[{}]") + TEXT,
    "merged mappings": aliases_of_aliases("{x: y}", "{{<<: [{}]}}") + TEXT,
    "for a field": aliases_of_aliases("[x]", "[{}]") + text(required_columns=LEFT_OUT) + "required_columns: *a12\n",
    "in itself": TEXT + "checks: &checks {deep: *checks}\n",
    "deep": TEXT + f"checks: {'[' * 45_000}{']' * 45_000}\n",
    "many mistakes": text(required_columns=[1] * 20_000),
    "a long value": text(source_table="x" * 90_000),
}


def test_what_is_said_about_a_huge_value_is_short(tmp_path: Path) -> None:
    sizes = {huge: len(problem_with(write_text(tmp_path, content))) for huge, content in HUGE.items()}
    assert {huge: size for huge, size in sizes.items() if size >= 10_000} == {}


def test_a_value_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    for before, after in (("[", "]"), ("{a: ", "}")):
        too_deep, deep = (TEXT + f"checks: {before * levels}{after * levels}\n" for levels in (20, 19))
        assert "more than 20 nested levels" in problem_with(write_text(tmp_path, too_deep))
        assert "levels" not in problem_with(write_text(tmp_path, deep))


def test_a_value_may_be_named_and_used_again(tmp_path: Path) -> None:
    content = text(required_columns=LEFT_OUT, load_mode="merge") + "merge_keys: &keys [a, b]\nrequired_columns: *keys\n"
    assert read_dataset(write_text(tmp_path, content)).required_columns == ("A", "B")


def test_of_many_mistakes_the_first_twenty_are_listed(tmp_path: Path) -> None:
    lines = problem_with(write(tmp_path, required_columns=list(range(23)))).splitlines()[1:]
    assert len(lines) == 21
    assert lines[19].startswith("  line 5: required_columns.19: ")
    assert lines[20] == "  and 3 more"


def test_a_file_name_that_is_no_dataset_name_is_refused(tmp_path: Path) -> None:
    for name in ("Tides", "1tides", "tides-of-may", "t" * 61):
        [line] = lines_about(write_text(tmp_path, TEXT, name))
        assert re.fullmatch(rf"  name: .+ \(found: '{name}'\)", line), line


# ---- a check is one condition

# What the text between the marks is to Snowflake, with a condition in which it is nothing but text.
QUOTED_MARKS = [
    "a <> '--'",
    "a <> 'x//y; /* z */'",
    "a <> 'it''s -- no comment'",
    r"a <> 'it\'s -- no comment'",
    r"a <> '\\' AND b <> '--'",
    '"a--b;c" > 0 AND "d""//" > 0',
    "a <> $$it's -- no comment;$$",
    "a <> 'two\n-- lines'",
    "a$$b > 0",
    "a - -1 > b / 2 / 3",
]
MARKS = {
    "a > 0 -- why": "contains a comment (--)",
    "a > 0 // why": "contains a comment (//)",
    "a--1 > 0": "contains a comment (--)",
    "a > 0 /* why */": "contains a comment (/*)",
    "-- it's so\na > 0": "contains a comment (--)",
    r"a <> '\\' -- why'": "contains a comment (--)",
    "a <> \"b\" // 'c'": "contains a comment (//)",
    "a$$ > 0 -- $$": "contains a comment (--)",
    "a <> ';'; b": "contains a semicolon",
    "a <> 'b": "has a ' that is not closed",
    r"a <> 'b\'": "has a ' that is not closed",
    '"a > 0': 'has a " that is not closed',
    "a <> $$b": "has a $ that is not closed",
}


def test_a_check_may_hold_anything_between_quotes(tmp_path: Path) -> None:
    for condition in QUOTED_MARKS:
        assert read_dataset(write(tmp_path, checks={"own": condition})).checks == {"own": condition}


def test_a_check_is_one_condition_without_a_comment(tmp_path: Path) -> None:
    for condition, problem in MARKS.items():
        assert f"checks.own: {problem}" in problem_with(write(tmp_path, checks={"own": condition}))


@given(st.text(st.sampled_from("ab '\"\\$-/*;\n"), max_size=12))
@example(r"'\\'--'")
@example("$$'$$--")
@example("$$$$$$--$$")
@example("a$$--$$")
def test_a_check_is_read_as_an_sql_parser_of_snowflakes_dialect_reads_it(condition: str) -> None:
    try:
        tokens = sqlglot.tokenize(condition, read="snowflake")
    except sqlglot.errors.TokenError:
        is_one = False
    else:
        comments = any(token.comments for token in tokens) or (condition.strip() and not tokens)
        is_one = not comments and all(token.token_type is not sqlglot.TokenType.SEMICOLON for token in tokens)
    assert (not_one_condition(condition) is None) == is_one


def test_an_invalid_file_leaves_the_others_valid(tmp_path: Path) -> None:
    write(tmp_path, "a_valid", target_table="a")
    bad = write(tmp_path, "b_bad", load_mode="truncate")
    write(tmp_path, "c_valid", target_table="c")
    datasets, invalid = read_datasets(bad.parent)
    assert [dataset.name for dataset in datasets] == ["a_valid", "c_valid"]
    assert [error.path for error in invalid] == [bad]


def test_a_target_belongs_to_one_dataset(tmp_path: Path) -> None:
    first = write(tmp_path, "first", target_table="sea.tides")
    second = write(tmp_path, "second", target_table='SEA."TIDES"')
    write(tmp_path, "third", target_table="harbours")
    datasets, invalid = read_datasets(first.parent)
    assert [dataset.name for dataset in datasets] == ["third"]
    # Neither is taken: the one that comes first in the alphabet might be the one that was added by mistake.
    assert [(error.path, error.problems) for error in invalid] == [
        (first, ["target_table: sea.tides is the target of second too"]),
        (second, ['target_table: SEA."TIDES" is the target of first too']),
    ]


PERHAPS_ONE = {
    "without its schema": ("tides", "sea.tides"),
    "without schema and database": ("tides", "share_db.sea.tides"),
    "without its database": ("sea.tides", "share_db.sea.tides"),
    "in another case": ("Sea.Tides", "SHARE_DB.sea.TIDES"),
    "in quotes": ('"TIDES"', '"SHARE_DB"."SEA".tides'),
}
SURELY_TWO = {
    "in two schemas": ("sea.tides", "lake.tides"),
    "in two databases": ("share_db.sea.tides", "other_db.sea.tides"),
    "in two schemas, of which one has its database": ("sea.tides", "share_db.lake.tides"),
    "of two names": ("tides", "sea.tides_2"),
    "of two cases in quotes": ('"tides"', "tides"),
    "a point in a name": ('"sea.tides"', "sea.tides"),
    "in two schemas that differ by case": ('"sea".tides', "SEA.tides"),
}


@pytest.mark.parametrize("targets", PERHAPS_ONE.values(), ids=PERHAPS_ONE)
def test_targets_that_may_be_one_table_are_refused_and_both_are_named(tmp_path: Path, targets: tuple[str, str]) -> None:
    first, second = (write(tmp_path, name, target_table=to) for name, to in zip(("a", "b"), targets, strict=True))
    datasets, invalid = read_datasets(first.parent)
    assert datasets == []
    assert [error.path for error in invalid] == [first, second]
    assert [error.problems[0].partition(";")[0] for error in invalid] == [
        f"target_table: {targets[0]} may be the target of b ({targets[1]}) too",
        f"target_table: {targets[1]} may be the target of a ({targets[0]}) too",
    ]


@pytest.mark.parametrize("targets", SURELY_TWO.values(), ids=SURELY_TWO)
def test_targets_that_are_two_tables_are_two(tmp_path: Path, targets: tuple[str, str]) -> None:
    first, _ = (write(tmp_path, name, target_table=to) for name, to in zip(("a", "b"), targets, strict=True))
    datasets, invalid = read_datasets(first.parent)
    assert ([dataset.name for dataset in datasets], invalid) == (["a", "b"], [])


def test_only_those_whose_targets_may_be_one_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "any", target_table="tides").parent
    for name, target_table in (("sea", "sea.tides"), ("lake", "lake.tides"), ("other", "harbours")):
        write(tmp_path, name, target_table=target_table)
    datasets, invalid = read_datasets(folder)
    assert [dataset.name for dataset in datasets] == ["other"]
    assert {error.path.stem: error.problems[0].partition(";")[0] for error in invalid} == {
        "any": "target_table: tides may be the target of lake (lake.tides), sea (sea.tides) too",
        "sea": "target_table: sea.tides may be the target of any (tides) too",
        "lake": "target_table: lake.tides may be the target of any (tides) too",
    }


def test_files_that_are_not_yaml_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path)
    for name in ("dataset.schema.json", "README.md", ".tides.yaml.swp", ".#tides.yaml"):
        (path.parent / name).write_text("{}")
    datasets, invalid = read_datasets(path.parent)
    assert ([dataset.name for dataset in datasets], invalid) == (["tides"], [])


def test_a_file_with_another_ending_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    for ending in (".yml", ".YAML", ".Yml"):
        path = write(tmp_path)
        other = path.rename(path.with_suffix(ending))
        assert [(error.path, error.problems) for error in read_datasets(path.parent)[1]] == [
            (other, ["the file's name must end in .yaml"])
        ]
        other.unlink()


@pytest.fixture
def project_copy(tmp_path: Path, deploy: Callable[..., None]) -> Path:
    """Copy the DAGs and what they read, and have the datasets read from the copy."""
    for folder in ("dags", "include"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=left_out)
    deploy(tmp_path / "include" / "share.yaml")
    return tmp_path


def test_airflow_shows_each_invalid_dataset_as_one_import_error_and_keeps_the_others(project_copy: Path) -> None:
    import structlog
    from airflow.dag_processing.dagbag import DagBag
    from airflow.dag_processing.processor import _serialize_dags

    names = ["b_bad", "bad name", "Bädname", "b" * 250]
    for name in names:
        write(project_copy, name, load_mode="truncate", checks={"deep": "depth BETWEN 1 AND 2"})
    bag = DagBag(project_copy / "dags" / "sync_datasets.py", bundle_path=project_copy, bundle_name="copy")
    serialized, errors = _serialize_dags(bag, structlog.get_logger())

    assert bag.import_errors == {}
    assert sorted(dag.dag_id for dag in serialized) == [f"sync_{name}" for name in shipped.DATASETS]
    assert sorted(errors) == sorted(f"include/datasets/{name}.yaml" for name in names)
    for file, error in errors.items():
        assert f"{file} is not a valid dataset file" in error
        assert "load_mode: " in error
        assert "(found: 'truncate')" in error
        assert "line 6: checks.deep: it cannot be read at 'BETWEN'" in error


@pytest.mark.parametrize(
    ("is_there", "why"), [(True, "is empty; add a dataset"), (False, "is missing; deploy include/")]
)
def test_airflow_shows_a_folder_without_datasets_as_an_import_error(
    project_copy: Path, is_there: bool, why: str
) -> None:
    import structlog
    from airflow.dag_processing.dagbag import DagBag
    from airflow.dag_processing.processor import _serialize_dags

    folder = project_copy / "include" / "datasets"
    shutil.rmtree(folder)
    if is_there:
        folder.mkdir()
    bag = DagBag(project_copy / "dags" / "sync_datasets.py", bundle_path=project_copy, bundle_name="copy")
    serialized, errors = _serialize_dags(bag, structlog.get_logger())

    assert (bag.import_errors, serialized) == ({}, [])
    [(place, error)] = errors.items()
    assert place == "include/datasets"
    assert f"include/datasets has no dataset file, so there is nothing to sync:\n  {folder} {why}" in error


def test_the_stand_in_of_an_invalid_dataset_keeps_the_dataset_file_as_its_own(tmp_path: Path) -> None:
    dag = InvalidDatasetDag(InvalidDatasetError(write(tmp_path), ["load_mode: wrong"]))
    dag.relative_fileloc = "sync_datasets.py"
    assert dag.relative_fileloc == "include/datasets/tides.yaml"


@pytest.mark.parametrize(
    "condition",
    [
        *("COUNT(*) > 1", "a > 1 AND max (b) < 3", "HLL(x) > 1", "Array_Agg(x) IS NOT NULL", '"A" = any_value(b)'),
        *("ROW_NUMBER() OVER (ORDER BY a) > 0", "PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY a) > 1"),
    ],
)
def test_a_condition_with_an_aggregate_or_a_window_is_about_all_rows(condition: str) -> None:
    assert is_about_all_rows(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "a > 1",
        "ABS(a) < 3",
        "name <> 'COUNT(*)'",
        '"MAX (" > 1',
        "$$SUM($$ = a",
        "a = 'it''s' OR b = 'MIN('",
        "account(a) = 1",
    ],
)
def test_any_other_condition_is_about_single_rows(condition: str) -> None:
    assert not is_about_all_rows(condition)
