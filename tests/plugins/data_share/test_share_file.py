"""The file that says what a deployment is: what is accepted, what the environment replaces, how an error is told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_share import share_file as module
from data_share.dataset_files import InvalidDatasetError, read_dataset, read_datasets
from data_share.share import Share, run_key, shares
from data_share.share_file import (
    FileFields,
    InvalidShareFileError,
    ShareFile,
    ShareNames,
    read_share_file,
    share_file,
)
from tests.airflow_double import DagRun

PROJECT = Path(__file__).resolve().parents[3]
SHIPPED: dict[str, Any] = yaml.safe_load((PROJECT / "include" / "share.yaml").read_text())
EMEA = {"url": "s3://acme-emea/out/", "snowflake_conn_id": "snowflake_emea"}


def write(folder: Path, content: dict[str, Any] | str | None = None, **fields: Any) -> Path:
    """Write the shipped file with other fields, or a text."""
    path = folder / "include" / "share.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = content if isinstance(content, str) else yaml.safe_dump({**SHIPPED, **(content or {}), **fields})
    path.write_text(whole, encoding="utf-8")
    return path


def read(path: Path, **environ: str) -> ShareFile:
    return read_share_file(path, environ)


def problems(path: Path, **environ: str) -> list[str]:
    """Return what is said about a file; nothing when it is used."""
    try:
        read(path, **environ)
    except InvalidShareFileError as error:
        problems = error.problems
        if not str(error).startswith("include/share.yaml does not describe a deployment:\n  "):
            raise
        return problems
    return []


# ---- the file


def test_the_shipped_file_has_the_names_of_the_readme() -> None:
    found = read_share_file(PROJECT / "include" / "share.yaml", {})
    [name] = found.shares
    share = found.shares[name]
    assert (name, share.url, share.stage) == ("default", "s3://databricks-snowflake-share/dataset/", "s3_share_stage")
    assert (share.bucket, share.prefix) == ("databricks-snowflake-share", "dataset/")
    assert found.datasets_folder == PROJECT / "include" / "datasets"
    assert found.sql_folder == PROJECT / "include" / "sql" / "snowflake"


def test_each_name_of_another_company_is_taken() -> None:
    path = PROJECT / "tests" / "another_company.yaml"
    given = yaml.safe_load(path.read_text())
    [share] = read_share_file(path, {}).shares.values()
    assert {field: getattr(share, field) for field in given if hasattr(share, field)} == {
        field: value for field, value in given.items() if not field.endswith("_folder")
    }
    # Otherwise a name that is written somewhere else would not be noticed by the tests that use this file.
    assert {field for field in given if given[field] == SHIPPED.get(field)} == set()
    assert set(ShareNames.model_fields) - set(given) == {"environment"}


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    found = read(write(tmp_path, datasets_folder="../ours", sql_folder=str(tmp_path / "sql")))
    assert found.datasets_folder.resolve() == tmp_path / "ours"
    assert found.sql_folder == tmp_path / "sql"


@pytest.mark.parametrize("field", [name for name, field in ShareNames.model_fields.items() if field.is_required()])
def test_a_name_that_is_missing_is_named(tmp_path: Path, field: str) -> None:
    content = {name: value for name, value in SHIPPED.items() if name != field}
    assert problems(write(tmp_path, yaml.safe_dump(content))) == [f"{field}: Field required (found: nothing)"]


WRONG_FILES = {
    "no YAML": ("url: [", r"it cannot be read as YAML: .* \(line 2, column 1\)"),
    "a list": ("- url", "it must contain fields, as in 'url: s3://my-bucket/dataset/'"),
    "empty": ("", "it must contain fields, as in 'url: s3://my-bucket/dataset/'"),
    "a field twice": ("stage: a\nstage: b\n", r"it cannot be read as YAML: stage is given more than once .*"),
}


@pytest.mark.parametrize(("text", "words"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_what_is_no_share_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    [told] = problems(write(tmp_path, text))
    assert re.fullmatch(words, told)


def test_a_file_that_is_not_deployed_is_told(tmp_path: Path) -> None:
    [told] = problems(tmp_path / "include" / "share.yaml")
    assert told == f"{tmp_path}/include/share.yaml is missing; deploy include/ beside dags/ and plugins/"


WRONG_FIELDS = {
    "an unknown field": ({"stagee": "x"}, "stagee: there is no such field; did you mean stage?"),
    "no slash": ({"url": "s3://b-1/x"}, "url: it must end with a slash: write s3://b-1/x/ (found: 's3://b-1/x')"),
    "no folder": (
        {"url": "s3://bucket"},
        "url: it must name a folder of the bucket, as the lifecycle rule deletes what lies there: write s3://bucket/data",
    ),
    "a type": ({"stage": 5}, "stage: Input should be a valid string (found: 5)"),
    "a key word": ({"ledger_table": "Order"}, "ledger_table: Snowflake reserves this word; choose another name"),
    "a number for an account": (
        {"aws_account_id": 12345678901},
        "aws_account_id: write it in quotes: a number loses the zeros in front (found: 12345678901)",
    ),
    "days": ({"keep_exports_days": 3}, "keep_exports_days: Input should be greater than or equal to 7 (found: 3)"),
    "days as text": ({"keep_exports_days": "30"}, "keep_exports_days: Input should be a valid integer (found: '30')"),
    "one table twice": (
        {"manifest_table": "SYNC_HISTORY"},
        "manifest_table: SYNC_HISTORY is the ledger_table too; choose another",
    ),
    "one role twice": (
        {"reader_role": "data_share_loader"},
        "reader_role: data_share_loader is the loader_role too; readers must not load",
    ),
    "an environment": ({"environment": "Dev Team"}, "environment: String should match pattern"),
}


@pytest.mark.parametrize(("fields", "words"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_wrong_field_is_named_with_the_reason(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    [told] = problems(write(tmp_path, fields))
    assert told.startswith(words)


# ---- what must reach no SQL, no JSON, no YAML and no shell

HOSTILE = {
    "a quote": "a'b",
    "a double quote": 'a"b',
    "a semicolon": "a; DROP TABLE x",
    "a line feed at the end": "a\n",
    "a line feed": "a\nb",
    "Jinja": "{{ conn.snowflake_default.password }}",
    "a comment": "a--",
    "a comment of blocks": "a/**/b",
    "a backslash": "a\\b",
    "a way up": "..",
    "a letter that looks like an ASCII letter": "st\u0430ge",
    "a digit of another script": "a\u0661",
    "a full-width letter": "\uff41bc",
    "a blank of no width": "a\u200bb",
    "a zero byte": "a\0b",
    "a dollar": "a$(id)",
    "a backtick": "a`b",
    "a blank": "a b",
    "nothing": "",
}
TEXT_FIELDS = [name for name in ShareNames.model_fields if name != "keep_exports_days"]


def _functions(field: Any) -> list[Any]:
    return [getattr(each, "func", None) for each in field.metadata]


def in_url(text: str) -> str:
    return f"s3://bucket/{text}/"


# In quotes, or in the name of a thing outside SQL, these have no meaning.
HARMLESS_IN_A_TEXT = {"a comment", "a way up"}
IDENTIFIERS = [name for name, field in ShareNames.model_fields.items() if module._identifier in _functions(field)]


@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_no_name_has_a_character_that_ends_a_text(field: str) -> None:
    accepted = set()
    for kind, text in HOSTILE.items():
        value = in_url(text) if field == "url" else text
        try:
            ShareNames.model_validate({**SHIPPED, field: value})
        except ValueError:
            continue
        accepted.add(kind)
    assert accepted <= (set() if field in IDENTIFIERS else HARMLESS_IN_A_TEXT)


def test_each_name_that_stands_in_sql_without_quotes_is_an_identifier() -> None:
    files = [*(PROJECT / "include" / "sql" / "snowflake").rglob("*.sql")]
    sql = "\n".join(re.sub(r"'[^']*'", "''", re.sub("--.*", "", path.read_text())) for path in files)
    used = set(re.findall(r"\{\{ share\.(\w+) \}\}", sql))
    assert len(used) >= 10
    assert used - set(IDENTIFIERS) == set()


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_share_has_a_name_that_a_variable_or_a_path_could_not_hold(tmp_path: Path, kind: str) -> None:
    assert problems(write(tmp_path, shares={HOSTILE[kind]: EMEA})) != []


# ---- the environment


def test_a_variable_replaces_each_field(tmp_path: Path) -> None:
    path = write(tmp_path)
    other = yaml.safe_load((PROJECT / "tests" / "another_company.yaml").read_text())
    for field, value in other.items():
        found = read(path, **{f"DATA_SHARE_{field.upper()}": str(value)})
        is_folder = field.endswith("_folder")
        expected = path.parent / value if is_folder else value
        assert getattr(found if is_folder else found.shares["default"], field) == expected, field
    assert set(other) | {"environment", "defaults", "shares"} == set(FileFields.model_fields)


def test_a_number_of_a_variable_is_decimal(tmp_path: Path) -> None:
    assert read(write(tmp_path), DATA_SHARE_KEEP_EXPORTS_DAYS="014").shares["default"].keep_exports_days == 14


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    path = write(tmp_path, environment="dev")
    assert read(path, DATA_SHARE_ENVIRONMENT="", DATA_SHARE_URL="").shares == read(path).shares


def test_a_wrong_value_names_its_variable(tmp_path: Path) -> None:
    [told] = problems(write(tmp_path), DATA_SHARE_STAGE="a;b")
    assert told.startswith("stage: write a plain name: ")
    assert told.endswith("(found: 'a;b', in DATA_SHARE_STAGE)")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DATA_SHARE_URLL", "urll is no field; did you mean url?"),
        ("DATA_SHARE_BUCKET", "bucket is no field; "),
        ("DATA_SHARE_SHARES", "shares is no field; "),
        ("DATA_SHARE_EMEA__STAGEE", "stagee is no field; did you mean stage?"),
        ("DATA_SHARE_EMEA__ENVIRONMENT", "environment is no field; "),
        ("DATA_SHARE_APAC__URL", "but shares has no apac"),
    ],
)
def test_a_misspelt_variable_is_an_error_also_when_it_is_empty(tmp_path: Path, name: str, words: str) -> None:
    path = write(tmp_path, shares={"emea": EMEA})
    for value in ("", "x"):
        [told] = problems(path, **{name: value})
        assert told.startswith(f"{name} is set in the environment, but ")
        assert words in told


def test_variables_that_mean_something_else_are_left_alone(tmp_path: Path) -> None:
    other = ("LIVE", "LIVE_JOB_ID", "EXPORT_JOB_ID", "FILE")
    # As Kubernetes sets them for the Services data-share-api-server and data-share.
    links = (
        *("API_SERVER_SERVICE_HOST", "API_SERVER_SERVICE_PORT", "API_SERVER_SERVICE_PORT_HTTP", "API_SERVER_PORT"),
        *("API_SERVER_PORT_8080_TCP", "API_SERVER_PORT_8080_TCP_ADDR", "API_SERVER_PORT_8080_TCP_PROTO"),
        *("SERVICE_HOST", "PORT", "PORT_53_UDP_PORT"),
    )
    path = write(tmp_path)
    assert [name for name in (*other, *links) if problems(path, **{f"DATA_SHARE_{name}": "tcp://10.0.0.1:1"})] == []
    # No field looks like a variable of Kubernetes, which nobody would then notice.
    fields = [name.upper() for name in FileFields.model_fields]
    assert [name for name in fields if module._SERVICE_LINKS.fullmatch(name)] == []
    assert [name for name in fields if module._OTHER_VARIABLES.fullmatch(name)] == []


def test_the_process_of_this_deployment_reads_the_file_that_a_variable_names(
    deploy: Callable[..., None], tmp_path: Path
) -> None:
    deploy(write(tmp_path, stage="mine"), LEDGER_TABLE="loads")
    assert (Share().stage, Share().ledger_table, Share(stage="other").stage) == ("mine", "loads", "other")
    assert share_file() is share_file()


@pytest.mark.tier("full")
def test_importing_the_steps_reads_no_file() -> None:
    """Airflow's scheduler imports them once, and its tasks fork: they would see an old file."""
    script = (
        "import sys; sys.argv = ['airflow', 'scheduler']; import airflow_local_settings, data_share_plugin\n"
        "from data_share.share_file import share_file; assert share_file.cache_info().misses == 0"
    )
    path = [str(PROJECT / folder) for folder in ("config", "plugins")]
    code = f"import sys; sys.path[:0] = {path}\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- several shares


def test_a_further_share_differs_where_it_must_and_where_it_says(tmp_path: Path) -> None:
    found = read(write(tmp_path, shares={"emea": {**EMEA, "ledger_table": "emea_history"}}, aws_account_id="1" * 12))
    top, emea = found.shares["default"], found.shares["emea"]
    differs = {field: value for field, value in emea if value != getattr(top, field)}
    assert differs == {
        **EMEA,
        "ledger_table": "emea_history",
        "stage": "s3_share_stage_emea",
        "storage_integration": "s3_share_int_emea",
        "storage_credential": "data_share_emea",
        "external_location": "data_share_emea",
        "databricks_aws_role": "data-share-databricks-emea",
        "snowflake_aws_role": "data-share-snowflake-emea",
    }


def test_what_was_made_for_one_share_is_not_taken_for_another(tmp_path: Path) -> None:
    own = {"databricks_external_id": "abc", "snowflake_external_id": "def"}
    emea = read(write(tmp_path, **own, shares={"emea": EMEA})).shares["emea"]
    assert (emea.databricks_external_id, emea.snowflake_external_id) == (None, None)


def test_the_environment_reaches_a_further_share(tmp_path: Path) -> None:
    path = write(tmp_path, shares={"emea_2": EMEA})
    variables = {"DATA_SHARE_EMEA_2__URL": "s3://other/out/", "DATA_SHARE_LEDGER_TABLE": "loads"}
    emea = read(path, **variables).shares["emea_2"]
    # What the file does not say of it, follows the top.
    assert (emea.url, emea.ledger_table) == ("s3://other/out/", "loads")
    [told] = problems(path, DATA_SHARE_EMEA_2__STAGE="x y")
    assert told.endswith("(found: 'x y', in DATA_SHARE_EMEA_2__STAGE)")


MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "the url of another": ({"url": SHIPPED["url"]}, "lie in each other; give each share a folder of its own"),
    "a url in that of another": ({"url": f"{SHIPPED['url']}emea/"}, "lie in each other"),
    "a url around that of another": ({"url": "s3://bucket/x/"}, "lie in each other"),
    "one stage in an account": (
        {"stage": "S3_SHARE_STAGE", "snowflake_conn_id": "snowflake_default"},
        "S3_SHARE_STAGE is that of default, which has another url and the same snowflake_conn_id; choose another",
    ),
    "one integration in an account": (
        {"storage_integration": "s3_share_int", "snowflake_conn_id": "snowflake_default"},
        "s3_share_int is that of default",
    ),
    "one external location in a workspace": ({"external_location": "data_share"}, "data_share is that of default"),
    "one AWS role": ({"snowflake_aws_role": "data-share-snowflake"}, "and the same aws_account_id"),
    "two secrets in one job": (
        {"hash_secret_key": "other", "bundle": "emea"},
        "shares.emea.hash_secret_key: other is not that of default, which has the same export job; give this share",
    ),
    "the name of the top": ({}, "this is the name of the share at the top of the file; choose another"),
    "an unknown field": ({"stagee": "x"}, "shares.emea.stagee: there is no such field; did you mean stage?"),
    "a field of the top": ({"environment": "dev"}, "shares.emea.environment: this field may only stand at the top"),
    "a field of the file": ({"sql_folder": "x"}, "shares.emea.sql_folder: this field may only stand at the top"),
    "a wrong name": ({"stage": "a-b"}, "shares.emea.stage: write a plain name"),
    "one table twice": (
        {"ledger_table": "export_manifests"},
        "shares.emea.manifest_table: export_manifests is the ledger_table too; choose another",
    ),
}


def test_no_share_has_the_variables_of_the_defaults(tmp_path: Path) -> None:
    [told] = problems(write(tmp_path, shares={"defaults": EMEA}))
    assert told == "shares.defaults: its variables would be those of the defaults; choose another name"
    [told] = problems(write(tmp_path, shares={"emea": {**EMEA, "defaults": {}}}))
    assert told == "shares.emea.defaults: this field may only stand at the top of the file"


@pytest.mark.parametrize(("fields", "words"), MIXED.values(), ids=MIXED)
def test_shares_that_would_mix_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    name = "default" if "name of the top" in words or not fields else "emea"
    top = {"url": "s3://bucket/x/y/"} if fields.get("url") == "s3://bucket/x/" else {}
    told = problems(write(tmp_path, **top, shares={name: {**EMEA, **fields}}))
    assert len([line for line in told if words in line]) == 1, told
    assert len(told) == 1 or not fields, told


def test_neighbours_in_one_bucket_and_equal_names_in_two_accounts_are_two_shares(tmp_path: Path) -> None:
    names = {
        "stage": "s3_share_stage",
        "storage_integration": "s3_share_int",
        "url": "s3://databricks-snowflake-share/d/",
    }
    assert problems(write(tmp_path, shares={"emea": {**EMEA, **names}})) == []


# ---- environments


def test_environments_that_run_at_the_same_time_have_other_run_keys_and_owners(
    deploy: Callable[..., None], tmp_path: Path
) -> None:
    run = DagRun(dag_id="sync_tides", run_id="scheduled__2026-01-01T00:00:00+00:00")
    seen = []
    for variables in ({}, {"ENVIRONMENT": "dev"}, {"ENVIRONMENT": "test"}):
        deploy(write(tmp_path), **variables)
        seen.append((run_key(run.dag_id, run.run_id, run.run_after), Share().owner("tides")))
    assert len({key for key, _ in seen}) == 3
    assert [owner for _, owner in seen] == ["tides", "dev/tides", "test/tides"]


# ---- defaults of datasets

TIDES = {
    "description": "Tides.",
    "source_table": "main.sea.tides",
    "target_table": "tides",
    "load_mode": "replace",
    "required_columns": ["harbour"],
}


def dataset_file(folder: Path, name: str = "tides", **fields: Any) -> Path:
    path = folder / "include" / "datasets" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**TIDES, **fields}))
    return path


def test_a_dataset_has_the_defaults_unless_it_says_otherwise(tmp_path: Path) -> None:
    defaults = {"schedule": "@daily", "load_timeout_minutes": 5, "checks": {"some": "COUNT(*) > 0", "deep": "d > 0"}}
    found = read(write(tmp_path, defaults=defaults), DATA_SHARE_DEFAULTS__PROOF="counts")
    plain = read_dataset(dataset_file(tmp_path), found)
    assert (plain.schedule, plain.load_timeout_minutes, plain.proof, plain.checks) == (
        "@daily",
        5,
        "counts",
        defaults["checks"],
    )
    own = {"schedule": None, "load_timeout_minutes": 9, "checks": {"deep": "d > 9"}}
    other = read_dataset(dataset_file(tmp_path, **own), found)
    assert (other.schedule, other.load_timeout_minutes) == (None, 9)
    assert other.checks == {"some": "COUNT(*) > 0", "deep": "d > 9"}


@pytest.mark.parametrize(
    ("value", "expected"), [("@daily", "@daily"), ("0 6 * * *", "0 6 * * *")], ids=["a preset", "a cron"]
)
def test_a_schedule_of_the_environment_needs_no_quotes(tmp_path: Path, value: str, expected: str) -> None:
    found = read(write(tmp_path), DATA_SHARE_DEFAULTS__SCHEDULE=value, DATA_SHARE_DEFAULTS__LOAD_TIMEOUT_MINUTES="7")
    dataset = read_dataset(dataset_file(tmp_path), found)
    assert (dataset.schedule, dataset.load_timeout_minutes) == (expected, 7)


WRONG_DEFAULTS = {
    "a field of one dataset": ({"target_table": "x"}, {}, "defaults.target_table: no default is possible; it is for "),
    "an unknown field": ({"colour": "x"}, {}, "defaults.colour: no default is possible"),
    "a wrong value": ({"schedule": "daily"}, {}, "defaults.schedule: 'daily' is neither a cron expression nor one of"),
    "a check": ({"checks": {"a": "b; c"}}, {}, "defaults.checks.a: contains a semicolon"),
    "a variable": ({}, {"DATA_SHARE_DEFAULTS__PROOF": "none"}, "defaults.proof: Input should be 'checksums' or"),
    "an unknown variable": ({}, {"DATA_SHARE_DEFAULTS__PROOOF": "x"}, "defaults.prooof: no default is possible"),
}


@pytest.mark.parametrize(("defaults", "variables", "words"), WRONG_DEFAULTS.values(), ids=WRONG_DEFAULTS)
def test_a_wrong_default_is_an_error_of_the_share_file_and_of_no_dataset(
    tmp_path: Path, defaults: dict[str, Any], variables: dict[str, str], words: str
) -> None:
    found = read(write(tmp_path, defaults=defaults), **variables)
    dataset_file(tmp_path)
    with pytest.raises(InvalidShareFileError) as caught:
        read_datasets(deployment=found)
    assert caught.value.problems[0].startswith(words)


# ---- datasets of several shares


def test_a_dataset_names_its_share(tmp_path: Path) -> None:
    found = read(write(tmp_path, shares={"emea": EMEA}))
    assert read_dataset(dataset_file(tmp_path), found).share == "default"
    assert read_dataset(dataset_file(tmp_path, share="emea"), found).share == "emea"
    with pytest.raises(InvalidDatasetError) as caught:
        read_dataset(dataset_file(tmp_path, share="apac"), found)
    assert caught.value.problems == [
        "share: include/share.yaml has no such share; known are default, emea (found: 'apac')"
    ]


def test_a_target_is_no_table_of_its_own_share(tmp_path: Path) -> None:
    found = read(write(tmp_path, shares={"emea": {**EMEA, "ledger_table": "emea_history"}}))
    assert read_dataset(dataset_file(tmp_path, target_table="emea_history"), found)
    with pytest.raises(InvalidDatasetError, match="all syncs write to a table of this name"):
        read_dataset(dataset_file(tmp_path, share="emea", target_table="emea_history"), found)


def test_a_target_is_no_table_of_another_share_in_its_account(tmp_path: Path) -> None:
    emea = {**EMEA, "snowflake_conn_id": SHIPPED["snowflake_conn_id"], "manifest_table": "emea_manifests"}
    found = read(write(tmp_path, shares={"emea": emea}))
    with pytest.raises(InvalidDatasetError, match="all syncs write to a table of this name"):
        read_dataset(dataset_file(tmp_path, target_table="emea_manifests"), found)


@pytest.mark.parametrize(("conn_id", "taken"), [("snowflake_emea", []), ("snowflake_default", ["a", "b"])])
def test_one_target_name_is_two_tables_in_two_accounts(tmp_path: Path, conn_id: str, taken: list[str]) -> None:
    found = read(write(tmp_path, shares={"emea": {**EMEA, "snowflake_conn_id": conn_id}}))
    dataset_file(tmp_path, "a")
    dataset_file(tmp_path, "b", share="emea")
    _, errors = read_datasets(deployment=found)
    assert [error.path.stem for error in errors] == taken


def test_the_shares_of_a_process_know_their_names(deploy: Callable[..., None], tmp_path: Path) -> None:
    deploy(write(tmp_path, shares={"emea": EMEA}))
    assert {name: (share.name, share.url) for name, share in shares().items()} == {
        "default": ("default", SHIPPED["url"]),
        "emea": ("emea", EMEA["url"]),
    }
