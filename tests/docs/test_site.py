"""The documents as a site: each page has its place and can be found, and a link that leads nowhere ends the build."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import PROJECT, Page

pytestmark = pytest.mark.tier("full")

BUILD = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env", "-b", "html"]


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [*BUILD, "-c", str(PROJECT / "docs"), str(source), str(site)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


def test_the_site_has_each_page_and_finds_its_words(tmp_path: Path) -> None:
    built = build(PROJECT, tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "url=docs/index.html" in (tmp_path / "index.html").read_text()
    named = [link.removesuffix(".md") for link in Page.read("docs/index.md").links]
    navigation = (tmp_path / "docs" / "index.html").read_text().partition('class="sidebar-tree"')[2]
    wanted = {f"docs/{path.stem}" for path in (PROJECT / "docs").glob("*.md")} - {"docs/index"}
    assert wanted <= {re.sub(r"^docs/\.\./", "", f"docs/{name}") for name in named}
    assert [name for name in named if f'href="{name}.html"' not in navigation] == []
    words = (tmp_path / "searchindex.js").read_text()
    for word in ("scheduler_idle_sleep_tim", "webhook"):
        assert f'"{word}' in words, word


@pytest.mark.parametrize("link", ["nowhere.md", "other.md#nowhere", "../README.md#nowhere", "nowhere.yaml"])
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path, link: str) -> None:
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    (tmp_path / "source" / "README.md").write_text("# Read me\n")
    (docs / "other.md").write_text(f"# Other\n\n[there]({link})\n")
    (docs / "index.md").write_text("# Index\n\n## Part\n\n- [Other](other.md)\n- [Read me](../README.md)\n")
    built = build(tmp_path / "source", tmp_path / "site")
    assert built.returncode == 1
    assert f"{docs / 'other.md'}:3: WARNING" in built.stderr
    assert "nowhere" in built.stderr


def test_a_page_without_a_place_ends_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    (docs / "other.md").write_text("# Other\n")
    (docs / "index.md").write_text("# Index\n")
    built = build(tmp_path / "source", tmp_path / "site")
    assert built.returncode == 1
    assert "isn't included in any toctree" in built.stderr
