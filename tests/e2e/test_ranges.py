"""Both ends of the ranges in the wheel's metadata: a sync with the oldest and with the newest packages; and below."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import data_share
from data_share.airflow_version import OLDEST_AIRFLOW
from data_share.init import EXAMPLE
from tests.e2e.home import START_SECONDS, environment, run_airflow
from tests.e2e.installed import build_wheel, install, make_environment, requirements, versions
from tests.e2e.share import RunningShare

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.deploy]

TOO_OLD = "apache-airflow==3.2.2"
# As `airflow plugins` loads them; it prints no errors.
PLUGINS = """
import json
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
print(json.dumps([[plugin.name for plugin in plugins if plugin.name == "data_share"], errors]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def run(programs: Path, home: Path, share: RunningShare, *words: str, fails: bool = False) -> str:
    done = subprocess.run(
        [programs / words[0], *words[1:]],
        cwd=home,
        env=environment(home, share, programs),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_a_sync_at_an_end_of_the_ranges(
    resolution: str, share: RunningShare, wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What the wheel requires is named too: only what is named, uv takes as old as it may be.
    programs = make_environment(tmp_path / "env", wheel, *requirements(wheel), "--resolution", resolution)
    found = versions(programs)
    with capsys.disabled():
        shown = {name: found[name] for name in sorted(found) if re.match("apache-airflow|sqlglot$|pydantic$", name)}
        print(f"\n{resolution}: {shown}")  # noqa: T201 - make test-ranges shows with what it was tried
    if resolution == "lowest-direct":
        oldest = {re.split("[>=<,]", each)[0]: re.findall(r">=([\d.]+)", each)[0] for each in requirements(wheel)}
        for name in (name for name in oldest if name.startswith(("apache-airflow", "sqlglot"))):
            assert found[name].startswith(oldest[name]), name

    home = tmp_path / "airflow"
    home.mkdir()
    run(programs, home, share, "data-share", "init")
    assert "1 dataset file and the share file are valid" in run(programs, home, share, "data-share", "validate")
    assert run(programs, home, share, "data-share", "--version") == f"airflow-data-share {data_share.__version__}\n"
    assert json.loads(run(programs, home, share, "python", "-c", PLUGINS).splitlines()[-1]) == [["data_share"], {}]
    run_airflow(home, share, "db", "migrate", programs=programs)
    errors = run_airflow(home, share, "dags", "list-import-errors", "--local", "--output", "json", programs=programs)
    assert errors.splitlines()[-1] == "[]", errors

    before = share.ledger()
    run_airflow(home, share, "dags", "test", f"sync_{EXAMPLE}", programs=programs)
    [added] = [row for row in share.ledger() if row not in before]
    assert EXAMPLE in added
    assert data_share.__version__ in added


def test_an_airflow_below_the_range_is_told_in_words(share: RunningShare, wheel: Path, tmp_path: Path) -> None:
    programs = make_environment(tmp_path / "env", TOO_OLD)
    # By hand, as no installer would do it.
    install(programs, "--no-deps", wheel)
    install(programs, *[each for each in requirements(wheel) if re.match("sqlglot|croniter|requests", each)])
    home = tmp_path / "airflow"
    home.mkdir()
    run(programs, home, share, "data-share", "init")
    version = TOO_OLD.partition("==")[2]
    told = f"data_share {data_share.__version__} needs Airflow {'.'.join(map(str, OLDEST_AIRFLOW))} or a later 3.x"

    names, errors = json.loads(run(programs, home, share, "python", "-c", PLUGINS).splitlines()[-1])
    assert names == []
    assert f"{told}, and this is Airflow {version}." in errors["data_share.entry_point"]

    run_airflow(home, share, "db", "migrate", programs=programs)
    words = ("airflow", "dags", "list-import-errors", "--local", "--output", "json")
    shown = run(programs, home, share, *words, fails=True)
    problems = json.loads(shown[shown.index("[{") :].splitlines()[0])
    assert len(problems) == 4
    assert [told in problem["error"] for problem in problems] == [True] * 4
