"""The step that checks the staging tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from data_share.attempts import made_by
from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.sql_api import SnowflakeStatementError, StatementResult
from data_share.snowflake.statements import LACKS_COLUMNS, TARGET_UNCHANGED, SnowflakeSyncOperator
from data_share.snowflake.target_lock import select_lock
from data_share.snowflake.value_proofs import differences
from data_share.snowflake.verification import Differences, ValuesDifferError, compared_columns, same_rows
from data_share.sql_files import render_sql
from data_share.sync import VerifyImpossibleError

_MAX_SHOWN_ROWS = 5
_MAX_SHOWN_COLUMNS = 20
_ROWS_CHECK = "rows_match_manifest"
_VALUES_CHECK = "values_match_manifest"
_VALUES_ADVICE = (
    "Other values were loaded than exported, or the staging table was changed: start the sync again. If it fails in "
    "the same way, give the target's column a type that holds the source's values (docs/datasets.md, Types), or list "
    "the column in casts of the dataset file if the change is wanted. If a masking policy changes it, exempt the role "
    "of the syncs (docs/datasets.md, Policies)."
)


class CheckFailedError(ShareError, AirflowFailException):
    """The staged rows are not fit to be published."""

    code = FailureCode.CHECKS_FAILED


class SnowflakeCheckOperator(SnowflakeSyncOperator):
    """
    Checks named conditions on the staging table, and compares its values with those of the export, in one query.

    A verification checks only that the staging table has what was exported, and then compares the target with it; the
    result says what was compared.

    Used instead of the provider's ``SQLTableCheckOperator`` (common-sql 2.4.0), which builds its query in Python, signs
    in with the connector, reports the whole query instead of the failed checks, and does not cancel it at a kill.

    Returns ``statement_seconds`` of its statements in Snowflake, and its id (see :mod:`data_share.attempts`).
    """

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Run the checks, compare the values, and report all failures together; to verify, compare the target too."""
        self._context = context
        for column, reason in self.sync.loaded["unproven"].items():
            self.log.info("The values of column %s are not compared: %s", column, reason)
        checks = self._checks()
        # Keep the link on this query: the queries that follow only look for rows to show.
        self.shown_query_id = checks.query_id
        failed = [check for check in checks.rows if check["CHECK_RESULT"] != 1]
        if not checks.rows:
            raise self._failure("The query of the checks returned no row")
        # With other rows, the sums differ anyway.
        has_other_rows = any(check["CHECK_NAME"] == _ROWS_CHECK for check in failed)
        differing = [] if has_other_rows else differences(self.sync.loaded["proofs"], checks.rows[0])
        if failed or differing:
            lines = [f"- {check['CHECK_NAME']}: {self._with_failing_rows(str(check['CONDITION']))}" for check in failed]
            lines += [f"- {_VALUES_CHECK}: {sentence}" for sentence in differing[:_MAX_SHOWN_COLUMNS]]
            if (more := len(differing) - _MAX_SHOWN_COLUMNS) > 0:
                lines.append(f"- {_VALUES_CHECK}: {more} more column(s)")
            failures, number = len(failed) + bool(differing), len(checks.rows) + bool(self.sync.loaded["proofs"])
            advice = [check["WHAT_TO_DO"] for check in failed] + ([_VALUES_ADVICE] if differing else [])
            raise self._failure(f"{failures} of {number} checks failed", lines, advice)
        compared = self._compare_target() if self.sync.is_verification else {}
        return made_by(context, {**compared, "statement_seconds": round(self._hook.statement_seconds, 3)})

    def _checks(self) -> StatementResult:
        """Return the result of the checks; of a ledger of an earlier version, which lacks a column, without it."""
        try:
            return self._run("check_staging")[-1]
        except SnowflakeStatementError as error:
            if not LACKS_COLUMNS.search(str(error)):
                raise
        # Then no increment is in the ledger: a publish of changes needs these columns.
        self.sync.tables_are_current = False
        return self._run_with("check_staging", "check_staging of an earlier ledger")[-1]

    def _compare_target(self) -> dict[str, Any]:
        """
        Compare the target with the staged rows, which are those of the version that was published last.

        :raises ValuesDifferError: a row or a value differs
        :raises VerifyImpossibleError: nothing can be compared, or something was published meanwhile
        """
        columns, not_compared = compared_columns(self.sync.loaded["kinds"], self.dataset)
        if not columns:
            raise VerifyImpossibleError(
                f"{self.dataset.target_table} has no column of a type that Snowflake can compare. {TARGET_UNCHANGED}",
                what_to_do="Do without the verification.",
            )
        known: dict[str, Any] = {"share": self.share, "sync": self.sync}
        known |= {"compared": columns, "same_rows": same_rows(columns)}
        file = render_sql("compare_target", **known)
        counted = self._run_file(file, "compare_target", is_long=True)[-1]
        self.shown_query_id = counted.query_id
        found = Differences.of(counted.rows[0], columns)
        if found.exist:
            locked = self._run_file(select_lock(self.dataset, self.share), "lock after the comparison")[-1].rows
            self._refuse_later_publish(locked[0]["RUN_KEY"] if locked else None)
            file = render_sql("show_differing_rows", **known, found=found, limit=_MAX_SHOWN_ROWS)
            rows = self._run_file(file, "show_differing_rows", is_long=True)[-1].rows
            raise ValuesDifferError(
                self.dataset, self.sync.verified, found.sentence(rows), snowflake_query_id=counted.query_id
            )
        return {"rows": self.sync.loaded["rows_loaded"], "not_compared": not_compared}

    def _failure(self, summary: str, lines: Sequence[str] = (), advice: Sequence[str | None] = ()) -> CheckFailedError:
        # Checks from the dataset file have no advice of their own: they get the default advice of the code.
        sentences = dict.fromkeys(sentence or CheckFailedError.code.what_to_do for sentence in advice)
        return CheckFailedError(
            "\n".join((f"{summary} on {self.sync.staging_table}. {TARGET_UNCHANGED}", *lines)),
            snowflake_query_id=self.shown_query_id or None,
            what_to_do=" ".join(sentences) or None,
        )

    def _with_failing_rows(self, condition: str) -> str:
        """Return a failed condition, with example rows for which it is not true if it is a condition on single rows."""
        try:
            counted, found = self._run_with("show_failing_rows", condition, condition=condition, limit=_MAX_SHOWN_ROWS)
            count = counted.rows[0]["TOTAL"]
        except Exception as error:
            # Usually the condition is about the whole table: an aggregate is not allowed in WHERE. No error may hide
            # which check failed.
            self.log.info("No rows to show for %s: %s", condition, error)
            return condition
        shown = "; ".join(", ".join(f"{name}={value}" for name, value in row.items())[:300] for row in found.rows)
        return f"{condition}. Not true for {count:,} row(s), e.g. {shown}"
