"""The account: fakesnow's DuckDB in a directory, the objects that DuckDB cannot store, and the locks."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import s3fs
from fakesnow import info_schema, macros
from fakesnow.instance import FakeSnow
from fakesnow.transforms.stage import LOCAL_BUCKET_PATH

from emulators.snowflake import load_metadata
from emulators.snowflake.catalogue import Catalogue, Policies
from emulators.snowflake.locks import Locks
from emulators.snowflake.rights import Rights

# Importing fakesnow creates this folder for internal stages and never removes it. The emulator has no such stages.
Path(LOCAL_BUCKET_PATH).rmdir()

_HISTORY_LENGTH = 10_000

# Tables that fakesnow keeps only in memory. The emulator stores them in the catalogue's file.
_KEPT_TABLES = ("_fs_stages", "_fs_columns_ext", "_fs_tables_ext")


@dataclass
class Statement:
    """A record of one executed statement, for tests."""

    handle: str
    request_id: str | None
    sql: str
    query_tag: str
    user: str
    status: str = "running"
    error: str | None = None


class Account(FakeSnow):
    """
    The account: its databases, its other objects, its locks, and the statements that were executed.

    :param state_dir: the directory of the database files and of ``catalogue.json``; created if missing.
    :param filesystem: reads the files of the external stages.
    :param identifier: the account identifier.

    ``session_consistency`` says whether the account parameter READ_CONSISTENCY_MODE is SESSION. It applies to sessions
    that begin after it is set. With SESSION, a session sees what others commit after its beginning only in the tables
    that it writes to: the least that Snowflake guarantees. With GLOBAL, the initial value, each statement sees
    everything that was committed before the statement began.
    """

    def __init__(self, state_dir: Path, filesystem: s3fs.S3FileSystem, *, identifier: str) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(create_database_on_connect=False, create_schema_on_connect=False, db_path=state_dir)
        self.state_dir = state_dir
        self.identifier = identifier
        self.filesystem = filesystem
        self.locks = Locks()
        self.session_consistency = False
        self.catalogue = Catalogue()
        self.history: deque[Statement] = deque(maxlen=_HISTORY_LENGTH)
        self.duck_conn.register_filesystem(filesystem)
        # No cache: a file may be overwritten. No replacements: a table's name must never resolve to a Python variable.
        self.duck_conn.execute("SET GLOBAL enable_external_file_cache = false")
        self.duck_conn.execute("SET GLOBAL python_enable_replacements = false")
        self._file = state_dir / "catalogue.json"
        for database in sorted(state_dir.glob("*.db")):
            self._attach(database.stem)
        self._load()

    def close(self) -> None:
        """Close the database files."""
        self.duck_conn.close()

    def prepare_database(self, name: str) -> None:
        """Give a new database the table of the load metadata."""
        load_metadata.create(self.duck_conn, name)

    def save(self) -> None:
        """Write the catalogue to its file atomically."""
        tables = {
            name: [
                [None if value is None else str(value) for value in row]
                for row in self.duck_conn.cursor()
                .execute(f"SELECT * FROM _fs_global._fs_information_schema.{name}")
                .fetchall()
            ]
            for name in _KEPT_TABLES
        }
        partial = self._file.with_suffix(".partial")
        # Each statement that creates or drops something comes here: `asdict` and `json.dump` take ten times as long.
        content = json.dumps({"catalogue": self.catalogue, "tables": tables}, default=vars)
        with partial.open("w") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(self._file)

    def _attach(self, database: str) -> None:
        self.duck_conn.execute(f"ATTACH DATABASE '{self.state_dir / database}.db' AS \"{database}\"")
        self.duck_conn.execute(info_schema.per_db_creation_sql(database))
        self.duck_conn.execute(macros.creation_sql(database))
        self.prepare_database(database)

    def _load(self) -> None:
        if not self._file.exists():
            return
        content = json.loads(self._file.read_text())
        kept = content["catalogue"]
        if "rights" not in kept:
            raise RuntimeError(f"{self._file} was written by an older version of this emulator: delete its folder")
        objects = {"rights": Rights(**kept["rights"]), "policies": Policies.read(kept.get("policies", {}))}
        self.catalogue = Catalogue(**{**kept, **objects})
        for name, rows in content["tables"].items():
            for row in rows:
                marks = ", ".join("?" for _ in row)
                self.duck_conn.execute(f"INSERT INTO _fs_global._fs_information_schema.{name} VALUES ({marks})", row)
