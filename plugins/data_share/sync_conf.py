"""The conf of a sync: its options, which are also the fields of the form in Airflow's UI."""

from __future__ import annotations

from airflow.sdk import Param

# A name of a person: one line, without invisible characters, text direction marks or lone surrogates. The pattern means
# the same in Python, where Airflow checks it, and in JavaScript.
PERSON = r"^(?!\s*$)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,100}(?!\n)$"

PARAMS = {
    "requested_by": Param(
        default=None,
        type=["null", "string"],
        title="Requested by",
        description="Who requested this sync, for the ledger: a name or an e-mail address. Default: your Airflow user.",
        pattern=PERSON,
    ),
    "full_refresh": Param(
        default=False,
        type="boolean",
        title="Full refresh",
        description="Export everything, also if nothing is new at the source, and replace everything in the target, "
        "whatever the dataset's load mode is.",
    ),
    "accept_row_change": Param(
        default=False,
        type="boolean",
        title="Accept the change of the row count",
        description="Publish this time although the row count changed by more than max_row_change_percent.",
    ),
    "dry_run": Param(
        default=False,
        type="boolean",
        title="Dry run",
        description="Export, load and check, but do not publish. The result of publish says what would change.",
    ),
    "verify": Param(
        default=False,
        type="boolean",
        title="Verify",
        description="Publish nothing, but compare: does the target hold what the source held at the version that was "
        "published last, value by value? Not together with full_refresh, dry_run or reload_run_key.",
    ),
    "reload_run_key": Param(
        default=None,
        type=["null", "string"],
        title="Load an earlier export again",
        description="Run key of an earlier sync, from the ledger. Its export is loaded again, without Databricks. "
        "A dataset with load mode append also needs a full refresh.",
        pattern=r"^[0-9]{8}T[0-9]{6}_[0-9a-f]{8}(?!\n)$",
    ),
}
