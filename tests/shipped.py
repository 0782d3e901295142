"""
Which datasets the tests are about: those that the product comes with.

Whoever runs the product adds dataset files, and SQL files of targets, to the same folders. The tests leave them out:
they say nothing of the product, and a test that expects three datasets would fail.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

DATASETS = ("city_temperatures", "daily_observations", "shared_forecasts")


def left_out(folder: str, names: Iterable[str]) -> set[str]:
    """Name what ``shutil.copytree`` leaves out of a copy of the product: caches, and the files of other datasets."""
    endings = {"datasets": (".yaml", ".yml"), "targets": (".sql",)}.get(Path(folder).name, ())
    files = {name for name in names if name.lower().endswith(endings) and Path(name).stem not in DATASETS}
    return files | ({"__pycache__"} & set(names))


def leave_other_datasets_out() -> None:
    """Let everything in this process read the datasets from a copy without the others, when there are others."""
    include = PROJECT / "include"
    folders = (include / "datasets", include / "sql" / "snowflake" / "targets")
    if not any(left_out(str(folder), [path.name for path in folder.iterdir()]) for folder in folders):
        return
    from data_share import datasets, share_file, sql_files

    home = Path(tempfile.mkdtemp(prefix="shipped-datasets-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    shutil.copytree(include, home / "include", ignore=left_out)
    share_file.SHARE_FILE = home / "include" / "share.yaml"
    sql_files.SQL_FOLDER = datasets.SQL_FOLDER = home / "include" / "sql" / "snowflake"
