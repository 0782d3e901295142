"""
What the SQL files can use when sqlfluff renders them: names and values as a sync has them, without Airflow.

Only their shape matters here. How the files read with the real ones is tested in ``tests/include/test_sql.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

share = SimpleNamespace(
    SHARE_URL="s3://share/dataset/",
    STAGE="stage",
    STORAGE_INTEGRATION="integration",
    STAGING_SCHEMA="staging",
    LEDGER_TABLE="ledger",
    MANIFEST_TABLE="manifests",
)
# Load mode merge, as it has the most to lint; the others are in branches that sqlfluff renders too.
dataset = SimpleNamespace(
    name="dataset",
    source_table="catalog.schema.source_table",
    target_table="target_table",
    target='"TARGET_TABLE"',
    target_name='"TARGET_TABLE"',
    target_shown_as="TARGET_TABLE",
    target_schema='"SCHEMA"',
    load_mode="merge",
    merge_keys=("A",),
    delete_missing=True,
    required_columns=("A", "B"),
    create_table="from_columns",
    column_definitions=['"A" VARCHAR', '"B" NUMBER(38, 0)'],
)
dag_run = SimpleNamespace(run_id="run", start_date=datetime(2026, 1, 1, tzinfo=UTC), triggering_user_name=None)
params = SimpleNamespace(requested_by=None, full_refresh=False, dry_run=False, keep_days=7)
datasets = {"dataset": dataset}
task = SimpleNamespace(
    target="dataset",
    table="staging.target_table__key",
    checks={"a_known": {"check_statement": "a IS NOT NULL"}, "b_known": {"check_statement": "b IS NOT NULL"}},
)
ti = SimpleNamespace()
PROOFS = [
    {"column": form.upper(), "form": form, "scale": scale}
    for scale, form in enumerate(("number", "number", "text", "boolean", "date", "timestamp", "binary", "fraction"))
]
ROWS_HIDDEN = "rows hidden: "
lock_table = "staging.lock"
target_key = {
    "target_database": "CURRENT_DATABASE()",
    "target_schema": "CURRENT_SCHEMA()",
    "target_name": "'TARGET_TABLE'",
}
is_target = "target_name = 'TARGET_TABLE'"


def run_key(_: object) -> str:
    """Return the run key of a run."""
    return "key"


def staging_table(_: object) -> str:
    """Return the staging table of a run."""
    return "staging.target_table__key"


def staging_manifest(_: object) -> str:
    """Return the manifest table of a run."""
    return "staging.target_table__key__manifest"


def new_staging_table(*_: object) -> str:
    """Return the staging table of an attempt to copy."""
    return "staging.target_table__key"


def new_staging_manifest(*_: object) -> str:
    """Return the manifest table of an attempt to copy."""
    return "staging.target_table__key__manifest"


def export(_: object) -> dict[str, Any]:
    """Return the export that is loaded."""
    return {"export_path": "s3://share/dataset/dataset/key/1/", "run_id": 1}


def export_attempt(_: object) -> int:
    """Return the attempt that made the export."""
    return 1


def path_in_stage(_: object) -> str:
    """Return the path of an export in the stage."""
    return "dataset/key/1/"


def copied(_: object) -> dict[str, Any]:
    """Return what the copy handed on."""
    return {
        "rows_loaded": 1,
        "query_ids": ["query"],
        "columns": ["A", "B"],
        "new_columns": {},
        "created_columns": {},
        "proofs": PROOFS,
    }


def load_mode(_: object) -> str:
    """Return the load mode of a sync."""
    return dataset.load_mode


def columns(_: object, table: str | None = None) -> str:
    """Return the columns of the staging table."""
    return f'{table}."A", {table}."B"' if table else '"A", "B"'


def keys(table: str | None = None) -> str:
    """Return the merge keys."""
    return f'{table}."A"' if table else '"A"'


def same_keys(left: str, right: str) -> str:
    """Return the condition that two rows have the same keys."""
    return f'{left}."A" = {right}."A"'


def assignments(_: object, table: str) -> str:
    """Return the assignments of an update."""
    return f'"B" = {table}."B"'


def identifier(name: str) -> str:
    """Return a name in quotes."""
    return f'"{name}"'


def _sql_string(value: object) -> str:
    return "NULL" if value is None else f"'{value}'"


SQLFLUFF_JINJA_FILTERS = {"sql_string": _sql_string}
