"""Whatever values a decision or a mended mutation is given, the staff API answers, and never with a 5xx."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entities.models import Order, OrderLine, Product
from sync.models import Rejection
from tests.integration.conflict_support import conflict
from tests.integration.staff_support import Staff
from tests.integration.sync_support import TestDevice, employee, new_customer, update

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
NAMES = ["status", "ordered_on", "freight", "note", "customer_id", "quantity", "discount", "unit_price", "hat"]
NUMBERS = st.integers() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=9) | st.sampled_from(
    ["1.5", "-1", "9" * 40, "2026-02-30", "draft", "0198a2f0-1c1e-7d0a-8f7e-3b1f6f2c0001"]
)
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXTS, lambda of: st.lists(of, max_size=2), max_leaves=3)
FIELDS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)


def of(entity: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that the entity has, and one that none has."""
    lines = {"quantity", "discount", "unit_price"}
    return {
        name: value for name, value in fields.items() if name == "hat" or (name in lines) == (entity == "order_line")
    }


@given(FIELDS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_staff_api_answers_any_values(fields: dict[str, Any]) -> None:
    staff, device = Staff(), TestDevice()
    who = employee(Order.objects.count() + 1)
    product = Product.objects.create(code=f"P{Product.objects.count()}", name="A")
    order = Order.objects.create(customer=new_customer(), employee_id=who, ordered_on="2026-11-21")
    line = OrderLine.objects.create(order=order, product=product, unit_price=1)
    device.grant(f"employee:{who}")
    for entity, row in (("order", order), ("order_line", line)):
        given = of(entity, fields)
        now = dict.fromkeys(given)
        found = conflict(device, str(row.pk), dict.fromkeys(given), now, entity=entity)
        answer = staff.send(f"conflicts/{found.pk}/resolve", {"values": given, "rev": 1})
        assert answer.status_code in {200, 400, 422}, (given, answer.content)
        device.push(update(str(row.pk), 1, entity, hat=1))
        rejection = Rejection.objects.get(row_id=row.pk)
        answer = staff.send(f"quarantine/{rejection.pk}/replay", {"set": given})
        assert answer.status_code in {200, 400, 422}, (given, answer.content)
        assert staff.ask(f"quarantine/{rejection.pk}").status_code == 200
        assert staff.ask(f"conflicts/{found.pk}").status_code == 200
