"""The command of the plan, where there is no plan: what it says of the files, to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_share import plan
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
