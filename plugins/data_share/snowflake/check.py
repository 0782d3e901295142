"""The step that checks the staging tables."""

from __future__ import annotations

from collections.abc import Sequence

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from data_share.outcome.codes import FailureCode
from data_share.outcome.report import ShareError
from data_share.snowflake.statements import TARGET_UNCHANGED, SnowflakeSyncOperator
from data_share.snowflake.value_proofs import differences

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


class CheckFailedError(ShareError, AirflowFailException):
    """The staged rows are not fit to be published."""

    code = FailureCode.CHECKS_FAILED


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
