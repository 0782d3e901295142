"""Statements that look: at the files of a stage, at an integration, at where the session is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.tier("full"), pytest.mark.sandbox]


@pytest.fixture(scope="module", autouse=True)
def stage(api: Any, tools: Any) -> None:
    """A stage of the loader's."""
    api.ok(f"CREATE STAGE looked_at URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT")


def test_list_shows_the_files_below_a_path(api: Any, tools: Any, folder: str, put: Callable[[str, Any], None]) -> None:
    put(f"{folder}b.parquet", b"two")
    put(f"{folder}a/_SUCCESS", b"")
    answer = api.ok(f"LIST @looked_at/{folder}")
    assert [column["name"] for column in answer["resultSetMetaData"]["rowType"]] == [
        "name",
        "size",
        "md5",
        "last_modified",
    ]
    assert [(name, size) for name, size, *_ in answer["data"]] == [
        (f"{tools.URL}{folder}a/_SUCCESS", "0"),
        (f"{tools.URL}{folder}b.parquet", "3"),
    ]
    assert answer["data"][0][2] == "d41d8cd98f00b204e9800998ecf8427e"
    assert answer["data"][0][3].endswith(" GMT")
    assert api.rows(f"LS @data_share.public.looked_at/{folder}nothing/") == []


def test_list_takes_the_right_to_use_the_stage(api: Any, admin: Any) -> None:
    assert api.error("LIST @none")[0] == "002003"
    admin.ok("GRANT OWNERSHIP ON STAGE data_share.public.looked_at TO ROLE accountadmin")
    assert api.error("LIST @looked_at")[0] == "002003"
    admin.ok("GRANT USAGE ON STAGE data_share.public.looked_at TO ROLE data_share_loader")
    api.ok("LIST @looked_at/none/")


def test_who_owns_a_stage_needs_the_right_to_use_its_integration_too(api: Any, admin: Any, tools: Any) -> None:
    api.ok(f"CREATE STAGE own_stage URL = '{tools.URL}' STORAGE_INTEGRATION = S3_SHARE_INT")
    api.ok("CREATE TABLE own_table (id NUMBER)")
    statements = ("LIST @own_stage/none/", f"COPY INTO own_table FROM @own_stage/none/ {tools.COPY}")
    admin.ok("REVOKE USAGE ON INTEGRATION s3_share_int FROM ROLE data_share_loader")
    try:
        said = [api.error(statement) for statement in statements]
    finally:
        admin.ok("GRANT USAGE ON INTEGRATION s3_share_int TO ROLE data_share_loader")
    denied = "SQL access control error:\nInsufficient privileges to operate on integration 'S3_SHARE_INT'"
    assert said == [("003001", denied)] * 2
    for statement in statements:
        api.ok(statement)


def test_a_stage_whose_integration_is_gone(admin: Any) -> None:
    admin.ok(
        "CREATE STORAGE INTEGRATION gone_int TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE "
        "STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_ALLOWED_LOCATIONS = ('s3://gone/')"
    )
    admin.ok("CREATE STAGE orphan URL = 's3://gone/' STORAGE_INTEGRATION = gone_int")
    admin.ok("DROP INTEGRATION gone_int")
    code, message = admin.error("LIST @orphan")
    assert (code, "Integration 'GONE_INT' does not exist or not authorized" in message) == ("002003", True)


def test_list_of_a_bucket_that_is_not_there(admin: Any) -> None:
    admin.ok(
        "CREATE STORAGE INTEGRATION nowhere_int TYPE = EXTERNAL_STAGE STORAGE_PROVIDER = 'S3' ENABLED = TRUE "
        "STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::1:role/r' STORAGE_ALLOWED_LOCATIONS = ('s3://no-such-bucket/')"
    )
    admin.ok("CREATE STAGE nowhere URL = 's3://no-such-bucket/' STORAGE_INTEGRATION = nowhere_int")
    code, message = admin.error("LIST @nowhere")
    assert code == "091003"
    assert "Failure using stage area" in message


def test_an_integration_describes_itself_to_who_may_see_it(api: Any, admin: Any, tools: Any) -> None:
    properties = {name: value for name, _, value, _ in api.rows("DESC INTEGRATION s3_share_int")}
    assert properties["ENABLED"] == "true"
    assert properties["STORAGE_ALLOWED_LOCATIONS"] == tools.URL
    assert api.error("DESCRIBE INTEGRATION none_int")[0] == "002003"
    admin.ok("REVOKE USAGE ON INTEGRATION s3_share_int FROM ROLE data_share_loader")
    try:
        assert api.error("DESCRIBE STORAGE INTEGRATION s3_share_int")[0] == "002003"
    finally:
        admin.ok("GRANT USAGE ON INTEGRATION s3_share_int TO ROLE data_share_loader")


def test_where_the_session_is(api: Any, admin: Any) -> None:
    where = "SELECT CURRENT_DATABASE() AS d, CURRENT_SCHEMA() AS s"
    assert api.rows(where) == [["DATA_SHARE", "PUBLIC"]]
    assert api.rows(where, schema="NOWHERE") == [["DATA_SHARE", None]]
    assert api.rows(where, database="NOWHERE") == [[None, None]]
    admin.ok("CREATE SCHEMA data_share.closed")
    assert api.rows(where, schema="CLOSED") == [["DATA_SHARE", None]]
