"""When a dataset is synced: schedules as a dataset file writes them, and as Airflow takes them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from croniter import CroniterBadDateError, croniter
from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

_PRESETS = {"@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly", "@once", "@continuous"}
# They name no time, so a time zone would mean nothing.
_WITHOUT_TIME = {"@once", "@continuous"}
_CRON_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_TIME_ZONE = r"[A-Za-z]+([/_+-][A-Za-z0-9_+-]+)*"
# Some systems have these files beside the time zones: another machine may read another zone from them.
_NO_TIME_ZONES = {"localtime", "posixrules", "Factory"}
_ASSET = r"[!-~]([ -~]{0,1498}[!-~])?"


class CronSchedule(BaseModel):
    """Times of day in a time zone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str
    time_zone: str


class AssetSchedule(BaseModel):
    """Each update of an asset of Airflow: its name, or its URI."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asset: str

    def reference(self) -> Any:
        """
        Return what Airflow takes as the schedule of a DAG: a reference, as another DAG declares the asset.

        :raises ValueError: Airflow does not accept the URI
        """
        # Only here: it takes long to import, and few datasets have such a schedule.
        from airflow.sdk import Asset

        if "://" not in self.asset:
            return Asset.ref(name=self.asset)
        # Airflow compares URIs in its normal form.
        return Asset.ref(uri=Asset(self.asset).uri)


def _schedule(value: Any) -> Any:
    if value is None or isinstance(value, CronSchedule | AssetSchedule):
        return value
    if isinstance(value, str):
        return _known_times(value)
    if isinstance(value, dict) and set(value) == {"cron", "time_zone"}:
        return _in_time_zone(value["cron"], value["time_zone"])
    if isinstance(value, dict) and set(value) == {"asset"}:
        return _on_asset(value["asset"])
    raise ValueError(
        "write a cron expression or a preset in quotes, {cron: '0 6 * * *', time_zone: Europe/Berlin}, or "
        "{asset: <name or URI>}"
    )


Schedule = Annotated[
    str | CronSchedule | AssetSchedule | None,
    BeforeValidator(_schedule),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"cron": {"type": "string"}, "time_zone": {"type": "string", "pattern": _TIME_ZONE}},
                    "required": ["cron", "time_zone"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {"asset": {"type": "string", "minLength": 1}},
                    "required": ["asset"],
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]
"""When a dataset is synced: a cron expression in UTC or a preset, times in a time zone, or updates of an asset."""


def _known_times(value: str) -> str:
    if value in _PRESETS:
        return value
    if not croniter.is_valid(value):
        raise ValueError(f"{value!r} is neither a cron expression nor one of {', '.join(sorted(_PRESETS))}")
    if problem := _misread_cron(value):
        raise ValueError(f"{value!r} {problem}")
    try:
        croniter(value).get_next()
    except CroniterBadDateError:
        raise ValueError(f"{value!r} never comes") from None
    return value


def _in_time_zone(cron: Any, time_zone: Any) -> CronSchedule:
    if not isinstance(cron, str):
        raise ValueError(f"cron must be a text in quotes, not {cron!r}")
    if cron in _WITHOUT_TIME:
        raise ValueError(f"{cron} has no time, so it takes no time_zone; write it alone")
    if not isinstance(time_zone, str) or not _is_time_zone(time_zone):
        close = difflib.get_close_matches(str(time_zone), available_timezones(), n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]}?" if close else "; write one as Europe/Berlin"
        raise ValueError(f"{time_zone!r} is no time zone of the IANA database{meant}")
    return CronSchedule(cron=_known_times(cron), time_zone=time_zone)


def _is_time_zone(name: str) -> bool:
    if not re.fullmatch(_TIME_ZONE, name) or name in _NO_TIME_ZONES or name.startswith(("posix/", "right/")):
        return False
    try:
        return ZoneInfo(name).key == name
    except (KeyError, ValueError, OSError):  # unknown, no data, a folder of zones
        return False


def _on_asset(asset: Any) -> AssetSchedule:
    if not isinstance(asset, str) or not re.fullmatch(_ASSET, asset):
        raise ValueError("asset must be a name or a URI of 1 to 1500 printable ASCII characters, without blanks around")
    made = AssetSchedule(asset=asset)
    try:
        made.reference()
    except Exception as error:  # each kind of URI has its own function in Airflow
        raise ValueError(f"Airflow does not accept the asset {asset!r}: {error}") from None
    return made


def _misread_cron(value: str) -> str | None:
    """Return why Airflow would misread a cron expression, or None. Its parser, croniter (7.0), accepts such texts."""
    fields = value.split()
    if len(fields) != len(_CRON_FIELDS):
        return f"has {len(fields)} fields; a schedule has five: {', '.join(_CRON_FIELDS)}"
    if re.search(r"\br\b", value, re.IGNORECASE):
        return "contains R, a random time that changes whenever Airflow reads it; write the time"
    numbers: Sequence[Any] = croniter.ALPHACONV
    for index, field in enumerate(fields):
        name, size = _CRON_FIELDS[index], croniter.LEN_MEANS_ALL[index]
        for part in field.split(","):
            span, _, step = part.partition("/")
            if step and int(step) > size:
                return f"has the step {step}, but {name} starts again after {size}; list the values instead"
            ends = [str(numbers[index].get(end, end.lstrip("0") or 0)) for end in span.lower().split("-")]
            if len(ends) == 2 and ends[0] == ends[1]:
                return f"has {span} for {name}, which croniter reads as every {name}; write the value once"
    return None
