"""The plugin as Airflow loads it: cheap in a task process; in the api-server, the files of the status page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import data_share

if TYPE_CHECKING:
    from airflow import plugins_manager

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "plugins" / "data_share" / "status_page"

# What a task process does (airflow.sdk.execution_time.task_runner), and what it imported because of it.
LOAD_AS_A_TASK = """
import json, sys
from airflow.sdk import plugins_manager
import airflow.sdk.execution_time.task_runner
before = set(sys.modules)
plugins_manager.integrate_macros_plugins()
plugins, errors = plugins_manager._get_plugins()
new = sorted(set(sys.modules) - before)
json.dump({"plugins": [plugin.name for plugin in plugins], "errors": errors, "new": new}, sys.stdout)
"""


class Loaded(NamedTuple):
    """What a task process has loaded: plugins, errors, and new modules."""

    plugins: list[str]
    errors: dict[str, str]
    new: list[str]


def load_in_a_task_process(plugins_folder: Path) -> Loaded:
    environment = os.environ | {
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins_folder),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    result = subprocess.run(
        [sys.executable, "-c", LOAD_AS_A_TASK], env=environment, capture_output=True, text=True, check=True
    )
    return Loaded(**json.loads(result.stdout.splitlines()[-1]))


def test_a_task_process_loads_the_plugin_and_no_web_framework() -> None:
    loaded = load_in_a_task_process(PROJECT / "plugins")

    assert loaded.errors == {}
    assert "data_share" in loaded.plugins
    heavy = {name for name in loaded.new if name.split(".")[0] in {"fastapi", "starlette", "uvicorn", "httpx"}}
    assert heavy == set()
    # And nothing else of weight: each module of the package costs every task its time.
    assert [name for name in loaded.new if name.startswith("data_share.")] == [
        "data_share.airflow_version",
        "data_share.outcome",
        "data_share.outcome.events",
        "data_share.outcome.metrics",
        "data_share.outcome.notes",
        "data_share.plugin",
    ]


@pytest.fixture(scope="module")
def plugin() -> plugins_manager.AirflowPlugin:
    from airflow import plugins_manager

    (found,) = (plugin for plugin in plugins_manager._get_plugins()[0] if plugin.name == "data_share")
    return found


class Served:
    """Airflow's api-server, with the plugin's application mounted as Airflow mounts it, below a path or not."""

    def __init__(self, plugin: plugins_manager.AirflowPlugin, root_path: str = "") -> None:
        (app,) = plugin.fastapi_apps
        api_server = Starlette(routes=[Mount(app["url_prefix"], app["app"])])
        self._transport = httpx.ASGITransport(app=api_server, root_path=root_path)
        self._base_url = f"http://airflow{root_path}{app['url_prefix']}/"

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url=self._base_url) as client:
                return await client.get(path, headers=headers)

        return asyncio.run(ask())


@pytest.fixture
def page(plugin: plugins_manager.AirflowPlugin) -> Served:
    return Served(plugin)


def test_the_navigation_leads_to_the_page_also_below_a_path(plugin: plugins_manager.AirflowPlugin) -> None:
    (app,), (view,) = plugin.fastapi_apps, plugin.external_views

    assert view["name"] == "Data shares"
    assert view["destination"] == "nav"
    # Relative to the <base> of Airflow's UI, which knows the path.
    assert f"/{view['href']}" == f"{app['url_prefix']}/"


def test_the_page_is_served_below_a_path_too(plugin: plugins_manager.AirflowPlugin) -> None:
    assert Served(plugin, root_path="/below").get("page.css").status_code == 200


def test_a_browser_may_load_nothing_from_elsewhere(page: Served) -> None:
    answer = page.get("")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy.pop("frame-ancestors") == "'self'"
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_asked_for_and_not_sent_again(page: Served) -> None:
    first = page.get("page.js")
    again = page.get("page.js", headers={"if-none-match": first.headers["etag"]})

    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert (first.status_code, again.status_code) == (200, 304)


def test_only_the_files_of_the_page_are_served(page: Served) -> None:
    for path in ("../share.py", "%2e%2e/share.py", "..%2fplugin.py", "nothing.js"):
        assert page.get(path).status_code == 404, path


class Resources(HTMLParser):
    """The addresses in the page's HTML, and what a strict policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_all_that_the_page_needs_is_served_with_it(page: Served) -> None:
    resources = Resources()
    resources.feed(page.get("").text)
    scripts = [page.get(name).text for name in resources.found if name.endswith(".js")]
    imported: set[str] = set()
    for text in scripts:
        for name in set(re.findall(r'(?:from "\./|new URL\(")([\w.]+)"', text)) - imported:
            imported.add(name)
            scripts.append(page.get(name).text)

    assert resources.inline == []
    names = {*resources.found, *imported, "index.html"}
    assert names - {"version.json"} == {path.name for path in PAGE.iterdir()}
    assert {page.get(name).status_code for name in names} == {200}


def test_the_page_shows_the_version_of_the_package(page: Served) -> None:
    assert page.get("version.json").json() == {"version": data_share.__version__}
    assert "version.json" in page.get("page.js").text


def test_no_script_writes_html() -> None:
    for path in PAGE.glob("*.js"):
        words = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
        assert re.findall(words, path.read_text()) == [], path.name
