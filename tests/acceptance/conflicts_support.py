"""Two devices that come into conflict over a contact, and a person who picks from what each has."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from syncdevice import Replica

from tests.acceptance.acceptance_support import SHARED, Server


def replica(server: Server, folder: Path, name: str) -> Replica:
    (code,) = server.codes([SHARED])
    return Replica.enroll(server.url, code, folder / f"{name}.db", name=name)


def do(device: Replica, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with closing(device.connect()) as connection:
        rows = connection.execute(sql, parameters).fetchall()
        connection.commit()
        return rows


def change(device: Replica, row: str, **values: str) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    do(device, f"UPDATE contact SET {names} WHERE id = ?", *values.values(), row)


def contact(phone: Replica, tablet: Replica, **values: str) -> str:
    """A contact that both devices have."""
    given = {"first_name": "Maria", "last_name": "Anders", "phone": "030-0074321", "title": "Owner"} | values
    names, marks = ", ".join(given), ", ".join("?" * len(given))
    ((row,),) = do(phone, f"INSERT INTO contact ({names}) VALUES ({marks}) RETURNING id", *given.values())
    phone.sync()
    tablet.sync()
    return str(row)


def met(phone: Replica, tablet: Replica, **row: str) -> str:
    """A contact over whose phone and title the devices are in conflict."""
    made = contact(phone, tablet, **row)
    change(phone, made, phone="030-0079911", title="Manager")
    change(tablet, made, phone="030-0076545", title="Head of Sales")
    phone.sync()
    assert tablet.sync().outcomes == {"conflict": 1}
    return made


def on(device: Replica, row: str) -> tuple[Any, ...]:
    """The phone and the title that a device shows after its next sync."""
    device.sync()
    return do(device, "SELECT phone, title FROM contact WHERE id = ?", row)[0]


def pick(page: Page, label: str, side: str) -> None:
    """Pick a side by what a person reads: the value's card in the field's frame."""
    page.get_by_role("group", name=re.compile(f"^{label}")).locator(f"input[value={side}] + label").click()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
