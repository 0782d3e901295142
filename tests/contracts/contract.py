"""Recorded HTTP exchanges, and the published contract that they are held against."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml
from jsonschema import FormatChecker
from jsonschema.validators import extend
from openapi_schema_validator import OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

FOLDER = Path(__file__).parent
OUR_OWN = ("/_sandbox/", "/healthz")
"""Paths that only the emulators have."""


@dataclass(frozen=True)
class Exchange:
    """
    One request as it came over the wire, and its answer.

    :param query: names and values, in their order
    :param headers: by name in lower case
    :param status: None when the connection was dropped before an answer
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    status: int | None
    answer_type: str
    answer: bytes

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.query)
        return f"{self.method} {self.path}?{query} {self.body.decode()[:300]} -> {self.status}"


class Recorder:
    """
    ASGI middleware that keeps each exchange.

    :param app: answers
    :param exchanges: where they are kept
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[Any]], exchanges: list[Exchange]) -> None:
        self._app = app
        self._exchanges = exchanges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Answer one request; what the application returns tells uvicorn to drop the connection."""
        if scope["type"] != "http" or scope["path"].startswith(OUR_OWN):
            return await self._app(scope, receive, send)
        # All of it, and first: an application may refuse a request without reading its body.
        body = await Request(scope, receive).body()
        unread = [{"type": "http.request", "body": body, "more_body": False}]
        answer = bytearray()
        status: int | None = None
        answer_type = encoding = ""

        async def hear() -> Message:
            return unread.pop() if unread else await receive()

        async def tell(message: Message) -> None:
            nonlocal status, answer_type, encoding
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                answer_type = headers.get(b"content-type", b"").decode()
                encoding = headers.get(b"content-encoding", b"").decode()
            answer.extend(message.get("body", b""))
            await send(message)

        try:
            return await self._app(scope, hear, tell)
        finally:
            self._exchanges.append(
                Exchange(
                    method=scope["method"],
                    path=scope["path"],
                    query=tuple(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)),
                    headers={name.decode().lower(): value.decode() for name, value in scope["headers"]},
                    body=body,
                    status=status,
                    answer_type=answer_type.partition(";")[0],
                    answer=gzip.decompress(answer) if encoding == "gzip" else bytes(answer),
                )
            )


@dataclass
class Report:
    """
    What was found in one half of an exchange.

    :param problems: where it breaks the contract
    :param undocumented: what it makes use of that the contract marks as such
    :param unknown_fields: fields of an answer that the contract does not name, of one that lets them pass
    """

    problems: list[str] = field(default_factory=list)
    undocumented: set[str] = field(default_factory=set)
    unknown_fields: set[str] = field(default_factory=set)


class Contract:
    """
    An OpenAPI document, strictly read: what it does not name is not allowed.

    :param name: file in this folder, without its ending
    :param lets_fields_pass: whether an answer may have fields that the document does not name, as a service gets new
        ones at any time. Then they are told, and are no problem; types and required fields are as strict as before.
    """

    def __init__(self, name: str, *, lets_fields_pass: bool = False) -> None:
        self.document: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        resource = Resource(contents=self.document, specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource("contract", resource)
        self._noted: set[str] = set()
        self._validator: Any = extend(OAS31Validator, {"x-undocumented": self._note_undocumented})
        self._lets_fields_pass = lets_fields_pass
        closed = OAS31Validator.VALIDATORS["additionalProperties"]
        self._of_answers: Any = self._validator
        if lets_fields_pass:
            self._of_answers = extend(
                self._validator,
                {"additionalProperties": lambda *given: () if given[1] is False else closed(*given)},
            )

    @cached_property
    def operations(self) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """Method, path and operation by operation id."""
        return {
            operation["operationId"]: (method.upper(), path, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
        }

    def operation_of(self, exchange: Exchange) -> str | None:
        """Return the id of the operation that was asked for, or None if the contract has no such operation."""
        for name, (method, path, _) in self.operations.items():
            if method == exchange.method and _path_values(path, exchange.path) is not None:
                return name
        return None

    def check_request(self, exchange: Exchange) -> Report:
        """Hold a request against the contract."""
        report = Report()
        name = self.operation_of(exchange)
        if name is None:
            report.problems.append(f"there is no {exchange.method} {exchange.path}")
            return report
        _, path, operation = self.operations[name]
        parameters = [self._resolved(parameter) for parameter in operation.get("parameters", [])]
        body = operation.get("requestBody")
        if len(dict(exchange.query)) != len(exchange.query):
            report.problems.append(f"a query parameter is there twice: {exchange.query}")
        given: dict[str, Mapping[str, str]] = {
            "path": _path_values(path, exchange.path) or {},
            "query": dict(exchange.query),
            "header": exchange.headers,
        }
        for place, values in given.items():
            expected = {p["name"]: p for p in parameters if p["in"] == place}
            if place == "query" and exchange.body and body and body.get("x-instead-of-query"):
                expected = {}
            if place == "header":
                # Those of the transport are nobody's contract.
                expected = {key.lower(): parameter for key, parameter in expected.items()}
            else:
                report.problems += [f"unknown {place} parameter {key!r}" for key in values.keys() - expected.keys()]
            for key, parameter in expected.items():
                if key in values:
                    self._check(_typed(values[key], self._resolved(parameter["schema"])), parameter["schema"], report)
                elif parameter.get("required"):
                    report.problems.append(f"{place} parameter {key!r} is missing")
        report.problems += self._sign_in_problems(exchange, operation)
        self._check_body(exchange, body, report)
        return report

    def check_response(self, exchange: Exchange) -> Report:
        """Hold an answer against the contract."""
        report = Report()
        name = self.operation_of(exchange)
        if name is None or exchange.status is None:
            return report
        response = self.operations[name][2]["responses"].get(str(exchange.status))
        if response is None:
            report.problems.append(f"{name} has no answer {exchange.status}: {exchange.answer.decode()[:300]}")
            return report
        response = self._resolved(response)
        if reason := response.get("x-undocumented"):
            report.undocumented.add(reason)
        if media := response.get("content"):
            if exchange.answer_type not in media:
                report.problems.append(f"the answer's type is {exchange.answer_type!r}")
            else:
                value, schema = json.loads(exchange.answer), media[exchange.answer_type]["schema"]
                self._check(value, schema, report, self._of_answers)
                if self._lets_fields_pass:
                    report.unknown_fields |= {
                        f"{name} {exchange.status}: {place}" for place in self._unknown_fields(value, schema, "$")
                    }
        return report

    def _check_body(self, exchange: Exchange, body: dict[str, Any] | None, report: Report) -> None:
        if not exchange.body:
            if body is not None and body.get("required"):
                report.problems.append("the body is missing")
            return
        if body is None:
            report.problems.append("a body is sent where there is none")
            return
        if reason := body.get("x-undocumented"):
            report.undocumented.add(reason)
        kind = exchange.headers.get("content-type", "").partition(";")[0]
        if kind not in body["content"]:
            report.problems.append(f"the body's type is {kind!r}")
        elif kind == "application/json":
            self._check(json.loads(exchange.body), body["content"][kind]["schema"], report)
        else:
            fields = parse_qsl(exchange.body.decode(), keep_blank_values=True, strict_parsing=True)
            self._check(dict(fields), body["content"][kind]["schema"], report)

    def _sign_in_problems(self, exchange: Exchange, operation: dict[str, Any]) -> Iterator[str]:
        (requirement,) = operation.get("security", self.document["security"])
        (scheme,) = requirement
        expected = self.document["components"]["securitySchemes"][scheme]["scheme"]
        kind, _, credential = exchange.headers.get("authorization", "").partition(" ")
        if kind.lower() != expected or not credential:
            yield f"the header Authorization is not of the form {expected.title()} <credential>"

    def _check(self, value: Any, schema: Any, report: Report, validator_class: Any = None) -> None:
        self._noted.clear()
        validator = (validator_class or self._validator)(
            _rooted(schema), registry=self._registry, format_checker=_FORMATS
        )
        report.problems += [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        report.undocumented |= self._noted

    def _note_undocumented(self, validator: Any, reason: str, instance: Any, schema: Mapping[str, Any]) -> None:
        # Only where the rest of the schema fits: in a `oneOf`, each branch is asked.
        rest = {name: value for name, value in schema.items() if name != "x-undocumented"}
        if validator.evolve(schema=rest).is_valid(instance):
            self._noted.add(reason)

    def _unknown_fields(self, value: Any, schema: Any, place: str) -> Iterator[str]:
        """Where a value has fields that its schema does not name; elements of a list have one place."""
        schema = self._resolved(schema)
        for part in schema.get("allOf", ()):
            yield from self._unknown_fields(value, part, place)
        if "if" in schema:
            fits = self._of_answers(_rooted(schema["if"]), registry=self._registry).is_valid(value)
            yield from self._unknown_fields(value, schema["then" if fits else "else"], place)
        properties = schema.get("properties", {})
        if isinstance(value, dict):
            for name in value:
                if name in properties:
                    yield from self._unknown_fields(value[name], properties[name], f"{place}.{name}")
                elif schema.get("additionalProperties") is False:
                    yield f"{place}.{name}"
        if isinstance(value, list) and isinstance(schema.get("items"), dict):
            for item in value:
                yield from self._unknown_fields(item, schema["items"], f"{place}[]")

    def _resolved(self, node: Any) -> Any:
        while "$ref" in node:
            found: Any = self.document
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            node = found
        return node


_FORMATS = FormatChecker(["uuid"])


def _path_values(template: str, path: str) -> dict[str, str] | None:
    found = re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template)), path)
    return None if found is None else found.groupdict()


def _rooted(node: Any) -> Any:
    """Let references point into the document, wherever the schema that has them is checked."""
    if isinstance(node, dict):
        return {
            key: f"contract{value}" if key == "$ref" and value.startswith("#") else _rooted(value)
            for key, value in node.items()
        }
    return [_rooted(item) for item in node] if isinstance(node, list) else node


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """Read a query, path or header parameter as its schema says; text that does not fit stays text, and is refused."""
    if schema.get("type") == "integer" and re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    if schema.get("type") == "boolean" and text in ("true", "false"):
        return text == "true"
    return text
