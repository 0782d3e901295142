"""
Makes a site of the documents, with Sphinx: ``make site``.

The pages are plain Markdown, as GitHub shows it; ``docs/index.md`` is the navigation. A link that leads nowhere is a
warning, and ``make site`` makes each warning an error.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "Databricks to Snowflake data share"
html_title = project
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "docs/index"
# The folder of the sources is the project: pages outside of docs/ are part of the site, and links go to both.
include_patterns = ["*.md", "docs/*.md", "*/README.md", "examples/*/README.md"]
exclude_patterns = [".*", "dist", "**/node_modules"]
myst_heading_anchors = 6
myst_fence_as_directive = ["mermaid"]
# The calls of docs/backend.md have no version of HTTP in their first line, and are shown all the same.
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "furo"
html_use_index = False
html_show_sphinx = False
html_copy_source = False


def add_navigation(app: Sphinx, page: str, content: list[str]) -> None:
    """Make a part of the navigation of each list of links in the index."""
    if page != root_doc:
        return
    for heading, part in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", content[0], re.MULTILINE | re.DOTALL):
        links = re.findall(r"^- \[.*?\]\((.*?)\.md\)", part, re.MULTILINE)
        pages = "\n".join(f"/docs/{link}" for link in links)
        content[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{pages}\n```\n"


def add_home(app: Sphinx, error: Exception | None) -> None:
    """Let the address of the site lead to the index."""
    home = f'<!doctype html><title>{project}</title><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
    (Path(app.outdir) / "index.html").write_text(home, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_home)
