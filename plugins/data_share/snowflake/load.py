"""The step that loads an export into staging tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from data_share import lineage
from data_share.attempts import made_by
from data_share.column_types import described_type
from data_share.datasets import Dataset, LoadMode
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.exported_schema import exported_columns, without_column
from data_share.snowflake.policies import (
    PolicyFoundError,
    RowsHiddenError,
    Samples,
    describe_policies,
    exemption_advice,
    has_row_access_policy,
    masking_policies,
)
from data_share.snowflake.schema_drift import compare_columns, types_of_new_columns
from data_share.snowflake.sql_api import SnowflakeStatementError
from data_share.snowflake.statements import LACKS_COLUMNS, TARGET_UNCHANGED, SnowflakeSyncOperator, rows_of_target
from data_share.snowflake.target_lock import refuse_target_of_another
from data_share.snowflake.value_proofs import proven_columns
from data_share.snowflake.verification import ValuesDifferError
from data_share.sql_files import render_sql
from data_share.sql_text import folded, shown
from data_share.sync import (
    DELETED,
    INCREMENTS,
    VERIFICATION,
    FileChangedError,
    IncrementImpossibleError,
    Sync,
    VerifyImpossibleError,
)
from data_share.watermark import Published

# Columns of the manifest table, one for each type that it has.
_MANIFEST_TYPES = {"RUN_KEY": "VARCHAR", "ROW_COUNT": "NUMBER(38,0)", "STAGED_AT": "TIMESTAMP_NTZ(9)"}


class NothingLoadedError(ShareError, AirflowFailException):
    """COPY INTO succeeded, but loaded no row."""

    code = FailureCode.NOTHING_LOADED


class UnknownRunKeyError(ShareError, AirflowFailException):
    """The sync whose export is to be loaded again is not in the ledger."""

    code = FailureCode.RUN_KEY_UNKNOWN


class ManifestError(ShareError, AirflowFailException):
    """The export has no manifest, or one that belongs to another sync."""

    code = FailureCode.MANIFEST_INVALID


class IncrementReloadError(ShareError, AirflowFailException):
    """An export of changes is to be loaded again, and the target is not what they start from."""

    code = FailureCode.TARGET_DIVERGED

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            what_to_do="Start a sync with full_refresh: true, without reload_run_key: it exports everything.",
            retriable=False,
        )


class TargetChangedError(ShareError, AirflowFailException):
    """The target is not what the publish has left from which the changes were exported."""

    code = FailureCode.TARGET_DIVERGED

    def __init__(self, dataset: Dataset, message: str) -> None:
        super().__init__(
            message, what_to_do=dataset.advice_without_increment, retriable=dataset.load_mode.is_repeatable
        )


class TablesOutdatedError(ShareError, AirflowFailException):
    """The tables of the share lack columns that increments need."""

    code = FailureCode.SNOWFLAKE_STATEMENT_FAILED


class SnowflakeCopyIntoOperator(SnowflakeSyncOperator):
    """
    Copies the manifest, compares the target's columns with the export's, and copies the data into a staging table.

    Before loading the data, it refuses a target that another dataset publishes to, by the target's lock. It also
    refuses a policy that may change what the role reads, unless the dataset says that the role is exempt. That has to
    be proven: by sample values, which are written and read back, and by the checksums of all values after the copy.

    Replaces ``SnowflakeOperator``, which the provider removed in version 6. The provider's
    ``CopyFromExternalStageToSnowflakeOperator`` (6.20.0) signs in with the connector and does not return the counts.

    Returns ``export_path``, ``databricks_run_id``, ``files``, ``files_exported``, ``rows_exported`` (both from the
    manifest), ``rows_parsed``, ``rows_loaded``, ``staging_table``, ``staged_at``, ``columns`` (of the staging table),
    ``new_columns`` (to add to the target, with their types), ``created_columns`` (if this first sync creates the
    target; else empty), ``target_columns`` (all that the target has after the publish), ``proofs`` and ``unproven``
    (see :func:`~data_share.snowflake.value_proofs.proven_columns`), ``query_ids``, ``copy_attempt`` (number of the
    attempt, from 1), ``kinds`` (names of the columns' types), ``statement_seconds`` (of its statements in
    Snowflake), ``export_mode`` (None if the dataset exports no changes); of an export of changes ``from_version``,
    ``source_version``, ``source_rows`` and ``has_deletes``; and its id (see :mod:`data_share.attempts`).
    """

    def _sync_of(self, context: Any) -> Sync:
        # Set before execute(): the COPY statements contain the export's path, so rendering them may read the ledger.
        self._context = context
        return Sync.of(context, self.dataset, self.share, find_export=self._find_earlier_export)

    def _find_earlier_export(self, run_key: str) -> dict[str, Any]:
        """Return the export of an earlier sync, as the ledger has it."""
        file = render_sql("select_ledger_row", share=self.share, sync=self.sync)
        rows = self._run_file(file, "ledger of the earlier sync", bindings=[run_key])[-1].rows
        # The ledger of an earlier version has no modes.
        if rows and rows[0].get("EXPORT_MODE") in INCREMENTS and not self._may_reload_increment:
            raise self._increment_refused(run_key)
        if not rows:
            raise UnknownRunKeyError(
                f"The ledger has no sync {run_key} of this dataset, so there is no export to load again. "
                f"{TARGET_UNCHANGED}"
            )
        return {"run_id": rows[0]["DATABRICKS_RUN_ID"], "export_path": rows[0]["EXPORT_PATH"]}

    @property
    def _may_reload_increment(self) -> bool:
        """Whether this sync may load changes again: only a merge of changes gives the same target again."""
        return self.dataset.incremental and self.sync.load_mode is LoadMode.MERGE

    def _increment_refused(self, run_key: str) -> IncrementReloadError:
        return IncrementReloadError(
            f"The export of the sync {run_key} has only what had changed at the source: it can be loaded again only by "
            f"a merge of changes, and only as long as nothing was published after it. {TARGET_UNCHANGED}"
        )

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Create and load the staging tables of this attempt, or skip the step if nothing is new at the source."""
        self._context = context
        if self.sync.unchanged:
            raise AirflowSkipException("Nothing is new at the source since the last publish: there is nothing to load")
        if self.sync.is_verification and self.sync.export.get("unchanged"):
            raise self._job_is_outdated()  # which left the export out, as nothing is new at the source
        target = rows_of_target(self.dataset, lambda: self._run("describe_target")[-1])
        masked = self._masked_columns(target) if target is not None else set()
        # The manifest is read before the data: a policy that is set through a tag masks it too.
        samples = Samples(_types(target) if target is not None else _MANIFEST_TYPES)
        prepared = self._prepare(samples)
        if self.sync.is_verification:
            self._check_verification(prepared)
        self._refuse_target_of_another(prepared)
        self._refuse_masked(samples, prepared)
        manifest = self._check_manifest(prepared)
        is_increment = manifest.get("EXPORT_MODE") in INCREMENTS
        if not self.sync.is_verification:
            self._check_increment(prepared, is_increment=is_increment)
        if is_increment and not manifest["SOURCE_ROWS"] and not self.dataset.allow_empty:
            raise NothingLoadedError(
                f"With the changes, {self.dataset.source_table} has no row left that may leave. {TARGET_UNCHANGED}",
                **self._advice_for_empty_export(),
            )
        # Of changes that are merged, the column that marks deleted rows is staged, and is none of the target.
        has_deletes = is_increment and bool(self.dataset.delete_missing)
        column_types = without_column(manifest["COLUMN_TYPES"], DELETED) if has_deletes else manifest["COLUMN_TYPES"]
        if target is not None:
            # An empty export needs no comparison: there is no value to change and no column to fill.
            types = column_types if manifest["ROW_COUNT"] else None
            compared = compare_columns(types, target, self.dataset, is_reload=self.sync.is_reload)
            # COPY would fill columns that the export lacks with NULL instead of their default, or fail if NOT NULL.
            kept = [row for row in target if row["name"] not in compared.defaults]
            columns, definitions = _types(kept), _definitions(kept)
            created, new_columns = dict[str, str](), compared.new_columns
        else:
            created, new_columns = self._columns_to_create(column_types), {}
            columns = definitions = created
        if self.sync.is_verification and (created or new_columns):
            lacking = ", ".join(map(shown, created | new_columns))
            raise ValuesDifferError(self.dataset, self.sync.verified, f"the target lacks what was published: {lacking}")
        if is_increment:
            lost = [*created, *new_columns]
            # The export has these too if the job could not be told the target's columns, or if it has no row.
            added = self._followed.lacked(columns) if self._followed else []
            if lost or added:
                how = "lacks what it had" if lost else "has columns that it lacked"
                raise TargetChangedError(
                    self.dataset,
                    f"{self.dataset.target_table} {how} after the last publish: "
                    f"{', '.join(map(shown, lost or added))}. The changes have the values of changed rows only. "
                    f"{TARGET_UNCHANGED}",
                )
        if created or new_columns:
            self._refuse_masked_columns(Samples(created | new_columns))
        # Not LIKE the target: LIKE copies the clustering key, which would cluster a table that exists for minutes, and
        # its documentation does not say whether it copies policies.
        marks = {DELETED: "BOOLEAN"} if has_deletes else {}
        self._run_with("create_staging", columns=definitions | new_columns | marks)
        proofs, unproven = proven_columns(manifest["COLUMN_TYPES"], columns | new_columns | marks, self.dataset)
        if manifest["ROW_COUNT"]:
            self._refuse_without_proof({name: reason for name, reason in unproven.items() if name in masked})
        copy = self._run("copy_into_staging", is_long=True)[-1]
        # If it finds no file, COPY INTO returns one row with the single column `status`.
        files = [row for row in copy.rows if "rows_loaded" in row]
        counts = {name: sum(row[name] for row in files) for name in ("rows_parsed", "rows_loaded")}
        may_be_empty = self.dataset.allow_empty or is_increment or self.sync.is_verification
        if counts["rows_loaded"] == 0 and not (may_be_empty and manifest["ROW_COUNT"] == 0):
            raise NothingLoadedError(
                f"COPY INTO loaded nothing: it found {len(files)} file(s), while the manifest counts "
                f"{manifest['ROW_COUNT']} exported row(s) (query id {copy.query_id}). {TARGET_UNCHANGED}",
                snowflake_query_id=copy.query_id,
                **self._advice_for_empty_export() if manifest["ROW_COUNT"] == 0 else self._advice_for_broken_export(),
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
            "kinds": {name: described_type(kind).kind for name, kind in (columns | new_columns).items()},
            "new_columns": new_columns,
            "created_columns": created,
            "target_columns": [*(_types(target) if target is not None else created), *new_columns],
            "proofs": proofs,
            "unproven": unproven,
            "query_ids": [manifest["QUERY_ID"], copy.query_id],
            "copy_attempt": self.sync.attempt,
            # The publish needs them for its lineage alone.
            **({"exported_columns": exported_columns(column_types)} if lineage.is_on() else {}),
            "statement_seconds": round(self._hook.statement_seconds, 3),
            "export_mode": manifest.get("EXPORT_MODE"),
            **(_of_increment(manifest, has_deletes=has_deletes) if is_increment else {}),
        }
        return made_by(context, result)

    def _prepare(self, samples: Samples) -> dict[str, Any]:
        """Create the tables of this attempt but the one for the data; return the row of ``prepare_staging.sql``."""
        if samples.unknown:
            self.log.info("No sample values are tested for the types of %s", ", ".join(samples.unknown))
        file = render_sql("prepare_staging", share=self.share, sync=self.sync, samples=samples)
        try:
            prepared = self._run_together(file, "prepare_staging")
        except SnowflakeStatementError as error:
            needs = self.dataset.incremental or self.sync.exports_increment or self.sync.is_verification
            if not needs or not LACKS_COLUMNS.search(str(error)):
                raise
            of = "a verification" if self.sync.is_verification else "a dataset with incremental: true"
            raise TablesOutdatedError(
                f"{self.share.manifest_table} lacks columns that {of} needs: {error.message}. {TARGET_UNCHANGED}",
                snowflake_query_id=error.snowflake_query_id,
                what_to_do="Run the DAG set_up_snowflake, which adds them; then start the sync again.",
            ) from error
        return {**prepared.rows[0], "QUERY_ID": prepared.query_id}

    def _refuse_target_of_another(self, prepared: Mapping[str, Any]) -> None:
        """Refuse a target that another dataset publishes to; insert the target's lock row if it has none."""
        prefix = "LOCK_"
        locked = {name.removeprefix(prefix): value for name, value in prepared.items() if name.startswith(prefix)}
        if locked["DATASET"] is None:
            self._run("insert_lock_row")
        else:
            refuse_target_of_another(self.dataset, self.share, [locked], unchanged=TARGET_UNCHANGED)

    def _check_verification(self, prepared: Mapping[str, Any]) -> None:
        """Refuse to compare with another version than the one that was published last."""
        if prepared["MANIFESTS"] == 1 and prepared["EXPORT_MODE"] != VERIFICATION:
            raise self._job_is_outdated()
        self._refuse_later_publish(prepared["LOCK_RUN_KEY"])

    def _job_is_outdated(self) -> VerifyImpossibleError:
        return VerifyImpossibleError(
            "The export job has not exported the source as it was published: it is of an earlier version, or its plan "
            f"did not reach the export. {TARGET_UNCHANGED}",
            what_to_do="Deploy the asset bundle again, and start the verification again.",
        )

    def _check_increment(self, prepared: Mapping[str, Any], *, is_increment: bool) -> None:
        """Refuse what publish would refuse by the lock row, before the data are loaded."""
        if self.sync.is_reload and is_increment and prepared["LOCK_EXPORT_PATH"] != self.sync.export_path:
            raise self._increment_refused(self.sync.params["reload_run_key"])
        # Of an earlier export, its columns tell; of this sync's, the dataset file that it was made with.
        marks_deleted = is_increment and DELETED in map(folded, exported_columns(prepared["COLUMN_TYPES"]))
        if self.sync.is_reload and is_increment and marks_deleted != self.dataset.delete_missing:
            raise IncrementReloadError(
                f"The export of the sync {self.sync.params['reload_run_key']} has only what had changed at the source, "
                f"and was made with another delete_missing in the dataset file. {TARGET_UNCHANGED}"
            )
        if is_increment and not self.sync.is_of_this_file:
            raise FileChangedError(self.dataset)
        # Its version alone does not tell what it has: a publish that Airflow has forgotten may have chosen other rows.
        last, followed = prepared["LOCK_RUN_KEY"], self._followed
        if is_increment and followed and last not in (followed.run_key, self.sync.key):
            raise TargetChangedError(
                self.dataset,
                f"This export has what has changed since the sync {followed.run_key} was published, and the last one "
                f"to publish to {self.dataset.target_table} was {last or 'none'}. {TARGET_UNCHANGED}",
            )
        adds = self.dataset.only_appends_increments and self.sync.load_mode is LoadMode.APPEND
        if adds and not is_increment and prepared["LOCK_RUN_KEY"]:
            raise IncrementImpossibleError(
                f"{self.dataset.name} adds only new rows to {self.dataset.target_table}, which has those of earlier "
                f"syncs, the last of which was {prepared['LOCK_RUN_KEY']}; and this export has all rows of the source, "
                f"as Airflow does not know what was published last. {TARGET_UNCHANGED}"
            )

    @property
    def _followed(self) -> Published | None:
        """The publish since which the changes were exported; None for the export of an earlier sync."""
        published = self.sync.exported_with.get("published")
        return None if self.sync.is_reload or published is None else Published.model_validate(published)

    def _masked_columns(self, target: list[dict[str, Any]]) -> set[str]:
        """Return the columns with a masking policy; refuse policies unless the dataset says ``policies: exempt``."""
        masked = masking_policies(target)
        is_filtered = has_row_access_policy(self._run("explain_target")[-1].rows)
        found = describe_policies(self.dataset.target_table, masked, is_filtered=is_filtered)
        if found and self.dataset.policies != "exempt":
            raise PolicyFoundError(
                f"{found}. Under a policy, the role of the syncs may read changed values, or not all rows, and would "
                f"publish what it reads. {TARGET_UNCHANGED}",
                what_to_do=f"{exemption_advice(self._hook.role_name, self.dataset)} Start the sync again after that.",
            )
        if found:
            self.log.info("Policies that the role of the syncs is exempt from, by the dataset file: %s", found)
        if is_filtered:
            self._refuse_hidden_rows()
        return set(masked)

    def _refuse_hidden_rows(self) -> None:
        """Refuse a target with more rows in SHOW TABLES than the role sees."""
        shown, counted = (result.rows for result in self._run("count_visible"))
        listed = [row["rows"] for row in shown if row["name"] == self.dataset.target_shown_as]
        seen = counted[0]["VISIBLE"]
        if listed and listed[0] is not None and seen < int(listed[0]):
            role, target = self._hook.role_name, self.dataset.target_table
            raise RowsHiddenError(
                f"Role {role} sees {seen:,} of {int(listed[0]):,} row(s) in {target}: its row access policy hides the "
                f"others, so the role is not exempt. {TARGET_UNCHANGED}",
                what_to_do=f"{exemption_advice(role, self.dataset)} Start the sync again after that.",
            )

    def _refuse_masked_columns(self, samples: Samples) -> None:
        """Refuse a masking policy on columns that the target gets from this sync."""
        if samples.columns:
            file = render_sql("read_samples", share=self.share, sync=self.sync, samples=samples)
            self._refuse_masked(samples, self._run_together(file, "read_samples").rows[0])

    def _refuse_masked(self, samples: Samples, counted: Mapping[str, Any]) -> None:
        """
        Refuse a masking policy that changes sample values.

        Nothing else detects a masking policy that is set through a tag on the schema or on the database.
        """
        if masked := samples.altered(counted):
            role = self._hook.role_name
            exempt = " The dataset file says that it is exempt." if self.dataset.policies == "exempt" else ""
            raise PolicyFoundError(
                f"Role {role} reads other values from {self.sync.new_staging_samples} than were written: a masking "
                f"policy changes {', '.join(masked)}.{exempt} If DESCRIBE TABLE names no policy, it is set through a "
                f"tag on the schema {self.share.staging_schema} or on the database. {TARGET_UNCHANGED}",
                what_to_do=f"{exemption_advice(role, self.dataset)} Or remove the tag. Then start the sync again.",
            )

    def _refuse_without_proof(self, unproven: Mapping[str, str]) -> None:
        """Refuse columns with a masking policy whose values are not compared with the export's."""
        if unproven:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unproven.items())
            raise PolicyFoundError(
                f"policies: exempt of {self.dataset.name} cannot be proven, as the values of columns with a masking "
                f"policy are not compared with those of the export: {reasons}. {TARGET_UNCHANGED}",
                what_to_do="Remove the policy from these columns, e.g. set it on a view instead, or give them a type "
                "that is compared, without casts (docs/datasets.md, Proof). Then start "
                + ("a sync without reload_run_key." if self.sync.is_reload else "the sync again."),
            )

    def _columns_to_create(self, column_types: str | None) -> dict[str, str]:
        if column_types is None:
            raise ManifestError(
                f"The manifest names no columns to create the target from. {TARGET_UNCHANGED}",
                what_to_do="Deploy the asset bundle again: its SQL writes them. Then sync without reload_run_key.",
            )
        return types_of_new_columns(exported_columns(column_types), self.dataset, is_reload=self.sync.is_reload)

    def _check_manifest(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if (manifests := manifest["MANIFESTS"]) != 1:
            raise ManifestError(
                f"The export left {manifests} manifest rows instead of one: an export without a manifest did not "
                f"finish, or its files have expired. {TARGET_UNCHANGED}",
                code=FailureCode.MANIFEST_INVALID if manifests else FailureCode.MANIFEST_MISSING,
                **self._advice_for_broken_export(),
            )
        if (manifest["DATASET"], manifest["RUN_KEY"]) != (self.dataset.name, self.sync.manifest_run_key):
            raise ManifestError(
                f"The manifest is of dataset {manifest['DATASET']!r} and run key {manifest['RUN_KEY']!r} instead of "
                f"{self.dataset.name!r} and {self.sync.manifest_run_key!r}. {TARGET_UNCHANGED}"
            )
        return manifest

    def _advice_for_empty_export(self) -> dict[str, Any]:
        """Return the advice for an export without rows that should have some."""
        limit = self.dataset.max_row_change_percent
        also = (
            ", and start the sync with accept_row_change: true, as max_row_change_percent forbids the loss of all rows"
            if limit is not None and limit < 100
            else ""
        )
        filled = (
            "Start a sync without reload_run_key: this export will stay empty."
            if self.sync.is_reload
            else "Fill the source, and start the sync again."
        )
        return {"what_to_do": f"{filled} If it may be empty, set allow_empty: true in the dataset file{also}."}

    def _advice_for_broken_export(self) -> dict[str, Any]:
        """Return the advice for an export whose files were changed or removed after the export job wrote them."""
        if self.sync.is_reload:
            return {"what_to_do": "Start a sync without reload_run_key: it exports again.", "retriable": False}
        return {
            "what_to_do": "Start the sync again: it exports to a new path. If it fails in the same way, see the run on "
            "Databricks, and find out who else writes to the bucket or deletes files there.",
            "retriable": True,
        }


def _of_increment(manifest: Mapping[str, Any], *, has_deletes: bool) -> dict[str, Any]:
    return {
        "from_version": int(manifest["FROM_VERSION"]),
        "source_version": int(manifest["SOURCE_VERSION"]),
        "source_table_id": manifest["SOURCE_TABLE_ID"],
        "source_rows": int(manifest["SOURCE_ROWS"]),
        "has_deletes": has_deletes,
    }


def _types(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {str(row["name"]): str(row["type"]) for row in described}


def _definitions(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return types with NOT NULL, by column: so COPY, not the publish, fails on a NULL, and names the column."""
    return {str(row["name"]): f"{row['type']}{' NOT NULL' if row.get('null?') == 'N' else ''}" for row in described}
