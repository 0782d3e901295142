"""
How the house is built: lines by room, arrows between rooms, the longest functions and classes, XCom pulls of a sync.

Run it by `python -m tests.measure_house`, also for an older commit in another folder:

    .venv/bin/python -m tests.measure_house --project ../older

A room is a package, or a module that lies beside packages. An arrow is an import at the top of a module. A circle of
modules also counts the imports in functions and under TYPE_CHECKING, which a reader has to follow too.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
HOUSES = ("dags", "plugins", "emulators", "sandbox", "examples")
LONGEST = 3


class Definition(NamedTuple):
    """A function or a class."""

    lines: int
    name: str


def modules(project: Path) -> dict[str, Path]:
    """Return the modules of the product and of its sandbox, by the names that they are imported by."""
    found = {}
    for house in HOUSES:
        for path in sorted((project / house).rglob("*.py")):
            parts = path.relative_to(project / "plugins" if house == "plugins" else project).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def room_of(module: str) -> str:
    """Return the room of a module: the package below `data_share` or another house; else the module itself."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in ("data_share", *HOUSES) else module


def imports(nodes: Iterable[ast.AST], known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that are imported by some nodes of a module."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def definitions(module: str, tree: ast.Module, kinds: tuple[type, ...]) -> Iterator[Definition]:
    """Yield the functions, or the classes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield Definition((node.end_lineno or node.lineno) - node.lineno + 1, f"{module}.{node.name}")


def among_modules(known: dict[str, Path]) -> dict[str, set[str]]:
    """Return which modules each module imports, anywhere in it."""
    parsed = ((name, ast.parse(path.read_text(encoding="utf-8"))) for name, path in known.items())
    return {name: set(imports(ast.walk(tree), known)) for name, tree in parsed}


def circles(arrows: dict[str, set[str]]) -> str:
    """Return a circle of arrows, or that there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return "none"


def xcom_pulls(project: Path) -> str:
    """Return what the test that counts the XCom pulls of a good sync has counted."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "junit_family=xunit1"]
    report = project / ".sandbox" / "xcom_pulls.xml"
    test = "tests/sandbox/load/test_xcoms.py::test_a_good_sync_pulls_each_value_once_and_no_failure"
    subprocess.run([*command, f"--junitxml={report}", test], cwd=project, capture_output=True, check=False)
    from xml.etree import ElementTree

    found = ElementTree.parse(report).find(".//property[@name='xcom_pulls']")
    return "not counted: " + test if found is None else str(found.get("value"))


def main() -> None:
    """Print the measures."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--project", type=Path, default=PROJECT, help="folder of the checkout (default: this one)")
    project = parser.parse_args().project.resolve()
    known = modules(project)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()}
    lines: Counter[str] = Counter()
    arrows: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        lines[room_of(name)] += len(known[name].read_text(encoding="utf-8").splitlines())
        for other in imports(tree.body, known):
            if room_of(other) != room_of(name):
                arrows[room_of(name)].add(room_of(other))
    print(f"rooms: {len(lines)}, lines: {lines.total():,}")
    for room, count in sorted(lines.items()):
        print(f"  {count:6,}  {room}" + (f"  -> {', '.join(sorted(arrows[room]))}" if arrows[room] else ""))
    print(f"arrows between rooms: {sum(map(len, arrows.values()))}")
    print(f"circle of rooms: {circles(arrows)}")
    print(f"circle of modules: {circles(among_modules(known))}")
    for title, kinds in (("function", (ast.FunctionDef, ast.AsyncFunctionDef)), ("class", (ast.ClassDef,))):
        found = sorted((each for name, tree in trees.items() for each in definitions(name, tree, kinds)), reverse=True)
        longest = ", ".join(f"{each.name} ({each.lines})" for each in found[:LONGEST])
        print(f"longest {title}: {longest}; median {found[len(found) // 2].lines}")
    print(f"XCom pulls of a good sync: {xcom_pulls(project)}")


if __name__ == "__main__":
    main()
