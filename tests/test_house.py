"""Which parts of the project may import which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.measure_house import HOUSES, PROJECT, among_modules, circles, modules

# What each part may import beside itself.
MAY_IMPORT = {
    "dags": {"data_share"},
    "data_share": set[str](),
    "emulators": set[str](),
    "examples": set[str](),
    "sandbox": {"data_share", "emulators", "examples"},
}


def test_each_part_imports_only_what_lies_below_it() -> None:
    found = [
        f"{module} imports {other}"
        for module, others in among_modules(modules(PROJECT)).items()
        for other in others
        if (part := module.partition(".")[0]) in MAY_IMPORT and other.partition(".")[0] not in MAY_IMPORT[part] | {part}
    ]
    assert found == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(among_modules(modules(PROJECT))) == "none"


@pytest.mark.parametrize("text", ["import b", "def f():\n    import b", "if TYPE_CHECKING:\n    from b import c"])
def test_a_circle_is_found_wherever_its_imports_stand(text: str, tmp_path: Path) -> None:
    for house in HOUSES:
        (tmp_path / house).mkdir()
    (tmp_path / "plugins" / "a.py").write_text(text)
    (tmp_path / "plugins" / "b.py").write_text("import a")
    assert circles(among_modules(modules(tmp_path))) in {"a -> b -> a", "b -> a -> b"}
