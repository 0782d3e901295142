"""The command line: each subcommand is the work of another module."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from data_share import __main__ as command_line
from data_share import __version__, package


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Give the environment back as it was: the command changes that of its process."""
    with mock.patch.dict(os.environ):
        yield


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"airflow-data-share {__version__}\n"


def test_help_names_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    told = capsys.readouterr().out
    assert told.startswith("usage: data-share [--version] COMMAND [OPTION ...]\n")
    for name, (_, does) in command_line.COMMANDS.items():
        assert f"  {name:9} {does}\n" in told


@pytest.mark.parametrize("arguments", [[], ["sync"], ["--folder", "x"]])
def test_what_is_no_command_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert caught.value.code == 2
    assert "usage: data-share" in capsys.readouterr().err


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_a_command_hands_on_what_follows_it(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = ModuleType("work"), []

    def main(arguments: list[str]) -> int:
        given.append(arguments)
        return 3

    monkeypatch.setattr(module, "main", main, raising=False)
    monkeypatch.setattr(
        importlib, "import_module", lambda name: module if name == command_line.COMMANDS[command][0] else None
    )
    assert command_line.main([command, "--json", "x", "--help"]) == 3
    assert given == [["--json", "x", "--help"]]


@pytest.mark.parametrize(("given", "level"), [(None, "CRITICAL"), ("DEBUG", "DEBUG")])
def test_the_log_of_airflow_does_not_bury_the_findings(
    given: str | None, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ.pop("AIRFLOW__LOGGING__LOGGING_LEVEL", None)
    if given:
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = given
    monkeypatch.setattr("data_share.validate.main", lambda _: 0)
    assert command_line.main(["validate"]) == 0
    assert os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] == level


@pytest.mark.parametrize("command", sorted(command_line.COMMANDS))
def test_each_command_has_help_under_its_own_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: data-share {command} ")


def test_a_checkout_has_the_same_commands() -> None:
    plugins = str(Path(package.__file__).parents[1])
    words = [sys.executable, "-m", "data_share", "--version"]
    done = subprocess.run(words, env={"PYTHONPATH": plugins}, capture_output=True, text=True, check=True)
    assert done.stdout == f"airflow-data-share {__version__}\n"


@pytest.mark.parametrize("is_installed", [True, False])
def test_in_the_folder_of_a_project_its_share_file_counts(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package, "IS_INSTALLED", is_installed)
    monkeypatch.setenv("DATA_SHARE_FILE", "")
    monkeypatch.chdir(tmp_path)
    command_line._find_share_file()
    assert os.environ["DATA_SHARE_FILE"] == ""

    (tmp_path / "include").mkdir()
    file = tmp_path / "include" / "share.yaml"
    file.touch()
    command_line._find_share_file()
    # A checkout has its own.
    assert os.environ["DATA_SHARE_FILE"] == (str(file) if is_installed else "")

    monkeypatch.setenv("DATA_SHARE_FILE", "/another.yaml")
    command_line._find_share_file()
    assert os.environ["DATA_SHARE_FILE"] == "/another.yaml"
