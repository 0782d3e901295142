"""The step that publishes the staged rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import Asset, AssetAlias, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from data_share import lineage
from data_share.attempts import made_by
from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import Share
from data_share.snowflake.policies import RowsHiddenError, exemption_advice, hidden_rows
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import LACKS_COLUMNS, TARGET_UNCHANGED, SnowflakeSyncOperator, json_row
from data_share.snowflake.target_lock import refuse_target_of_another
from data_share.sql_files import render_sql
from data_share.steps import CHECK_STAGING, EXPORT_TO_S3, PUBLISH, task_states
from data_share.sync import FileChangedError, IncrementImpossibleError, ResultMissingError, Sync
from data_share.watermark import DatasetState, Published, published_of, source_asset, state_asset

_ASSET_EVENT_FIELDS = (
    *("run_key", "rows_inserted", "rows_updated", "rows_deleted", "rows_in_target"),
    *("source_version", "source_committed_at", "export_mode", "export_reason"),
    *("rows_exported", "bytes_exported", "rows_loaded", "statement_seconds"),
)
# publish.sql refuses by writing a NULL run key, which Snowflake reports with this text.
_NULL_RUN_KEY = "NULL result in a non-nullable column"


class SupersededError(ShareError, AirflowFailException):
    """The lock or the ledger refused the publish, e.g. because a later sync was published already."""

    code = FailureCode.SUPERSEDED


class TargetDivergedError(ShareError, AirflowFailException):
    """The target does not hold what the increment starts from, or would not hold what the source has."""

    code = FailureCode.TARGET_DIVERGED


class PublishError(ShareError, AirflowException):
    """The transaction committed, but its ledger row is missing."""

    code = FailureCode.LEDGER_ROW_MISSING


class SnowflakePublishOperator(SnowflakeSyncOperator):
    """
    Changes the target and writes the ledger row in one transaction; returns the row, and emits it as an asset event.

    If the ledger says that this export is published already, it changes nothing. That is only a shortcut: inside the
    transaction, the target's row in its lock table decides. A dry run changes nothing and returns what would change.
    If nothing is new at the source, it sends Snowflake nothing, emits no event, and returns the last publish. It does
    the same after a verification that has found no difference.
    The result also says which attempt returned it: see :mod:`data_share.attempts`; and ``incremental``, if the dataset
    file does.
    """

    def __init__(self, *, dataset: Dataset, share: Share, **kwargs: Any) -> None:
        super().__init__(
            dataset=dataset,
            share=share,
            inlets=[source_asset(dataset, share), state_asset(dataset)],
            outlets=[AssetAlias(dataset.name)],
            **kwargs,
        )
        self._is_committed = False
        self._row: dict[str, Any] = {}
        # The host of the workspace that exported; empty if this sync loads the export of an earlier one.
        self._workspace = ""

    def _sync_of(self, context: Any) -> Sync:
        sync = super()._sync_of(context)
        if sync.unchanged or sync.is_verification:
            self.sql = {}  # which would ask for what was loaded
        if lineage.is_on():
            # Now, as the provider asks from a copy of this process, and both would read Airflow's answers.
            self._workspace = urlsplit(str((sync.found_export or {}).get("run_page_url"))).hostname or ""
        return sync

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Publish, unless nothing is new, this sync is a dry run, or is published already."""
        self._context = context
        state = DatasetState(context, self.dataset)
        if self.sync.unchanged:
            return made_by(context, self._unchanged(state, Published.model_validate(self.sync.unchanged)))
        # A step that was skipped does not keep this one from starting, as copy and check are skipped if nothing is new.
        if task_states(context["ti"], [CHECK_STAGING.id]).get(CHECK_STAGING.id) == "skipped":
            raise ResultMissingError(f"The step {CHECK_STAGING.id} was skipped by a person. {TARGET_UNCHANGED}")
        if self.sync.is_verification:
            return made_by(context, self._verified(self.sync.verified))
        if self.sync.is_increment and not self.sync.is_of_this_file:
            raise FileChangedError(self.dataset)
        if self.sync.is_dry_run:
            changes = self._run("count_changes")[-1].rows[0]
            del changes["ROWS_BEFORE"]
            answer = {"dry_run": True, "load_mode": self.sync.load_mode.value, "export_path": self._export_path}
            answer["export_mode"] = self.sync.loaded.get("export_mode")
            # It has ended well: the next one need not export everything, unless the one before it has failed.
            if not self.sync.follows_failure:
                state.end(EXPORT_TO_S3, self.sync.key, state.read().published)
            return made_by(context, answer | json_row(changes))
        state.begin(PUBLISH, self.sync.key)
        # Only an earlier attempt of this step can have published this export.
        row = self._ledger_row("ledger before") if self.sync.attempt > 1 else None
        if row is not None and self._is_published(row):
            # Emit the event again: the attempt that published may have died first. Events come at least once.
            self.log.info("The ledger says that %s is published already: nothing to do", row["export_path"])
        else:
            row = self._publish()
        # The number is missing if an earlier version of this package has made the copy.
        if not self._is_committed or self.sync.loaded.get("copy_attempt") != 1:
            self._drop_staging("after the publish")
        self._emit_asset_event(context, row)
        # After a commit of another attempt, the target may hold a later export.
        if self._is_committed or self._is_last():
            state.end(PUBLISH, self.sync.key, self._published(row))
        self._row = row
        # For people: of such a dataset they want to know why everything was exported, if so.
        told = {"incremental": True} if self.dataset.incremental else {}
        return made_by(context, {**row, "data_as_of": self._data_as_of(row), **told})

    def _unchanged(self, state: DatasetState, published: Published) -> dict[str, Any]:
        """Return the answer of a sync that found nothing new; remember that it has ended well."""
        self.log.info("Nothing is new at the source since version %s", published.source_version)
        last = state.read().published
        # Of a column that the target has got since, no row has a value yet, and changes would fill only some: as long
        # as the mark of the export stays, the next sync asks for the columns again, and exports all rows.
        if not (self.dataset.incremental and last is not None and last.lacked(published.columns)):
            state.end(EXPORT_TO_S3, self.sync.key, published)
        known = {"rows_in_target": published.rows_in_target, "data_as_of": self.sync.data_as_of}
        return {"unchanged": True, **self._answer_on(published), **known}

    def _verified(self, published: Published) -> dict[str, Any]:
        """Return the answer of a verification that found no difference. Nothing is remembered of it."""
        compared = self.sync.compared
        found = {"rows": compared["rows"], "not_compared": compared["not_compared"]}
        return {"verified": True, **self._answer_on(published), **found}

    def _answer_on(self, published: Published) -> dict[str, Any]:
        """Return what an answer says of the publish that the target still has."""
        return {
            "dataset": self.dataset.name,
            "source_table": self.dataset.source_table,
            "target_table": self.dataset.target_table,
            "source_version": published.source_version,
            "source_committed_at": published.source_committed_at,
            "run_key": published.run_key,
            "published_at": published.published_at,
        }

    def _data_as_of(self, row: Mapping[str, Any]) -> Any:
        # Of an append, the ledger may have another export of this sync, which was published first.
        return self.sync.data_as_of if row["export_path"] == self._export_path else row.get("started_at")

    def _is_last(self) -> bool:
        """Return whether nothing was published to the target since this export was."""
        locked = self._run("select_lock", "lock of the last publish")[-1].rows
        return any((last["RUN_KEY"], last["EXPORT_PATH"]) == (self.sync.key, self._export_path) for last in locked)

    def _published(self, row: dict[str, Any]) -> Published | None:
        """Return what the next sync may compare with: nothing after an export of an earlier dataset file."""
        if self.sync.is_reload:
            return None
        published = published_of(
            row,
            self.dataset,
            self.share,
            target=self._hook.asset_uri(self.dataset.target_table),
            columns=self.sync.loaded.get("target_columns") if self.dataset.keeps_new_columns_back else None,
        )
        return self.sync.as_exported(published)

    def _publish(self) -> dict[str, Any]:
        """Change the target, drop the staging tables of the copied attempt, and return the ledger row."""
        # Before the transaction, because DDL would commit it. An empty table or column is harmless if publishing fails.
        if created_columns := self.sync.loaded["created_columns"]:
            self._run_with("create_target_from_source", columns=created_columns)
        self._run_with("add_columns", table=self.dataset.target, columns=self.sync.loaded["new_columns"])
        try:
            handles = self._transact()
        except SnowflakeStatementError as error:
            row = self._row_after_error(error)
        else:
            self._is_committed = True
            # Already committed: a late SIGTERM must not stop us from reading and reporting the ledger row.
            self._hook.is_stopped = False
            rows = self._hook.result_of(handles[-1]).rows
            row = json_row(rows[0]) if rows else None
        if row is None:
            raise PublishError(
                f"{self._export_path} of run key {self.sync.key} is published, but the ledger has no row of it.",
                snowflake_query_id=self.shown_query_id,
            )
        return row

    def _transact(self) -> list[str]:
        """Run the transaction, again for tables of an earlier version that lack columns; return its handles."""
        try:
            return self._run_transaction(self.sql["publish"], "publish")
        except SnowflakeStatementError as error:
            # It failed in one of its first statements, before the target changed.
            if not LACKS_COLUMNS.search(str(error)):
                raise
        self._run("add_lock_columns")
        try:
            return self._run_transaction(self.sql["publish"], "publish with columns")
        except SnowflakeStatementError as error:
            # Without these columns, nothing says from which version an increment may start.
            if not LACKS_COLUMNS.search(str(error)) or self.sync.is_increment:
                raise
            self.log.warning(
                "%s or %s lacks columns, so what this sync chose to export, of which version of the source, and the "
                "version of data_share, are not recorded in Snowflake: run the DAG set_up_snowflake, which adds them "
                "(%s)",
                self.share.ledger_table,
                self.share.manifest_table,
                error.message,
            )
        self.sync.tables_are_current = False
        file = render_sql("publish", share=self.share, sync=self.sync)
        return self._run_transaction(file, "publish without the choice")

    def _run_transaction(self, file: str, label: str) -> list[str]:
        """Run all statements of a rendered file in one request; return their handles."""
        statements = self._hook.split_sql_string(file, strip_semicolon=True)
        try:
            return self._hook.run_statements(statements, request_id=self._request_id(label), is_long=True)
        finally:
            # Keep the link on the transaction: the queries that follow only read the lock and the ledger.
            self.shown_query_id = next(iter(self._hook.query_ids), "")

    def on_kill(self) -> None:
        """Roll the transaction back; after its commit, let the step read its ledger row in its last five seconds."""
        if not self._is_committed:
            super().on_kill()

    def _rows_hidden(
        self, error: SnowflakeStatementError, keys: int, seen: int, needed: int
    ) -> RowsHiddenError | TargetDivergedError:
        role, target = self._hook.role_name, self.dataset.target_table
        if self.sync.has_deletes:
            return TargetDivergedError(
                f"With the changes, {target} would have {seen:,} row(s), of which {keys:,} are not as the changes need "
                f"them, and the source has {needed:,}: somebody has changed the target since the last publish, two "
                f"rows of the source have the same merge keys, or the role {role} does not see all rows. The "
                f"transaction was rolled back. {TARGET_UNCHANGED}",
                snowflake_query_id=error.snowflake_query_id,
            )
        return RowsHiddenError(
            f"After the change, role {role} sees {seen:,} row(s) in {target}, where at least {needed:,} must be, and "
            f"does not find {keys:,} of the staged keys: a row access policy hides rows from it, or a masking policy "
            f"changes the merge keys. The transaction was rolled back. {TARGET_UNCHANGED}",
            snowflake_query_id=error.snowflake_query_id,
            what_to_do=f"{exemption_advice(role, self.dataset)} Start the sync again after that.",
        )

    def _row_after_error(self, error: SnowflakeStatementError) -> dict[str, Any] | None:
        """Return the ledger row if this export is published in spite of the error; else raise the reason."""
        if (hidden := hidden_rows(str(error))) is not None:
            raise self._rows_hidden(error, *hidden) from error
        if _NULL_RUN_KEY in str(error):
            return self._row_after_refusal(error)
        # Two errors leave the export published: another attempt has published it, and dropped the staging tables that
        # this one reads; or this one has committed, and cannot drop them.
        row = self._ledger_row("ledger after error")
        if row is None or not self._is_published(row):
            raise error
        return row

    def _row_after_refusal(self, error: SnowflakeStatementError) -> dict[str, Any] | None:
        """
        Return the ledger row if another process of this sync has published the export; else raise the reason.

        Each request is a session that begins after the refusal, so it sees the commit that caused the refusal.
        """
        locked = self._run("select_lock")[-1].rows
        row = self._ledger_row("ledger after refusal")
        if row is not None and self._is_published(row):
            return row
        refuse_target_of_another(self.dataset, self.share, locked, unchanged="This attempt changed nothing.")
        if any((last["RUN_KEY"], last["EXPORT_PATH"]) == (self.sync.key, self._export_path) for last in locked):
            return None  # published, but somebody has deleted the ledger row
        if not any(last["STAGED_AT"] > self.sync.staged_at for last in locked):
            self._refuse_version(locked, error)
        raise SupersededError(
            f"{self._export_path} is not published: {self._refusal_reason(locked)}. This attempt changed nothing.",
            snowflake_query_id=error.snowflake_query_id,
            **self._refusal_advice(),
        ) from error

    def _refuse_version(self, locked: Sequence[Mapping[str, Any]], error: SnowflakeStatementError) -> None:
        """Raise the reason if the target has not the version that this export needs."""
        last = locked[0] if locked else {}
        if self.sync.is_increment:
            start, version = int(self.sync.loaded["from_version"]), last.get("SOURCE_VERSION")
            is_same = last.get("SOURCE_TABLE_ID") == self.sync.loaded["source_table_id"]
            if version is None or not is_same or not self.sync.may_follow(int(version)):
                has = f"version {int(version)}" if version is not None and is_same else "no version that is known"
                raise TargetDivergedError(
                    f"{self._export_path} has what has changed since version {start}, and {self.dataset.target_table} "
                    f"has {has} of the source. This attempt changed nothing.",
                    snowflake_query_id=error.snowflake_query_id,
                    what_to_do=self.dataset.advice_without_increment,
                    retriable=self.sync.load_mode.is_repeatable,
                )
            if not self.sync.has_deletes and last.get("ROWS_AFTER"):
                raise TargetDivergedError(
                    f"{self.dataset.target_table} has fewer rows than the {int(last['ROWS_AFTER']):,} that the last "
                    "publish has left: somebody has removed rows; or the staging tables were changed after they were "
                    "checked. This attempt changed nothing.",
                    snowflake_query_id=error.snowflake_query_id,
                    what_to_do=self.dataset.advice_without_increment,
                    retriable=self.sync.load_mode.is_repeatable,
                )
        elif self.dataset.only_appends_increments and not self.sync.load_mode.is_repeatable and last.get("RUN_KEY"):
            raise IncrementImpossibleError(
                f"{self._export_path} has all rows of the source, and {self.dataset.target_table} has those of earlier "
                f"syncs, the last of which was {last['RUN_KEY']}. This attempt changed nothing.",
                snowflake_query_id=error.snowflake_query_id,
            )

    def _refusal_reason(self, locked: Sequence[Mapping[str, Any]]) -> str:
        if not locked:
            return "somebody has deleted the target's row from its lock table, which the next sync creates again"
        last = locked[0]
        if last["STAGED_AT"] > self.sync.staged_at:
            return (
                f"a sync of {self.dataset.name} that was staged later is published already (run key {last['RUN_KEY']})"
            )
        counts_once = not self.sync.load_mode.is_repeatable
        if counts_once and last["EXPORT_PATH"] == self._export_path:
            return f"this export was appended before (run key {last['RUN_KEY']})"
        changed = "its staging tables were changed after they were checked"
        return f"this export was appended before, or {changed}" if counts_once else changed

    def _refusal_advice(self) -> dict[str, Any]:
        if self.sync.load_mode.is_repeatable or not self.sync.is_reload:
            return {}
        return {
            "what_to_do": "An append adds an export only once. To replace everything in the target with this export, "
            "start the sync with full_refresh: true as well.",
            "retriable": False,
        }

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what will have been read."""
        return lineage.read_only(self.dataset, self._workspace)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return which columns of the source have become which of the target; without a publish, what was read."""
        if not self._row:
            return lineage.read_only(self.dataset, self._workspace, (self.sync.unchanged or {}).get("source_version"))
        loaded = self.sync.loaded
        moved = lineage.Moved(
            dataset=self.dataset,
            row={**self._row, "files_exported": loaded["files_exported"]},
            workspace=self._workspace,
            account=self._hook.lineage_account,
            target=self._hook.full_name(self.dataset.target_table),
            exported=loaded.get("exported_columns", {}),
            loaded=loaded["kinds"],
        )
        return lineage.published(moved, task_instance)

    @property
    def _export_path(self) -> str:
        return str(self.sync.loaded["export_path"])

    def _is_published(self, row: dict[str, Any]) -> bool:
        # A run key is appended only once. In the other modes, a new export of the same run replaces the first one.
        return not self.sync.load_mode.is_repeatable or row["export_path"] == self._export_path

    def _ledger_row(self, label: str) -> dict[str, Any] | None:
        rows = self._run("select_ledger_row", label, bindings=[self.sync.key])[-1].rows
        return json_row(rows[0]) if rows else None

    def _emit_asset_event(self, context: Context, row: dict[str, Any]) -> None:
        asset = Asset(self._hook.asset_uri(self.dataset.target_table))
        # The ledger of an earlier version has no versions.
        extra = {**{name: row.get(name) for name in _ASSET_EVENT_FIELDS}, "data_as_of": self._data_as_of(row)}
        context["outlet_events"][AssetAlias(self.dataset.name)].add(asset, extra=extra)
