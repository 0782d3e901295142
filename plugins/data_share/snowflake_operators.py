"""The Snowflake steps of a sync: copy into staging, check, publish."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

from airflow.providers.snowflake.operators.snowflake import SnowflakeSqlApiOperator
from airflow.sdk import Asset, AssetAlias, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from data_share.attempts import made_by
from data_share.datasets import Dataset
from data_share.exported_schema import exported_columns
from data_share.failure_codes import FailureCode
from data_share.failures import ShareError
from data_share.links import SnowflakeQueryLink
from data_share.policies import (
    PolicyFoundError,
    RowsHiddenError,
    columns_read_otherwise,
    has_row_access_policy,
    hidden_rows,
    masking_policies,
    sample_statements,
    samples,
    told,
    way_out,
)
from data_share.schema_drift import compare_columns, types_of_new_columns
from data_share.share import Share, run_key_of, staged_by_run_of
from data_share.snowflake_hook import (
    STATEMENT_TIMEOUT_SECONDS,
    DataShareSnowflakeHook,
    SnowflakeStatementError,
    StatementResult,
    request_id,
)
from data_share.sql_files import render_sql
from data_share.sync import SyncStep
from data_share.target_lock import TargetTakenError, refuse_target_of_another, select_lock
from data_share.value_proofs import differences, proven_columns

TARGET_UNCHANGED = "The target is as it was."

_SHOWN_ROWS = 5
_SHOWN_COLUMNS = 20
_ROWS_CHECK = "rows_match_manifest"
_VALUES_CHECK = "values_match_manifest"
_VALUES_ADVICE = (
    "Other values were loaded than exported, or the staging table was changed: start the sync again. If it comes "
    "again, give the target's column a type that holds the source's values (docs/datasets.md, Types), or list the "
    "column in casts of the dataset file if the change is wanted. If a masking policy changes it, exempt the role of "
    "the syncs (docs/datasets.md, Policies)."
)
_ASSET_EVENT_FIELDS = ("run_key", "rows_inserted", "rows_updated", "rows_deleted", "rows_in_target")
# In an answer to several statements, the code is 100132 whatever the reason is, and the reason is in the message.
_NOT_THERE = "does not exist or not authorized"
_REFUSED = "NULL result in a non-nullable column"


class NothingLoadedError(ShareError, AirflowFailException):
    """COPY INTO ended well and loaded nothing."""

    code = FailureCode.NOTHING_LOADED


class TargetMissingError(ShareError, AirflowFailException):
    """There is no target, or the role of the syncs does not see it."""

    code = FailureCode.TARGET_MISSING


class ManifestError(ShareError, AirflowFailException):
    """The export left no manifest, or one that does not belong to this sync."""

    code = FailureCode.MANIFEST_INVALID


class CheckFailedError(ShareError, AirflowFailException):
    """The staged rows are not fit to be published."""

    code = FailureCode.CHECKS_FAILED


class SupersededError(ShareError, AirflowFailException):
    """Another sync was published in the meantime, which this one must not undo."""

    code = FailureCode.SUPERSEDED


class PublishError(ShareError, AirflowException):
    """The transaction ended well, but the ledger does not show it."""

    code = FailureCode.LEDGER_ROW_MISSING


class _SnowflakeStep:
    """What the steps have in common: a hook that tags their statements, and how they are ended from outside."""

    snowflake_conn_id: str
    shown_query_id = ""
    """The query that the step is about; when it says nothing, the last one."""
    statement_timeout = STATEMENT_TIMEOUT_SECONDS
    _context: Context | None = None
    _is_killed = False

    @cached_property
    def _hook(self) -> DataShareSnowflakeHook:
        hook = DataShareSnowflakeHook(
            self.snowflake_conn_id, query_tag=_query_tag(self._context), statement_timeout=self.statement_timeout
        )
        if self._is_killed:
            hook.stop()
        return hook

    @property
    def query_page_url(self) -> str:
        """Snowsight's page of the query that the step is about; nothing when it failed before it had one."""
        if self._context is None or not self._hook.query_ids:
            return ""
        return self._hook.query_page_url(self.shown_query_id or self._hook.query_ids[0])

    def on_kill(self) -> None:
        """Cancel the statement that runs, and submit none after it: Airflow lets the step go on for five seconds."""
        self._is_killed = True
        if self._context is not None:
            self._hook.stop()


class SnowflakeStatementsOperator(_SnowflakeStep, SnowflakeSqlApiOperator):
    """
    Runs a SQL file statement by statement and waits for each.

    Closes three gaps of ``SnowflakeSqlApiOperator`` (provider 6.20.0): it throws away the rows that statements return,
    its ``durable`` default takes up the statements of an earlier attempt, where a new attempt has to start over, and a
    step that is killed goes on with its next statement.

    :param share: whose connection and names it uses
    :param sql: SQL file; a template
    :param statement_timeout: seconds that a statement may take
    """

    template_fields: Sequence[str] = ("sql", "snowflake_conn_id")
    operator_extra_links = (SnowflakeQueryLink(),)

    def __init__(
        self,
        *,
        share: Share,
        sql: str,
        statement_timeout: int = STATEMENT_TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(sql=sql, snowflake_conn_id=share.snowflake_conn_id, durable=False, **kwargs)
        self.share = share
        self.statement_timeout = statement_timeout

    def execute(self, context: Context) -> Any:
        """Run the statements in their order."""
        self._context = context
        self._run_file(str(self.sql), "sql")

    def _run_file(self, file: str, place: str, bindings: Sequence[str] = ()) -> list[StatementResult]:
        """Run each statement of a rendered file in a request of its own; `place` tells the requests of a task apart."""
        results = []
        for number, statement in enumerate(self._hook.split_sql_string(file, strip_semicolon=True)):
            result = self._hook.run_statement(statement, request_id=self._request_id(place, number), bindings=bindings)
            self.log.info("Query %s answers %s row(s): %s", result.query_id, len(result.rows), result.rows[:20])
            results.append(result)
        return results

    def _drop_staging_tables(self, tables: Sequence[str], place: str = "") -> None:
        """
        Drop tables of the staging schema.

        :raises SnowflakeStatementError: the first of the refusals; all tables were tried
        """
        refusals = []
        for table in tables:
            try:
                self._run_file(render_sql("drop_staging_table", share=self.share, table=table), f"drop {table} {place}")
            except SnowflakeStatementError as error:
                self.log.warning("The table %s cannot be dropped: %s", table, error.message)
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def _request_id(self, *place: object) -> uuid.UUID:
        # Airflow gives each attempt an id of its own. Names and numbers are no such thing: another Airflow, or this one
        # after a rebuild, has the same again, and Snowflake would take its statement for one that was executed before.
        return request_id(_running(self._context)["ti"].id, *place)


class SnowflakeCreateTargetOperator(SnowflakeStatementsOperator):
    """
    Creates one target table: an instance of a mapped task.

    :param target: name of the dataset, or a SQL file; the SQL finds it in ``task.target``
    """

    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target


class SnowflakeTargetsCheckOperator(SnowflakeStatementsOperator):
    """
    Fails if another dataset publishes to one of the targets, perhaps one of another Airflow.

    :param datasets: whose targets are looked at
    """

    template_fields: Sequence[str] = ("snowflake_conn_id",)

    def __init__(self, *, datasets: Sequence[Dataset], **kwargs: Any) -> None:
        super().__init__(sql="", **kwargs)
        self.datasets = datasets

    def execute(self, context: Context) -> None:
        """Look at the lock of each target."""
        self._context = context
        taken = []
        for dataset in self.datasets:
            try:
                rows = self._run_file(select_lock(dataset, self.share), f"lock {dataset.name}")[-1].rows
                refuse_target_of_another(dataset, self.share, rows)
            except SnowflakeStatementError as error:
                if _NOT_THERE not in str(error):
                    raise
            except TargetTakenError as error:
                taken.append(error)
        if taken:
            raise TargetTakenError(
                "\n".join(error.message for error in taken),
                what_to_do="\n".join(dict.fromkeys(str(error.what_to_do) for error in taken)),
            )


class SnowflakeSyncOperator(SyncStep, SnowflakeStatementsOperator):
    """
    Base of the steps of a sync that work in Snowflake.

    :param dataset: what is synced
    :param sql: SQL files by their names; templates, which find the sync in ``sync``
    """

    sql: dict[str, str]  # type: ignore[assignment]
    template_fields_renderers = {"sql": "json"}  # noqa: RUF012 - as Airflow declares it

    def __init__(self, *, dataset: Dataset, sql: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(sql="", **kwargs)
        self.dataset = dataset
        self.sql = dict(sql)

    def _run(self, name: str, place: str = "", bindings: Sequence[str] = ()) -> list[StatementResult]:
        """Run a file that Airflow has rendered; `place` tells apart the requests of one that is run twice."""
        return self._run_file(self.sql[name], place or name, bindings)

    def _run_with(self, name: str, place: str = "", **values: Any) -> list[StatementResult]:
        """Run a file with values that are known only now."""
        return self._run_file(render_sql(name, share=self.share, sync=self.sync, **values), place or name)


class SnowflakeCopyIntoOperator(SnowflakeSyncOperator):
    """
    Creates staging tables, looks for policies, compares the columns, copies manifest and data into them, and counts.

    Before it loads anything, it looks at the lock of the target: another dataset's target is refused. A policy that can
    change what is read stops it too, unless the dataset says that the role is exempt; then rows of known values, and
    the sums of all values after the copy, have to prove it.

    Takes the place of ``SnowflakeOperator``, which left the provider with version 6. The provider's own
    ``CopyFromExternalStageToSnowflakeOperator`` (6.20.0) signs in with the connector and does not return the counts.

    Returns ``export_path``, ``databricks_run_id``, ``files``, ``files_exported``, ``rows_exported`` (both from the
    manifest), ``rows_parsed``, ``rows_loaded``, ``staging_table``, ``staged_at``, ``columns`` (of the staging table),
    ``new_columns`` (to add to the target, with their types), ``created_columns`` (of a target that the first sync
    creates; else none), ``proofs`` and ``unproven`` (see :func:`~data_share.value_proofs.proven_columns`),
    ``query_ids``, and which attempt it was (see :mod:`data_share.attempts`).
    """

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Load the staging tables of this attempt."""
        self._context = context
        self._look_at_lock()
        target = self._described_target()
        policed = self._policed_columns(target) if target is not None else set()
        self._run("create_staging_manifest")
        # Before anything is read of these tables: a policy by a tag masks the manifest too.
        if target is not None:
            self._create_data(_definitions(target))
            self._read_samples("first", self.sync.new_staging_table, _types(target), target)
        else:
            described = self._run("describe_staging_manifest")[-1].rows
            self._read_samples("first", self.sync.new_staging_manifest, _types(described), described)
        manifest_copy = self._run("copy_manifest")[-1]
        manifest = self._checked_manifest(self._run("select_manifest")[-1].rows)
        if target is not None:
            created: dict[str, str] = {}
            # Without a row, there is no value to change, and no column to fill.
            columns, new_columns = self._compare(target, manifest["COLUMN_TYPES"] if manifest["ROW_COUNT"] else None)
        else:
            created, new_columns = self._created_columns(manifest["COLUMN_TYPES"]), {}
            columns = created
            self._create_data(created)
        if created or new_columns:
            self._read_samples("second", self.sync.new_staging_table, columns | new_columns, target or [])
        proofs, unproven = proven_columns(manifest["COLUMN_TYPES"], columns | new_columns, self.dataset)
        if manifest["ROW_COUNT"]:
            self._refuse_without_proof({name: reason for name, reason in unproven.items() if name in policed})
        copy = self._run("copy_into_staging")[-1]
        # Without a file to load, the answer is one row with one column, `status`.
        files = [row for row in copy.rows if "rows_loaded" in row]
        counts = {name: sum(row[name] for row in files) for name in ("rows_parsed", "rows_loaded")}
        if counts["rows_loaded"] == 0 and not (self.dataset.allow_empty and manifest["ROW_COUNT"] == 0):
            raise NothingLoadedError(
                f"COPY INTO loaded nothing: it found {len(files)} file(s), while the manifest counts "
                f"{manifest['ROW_COUNT']} exported row(s) (query id {copy.query_id}). {TARGET_UNCHANGED}",
                snowflake_query_id=copy.query_id,
                **self._empty_advice() if manifest["ROW_COUNT"] == 0 else self._advice_for_a_broken_export(),
            )
        result = {
            "export_path": self.sync.export_path,
            "databricks_run_id": self.sync.export["run_id"],
            "files": sum(1 for row in files if row["rows_loaded"]),
            "files_exported": manifest["FILE_COUNT"],
            "rows_exported": manifest["ROW_COUNT"],
            **counts,
            "staging_table": self.sync.new_staging_table,
            "staged_at": manifest["STAGED_AT"].isoformat(),
            "columns": [*columns, *new_columns],
            "new_columns": new_columns,
            "created_columns": created,
            "proofs": proofs,
            "unproven": unproven,
            "query_ids": [manifest_copy.query_id, copy.query_id],
        }
        return made_by(context, result)

    def _look_at_lock(self) -> None:
        """Refuse another dataset's target; see to it that the target has a lock."""
        try:
            rows = self._run("select_lock")[-1].rows
        except SnowflakeStatementError as error:
            if _NOT_THERE not in str(error):
                raise
            rows = []
        refuse_target_of_another(self.dataset, self.share, rows, unchanged=TARGET_UNCHANGED)
        if not rows:
            self._run("create_lock")

    def _described_target(self) -> list[dict[str, Any]] | None:
        """Return the columns of the target; None if the first sync is to create it, and there is none yet."""
        try:
            return self._run("describe_target")[-1].rows
        except SnowflakeStatementError as error:
            if _NOT_THERE not in str(error):
                raise
            if self.dataset.create_table != "from_source":
                raise TargetMissingError(
                    f"The target {self.dataset.target_table} is missing, or this role may not see it: {error.message}",
                    snowflake_query_id=error.snowflake_query_id,
                ) from error
            self.log.info("There is no target yet: %s", error.message)
            return None

    def _create_data(self, columns: Mapping[str, str]) -> None:
        # Not LIKE the target: that would copy its clustering key, and cluster what lives for minutes; and nobody says
        # whether it copies policies.
        self._run_with("create_staging", columns=columns)

    def _policed_columns(self, target: list[dict[str, Any]]) -> set[str]:
        """Return the columns with a masking policy; refuse policies that the role is not said to be exempt from."""
        masked = masking_policies(target)
        is_filtered = has_row_access_policy(self._run("explain_target")[-1].rows)
        found = told(self.dataset.target_table, masked, is_filtered=is_filtered)
        if found and self.dataset.policies != "exempt":
            raise PolicyFoundError(
                f"{found}. With a policy, the role of the syncs may read other values than there are, or not all rows, "
                f"and would publish what it reads. {TARGET_UNCHANGED}",
                what_to_do=f"{way_out(self._hook.role_name, self.dataset)} Start the sync again after that.",
            )
        if found:
            self.log.info("The role of the syncs is said to be exempt: %s", found)
        if is_filtered:
            self._refuse_hidden_rows()
        return set(masked)

    def _refuse_hidden_rows(self) -> None:
        """Refuse a target of which Snowflake's list of tables knows more rows than the role sees."""
        shown, counted = (result.rows for result in self._run("count_visible"))
        there = [row["rows"] for row in shown if row["name"] == self.dataset.target_shown_as]
        seen = counted[0]["VISIBLE"]
        if there and there[0] is not None and seen < int(there[0]):
            role, target = self._hook.role_name, self.dataset.target_table
            raise RowsHiddenError(
                f"Role {role} sees {seen:,} of {int(there[0]):,} row(s) in {target}: its row access policy hides the "
                f"others, so the role is not exempt. {TARGET_UNCHANGED}",
                what_to_do=f"{way_out(role, self.dataset)} Start the sync again after that.",
            )

    def _read_samples(
        self, place: str, table: str, columns: Mapping[str, str], described: list[dict[str, Any]]
    ) -> None:
        """
        Write two rows of known values into an empty staging table, read them, and delete them.

        A masking policy that comes by a tag of the schema or of the database is seen in no other way.

        :param place: tells apart the requests of the two times that a step may do this
        :param columns: the columns that the table has, with their types
        :param described: what DESCRIBE TABLE says of those of them that may be NOT NULL
        """
        needed = {str(row["name"]) for row in described if row.get("null?") == "N"}
        unknown = [name for name, kind in columns.items() if samples(kind) is None]
        if needed.intersection(unknown) or len(unknown) == len(columns):
            self.log.info("No sample values are read, as there are none of the types of %s", ", ".join(unknown))
            return
        statements = sample_statements(table, columns)
        counted = self._run_file(";\n".join(statements), f"{place} samples")[1].rows[0]
        if masked := columns_read_otherwise(columns, counted):
            role = self._hook.role_name
            exempt = " The dataset file says that it is exempt." if self.dataset.policies == "exempt" else ""
            raise PolicyFoundError(
                f"What was written to {table} is not what role {role} reads of it: a masking policy changes "
                f"{', '.join(masked)}.{exempt} If DESCRIBE TABLE names no policy, it comes by a tag of the schema "
                f"{self.share.staging_schema} or of the database. {TARGET_UNCHANGED}",
                what_to_do=f"{way_out(role, self.dataset)} Or take the tag off. Start the sync again after that.",
            )

    def _refuse_without_proof(self, unproven: Mapping[str, str]) -> None:
        """Refuse columns with a masking policy whose values nothing compares with those of the export."""
        if unproven:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unproven.items())
            raise PolicyFoundError(
                f"policies: exempt of {self.dataset.name} cannot be proven, as the values of columns with a masking "
                f"policy are not compared with those of the export: {reasons}. {TARGET_UNCHANGED}",
                what_to_do="Take the policy off these columns, e.g. by setting it on a view, or give them a type that "
                "is compared, without casts (docs/datasets.md, Proof). Then start "
                + ("a sync without reload_run_key." if self.sync.is_reload else "the sync again."),
            )

    def _compare(
        self, described: list[dict[str, Any]], column_types: str | None
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Fit the staging table to the export; return its columns and those to add to the target, with their types."""
        compared = compare_columns(column_types, described, self.dataset, is_reload=self.sync.is_reload)
        self._run_with("add_columns", table=self.sync.new_staging_table, columns=compared.new_columns)
        # In the staging table, COPY would make them NULL, or fail where they take none.
        self._run_with("drop_columns", table=self.sync.new_staging_table, columns=compared.defaults)
        columns = _types(described)
        kept = {name: kind for name, kind in columns.items() if name not in compared.defaults}
        return kept, compared.new_columns

    def _created_columns(self, column_types: str | None) -> dict[str, str]:
        if column_types is None:
            raise ManifestError(
                f"The manifest names no columns to create the target from. {TARGET_UNCHANGED}",
                what_to_do="Deploy the asset bundle again: its SQL writes them. Then sync without reload_run_key.",
            )
        return types_of_new_columns(exported_columns(column_types), self.dataset, is_reload=self.sync.is_reload)

    def _checked_manifest(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        if len(manifests) != 1:
            raise ManifestError(
                f"The export left {len(manifests)} manifest rows instead of one: without its manifest, an export did "
                f"not finish, or its files have expired. {TARGET_UNCHANGED}",
                code=FailureCode.MANIFEST_INVALID if manifests else FailureCode.MANIFEST_MISSING,
                **self._advice_for_a_broken_export(),
            )
        manifest = manifests[0]
        if (manifest["DATASET"], manifest["RUN_KEY"]) != (self.dataset.name, self.sync.manifest_run_key):
            raise ManifestError(
                f"The manifest is of dataset {manifest['DATASET']!r} and run key {manifest['RUN_KEY']!r} instead of "
                f"{self.dataset.name!r} and {self.sync.manifest_run_key!r}. {TARGET_UNCHANGED}"
            )
        return manifest

    def _empty_advice(self) -> dict[str, Any]:
        """What helps when the export has no rows, and should have some."""
        limit = self.dataset.max_row_change_percent
        also = (
            ", and start the sync with accept_row_change: true, as max_row_change_percent forbids the loss of all rows"
            if limit is not None and limit < 100
            else ""
        )
        filled = (
            "Start a sync without reload_run_key, as this export stays empty."
            if self.sync.is_reload
            else "Fill the source, and start the sync again."
        )
        return {"what_to_do": f"{filled} If it may be empty, say allow_empty: true in the dataset file{also}."}

    def _advice_for_a_broken_export(self) -> dict[str, Any]:
        """What helps when files of the export are not as the export job left them."""
        if self.sync.is_reload:
            return {"what_to_do": "Start a sync without reload_run_key: it exports anew.", "retriable": False}
        return {
            "what_to_do": "Start the sync again: it exports to a new path. If it fails in the same way, see the run on "
            "Databricks, and find out who else writes to the bucket, or removes from it.",
            "retriable": True,
        }


class SnowflakeCheckOperator(SnowflakeSyncOperator):
    """
    Checks the staging table with named conditions, all in one query, and compares its values with those of the export.

    The provider's ``SQLTableCheckOperator`` (common-sql 2.4.0) makes its own query of conditions in Python, signs in
    with the connector, shows the whole query in place of the failed checks, and does not cancel it when it is killed.
    """

    def execute(self, context: Context) -> None:
        """Compare the values, and run the checks."""
        self._context = context
        differing = self._compare_values()
        checks = self._run("check_staging")[-1]
        failed = [check for check in checks.rows if check["CHECK_RESULT"] != 1]
        if failed or not checks.rows:
            # The queries that follow look for rows to show.
            self.shown_query_id = checks.query_id
        if not checks.rows:
            raise self._failure("The query of the checks has no answer")
        if any(check["CHECK_NAME"] == _ROWS_CHECK for check in failed):
            differing = []  # other rows have other sums: it says nothing more
        if failed or differing:
            told = [f"- {check['CHECK_NAME']}: {self._described(str(check['CONDITION']))}" for check in failed]
            told += [f"- {_VALUES_CHECK}: {sentence}" for sentence in differing[:_SHOWN_COLUMNS]]
            if (more := len(differing) - _SHOWN_COLUMNS) > 0:
                told.append(f"- {_VALUES_CHECK}: {more} more column(s)")
            failures, number = len(failed) + bool(differing), len(checks.rows) + bool(self.sync.loaded["proofs"])
            ways_out = [check["WHAT_TO_DO"] for check in failed] + ([_VALUES_ADVICE] if differing else [])
            raise self._failure(f"{failures} of {number} checks failed", told, ways_out)

    def _compare_values(self) -> list[str]:
        """Return a sentence for each column whose values are not those of the export."""
        for column, reason in self.sync.loaded["unproven"].items():
            self.log.info("The values of column %s are not compared: %s", column, reason)
        proofs = self.sync.loaded["proofs"]
        if not proofs:
            return []
        sums = self._run("check_values")[-1]
        # Of a failure, this query is shown, unless the checks fail too.
        self.shown_query_id = sums.query_id
        return differences(proofs, sums.rows[0])

    def _failure(self, found: str, told: Sequence[str] = (), ways_out: Sequence[str | None] = ()) -> CheckFailedError:
        # A check of the dataset's own has no advice but that of the code.
        advice = dict.fromkeys(way or CheckFailedError.code.what_to_do for way in ways_out)
        return CheckFailedError(
            "\n".join((f"{found} on {self.sync.staging_table}. {TARGET_UNCHANGED}", *told)),
            snowflake_query_id=self.shown_query_id or None,
            what_to_do=" ".join(advice) or None,
        )

    def _described(self, condition: str) -> str:
        """Return a failed condition with the rows for which it is not true, as far as it is one that rows have."""
        try:
            counted, found = self._run_with("show_failing_rows", condition, condition=condition, limit=_SHOWN_ROWS)
            count = counted.rows[0]["TOTAL"]
        except Exception as error:
            # Mostly an aggregate, which has no place in WHERE: the condition is about the whole table. Whatever it is,
            # it must not hide which check failed.
            self.log.info("No rows to show for %s: %s", condition, error)
            return condition
        shown = "; ".join(", ".join(f"{name}={value}" for name, value in row.items())[:300] for row in found.rows)
        return f"{condition}. Not so for {count:,} row(s), e.g. {shown}"


class SnowflakePublishOperator(SnowflakeSyncOperator):
    """
    Changes the target and writes the ledger row in one transaction; returns the row, and tells it as an asset event.

    A repetition finds in the ledger that this export was published, and changes nothing. A preview changes nothing and
    returns what would change. What it returns says which attempt did so: see :mod:`data_share.attempts`. What the
    ledger says before the transaction only spares it: what decides is the target's row in its lock table, in the
    transaction.
    """

    def __init__(self, *, dataset: Dataset, **kwargs: Any) -> None:
        super().__init__(dataset=dataset, outlets=[AssetAlias(dataset.name)], **kwargs)
        self._is_committed = False

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Publish, unless it has been done."""
        self._context = context
        if self.sync.is_dry_run:
            changes = self._run("count_changes")[-1].rows[0]
            answer = {"dry_run": True, "load_mode": self.sync.load_mode.value, "export_path": self._export_path}
            return made_by(context, answer | _json_row(changes))
        row = self._ledger_row("ledger before")
        if row is not None and self._is_published(row):
            self.log.info("The ledger says that %s was published before: nothing is left to do", row["export_path"])
            # Told again, as the attempt that published may have died before Airflow knew: at least once, not at most.
            self._tell_asset(context, row)
            return made_by(context, row)
        # DDL, hence before the transaction. What has no values yet does no harm when the publish then fails.
        if created_columns := self.sync.loaded["created_columns"]:
            self._run_with("create_target_from_source", columns=created_columns)
        self._run_with("add_columns", table=self.dataset.target, columns=self.sync.loaded["new_columns"])
        statements = self._hook.split_sql_string(self.sql["publish"], strip_semicolon=True)
        try:
            try:
                self._hook.run_transaction(statements, request_id=self._request_id("publish"))
            finally:
                # The step is about this one, and not the looks into the ledger that follow.
                self.shown_query_id = next(iter(self._hook.query_ids), "")
        except SnowflakeStatementError as error:
            if (hidden := hidden_rows(str(error))) is not None:
                raise self._rows_hidden(error, *hidden) from error
            if _REFUSED not in str(error):
                raise
            row = self._row_after_refusal(error)
        else:
            self._is_committed = True
            # A kill that came too late to undo it must not keep anybody from hearing of it.
            self._hook.is_stopped = False
            row = self._ledger_row("ledger after")
        if row is None:
            raise PublishError(
                f"{self._export_path} of run key {self.sync.key} is published, but the ledger has no row of it.",
                snowflake_query_id=self.shown_query_id,
            )
        self._tell_asset(context, row)
        return made_by(context, row)

    def on_kill(self) -> None:
        """Roll the transaction back. When it has ended, the step only reads its row, and has five seconds for that."""
        if not self._is_committed:
            super().on_kill()

    def _rows_hidden(self, error: SnowflakeStatementError, keys: int, seen: int, needed: int) -> RowsHiddenError:
        role, target = self._hook.role_name, self.dataset.target_table
        return RowsHiddenError(
            f"After the change, role {role} sees {seen:,} row(s) in {target}, where at least {needed:,} must be, and "
            f"does not find {keys:,} of the staged keys: a row access policy hides rows from it, or a masking policy "
            f"changes the merge keys. The transaction was rolled back. {TARGET_UNCHANGED}",
            snowflake_query_id=error.snowflake_query_id,
            what_to_do=f"{way_out(role, self.dataset)} Start the sync again after that.",
        )

    def _row_after_refusal(self, error: SnowflakeStatementError) -> dict[str, Any] | None:
        """
        Return the ledger row when another process of this sync was faster; else say why this one may not publish.

        The requests are sessions that began after the refusal: they see what it was refused for.
        """
        locked = self._run("select_lock")[-1].rows
        row = self._ledger_row("ledger after refusal")
        if row is not None and self._is_published(row):
            return row
        refuse_target_of_another(self.dataset, self.share, locked, unchanged="This attempt changed nothing.")
        if any((last["RUN_KEY"], last["EXPORT_PATH"]) == (self.sync.key, self._export_path) for last in locked):
            return None  # it is published, and somebody has deleted its row from the ledger
        raise SupersededError(
            f"{self._export_path} is not published: {self._why_refused(locked)}. This attempt changed nothing.",
            snowflake_query_id=error.snowflake_query_id,
            **self._advice_for_a_refusal(),
        ) from error

    def _why_refused(self, locked: Sequence[Mapping[str, Any]]) -> str:
        if not locked:
            return "somebody has deleted the target's row from its lock table, which the next sync makes anew"
        last = locked[0]
        if last["STAGED_AT"] > self.sync.staged_at:
            return (
                f"a sync of {self.dataset.name} that was staged later is published already (run key {last['RUN_KEY']})"
            )
        counts_once = not self.sync.load_mode.is_repeatable
        if counts_once and last["EXPORT_PATH"] == self._export_path:
            return f"this export was appended before (run key {last['RUN_KEY']})"
        changed = "its staging tables are not as they were when they were checked"
        return f"this export was appended before, or {changed}" if counts_once else changed

    def _advice_for_a_refusal(self) -> dict[str, Any]:
        if self.sync.load_mode.is_repeatable or not self.sync.is_reload:
            return {}
        return {
            "what_to_do": "An append counts an export once. To have this one in the place of everything in the target, "
            "start the sync with full_refresh: true as well.",
            "retriable": False,
        }

    @property
    def _export_path(self) -> str:
        return str(self.sync.loaded["export_path"])

    def _is_published(self, row: dict[str, Any]) -> bool:
        # An append counts a run key once, ever; else, an export that was made again takes the place of the first.
        return not self.sync.load_mode.is_repeatable or row["export_path"] == self._export_path

    def _ledger_row(self, place: str) -> dict[str, Any] | None:
        rows = self._run("select_ledger_row", place, bindings=[self.sync.key])[-1].rows
        return _json_row(rows[0]) if rows else None

    def _tell_asset(self, context: Context, row: dict[str, Any]) -> None:
        asset = Asset(self._hook.asset_uri(self.dataset.target_table))
        extra = {name: row[name] for name in _ASSET_EVENT_FIELDS}
        context["outlet_events"][AssetAlias(self.dataset.name)].add(asset, extra=extra)


class SnowflakeCleanUpOperator(SnowflakeStatementsOperator):
    """
    Drops the staging tables of old runs; returns their names and the exports that are old.

    :param sql: file that lists the staging tables
    :param select_old_exports: file that lists the old exports

    The param ``keep_days`` is the age in days from which they count as old. A table has that of its run or, when an old
    run was cleared, its own.
    """

    template_fields: Sequence[str] = ("sql", "select_old_exports", "snowflake_conn_id")

    def __init__(self, *, sql: str, select_old_exports: str, **kwargs: Any) -> None:
        super().__init__(sql=sql, **kwargs)
        self.select_old_exports = select_old_exports

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Clean up."""
        self._context = context
        oldest = datetime.now(UTC) - timedelta(days=context["params"]["keep_days"])
        try:
            found = self._run_file(str(self.sql), "list staging")[-1].rows
            exports = [_json_row(row) for row in self._run_file(self.select_old_exports, "old exports")[-1].rows]
        except SnowflakeStatementError as error:
            if _NOT_THERE not in str(error):
                raise
            # Airflow runs this for the day before the set-up too.
            raise AirflowSkipException(
                f"Nothing is set up yet, or this role does not see it: {error.message}"
            ) from None
        tables = {str(row["name"]): row["created_on"] for row in found}
        dropped = [
            table
            for table, created in tables.items()
            if (began := staged_by_run_of(table)) and max(began, created) < oldest
        ]
        self._drop_staging_tables(dropped)
        self.log.info("Dropped %s staging table(s); %s export(s) are old", len(dropped), len(exports))
        return {"dropped_tables": dropped, "old_exports": exports}


def _types(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {str(row["name"]): str(row["type"]) for row in described}


def _definitions(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return columns with their types, and with NOT NULL: COPY names the column that takes no NULL and gets one."""
    return {str(row["name"]): f"{row['type']}{' NOT NULL' if row.get('null?') == 'N' else ''}" for row in described}


def _running(context: Context | None) -> Context:
    if context is None:
        raise RuntimeError("This operator has to be executed first")
    return context


def _query_tag(context: Context | None) -> dict[str, Any]:
    """Say in Snowflake's query history which step of which sync a statement belongs to."""
    context = _running(context)
    ti = context["ti"]
    return {
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "try": ti.try_number,
        "run_key": run_key_of(context["dag_run"]),
    }


def _json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
