"""Reads dataset files: strict YAML, and errors that name the file, the field and the reason."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from airflow.sdk import DAG
from pydantic import (
    ValidationError,
)

from data_share.datasets import Dataset
from data_share.share import Share
from data_share.sql_text import (
    may_be_one_table,
    table_parts,
)

DATASETS_FOLDER = Path(__file__).resolve().parents[2] / "include" / "datasets"


class InvalidDatasetError(ValueError):
    """A dataset file cannot be used; the message names the file and, line by line, each wrong field and the reason."""

    verdict = "is not a valid dataset file"
    depth = 3
    """Number of parts at the end of the path that lie in the project."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        super().__init__(f"{self.place} {self.verdict}:\n  " + "\n  ".join(problems))

    @property
    def place(self) -> str:
        """The path within the project."""
        return "/".join(self.path.parts[-self.depth :])


class NoDatasetsError(InvalidDatasetError):
    """The folder of the dataset files is not deployed, or it is empty."""

    verdict = "has no dataset file, so there is nothing to sync"
    depth = 2

    def __init__(self, folder: Path) -> None:
        problem = (
            f"{folder} is empty; add a dataset as docs/adding-a-dataset.md says"
            if folder.is_dir()
            else f"{folder} is missing; deploy include/ beside dags/ and plugins/"
        )
        super().__init__(folder, [problem])


# A larger file was not written for this project; reading it would cost the dag-processor time.
_MAX_CHARACTERS = 100_000
# A dataset file has three levels. Many thousands would crash the process: the C library parses them recursively.
_MAX_LEVELS = 20


def read_dataset(path: Path, share: Share = Share()) -> Dataset:
    """
    Read one dataset file.

    :param path: the YAML file
    :param share: a dataset may not use the share's own tables as its target
    :raises InvalidDatasetError: for a file that is no YAML mapping or has a missing, unknown or wrong field
    """
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"more than {_MAX_CHARACTERS} characters")
        _refuse_deep(text)
        content: Any = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of a safe loader
    except Exception as error:  # not only YAML's errors: a date such as 2026-02-30 raises ValueError
        raise InvalidDatasetError(path, [f"it cannot be read as YAML: {_in_one_line(error)}"]) from None
    if not isinstance(content, dict):
        raise InvalidDatasetError(path, ["it must contain fields, as in 'source_table: main.weather.forecasts'"])
    if "name" in content:
        raise InvalidDatasetError(path, ["name: the file's name is the dataset's name; remove this field"])
    try:
        return Dataset.model_validate({"name": path.stem, **content}, context={"share": share})
    except ValidationError as error:
        raise InvalidDatasetError(path, _in_words(error)) from None


def _refuse_deep(text: str) -> None:
    level = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > _MAX_LEVELS:
            raise ValueError(f"more than {_MAX_LEVELS} nested levels")


_MAX_PROBLEMS = 20
# Limits for a wrong value in a message: with aliases, a small file can contain a huge value.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 200
_SHORT.maxlong = _SHORT.maxother = 100
_SHORT.maxlevel = 2


def _in_words(error: ValidationError) -> list[str]:
    problems = error.errors(include_url=False)
    # pydantic drops wrong items and then reports that the list is too short: keep only the report of the items.
    with_wrong_items = {problem["loc"][:-1] for problem in problems}
    lines = []
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in with_wrong_items:
            continue
        message = problem["msg"].removeprefix("Value error, ")
        for python, words in (("Tuple", "List"), ("valid tuple", "list"), ("valid dictionary", "mapping")):
            message = message.replace(python, words)
        if problem["loc"]:
            found = "nothing" if problem["type"] == "missing" else _shown(problem["input"])
            message = f"{'.'.join(str(part) for part in problem['loc'])}: {message} (found: {found})"
        lines.append(message)
    if len(lines) > _MAX_PROBLEMS:
        lines[_MAX_PROBLEMS:] = [f"and {len(lines) - _MAX_PROBLEMS} more"]
    return lines


def _shown(value: object) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python formats no number of more than 4300 digits
        return "a huge number"


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return ": ".join(part for part in (error.context, error.problem) if part) + place
    return " ".join(str(error).split())


class _StrictLoader(yaml.CSafeLoader):
    """
    Reads YAML as data only.

    It refuses a repeated field, of which YAML would silently keep only the last, and ``<<``, with which a small file
    can grow without bounds.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "<< is not supported", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value} is given more than once"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_datasets(
    folder: Path = DATASETS_FOLDER, share: Share = Share(), *, only: str | None = None
) -> tuple[list[Dataset], list[InvalidDatasetError]]:
    """
    Read every dataset file of a folder, in the order of their names.

    :param folder: folder with ``*.yaml`` files; a file that ends in ``.yml`` or ``.YAML`` is an error, not ignored
    :param share: a dataset may not use the share's own tables as its target
    :param only: name of the one dataset to read; then nobody looks whether another dataset has the same target
    :return: the datasets of the valid files, and one error for each invalid file; for an empty or missing folder, one
        :class:`NoDatasetsError`
    """
    datasets: list[Dataset] = []
    errors: list[InvalidDatasetError] = []
    # Files whose names begin with a dot are an editor's temporary files.
    paths = [path for path in folder.glob("[!.]*") if path.suffix.lower() in (".yaml", ".yml")]
    if only is not None:
        paths = [path for path in paths if path.stem == only]
    elif not paths:
        errors.append(NoDatasetsError(folder))
    for path in sorted(paths):
        try:
            if path.suffix != ".yaml":
                raise InvalidDatasetError(path, ["the file's name must end in .yaml"])
            datasets.append(read_dataset(path, share))
        except InvalidDatasetError as error:
            errors.append(error)
    refused = _with_one_target(datasets)
    for dataset in datasets:
        if others := refused.get(dataset.name):
            problem = f"target_table: {dataset.target_table} {others}"
            errors.append(InvalidDatasetError(folder / f"{dataset.name}.yaml", [problem]))
    return [dataset for dataset in datasets if dataset.name not in refused], errors


def _with_one_target(datasets: Sequence[Dataset]) -> dict[str, str]:
    """Return the datasets whose targets are, or may be, the same table: the reason by the dataset's name."""
    by_table_name: dict[str, list[tuple[Dataset, list[str]]]] = {}
    for dataset in datasets:
        parts = table_parts(dataset.target_table)
        by_table_name.setdefault(parts[-1], []).append((dataset, parts))
    refused = {}
    for group in by_table_name.values():
        for dataset, parts in group:
            same = [(other, its) for other, its in group if other is not dataset and may_be_one_table(parts, its)]
            listed = ", ".join(
                other.name if its == parts else f"{other.name} ({other.target_table})" for other, its in same
            )
            # All are refused: nobody knows which is right, and each would overwrite what the others load.
            if any(its != parts for _, its in same):
                refused[dataset.name] = (
                    f"may be the target of {listed} too; if they are two tables, write both with their schemas, and "
                    "with their databases if the schemas have the same name"
                )
            elif same:
                refused[dataset.name] = f"is the target of {listed} too"
    return refused


class InvalidDatasetDag(DAG):
    """
    Replaces the DAG of an invalid dataset, so that Airflow shows the error as an import error of the dataset file.

    Airflow stores import errors by file and stops every DAG of such a file: an error raised in the DAG file would stop
    all datasets. This DAG claims the dataset file as its own file, and fails only when Airflow serializes it.

    :param error: what is wrong
    """

    def __init__(self, error: InvalidDatasetError) -> None:
        self.error = error
        # Hash the file name: it may itself be an invalid dag_id, and an invalid dag_id breaks every DAG of this file.
        digest = hashlib.sha256(error.path.stem.encode()).hexdigest()[:12]
        super().__init__(dag_id=f"invalid_dataset_{digest}", schedule=None)

    @property
    def relative_fileloc(self) -> str:
        """The dataset file, instead of the DAG file that Airflow sets."""
        return self.error.place

    @relative_fileloc.setter
    def relative_fileloc(self, value: str | None) -> None:
        pass

    def get_serialized_fields(self) -> Any:  # type: ignore[override]
        """Fail with the dataset's error."""
        raise self.error
