"""
Makes a key pair for Airflow's user in Snowflake, and prints what to do with it.

It writes a private and a public key into a folder, readable only for you, and never overwrites a file. With a
passphrase in the environment variable ``SNOWFLAKE_KEY_PASSPHRASE``, the private key is encrypted.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from data_share.share_file import DEFAULT, InvalidShareFileError, gives_connection, share_file

# Snowflake requires at least 2048 bits.
KEY_BITS = 3072

ENVIRONMENT_VARIABLE = "SNOWFLAKE_KEY_PASSPHRASE"

INSTRUCTIONS = """\
Made {private} ({protection}) and {public}.

1. In Snowflake, as an administrator, give the user its public key:

ALTER USER {user} SET RSA_PUBLIC_KEY = '{key}';

   DESCRIBE USER {user}; must then show as RSA_PUBLIC_KEY_FP
   {fingerprint}
   To change the key of a user that is in use, set RSA_PUBLIC_KEY_2: Snowflake then accepts both keys. When Airflow has
   the new key, remove the old one: ALTER USER {user} UNSET RSA_PUBLIC_KEY;

2. In Airflow, put the private key into the connection {conn_id}, with your account in place of <ACCOUNT>.
   {place}:

{command}'{{"conn_type": "snowflake", "login": "{user}", {password}"schema": "{schema}",
  "extra": {{"account": "<ACCOUNT>", "database": "{database}", "warehouse": "{warehouse}", "role": "{role}",
  "private_key_content": "'"$(base64 < '{private}' | tr -d '\\n')"'"}}}}'

   A secrets backend stores the same JSON as the value of the connection. Or keep the key in a file on each machine of
   Airflow, readable only for Airflow's user, and use "private_key_file" with its path instead of "private_key_content".

3. Delete {private} here when Airflow has it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the key pair; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="data-share keys", description="Make a key pair for Airflow's user in Snowflake; print what to do with it."
    )
    parser.add_argument("--share", default=DEFAULT, help="the share of include/share.yaml; default: %(default)s")
    parser.add_argument("--user", help="the user; default: loader_user of the share")
    parser.add_argument("--folder", type=Path, default=Path("keys"), help="folder of the files; default: %(default)s")
    parser.add_argument("--name", help="name of the files; default: the user's name")
    options = parser.parse_args(arguments)
    passphrase = os.environ.get(ENVIRONMENT_VARIABLE, "")
    try:
        shares = share_file().shares
    except InvalidShareFileError as error:
        parser.error(str(error))
    if options.share not in shares:
        parser.error(f"include/share.yaml has no share {options.share}; known are {', '.join(shares)}")
    share = shares[options.share]
    user = options.user or share.loader_user.upper()
    name = options.name or user.lower()
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", user):
        parser.error("the user must be a name of letters, digits and underscores")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or "'" in str(options.folder):
        parser.error("the name must be of letters, digits, underscores, dots and hyphens; the folder without quotes")
    # The passphrase becomes part of JSON, and Airflow strips blanks at its ends.
    if not re.fullmatch(r"[!#-\[\]-~]*", passphrase):
        parser.error(f'{ENVIRONMENT_VARIABLE} must be of printable ASCII characters, without blanks, " and \\')

    private, public = options.folder / f"{name}.p8", options.folder / f"{name}.pub"
    for file in (private, public):
        if file.exists():
            return _refuse(file)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Keeps the keys out of any repository that the folder is in.
    ignore = options.folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        _write(
            private,
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
        )
        _write(
            public,
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        )
    except FileExistsError as error:
        return _refuse(Path(error.filename))
    place, command = gives_connection(share.snowflake_conn_id)
    sys.stdout.write(
        INSTRUCTIONS.format(
            private=private,
            public=public,
            user=user,
            conn_id=share.snowflake_conn_id,
            place=place,
            command=command,
            schema=share.target_schema.upper(),
            database=share.database.upper(),
            warehouse=share.warehouse.upper(),
            role=share.loader_role.upper(),
            key=base64.b64encode(der).decode(),
            fingerprint="SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode(),
            protection="encrypted with the passphrase" if passphrase else "not encrypted: keep it secret",
            password=f'"password": "\'"${ENVIRONMENT_VARIABLE}"\'", ' if passphrase else "",
        )
    )
    return 0


def _write(file: Path, content: bytes) -> None:
    # O_EXCL: never overwrites a file, even if it was created since the check.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        target.write(content)


def _refuse(file: Path) -> int:
    sys.stderr.write(
        f"{file} exists, and may be in use; it is not overwritten. Choose another name: --name another, or "
        "make keys KEY=another.\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
