"""
Writes what an Airflow with the wheel needs of files: ``data-share init``.

DAG files of a few lines, ``include/share.yaml`` and an example dataset. It overwrites nothing, and takes back what it
has written if it cannot write all of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_share import __version__
from data_share.package import DAGS, INCLUDE, PROJECT

EXAMPLE = "city_temperatures"
"""The dataset that the wheel brings. Its target is created from its file, so it needs no other file."""

# Airflow's safe mode passes over a file without the words airflow and dag.
_DAG_FILE = '''\
"""
DAGs of the package airflow-data-share, for Airflow: those that its file dags/{name}.py wires.

To read them: python -c "from data_share.package import DAGS; print(DAGS / '{name}.py')"
"""

from data_share.wiring import dags_of

globals().update(dags_of("{name}"))
'''

_OWN_FOLDERS = {
    "datasets_folder": ("datasets", "data_share/datasets"),
    "sql_folder": ("sql/snowflake", "data_share/sql"),
}
"""Field of the share file -> the folder in ``include/`` that it means, and the one where another has files there."""

_NEXT_STEPS = """
Next:
1. Write the names of your bucket, stage, schemas and connections into {share}.
2. Give Airflow the connections {databricks} and {snowflake}, and the Variable {variable}.
3. data-share render writes the set-up of Snowflake, AWS and Databricks with these names; data-share doctor checks it.
4. Run the DAG set_up_snowflake, then sync_{example}. Your own datasets lie beside {dataset}.
"""

_ASTRO = """
This is an Astro project: add the line airflow-data-share=={version} to its requirements.txt. In its image, this
folder is the home of Airflow, so nothing else is to be set.
"""

_ELSEWHERE = """
Airflow looks for include/share.yaml in its home, which is {home} here. If it runs elsewhere than in {folder}, set
DATA_SHARE_FILE={share} for all its processes, and for data-share.
"""


def files_for(folder: Path) -> dict[Path, str]:
    """
    Return the files that a home of Airflow needs: path -> content.

    :param folder: the home. If it has a share file, the datasets are its own: then it needs the DAG files alone.
    """
    files = {
        folder / "dags" / f"data_share_{path.stem}.py": _DAG_FILE.format(name=path.stem)
        for path in sorted(DAGS.glob("*.py"))
    }
    include = folder / "include"
    if os.path.lexists(include / "share.yaml"):
        return files
    text = (INCLUDE / "share.yaml").read_text(encoding="utf-8")
    folders = {}
    for field, (usual, own) in _OWN_FOLDERS.items():
        is_taken = (include / usual).is_dir() and any((include / usual).iterdir())
        folders[field] = own if is_taken else usual
        if is_taken:
            text += f"\n# include/{usual} has files of others.\n{field}: {own}\n"
    datasets = include / folders["datasets_folder"]
    return {
        **files,
        include / "share.yaml": text,
        include / "share.schema.json": (INCLUDE / "share.schema.json").read_text(encoding="utf-8"),
        **{
            datasets / name: (INCLUDE / "datasets" / name).read_text(encoding="utf-8")
            for name in ("dataset.schema.json", f"{EXAMPLE}.yaml")
        },
    }


def write_new(files: dict[Path, str]) -> tuple[list[Path], list[Path]]:
    """
    Write those files that do not exist; return them, and those that do.

    :raises OSError: one cannot be written; then none is
    """
    written: list[Path] = []
    made: list[Path] = []
    found = [path for path in files if os.path.lexists(path)]
    try:
        for path, text in files.items():
            if path in found:
                continue
            missing = [parent for parent in path.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir()
                made.append(parent)
            # Fails if the file has come into being since.
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError:
        for path in written:
            path.unlink()
        for parent in reversed(made):
            parent.rmdir()
        raise
    return written, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="data-share init",
        description="Write DAG files, share.yaml and an example dataset into an Airflow home; overwrite nothing.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the home; default: this folder")
    folder = parser.parse_args(arguments).folder
    if os.path.lexists(folder / "plugins" / "data_share"):
        sys.stderr.write(
            f"{folder / 'plugins' / 'data_share'} exists: this folder has the data share as a checkout, with its DAGs. "
            "Nothing was written.\n"
        )
        return 1
    try:
        files = files_for(folder)
        written, found = write_new(files)
    except OSError as error:
        sys.stderr.write(f"{error}. Nothing was written.\n")
        return 1
    for path in found:
        sys.stdout.write(f"exists, left as it is: {path}\n")
    for path in written:
        sys.stdout.write(f"wrote {path}\n")
    share = folder / "include" / "share.yaml"
    if share in written:
        sys.stdout.write(_next_steps(folder, share, next(path for path in files if path.stem == EXAMPLE)))
    return 0


def _next_steps(folder: Path, share: Path, dataset: Path) -> str:
    # Late: whether the file in the environment is valid is no matter of the files to write.
    from data_share.share_file import DEFAULT, read_share_file

    names = read_share_file(share.absolute(), {}).shares[DEFAULT]
    text = _NEXT_STEPS.format(
        share=share,
        databricks=names.databricks_conn_id,
        snowflake=names.snowflake_conn_id,
        variable=names.export_job_variable,
        example=EXAMPLE,
        dataset=dataset,
    )
    if _is_astro(folder):
        return text + _ASTRO.format(version=__version__)
    if folder.resolve() != PROJECT.resolve():
        return text + _ELSEWHERE.format(home=PROJECT, folder=folder.absolute(), share=share.absolute())
    return text


def _is_astro(folder: Path) -> bool:
    file = folder / "Dockerfile"
    try:
        return file.is_file() and "astro" in file.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:  # it may be readable for others alone
        return False
