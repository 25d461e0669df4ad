"""A morning at the Northwind company, for pages to show: who changed what while tablets were offline.

`manage.py shell -c "from tests.acceptance.conflict_scene import build; build()"` writes it into the server's database.
Names and values are Northwind's; ids and times follow from the order of the lines, so that pages look the same.
"""

import csv
import random
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction

from devices.enroll import create_code, enroll
from devices.models import Device, Grant
from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.capture import authored
from sync.models import Conflict, History, Rejection
from syncserver import environment
from syncserver.errors import REJECTIONS

NORTHWIND = environment.BASE_DIR / "data" / "northwind"
HERO = uuid.UUID("0198a6d2-0000-7000-8000-000000000001")  # the conflict that pictures show
NOTE = (
    "Maria prefers calls before noon. Deliveries go to the side entrance in the Obere Str., ring twice. "
    "She pays within 14 days and asks for a printed invoice. "
    "Christmas order: usually 40 boxes of Chai, decided in October."
)


def build(now: datetime | None = None) -> None:
    """Write the whole scene, as it would be at `now`."""
    Scene(now or datetime.now(UTC)).build()


def read(name: str) -> list[dict[str, str]]:
    with (NORTHWIND / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Scene:
    def __init__(self, now: datetime) -> None:
        self.now = now
        self.random = random.Random(1996)
        self.made = 0

    def build(self) -> None:
        self._people()
        self._rows()
        self._hero()
        self._others()
        self._decided()
        self._refused()
        self._days()

    # --- who and what there is ---

    def _people(self) -> None:
        self.boss = User.objects.filter(is_superuser=True).first()
        names = {"nancy": "Nancy Davolio", "andrew": "Andrew Fuller", "janet": "Janet Leverling"}
        users = {name: User.objects.create_user(name, first_name=full.split()[0]) for name, full in names.items()}
        tablets = [
            ("Tablet 3", "nancy", ("Germany", "Switzerland")),
            ("Nancy's phone", "nancy", ("Germany", "Switzerland")),
            ("Tablet 7", "andrew", ("Norway", "Sweden")),
            ("Van 2", "janet", ("France", "UK")),
        ]
        self.devices: dict[str, Device] = {}
        for name, user, countries in tablets:
            scopes = ["global", *(f"country:{country}" for country in countries)]
            device, _ = enroll(create_code(scopes, users[user]), name, "android 16", "1.4.0", "")
            Device.objects.filter(pk=device.pk).update(
                last_seen_at=self.now - timedelta(minutes=3 + 9 * len(self.devices))
            )
            self.devices[name] = device

    def _rows(self) -> None:
        with self._written("run:northwind:1", timedelta(days=40)):
            self.customers = {
                row["CustomerID"]: Customer.objects.create(
                    code=row["CustomerID"],
                    name=row["CompanyName"],
                    address=row["Address"],
                    city=row["City"],
                    region=row["Region"],
                    postal_code=row["PostalCode"],
                    country=row["Country"],
                    phone=row["Phone"],
                    fax=row["Fax"],
                )
                for row in read("customers")[:40]
            }
            self.contacts = {
                row["CustomerID"]: Contact.objects.create(
                    customer=self.customers[row["CustomerID"]],
                    first_name=row["ContactName"].split()[0],
                    last_name=" ".join(row["ContactName"].split()[1:]),
                    title=row["ContactTitle"],
                    phone=row["Phone"],
                    note=NOTE if row["CustomerID"] == "ALFKI" else "",
                )
                for row in read("customers")[:40]
            }
            self.products = [
                Product.objects.create(code=row["ProductID"], name=row["ProductName"], unit_price=row["UnitPrice"])
                for row in read("products")[:20]
            ]
            self.employee = Employee.objects.create(number=1, first_name="Nancy", last_name="Davolio")
            Grant.objects.create(device=self.devices["Nancy's phone"], scope=f"employee:{self.employee.pk}")
            self.orders = [
                Order.objects.create(
                    number=row["OrderID"],
                    customer=self.customers[row["CustomerID"]],
                    employee=self.employee,
                    status="confirmed",
                    ordered_on=row["OrderDate"][:10],
                    ship_name=row["ShipName"],
                    ship_city=row["ShipCity"],
                )
                for row in read("orders")
                if row["CustomerID"] in self.customers
            ][:20]
            for order, product in zip(self.orders, self.products, strict=False):
                OrderLine.objects.create(order=order, product=product, unit_price=18, quantity=12)

    # --- what met ---

    def _hero(self) -> None:
        maria = self.contacts["ALFKI"]
        self._change(maria, "user:anna", timedelta(hours=3, minutes=20), phone="030-0079911")
        note = NOTE.replace("before noon", "after 2 pm").replace("40 boxes", "55 boxes")
        self._change(maria, "user:anna", timedelta(hours=2, minutes=5), title="Sales Manager", note=note)
        self._change(maria, "run:northwind:7", timedelta(minutes=50), phone="030-0079912")
        sent = {
            "phone": "030-0076545",
            "title": "Head of Sales",
            "email": "maria@alfreds.example",
            "note": NOTE.replace("ring twice", "ring twice and wait").replace("14 days", "10 days"),
        }
        self.meet(
            "Tablet 3",
            maria,
            sent,
            fields=["phone", "title", "note"],
            base_rev=1,
            id=HERO,
            made=timedelta(hours=4),
            met=timedelta(minutes=12),
        )

    def _others(self) -> None:
        horn, berglund, blondel = (self.customers[code] for code in ("AROUT", "BERGS", "BLONP"))
        self._change(horn, "user:anna", timedelta(hours=5), address="14 Hanover Sq.", postal_code="W1S 1HP")
        self.meet(
            "Van 2",
            horn,
            {"address": "120 Hanover Square", "city": "London", "postal_code": "W1R 1AA"},
            fields=["address", "postal_code"],
            made=timedelta(hours=6),
            met=timedelta(hours=1),
        )
        self._change(berglund, "user:anna", timedelta(hours=9), phone="0921-12 34 99")
        self.meet(
            "Tablet 7",
            berglund,
            {"phone": "0921-12 34 60"},
            fields=["phone"],
            made=timedelta(hours=20),
            met=timedelta(hours=3),
        )
        order = self.orders[2]
        self._change(order, "run:northwind:7", timedelta(hours=7), status="shipped", shipped_on="2026-11-20")
        self.meet(
            "Nancy's phone",
            order,
            {"status": "cancelled", "note": "Customer called: wrong item, please stop."},
            fields=["status"],
            made=timedelta(hours=8),
            met=timedelta(hours=4),
        )
        chai = self.products[0]
        self._change(chai, "user:anna", timedelta(days=1), discontinued=True)
        self.meet(
            "Tablet 7",
            chai,
            {"discontinued": False, "quantity_per_unit": "10 boxes x 30 bags"},
            fields=["discontinued"],
            made=timedelta(days=1, hours=2),
            met=timedelta(days=1),
        )
        self._change(blondel, "user:anna", timedelta(days=2), phone="88.60.15.99")
        self.meet("Van 2", blondel, {}, fields=[], op="delete", made=timedelta(days=2, hours=1), met=timedelta(days=2))
        frederique = self.contacts["BLONP"]
        gone = frederique.pk
        values = {"title": "Purchasing Manager", "phone": "88.60.15.32"}
        base = self._wire(frederique)
        with self._written("user:anna", timedelta(days=3)):
            frederique.delete()
        self._record(
            "Tablet 3", "contact", gone, values, [], "update", base, None, timedelta(days=3, hours=1), timedelta(days=3)
        )
        for number, code in enumerate(list(self.contacts)[4:16]):
            contact = self.contacts[code]
            if code != "BLONP":
                self._change(contact, "user:anna", timedelta(days=1, hours=number), title="Purchasing Manager")
                self.meet(
                    "Tablet 3",
                    contact,
                    {"title": "Sales Agent"},
                    fields=["title"],
                    made=timedelta(days=1, hours=number + 2),
                    met=timedelta(days=1, minutes=7 * number),
                )

    def _decided(self) -> None:
        states = ["server"] * 5 + ["device"] * 3 + ["mixed"]
        for number, contact in enumerate(list(self.contacts.values())[17:38]):
            self._change(contact, "user:anna", timedelta(days=4, hours=number), phone=f"555-01{number:02}")
            met = timedelta(days=3 + number % 9, hours=number)
            self.meet(
                "Nancy's phone",
                contact,
                {"phone": f"555-02{number:02}"},
                fields=["phone"],
                made=met,
                met=met,
                state=states[number % len(states)],
                by="user:anna" if number % 3 else "",
            )

    def _refused(self) -> None:
        told = [("unique", "name"), ("missing_reference", "customer_id"), ("invalid_value", "email")]
        for number, (code, field) in enumerate(told):
            record = Rejection.objects.create(
                mutation=uuid.UUID(int=self.random.getrandbits(128)),
                digest=uuid.UUID(int=self.random.getrandbits(128)),
                device=self.devices["Van 2"].pk,
                entity="contact",
                row_id=uuid.UUID(int=self.random.getrandbits(128)),
                op="create",
                body="{}",
                errors=[{"field": field, "code": code, "message": REJECTIONS[code]}],
                cause=code,
            )
            Rejection.objects.filter(pk=record.pk).update(created_at=self.now - timedelta(hours=5 + 9 * number))
        late = self.now - timedelta(hours=31)
        Device.objects.filter(name="Van 2").update(pending=14, oldest_pending_at=late)

    def _days(self) -> None:
        """Answers of two weeks, as working days and weekends have them."""
        rows = []
        for before in range(14):
            day = self.now - timedelta(days=before)
            busy = 0.15 if day.weekday() >= 5 else 1
            for status, most in (("applied", 160), ("merged", 42), ("conflict", 9), ("rejected", 5)):
                rows += [(status, day - timedelta(minutes=1))] * int(self.random.uniform(0.5, 1) * most * busy)
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO sync_result (id, device, digest, status, at) "
                "VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), %s, %s)",
                rows,
            )

    # --- how it is written ---

    def meet(self, device: str, row: Any, sent: Mapping[str, Any], **facts: Any) -> None:
        """A conflict over a row that has changed since its first revision."""
        entity = next(e for e in ("contact", "customer", "product", "order") if type(row).__name__.lower() == e)
        first = History.objects.filter(row_id=row.pk, entity=entity).order_by("rev").first()
        assert first is not None
        base = {**(first.new or {})} or self._wire(row)
        row.refresh_from_db()
        self._record(
            device,
            entity,
            row.pk,
            sent,
            facts["fields"],
            facts.get("op", "update"),
            base,
            self._wire(row),
            facts["made"],
            facts["met"],
            facts.get("state", "open"),
            facts.get("by", ""),
            facts.get("id"),
        )

    def _record(
        self,
        device: str,
        entity: str,
        row: uuid.UUID,
        sent: Mapping[str, Any],
        fields: list[str],
        op: str,
        base: Mapping[str, Any],
        server: Mapping[str, Any] | None,
        made: timedelta,
        met: timedelta,
        state: str = "open",
        by: str = "",
        id: uuid.UUID | None = None,
    ) -> None:
        names = [*sent] or ["name", "phone", "city"]
        self.made += 1
        record = Conflict.objects.create(
            id=id or uuid.UUID(int=(0x0198A6D2 << 96) + (0x7 << 76) + (0x8 << 60) + self.made + 1),
            entity=entity,
            row_id=row,
            mutation=uuid.UUID(int=self.random.getrandbits(128)),
            device=self.devices[device].pk,
            op=op,
            base_rev=1,
            server_rev=History.objects.filter(row_id=row, entity=entity).count(),
            base={n: base.get(n) for n in names},
            server=server and {n: server.get(n) for n in names},
            device_values={"set": dict(sent)} if sent else {},
            fields=fields,
            made_at=self.now - made,
            policy="manual",
            state=state,
            decided_by=by,
            decided_at=self.now - met if state != "open" else None,
        )
        Conflict.objects.filter(pk=record.pk).update(created_at=self.now - met)

    def _change(self, row: Any, author: str, before: timedelta, **values: Any) -> None:
        with self._written(author, before):
            type(row).objects.filter(pk=row.pk).update(**values)

    @contextmanager
    def _written(self, author: str, before: timedelta) -> Iterator[None]:
        """What is written within has this author, at that time before now."""
        started = datetime.now(UTC)
        with transaction.atomic(), authored(author):
            yield
        with connection.cursor() as cursor:
            cursor.execute("UPDATE sync_history SET at = %s WHERE at >= %s", [self.now - before, started])

    @staticmethod
    def _wire(row: Any) -> dict[str, Any]:
        return {
            f.attname: str(v) if isinstance(v, uuid.UUID) else v
            for f in row._meta.concrete_fields
            if (v := getattr(row, f.attname)) is None or isinstance(v, str | int | bool | uuid.UUID)
        }
