from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from vega_datasets import local_data

from emulators.databricks import unity_catalog
from emulators.s3 import SHARE_BUCKET, s3_filesystem
from sandbox import sources

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

SCHEMA = pa.schema(
    [
        ("date", pa.date32()),
        ("weather_date", pa.date32()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("precipitation_in", pa.float64()),
        ("wind_mph", pa.float64()),
        ("weather", pa.string()),
        ("forecast_temp_min_f", pa.float64()),
        ("forecast_temp_max_f", pa.float64()),
    ]
)


def test_forecasts_are_the_observations_in_other_units() -> None:
    observed = local_data.seattle_weather()

    rows = sources.forecasts().to_pylist()

    assert len(rows) == len(observed) == 1461
    # 2012-01-01: no precipitation, 12.8 and 5.0 degrees Celsius, wind of 4.7 m/s.
    assert rows[0] == {
        "date": date(2011, 12, 31),
        "weather_date": date(2012, 1, 1),
        "latitude": 47.4444,
        "longitude": -122.3139,
        "precipitation_in": 0.0,
        "wind_mph": 10.51,
        "weather": "drizzle",
        "forecast_temp_min_f": 41.0,
        "forecast_temp_max_f": 55.04,
    }
    for row, known in zip(rows, observed.to_dict("records"), strict=True):
        assert row["weather_date"] == known["date"].date()
        assert row["weather_date"] - row["date"] == timedelta(days=1)
        assert row["precipitation_in"] == pytest.approx(known["precipitation"] / 25.4, abs=0.0006)
        assert row["wind_mph"] == pytest.approx(known["wind"] * 2.2369363, abs=0.006)
        assert row["forecast_temp_min_f"] == pytest.approx(known["temp_min"] * 1.8 + 32, abs=0.006)
        assert row["forecast_temp_max_f"] == pytest.approx(known["temp_max"] * 1.8 + 32, abs=0.006)
        assert row["weather"] == known["weather"]


def test_further_places_stand_apart_and_have_their_own_weather() -> None:
    table = sources.forecasts(places=41)

    assert table.num_rows == 41 * 1461
    assert table.schema == SCHEMA
    assert table.slice(0, 1461) == sources.forecasts()
    rows = table.to_pylist()
    assert len({(row["date"], row["latitude"], row["longitude"]) for row in rows}) == len(rows)
    assert rows[40 * 1461]["latitude"] == 47.9444
    assert rows[40 * 1461]["forecast_temp_max_f"] == pytest.approx(55.04 - 0.63)
    with pytest.raises(ValueError, match="at least 1"):
        sources.forecasts(places=0)


def test_city_temperatures_have_a_key_and_the_values_of_the_frames() -> None:
    table = sources.city_temperatures()

    assert table.schema == pa.schema(
        [("city", pa.string()), ("observed_at", pa.timestamp("us", "UTC")), ("temperature_f", pa.float64())]
    )
    rows = table.to_pylist()
    assert rows[0] == {"city": "Seattle", "observed_at": datetime(2010, 1, 1, tzinfo=UTC), "temperature_f": 39.4}
    by_key = {(row["city"], row["observed_at"]): row["temperature_f"] for row in rows}
    assert len(by_key) == len(rows) == 2 * 8759
    assert by_key["Seattle", datetime(2010, 7, 1, 12, tzinfo=UTC)] == 67.4
    assert by_key["San Francisco", datetime(2010, 7, 28, 9, tzinfo=UTC)] == 63.1
    assert None not in by_key.values()


def test_daily_observations_are_one_year_in_other_units() -> None:
    table = sources.daily_observations()

    assert table.schema == pa.schema(
        [
            ("station", pa.string()),
            ("observed_on", pa.date32()),
            ("precipitation_in", pa.float64()),
            ("temp_min_f", pa.float64()),
            ("temp_max_f", pa.float64()),
            ("wind_mph", pa.float64()),
            ("weather", pa.string()),
        ]
    )
    rows = table.to_pylist()
    assert [row["observed_on"] for row in rows] == [date(2015, 1, 1) + timedelta(days=day) for day in range(365)]
    # 2015-01-04: 10.2 mm, 3.3 and 10.6 degrees Celsius, wind of 4.5 m/s.
    assert rows[3] == {
        "station": "Seattle-Tacoma",
        "observed_on": date(2015, 1, 4),
        "precipitation_in": 0.402,
        "temp_min_f": 37.94,
        "temp_max_f": 51.08,
        "wind_mph": 10.07,
        "weather": "fog",
    }


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("city", "ascending"), ("observed_at", "ascending")])


def test_seed_makes_what_is_absent_and_changes_nothing_else(s3_url: str) -> None:
    files = s3_filesystem(s3_url)
    for name in (sources.FORECASTS, sources.CITY_TEMPERATURES, sources.DAILY_OBSERVATIONS):
        if files.exists(unity_catalog.table_uri(name)):
            files.rm(unity_catalog.table_uri(name), recursive=True)

    sources.seed(s3_url, places=4)
    unity_catalog.write_table(s3_url, "main.weather.daily_observations", sources.daily_observations(), mode="append")
    sources.seed(s3_url, places=1)

    table = unity_catalog.read_table(s3_url, "main.weather.forecasts")
    assert (table.num_rows, table.schema) == (5844, SCHEMA)
    temperatures = unity_catalog.read_table(s3_url, "main.weather.city_temperatures")
    # A table has no order, least of all one of several files.
    assert in_order(temperatures) == in_order(sources.city_temperatures())
    assert unity_catalog.read_table(s3_url, "main.weather.daily_observations").num_rows == 2 * 365
    assert {SHARE_BUCKET, unity_catalog.LAKE_BUCKET} <= set(files.ls(""))
