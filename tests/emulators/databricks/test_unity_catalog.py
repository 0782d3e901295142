from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake.exceptions import TableNotFoundError

from emulators.databricks import unity_catalog
from emulators.s3 import s3_filesystem

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]


def test_a_table_is_read_as_it_was_written(s3_url: str) -> None:
    s3_filesystem(s3_url).makedirs(unity_catalog.LAKE_BUCKET, exist_ok=True)
    name = "main.weather.round_trip"
    three = pa.table({"id": [1, 2, 3], "note": ["a", None, "ü"]})
    unity_catalog.write_table(s3_url, name, three)
    unity_catalog.write_table(s3_url, name, three, mode="append")
    assert unity_catalog.read_table(s3_url, name) == pa.concat_tables([three, three])

    other = pa.table({"id": [1], "text": ["ü"]})
    unity_catalog.write_table(s3_url, name, other)
    assert unity_catalog.read_table(s3_url, name) == other

    with pytest.raises(TableNotFoundError):
        unity_catalog.read_table(s3_url, "main.weather.absent")


@pytest.mark.parametrize(
    "name", ["weather.forecasts", "a.b.c.d", "main..x", "main.weather.x/..", "main.weather.x y", ""]
)
def test_only_a_name_of_three_levels_has_a_location(name: str) -> None:
    with pytest.raises(ValueError, match=r"catalog\.schema\.table"):
        unity_catalog.table_uri(name)


def test_a_table_has_its_folder_in_the_lake() -> None:
    assert unity_catalog.table_uri("main.weather.forecasts") == "s3://unity-catalog/main/weather/forecasts"
