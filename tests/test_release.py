"""`make release`: version, changelog, notes, commit and tag; and that it writes nothing when it must not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = pytest.mark.tier("full")

PROJECT = Path(__file__).resolve().parents[1]
CODE = "plugins/data_share/__init__.py"
NOTES = "### Added\n\n- The wheel.\n\n### Fixed\n\n- A thing.\n"
FILES = {
    CODE: '"""The package."""\n\n__version__ = "0.1.0"\n"""The version."""\n',
    "CHANGELOG.md": f"# Changelog\n\n## [Unreleased]\n\nThis becomes version 0.1.0.\n\n{NOTES}",
}

Release = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the files that a release is about, before the first release."""
    for name, text in {**FILES, ".ci/release": (PROJECT / ".ci" / "release").read_text()}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    commit(tmp_path, "The first commit")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


@pytest.fixture
def release(clone: Path) -> Release:
    def run(*version: str) -> subprocess.CompletedProcess[str]:
        # As the command of `make release`, for somebody who has told git a name.
        for name, value in {"user.name": "Ada", "user.email": "ada@example.com"}.items():
            git(clone, "config", name, value)
        words = [sys.executable, ".ci/release", *version]
        return subprocess.run(words, cwd=clone, capture_output=True, text=True, check=False)

    return run


def state(clone: Path) -> tuple[str, ...]:
    """Return all that a release changes."""
    return git(clone, "log", "--format=%H"), git(clone, "tag"), *((clone / name).read_text() for name in FILES)


def test_the_files_of_the_project_have_the_form_of_those_here() -> None:
    assert len(re.findall(r'^__version__ = "\d+\.\d+\.\d+"$', (PROJECT / CODE).read_text(), re.MULTILINE)) == 1
    assert (PROJECT / "CHANGELOG.md").read_text().count("\n## [Unreleased]\n\n") == 1


def test_the_first_release_has_the_version_of_the_code(clone: Path, release: Release) -> None:
    done = release()
    assert done.returncode == 0, done.stderr
    assert (clone / CODE).read_text() == FILES[CODE]
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    changelog = (clone / "CHANGELOG.md").read_text()
    assert changelog == f"# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - {today}\n\n{NOTES}"
    assert git(clone, "log", "-1", "--format=%s") == "Version 0.1.0"
    assert git(clone, "status", "--porcelain") == ""
    # The notes are the text of the tag, headings and all.
    told = git(clone, "tag", "--list", "--format=%(contents)", "v0.1.0")
    assert told == f"Version 0.1.0\n\n{NOTES}".strip()
    assert NOTES in done.stdout


def test_a_later_release_has_its_own_notes_and_the_version_is_changed(clone: Path, release: Release) -> None:
    release()
    file = clone / "CHANGELOG.md"
    file.write_text(file.read_text().replace("## [Unreleased]\n", "## [Unreleased]\n\n### Fixed\n\n- A thing.\n"))
    commit(clone, "A thing")
    done = release("0.1.1")
    assert done.returncode == 0, done.stderr
    assert (clone / CODE).read_text() == FILES[CODE].replace("0.1.0", "0.1.1")
    assert git(clone, "tag", "--list", "--format=%(contents)", "v0.1.1") == "Version 0.1.1\n\n### Fixed\n\n- A thing."
    headings = re.findall(r"^## \[(.+?)\]", file.read_text(), re.MULTILINE)
    assert headings == ["Unreleased", "0.1.1", "0.1.0"]


def test_with_changes_that_are_not_committed_it_only_says_what_it_would_do(clone: Path, release: Release) -> None:
    (clone / "new.txt").touch()
    before = state(clone)
    done = release()
    assert done.returncode == 0
    assert "Version 0.1.0. Its notes:" in done.stdout
    assert "Nothing was written" in done.stdout
    assert "new.txt" in done.stdout
    assert state(clone) == before


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("0.1.0", "0.1.0 is not later than 0.1.0, the last release"),
        ("0.0.9", "0.0.9 is not later than 0.1.0"),
        ("0.2", "0.2 is no version"),
        ("v0.2.0", "v0.2.0 is no version"),
        ("0.02.0", "is no version"),
        ("0.2.0", "nothing below ## [Unreleased]"),
    ],
)
def test_a_release_that_must_not_be_is_refused(clone: Path, release: Release, version: str, reason: str) -> None:
    release()
    before = state(clone)
    done = release(version)
    assert done.returncode == 1
    assert reason in done.stderr
    assert state(clone) == before


# git calls the second and the third for each change of a branch or tag. The third lets the tag be made, and ends git.
@pytest.mark.parametrize(
    ("hook", "script", "reason"),
    [
        ("pre-commit", "echo The tests fail >&2; exit 1", "git commit failed\nThe tests fail"),
        (
            "reference-transaction",
            'if [ "$1" = prepared ] && grep -q refs/tags/; then echo No tags today >&2; exit 1; fi',
            "No tags today",
        ),
        (
            "reference-transaction",
            'if [ "$1" = committed ] && grep -q refs/tags/v; then rm "$0"; kill -KILL $PPID; fi',
            "git tag failed",
        ),
    ],
    ids=["commit", "tag", "tag made"],
)
def test_if_git_refuses_all_is_as_before_and_its_reason_is_told(
    clone: Path, release: Release, hook: str, script: str, reason: str
) -> None:
    before = state(clone)
    file = clone / ".git" / "hooks" / hook
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    done = release("0.2.0")
    assert done.returncode == 1
    assert "Nothing was released: git " in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert state(clone) == before
    assert git(clone, "status", "--porcelain") == ""
    file.unlink(missing_ok=True)
    done = release("0.2.0")
    assert done.returncode == 0, done.stderr
    assert git(clone, "tag") == "v0.2.0"


def test_tags_of_others_are_no_releases(clone: Path, release: Release) -> None:
    for tag in ("v1", "v2.0.0-rc1", "2.0.0", "deployed/v3.0.0", "v01.2.3"):
        git(clone, "tag", tag)
    done = release("0.2.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "v0.2.0" in git(clone, "tag").splitlines()


def test_0_10_is_later_than_0_9(clone: Path, release: Release) -> None:
    git(clone, "tag", "v0.9.0")
    git(clone, "tag", "v0.10.0")
    assert "0.9.1 is not later than 0.10.0" in release("0.9.1").stderr
    assert release("0.11.0").returncode == 0
