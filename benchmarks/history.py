"""
Whether a sync takes longer when there are earlier exports: after 1, 100 and 1,000 of them.

Three datasets have the same source and take turns; their folders in the share hold so many earlier exports, each with
the files that Databricks leaves. Measured are the seconds of a sync, and the requests of both services to the share's
bucket. The emulator of Databricks reads the source's Delta log from another bucket, as often as the source has versions
since its last checkpoint: these requests have nothing to do with exports, and do not count.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping

from benchmarks.results import Result, finish, parser, ratio, say, slope, spread
from benchmarks.running import Running, requests_between, running
from emulators.s3 import SHARE_BUCKET, s3_filesystem

SIZES = (1, 100, 1000)
MOST = 1.1
"""Times the figure with one earlier export that the figure with most of them may be: the noise of a shared machine."""

_FILES = ("_SUCCESS", "_committed_1", "_started_1", "part-00000-1.snappy.parquet")
_DATASET = """\
description: Observations of a day, after earlier exports.
source_table: main.weather.daily_observations
target_table: history_{size}
load_mode: replace
required_columns: [station, observed_on]
create_table: from_columns
columns:
  station: VARCHAR
  observed_on: DATE
  precipitation_in: DOUBLE
  temp_min_f: DOUBLE
  temp_max_f: DOUBLE
  wind_mph: DOUBLE
  weather: VARCHAR
"""


def name_of(size: int) -> str:
    """Return the dataset that has so many exports."""
    return f"history_{size}"


def measure(runs: int) -> Result:
    """Sync the datasets in turn."""
    seconds: dict[int, list[float]] = defaultdict(list)
    requests: dict[int, list[int]] = defaultdict(list)
    with running("history", datasets={name_of(size): _DATASET.format(size=size) for size in SIZES}) as stack:
        for size in SIZES:
            leave_exports(stack, name_of(size), size - 1)
            # This one is an earlier export too, and creates the lock table.
            stack.run(f"sync_{name_of(size)}")
        for number in range(runs):
            for size in SIZES:
                before = stack.requests()
                seconds[size].append(stack.run(f"sync_{name_of(size)}").seconds)
                requests[size].append(requests_of_share(requests_between(before, stack.requests())["s3"]))
            say(f"run {number + 1}: " + ", ".join(f"after {size} {taken[-1]:.2f} s" for size, taken in seconds.items()))
    return result(seconds, requests)


def requests_of_share(by_kind: Mapping[str, int]) -> int:
    """Return how many of these requests to S3 the share's bucket has answered."""
    return sum(count for kind, count in by_kind.items() if kind.partition(" ")[2] == SHARE_BUCKET)


def leave_exports(stack: Running, dataset: str, count: int) -> None:
    """Leave earlier exports of a dataset in the share."""
    files = s3_filesystem(stack.endpoints.s3_url)
    folder = f"{SHARE_BUCKET}/dataset/{dataset}"
    content = {
        f"{folder}/20260101T{number:06}_{number:08x}/1-{number:08x}/{part}/{file}": b"1"
        for number in range(count)
        for part in ("data", "manifest")
        for file in _FILES
    }
    if content:
        files.pipe(content)


def result(seconds: dict[int, list[float]], requests: dict[int, list[int]]) -> Result:
    """Return the figures of all runs."""
    taken = {size: spread(values) for size, values in seconds.items()}
    asked = {size: spread(values) for size, values in requests.items()}
    few, many = min(taken), max(taken)
    figures = {
        "seconds": {str(size): figure for size, figure in taken.items()},
        "s3_requests": {str(size): figure for size, figure in asked.items()},
        "seconds_more_per_1000": round(1000 * slope([(size, figure["median"]) for size, figure in taken.items()]), 3),
        "requests_more_per_1000": round(1000 * slope([(size, figure["median"]) for size, figure in asked.items()]), 3),
        "seconds_ratio": ratio(taken[many], taken[few]),
        "requests_ratio": ratio(asked[many], asked[few]),
    }
    where = [f"after {size}: {taken[size]['median']:.2f} s, {asked[size]['median']:g} requests" for size in taken]
    return Result("history", figures, {"seconds_ratio": MOST, "requests_ratio": MOST}, where)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    sys.exit(finish(lambda: measure(arguments.runs)))
