"""Names of source tables and paths of exports: what is taken, and what is refused wherever it is looked at."""

from __future__ import annotations

import itertools
import string

LONGEST = 255
# All that Unity Catalog lets a name hold: no points, blanks, slashes, control characters.
CHARACTERS = [
    *(character for character in string.punctuation if character not in "`./"),
    *"0aZ\u00e9\u00df\u00a0\u0416\u2028\u540d\ufeff\U0001f4a5",
]
KEY_WORDS = ["order", "SELECT", "from", "table", "anti", "cross", "join", "lateral", "on", "using", "null", "values"]
PARTS = [
    *(f"a{character}b" for character in CHARACTERS),
    *(f"`{character}`" for character in CHARACTERS),
    *KEY_WORDS,
    *("`prod-eu`", "`a``b`", "````", "``````", "```;--`", "`''`", "2026", "1e5", "x" * LONGEST),
    *("\u00fc" * LONGEST, f"`{'``' * LONGEST}`", "{}", "${user}", "`${env:HOME}`", "it's;DROP", "--", "`\\`"),
]
SOURCES = [
    "main.weather.forecasts",
    *(f"main.sea.{part}" for part in PARTS),
    *(".".join(parts) for parts in itertools.permutations(["`prod-eu`", "`a``b`", "tides"])),
    ".".join([f"`{'``' * LONGEST}`"] * 3),
]
"""Sources as a dataset file may write them."""

NO_SOURCES = {
    "nothing": "",
    "one name": "tides",
    "two names": "sea.tides",
    "four names": "a.main.sea.tides",
    "an empty name": "main..tides",
    "an empty name in backticks": "main.sea.``",
    "a point in backticks": "main.sea.`ti.des`",
    "a blank in backticks": "main.sea.`ti des`",
    "a blank": "main.sea.ti des",
    "a blank behind": "main.sea.tides ",
    "a slash in backticks": "main.sea.`ti/des`",
    "a tabulator in backticks": "main.sea.`ti\tdes`",
    "a line feed in backticks": "main.sea.`ti\ndes`",
    "a line feed": "main.sea.ti\ndes",
    "a line feed behind": "main.sea.tides\n",
    "a line feed behind backticks": "main.sea.`tides`\n",
    "NUL": "main.sea.`ti\x00des`",
    "DEL": "main.sea.`ti\x7fdes`",
    "an open backtick": "main.sea.`tides",
    "a backtick": "main.sea.ti`des",
    "a backtick behind": "main.sea.tides`",
    "a backtick within": "main.sea.`ti`des`",
    "three backticks within": "main.sea.`ti```des`",
    "another statement": "main.sea.tides; DROP TABLE x",
    "another statement behind backticks": "main.sea.`tides`; DROP TABLE x",
    "a quote and another statement": "main.sea.tides'; DROP TABLE x --",
    "the end of a comment": "main.sea.tides */",
    "a comment": "main.sea.tides -- x",
    "a version": "main.sea.tides VERSION AS OF 1",
    "an alias": "main.sea.tides AS x",
    "a query": "(SELECT * FROM main.sea.tides)",
    "a directory": "parquet.`/etc/`",
    "a directory of the share": "parquet.`s3://databricks-snowflake-share/dataset/`",
}
"""What neither a dataset file nor the export's SQL takes."""

WITHOUT_BACKTICKS = {
    f"{character!r} without backticks": f"main.sea.a{character}b" for character in CHARACTERS if character not in "0aZ_"
}
"""What a dataset file may write, and the export's SQL takes in backticks only."""


def no_paths(path: str) -> dict[str, str]:
    """Return what is no path, made of one that is one."""
    inserted = {
        "a quote": "'",
        "a double quote": '"',
        "a quote and another statement": "'; DROP TABLE x --",
        "a double quote and another statement": '" USING PARQUET SELECT 1; DROP TABLE x --',
        "a backtick": "`",
        "a backslash": "\\",
        "a backslash and a quote": "\\'",
        "a line feed": "\n",
        "a carriage return": "\r",
        "NUL": "\x00",
        "the end of a comment": "*/",
        "the begin of a comment": "/*",
        "a comment": " -- ",
        "a semicolon": ";",
        "a blank": " ",
        "braces": "{}",
        "a variable of Spark": "${env:HOME}",
        "a reference of a job": "{{job.parameters.dataset}}",
        "a marker": ":run_key",
        "a percent sign": "%27",
        "a letter beyond ASCII": "\u00fc",
        "an empty step": "//",
        "a way up": "/../",
        "this folder": "/./",
        "a hidden step": "/.hidden",
    }
    half = len(path) - 4
    return {kind: path[:half] + text + path[half:] for kind, text in inserted.items()} | {
        "nothing": "",
        "no slash at the end": path.removesuffix("/"),
        "a line feed behind": f"{path}\n",
        "two slashes at the end": f"{path}/",
        "a blank before": f" {path}",
        "a path from here": "data/",
        "the root": "/",
        "the bucket": "s3://databricks-snowflake-share/",
        "another scheme": "file:/tmp/data/",
        "a host": "https://example.com/data/",
    }
