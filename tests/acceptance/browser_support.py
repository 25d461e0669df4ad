"""Real Chromium as people use it: pages that may not complain, and what a check of their accessibility finds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, StorageState, expect, sync_playwright

from tests.acceptance.acceptance_support import Server

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium).")
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(browser: Browser, server: Server, session: StorageState | None = None, **context: Any) -> Iterator[Page]:
    """A page that has nothing to complain about when it is closed.

    A complaint is an error in the console, a script that failed, or an answer of 400 and above.
    """
    complaints: list[str] = []
    made = browser.new_context(base_url=server.url, storage_state=session, **context)
    page = made.new_page()
    page.on("console", lambda message: complaints.extend([message.text] if message.type == "error" else []))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "response", lambda answer: complaints.extend([f"{answer.status} {answer.url}"] if answer.status >= 400 else [])
    )
    yield page
    made.close()
    assert complaints == []


def logged_in(browser: Browser, server: Server, name: str, password: str) -> StorageState:
    """The cookies of a person who has logged in to the admin."""
    with opened(browser, server) as page:
        page.goto("/admin/")
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#main")).to_be_visible()
        return page.context.storage_state()


def barriers(page: Page, within: str = "#content") -> list[str]:
    """What keeps people from using a part of the page, by WCAG 2.1 AA: the rule, and where it is broken."""
    options = {"runOnly": {"type": "tag", "values": WCAG}, "resultTypes": ["violations"]}
    found = Axe().run(page, context=within, options=options).response["violations"]
    return [f"{each['id']}: {node['target']} {node['html'][:120]}" for each in found for node in each["nodes"]]
