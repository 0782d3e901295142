"""Datasets: one YAML file each in ``include/datasets/`` says what is copied, where to, how, and how it is checked."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from airflow.sdk import DAG
from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

DATASETS_FOLDER = Path(__file__).resolve().parents[2] / "include" / "datasets"

_SCHEDULE_PRESETS = {"@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly", "@once", "@continuous"}

# Names go into SQL, paths and DAG ids without quotes, so they are held to what is safe in all of them.
DatasetName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
Column = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")]
SourceTable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+$")]
TargetTable = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z_][A-Za-z0-9_]*\.){0,2}[A-Za-z_][A-Za-z0-9_]{0,199}$")
]
CheckName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,99}$")]
Condition = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^;]*$")]


class LoadMode(StrEnum):
    """How a sync changes the target table."""

    REPLACE = "replace"
    """The target holds exactly what was exported: ``INSERT OVERWRITE INTO``."""


class Dataset(BaseModel):
    """What one dataset file says. The file's name, without ``.yaml``, is the dataset's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName
    description: str = Field(min_length=1, description="One sentence for the people who press Sync.")
    source_table: SourceTable = Field(description="Unity Catalog name: catalog.schema.table.")
    target_table: TargetTable = Field(description="Snowflake table; without a schema, in the connection's schema.")
    load_mode: LoadMode = Field(description="How the target changes.")
    schedule: str | None = Field(default=None, description="Cron expression in UTC or a preset such as @daily.")
    export_timeout_minutes: int = Field(
        default=120, ge=1, le=1440, description="An export that takes longer is cancelled on Databricks."
    )
    allow_empty: bool = Field(default=False, description="Whether an export without a row is loaded.")
    required_columns: tuple[Column, ...] = Field(
        min_length=1, description="Columns of the target without a NULL in any row of a sync."
    )
    checks: dict[CheckName, Condition] = Field(
        default_factory=dict, description="Named conditions in Snowflake SQL that hold for each row, or for the whole."
    )

    @field_validator("schedule")
    @classmethod
    def _schedule_is_known(cls, value: str | None) -> str | None:
        if value is None or value in _SCHEDULE_PRESETS or croniter.is_valid(value):
            return value
        raise ValueError(f"{value!r} is neither a cron expression nor one of {', '.join(sorted(_SCHEDULE_PRESETS))}")

    @property
    def dag_id(self) -> str:
        """The DAG that syncs this dataset."""
        return f"sync_{self.name}"


class InvalidDatasetError(ValueError):
    """A dataset file cannot be used; the message names the file and, line by line, each wrong field and the reason."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        super().__init__(f"{'/'.join(path.parts[-3:])} is not a valid dataset file:\n  " + "\n  ".join(problems))


def read_dataset(path: Path) -> Dataset:
    """
    Read one dataset file.

    :param path: the YAML file
    :raises InvalidDatasetError: for a file that is no YAML mapping or has a missing, unknown or wrong field
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidDatasetError(path, [f"it cannot be read as YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise InvalidDatasetError(path, ["it must hold fields, as in 'source_table: main.weather.forecasts'"])
    if "name" in content:
        raise InvalidDatasetError(path, ["name: the file's name is the dataset's name; leave this field out"])
    try:
        return Dataset.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (found: {_shown(problem)})"
            for problem in error.errors()
        ]
        raise InvalidDatasetError(path, problems) from None


def _shown(problem: Any) -> str:
    return "nothing" if problem["type"] == "missing" else repr(problem["input"])


def read_datasets(folder: Path = DATASETS_FOLDER) -> tuple[list[Dataset], list[InvalidDatasetError]]:
    """
    Read every dataset file of a folder, in the order of their names.

    :param folder: folder with ``*.yaml`` files; one that ends in ``.yml`` is an error and not passed over
    :return: the datasets of the valid files, and one error for each of the others
    """
    datasets: list[Dataset] = []
    errors: list[InvalidDatasetError] = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")):
        try:
            if path.suffix == ".yml":
                raise InvalidDatasetError(path, ["the file's name must end in .yaml"])
            datasets.append(read_dataset(path))
        except InvalidDatasetError as error:
            errors.append(error)
    return datasets, errors


class InvalidDatasetDag(DAG):
    """
    Stands in for the DAG of an invalid dataset: Airflow shows its error as an import error of the dataset file.

    Airflow keeps import errors by file and stops every DAG of a file that has one, so an error raised in the DAG file
    would stop all datasets. This DAG names the dataset file as its own and fails only when Airflow serializes it.

    :param error: what is wrong
    """

    def __init__(self, error: InvalidDatasetError) -> None:
        self.error = error
        # Of a hash, as the file's name may be what is wrong: an id that Airflow refuses would stop all datasets.
        digest = hashlib.sha256(error.path.stem.encode()).hexdigest()[:12]
        super().__init__(dag_id=f"invalid_dataset_{digest}", schedule=None)

    @property
    def relative_fileloc(self) -> str:
        """The dataset file, in place of the DAG file that Airflow puts here."""
        return "/".join(self.error.path.parts[-3:])

    @relative_fileloc.setter
    def relative_fileloc(self, value: str | None) -> None:
        pass

    def get_serialized_fields(self) -> Any:  # type: ignore[override]
        """Fail with the dataset's error."""
        raise self.error
