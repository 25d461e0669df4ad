"""Tryton's records as our rows: parties, employees, products, sales. Change a line here to fit your own Tryton.

One line a field: ours, where theirs stands, and what is special about it. Places are explained in
`legacy.connectors.tryton_places`.
"""

from collections.abc import Collection
from collections.abc import Mapping as Map
from decimal import Decimal
from typing import Any

from django.conf import settings

from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from legacy.connectors.tryton import Model, Tryton
from legacy.connectors.tryton_places import commands, look
from legacy.connectors.tryton_rpc import Session, Values
from legacy.convert import By
from legacy.mapping import F, Mapping, Rows
from legacy.systems import System

FREIGHT = (
    "FREIGHT"  # the code of the service that stands for an order's freight: in Tryton freight is a line like others
)
FREIGHT_LINE = f"lines[product.code={FREIGHT}]"
PRICE = Decimal("0.0001")  # Tryton's own scale for prices

IS_CUSTOMER = ("categories.name", "=", "Customer")


def first_name(full: str | None) -> str:
    return (full or "").partition(" ")[0]


def last_name(full: str | None) -> str:
    return (full or "").partition(" ")[2]


def employee_number(code: str | None) -> int | None:
    return int(code.removeprefix("EMP")) if code else None


def unless_zero(amount: Decimal) -> Decimal | None:
    return amount or None


EMPLOYEE = Mapping(
    "employee",
    Employee,
    Model("company.employee", touched_by=("party", "party.contact_mechanisms")),
    match="number",
    fields=(
        F("number", "party.code", By(employee_number)),
        F("first_name", "party.name", By(first_name)),
        F("last_name", "party.name", By(last_name)),
        F("title", "party.contact_mechanisms[type=other,name=Title].value"),
        F("notes", "party.contact_mechanisms[type=other,name=Title].comment"),
        F("phone", "party.contact_mechanisms[type=phone].value"),
        F("extension", "party.contact_mechanisms[type=other,name=Extension].value"),
        F("hired_on", "start_date"),
        F("reports_to", "supervisor", ref="employee"),
    ),
)


def complete_party(tryton: Session, values: Values, places: Collection[str], key: str | None) -> Values:
    """A new customer is put among the customers, and has an address, however empty: Tryton sells to no one without."""
    written = {place: value for place, value in values.items() if place in places}
    if key is None:
        written["categories"] = [["add", [tryton.named("party.category", "name", "Customer")]]]
        if not any(value for place, value in written.items() if place.startswith("addresses[]")):
            written["addresses"] = [["create", [{}]]]
    return written


CUSTOMER = Mapping(
    "customer",
    Customer,
    Model(
        "party.party",
        only=(IS_CUSTOMER,),
        touched_by=("addresses", "contact_mechanisms"),
        marker="identifiers[].code",
        before=complete_party,
    ),
    match="code",
    direction="both",
    fields=(
        F("code", "code", only="pull"),
        F("name", "name"),
        F("address", "addresses[].street"),
        F("city", "addresses[].city"),
        F("region", "addresses[].subdivision.name"),
        F("postal_code", "addresses[].postal_code"),
        F("country", "addresses[].country.name"),
        F("phone", "contact_mechanisms[type=phone].value"),
        F("fax", "contact_mechanisms[type=fax].value"),
    ),
)

CONTACT = Mapping(
    "contact",
    Contact,
    Model(
        "party.party",
        only=(IS_CUSTOMER, ("addresses.attn", "!=", None)),
        touched_by=("addresses", "contact_mechanisms"),
    ),
    fields=(
        F("customer", "id", ref="customer"),
        F("first_name", "addresses[].attn", By(first_name)),
        F("last_name", "addresses[].attn", By(last_name)),
        F("title", "contact_mechanisms[type=other,name=Title].value"),
    ),
)


def on_stock(tryton: Session) -> Values:
    """Tryton knows a product's quantity only somewhere: here in all warehouses, today."""
    return {"locations": tryton.search("stock.location", [["type", "=", "warehouse"]])}


def not_for_sale(salable_and_active: tuple[bool, bool]) -> bool:
    return not all(salable_and_active)


PRODUCT = Mapping(
    "product",
    Product,
    Model(
        "product.product",
        only=(("template.type", "=", "goods"),),
        touched_by=("template",),
        moved_by=(("stock.move", "product"),),
        context=on_stock,
    ),
    match="code",
    fields=(
        F("code", "code"),
        F("name", "template.name"),
        F("category", "template.categories[].name"),
        F("quantity_per_unit", "description"),
        F("unit_price", "list_price_used"),
        F("units_in_stock", "quantity"),
        F("discontinued", ("template.salable", "active"), By(not_for_sale)),
    ),
)

STATES = {
    "draft": "draft",
    "quotation": "draft",
    "confirmed": "confirmed",
    "processing": "confirmed",
    "done": "shipped",
    "cancelled": "cancelled",
}
BUTTONS = {
    ("draft", "confirmed"): ("quote", "confirm"),
    ("draft", "cancelled"): ("cancel",),
    ("quotation", "draft"): ("draft",),
    ("quotation", "confirmed"): ("confirm",),
    ("quotation", "cancelled"): ("cancel",),
    ("cancelled", "draft"): ("draft",),
}
SHIP_TO = ("party_name", "street", "city", "subdivision.name", "postal_code", "country.name")


def complete_sale(tryton: Session, values: Values, places: Collection[str], key: str | None) -> Values:
    """What Tryton's own screens would fill in: the addresses of a sale, and the unit and net price of its lines."""
    written = {place: value for place, value in values.items() if place in places}
    ship_to = {leaf: written.pop(f"shipment_address.{leaf}", None) for leaf in SHIP_TO}
    if key is None or any(place.startswith("shipment_address.") for place in places):
        party = values["party"]
        addresses = tryton.call("party.address", "search_read", [["party", "=", party]], 0, None, None, [*SHIP_TO])
        if key is None:
            written["invoice_address"] = addresses[0]["id"] if addresses else None
        wanted = {leaf: values.get(f"shipment_address.{leaf}") for leaf in ship_to}
        written["shipment_address"] = delivery_address(tryton, party, addresses, wanted)
    if "lines" in written:
        written["lines"] = [complete_line(tryton, line) for line in written["lines"]]
    if amount := written.get(f"{FREIGHT_LINE}.base_price"):
        code = tryton.named("product.product", "code", FREIGHT)
        line = complete_line(
            tryton, {"product": code, "base_price": amount, "discount_rate": Decimal(0), "quantity": 1}
        )
        written |= {f"{FREIGHT_LINE}.{leaf}": line[leaf] for leaf in ("type", "quantity", "unit", "unit_price")}
    return written


def delivery_address(tryton: Session, party: int, addresses: list[Values], wanted: Values) -> int | None:
    """The party's address that is as wanted, made where there is none; its first one where nothing is wanted."""
    if not any(wanted.values()):
        return addresses[0]["id"] if addresses else None
    for address in addresses:
        if all((look(address, leaf) or None) == (value or None) for leaf, value in wanted.items()):
            return int(address["id"])
    content = commands(wanted, None, lambda *at: tryton.resolve("party.address", *at))
    return int(tryton.call("party.address", "create", [{**content, "party": party, "sequence": 10}])[0])


def complete_line(tryton: Session, line: Values) -> Values:
    net = (line["base_price"] * (1 - line["discount_rate"])).quantize(PRICE)
    unit = tryton.call("product.product", "read", [line["product"]], ["sale_uom"])[0]["sale_uom"]
    return {**line, "type": "line", "unit": unit, "unit_price": net}


def is_goods(row: Map[str, Any]) -> bool:
    """A line that we carry as a line: of a product, and not the freight."""
    return row.get("product") is not None and (row.get("product.") or {}).get("code") != FREIGHT


ORDER = Mapping(
    "order",
    Order,
    Model(
        "sale.sale",
        touched_by=("lines",),
        marker="reference",
        rows="lines",
        rows_if=is_goods,
        before=complete_sale,
        buttons=BUTTONS,
    ),
    match="number",
    direction="both",
    fields=(
        F("number", "number", only="pull"),
        F("customer", "party", ref="customer"),
        F("employee", "quoted_by", ref="employee"),
        F("status", "state", By(STATES.get, str), late=True),
        F("ordered_on", ("sale_date", "quotation_date", "create_date")),
        F("required_on", "shipping_date"),
        F("shipped_on", "shipments[].effective_date", only="pull"),
        F("freight", f"{FREIGHT_LINE}.base_price", By(lambda amount: amount, unless_zero)),
        F("ship_name", "shipment_address.party_name"),
        F("ship_address", "shipment_address.street"),
        F("ship_city", "shipment_address.city"),
        F("ship_region", "shipment_address.subdivision.name"),
        F("ship_postal_code", "shipment_address.postal_code"),
        F("ship_country", "shipment_address.country.name"),
        F("note", "comment"),
    ),
    rows=Rows(
        "order_line",
        OrderLine,
        parent="order",
        place="lines",
        fields=(
            F("product", "product", ref="product"),
            F("unit_price", ("base_price", "unit_price")),
            F("quantity", "quantity"),
            F("discount", "discount_rate"),
        ),
    ),
)


def connect() -> Tryton:
    return Tryton(settings.LEGACY_URL, settings.LEGACY_DATABASE, settings.LEGACY_USER, settings.LEGACY_PASSWORD)


MAPPINGS = (EMPLOYEE, CUSTOMER, CONTACT, PRODUCT, ORDER)  # what is referred to comes before what refers to it
SYSTEMS = (System("tryton", connect, MAPPINGS),)
