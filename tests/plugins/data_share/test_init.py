"""`data-share init`: what it writes into a project, and that all that was there stays as it was."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.utils.file import might_contain_dag
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_share import __version__, init
from data_share.dataset_files import read_datasets
from data_share.init import EXAMPLE, files_for, write_new
from data_share.share_file import read_share_file
from tests.docs.markdown import Page

STUBS = [f"dags/data_share_{name}.py" for name in ("clean_up_share", "doctor", "set_up_snowflake", "sync_datasets")]
SHARE = "include/share.yaml"
ALL = sorted(
    [
        *STUBS,
        SHARE,
        "include/share.schema.json",
        f"include/datasets/{EXAMPLE}.yaml",
        "include/datasets/dataset.schema.json",
    ]
)

Tree = dict[str, bytes | None]


def tree(folder: Path) -> Tree:
    """Return all that is in a folder: path -> content, None for a folder, the target of a link."""
    return dict(_walk(folder))


def _walk(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            yield name, f"-> {path.readlink()}".encode()
        else:
            yield name, path.read_bytes() if path.is_file() else None


def files(folder: Path) -> list[str]:
    return [name for name, content in tree(folder).items() if content is not None]


def test_an_empty_folder_gets_a_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init.main([str(tmp_path)]) == 0
    assert files(tmp_path) == ALL
    told = capsys.readouterr().out
    assert [f"wrote {tmp_path / name}" in told for name in ALL] == [True] * len(ALL)
    assert f"Write the names of your bucket, stage, schemas and connections into {tmp_path / SHARE}." in told
    assert "connections databricks_default and snowflake_default, and the Variable data_share_export_job_id" in told

    deployment = read_share_file(tmp_path / SHARE, {})
    datasets, errors = read_datasets(deployment=deployment, check_sql=True)
    assert ([dataset.name for dataset in datasets], errors) == ([EXAMPLE], [])
    # The wheel has no file that would create its target.
    assert datasets[0].create_table == "from_columns"


def test_a_folder_that_does_not_exist_is_made(tmp_path: Path) -> None:
    assert init.main([str(tmp_path / "new" / "home")]) == 0
    assert files(tmp_path / "new" / "home") == ALL


def test_without_a_folder_it_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert init.main([]) == 0
    assert files(tmp_path) == ALL


@pytest.mark.parametrize("stub", STUBS)
def test_airflow_does_not_pass_over_a_dag_file(stub: str, tmp_path: Path) -> None:
    write_new(files_for(tmp_path))
    assert might_contain_dag(str(tmp_path / stub), safe_mode=True)
    assert len((tmp_path / stub).read_text().splitlines()) < 12


def test_a_second_call_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init.main([str(tmp_path)])
    before = tree(tmp_path)
    capsys.readouterr()
    assert init.main([str(tmp_path)]) == 0
    assert tree(tmp_path) == before
    told = capsys.readouterr().out.splitlines()
    assert told == [f"exists, left as it is: {tmp_path / name}" for name in STUBS]


def test_who_has_removed_the_example_does_not_get_it_again(tmp_path: Path) -> None:
    init.main([str(tmp_path)])
    (tmp_path / "include" / "datasets" / f"{EXAMPLE}.yaml").unlink()
    (tmp_path / STUBS[0]).unlink()
    init.main([str(tmp_path)])
    # A DAG file comes again: an upgrade may bring a new one.
    assert files(tmp_path) == [name for name in ALL if EXAMPLE not in name]


def test_the_documented_commands_of_an_upgrade_bring_the_new_schemas_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home of airflow"
    init.main([str(home)])
    new = tree(home)
    schemas = [name for name in ALL if name.endswith(".schema.json")]
    for name in schemas:
        (home / name).write_text("{}")
    (home / SHARE).write_text(f"{(home / SHARE).read_text()}# Of our own.\n")
    ours = tree(home)[SHARE]
    init.main([str(home)])
    assert [(home / name).read_text() for name in schemas] == ["{}", "{}"]
    [upgrade] = [
        block.content
        for block in Page.read("docs/install.md").blocks
        if block.language == "sh" and "schema.json" in block.content
    ]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(init.__file__).parents[1]),
        "AIRFLOW_HOME": str(home),
    }
    subprocess.run(["bash", "-euc", upgrade], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert tree(home) == {**new, SHARE: ours}


# Names that a project may have: those that are written, those beside them, and its own.
NAMES = st.sampled_from(
    [
        *ALL,
        *("dags/own.py", "dags/.airflowignore", "plugins/own.py", "include/sql/own.sql", "include/datasets/own.yaml"),
        *("include/sql/snowflake/publish.sql", "Dockerfile", "requirements.txt", "config/airflow_local_settings.py"),
        *("include/data_share/datasets/own.yaml", f"include/data_share/datasets/{EXAMPLE}.yaml", ".git/config"),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(project=st.dictionaries(NAMES, st.sampled_from(["", "of others\n"]), max_size=8), times=st.integers(1, 2))
def test_nothing_that_was_there_is_changed(
    project: dict[str, str], times: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("project")
    for name, text in project.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    # The share file of others may be no share file: then a person has to say what it is to be.
    before = tree(folder)
    for _ in range(times):
        assert init.main([str(folder)]) == 0
    after = tree(folder)
    assert {name: after[name] for name in before} == before
    assert {*STUBS, SHARE} <= set(after)
    if SHARE not in before:
        deployment = read_share_file(folder / SHARE, {})
        datasets, errors = read_datasets(deployment=deployment)
        is_example_of_others = f"include/data_share/datasets/{EXAMPLE}.yaml" in before
        if not is_example_of_others and "include/data_share/datasets/own.yaml" not in before:
            assert ([dataset.name for dataset in datasets], errors) == ([EXAMPLE], [])
        assert not (deployment.sql_folder / "publish.sql").exists()


def test_folders_of_others_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("include/datasets/of_a_dag_factory.yaml", "include/sql/snowflake/publish.sql"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("SELECT 1\n")
    assert init.main([str(tmp_path)]) == 0
    deployment = read_share_file(tmp_path / SHARE, {})
    assert deployment.datasets_folder == tmp_path / "include" / "data_share" / "datasets"
    assert deployment.sql_folder == tmp_path / "include" / "data_share" / "sql"
    assert [dataset.name for dataset in read_datasets(deployment=deployment)[0]] == [EXAMPLE]


def test_a_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plugins" / "data_share").mkdir(parents=True)
    before = tree(tmp_path)
    assert init.main([str(tmp_path)]) == 1
    assert "this folder has the data share as a checkout" in capsys.readouterr().err
    assert tree(tmp_path) == before


BLOCKED = ["dags", "include", "include/datasets"]


@pytest.mark.parametrize("blocked", BLOCKED)
def test_a_file_in_the_place_of_a_folder_leaves_nothing_half_done(
    blocked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file")
    before = tree(tmp_path)
    assert init.main([str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert (told.out, "Nothing was written." in told.err, blocked in told.err) == ("", True, True)
    assert tree(tmp_path) == before


def test_an_error_in_the_middle_takes_back_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    # What is written after the share file has a name that no file system takes.
    wanted = {tmp_path / "dags" / "a.py": "", tmp_path / "include" / "b": "", tmp_path / "c" / "d" / ("x" * 300): ""}
    before = tree(tmp_path)
    with pytest.raises(OSError, match="name too long"):
        write_new(wanted)
    assert tree(tmp_path) == before


def test_a_link_that_leads_nowhere_is_left(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / SHARE).symlink_to("elsewhere.yaml")
    assert init.main([str(tmp_path)]) == 0
    assert tree(tmp_path)[SHARE] == b"-> elsewhere.yaml"
    assert not (tmp_path / "include" / "elsewhere.yaml").exists()
    assert files(tmp_path) == sorted([*STUBS, SHARE])


def test_the_files_are_for_all_processes_of_airflow_to_read(tmp_path: Path) -> None:
    init.main([str(tmp_path)])
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ALL} == {0o666 & ~umask}


@pytest.mark.parametrize("image", ["astrocrpublic.azurecr.io/runtime:3.3-1", "quay.io/astronomer/astro-runtime:13.0.0"])
def test_an_astro_project_is_told_its_own_steps(image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\n")
    init.main([str(tmp_path)])
    told = capsys.readouterr().out
    assert f"add the line airflow-data-share=={__version__} to its requirements.txt" in told
    assert "DATA_SHARE_FILE" not in told


def test_a_file_that_cannot_be_read_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Whoever reads it, gets an error: so it is for root too.
    (tmp_path / "Dockerfile").symlink_to("/proc/self/mem")
    assert init.main([str(tmp_path)]) == 0
    assert "This is an Astro project" not in capsys.readouterr().out


def test_elsewhere_than_in_the_home_of_airflow_the_variable_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    init.main([str(tmp_path / "one")])
    assert f"DATA_SHARE_FILE={tmp_path / 'one' / SHARE}" in capsys.readouterr().out
    monkeypatch.setattr(init, "PROJECT", tmp_path / "two")
    init.main([str(tmp_path / "two")])
    assert "DATA_SHARE_FILE" not in capsys.readouterr().out
