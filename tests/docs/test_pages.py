"""
The documents: links lead somewhere, what is named exists, and each block is what its language says.

Blocks for the shell are executed by bash, where every program only notes how it was called. The examples of
``docs/backend.md`` are made on a running stack by ``tests/e2e/test_backend_docs.py``, and the queries of the ledger by
``tests/sandbox/load/test_rights.py``.
"""

from __future__ import annotations

import ast
import fnmatch
import getopt
import importlib.util
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import sqlparse
import yaml

from tests.docs.markdown import PROJECT, Block, Page, pages

pytestmark = pytest.mark.tier("full")

# Datasets that documents make up or walk through, and that are not in include/datasets/.
EXAMPLE_DATASETS = {"tides", "airports"}
# What is named though its name begins with a dot.
HIDDEN = {".ci", ".github", ".pre-commit-config.yaml"}
# What a script may call: programs that a reader has or installs, and make.
PROGRAMS = {
    *(
        "airflow",
        "astro",
        "aws",
        "cat",
        "cp",
        "curl",
        "databricks",
        "date",
        "docker",
        "helm",
        "make",
        "mkdir",
        "openssl",
    ),
    *("data-share", "npm", "pip", "python3", "sed", "snow"),
}
# Names of other systems, and names that code puts together.
NAMES_ELSEWHERE = {
    *(
        "live-report.json",
        "live-report.md",
        "external_id",
        "unity_catalog_iam_arn",
        "FORWARDED_ALLOW_IPS",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "SYNC_INTERVAL_SECONDS",
        "values.schema.json",
    ),
    *("AIRFLOW_VAR_DATA_SHARE_EXPORT_JOB_ID", "SANDBOX_DATABRICKS_PORT", "SANDBOX_S3_PORT", "SANDBOX_SNOWFLAKE_PORT"),
    *("DATA_SHARE_EMEA__URL", "clean_up_share_emea", "doctor_emea"),  # of an example of a second share
}
# What the shell runs, what other tests hold to the truth, and what shows what a person sees.
NOT_A_BLOCK_TO_CHECK = {
    "sh": "",
    "http": "docs/backend.md",
    "js": "docs/alerts.md",
    "ts": "examples/express/README.md",
    "mermaid": "",
    "text": "",
}

Check = Callable[[Page], Iterator[str]]


# ---- links and names


def wrong_links(page: Page) -> Iterator[str]:
    for target in page.links:
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if re.match(r"[a-z]+:", target):
            address = urlsplit(target)
            if address.scheme != "https" or "." not in address.netloc:
                yield f"{target} is no https address"
        elif not path.is_relative_to(PROJECT) or (name and not path.exists()):
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in (page if path == page.path else Page.read(str(path))).anchors:
            yield f"the link {target} leads to no heading"
    for token in page.inline:
        if token.type == "text" and "](" in token.content:
            yield f"no link, as it is written: {token.content}"


@cache
def files() -> list[Path]:
    folders = [entry for entry in PROJECT.iterdir() if entry.name in HIDDEN or entry.name[0] != "."]
    found = [path for entry in folders for path in [entry, *entry.rglob("*")]]
    return [path.relative_to(PROJECT) for path in found if not {"__pycache__", "node_modules"} & set(path.parts)]


@cache
def words() -> set[str]:
    """Return each word of the code, but for the tests of this folder, which make words up."""
    endings = {".py", ".sql", ".yaml", ".yml", ".toml", ".json", ".mjs", ".mts", ".html", ""}
    texts = [path for path in files() if path.suffix in endings and not path.is_relative_to("tests/docs")]
    return {word for path in texts if path.is_file() for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


def wrong_names(page: Page) -> Iterator[str]:
    """Look at what inline code names: files, tests, Airflow's settings, and whatever has an underscore in it."""
    from airflow.configuration import conf

    roots, endings = {path.parts[0] for path in files()}, {path.suffix for path in files() if path.suffix}
    for word in sorted({word.strip(",;:") for code in page.codes for word in code.split()} - NAMES_ELSEWHERE):
        path, _, test = word.partition("::")
        pattern = re.sub(r"<[^>]*>", "*", path).rstrip("/")
        is_path = path.partition("/")[0] in roots if "/" in path else Path(path).suffix in endings
        if is_path and re.fullmatch(r"[\w.*<>/-]+", path) and Path(path).stem not in EXAMPLE_DATASETS:
            there = [file for file in files() if fnmatch.fnmatch(str(file) if "/" in path else file.name, pattern)]
            if not there:
                yield f"there is no file {path}"
            elif test and not any(f"def {test}(" in (PROJECT / file).read_text() for file in there):
                yield f"there is no test {word}"
    name_or_value = re.compile(r"([a-z]+_[a-z0-9_]*[a-z0-9]|[A-Z]+_[A-Z0-9_]*[A-Z0-9])(=.*)?")
    named = {code.partition("=")[0] for code in page.codes if name_or_value.fullmatch(code)}
    named |= {key for code in page.codes for key in re.findall(r'"(\w+)": ', code)}
    said = {word for block in page.blocks for word in re.findall(r"\w+", block.content)}
    for name in sorted(named - words() - said - NAMES_ELSEWHERE):
        setting = re.fullmatch(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)", name)
        if not setting or not conf.has_option(setting[1].lower(), setting[2].lower()):
            yield f"nothing is named {name}"


# ---- blocks


def wrong_blocks(page: Page) -> Iterator[str]:
    for block in page.blocks:
        try:
            match block.language:
                case "json":
                    json.loads(block.content)
                case "python":
                    run_imports(block.content)
                case "sql":
                    is_databricks = page.name == "docs/databricks.md" or block.content.startswith("-- On Databricks")
                    read_by_sqlfluff(block.content, "databricks" if is_databricks else "snowflake")
                case "yaml" if page.name == "docs/share.md":
                    read_as_share_file(block)
                case "yaml":
                    read_as_dataset(page, block)
                case other if page.name != (NOT_A_BLOCK_TO_CHECK.get(other, "none") or page.name):
                    raise ValueError("nothing checks it")
        except Exception as error:
            yield f"the {block.language} block of line {block.line}: {error}"


def run_imports(code: str) -> None:
    tree = ast.parse(code)
    imports: list[ast.stmt] = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "a block", "exec"), {})


def read_by_sqlfluff(script: str, dialect: str) -> None:
    import sqlfluff

    # It would note the whole tree of each statement.
    logging.getLogger("sqlfluff").setLevel(logging.WARNING)
    for statement in sqlparse.split(script):
        # sqlfluff (4.5) does not know these.
        if not any(unknown in statement for unknown in ("EXTERNAL LOCATION", "PROGRAMMATIC ACCESS TOKEN")):
            found = sqlfluff.lint(statement, dialect=dialect, rules=["LT01"])
            if unread := [one["description"] for one in found if one["code"] == "PRS"]:
                raise ValueError(unread[0])


def read_as_dataset(page: Page, block: Block) -> None:
    """Read a whole dataset file, or lines for the checks of the file before."""
    from data_share.dataset_files import read_dataset
    from data_share.share_file import share_file

    text = block.content
    if text.startswith(" "):
        before = [one for one in page.blocks if one.language == "yaml" and one.line < block.line][-1]
        text = before.content.replace("checks:\n", f"checks:\n{text}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.yaml"
        path.write_text(text, encoding="utf-8")
        read_dataset(path)
    jsonschema.validate(
        yaml.safe_load(text), json.loads((share_file().datasets_folder / "dataset.schema.json").read_text())
    )


def read_as_share_file(block: Block) -> None:
    """Read lines of a share file, with the others of the product's."""
    from data_share.share_file import SHARE_FILE, read_share_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "share.yaml"
        path.write_text(f"{SHARE_FILE.read_text(encoding='utf-8')}\n{block.content}", encoding="utf-8")
        read_share_file(path, {})
    schema = json.loads((PROJECT / "include" / "share.schema.json").read_text())
    content = {**yaml.safe_load(SHARE_FILE.read_text(encoding="utf-8")), **yaml.safe_load(block.content)}
    jsonschema.validate(content, schema)


# ---- commands

# Stands in for each program: it notes the words of the call, and what the script gives it to read.
NOTE_CALL = r"""#!/bin/bash
if [[ ${1-} == - ]]; then set -- - "$(</dev/stdin)"; fi
printf '%s\0' "${0##*/}" "$@" $'\x1e' >>"$HOME/calls"
if [[ ${0##*/} == make && $* == env ]]; then printf 'export %s=https://example.com\n' $MAKE_ENV; fi
"""


@cache
def run(page: Page) -> tuple[list[list[str]], list[str]]:
    """
    Run the shell blocks of a page one after the other, then the commands among its inline code.

    :return: the words of each call of a program, and what bash says
    """
    from sandbox.stack import Endpoints

    spoken = re.compile(r"(make|api|airflow|docker|python3?|\.venv/bin/\w+) |\.ci/")
    scripts = {f"block of line {block.line}": block.content for block in page.blocks if block.language == "sh"}
    scripts["inline code"] = "\n".join(code for code in page.codes if spoken.match(code) and "<" not in code)
    own = {path for script in scripts.values() for path in re.findall(r"\.(?:venv/bin|ci)/[\w.-]+", script)}
    names = Endpoints("", "", "", "", "", "", "http://x:1", "").as_environment()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        (folder / "note_call").write_text(NOTE_CALL)
        (folder / "note_call").chmod(0o700)
        for path in [*(f"bin/{program}" for program in PROGRAMS), *(path for path in own if (PROJECT / path).exists())]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(folder / "note_call")
        for name, script in scripts.items():
            (folder / name).write_text(script)
        main = "\n".join(["set -u; cd() { :; }", *(f"source '{home}/{name}'" for name in scripts)])
        environment = {"HOME": home, "AIRFLOW_HOME": home, "PATH": f"{home}/bin", "MAKE_ENV": " ".join(names)}
        done = subprocess.run(
            ["/bin/bash", "-c", main], cwd=home, env=environment, input="", capture_output=True, text=True, check=False
        )
        noted = (folder / "calls").read_text() if (folder / "calls").exists() else ""
    calls = [call.split("\0")[:-1] for call in noted.split("\x1e\0")[:-1]]
    return calls, done.stderr.replace(f"{home}/", "").splitlines()


@cache
def make(*arguments: str) -> str:
    """Return the commands that `make` would run."""
    # As from a shell: these tests may themselves be run by make, which hands its variables on.
    handed_on = ("MAKE", "MFLAGS", "TIER", "PYTEST_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(handed_on)}
    command = ["make", "-n", *arguments]
    done = subprocess.run(command, cwd=PROJECT, env=plain, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return done.stdout


def wrong_commands(page: Page) -> Iterator[str]:
    calls, said = run(page)
    yield from said
    for program, *arguments in calls:
        try:
            match program:
                case "make":
                    check_make(arguments)
                case "python" | "python3":
                    check_python(*arguments)
                case "curl":
                    check_curl(arguments)
        except Exception as error:
            yield f"{shlex.join([program, *arguments])}: {error}"


def check_make(arguments: list[str]) -> None:
    make(*arguments)
    datasets = EXAMPLE_DATASETS | {path.stem for path in files() if path.match("include/datasets/*.yaml")}
    for name, _, value in [argument.partition("=") for argument in arguments if "=" in argument]:
        if not re.search(rf"\b{name}\b", (PROJECT / "Makefile").read_text()):
            raise ValueError(f"the Makefile has no variable {name}")
        if name == "DATASET" and value not in datasets:
            raise ValueError(f"there is no dataset {value}")


def check_python(first: str, *others: str) -> None:
    if first in ("-c", "-"):
        run_imports(others[0])
    elif not (importlib.util.find_spec(others[0]) if first == "-m" else (PROJECT / first).exists()):
        raise ValueError("there is no such module or file")


def check_curl(arguments: list[str]) -> None:
    """Look whether Airflow has a call, and its DAGs the keys of its conf."""
    options, (address,) = getopt.gnu_getopt(arguments, "sSX:d:H:")
    given = dict(options)
    method, path = given.get("-X", "POST" if "-d" in given else "GET"), urlsplit(address).path
    of_a_sync = PROJECT / "plugins" / "data_share" / "sync_conf.py"
    dags = "".join(file.read_text() for file in [*(PROJECT / "dags").glob("*.py"), of_a_sync])
    for key in json.loads(given.get("-d", "{}")).get("conf", {}):
        if f'"{key}": Param(' not in dags:
            raise ValueError(f"no DAG has the conf key {key}")
    if path.startswith("/api/v2/") and not any(form.fullmatch(f"{method} {path}") for form in rest_calls()):
        raise ValueError("Airflow has no such call")


@cache
def rest_calls() -> list[re.Pattern[str]]:
    """Return methods and paths of Airflow's REST API, from the description that comes with it."""
    import airflow

    text = (Path(airflow.__path__[0]) / "api_fastapi/core_api/openapi/v2-rest-api-generated.yaml").read_text()
    paths = yaml.load(text, yaml.CSafeLoader)["paths"]
    calls = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    return [re.compile(re.sub(r"{\w+}", "[^/]+", call)) for call in calls]


# ---- the pages


@pytest.mark.parametrize("check", [wrong_links, wrong_names, wrong_blocks, wrong_commands])
def test_what_a_page_says_is_so(check: Check) -> None:
    found = [f"{page.name}: {problem}" for page in pages() for problem in check(page)]
    assert not found, "\n".join(found)


COLLECT = """
import json, pytest, sys

class Recorder:
    def pytest_collection_finish(self, session):
        self.selected = [item.nodeid for item in session.items]

def selected(arguments):
    recorder = Recorder()
    pytest.main([*arguments, "--collect-only", "--numprocesses=0", "-p", "no:cacheprovider"], [recorder])
    return recorder.selected

# Once in a process, a test module is not imported again.
print("selected:", json.dumps([selected(arguments) for arguments in json.loads(sys.argv[1])]))
"""


@pytest.mark.tier("nightly")  # it collects the tests once for each selection that a page recommends
def test_the_recommended_selections_select_tests_and_only_narrow_what_make_runs() -> None:
    calls = {tuple(call[1:]) for page in pages() for call in run(page)[0] if call[0] == "make"}
    recommended = sorted(call for call in calls if "PYTEST_ARGS=" in call[-1])
    targets = sorted({call[:1] for call in recommended})
    wanted = [shlex.split(re.findall(" -m pytest (.*)", make(*call))[-1]) for call in [*targets, *recommended]]
    command = [sys.executable, "-c", COLLECT, json.dumps(wanted)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    answer = re.findall("^selected: (.*)", done.stdout, re.MULTILINE)
    assert answer, done.stdout + done.stderr
    selected = dict(zip([*targets, *recommended], map(set, json.loads(answer[0])), strict=True))
    found = []
    for call in recommended:
        paths = [word for word in shlex.split(call[-1].partition("=")[2]) if word.startswith("tests")]
        # An expression must not bring in what the command alone leaves out, and a path must not be left out by it.
        more = selected[call] - selected[call[:1]]
        less = [path for path in paths or [""] if not any(test.startswith(path) for test in selected[call])]
        if more or less:
            found.append(f"{shlex.join(call)}: selects {sorted(more)} too, and nothing of {less}")
    assert not found, "\n".join(found)


def test_the_readme_is_short() -> None:
    assert len(Page.read("README.md").text.splitlines()) < 200


def test_the_runbook_says_what_to_do_about_each_error() -> None:
    code = "".join(path.read_text() for path in (PROJECT / "plugins" / "data_share").rglob("*.py"))
    # ShareError and InvalidFileError are the bases of others.
    classes = set(re.findall(r"^class (\w+Error)\b", code, re.MULTILINE)) - {"ShareError", "InvalidFileError"}
    assert classes - set(Page.read("docs/runbook.md").codes) == set()


def test_the_architecture_says_what_each_module_is_for() -> None:
    package = PROJECT / "plugins" / "data_share"
    modules = {str(path.relative_to(PROJECT)) for path in package.rglob("[!_]*.py")}
    assert modules - set(Page.read("docs/architecture.md").codes) == set()


WRONG = """
# Heading

[a](nowhere.md) [b](README.md#nowhere) [c](#headings) [d](http://example.com) [e](../../etc) [f](with blank)
`plugins/data_share/nowhere.py` `nowhere.sql` `tests/docs/test_pages.py::test_nothing` `sync_shared_forecast`
`{"reload_key": true}` `AIRFLOW__CORE__FERNET_KEYS` `docker compose up`

```yaml
description: Tides.
```
```json
{"a": 1,}
```
```python
from data_share.datasets import Datasets
```
```sql
SELECT run_key FRO sync_history WHERE;
```
```sh
echo 'not closed
```
```sh
make nowhere; make sync DATASET=shared_seas; make up NUMBER=1
python3 -c 'import json:'; .venv/bin/python -m nowhere
curl "https://example.com/api/v2/dags/x/runs"
curl https://example.com/x -d '{"conf": {"dryrun": true}}'
ls; .venv/bin/nowhere
echo $NOT_SET
```
```
of no language
```
"""
PROBLEMS = {
    wrong_links: [
        "the link nowhere.md leads nowhere",
        "the link README.md#nowhere leads to no heading",
        "the link #headings leads to no heading",
        "http://example.com is no https address",
        "the link ../../etc leads nowhere",
        "no link, as it is written:  [f](with blank)",
    ],
    wrong_names: [
        "there is no file nowhere.sql",
        "there is no file plugins/data_share/nowhere.py",
        "there is no test tests/docs/test_pages.py::test_nothing",
        "nothing is named AIRFLOW__CORE__FERNET_KEYS",
        "nothing is named reload_key",
        "nothing is named sync_shared_forecast",
    ],
    wrong_blocks: [
        "the yaml block of line 9: ",
        "the json block of line 12: Expecting property name",
        "the python block of line 15: cannot import name 'Datasets'",
        "the sql block of line 18: Line 1, Position 20: Found unparsable section: 'sync_history'",
        "the  block of line 32: nothing checks it",
    ],
    wrong_commands: [
        "block of line 21: line 1: unexpected EOF",
        "block of line 24: line 5: ls: command not found",
        "block of line 24: line 5: .venv/bin/nowhere: No such file",
        "block of line 24: line 6: NOT_SET: unbound variable",
        "make nowhere: make: *** No rule to make target",
        "make sync DATASET=shared_seas: there is no dataset shared_seas",
        "make up NUMBER=1: the Makefile has no variable NUMBER",
        "python3 -c 'import json:': invalid syntax",
        "python -m nowhere: there is no such module or file",
        "curl https://example.com/api/v2/dags/x/runs: Airflow has no such call",
        """curl https://example.com/x -d '{"conf": {"dryrun": true}}': no DAG has the conf key dryrun""",
    ],
}


@pytest.mark.parametrize("check", PROBLEMS)
def test_what_is_wrong_is_found(check: Check) -> None:
    found = list(check(Page(PROJECT / "wrong.md", WRONG)))
    assert [problem[: len(wanted)] for problem, wanted in zip(found, PROBLEMS[check], strict=True)] == PROBLEMS[check]
