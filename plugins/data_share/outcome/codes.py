"""What can go wrong in a sync: the codes of the failure reports, with cause and remedy."""

from __future__ import annotations

from enum import Enum


class FailureCode(Enum):
    """
    What can go wrong; the name is the code.

    Each has its cause, what to do, and whether the same sync may succeed when it is started again with nothing changed.
    """

    CONFIGURATION_MISSING = (
        "Airflow lacks a connection or a Variable that a step needs.",
        "Create it; the README lists them under Real accounts, and make doctor checks them.",
    )
    CERTIFICATE_REFUSED = (
        "The certificate at the address of Databricks or Snowflake is not trusted, or is that of another address.",
        (
            "Check host of the connection databricks_default, and account or host of snowflake_default. Where a proxy "
            "opens the traffic, give Airflow its certificate authority (REQUESTS_CA_BUNDLE and SSL_CERT_FILE)."
        ),
    )
    DATABRICKS_SIGN_IN = (
        "Databricks does not accept the credentials, or their owner may not do this.",
        "Renew the credentials in the connection databricks_default, or grant Can Manage Run on the export job.",
    )
    EXPORT_JOB_REFUSED = (
        "Databricks refuses to start the export job: there is no job of this id, or it takes other parameters.",
        "Deploy the asset bundle, and set the Variable data_share_export_job_id to the id of its job export_dataset.",
    )
    DATABRICKS_UNAVAILABLE = (
        "Databricks did not answer, or was not able to.",
        "Start the sync again when Databricks is back; an export that still runs is never loaded.",
        True,
    )
    EXPORT_FAILED = (
        "The export job failed on Databricks.",
        "Open the run's page on Databricks, mend what it says, and start the sync again.",
    )
    EXPORT_CANCELED = (
        "Somebody cancelled the export on Databricks.",
        "Start the sync again.",
        True,
    )
    EXPORT_TIMED_OUT = (
        "The export took longer than it may.",
        (
            "Find out on the run's page why it is slow; if it has to take so long, raise what ended it: "
            "export_timeout_minutes in the dataset file, or timeout_seconds in the asset bundle."
        ),
        True,
    )
    EXPORT_MISSING = (
        "There is no export to wait for: the step before left none, or Databricks does not know it.",
        "Clear export_to_s3, or start the sync again.",
        True,
    )
    RESULT_MISSING = (
        "A step before has left no result: a person marked it as a success, or its XComs were deleted.",
        "Clear export_to_s3 and what follows it, or start the sync again.",
        True,
    )
    EXPORT_PATH_INVALID = (
        "A path is not one that this dataset may be exported to, or loaded from.",
        (
            "Deploy the asset bundle again: the export job has to take its job parameter export_path as it is. If the "
            "report names the url of the share, change that in plugins/data_share/dag_defaults.py."
        ),
    )
    CONF_UNKNOWN = (
        "The conf of the run has a key that no sync knows.",
        "Start the sync again with a conf of known keys; the form in Airflow's UI has them all.",
    )
    RUN_KEY_UNKNOWN = (
        "The ledger has no sync of the run key whose export is to be loaded again.",
        "Take a run key of this dataset from sync_history.",
    )
    SNOWFLAKE_SIGN_IN = (
        "Snowflake does not accept the credentials, or the connection has none that can be read.",
        "Check user, key and account of the connection snowflake_default; make doctor says which is wrong.",
    )
    SNOWFLAKE_REFUSED = (
        "Snowflake does not accept the request.",
        (
            "Check role, warehouse, database and schema of the connection snowflake_default; make doctor says which is "
            "wrong."
        ),
    )
    SNOWFLAKE_STATEMENT_FAILED = (
        "Snowflake ended a statement with an error.",
        (
            "Look the query up in Snowflake's history; mend the rights, the table or the data that the message names, "
            "and start the sync again."
        ),
    )
    LOAD_TIMED_OUT = (
        "A statement in Snowflake took longer than it may.",
        (
            "Take a larger warehouse, or raise load_timeout_minutes in the dataset file and "
            "STATEMENT_TIMEOUT_IN_SECONDS of the warehouse; then start the sync again."
        ),
    )
    SNOWFLAKE_UNAVAILABLE = (
        "Snowflake did not answer, was not able to, or waited too long for a lock.",
        "Start the sync again.",
        True,
    )
    MANIFEST_MISSING = (
        "The export left no manifest: it did not finish, or its files have expired.",
        "Look at the Databricks run, and start the sync again.",
        True,
    )
    MANIFEST_INVALID = (
        "The manifest is not that of this sync.",
        "Deploy the asset bundle again: the export job has to take its job parameters as they are.",
    )
    NOTHING_LOADED = (
        "COPY INTO ended well and loaded nothing.",
        (
            "If the source is empty and may be so, say allow_empty: true in the dataset file. If files of the export "
            "are gone, start the sync again."
        ),
    )
    SCHEMA_DRIFT = (
        "The columns of the export are not those of the target.",
        (
            "Bring a missing column back, or take it out of the target. For a new column, set schema_drift in the "
            "dataset file: ignore_new, or add_new."
        ),
    )
    TYPES_LOSE_VALUES = (
        "A column of the target can take other values than those of the source, without an error.",
        (
            "Give the target's column the type that the message names, or name the column in casts of the dataset file "
            "if a changed value is right."
        ),
    )
    POLICY_FOUND = (
        (
            "A masking or row access policy of Snowflake covers the target or the staging table, and the role of the "
            "syncs is not exempt from it, or nothing shows that it is."
        ),
        (
            "Exempt the role in the body of the policy, by IS_ROLE_IN_SESSION('DATA_SHARE_LOADER'); then say policies: "
            "exempt in the dataset file."
        ),
    )
    ROWS_HIDDEN = (
        (
            "The role of the syncs does not see all rows that the target must have after the change: a row access "
            "policy hides rows, or a masking policy changes merge keys. Nothing was published."
        ),
        (
            "Exempt the role in the body of the target's row access policy, and of the masking policies of its merge "
            "keys, by IS_ROLE_IN_SESSION('DATA_SHARE_LOADER'); then start the sync again."
        ),
    )
    CHECKS_FAILED = (
        "The loaded rows are not what was exported, or are not what the dataset file demands.",
        "Correct the source, or the dataset file if a check is wrong, and start the sync again.",
    )
    TARGET_MISSING = (
        "The target table does not exist, or the role of the syncs does not see it.",
        (
            "Run the DAG set_up_snowflake: it creates targets with create_table: from_columns or a file in targets/, "
            "or says what keeps it from that. A target of others is created, and granted to the role, by its owners. "
            "Then start the sync again."
        ),
    )
    TARGET_TAKEN = (
        "Another dataset publishes to the same target: one of this Airflow, of another one, or of before.",
        (
            "Give one of the two another target_table; if the other one is no more, or was renamed, the report has the "
            "statement that says so."
        ),
    )
    SUPERSEDED = (
        (
            "A sync that was staged later is published already, this export was appended before, or its staging tables "
            "were changed after the check."
        ),
        "Look at the newest row of sync_history; if it is not what you want, start a new sync.",
        True,
    )
    LEDGER_ROW_MISSING = (
        "The publish ended well, but its row is not in the ledger.",
        "Find out who deletes from sync_history: nobody else may write there.",
    )
    TIMED_OUT = (
        "A step took longer than it may.",
        "Look at its log for what it waited for, and start the sync again.",
        True,
    )
    ENDED_AFTER_PUBLISH = (
        "The sync was published, and was ended before it could say so.",
        "Nothing is left to do: the rows are in the target, and the ledger has the sync.",
    )
    CANCELLED = (
        "A person ended the sync in Airflow.",
        "Start the sync again when it is wanted.",
        True,
    )
    STEP_DIED = (
        "A step ended without a word: killed for want of memory, lost with its machine, or ended by a person.",
        "Look at the step's log, and start the sync again.",
        True,
    )
    SHARE_BROKEN = (
        "The deployment is not as it has to be.",
        "Mend what each sentence says, and run the doctor again.",
    )
    UNEXPECTED = (
        "Something that this package does not know.",
        "Look at the step's log.",
    )

    def __init__(self, cause: str, what_to_do: str, retriable: bool = False) -> None:
        self.cause = cause
        self.what_to_do = what_to_do
        self.retriable = retriable
