"""The codes of the failure reports, each with its cause and its remedy."""

from __future__ import annotations

from enum import Enum


class FailureCode(Enum):
    """
    A kind of failure; the member's name is the code.

    Each member has its cause, what to do, whether the same sync may succeed when it is started again unchanged, and the
    key of the conf with which a sync repairs what was found, if there is one.
    """

    CONFIGURATION_MISSING = (
        "Airflow lacks a connection or a Variable that a step needs.",
        "Create it; the README lists them under Real accounts, and make doctor checks them.",
    )
    CERTIFICATE_REFUSED = (
        "The certificate of Databricks or Snowflake is not trusted, or belongs to another address.",
        (
            "Check host of the connection to Databricks, and account or host of that to Snowflake. If a proxy decrypts "
            "the traffic, give Airflow its certificate authority (REQUESTS_CA_BUNDLE and SSL_CERT_FILE)."
        ),
    )
    DATABRICKS_SIGN_IN = (
        "Databricks does not accept the credentials, or their owner lacks a right.",
        "Renew the credentials in the connection to Databricks, or grant Can Manage Run on the export job.",
    )
    EXPORT_JOB_REFUSED = (
        "Databricks refuses to start the export job: no job has this id, or the job has other parameters.",
        (
            "Deploy the asset bundle, and set the Variable that export_job_variable in include/share.yaml names to the "
            "id of its job export_dataset."
        ),
    )
    DATABRICKS_UNAVAILABLE = (
        "Databricks did not answer, or answered that it is unavailable.",
        "Start the sync again when Databricks is available; an export that still runs is never loaded.",
        True,
    )
    EXPORT_FAILED = (
        "The export job failed on Databricks.",
        "Open the run's page on Databricks, fix what it reports, and start the sync again.",
    )
    EXPORT_CANCELED = (
        "Somebody cancelled the export on Databricks.",
        "Start the sync again.",
        True,
    )
    EXPORT_TIMED_OUT = (
        "The export exceeded its max. time.",
        (
            "Find out on the run's page why it is slow; if it needs that long, raise the limit that ended it: "
            "export_timeout_minutes in the dataset file, or timeout_seconds in the asset bundle."
        ),
        True,
    )
    EXPORT_MISSING = (
        "There is no export to wait for: export_to_s3 left no run id, or Databricks does not know the run.",
        "Clear export_to_s3, or start the sync again.",
        True,
    )
    RESULT_MISSING = (
        "An earlier step left no result: a person marked it as a success, or its XComs were deleted.",
        "Clear export_to_s3 and the steps after it, or start the sync again.",
        True,
    )
    EXPORT_PATH_INVALID = (
        "This dataset may not be loaded from the path.",
        "Deploy the asset bundle again: the export job must use its job parameter export_path unchanged.",
    )
    CONF_UNKNOWN = (
        "The conf of the run has an unknown key.",
        "Start the sync again with known keys only; the form in Airflow's UI shows them all.",
    )
    RUN_KEY_UNKNOWN = (
        "The ledger has no sync with the run key in reload_run_key.",
        "Use a run key of this dataset from the ledger.",
    )
    SNOWFLAKE_SIGN_IN = (
        "Snowflake does not accept the credentials, or those in the connection cannot be read.",
        "Check user, key and account of the connection to Snowflake; make doctor says which is wrong.",
    )
    SNOWFLAKE_REFUSED = (
        "Snowflake does not accept the request.",
        ("Check role, warehouse, database and schema of the connection to Snowflake; make doctor says which is wrong."),
    )
    SNOWFLAKE_STATEMENT_FAILED = (
        "Snowflake ended a statement with an error.",
        (
            "Look up the query in Snowflake's history; fix the rights, the table or the data that the message names, "
            "and start the sync again."
        ),
    )
    LOAD_TIMED_OUT = (
        "A statement in Snowflake exceeded its max. time.",
        (
            "Use a larger warehouse, or raise load_timeout_minutes in the dataset file and "
            "STATEMENT_TIMEOUT_IN_SECONDS of the warehouse; then start the sync again."
        ),
    )
    SNOWFLAKE_UNAVAILABLE = (
        "Snowflake did not answer, answered that it is unavailable, or waited too long for a lock.",
        "Start the sync again.",
        True,
    )
    MANIFEST_MISSING = (
        "The export left no manifest: it did not finish, or its files have expired.",
        "Look at the Databricks run, and start the sync again.",
        True,
    )
    MANIFEST_INVALID = (
        "The manifest does not belong to this sync.",
        "Deploy the asset bundle again: the export job must use its job parameters unchanged.",
    )
    NOTHING_LOADED = (
        "COPY INTO succeeded but loaded nothing.",
        (
            "If the source may be empty, set allow_empty: true in the dataset file. If files of the export are gone, "
            "start the sync again."
        ),
    )
    SCHEMA_DRIFT = (
        "The columns of the export are not those of the target.",
        (
            "Restore a missing column in the source, or remove it from the target. For a new column, set schema_drift "
            "in the dataset file: ignore_new, or add_new."
        ),
    )
    TYPES_LOSE_VALUES = (
        "The target's type of a column can change the source's values without an error.",
        (
            "Give the target's column the type that the message names, or name the column in casts of the dataset file "
            "if a changed value is right."
        ),
    )
    POLICY_FOUND = (
        (
            "A masking or row access policy of Snowflake applies to the target or the staging table, and the role of "
            "the syncs is not exempt from it, or its exemption cannot be proven."
        ),
        (
            "Exempt the role in the body of the policy, by IS_ROLE_IN_SESSION('<role of the syncs>'); then set "
            "policies: exempt in the dataset file."
        ),
    )
    ROWS_HIDDEN = (
        (
            "The role of the syncs does not see all rows that the target must have after the change: a row access "
            "policy hides rows, or a masking policy changes merge keys. Nothing was published."
        ),
        (
            "Exempt the role in the body of the target's row access policy, and of the masking policies of its merge "
            "keys, by IS_ROLE_IN_SESSION('<role of the syncs>'); then start the sync again."
        ),
    )
    CHECKS_FAILED = (
        "The loaded rows are not the exported rows, or they break a check of the dataset file.",
        "Correct the source, or the dataset file if a check is wrong, and start the sync again.",
    )
    TARGET_MISSING = (
        "The target table has not been set up: it does not exist, or the role of the syncs does not see it.",
        (
            "Run the DAG set_up_snowflake: it creates targets with create_table: from_columns or a file in targets/, "
            "or reports why it cannot. If others own the target, they create it and grant it to the role. "
            "Then start the sync again."
        ),
    )
    TARGET_TAKEN = (
        "Another dataset publishes to the same target, in this Airflow or another; or this dataset was renamed.",
        (
            "Give one of the two datasets another target_table. If the other dataset was renamed or no longer exists, "
            "run the statement in the report, which hands the target over."
        ),
    )
    SUPERSEDED = (
        (
            "A later sync is published already, this export was appended before, or the staging tables were changed "
            "after the check."
        ),
        "Look at the newest row of the ledger; if it is not what you want, start a new sync.",
        True,
    )
    TARGET_DIVERGED = (
        (
            "The target does not hold the version of the source from which this sync has exported the changes: "
            "somebody has changed it, or another sync has published to it. Nothing was published."
        ),
        "Start the sync again: it exports everything.",
        True,
    )
    INCREMENT_IMPOSSIBLE = (
        (
            "It cannot be told which rows of the source are new since the last publish, and an append of all rows "
            "would add them again. Nothing was published."
        ),
        "Start the sync with full_refresh: true, which replaces everything in the target.",
        False,
        "full_refresh",
    )
    VALUES_DIFFER = (
        (
            "A verification has found that the target does not hold what the source held at the version that was "
            "published last. It has changed nothing."
        ),
        "Start the sync with full_refresh: true, which replaces everything in the target.",
        False,
        "full_refresh",
    )
    VERIFY_IMPOSSIBLE = (
        (
            "The target cannot be verified: it is not known what was published last, or the source cannot be read any "
            "more as it was then."
        ),
        "Start a sync; when it has published, start the verification again.",
    )
    LEDGER_ROW_MISSING = (
        "The publish succeeded, but its row is not in the ledger.",
        "Find out who deletes from the ledger: nobody else may write there.",
    )
    TIMED_OUT = (
        "A step exceeded its max. time.",
        "Look in its log what it waited for, and start the sync again.",
        True,
    )
    ENDED_AFTER_PUBLISH = (
        "The sync was published, but ended before it could report that.",
        "Nothing is left to do: the rows are in the target, and the ledger has the sync.",
    )
    CANCELLED = (
        "A person ended the sync in Airflow.",
        "Start the sync again when it is wanted.",
        True,
    )
    STEP_DIED = (
        "A step ended without a report: killed because memory ran out, lost with its machine, or ended by a person.",
        "Look at the step's log, and start the sync again.",
        True,
    )
    SHARE_BROKEN = (
        "Checks of the deployment failed.",
        "Fix what each finding names, and run the doctor again.",
    )
    UNEXPECTED = (
        "An error that this package does not know.",
        "Look at the step's log.",
    )

    def __init__(self, cause: str, what_to_do: str, retriable: bool = False, repair: str | None = None) -> None:
        self.cause = cause
        self.what_to_do = what_to_do
        self.retriable = retriable
        self.repair = repair
