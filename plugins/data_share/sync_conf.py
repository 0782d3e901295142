"""The conf of a sync: what whoever starts it may say. They are the fields of the form in Airflow's UI too."""

from __future__ import annotations

from airflow.sdk import Param

# A name as people and directories write it: no end of a line, nothing that cannot be seen or turns the text around, no
# half of a character. It means the same in Python, which judges, and in JavaScript.
PERSON = r"^(?!\s*$)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,100}(?!\n)$"

PARAMS = {
    "requested_by": Param(
        default=None,
        type=["null", "string"],
        title="Requested by",
        description="Who wants this sync, for the ledger: a name or an e-mail address. Empty: whoever starts it here.",
        pattern=PERSON,
    ),
    "full_refresh": Param(
        default=False,
        type="boolean",
        title="Full refresh",
        description="Replace everything in the target, whatever the dataset's load mode is.",
    ),
    "accept_row_change": Param(
        default=False,
        type="boolean",
        title="Accept the change of the row count",
        description="Publish this time, also when the source has far more or fewer rows than at the last sync.",
    ),
    "dry_run": Param(
        default=False,
        type="boolean",
        title="Dry run",
        description="Do everything but publish. The result of the step publish says what would change.",
    ),
    "reload_run_key": Param(
        default=None,
        type=["null", "string"],
        title="Load an earlier export again",
        description="Run key of an earlier sync, from the ledger. Its export is loaded; Databricks is not asked. "
        "A dataset that appends needs a full refresh for it.",
        pattern=r"^[0-9]{8}T[0-9]{6}_[0-9a-f]{8}(?!\n)$",
    ),
}
