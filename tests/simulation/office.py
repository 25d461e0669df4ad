"""Everybody on the server's side who writes to the entities and is no device: the ORM, raw SQL, other programs."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.db import connection, models, transaction
from django.db.models import F
from django.db.models.deletion import ProtectedError

from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from tests.simulation.edits import CITIES, COUNTRIES, LONG_NOTE, STATUSES, WORDS
from tests.simulation.world import World

Writer = Callable[[World], str | None]


def write(world: World) -> str:
    """One change by somebody who is no device."""
    writers, weights = zip(*WRITERS, strict=True)
    (writer,) = world.rng.choices(writers, weights)
    try:
        return str(writer(world) or f"{writer.__name__}: nothing to do")
    except ProtectedError:
        return f"{writer.__name__}: refused, since other rows need it"


def _save_customer(world: World) -> str | None:
    if customer := world.pick(Customer):
        customer.city = world.rng.choice(("Lima", "Kyiv", "Oslo"))
        customer.save()
    return customer and f"ORM saves customer {customer.pk}"


def _send_abroad(world: World) -> str | None:
    if customer := world.pick(Customer):
        country = world.rng.choice(HOMES)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE entities_customer SET country = %s WHERE id = %s", [country, customer.pk])
        return f"SQL sends customer {customer.pk} to {country or 'nowhere'}"
    return None


def _save_contact(world: World) -> str | None:
    if contact := world.pick(Contact):
        contact.title = f"by the office {world.rng.randrange(10)}"
        contact.save(update_fields=["title"])
    return contact and f"ORM saves contact {contact.pk}"


HOMES = (*COUNTRIES, *COUNTRIES, "")  # a customer without a country is on no device

# What devices change as well: by model, the fields with what is entered there.
RIVALRY: Sequence[tuple[type[models.Model], Mapping[str, Sequence[Any]]]] = (
    (Contact, {"phone": WORDS, "title": WORDS, "last_name": WORDS, "note": (*WORDS, LONG_NOTE)}),
    (Customer, {"city": CITIES, "address": CITIES, "country": HOMES, "phone": CITIES, "fax": CITIES}),
    (Product, {"discontinued": (True, False), "reorder_level": range(4), "category": WORDS}),
    (Order, {"note": WORDS, "status": STATUSES, "ship_city": CITIES, "ship_name": WORDS}),
    (OrderLine, {"quantity": range(1, 9), "discount": (Decimal("0.05"), Decimal("0.5"))}),
)


def _rival(world: World) -> str | None:
    """Somebody enters what a device may just be entering too. Nothing of it may be lost without a trace."""
    model, fields = world.rng.choice(RIVALRY)
    names = world.rng.sample(sorted(fields), world.rng.randint(1, 2))
    if row := world.pick(model):
        entered = {name: world.rng.choice(fields[name]) for name in names}
        if world.rng.random() < 0.5:
            model._default_manager.filter(pk=row.pk).update(**entered)
        else:
            for name, value in entered.items():
                setattr(row, name, value)
            row.save(update_fields=names)
        world.entered += [(model._meta.db_table, str(row.pk), name, value) for name, value in entered.items()]
    return row and f"the office enters {names} of {model.__name__} {row.pk}"


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
        order = world.make_order(customer, world.rng.choice(world.employees), products)
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


def _delete_line(world: World) -> str | None:
    if line := world.pick(OrderLine):
        return f"ORM deletes line {line.pk}: {line.delete()}"
    return None


def _delete_lines(world: World) -> str | None:
    if order := world.pick(Order):
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM entities_orderline WHERE order_id = %s", [order.pk])
        return f"SQL deletes the lines of order {order.pk}"
    return None


def _truncate_lines(world: World) -> str | None:
    if world.late is not None:
        return None  # it would wait for that transaction, which has moved orders
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
        Order.objects.filter(pk=order.pk).update(employee=employee)
        return f"order {order.pk} moves to {employee.pk}"
    return None


def _hide_order(world: World) -> str | None:
    if order := world.pick(Order):
        Order.objects.filter(pk=order.pk).update(employee=None)
        return f"order {order.pk} is nobody's"
    return None


def _move_line(world: World) -> str | None:
    line, order = world.pick(OrderLine), world.pick(Order)
    if line and order:
        OrderLine.objects.filter(pk=line.pk).update(order=order)
        return f"line {line.pk} moves to order {order.pk}"
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


def _reports_to(world: World) -> str:
    row, boss = world.rng.sample(world.employee_ids, 2)
    to = boss if world.rng.random() < 0.8 else None
    Employee.objects.filter(pk=row).update(reports_to=to)
    return f"employee {row} reports to {to or 'nobody'}"


def _pairs(world: World) -> str:
    return world.write_pairs()


def _pin(world: World) -> str:
    """Many changes of one row in one transaction."""
    with transaction.atomic():
        for _ in range(3):
            _save_customer(world)
    return "ORM saves customers in one transaction"


WRITERS: Sequence[tuple[Writer, float]] = (
    (_rival, 18),
    (_save_customer, 4),
    (_send_abroad, 4),
    (_save_contact, 4),
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
    (_delete_line, 2),
    (_delete_lines, 1),
    (_truncate_lines, 0.3),
    (_bring_back, 2),
    (_bring_back_at_once, 1),
    (_change_id, 1),
    (_move_order, 5),
    (_hide_order, 1),
    (_move_line, 3),
    (_stock, 4),
    (_secret, 1),
    (_employee, 1),
    (_reports_to, 5),
    (_pairs, 5),
    (_pin, 1),
)
