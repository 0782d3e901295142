"""`make keys`: the pair that it writes, and what it tells people to do with it, taken at its word."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from data_share.render import set_up_files
from data_share.share_file import DEFAULT, share_file
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeRefusedError
from emulators.snowflake.auth import fingerprint
from emulators.snowflake.server import create_app

pytestmark = [pytest.mark.tier("nightly"), pytest.mark.sandbox]

PROJECT = Path(__file__).resolve().parents[3]
PASSPHRASE = "it's$HOME&`id`"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make_keys(tmp_path: Path) -> Run:
    """Runs the script as `make keys` does, in a folder of its own."""

    def run(*options: str, passphrase: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "data_share.snowflake.make_keys", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT / "plugins"), "SNOWFLAKE_KEY_PASSPHRASE": passphrase},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def told_connection(told: str, folder: Path, passphrase: str) -> dict[str, Any]:
    """Do in a shell what the script says, and return the connection that Airflow gets."""
    variable = f"AIRFLOW_CONN_{share_file().shares[DEFAULT].snowflake_conn_id.upper()}"
    [command] = re.findall(rf"^export {variable}=.*?\}}\}}'$", told, flags=re.MULTILINE | re.DOTALL)
    answer = subprocess.run(
        ["bash", "-c", f'{command}\nprintf %s "${variable}"'],
        cwd=folder,
        env={**os.environ, "SNOWFLAKE_KEY_PASSPHRASE": passphrase},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return dict(json.loads(answer.stdout))


def registered_key(told: str) -> str:
    """The public key of the printed ALTER USER statement, as Snowflake would keep it."""
    statement = r"^ALTER USER DATA_SHARE_LOADER SET RSA_PUBLIC_KEY = '([A-Za-z0-9+/=]+)';$"
    [key] = re.findall(statement, told, flags=re.MULTILINE)
    return f"-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE], ids=["plain", "encrypted"])
def test_who_does_what_is_printed_is_signed_in(
    make_keys: Run, tmp_path: Path, s3: Any, tools: Any, monkeypatch: pytest.MonkeyPatch, passphrase: str
) -> None:
    told = make_keys(passphrase=passphrase).stdout
    connection = told_connection(told, tmp_path, passphrase)
    assert connection["extra"]["account"] == "<ACCOUNT>"
    app = create_app(
        state_dir=tmp_path / "snowflake",
        s3_endpoint_url=s3[0],
        account=tools.ACCOUNT,
        users={"DATA_SHARE_LOADER": registered_key(told)},
    )
    with tools.serve(app) as url:
        host, port = url.removeprefix("http://").split(":")
        connection["extra"] |= {"account": tools.ACCOUNT, "protocol": "http", "host": host, "port": int(port)}
        monkeypatch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", json.dumps(connection))
        [row] = (
            DataShareSnowflakeHook("snowflake_default")
            .run_statement(
                "SELECT CURRENT_USER() AS u, CURRENT_ROLE() AS r, CURRENT_WAREHOUSE() AS w, CURRENT_DATABASE() AS d"
            )
            .rows
        )
        assert set(row.values()) == {"DATA_SHARE_LOADER", "LOAD_WH", "DATA_SHARE"}

        # Another pair is another key: the emulator does look at it.
        other = make_keys("--name", "other", passphrase=passphrase).stdout
        connection["extra"]["private_key_content"] = told_connection(other, tmp_path, passphrase)["extra"][
            "private_key_content"
        ]
        monkeypatch.setenv("AIRFLOW_CONN_SNOWFLAKE_DEFAULT", json.dumps(connection))
        with pytest.raises(SnowflakeRefusedError, match="JWT token is invalid"):
            DataShareSnowflakeHook("snowflake_default").run_statement("SELECT 1")


def test_the_names_in_the_connection_are_those_of_the_set_up(make_keys: Run, tmp_path: Path) -> None:
    connection = told_connection(make_keys().stdout, tmp_path, "")
    setup = "\n".join(set_up_files(DEFAULT, share_file().shares).values())
    assert f"CREATE USER IF NOT EXISTS {connection['login'].lower()}\n" in setup
    assert f"CREATE ROLE IF NOT EXISTS {connection['extra']['role'].lower()}\n" in setup
    assert f"CREATE WAREHOUSE IF NOT EXISTS {connection['extra']['warehouse'].lower()}\n" in setup
    database = connection["extra"]["database"].lower()
    assert f"CREATE DATABASE IF NOT EXISTS {database}\n" in setup
    assert f"CREATE SCHEMA IF NOT EXISTS {database}.{connection['schema'].lower()};" in setup


def test_a_connection_whose_name_is_no_variable_of_a_shell_is_added_by_a_command(
    make_keys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_SHARE_SNOWFLAKE_CONN_ID", "acme-account.2")
    told = make_keys().stdout
    assert "In its database, as a shell takes no variable" in told
    assert """airflow connections add acme-account.2 --conn-json '{"conn_type": "snowflake", """ in told
    assert "AIRFLOW_CONN" not in told


def test_the_keys_are_what_snowflake_takes_and_for_nobody_else_to_read(make_keys: Run, tmp_path: Path) -> None:
    told = make_keys(passphrase=PASSPHRASE).stdout
    folder = tmp_path / "keys"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("data*")} == {
        "data_share_loader.p8": 0o600,
        "data_share_loader.pub": 0o600,
    }
    # Whatever repository it is in, nothing of the folder is added to it.
    assert (folder / ".gitignore").read_text() == "*\n"
    pem = (folder / "data_share_loader.p8").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "PKCS#8"
    # What the provider's hook reads from a file at most.
    assert len(pem) <= 4096
    # One wrong passphrase in 256 decrypts to bytes that are no key.
    with pytest.raises(ValueError, match=r"password|deserialize"):
        load_pem_private_key(pem, b"another")
    key = load_pem_private_key(pem, PASSPHRASE.encode())
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size >= 2048
    assert told_fingerprint(told) == fingerprint(key.public_key())
    assert pem.decode().splitlines()[1] not in told, "the private key is not shown"
    assert PASSPHRASE not in told


def told_fingerprint(told: str) -> str:
    [found] = re.findall(r"SHA256:\S+", told)
    return str(found)


def test_a_key_is_never_written_over(make_keys: Run, tmp_path: Path) -> None:
    assert make_keys().returncode == 0
    files = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    again = make_keys()
    assert again.returncode == 1
    assert "data_share_loader.p8 exists" in again.stderr
    assert again.stdout == ""
    (tmp_path / "keys" / "data_share_loader.p8").unlink()
    assert make_keys().returncode == 1, "the public key is there still: its private one may be in use"
    assert not (tmp_path / "keys" / "data_share_loader.p8").exists()
    files.pop(tmp_path / "keys" / "data_share_loader.p8")
    assert files == {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert make_keys("--name", "another").returncode == 0


@pytest.mark.parametrize(
    ("options", "passphrase", "reason"),
    [
        (["--user", "x; DROP USER y"], "", "the user must be a name"),
        (["--name", "../outside"], "", "the name must be of"),
        ([], 'a"b', "must be of printable ASCII"),
        ([], "a\\b", "must be of printable ASCII"),
        ([], "blank at the end ", "must be of printable ASCII"),
    ],
)
def test_what_would_break_a_statement_or_the_connection_is_refused(
    make_keys: Run, tmp_path: Path, options: list[str], passphrase: str, reason: str
) -> None:
    refused = make_keys(*options, passphrase=passphrase)
    assert refused.returncode == 2
    assert reason in refused.stderr
    assert not list(tmp_path.iterdir())
