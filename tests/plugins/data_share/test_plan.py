"""The command of the plan, where there is no plan: what it says of the files, to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from data_share import plan
from data_share.describe import Description
from tests.plugins.data_share.conftest import tides
from tests.plugins.data_share.test_validate import dataset, deployment

WHERE = "source:\n  where: a BETWEN 1 AND 2\n"


@pytest.mark.parametrize(
    ("share", "files", "check", "words"),
    [
        (
            "stagee: x\n",
            {"tides": dataset()},
            "share file",
            "include/share.yaml does not describe a deployment:\n  line",
        ),
        ("", {"waves": dataset()}, "dataset file", "There is no dataset tides; known are waves."),
        ("", {"low_tides": dataset("colour: x\n")}, "dataset file", "There is no dataset tides; known are none."),
        ("", {"tides": dataset("colour: x\n")}, "dataset file", "include/datasets/tides.yaml is not a valid dataset"),
        # The dag-processor refuses these too: a sync of them cannot even be started.
        ("", {"tides": dataset(WHERE)}, "dataset file", "include/datasets/tides.yaml is not a valid dataset"),
        ("", {"tides": dataset("checks: {a: b ISNULL}\n")}, "dataset file", "include/datasets/tides.yaml is not a"),
    ],
    ids=["share file", "no such dataset", "another wrong file", "wrong file", "rows", "check"],
)
def test_without_a_plan_people_and_programs_read_why(
    tmp_path: Path,
    deploy: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    share: str,
    files: dict[str, str],
    check: str,
    words: str,
) -> None:
    path = deployment(tmp_path, **files)
    path.write_text(path.read_text() + share)
    deploy(path)
    assert plan.main(["tides"]) == 2
    told, error = capsys.readouterr()
    assert told == ""
    assert error.startswith(words)

    assert plan.main(["tides", "--json"]) == 2
    told, again = capsys.readouterr()
    assert again == error
    answer = json.loads(told)
    assert (answer["dataset"], answer["ok"], answer["verdict"]) == ("tides", False, "no_plan")
    assert answer["problems"] == [{"where": "files", "check": check, "text": error[:-1], "what_to_do": ""}]


@pytest.mark.parametrize(
    ("version", "committed", "words"),
    [
        (812, datetime(2026, 1, 2, 2, 41, tzinfo=UTC), "3  version 812 of 2026-01-02 02:41 UTC, where a > 1"),
        (None, None, "3  no version: the source is no Delta table of Unity Catalog but VIEW, where a > 1"),
    ],
)
def test_the_version_of_the_source_is_told_or_why_there_is_none(
    version: int | None, committed: datetime | None, words: str
) -> None:
    source = Description(
        dataset="tides",
        source_table="main.sea.tides",
        rows=3,
        column_types="[]",
        columns_that_stay=(),
        source_condition="a > 1",
        source_version=version,
        source_committed_at=committed,
        export_reason="the source is no Delta table of Unity Catalog but VIEW",
        described_at=datetime(2026, 1, 2, 3, tzinfo=UTC),
        run_page_url="",
    )
    assert words in plan.as_text(plan.Plan(tides(), source=source))
