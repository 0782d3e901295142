"""One sync as its steps see it: its names, the results of earlier steps, and lists of columns for SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import structlog
from airflow.sdk.exceptions import AirflowFailException

from data_share import __version__
from data_share.attempts import CLEAR_NUMBER_KEY, made_since_clear
from data_share.datasets import MERGE_KEYS_UNIQUE, Dataset, LoadMode, is_about_all_rows
from data_share.freshness import in_ledger
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import (
    Share,
    attempt_of,
    lock_condition,
    run_key_of,
    staging_manifest,
    staging_samples,
    target_key,
    time_of,
)
from data_share.sql_files import use_compiled
from data_share.sql_text import quoted
from data_share.steps import CHECK_STAGING, COPY_INTO_STAGING, EXPORT_TO_S3, WAIT_FOR_EXPORT, Step
from data_share.watermark import Published, digests_of

INCREMENTS = ("feed", "compare")
"""The modes of an export that has only what has changed."""

VERIFICATION = "verify"
"""The mode of an export of what was published last."""

DELETED = "DATA_SHARE_DELETED"
"""The column of an export of changes that says whether a row is gone from the source."""

# Of a value of another type, nobody knows whether it changes.
COMPARABLE_KINDS = frozenset(
    (
        *("NUMBER", "FLOAT", "VARCHAR", "BINARY", "BOOLEAN"),
        *("DATE", "TIME", "TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"),
    )
)
"""Types that Snowflake compares."""

ROWS_HIDDEN = "rows hidden from the loader: "
"""
Text that ``check_visible.sql`` casts to a number, with the counts behind it.

Snowflake refuses the cast, which rolls the publish back, and quotes the text in its error: so the counts reach us.
"""

FindExport = Callable[[str], dict[str, Any]]


class ResultMissingError(ShareError, AirflowFailException):
    """An earlier step has no result: a person marked it as a success, or its XComs were deleted."""

    code = FailureCode.RESULT_MISSING


class IncrementImpossibleError(ShareError, AirflowFailException):
    """An append cannot tell which rows are new, and must not add all of them again."""

    code = FailureCode.INCREMENT_IMPOSSIBLE


class FileChangedError(ShareError, AirflowFailException):
    """The dataset file says other things of rows than when the changes were exported."""

    code = FailureCode.TARGET_DIVERGED

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(
            f"The file of {dataset.name} was changed after this sync had exported what has changed at the source: it "
            "may not be loaded in another way. The target is as it was.",
            what_to_do=dataset.advice_without_increment,
            retriable=dataset.load_mode.is_repeatable,
        )


class VerifyImpossibleError(ShareError, AirflowFailException):
    """It is not known what the target must hold, or what it must hold cannot be exported again."""

    code = FailureCode.VERIFY_IMPOSSIBLE


class InvalidExportPathError(ShareError, AirflowFailException):
    """The dataset must not be loaded from the path."""

    code = FailureCode.EXPORT_PATH_INVALID


class Sync:
    """
    Everything that SQL files and operators need to know about a sync; made once for each attempt of a step.

    Values are computed at their first use and kept: each XCom is pulled at most once.

    :param dataset: what is synced
    :param share: the deployment that it is synced with
    :param dag_run: the run, from the task's context
    :param ti: this attempt of the step, from the task's context
    :param params: the conf of the run, with the defaults of the DAG
    :param find_export: finds the export of an earlier sync by its run key; only the step that loads the export has it
    """

    rows_hidden = ROWS_HIDDEN
    deleted = DELETED
    package_version = __version__
    """The version of the package that publishes, for the ledger."""
    tables_are_current = True
    """Whether the tables of ledger and manifests have the columns that earlier versions lack: see ``publish.sql``."""

    def __init__(
        self,
        dataset: Dataset,
        share: Share,
        *,
        dag_run: Any,
        ti: Any,
        params: Mapping[str, Any],
        find_export: FindExport | None = None,
    ) -> None:
        self.dataset = dataset
        self.share = share
        self.dag_run = dag_run
        self.params = params
        self._ti = ti
        self._find_export = find_export

    @classmethod
    def of(
        cls, context: Mapping[str, Any], dataset: Dataset, share: Share, find_export: FindExport | None = None
    ) -> Sync:
        """Return the sync that a task's context belongs to."""
        return cls(
            dataset,
            share,
            dag_run=context["dag_run"],
            ti=context["ti"],
            params=context["params"],
            find_export=find_export,
        )

    # ---- the run

    @cached_property
    def key(self) -> str:
        """The run key."""
        return run_key_of(self.dag_run)

    @property
    def run_id(self) -> str:
        """Airflow's id of the run."""
        return str(self.dag_run.run_id)

    @property
    def started_at(self) -> str:
        """When the run started, in UTC, as text that Snowflake parses."""
        return str(self.dag_run.start_date.strftime("%Y-%m-%d %H:%M:%S.%f"))

    @property
    def requested_by(self) -> str | None:
        """Who requested this sync: the person named in the conf, or the user of Airflow who started it."""
        person: str | None = self.params["requested_by"] or self.dag_run.triggering_user_name
        return person

    @property
    def load_mode(self) -> LoadMode:
        """How this sync changes the target: in the dataset's load mode, or by a replace for ``full_refresh``."""
        return LoadMode.REPLACE if self.params["full_refresh"] else self.dataset.load_mode

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing is published."""
        return bool(self.params["dry_run"])

    @property
    def is_verification(self) -> bool:
        """Whether the target is compared with what was published last, and nothing is published."""
        return bool(self.params["verify"])

    @property
    def verified(self) -> Published:
        """
        The publish that this verification is about, as ``export_to_s3`` found it.

        :raises ResultMissingError: it has left none
        """
        published = self.exported_with.get("published")
        if published is None:
            raise ResultMissingError("The step export_to_s3 has not said which publish is to be verified.")
        return Published.model_validate(published)

    @property
    def is_reload(self) -> bool:
        """Whether this sync loads an earlier export: then neither a changed source nor a new export helps it."""
        return bool(self.params["reload_run_key"])

    # ---- what this attempt creates

    @property
    def attempt(self) -> int:
        """Number of this attempt of the step, counted from 1."""
        return int(self._ti.try_number)

    @property
    def new_export_path(self) -> str:
        """Where Databricks writes the export of this attempt of ``export_to_s3``."""
        return self.share.export_path(self.dataset.name, self.key, self.attempt, self._ti.id)

    @property
    def new_staging_table(self) -> str:
        """The staging table that this attempt of ``copy_into_staging`` creates."""
        return self.share.staging_table(self.dataset.target_table, self.key, self.attempt, self._ti.id)

    @property
    def new_staging_manifest(self) -> str:
        """The table into which this attempt of ``copy_into_staging`` loads the manifest."""
        return staging_manifest(self.new_staging_table)

    @property
    def new_staging_samples(self) -> str:
        """The table to which this attempt of ``copy_into_staging`` writes sample values."""
        return staging_samples(self.new_staging_table)

    # ---- the export that this sync loads

    @cached_property
    def found_export(self) -> dict[str, Any] | None:
        """
        The export that this sync loads, or None if there is none.

        With ``reload_run_key``, ``copy_into_staging`` looks the earlier export up in the ledger, and later steps read
        it from the result of ``copy_into_staging``.

        Without it, the result of ``wait_for_export`` counts only if it is about the run that ``export_to_s3`` started:
        ``wait_for_export`` starts in the triggerer, so Airflow never clears its XComs, and the result may be old.
        """
        if self.is_reload:
            return self._find_export(self.params["reload_run_key"]) if self._find_export else self._copied_export
        # A step that was killed after it started the run has only pushed the run's id.
        started = self.exported_with or {"run_id": self._pull(EXPORT_TO_S3, "run_id")}
        waited = self._pull(WAIT_FOR_EXPORT)
        return {**waited, **started} if waited and waited["run_id"] == started["run_id"] else None

    @property
    def _copied_export(self) -> dict[str, Any] | None:
        return self._copied and {**self._copied, "run_id": self._copied["databricks_run_id"]}

    @property
    def export(self) -> dict[str, Any]:
        """
        The export that this sync loads: its own, or that of the earlier sync that ``reload_run_key`` names.

        :raises ResultMissingError: there is no export
        """
        if self.found_export is None:
            step = COPY_INTO_STAGING if self.is_reload else WAIT_FOR_EXPORT
            raise ResultMissingError(f"The step {step.id} has left no export. The target is as it was.")
        return self.found_export

    @cached_property
    def unchanged(self) -> dict[str, Any] | None:
        """
        The last publish, if the export job has found that nothing is new at the source since; else None.

        The job can say so only if it was told which version was published last. What was copied this time was exported.
        """
        if self.is_verification or (
            self._ti.task_id != COPY_INTO_STAGING.id and made_since_clear(self._copied, self.dag_run)
        ):
            return None
        export = None if self.is_reload else self.found_export
        published: dict[str, Any] | None = export["published"] if export and export.get("unchanged") else None
        return published

    @property
    def export_path(self) -> str:
        """Address of the export that this sync loads."""
        return str(self.export["export_path"])

    @property
    def path_in_stage(self) -> str:
        """
        The export path relative to the stage.

        :raises InvalidExportPathError: the export is not in this dataset's folder
        """
        try:
            return self.share.path_in_stage(self.export_path, self.dataset.name)
        except ValueError as error:
            if not self.is_reload:
                raise InvalidExportPathError(str(error)) from None
            # The default advice is about the deployment, which cannot move an export that is already written.
            raise InvalidExportPathError(
                str(error),
                what_to_do="This is the export of an earlier sync, and the share has moved to another place since: "
                "start a sync without reload_run_key.",
            ) from None

    @property
    def manifest_run_key(self) -> str:
        """The run key that the manifest must have: the key of the sync that wrote the export."""
        # Not reload_run_key: the sync that it names may itself have reloaded the export of a still earlier sync.
        return self.export_path.split("/")[-3] if self.is_reload else self.key

    @property
    def data_as_of(self) -> str:
        """
        The moment from which the export has the source as it was then, or newer: UTC, as text in the ledger's form.

        It is when the export was requested, by Airflow's clock. For an earlier export (``reload_run_key``), and for one
        that an earlier version of this package has started, it is the time of the sync that has made it.
        """
        if self.is_reload:
            return in_ledger(time_of(self.loaded["export_path"].split("/")[-3]))
        requested: str | None = self.exported_with.get("requested_at")
        return requested or in_ledger(self.dag_run.start_date)

    # ---- what was loaded

    @cached_property
    def loaded(self) -> dict[str, Any]:
        """
        The result of ``copy_into_staging``: see :class:`~data_share.snowflake.load.SnowflakeCopyIntoOperator`.

        :raises ResultMissingError: there is no result, or it is about another export than the one of this sync
        """
        result = self._copied
        if result is None:
            raise ResultMissingError("The step copy_into_staging has left no counts. The target is as it was.")
        # A result from before the run was last cleared may be about an export that was replaced by a new one since.
        # With reload_run_key this cannot happen: the export of an earlier sync is never replaced.
        is_right = self.is_reload or made_since_clear(result, self.dag_run) or result["export_path"] == self.export_path
        if not is_right:
            raise ResultMissingError(
                f"The step copy_into_staging has loaded {result['export_path']}, and the export of this sync is "
                f"{self.export_path}. The target is as it was."
            )
        return result

    @cached_property
    def _copied(self) -> dict[str, Any] | None:
        result: dict[str, Any] | None = self._pull(COPY_INTO_STAGING)
        return result

    @property
    def statement_seconds(self) -> str:
        """
        Seconds of the statements that Snowflake has run for this sync before its publish, as SQL.

        NULL if an earlier version of this package has made the copy or the checks, and told no time.
        """
        copied, checked = (
            (result or {}).get("statement_seconds") for result in (self._copied, self._pull(CHECK_STAGING))
        )
        return "NULL" if copied is None or checked is None else f"{copied + checked:.3f}"

    @property
    def compared(self) -> dict[str, Any]:
        """
        The result of ``check_staging`` in a verification: what was compared, and found equal.

        :raises ResultMissingError: there is none of this time: a person marked the step as a success
        """
        result: dict[str, Any] | None = self._pull(CHECK_STAGING)
        if result is None or not made_since_clear(result, self.dag_run):
            raise ResultMissingError("The step check_staging has compared nothing this time.")
        return result

    # ---- an export of changes

    @property
    def is_increment(self) -> bool:
        """Whether the export has only what has changed since the version that was published before."""
        return self.loaded.get("from_version") is not None

    @property
    def has_deletes(self) -> bool:
        """Whether the staging table marks rows that are gone from the source."""
        return self.is_increment and bool(self.loaded["has_deletes"])

    @property
    def follows_condition(self) -> str:
        """
        The SQL condition that this export may follow what the target's lock row says.

        The feed has the newest state of each row that has changed, so what is published may be newer than its start. A
        comparison has not the rows that have changed and changed back; and rows that were added once, are not added
        again.
        """
        if not self.is_increment:
            adds_all = self.dataset.only_appends_increments and not self.load_mode.is_repeatable
            return "locked.run_key = ''" if adds_all else "TRUE"
        if not self.load_mode.is_repeatable:
            version = "= mine.from_version"
        elif self.loaded["export_mode"] == "feed":
            version = "BETWEEN mine.from_version AND mine.source_version"
        else:
            version = "IN (mine.from_version, mine.source_version)"
        return f"locked.source_table_id = mine.source_table_id AND locked.source_version {version}"

    def may_follow(self, version: int) -> bool:
        """Return whether this increment may follow a version, as :attr:`follows_condition` says it in SQL."""
        start, end = int(self.loaded["from_version"]), int(self.loaded["source_version"])
        if not self.load_mode.is_repeatable:
            return version == start
        return start <= version <= end if self.loaded["export_mode"] == "feed" else version in (start, end)

    @property
    def exports_increment(self) -> bool:
        """Whether the export job of this sync was told that it may export only changes."""
        return not self.is_reload and bool(self.exported_with.get("increment"))

    @property
    def follows_failure(self) -> bool:
        """Whether the sync before this one has not ended well."""
        return bool(self.exported_with.get("follows_failure"))

    @property
    def is_of_this_file(self) -> bool:
        """Whether the dataset file says the same of rows as when this sync exported them."""
        exported, now = self.exported_with.get("file") or {}, digests_of(self.dataset, self.share)
        return self.is_reload or exported.get("rows_digest") == now["rows_digest"]

    def as_exported(self, published: Published | None) -> Published | None:
        """Return what is to be remembered of a publish, so that no file is like one that was changed meanwhile."""
        if published is None or self.exported_with.get("file") == digests_of(self.dataset, self.share):
            return published
        return published.model_copy(update=dict.fromkeys(digests_of(self.dataset, self.share), ""))

    @cached_property
    def exported_with(self) -> dict[str, Any]:
        """What ``export_to_s3`` says of its export."""
        return self._pull(EXPORT_TO_S3, "export") or {}

    @property
    def staged_rows(self) -> str:
        """The staged rows that the target is to have, as a table for FROM."""
        if not self.has_deletes:
            return self.staging_table
        return f"(SELECT * FROM {self.staging_table} WHERE NOT {quoted(DELETED)})"  # noqa: S608

    def checked_rows(self, name: str, condition: str) -> str:
        """
        Return the rows that a check of the dataset is made on, as a table for FROM.

        Of an increment, a condition on all rows together is checked on the target as it will be.

        :param name: the check
        :param condition: its condition
        """
        if not self.is_increment or name == MERGE_KEYS_UNIQUE:
            return self.staging_table
        if not is_about_all_rows(condition):
            return self.staged_rows
        table = self.staging_table.split(".")[-1]
        same = self.same_keys(self.dataset.target_name, table)
        # Names and tables come from the dataset file, and are quoted.
        kept = f" WHERE NOT EXISTS (SELECT 1 FROM {self.staging_table} WHERE {same})" if same else ""  # noqa: S608
        parts = (f"{self.dataset.target}{kept}", self.staged_rows)
        return f"({' UNION ALL '.join(f'SELECT {self.columns()} FROM {part}' for part in parts)})"  # noqa: S608

    @property
    def staging_table(self) -> str:
        """The staging table that ``copy_into_staging`` has filled."""
        return str(self.loaded["staging_table"])

    @property
    def staging_manifest(self) -> str:
        """The table into which ``copy_into_staging`` has loaded the manifest."""
        return staging_manifest(self.staging_table)

    @property
    def staging_samples(self) -> str:
        """The table to which ``copy_into_staging`` has written sample values."""
        return staging_samples(self.staging_table)

    @property
    def export_attempt(self) -> int:
        """Number of the attempt that wrote the loaded export."""
        return attempt_of(self.loaded["export_path"])

    @property
    def staged_at(self) -> datetime:
        """When the rows were staged, by Snowflake's clock: UTC, as a datetime without a time zone."""
        return datetime.fromisoformat(self.loaded["staged_at"])

    # ---- the target's lock

    @property
    def lock_table(self) -> str:
        """The lock table: its row for this target decides whether this sync may publish."""
        return self.share.lock_table(self.dataset.target_table)

    @property
    def owner(self) -> str:
        """Who this sync is in the lock table: its dataset, with the environment if it has a name."""
        return self.share.owner(self.dataset.name)

    @property
    def target_key(self) -> dict[str, str]:
        """The SQL values of the columns that identify the target in its lock table, by column name."""
        return target_key(self.dataset.target_table)

    @property
    def lock_condition(self) -> str:
        """The SQL condition that selects the target's row in its lock table."""
        return lock_condition(self.dataset.target_table)

    # ---- lists of columns

    def columns(self, table: str | None = None) -> str:
        """Return the columns of the staging table as a SQL list, qualified with a table if one is given."""
        return ", ".join(_qualified(column, table) for column in self.loaded["columns"])

    def keys(self, table: str | None = None) -> str:
        """Return the merge keys as a SQL list, qualified with a table if one is given."""
        return ", ".join(_qualified(key, table) for key in self.dataset.merge_keys)

    def same_keys(self, left: str, right: str) -> str:
        """Return the SQL condition that rows of two tables have equal merge keys; empty if there are no keys."""
        return " AND ".join(f"{_qualified(key, left)} = {_qualified(key, right)}" for key in self.dataset.merge_keys)

    def assignments(self, table: str) -> str:
        """
        Return the assignments of an UPDATE from a table: all columns except the merge keys that are equal anyway.

        Keys that are texts may differ in what their collation ignores.
        """
        return ", ".join(
            f"{_qualified(column)} = {_qualified(column, table)}"
            for column in self.loaded["columns"]
            if column not in self.dataset.merge_keys or self.loaded.get("kinds", {}).get(column) == "VARCHAR"
        )

    def differs(self, left: str, right: str) -> str:
        """
        Return the SQL condition that rows of two tables with equal keys differ; empty if that cannot be told.

        Texts are compared as they are stored: a collation may ignore case.
        """
        comparisons = []
        # The copy of an earlier version of this package has left no kinds.
        for column, kind in self.loaded.get("kinds", dict.fromkeys(self.loaded["columns"], "OTHER")).items():
            if column in self.dataset.merge_keys and kind != "VARCHAR":
                continue
            if kind not in COMPARABLE_KINDS:
                return ""
            if self.is_dry_run and column in self.loaded["new_columns"]:
                comparisons.append(f"{_qualified(column, right)} IS NOT NULL")
                continue
            sides = [_qualified(column, left), _qualified(column, right)]
            if kind == "VARCHAR":
                sides = [f"COLLATE({side}, '')" for side in sides]
            comparisons.append(" IS DISTINCT FROM ".join(sides))
        return " OR ".join(comparisons)

    def _pull(self, step: Step, key: str = "return_value") -> Any:
        return self._ti.xcom_pull(task_ids=step.id, key=key)

    @classmethod
    def example(cls) -> Sync:
        """Return a sync with made-up values, with which sqlfluff renders the SQL files."""
        now = datetime(2026, 1, 1, tzinfo=UTC)
        dag_run = SimpleNamespace(
            dag_id="sync_d", run_id="run", run_after=now, start_date=now, triggering_user_name=None, clear_number=0
        )
        # MERGE has the most SQL. sqlfluff renders the branches of the other load modes as well.
        dataset = Dataset(
            name="d",
            description="An example.",
            source_table="c.s.d",
            target_table="s.d",
            load_mode=LoadMode.MERGE,
            merge_keys=("a",),
            delete_missing=True,
            required_columns=("b",),
            max_row_change_percent=50,
            incremental=True,
        )
        share = Share()
        path = share.export_path(dataset.name, run_key_of(dag_run), 1, "attempt")
        forms = ("number", "number", "text", "boolean", "date", "timestamp", "binary", "fraction")
        results: dict[str, dict[str, Any]] = {
            EXPORT_TO_S3.id: {"run_id": 1},
            WAIT_FOR_EXPORT.id: {"run_id": 1, "run_page_url": "https://databricks/1", "export_path": path},
            COPY_INTO_STAGING.id: {
                "export_path": path,
                "databricks_run_id": 1,
                **dict.fromkeys(("files", "files_exported", "rows_exported", "rows_parsed", "rows_loaded"), 1),
                "staging_table": "staging.d",
                "staged_at": "2026-01-01T00:00:00",
                "columns": ["A", "B"],
                "kinds": {"A": "NUMBER", "B": "VARCHAR"},
                "export_mode": "feed",
                "from_version": 1,
                "source_version": 2,
                "source_table_id": "table",
                "source_rows": 1,
                "has_deletes": True,
                "new_columns": {},
                "created_columns": {},
                "proofs": [{"column": form, "form": form, "scale": scale} for scale, form in enumerate(forms)],
                "unproven": {},
                "query_ids": ["query"],
                "statement_seconds": 1.5,
                CLEAR_NUMBER_KEY: 0,
            },
            CHECK_STAGING.id: {"statement_seconds": 0.5},
        }
        params = {
            **dict.fromkeys(("requested_by", "reload_run_key")),
            **dict.fromkeys(("full_refresh", "accept_row_change", "dry_run", "verify"), False),
        }
        ti = SimpleNamespace(
            id="attempt", task_id="publish", try_number=1, xcom_pull=lambda task_ids, key: results[task_ids]
        )
        return cls(dataset, share, dag_run=dag_run, ti=ti, params=params)


class SyncStep:
    """Mixin of the steps that run in a worker process (not in the triggerer): their dataset, share and sync."""

    dataset: Dataset
    share: Share
    sync: Sync

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Create the sync of this attempt, and render the template fields with it as ``sync``."""
        self.sync = self._sync_of(context)
        # From here on, each line of a log in JSON has them, beside Airflow's own: dag_id, task_id, run_id, try_number.
        structlog.contextvars.bind_contextvars(dataset=self.dataset.name, run_key=self.sync.key)
        if jinja_env is not None:
            use_compiled(jinja_env)
        super().render_template_fields({**context, "sync": self.sync}, jinja_env)  # type: ignore[misc]

    def _sync_of(self, context: Any) -> Sync:
        return Sync.of(context, self.dataset, self.share)


def _qualified(column: str, table: str | None = None) -> str:
    return f"{table}.{quoted(column)}" if table else quoted(column)
