"""
What the package takes for true of the two services and no emulator can settle: the suite tries each, and reports it.

A test says by its mark which one it tries, ``@pytest.mark.assumption("empty_text")``, and by the fixture ``answer``
what was answered. The table of docs/live-tests.md is this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from data_share.snowflake.sql_api import SnowflakeRefusedError, SnowflakeTransientError
from tests.live.accounts import OutsideScratchError


class NotTriedError(Exception):
    """An account lacks what it takes to try an assumption; the message says what."""


NOT_ABOUT_ASSUMPTIONS = (OutsideScratchError, SnowflakeRefusedError, SnowflakeTransientError, OSError)
"""A test that ends by one of these has found nothing."""


class Result(StrEnum):
    """What became of an assumption; of several tests of one, the last in this order counts."""

    HOLDS = "holds"
    NOT_TRIED = "not tried"
    DOES_NOT_HOLD = "does not hold"


@dataclass(frozen=True)
class Assumption:
    """
    One assumption.

    :param sentence: what is taken for true
    :param otherwise: what follows if it is not
    """

    sentence: str
    otherwise: str


ASSUMPTIONS = {
    "empty_text": Assumption(
        "COPY INTO loads the empty text of a Parquet file as an empty text.",
        "a table with one empty text cannot be synced as it is: runbook, a view with NULLIF",
    ),
    "export_sql": Assumption(
        "A SQL file task runs the SQL of the export.",
        "there is no export at all",
    ),
    "source_parameter": Assumption(
        "A job parameter with 10,000 bytes of JSON arrives in the SQL as it was sent.",
        "a dataset with `source` exports nothing, or only with few columns",
    ),
    "hash_secret": Assumption(
        "`INSERT OVERWRITE DIRECTORY` takes `SHA2(HEX(AES_ENCRYPT(SECRET(scope, key), ...)), 256)`.",
        "`source.hash` cannot work: the export fails before it writes",
    ),
    "file_metadata": Assumption(
        "`_metadata.file_path` counts the files of an export, on Unity Catalog too.",
        "no manifest, or one that no sync agrees with",
    ),
    "empty_table": Assumption(
        "The export of an empty table leaves a Parquet file with its columns.",
        "`allow_empty` cannot work",
    ),
    "failure_reason": Assumption(
        "The output of a SQL file task that failed has the reason.",
        "people are told that the export failed, and not why",
    ),
    "queue_start_time": Assumption(
        "`start_time` of a task that waited in the job's queue is the begin of its execution.",
        "`test_runs_over_the_limit_wait_in_the_queue` proves nothing",
    ),
    "first_row": Assumption(
        "`{{tasks.plan.output.first_row.<column>}}` is the row that the last statement of a SQL file has returned.",
        "no version is pinned and nothing is ever up to date, or each export fails",
    ),
    "history": Assumption(
        "The principal of the export reads `FROM (DESCRIBE HISTORY IDENTIFIER(:t))`, and its tables in the "
        "information schema of the catalog.",
        "exports fail, or none has a version: `pinned: false` until then",
    ),
    "version_as_of": Assumption(
        "`EXECUTE IMMEDIATE` takes `IDENTIFIER(:t) VERSION AS OF 0`.",
        "each export of a Delta table fails: `pinned: false` until then",
    ),
    "false_condition": Assumption(
        "A run whose condition is false succeeds; runs/get tells `condition_task.outcome`, and the task behind it as "
        "EXCLUDED.",
        "a sync of a source without changes fails, as it finds no manifest",
    ),
    "feed_property": Assumption(
        "DESCRIBE HISTORY tells in operationParameters that a CREATE TABLE or an ALTER TABLE ... SET TBLPROPERTIES has "
        "set `delta.enableChangeDataFeed`.",
        "the feed is found only by `change_files`; without it, versions are compared, or everything is exported",
    ),
    "change_files": Assumption(
        "An UPDATE of a table with the change data feed tells `numAddedChangeFiles` in operationMetrics; whether a "
        "DELETE does, the answer says.",
        "a feed whose entry is no longer in the history is not found: versions are compared, or everything is exported",
    ),
    "feed_export": Assumption(
        "`EXECUTE IMMEDIATE` takes `TABLE_CHANGES(:t, 1, 3)`, and the export by it has the changed rows alone; a "
        "changed key is a deletion and an insertion.",
        "increments of tables with the feed fail, or leave rows that are gone: `incremental: false` until then",
    ),
    "compare_export": Assumption(
        "The export that compares two versions, by `EXCEPT ALL` and `LEFT ANTI JOIN`, has the changed rows alone.",
        "increments of tables without the feed fail, or miss changes: `incremental: false` until then",
    ),
    "vacuum_retention": Assumption(
        "VACUUM is in the history as VACUUM START, which tells `specifiedRetentionMillis` or "
        "`defaultRetentionMillis`, by default a week.",
        "without the entry, an increment after VACUUM may fail before everything is exported; without the time, the "
        "next sync after each VACUUM exports everything, and one that appends fails",
    ),
    "retry_running": Assumption(
        "A request with an earlier one's id and `retry=true` finds a statement that still runs, also after minutes.",
        "a lost answer may start a COPY or a publish twice, and a kill leave one running",
    ),
    "retry_while_answering": Assumption(
        "While Snowflake works on a request without `async=true`, the same request with `async=true` and `retry=true` "
        "is answered with the handle of its statement.",
        "a kill leaves a short statement running to its end, beside the next attempt of its step",
    ),
    "missing_schema": Assumption(
        "A request whose schema does not exist is accepted; there is no current schema then.",
        "`make doctor` cannot say which name is wrong",
    ),
    "fresh_session": Assumption(
        "Each request has a session of its own, which sees all that was committed before.",
        "a step does not see what the step before has written",
    ),
    "lock_waiter": Assumption(
        "A MERGE that waited for a lock sees the row that the other transaction has written.",
        "two publishes at once are both let through",
    ),
    "publish_races": Assumption(
        "Of two publishes of one export at the same time, one changes the target.",
        "rows are added twice in the mode append",
    ),
    "publish_cancel": Assumption(
        "A publish that is cancelled leaves target and ledger as they were.",
        "a target that no ledger row explains",
    ),
    "time_zone": Assumption(
        "The parameter `timezone` holds for COPY: a TIMESTAMP of 23:30 UTC arrives as the same instant in "
        "TIMESTAMP_LTZ and TIMESTAMP_TZ, and as 23:30 in TIMESTAMP_NTZ.",
        "times are shifted by the account's time zone, silently",
    ),
    "all_types": Assumption(
        "A value of each type that Databricks exports arrives in Snowflake as it was.",
        "changed values, which the checksums find for most types",
    ),
    "checksums": Assumption(
        "The checksums of a column are equal on both sides.",
        "`check_staging` fails in every sync: `proof: counts` until then",
    ),
    "sync_modes": Assumption(
        "Syncs append, and merge by keys and delete, as on the emulators.",
        "see the answer",
    ),
    "integration_usage": Assumption(
        "COPY and LIST of a stage of another role take USAGE on its storage integration.",
        "nothing breaks: the grant is not needed in each sync",
    ),
    "like_policies": Assumption(
        "CREATE TABLE ... LIKE carries no row access policy; whether it carries masking policies, the answer says.",
        "nothing breaks: a staging table is made from columns and types",
    ),
}
"""Assumption by its id, in the order of the report."""


def as_table() -> str:
    """Return the assumptions as the table of docs/live-tests.md."""
    rows = [f"| `{name}` | {one.sentence} | {one.otherwise} |" for name, one in ASSUMPTIONS.items()]
    return "\n".join(["| Id | Assumption | If it does not hold |", "| --- | --- | --- |", *rows])
