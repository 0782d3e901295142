"""Datasets. A YAML file in ``include/datasets/`` defines one: its source, its target, its load mode and its checks."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from data_share.column_types import SYNONYMS, UnknownTypeError, target_type, type_pattern
from data_share.schedules import Schedule
from data_share.share_file import DEFAULT, ShareNames, share_file
from data_share.source import EVERY_COLUMN, Source
from data_share.sql_files import SQL_FOLDER
from data_share.sql_text import (
    COLUMN_PATTERN,
    SOURCE_PATTERN,
    TABLE_PATTERN,
    alike,
    column_name,
    folded,
    quoted,
    shown,
    source_name,
    table_parts,
    table_sql,
    written,
)

# Matches SQL up to the first comment, semicolon or unclosed quote; anything between quotes is allowed.
# Each character fits only one alternative, so that no text makes the match slow.
_CONDITION = (
    r"""(?:[A-Za-z0-9_][A-Za-z0-9_$]*(?![A-Za-z0-9_$])|[^A-Za-z0-9_;'"$/-]|-(?!-)|/(?![/*])|\$(?!\$)"""
    r"""|'(?:[^'\\]|\\[\s\S])*'|"[^"]*"|\$\$(?:[^$]|\$(?!\$))*\$\$)*"""
)

# What stands in a condition on all rows: an aggregate, or a window. A name more does no harm, see is_about_all_rows.
# (https://docs.snowflake.com/en/sql-reference/functions-aggregation)
_OF_ALL_ROWS = re.compile(
    r"\b(\w*agg|any_value|approx\w*|avg|bitmap_\w+|corr|count|count_if|covar_\w+|datasketches_\w+|hll\w*|kurtosis"
    r"|max|max_by|median|min|min_by|minhash\w*|mode|over|percentile_\w+|regr_\w+|skew|stddev\w*|sum|var_\w+"
    r"|variance\w*|vector_(avg|max|min|sum))\s*\(",
    re.IGNORECASE,
)

CHECKS_OF_EVERY_SYNC = frozenset(
    {
        "values_match_manifest",
        *re.findall(r"^ +\('(\w+)', ", (SQL_FOLDER / "check_staging.sql").read_text("utf-8"), re.MULTILINE),
    }
)
"""Names of the checks in ``check_staging.sql``, and of the check of the values; reserved: no dataset may use them."""

MERGE_KEYS_UNIQUE = "merge_keys_unique"
"""Name of the check that no two staged rows have the same merge keys."""

# SQL, paths and DAG ids contain the name without quotes: so only characters that are safe in all of them.
DatasetName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
Column = Annotated[str, AfterValidator(column_name), WithJsonSchema({"type": "string", "pattern": COLUMN_PATTERN})]


def _column_type(value: str) -> str:
    """Return a type for CREATE TABLE: Snowflake's main name for it, with its size."""
    words = value.upper().split()
    is_nullable = words[-2:] != ["NOT", "NULL"]
    try:
        kind = target_type(" ".join(words if is_nullable else words[:-2])).text
    except UnknownTypeError as error:
        listed = ", ".join(name for names in SYNONYMS.values() for name in names)
        raise ValueError(f"{error}; known are {listed}, with or without NOT NULL after them") from None
    return kind if is_nullable else f"{kind} NOT NULL"


ColumnType = Annotated[
    str,
    AfterValidator(_column_type),
    WithJsonSchema({"type": "string", "title": "Type of Snowflake", "pattern": type_pattern()}),
]
SourceTable = Annotated[str, AfterValidator(source_name), WithJsonSchema({"type": "string", "pattern": SOURCE_PATTERN})]
TargetTable = Annotated[str, WithJsonSchema({"type": "string", "pattern": TABLE_PATTERN})]
# Airflow reads a comma as the end of an owner, and shows both in its UI.
Owner = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._@-]{0,98}[A-Za-z0-9])?$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$")]


def _one_condition(value: str) -> str:
    if problem := not_one_condition(value):
        raise ValueError(problem)
    return value


CheckName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,99}$")]
Condition = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1),
    AfterValidator(_one_condition),
    # Only for editors: the model's own check gives the reason.
    Field(json_schema_extra={"pattern": f"^{_CONDITION}$"}),
]


_ALIKE = "{} differ only by case, which COPY INTO ignores"

TAGS = ("data-share", "sync")
"""Tags of each sync's DAG."""

MAX_AGE_TAG = "max-age-minutes:"
"""
How the tag begins that tells ``max_age_minutes``. Readers of Airflow's REST API see no dataset file; of what a DAG file
may say, the list of DAGs has only description, owner and tags.
"""

# A staging table's name is the target's name followed by the run key and the attempt.
_MAX_TARGET_CHARACTERS = 200


class _Mode(NamedTuple):
    """
    The properties of a load mode.

    :param name: its name in a dataset file
    :param rights: the rights on the target that it needs, besides SELECT
    :param is_repeatable: whether publishing an export twice gives the same target as publishing it once
    :param keeps_rows: whether rows of the target that are not in the export stay
    :param has_keys: whether merge keys identify rows
    """

    name: str
    rights: tuple[str, ...]
    is_repeatable: bool
    keeps_rows: bool
    has_keys: bool = False


class LoadMode(StrEnum):
    """How a sync changes the target table."""

    def __new__(cls, *mode: Any) -> LoadMode:
        """Make a member; its value is its name in a dataset file."""
        known = _Mode(*mode)
        member = str.__new__(cls, known.name)
        member._value_ = known.name
        member.rights, member.is_repeatable = known.rights, known.is_repeatable
        member.keeps_rows, member.has_keys = known.keeps_rows, known.has_keys
        return member

    rights: tuple[str, ...]
    is_repeatable: bool
    keeps_rows: bool
    has_keys: bool

    REPLACE = _Mode("replace", rights=("INSERT", "DELETE"), is_repeatable=True, keeps_rows=False)
    """The target has exactly the exported rows."""
    APPEND = _Mode("append", rights=("INSERT",), is_repeatable=False, keeps_rows=True)
    """The exported rows are added, once for each sync."""
    MERGE = _Mode("merge", rights=("INSERT", "UPDATE"), is_repeatable=True, keeps_rows=True, has_keys=True)
    """Rows with a known key are updated, the others are inserted."""

    @property
    def sql_file(self) -> str:
        """The SQL file that changes the target; ``publish.sql`` includes it."""
        return f"change_{self.value}.sql"


class SchemaDrift(StrEnum):
    """What happens when the export has a column that the target lacks. A missing column always fails the sync."""

    STRICT = "strict"
    """The sync fails and lists the columns."""
    IGNORE_NEW = "ignore_new"
    """The new columns are not loaded."""
    ADD_NEW = "add_new"
    """The new columns are added to the target."""


class Proof(StrEnum):
    """How a sync proves that the loaded rows are the exported rows."""

    CHECKSUMS = "checksums"
    """By the number of rows and files, and a checksum of each column's values."""
    COUNTS = "counts"
    """By the number of rows and files."""


class Dataset(BaseModel):
    """A dataset, as its file defines it. The file's name, without ``.yaml``, is the dataset's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName = Field(description="The file's name; not a field of the file.")
    description: str = Field(min_length=1, description="One sentence for the people who press Sync.")
    source_table: SourceTable = Field(
        description="Unity Catalog name of the source: `catalog.schema.table`; see [Names](#names)."
    )
    source: Source = Field(
        default_factory=Source,
        description="Which columns of the source leave Databricks, and how. Default: all, as they are. See "
        "[What leaves Databricks](#what-leaves-databricks).",
    )
    pinned: bool = Field(
        default=True,
        strict=True,
        description="Whether an export reads one version of a Delta table, and is left out if nothing is new since the "
        "last sync. `false`: the source is read as it is, at each sync; for a table with policies for rows or columns, "
        "of which Databricks shows no versions. See [Versions](#versions).",
    )
    incremental: bool = Field(
        default=False,
        strict=True,
        description="For `merge` and `append`: whether only what has changed at the source is exported and loaded, "
        "where that can be told; the export job decides, and says why. See [Increments](#increments).",
    )
    # Before the target, whose check reads it.
    share: str = Field(
        default=DEFAULT,
        json_schema_extra={"pattern": "^[a-z][a-z0-9_]*$"},
        description="The share over which the dataset goes: `default`, or one of `shares` in "
        "[`include/share.yaml`](share.md).",
    )
    target_table: TargetTable = Field(
        description="Snowflake table, `table`, `schema.table` or `database.schema.table`; an omitted schema or "
        "database is the connection's. Each target belongs to one dataset. See [Names](#names)."
    )
    load_mode: LoadMode = Field(
        description="`replace`: the target has exactly the exported rows. `append`: the exported rows are added, once "
        "for each sync. `merge`: rows with a known key are updated, the others inserted."
    )
    merge_keys: tuple[Column, ...] = Field(
        default=(), description="For `merge`: the columns that together identify a row. Unique and never NULL."
    )
    delete_missing: bool = Field(
        default=False,
        strict=True,
        description="For `merge`: whether target rows that are not in the export are deleted.",
    )
    schedule: Schedule = Field(
        default=None,
        description="Cron expression of five fields in UTC, or a preset such as `@daily`; times in a time zone, or "
        "updates of an asset: see [Schedule](#schedule). Default: only on request.",
    )
    verify_schedule: Schedule = Field(
        default=None,
        description="When the target is compared with what was published last, written as `schedule` is: the DAG "
        "`verify_<name>` then starts a verification. Default: only on request. See [Verify](#verify).",
    )
    owner: Owner | None = Field(
        default=None, description="Who is responsible: the owner of the DAG in Airflow. Default: `data-share`."
    )
    tags: tuple[Tag, ...] = Field(
        default=(),
        max_length=20,
        json_schema_extra={"uniqueItems": True},
        description="Tags of the DAG in Airflow, besides `data-share` and `sync`.",
    )
    retries: int | None = Field(
        default=None,
        ge=0,
        le=20,
        strict=True,
        description="How often a failed step is tried again; a step tries again only what may succeed. "
        "`wait_for_export` never is, `finish_sync` always five times. Default: 2.",
    )
    required_columns: tuple[Column, ...] = Field(
        min_length=1, description="Columns that must not be NULL in any row of a sync. At least one."
    )
    checks: dict[CheckName, Condition] = Field(
        default_factory=dict,
        description="Conditions in Snowflake SQL by name. Each must hold for every row or, with aggregates, for the "
        "whole export. NULL is not true. See [Checks](#checks).",
    )
    max_row_change_percent: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        strict=True,
        description="Max. change of the number of exported rows since the last sync, in percent. A sync with a larger "
        "change fails, unless its conf has `accept_row_change`.",
    )
    allow_empty: bool = Field(default=False, strict=True, description="Whether an export may have no rows.")
    schema_drift: SchemaDrift = Field(
        default=SchemaDrift.STRICT,
        description="When the export has new columns: `strict` fails, `ignore_new` does not load them, `add_new` adds "
        "them to the target. A column that the export lacks always fails the sync.",
    )
    proof: Proof = Field(
        default=Proof.CHECKSUMS,
        description="How a sync proves that the loaded rows are the exported rows. `checksums`: by the number of rows "
        "and files, and a checksum of each column's values. `counts`: by the number of rows and files. See "
        "[Proof](#proof).",
    )
    policies: Literal["exempt"] | None = Field(
        default=None,
        description="`exempt`: masking and row access policies exempt the role of the syncs; each sync proves it. "
        "Default: a sync that finds such a policy fails. See [Policies](#policies).",
    )
    export_timeout_minutes: int = Field(
        default=120,
        ge=1,
        le=1440,
        strict=True,
        description="Max. time of the export, including its time in the job's queue. An export that takes longer is "
        "cancelled on Databricks.",
    )
    load_timeout_minutes: int = Field(
        default=60,
        ge=1,
        le=1440,
        strict=True,
        description="Max. time of one statement that loads, checks or publishes. Snowflake ends a statement that takes "
        "longer, or longer than the warehouse allows (STATEMENT_TIMEOUT_IN_SECONDS).",
    )
    sync_deadline_minutes: float | None = Field(
        default=None,
        gt=0,
        le=10080,
        allow_inf_nan=False,
        strict=True,
        description="Max. time from the request of a sync to its end, including the wait for an earlier sync. After "
        "it, an alert is sent; the sync goes on. Default: no such alert.",
    )
    max_age_minutes: float | None = Field(
        default=None,
        gt=0,
        le=525600,
        allow_inf_nan=False,
        strict=True,
        description="Max. age of the data in the target: the time since a sync last read the source, and published it "
        "or found nothing new. After it, the data are *stale*. Default: they never are. See "
        "[Age of the data](#age-of-the-data).",
    )
    create_table: Literal["from_columns", "from_source"] | None = Field(
        default=None,
        description="`from_columns`: the DAG `set_up_snowflake` creates the target from `columns`. `from_source`: the "
        "first sync creates it, with the columns of the source. Default: a file in `include/sql/snowflake/targets/`, "
        "or the target's owners, create it.",
    )
    columns: dict[Column, ColumnType] = Field(
        default_factory=dict,
        description="For `create_table: from_columns`: the Snowflake type of each column of the target, with or "
        "without `NOT NULL` after it. See [Types](#types).",
    )
    casts: tuple[Column, ...] = Field(
        default=(),
        description="Columns whose values may change when they are loaded, because the target's type cannot hold every "
        "value of the source. Never a merge key. See [Types](#types).",
    )
    target_defaults: tuple[Column, ...] = Field(
        default=(),
        description="Columns of the target that the source lacks, and that get their `DEFAULT` in each new row. If the "
        "source has the column, it is loaded like any other.",
    )

    @field_validator("share")
    @classmethod
    def _share_exists(cls, value: str, info: ValidationInfo) -> str:
        if value not in (known := _shares_of(info)):
            raise ValueError(f"include/share.yaml has no such share; known are {', '.join(known)}")
        return value

    @field_validator("target_table")
    @classmethod
    def _target_is_no_table_of_the_share(cls, value: str, info: ValidationInfo) -> str:
        table = table_parts(value)[-1]
        if len(table) > _MAX_TARGET_CHARACTERS:
            raise ValueError(f"the table's name has more than {_MAX_TARGET_CHARACTERS} characters")
        shares = _shares_of(info)
        own = shares.get(info.data.get("share", ""))  # none if the dataset's is unknown
        in_account = [share for share in shares.values() if own and share.snowflake_conn_id == own.snowflake_conn_id]
        if any(table in (share.ledger_table.upper(), share.manifest_table.upper()) for share in in_account):
            raise ValueError("all syncs write to a table of this name; choose another")
        return value

    @field_validator("tags")
    @classmethod
    def _tags_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := [tag for tag, count in Counter((*value, *TAGS)).items() if count > 1]:
            raise ValueError(f"{', '.join(repeated)}: the DAG has this tag already, or it is given twice; remove it")
        if told := [tag for tag in value if tag.startswith(MAX_AGE_TAG)]:
            raise ValueError(f"{', '.join(told)}: the DAG gets this tag from max_age_minutes; write that field")
        return value

    @field_validator("merge_keys", "required_columns", "columns", "casts", "target_defaults", mode="before")
    @classmethod
    def _columns_differ(cls, value: Any) -> Any:
        # Before pydantic converts the names: a mapping would keep only the last of two equal names.
        names = []
        for text in value if isinstance(value, list | tuple | dict) else ():
            # The field's own validation reports a text that is no name.
            with contextlib.suppress(ValueError, TypeError):
                names.append(column_name(text))
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"{', '.join(repeated)} is given more than once (case does not matter)")
        _refuse_alike(names)
        return value

    @model_validator(mode="after")
    def _fields_go_together(self) -> Dataset:
        problems = []
        if self.load_mode.has_keys and not self.merge_keys:
            problems.append(f"merge_keys: load_mode {self.load_mode} needs at least one")
        for field in ("merge_keys", "delete_missing"):
            if not self.load_mode.has_keys and getattr(self, field):
                problems.append(f"{field}: only for load_mode merge, not for {self.load_mode}")
        if self.incremental and self.load_mode is LoadMode.REPLACE:
            problems.append("incremental: only for load_mode merge and append; replace exports everything")
        if self.incremental and not self.pinned:
            problems.append("incremental: needs versions of the source, so not with pinned: false")
        if self.verify_schedule is not None and not self.pinned:
            problems.append("verify_schedule: needs versions of the source, so not with pinned: false")
        if self.verify_schedule is not None and self.load_mode is LoadMode.APPEND and not self.incremental:
            problems.append(
                "verify_schedule: an append of all rows holds more than the source; only with incremental: true"
            )
        # What is new, or was published, cannot be told then: each sync, or each verification, would be refused.
        for field, is_refused in (
            ("incremental", self.only_appends_increments),
            ("verify_schedule", self.verify_schedule is not None),
        ):
            if is_refused and self.source.may_choose_others_later:
                problems.append(f"{field}: not with a source.where that may choose other rows at another time")
        if self.create_table == "from_columns" and not self.columns:
            problems.append("columns: create_table from_columns needs them")
        if self.columns and self.create_table != "from_columns":
            problems.append("columns: only with create_table: from_columns")
        if cast := [name for name in self.casts if name in self.merge_keys]:
            problems.append(
                f"casts: {', '.join(map(written, cast))} is a merge key; a changed key would overwrite another row"
            )
        if keys := [name for name in self.target_defaults if name in (*self.merge_keys, *self.required_columns)]:
            problems.append(
                f"target_defaults: {', '.join(map(written, keys))} must come from the source, as a merge key or "
                "required column"
            )
        for field in ("merge_keys", "required_columns", "casts", "target_defaults"):
            if self.columns and (unknown := [name for name in getattr(self, field) if name not in self.columns]):
                problems.append(f"{field}: {', '.join(map(written, unknown))} not in columns")
        exported, stay = self.source.exported_names, self.source.names_that_stay
        for field in ("merge_keys", "required_columns"):
            problems += [
                f"{field}: {written(name)} does not leave Databricks, by source"
                for name in getattr(self, field)
                if folded(name) in stay or (exported is not None and folded(name) not in exported)
            ]
        if same := alike((*self.merge_keys, *self.required_columns, *self.casts, *self.target_defaults)):
            problems.append(_ALIKE.format(", ".join(map(quoted, same))))
        if taken := [name for name in self.checks if name in CHECKS_OF_EVERY_SYNC or name in self._implied_checks]:
            problems.append(f"checks: {', '.join(taken)} is the name of a check of every sync; choose another")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def dag_id(self) -> str:
        """Id of the DAG that syncs this dataset."""
        return f"sync_{self.name}"

    @property
    def dag_tags(self) -> list[str]:
        """The tags of the DAG that syncs this dataset."""
        max_age = [] if self.max_age_minutes is None else [f"{MAX_AGE_TAG}{self.max_age_minutes:g}"]
        return [*TAGS, *self.tags, *max_age]

    @property
    def verify_dag_id(self) -> str:
        """Id of the DAG that starts a verification by ``verify_schedule``."""
        return f"verify_{self.name}"

    @property
    def target(self) -> str:
        """The target table, quoted for SQL."""
        return table_sql(self.target_table)

    @property
    def target_name(self) -> str:
        """The target without schema and database, quoted for SQL: it qualifies the target's columns."""
        return quoted(table_parts(self.target_table)[-1])

    @property
    def target_shown_as(self) -> str:
        """The target without schema and database, as SHOW TABLES shows it."""
        return table_parts(self.target_table)[-1]

    @property
    def target_schema(self) -> str:
        """The target's schema, with its database if given, quoted for SQL; empty for the connection's schema."""
        return ".".join(map(quoted, table_parts(self.target_table)[:-1]))

    @property
    def column_definitions(self) -> list[str]:
        """The target's columns with their types, for CREATE TABLE."""
        return [f"{quoted(name)} {kind}" for name, kind in self.columns.items()]

    @property
    def proof_of_values(self) -> Proof:
        """How a sync proves the values: with checksums if ``policies`` is ``exempt``, as they prove the exemption."""
        return Proof.CHECKSUMS if self.policies == "exempt" else self.proof

    @property
    def keeps_new_columns_back(self) -> bool:
        """Whether a column that the target lacks must not leave Databricks: the job is told the target's columns."""
        return self.schema_drift is not SchemaDrift.ADD_NEW

    @property
    def only_appends_increments(self) -> bool:
        """Whether a sync adds the rows that are new; then an export of all rows would add the others again."""
        return self.incremental and not self.load_mode.is_repeatable

    @property
    def advice_without_increment(self) -> str:
        """What people are to do where changes do not lead to what the source has."""
        if self.load_mode.is_repeatable:
            return "Start the sync again: it exports everything."
        return "Start the sync with full_refresh: true, which replaces everything in the target."

    @property
    def mirrors_source(self) -> bool:
        """Whether the target has no other rows than the source; else those that the source lacks stay there."""
        return self.load_mode is LoadMode.REPLACE or self.delete_missing or self.only_appends_increments

    @property
    def increment(self) -> dict[str, Any] | None:
        """How changes are loaded, as the export job reads it; None if everything is exported."""
        if not self.incremental:
            return None
        if not self.load_mode.has_keys:
            return {"load": self.load_mode.value}
        deletes = "true" if self.delete_missing else "false"
        return {"load": self.load_mode.value, "keys": list(self.merge_keys), "deletes": deletes}

    def source_parameters(self, known: Collection[str] | None = None) -> dict[str, str]:
        """
        Return the parameters of the export job that say what leaves, and how the values are proven.

        :param known: the target's columns, if :attr:`keeps_new_columns_back`; None as long as there is no target
        """
        choice, proof = self.source.parameter(), self.proof_of_values.value
        if not choice and known is None:
            return {"proof": proof, "source": ""}
        if known is not None:
            new = "left_out" if self.schema_drift is SchemaDrift.IGNORE_NEW else "refused"
            choice = {**(choice or EVERY_COLUMN), "known": sorted(map(folded, known)), "new": new}
        # An earlier version of the job, which would export all columns, refuses a proof of chosen columns.
        return {"proof": f"chosen_{proof}", "source": json.dumps(choice)}

    @property
    def rights_on_target(self) -> tuple[str, ...]:
        """The rights on the target that the role of the syncs needs, besides SELECT."""
        return (*self.load_mode.rights, *(("DELETE",) if self.delete_missing else ()))

    @property
    def all_checks(self) -> dict[str, str]:
        """Conditions by name: those for the required columns and merge keys, and those of the file."""
        return {**self._implied_checks, **self.checks}

    @property
    def checks_with_advice(self) -> list[tuple[str, str, str | None]]:
        """Name, condition and remedy of each check; the checks of the file have no remedy."""
        return [(name, condition, self._advice.get(name)) for name, condition in self.all_checks.items()]

    @property
    def _advice(self) -> dict[str, str]:
        return {
            **{
                f"{shown(column)}_not_null": f"Correct the source, or remove {written(column)} from required_columns "
                "in the dataset file; then start the sync again."
                for column in self.required_columns
            },
            **dict.fromkeys(
                (MERGE_KEYS_UNIQUE, *(f"{shown(key)}_not_null" for key in self.merge_keys)),
                "Correct the source, or the merge_keys in the dataset file; then start the sync again.",
            ),
        }

    @property
    def _implied_checks(self) -> dict[str, str]:
        keys = ", ".join(quoted(key) for key in self.merge_keys)
        never_null = dict.fromkeys((*self.merge_keys, *self.required_columns))
        return {
            **{f"{shown(column)}_not_null": f"{quoted(column)} IS NOT NULL" for column in never_null},
            **({MERGE_KEYS_UNIQUE: f"COUNT(*) = COUNT(DISTINCT {keys})"} if keys else {}),
        }


def _shares_of(info: ValidationInfo) -> Mapping[str, ShareNames]:
    shares: Mapping[str, ShareNames] | None = (info.context or {}).get("shares")
    return share_file().shares if shares is None else shares


def not_one_condition(sql: str) -> str | None:
    """Return why a text is not a single condition, or None. A comment in it would hide the rest of the query."""
    found = re.match(_CONDITION, sql)
    rest = sql[found.end() :] if found else sql
    if not rest:
        return None
    if rest[0] == ";":
        return "contains a semicolon; it must be one condition"
    if rest[:2] in ("--", "//", "/*"):
        return f"contains a comment ({rest[:2]}); remove it, or make it a YAML comment"
    return f"has a {rest[0]} that is not closed"


def is_about_all_rows(sql: str) -> bool:
    """
    Return whether a condition is about all rows together, by an aggregate or a window.

    It may say so of a condition on single rows, never the other way round, but for aggregates that users have defined.
    """
    return bool(_OF_ALL_ROWS.search(re.sub(r"""'(?:[^'\\]|\\.)*'|"[^"]*"|\$\$.*?\$\$""", "''", sql, flags=re.DOTALL)))


def _refuse_alike(columns: Collection[str]) -> None:
    if same := alike(columns):
        raise ValueError(_ALIKE.format(", ".join(map(quoted, same))))
