"""Edits of what others change at the same time: the same rows, the same fields, fields of one unit, deletes."""

from collections.abc import Sequence

from tests.simulation.edits import CITIES, LONG_NOTE, STATUSES, Desk, Edit


def enter_contact(desk: Desk) -> str | None:
    """Several fields, of which others may have changed some."""
    if row := desk.pick("contact"):
        desk.run(
            "UPDATE contact SET last_name = ?, phone = ?, title = ? WHERE id = ?",
            *(desk.word(), desk.word(), desk.word(), row),
        )
    return row and f"enter contact {row}"


def note_contact(desk: Desk) -> str | None:
    if row := desk.pick("contact"):
        note = LONG_NOTE if desk.rng.random() < 0.2 else desk.word()
        desk.run("UPDATE contact SET note = ? WHERE id = ?", note, row)
    return row and f"a note on contact {row}"


def move_customer(desk: Desk) -> str | None:
    """An address as a whole, with a number in it that nobody else has."""
    if row := desk.pick("customer"):
        street, city = f"{desk.rng.randrange(1000)} Main St", desk.rng.choice(CITIES)
        country = desk.rng.choice(desk.countries)
        desk.run(
            "UPDATE customer SET address = ?, city = ?, postal_code = 'P', country = ? WHERE id = ?",
            *(street, city, country, row),
        )
    return row and f"move customer {row}"


def call_customer(desk: Desk) -> str | None:
    """One field that a person decides about, one that the device wins, one that the server wins."""
    if row := desk.pick("customer"):
        number = str(desk.rng.randrange(5))
        desk.run("UPDATE customer SET phone = ?, fax = ?, name = ? WHERE id = ?", number, number, f"Shop {number}", row)
    return row and f"call customer {row}"


def discontinue(desk: Desk) -> str | None:
    if row := desk.pick("product"):
        desk.run(
            "UPDATE product SET discontinued = NOT discontinued, reorder_level = ?, units_in_stock = units_in_stock - ?"
            " WHERE id = ?",
            *(desk.rng.randrange(4), desk.rng.randrange(3), row),
        )
    return row and f"discontinue product {row}"


def delete_product(desk: Desk) -> str | None:
    if row := desk.pick("product"):
        desk.run("DELETE FROM product WHERE id = ?", row)
    return row and f"delete product {row}"


def note_order(desk: Desk) -> str | None:
    """The latest note wins, whoever's clock is wrong."""
    if row := desk.pick("order"):
        desk.run('UPDATE "order" SET note = ? WHERE id = ?', f"note {desk.rng.randrange(1000)}", row)
    return row and f"a note on order {row}"


def ship_order(desk: Desk) -> str | None:
    """A part of the address, beside a field that is none of it."""
    if row := desk.pick("order"):
        column = desk.rng.choice(("ship_name", "ship_city", "ship_country"))
        desk.run(
            f'UPDATE "order" SET {column} = ?, status = ? WHERE id = ?',
            *(desk.rng.choice(CITIES), desk.rng.choice(STATUSES), row),
        )
    return row and f"ship order {row}"


def count_line(desk: Desk) -> str | None:
    if row := desk.pick("order_line"):
        desk.run("UPDATE order_line SET quantity = ? WHERE id = ?", desk.rng.randint(1, 9), row)
    return row and f"count line {row}"


def replace_line(desk: Desk) -> str | None:
    """Deleted and made again with its id."""
    if row := desk.pick("order_line"):
        names = "order_id, product_id, unit_price"
        values = desk.conn.execute(f"SELECT {names} FROM order_line WHERE id = ?", (row,)).fetchone()
        desk.run("DELETE FROM order_line WHERE id = ?", row)
        desk.run(f"INSERT INTO order_line (id, {names}) VALUES (?, ?, ?, ?)", row, *values)
    return row and f"replace line {row}"


RIVAL_EDITS: Sequence[tuple[Edit, int]] = (
    (enter_contact, 10),
    (note_contact, 6),
    (move_customer, 6),
    (call_customer, 6),
    (discontinue, 5),
    (delete_product, 1),
    (note_order, 8),
    (ship_order, 6),
    (count_line, 4),
    (replace_line, 1),
)
