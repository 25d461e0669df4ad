"""Make fifty stores, each a SQLite file with a share of Northwind's orders, and print them as a list to import.

    script/stores FOLDER [--stores 50]

Every store has all customers and products. Store n has the orders whose number is n beyond a multiple of the stores.
"""

import argparse
import csv
import sqlite3
import sys
from collections import defaultdict
from pathlib import Path

NORTHWIND = Path(__file__).resolve().parent.parent / "data" / "northwind"
STAMP = "1998-05-06 18:00:00"  # after Northwind's last order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stores", type=int, default=50)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    written = csv.writer(sys.stdout)
    written.writerow(["name", "title", "url", "timeout_seconds"])
    for store, name in enumerate(make(folder, options.stores), 1):
        written.writerow([name, f"Store {store}", f"sqlite:///{folder / name}.sqlite", 60])


def make(folder: Path, stores: int) -> list[str]:
    """The names of the stores, each a new file `<name>.sqlite` in the folder."""
    customers, products, orders = (rows(table) for table in ("customers", "products", "orders"))
    lines = defaultdict(list)
    for line in rows("order_details"):
        lines[line["OrderID"]].append(line)
    ids = {row["CustomerID"].strip(): id for id, row in enumerate(customers, 1)}
    names = [f"s{store:02}" for store in range(1, stores + 1)]
    for at, name in enumerate(names):
        file = folder / f"{name}.sqlite"
        file.unlink(missing_ok=True)
        with sqlite3.connect(file) as base:
            base.executescript(TABLES)
            _fill(
                base,
                "customers",
                [
                    (
                        ids[r["CustomerID"].strip()],
                        r["CustomerID"].strip(),
                        r["CompanyName"],
                        r["City"],
                        r["Phone"],
                        None,
                        STAMP,
                    )
                    for r in customers
                ],
            )
            _fill(
                base,
                "products",
                [
                    (int(r["ProductID"]), r["ProductID"], r["ProductName"], float(r["UnitPrice"]), None, STAMP)
                    for r in products
                ],
            )
            own = [order for order in orders if int(order["OrderID"]) % stores == at]
            _fill(
                base,
                "orders",
                [
                    (number, str(number), ids[o["CustomerID"].strip()], o["OrderDate"][:10], float(o["Freight"]), STAMP)
                    for number, o in enumerate(own, 1)
                ],
            )
            _fill(
                base,
                "order_lines",
                [
                    (None, number, int(line["ProductID"]), int(line["Quantity"]), float(line["UnitPrice"]), STAMP)
                    for number, o in enumerate(own, 1)
                    for line in lines[o["OrderID"]]
                ],
            )
        base.close()
    return names


def rows(table: str) -> list[dict[str, str]]:
    with (NORTHWIND / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _fill(base: sqlite3.Connection, table: str, found: list[tuple[object, ...]]) -> None:
    if found:
        base.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(found[0]))})", found)


TABLES = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY, code TEXT UNIQUE, name TEXT, city TEXT, phone TEXT, marker TEXT, updated_at TIMESTAMP
);
CREATE TABLE products (
    id INTEGER PRIMARY KEY, code TEXT UNIQUE, name TEXT, unit_price NUMERIC(12, 4), marker TEXT, updated_at TIMESTAMP
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, number TEXT UNIQUE, customer_id INTEGER NOT NULL REFERENCES customers, ordered_on DATE,
    freight NUMERIC(12, 4), updated_at TIMESTAMP
);
CREATE TABLE order_lines (
    id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders,
    product_id INTEGER NOT NULL REFERENCES products,
    quantity INTEGER, unit_price NUMERIC(12, 4), updated_at TIMESTAMP
);
"""

if __name__ == "__main__":
    main()
