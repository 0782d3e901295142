"""An account with an administrator beside the service user; for the tests that give and take rights."""

from __future__ import annotations

from typing import Any

import s3fs

from emulators.fault_injection import FaultInjection
from emulators.snowflake.server import create_app


def app(tools: Any, s3: tuple[str, s3fs.S3FileSystem], state_dir: Any) -> Any:
    """The application of the account."""
    key = tools.public_pem(tools.KEY)
    users = {tools.USER: key, "ADMIN": key}
    return FaultInjection(create_app(state_dir=state_dir, s3_endpoint_url=s3[0], account=tools.ACCOUNT, users=users))


def client(tools: Any, url: str) -> Any:
    """A client of the SQL API that the administrator has signed in to."""
    api = tools.Api(url)
    api.http.headers["Authorization"] = f"Bearer {tools.token(user='ADMIN')}"
    post = api.post
    api.post = lambda sql, **options: post(sql, **{"role": "ACCOUNTADMIN", **options})
    return api
