"""The checks of Snowflake: connection, sign-in, stage, tables, and the rights that the load modes need."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from data_share.column_types import SYNONYMS, UnknownTypeError, target_type
from data_share.datasets import Dataset, LoadMode, SchemaDrift
from data_share.doctor.deployment import (
    Answer,
    Check,
    Deployment,
    State,
    check_fields,
    check_reachable,
    clock,
    connection_of,
    error_text,
    listed,
    no_connection,
    ok,
    skew_between,
    verdict,
    with_advice,
    wrong,
)
from data_share.share import Share, run_key
from data_share.snowflake.connection import fingerprint_of
from data_share.snowflake.exported_schema import exported_columns
from data_share.snowflake.policies import (
    Samples,
    describe_policies,
    exemption_advice,
    has_row_access_policy,
    masking_policies,
)
from data_share.snowflake.schema_drift import lossy_columns
from data_share.snowflake.sql_api import SnowflakeRefusedError, SnowflakeStatementError
from data_share.snowflake.statements import DOES_NOT_EXIST
from data_share.snowflake.target_lock import TargetTakenError, refuse_target_of_another, select_lock
from data_share.sql_files import render_sql
from data_share.sql_text import alike, folded, quoted, table_parts, written

# No dataset has a name like this, so the folder is always empty and listing it is cheap.
_EMPTY_FOLDER = "_check/"
_CODES_OF_REFUSED_ROLE = ("390186", "390189")


def snowflake_connection(deployment: Deployment) -> Answer:
    """The connection exists and has the fields that the syncs need."""
    share = deployment.share
    connection = connection_of(share.snowflake_conn_id)
    if connection is None:
        return no_connection(share.snowflake_conn_id)
    extra = connection.extra_dejson
    fields = {"schema": connection.schema}
    keys = ("private_key_file", "private_key_content")
    is_oauth = bool(extra.get("authenticator") in ("oauth", "programmatic_access_token") or extra.get("azure_conn_id"))
    if not is_oauth:
        fields["login"] = connection.login
        if not any(extra.get(name) for name in keys):
            fields["extra private_key_file or private_key_content"] = None
    fields |= {f"extra {name}": extra.get(name) for name in ("account", "warehouse", "database", "role")}
    return check_fields(share.snowflake_conn_id, [name for name, value in fields.items() if not value])


def snowflake_key(deployment: Deployment) -> Answer:
    """The private key can be read, and its type and length are those that Snowflake accepts."""
    key = deployment.snowflake.get_private_key()
    if key is None:
        return ok("the sign-in uses a token, no key.")
    return ok(f"{key.key_size} bits; DESCRIBE USER shows it as RSA_PUBLIC_KEY_FP {fingerprint_of(key)}.")


def snowflake_reachable(deployment: Deployment) -> Answer:
    """A server answers at the account's address."""
    return check_reachable(deployment, "Snowflake", deployment.snowflake.statements_url, "extra account or host")


def snowflake_sign_in(deployment: Deployment) -> Answer:
    """Snowflake accepts user, key and account."""
    share = deployment.share
    sql = (
        "SELECT CURRENT_USER() AS user_name, CURRENT_ROLE() AS role_name, CURRENT_DATABASE() AS database_name, "
        "CURRENT_SCHEMA() AS schema_name, SYSDATE() AS system_time"
    )
    before = deployment.now()
    try:
        [deployment.session] = deployment.rows(sql)
    except SnowflakeRefusedError as error:
        if any(f"code {code}" in str(error) for code in _CODES_OF_REFUSED_ROLE):
            deployment.role_error = error_text(error)
            return ok("user and key are accepted.")
        return wrong(f"{error_text(error)}. How to give the user a new key: docs/snowflake.md.")
    except Exception as error:
        return wrong(
            f"The sign-in of {share.snowflake_conn_id} fails: {error_text(error)}. Check the private key, and "
            "account and login of the connection: docs/snowflake.md."
        )
    theirs = deployment.session["SYSTEM_TIME"].replace(tzinfo=UTC)
    deployment.skews["Snowflake"] = skew_between(before, theirs, deployment.now())
    return ok(f"signed in as {deployment.session['USER_NAME']}.")


def snowflake_clock(deployment: Deployment) -> Answer:
    """The clocks of this machine and of Snowflake agree; otherwise Snowflake refuses the tokens."""
    return clock(deployment, "Snowflake")


def snowflake_role(deployment: Deployment) -> Answer:
    """The user has the connection's role."""
    if deployment.role_error:
        return wrong(
            f"{deployment.role_error}. Grant it (GRANT ROLE ... TO USER ...), or correct the extra role of "
            f"{deployment.share.snowflake_conn_id}."
        )
    return ok(f"{deployment.session['ROLE_NAME']}.")


def database_and_schema(deployment: Deployment) -> Answer:
    """Database and schema of the connection exist, and the role may use them."""
    connection = deployment.snowflake.get_connection(deployment.share.snowflake_conn_id)
    wanted = {"database": connection.extra_dejson["database"], "schema": connection.schema}
    for kind, name in wanted.items():
        if deployment.session[f"{kind.upper()}_NAME"] is None:
            return wrong(
                f"The {kind} {name} does not exist, or role {_role(deployment)} may not use it. Check the connection "
                f"(in the SQL API, the name's case matters), or GRANT USAGE ON {kind.upper()} {name} TO ROLE "
                f"{_role(deployment)}."
            )
    return ok(f"{deployment.session['DATABASE_NAME']}.{deployment.session['SCHEMA_NAME']}.")


def snowflake_warehouse(deployment: Deployment) -> Answer:
    """The role may use the connection's warehouse."""
    name = deployment.snowflake.get_connection(deployment.share.snowflake_conn_id).extra_dejson["warehouse"]
    try:
        deployment.rows("SELECT COUNT(*) AS total FROM information_schema.schemata")
    except SnowflakeStatementError as error:
        return wrong(
            f"Warehouse {name} cannot be used: {error_text(error)}. If it exists: GRANT USAGE ON WAREHOUSE "
            f"{name} TO ROLE {_role(deployment)}."
        )
    return ok(f"{name}.")


def storage_integration(deployment: Deployment) -> Answer:
    """The storage integration is enabled and allows the share, and the role may use it."""
    share = deployment.share
    name = share.storage_integration
    try:
        # Needs USAGE on the integration, as COPY INTO and LIST do, even for the role that owns the stage.
        rows = deployment.rows(f"DESCRIBE INTEGRATION {name}")
    except SnowflakeStatementError as error:
        return wrong(
            f"{error_text(error)}. Each COPY INTO needs USAGE on the integration of its stage: GRANT USAGE ON "
            f"INTEGRATION {name} TO ROLE {_role(deployment)}. If the integration does not exist, an account "
            "administrator creates it: docs/snowflake.md."
        )
    properties = {str(row["property"]).upper(): str(row["property_value"] or "") for row in rows}
    allowed, blocked = (
        [place.strip(" []'\"") for place in properties.get(f"STORAGE_{which}_LOCATIONS", "").split(",")]
        for which in ("ALLOWED", "BLOCKED")
    )
    problems = []
    if properties.get("ENABLED", "").lower() != "true":
        problems.append(f"The integration {name} is not enabled: ALTER INTEGRATION {name} SET ENABLED = TRUE.")
    if not any(place == "*" or (place and share.url.startswith(place)) for place in allowed):
        problems.append(f"The integration {name} allows {listed(allowed)}, but not {share.url}.")
    if any(place and share.url.startswith(place) for place in blocked):
        problems.append(f"The integration {name} blocks {share.url}.")
    advice = "An account administrator must alter it, never replace it: docs/snowflake.md."
    return verdict(with_advice(problems, advice), f"{name} allows {share.url}.")


def stage(deployment: Deployment) -> Answer:
    """The stage exists, and has the share's url and storage integration."""
    share = deployment.share
    schema = f"{deployment.session['DATABASE_NAME']}.{deployment.session['SCHEMA_NAME']}"
    found = [
        row
        for row in deployment.rows(f"SHOW STAGES LIKE '{share.stage}'")
        if (row["name"], row["database_name"], row["schema_name"]) == (share.stage.upper(), *schema.split("."))
    ]
    if not found:
        return wrong(
            f"The stage {schema}.{share.stage} does not exist, or role {_role(deployment)} has no right on it. Run the "
            f"DAG set_up_snowflake (it needs USAGE on the integration {share.storage_integration}), or GRANT USAGE ON "
            "STAGE."
        )
    problems = []
    url, integration = str(found[0]["url"] or ""), str(found[0]["storage_integration"] or "")
    if url.rstrip("/") != share.url.rstrip("/"):
        problems.append(f"The url of the stage {share.stage} is {url or 'empty'} instead of {share.url}.")
    if integration.upper() != share.storage_integration.upper():
        problems.append(f"The stage uses the integration {integration or 'none'}, not {share.storage_integration}.")
    return verdict(
        with_advice(problems, "Drop the stage and run the DAG set_up_snowflake."), f"{share.stage} has the url {url}."
    )


def list_stage(deployment: Deployment) -> Answer:
    """Snowflake can list the bucket: AWS trusts the role of the storage integration, and the role may list."""
    share = deployment.share
    try:
        deployment.rows(f"LIST @{share.stage}/{_EMPTY_FOLDER}")
    except SnowflakeStatementError as error:
        return wrong(
            f"{error_text(error)}. Role {_role(deployment)} needs USAGE on the stage and on its integration; the AWS "
            "role needs the trust policy and the rights in docs/aws.md."
        )
    return ok(f"{share.url} can be listed.")


def staging_schema(deployment: Deployment) -> Answer:
    """The schema of the staging tables exists."""
    name = deployment.share.staging_schema.upper()
    rows = deployment.rows(f"SHOW SCHEMAS LIKE '{name}' IN DATABASE \"{deployment.session['DATABASE_NAME']}\"")
    if name not in {row["name"] for row in rows}:
        return wrong(
            f"The schema {name} does not exist in {deployment.session['DATABASE_NAME']}, or role {_role(deployment)} "
            f"has no right on it. Run the DAG set_up_snowflake, or GRANT USAGE, CREATE TABLE ON SCHEMA {name}."
        )
    return ok(f"{name}.")


def ledger_tables(deployment: Deployment) -> Answer:
    """Ledger and manifest table have the columns in create_ledger.sql; those of a later version are only advised."""
    problems, advice, tables = [], [], ledger_columns(deployment.share)
    for table, columns in tables.items():
        found = columns_of(deployment, table)
        if isinstance(found, str):
            problems.append(f"{found} Run the DAG set_up_snowflake.")
            continue
        stored = {name.upper(): kind for name, kind in columns.items()}
        if later := [name for name in _later_columns(deployment.share, table) if name not in found]:
            # Syncs work without them, so nothing that depends on these tables has to wait.
            advice.append(
                f"{table} has no column {listed(map(written, later))}, as in an earlier version. Run the DAG "
                "set_up_snowflake, which adds it; until then, syncs do not record it."
            )
        wanted = {name: kind for name, kind in stored.items() if name not in later}
        problems += _differences(table, wanted, found, "create_ledger.sql", extra_is_wrong=False)
    if advice and not problems:
        return Answer(State.ADVICE, " ".join(advice))
    return verdict([*problems, *advice], f"{listed(tables)}.")


def target_tables(deployment: Deployment) -> Answer:
    """Each target exists, belongs to no other dataset, and has the columns that its dataset file names."""
    problems, created_by_first_sync = [], []
    datasets, _ = deployment.datasets
    for dataset in datasets:
        file = f"{dataset.name}.yaml"
        problems += _target_of_another(deployment, dataset)
        found = columns_of(deployment, dataset.target, dataset.target_table)
        if isinstance(found, str) and dataset.create_table == "from_source":
            created_by_first_sync.append(dataset.target_table)
            continue
        if isinstance(found, str):
            how = "Run the DAG set_up_snowflake" if dataset.create_table else "Its owners must create it"
            problems.append(f"{found} {how} (dataset file {file}).")
            continue
        if same := alike(found):
            problems.append(
                f"The columns {listed(same)} of {dataset.target_table} differ only by case, which COPY INTO ignores: "
                "rename one of them (ALTER TABLE ... RENAME COLUMN)."
            )
        for field in ("required_columns", "merge_keys", "casts", "target_defaults"):
            if missing := [name for name in getattr(dataset, field) if name not in found]:
                problems.append(
                    f"{dataset.target_table} has no column {listed(map(written, missing))}, which {field} in {file} "
                    f"names. Correct the file or the table.{_other_case(missing, found)}"
                )
        problems += _differences(
            dataset.target_table, dataset.columns, found, file, extra_is_wrong=bool(dataset.columns)
        )
    note = f" The first sync creates {listed(created_by_first_sync)}." if created_by_first_sync else ""
    return verdict(problems, f"{listed(dataset.target_table for dataset in datasets)}.{note}")


def column_types(deployment: Deployment) -> Answer:
    """The current targets can hold every value of the columns in the last exports."""
    last = {
        str(row["DATASET"]): row["COLUMN_TYPES"]
        for row in deployment.rows(
            f"SELECT dataset, MAX_BY(column_types, exported_at) AS column_types FROM {deployment.share.manifest_table} "  # noqa: S608
            "GROUP BY dataset"
        )
    }
    problems, looked_at = [], []
    for dataset in deployment.datasets[0]:
        target = columns_of(deployment, dataset.target)
        schema = last.get(dataset.name)
        if schema is None or isinstance(target, str):
            continue
        sentences = lossy_columns(exported_columns(str(schema)), target, dataset)
        problems += [
            f"{sentence} Or list the column in casts of {dataset.name}.yaml, if its values may change."
            for sentence in sentences.values()
        ]
        looked_at.append(dataset.name)
    return verdict(problems, f"the targets keep the values of the last exports of {listed(looked_at)}.")


def ledger_rights(deployment: Deployment) -> Answer:
    """The role may write to the ledger and the manifest table, as a publish does."""
    share = deployment.share
    needed = {
        share.ledger_table: ("INSERT", "DELETE"),
        share.manifest_table: ("INSERT", "DELETE"),
    }
    problems = [problem for table, rights in needed.items() for problem in _missing_rights(deployment, table, rights)]
    return verdict(problems, "a publish may write to them.")


def target_rights(deployment: Deployment) -> Answer:
    """The role has the rights on each target that its load mode needs."""
    problems, owned, not_refreshed = [], [], []
    for dataset in deployment.datasets[0]:
        rights = dataset.rights_on_target
        if dataset.create_table == "from_source" and isinstance(columns_of(deployment, dataset.target), str):
            problems += _missing_right_to_create(deployment, dataset)
            continue
        missing = _missing_rights(deployment, dataset.target, rights, dataset.target_table)
        problems += [f"{problem} Load mode {dataset.load_mode} of {dataset.name}.yaml needs it." for problem in missing]
        refresh = [right for right in LoadMode.REPLACE.rights if right not in rights]
        if refresh and not missing and _missing_rights(deployment, dataset.target, refresh):
            not_refreshed.append(dataset.name)
        if dataset.schema_drift is SchemaDrift.ADD_NEW:
            owned.append(dataset.target_table)
    note = f" Not checked: OWNERSHIP, which schema_drift add_new needs on {listed(owned)}." if owned else ""
    if not_refreshed and not problems:
        return Answer(
            State.ADVICE,
            f"each load mode may write to its target, but full_refresh would fail for {listed(not_refreshed)}: it "
            f"needs DELETE on the target.{note}",
        )
    return verdict(problems, f"each load mode may write to its target.{note}")


def target_policies(deployment: Deployment) -> Answer:
    """No target has a policy that would stop a sync, as far as the loader can see."""
    problems, exempt = [], []
    for dataset in deployment.datasets[0]:
        try:
            described = deployment.rows(f"DESCRIBE TABLE {dataset.target}")
            plan = deployment.rows(f"EXPLAIN SELECT * FROM {dataset.target}")  # noqa: S608
        except SnowflakeStatementError:
            continue  # other checks report a target that cannot be read
        found = describe_policies(
            dataset.target_table, masking_policies(described), is_filtered=has_row_access_policy(plan)
        )
        if found and dataset.policies == "exempt":
            exempt.append(found)
        elif found:
            problems.append(
                f"{found}, which stops each sync of {dataset.name}.yaml. {exemption_advice(_role(deployment), dataset)}"
            )
    note = f" Exempt according to the dataset files, which each sync proves: {'; '.join(exempt)}." if exempt else ""
    return verdict(problems, f"no target has a policy that does not exempt the role.{note}")


def write_and_read(deployment: Deployment) -> Answer:
    """A table can be created in the staging schema and dropped, and a row with each type is read as it was written."""
    share = deployment.share
    # Named like the staging table of a run, so that clean_up_share drops it if this process dies.
    key = run_key("doctor", uuid.uuid4().hex, datetime.now(UTC))
    table = share.staging_table("doctor", key, 1, key)
    # A column for each type of Snowflake, named like its type.
    columns = dict(zip(SYNONYMS, SYNONYMS, strict=True))
    try:
        missing = _create_of_each_type(deployment, table, columns)
        samples = Samples(columns)
        deployment.rows(f"INSERT INTO {table} ({samples.names}) {samples.rows}")
        masked = samples.altered(deployment.rows(f"SELECT {samples.counts} FROM {table}")[0])  # noqa: S608
    except SnowflakeStatementError as error:
        return wrong(
            f"{error_text(error)}. GRANT USAGE, CREATE TABLE ON SCHEMA {share.staging_schema} "
            f"TO ROLE {_role(deployment)}."
        )
    finally:
        # Without the schema or the right to create, there is nothing to drop.
        with contextlib.suppress(SnowflakeStatementError):
            deployment.rows(f"DROP TABLE IF EXISTS {table}")
    if masked:
        check = f"IS_ROLE_IN_SESSION('{_role(deployment)}')"
        return wrong(
            f"Role {_role(deployment)} reads other values from a table in {share.staging_schema} than it wrote, in "
            f"columns of type {listed(masked)}: a masking policy changes them, by a tag on the schema or the database. "
            "Snowflake hides the policy's name from the role; an administrator finds it in "
            "SNOWFLAKE.ACCOUNT_USAGE.POLICY_REFERENCES. Remove the tag, or exempt the role in the policy's body: "
            f"CASE WHEN {check} THEN val ELSE ... END."
        )
    note = f" Not checked: {listed(missing)}, which the account does not have." if missing else ""
    return ok(f"created, written, read as it was written, and dropped.{note}")


def _create_of_each_type(deployment: Deployment, table: str, columns: dict[str, str]) -> list[str]:
    """Create a table with a column of each type; remove the types that the account lacks, and return them."""
    try:
        deployment.rows(
            f"CREATE TABLE {table} ({', '.join(f'{quoted(name)} {kind}' for name, kind in columns.items())})"
        )
    except SnowflakeStatementError:
        # Add the columns one by one, to find which types fail; every account has the first type.
        first, *others = columns
        deployment.rows(f"CREATE TABLE {table} ({quoted(first)} {columns[first]})")
        missing = []
        for name in others:
            try:
                deployment.rows(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {columns[name]}")
            except SnowflakeStatementError:
                missing.append(name)
                del columns[name]
        return missing
    return []


def _role(deployment: Deployment) -> str:
    return str(deployment.session["ROLE_NAME"])


def _target_of_another(deployment: Deployment, dataset: Dataset) -> list[str]:
    """Return a problem if another dataset, perhaps of another Airflow, publishes to the target."""
    try:
        rows = deployment.rows(select_lock(dataset, deployment.share))
    except SnowflakeStatementError as error:
        # Before the first sync, the lock table does not exist.
        return [] if DOES_NOT_EXIST in str(error) else [f"The lock of {dataset.target_table}: {error_text(error)}."]
    try:
        refuse_target_of_another(dataset, deployment.share, rows)
    except TargetTakenError as error:
        return [f"{error.message} {error.what_to_do}"]
    return []


def ledger_columns(share: Share) -> dict[str, dict[str, str]]:
    """Return the tables in create_ledger.sql with the types of their columns."""
    sql = render_sql("create_ledger", share=share)
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*?)\n\);", sql, flags=re.DOTALL)
    return {table: dict(re.findall(r"^ +(\w+) (\w+)", columns, flags=re.MULTILINE)) for table, columns in tables}


def _later_columns(share: Share, table: str) -> list[str]:
    """Return the columns that create_ledger.sql adds to a table of an earlier version."""
    sql = render_sql("create_ledger", share=share)
    return [name.upper() for name in re.findall(rf"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS (\w+)", sql)]


def columns_of(deployment: Deployment, table: str, shown: str = "") -> dict[str, str] | str:
    """
    Return the types of a table's columns, or Snowflake's error.

    :param table: the table for SQL
    :param shown: the table for people, in the error; default: the same
    """
    try:
        return {str(row["name"]): str(row["type"]) for row in deployment.rows(f"DESCRIBE TABLE {table}")}
    except SnowflakeStatementError as error:
        return f"{shown or table}: {error_text(error)}."


def _differences(
    table: str, wanted: Mapping[str, str], found: Mapping[str, str], file: str, *, extra_is_wrong: bool
) -> list[str]:
    problems = []
    missing = [name for name in wanted if name not in found]
    if missing:
        problems.append(
            f"{table} has no column {listed(map(written, missing))}, which {file} has: add it (ALTER TABLE)."
            f"{_other_case(missing, found)}"
        )
    if extra_is_wrong and (extra := sorted(set(found) - set(wanted))):
        problems.append(f"{table} has {listed(extra)}, which {file} does not have: add it there, or drop it.")
    for name, kind in wanted.items():
        actual = found.get(name)
        if actual is not None and _plain(actual) != _plain(kind):
            problems.append(f"{table}: column {name} is {actual}, but {kind} in {file}: alter the table or the file.")
    return problems


def _other_case(missing: Sequence[str], found: Iterable[str]) -> str:
    """Return a hint at columns that exist in another case, with their names for a dataset file."""
    others = {folded(name): name for name in found}
    existing = [f"'{written(others[folded(name)])}'" for name in missing if folded(name) in others]
    return f" It exists in another case: write it as {listed(existing)} in the dataset file." if existing else ""


def _plain(kind: str) -> str:
    """Return a type without its size, by the name that Snowflake's DESCRIBE TABLE shows."""
    words = kind.upper().removesuffix(" NOT NULL")
    try:
        return target_type(words).kind
    except UnknownTypeError:
        return words.partition("(")[0].strip()


def _missing_rights(deployment: Deployment, table: str, rights: Sequence[str], name: str = "") -> list[str]:
    """
    Return a problem for each right on a table that the role lacks, found with statements that change no row.

    :param table: the table for SQL
    :param name: the table for people; default: the same
    """
    column = quoted(next(iter(found))) if isinstance(found := columns_of(deployment, table), dict) else ""
    if not column:
        return [str(found)]
    probes = {
        "SELECT": f"SELECT COUNT(*) AS total FROM {table} WHERE FALSE",  # noqa: S608
        "INSERT": f"INSERT INTO {table} SELECT * FROM {table} WHERE FALSE",  # noqa: S608
        "UPDATE": f"UPDATE {table} SET {column} = {column} WHERE FALSE",  # noqa: S608
        "DELETE": f"DELETE FROM {table} WHERE FALSE",  # noqa: S608
    }
    # All in one request; if it fails, each alone, to find which right is missing.
    with contextlib.suppress(SnowflakeStatementError):
        deployment.rolled_back([probes[right] for right in ("SELECT", *rights)])
        return []
    problems = []
    for right in ("SELECT", *rights):
        try:
            deployment.rolled_back([probes[right]])
        except SnowflakeStatementError as error:
            grant = f"GRANT {right} ON TABLE {table} TO ROLE {_role(deployment)}"
            problems.append(f"{right} on {name or table} fails: {error_text(error)}. {grant}.")
            if right == "SELECT":
                # The other statements read the table too, and would fail for the same reason.
                break
    return problems


def _missing_right_to_create(deployment: Deployment, dataset: Dataset) -> list[str]:
    """Return a problem if the role may not create a table in the target's schema; creates one and drops it."""
    schema = ".".join(map(quoted, table_parts(dataset.target_table)[:-1]))
    table = f"{schema}.check_share_{uuid.uuid4().hex}".removeprefix(".")
    try:
        deployment.rows(f"CREATE TABLE {table} (n NUMBER(38, 0))")
        deployment.rows(f"DROP TABLE {table}")
    except SnowflakeStatementError as error:
        place = schema or f"{deployment.session['DATABASE_NAME']}.{deployment.session['SCHEMA_NAME']}"
        text = (
            f"The first sync of {dataset.name}.yaml cannot create {dataset.target_table}: {error_text(error)}. GRANT "
            f"CREATE TABLE ON SCHEMA {place} TO ROLE {_role(deployment)}."
        )
        return [text]
    return []


CHECKS: tuple[Check, ...] = (
    Check("Snowflake", "Snowflake connection", "{share.snowflake_conn_id}", snowflake_connection),
    Check("Snowflake", "Snowflake key", "the private key", snowflake_key, ("Snowflake connection",)),
    Check("Snowflake", "Snowflake address", "account, host", snowflake_reachable, ("Snowflake connection",)),
    Check("Snowflake", "Snowflake sign-in", "login and key", snowflake_sign_in, ("Snowflake key", "Snowflake address")),
    Check("Snowflake", "Snowflake clock", "HTTP header Date, SYSDATE()", snowflake_clock, ("Snowflake address",)),
    Check("Snowflake", "role", "CURRENT_ROLE()", snowflake_role, ("Snowflake sign-in",)),
    Check("Snowflake", "database and schema", "CURRENT_SCHEMA()", database_and_schema, ("role",)),
    Check("Snowflake", "warehouse", "a query", snowflake_warehouse, ("database and schema",)),
    Check("Snowflake", "storage integration", "DESCRIBE INTEGRATION", storage_integration, ("role",)),
    Check("Snowflake", "stage", "SHOW STAGES", stage, ("database and schema",)),
    Check("Snowflake", "share", "LIST", list_stage, ("stage", "storage integration")),
    Check("Snowflake", "staging schema", "SHOW SCHEMAS", staging_schema, ("database and schema",)),
    Check("Snowflake", "ledger tables", "DESCRIBE TABLE", ledger_tables, ("database and schema",)),
    Check("Snowflake", "target tables", "DESCRIBE TABLE", target_tables, ("database and schema",)),
    Check("Snowflake", "column types", "the last manifests", column_types, ("warehouse", "ledger tables")),
    Check("Snowflake", "rights on the ledger", "probes, rolled back", ledger_rights, ("warehouse", "ledger tables")),
    Check("Snowflake", "rights on the targets", "probes, rolled back", target_rights, ("warehouse", "target tables")),
    Check("Snowflake", "policies", "DESCRIBE TABLE, EXPLAIN", target_policies, ("target tables",)),
    Check(
        "Snowflake",
        "write and read",
        "a row of each type in {share.staging_schema}",
        write_and_read,
        ("warehouse", "staging schema"),
    ),
)
