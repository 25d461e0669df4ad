"""Real Chromium opens the pages that people use, and finds nothing to complain about."""

import uuid
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, StorageState, expect

from tests.acceptance.acceptance_support import COUNTRY, Server
from tests.acceptance.browser_support import needs_chromium, opened

pytestmark = needs_chromium

NAME = "<script>document.title = 'broken'</script>"


class Seen(NamedTuple):
    """What was pushed for the pages to show."""

    device: str
    customer: str
    conflict: str
    rejection: str


@pytest.fixture(scope="module")
def seen(server: Server) -> Seen:
    """A device whose change met another's, and one that the server refused."""
    device = server.enroll(name=f"Nancy's phone {NAME}")
    customer = str(uuid.uuid4())

    def push(op: str, base: int | None, values: dict[str, Any]) -> Any:
        mutation = {"id": str(uuid.uuid4()), "entity": "customer", "row": customer, "op": op, "base": base}
        body = {"mutations": [mutation | {"set": values}]}
        answer = httpx.post(f"{server.url}/sync/push", json=body, headers=device.headers)
        return answer.raise_for_status().json()["results"][0]

    push("create", None, {"name": NAME, "country": COUNTRY, "phone": "030-0074321"})
    with server.connect() as other:
        other.execute("UPDATE entities_customer SET phone = '030-1111111' WHERE id = %s", [customer])
    conflict = push("update", 1, {"phone": "030-2222222"})
    push("update", 2, {"code": "ALFKI"})
    with server.connect() as reader:
        found = reader.execute("SELECT id::text FROM sync_rejection WHERE row_id = %s", [customer]).fetchone()
    assert found is not None
    return Seen(device.id, customer, conflict["conflict"], found[0])


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/admin/", "Open conflicts"),
        ("/admin/devices/device/", "Nancy's phone"),
        ("/admin/devices/device/{device}/change/", "What it asked for"),
        ("/admin/devices/enrollmentcode/add/", "One a line, such as global or store:7."),
        ("/admin/sync/conflict/", "the server's values stay"),
        ("/admin/sync/conflict/{conflict}/change/", "030-2222222"),
        ("/admin/sync/rejection/", "Devices cannot change this field."),
        ("/admin/sync/rejection/{rejection}/change/", "Devices cannot change this field."),
        ("/admin/entities/customer/", NAME),
        ("/admin/entities/customer/{customer}/change/", NAME),
        ("/admin/entities/customer/{customer}/history/", "030-0074321"),
    ],
)
def test_admin_page_opens(
    address: str, told: str, seen: Seen, browser: Browser, server: Server, session: StorageState
) -> None:
    with opened(browser, server, session) as page:
        page.goto(address.format(**seen._asdict()))
        expect(page.locator("#main")).to_contain_text(told)
        assert page.title() != "broken"


def test_enrolment_code_is_made_and_shown_once(browser: Browser, server: Server, session: StorageState) -> None:
    with opened(browser, server, session) as page:
        page.goto("/admin/devices/enrollmentcode/add/")
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.locator("#main")).to_contain_text("Enrolment code:")
        page.reload()
        expect(page.get_by_text("Enrolment code:")).to_have_count(0)


def test_api_pages_open_without_the_internet(browser: Browser, server: Server) -> None:
    asked: list[str] = []
    with opened(browser, server) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto("/docs/")
        page.locator("#operations-sync-sync_push").click()
        expect(page.get_by_text("Send the outbox")).to_be_visible()
    assert [url for url in asked if not url.startswith((f"{server.url}/", "data:", "blob:"))] == []
