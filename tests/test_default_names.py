"""No name of the deployment is written twice: what ``include/share.yaml`` says stands nowhere else in the product."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
SHARE_FILE = PROJECT / "include" / "share.yaml"
# The documents explain the product by its default names; the tests expect them.
EXPLAINS = {"docs", "tests"}
NOT_OURS = {".git", ".venv", ".sandbox", "rendered", "logs", "keys"}
NAMES: dict[str, str] = yaml.safe_load(SHARE_FILE.read_text())
# Words that mean other things too; the patterns below find them where they are names.
ORDINARY = {"staging", "public", "data_share", "data-share-airflow"}
PATTERN = re.compile(
    "|".join(
        [
            rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])"
            for name in sorted({*NAMES.values(), "databricks-snowflake-share"} - ORDINARY)
        ]
        + [r"\bdata_share\.(public|staging)\b", r"DATABASE data_share\b", r"(?-i:['\"]DATA_SHARE['\"])"]
    ),
    re.IGNORECASE,
)
# A connection is a secret, which a deployment hands on by the name of its variable: one line each, to add or rename.
CONNECTIONS = re.compile(
    "|".join(f"AIRFLOW_CONN_{NAMES[field].upper()}" for field in NAMES if field.endswith("_conn_id"))
    # What the compose file gives to its init service, which sets the Variable.
    + "|DATA_SHARE_EXPORT_JOB_ID"
)
HANDS_ON = {"docker-compose.yaml", ".env.example", "deploy/helm/values.yaml", "deploy/make_env.py"}
# Airflows that it starts itself, with a connection that it makes.
OWN_AIRFLOW = {"benchmarks/waiting_syncs.py"}


def files() -> Iterator[Path]:
    for top in PROJECT.iterdir():
        if top.name in NOT_OURS | EXPLAINS or (top.name.startswith(".") and top.is_dir() and top.name != ".ci"):
            continue
        yield from (path for path in [top, *top.rglob("*")] if path.is_file() and "__pycache__" not in path.parts)


def found_in(text: str) -> list[str]:
    """Return the default names in a text."""
    return [match[0] for match in PATTERN.finditer(text)]


def test_the_default_names_stand_in_the_share_file_alone() -> None:
    found = []
    for path in files():
        name = str(path.relative_to(PROJECT))
        if path == SHARE_FILE or path.suffix in (".md", ".png", ".lock") or name in OWN_AIRFLOW:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        if name in HANDS_ON:
            text = CONNECTIONS.sub("", text)
        found += [f"{name}: {each}" for each in found_in(text)]
    assert found == []


def test_a_name_that_is_written_again_would_be_found() -> None:
    for field, name in NAMES.items():
        if name not in ORDINARY:
            assert found_in(f"x = '{name.upper()}'"), field
    assert found_in("GRANT USAGE ON SCHEMA data_share.staging TO x")
    assert found_in('{"database": "DATA_SHARE"}')
    # The package and its variables have this word in their names.
    assert found_in("from data_share.share import Share; DATA_SHARE_URL; staging; plugins/data_share/") == []
