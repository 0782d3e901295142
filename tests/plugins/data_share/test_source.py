"""What a dataset file says about the columns that leave: what is refused, and what the job is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from data_share.source import MAX_PARAMETER_BYTES, Source
from tests.plugins.data_share.conftest import tides


def choice(**fields: Any) -> Any:
    return Source.model_validate(fields).parameter()


def test_without_a_choice_the_job_is_told_nothing() -> None:
    assert choice() == {}
    assert tides().source_parameters() == {"proof": "checksums", "source": ""}
    assert tides(source={}, proof="counts").source_parameters() == {"proof": "counts", "source": ""}


def test_the_job_is_told_names_and_what_happens_to_them() -> None:
    told = choice(columns=["k", "Ssn", "name"], rename={"SSN": "person"}, hash=["ssn"])
    assert told["others"] == "left_out"
    assert {tuple(column.values()) for column in told["columns"]} == {
        ("Ssn", "person", "hashed"),
        ("k", "k", "kept"),
        ("name", "name", "kept"),
    }
    assert choice(exclude=["ssn"]) == {
        "columns": [{"name": "ssn", "alias": "ssn", "how": "left_out"}],
        "others": "kept",
    }


def test_an_earlier_job_refuses_a_dataset_that_chooses() -> None:
    for proof in ("checksums", "counts"):
        parameters = tides(source={"exclude": ["ssn"]}, proof=proof).source_parameters()
        assert parameters["proof"] == f"chosen_{proof}"
        assert json.loads(parameters["source"])["columns"][0]["name"] == "ssn"
        parameters = tides(proof=proof).source_parameters(["HARBOUR"])
        assert parameters["proof"] == f"chosen_{proof}"
        assert json.loads(parameters["source"]) == {
            "columns": [],
            "others": "kept",
            "known": ["HARBOUR"],
            "new": "refused",
        }


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"columns": ["a"], "exclude": ["b"]}, "not together with columns"),
        ({"columns": ["a", "A"]}, "columns: a is given more than once"),
        ({"exclude": ["a", "A"]}, "exclude: a is given more than once"),
        ({"hash": ["a", "A"]}, "hash: a is given more than once"),
        ({"rename": {"a": "b", "A": "c"}}, "rename: a is given more than once"),
        ({"columns": ["a"], "hash": ["b"]}, "hash: b not in columns"),
        ({"columns": ["a"], "rename": {"b": "c"}}, "rename: b not in columns"),
        ({"exclude": ["a"], "hash": ["A"]}, "hash: A is excluded"),
        ({"exclude": ["a"], "rename": {"A": "b"}}, "rename: A is excluded"),
        ({"columns": ["a", "b"], "rename": {"a": "B"}}, "several columns would be b"),
        ({"rename": {"a": "x", "b": "X"}}, "several columns would be x"),
        ({"columns": [f"c{number:0200}" for number in range(60)]}, f"of which {MAX_PARAMETER_BYTES:,} are possible"),
        ({"column": ["a"]}, "Extra inputs"),
        ({"columns": [1]}, "valid string"),
        *(
            (fields, message)
            for name, message in {
                "": "no name of a column",
                "a\nb": "no name of a column",
                "a\x00": "no name of a column",
                "x" * 256: "no name of a column",
                "${env:HOME}": "contains \\$\\{",
                "{{ var.value.secret }}": "contains \\{\\{",
                "{{job.parameters.run_key}}": "contains \\{\\{",
                "{% raw %}": "contains \\{%",
                "{# c": "contains \\{#",
            }.items()
            for fields in ({"columns": [name]}, {"exclude": [name]}, {"hash": [name]}, {"rename": {"a": name}})
        ),
    ],
)
def test_a_wrong_choice_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Source.model_validate(fields)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("", "at least 1 character"),
        ("   ", "at least 1 character"),
        ("a = 1; DROP TABLE b", "contains ; outside"),
        ("a = 1 -- b", "contains -- outside"),
        ("a = 1 /* b", "contains /\\* outside"),
        ("a = 1 // b", "contains // outside"),
        ("a = 'b", "contains ' outside"),
        ('a = "b', 'contains " outside'),
        ("`a = 1", "contains ` outside"),
        ("a = 'b\\\\' OR c = 'd", "contains ' outside"),
        ("a = 1) OR (1 = 1", "brackets"),
        ("(a = 1", "brackets"),
        ("a = 1)", "brackets"),
        ("a = :run_key", "contains : outside"),
        ("a = ?", "contains \\? outside"),
        ("a = '${env:HOME}'", "contains \\$\\{"),
        ("a = '{{job.parameters.dataset}}'", "contains \\{\\{"),
    ],
)
def test_a_condition_that_would_not_be_one_is_refused(where: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Source(where=where)


@pytest.mark.parametrize(
    "where",
    [
        "a = ';'",
        "a = '--' AND b = \"/*\"",
        "`a;b` > 1",
        "a::INT = 1",
        "a:b.c = 1",
        "a[0] - -1 > b / 2",
        "(a) IN (1, (2))",
    ],
)
def test_what_a_condition_may_have(where: str) -> None:
    told = choice(where=f"  {where}\n")
    assert told == {"columns": [], "others": "kept", "where": Source(where=where).where_digest}
    assert where not in json.dumps(told)


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"exclude": ["harbour"]}, "required_columns"),
        ({"rename": {"harbour": "port"}}, "required_columns"),
        ({"columns": ["day"]}, "required_columns"),
        ({"columns": ["harbour"]}, "merge_keys"),
    ],
)
def test_a_column_that_must_be_there_must_leave(source: dict[str, Any], field: str) -> None:
    fields: dict[str, Any] = {"load_mode": "merge", "merge_keys": ("day",), "required_columns": ("harbour",)}
    with pytest.raises(ValidationError, match=f"{field}: (harbour|day) does not leave Databricks"):
        tides(source=source, **fields)
    tides(source={"columns": ["Harbour", "date"], "rename": {"date": "day"}}, **fields)
    tides(source={"exclude": ["ssn"], "rename": {"harbour": "day", "day": "harbour"}}, **fields)
