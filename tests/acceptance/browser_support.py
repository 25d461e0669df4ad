"""Real Chromium, as people use the admin with it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, StorageState, sync_playwright

from tests.acceptance.acceptance_support import Server

# The shell draws the same pages for a third of the work, since it has no windows.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium).")
PASSWORD = "a long pass phrase"  # of people who exist for one test

_STAFF = """
from django.contrib.auth.models import Permission, User
user = User.objects.create_user({name!r}, password={password!r}, is_staff=True)
user.user_permissions.set(Permission.objects.filter(codename__in={permissions!r}))
"""


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def opened(
    browser: Browser, server: Server, session: StorageState | None = None, may_refuse: bool = False, **context: Any
) -> Iterator[Page]:
    """A page that has nothing to complain about when it is closed, and asks no other host for anything.

    A complaint is a script that failed, and, unless it `may_refuse`, an error in the console or an answer of 400
    and above.
    """
    complaints: list[str] = []
    made = browser.new_context(base_url=server.url, storage_state=session, **context)
    page = made.new_page()
    if not may_refuse:
        page.on("console", lambda message: complaints.extend([message.text] if message.type == "error" else []))
        page.on(
            "response",
            lambda answer: complaints.extend([f"{answer.status} {answer.url}"] if answer.status >= 400 else []),
        )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.extend([] if _ours(request.url, server) else [request.url]))
    yield page
    made.close()
    assert not complaints, complaints


def _ours(url: str, server: Server) -> bool:
    return url.startswith((f"{server.url}/", "data:", "blob:"))


def logged_in(browser: Browser, server: Server, name: str, password: str = PASSWORD) -> StorageState:
    """The cookies of somebody who has logged in."""
    with opened(browser, server) as page:
        page.goto("/admin/")
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/admin/")
        return page.context.storage_state()


def staff(server: Server, name: str, *permissions: str) -> str:
    """Make somebody of the staff with these permissions alone, such as `view_conflict`; the name."""
    script = _STAFF.format(name=name, password=PASSWORD, permissions=permissions)
    server.manage("shell", "--no-imports", "-c", script)
    return name


def pictured(page: Page, address: str, picture: Path, prepare: Callable[[Page], None] | None = None) -> None:
    """Take a page's picture, as it is once it was prepared. It has no barriers."""
    page.goto(address)
    page.wait_for_load_state("networkidle")
    if prepare is not None:
        prepare(page)
    assert barriers(page, "body") == []
    page.screenshot(path=picture, animations="disabled", caret="hide")
    assert picture.stat().st_size > 10_000


def barriers(page: Page, within: str = "html") -> list[str]:
    """What axe finds that keeps people from using a part of the page: only what it calls serious or critical."""
    found = Axe().run(page, context=within).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in {"serious", "critical"}
        for node in fault["nodes"]
    ]
