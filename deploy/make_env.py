"""
Writes the .env of docker-compose.yaml: a copy of .env.example with fresh secrets, and with --sandbox its accounts.

It needs only Python; for the sandbox's key pair also the command openssl.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

PROFILES: dict[str, dict[str, str]] = {
    "latency": {},
    "economy": {"SCHEDULER_IDLE_SECONDS": "1", "DAG_PARSE_SECONDS": "60"},
}
"""What differs from .env.example, by profile: docs/performance.md says what each value gains and costs."""


def fresh_secrets() -> dict[str, str]:
    """Return a new value for each secret of Airflow; its characters are allowed in a URL."""
    return {
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "REDIS_PASSWORD": secrets.token_urlsafe(24),
        "AIRFLOW_FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW_JWT_SECRET": secrets.token_urlsafe(48),
        "AIRFLOW_SECRET_KEY": secrets.token_urlsafe(48),
        "AIRFLOW_ADMIN_PASSWORD": secrets.token_urlsafe(16),
        "AIRFLOW_BACKEND_PASSWORD": secrets.token_urlsafe(24),
    }


def share_names() -> dict[str, str]:
    """Return the names at the top of ``include/share.yaml``. This script may not use a package that reads YAML."""
    text = (PROJECT / "include" / "share.yaml").read_text(encoding="utf-8")
    names = {field: name.strip("\"'") for field, name in re.findall(r"^(\w+): *([^\s#]+)", text, re.MULTILINE)}
    return {field: os.environ.get(f"DATA_SHARE_{field.upper()}") or name for field, name in names.items()}


def sandbox_accounts() -> dict[str, str]:
    """Return the connections to the emulators, and the token and public key that the emulators accept."""
    names = share_names()
    token = f"dapi{secrets.token_hex(16)}"
    private_key = _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    public_key = _openssl("pkey", "-pubout", stdin=private_key)
    databricks = {"conn_type": "databricks", "host": "sandbox", "port": 8443, "schema": "http", "password": token}
    snowflake = {
        "conn_type": "snowflake",
        "login": names["loader_user"].upper(),
        "schema": names["target_schema"].upper(),
        "extra": {
            "account": "SANDBOX-DATASHARE",
            "warehouse": names["warehouse"].upper(),
            "database": names["database"].upper(),
            "role": names["loader_role"].upper(),
            "private_key_content": base64.b64encode(private_key.encode()).decode(),
            "protocol": "http",
            "host": "sandbox",
            "port": 8444,
        },
    }
    return {
        "COMPOSE_PROFILES": "sandbox",
        "AIRFLOW_CONN_DATABRICKS_DEFAULT": f"'{json.dumps(databricks)}'",
        "AIRFLOW_CONN_SNOWFLAKE_DEFAULT": f"'{json.dumps(snowflake)}'",
        "DAGS_PAUSED_AT_CREATION": "false",
        "SANDBOX_WORKSPACE_TOKEN": token,
        "SANDBOX_LOADER_PUBLIC_KEY": "".join(public_key.split("-----")[2].split()),
    }


def fill(template: str, values: dict[str, str]) -> str:
    """
    Put values into the assignments of an env file.

    :raises KeyError: the file does not assign one of the names
    """
    for name, value in values.items():
        line = re.compile(rf"^{re.escape(name)}=.*$", re.MULTILINE)
        if not line.search(template):
            raise KeyError(name)
        template = line.sub(lambda _, text=f"{name}={value}": text, template)
    return template


def _openssl(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout


def main() -> int:
    """Write the file, readable only by its owner; never overwrite an existing file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", action="store_true", help="with connections to the emulators, and their keys")
    parser.add_argument("--profile", choices=PROFILES, default="latency", help="what the settings favour")
    parser.add_argument("--file", type=Path, default=PROJECT / ".env")
    parser.add_argument("--project-name", help="prefix of containers and volumes, for a second copy on this machine")
    parser.add_argument("--port", type=int, help="port of Airflow on this machine")
    arguments = parser.parse_args()
    values = fresh_secrets() | PROFILES[arguments.profile]
    if arguments.sandbox:
        values |= sandbox_accounts()
    if arguments.project_name:
        values["COMPOSE_PROJECT_NAME"] = arguments.project_name
    if arguments.port:
        values["AIRFLOW_PORT"] = str(arguments.port)
    text = fill((PROJECT / ".env.example").read_text(), values)
    try:
        descriptor = os.open(arguments.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.stderr.write(
            f"{arguments.file} exists and is not changed. Its secrets belong to the database that was created with "
            "them: move it away only together with that database.\n"
        )
        return 1
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    sys.stdout.write(f"Wrote {arguments.file}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
