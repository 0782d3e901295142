"""The export of chosen columns: what is in the bucket afterwards."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from data_share.dag_defaults import SHARE
from data_share.render import export_sql
from data_share.source import Source
from emulators.databricks.errors import StatementError
from emulators.databricks.export import Session
from emulators.databricks.unity_catalog import write_table
from tests.emulators.databricks.test_export import SQL as NOT_RENDERED
from tests.emulators.databricks.test_export import read
from tests.export_job import UNPLANNED

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]

SQL = export_sql((), SHARE)
SECRETS = {("data_share", "hash_key"): "known to Databricks"}
HOSTILE = [
    "`",
    "``; DROP TABLE x --",
    "a` FROM x; --",
    "'",
    '"',
    "{}",
    ":source_table",
    "?",
    "/* c",
    "*",
    "a.b",
    "größe",
    "a\\",
    "a,b AS c",
]


def sha(value: str) -> str:
    """The hash as docs/datasets.md defines it, made without any SQL."""
    secret = SECRETS["data_share", "hash_key"].encode()
    padding = 16 - len(secret) % 16
    encryptor = Cipher(algorithms.AES(b"0123456789abcdef"), modes.ECB()).encryptor()
    key = (encryptor.update(secret + bytes([padding]) * padding) + encryptor.finalize()).hex().upper()
    return hashlib.sha256((key + value).encode()).hexdigest()


@pytest.fixture
def export(lake: str, files: Any, tmp_path: Any) -> Any:
    share = f"databricks-snowflake-share/{tmp_path.name}/"

    def run(rows: pa.Table, parameters: dict[str, str], secrets: Any = SECRETS, sql: str = SQL) -> pa.Table:
        write_table(lake, "main.weather.chosen", rows)
        session = Session(lake, files, secrets)
        paths = {"data_path": f"s3://{share}data/", "manifest_path": f"s3://{share}manifest/"}
        values = {"source_table": "main.weather.chosen", "run_key": "key", "dataset": "chosen", "mode": ""}
        values |= {**UNPLANNED, **paths}
        try:
            session.execute(sql, values | parameters)
        finally:
            session.close()
            files.invalidate_cache()
        return read(files, f"{share}data/")[0]

    run.found = lambda: files.find(share)  # type: ignore[attr-defined]
    return run


def chosen(**fields: Any) -> dict[str, str]:
    return {"proof": "chosen_checksums", "source": json.dumps(Source.model_validate(fields).parameter())}


PEOPLE = pa.table({"id": [1, 2], "Ssn": ["123", None], "born": [1990, 2001], "name": ["Ada", "Bo"]})
LATER = PEOPLE.append_column("later", pa.array(["x", "y"]))


@pytest.mark.parametrize("rows", [PEOPLE, LATER], ids=["at first", "with a column that came later"])
@pytest.mark.parametrize(
    ("fields", "expected", "leaves_later"),
    [
        ({"columns": ["NAME", "id"]}, {"id": [1, 2], "NAME": ["Ada", "Bo"]}, False),
        (
            {"columns": ["id", "ssn"], "rename": {"SSN": "person"}, "hash": ["ssn"]},
            {"id": [1, 2], "person": [sha("123"), None]},
            False,
        ),
        ({"exclude": ["ssn", "born"]}, {"id": [1, 2], "name": ["Ada", "Bo"]}, True),
        (
            {"hash": ["born"], "exclude": ["ssn", "name"]},
            {"id": [1, 2], "born": [sha("1990"), sha("2001")]},
            True,
        ),
        (
            {"rename": {"born": "name", "name": "born"}, "exclude": ["ssn"]},
            {"id": [1, 2], "name": [1990, 2001], "born": ["Ada", "Bo"]},
            True,
        ),
    ],
)
def test_what_is_in_the_bucket(
    export: Any, rows: pa.Table, fields: dict[str, Any], expected: dict[str, list[Any]], leaves_later: bool
) -> None:
    later = {"later": ["x", "y"]} if leaves_later and rows is LATER else {}
    assert export(rows, chosen(**fields)).to_pydict() == expected | later


@pytest.mark.parametrize("how", ["kept", "hashed", "left_out"])
def test_a_column_may_have_any_name(export: Any, how: str) -> None:
    rows = pa.table({"id": [7], **{name: ["v"] for name in HOSTILE}})
    fields = {"kept": {"columns": ["id", *HOSTILE]}, "hashed": {"hash": HOSTILE}, "left_out": {"exclude": HOSTILE}}
    value = {"kept": ["v"], "hashed": [sha("v")]}.get(how)
    assert export(rows, chosen(**fields[how])).to_pydict() == {
        "id": [7],
        **(dict.fromkeys(HOSTILE, value) if value else {}),
    }


def test_a_column_may_get_any_name(export: Any) -> None:
    rows = pa.table({f"c{number}": [number] for number, _ in enumerate(HOSTILE)})
    renamed = chosen(rename={f"c{number}": name for number, name in enumerate(HOSTILE)})
    assert export(rows, renamed).to_pydict() == {name: [number] for number, name in enumerate(HOSTILE)}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (chosen(columns=["id", "ssm"]), "The source lacks these columns, which the dataset file names: ssm"),
        (chosen(exclude=["ssm"]), "The source lacks these columns, which the dataset file names: ssm"),
        (chosen(hash=["ssm"]), "The source lacks these columns, which the dataset file names: ssm"),
        (chosen(rename={"ssn": "ID"}), "Two columns would have the same name"),
        (chosen(exclude=["id", "ssn", "born", "name"]), "No column is left to export: see source in the dataset file"),
        ({"proof": "chosen_checksums", "source": ""}, "The job parameter source must be JSON"),
        ({"proof": "checksums", "source": "no JSON"}, "The job parameter source must be JSON"),
        ({"proof": "checksums", "source": "SELECT 1"}, "The job parameter source must be JSON"),
        ({"proof": "checksums", "source": '{"columns": [], "others": "all"}'}, "The job parameter source must be JSON"),
        *(
            (
                {"proof": "checksums", "source": json.dumps({"columns": [column], "others": "kept"})},
                "The job parameter source must list columns",
            )
            for column in (
                {"name": "id"},
                {"name": "id", "alias": "id", "how": "SHA1(id)"},
                {"name": "id", "alias": "", "how": "kept"},
                {"name": "id\n", "alias": "id", "how": "kept"},
                {"name": "id", "alias": "${env:HOME}", "how": "kept"},
                {"name": "id", "alias": "x" * 256, "how": "kept"},
            )
        ),
    ],
)
def test_a_choice_that_is_none_exports_nothing(export: Any, parameters: dict[str, str], message: str) -> None:
    with pytest.raises(StatementError, match=message):
        export(PEOPLE, parameters)
    assert export.found() == []


def job(where: str | None, dataset: str = "chosen") -> str:
    """The SQL of a job that was deployed with a condition of a dataset."""
    of_dataset: Any = SimpleNamespace(name=dataset, source=Source(where=where))
    return export_sql([of_dataset], SHARE)


HARD = """ name IN ('Bo', 'it''s', 'a\\\\b', "d'q", '--', ';', '${') AND (`Ssn` IS NULL\n OR id::INT > 5) """.replace(
    "${", "$"
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("born > 1995", [2]),
        ("ssn IS NOT NULL", [1]),
        ("false OR name LIKE 'A%'", [1]),
        ("name = 'no'", []),
        (HARD, [2]),
    ],
)
def test_only_rows_of_the_condition_leave(export: Any, where: str, expected: list[int]) -> None:
    choice = {"columns": ["id"], "where": where}
    assert export(PEOPLE, chosen(**choice), sql=job(where)).to_pydict() == {"id": expected}
    # Without a choice of columns too.
    rows = export(PEOPLE, chosen(where=where), sql=job(where))
    assert rows.to_pydict() == PEOPLE.filter(pa.array([number in expected for number in (1, 2)])).to_pydict()


@pytest.mark.parametrize(
    ("deployed", "asked"),
    [
        (job("id = 1"), "id = 2"),
        (job("id = 1"), None),
        (job(None), "id = 1"),
        (job("id = 1", dataset="another"), "id = 1"),
    ],
)
def test_a_job_with_another_condition_exports_nothing(export: Any, deployed: str, asked: str | None) -> None:
    for parameters in [chosen(exclude=["ssn"], where=asked)] + ([] if asked else [{"proof": "counts", "source": ""}]):
        with pytest.raises(StatementError, match="another condition for the rows of chosen than the dataset file"):
            export(PEOPLE, parameters, sql=deployed)
    assert export.found() == []


def test_a_condition_in_a_parameter_is_none(export: Any) -> None:
    parameters = chosen(exclude=["ssn"], where="id = 1")
    parameters["source"] = parameters["source"].replace(Source(where="id = 1").where_digest, "id = 2")
    with pytest.raises(StatementError, match="another condition"):
        export(PEOPLE, parameters, sql=job("id = 1"))


def test_the_hash_is_made_with_the_secret_that_the_share_file_names(export: Any) -> None:
    names = SHARE.model_copy(update={"hash_secret_scope": "acme-secrets@eu", "hash_secret_key": "hash.v2"})
    sql = export_sql((), names)
    theirs = {("acme-secrets@eu", "hash.v2"): SECRETS["data_share", "hash_key"], ("data_share", "hash_key"): "another"}
    exported = export(PEOPLE, chosen(columns=["ssn"], hash=["ssn"]), secrets=theirs, sql=sql)
    assert exported.to_pydict() == {"ssn": [sha("123"), None]}


def test_a_job_that_was_not_rendered_hashes_nothing_and_exports_what_has_no_hash(export: Any) -> None:
    with pytest.raises(StatementError, match="does not know the secret of hashes: run make render"):
        export(PEOPLE, chosen(hash=["ssn"]), secrets={("", ""): "x", **SECRETS}, sql=NOT_RENDERED)
    assert export.found() == []
    exported = export(PEOPLE, chosen(columns=["id"]), sql=NOT_RENDERED)
    assert exported.to_pydict() == {"id": [1, 2]}


def test_without_the_secret_nothing_is_exported(export: Any) -> None:
    with pytest.raises(StatementError, match=r"^\[INVALID_SECRET_LOOKUP.SECRET_FUNCTION_LOOKUP_FAILED\].*data_share"):
        export(PEOPLE, chosen(hash=["ssn"]), secrets={})
    assert export.found() == []


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("SECRET('data_share', 'hash_key')", "SECRET_FUNCTION_INVALID_LOCATION"),
        ("SHA2(SECRET('data_share', 'hash_key') || 'x', 256)", "SECRET_FUNCTION_INVALID_LOCATION"),
        ("AES_ENCRYPT(SECRET('data_share', 'none'), '0123456789abcdef', 'ECB')", "SECRET_FUNCTION_LOOKUP_FAILED"),
        ("AES_ENCRYPT(SECRET('none', 'hash_key'), '0123456789abcdef', 'ECB')", "SECRET_FUNCTION_LOOKUP_FAILED"),
        (
            "AES_ENCRYPT(SECRET('a' || 'b', 'hash_key'), '0123456789abcdef', 'ECB')",
            "SECRET_FUNCTION_SCOPE_NOT_CONSTANT",
        ),
        ("AES_ENCRYPT(SECRET('data_share', id), '0123456789abcdef', 'ECB')", "SECRET_FUNCTION_KEY_NOT_CONSTANT"),
        ("AES_ENCRYPT(SECRET('data_share', 'hash_key'), 'short', 'ECB')", "AES_KEY_LENGTH"),
        ("AES_ENCRYPT(SECRET('data_share', 'hash_key'), '0123456789abcdef')", "knows AES_ENCRYPT only"),
    ],
)
def test_secrets_are_as_strict_as_databricks(lake: str, files: Any, expression: str, error: str) -> None:
    session = Session(lake, files, SECRETS)
    sql = f"INSERT OVERWRITE DIRECTORY 's3://databricks-snowflake-share/x/' USING PARQUET SELECT {expression} AS a"
    with pytest.raises(StatementError, match=error):
        session.execute(f"{sql} FROM main.weather.forecasts", {})
    session.close()
