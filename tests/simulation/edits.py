"""What people do on their devices while they are offline: plain SQL on the replica's own file, drawn by the seed."""

import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from syncdevice import group

HOT_ROWS, HOT_SHARE = 2, 0.5  # the rows that everybody changes, and how often it is one of them
LONG_NOTE = "long " * 1_100  # two of them are more than a note may be
WORDS = ("Ana", "Bé", "Chai's", "Dörte", "", 'Ed "x"', "漢字", "f", "g\nh")
CITIES = ("Bern", "Oslo", "Rome")
COUNTRIES = ("Chile", "Kenya", "Norway")
STATUSES = ("draft", "confirmed", "shipped", "cancelled")


@dataclass(frozen=True)
class Desk:
    """What an edit may use: the replica's connection, the seed's randomness, and what not to touch."""

    conn: sqlite3.Connection
    rng: Random
    employees: Sequence[str]  # whose orders there may be; some may be out of the device's scopes
    countries: Sequence[str]  # of customers; the same
    reserved: frozenset[str]  # rows that only the server's own writers change

    def pick(self, entity: str, where: str = "true") -> str | None:
        """The id of a row of the replica, half of the time one of those that everybody changes."""
        rows = [i for (i,) in self.conn.execute(f'SELECT id FROM "{entity}" WHERE {where} ORDER BY id')]
        free = [i for i in rows if i not in self.reserved]
        hot = self.rng.random() < HOT_SHARE
        return self.rng.choice(free[:HOT_ROWS] if hot else free) if free else None

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def word(self) -> str:
        return self.rng.choice(WORDS)

    def run(self, sql: str, *values: object) -> None:
        self.conn.execute(sql, values)


Edit = Callable[[Desk], str | None]


def create_contact(desk: Desk) -> str:
    row = desk.new_id()
    customer = desk.pick("customer") if desk.rng.random() < 0.5 else None
    desk.run(
        "INSERT INTO contact (id, customer_id, first_name, last_name, email, met_on) VALUES (?, ?, ?, ?, ?, ?)",
        *(row, customer, "New", desk.word(), desk.rng.choice(("", "a@example.org")), "2026-01-31"),
    )
    return f"create contact {row}"


def create_common_contact(desk: Desk) -> str | None:
    """Its id is one that other devices use too: only one of them can have made the row."""
    row = str(uuid.UUID(int=desk.rng.randint(1, 3), version=4))
    if desk.conn.execute("SELECT 1 FROM contact WHERE id = ?", (row,)).fetchone():
        return None
    desk.run("INSERT INTO contact (id, first_name, title) VALUES (?, 'Common', ?)", row, desk.word())
    return f"create the common contact {row}"


def update_contact(desk: Desk) -> str | None:
    if row := desk.pick("contact"):
        column = desk.rng.choice(("last_name", "title", "phone", "note"))
        desk.run(f"UPDATE contact SET {column} = ? WHERE id = ?", desk.word(), row)
    return row and f"update contact {row}"


def empty_contact(desk: Desk) -> str | None:
    if row := desk.pick("contact"):
        desk.run("UPDATE contact SET customer_id = NULL, met_on = NULL WHERE id = ?", row)
    return row and f"empty contact {row}"


def update_many_contacts(desk: Desk) -> str:
    desk.run("UPDATE contact SET title = ?", desk.word())
    return "update every contact"


def delete_contact(desk: Desk) -> str | None:
    if row := desk.pick("contact"):
        desk.run("DELETE FROM contact WHERE id = ?", row)
    return row and f"delete contact {row}"


def replace_contact(desk: Desk) -> str | None:
    if row := desk.pick("contact"):
        desk.run("INSERT OR REPLACE INTO contact (id, first_name, note) VALUES (?, ?, ?)", row, "Rep", desk.word())
    return row and f"replace contact {row}"


def undo_delete(desk: Desk) -> str | None:
    """Delete a contact and make it again with its id: the row comes back."""
    if row := desk.pick("contact"):
        desk.run("DELETE FROM contact WHERE id = ?", row)
        desk.run("INSERT INTO contact (id, first_name) VALUES (?, 'Back')", row)
    return row and f"delete contact {row} and bring it back"


def change_of_mind(desk: Desk) -> str | None:
    """Edits that were rolled back never happened."""
    if row := desk.pick("contact"):
        desk.run("UPDATE contact SET title = 'never' WHERE id = ?", row)
        desk.run("INSERT INTO contact (first_name) VALUES ('never')")
        desk.conn.rollback()
    return row and "roll back"


def create_customer(desk: Desk) -> str:
    row, country = desk.new_id(), desk.rng.choice(desk.countries)
    city = desk.rng.choice(CITIES)
    desk.run("INSERT INTO customer (id, name, city, country) VALUES (?, 'Shop', ?, ?)", row, city, country)
    return f"create customer {row} in {country}"


def update_customer(desk: Desk) -> str | None:
    if row := desk.pick("customer"):
        column = desk.rng.choice(("city", "phone", "address"))
        desk.run(f"UPDATE customer SET {column} = ? WHERE id = ?", desk.rng.choice(CITIES), row)
    return row and f"update customer {row}"


def send_customer_abroad(desk: Desk) -> str | None:
    if row := desk.pick("customer"):
        country = desk.rng.choice(desk.countries)
        desk.run("UPDATE customer SET country = ? WHERE id = ?", country, row)
        return f"send customer {row} to {country}"
    return None


def update_customer_twice(desk: Desk) -> str | None:
    if row := desk.pick("customer"):
        for city in CITIES[:2]:
            desk.run("UPDATE customer SET city = ? WHERE id = ?", city, row)
    return row and f"update customer {row} twice"


def delete_customer(desk: Desk) -> str | None:
    if row := desk.pick("customer"):
        desk.run("DELETE FROM customer WHERE id = ?", row)
    return row and f"delete customer {row}"


def take_stock(desk: Desk) -> str | None:
    if row := desk.pick("product"):
        amount = desk.rng.randint(-5, 5)
        desk.run("UPDATE product SET units_in_stock = units_in_stock + ? WHERE id = ?", amount, row)
    return row and f"add to stock of {row}"


def take_stock_of_all(desk: Desk) -> str:
    desk.run("UPDATE product SET units_in_stock = units_in_stock - 1 WHERE quantity_per_unit = ''")  # not the pair's
    return "take one of every product"


def rename_product(desk: Desk) -> str | None:
    if row := desk.pick("product"):
        # The price is read-only: the server's comes back with the new name's revision.
        desk.run("UPDATE product SET name = ?, unit_price = '0.01' WHERE id = ?", f"Tea {desk.rng.random()}", row)
    return row and f"rename product {row}"


def create_product(desk: Desk) -> str:
    """Its code is read-only, so that the server gives each the empty one: the second clashes."""
    row = desk.new_id()
    desk.run("INSERT INTO product (id, name, units_in_stock) VALUES (?, 'Own', 7)", row)
    return f"create product {row}"


def create_order(desk: Desk) -> str | None:
    """An order with its lines, as a group, now and then for an employee who is none of this device's."""
    customer = desk.pick("customer")
    if customer is None or desk.pick("product") is None:
        return None
    row, employee = desk.new_id(), desk.rng.choice(desk.employees)
    with group(desk.conn):
        desk.run(
            'INSERT INTO "order" (id, customer_id, employee_id, ordered_on, freight) VALUES (?, ?, ?, ?, ?)',
            *(row, customer, employee, "2026-11-21", desk.rng.choice(("0", "12.5", "3.1416"))),
        )
        for _ in range(desk.rng.randint(1, 4)):
            _add_line(desk, row)
    return f"create order {row} of {employee}"


def _add_line(desk: Desk, order: str, quantity: int = 1) -> None:
    desk.run(
        "INSERT INTO order_line (id, order_id, product_id, unit_price, quantity) VALUES (?, ?, ?, ?, ?)",
        *(desk.new_id(), order, desk.pick("product"), "9.9900", quantity),
    )


def add_line(desk: Desk) -> str | None:
    order = desk.pick("order")
    if order is None or desk.pick("product") is None:
        return None
    _add_line(desk, order, desk.rng.randint(1, 3))
    return f"add a line to order {order}"


def update_order(desk: Desk) -> str | None:
    if row := desk.pick("order"):
        desk.run('UPDATE "order" SET status = ?, note = ? WHERE id = ?', desk.rng.choice(STATUSES), desk.word(), row)
    return row and f"update order {row}"


def update_order_with_lines(desk: Desk) -> str | None:
    if row := desk.pick("order"):
        with group(desk.conn):
            desk.run('UPDATE "order" SET status = ? WHERE id = ?', desk.rng.choice(STATUSES), row)
            desk.run("UPDATE order_line SET quantity = quantity + 1 WHERE order_id = ?", row)
    return row and f"update order {row} with its lines"


def update_line(desk: Desk) -> str | None:
    if row := desk.pick("order_line"):
        desk.run("UPDATE order_line SET discount = '0.0500', quantity = ? WHERE id = ?", desk.rng.randint(1, 9), row)
    return row and f"update line {row}"


def delete_line(desk: Desk) -> str | None:
    if row := desk.pick("order_line"):
        desk.run("DELETE FROM order_line WHERE id = ?", row)
    return row and f"delete line {row}"


def delete_order(desk: Desk) -> str | None:
    """The order alone, whose lines the server deletes, or its lines first."""
    if row := desk.pick("order"):
        with group(desk.conn):
            if desk.rng.random() < 0.5:
                desk.run("DELETE FROM order_line WHERE order_id = ?", row)
            desk.run('DELETE FROM "order" WHERE id = ?', row)
    return row and f"delete order {row}"


def move_order(desk: Desk) -> str | None:
    if row := desk.pick("order"):
        employee = desk.rng.choice(desk.employees)
        desk.run('UPDATE "order" SET employee_id = ? WHERE id = ?', employee, row)
    return row and f"move order {row} to {employee}"


def move_line(desk: Desk) -> str | None:
    """To another order, perhaps another employee's."""
    row, order = desk.pick("order_line"), desk.pick("order")
    if row and order:
        desk.run("UPDATE order_line SET order_id = ? WHERE id = ?", order, row)
        return f"move line {row} to order {order}"
    return None


def write_read_only(desk: Desk) -> str:
    """An employee cannot be written at all; a customer's code can, but is never sent."""
    try:
        desk.run("UPDATE employee SET title = 'Boss'")
    except sqlite3.IntegrityError:
        pass
    else:
        # No employee, no refusal: the device may have lost the scope.
        assert desk.conn.execute("SELECT count(*) FROM employee").fetchone() == (0,), "a read-only entity was written"
    if row := desk.pick("customer"):
        desk.run("UPDATE customer SET code = 'MINE', phone = ? WHERE id = ?", str(desk.rng.random()), row)
    return "write what is read-only"


# What no server may take. Each returns what it did; the mutations it made must not be applied.


def contact_with_bad_email(desk: Desk) -> str:
    desk.run("INSERT INTO contact (id, first_name, email) VALUES (?, 'Bad', 'no at sign')", desk.new_id())
    return "a contact with a bad e-mail address"


def contact_with_long_name(desk: Desk) -> str:
    desk.run("INSERT INTO contact (id, first_name) VALUES (?, ?)", desk.new_id(), "x" * 61)
    return "a contact with a name too long"


def contact_of_nobody(desk: Desk) -> str:
    desk.run("INSERT INTO contact (id, first_name, customer_id) VALUES (?, 'Lost', ?)", desk.new_id(), desk.new_id())
    return "a contact of an unknown customer"


def contact_without_name(desk: Desk) -> str:
    desk.run("INSERT INTO contact (id, last_name) VALUES (?, 'Nameless')", desk.new_id())
    return "a contact without a name"


def order_of_bad_status(desk: Desk) -> str | None:
    if row := desk.pick("order"):
        desk.run("UPDATE \"order\" SET status = 'mislaid' WHERE id = ?", row)
    return row and f"an unknown status of order {row}"


def order_with_bad_line(desk: Desk) -> str | None:
    """A group with one line that is not valid: nothing of it may be applied."""
    customer = desk.pick("customer")
    if customer is None or desk.pick("product") is None:
        return None
    row, employee = desk.new_id(), desk.rng.choice(desk.employees)
    with group(desk.conn):
        desk.run(
            "INSERT INTO \"order\" (id, customer_id, employee_id, ordered_on) VALUES (?, ?, ?, '2026-11-21')",
            *(row, customer, employee),
        )
        _add_line(desk, row)
        _add_line(desk, row, quantity=0)
    return f"order {row} with a line of nothing"


def order_of_nobody(desk: Desk) -> str | None:
    if (customer := desk.pick("customer")) is None:
        return None
    desk.run("INSERT INTO \"order\" (id, customer_id, ordered_on) VALUES (?, ?, '2026-11-21')", desk.new_id(), customer)
    return "an order of no employee"


EDITS: Sequence[tuple[Edit, int]] = (
    (create_contact, 10),
    (create_common_contact, 1),
    (update_contact, 10),
    (empty_contact, 1),
    (update_many_contacts, 1),
    (delete_contact, 4),
    (replace_contact, 2),
    (undo_delete, 2),
    (change_of_mind, 1),
    (create_customer, 2),
    (update_customer, 10),
    (update_customer_twice, 2),
    (send_customer_abroad, 4),
    (delete_customer, 1),
    (take_stock, 10),
    (take_stock_of_all, 1),
    (rename_product, 2),
    (create_product, 1),
    (create_order, 8),
    (add_line, 4),
    (update_order, 6),
    (update_order_with_lines, 3),
    (update_line, 4),
    (delete_line, 2),
    (delete_order, 2),
    (move_order, 3),
    (move_line, 2),
    (write_read_only, 1),
)
INVALID_EDITS: Sequence[Edit] = (
    contact_with_bad_email,
    contact_with_long_name,
    contact_of_nobody,
    contact_without_name,
    order_of_bad_status,
    order_with_bad_line,
    order_of_nobody,
)
