"""External stages and storage integrations: their URLs, and the files below these URLs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TypeVar

from sqlglot import exp

from emulators.snowflake.errors import SqlError, does_not_exist, syntax_error, unsupported
from emulators.snowflake.names import stage_and_path
from emulators.snowflake.session import Session

_Property = TypeVar("_Property", bound=exp.Expr)

FormatOptions = dict[str, str | bool | list[str]]
"""The options of a file format, as :func:`format_options` reads them."""


@dataclass(frozen=True)
class StagedFile:
    """A staged file."""

    bucket: str
    key: str
    etag: str
    size: int
    last_modified: datetime

    @property
    def url(self) -> str:
        """The URL of the file."""
        return f"s3://{self.bucket}/{self.key}"


def check_new_stage(expression: exp.Create, session: Session) -> None:
    """Check an external stage's integration and URL, as Snowflake does when the stage is created."""
    properties = expression.args.get("properties")
    names = {item.name.upper() for item in properties.expressions} if properties else set()
    if "URL" not in names:
        return
    if "STORAGE_INTEGRATION" not in names:
        raise unsupported("external stage without STORAGE_INTEGRATION")
    url = property_of(expression, "URL", exp.Literal).name
    integration = property_of(expression, "STORAGE_INTEGRATION", exp.Expr).name.upper()
    locations = session.account.catalogue.integrations.get(integration)
    if locations is None:
        raise does_not_exist("Integration", integration)
    if not any(url.startswith(location) or location == "*" for location in locations):
        raise SqlError(
            3127,
            "42601",
            f"SQL compilation error:\nLocation '{url}' is not allowed by integration '{integration}'. "
            "Please use DESC INTEGRATION to check out allowed and blocked locations.",
        )


def complete_stage(expression: exp.Expr, session: Session) -> None:
    """Record a new stage's integration and file format, which fakesnow drops."""
    if not (isinstance(expression, exp.Create) and expression.kind == "STAGE"):
        return
    key = session.qualified(expression.find(exp.Table) or exp.Table())
    properties = expression.args.get("properties")
    for item in properties.expressions if properties else ():
        if isinstance(item, exp.FileFormatProperty):
            session.account.catalogue.stage_formats[".".join(key)] = format_options(item.expressions)
        elif isinstance(item, exp.Property) and item.name.upper() == "STORAGE_INTEGRATION":
            session.account.duck_conn.cursor().execute(
                "UPDATE _fs_global._fs_information_schema._fs_stages SET storage_integration = ?"
                " WHERE database_name = ? AND schema_name = ? AND name = ?",
                [item.args["value"].name.upper(), *key],
            )


def property_of(expression: exp.Create, name: str, kind: type[_Property]) -> _Property:
    """
    Return the value of a property of a CREATE statement.

    :raises SqlError: 1003 if it is missing or has another form.
    """
    properties = expression.args.get("properties")
    for item in properties.expressions if properties else ():
        if isinstance(item, exp.Property) and item.name.upper() == name:
            value = item.args.get("value")
            # One value in parentheses is parsed as Paren.
            if kind is exp.Tuple and isinstance(value, exp.Paren):
                value = exp.Tuple(expressions=[value.this])
            if isinstance(value, kind):
                return value
    raise SqlError(1003, "42000", f"SQL compilation error:\nmissing or wrong property {name}")


def format_options(properties: list[exp.Expr]) -> FormatOptions:
    """
    Read a file format's options: name -> value. Names and words become upper case; texts in parentheses do not.

    :raises SqlError: 1003 if an option is given twice.
    """
    options: FormatOptions = {}
    for item in properties:
        if not isinstance(item, exp.Property):
            continue  # a comma between two options
        name, value = item.name.upper(), item.args.get("value")
        if name in options:
            raise syntax_error(1, 0, name)
        if isinstance(value, (exp.Tuple, exp.Paren)):
            options[name] = [literal.name for literal in value.find_all(exp.Literal)]
        else:
            options[name] = value.this if isinstance(value, exp.Boolean) else str(value.name if value else "").upper()
    return options


def stage_url(key: tuple[str, str, str], session: Session) -> str:
    """
    Return the URL of a stage.

    :raises SqlError: 2003 if the stage does not exist.
    """
    url = found_stage_url(key, session)
    if url is None:
        raise does_not_exist("Stage", ".".join(key))
    return url


def found_stage_url(key: tuple[str, str, str], session: Session) -> str | None:
    """Return the URL of a stage; None if the stage does not exist."""
    row = (
        session.account.duck_conn.cursor()
        .execute(
            "SELECT url FROM _fs_global._fs_information_schema._fs_stages"
            " WHERE database_name = ? AND schema_name = ? AND name = ?",
            key,
        )
        .fetchone()
    )
    return row[0] if row else None


def describe_integration(name: str, session: Session) -> str:
    """Return a query in DuckDB's SQL for the properties of a storage integration that the emulator supports."""
    locations = ",".join(session.account.catalogue.integrations[name])
    rows = [
        ("ENABLED", "Boolean", "true", "false"),
        ("STORAGE_PROVIDER", "String", "S3", ""),
        ("STORAGE_ALLOWED_LOCATIONS", "List", locations, "[]"),
        ("STORAGE_BLOCKED_LOCATIONS", "List", "", "[]"),
    ]
    values = ", ".join(f"({', '.join(exp.Literal.string(value).sql('duckdb') for value in row)})" for row in rows)
    return f"SELECT * FROM (VALUES {values}) AS t(property, property_type, property_value, property_default)"


def list_stage(expression: exp.ListStage, session: Session) -> str:
    """
    Answer LIST with a query in DuckDB's SQL for the files below a path of an external stage.

    :raises SqlError: what the real service reports, also if the stage's bucket cannot be listed.
    """
    found = stage_and_path(expression)
    if found is None or {name for name, value in expression.args.items() if value} != {"this"}:
        raise unsupported("LIST with more than a stage and a path")
    stage, path = found
    url = stage_url(session.qualified(stage), session)
    files = files_below(session, (url.rstrip("/") + "/" if path else url) + path)
    rows = [
        (file.url, file.size, file.etag.strip('"'), format_datetime(file.last_modified, usegmt=True)) for file in files
    ]
    values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows) or "(NULL, NULL::BIGINT, NULL, NULL)"
    where = "" if rows else " WHERE FALSE"
    return f"SELECT * FROM (VALUES {values}) AS files(name, size, md5, last_modified){where}"


def files_below(session: Session, location: str) -> list[StagedFile]:
    """
    Return the files whose URL starts with ``location``, sorted by name.

    :raises SqlError: 91003 if the bucket cannot be listed.
    """
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    files: list[StagedFile] = []
    more: dict[str, str] = {}
    while True:
        try:
            answer = session.account.filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        except OSError as error:
            raise SqlError(91003, "22000", f"Failure using stage area. Cause: [{error}]") from None
        files += [
            StagedFile(bucket, entry["Key"], entry["ETag"], entry["Size"], entry["LastModified"].astimezone(UTC))
            for entry in answer.get("Contents", ())
            if not entry["Key"].endswith("/")
        ]
        if not answer.get("IsTruncated"):
            return sorted(files, key=lambda file: file.key)
        more = {"ContinuationToken": answer["NextContinuationToken"]}


def literal(value: object) -> str:
    """Return a value as a literal in DuckDB's SQL."""
    if value is None:
        return "NULL::VARCHAR"
    return f"{value}::BIGINT" if isinstance(value, int) else exp.Literal.string(str(value)).sql("duckdb")
