"""The checks of the sources, only if asked for: whether the columns of each source and of its target fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data_share.datasets import Dataset
from data_share.describe import Description, SourceUnknownError, describe_all
from data_share.doctor.deployment import Answer, Deployment, State, error_text, ok, wrong
from data_share.fit import ColumnState, fit_of, target_to_be
from data_share.snowflake.sql_api import SnowflakeStatementError

GROUP = "Sources"
NEEDS = ("job", "job task", "warehouse", "share", "staging schema")
"""Names of checks without which no source can be described."""


def answers(deployment: Deployment, missing: Sequence[str]) -> Iterator[tuple[str, Answer]]:
    """
    Yield an answer for the source of each dataset, with a name.

    :param missing: the checks of :data:`NEEDS` that have not passed: then nothing is asked
    """
    datasets = deployment.datasets[0]
    if missing:
        yield "sources", Answer(State.UNKNOWN, f"because a check before it did not pass: {', '.join(missing)}.")
        return
    try:
        described = describe_all(datasets, deployment.share)
    except Exception as error:
        yield "sources", wrong(f"The export job cannot be started: {error_text(error)}.")
        return
    for dataset in datasets:
        yield f"source of {dataset.name}", _answer(deployment, dataset, described[dataset.name])


def _answer(deployment: Deployment, dataset: Dataset, described: Description | SourceUnknownError) -> Answer:
    if isinstance(described, SourceUnknownError):
        return wrong(str(described))
    target: list[dict[str, Any]] | None
    try:
        target = deployment.rows(f"DESCRIBE TABLE {dataset.target}")
    except SnowflakeStatementError as error:
        if dataset.create_table is None:
            return Answer(State.UNKNOWN, f"because the target cannot be read: {error_text(error)}.")
        target = target_to_be(dataset) if dataset.create_table == "from_columns" else None
    found = fit_of(described, target, dataset)
    if found.problem is not None:
        return wrong(" ".join(str(found.problem).split()))
    if found.notes:
        return Answer(State.ADVICE, " ".join([f"{described.rows:,} rows.", *" ".join(found.notes).split()]))
    listed = [name for name, kind in found.new_columns.items()]
    added = f" The next sync adds {', '.join(listed)}." if listed else ""
    stays = [column.source for column in found.columns if column.state is ColumnState.STAYS and column.source]
    kept = f" In Databricks stay {', '.join(stays)}." if stays else ""
    if left := [column for column in found.columns if column.state is ColumnState.LEFT_OUT]:
        names = ", ".join(str(column.source) for column in left)
        kept += f" The load leaves out {names}: {left[0].note}."
    return ok(f"{described.rows:,} rows, {len(described.columns)} columns, which fit.{added}{kept}")
