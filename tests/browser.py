"""Headless Chromium for the tests that look at pages: the system's own, driven by Playwright, which downloads none."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

WAIT = 120  # seconds at most for anything, on a machine that is busy with other work


@contextlib.contextmanager
def chromium():
    """A function that opens a :class:`Page` of its own; the test is skipped where no Chromium is installed.

    For a fixture of one test file at most: while this is open, nothing else in the process can run asyncio.
    """
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--disable-quic"], timeout=1000 * WAIT)
        yield lambda: Page(browser.new_page())
        browser.close()


class Page:
    """Playwright's ``page``, and what it complained of, asked for and did not get."""

    def __init__(self, page):
        self.page, self.errors, self.requests, self.failures = page, [], [], []
        page.set_default_timeout(1000 * WAIT)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.failures.append(request.url))

    def _said(self, message):
        if message.type == "error":
            self.errors.append(f"{message.text} at {message.location}")

    def open(self, address, width=1200, height=1000, scheme="light"):
        """A file or an address, in a window of that size, for a reader who wants "light" or "dark"."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(address.as_uri() if isinstance(address, Path) else address)

    def run(self, script):
        """The value of a JavaScript expression, once its promise is kept."""
        return self.page.evaluate(script)

    def wait(self, condition):
        """Until a JavaScript expression is true."""
        self.page.wait_for_function(condition)

    def press(self, key, times=1):
        for _ in range(times):
            self.page.keyboard.press(key)

    def picture(self, selector):
        """What the screen shows of an element: (H, W, 3) uint8."""
        data = self.page.locator(selector).first.screenshot()
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
