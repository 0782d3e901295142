"""The tables of Unity Catalog: Delta tables on the emulator of S3, each in the folder catalog/schema/table."""

from __future__ import annotations

import re
from typing import Literal

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from emulators.s3 import storage_options

LAKE_BUCKET = "unity-catalog"

# A name with other characters than letters, digits and underscores must be in backticks.
_PART = r"(?:[A-Za-z0-9_]{1,128}|`(?:[^`./ \x00-\x1f\x7f]|``){1,255}`)"


def table_uri(name: str) -> str:
    """
    Return the location of a Unity Catalog table.

    For example ``main.weather.forecasts`` is at ``s3://unity-catalog/main/weather/forecasts``. Names become lower case,
    as in Unity Catalog.

    :raises ValueError: if the name does not have the form catalog.schema.table.
    """
    if not re.fullmatch(rf"{_PART}\.{_PART}\.{_PART}", name):
        raise ValueError(f"Not a table name of the form catalog.schema.table: {name!r}")
    parts = [re.sub("^`|`$", "", part).replace("``", "`").lower() for part in re.findall(_PART, name)]
    return f"s3://{LAKE_BUCKET}/{'/'.join(parts)}"


def write_table(
    endpoint_url: str, name: str, table: pa.Table, mode: Literal["overwrite", "append"] = "overwrite"
) -> None:
    """
    Write a table as one new version of its Delta table.

    :param name: Unity Catalog name.
    :param mode: ``overwrite`` replaces rows and columns, ``append`` adds rows.
    """
    write_deltalake(
        table_uri(name),
        table,
        mode=mode,
        schema_mode="overwrite" if mode == "overwrite" else None,
        storage_options=storage_options(endpoint_url),
    )


def read_table(endpoint_url: str, name: str) -> pa.Table:
    """
    Read the current version of a table.

    :raises deltalake.exceptions.TableNotFoundError: if the table does not exist.
    """
    return DeltaTable(table_uri(name), storage_options=storage_options(endpoint_url)).to_pyarrow_table()
