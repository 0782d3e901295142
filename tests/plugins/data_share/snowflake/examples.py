"""Rows and answers that tests of several steps use."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from data_share.snowflake.sql_api import SnowflakeStatementError

KEY = "20260102T030405_0a1b2c3d"
LOCK = {
    "TARGET_DATABASE": "SHARE_DB",
    "TARGET_SCHEMA": "PUBLIC",
    "TARGET_NAME": "TIDES",
    "DATASET": "tides",
    "RUN_KEY": "20250102T030405_ffffffff",
    "EXPORT_PATH": "s3://databricks-snowflake-share/dataset/tides/20250102T030405_ffffffff/1-0a1b2c3d/",
    "STAGED_AT": datetime(2025, 1, 2, 3, 4, 30),
}
EXPORT_PATH = f"s3://databricks-snowflake-share/dataset/tides/{KEY}/1-0a1b2c3d/"
MakeContext = Callable[..., dict[str, Any]]


NO_LOCK = SnowflakeStatementError("Snowflake: Object 'LOCK' does not exist or not authorized. (code 002003)")
