"""The step that starts the export on Databricks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.databricks.operators.databricks import DatabricksJobRunLink, DatabricksRunNowOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from data_share.attempts import made_by
from data_share.databricks.follow import cancel_exports_of
from data_share.databricks.hook import DataShareDatabricksHook
from data_share.datasets import Dataset
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.share import Share
from data_share.sync import SyncStep


class UnknownConfError(ShareError, AirflowFailException):
    """The conf has a key that no sync knows: what was meant by it would silently not be done."""

    code = FailureCode.CONF_UNKNOWN


class ExportStoppedError(ShareError, AirflowException):
    """The step was ended from outside before it had started the export; a run that it has asked for is cancelled."""

    code = FailureCode.CANCELLED


class ExportRunLink(DatabricksJobRunLink):
    """The provider's link (7.23.0) without its gap: when no run was started, it leads to the address ``None``."""

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the page of the run that was started, or nothing."""
        return super().get_link(operator, ti_key=ti_key) or ""


class DatabricksExportOperator(SyncStep, DatabricksRunNowOperator):
    """
    Starts the export job, and skips itself when the export of an earlier sync is to be loaded again.

    Closes five gaps of ``DatabricksRunNowOperator`` (provider 7.23.0). That a sync needs no job has to be known before
    the job is started, and a task of its own for that would cost every other sync its time. And a step that is killed
    while Databricks has not answered yet leaves the run behind that it has asked for. And a step that is cleared leaves
    the run to itself that it had started. And it gives Databricks three seconds to come back. And Airflow (3.3) takes
    any conf: of a misspelt ``dry_run`` it would make a sync that publishes.

    :param dataset: what is exported
    :param share: where it is exported to
    :param known_conf: keys that the conf of a run may have
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
            wait_for_termination=False,
            # Whatever Airflow's default is: the start is one request.
            deferrable=False,
            # The default would take up the run of an earlier attempt, with its old data.
            durable=False,
            forward_dag_params=False,
            databricks_conn_id=share.databricks_conn_id,
            **kwargs,
        )
        self.dataset = dataset
        self.share = share
        self.known_conf = known_conf
        self._asked_in: Context | None = None
        self._is_killed = False

    def execute(self, context: Context) -> Any:
        """Start the job, or skip it; what this attempt has started is the XCom ``export``."""
        if unknown := sorted(set(context["dag_run"].conf or {}) - set(self.known_conf)):
            raise UnknownConfError(
                f"The conf has {', '.join(map(repr, unknown))}; a sync knows {', '.join(self.known_conf)}. Nothing was "
                "started."
            )
        if self.sync.is_reload:
            key = self.sync.params["reload_run_key"]
            raise AirflowSkipException(f"The export of the sync {key} is loaded again; Databricks is not asked")
        if self.sync.attempt > 1:
            self._cancel_earlier_exports()
        result = super().execute(context)
        context["ti"].xcom_push(key="export", value=made_by(context, {"run_id": self.run_id}))
        return result

    def _cancel_earlier_exports(self) -> None:
        try:
            for run_id in cancel_exports_of(self._hook, str(self.job_id), self.sync.key):
                self.log.info("Cancelled the Databricks run %s of an earlier attempt", run_id)
        except Exception:
            # It costs money, and changes nothing: what it writes is at a path of its own.
            self.log.exception("An export of an earlier attempt may still be running on Databricks")

    def _get_hook(self, caller: str) -> DataShareDatabricksHook:
        return DataShareDatabricksHook(self.databricks_conn_id, caller=caller)

    def submit_job(self, context: Context) -> int:
        """Ask for a run, and return its id."""
        self._asked_in = context
        if not self._is_killed:
            super().submit_job(context)
        if self._is_killed or self.run_id is None:
            raise ExportStoppedError("This step was ended from outside while it started the export.")
        return self.run_id

    def on_kill(self) -> None:
        """Cancel the run, also one that was asked for and is not answered yet."""
        self._is_killed = True
        if self.run_id is None and self._asked_in is not None:
            # With the same idempotency token, both calls are answered with one run, whichever of them comes first.
            super().submit_job(self._asked_in)
        super().on_kill()
