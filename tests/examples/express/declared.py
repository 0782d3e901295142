"""What the types of the Node.js client declare, to be compared with what syncs really answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.examples.backend.clients import PROJECT

TYPES = "".join((PROJECT / "examples" / "express" / name).read_text() for name in ("sync.d.mts", "webhook.d.mts"))


def differences(kind: str, value: Mapping[str, Any]) -> list[str]:
    """Return which fields of a value its interface does not declare, and which it requires in vain."""
    declared = dict(_fields(kind))
    return [
        *(f"{kind} does not declare {name}" for name in value if name not in declared),
        *(f"there is no {name}" for name, is_optional in declared.items() if not is_optional and name not in value),
    ]


def _fields(kind: str) -> Iterator[tuple[str, bool]]:
    """Yield the fields of an interface, and whether each may be missing."""
    found = re.search(
        rf"^(?:export )?interface {kind}(?: extends (\w+))? {{\n(.*?)^}}", TYPES, re.MULTILINE | re.DOTALL
    )
    assert found, kind
    if found[1]:
        yield from _fields(found[1])
    for name, mark in re.findall(r"^  (\w+)(\??):", found[2], re.MULTILINE):
        yield name, bool(mark)
