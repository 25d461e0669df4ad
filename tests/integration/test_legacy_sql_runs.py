"""Whole runs between our rows and real SQL databases."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from entities.models import Customer, Order, OrderLine, Product
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Lines, Table
from legacy.mapping import F, Mapping, Rows
from legacy.models import Run
from legacy.runs import run
from legacy.systems import System
from tests.integration.legacy_sql_support import NOON, Base

pytestmark = pytest.mark.django_db(transaction=True)

CUSTOMER = Mapping(
    "customer",
    Customer,
    Table("customers", stamp=("updated_at", "created_at"), marker="marker", touch=True),
    match="code",
    direction="both",
    fields=(F("code", "name"), F("name", "name", only="pull"), F("city", "city")),
)
PRODUCT = Mapping(
    "product", Product, Table("parts", key="code", stamp=""), fields=(F("code", "code"), F("name", "name"))
)
ORDER = Mapping(
    "order",
    Order,
    Table("orders", marker="marker", rows=Lines("lines", "order_lines", "order_id", stamp="updated_at")),
    direction="both",
    fields=(F("customer", "customer_id", ref="customer"), F("note", "note"), F("ordered_on", "day")),
    rows=Rows(
        "order_line",
        OrderLine,
        parent="order",
        place="lines",
        fields=(F("product", "item", ref="product"), F("quantity", "quantity"), F("unit_price", "price")),
    ),
)


def sync(base: Base, *mappings: Mapping) -> dict[str, Any]:
    done = run(System("shop", lambda: Sql(base.url, page_records=2), mappings))
    assert (done.state, done.error) == (Run.State.DONE, "")
    return dict(done.counts)


def test_runs_take_over_and_send_back_until_both_sides_are_equal(base: Base) -> None:
    base.customers(["ANA", "BEN", "EVA"], NOON)
    assert sync(base, CUSTOMER)["customer"]["created"] == 3
    Customer.objects.filter(code="BEN").update(city="Bonn")
    Customer.objects.create(code="IDA", name="Ida", city="Kiel")
    counts = sync(base, CUSTOMER)["customer"]
    assert (counts["updated there"], counts["created there"]) == (1, 1)
    rows = base.execute("SELECT name, city FROM customers ORDER BY id")
    assert rows == [("ANA", None), ("BEN", "Bonn"), ("EVA", None), ("IDA", "Kiel")]
    now = base.time(dt.datetime.now(dt.UTC))
    base.execute("UPDATE customers SET city = 'Ulm', updated_at = :at WHERE name = 'IDA'", {"at": now})
    sync(base, CUSTOMER)
    assert Customer.objects.get(code="IDA").city == "Ulm"
    news = {"created", "updated", "updated there", "created there"}
    assert news.isdisjoint(sync(base, CUSTOMER).get("customer", {}))


def test_order_goes_both_ways_with_its_lines_and_keys_of_any_type(base: Base) -> None:
    base.customers(["ANA"], NOON)
    base.execute("ALTER TABLE orders ADD COLUMN day date")
    base.execute("INSERT INTO parts (code, name) VALUES ('TEA', 'Tea'), ('RUM', 'Rum')")
    base.execute("INSERT INTO orders (customer_id, note, day) VALUES (1, 'theirs', '2026-11-20')")
    base.execute("INSERT INTO order_lines (order_id, item, quantity, price) VALUES (1, 'TEA', 2, 4.5)")
    sync(base, CUSTOMER, PRODUCT, ORDER)
    theirs = Order.objects.get()
    assert list(theirs.lines.values_list("product__code", "quantity", "unit_price")) == [("TEA", 2, Decimal("4.5"))]
    OrderLine.objects.create(order=theirs, product=Product.objects.get(code="RUM"), quantity=7, unit_price=1)
    ours = Order.objects.create(customer=Customer.objects.get(), ordered_on=dt.date(2026, 11, 21), note="ours")
    OrderLine.objects.create(order=ours, product=Product.objects.get(code="TEA"), quantity=1, unit_price="0.10")
    sync(base, CUSTOMER, PRODUCT, ORDER)
    lines = base.execute("SELECT note, item, quantity FROM order_lines JOIN orders ON orders.id = order_id")
    assert sorted(lines) == [("ours", "TEA", 1), ("theirs", "RUM", 7), ("theirs", "TEA", 2)]
    theirs.lines.get(quantity=2).delete()
    sync(base, CUSTOMER, PRODUCT, ORDER)
    assert len(base.execute("SELECT * FROM order_lines")) == 2
