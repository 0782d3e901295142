"""A headless Chromium for the tests of pages. A module imports the fixture ``browser`` from here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sandbox.settings import PROJECT

IMAGES = PROJECT / "docs" / "images"
UPDATE_IMAGES = bool(os.environ.get("UPDATE_IMAGES"))
"""Whether the pictures in the documents are taken anew; else a test run leaves the tree as it is."""

ANSWER_MILLISECONDS = 30_000
"""How long a page may take to show what is expected of it."""

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """
    Debian's Chromium, or Chrome.

    For a module and not for all, as Playwright keeps an event loop in this thread while it is there: no test could
    start one of its own.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        expect.set_options(timeout=ANSWER_MILLISECONDS)
        yield chromium
        chromium.close()


def expect_accessible(page: Page) -> None:
    """Expect that axe finds nothing that keeps a person from using the page, neither in light nor in dark colours."""
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        # One fault may concern a hundred elements.
        assert found.violations_count == 0, f"in {scheme} colours: {found.generate_report()[:4000]}"


def take_picture(page: Page, name: str) -> None:
    """Take the picture of the documents that has this name, when pictures are wanted; without motion."""
    if UPDATE_IMAGES:
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=IMAGES / f"{name}.png", full_page=True, animations="disabled")
