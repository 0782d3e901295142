"""The step that starts the export on Databricks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.databricks.operators.databricks import DatabricksJobRunLink, DatabricksRunNowOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from data_share import lineage
from data_share.attempts import made_by
from data_share.databricks.follow import cancel_exports_of
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.datasets import Dataset, LoadMode
from data_share.freshness import in_ledger
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import Share
from data_share.snowflake.sql_api import DataShareSnowflakeHook, SnowflakeStatementError
from data_share.snowflake.statements import DOES_NOT_EXIST, query_tag, rows_of_target
from data_share.snowflake.target_lock import select_lock
from data_share.source import MAX_PARAMETER_BYTES
from data_share.sql_files import render_sql
from data_share.steps import EXPORT_TO_S3, PUBLISH
from data_share.sync import IncrementImpossibleError, SyncStep, VerifyImpossibleError
from data_share.watermark import (
    DatasetState,
    Published,
    Watermark,
    digests_of,
    full_because,
    published_parameter,
    source_asset,
    state_asset,
)


class UnknownConfError(ShareError, AirflowFailException):
    """The conf has an unknown key, e.g. a misspelt one, which would silently have no effect."""

    code = FailureCode.CONF_UNKNOWN


class ExportStoppedError(ShareError, AirflowException):
    """The step was ended from outside before it knew its run; the run that it had requested is cancelled."""

    code = FailureCode.CANCELLED


class TooManyColumnsError(ShareError, AirflowFailException):
    """
    The job cannot be told all columns of the target.

    :param columns: number of the target's columns
    :param size: bytes of the parameters that tell them
    :param unchanged: a sentence on what was not done
    """

    code = FailureCode.SCHEMA_DRIFT

    def __init__(self, dataset: Dataset, columns: int, size: int, *, unchanged: str = "") -> None:
        super().__init__(
            f"The names of the {columns} columns of {dataset.target_table} and of source in the dataset file make "
            f"{size:,} bytes of parameters of the export job, of which {MAX_PARAMETER_BYTES:,} are possible. "
            f"{unchanged}".rstrip(),
            what_to_do="Export a view with the columns that may leave, without source in the dataset file, or set "
            "schema_drift: add_new, which needs no names of the target. Then start the sync again.",
        )


def excess_of(parameters: Mapping[str, Any]) -> int:
    """Return the size of parameters if Databricks may refuse it, else 0; it counts all of a run, as JSON."""
    size = len(json.dumps(parameters).encode())
    return size if size > MAX_PARAMETER_BYTES else 0


class ExportRunLink(DatabricksJobRunLink):
    """The provider's link (7.23.0), with a fix: when no run was started, the provider links to the address ``None``."""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the run that was started; empty if there is none."""
        return super().get_link(operator, ti_key=ti_key) or ""


class DatabricksExportOperator(SyncStep, DatabricksRunNowOperator):
    """
    Starts the export job, or skips itself if the sync loads the export of an earlier sync.

    Closes seven gaps of ``DatabricksRunNowOperator`` (provider 7.23.0) and Airflow (3.3):

    - A sync with ``reload_run_key`` needs no export. A separate task that decides this would delay all other syncs.
    - A step that is killed before Databricks answers would leave its run behind; this one cancels it.
    - A step that is cleared would leave the run of its earlier attempt behind; this one cancels it.
    - The provider tolerates an outage of three seconds; see :class:`DataShareDatabricksHook` for ours.
    - The job keeps back columns that the target lacks, so this step tells it the target's columns: those of the last
      publish or, if the sync after it has not ended well, those that Snowflake names now.
    - The job leaves the export out if nothing is new, and exports only changes if the dataset file says so: so this
      step tells it which version was published last. For a verification, the job exports that version again.
    - Airflow accepts any conf, so a sync with a misspelt ``dry_run`` would publish; unknown keys are refused.

    :param dataset: what is exported
    :param share: the deployment that it is exported with
    :param known_conf: the keys that the conf of a run may have
    """

    operator_extra_links = (ExportRunLink(),)

    def __init__(
        self,
        *,
        dataset: Dataset,
        share: Share,
        known_conf: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inlets=[source_asset(dataset, share), state_asset(dataset)],
            wait_for_termination=False,
            # Overrides the default in Airflow's configuration: one short request needs no triggerer.
            deferrable=False,
            # With the default, a new attempt would adopt the run of an earlier attempt, with its old data.
            durable=False,
            forward_dag_params=False,
            databricks_conn_id=share.databricks_conn_id,
            **kwargs,
        )
        self.dataset = dataset
        self.share = share
        self.known_conf = known_conf
        self._submit_context: Context | None = None
        self._is_killed = False
        self._published: Published | None = None
        self._is_increment = False
        self._follows_failure = False
        self._requested_at: str | None = None
        self._workspace = ""

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the template fields, and look up what the lineage needs."""
        super().render_template_fields(context, jinja_env)
        if lineage.is_on():
            # Now, as the provider asks from a copy of this process, and both would read Airflow's answers.
            self._workspace = self._hook.host or ""

    def execute(self, context: Context) -> Any:
        """Start the job, or skip the step; the XCom ``export`` records the run that this attempt started."""
        # With OpenLineage, Airflow adds a key of this name to the conf of a run that another DAG starts.
        if unknown := sorted(set(context["dag_run"].conf or {}) - {*self.known_conf, "openlineage"}):
            raise UnknownConfError(
                f"The conf has {', '.join(map(repr, unknown))}; a sync knows {', '.join(self.known_conf)}. Nothing was "
                "started."
            )
        if self.sync.is_verification:
            self._refuse_with_verify()
        if self.sync.is_reload:
            key = self.sync.params["reload_run_key"]
            raise AirflowSkipException(f"The export of the sync {key} is loaded again: no new export is started")
        if self.sync.attempt > 1:
            self._cancel_earlier_exports()
        self.job_parameters = {**(self.job_parameters or {}), **self.known_parameters(context)}
        # Before the request: the job reads the source later.
        self._requested_at = in_ledger(datetime.now(UTC))
        result = super().execute(context)
        context["ti"].xcom_push(key="export", value=made_by(context, {"run_id": self.run_id, **self.known}))
        return result

    def get_openlineage_facets_on_start(self) -> Any:
        """Return that the source is read; the rest of the lineage is known when the sync is published."""
        return lineage.read_only(self.dataset, self._workspace)

    @property
    def known(self) -> dict[str, Any]:
        """What the steps that follow have to know of this export: what it was made with."""
        published = self._published and self._published.model_dump(mode="json")
        return {
            "published": published,
            "file": digests_of(self.dataset, self.share),
            "increment": self._is_increment,
            "follows_failure": self._follows_failure,
            "requested_at": self._requested_at,
        }

    def known_parameters(self, context: Context) -> dict[str, str]:
        """
        Return the parameters of the job that say what is known of the last publish and of the target.

        :raises IncrementImpossibleError: an append cannot tell which rows are new
        :raises TargetMissingError: there is no target, and this sync does not create it
        :raises TooManyColumnsError: the names of its columns are too long, and the dataset file chooses what leaves
        :raises VerifyImpossibleError: a verification does not know what the target must hold
        """
        is_verification = self.sync.is_verification
        published, because, no_increment_because = (
            (self._publish_to_verify(context), None, None) if is_verification else self._last_publish(context)
        )
        columns = self._columns_of_target(context, published)
        if published is not None and self.dataset.only_appends_increments and not is_verification:
            self._refuse_columns_without_values(columns, context)
        self._published = published and published.model_copy(update={"columns": columns})
        self._is_increment = published is not None and self.dataset.incremental and not is_verification
        told = published_parameter(
            self.dataset, published, because, no_increment_because, is_verification=is_verification
        )
        return {**told, **self._source_parameters(columns, {**(self.job_parameters or {}), **told})}

    def _last_publish(self, context: Context) -> tuple[Published | None, str | None, str | None]:
        """
        Return the last publish if the job may compare versions with it; why all rows are exported; and why not changes.

        It has the target's columns only if the sync after it has ended well: they may be what failed that one. That
        sync may also have met a history with versions whose files are gone. So after it, no changes are exported, but
        all rows; an append must not add all again, and tries the changes again.
        """
        watermark = DatasetState(context, self.dataset).begin(EXPORT_TO_S3, self.sync.key)
        self._follows_failure = bool(watermark.begun_step)
        hook = self._snowflake(context)
        is_uncertain = watermark.begun_step == PUBLISH.id
        if self.dataset.only_appends_increments and is_uncertain and self._is_as_before(watermark, hook):
            watermark = watermark.model_copy(update={"begun_step": EXPORT_TO_S3.id})
        because = full_because(
            watermark,
            self.dataset,
            self.share,
            target=hook.asset_uri(self.dataset.target_table),
            is_full_refresh=self.sync.params["full_refresh"],
        )
        published = watermark.published
        if because is not None or published is None:
            if self.dataset.only_appends_increments and not self.sync.params["full_refresh"]:
                self._refuse_second_append(watermark, because)
            return None, because, None
        if not watermark.begun_step:
            return published, None, None
        after_failure = None if self.dataset.only_appends_increments else "the last sync has not ended well"
        return published.model_copy(update={"columns": None}), None, after_failure

    def _refuse_with_verify(self) -> None:
        """Refuse a conf that asks for a verification and for something else."""
        params = self.sync.params
        if others := [name for name in ("full_refresh", "dry_run", "reload_run_key") if params[name]]:
            raise VerifyImpossibleError(
                f"The conf has verify together with {', '.join(others)}: a verification compares the target with what "
                "was published last, and publishes nothing. Nothing was started.",
                what_to_do="Start the verification with verify: true alone.",
            )

    def _publish_to_verify(self, context: Context) -> Published:
        """
        Return the last publish, for a verification. It marks nothing: whatever happens to it, the target stays.

        An append of all rows has the rows of each sync in the target, so the source of today is no measure for it: a
        changed row would be found only if no other sync has added the same row.
        """
        if self.dataset.load_mode is LoadMode.APPEND and not self.dataset.incremental:
            raise VerifyImpossibleError(
                f"{self.dataset.name} adds all rows of the source at each sync, so {self.dataset.target_table} holds "
                "more than any version of the source: there is nothing to compare it with. Nothing was started.",
                what_to_do="Set incremental: true in the dataset file, if the target is to hold each row of the source "
                "once; or do without the verification.",
            )
        watermark = DatasetState(context, self.dataset).read()
        target = self._snowflake(context).asset_uri(self.dataset.target_table)
        because = full_because(watermark, self.dataset, self.share, target=target, is_verification=True)
        if watermark.published is None or because is not None:
            has_version = self.dataset.pinned and not self.dataset.source.may_choose_others_later
            raise VerifyImpossibleError(
                f"It is not known what {self.dataset.target_table} must hold: {because}. Nothing was started.",
                what_to_do=None
                if has_version
                else "Change this in the dataset file, and start a sync; when it has "
                "published, start the verification again.",
            )
        return watermark.published

    def _is_as_before(self, watermark: Watermark, hook: DataShareSnowflakeHook) -> bool:
        """Return whether a publish that was begun has not been committed: then the target's lock has the one before."""
        try:
            rows = hook.run_statement(select_lock(self.dataset, self.share)).rows
        except SnowflakeStatementError as error:
            if DOES_NOT_EXIST not in str(error):
                raise
            rows = []
        last = rows[0]["RUN_KEY"] if rows else ""
        return bool(last == (watermark.published.run_key if watermark.published else ""))

    def _refuse_second_append(self, watermark: Watermark, because: str | None) -> None:
        """Refuse to export all rows for an append, unless nothing is known to be in the target."""
        if watermark.published is None and watermark.begun_step != PUBLISH.id:
            return  # perhaps the first sync: the publish refuses it if it is not
        raise IncrementImpossibleError(
            f"{self.dataset.name} adds only new rows to {self.dataset.target_table}, and it cannot be told which these "
            f"are: {because}. Nothing was started."
        )

    def _refuse_columns_without_values(self, columns: Sequence[str] | None, context: Context) -> None:
        """Refuse to add rows to a target that has got columns since: the rows that are there lack their values."""
        last = DatasetState(context, self.dataset).read().published
        if last is not None and (added := last.lacked(columns)):
            raise IncrementImpossibleError(
                f"{self.dataset.target_table} has columns that it lacked after the last publish: {', '.join(added)}. "
                "The rows that are there lack their values, and an append adds only new rows. Nothing was started.",
                what_to_do="Start the sync with full_refresh: true, which replaces everything in the target, or drop "
                "these columns again.",
            )

    def _columns_of_target(self, context: Context, published: Published | None) -> tuple[str, ...] | None:
        """Return the target's columns if the dataset keeps back what it lacks; None if there is no target yet."""
        if not self.dataset.keeps_new_columns_back:
            return None
        if published is not None and published.columns is not None:
            return published.columns
        hook = self._snowflake(context)
        describe = render_sql("describe_target", share=self.share, sync=self.sync)
        [statement] = hook.split_sql_string(describe, strip_semicolon=True)
        target = rows_of_target(self.dataset, lambda: hook.run_statement(statement))
        return None if target is None else tuple(str(row["name"]) for row in target)

    def _snowflake(self, context: Context) -> DataShareSnowflakeHook:
        return DataShareSnowflakeHook(self.share.snowflake_conn_id, query_tag=query_tag(context))

    def _source_parameters(self, columns: Collection[str] | None, others: Mapping[str, Any]) -> dict[str, str]:
        """
        Return the parameters of the job that say what leaves.

        They are without the target's columns if Databricks may refuse their names as too long, unless the dataset file
        chooses what leaves: then the load compares the columns, and a new one reaches the bucket.

        :param columns: the target's columns; None without a target, or if the dataset keeps back none
        :param others: the other parameters of the job
        """
        if columns is None:
            return self.dataset.source_parameters()
        parameters = self.dataset.source_parameters(columns)
        if size := excess_of({**others, **parameters}):
            if not self.dataset.source.is_everything:
                raise TooManyColumnsError(self.dataset, len(columns), size, unchanged="Nothing was started.")
            self.log.warning(
                "The names of the %s columns of %s make %s bytes of parameters of the export job, of which %s are "
                "possible: so the job is not told them. A new column of the source reaches the bucket; the load "
                "compares the columns.",
                len(columns),
                self.dataset.target_table,
                size,
                MAX_PARAMETER_BYTES,
            )
            return self.dataset.source_parameters()
        return parameters

    def _cancel_earlier_exports(self) -> None:
        try:
            for run_id in cancel_exports_of(self._hook, str(self.job_id), self.sync.key):
                self.log.info("Cancelled the Databricks run %s of an earlier attempt", run_id)
        except Exception:
            # No reason to fail: such a run costs money, but it writes to a path of its own.
            self.log.exception("An export of an earlier attempt may still be running on Databricks")

    def _get_hook(self, caller: str) -> DataShareDatabricksHook:
        return DataShareDatabricksHook(self.databricks_conn_id, caller=caller)

    def submit_job(self, context: Context) -> int:
        """Request a run, and return its id."""
        self._submit_context = context
        if not self._is_killed:
            super().submit_job(context)
        if self._is_killed or self.run_id is None:
            raise ExportStoppedError("This step was ended from outside while it started the export.")
        return self.run_id

    def on_kill(self) -> None:
        """Cancel the run, even if Databricks has not yet answered with its id."""
        self._is_killed = True
        if self.run_id is None and self._submit_context is not None:
            # Request the run again to learn its id: with the same idempotency token, both requests get the same run.
            super().submit_job(self._submit_context)
        super().on_kill()
