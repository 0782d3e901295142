"""The command line ``data-share``: each subcommand is the ``main`` of the module that does the work."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_share import __version__, package

COMMANDS = {
    "init": ("data_share.init", "write DAG files, share.yaml and an example dataset into an Airflow home"),
    "validate": ("data_share.validate", "validate dataset files and the share file; needs no network"),
    "plan": ("data_share.plan", "show what a dataset would create or change; changes nothing"),
    "doctor": ("data_share.doctor.__main__", "check the deployment: what is wrong, and how to fix it"),
    "keys": ("data_share.snowflake.make_keys", "make a key pair for Airflow's user in Snowflake"),
    "render": ("data_share.render", "write the set-up of Snowflake, AWS and Databricks for this deployment"),
}
"""Subcommand -> the module whose ``main`` it is, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    lines = "\n".join(f"  {name:9} {does}" for name, (_, does) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="data-share",
        usage="data-share [--version] COMMAND [OPTION ...]",
        description="Databricks to Snowflake data share on Airflow.",
        epilog=f"commands:\n{lines}\n\ndata-share COMMAND --help shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"airflow-data-share {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    _find_share_file()
    # Airflow logs to the place that the findings go to, and would bury them.
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "CRITICAL")
    module, _ = COMMANDS[given.command]
    code: int = importlib.import_module(module).main(given.options)
    return code


def _find_share_file() -> None:
    """Let a command that is run in a project's folder read its share file, when nothing names another one."""
    file = Path("include", "share.yaml")
    if package.IS_INSTALLED and not os.environ.get("DATA_SHARE_FILE") and file.is_file():
        os.environ["DATA_SHARE_FILE"] = str(file.absolute())


if __name__ == "__main__":
    sys.exit(main())
