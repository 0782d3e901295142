"""The step that loads an export into staging tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from data_share.attempts import made_by
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.exported_schema import exported_columns
from data_share.snowflake.policies import (
    PolicyFoundError,
    RowsHiddenError,
    columns_read_otherwise,
    has_row_access_policy,
    masking_policies,
    sample_statements,
    samples,
    told,
    way_out,
)
from data_share.snowflake.schema_drift import compare_columns, types_of_new_columns
from data_share.snowflake.sql_api import (
    SnowflakeStatementError,
)
from data_share.snowflake.statements import NOT_THERE, TARGET_UNCHANGED, SnowflakeSyncOperator
from data_share.snowflake.target_lock import refuse_target_of_another
from data_share.snowflake.value_proofs import proven_columns
from data_share.sql_files import render_sql
from data_share.sync import Sync


class NothingLoadedError(ShareError, AirflowFailException):
    """COPY INTO ended well and loaded nothing."""

    code = FailureCode.NOTHING_LOADED


class TargetMissingError(ShareError, AirflowFailException):
    """There is no target, or the role of the syncs does not see it."""

    code = FailureCode.TARGET_MISSING


class UnknownRunKeyError(ShareError, AirflowFailException):
    """The sync whose export is to be loaded again is not in the ledger."""

    code = FailureCode.RUN_KEY_UNKNOWN


class ManifestError(ShareError, AirflowFailException):
    """The export left no manifest, or one that does not belong to this sync."""

    code = FailureCode.MANIFEST_INVALID


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
    creates; else none), ``proofs`` and ``unproven`` (see :func:`~data_share.snowflake.value_proofs.proven_columns`),
    ``query_ids``, and which attempt it was (see :mod:`data_share.attempts`).
    """

    def _sync_of(self, context: Any) -> Sync:
        # The export's path stands in the COPY statements, so the ledger is asked while they are rendered.
        self._context = context
        return Sync.of(context, self.dataset, self.share, find_export=self._earlier_export)

    def _earlier_export(self, run_key: str) -> dict[str, Any]:
        """Return the export of an earlier sync, from the ledger."""
        file = render_sql("select_ledger_row", share=self.share, sync=self.sync)
        rows = self._run_file(file, "ledger of the earlier sync", bindings=[run_key])[-1].rows
        if not rows:
            raise UnknownRunKeyError(
                f"The ledger has no sync {run_key} of this dataset, so there is no export to load again. "
                f"{TARGET_UNCHANGED}"
            )
        return {"run_id": rows[0]["DATABRICKS_RUN_ID"], "export_path": rows[0]["EXPORT_PATH"]}

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
        copy = self._run("copy_into_staging", is_long=True)[-1]
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
            if NOT_THERE not in str(error):
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
            if NOT_THERE not in str(error):
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


def _types(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {str(row["name"]): str(row["type"]) for row in described}


def _definitions(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return columns with their types, and with NOT NULL: COPY names the column that takes no NULL and gets one."""
    return {str(row["name"]): f"{row['type']}{' NOT NULL' if row.get('null?') == 'N' else ''}" for row in described}
