"""A small world of devices and a server that misbehave by seed, and an oracle that knows what must be true."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
from syncdevice import NotReachable, Replica

from sync.sql import blocks
from tests.acceptance.acceptance_support import Server

EMPLOYEES = [str(uuid.UUID(int=n)) for n in range(1, 4)]
CUSTOMERS = [str(uuid.UUID(int=n)) for n in range(101, 107)]
PRODUCTS = [str(uuid.UUID(int=n)) for n in range(201, 204)]
PAIR = CUSTOMERS[-2:]  # always written together, with equal values
NOWHERE = str(uuid.UUID(int=999))
LOST_REQUEST, LOST_ANSWER, TWICE, BUSY, KILL_BEFORE, KILL_AFTER = 0.06, 0.06, 0.05, 0.02, 0.03, 0.03


class Killed(BaseException):
    """Stands for the end of the process at this very point: nothing of the SDK handles it."""


class Faults(httpx.BaseTransport):
    """The network between one device and the server."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.on, self._real = chance, False, httpx.HTTPTransport()

    def hang_up(self) -> None:
        self._real.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fate = self.chance.random() if self.on else 1.0
        for share, act in (
            (LOST_REQUEST, self._lose_request),
            (LOST_ANSWER, self._lose_answer),
            (TWICE, self._send_twice),
            (BUSY, self._be_busy),
            (KILL_BEFORE, self._kill_before),
            (KILL_AFTER, self._kill_after),
        ):
            if fate < share:
                return act(request)
            fate -= share
        return self._send(request)

    def _send(self, request: httpx.Request) -> httpx.Response:
        response = self._real.handle_request(request)
        response.read()
        return response

    def _lose_request(self, _: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("lost on the way there")

    def _lose_answer(self, request: httpx.Request) -> httpx.Response:
        self._send(request)
        raise httpx.ReadError("lost on the way back")

    def _send_twice(self, request: httpx.Request) -> httpx.Response:
        self._send(request)
        return self._send(request)

    def _be_busy(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"code": "service_unavailable"})

    def _kill_before(self, _: httpx.Request) -> httpx.Response:
        raise Killed

    def _kill_after(self, request: httpx.Request) -> httpx.Response:
        self._send(request)
        raise Killed


class Device:
    """One device with its file, and a list of all that was ever entered on it."""

    def __init__(self, number: int, world: "World", code: str, folder: Path) -> None:
        self.world, self.employee = world, EMPLOYEES[number % len(EMPLOYEES)]
        self.path = folder / f"device{number}.db"
        self.faults = Faults(world.chance)
        Replica.enroll(world.server.url, code, self.path, name=f"device {number}", http=self.faults, retry_seconds=0)
        self.entered: dict[str, dict[str, Any]] = {}

    @property
    def replica(self) -> Replica:
        return Replica(self.path, http=self.faults, retry_seconds=0)

    def sync(self, faults: bool) -> bool:
        """Sync once; whether it came to its end."""
        self.faults.on = faults
        try:
            self.replica.sync()
        except (NotReachable, Killed):
            return False
        finally:
            self.faults.on = False
        return True

    def sync_and_be_killed(self, seconds: float) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncdevice.cli", "sync", str(self.path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def edit(self, change: Callable[[sqlite3.Connection], object], group: bool = False) -> None:
        with closing(sqlite3.connect(self.path, timeout=10)) as conn:
            if group:
                with Replica.group(conn):
                    change(conn)
            else:
                change(conn)
                conn.commit()
            for mutation, entity, row, op, added in conn.execute('SELECT id, entity, row, op, "add" FROM _sync_outbox'):
                self.entered[mutation] = {"entity": entity, "row": row, "op": op, "add": json.loads(added or "{}")}

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, timeout=10)) as conn:
            return conn.execute(sql, parameters).fetchall()


class World:
    """The server's side, the devices, and what happens. Everything random comes from one generator."""

    def __init__(self, server: Server, seed: int, folder: Path, devices: int) -> None:
        self.server, self.chance = server, random.Random(seed)
        self.log: list[str] = []
        self.db = psycopg.connect(server.database_url, autocommit=True)
        self.late: list[tuple[int, psycopg.Connection[Any]]] = []
        self.adjusted = dict.fromkeys(PRODUCTS, 0)
        self._begin()
        scopes = [["global", f"employee:{EMPLOYEES[n % len(EMPLOYEES)]}"] for n in range(devices)]
        self.devices = [Device(n, self, code, folder) for n, code in enumerate(server.codes(scopes))]

    def _begin(self) -> None:
        self.db.execute(
            "TRUNCATE entities_employee, entities_customer, entities_product CASCADE; TRUNCATE devices_device CASCADE; "
            "TRUNCATE sync_feed, sync_history, sync_result, sync_conflict, sync_rejection, sync_tick"
        )
        for n, employee in enumerate(EMPLOYEES):
            self.db.execute(
                "INSERT INTO entities_employee (id, number, first_name, last_name, title, phone, extension, notes) "
                "VALUES (%s, %s, 'E', 'E', '', '', '', '')", [employee, n],
            )  # fmt: skip
        for customer in CUSTOMERS:
            self.db.execute(
                "INSERT INTO entities_customer (id, name, address, city, region, postal_code, country, phone, fax) "
                "VALUES (%s, 'C', '', '', '', '', '', '', '')", [customer],
            )  # fmt: skip
        for n, product in enumerate(PRODUCTS):
            self.db.execute(
                "INSERT INTO entities_product (id, code, name, category, quantity_per_unit, unit_price, "
                "units_in_stock, reorder_level, discontinued) VALUES (%s, %s, 'P', '', '', 1, 100, 0, false)",
                [product, f"P{n}"],
            )  # fmt: skip

    # --- one step ---

    def step(self, number: int) -> None:
        for due, conn in [each for each in self.late if each[0] <= number]:
            conn.commit()
            conn.close()
            self.late.remove((due, conn))
        act = self.chance.choices([self._sync, self._edit, self._write, self._rare], [35, 45, 18, 2])[0]
        act(number)

    def _sync(self, number: int) -> None:
        device = self.chance.choice(self.devices)
        done = device.sync(faults=self.chance.random() < 0.7)
        self._note(number, device, "synced" if done else "sync broke off")
        if done:
            self.check_what_a_device_may_have(device)

    def _edit(self, number: int) -> None:
        device = self.chance.choice(self.devices)
        edits = [
            self._create_contact, self._change_contact, self._change_contact, self._delete_contact,
            self._change_customer,
            self._count, self._count, self._take_order, self._change_order, self._invalid,
        ]  # fmt: skip
        edit = self.chance.choice(edits)
        edit(device)
        self._note(number, device, edit.__name__)

    def _create_contact(self, device: Device) -> None:
        name, customer = self._word(), self.chance.choice([None, *CUSTOMERS])
        device.edit(
            lambda c: c.execute("INSERT INTO contact (first_name, customer_id) VALUES (?, ?)", (name, customer))
        )

    def _change_contact(self, device: Device) -> None:
        field, value = self.chance.choice(["first_name", "note", "phone"]), self._word()
        if row := self._any(device, "contact"):
            device.edit(lambda c: c.execute(f"UPDATE contact SET {field} = ? WHERE id = ?", (value, row)))

    def _delete_contact(self, device: Device) -> None:
        if row := self._any(device, "contact"):
            device.edit(lambda c: c.execute("DELETE FROM contact WHERE id = ?", (row,)))

    def _change_customer(self, device: Device) -> None:
        row, value = self.chance.choice(CUSTOMERS[:-2]), self._word()
        device.edit(lambda c: c.execute("UPDATE customer SET city = ?, phone = ? WHERE id = ?", (value, value, row)))

    def _count(self, device: Device) -> None:
        row, amount = self.chance.choice(PRODUCTS), self.chance.randint(-3, 3)
        device.edit(
            lambda c: c.execute("UPDATE product SET units_in_stock = units_in_stock + ? WHERE id = ?", (amount, row))
        )

    def _take_order(self, device: Device) -> None:
        bad, lines, customer = self.chance.random() < 0.2, self.chance.randint(1, 3), self.chance.choice(CUSTOMERS)

        def take(conn: sqlite3.Connection) -> None:
            (order,) = conn.execute(
                'INSERT INTO "order" (customer_id, employee_id, ordered_on) VALUES (?, ?, ?) RETURNING id',
                (customer, device.employee, "2026-11-21"),
            ).fetchone()
            for line in range(lines):
                quantity = 0 if bad and line == lines - 1 else line + 1
                conn.execute(
                    "INSERT INTO order_line (order_id, employee_id, product_id, unit_price, quantity) "
                    "VALUES (?, ?, ?, '1', ?)",
                    (order, device.employee, PRODUCTS[line], quantity),
                )

        device.edit(take, group=True)

    def _change_order(self, device: Device) -> None:
        row, value = self._any(device, '"order"'), self._word()
        if row and self.chance.random() < 0.8:
            device.edit(lambda c: c.execute('UPDATE "order" SET note = ? WHERE id = ?', (value, row)))
        elif row:
            device.edit(lambda c: c.execute('DELETE FROM "order" WHERE id = ?', (row,)))

    def _invalid(self, device: Device) -> None:
        column, value = self.chance.choice(
            [("email", "no mail"), ("customer_id", NOWHERE), ("phone", "1" * 41), ("met_on", "x")]
        )
        device.edit(lambda c: c.execute(f"INSERT INTO contact (first_name, {column}) VALUES ('bad', ?)", (value,)))

    def _write(self, number: int) -> None:
        """Somebody else writes to the database."""
        value, kind = self._word(), self.chance.randrange(7)
        if kind == 0:
            self.db.execute("UPDATE entities_customer SET city = %s WHERE id = ANY (%s)", [value, PAIR])
        elif kind == 1:
            self.db.execute(
                "UPDATE entities_contact SET note = %s "
                "WHERE id IN (SELECT id FROM entities_contact ORDER BY id LIMIT 3)",
                [value],
            )
        elif kind == 2:
            self.db.execute(
                "DELETE FROM entities_contact WHERE id = (SELECT max(id::text)::uuid FROM entities_contact)"
            )
        elif kind == 3:
            employee = self.chance.choice(EMPLOYEES)
            with self.db.transaction():
                moved = self.db.execute(
                    "UPDATE entities_order SET employee_id = %s "
                    "WHERE id IN (SELECT id FROM entities_order ORDER BY id LIMIT 1) RETURNING id",
                    [employee],
                ).fetchall()
                for (order,) in moved:
                    self.db.execute(
                        "UPDATE entities_orderline SET employee_id = %s WHERE order_id = %s", [employee, order]
                    )
        elif kind == 4:
            product, amount = self.chance.choice(PRODUCTS), self.chance.randint(-5, 5)
            self.adjusted[product] += amount
            self.db.execute(
                "UPDATE entities_product SET units_in_stock = units_in_stock + %s WHERE id = %s", [amount, product]
            )
        else:  # a transaction that writes now and commits later, while others come and go
            conn = psycopg.connect(self.server.database_url)
            conn.execute(
                "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note) "
                "VALUES (%s, 'late', '', '', '', '', '')",
                [str(uuid.UUID(int=self.chance.getrandbits(128)))],
            )
            self.late.append((number + self.chance.randint(1, 25), conn))
        self._note(number, "server", f"write {kind}")

    def _rare(self, number: int) -> None:
        kind, device = self.chance.randrange(4), self.chance.choice(self.devices)
        if kind == 0:
            self.db.execute("UPDATE sync_epoch SET database_identity = 'another'")
        elif kind == 1:
            self.db.execute(
                "INSERT INTO sync_tick (at, horizon) VALUES (now() - interval '100 days', "
                "pg_snapshot_xmin(pg_current_snapshot())) ON CONFLICT DO NOTHING"
            )
            self.db.execute(blocks("maintain.sql")["forget_tombstones"], {"days": 90})
        elif kind == 2:
            identity, scope = device.replica.status().device, f"employee:{device.employee}"
            if not self.db.execute(
                "DELETE FROM devices_grant WHERE device_id = %s AND scope = %s RETURNING 1", [identity, scope]
            ).fetchall():
                self.db.execute("INSERT INTO devices_grant (device_id, scope) VALUES (%s, %s)", [identity, scope])
        else:
            device.sync_and_be_killed(self.chance.uniform(0.05, 0.4))
        self._note(number, device, f"rare {kind}")

    def _any(self, device: Device, table: str) -> str | None:
        rows = device.query(f"SELECT id FROM {table} ORDER BY id")
        return self.chance.choice(rows)[0] if rows else None

    def _word(self) -> str:
        return f"{self.chance.getrandbits(32):x}"

    def _note(self, number: int, who: "str | Device", what: str) -> None:
        name = who if isinstance(who, str) else who.path.stem
        self.log.append(f"{number:4} {name}: {what}")

    # --- what must be true ---

    def check_what_a_device_may_have(self, device: Device) -> None:
        scopes = self.scopes(device)
        for table in ('"order"', "order_line"):
            foreign = [
                e
                for (e,) in device.query(f"SELECT employee_id FROM {table} WHERE _rev IS NOT NULL")
                if f"employee:{e}" not in scopes
            ]
            assert not foreign or device.replica.status().pending, f"{device.path.stem} holds rows of {foreign}"
        values = {city for (city,) in device.query("SELECT city FROM customer WHERE id IN (?, ?)", *PAIR)}
        assert len(values) == 1, f"{device.path.stem} has a torn pair: {values}"

    def scopes(self, device: Device) -> set[str]:
        identity = device.replica.status().device
        return {s for (s,) in self.db.execute("SELECT scope FROM devices_grant WHERE device_id = %s", [identity])}

    def settle(self) -> None:
        """All late writers commit, all devices sync until nothing is left to say."""
        for _, conn in self.late:
            conn.commit()
            conn.close()
        self.late.clear()
        for _ in range(2):
            for device in self.devices:
                assert device.sync(faults=False), f"{device.path.stem} cannot sync"

    def close(self) -> None:
        for conn in (self.db, *(conn for _, conn in self.late)):
            conn.close()
        for device in self.devices:
            device.faults.hang_up()

    def check(self) -> None:
        """The oracle. It reads the entities' own tables, never the feed's content."""
        for device in self.devices:
            self._check_equal_to_the_server(device)
        self._check_every_mutation_is_accounted_for()
        self._check_revisions()

    def _check_equal_to_the_server(self, device: Device) -> None:
        assert device.replica.status().pending == 0
        scopes = self.scopes(device)
        for entity, table in TABLES.items():
            columns = [row[1] for row in device.query(f'PRAGMA table_info("{entity}")')]
            names = [name for name in columns if name != "_rev"]
            listed = ", ".join(
                f"t.{name}::int::text" if name == "discontinued" else f"t.{name}::text" for name in names
            )
            scoped = (
                "true" if entity not in {"order", "order_line"} else "'employee:' || t.employee_id = ANY (%(scopes)s)"
            )
            expected = self.db.execute(
                f"SELECT {listed}, "
                "(SELECT max(rev)::text FROM sync_feed f WHERE f.row_id = t.id AND f.entity = %(entity)s) "
                f"FROM {table} t WHERE {scoped} ORDER BY t.id::text",
                {"scopes": list(scopes), "entity": entity},
            ).fetchall()
            chosen = ", ".join(f'CAST("{name}" AS TEXT)' for name in [*names, "_rev"])
            assert device.query(f'SELECT {chosen} FROM "{entity}" ORDER BY id') == expected, (
                f"{device.path.stem}: {entity}"
            )

    def _check_every_mutation_is_accounted_for(self) -> None:
        status: dict[str, str] = dict(self.db.execute("SELECT id::text, status FROM sync_result").fetchall())
        entered = {mutation: what for device in self.devices for mutation, what in device.entered.items()}
        assert entered.keys() == status.keys()
        written = self.db.execute(
            "SELECT mutation::text, count(*) FROM sync_history WHERE mutation IS NOT NULL GROUP BY 1"
        ).fetchall()
        assert all(count == 1 and status[mutation] == "applied" for mutation, count in written)
        kept = {row[0] for row in self.db.execute("SELECT mutation::text FROM sync_conflict")}
        refused = {row[0] for row in self.db.execute("SELECT mutation::text FROM sync_rejection")}
        assert {m for m, s in status.items() if s == "conflict"} == kept
        assert {m for m, s in status.items() if s == "rejected"} == refused
        for product in PRODUCTS:
            added = sum(
                int(what["add"].get("units_in_stock", 0))
                for mutation, what in entered.items()
                if what["row"] == product and status[mutation] == "applied"
            )
            (stock,) = self.db.execute(
                "SELECT units_in_stock FROM entities_product WHERE id = %s", [product]
            ).fetchone() or (None,)
            assert stock == 100 + added + self.adjusted[product], f"the stock of {product}"

    def _check_revisions(self) -> None:
        gaps = self.db.execute(
            "SELECT h.row_id, count(*), max(h.rev), f.rev FROM sync_history h "
            "JOIN LATERAL (SELECT max(rev) AS rev FROM sync_feed f "
            "WHERE f.row_id = h.row_id AND f.entity = h.entity) f ON f.rev > 0 "
            "GROUP BY h.row_id, h.entity, f.rev HAVING count(*) <> f.rev OR max(h.rev) <> f.rev"
        ).fetchall()
        assert gaps == []


TABLES = {
    "employee": "entities_employee",
    "customer": "entities_customer",
    "contact": "entities_contact",
    "product": "entities_product",
    "order": "entities_order",
    "order_line": "entities_orderline",
}
