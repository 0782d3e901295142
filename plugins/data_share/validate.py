"""
Validates all dataset files and ``include/share.yaml`` without any network: ``python -m data_share.validate``.

It prints each problem of each file with its line, as compilers do, or as annotations of GitHub Actions. The exit code
is 1 if there is an error; warnings alone leave it 0.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data_share.conditions import DATABRICKS, sql_warnings, where_of
from data_share.dataset_files import check_defaults, read_datasets
from data_share.share_file import (
    PREFIX,
    SHARE_FILE,
    FileFields,
    InvalidShareFileError,
    ShareFile,
    ShareNames,
    read_share_file,
)
from data_share.yaml_files import InvalidFileError, lines_of, read_fields


class Finding(NamedTuple):
    """
    One problem of a file.

    :param path: the file
    :param line: the line of the field, from 1; 1 for a field that is missing
    :param text: the field and the reason
    :param is_error: whether Airflow refuses the file; otherwise it is a warning
    """

    path: Path
    line: int
    text: str
    is_error: bool = True

    def as_text(self) -> str:
        """Return it as compilers write it."""
        return f"{_shown(self.path)}:{self.line}: {'' if self.is_error else 'warning: '}{_one_line(self.text)}"

    def as_annotation(self) -> str:
        """Return the command with which GitHub Actions shows it in the file."""
        file = _escaped(_shown(self.path)).replace(":", "%3A").replace(",", "%2C")
        kind = "error" if self.is_error else "warning"
        return f"::{kind} file={file},line={self.line}::{_escaped(_one_line(self.text))}"


class _AnyShares(dict[str, ShareNames]):
    """Stands for the shares of a file that cannot be read: each name may be one, and its tables have any names."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> ShareNames:
        return ShareNames.model_construct(snowflake_conn_id="")


def findings(path: Path | None = None) -> tuple[list[Finding], int]:
    """
    Read all files of a deployment.

    :param path: its share file; default: that of this process
    :return: all problems, in the order of files and lines; and the number of valid dataset files
    """
    found: list[Finding] = []
    try:
        deployment = read_share_file(path)
    except InvalidShareFileError as error:
        found += _of(error)
        deployment = _assumed(error.path)
    try:
        check_defaults(deployment, check_sql=True)
    except InvalidShareFileError as error:
        found += _of(error)
        deployment = replace(deployment, defaults={})
    datasets, errors = read_datasets(deployment=deployment, check_sql=True)
    for each in errors:
        found += _of(each)
    warned = [(deployment.path, sql_warnings("defaults.checks", deployment.defaults.get("checks")))]
    for dataset in datasets:
        own = {
            name: sql for name, sql in dataset.checks.items() if deployment.defaults.get("checks", {}).get(name) != sql
        }
        texts = sql_warnings("checks", own) + sql_warnings("source", where_of(dict(dataset.source)), DATABRICKS)
        warned.append((deployment.datasets_folder / f"{dataset.name}.yaml", texts))
    for file, texts in warned:
        if texts:
            lines = lines_of(file, texts)
            found += [Finding(file, line or 1, text, False) for line, text in zip(lines, texts, strict=True)]
    return sorted(found), len(datasets)


def _assumed(path: Path) -> ShareFile:
    """Return a deployment for which the dataset files are validated all the same when its own file has an error."""
    try:
        content = read_fields(path, InvalidShareFileError, "")
    except InvalidShareFileError:
        content = {}
    folders = {}
    for name in ("datasets_folder", "sql_folder"):
        given = os.environ.get(f"{PREFIX}{name.upper()}") or content.get(name)
        folders[name] = path.parent / (
            given if isinstance(given, str) and given else FileFields.model_fields[name].default
        )
    return ShareFile(path=path, shares=_AnyShares(), defaults={}, origins={}, **folders)


def _of(error: InvalidFileError) -> Iterator[Finding]:
    for line, text in zip(error.lines, error.problems, strict=True):
        yield Finding(error.path, line or 1, text)


def _shown(path: Path) -> str:
    """Return a path as a person in this folder writes it."""
    path = Path(os.path.normpath(path))
    return _one_line(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _one_line(text: str) -> str:
    # A line of its own could be a command to GitHub Actions, or look like another file's.
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate the files of a deployment; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="data-share validate", description="Validate dataset files and the share file; needs no network."
    )
    parser.add_argument(
        "--format",
        choices=("text", "github"),
        default="github" if os.environ.get("GITHUB_ACTIONS") == "true" else "text",
        help="github: annotations, the default in GitHub Actions",
    )
    parser.add_argument(
        "--share-file",
        type=Path,
        help=f"default: what {PREFIX}FILE says, else {_shown(SHARE_FILE)}; datasets beside it",
    )
    options = parser.parse_args(arguments)
    found, valid = findings(options.share_file and options.share_file.absolute())
    for each in found:
        sys.stdout.write(f"{each.as_annotation() if options.format == 'github' else each.as_text()}\n")
    if errors := [each for each in found if each.is_error]:
        files = len({each.path for each in errors})
        sys.stdout.write(f"{_counted(len(errors), 'error')} in {_counted(files, 'file')}\n")
        return 1
    sys.stdout.write(f"{_counted(valid, 'dataset file')} and the share file are valid\n")
    return 0


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
