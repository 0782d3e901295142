"""
Reads ``include/share.yaml``: the one file that says what a deployment is, with its names, folders and defaults.

Each value can be replaced by an environment variable, ``DATA_SHARE_`` and the field's name, so that several
deployments run the same code. An empty variable counts as not set. A variable whose name is no field is an error.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from data_share.package import ADVICE, PROJECT
from data_share.yaml_files import InvalidFileError, problems_of, read_fields, read_value

SHARE_FILE = PROJECT / "include" / "share.yaml"
"""The file, unless ``DATA_SHARE_FILE`` names another one."""

DEFAULT = "default"
"""Name of the share whose fields stand at the top of the file."""

DEFAULTS = "defaults"
"""The field with the defaults of datasets. Its variables are named as those of a share of this name would be."""

PREFIX = "DATA_SHARE_"
# Variables with this prefix that mean something else: of the live tests, of the compose file, and the file itself.
_OTHER_VARIABLES = re.compile(r"LIVE(_[A-Z0-9_]+)?|EXPORT_JOB_ID|FILE")
# Kubernetes sets these in each pod for a Service whose name begins with data-share, as a Helm release of this name has.
_SERVICE_LINKS = re.compile(
    r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

# Words that Snowflake reserves: https://docs.snowflake.com/en/sql-reference/reserved-keywords.
_RESERVED = frozenset(
    "ACCOUNT ALL ALTER AND ANY AS BETWEEN BY CASE CAST CHECK COLUMN CONNECT CONNECTION CONSTRAINT CREATE CROSS CURRENT "  # noqa: SIM905
    "CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DATABASE DELETE DISTINCT DROP ELSE EXISTS FALSE "
    "FOLLOWING FOR FROM FULL GRANT GROUP GSCLUSTER HAVING ILIKE IN INCREMENT INNER INSERT INTERSECT INTO IS ISSUE JOIN "
    "LATERAL LEFT LIKE LOCALTIME LOCALTIMESTAMP MINUS NATURAL NOT NULL OF ON OR ORDER ORGANIZATION QUALIFY REGEXP "
    "REVOKE RIGHT RLIKE ROW ROWS SAMPLE SCHEMA SELECT SET SOME START TABLE TABLESAMPLE THEN TO TRIGGER TRUE TRY_CAST "
    "UNION UNIQUE UPDATE USING VALUES VIEW WHEN WHENEVER WHERE WINDOW WITH".split()
)

# Set-up scripts, SQL files, policies and paths contain the names as they are: so only characters that are safe in all.
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]{0,199}"
_BUCKET = r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"
_FOLDER = r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*"
_URL = rf"s3://{_BUCKET}/({_FOLDER}/)+"


def _identifier(text: str) -> str:
    if not re.fullmatch(_IDENTIFIER, text):
        raise ValueError(
            "write a plain name: letters A to Z, digits and _, no digit first, at most 200 characters, without quotes"
        )
    if text.upper() in _RESERVED:
        raise ValueError("Snowflake reserves this word; choose another name")
    return text


def _url(text: str) -> str:
    if re.fullmatch(_URL, text):
        return text
    if re.fullmatch(_URL, f"{text}/"):
        raise ValueError(f"it must end with a slash: write {text}/")
    if re.fullmatch(rf"s3://{_BUCKET}/?", text):
        raise ValueError(
            f"it must name a folder of the bucket, as the lifecycle rule deletes what lies there: write "
            f"{text.rstrip('/')}/dataset/"
        )
    raise ValueError(
        "write s3://<bucket>/<folder>/. A bucket has lower-case letters, digits and hyphens, and no dot, which Unity "
        "Catalog refuses; a folder has ASCII letters, digits and _ . = -, and does not begin with a dot"
    )


def _account_id(value: object) -> object:
    if isinstance(value, int):
        raise ValueError("write it in quotes: a number loses the zeros in front")
    return value


Identifier = Annotated[
    str, AfterValidator(_identifier), WithJsonSchema({"type": "string", "pattern": f"^{_IDENTIFIER}$"})
]
Url = Annotated[str, AfterValidator(_url), WithJsonSchema({"type": "string", "pattern": f"^{_URL}$"})]
# Steps render it as a template, and read the Variable by an attribute of Jinja.
ConnectionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,199}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")]
AwsRole = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@-]{1,64}$")]
AwsAccount = Annotated[str, BeforeValidator(_account_id), StringConstraints(pattern=r"^[0-9]{12}$")]
AwsArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:user/[A-Za-z0-9_+=,.@/-]{1,256}$")]
# Its characters are those of AWS's external ids, of which none ends a string of JSON.
ExternalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@:/-]{2,1224}$")]
Principal = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
# As Databricks names scopes and keys. A hyphen in front would be an option in the commands of the set-up.
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_@.-]{0,127}$")]
Environment = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,29}$")]
# No double underscore: it separates the name from the field in a variable.
ShareName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=30)]


class ShareNames(BaseModel):
    """The names of one share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Url = Field(
        description="Where Databricks writes and Snowflake reads: bucket and folder, with a slash at the end. Below "
        "it: `<dataset>/<run key>/<attempt>-<hash>/`."
    )
    stage: Identifier = Field(description="Snowflake's external stage on `url`.")
    storage_integration: Identifier = Field(
        description="Gives Snowflake access to the bucket; an account administrator creates it once."
    )
    staging_schema: Identifier = Field(
        description="Schema of the staging and lock tables, in the connection's database; the loader's role may create "
        "tables in it."
    )
    ledger_table: Identifier = Field(description="Table with one row for each published sync.")
    manifest_table: Identifier = Field(description="Table of the manifests of the published syncs.")
    databricks_conn_id: ConnectionId = Field(description="Airflow connection of the workspace.")
    snowflake_conn_id: ConnectionId = Field(description="Airflow connection of the account.")
    webhook_conn_id: ConnectionId = Field(
        description="Airflow connection of the webhook for the ends of syncs; it need not exist."
    )
    export_job_variable: Variable = Field(
        description="Airflow Variable with the id of the Databricks job that exports."
    )
    environment: Environment | None = Field(
        default=None,
        description="Name of this environment, such as `dev`, where several might use the same tables. It becomes "
        "part of the run keys, and of the owner of each target. Only at the top. Default: none, for production.",
    )
    database: Identifier = Field(description="For the set-up: the database of targets, ledger, stage and staging.")
    target_schema: Identifier = Field(
        description="For the set-up: the schema of ledger and stage, and of targets that are named without a schema."
    )
    warehouse: Identifier = Field(description="For the set-up: the warehouse of the syncs.")
    loader_role: Identifier = Field(description="For the set-up: Airflow's role in Snowflake.")
    loader_user: Identifier = Field(description="For the set-up: Airflow's user in Snowflake.")
    reader_role: Identifier = Field(description="For the set-up: the role of people who query the targets.")
    aws_account_id: AwsAccount | None = Field(
        default=None, description="For the set-up: the account of the bucket, 12 digits in quotes."
    )
    databricks_aws_role: AwsRole = Field(description="For the set-up: the AWS role with which Databricks writes.")
    databricks_external_id: ExternalId | None = Field(
        default=None, description="For the set-up: the external id that Databricks presents to AWS."
    )
    snowflake_aws_role: AwsRole = Field(description="For the set-up: the AWS role with which Snowflake reads.")
    snowflake_iam_user_arn: AwsArn | None = Field(
        default=None, description="For the set-up: Snowflake's user in AWS, which assumes the role."
    )
    snowflake_external_id: ExternalId | None = Field(
        default=None, description="For the set-up: the external id that Snowflake presents to AWS."
    )
    keep_exports_days: int = Field(
        default=30,
        ge=7,
        le=3650,
        strict=True,
        description="For the set-up: days after which the lifecycle rule of the bucket deletes an export.",
    )
    storage_credential: Identifier = Field(description="For the set-up: the storage credential in Unity Catalog.")
    external_location: Identifier = Field(description="For the set-up: the external location in Unity Catalog.")
    export_principal: Principal = Field(
        description="For the set-up: name of the service principal that the export job runs as."
    )
    airflow_principal: Principal = Field(
        description="For the set-up: name of the service principal that Airflow signs in as."
    )
    bundle: Identifier = Field(
        description="For the set-up: name of the asset bundle, and of its folder in the workspace."
    )
    hash_secret_scope: SecretName = Field(
        default="data_share",
        description="For the set-up: scope of the secret for `source.hash`, in Databricks; `make render` writes it "
        "into the SQL of the job.",
    )
    hash_secret_key: SecretName = Field(
        default="hash_key", description="For the set-up: key of the secret in its scope, as for `hash_secret_scope`."
    )

    @model_validator(mode="after")
    def _tables_differ(self) -> ShareNames:
        if self.ledger_table.upper() == self.manifest_table.upper():
            raise ValueError(f"manifest_table: {self.manifest_table} is the ledger_table too; choose another")
        if self.loader_role.upper() == self.reader_role.upper():
            raise ValueError(f"reader_role: {self.reader_role} is the loader_role too; readers must not load")
        return self

    def has_job_of(self, other: ShareNames) -> bool:
        """Return whether one export job serves both shares: one bundle in a workspace is one job, one Variable too."""
        return self.databricks_conn_id == other.databricks_conn_id and (
            self.bundle == other.bundle or self.export_job_variable == other.export_job_variable
        )

    @property
    def bucket(self) -> str:
        """The bucket of the share."""
        return self.url.split("/")[2]

    @property
    def prefix(self) -> str:
        """The folder of the share in its bucket, with a slash at the end."""
        return self.url.split("/", 3)[3]


# What pydantic says of a field that is not there, and of one that should not be.
_MISSING = ": Field required ("
_EXTRA = ": Extra inputs are not permitted ("

ONLY_AT_THE_TOP = ("environment",)

# Of what belongs to one url, a further share has its own: by default with its name behind that of the top.
_OF_ONE_URL = {
    "stage": "_",
    "storage_integration": "_",
    "storage_credential": "_",
    "external_location": "_",
    "databricks_aws_role": "-",
    "snowflake_aws_role": "-",
}
# Field -> the field that says in which system its name counts.
_SYSTEMS = {
    "stage": "snowflake_conn_id",
    "storage_integration": "snowflake_conn_id",
    "storage_credential": "databricks_conn_id",
    "external_location": "databricks_conn_id",
    "databricks_aws_role": "aws_account_id",
    "snowflake_aws_role": "aws_account_id",
}
# What one job has only once.
_OF_ONE_JOB = ("hash_secret_scope", "hash_secret_key", "export_principal")
# Databricks, Snowflake and AWS make these for one credential and one integration.
_NEVER_INHERITED = ("databricks_external_id", "snowflake_iam_user_arn", "snowflake_external_id")


class FileFields(ShareNames):
    """All fields of the file."""

    datasets_folder: str = Field(
        default="datasets",
        min_length=1,
        description="Folder of the dataset files; relative to the folder of this file.",
    )
    sql_folder: str = Field(
        default="sql/snowflake",
        min_length=1,
        description="Folder with `targets/`, whose files create targets, and with SQL files that replace those of the "
        "package; relative to the folder of this file.",
    )
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="Defaults of fields of dataset files. See [Defaults](#defaults)."
    )
    shares: dict[ShareName, dict[str, Any]] = Field(
        default_factory=dict,
        description="Further shares by name, each with its own `url` and the fields in which it differs. See "
        "[Several shares](#several-shares).",
    )


@dataclass(frozen=True)
class ShareFile:
    """
    What the file says, with the values of the environment.

    :param path: the file
    :param shares: the shares by name; :data:`DEFAULT` is the one at the top of the file
    :param defaults: defaults of dataset fields; :mod:`data_share.dataset_files` checks them
    :param datasets_folder: folder of the dataset files
    :param sql_folder: folder of the SQL files of this deployment
    :param origins: field -> the variable that its value comes from
    """

    path: Path
    shares: Mapping[str, ShareNames]
    defaults: Mapping[str, Any]
    datasets_folder: Path
    sql_folder: Path
    origins: Mapping[str, str]


def gives_connection(conn_id: str) -> tuple[str, str]:
    """Return where Airflow gets a connection from, in words, and the shell command; the JSON in quotes follows it."""
    if re.fullmatch("[A-Za-z0-9_]+", conn_id):
        return "As an environment variable of all its processes", f"export AIRFLOW_CONN_{conn_id.upper()}="
    return (
        "In its database, as a shell takes no variable whose name has a hyphen or a dot",
        f"airflow connections add {conn_id} --conn-json ",
    )


class InvalidShareFileError(InvalidFileError):
    """The file that describes the deployment cannot be used."""

    verdict = "does not describe a deployment"
    depth = 2


@functools.cache
def share_file() -> ShareFile:
    """
    Return what this process's file says; it is read once.

    :raises InvalidShareFileError: see :func:`read_share_file`
    """
    return read_share_file()


def read_share_file(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> ShareFile:
    """
    Read the file and the environment.

    :param path: the file; default: the one that ``DATA_SHARE_FILE`` names, else ``include/share.yaml``
    :param environ: the environment variables
    :raises InvalidShareFileError: a field is missing, unknown or wrong, or two shares would mix; nothing is used then
    """
    path = path or Path(environ.get(f"{PREFIX}FILE") or SHARE_FILE).absolute()
    if not path.is_file():
        raise InvalidShareFileError(path, [f"{path} is missing; {ADVICE}"])
    content = read_fields(path, InvalidShareFileError, "url: s3://my-bucket/dataset/")
    origins, problems = _replace_by_environment(content, environ)
    problems += _unknown(content, FileFields.model_fields)
    try:
        fields = FileFields.model_validate({name: content[name] for name in content if name in FileFields.model_fields})
    except ValidationError as error:
        # A field whose name is misspelt is missing too.
        is_misspelt = bool(problems)
        problems += [line for line in problems_of(error, origins=origins) if not (is_misspelt and _MISSING in line)]
    if problems:
        raise InvalidShareFileError(path, problems)
    top = {name: getattr(fields, name) for name in ShareNames.model_fields}
    shares = {DEFAULT: ShareNames(**top)}
    for name, own in fields.shares.items():
        place = f"shares.{name}."
        if name == DEFAULT:
            problems.append(f"shares.{name}: this is the name of the share at the top of the file; choose another")
        if name == DEFAULTS:
            problems.append(f"shares.{name}: its variables would be those of the defaults; choose another name")
        problems += _unknown(own, set(ShareNames.model_fields) - set(ONLY_AT_THE_TOP), place)
        try:
            shares[name] = ShareNames.model_validate({**_inherited(top, name), **own})
        except ValidationError as error:
            # What stands there too much has been named above.
            problems += [line for line in problems_of(error, place, origins) if _EXTRA not in line]
    problems = problems or list(_mixing(shares))
    if problems:
        raise InvalidShareFileError(path, list(dict.fromkeys(problems)))
    return ShareFile(
        path=path,
        shares=shares,
        defaults=fields.defaults,
        datasets_folder=path.parent / fields.datasets_folder,
        sql_folder=path.parent / fields.sql_folder,
        origins=origins,
    )


def _inherited(top: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of a further share that does not give them."""
    own = {field: f"{top[field]}{hyphen}{name}" for field, hyphen in _OF_ONE_URL.items()}
    return {**top, **own, **dict.fromkeys(_NEVER_INHERITED)}


def _replace_by_environment(content: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Put the values of variables into the content; return field -> variable, and what is wrong."""
    origins: dict[str, str] = {}
    problems = []
    target: Any
    own_fields = set(FileFields.model_fields) - {"shares", "defaults"}
    named = content.get("shares")
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        group, separator, field = variable.removeprefix(PREFIX).partition("__")
        if not separator:
            if _OTHER_VARIABLES.fullmatch(group) or _SERVICE_LINKS.fullmatch(group):
                continue
            place, target, field, known = "", content, group.lower(), own_fields
        elif group == DEFAULTS.upper():
            # Whether a dataset has such a field, is checked with the values of the file.
            place, field = "defaults.", field.lower()
            target, known = content.setdefault("defaults", {}), {field}
        else:
            place, field = f"shares.{group.lower()}.", field.lower()
            target = named.get(group.lower()) if isinstance(named, dict) else None
            known = set(ShareNames.model_fields) - set(ONLY_AT_THE_TOP)
            if target is None:
                problems.append(f"{variable} is set in the environment, but shares has no {group.lower()}")
                continue
        if field not in known:
            problems.append(
                f"{variable} is set in the environment, but {field} is no field{_meant(field, known)}; unset it, or "
                "correct its name"
            )
        # Where a mapping is missing, the file is wrong, which its validation says.
        elif (text := environ[variable]) and isinstance(target, dict):
            target[field] = _value(place, field, text)
            origins[place + field] = variable
    return origins, problems


def _value(place: str, field: str, text: str) -> Any:
    """Return the value of a variable: a text, or what it means in YAML where a text is no possible value."""
    if place != "defaults." and FileFields.model_fields[field].annotation is not int:
        return text
    if text.isascii() and text.isdecimal():
        return int(text)  # YAML would read 014 as 12
    try:
        return read_value(text)
    except Exception:  # such as @daily, which YAML wants in quotes
        return text


def _unknown(content: Mapping[str, Any], known: Collection[str], place: str = "") -> list[str]:
    return [
        f"{place}{field}: there is no such field{_meant(field, known)}"
        if field not in (*ONLY_AT_THE_TOP, *FileFields.model_fields.keys() - ShareNames.model_fields.keys())
        else f"{place}{field}: this field may only stand at the top of the file"
        for field in map(str, content)
        if field not in known
    ]


def _meant(field: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(field, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


def _mixing(shares: Mapping[str, ShareNames]) -> Iterator[str]:
    """Yield why two shares would mix their files or their names."""
    for (one, left), (other, right) in combinations(shares.items(), 2):
        if left.url.startswith(right.url) or right.url.startswith(left.url):
            yield (
                f"shares.{other}.url: {right.url} and {left.url} of {one} lie in each other; give each share a folder "
                "of its own"
            )
        for field in _OF_ONE_URL:
            system = _SYSTEMS[field]
            if getattr(left, system) == getattr(right, system) and (
                getattr(left, field).upper() == getattr(right, field).upper()
            ):
                yield (
                    f"shares.{other}.{field}: {getattr(right, field)} is that of {one}, which has another url and the "
                    f"same {system}; choose another"
                )
        for field in _OF_ONE_JOB:
            if left.has_job_of(right) and getattr(left, field) != getattr(right, field):
                yield (
                    f"shares.{other}.{field}: {getattr(right, field)} is not that of {one}, which has the same export "
                    "job; give this share a bundle and an export_job_variable of its own"
                )
