"""
The load metadata: which version of which file a table has loaded.

The load metadata are stored in the table's own database, so that they are committed or rolled back together with the
rows.
"""

from __future__ import annotations

import duckdb

from emulators.snowflake.names import ObjectName


def _table(database: str) -> str:
    return f'"{database}"._fs_information_schema._sandbox_loads'


def create(connection: duckdb.DuckDBPyConnection, database: str) -> None:
    """Create the table of the load metadata in a database, unless it exists."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {_table(database)}"
        " (schema_name VARCHAR, table_name VARCHAR, file_name VARCHAR, etag VARCHAR)"
    )


def look_into(connection: duckdb.DuckDBPyConnection, database: str) -> None:
    """Read from a database, so that DuckDB's transaction takes its snapshot of the database now."""
    connection.execute(f"SELECT COUNT(*) FROM {_table(database)}").fetchall()


def loaded(connection: duckdb.DuckDBPyConnection, table: ObjectName) -> set[tuple[str, str]]:
    """Return URL and ETag of the files that a table has loaded."""
    database, *name = table
    return set(
        connection.execute(
            f"SELECT file_name, etag FROM {_table(database)} WHERE schema_name = ? AND table_name = ?", name
        ).fetchall()
    )


def note(connection: duckdb.DuckDBPyConnection, table: ObjectName, url: str, etag: str) -> None:
    """Record that a table has loaded a file."""
    database, *name = table
    connection.execute(f"INSERT INTO {_table(database)} VALUES (?, ?, ?, ?)", [*name, url, etag])


def forget(connection: duckdb.DuckDBPyConnection, table: ObjectName) -> None:
    """Delete the load metadata of a table. A new table of the same name must not inherit them."""
    database, *name = table
    connection.execute(f"DELETE FROM {_table(database)} WHERE schema_name = ? AND table_name = ?", name)


def move(connection: duckdb.DuckDBPyConnection, table: ObjectName, new: ObjectName) -> None:
    """Move the load metadata of a renamed table to its new name."""
    database, *name = table
    connection.execute(
        f"UPDATE {_table(database)} SET schema_name = ?, table_name = ? WHERE schema_name = ? AND table_name = ?",
        [*new[1:], *name],
    )
