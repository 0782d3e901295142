"""The Markdown documents of the project, as markdown-it reads them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).resolve().parents[2]
_PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block, with the line that its content begins at."""

    language: str
    content: str
    line: int


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path
    text: str

    @classmethod
    def read(cls, name: str) -> Page:
        return cls(PROJECT / name, (PROJECT / name).read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        return self.path.relative_to(PROJECT).as_posix()

    @cached_property
    def tokens(self) -> list[Token]:
        return _PARSER.parse(self.text)

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(token.info, token.content, token.map[0] + 2)
            for token in self.tokens
            if token.type == "fence" and token.map
        ]

    def block(self, language: str) -> str:
        """Return the content of the first block of a language."""
        return next(block.content for block in self.blocks if block.language == language)

    @cached_property
    def inline(self) -> list[Token]:
        return [child for token in self.tokens for child in token.children or []]

    @property
    def codes(self) -> list[str]:
        """The inline code."""
        return [token.content for token in self.inline if token.type == "code_inline"]

    @property
    def links(self) -> list[str]:
        """Where links and images lead."""
        targets = [token.attrs.get("href") or token.attrs.get("src") for token in self.inline]
        return [unquote(str(target)) for target in targets if target is not None]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors that GitHub gives the headings."""
        anchors: set[str] = set()
        seen: Counter[str] = Counter()
        for opening, heading in itertools.pairwise(self.tokens):
            if opening.type == "heading_open":
                shown = "".join(child.content for child in heading.children or [])
                slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
                anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
                seen[slug] += 1
        return anchors


@cache
def pages() -> tuple[Page, ...]:
    """Return the pages of the project, without those of its environment and its state."""
    entries = [entry for entry in PROJECT.iterdir() if not entry.name.startswith(".")]
    paths = [path for entry in entries for path in [entry, *entry.rglob("*.md")] if path.suffix == ".md"]
    own = [path.relative_to(PROJECT) for path in sorted(paths) if "node_modules" not in path.parts]
    return tuple(Page.read(path.as_posix()) for path in own)
