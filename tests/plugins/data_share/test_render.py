"""What people set up: with the names of the share file, for each share, and nothing that a name could break."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlglot
import yaml

from data_share import render
from data_share.render import export_sql, set_up_files
from data_share.share_file import DEFAULT, ShareNames, read_share_file
from tests.docs.markdown import Page
from tests.test_default_names import found_in

PROJECT = Path(__file__).resolve().parents[3]
INCLUDE = PROJECT / "include"
COMPANY = PROJECT / "tests" / "another_company.yaml"
# Of Airflow and of the bundle's variables alone, which the scripts do not name.
IN_NO_SCRIPT = {"staging_schema", "ledger_table", "manifest_table", "webhook_conn_id", "environment"}


@pytest.fixture(scope="module")
def company() -> dict[str, ShareNames]:
    return dict(read_share_file(COMPANY, {}).shares)


def test_each_file_of_another_company_has_its_names_and_no_default_name(company: dict[str, ShareNames]) -> None:
    files = set_up_files(DEFAULT, company)
    text = "\n".join(files.values())
    assert [(path, found) for path, content in files.items() if (found := found_in(content))] == []
    for field, name in company[DEFAULT]:
        if field not in IN_NO_SCRIPT:
            value = str(name) if field != "url" else "acme-lake"
            assert value in text or value.upper() in text, field
    # Everything is known, so nothing is left to fill in but what only a person sees, such as a secret.
    assert re.findall(r"<[A-Z]+_[A-Z_]+>", text) == []


def test_the_files_are_what_their_systems_read(company: dict[str, ShareNames]) -> None:
    for path, text in set_up_files(DEFAULT, company).items():
        if path.endswith(".json"):
            json.loads(text)
        elif path.startswith("snowflake/"):
            assert sqlglot.parse(text, read="snowflake")
        elif path.endswith(".yml"):
            assert yaml.safe_load(text)["bundle"]["name"] == "acme_exports"
        assert "{%" not in text, path
        assert "{{ share" not in text, path


# Each field with all characters that its pattern accepts; the rest are identifiers.
STRANGE = {
    "url": "s3://b-1/=a_.b=/-x/",
    "databricks_conn_id": "_a.b-c",
    "snowflake_conn_id": "_a.b-c2",
    "export_job_variable": "_A0",
    "databricks_aws_role": "a+=,.@-_",
    "snowflake_aws_role": "b+=,.@-_",
    "databricks_external_id": "a+=,.@:/-_",
    "snowflake_external_id": "b+=,.@:/-_",
    "snowflake_iam_user_arn": "arn:aws-us-gov:iam::111122223333:user/a+=,.@/-_",
    "export_principal": "0a_.-",
    "airflow_principal": "1a_.-",
    "hash_secret_scope": "_a@b.-",
    "hash_secret_key": "0.@--",
}


def test_the_strangest_names_change_nothing_but_themselves(company: dict[str, ShareNames]) -> None:
    """They go through all scripts and documents, and stay what they are there: texts and names."""
    plain = set_up_files(DEFAULT, company)
    given = company[DEFAULT].model_dump()
    strange = ShareNames.model_validate({**given, **STRANGE})
    files = set_up_files(DEFAULT, {DEFAULT: strange})
    found = "\n".join(files.values())
    told = {field for field, name in STRANGE.items() if name.upper() in found.upper() or field == "url"}
    assert set(STRANGE) - told <= {"databricks_conn_id", "snowflake_conn_id", "export_job_variable"}
    for path, text in files.items():
        if path.endswith(".json"):
            assert shape(json.loads(text)) == shape(json.loads(plain[path]))
        elif path.endswith(".yml"):
            assert shape(yaml.safe_load(text)) == shape(yaml.safe_load(plain[path]))
        elif path.endswith(".sql"):
            system = "snowflake" if path.startswith("snowflake/") else "databricks"
            kinds = [[token.token_type for token in sqlglot.tokenize(one[path], read=system)] for one in (files, plain)]
            assert kinds[0] == kinds[1], path


def shape(value: object) -> object:
    """A document without its texts."""
    if isinstance(value, dict):
        return [shape(each) for each in value.values()]
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


def test_the_policies_reach_the_company_s_folder_alone(company: dict[str, ShareNames]) -> None:
    files = set_up_files(DEFAULT, company)
    for role in ("databricks", "snowflake"):
        policy = json.loads(files[f"aws/{role}_role_policy.json"])
        resources = {statement["Resource"] for statement in policy["Statement"]}
        own = {"arn:aws:iam::210987654321:role/acme-writer"} if role == "databricks" else set()
        assert resources == {"arn:aws:s3:::acme-lake", "arn:aws:s3:::acme-lake/outbound/snowflake/*", *own}
        listed = [statement["Condition"] for statement in policy["Statement"] if "Condition" in statement]
        own_folder = {"StringLike": {"s3:prefix": "outbound/snowflake/*"}}
        assert listed == ([own_folder] if role == "snowflake" else [])
    [rule] = json.loads(files["aws/bucket_lifecycle.json"])["Rules"]
    assert (rule["Filter"], rule["Expiration"]) == ({"Prefix": "outbound/snowflake/"}, {"Days": 14})
    trust = json.loads(files["aws/snowflake_role_trust.json"])["Statement"][0]
    assert trust["Principal"] == {"AWS": "arn:aws:iam::111122223333:user/abc"}
    assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": "ACME_SFCRole=2_xyz="}}


def test_shares_of_one_bucket_have_their_rules_together(tmp_path: Path) -> None:
    path = tmp_path / "share.yaml"
    path.write_text(
        f"{(PROJECT / 'include' / 'share.yaml').read_text()}\n"
        "shares:\n  emea:\n    url: s3://databricks-snowflake-share/emea/\n    keep_exports_days: 9\n"
        "  apac:\n    url: s3://another/apac/\n"
    )
    shares = read_share_file(path, {}).shares
    rules = {
        name: [
            (rule["ID"], rule["Filter"]["Prefix"], rule["Expiration"]["Days"])
            for rule in json.loads(set_up_files(name, shares)["aws/bucket_lifecycle.json"])["Rules"]
        ]
        for name in shares
    }
    # The call replaces all rules of a bucket: whichever file is used, no share loses its rule.
    assert (
        rules["default"] == rules["emea"] == [("expire-exports", "dataset/", 30), ("expire-exports-emea", "emea/", 9)]
    )
    assert rules["apac"] == [("expire-exports-apac", "apac/", 30)]


def test_the_bundle_deploys_the_sql_that_lies_beside_it(
    deploy: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(COMPANY)
    assert render.main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/default: begin with README.md\n"
    bundle = tmp_path / "default" / "databricks" / "databricks.yml"
    tasks = yaml.safe_load(bundle.read_text())["resources"]["jobs"]["export_dataset"]["tasks"]
    plan, task = (each["sql_task"] for each in tasks if "sql_task" in each)
    deployed = [(bundle.parent / each["file"]["path"]).resolve().read_text() for each in (plan, task)]
    assert deployed[0] == (INCLUDE / "sql" / "databricks" / "plan_export.sql").read_text()
    assert deployed[1] == export_sql((), read_share_file(COMPANY, {}).shares[DEFAULT])
    assert task["parameters"]["data_path"] == "{{job.parameters.export_path}}data/"


def test_each_share_s_job_has_the_conditions_of_its_datasets(
    deploy: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share, folder = tmp_path / "share.yaml", tmp_path / "datasets"
    folder.mkdir()
    emea = "url: s3://another/emea/\n    bundle: emea\n    export_job_variable: emea_job"
    apac = "url: s3://another/apac/\n    databricks_conn_id: apac"
    share.write_text(f"{COMPANY.read_text()}\nshares:\n  emea:\n    {emea}\n  apac:\n    {apac}\n")
    fields = "description: Rows.\nsource_table: a.b.c\nload_mode: replace\nrequired_columns: [a]\n"
    text = "it's a \\\\ \\n"
    for name, more in {
        "here": f"source: {{where: {json.dumps(f'a = {json.dumps(text)}')}}}\n",
        "there": "share: emea\nsource: {where: b = 1}\n",
        "all": "",
    }.items():
        (folder / f"{name}.yaml").write_text(f"{fields}target_table: {name}\n{more}")
    deploy(share, DATASETS_FOLDER=str(folder))
    assert render.main(["--folder", str(tmp_path / "rendered")]) == 0
    for name, condition in (("default", f"a = {json.dumps(text)}"), ("emea", "b = 1")):
        sql = (tmp_path / "rendered" / name / "sql" / "databricks" / "export_dataset.sql").read_text()
        literals = sqlglot.parse_one(re.findall(r"SET VAR conditions = (MAP.*?\));", sql, re.DOTALL)[0], "databricks")
        found = [literal.name for literal in literals.find_all(sqlglot.exp.Literal)]
        assert condition in found
        assert len(found) == 3
    sql = (tmp_path / "rendered" / "apac" / "sql" / "databricks" / "export_dataset.sql").read_text()
    assert "CAST(MAP() AS" in sql
    for wrong in ("a = 1;", "a BETWEN 1 AND 2"):
        (folder / "here.yaml").write_text(f"{fields}target_table: here\nsource: {{where: {wrong}}}\n")
        capsys.readouterr()
        assert render.main(["--folder", str(tmp_path / "again")]) == 1
        assert "source.where" in capsys.readouterr().err
        assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("differs", ["", "bundle: emea", "export_job_variable: emea_job"])
def test_shares_with_one_job_have_one_sql(deploy: Callable[..., None], tmp_path: Path, differs: str) -> None:
    share, folder = tmp_path / "share.yaml", tmp_path / "datasets"
    folder.mkdir()
    share.write_text(f"{COMPANY.read_text()}\nshares:\n  emea:\n    url: s3://another/emea/\n    {differs}\n")
    fields = "description: Rows.\nsource_table: a.b.c\nload_mode: replace\nrequired_columns: [a]\n"
    for name in ("default", "emea"):
        more = f"target_table: {name}\nshare: {name}\nsource: {{where: a = '{name}'}}\n"
        (folder / f"of_{name}.yaml").write_text(fields + more)
    deploy(share, DATASETS_FOLDER=str(folder))
    assert render.main(["--folder", str(tmp_path / "rendered")]) == 0
    # Whichever is deployed last: the job knows the conditions of both.
    of_default, of_emea = (
        (tmp_path / "rendered" / name / "sql" / "databricks" / "export_dataset.sql").read_text()
        for name in ("default", "emea")
    )
    assert of_default == of_emea
    assert [f"a = \\'{name}\\'" in of_default for name in ("default", "emea")] == [True, True]


def test_each_share_s_job_has_its_secret_of_hashes(tmp_path: Path) -> None:
    path = tmp_path / "share.yaml"
    path.write_text(
        f"{COMPANY.read_text()}\nshares:\n  emea:\n    url: s3://another/emea/\n    hash_secret_key: of-emea\n"
        "    bundle: emea\n    export_job_variable: emea_job\n"
    )
    shares = read_share_file(path, {"DATA_SHARE_HASH_SECRET_SCOPE": "dev.secrets"}).shares
    for name, key in ((DEFAULT, "hash.v2"), ("emea", "of-emea")):
        files = set_up_files(name, shares)
        sql = files["sql/databricks/export_dataset.sql"]
        assert re.findall(r"SET VAR secret_(\w+) = '(.*)';", sql) == [("scope", "dev.secrets"), ("key", key)]
        assert f"put-secret dev.secrets {key}\n" in files["README.md"]


def test_a_folder_that_cannot_be_written_is_told(
    deploy: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(COMPANY)
    (tmp_path / "file").write_text("")
    assert render.main(["--folder", str(tmp_path / "file")]) == 1
    told, error = capsys.readouterr()
    assert (told, error.startswith(f"[Errno 20] Not a directory: '{tmp_path / 'file' / 'default'}")) == ("", True)


def test_a_folder_of_datasets_that_cannot_be_read_is_not_taken_for_an_empty_one(
    deploy: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a folder of another user, but for root too.
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    deploy(COMPANY, DATASETS_FOLDER=str(tmp_path / "loop"))
    assert render.main(["--folder", str(tmp_path / "rendered")]) == 1
    told = capsys.readouterr().err
    assert "/loop cannot be read, so there is nothing to sync:\n  [Errno 40] " in told
    assert not (tmp_path / "rendered").exists()


def test_a_wrong_share_file_renders_nothing(
    deploy: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(COMPANY, STAGE="a; DROP TABLE b")
    assert render.main(["--folder", str(tmp_path)]) == 1
    assert "stage: write a plain name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("conn_id", "given"), [("lake_2", "AIRFLOW_CONN_LAKE_2"), ("lake-eu.2", "lake-eu.2")])
def test_a_shell_takes_the_connection_of_the_page(company: dict[str, ShareNames], conn_id: str, given: str) -> None:
    share = ShareNames.model_validate({**company[DEFAULT].model_dump(), "databricks_conn_id": conn_id})
    page = set_up_files(DEFAULT, {DEFAULT: share})["README.md"]
    [command] = re.findall(r"^## Airflow\n\n```sh\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    tell = 'airflow() { printf "%s\\n" "$@"; }\n'
    done = subprocess.run(
        ["bash", "-euc", f"{tell}{command}\nenv -0 | grep -z ^AIRFLOW_CONN_LAKE || true"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (given in done.stdout, '"conn_type": "databricks"' in done.stdout, done.stderr) == (True, True, "")


def test_the_page_has_the_commands_that_the_documents_explain() -> None:
    page = set_up_files(DEFAULT, read_share_file(PROJECT / "include" / "share.yaml", {}).shares)["README.md"]
    told = " ".join(page.replace("\\\n", " ").split())
    missing = []
    for name in ("docs/aws.md", "docs/databricks.md"):
        for block in Page.read(name).blocks:
            for command in block.content.replace("\\\n", " ").split("\n\n" if block.language == "sql" else "\n"):
                plain = " ".join(command.split())
                first = plain.partition(" ")[0]
                if first in ("aws", "CREATE", "databricks") and "bundle run" not in plain and plain not in told:
                    missing.append(plain)
    # Afterwards, and only when Airflow signs in for the first time.
    assert [one for one in missing if "secrets-proxy" not in one and "'{" not in one] == []
