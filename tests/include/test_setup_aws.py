"""The policies for AWS: each gives what its side needs of the share, and nothing else of the account."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data_share.render import set_up_files
from data_share.share_file import DEFAULT, share_file

if TYPE_CHECKING:
    import boto3

PROJECT = Path(__file__).resolve().parents[2]
AWS = PROJECT / "include" / "aws"
# As the share has them; test_the_share_is_the_products compares them.
BUCKET, PREFIX = "databricks-snowflake-share", "dataset/"
BUCKET_ARN = f"arn:aws:s3:::{BUCKET}"
OBJECTS_ARN = f"{BUCKET_ARN}/{PREFIX}*"
ROLES = ("databricks", "snowflake")
FILLED_IN = {
    "AWS_ACCOUNT_ID": "123456789012",
    "DATABRICKS_EXTERNAL_ID": "0a1b2c3d-0000-0000-0000-000000000000",
    "SNOWFLAKE_IAM_USER_ARN": "arn:aws:iam::999988887777:user/externalstages/abc",
    "SNOWFLAKE_EXTERNAL_ID": "MYORG_SFCRole=1_abc=",
}


def read(name: str, *, fill_in: bool = False) -> Any:
    text = set_up_files(DEFAULT, share_file().shares)[f"aws/{name}.json"]
    for placeholder, value in FILLED_IN.items() if fill_in else ():
        text = text.replace(f"<{placeholder}>", value)
    return json.loads(text)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed(policy: dict[str, Any], action: str, resource: str, prefix: str | None = None) -> bool:
    """Decide as AWS does, as far as these policies go: no Deny, and conditions on s3:prefix alone."""
    for statement in policy["Statement"]:
        [pattern] = statement.get("Condition", {}).get("StringLike", {}).values() or ["*"]
        if (
            action in listed(statement["Action"])
            and any(fnmatchcase(resource, one) for one in listed(statement["Resource"]))
            # A key that the request does not have fulfils no condition.
            and ("Condition" not in statement or (prefix is not None and fnmatchcase(prefix, pattern)))
        ):
            return True
    return False


def test_the_share_is_the_products() -> None:
    from data_share.share import Share

    assert f"s3://{BUCKET}/{PREFIX}" == Share().url


def test_the_files_are_those_that_are_explained() -> None:
    explained = set(re.findall(r"include/aws/([a-z_]+)\.json", (PROJECT / "docs" / "aws.md").read_text()))
    assert explained == {path.stem for path in AWS.glob("*.json")}


def test_every_placeholder_is_of_one_form_and_explained() -> None:
    found: set[str] = set()
    for path, text in set_up_files(DEFAULT, share_file().shares).items():
        if not path.startswith(("aws/", "snowflake/")):
            continue
        found.update(re.findall(r"<([A-Z_]+)>", text))
        # Nothing that looks like a placeholder of another form, an example's account or a real one.
        assert not re.findall(r"<(?![A-Z_]+>)|\$\{|\{\{|TODO|(?<!\d)0{4,12}(?!\d)", text), path
    assert found == set(FILLED_IN)
    docs = (PROJECT / "docs" / "aws.md").read_text()
    assert all(f"`<{placeholder}>`" in docs for placeholder in found)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_the_share_and_nothing_else(role: str) -> None:
    policy = read(f"{role}_role_policy")
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        for action in listed(statement["Action"]):
            assert re.fullmatch(r"s3:[A-Za-z]+|sts:AssumeRole", action), action
        for resource in listed(statement["Resource"]):
            itself = f"arn:aws:iam::<AWS_ACCOUNT_ID>:role/data-share-{role}"
            assert resource in {BUCKET_ARN, OBJECTS_ARN, itself}, resource
            assert (resource == itself) == (listed(statement["Action"]) == ["sts:AssumeRole"])
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert not allowed(policy, action, f"{BUCKET_ARN}/other/file.parquet")
        assert not allowed(policy, action, f"{BUCKET_ARN}/datasets/file.parquet")


def test_databricks_writes_reads_and_deletes_exports() -> None:
    policy = read("databricks_role_policy")
    export = f"{BUCKET_ARN}/{PREFIX}shared_forecasts/key/1/data/part-0.parquet"
    # INSERT OVERWRITE DIRECTORY deletes what is there; the manifest reads the files; large files come in parts.
    for action in ("PutObject", "GetObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"):
        assert allowed(policy, f"s3:{action}", export), action
    for action in ("ListBucket", "GetBucketLocation", "ListBucketMultipartUploads"):
        assert allowed(policy, f"s3:{action}", BUCKET_ARN), action


def test_snowflake_only_reads() -> None:
    policy = read("snowflake_role_policy")
    actions = {action for statement in policy["Statement"] for action in listed(statement["Action"])}
    assert actions == {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:GetBucketLocation"}
    assert allowed(policy, "s3:GetObject", f"{BUCKET_ARN}/{PREFIX}shared_forecasts/key/1/data/part-0.parquet")
    assert allowed(policy, "s3:ListBucket", BUCKET_ARN, prefix=PREFIX)
    assert allowed(policy, "s3:ListBucket", BUCKET_ARN, prefix=f"{PREFIX}shared_forecasts/key/1/data/")
    assert not allowed(policy, "s3:ListBucket", BUCKET_ARN, prefix="other/")
    assert not allowed(policy, "s3:ListBucket", BUCKET_ARN), "the whole bucket"
    # No request for the location has a prefix: under the condition of the list, it would always be refused.
    assert allowed(policy, "s3:GetBucketLocation", BUCKET_ARN)


@pytest.mark.parametrize("role", ROLES)
def test_nobody_takes_a_role_without_its_external_id(role: str) -> None:
    trust = read(f"{role}_role_trust")
    assert trust["Version"] == "2012-10-17"
    for statement in trust["Statement"]:
        assert set(statement) == {"Sid", "Effect", "Principal", "Action", "Condition"}
        assert (statement["Effect"], statement["Action"]) == ("Allow", "sts:AssumeRole")
        assert statement["Condition"]["StringEquals"] == {"sts:ExternalId": f"<{role.upper()}_EXTERNAL_ID>"}
        [principal] = statement["Principal"].values()
        assert "*" not in principal
        # A whole account is trusted only as far as the role itself is meant.
        if principal.endswith(":root"):
            assert statement["Condition"]["ArnEquals"] == {
                "aws:PrincipalArn": f"arn:aws:iam::<AWS_ACCOUNT_ID>:role/data-share-{role}"
            }


def test_the_role_of_databricks_trusts_itself() -> None:
    trust = read("databricks_role_trust")
    assert [statement["Sid"] for statement in trust["Statement"]] == ["UnityCatalog", "Itself"]


@pytest.fixture
def account() -> Iterator[boto3.Session]:
    """An AWS account in this process: moto answers before anything reaches a network."""
    import boto3
    from moto import mock_aws

    aws = mock_aws()
    # moto has one memory for all in a process: another test's S3 must not lose its objects.
    aws.start(reset=False)
    yield boto3.Session(region_name="us-east-1")
    aws.stop(remove_data=False)


@pytest.mark.parametrize("role", ROLES)
def test_aws_takes_the_policies(account: boto3.Session, role: str) -> None:
    iam = account.client("iam")
    name = f"data-share-{role}"
    trust, policy = (read(f"{role}_role_{kind}", fill_in=True) for kind in ("trust", "policy"))
    created = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    assert created["Arn"] == f"arn:aws:iam::{FILLED_IN['AWS_ACCOUNT_ID']}:role/{name}"
    # An inline policy and a managed one are checked by moto in the same way; a managed one also for its grammar.
    iam.put_role_policy(RoleName=name, PolicyName="share", PolicyDocument=json.dumps(policy))
    iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(policy))
    assert iam.get_role_policy(RoleName=name, PolicyName="share")["PolicyDocument"] == policy
    assert created["AssumeRolePolicyDocument"] == trust


def test_aws_takes_the_lifecycle_rule_for_the_share_only(account: boto3.Session) -> None:
    s3 = account.client("s3")
    s3.create_bucket(Bucket="bucket-with-a-rule")
    s3.put_bucket_lifecycle_configuration(Bucket="bucket-with-a-rule", LifecycleConfiguration=read("bucket_lifecycle"))
    [rule] = s3.get_bucket_lifecycle_configuration(Bucket="bucket-with-a-rule")["Rules"]
    assert (rule["Status"], rule["Filter"]) == ("Enabled", {"Prefix": PREFIX})
    # A sync may take more than a day, and people want to load an earlier export again.
    assert rule["Expiration"]["Days"] >= 7
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 1
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] >= 1
