"""The server's side of the simulation: its data, and everybody else who writes to them."""

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from random import Random
from typing import Any

import httpx
import psycopg
from django.db import connection, transaction
from django.db.models import F
from django.db.models.deletion import ProtectedError

from devices.enroll import create_code, revoke
from devices.grants import grant, revoke_scope
from devices.models import Device as ServerDevice
from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.prune import prune
from sync.wire import entities

EMPLOYEES = 3
TABLES_OF_SYNC = (
    *("sync_feed", "sync_history", "sync_result", "sync_conflict", "sync_decision", "sync_rejection", "sync_outcome"),
    "sync_tick",
)
TABLES_OF_DEVICES = ("devices_grant", "devices_enrollmentcode", "devices_device")
TOMBSTONE_AGE_DAYS = 91  # older than any that is kept


class World:
    """A freshly emptied server with a few rows. `rng` draws everything, the ids of rows included."""

    def __init__(self, address: str, url: str, rng: Random) -> None:
        self.url, self.rng = url, rng
        self._between = Random(rng.getrandbits(64))  # its own, since other threads draw from it
        self.inner = httpx.HTTPTransport()
        self.mailbox: list[httpx.Request] = []
        self.late: psycopg.Connection[Any] | None = None
        self.beat = 0  # the value that the pair rows share
        self.stock: Counter[str] = Counter()  # what the server's own writers added, with what there was, by product
        self.forgotten: set[tuple[str, str]] = set()  # rows whose tombstone was pruned
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
            cursor.execute(f"TRUNCATE {', '.join((*tables, *TABLES_OF_SYNC, *TABLES_OF_DEVICES))}")

    def _fill(self) -> None:
        rng = self.rng
        with transaction.atomic():
            self.employees = [
                Employee.objects.create(id=self.new_id(), number=number, first_name="E", last_name=str(number))
                for number in range(EMPLOYEES)
            ]
            customers = [
                Customer.objects.create(id=self.new_id(), code=f"C{n}", name=f"Shop {n}", city="Bern") for n in range(6)
            ]
            products = [
                Product.objects.create(
                    id=self.new_id(), code=f"P{n}", name=f"Tea {n}", unit_cost=Decimal("1.5"), units_in_stock=100 * n
                )
                for n in range(5)
            ]
            for _ in range(4):
                self._make_order(rng.choice(customers[2:]), rng.choice(self.employees), products)
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

    def _make_order(self, customer: Customer, employee: Employee, products: Sequence[Product]) -> Order:
        order = Order.objects.create(
            id=self.new_id(), customer=customer, employee=employee, ordered_on="2026-11-20", freight=Decimal("4.25")
        )
        lines = (self.rng.choice(products) for _ in range(self.rng.randint(1, 3)))
        for product in lines:
            OrderLine.objects.create(
                id=self.new_id(), order=order, employee=employee, product=product, unit_price=Decimal("2.5"), quantity=2
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

    # --- other writers ---

    def write(self) -> str:
        """One change by somebody who is no device."""
        writers, weights = zip(*WRITERS, strict=True)
        (writer,) = self.rng.choices(writers, weights)
        try:
            return str(writer(self) or f"{writer.__name__}: nothing to do")
        except ProtectedError:
            return f"{writer.__name__}: refused, since other rows need it"

    def pick(self, model: Any, **having: Any) -> Any:
        found = model.objects.filter(**having).exclude(pk__in=self.reserved).order_by("pk")
        return self.rng.choice(rows) if (rows := list(found)) else None


def _uuid(rng: Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)


Writer = Callable[[World], str | None]


def _save_customer(world: World) -> str | None:
    if customer := world.pick(Customer):
        customer.city = world.rng.choice(("Lima", "Kyiv", "Oslo"))
        customer.save()
    return customer and f"ORM saves customer {customer.pk}"


def _save_contact(world: World) -> str | None:
    if contact := world.pick(Contact):
        contact.title = f"by the office {world.rng.randrange(10)}"
        contact.save(update_fields=["title"])
    return contact and f"ORM saves contact {contact.pk}"


def _queryset_update(world: World) -> str:
    found = Customer.objects.filter(city="Oslo").exclude(pk__in=world.reserved)
    return f"QuerySet.update of {found.update(region=str(world.rng.randrange(5)))} customers"


def _raw_update(world: World) -> str:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE entities_contact SET note = note || '.' WHERE length(note) < 20 AND last_name <> ''")
        return f"SQL updates {cursor.rowcount} contacts"


def _idle_update(world: World) -> str:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE entities_contact SET note = note")
    return "SQL updates every contact with what it has"


def _bulk_create(world: World) -> str:
    customer = world.pick(Customer)
    Contact.objects.bulk_create(Contact(id=world.new_id(), first_name="Bulk", customer=customer) for _ in range(3))
    return "bulk_create of 3 contacts"


def _upsert(world: World) -> str | None:
    contact = world.pick(Contact)
    with connection.cursor() as cursor:
        for row in filter(None, (contact and contact.pk, world.new_id())):
            cursor.execute(
                "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
                " VALUES (%s, 'Upserted', '', '', '', '', '') ON CONFLICT (id) DO UPDATE SET phone = 'upserted'",
                [row],
            )
    return "SQL upserts contacts"


def _make_order(world: World) -> str | None:
    products = list(Product.objects.order_by("pk"))
    if not (customer := world.pick(Customer)):
        return None
    with transaction.atomic():
        order = world._make_order(customer, world.rng.choice(world.employees), products)
    return f"ORM makes order {order.pk}"


def _delete_contact(world: World) -> str | None:
    if contact := world.pick(Contact):
        contact.delete()
    return contact and "ORM deletes a contact"


def _delete_customer(world: World) -> str | None:
    if customer := world.pick(Customer):
        return f"ORM deletes customer {customer.pk}: {customer.delete()}"
    return None


def _delete_order(world: World) -> str | None:
    if order := world.pick(Order):
        return f"ORM deletes order {order.pk}: {order.delete()}"
    return None


def _delete_product(world: World) -> str | None:
    if product := world.pick(Product):
        return f"ORM deletes product {product.pk}: {product.delete()}"
    return None


def _delete_lines(world: World) -> str | None:
    if order := world.pick(Order):
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM entities_orderline WHERE order_id = %s", [order.pk])
        return f"SQL deletes the lines of order {order.pk}"
    return None


def _truncate_lines(world: World) -> str:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE entities_orderline")
    return "TRUNCATE of the order lines"


def _bring_back(world: World) -> str | None:
    """Delete a contact and make it again, with the same id, in one transaction or in two."""
    if contact := world.pick(Contact):
        row = contact.pk
        contact.delete()
        Contact.objects.create(id=row, first_name="Back again")
        return f"ORM deletes contact {row} and makes it again"
    return None


def _bring_back_at_once(world: World) -> str | None:
    with transaction.atomic():
        return _bring_back(world)


def _change_id(world: World) -> str | None:
    if contact := world.pick(Contact):
        Contact.objects.filter(pk=contact.pk).update(id=world.new_id())
        return f"SQL changes the id of contact {contact.pk}"
    return None


def _move_order(world: World) -> str | None:
    if order := world.pick(Order):
        employee = world.rng.choice(world.employees)
        with transaction.atomic():
            Order.objects.filter(pk=order.pk).update(employee=employee)
            if world.rng.random() < 0.8:
                OrderLine.objects.filter(order=order).update(employee=employee)
        return f"order {order.pk} moves to {employee.pk}"
    return None


def _hide_order(world: World) -> str | None:
    if order := world.pick(Order):
        with transaction.atomic():
            Order.objects.filter(pk=order.pk).update(employee=None)
            OrderLine.objects.filter(order=order).update(employee=None)
        return f"order {order.pk} is nobody's"
    return None


def _stock(world: World) -> str | None:
    if product := world.pick(Product):
        amount = world.rng.randint(-9, 9)
        Product.objects.filter(pk=product.pk).update(units_in_stock=F("units_in_stock") + amount)
        world.stock[str(product.pk)] += amount
        return f"stock of {product.pk}: {amount:+}"
    return None


def _secret(world: World) -> str | None:
    if product := world.pick(Product):
        Product.objects.filter(pk=product.pk).update(unit_cost=world.rng.randrange(100))
        return f"a hidden field of product {product.pk}"
    return None


def _employee(world: World) -> str:
    row = world.rng.choice(world.employee_ids)
    Employee.objects.filter(pk=row).update(title=str(world.rng.randrange(9)))
    return f"employee {row} has another title"


def _pairs(world: World) -> str:
    return world.write_pairs()


def _pin(world: World) -> str:
    """Many changes of one row in one transaction."""
    with transaction.atomic():
        for _ in range(3):
            _save_customer(world)
    return "ORM saves customers in one transaction"


WRITERS: Sequence[tuple[Writer, int]] = (
    (_save_customer, 6),
    (_save_contact, 6),
    (_queryset_update, 2),
    (_raw_update, 1),
    (_idle_update, 1),
    (_bulk_create, 1),
    (_upsert, 1),
    (_make_order, 3),
    (_delete_contact, 3),
    (_delete_customer, 1),
    (_delete_order, 2),
    (_delete_product, 1),
    (_delete_lines, 1),
    (_truncate_lines, 1),
    (_bring_back, 1),
    (_bring_back_at_once, 1),
    (_change_id, 1),
    (_move_order, 5),
    (_hide_order, 1),
    (_stock, 4),
    (_secret, 1),
    (_employee, 1),
    (_pairs, 5),
    (_pin, 1),
)
