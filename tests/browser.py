"""A headless Chromium for tests, driven by Playwright; ``tab`` is a fixture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Dialog, Page, expect, sync_playwright

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
expect.set_options(timeout=20_000)


class Tab:
    """A tab of its own, and what its page did since it was opened.

    ``complaints`` holds each line of the console, a policy's refusals among them, each error and each dialog;
    ``asked`` and ``answered`` hold the addresses that were asked for and those that something came back from.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.answered: list[str] = []
        page.on("console", lambda line: self.complaints.append(line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("response", lambda response: self.answered.append(response.url))

    def open(self, url: str, width: int = 1280, scheme: Literal["light", "dark"] = "light") -> None:
        """Open ``url`` on a screen ``width`` pixels wide and wait until all of it has come."""
        self.page.goto("about:blank")
        for told in (self.complaints, self.asked, self.answered):
            told.clear()
        self.page.set_viewport_size({"width": width, "height": 844})
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(url)

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def tab() -> Iterator[Tab]:
    """A tab. Playwright holds the thread's event loop: a test asks for ``tab`` after fixtures that run one."""
    if not CHROMIUM:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield Tab(browser.new_page())
