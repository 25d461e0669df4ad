"""Conflicts as tests need them, without a push that would meet one."""

from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from entities.models import Contact, Order, OrderLine, Product
from sync.amend import Invalid
from sync.models import Conflict, Outcome
from tests.integration.sync_support import Row, TestDevice, employee, new_customer, new_id, sql

BOSS, OTHER = "user:boss", "user:other"


def rev_of(row: str) -> int:
    """The revision of a row; 0 where it never was."""
    return int(sql("SELECT coalesce(max(rev), 0) FROM sync_feed WHERE row_id = %s", [row])[0][0])


def conflict(
    device: TestDevice,
    row: str,
    sent: Row,
    server: Row | None,
    base: Row | None = None,
    *,
    state: str = "open",
    entity: str = "contact",
    **more: Any,
) -> Conflict:
    """A conflict of the device's values with those that the row has now."""
    given = {
        "op": "update",
        "fields": [] if server is None else sorted(sent),
        "policy": "manual",
        "mutation": new_id(),
        "server_rev": rev_of(row),
        "created_at": timezone.now(),
        "device_values": {"set": sent} if sent else {},
    }
    return Conflict.objects.create(
        entity=entity, row_id=row, device=device.device.id, base=base, server=server, state=state, **(given | more)
    )


def disputed(device: TestDevice, **more: Any) -> tuple[str, Conflict]:
    """A contact that the device calls Ina and the server Eva, and which was Ana; with the conflict about it."""
    row = Contact.objects.create(first_name="Ana", phone="1")
    row.first_name = "Eva"
    row.save()
    found = conflict(device, str(row.pk), {"first_name": "Ina"}, {"first_name": "Eva"}, {"first_name": "Ana"}, **more)
    return str(row.pk), found


def a_line() -> OrderLine:
    """A line of an order, with all that it refers to."""
    who = employee(Order.objects.count() + 1)
    customer = new_customer()
    order = Order.objects.create(customer=customer, employee_id=who, ordered_on="2026-11-21")
    product = Product.objects.create(code=f"P{Product.objects.count()}", name="A")
    return OrderLine.objects.create(order=order, product=product, unit_price=1)


def outcomes(device: TestDevice) -> list[tuple[str, int | None, str]]:
    """(outcome, revision, by whom) of each decision that a device is told of."""
    found = Outcome.objects.filter(device=device.device.id).order_by("number")
    return list(found.values_list("outcome", "rev", "by"))


def told(refusal: pytest.ExceptionInfo[Invalid]) -> list[tuple[str | None, str]]:
    """The field and the code of each error."""
    return [(each.field, each.code) for each in refusal.value.errors]


def reasons(refused: dict[UUID, Any]) -> dict[UUID, list[str]]:
    """The codes of what was refused, by its id."""
    return {id: [each.code for each in errors] for id, errors in refused.items()}
