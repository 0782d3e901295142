"""What leaves Databricks: the columns and rows of a source table that a dataset file chooses."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from data_share.sql_text import MAX_NAME_CHARACTERS, TEMPLATE, folded

MAX_PARAMETER_BYTES = 10_000
"""Max. size of the parameter with the choice: what Databricks documents for the parameters of a task of a job."""

EVERY_COLUMN: Mapping[str, Any] = {"columns": [], "others": "kept"}
"""The choice of all columns, as the export job reads it."""

_COLUMN_PATTERN = rf"^[^\x00-\x1f\x7f]{{1,{MAX_NAME_CHARACTERS}}}$"


# What ends or hides the rest of a statement of Databricks may stand only between quotes. A backslash escapes in texts.
_QUOTED = r"""'(?:[^'\\]|\\[\s\S])*'|"(?:[^"\\]|\\[\s\S])*"|`[^`]*`"""
_ENDS = re.compile(r"""[;'"`?]|--|//|/\*|(?<![\w:)\]`]):(?=\w)""")

# Words that read the time, the user, the files or another table, without being a call.
_MOVING_WORD = re.compile(r"\b(select|table|from|with|user|session_user|localtimestamp|current_\w+|_metadata)\b")
# Spark replaces a text that begins with one of these by a time, wherever it needs a date or a timestamp.
_MOVING_TEXT = re.compile(r"""['"]\s*(now|today|yesterday|tomorrow)\b""", re.IGNORECASE)
_CALL = re.compile(r"([\w.]+)\s*\(")
# What may stand before a bracket: keywords, and functions of Databricks SQL that depend on their arguments alone.
_FIXED_CALLS = frozenset(
    """
    all and any between else ilike in is like not or then when
    abs add_months array_contains ascii bigint bit_length boolean btrim cast cbrt ceil ceiling char_length chr
    coalesce concat concat_ws contains crc32 date date_add date_diff date_format date_part date_sub date_trunc
    datediff day dayofmonth dayofweek dayofyear decimal double endswith exp extract float floor greatest hash hex
    hour if iff ifnull initcap instr int isnan isnotnull isnull lcase least left len length levenshtein ln locate
    log log10 log2 lower lpad ltrim make_date md5 minute mod month nullif nvl nvl2 pmod position pow power quarter
    regexp regexp_extract regexp_like regexp_replace replace reverse right rlike round rpad rtrim second sha sha1
    sha2 sign size smallint soundex split split_part sqrt startswith string substr substring substring_index
    timestamp timestampadd timestampdiff tinyint to_date to_timestamp trim trunc try_cast try_to_number
    try_to_timestamp ucase unhex unix_date unix_micros unix_millis unix_seconds upper weekday weekofyear xxhash64
    year zeroifnull
    """.split()  # noqa: SIM905, as a list would have a line for each
)


def not_one_source_condition(sql: str) -> str | None:
    """Return why a text is not a single condition in Databricks SQL, or None."""
    if wrong := re.search(r"\$\{|\{\{", sql):
        return f"contains {wrong[0]}, which Spark or Databricks would replace"
    # The quoted texts are left out first: a word takes their place, which keeps what is around them apart.
    plain = re.sub(_QUOTED, "quoted", sql)
    if wrong := _ENDS.search(plain):
        return (
            f"contains {wrong[0]} outside of quotes: it must be one condition, without comments, parameters and quotes "
            "that are not closed"
        )
    depth = 0
    for bracket in re.findall(r"[()]", plain):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            break
    return "has brackets that are not in pairs" if depth else None


def _condition(sql: str) -> str:
    if problem := not_one_source_condition(sql):
        raise ValueError(problem)
    return sql


SourceCondition = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000), AfterValidator(_condition)
]


def _source_column(text: str) -> str:
    if not re.fullmatch(_COLUMN_PATTERN[1:-1], text):
        raise ValueError(
            f"no name of a column: 1 to {MAX_NAME_CHARACTERS} characters, without line breaks and control characters"
        )
    if wrong := re.search(r"\$\{", text) or TEMPLATE.search(text):
        raise ValueError(
            f"contains {wrong[0]}, which Spark, Databricks or Airflow would replace; export a view instead"
        )
    return text


SourceColumn = Annotated[
    str, AfterValidator(_source_column), WithJsonSchema({"type": "string", "pattern": _COLUMN_PATTERN})
]


class Source(BaseModel):
    """
    The choice of a dataset file; without fields, everything leaves Databricks.

    Names are those of Unity Catalog, which ignores their case, unlike the names of the target's columns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[SourceColumn, ...] = Field(default=(), description="The columns that leave; no other does.")
    exclude: tuple[SourceColumn, ...] = Field(
        default=(), description="Instead of `columns`: the columns that do not leave; all others do."
    )
    rename: dict[SourceColumn, SourceColumn] = Field(
        default_factory=dict, description="The names that columns get in the export: `old: new`."
    )
    hash: tuple[SourceColumn, ...] = Field(
        default=(), description="Columns of which the SHA-256 with a secret leaves, as text, instead of the values."
    )

    where: SourceCondition | None = Field(
        default=None,
        description="A condition in Databricks SQL, on columns of the source: only rows for which it is true leave. It "
        "is a part of the deployed job: after a change, `make render` and deploy the bundle.",
    )

    @model_validator(mode="after")
    def _fields_go_together(self) -> Source:
        if self.columns and self.exclude:
            raise ValueError("exclude: not together with columns, which leaves out all others")
        for field in ("columns", "exclude", "rename", "hash"):
            names: Iterable[str] = getattr(self, field)
            if repeated := [name for name, count in Counter(map(str.lower, names)).items() if count > 1]:
                raise ValueError(f"{field}: {', '.join(repeated)} is given more than once (case does not matter)")
        known = set(map(str.lower, self.columns))
        excluded = set(map(str.lower, self.exclude))
        for field in ("rename", "hash"):
            if self.columns and (absent := [name for name in getattr(self, field) if name.lower() not in known]):
                raise ValueError(f"{field}: {', '.join(absent)} not in columns")
            if gone := [name for name in getattr(self, field) if name.lower() in excluded]:
                raise ValueError(f"{field}: {', '.join(gone)} is excluded")
        # Columns that are not listed are known only to the job, which looks again.
        aliases = Counter(choice["alias"].lower() for choice in self._choices if choice["how"] != "left_out")
        if same := [name for name, count in aliases.items() if count > 1]:
            raise ValueError(f"rename: several columns would be {', '.join(same)} in the export")
        size = len(json.dumps(self.parameter()).encode())
        if size > MAX_PARAMETER_BYTES:
            raise ValueError(
                f"{size:,} bytes as a job parameter, of which {MAX_PARAMETER_BYTES:,} are possible: export a view with "
                "these columns instead"
            )
        return self

    @property
    def is_everything(self) -> bool:
        """Whether all columns of all rows leave as they are."""
        return not self._choices and self.where is None

    @property
    def where_digest(self) -> str:
        """A digest of the condition, by which the job knows whether it has this condition; empty without one."""
        return hashlib.sha256(self.where.encode()).hexdigest() if self.where else ""

    @property
    def may_choose_others_later(self) -> bool:
        """
        Whether the condition may choose other rows although the source has not changed.

        It may if it reads another table, the time or the user, or calls a function that is not known to depend on its
        arguments alone.
        """
        if self.where is None:
            return False
        plain = re.sub(_QUOTED, "quoted", self.where).lower().replace("distinct from", "distinct")
        return (
            _MOVING_WORD.search(plain) is not None
            or _MOVING_TEXT.search(self.where) is not None
            or not _FIXED_CALLS.issuperset(_CALL.findall(plain))
        )

    @property
    def exported_names(self) -> set[str] | None:
        """The names of the columns in the export, as COPY INTO matches them; None if only the source knows them."""
        return {folded(choice["alias"]) for choice in self._choices} if self.columns else None

    @property
    def names_that_stay(self) -> set[str]:
        """The names, as COPY INTO matches them, of columns that are left out or renamed: the export lacks them."""
        leaving = {folded(choice["alias"]) for choice in self._choices if choice["how"] != "left_out"}
        return {folded(choice["name"]) for choice in self._choices} - leaving

    @property
    def _choices(self) -> list[dict[str, str]]:
        """What happens to each column that the file names."""
        renamed = {name.lower(): alias for name, alias in self.rename.items()}
        hashed, excluded = set(map(str.lower, self.hash)), set(map(str.lower, self.exclude))
        # By lower case: the fields may write a column differently.
        names = {name.lower(): name for name in (*self.hash, *self.rename, *self.exclude, *self.columns)}
        return [
            {
                "name": name,
                "alias": renamed.get(key, name),
                "how": "left_out" if key in excluded else "hashed" if key in hashed else "kept",
            }
            for key, name in names.items()
        ]

    def parameter(self) -> dict[str, Any]:
        """Return the choice as the export job reads it: names, and nothing that is SQL."""
        if self.is_everything:
            return {}
        choice: dict[str, Any] = {"columns": self._choices, "others": "left_out" if self.columns else "kept"}
        return {**choice, **({"where": self.where_digest} if self.where else {})}
