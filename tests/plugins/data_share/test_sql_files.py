"""Templates that were compiled once: they are used where they are right, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jinja2
import pytest
from airflow.sdk import DAG
from jinja2.sandbox import SandboxedEnvironment, SecurityError, unsafe

from data_share.share import Share
from data_share.sql_files import SQL_FOLDER, compile_sql, render_sql, sql_templates, use_compiled
from data_share.sync import Sync


def environment_of(folder: Path, kind: type[jinja2.Environment] = jinja2.Environment) -> jinja2.Environment:
    made = kind(loader=jinja2.FileSystemLoader(folder))
    use_compiled(made)
    return made


def test_no_step_compiles_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_sql()
    monkeypatch.setattr(jinja2.Environment, "compile", Mock(side_effect=AssertionError("compiled again")))
    airflows = DAG("any", schedule=None, **sql_templates(Share())).get_template_env()
    use_compiled(airflows)
    for file in SQL_FOLDER.glob("*.sql"):
        airflows.get_template(file.name)
    assert "INSERT" in render_sql("publish", share=Share(), sync=Sync.example())


def test_a_changed_file_is_compiled_again(tmp_path: Path) -> None:
    file = tmp_path / "changed.sql"
    texts = []
    for text in ("SELECT 1", "SELECT 2", "SELECT 1"):
        file.write_text(text)
        texts.append(environment_of(tmp_path).get_template(file.name).render())
    assert texts == ["SELECT 1", "SELECT 2", "SELECT 1"]


def test_a_sandbox_does_not_use_what_was_compiled_for_none(tmp_path: Path) -> None:
    (tmp_path / "call.sql").write_text("{{ call() }}")

    @unsafe
    def call() -> Any:
        return "called"

    assert environment_of(tmp_path).get_template("call.sql").render(call=call) == "called"
    with pytest.raises(SecurityError):
        environment_of(tmp_path, SandboxedEnvironment).get_template("call.sql").render(call=call)
