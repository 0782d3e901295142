"""
Renders what people set up with the names of ``include/share.yaml``: ``python -m data_share.render``.

For each share, it writes a folder with the scripts for Snowflake's administrators, the policies and the lifecycle rule
for AWS, the asset bundle with its SQL, and a page with the commands in their order. A name that is not known yet stays
a placeholder, such as ``<AWS_ACCOUNT_ID>``. The SQL of the job gets the conditions of the datasets (``source.where``)
and the name of the secret of hashes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import jinja2

from data_share.dataset_files import NoDatasetsError, read_datasets
from data_share.datasets import Dataset
from data_share.package import INCLUDE, IS_INSTALLED, PROJECT
from data_share.share_file import InvalidShareFileError, ShareNames, gives_connection, share_file

# Folder of the rendered files -> folder of their templates in include/.
_TEMPLATES = {"snowflake": "sql/snowflake/setup", "aws": "aws", "databricks": "databricks"}
# The bundle names the SQL by a relative path.
_PLAN = "sql/databricks/plan_export.sql"
_EXPORT = "sql/databricks/export_dataset.sql"
_PAGE = "set_up.md.jinja"


# What the SQL of the job has in place of what is rendered.
_CONDITIONS = "CAST(MAP() AS MAP<STRING, ARRAY<STRING>>)"
_NO_NAME = "''"


def set_up_files(name: str, shares: Mapping[str, ShareNames], datasets: Sequence[Dataset] = ()) -> dict[str, str]:
    """
    Return the files for the set-up of one share: path in its folder -> content.

    :param name: the name of the share
    :param shares: all shares: those of one bucket have their lifecycle rules in one file, which replaces all rules
    :param datasets: the datasets that the job of this share exports
    """
    # Without escaping: the names were validated, and have no character that ends a string in SQL, JSON or YAML.
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(INCLUDE), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    values = {each: _values(each, names) for each, names in shares.items()}
    of_bucket = [each for each in values.values() if each.bucket == values[name].bucket]
    paths = {
        f"{folder}/{path.name}": f"{place}/{path.name}"
        for folder, place in _TEMPLATES.items()
        for path in sorted((INCLUDE / place).iterdir())
        if path.suffix in (".sql", ".json", ".yml")
    }
    paths["README.md"] = _PAGE
    rendered = {
        path: environment.get_template(template).render(share=values[name], shares_of_bucket=of_bucket)
        for path, template in paths.items()
    }
    plan = (INCLUDE / _PLAN).read_text(encoding="utf-8")
    return {**rendered, _PLAN: plan, _EXPORT: export_sql(datasets, shares[name])}


def export_sql(datasets: Sequence[Dataset], share: ShareNames) -> str:
    """Return the SQL of the export job, with the conditions of datasets and the secret of a share."""
    sql = (INCLUDE / _EXPORT).read_text(encoding="utf-8")
    conditions = [
        f"  {_literal(dataset.name)}, ARRAY({_literal(dataset.source.where_digest)}, {_literal(dataset.source.where)})"
        for dataset in datasets
        if dataset.source.where
    ]
    sql = _with_variable(sql, "secret_scope", _NO_NAME, _literal(share.hash_secret_scope))
    sql = _with_variable(sql, "secret_key", _NO_NAME, _literal(share.hash_secret_key))
    listed = ",\n".join(conditions)
    return _with_variable(sql, "conditions", _CONDITIONS, f"MAP(\n{listed}\n)") if conditions else sql


def _with_variable(sql: str, name: str, empty: str, value: str) -> str:
    """Return SQL with another value for a variable."""
    before, found, after = sql.partition(f"SET VAR {name} = {empty};")
    if not found:
        raise RuntimeError(f"{_EXPORT} has no place for {name}")
    return f"{before}SET VAR {name} = {value};{after}"


def _literal(text: str) -> str:
    """Return a text for Databricks SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _values(name: str, share: ShareNames) -> SimpleNamespace:
    fields = {field: f"<{field.upper()}>" if value is None else value for field, value in share}
    _, command = gives_connection(share.databricks_conn_id)
    own = {"bucket": share.bucket, "prefix": share.prefix, "name": name, "gives_databricks_conn": command}
    return SimpleNamespace(**{**fields, **own})


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files of all shares; return the exit code."""
    parser = argparse.ArgumentParser(prog="data-share render", description="Render the set-up of each share.")
    default = Path("rendered") if IS_INSTALLED else PROJECT / "rendered"
    parser.add_argument("--folder", type=Path, default=default, help="default: %(default)s")
    folder = parser.parse_args(arguments).folder
    try:
        shares = share_file().shares
        # As the dag-processor does: for a dataset that it refuses, the job needs no condition.
        datasets, wrong = read_datasets(check_sql=True)
    except InvalidShareFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # Not half of the conditions: a job without one would refuse the dataset, but nobody would know why.
    if problems := [error for error in wrong if not isinstance(error, NoDatasetsError)]:
        sys.stderr.write("\n".join(map(str, problems)) + "\n")
        return 1
    for name in shares:
        # Shares with one job have one SQL, whichever of their bundles is deployed last.
        own = [dataset for dataset in datasets if shares[dataset.share].has_job_of(shares[name])]
        try:
            for path, content in set_up_files(name, shares, own).items():
                file = folder / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8")
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        sys.stdout.write(f"{folder / name}: begin with README.md\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
