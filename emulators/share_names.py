"""
The names that the emulators are set up with: those of ``include/share.yaml``, with the environment over them.

The emulators read the file by themselves, as administrators of the real services would.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).resolve().parents[1] / "include" / "share.yaml"


@dataclass(frozen=True)
class ShareNames:
    """The names of one share in an account of Snowflake, in upper case as Snowflake stores them."""

    url: str
    integration: str
    database: str
    schema: str
    warehouse: str
    role: str


@functools.cache
def default_names() -> dict[str, str]:
    """Return the names at the top of the file."""
    names = {field: value for field, value in _content().items() if isinstance(value, str)}
    return {field: os.environ.get(f"DATA_SHARE_{field.upper()}") or value for field, value in names.items()}


def default_share() -> ShareNames:
    """Return the share at the top of the file."""
    names = default_names()
    fields = ("storage_integration", "database", "target_schema", "warehouse", "loader_role")
    return ShareNames(names["url"], *(names[field].upper() for field in fields))


def buckets() -> list[str]:
    """Return the buckets of all shares."""
    urls = [default_names()["url"]]
    for name, share in (_content().get("shares") or {}).items():
        urls.append(os.environ.get(f"DATA_SHARE_{name.upper()}__URL") or share["url"])
    return list(dict.fromkeys(url.split("/")[2] for url in urls))


def _content() -> dict[str, Any]:
    file = Path(os.environ.get("DATA_SHARE_FILE") or _FILE)
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content
