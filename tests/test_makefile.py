"""What `make` does before a command, what it hands on, and that git's hooks check what `make check` checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.tier("full")

PROJECT = Path(__file__).resolve().parents[1]
MAKEFILE = (PROJECT / "Makefile").read_text()
SUPPORTED = ["3.11", "3.12", "3.13"]

# Says its version, makes a .venv whose Python it is, and notes what it is called for.
PYTHON = """\
#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  "-m venv .venv") mkdir -p .venv/bin .venv/lib/python{version}; cp "$0" .venv/bin/python; cp uv .venv/bin/uv ;;
  *) echo "{version}: $*" ;;
esac
"""
# As a shim of pyenv for a version that is not installed.
SHIM = "#!/bin/sh\nexit 127\n"

Make = Callable[..., subprocess.CompletedProcess[str]]


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


def offer(folder: Path, **versions: str) -> None:
    """Put Pythons on the path; of the supported ones, only those that are named run."""
    for version in SUPPORTED:
        write(folder / "path" / f"python{version}", SHIM)
    for name, version in versions.items():
        write(folder / "path" / name.replace("_", "."), PYTHON.format(version=version))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile, and with Python 3.12 as python3."""
    for name in ("Makefile", ".ci/make_venv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "requirements.lock").write_text("uv==1.0\n")
    write(tmp_path / "uv", '#!/bin/sh\necho "uv $*"\n')
    offer(tmp_path, python3="3.12")
    return tmp_path


@pytest.fixture
def make(project: Path) -> Make:
    """Run make in the folder; these tests may be run by make too, which hands its variables on."""
    own = ("MAKE", "MFLAGS", "TIER", "PYTEST", "PYTHON", "DATASET", "DRY_RUN", "FULL_REFRESH", "JSON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment["PATH"] = f"{project / 'path'}:/usr/bin:/bin"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    return run


INSTALLS = [
    "- Installing the locked packages into .venv",
    "{0}: -m pip install --quiet --disable-pip-version-check uv==1.0",
    "uv pip sync --quiet --compile-bytecode --python .venv/bin/python requirements.lock",
]


def installs(version: str) -> list[str]:
    return [line.format(version) for line in INSTALLS]


# ---- the Python of .venv


def test_the_first_command_makes_venv_and_the_next_one_uses_it(make: Make, project: Path) -> None:
    done = make("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*installs("3.12"), "3.12: -m sandbox status"]
    assert make("status").stdout.splitlines() == ["3.12: -m sandbox status"]
    lock = project / "requirements.lock"
    later = (project / ".venv" / ".installed").stat().st_mtime + 1
    os.utime(lock, (later, later))
    assert make("status").stdout.splitlines()[:-1] == installs("3.12")


MAKING = sorted(set(re.findall(r"^([a-z-]+): \.venv/\.installed", MAKEFILE, re.MULTILINE)))


@pytest.mark.parametrize(
    ("version", "is_what"), [("2.7", "old"), ("3.9", "old"), ("3.10", "old"), ("3.14", "new"), ("4.0", "new")]
)
def test_a_python_that_is_not_supported_is_told_at_the_first_line(
    make: Make, project: Path, version: str, is_what: str
) -> None:
    offer(project, python3=version, python3_12="3.12")
    done = make("demo")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        f"Python {version} is too {is_what}: 3.11 to 3.13 are supported; make demo PYTHON=python3.12"
    )
    assert not (project / ".venv").exists()


def test_each_command_that_makes_venv_tells_it(make: Make, project: Path) -> None:
    offer(project, python3="3.9", python3_13="3.13")
    assert {"demo", "up", "sync", "test", "test-all", "test-nightly", "check-style", "hooks"} <= set(MAKING)
    for target in [*MAKING, "check", "clean"]:
        first = make(target).stderr.splitlines()[0]
        assert first == f"Python 3.9 is too old: 3.11 to 3.13 are supported; make {target} PYTHON=python3.13"


def test_a_python_that_is_not_there(make: Make, project: Path) -> None:
    offer(project)
    done = make("demo", "PYTHON=python9")
    assert done.stderr.splitlines()[0] == (
        "There is no Python python9: 3.11 to 3.13 are supported; make demo PYTHON=python3.12"
    )


def test_a_venv_stays_with_its_python_unless_another_one_is_asked_for(make: Make, project: Path) -> None:
    make("status")
    offer(project, python3="3.9", python3_12="3.12", python3_13="3.13")
    # What python3 is now is of no matter: .venv has what it needs.
    assert make("status").stdout == "3.12: -m sandbox status\n"
    assert make("status", "PYTHON=python3.12").stdout == "3.12: -m sandbox status\n"
    again = ["- Making .venv again, with Python 3.13", *installs("3.13"), "3.13: -m sandbox status"]
    assert make("status", "PYTHON=python3.13").stdout.splitlines() == again
    assert make("status").stdout == "3.13: -m sandbox status\n"
    assert make("status", "PYTHON=python3").stderr.startswith("Python 3.9 is too old")
    assert make("status").stdout == "3.13: -m sandbox status\n"


def gone(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(venv / "removed")


def upgraded(venv: Path) -> None:
    write(venv / "bin" / "python", PYTHON.format(version="3.13"))


def unsupported(venv: Path) -> None:
    write(venv / "bin" / "python", PYTHON.format(version="3.9"))
    (venv / "lib" / "python3.9").mkdir()


@pytest.mark.parametrize("happened", [gone, upgraded, unsupported])
def test_a_venv_that_has_lost_its_python_is_made_again(
    make: Make, project: Path, happened: Callable[[Path], None]
) -> None:
    make("status")
    happened(project / ".venv")
    again = ["- Making .venv again, with Python 3.12", *installs("3.12"), "3.12: -m sandbox status"]
    assert make("status").stdout.splitlines() == again


def test_a_link_in_the_place_of_venv_is_removed_and_not_what_is_behind_it(make: Make, project: Path) -> None:
    (project / "elsewhere").mkdir()
    (project / "elsewhere" / "kept").touch()
    (project / ".venv").symlink_to(project / "elsewhere")
    assert make("status").returncode == 0
    assert not (project / ".venv").is_symlink()
    assert [path.name for path in (project / "elsewhere").iterdir()] == ["kept"]


def test_the_versions_are_those_that_ci_tests_and_the_lock_is_for() -> None:
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "ci.yaml").read_text())
    assert workflow["jobs"]["check-and-test"]["strategy"]["matrix"]["python-version"] == SUPPORTED
    assert f'supported="{" ".join(SUPPORTED)}"' in (PROJECT / ".ci" / "make_venv").read_text()
    assert re.findall(r"--python-version (\S+)", MAKEFILE) == SUPPORTED[:1]
    assert "Python 3.11 to 3.13" in (PROJECT / "README.md").read_text()
    assert "Python 3.11, 3.12 or 3.13" in (PROJECT / "CONTRIBUTING.md").read_text()


# ---- what is handed on


def test_switches_are_handed_on(make: Make) -> None:
    commands = {
        ("sync",): "sync shared_forecasts",
        ("sync", "DATASET=tides", "DRY_RUN=1"): "sync tides --dry-run",
        ("sync", "FULL_REFRESH=1", "DRY_RUN=0"): "sync shared_forecasts --full-refresh",
        ("sync", "DRY_RUN=1", "FULL_REFRESH=1"): "sync shared_forecasts --dry-run --full-refresh",
        ("status", "JSON=1"): "status --json",
        ("doctor", "JSON=1"): "doctor --json",
        ("doctor", "JSON="): "doctor",
        ("set-up",): "set-up",
    }
    make("status")
    for arguments, command in commands.items():
        assert make(*arguments).stdout.split() == ["3.12:", "-m", "sandbox", *command.split()]


@pytest.mark.parametrize("switch", ["DRY_RUN", "FULL_REFRESH"])
def test_a_switch_that_is_neither_on_nor_off_starts_nothing(make: Make, switch: str) -> None:
    make("status")
    done = make("sync", f"{switch}=yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{switch}=yes is neither 0 nor 1" in done.stderr


# ---- the hooks of git

HOOKS: list[dict[str, Any]] = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
# What each part of `make check` reads.
READ_BY = {
    "check-style": [".ci/sqlfluff_context/__init__.py", "dags/sync_datasets.py", "tests/conftest.py", "pyproject.toml"],
    "check-types": ["plugins/data_share/share.py", "emulators/s3.py", "sandbox/__main__.py", "pyproject.toml"],
    "check-sql": [
        "include/sql/snowflake/publish.sql",
        "include/sql/databricks/export_dataset.sql",
        *(".sqlfluff", ".sqlfluffignore", "include/sql/databricks/.sqlfluff", ".ci/sqlfluff_context/__init__.py"),
    ],
    "check-docs": [
        *("docs/generate_docs.py", "docs/datasets.md", "docs/failures.md", "include/datasets/dataset.schema.json"),
        *("docs/templates/datasets.md.in", "plugins/data_share/outcome/codes.py"),
    ],
    "validate": ["include/datasets/shared_forecasts.yaml", "include/share.yaml", "plugins/data_share/datasets.py"],
    "check-lock": [
        *("requirements.txt", "requirements-dev.txt", "requirements.lock", "sandbox/requirements.txt", "Makefile"),
        "deploy/requirements.txt",
    ],
}


def test_the_hooks_are_of_this_machine() -> None:
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    assert set(config) == {"minimum_pre_commit_version", "default_install_hook_types", "repos"}
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in HOOKS:
        assert set(hook) == {"id", "name", "entry", "language", "pass_filenames", "files"}
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    assert len({hook["id"] for hook in HOOKS}) == len(HOOKS)


def test_the_hooks_run_the_parts_of_make_check() -> None:
    [parts] = re.findall(r"^check: (.*?) ##", MAKEFILE, re.MULTILINE)
    assert [hook["entry"] for hook in HOOKS] == [f"make {part}" for part in parts.split()]
    assert set(parts.split()) == set(READ_BY)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_when_what_it_reads_is_in_the_commit(hook: dict[str, Any]) -> None:
    read = READ_BY[hook["entry"].removeprefix("make ")]
    assert [path for path in read if not (PROJECT / path).is_file()] == []
    assert [path for path in read if not re.search(hook["files"], path)] == []
    assert not re.search(hook["files"], "LICENSE")
