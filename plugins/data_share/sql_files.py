"""The files of ``include/sql/snowflake``: where they are, how a DAG names them, and how a step renders one itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from data_share.share import Share
from data_share.sql_text import quoted, sql_string

SQL_FOLDER = Path(__file__).resolve().parents[2] / "include" / "sql" / "snowflake"

SQL_MACROS: dict[str, Any] = {"identifier": quoted}
"""What each file can use beside the sync and the share: a function that puts a name in quotes."""

SQL_FILTERS: dict[str, Callable[[object], str]] = {"sql_string": sql_string}
"""Filters for values in SQL; see :func:`data_share.sql_text.sql_string`."""


def sql_templates(share: Share, **macros: Any) -> dict[str, Any]:
    """
    Return the arguments of a DAG whose steps have SQL files.

    :param share: the files find its names in ``share``
    :param macros: what they find beside it
    """
    return {
        "template_searchpath": [str(SQL_FOLDER)],
        "user_defined_macros": {**SQL_MACROS, "share": share, **macros},
        "user_defined_filters": SQL_FILTERS,
    }


def sql_files(*names: str) -> dict[str, str]:
    """Return files by their names without ``.sql``, as the parameter ``sql`` of a step takes them."""
    return {name: f"{name}.sql" for name in names}


def render_sql(name: str, *, share: Share, **values: Any) -> str:
    """
    Render a file with values that are known only while a step runs; Airflow renders the others before it.

    :param name: the file's name, without ``.sql``
    :param share: whose names the file uses
    :param values: what the file uses beside the macros and the filters
    """
    return _environment().get_template(f"{name}.sql").render(share=share, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 - it renders SQL
        loader=jinja2.FileSystemLoader(SQL_FOLDER), undefined=jinja2.StrictUndefined
    )
    environment.globals.update(SQL_MACROS)
    environment.filters.update(SQL_FILTERS)
    return environment
