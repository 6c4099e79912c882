"""Headless Chromium, where it is installed: pages are opened as a person would, and nothing leaves the machine."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; Debian's package is called chromium")


@contextlib.contextmanager
def browser_page(**context: Any) -> Iterator[Any]:
    """An empty page; its errors, and what it asks of other machines, fail the test."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []

    def asked(request: Any) -> None:
        if request.url.split(":")[0] not in ("data", "blob", "file") and "//127.0.0.1" not in request.url:
            complaints.append(f"asked for {request.url}")

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_context(**context).new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
        page.on("request", asked)
        yield page
        browser.close()
    assert not complaints
