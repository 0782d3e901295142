"""The lake of the sandbox: the source tables as Delta tables on S3, filled with real weather observations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from vega_datasets import local_data

from emulators.databricks.unity_catalog import LAKE_BUCKET, table_uri, write_table
from emulators.s3 import s3_filesystem
from emulators.share_names import buckets

FORECASTS = "main.weather.forecasts"
CITY_TEMPERATURES = "main.weather.city_temperatures"
DAILY_OBSERVATIONS = "main.weather.daily_observations"

# Seattle-Tacoma airport, where the observations were made.
STATION = "Seattle-Tacoma"
STATION_LATITUDE = 47.4444
STATION_LONGITUDE = -122.3139
# Further places stand on a grid around it, this many degrees apart.
GRID_STEP = 0.25
GRID_WIDTH = 20
# The air gets colder towards the pole, by about 0.7 degrees Celsius for each degree of latitude.
FAHRENHEIT_PER_DEGREE_OF_LATITUDE = -1.26

MILLIMETRES_PER_INCH = 25.4
METRES_PER_MILE = 1609.344

OBSERVED_YEAR = 2015


def seed(endpoint_url: str, *, places: int = 1) -> None:
    """
    Create the buckets and the source tables that are missing.

    :param endpoint_url: the emulator of S3.
    :param places: number of places in the weather forecasts. Each has 1,461 rows, one per day from 2012 to 2015. The
        first place is the real station.
    """
    filesystem = s3_filesystem(endpoint_url)
    for bucket in (*buckets(), LAKE_BUCKET):
        if not filesystem.exists(bucket):
            filesystem.mkdir(bucket)
    tables = {
        FORECASTS: lambda: forecasts(places),
        CITY_TEMPERATURES: city_temperatures,
        DAILY_OBSERVATIONS: daily_observations,
    }
    for name, rows in tables.items():
        # Not DeltaTable.is_deltatable: it holds the interpreter lock, and the S3 server may run in this process.
        if not filesystem.exists(f"{table_uri(name)}/_delta_log"):
            write_table(endpoint_url, name, rows())


def forecasts(places: int = 1) -> pa.Table:
    """
    Return observed weather in the form of forecasts that were issued the day before and came true.

    :param places: at least 1; see :func:`seed`.
    :raises ValueError: ``places`` is less than 1.
    """
    if places < 1:
        raise ValueError(f"places must be at least 1, not {places}")
    observed = local_data.seattle_weather()
    days = observed["date"].to_numpy().astype("datetime64[D]")
    rows = len(days)

    place = np.repeat(np.arange(places), rows)
    latitude = np.round(STATION_LATITUDE + GRID_STEP * (place // GRID_WIDTH), 4)
    longitude = np.round(STATION_LONGITUDE + GRID_STEP * (place % GRID_WIDTH), 4)
    colder = FAHRENHEIT_PER_DEGREE_OF_LATITUDE * (latitude - STATION_LATITUDE)

    def everywhere(column: np.ndarray) -> np.ndarray:
        return np.tile(column, places)

    def fahrenheit(celsius: np.ndarray) -> np.ndarray:
        return np.round(everywhere(_fahrenheit(celsius)) + colder, 2)

    return pa.table(
        {
            "date": pa.array(everywhere(days - np.timedelta64(1, "D")), pa.date32()),
            "weather_date": pa.array(everywhere(days), pa.date32()),
            "latitude": latitude,
            "longitude": longitude,
            "precipitation_in": everywhere(_inches(observed["precipitation"].to_numpy())),
            "wind_mph": everywhere(_miles_per_hour(observed["wind"].to_numpy())),
            "weather": pa.array(everywhere(observed["weather"].to_numpy(dtype=object)), pa.string()),
            "forecast_temp_min_f": fahrenheit(observed["temp_min"].to_numpy()),
            "forecast_temp_max_f": fahrenheit(observed["temp_max"].to_numpy()),
        }
    )


def city_temperatures() -> pa.Table:
    """
    Return hourly temperatures of two cities in 2010. The natural key is city and time.

    The source data contain no hour twice, so no row is dropped. Both cities lack one hour of 2010-03-14. The source
    data name no time zone: their times are taken as UTC.
    """
    cities = {"Seattle": local_data.seattle_temps(), "San Francisco": local_data.sf_temps()}
    return pa.concat_tables(
        pa.table(
            {
                "city": pa.array([city] * len(frame), pa.string()),
                "observed_at": pa.array(frame["date"].to_numpy().astype("datetime64[us]"), pa.timestamp("us", "UTC")),
                "temperature_f": frame["temp"].to_numpy(),
            }
        )
        for city, frame in cities.items()
    )


def daily_observations() -> pa.Table:
    """Return one year of observed weather, one row per day: a batch of new observations, to be appended."""
    observed = local_data.seattle_weather()
    observed = observed[observed["date"].dt.year == OBSERVED_YEAR]
    return pa.table(
        {
            "station": pa.array([STATION] * len(observed), pa.string()),
            "observed_on": pa.array(observed["date"].to_numpy().astype("datetime64[D]"), pa.date32()),
            "precipitation_in": _inches(observed["precipitation"].to_numpy()),
            "temp_min_f": np.round(_fahrenheit(observed["temp_min"].to_numpy()), 2),
            "temp_max_f": np.round(_fahrenheit(observed["temp_max"].to_numpy()), 2),
            "wind_mph": _miles_per_hour(observed["wind"].to_numpy()),
            "weather": pa.array(observed["weather"].to_numpy(dtype=object), pa.string()),
        }
    )


def _fahrenheit(celsius: np.ndarray) -> np.ndarray:
    return celsius * 9 / 5 + 32


def _inches(millimetres: np.ndarray) -> np.ndarray:
    return np.round(millimetres / MILLIMETRES_PER_INCH, 3)


def _miles_per_hour(metres_per_second: np.ndarray) -> np.ndarray:
    return np.round(metres_per_second * 3600 / METRES_PER_MILE, 2)
