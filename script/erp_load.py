"""Load Northwind into an empty Tryton database. Runs inside Tryton's own Python, with its modules active.

    python erp_load.py DATABASE NORTHWIND_FOLDER

The whole book becomes what a trading company's ERP would hold in 2026 had it been kept there from the start: parties
with addresses and telephones, employees, products whose stock adds up from their moves, and every order as a sale,
those of 1996 to 1998 shipped or still open as Northwind has them. All of it is one transaction.
"""

import csv
import datetime as dt
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from trytond.pool import Pool
from trytond.transaction import Transaction, TransactionError

COUNTRIES = {
    "Argentina": "AR", "Austria": "AT", "Belgium": "BE", "Brazil": "BR", "Canada": "CA", "Denmark": "DK",
    "Finland": "FI", "France": "FR", "Germany": "DE", "Ireland": "IE", "Italy": "IT", "Mexico": "MX", "Norway": "NO",
    "Poland": "PL", "Portugal": "PT", "Spain": "ES", "Sweden": "SE", "Switzerland": "CH", "UK": "GB", "USA": "US",
    "Venezuela": "VE",
}  # fmt: skip
OPENING = dt.date(1996, 7, 1)  # the stock that Northwind's orders are taken from is there before the first of them
MAIN, DELIVERY = 1, 10  # an address's sequence: Tryton takes the first one as the party's own

Row = dict[str, str]
Values = dict[str, Any]


def main(database: str, folder: Path) -> None:
    Pool.start()
    pool = Pool(database)
    pool.init()
    with Transaction().start(database, 0):
        company = _company(pool)
        Transaction().commit()
    context = {"company": company, "language": "en", "_check_access": False}
    with Transaction().start(database, 1, context=context):
        load = Loader(pool, company, folder)
        for step in (load.places, load.employees, load.customers, load.products, load.sales, load.deliveries):
            print(f"  {step.__name__}: {step()}", flush=True)
        Transaction().commit()
    locks: dict[str, Any] = {}
    while True:
        with Transaction().start(database, 1, context=context, **locks) as transaction:
            try:
                load.settings()
                transaction.commit()
                return
            except TransactionError as error:  # Tryton's way to say that it wants a table locked from the start
                transaction.rollback()
                error.fix(locks)


def _company(pool: Any) -> int:
    """The company, its currency and its user: what every later record's defaults ask for."""
    currency = pool.get("currency.currency").create(
        [{"name": "US Dollar", "symbol": "$", "code": "USD", "digits": 2, "rounding": Decimal("0.01")}]
    )[0]
    party = pool.get("party.party").create([{"name": "Northwind Traders", "code": "NORTHWIND"}])[0]
    company = pool.get("company.company").create([{"party": party.id, "currency": currency.id, "timezone": "UTC"}])[0]
    user = pool.get("res.user")
    user.write([user(1)], {"companies": [("add", [company.id])], "company": company.id})
    return int(company.id)


class Loader:
    """One method a step; each returns how many records it made. Later steps find earlier ones by Northwind's keys."""

    def __init__(self, pool: Any, company: int, folder: Path) -> None:
        self.pool, self.company, self.folder = pool, company, folder
        self.country: dict[str, int] = {}
        self.region: dict[tuple[str, str], int] = {}
        self.employee: dict[str, int] = {}
        self.party: dict[str, Any] = {}
        self.product: dict[str, Any] = {}
        self.sale: dict[str, Any] = {}

    def rows(self, table: str) -> list[Row]:
        with (self.folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def create(self, model: str, values: list[Values]) -> list[Any]:
        return list(self.pool.get(model).create(values))

    def places(self) -> int:
        customers, orders = self.rows("customers"), self.rows("orders")
        made = self.create("country.country", [{"name": name, "code": code} for name, code in COUNTRIES.items()])
        self.country = {country.name: country.id for country in made}
        keys = {(row["Country"], row["Region"]) for row in customers if row["Region"]}
        keys |= {(row["ShipCountry"], row["ShipRegion"]) for row in orders if row["ShipRegion"]}
        types = self.pool.get("party.address.subdivision_type")
        regions = []
        for country, name in sorted(keys):
            allowed = types.get_types(self.pool.get("country.country")(self.country[country]))
            kind = sorted(allowed)[0] if allowed else None
            regions.append({"country": self.country[country], "name": name, "type": kind})
        for key, region in zip(sorted(keys), self.create("country.subdivision", regions), strict=True):
            self.region[key] = region.id
        return len(made) + len(regions)

    def employees(self) -> int:
        rows = self.rows("employees")
        parties = []
        for row in rows:
            title = {"type": "other", "name": "Title", "value": row["Title"], "comment": row["Notes"]}
            phone = {"type": "phone", "value": row["HomePhone"]}
            extension = {"type": "other", "name": "Extension", "value": row["Extension"]}
            parties.append(
                {
                    "name": f"{row['FirstName']} {row['LastName']}",
                    "code": f"EMP{row['EmployeeID']}",
                    "addresses": [("create", [self.address(row, "", sequence=MAIN)])],
                    "contact_mechanisms": [("create", [title, phone, extension])],
                }
            )
        made = self.create("party.party", parties)
        values = [
            {"party": party.id, "company": self.company, "start_date": _date(row["HireDate"])}
            for row, party in zip(rows, made, strict=True)
        ]
        employees = self.create("company.employee", values)
        self.employee = {row["EmployeeID"]: employee.id for row, employee in zip(rows, employees, strict=True)}
        for row, employee in zip(rows, employees, strict=True):
            if row["ReportsTo"]:
                employee.supervisor = self.employee[row["ReportsTo"]]
        self.pool.get("company.employee").save(employees)
        return len(employees)

    def address(self, row: Row, prefix: str, **more: object) -> Values:
        country, region = row[f"{prefix}Country"], row[f"{prefix}Region"]
        return {
            "street_unstructured": row[f"{prefix}Address"],
            "city": row[f"{prefix}City"],
            "postal_code": row[f"{prefix}PostalCode"],
            "country": self.country.get(country),
            "subdivision": self.region.get((country, region)),
            **more,
        }

    def customers(self) -> int:
        rows = self.rows("customers")
        category = self.create("party.category", [{"name": "Customer"}])[0]
        ship_to = defaultdict(list)
        for order in self.rows("orders"):
            address = self.address(order, "Ship", party_name=order["ShipName"], sequence=DELIVERY)
            if address not in ship_to[order["CustomerID"]]:
                ship_to[order["CustomerID"]].append(address)
        parties = []
        for row in rows:
            numbers = [
                ("phone", None, row["Phone"]),
                ("fax", None, row["Fax"]),
                ("other", "Title", row["ContactTitle"]),
            ]
            mechanisms = [{"type": kind, "name": name, "value": value} for kind, name, value in numbers if value]
            main = self.address(row, "", attn=row["ContactName"], sequence=MAIN)
            parties.append(
                {
                    "name": row["CompanyName"],
                    "code": row["CustomerID"],
                    "categories": [("add", [category.id])],
                    "addresses": [("create", [main, *ship_to[row["CustomerID"]]])],
                    "contact_mechanisms": [("create", mechanisms)],
                }
            )
        made = self.create("party.party", parties)
        self.party = {row["CustomerID"]: party for row, party in zip(rows, made, strict=True)}
        return len(made)

    def products(self) -> int:
        rows = self.rows("products")
        unit = self.pool.get("product.uom").search([("name", "=", "Unit")])[0].id
        categories = self.rows("categories")
        made = self.create("product.category", [{"name": row["CategoryName"]} for row in categories])
        category = {row["CategoryID"]: record.id for row, record in zip(categories, made, strict=True)}
        common = {"default_uom": unit, "sale_uom": unit}
        templates = [
            {
                **common,
                "name": row["ProductName"],
                "type": "goods",
                "list_price": Decimal(row["UnitPrice"]),
                "salable": True,
                "categories": [("add", [category[row["CategoryID"]]])],
                "products": [("create", [{"suffix_code": row["ProductID"], "description": row["QuantityPerUnit"]}])],
            }
            for row in rows
        ]
        freight = {**common, "name": "Freight", "type": "service", "list_price": Decimal(0), "salable": True}
        freight["products"] = [("create", [{"suffix_code": "FREIGHT"}])]
        made = self.create("product.template", [*templates, freight])
        keys = [*(row["ProductID"] for row in rows), "FREIGHT"]
        self.product = {key: template.products[0] for key, template in zip(keys, made, strict=True)}
        return len(rows)

    def sales(self) -> int:
        lines = defaultdict(list)
        for row in self.rows("order_details"):
            price, discount = Decimal(row["UnitPrice"]), Decimal(row["Discount"])
            net = (price * (1 - discount)).quantize(Decimal("0.0001"))
            lines[row["OrderID"]].append(self.line(row["ProductID"], float(row["Quantity"]), net, price))
        orders = self.rows("orders")
        made = self.create("sale.sale", [self.order(row, lines) for row in orders])
        self.sale = {row["OrderID"]: sale for row, sale in zip(orders, made, strict=True)}
        shipped = [self.sale[row["OrderID"]] for row in orders if row["ShippedDate"]]
        open_ = [self.sale[row["OrderID"]] for row in orders if not row["ShippedDate"]]
        write = self.pool.get("sale.sale").write
        write(shipped, {"state": "done", "shipment_state": "sent"}, open_, {"state": "processing"})
        return len(orders)

    def line(self, product: str, quantity: float, price: Decimal, base: Decimal) -> Values:
        record = self.product[product]
        values = {"type": "line", "product": record.id, "unit": record.default_uom.id, "quantity": quantity}
        return values | {"unit_price": price, "base_price": base}

    def order(self, row: Row, lines: dict[str, list[Values]]) -> Values:
        party, employee = self.party[row["CustomerID"]], self.employee[row["EmployeeID"]]
        wanted = self.address(row, "Ship", party_name=row["ShipName"])
        address = next(a for a in party.addresses if _same(a, wanted))
        freight = Decimal(row["Freight"])
        return {
            "company": self.company,
            "number": row["OrderID"],
            "party": party.id,
            "invoice_address": party.addresses[0].id,
            "shipment_address": address.id,
            "sale_date": _date(row["OrderDate"]),
            "quotation_date": _date(row["OrderDate"]),
            "shipping_date": _date(row["RequiredDate"]),
            "quoted_by": employee,
            "confirmed_by": employee,
            "invoice_method": "manual",
            "shipment_method": "manual",
            "lines": [("create", [*lines[row["OrderID"]], self.line("FREIGHT", 1, freight, freight)])],
        }

    def deliveries(self) -> int:
        """The opening stock and one delivery for each shipped order, so that today's stock is Northwind's."""
        Location, Move = self.pool.get("stock.location"), self.pool.get("stock.move")
        at = {code: Location.search([("code", "=", code)])[0] for code in ("WH", "STO", "CUS")}
        lost = Location.search([("type", "=", "lost_found")])[0]
        at["WH"].output_location = at["STO"]  # goods leave from the shelf: no packing zone to move them through
        at["WH"].save()
        shipped = [row for row in self.rows("orders") if row["ShippedDate"]]
        shipments = self.create(
            "stock.shipment.out",
            [
                {
                    "company": self.company,
                    "customer": self.sale[row["OrderID"]].party.id,
                    "delivery_address": self.sale[row["OrderID"]].shipment_address.id,
                    "warehouse": at["WH"].id,
                    "warehouse_storage": at["STO"].id,
                    "warehouse_output": at["STO"].id,
                    "planned_date": _date(row["ShippedDate"]),
                    "effective_date": _date(row["ShippedDate"]),
                }
                for row in shipped
            ],
        )
        stock = {row["ProductID"]: float(row["UnitsInStock"]) for row in self.rows("products")}
        moves = []
        for row, shipment in zip(shipped, shipments, strict=True):
            for line in self.sale[row["OrderID"]].lines:
                if (key := line.product.suffix_code) in stock:
                    stock[key] += line.quantity
                    move = self.move(line.product, line.quantity, at["STO"], at["CUS"], _date(row["ShippedDate"]))
                    price = {"unit_price": line.unit_price, "currency": line.currency.id}
                    moves.append(move | price | {"origin": str(line), "shipment": str(shipment)})
        opening = [self.move(self.product[k], quantity, lost, at["STO"], OPENING) for k, quantity in stock.items()]
        Move.do(self.create("stock.move", opening + moves))
        self.pool.get("stock.shipment.out").write(shipments, {"state": "done"})
        return len(shipments)

    def move(self, product: Any, quantity: float, source: Any, target: Any, day: dt.date) -> Values:
        values = {"product": product.id, "unit": product.default_uom.id, "quantity": quantity, "company": self.company}
        return values | {
            "from_location": source.id,
            "to_location": target.id,
            "effective_date": day,
            "planned_date": day,
        }

    def settings(self) -> None:
        """From here on: what is discontinued is not for sale, new sales are numbered on and invoiced by hand."""
        gone = [row["ProductID"] for row in self.rows("products") if row["Discontinued"] == "1"]
        Template = self.pool.get("product.template")
        Template.write(Template.search([("products.suffix_code", "in", gone)]), {"salable": False})
        Sequence = self.pool.get("ir.sequence")
        config = self.pool.get("sale.configuration")(1)
        config.sale_invoice_method, config.sale_shipment_method = "manual", "order"
        config.save()
        last = max(int(row["OrderID"]) for row in self.rows("orders"))
        sequence = config.get_multivalue("sale_sequence", company=self.company)
        Sequence.write([sequence], {"number_next_internal": last + 1})
        party_sequence = self.pool.get("party.configuration")(1).get_multivalue("party_sequence")
        if party_sequence:
            Sequence.write([party_sequence], {"prefix": "C"})


def _date(text: str) -> dt.date:
    return dt.date.fromisoformat(text[:10])


def _same(address: Any, wanted: Values) -> bool:
    own = {name: getattr(address, name) for name in wanted}
    return all(getattr(own[name], "id", own[name]) == value for name, value in wanted.items()) or False


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
