"""What the export job does between its tasks, for tests that execute its SQL files themselves."""

from __future__ import annotations

from pathlib import Path

PLAN_SQL = (Path(__file__).resolve().parents[1] / "include/sql/databricks/plan_export.sql").read_text()

UNPLANNED = {
    "published": "",
    "to_version": "",
    "from_version": "",
    "committed_at": "",
    "table_id": "",
    "has_feed": "",
    "export_mode": "full",
    "export_reason": "nothing was planned",
}
"""The row of a plan that pins no version."""
