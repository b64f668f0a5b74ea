"""Opens pages in a real Chromium; where there is none, tests that need one skip and say so."""

import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium():
    """Return the path of a browser that starts, or skip; some distributions ship empty shells."""
    for name in NAMES:
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH and starts")


@contextmanager
def chromium():
    """Start the browser that the system has; nothing is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find_chromium()
    with api.sync_playwright() as playwright:
        # No sandbox: root, as in a container, may not use one; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A loaded page, and what went wrong while it loaded."""

    page: Any
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def visit(browser, path, *, scheme, width, height=800):
    """Load a file in a fresh context."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    seen = Visit(context.new_page())
    seen.page.on("console", lambda message: seen.errors.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on("requestfailed", lambda request: seen.failed.append(request.url))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(path.as_uri())
    return seen
