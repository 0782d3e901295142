"""
What the documents name exists: links, files, tests, commands, REST calls, DAGs, conf keys, variables, SQL.

Links to other sites are looked at for their form only, as tests have no network.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import airflow
import pytest
import sqlglot
from airflow.configuration import conf

from data_share import share
from data_share.alerts import SYNC_DEADLINE_MISSED, SYNC_FAILED, SYNC_SUCCEEDED
from data_share.datasets import Dataset, read_datasets
from sandbox.settings import PREFERRED_PORTS

PROJECT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", ".sandbox", ".airflow", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}
ROOTS = {path.name for path in PROJECT.iterdir() if path.name not in NOT_OURS}

# Datasets that documents make up or walk through, and that are not in include/datasets/.
EXAMPLE_DATASETS = {"tides", "airports"}
# Programs that are no part of the project; a reader installs them, or has them.
PROGRAMS = {
    *(
        "airflow",
        "astro",
        "aws",
        "bash",
        "cat",
        "chmod",
        "cp",
        "curl",
        "databricks",
        "docker",
        "git",
        "helm",
        "kubectl",
    ),
    *("mkdir", "openssl", "pip", "psql", "rm", "snow", "source", "tail"),
    *("cd", "date", "echo", "eval", "exit", "export", "read", "set", "test", "true"),
}
ALWAYS_SET = {"HOME", "PATH", "PWD", "USER"}
# Fields of the bodies that Airflow's REST API takes, beside the conf.
BODY_FIELDS = {"conf", "dag_run_id", "is_paused", "logical_date", "state"}


@dataclass
class Page:
    """A Markdown file, taken apart."""

    path: Path
    text: str
    prose: str = ""
    """Without fenced blocks; inline code is still there."""
    blocks: list[tuple[str, str]] = field(default_factory=list)
    """Language and content of the fenced blocks."""

    def __post_init__(self) -> None:
        fence = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```[ ]*$", re.DOTALL | re.MULTILINE)
        self.blocks = [
            (found[2], re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE)) for found in fence.finditer(self.text)
        ]
        self.prose = fence.sub("", self.text)

    @property
    def inline(self) -> list[str]:
        return [code.strip() for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", self.prose)]

    @property
    def shell(self) -> str:
        return "\n".join(content for language, content in self.blocks if language in ("sh", "bash", "shell"))

    @property
    def code(self) -> str:
        return "\n".join([*self.inline, *(content for _, content in self.blocks)])

    @property
    def anchors(self) -> set[str]:
        """The anchors that GitHub gives the headings."""
        seen: dict[str, int] = {}
        anchors = set()
        for heading in re.findall(r"^#{1,6} +(.+?) *#*$", self.prose, re.MULTILINE):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            anchors.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
            seen[slug] = seen.get(slug, 0) + 1
        return anchors


@cache
def read(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


def files_of_the_project(pattern: str) -> list[Path]:
    found = [path for root in sorted(ROOTS) for path in [PROJECT / root, *(PROJECT / root).rglob("*")]]
    return [path for path in found if path.is_file() and fnmatch.fnmatch(path.name, pattern)]


PAGES = files_of_the_project("*.md")


# ---- what there is


@cache
def file_names() -> frozenset[str]:
    return frozenset(path.name for path in files_of_the_project("*"))


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (PROJECT / "Makefile").read_text(), re.MULTILINE))


@cache
def sources() -> str:
    """The code of the project, without its tests and documents."""
    paths = [
        PROJECT / "Makefile",
        PROJECT / ".ci" / "run",
        *files_of_the_project("*.py"),
        *files_of_the_project("*.yaml"),
    ]
    return "\n".join(path.read_text() for path in paths if "tests" not in path.relative_to(PROJECT).parts)


@cache
def variables_of_the_code() -> frozenset[str]:
    ports = {f"SANDBOX_{name.upper()}_PORT" for name in PREFERRED_PORTS}
    tests = "\n".join(path.read_text() for path in files_of_the_project("*.py") if path != Path(__file__))
    read_by_tests = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z0-9_]+)\"", tests))
    read_by_tests |= set(re.findall(r"\"(DATA_SHARE_[A-Z0-9_]+)\"", tests))
    in_makefile = set(
        re.findall(r"^([A-Z][A-Z_]*) *[:?]?=|\$[({]([A-Z][A-Z_]*)", (PROJECT / "Makefile").read_text(), re.M)
    )
    in_compose = re.findall(r"\$\{([A-Z_]+)", (PROJECT / "docker-compose.yaml").read_text())
    return frozenset(
        {*in_compose, *re.findall(r"\"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\"", sources()), *ports, *read_by_tests}
        | {name for pair in in_makefile for name in pair if name}
    )


@cache
def dag_ids() -> frozenset[str]:
    fixed = re.findall(r"^ *dag_id=\"(\w+)\"", sources(), re.MULTILINE)
    return frozenset({*fixed, *(dataset.dag_id for dataset in read_datasets()[0])})


@cache
def conf_keys() -> frozenset[str]:
    keys = set()
    for path in (PROJECT / "dags").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if (
                        isinstance(key, ast.Constant)
                        and isinstance(value, ast.Call)
                        and ast.unparse(value.func) == "Param"
                    ):
                        keys.add(str(key.value))
    return frozenset(keys)


@cache
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def rest_calls() -> list[tuple[str, re.Pattern[str]]]:
    """Methods and paths of Airflow's REST API, from the description that comes with it."""
    folder = Path(airflow.__file__).parent / "api_fastapi" / "core_api" / "openapi"
    calls, path = [], ""
    for line in (folder / "v2-rest-api-generated.yaml").read_text().splitlines():
        if found := re.fullmatch(r"  (/\S+):", line):
            path = found[1]
        elif path and (found := re.fullmatch(r"    (get|post|patch|put|delete):", line)):
            calls.append((found[1].upper(), re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))))
    return calls


# ---- what is wrong with a page: each function yields one sentence for each thing


def wrong_links(page: Page) -> Iterator[str]:
    without_code = re.sub(r"`[^`\n]*`", "", page.prose)
    for target in re.findall(r"\]\(([^)]*)\)", without_code):
        if re.match(r"[a-z]+:", target):
            parts = urlsplit(target)
            if parts.scheme != "https" or "." not in parts.netloc or re.search(r"\s", target):
                yield f"{target} is no https address"
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if name and (not path.exists() or PROJECT not in path.parents):
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in (read(path).anchors if name else page.anchors):
            yield f"the link {target} leads to no heading"


def wrong_files(page: Page) -> Iterator[str]:
    # Ours begin with a folder of the project, or are a name with an ending; REST paths and paths in S3 are not.
    known_names = file_names() | {f"{name}.yaml" for name in EXAMPLE_DATASETS}
    for word in {word.strip(",;:") for code in page.inline for word in code.split()}:
        path, _, test = word.partition("::")
        if test and path.endswith(".py"):
            candidates = [PROJECT / path] if "/" in path else files_of_the_project(path)
            names = {name for file in candidates if file.is_file() for name in functions_in(file)}
            wanted = test.partition("[")[0].replace("...", "*")
            if not fnmatch.filter(names, wanted):
                yield f"there is no test {word}"
        elif "/" in path and path.partition("/")[0] in ROOTS and re.fullmatch(r"[\w.*<>/-]+", path):
            pattern = re.sub(r"<[^>]*>", "*", path).rstrip("/")
            if Path(path).stem not in EXAMPLE_DATASETS and not any(PROJECT.glob(pattern)):
                yield f"there is no file {word}"
        elif re.fullmatch(r"[\w-]+\.(py|md|sql|yaml|yml|toml|txt|lock)", path) and path not in known_names:
            yield f"there is no file named {word}"


def wrong_commands(page: Page) -> Iterator[str]:
    syntax = subprocess.run(["bash", "-n"], input=page.shell, capture_output=True, text=True, check=False)
    if syntax.returncode:
        yield f"bash cannot read a block: {syntax.stderr.strip()}"
        return
    functions = set(re.findall(r"^(\w+)\(\) *{", page.shell, re.MULTILINE))
    spoken = [
        code for code in page.inline if code.split()[0] == "make" or code.startswith((".ci/", "python -m", "api "))
    ]
    for command in [*commands_of(page.shell), *(found for code in spoken for found in commands_of(code))]:
        yield from wrong_command(command, functions)


def wrong_command(command: list[str], functions: set[str]) -> Iterator[str]:
    program, *arguments = command
    name = program.rpartition("/")[2]
    if program == "make":
        yield from wrong_make(arguments)
    elif re.fullmatch(r"python(3(\.\d+)?)?", name):
        yield from wrong_python(arguments)
    elif program.startswith(".venv/bin/"):
        if not (Path(sys.executable).parent / name).exists():
            yield f"there is no program {program}"
    elif "/" in program:
        if not (PROJECT / program).is_file():
            yield f"there is no program {program}"
    elif program not in functions | PROGRAMS:
        yield f"nobody knows the program {program}"


def wrong_make(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        name, given, value = argument.partition("=")
        if not given and name not in make_targets():
            yield f"there is no target: make {name}"
        if given and name not in variables_of_the_code():
            yield f"the Makefile has no variable {name}"
        if name == "DATASET" and f"sync_{value}" not in dag_ids() and value not in EXAMPLE_DATASETS:
            yield f"there is no dataset {value}"
        if name == "PYTEST_ARGS":
            yield from wrong_pytest(shlex.split(value))


def wrong_pytest(arguments: list[str]) -> Iterator[str]:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = {line.partition(":")[0] for line in settings["markers"]}
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == "-m" and (unknown := set(re.findall(r"\w+", value)) - markers - {"and", "or", "not"}):
            yield f"there is no marker {', '.join(sorted(unknown))}"
        if "/" in option and not (PROJECT / option.partition("::")[0]).exists():
            yield f"there is no test {option}"


def wrong_python(arguments: list[str]) -> Iterator[str]:
    if not arguments:
        return
    first, *rest = arguments
    if first == "-m":
        if importlib.util.find_spec(rest[0]) is None:
            yield f"there is no module {rest[0]}"
    elif first == "-c":
        try:
            compile(rest[0], "-c", "exec")
        except SyntaxError as error:
            yield f"Python cannot read {rest[0]!r}: {error}"
    elif not first.startswith("-") and not (PROJECT / first).is_file():
        yield f"there is no script {first}"


def commands_of(script: str) -> list[list[str]]:
    """Return the words of each simple command of a script, those in $(...) and in functions too."""
    script = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "\n", script, flags=re.DOTALL | re.MULTILINE)
    script = script.replace("\\\n", " ")
    inner: list[str] = []
    while (begin := script.rfind("$(")) >= 0:
        end = begin + len("$(") + _length_to_bracket(script[begin + len("$(") :])
        inner.append(script[begin + len("$(") : end])
        script = script[:begin] + "substituted" + script[end + 1 :]
    script = re.sub(r"^(\w+)\(\) *{", r"", script, flags=re.MULTILINE)
    commands = []
    for part in [script, *inner]:
        for line in re.split(r"\n(?=(?:[^']*'[^']*')*[^']*$)", part):
            words = shlex.shlex(line, posix=True, punctuation_chars=";|&()<>")
            words.whitespace_split = True
            words.commenters = "#"
            command: list[str] = []
            for word in [*words, ";"]:
                if word in (";", "|", "||", "&&", "&", "(", ")", "}"):
                    commands.append(command)
                    command = []
                else:
                    command.append(word)
    return [plain for command in commands if (plain := _without_assignments(command))]


def _without_assignments(command: list[str]) -> list[str]:
    while command and re.match(r"\w+=", command[0]):
        command = command[1:]
    return command


def _length_to_bracket(text: str) -> int:
    depth, quote = 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            if not depth:
                return position
            depth -= 1
    raise ValueError("a bracket is not closed")


def wrong_python_blocks(page: Page) -> Iterator[str]:
    heredocs = re.findall(r"python3? -[^\n]*<<'?(\w+)'?\n(.*?)^\1$", page.shell, re.DOTALL | re.MULTILINE)
    for code in [*(code for _, code in heredocs), *(code for language, code in page.blocks if language == "python")]:
        try:
            tree = ast.parse(code)
        except SyntaxError as error:
            yield f"Python cannot read a block: {error}"
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported: dict[str, list[str]] = {alias.name: [] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {str(node.module): [alias.name for alias in node.names]}
            else:
                continue
            for module, names in imported.items():
                yield from wrong_import(module, names)


def wrong_import(module: str, names: list[str]) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    if spec is None:
        yield f"there is no module {module}"
    elif module.partition(".")[0] in ("data_share", "sandbox"):
        # Read and not imported: an import takes seconds.
        found = re.findall(r"^(?:def|class) (\w+)|^(\w+)(?:: .*)? = ", Path(str(spec.origin)).read_text(), re.MULTILINE)
        for name in set(names) - {name for pair in found for name in pair}:
            yield f"{module} has no {name}"


def wrong_rest_calls(page: Page) -> Iterator[str]:
    code = page.code.replace("\\\n", " ")
    called = re.findall(r"\bapi (GET|POST|PATCH|PUT|DELETE) \"?(/[^\s\"'?`]*)", code)
    called += re.findall(r"\b(GET|POST|PATCH|PUT|DELETE) (?:\.\.\.)?(/api/v2[^\s\"'?`]*)", code)
    # curl sends a POST when it has data.
    for line in re.findall(r"curl [^\n]*", code):
        for path in re.findall(r"\$AIRFLOW_URL(/api/v2/[^\s\"'?`]*)", line):
            method = re.search(r"-X (\w+)", line)
            called.append((method[1] if method else "POST" if " -d " in line else "GET", path))
    for method, path in called:
        whole = path if path.startswith("/api/v2") else f"/api/v2{path}"
        plain = re.sub(r"\$\w+|<[^>]*>|{[^}]*}", "x", whole).rstrip("/")
        if not any(method == known and pattern.fullmatch(plain) for known, pattern in rest_calls()):
            yield f"Airflow has no call {method} {whole}"


def wrong_dags(page: Page) -> Iterator[str]:
    known = {*dag_ids(), *(f"sync_{name}" for name in EXAMPLE_DATASETS), share.LEDGER_TABLE, "sync_datasets"}
    known |= {SYNC_SUCCEEDED, SYNC_FAILED, SYNC_DEADLINE_MISSED, *Dataset.model_fields}
    for name in sorted(set(re.findall(r"(?<![\w/.])sync_[a-z0-9_]*[a-z0-9](?![\w.])", page.code)) - known):
        if f"{name}." not in page.code and f"def {name}(" not in sources():
            yield f"there is no DAG {name}"
    # A name that is nearly that of a DAG, and nothing else that the code knows.
    for name in sorted({code for code in page.inline if re.fullmatch(r"[a-z]+_[a-z_]+", code)} - known):
        if difflib.get_close_matches(name, dag_ids(), cutoff=0.85) and name not in sources():
            yield f"there is no DAG {name}"
    for name in sorted(set(re.findall(r"/dags/([a-z]\w*)(?![\w<.])", page.code)) - known):
        yield f"there is no DAG {name}"


def wrong_conf(page: Page) -> Iterator[str]:
    code = page.code.replace('\\"', '"')
    objects = re.findall(r"\"conf\": *({[^{}]*})", code) + [text for text in page.inline if text.startswith('{"')]
    for text in objects:
        try:
            keys = set(json.loads(text))
        except ValueError:
            # With a shell variable in it, or shortened: the names before a colon are the keys.
            keys = set(re.findall(r"\"(\w+)\":", text))
        if unknown := keys - conf_keys() - BODY_FIELDS:
            yield f"no DAG has the conf key {', '.join(sorted(unknown))}"


def wrong_variables(page: Page) -> Iterator[str]:
    without_heredocs = re.sub(r"<<'(\w+)'\n.*?^\1$", "", page.shell, flags=re.DOTALL | re.MULTILINE)
    assigned = set(re.findall(r"(?:^|\s|;)([A-Z][A-Z0-9_]*)=", without_heredocs))
    for name in sorted(set(re.findall(r"\$\{?([A-Z][A-Z0-9_]*)", without_heredocs)) - assigned - ALWAYS_SET):
        if name not in variables_of_the_code():
            yield f"nothing sets ${name}"
    for name in sorted(set(re.findall(r"\b(?:AIRFLOW|SANDBOX)_[A-Z0-9_]*[A-Z0-9]\b", page.code))):
        if found := re.fullmatch(r"AIRFLOW__([A-Z0-9_]+?)__([A-Z0-9_]+)", name):
            if not conf.has_option(found[1].lower(), found[2].lower()):
                yield f"Airflow has no setting {name}"
        elif not name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_")) and name not in variables_of_the_code():
            yield f"nothing reads the variable {name}"
    for name in [found[1] for code in page.inline if (found := re.match(r"([A-Z][A-Z0-9_]+)=\S", code))]:
        if name not in variables_of_the_code():
            yield f"nothing reads the variable {name}"


def wrong_sql(page: Page) -> Iterator[str]:
    ledger = (PROJECT / "include/sql/snowflake/create_ledger.sql").read_text()
    columns: dict[str, set[str]] = {}
    for macro, body in re.findall(r"{{ share\.(\w+) }} \((.*?)^\);", ledger, re.DOTALL | re.MULTILINE):
        columns[getattr(share, macro)] = set(re.findall(r"^  (\w+) ", body, re.MULTILINE))
    for sql in [content for language, content in page.blocks if language == "sql"]:
        try:
            statements = sqlglot.parse(sql, dialect="snowflake")
        except sqlglot.errors.ParseError as error:
            yield f"no SQL: {error}"
            continue
        for statement in filter(None, statements):
            tables = {table.name for table in statement.find_all(sqlglot.exp.Table)}
            if len(tables) == 1 and (table := tables.pop()) in columns:
                known = columns[table] | {alias.alias for alias in statement.find_all(sqlglot.exp.Alias)}
                units = {"DAY", "SECOND"}
                used = {column.name for column in statement.find_all(sqlglot.exp.Column)} - units
                if unknown := used - known:
                    yield f"{table} has no column {', '.join(sorted(unknown))}"


CHECKS: list[Callable[[Page], Iterator[str]]] = [
    wrong_links,
    wrong_files,
    wrong_commands,
    wrong_python_blocks,
    wrong_rest_calls,
    wrong_dags,
    wrong_conf,
    wrong_variables,
    wrong_sql,
]


# ---- the documents


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_what_a_page_names_exists(path: Path, check: Callable[[Page], Iterator[str]]) -> None:
    assert list(check(read(path))) == []


def test_the_readme_is_short() -> None:
    assert len(read(PROJECT / "README.md").text.splitlines()) <= 200


def classes_of_errors() -> list[str]:
    return sorted(
        name
        for path in (PROJECT / "plugins" / "data_share").rglob("*.py")
        for name in re.findall(r"^class (\w+Error)\b", path.read_text(), re.MULTILINE)
        # the base of the others
        if name != "ShareError"
    )


@pytest.mark.parametrize("name", classes_of_errors())
def test_the_runbook_says_what_to_do_about_each_error(name: str) -> None:
    assert f"`{name}`" in read(PROJECT / "docs" / "runbook.md").text


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "plugins" / "data_share").rglob("[!_]*.py")), ids=lambda path: path.name
)
def test_the_architecture_says_what_each_module_is_for(path: Path) -> None:
    assert str(path.relative_to(PROJECT)) in read(PROJECT / "docs" / "architecture.md").inline


def test_there_are_pages_with_commands_links_and_sql() -> None:
    assert {PROJECT / "README.md", PROJECT / "docs" / "runbook.md"} <= set(PAGES)
    assert ["make", "demo"] in commands_of(read(PROJECT / "README.md").shell)


# ---- the checks themselves: each finds what is wrong, and nothing in what is right


RIGHT = """
# A page, with `code` in it

[here](#a-page-with-code-in-it), [there](README.md#two-commands), [outside](https://example.com/x) and
`plugins/data_share/share.py`, `include/sql/<engine>/publish.sql`, `make lock`, `sync_shared_forecasts`,
`set_up_snowflake`, `tests/docs/test_links_and_commands.py::test_the_readme_is_short`,
`{"dry_run": true}`, `SANDBOX_S3_PORT`, `AIRFLOW__CORE__FERNET_KEY`, `GET /api/v2/dags/sync_<dataset>`, `share.py`

```sh
eval "$(make env)"   # AIRFLOW_URL
api() { curl -sS -X "$1" "$AIRFLOW_URL/api/v2$2"; echo; }
DAG=sync_shared_forecasts
api PATCH "/dags/$DAG/dagRuns/x" '{"state": "failed"}'
TOKEN=$(curl -s "$AIRFLOW_URL/x" -d "{\\"a\\": \\"$AIRFLOW_USER\\"}" \\
  | python3 -c 'import json, sys; print(json.load(sys.stdin)["a"])')
make sync DATASET=shared_forecasts && make test PYTEST_ARGS="-m 'not e2e' tests/dags"
.venv/bin/python - <<'PY'
from sandbox.sources import write_source
PY
.venv/bin/python -m sandbox status; .ci/run
```

```sql
SELECT run_key, DATEDIFF(SECOND, started_at, published_at) AS seconds FROM sync_history ORDER BY seconds;
```
"""


def problems(text: str) -> list[str]:
    page = Page(PROJECT / "made-up.md", text)
    return [problem for check in CHECKS for problem in check(page)]


def test_nothing_is_found_where_all_is_right() -> None:
    assert problems(RIGHT) == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("(README.md#two", "(READ.md#two", "the link READ.md#two-commands leads nowhere"),
        ("(README.md#two", "(../README.md#two", "the link ../README.md#two-commands leads nowhere"),
        ("README.md#two-", "README.md#three-", "the link README.md#three-commands leads to no heading"),
        ("(#a-page", "(#the-page", "the link #the-page-with-code-in-it leads to no heading"),
        ("https://example.com/x", "http://example.com/x", "http://example.com/x is no https address"),
        ("https://example.com/x", "https://example", "https://example is no https address"),
        ("data_share/share.py", "data_share/shares.py", "there is no file plugins/data_share/shares.py"),
        ("<engine>/publish", "<engine>/publishing", "there is no file include/sql/<engine>/publishing.sql"),
        ("`share.py`", "`shares.py`", "there is no file named shares.py"),
        (
            "readme_is_short",
            "readme_is_long",
            "there is no test tests/docs/test_links_and_commands.py::test_the_readme_is_long",
        ),
        ("`make lock`", "`make locks`", "there is no target: make locks"),
        ("$(make env)", "$(make environment)", "there is no target: make environment"),
        ("DATASET=shared", "DATASETS=shared", "the Makefile has no variable DATASETS"),
        ("DATASET=shared_", "DATASET=shared_sea_", "there is no dataset shared_sea_forecasts"),
        ("not e2e", "not e3e", "there is no marker e3e"),
        ("tests/dags", "tests/dag", "there is no test tests/dag"),
        ("-m sandbox", "-m sandpit", "there is no module sandpit"),
        ("; .ci/run", "; .ci/runs", "there is no program .ci/runs"),
        (".venv/bin/python -m", ".venv/bin/pythonic -m", "there is no program .venv/bin/pythonic"),
        ("| python3 -c", "| jq", "nobody knows the program jq"),
        ("import json, sys;", "import json, sys:", "Python cannot read 'import json, sys: print"),
        ("import write_source", "import write_sources", "sandbox.sources has no write_sources"),
        ("from sandbox.sources", "from sandbox.springs", "there is no module sandbox.springs"),
        (
            'api PATCH "/dags/$DAG/dagRuns/x"',
            'api PATCH "/dags/$DAG/runs/x"',
            "Airflow has no call PATCH /api/v2/dags/$DAG/runs/x",
        ),
        ("`GET /api/v2/dags/", "`PUT /api/v2/dags/", "Airflow has no call PUT /api/v2/dags/sync_<dataset>"),
        ("`sync_shared_forecasts`", "`sync_shared_forecast`", "there is no DAG sync_shared_forecast"),
        ("`set_up_snowflake`", "`setup_snowflake`", "there is no DAG setup_snowflake"),
        ('{"dry_run"', '{"dryrun"', "no DAG has the conf key dryrun"),
        ("`SANDBOX_S3_PORT`", "`SANDBOX_S4_PORT`", "nothing reads the variable SANDBOX_S4_PORT"),
        ("CORE__FERNET_KEY", "CORE__FERNET_KEYS", "Airflow has no setting AIRFLOW__CORE__FERNET_KEYS"),
        ("$AIRFLOW_USER", "$THE_USER", "nothing sets $THE_USER"),
        ("run_key, DATEDIFF", "the_key, DATEDIFF", "sync_history has no column the_key"),
        ("FROM sync_history ORDER", "FROM sync_history ORDERED", "no SQL"),
        ("make sync DATASET", "make sync 'DATASET", "bash cannot read a block"),
    ],
)
def test_what_is_wrong_is_found(right: str, wrong: str, problem: str) -> None:
    assert right in RIGHT
    found = problems(RIGHT.replace(right, wrong))
    assert any(line.startswith(problem) for line in found), found
