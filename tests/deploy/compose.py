"""Reads docker-compose.yaml as docker compose does; a key that the rehearsal does not know is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# What a rehearsal with plain processes cannot show, or takes from its own image instead.
_NOT_REHEARSED = {"build", "image", "logging", "pids_limit", "shm_size", "stop_grace_period"}
_REHEARSED = {
    *("cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "init", "networks", "ports"),
    *("profiles", "read_only", "restart", "security_opt", "tmpfs", "user", "volumes"),
}


class ComposeError(ValueError):
    """The file or its variables are not what docker compose accepts."""


@dataclass(frozen=True)
class Mount:
    """A bind mount (``source`` is a path) or a named volume."""

    kind: str
    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Healthcheck:
    """The command of a check, to be executed in the container, and the seconds that it may take."""

    command: list[str]
    timeout: float


@dataclass(frozen=True)
class Service:
    """One service with all its variables filled in."""

    name: str
    image: str
    target: str | None
    command: list[str] | None
    environment: dict[str, str]
    mounts: list[Mount]
    networks: list[str]
    depends_on: dict[str, str]
    healthcheck: Healthcheck | None
    published: tuple[str, int, int] | None
    user: str | None
    init: bool
    replicas: int
    memory_bytes: int
    restart: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Project:
    """What is started together."""

    name: str
    services: dict[str, Service]
    networks: dict[str, dict[str, Any]]
    volumes: list[str]

    def closure(self, names: Iterable[str]) -> list[str]:
        """Return the services and all that they depend on, each after what it depends on."""
        ordered: list[str] = []

        def add(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ComposeError(f"a circle of dependencies: {' -> '.join((*path, name))}")
            for needed in self.services[name].depends_on:
                add(needed, (*path, name))
            if name not in ordered:
                ordered.append(name)

        for name in names:
            add(name, ())
        return ordered


def read_env_file(path: Path) -> dict[str, str]:
    """Read a .env file: plain values, and values in single quotes, which are taken literally."""
    values = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ComposeError(f"{path.name}: not an assignment: {name}")
        if value.startswith("'"):
            if not value.endswith("'") or "'" in value[1:-1]:
                raise ComposeError(f"{path.name}: {name} has unbalanced quotes")
            value = value[1:-1]
        elif re.search(r"[\"'$#\\ ]", value):
            raise ComposeError(f"{path.name}: {name} has characters that need single quotes")
        values[name] = value
    return values


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """
    Fill in ``$$``, ``$X``, ``${X}``, ``${X:-default}``, ``${X-default}``, ``${X:?message}``, ``${X?message}``.

    :raises ComposeError: for a required variable that is missing, and for an unknown form
    """
    result = ""
    position = 0
    while (dollar := text.find("$", position)) != -1:
        result += text[position:dollar]
        if text.startswith("$$", dollar):
            result += "$"
            position = dollar + 2
        elif text.startswith("${", dollar):
            end = _closing_brace(text, dollar + 2)
            result += _expand(text[dollar + 2 : end], variables)
            position = end + 1
        elif plain := re.compile(r"[A-Za-z_][A-Za-z0-9_]*").match(text, dollar + 1):
            result += variables.get(plain[0], "")
            position = plain.end()
        else:
            raise ComposeError(f"a single $ in {text!r}")
    return result + text[position:]


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    while position < len(text):
        if text.startswith("${", position):
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if not depth:
                return position
        position += 1
    raise ComposeError(f"no closing brace in {text!r}")


def _expand(inner: str, variables: Mapping[str, str]) -> str:
    found = re.match(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?])(.*))?$", inner, re.DOTALL)
    if not found:
        raise ComposeError(f"an unknown form of variable: ${{{inner}}}")
    name, operator, rest = found[1], found[2] or "", found[3] or ""
    value = variables.get(name)
    if value is not None and (value or not operator.startswith(":")):
        return value
    if operator.endswith("?"):
        raise ComposeError(f"required variable {name} is missing a value: {interpolate(rest, variables)}")
    return interpolate(rest, variables) if operator.endswith("-") else ""


def load(path: Path, variables: Mapping[str, str], *, profiles: Iterable[str] = ()) -> Project:
    """
    Read a compose file.

    :param variables: what its .env file and the shell say
    :param profiles: profiles on top of those that ``COMPOSE_PROFILES`` names
    :raises ComposeError: for what docker compose would refuse, and for keys that the rehearsal does not know
    """
    content = {
        name: part for name, part in _filled_in(yaml.safe_load(path.read_text()), variables).items() if name[:2] != "x-"
    }
    if unknown := set(content) - {"services", "networks", "volumes"}:
        raise ComposeError(f"unknown keys {sorted(unknown)}")
    active = {*profiles, *variables.get("COMPOSE_PROFILES", "").split(",")} - {""}
    services = {
        name: _service(name, options, path.parent)
        for name, options in content["services"].items()
        if not options.get("profiles") or active & set(options["profiles"])
    }
    project = Project(
        name=variables.get("COMPOSE_PROJECT_NAME") or path.parent.name,
        services=services,
        networks={name: options or {} for name, options in content["networks"].items()},
        volumes=list(content["volumes"]),
    )
    for service in services.values():
        for missing in set(service.depends_on) - set(services):
            raise ComposeError(f"{service.name} depends on {missing}, which is not started")
        for missing in set(service.networks) - set(project.networks):
            raise ComposeError(f"{service.name} is on the network {missing}, which is not declared")
        for mount in service.mounts:
            if mount.kind == "volume" and mount.source not in project.volumes:
                raise ComposeError(f"{service.name} mounts the volume {mount.source}, which is not declared")
    project.closure(services)
    return project


def _filled_in(part: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(part, dict):
        return {name: _filled_in(value, variables) for name, value in part.items()}
    if isinstance(part, list):
        return [_filled_in(value, variables) for value in part]
    return interpolate(part, variables) if isinstance(part, str) else part


def _service(name: str, options: dict[str, Any], folder: Path) -> Service:
    if unknown := set(options) - _REHEARSED - _NOT_REHEARSED:
        raise ComposeError(f"{name}: the rehearsal does not know {sorted(unknown)}")
    deploy = options.get("deploy", {})
    ports = options.get("ports", [])
    published = None
    if ports:
        (port,) = ports
        address, outside, inside = port.rsplit(":", 2)
        published = (address, int(outside), int(inside))
    return Service(
        name=name,
        image=options["image"],
        target=options.get("build", {}).get("target"),
        command=options.get("command"),
        environment={key: "" if value is None else str(value) for key, value in options.get("environment", {}).items()},
        mounts=[_mount(mount, folder) for mount in options.get("volumes", [])],
        networks=options.get("networks", ["default"]),
        depends_on={needed: how["condition"] for needed, how in options.get("depends_on", {}).items()},
        healthcheck=_healthcheck(options.get("healthcheck", {})),
        published=published,
        user=options.get("user"),
        init=options.get("init", False),
        replicas=int(deploy.get("replicas", 1)),
        memory_bytes=_bytes(deploy["resources"]["limits"]["memory"]),
        restart=options["restart"],
        options=options,
    )


def _mount(options: dict[str, Any], folder: Path) -> Mount:
    source = str((folder / options["source"]).resolve()) if options["type"] == "bind" else options["source"]
    return Mount(options["type"], source, options["target"], options.get("read_only", False))


def _healthcheck(options: dict[str, Any]) -> Healthcheck | None:
    if not options or options.get("disable"):
        return None
    kind, *command = options["test"]
    if kind == "CMD-SHELL":
        command = ["/bin/sh", "-c", *command]
    elif kind != "CMD":
        raise ComposeError(f"a healthcheck of the unknown kind {kind}")
    return Healthcheck(command, _seconds(options["timeout"]))


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def _bytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(m|g)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 2**20, "g": 2**30}[unit]
