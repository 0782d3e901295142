"""
What the SQL files can use when sqlfluff renders them: names and values as a sync has them, without Airflow.

Only their shape matters here. How the files read with the real ones is tested in ``tests/include/test_sql.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

share = SimpleNamespace(
    SHARE_URL="s3://share/dataset/",
    STAGE="stage",
    STORAGE_INTEGRATION="integration",
    STAGING_SCHEMA="staging",
    LEDGER_TABLE="ledger",
    MANIFEST_TABLE="manifests",
)
dataset = SimpleNamespace(
    name="dataset",
    source_table="catalog.schema.source_table",
    target_table="target_table",
    load_mode="replace",
    required_columns=("a", "b"),
    merge_keys=("a", "b"),
)
dag_run = SimpleNamespace(run_id="run", start_date=datetime(2026, 1, 1, tzinfo=UTC))
params = SimpleNamespace(requested_by=None)
task = SimpleNamespace(
    table="staging.target_table__key",
    checks={"a_known": {"check_statement": "a IS NOT NULL"}, "b_known": {"check_statement": "b IS NOT NULL"}},
)
export = SimpleNamespace(export_path="s3://share/dataset/dataset/key/1/", run_id=1)
ti = SimpleNamespace(xcom_pull=lambda **_: export)


def run_key(_: object) -> str:
    """Return the run key of a run."""
    return "key"


def staging_table(_: object) -> str:
    """Return the staging table of a run."""
    return "staging.target_table__key"


def staging_manifest(_: object) -> str:
    """Return the manifest table of a run."""
    return "staging.target_table__key__manifest"


def path_in_stage(_: object) -> str:
    """Return the path of an export in the stage."""
    return "dataset/key/1/"


def _sql_string(value: object) -> str:
    return "NULL" if value is None else f"'{value}'"


SQLFLUFF_JINJA_FILTERS = {"sql_string": _sql_string}
