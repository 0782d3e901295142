"""The documents as a site: each page has its place and can be found, and a link that leads nowhere ends the build."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import PROJECT, Page

pytestmark = pytest.mark.tier("full")

BUILD = [
    sys.executable,
    "-m",
    "sphinx",
    "--no-color",
    "--quiet",
    "--fail-on-warning",
    "--keep-going",
    "--fresh-env",
    "-b",
    "html",
]


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


def test_what_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    links = ["nowhere.md", "other.md#nowhere", "../README.md#nowhere", "nowhere.yaml"]
    (tmp_path / "source" / "README.md").write_text("# Read me\n")
    (docs / "other.md").write_text("# Other\n\n" + "\n".join(f"[there]({link})" for link in links))
    (docs / "lost.md").write_text("# In no list\n")
    (docs / "index.md").write_text("# Index\n\n## Part\n\n- [Other](other.md)\n- [Read me](../README.md)\n")
    built = build(tmp_path / "source", tmp_path / "site")
    assert built.returncode == 1
    warnings = built.stderr.splitlines()
    assert len([line for line in warnings if line.startswith(f"{docs / 'other.md'}:3: WARNING")]) == len(links), (
        warnings
    )
    assert any("lost.md" in line and "isn't included in any toctree" in line for line in warnings), warnings
