"""Whose target a table is: names that are completed, and what is said to a second dataset."""

from __future__ import annotations

from typing import Any

import pytest

from data_share.outcome.codes import FailureCode
from data_share.share import Share, target_key
from data_share.snowflake.target_lock import TargetTakenError, refuse_target_of_another
from tests.plugins.data_share.conftest import tides

TIDES = tides(target_table='public."Tides"')


def row(dataset: str) -> dict[str, Any]:
    return {
        "TARGET_DATABASE": "SHARE_DB",
        "TARGET_SCHEMA": "PUBLIC",
        "TARGET_NAME": "Tides",
        "DATASET": dataset,
        "RUN_KEY": "20260102T030405_0a1b2c3d",
    }


def test_what_a_name_leaves_out_is_completed_by_snowflake() -> None:
    assert {target: list(target_key(target).values()) for target in ("t", "s.t", "d.s.t", """d."it's"."t\\t\"""")} == {
        "t": ["CURRENT_DATABASE()", "CURRENT_SCHEMA()", "'T'"],
        "s.t": ["CURRENT_DATABASE()", "'S'", "'T'"],
        "d.s.t": ["'D'", "'S'", "'T'"],
        """d."it's"."t\\t\"""": ["'D'", "'it''s'", "'t' || CHR(92) || 't'"],
    }
    assert list(target_key("t")) == ["target_database", "target_schema", "target_name"]


@pytest.mark.parametrize("rows", [[], [row("")], [row("tides")]], ids=["no row", "nothing published", "its own"])
def test_a_target_that_no_other_dataset_has_published_to_may_be_used(rows: list[dict[str, Any]]) -> None:
    refuse_target_of_another(TIDES, Share(), rows, unchanged="")


def test_the_refusal_of_another_datasets_target_has_the_statement_that_takes_it_over() -> None:
    with pytest.raises(TargetTakenError) as caught:
        refuse_target_of_another(TIDES, Share(), [row("waves")], unchanged="The target is as it was.")
    assert caught.value.code is FailureCode.TARGET_TAKEN
    assert caught.value.message == (
        'share_db.public."Tides" is the target of the dataset waves, whose sync 20260102T030405_0a1b2c3d was published '
        "to it last. The target is as it was."
    )
    assert caught.value.what_to_do.endswith(
        "UPDATE staging.publish_lock__Tides__af9cbf46 SET dataset = 'tides' WHERE target_database = 'SHARE_DB' AND "
        "target_schema = 'PUBLIC' AND target_name = 'Tides';"
    )
