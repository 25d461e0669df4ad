"""The pages of the pre-existing systems in real Chromium: looked at, decided by keyboard, and without barriers.

Their pictures are taken each time, into pytest's folder or into that of the docs: see test_pictures.py.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.acceptance.acceptance_support import Server, running_server
from tests.acceptance.browser_support import barriers, logged_in, needs_chromium, opened, pictured

pytestmark = [needs_chromium, pytest.mark.slow]

WIDTH = 1440
SCENE = "import json; from tests.acceptance.legacy_scene import build; print(json.dumps(build()))"
Places = dict[str, str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("systems")
    own = {"LEGACY_SYSTEMS": "tests.acceptance.legacy_scene", "LEGACY_SCENE": str(folder / "erp.json")}
    with running_server(folder, **own) as running:
        running.superuser("anna", "a long pass phrase")
        yield running


@pytest.fixture(scope="module")
def places(server: Server) -> Places:
    """The addresses of the scene's pages, by the names of their pictures."""
    told: Places = json.loads(server.manage("shell", "--no-imports", "-c", SCENE).splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def anna(browser: Browser, server: Server) -> StorageState:
    return logged_in(browser, server, "anna")


def choosing(page: Page) -> None:
    page.locator("#row-1").check()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def asking(page: Page) -> None:
    page.get_by_role("button", name="Ask erp").click()
    expect(page.get_by_text("Their record now")).to_be_visible()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


@pytest.mark.parametrize(
    ("name", "scheme", "height", "prepare"),
    [
        ("systems", "light", 1180, None),
        ("systems", "dark", 1180, None),
        ("runs", "light", 900, None),
        ("run", "light", 900, None),
        ("rollback", "light", 640, None),
        ("plan", "light", 1000, None),
        ("dead-letters", "light", 900, None),
        ("dead-letter", "light", 940, None),
        ("unclear-record", "light", 900, choosing),
        ("link", "light", 700, asking),
    ],
)
def test_picture_shows_a_page_without_a_fault(
    name: str,
    scheme: Any,
    height: int,
    prepare: Any,
    browser: Browser,
    server: Server,
    anna: StorageState,
    places: Places,
    pictures: Path,
) -> None:
    with opened(browser, server, anna, color_scheme=scheme, viewport={"width": WIDTH, "height": height}) as page:
        picture = pictures / f"legacy-{name}{'-dark' if scheme == 'dark' else ''}.png"
        pictured(page, places[name], picture, prepare)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    ["systems", "runs", "run", "rollback", "plan", "dead-letters", "dead-letter", "unclear-record", "link", "links"],
)
def test_page_works_on_a_phone(
    name: str, scheme: Any, browser: Browser, server: Server, anna: StorageState, places: Places, pictures: Path
) -> None:
    with opened(browser, server, anna, color_scheme=scheme, viewport={"width": 375, "height": 740}) as page:
        page.goto(places[name])
        page.wait_for_load_state("networkidle")
        assert barriers(page, "body") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        if not os.environ.get("PICTURES"):
            page.screenshot(path=pictures / f"phone-{name}-{scheme}.png", full_page=True)


def test_front_page_tells_the_systems_that_need_somebody(
    browser: Browser, server: Server, anna: StorageState, places: Places
) -> None:
    with opened(browser, server, anna) as page:
        page.goto("/admin/")
        section = page.get_by_role("region", name="Pre-existing systems")
        expect(section.get_by_role("row", name="store-lyon")).to_contain_text("stopped for safety")
        section.get_by_role("link", name="Pre-existing systems").click()
        expect(page.get_by_role("heading", name="16 pre-existing systems")).to_be_visible()
        assert barriers(page, "body") == []


def test_unclear_record_is_decided_by_keyboard(
    browser: Browser, server: Server, anna: StorageState, places: Places
) -> None:
    with opened(browser, server, anna) as page:
        page.goto(places["unclear-record"])
        first = page.locator("#row-1")
        for _ in range(80):
            if first.evaluate("each => each === document.activeElement"):
                break
            page.keyboard.press("Tab")
        expect(first).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(page.locator("#row-2")).to_be_checked()
        page.keyboard.press("ArrowUp")
        expect(first).to_be_checked()
        page.keyboard.press("Enter")
        expect(page.get_by_text("The next run links the two.").first).to_be_visible()
        expect(page.get_by_text("It is the row").first).to_be_visible()


def test_sync_now_runs_and_the_page_follows_it(
    browser: Browser, server: Server, anna: StorageState, places: Places
) -> None:
    with opened(browser, server, anna) as page:
        page.goto("/admin/legacy/counterpart/?system=store-porto")
        card = page.locator("#card-store-porto")
        card.get_by_role("button", name="Sync store-porto now").click()
        page.goto("/admin/legacy/counterpart/?system=store-porto")
        expect(card.get_by_text("just now").or_(card.get_by_text("under a minute"))).to_be_visible(timeout=60_000)
        expect(card.locator(".sy-badge").first).to_have_text("in step", timeout=60_000)
    with server.connect() as reader:
        query = "SELECT trigger FROM legacy_run WHERE system = 'store-porto' ORDER BY started_at DESC LIMIT 1"
        assert reader.execute(query).fetchone() == ("button",)
