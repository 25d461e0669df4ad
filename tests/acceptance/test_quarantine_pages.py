"""What a device's change met is mended in a real browser, and the device has it after its next sync."""

import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect
from syncdevice import Replica

from tests.acceptance.acceptance_support import COUNTRY, SHARED, Server
from tests.acceptance.browser_support import barriers, needs_chromium, opened

pytestmark = needs_chromium
NARROW = {"width": 390, "height": 800}


@pytest.fixture
def phone(server: Server, tmp_path: Path) -> Replica:
    (code,) = server.codes([SHARED])
    return Replica.enroll(server.url, code, tmp_path / "phone.db", name=f"phone {uuid.uuid4().hex[:6]}")


@pytest.fixture
def page(browser: Browser, server: Server, session: StorageState) -> Iterator[Page]:
    with opened(browser, server, session) as found:
        yield found


def do(replica: Replica, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with closing(replica.connect()) as conn:
        rows = conn.execute(sql, parameters).fetchall()
        conn.commit()
        return rows


def refused(phone: Replica, server: Server, **values: Any) -> tuple[str, str]:
    """A contact that the phone made and the server refused: its id, and the address of its page."""
    given = {"first_name": "Ana", "last_name": "Trujillo", "email": "ana at example"} | values
    names, marks = ", ".join(given), ", ".join("?" for _ in given)
    ((row,),) = do(phone, f"INSERT INTO contact ({names}) VALUES ({marks}) RETURNING id", *given.values())
    assert phone.sync().outcomes["rejected"]
    with server.connect() as reader:
        found = reader.execute("SELECT id FROM sync_rejection WHERE row_id = %s", [row]).fetchone()
    assert found is not None
    return str(row), f"/admin/sync/rejection/{found[0]}/change/"


def edited(phone: Replica, server: Server) -> str:
    """A contact that others changed twice after the phone made it; all of it is on the phone."""
    ((row,),) = do(phone, "INSERT INTO contact (first_name, note) VALUES ('Ana', 'call on Monday') RETURNING id")
    phone.sync()
    with server.connect() as other:
        other.execute("UPDATE entities_contact SET note = 'call on Friday' WHERE id = %s", [row])
        other.execute("UPDATE entities_contact SET title = 'Owner' WHERE id = %s", [row])
    phone.sync()
    return str(row)


def contact(phone: Replica, row: str, *names: str) -> tuple[Any, ...]:
    (found,) = do(phone, f"SELECT {', '.join(names)} FROM contact WHERE id = ?", row)
    return found


# --- a refused change


def test_refused_change_is_mended_and_reaches_its_device(server: Server, phone: Replica, page: Page) -> None:
    row, address = refused(phone, server)
    page.goto(address)
    expect(page.locator("#content")).to_contain_text("Enter a valid email address.")
    page.get_by_label("Email").fill("ana@example.org")
    page.get_by_label("Comment").fill("I asked her")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#content")).to_contain_text(re.compile("Replayed by boss-.* version 1 of the row"))
    phone.sync()
    assert contact(phone, row, "first_name", "email") == ("Ana", "ana@example.org")
    (outcome,) = phone.outcomes("rejected")
    assert (outcome.state, outcome.comment) == ("replayed", "I asked her")


def test_bad_value_comes_back_and_nothing_that_was_entered_is_lost(server: Server, phone: Replica, page: Page) -> None:
    _, address = refused(phone, server)
    page.goto(address)
    page.get_by_label("Email").fill("still wrong")
    page.get_by_label("First name").fill("Anna")
    page.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("alert")).to_contain_text("Not replayed")
    expect(page.get_by_label("Email")).to_have_value("still wrong")
    expect(page.get_by_label("First name")).to_have_value("Anna")


def test_refused_change_is_discarded_and_its_device_learns_why(server: Server, phone: Replica, page: Page) -> None:
    row, address = refused(phone, server)
    page.goto(address)
    page.get_by_text("Discard it instead").click()
    page.get_by_role("button", name="Discard this change").click()
    expect(page.locator("#content")).to_contain_text("Say why it is discarded.")
    page.get_by_label("Reason").fill("she is a customer already")
    page.get_by_role("button", name="Discard this change").click()
    expect(page.locator("#content")).to_contain_text("Discarded by")
    phone.sync()
    assert do(phone, "SELECT * FROM contact WHERE id = ?", row) == []
    (outcome,) = phone.outcomes("rejected")
    assert (outcome.state, outcome.comment) == ("discarded", "she is a customer already")


def test_reference_is_looked_up_by_typing(server: Server, phone: Replica, page: Page) -> None:
    name = f"Alfreds {uuid.uuid4().hex[:6]}"
    do(phone, "INSERT INTO customer (name, country) VALUES (?, ?)", name, COUNTRY)
    row, address = refused(phone, server)
    page.goto(address)
    page.get_by_text("other fields of the new row").click()
    page.locator("#select2-id_set-customer_id-container").click()
    page.locator(".select2-search__field").fill(name)
    page.locator(".select2-results__option", has_text=name).click()
    page.get_by_label("Email").fill("ana@example.org")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#content")).to_contain_text("Replayed by")
    phone.sync()
    assert do(phone, "SELECT c.name FROM contact JOIN customer c ON c.id = customer_id WHERE contact.id = ?", row) == [
        (name,)
    ]


def test_many_are_discarded_from_the_list_by_keyboard_alone(server: Server, phone: Replica, page: Page) -> None:
    for _ in range(2):
        refused(phone, server)
    with server.connect() as reader:
        device = reader.execute("SELECT id FROM devices_device ORDER BY created_at DESC LIMIT 1").fetchone()
    assert device is not None
    page.goto(f"/admin/sync/rejection/?device={device[0]}")
    page.locator("#action-toggle").focus()
    page.keyboard.press("Space")
    page.get_by_label("Select action to run").select_option("discard_selected")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Run").press("Enter")
    page.get_by_label("Reason").press_sequentially("test data")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_contain_text("2 discarded")


def test_change_is_mended_by_keyboard_alone(server: Server, phone: Replica, page: Page) -> None:
    row, address = refused(phone, server)
    page.goto(address)
    page.get_by_label("First name").focus()
    while page.evaluate("document.activeElement.name") != "set-email":
        page.keyboard.press("Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type("ana@example.org")
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_contain_text("Replayed by")
    phone.sync()
    assert contact(phone, row, "email") == ("ana@example.org",)


# --- a row


def test_version_is_restored_and_reaches_the_device(server: Server, phone: Replica, page: Page) -> None:
    row = edited(phone, server)
    page.goto(f"/admin/entities/contact/{row}/history/")
    expect(page.locator("#rev-2 ins")).to_have_text("Friday")
    expect(page.locator("#rev-2 del")).to_have_text("Monday")
    page.locator("#rev-1").get_by_role("link", name="Restore this version").click()
    expect(page.get_by_role("row", name="Note").locator("ins")).to_have_text("Monday")
    page.get_by_role("button", name="Restore version 1").click()
    expect(page.locator("#main")).to_contain_text("Version 1 is restored")
    phone.sync()
    assert contact(phone, row, "note", "title") == ("call on Monday", "")


def test_deleted_row_is_brought_back_to_the_device(server: Server, phone: Replica, page: Page) -> None:
    row = edited(phone, server)
    do(phone, "DELETE FROM contact WHERE id = ?", row)
    phone.sync()
    page.goto(f"/admin/entities/contact/{row}/history/")
    expect(page.locator("#content")).to_contain_text("was deleted")
    page.locator("#rev-3").get_by_role("link", name="Restore this version").click()
    page.get_by_role("button", name="Restore version 3").click()
    phone.sync()
    assert contact(phone, row, "note", "title") == ("call on Friday", "Owner")


def test_row_that_moved_meanwhile_is_not_overwritten(
    browser: Browser, server: Server, session: StorageState, phone: Replica
) -> None:
    row = edited(phone, server)
    context = browser.new_context(base_url=server.url, storage_state=session)
    page = context.new_page()  # which is answered with 409
    page.goto(f"/admin/entities/contact/{row}/history/1/restore/")
    with server.connect() as other:
        other.execute("UPDATE entities_contact SET phone = '030' WHERE id = %s", [row])
    page.get_by_role("button", name="Restore version 1").click()
    expect(page.get_by_role("alert")).to_contain_text("The row has moved since you looked at it.")
    page.get_by_role("button", name="Restore version 1").click()
    expect(page.locator("#main")).to_contain_text("Version 1 is restored")
    context.close()


# --- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [None, NARROW], ids=["wide", "narrow"])
def test_pages_have_no_barriers_and_fit_the_window(
    scheme: Any, size: Any, server: Server, phone: Replica, browser: Browser, session: StorageState
) -> None:
    row = edited(phone, server)
    _, rejection = refused(phone, server, note="x" * 300, title="y" * 70)
    with server.connect() as reader:
        device = reader.execute("SELECT device FROM sync_rejection ORDER BY created_at DESC LIMIT 1").fetchone()
    assert device is not None
    pages = {
        rejection: "Mend and replay",
        "/admin/sync/rejection/": "What waits, by device and cause",
        f"/admin/entities/contact/{row}/history/": "What became of it",
        f"/admin/entities/contact/{row}/history/1/restore/": "Restore version 1",
        f"/admin/devices/device/{device[0]}/change/": "What it pushed in 30 days",
    }
    more = {"viewport": size} if size else {}
    with opened(browser, server, session, color_scheme=scheme, **more) as page:
        for address, told in pages.items():
            page.goto(address)
            expect(page.locator("#content")).to_contain_text(told)
            assert barriers(page, ".sy") == [], address
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), address
