"""The process that holds the emulators of S3, Databricks and Snowflake."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
from pathlib import Path

import uvicorn

from emulators.databricks.server import create_app as databricks_app
from emulators.fault_injection import FaultInjection
from emulators.s3 import S3Server
from emulators.share_names import ShareNames
from emulators.snowflake.server import create_app as snowflake_app
from sandbox import settings, sources


def serve(
    state: Path,
    ports: dict[str, int],
    *,
    databricks_token: str,
    snowflake_public_key: str,
    places: int,
    host: str = settings.HOST,
) -> None:
    """
    Serve until SIGTERM or SIGINT.

    :param state: folder of the emulators' state
    :param ports: port of ``s3``, ``databricks`` and ``snowflake``
    :param databricks_token: the token that the workspace accepts
    :param snowflake_public_key: PEM of the loader's public key
    :param places: number of places in the source table, if the table must be created
    :param host: address that Databricks and Snowflake listen on; S3 listens on loopback, because only these two use it
    """
    s3 = S3Server(state / "s3", settings.HOST, ports["s3"])
    s3_url = s3.start()
    try:
        sources.seed(s3_url, places=places)
        databricks = databricks_app(
            state_dir=state / "databricks",
            s3_endpoint_url=s3_url,
            token=databricks_token,
            bundle=_bundle(state / "bundle"),
            secrets=_secrets(),
        )
        snowflake = snowflake_app(
            state_dir=state / "snowflake",
            s3_endpoint_url=s3_url,
            account=settings.SNOWFLAKE_ACCOUNT,
            users={settings.SNOWFLAKE_USER: snowflake_public_key},
            shares=_shares(),
        )
        # What exists now stays: the collector need not look through all of it again and again, for 0.25 s each time.
        gc.freeze()
        asyncio.run(_serve_all(host, {ports["databricks"]: databricks, ports["snowflake"]: snowflake}))
    finally:
        s3.stop()


def _secrets() -> dict[tuple[str, str], str]:
    """Return the secrets of the hashes of all shares, by scope and key."""
    from data_share.share_file import share_file

    shares = share_file().shares.values()
    return {(share.hash_secret_scope, share.hash_secret_key): "the sandbox keeps no secret" for share in shares}


def _bundle(folder: Path) -> Path:
    """Return the asset bundle; if datasets need more than it has, the one that ``make render`` writes."""
    from data_share.share_file import DEFAULT, share_file

    texts = [path.read_text("utf-8", "ignore") for path in share_file().datasets_folder.glob("*.yaml")]
    if not any(re.search(r"\b(where|hash)\b", text) for text in texts):
        return settings.PROJECT / "include" / "databricks" / "databricks.yml"
    # To import them takes two seconds.
    from data_share.dataset_files import read_datasets
    from data_share.render import set_up_files

    # One job exports the datasets of all shares. A wrong dataset file is an error in Airflow, not here.
    datasets = read_datasets()[0]
    for path, content in set_up_files(DEFAULT, share_file().shares, datasets).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder / "databricks" / "databricks.yml"


def _shares() -> list[ShareNames]:
    """Return the names of all shares: one account stands in for the accounts of all of them."""
    from data_share.share_file import share_file

    return [
        ShareNames(
            share.url,
            *(
                name.upper()
                for name in (
                    share.storage_integration,
                    share.database,
                    share.target_schema,
                    share.warehouse,
                    share.loader_role,
                )
            ),
        )
        for share in share_file().shares.values()
    ]


async def _serve_all(host: str, apps: dict[int, object]) -> None:
    servers = [
        uvicorn.Server(
            uvicorn.Config(
                FaultInjection(app),  # type: ignore[arg-type]
                host=host,
                port=port,
                log_level="warning",
                timeout_graceful_shutdown=5,
            )
        )
        for port, app in apps.items()
    ]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    # Call _serve(): the signal handlers that serve() installs stop only one of the servers.
    await asyncio.gather(*(server._serve() for server in servers))
