-- Target table of the dataset shared_forecasts.
-- Effect: creates it if it is missing, changes nothing that exists.

CREATE TABLE IF NOT EXISTS shared_forecasts (
  date DATE,
  weather_date DATE,
  latitude DOUBLE,
  longitude DOUBLE,
  precipitation_in DOUBLE,
  wind_mph DOUBLE,
  weather VARCHAR,
  forecast_temp_min_f DOUBLE,
  forecast_temp_max_f DOUBLE
);
