"""A step that tests of several modules run."""

from __future__ import annotations

import pytest

from data_share.share import Share
from data_share.snowflake.check import SnowflakeCheckOperator
from tests.plugins.data_share.conftest import known_sync, tides


@pytest.fixture
def check() -> SnowflakeCheckOperator:
    task = SnowflakeCheckOperator(
        share=Share(),
        task_id="check",
        dataset=tides(),
        sql={"check_staging": "SELECT checks"},
    )
    loaded = {"proofs": [], "unproven": {"TAGS": "no checksum is known"}}
    task.sync = known_sync(task.dataset, staging_table="staging.tides", loaded=loaded)
    return task
