"""Many stores, each with a database of its own: their orders come here, our customers and products go there.

Nothing is installed in a store. What its database looks like is at the end of `script/stores.py`, which makes fifty.
"""

from entities.models import Customer, Order, OrderLine, Product
from legacy.branches.models import Branch
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Lines, Table
from legacy.convert import Always, By
from legacy.mapping import F, Mapping, Rows
from legacy.systems import Many

# What a store changes comes here and goes on to the others; where we changed the same, ours is right.
CUSTOMER = Mapping(
    "customer",
    Customer,
    Table("customers", marker="marker", touch=True),
    match="code",
    direction="both",
    wins="server",
    fields=(F("code", "code"), F("name", "name"), F("city", "city"), F("phone", "phone")),
)
PRODUCT = Mapping(
    "product",
    Product,
    Table("products", marker="marker", touch=True),
    match="code",
    direction="both",
    wins="server",
    fields=(F("code", "code"), F("name", "name"), F("unit_price", "unit_price")),
)


def mappings(branch: Branch) -> tuple[Mapping, ...]:
    """Each store counts its orders from 1: here their numbers begin with its name."""

    def number(theirs: str) -> str:
        return f"{branch.name}-{theirs}"

    order = Mapping(
        "order",
        Order,
        Table("orders", rows=Lines("lines", "order_lines", parent="order_id")),
        fields=(
            F("number", "number", By(number)),
            F("customer", "customer_id", ref="customer"),
            F("ordered_on", "ordered_on"),
            F("freight", "freight"),
            F("status", (), Always("shipped")),
            F("ship_name", (), Always(str(branch))),
        ),
        rows=Rows(
            "order_line",
            OrderLine,
            parent="order",
            place="lines",
            fields=(
                F("product", "product_id", ref="product"),
                F("quantity", "quantity"),
                F("unit_price", "unit_price"),
            ),
        ),
    )
    return CUSTOMER, PRODUCT, order


def connect(branch: Branch) -> Sql:
    return Sql(branch.url, name=branch.full_name)


SYSTEMS = (Many("store", connect, mappings, schemes=("postgresql", "mariadb", "mysql", "sqlite")),)
