"""
Generates documents from the code, so that documents and code agree.

``docs/datasets.md`` and ``include/datasets/dataset.schema.json`` come from the model of a dataset, ``docs/share.md``
and ``include/share.schema.json`` from the fields of the share file, ``docs/failures.md`` from the failure codes,
``steps.json`` of the status page and of the example backend from the steps of a sync, ``docs/airflow-openapi.yaml``
from Airflow's own description of its REST API, and ``examples/backend/openapi.yaml`` from the example's routes.

What people write of the three pages is in ``docs/templates/``; ``<fields>`` and the like are replaced there.

With ``--check`` it writes nothing and names each file that is out of date; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import airflow
import yaml

from data_share.column_types import MAX_VARIANT_DIGITS, NEW_COLUMN, PAIRS, SYNONYMS, Verdict
from data_share.dataset_files import MAY_HAVE_DEFAULTS
from data_share.datasets import CHECKS_OF_EVERY_SYNC, Dataset, LoadMode
from data_share.outcome.codes import FailureCode
from data_share.outcome.diagnose import failure_without_report
from data_share.outcome.report import Failure
from data_share.share_file import ONLY_AT_THE_TOP, FileFields, ShareNames
from data_share.source import Source
from data_share.sql_text import COLUMN_PATTERN
from data_share.steps import as_json

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATES = PROJECT / "docs" / "templates"

FAILURE_FIELDS = {
    "step": "the task that failed",
    "code": "what went wrong: one of the codes below. Treat an unknown code like `UNEXPECTED`",
    "message": "what happened; where another system failed, its message",
    "databricks_run_url": "page of the export on Databricks, or null",
    "snowflake_query_id": "the query in Snowflake's history, or null",
    "what_to_do": "the remedy for this case, in a sentence or two; the table below has the general remedy of the code",
    "retriable": "whether the same sync may succeed when it is started again; usually as in the table below",
    "cause": "what went wrong, in words without names and ids: the cause of the code in the table below. An earlier "
    "version of this package leaves it out",
    "repair": "the key of the conf with which a sync repairs what was found, to be set to `true`: `full_refresh`, or "
    "null. An earlier version of this package leaves it out",
}

# By the reason that Airflow gives for the end of a run.
UNREPORTED = {
    "timed_out": "took longer than `dagrun_timeout`: Airflow skips the remaining steps",
    "task_failure": "ended for another reason",
}

EXAMPLE = Failure(
    step="wait_for_export",
    code=FailureCode.EXPORT_FAILED,
    message="The Databricks run 815 ended as FAILED: task export: [TABLE_OR_VIEW_NOT_FOUND] The table or view "
    "main.weather.forecasts cannot be found.",
    databricks_run_url="https://dbc-0a1b.cloud.databricks.com/#job/42/run/815",
)


def page(name: str, **parts: str) -> str:
    """Return a page: its template, with ``<part>`` replaced by each part."""
    text = (TEMPLATES / f"{name}.md.in").read_text(encoding="utf-8")
    for part, content in parts.items():
        text = text.replace(f"<{part}>", content)
    return text


def failures() -> str:
    """Return the page about failures."""
    codes = [
        f"| `{code.name}` | {code.cause} | {code.what_to_do} | {'yes' if code.retriable else 'no'} |"
        for code in FailureCode
    ]
    report = EXAMPLE.to_xcom()
    unreported = [
        f"| {run} | `{failure.step}` | `{failure.code.name}` | {failure.message} |"
        for reason, run in UNREPORTED.items()
        for failure in [failure_without_report(reason)]
    ]
    return page(
        "failures",
        report=_json(report).strip(),
        fields="\n".join(f"| `{name}` | {FAILURE_FIELDS[name]} |" for name in report),
        unreported="\n".join(unreported),
        codes="\n".join(codes),
    )


def dataset_schema() -> str:
    """Return the JSON Schema of a dataset file."""
    schema = Dataset.model_json_schema()
    properties = schema["properties"]
    # The dataset's name is the name of its file, not a field in it.
    del properties["name"]
    schema["required"].remove("name")
    for field in ("merge_keys", "required_columns", "casts", "target_defaults", "tags"):
        properties[field]["uniqueItems"] = True
    for field in ("checks", "columns"):
        properties[field]["additionalProperties"] = False
    of_source = schema["$defs"]["Source"]["properties"]
    of_source["rename"]["additionalProperties"] = False
    for field in ("columns", "exclude", "hash"):
        of_source[field]["uniqueItems"] = True
    return _json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "title": "Dataset file",
            "description": "One dataset: what is copied, where to, how, and how it is checked. See docs/datasets.md.",
            "allOf": [
                {
                    "if": _field_is("load_mode", LoadMode.MERGE),
                    "then": {"required": ["merge_keys"], "properties": {"merge_keys": {"minItems": 1}}},
                    "else": {
                        "properties": {"merge_keys": {"maxItems": 0}, "delete_missing": {"const": False}},
                    },
                },
                {
                    "if": _field_is("create_table", "from_columns"),
                    "then": {"required": ["columns"], "properties": {"columns": {"minProperties": 1}}},
                    "else": {"properties": {"columns": {"maxProperties": 0}}},
                },
            ],
        }
    )


def share_schema() -> str:
    """Return the JSON Schema of the share file."""
    schema = FileFields.model_json_schema()
    properties = schema["properties"]
    of_datasets = json.loads(dataset_schema())
    own = {name: field for name, field in properties.items() if name in ShareNames.model_fields}
    properties["defaults"] = {
        **properties["defaults"],
        "properties": {name: of_datasets["properties"][name] for name in MAY_HAVE_DEFAULTS},
        "additionalProperties": False,
    }
    properties["shares"] = {
        "type": "object",
        "description": properties["shares"]["description"],
        "patternProperties": {
            "^[a-z][a-z0-9]*(_[a-z0-9]+)*$": {
                "type": "object",
                "properties": {name: field for name, field in own.items() if name not in ONLY_AT_THE_TOP},
                "required": ["url"],
                "additionalProperties": False,
            }
        },
        "additionalProperties": False,
    }
    return _json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "$defs": {**schema.get("$defs", {}), **of_datasets.get("$defs", {})},
            "title": "Share file",
            "description": "What a deployment is: names, folders, defaults. See docs/share.md.",
        }
    )


def share_docs() -> str:
    """Return the page about the share file."""
    schema = json.loads(share_schema())
    rows = [
        f"| `{name}` | {_default(name, field, schema)} | {field['description']} |"
        for name, field in schema["properties"].items()
    ]
    defaults = ", ".join(f"`{name}`" for name in MAY_HAVE_DEFAULTS)
    return page("share", fields="\n".join(rows), defaults=defaults)


def dataset_docs() -> str:
    """Return the page about dataset files."""
    schema = json.loads(dataset_schema())
    rows = [
        f"| `{name}` | {_type(schema, field)} | {_default(name, field, schema)} | {field['description']} |"
        for name, field in schema["properties"].items()
    ]
    taken = ", ".join(f"`{name}`" for name in sorted(CHECKS_OF_EVERY_SYNC))
    synonyms = [f"| `{kind}` | {', '.join(f'`{name}`' for name in names)} |" for kind, names in SYNONYMS.items()]
    return page(
        "datasets",
        fields="\n".join(rows),
        taken=taken,
        source="\n".join(f"| `source.{name}` | {field.description} |" for name, field in Source.model_fields.items()),
        types=types_table(),
        synonyms="\n".join(synonyms),
        digits=str(MAX_VARIANT_DIGITS),
    )


def types_table() -> str:
    """Return the table of pairs of types: a row for each type of the source."""
    lines = [
        "| Source | Holds each value | As it is, or the load fails | Refused, as a value could change | A new column |",
        "| --- | --- | --- | --- | --- |",
    ]
    alike: dict[str, list[str]] = {}
    for source, targets in PAIRS.items():
        cells: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
        by_reason: dict[str, list[str]] = {}
        for target, cases in targets.items():
            for case in cases:
                words = f"`{target}` {case.words}".strip()
                if case.verdict is Verdict.SILENT:
                    by_reason.setdefault(case.reason, []).append(words)
                elif target != "OTHER":
                    cells[case.verdict].append(words)
        for reason, names in by_reason.items():
            listed = "all" if names == [f"`{kind}`" for kind in SYNONYMS] else ", ".join(names)
            cells[Verdict.SILENT].append(f"{listed}: {reason}")
        texts = ["; ".join(cells[verdict]) or "-" for verdict in (Verdict.EXACT, Verdict.LOUD, Verdict.SILENT)]
        new = "the `NUMBER` of its digits" if source == "decimal" else f"`{NEW_COLUMN.get(source, 'none')}`"
        row = f"| {' | '.join(texts)} | {'none' if new == '`none`' else new} |"
        alike.setdefault(row, []).append("any other" if source == "other" else f"`{source.upper()}`")
    lines += [f"| {', '.join(sources)} {row}" for row, sources in alike.items()]
    return "\n".join(lines)


def _field_is(field: str, value: str) -> dict[str, Any]:
    return {"properties": {field: {"const": value}}, "required": [field]}


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """Describe the type of a field's value in words."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    if "anyOf" in field:
        field, *others = (choice for choice in field["anyOf"] if choice["type"] != "null")
        if others:
            return f"{_type(schema, field)} or mapping"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if field["type"] == "array":
        return "list of columns" if field["items"].get("pattern") == COLUMN_PATTERN else "list of strings"
    if field["type"] == "object" and "properties" in field:
        return "mapping"
    if field["type"] == "object":
        (value,) = field["patternProperties"].values()
        return "column: type" if value.get("title") == "Type of Snowflake" else "name: condition"
    limits = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
    }
    return ", ".join([field["type"], *(text.format(field[key]) for key, text in limits.items() if key in field)])


def _default(name: str, field: dict[str, Any], schema: dict[str, Any]) -> str:
    if name in schema["required"]:
        return "**required**"
    if field.get("default") in (None, [], {}):
        return "none"
    return "`{}`".format(json.dumps(field["default"]).strip('"'))


def steps_list() -> str:
    """Return the steps of a sync as the JSON file that the pages read."""
    return _json(as_json())


# The calls of docs/backend.md, each with those of its query parameters that a backend needs.
CALLS_OF_A_BACKEND: dict[tuple[str, str], set[str]] = {
    ("/auth/token", "post"): set(),
    ("/api/v2/dags", "get"): {"tags", "tags_match_mode", "limit", "offset"},
    ("/api/v2/dags/{dag_id}", "get"): set(),
    ("/api/v2/dags/{dag_id}/dagRuns", "get"): {"order_by", "limit"},
    ("/api/v2/dags/{dag_id}/dagRuns", "post"): set(),
    ("/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}", "get"): set(),
    ("/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}", "patch"): set(),
    ("/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances", "get"): set(),
    ("/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}/xcomEntries/{xcom_key}", "get"): set(),
}

OPENAPI_TITLE = "The calls of Airflow's REST API that a backend of the data share makes"
OPENAPI_NOTE = """\
Generated by docs/generate_docs.py from Airflow's own description (`make docs`): the same operations and schemas,
without the other query parameters. docs/backend.md says what they mean for a sync, and what the XComs `return_value`
of `publish` and `failure` of `finish_sync` hold. `POST /auth/token` is that of SimpleAuthManager; others take the same
body.
"""


@cache
def airflow_openapi() -> str:
    """Return those parts of Airflow's description of its REST API that a backend needs, as this version has them."""
    from airflow.api_fastapi.auth.managers import simple

    described = [
        Path(airflow.__path__[0]) / "api_fastapi/core_api/openapi/v2-rest-api-generated.yaml",
        Path(simple.__path__[0]) / "openapi/v2-simple-auth-manager-generated.yaml",
    ]
    whole = [yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) for path in described]
    info = {"title": OPENAPI_TITLE, "description": OPENAPI_NOTE, "version": airflow.__version__}
    return _yaml({"openapi": whole[0]["openapi"], "info": info, **backend_calls(*whole)})


def backend_calls(api: dict[str, Any], auth: dict[str, Any]) -> dict[str, Any]:
    """
    Return the paths that a backend calls, and the components that these name.

    :param api: OpenAPI of Airflow's REST API
    :param auth: OpenAPI of the auth manager
    """
    paths: dict[str, Any] = {}
    for (path, method), query in CALLS_OF_A_BACKEND.items():
        operation = dict({**auth["paths"], **api["paths"]}[path][method])
        kept = [part for part in operation.get("parameters", []) if part["in"] == "path" or part["name"] in query]
        operation["parameters"] = kept
        paths.setdefault(path, {})[method] = operation
    known = {**auth["components"]["schemas"], **api["components"]["schemas"]}
    names: list[str] = []
    for name in _named_in(paths):
        names += [name] if name not in names else []
    for name in names:
        names += [other for other in dict.fromkeys(_named_in(known[name])) if other not in names]
    components = {"schemas": {name: known[name] for name in sorted(names)}}
    return {"paths": paths, "components": {**components, "securitySchemes": api["components"]["securitySchemes"]}}


def _named_in(part: Any) -> Iterator[str]:
    """Yield the names of the schemas that a part of an OpenAPI description refers to."""
    yield from re.findall(r'"#/components/schemas/(\w+)"', json.dumps(part))


@cache
def backend_openapi() -> str:
    """Return the description that FastAPI makes of the example backend."""
    from examples.backend.airflow_client import AirflowClient
    from examples.backend.app import create_app

    return _yaml(create_app(AirflowClient("http://localhost", "", ""), hosts=[]).openapi())


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def generated() -> dict[str, str]:
    """Return the content of each file, by its path in the project."""
    return {
        "include/datasets/dataset.schema.json": dataset_schema(),
        "docs/datasets.md": dataset_docs(),
        "include/share.schema.json": share_schema(),
        "docs/share.md": share_docs(),
        "docs/failures.md": failures(),
        "plugins/data_share/status_page/steps.json": steps_list(),
        "examples/backend/steps.json": steps_list(),
        "docs/airflow-openapi.yaml": airflow_openapi(),
        "examples/backend/openapi.yaml": backend_openapi(),
    }


def main() -> int:
    """Write the files or, with ``--check``, compare them."""
    parser = argparse.ArgumentParser(description="Generate documents from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is out of date")
    check = parser.parse_args().check
    stale = []
    for path, content in generated().items():
        file = PROJECT / path
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            stale.append(path)
            if not check:
                file.write_text(content, encoding="utf-8")
    for path in stale:
        print(f"{path} is out of date: make docs" if check else f"{path} is written")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
