"""A day in the life: a real ERP, the server and two real devices, edited on all sides, the ERP down for half of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from syncdevice import Replica

from legacy.connectors.tryton import Tryton
from legacy.mappings.tryton import CUSTOMER
from tests.acceptance.acceptance_support import ROOT, Server, running_server
from tests.acceptance.conflicts_support import do
from tests.acceptance.erp_support import Erp

pytestmark = pytest.mark.slow
FIELDS = ("code", "name", "city", "phone", "fax")
DECIDE = """
from sync.models import Conflict
from sync.resolve import resolve, stakes_of
conflict = Conflict.objects.get(state="open")
stakes = stakes_of(conflict)
told = {{"rev": stakes.rev, "seen": stakes.seen, "author": "user:boss", "comment": "called them"}}
resolve(conflict.pk, {{"phone": {phone!r}}}, **told)
"""
HISTORY = """
SELECT h.author, h.op, h.old::jsonb ->> %s, h.new::jsonb ->> %s FROM sync_history h
WHERE h.row_id = %s ORDER BY h.rev
"""
ORDER = """
INSERT INTO "order" (customer_id, employee_id, status, ordered_on, note)
SELECT c.id, (SELECT id FROM employee WHERE number = 4), 'confirmed', '2026-11-21', 'by phone'
FROM customer c WHERE c.code = 'BERGS' RETURNING id
"""
LINE = """
INSERT INTO order_line (order_id, product_id, quantity, unit_price)
SELECT ?, p.id, ?, p.unit_price FROM product p WHERE p.code = ?
"""


class Day:
    """Everybody who works that day."""

    def __init__(self, erp: Erp, server: Server, folder: Path) -> None:
        self.erp, self.server = erp, server
        self.sync_legacy()
        with server.connect() as connection:
            ((employee,),) = connection.execute("SELECT id FROM entities_employee WHERE number = 4").fetchall()
            # Two customers of Northwind have no country, and so would be on no device.
            connection.execute("UPDATE entities_customer SET country = 'Germany' WHERE country = ''")
            countries = connection.execute("SELECT DISTINCT 'country:' || country FROM entities_customer").fetchall()
        codes = server.codes([["global", f"employee:{employee}", *(scope for (scope,) in countries)]] * 2)
        self.nancy, self.margaret = (
            Replica.enroll(server.url, code, folder / f"{name}.db", name=name)
            for code, name in zip(codes, ("nancy", "margaret"), strict=True)
        )

    def sync_legacy(self, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "manage.py", "sync_legacy", "--json"]
        ended = subprocess.run(command, cwd=ROOT, env=self.server.environment, capture_output=True, text=True)
        assert ended.returncode == code, ended.stdout + ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    def sync_devices(self) -> None:
        for device in (self.nancy, self.margaret, self.nancy):  # the first hears of what the second sent
            device.sync()

    def office(self) -> Tryton:
        """Somebody at the ERP."""
        person = Tryton(self.erp.url, "northwind", "admin", "northwind")
        person.open()
        return person

    # --- the four databases ---

    def on_device(self, device: Replica) -> dict[str, tuple[Any, ...]]:
        return {row[0]: row for row in do(device, f"SELECT {', '.join(FIELDS)} FROM customer")}

    def on_server(self) -> dict[str, tuple[Any, ...]]:
        with self.server.connect() as connection:
            rows = connection.execute(f"SELECT {', '.join(FIELDS)} FROM entities_customer").fetchall()
        return {row[0]: row for row in rows}

    def in_erp(self) -> dict[str, tuple[Any, ...]]:
        person = self.office()
        places = {"code": "code", "name": "name", "city": "addresses[].city"}
        places |= {kind: f"contact_mechanisms[type={kind}].value" for kind in ("phone", "fax")}
        found = person.fetch(CUSTOMER.source, list(places.values()), list(person.keys(CUSTOMER.source)))
        person.close()
        rows = [tuple(record.values[places[name]] or "" for name in FIELDS) for record in found]
        return {row[0]: row for row in rows}

    def orders_on(self, device: Replica) -> list[tuple[Any, ...]]:
        return do(
            device,
            """SELECT o.number, p.code, l.quantity FROM "order" o JOIN order_line l ON l.order_id = o.id
            JOIN product p ON p.id = l.product_id WHERE o.note = 'by phone' ORDER BY p.code""",
        )

    def orders_in_erp(self) -> list[tuple[Any, ...]]:
        person = self.office()
        names = ["number", "state", "lines.quantity", "lines.product.code"]
        (sale,) = person.session.call("sale.sale", "search_read", [["comment", "=", "by phone"]], 0, None, None, names)
        person.close()
        assert sale["state"] in ("confirmed", "processing")
        lines = [(sale["number"], line["product."]["code"], int(line["quantity"])) for line in sale["lines."]]
        return sorted(lines, key=lambda line: line[1])

    def told(self, row: str, field: str) -> list[tuple[str, ...]]:
        """The history of a field: who, what, before, after; devices by their names."""
        with self.server.connect() as connection:
            names = dict(connection.execute("SELECT id::text, name FROM devices_device").fetchall())
            found = connection.execute(HISTORY, [field, field, row]).fetchall()
        return [
            (names.get(author.partition(":")[2], ":".join(author.split(":")[:2])), *rest) for author, *rest in found
        ]


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    erp = Erp(tmp_path / "erp")
    erp.start()
    settings = {
        "LEGACY_SYSTEMS": "tests.acceptance.day_system",
        "LEGACY_URL": erp.url,
        "LEGACY_DATABASE": "northwind",
        "LEGACY_USER": "admin",
        "LEGACY_PASSWORD": "northwind",
    }
    try:
        with running_server(tmp_path / "server", **settings) as server:
            yield Day(erp, server, tmp_path)
    finally:
        erp.do("stop")


def write(device: Replica, code: str, **values: str) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    do(device, f"UPDATE customer SET {names} WHERE code = ?", *values.values(), code)


def row_of(device: Replica, code: str) -> str:
    return str(do(device, "SELECT id FROM customer WHERE code = ?", code)[0][0])


@pytest.mark.legacy("L8")
@pytest.mark.legacy("F1")
@pytest.mark.legacy("F11")
def test_day_ends_with_four_equal_databases_and_a_history_of_all_of_it(day: Day) -> None:
    # In the morning everything is everywhere.
    day.sync_devices()
    rows = {code: row_of(day.nancy, code) for code in ("ALFKI", "BERGS", "CHOPS", "FISSA", "PARIS", "ANATR")}
    office = day.office()
    parties = {code: office.session.search("party.party", [["code", "=", code]]) for code in rows}

    # Everybody edits something else.
    write(day.nancy, "ALFKI", phone="030-1111111")
    write(day.margaret, "ALFKI", fax="030-2222222")
    office.session.call("party.party", "write", parties["ANATR"], {"name": "Ana Trujillo y hijos"})
    day.sync_devices()
    day.sync_legacy()
    day.sync_devices()

    # At noon the ERP goes down. Devices and server go on.
    day.erp.do("stop")
    write(day.nancy, "BERGS", city="Malmö")
    write(day.nancy, "CHOPS", phone="031-1")
    write(day.margaret, "CHOPS", phone="031-2")
    do(day.margaret, "DELETE FROM customer WHERE code = 'FISSA'")
    ((order,),) = do(day.nancy, ORDER)
    for code, quantity in (("1", 3), ("2", 5)):
        do(day.nancy, LINE, order, quantity, code)
    day.sync_devices()
    assert day.sync_legacy(code=2)["state"] == "unreachable"
    day.server.manage("shell", "--no-imports", "-c", DECIDE.format(phone="031-2"))

    # It is back, and its people were there first: a conflict the other way, and a delete.
    day.erp.start()
    office = day.office()
    address = office.session.search("party.address", [["party", "=", parties["BERGS"][0]]])
    office.session.call("party.address", "write", address[:1], {"city": "Göteborg"})
    office.session.call("party.party", "delete", parties["PARIS"])
    office.close()
    for _ in range(2):
        day.sync_legacy()
        day.sync_devices()

    # In the evening all four agree, field by field.
    server = day.on_server()
    assert day.in_erp() == server
    assert day.on_device(day.nancy) == server
    assert day.on_device(day.margaret) == server
    assert len(server) == 91
    assert server["ALFKI"][3:] == ("030-1111111", "030-2222222"), "edits of different fields both stay"
    assert server["ANATR"][1] == "Ana Trujillo y hijos"
    assert server["BERGS"][2] == "Göteborg", "where both changed the same field, the ERP wins"
    assert server["CHOPS"][3] == "031-2", "what the administrator decided"
    assert {"FISSA", "PARIS"}.isdisjoint(server)
    (number,) = {line[0] for line in day.orders_in_erp()}
    assert number and day.orders_in_erp() == day.orders_on(day.nancy) == [(number, "1", 3), (number, "2", 5)]
    quiet = day.sync_legacy()
    assert {what for counts in quiet["counts"].values() for what in counts} <= {"unchanged"}

    # And the audit tells who did it.
    assert day.told(rows["BERGS"], "city")[1:] == [
        ("nancy", "update", "Luleå", "Malmö"),
        ("run:tryton", "update", "Malmö", "Göteborg"),
    ]
    assert [(who, new) for who, _, _, new in day.told(rows["CHOPS"], "phone")[1:]] == [
        ("nancy", "031-1"),
        ("user:boss", "031-2"),
    ]
    assert [(who, op) for who, op, *_ in day.told(rows["FISSA"], "name")] == [
        ("run:tryton", "insert"),
        ("margaret", "delete"),
    ]
    assert [(who, op) for who, op, *_ in day.told(rows["PARIS"], "name")] == [
        ("run:tryton", "insert"),
        ("run:tryton", "delete"),
    ]
    assert [who for who, *_ in day.told(rows["ALFKI"], "phone")[1:]] == ["nancy", "margaret"]
