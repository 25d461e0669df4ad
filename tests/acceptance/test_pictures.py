"""The pictures of the docs: a morning at Northwind, as the admin shows it.

They are taken each time, into pytest's folder, and into that of the docs where that is asked for:
`PICTURES=docs/images script/test tests/acceptance/test_pictures.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.acceptance.acceptance_support import Server, running_server
from tests.acceptance.browser_support import logged_in, needs_chromium, opened, pictured

pytestmark = needs_chromium

HERO = "/admin/sync/conflict/0198a6d2-0000-7000-8000-000000000001/change/"
WIDTH = 1440
SCENE = "import json; from tests.acceptance.quarantine_scene import build; print(json.dumps(build()))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("pictures")) as running:
        running.superuser("anna", "a long pass phrase")
        yield running


@pytest.fixture(scope="module")
def places(server: Server) -> dict[str, str]:
    """The addresses of the scene's pages, by the names of their pictures."""
    told: dict[str, str] = json.loads(server.manage("shell", "--no-imports", "-c", SCENE).splitlines()[-1])
    return told | {"front-page": "/admin/", "conflicts": "/admin/sync/conflict/?state=open", "conflict": HERO}


@pytest.fixture(scope="module")
def anna(browser: Browser, server: Server) -> StorageState:
    return logged_in(browser, server, "anna")


def picking(page: Page) -> None:
    """One field from each side, as somebody at work has it on the screen."""
    for field, side in (("title", "device"), ("phone", "server")):
        page.locator(f"#pick-{field}-{side} + label").click()
    expect(page.locator("#progress")).to_have_text("1 to decide.")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def selecting(page: Page) -> None:
    for box in page.locator(".lines .select").all()[2:5]:
        box.check()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


@pytest.mark.parametrize(
    ("name", "scheme", "height", "prepare"),
    [
        ("front-page", "light", 960, None),
        ("conflicts", "light", 960, selecting),
        ("conflict", "light", 960, picking),
        ("conflict", "dark", 960, picking),
        ("quarantine", "light", 900, None),
        ("refused-change", "light", 1130, None),
        ("row-history", "light", 960, None),
        ("restore-version", "light", 760, None),
        ("device", "light", 860, None),
        ("devices", "light", 560, None),
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
    places: dict[str, str],
    pictures: Path,
) -> None:
    with opened(browser, server, anna, color_scheme=scheme, viewport={"width": WIDTH, "height": height}) as page:
        picture = pictures / f"{name}{'-dark' if scheme == 'dark' else ''}.png"
        pictured(page, places[name], picture, prepare)
        page.evaluate("window.onbeforeunload = null")
