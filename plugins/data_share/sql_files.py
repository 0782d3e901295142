"""The files of ``include/sql/snowflake``: their folder, their names in a DAG, and how a step renders one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jinja2

from data_share.package import INCLUDE
from data_share.share import Share
from data_share.share_file import share_file
from data_share.sql_text import quoted, sql_string

SQL_FOLDER = INCLUDE / "sql" / "snowflake"
"""The files of the package. A file of the same name in ``sql_folder`` of the deployment replaces one."""

COLUMNS_OF_VERSION = {
    "source_table_id": "VARCHAR",
    "source_version": "NUMBER(38, 0)",
    "source_committed_at": "TIMESTAMP_NTZ",
    "source_has_feed": "BOOLEAN",
    "from_version": "NUMBER(38, 0)",
    "export_mode": "VARCHAR",
    "export_reason": "VARCHAR",
    "source_rows": "NUMBER(38, 0)",
}
"""Columns of manifests, ledger and lock rows that say which state of the source was exported, with their types."""

SQL_MACROS: dict[str, Any] = {"identifier": quoted, "columns_of_version": COLUMNS_OF_VERSION}
"""For all SQL files: ``identifier`` puts a name in quotes; ``columns_of_version`` are the columns of that name."""

SQL_FILTERS: dict[str, Callable[[object], str]] = {"sql_string": sql_string}
"""Filters for values in SQL; see :func:`data_share.sql_text.sql_string`."""


def sql_templates(share: Share, **macros: Any) -> dict[str, Any]:
    """
    Return the arguments of a DAG whose steps use SQL files.

    :param share: the files read its names as ``share``
    :param macros: further names that the files can read
    """
    return {
        "template_searchpath": search_path(),
        "user_defined_macros": {**SQL_MACROS, "share": share, **macros},
        "user_defined_filters": SQL_FILTERS,
    }


def search_path() -> list[str]:
    """Return the folders in which a SQL file is looked up: that of the deployment, then that of the package."""
    return list(dict.fromkeys(map(str, (share_file().sql_folder, SQL_FOLDER))))


def sql_files(*names: str) -> dict[str, str]:
    """Return file names by their stems, for the parameter ``sql`` of a step."""
    return {name: f"{name}.sql" for name in names}


def render_sql(name: str, *, share: Share, **values: Any) -> str:
    """
    Render a file with values that are known only while a step runs. Airflow renders all other files before the step.

    :param name: the file's name, without ``.sql``
    :param share: the file reads its names as ``share``
    :param values: further names that the file reads, besides the macros and filters
    """
    return _environment().get_template(f"{name}.sql").render(share=share, **values)


def compile_sql() -> None:
    """Compile the files of the package in a process that forks the processes of steps: they would do it each time."""
    # Imported late: commands that read dataset files import this module, and need no Airflow.
    from airflow.sdk import DAG

    airflows = DAG("compile_sql", schedule=None, template_searchpath=str(SQL_FOLDER), user_defined_filters=SQL_FILTERS)
    for environment in (airflows.get_template_env(), _new_environment([str(SQL_FOLDER)])):
        use_compiled(environment)
        for file in SQL_FOLDER.glob("*.sql"):
            environment.get_template(file.name)


def use_compiled(environment: jinja2.Environment) -> None:
    """Let an environment use the files that :func:`compile_sql` has compiled, as long as they are as they were."""
    environment.bytecode_cache = _COMPILED


class _Compiled(jinja2.BytecodeCache):
    """Keeps compiled templates in memory, which forks of this process have too."""

    def __init__(self) -> None:
        self._code: dict[object, Any] = {}

    def load_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        bucket.code = self._code.get(self._key(bucket))

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        self._code[self._key(bucket)] = bucket.code

    @staticmethod
    def _key(bucket: jinja2.bccache.Bucket) -> object:
        # The checksum is of the text. Airflow renders in a sandbox, whose templates are compiled in another way.
        return bucket.key, bucket.checksum, bucket.environment.sandboxed


_COMPILED = _Compiled()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = _new_environment(search_path())
    use_compiled(environment)
    return environment


def _new_environment(folders: list[str]) -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 - SQL needs no HTML escaping
        loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined
    )
    environment.globals.update(SQL_MACROS)
    environment.filters.update(SQL_FILTERS)
    return environment
