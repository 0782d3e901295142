"""
The plugin for Airflow itself: the page "Data shares" in its UI, and what is told of the end of each run.

Airflow finds it by ``plugins/data_share_plugin.py`` in a checkout, and by an entry point of the wheel. It loads plugins
in every process, also in each task. So this module imports little: the web server of the page is imported with the
first request, and only in the api-server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from data_share import __version__
from data_share.outcome import events, metrics, notes

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_HEADERS = {
    # No content from other hosts, nothing inline, and no other site may embed the page with its Sync buttons.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    # Browsers cache the files but revalidate them by ETag: after an upgrade, no page runs an old script.
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class StatusPage:
    """
    The files of the status page, and the version of the package, as an ASGI application.

    They are the same for everybody and contain no data, so they need no sign-in: the page's script calls Airflow's REST
    API with the viewer's cookie, and Airflow's permissions decide what it shows and which syncs its buttons start.
    """

    folder = Path(__file__).parent / "status_page"

    @cached_property
    def _routes(self) -> Any:
        from starlette.responses import JSONResponse
        from starlette.routing import Mount, Route, Router
        from starlette.staticfiles import StaticFiles

        async def version(_: Any) -> JSONResponse:
            return JSONResponse({"version": __version__})

        files = StaticFiles(directory=self.folder, html=True)
        return Router([Route("/version.json", version), Mount("", files)], redirect_slashes=False)

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self._routes(scope, receive, send_with_headers)


class DataSharePlugin(AirflowPlugin):
    """The plugin."""

    name = "data_share"
    listeners = [notes, events, metrics]  # noqa: RUF012 - as Airflow declares it
    fastapi_apps = [  # noqa: RUF012
        {"name": "data_share_status_page", "app": StatusPage(), "url_prefix": "/data-share"}
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Data shares",
            # Relative, as Airflow may be served below a path of its host.
            "href": "data-share/",
            "destination": "nav",
            "url_route": "data-shares",
        }
    ]
