"""The server's side of the simulation: its data, and everybody else who writes to them."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psycopg
from django.db import connection, transaction

from devices.enroll import create_code, revoke
from devices.grants import grant, revoke_scope
from devices.models import Device as ServerDevice
from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.prune import prune
from sync.wire import entities
from tests.simulation.edits import COUNTRIES, HOT_ROWS, HOT_SHARE
from tests.simulation.faults import Recorder

EMPLOYEES = 3
TABLES_OF_SYNC = (
    *("sync_feed", "sync_forgotten", "sync_healed", "sync_history", "sync_result", "sync_tick"),
    *("sync_conflict", "sync_decision", "sync_rejection", "sync_outcome", "sync_mismatch"),
)
TABLES_OF_DEVICES = ("devices_grant", "devices_granted", "devices_usage", "devices_enrollmentcode", "devices_device")
TOMBSTONE_AGE_DAYS = 91  # older than any that is kept


class World:
    """A freshly emptied server with a few rows. `rng` draws everything, the ids of rows included."""

    def __init__(self, address: str, url: str, rng: Random, folder: Path) -> None:
        self.url, self.rng = url, rng
        self._between = Random(rng.getrandbits(64))  # its own, since other threads draw from it
        self.pushes = folder / "pushes.jsonl"
        self.inner = Recorder(self.pushes)
        self.mailbox: list[httpx.Request] = []
        self.late: psycopg.Connection[Any] | None = None
        self.beat = 0  # the value that the pair rows share
        self.stock: Counter[str] = Counter()  # what the server's own writers added, with what there was, by product
        self.forgotten: set[tuple[str, str]] = set()  # rows whose tombstone was pruned
        self.entered: list[tuple[str, str, str, Any]] = []  # by the office: table, row, field and value
        self._granted: dict[str, list[tuple[datetime, frozenset[str]]]] = defaultdict(list)
        self._address = address
        self._other = psycopg.connect(address, autocommit=True)  # another program, also used by other threads
        self._empty()
        self._fill()

    def close(self) -> None:
        self.end_late(commit=False)
        self._other.close()
        self.inner.close()

    def new_id(self) -> uuid.UUID:
        return _uuid(self.rng)

    # --- the beginning ---

    def _empty(self) -> None:
        tables = [entity.table for entity in entities().values()]
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join((*tables, *TABLES_OF_SYNC, *TABLES_OF_DEVICES))} CASCADE")

    def _fill(self) -> None:
        rng = self.rng
        with transaction.atomic():
            self.employees = [
                Employee.objects.create(id=self.new_id(), number=number, first_name="E", last_name=str(number))
                for number in range(EMPLOYEES)
            ]
            Employee.objects.filter(number__gt=0).update(reports_to=self.employees[0])
            customers = [
                Customer.objects.create(
                    id=self.new_id(), code=f"C{n}", name=f"Shop {n}", city="Bern", country=COUNTRIES[n % len(COUNTRIES)]
                )
                for n in range(6)
            ]
            products = [
                Product.objects.create(
                    id=self.new_id(), code=f"P{n}", name=f"Tea {n}", unit_cost=Decimal("1.5"), units_in_stock=100 * n
                )
                for n in range(5)
            ]
            for _ in range(4):
                self.make_order(rng.choice(customers[2:]), rng.choice(self.employees), products)
            for n in range(6):
                Contact.objects.create(id=self.new_id(), first_name=f"Contact {n}", customer=rng.choice(customers))
            pair_orders = [
                Order.objects.create(id=self.new_id(), customer=customers[0], employee=e, ordered_on="2026-11-01")
                for e in self.employees[:2]
            ]
        self.stock.update({str(product.id): product.units_in_stock for product in products})
        # Rows that are always written together, with the same value, in one transaction.
        self.pairs = [
            *(("entities_customer", "fax", row.id) for row in customers[:2]),
            ("entities_product", "quantity_per_unit", products[0].id),
            *(("entities_order", "ship_region", row.id) for row in pair_orders),
        ]
        self.reserved = frozenset(str(row) for _, _, row in self.pairs)
        self.employee_ids = [str(employee.id) for employee in self.employees]
        self.write_pairs()

    def make_order(self, customer: Customer, employee: Employee, products: Sequence[Product]) -> Order:
        order = Order.objects.create(
            id=self.new_id(), customer=customer, employee=employee, ordered_on="2026-11-20", freight=Decimal("4.25")
        )
        lines = (self.rng.choice(products) for _ in range(self.rng.randint(1, 3)))
        for product in lines:
            OrderLine.objects.create(
                id=self.new_id(), order=order, product=product, unit_price=Decimal("2.5"), quantity=2
            )
        return order

    # --- devices ---

    def code(self, scopes: Sequence[str]) -> str:
        return create_code(scopes)

    def change_grant(self, device_id: str, scope: str, held: bool) -> None:
        holder = ServerDevice.objects.get(pk=device_id)
        if held:
            revoke_scope(scope, holder)
        else:
            grant(scope, holder)
        self.note_grants(device_id)

    def note_grants(self, device_id: str) -> None:
        granted = frozenset(ServerDevice.objects.get(pk=device_id).scopes)
        self._granted[device_id].append((datetime.now(UTC), granted))

    def granted(self, device_id: str, at: datetime) -> frozenset[str]:
        """The scopes that a device had at that moment."""
        return max(found for found in self._granted[device_id] if found[0] <= at)[1]

    def revoke(self, device_id: str) -> None:
        revoke(ServerDevice.objects.get(pk=device_id))

    def deliver(self) -> str:
        """Let requests arrive whose senders gave them up, in any order."""
        self.rng.shuffle(self.mailbox)
        for request in self.mailbox:
            self.inner.handle_request(request).close()
        count = len(self.mailbox)
        self.mailbox.clear()
        return f"{count} late requests arrive"

    # --- rows that belong together, and a transaction that stays open ---

    def write_pairs(self, rng: Random | None = None) -> str:
        if self.late is not None:
            return "the pairs are being written"
        with self._other.transaction():
            self._write_pairs(self._other, rng or self.rng)
        return f"write the pairs: {self.beat}"

    def _write_pairs(self, conn: psycopg.Connection[Any], rng: Random) -> None:
        self.beat += 1
        for table, column, row in rng.sample(self.pairs, len(self.pairs)):
            conn.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", [str(self.beat), row])
        if rng.random() < 0.3:
            order = self.pairs[-1][2]
            employee = rng.choice(self.employee_ids)
            conn.execute("UPDATE entities_order SET employee_id = %s WHERE id = %s", [employee, order])

    def begin_late(self) -> str:
        """A transaction that writes now and commits many steps later, with devices pulling in between."""
        if self.late is not None:
            return self.end_late(commit=self.rng.random() < 0.8)
        self.late = psycopg.connect(self._address)
        self._write_pairs(self.late, self.rng)
        for _ in range(2):
            self.late.execute(
                "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
                " VALUES (%s, 'Late', '', '', '', '', '')",
                [self.new_id()],
            )
        return "a transaction begins"

    def end_late(self, commit: bool) -> str:
        if self.late is None:
            return "no transaction is open"
        with closing(self.late) as late:
            if commit:
                late.commit()
        self.late = None
        return f"the transaction ends, {'committed' if commit else 'rolled back'}"

    def interfere(self) -> None:
        """Somebody writes just before a request reaches the server. Called in the threads of syncs."""
        match self._between.randrange(6):
            case 0:
                self.write_pairs(self._between)
            case 1:
                self._other.execute(
                    "UPDATE entities_contact SET phone = %s"
                    " WHERE id = (SELECT id FROM entities_contact ORDER BY id LIMIT 1)",
                    [str(self._between.random())],
                )
            case 2:
                self._other.execute(
                    "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
                    " VALUES (%s, 'Between', '', '', '', '', '')",
                    [_uuid(self._between)],
                )

    # --- maintenance ---

    def prune(self) -> str:
        """Forget every tombstone that can be, as if it were old."""
        self._note_tombstones()
        self._other.execute(
            "INSERT INTO sync_tick (at, horizon) VALUES (clock_timestamp() - make_interval(days => %s),"
            " pg_snapshot_xmin(pg_current_snapshot()))",
            [TOMBSTONE_AGE_DAYS],
        )
        return f"prune: {prune()['tombstones']} tombstones"

    def _note_tombstones(self) -> None:
        rows = self._other.execute("SELECT DISTINCT entity, row_id::text FROM sync_feed WHERE data IS NULL").fetchall()
        self.forgotten |= {(entity, row) for entity, row in rows}

    def change_epoch(self) -> str:
        """The database is another one from now on, as after a restore; the next pull notices it."""
        self.end_late(commit=True)
        self._other.execute("UPDATE sync_epoch SET database_identity = 'another database'")
        return "a new epoch"

    def pick(self, model: Any, **having: Any) -> Any:
        """A row that devices may change too, half of the time one of those that everybody changes."""
        found = list(model.objects.filter(**having).exclude(pk__in=self.reserved).order_by("pk"))
        hot = self.rng.random() < HOT_SHARE
        return self.rng.choice(found[:HOT_ROWS] if hot else found) if found else None


def _uuid(rng: Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)
