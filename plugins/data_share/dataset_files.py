"""Reads dataset files, with the defaults of the deployment, and refuses targets that two datasets would write to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from data_share.conditions import DATABRICKS, sql_errors, where_of
from data_share.datasets import Dataset
from data_share.package import ADVICE
from data_share.share_file import InvalidShareFileError, ShareFile, ShareNames, share_file
from data_share.sql_text import may_be_one_table, table_parts
from data_share.yaml_files import InvalidFileError, problems_of, read_fields

MAY_HAVE_DEFAULTS = (
    "schedule",
    "owner",
    "tags",
    "retries",
    "checks",
    "max_row_change_percent",
    "allow_empty",
    "schema_drift",
    "proof",
    "export_timeout_minutes",
    "load_timeout_minutes",
    "sync_deadline_minutes",
    "max_age_minutes",
)
"""Fields for which ``include/share.yaml`` may have defaults: their values may be right for all datasets."""


class InvalidDatasetError(InvalidFileError):
    """A dataset file cannot be used; the message names the file and, line by line, each wrong field and the reason."""

    verdict = "is not a valid dataset file"


class NoDatasetsError(InvalidDatasetError):
    """The folder of the dataset files is not deployed, or it is empty."""

    verdict = "has no dataset file, so there is nothing to sync"
    depth = 2

    def __init__(self, folder: Path) -> None:
        problem = (
            f"{folder} is empty; add a dataset as docs/adding-a-dataset.md says"
            if folder.is_dir()
            else f"{folder} is missing; {ADVICE}"
        )
        super().__init__(folder, [problem])


class FolderUnreadableError(InvalidDatasetError):
    """The folder of the dataset files is there, and this process may not read it: nobody knows which datasets exist."""

    verdict = "cannot be read, so there is nothing to sync"
    depth = 2


def read_dataset(path: Path, deployment: ShareFile | None = None, *, check_sql: bool = False) -> Dataset:
    """
    Read one dataset file.

    :param path: the YAML file
    :param deployment: its shares and defaults; default: what ``include/share.yaml`` says
    :param check_sql: whether to parse the conditions too, which takes a ms each and, once in a process, 0.3 s
    :raises InvalidDatasetError: for a file that is no YAML mapping or has a missing, unknown or wrong field
    """
    deployment = deployment or share_file()
    content = read_fields(path, InvalidDatasetError, "source_table: main.weather.forecasts")
    if "name" in content:
        raise InvalidDatasetError(path, ["name: the file's name is the dataset's name; remove this field"])
    fields = {**deployment.defaults, **content}
    if isinstance(own := content.get("checks"), dict):
        fields["checks"] = {**deployment.defaults.get("checks", {}), **own}
    try:
        dataset = Dataset.model_validate({"name": path.stem, **fields}, context={"shares": deployment.shares})
        problems = []
    except ValidationError as error:
        problems = problems_of(error)
    if check_sql:
        problems += sql_errors("checks", content.get("checks"))
        problems += sql_errors("source", where_of(content.get("source")), DATABRICKS)
    if problems:
        raise InvalidDatasetError(path, problems)
    return dataset


def check_defaults(deployment: ShareFile, *, check_sql: bool = False) -> None:
    """
    Check the defaults of dataset fields, as no dataset file may have an error that stands in another file.

    :param check_sql: as for :func:`read_dataset`
    :raises InvalidShareFileError: a default is no field that may have one, or no possible value of it
    """
    problems = [
        f"defaults.{field}: no default is possible; it is for {', '.join(MAY_HAVE_DEFAULTS)}"
        for field in deployment.defaults
        if field not in MAY_HAVE_DEFAULTS
    ]
    required = {
        "name": "defaults",
        "description": "-",
        "source_table": "a.b.c",
        "target_table": "_",
        "load_mode": "replace",
        "required_columns": ["_"],
    }
    try:
        if not problems:
            Dataset.model_validate({**deployment.defaults, **required}, context={"shares": deployment.shares})
    except ValidationError as error:
        problems = problems_of(error, "defaults.", deployment.origins)
    if check_sql:
        problems += sql_errors("defaults.checks", deployment.defaults.get("checks"))
    if problems:
        raise InvalidShareFileError(deployment.path, problems)


def read_datasets(
    folder: Path | None = None,
    deployment: ShareFile | None = None,
    *,
    only: str | None = None,
    check_sql: bool = False,
) -> tuple[list[Dataset], list[InvalidDatasetError]]:
    """
    Read every dataset file of a folder, in the order of their names.

    :param folder: folder with ``*.yaml`` files; a file that ends in ``.yml`` or ``.YAML`` is an error, not ignored;
        default: the deployment's
    :param deployment: its shares and defaults; default: what ``include/share.yaml`` says
    :param only: name of the one dataset to read; then nobody looks whether another dataset has the same target
    :param check_sql: as for :func:`read_dataset`
    :return: the datasets of the valid files, and one error for each invalid file; for an empty or missing folder, one
        :class:`NoDatasetsError`; for one that cannot be read, one :class:`FolderUnreadableError`
    :raises InvalidShareFileError: the deployment's defaults have an error
    """
    deployment = deployment or share_file()
    folder = folder or deployment.datasets_folder
    check_defaults(deployment, check_sql=check_sql)
    datasets: list[Dataset] = []
    errors: list[InvalidDatasetError] = []
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml")]
    except (FileNotFoundError, NotADirectoryError):
        paths = []
    except OSError as error:
        return [], [FolderUnreadableError(folder, [str(error)])]
    # Files whose names begin with a dot are an editor's temporary files.
    paths = [path for path in paths if not path.name.startswith(".")]
    if only is not None:
        paths = [path for path in paths if path.stem == only]
    elif not paths:
        errors.append(NoDatasetsError(folder))
    for path in sorted(paths):
        try:
            if path.suffix != ".yaml":
                raise InvalidDatasetError(path, ["the file's name must end in .yaml"])
            datasets.append(read_dataset(path, deployment, check_sql=check_sql))
        except InvalidDatasetError as error:
            errors.append(error)
    refused = _with_one_target(datasets, deployment.shares)
    for dataset in datasets:
        if others := refused.get(dataset.name):
            problem = f"target_table: {dataset.target_table} {others}"
            errors.append(InvalidDatasetError(folder / f"{dataset.name}.yaml", [problem]))
    return [dataset for dataset in datasets if dataset.name not in refused], errors


def _with_one_target(datasets: Sequence[Dataset], shares: Mapping[str, ShareNames]) -> dict[str, str]:
    """Return the datasets whose targets are, or may be, the same table: the reason by the dataset's name."""
    by_table_name: dict[tuple[str, str], list[tuple[Dataset, list[str]]]] = {}
    for dataset in datasets:
        parts = table_parts(dataset.target_table)
        by_table_name.setdefault((shares[dataset.share].snowflake_conn_id, parts[-1]), []).append((dataset, parts))
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
