"""Deciding many conflicts at once: nothing newer is overwritten, and each that is refused says why."""

from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from entities.models import Contact, Customer, Product
from sync.models import Conflict, Decision, Outcome
from sync.resolve import preview_many, resolve_many
from tests.integration.conflict_support import BOSS, a_line, conflict, disputed, reasons, rev_of
from tests.integration.sync_support import TestDevice, history, new_customer, update

pytestmark = pytest.mark.django_db(transaction=True)
State = Conflict.State


def test_bulk_for_the_device_writes_what_is_at_stake_and_nothing_else() -> None:
    device = TestDevice()
    pairs = [disputed(device) for _ in range(3)]
    Contact.objects.filter(pk=pairs[0][0]).update(phone="2")  # newer, and in no dispute
    bulk = resolve_many([found.pk for _, found in pairs], "device", author=BOSS, comment="all")
    assert {d.state for d in bulk.decided} == {State.DEVICE} and not bulk.refused
    assert {d.bulk for d in Decision.objects.all()} == {bulk.id}
    assert sorted(Contact.objects.values_list("first_name", "phone")) == [("Ina", "1"), ("Ina", "1"), ("Ina", "2")]


def test_bulk_overwrites_nothing_that_changed_since_and_says_so() -> None:
    device = TestDevice()
    (moved, first), (row, second) = disputed(device), disputed(device)
    Contact.objects.filter(pk=moved).update(first_name="Eve")
    bulk = resolve_many([first.pk, second.pk], "device", author=BOSS)
    assert reasons(bulk.refused) == {first.pk: ["moved"]}
    assert [Contact.objects.get(pk=each).first_name for each in (moved, row)] == ["Eve", "Ina"]


def test_bulk_overwrites_no_server_value_that_somebody_has_put_back() -> None:
    customer = new_customer(name="A", fax="1")
    mine = Customer.objects.filter(pk=customer.pk)
    mine.update(fax="2")
    assert TestDevice().statuses(update(str(customer.pk), 1, "customer", fax="3")) == ["merged"]
    mine.update(fax="2")
    found = Conflict.objects.get()
    assert reasons(resolve_many([found.pk], "device", author=BOSS).refused) == {found.pk: ["moved"]}
    assert mine.get().fax == "2"


def test_bulk_takes_several_conflicts_of_one_row_in_order() -> None:
    row, first = disputed(TestDevice())
    second = conflict(TestDevice(), row, {"first_name": "Una"}, {"first_name": "Eva"})
    bulk = resolve_many([second.pk, first.pk], "device", author=BOSS)
    assert [decision.conflict_id for decision in bulk.decided] == [first.pk, second.pk]
    assert [new for *_, new in history(row)][-2:] == ['{"first_name": "Ina"}', '{"first_name": "Una"}']


def test_bulk_goes_on_where_one_is_refused_by_a_rule() -> None:
    device = TestDevice()
    first, second = a_line(), a_line()
    bad = conflict(device, str(first.pk), {"quantity": 0}, {"quantity": 1}, entity="order_line")
    gone = conflict(device, str(second.pk), {"product_id": str(uuid4())}, {"product_id": str(second.product_id)},
                    entity="order_line")  # fmt: skip
    row, good = disputed(device)
    bulk = resolve_many([bad.pk, gone.pk, good.pk], "device", author=BOSS)
    assert reasons(bulk.refused) == {bad.pk: ["invalid_value"], gone.pk: ["missing_reference"]}
    assert Contact.objects.get(pk=row).first_name == "Ina"


def test_bulk_for_the_server_overturns_what_a_policy_took_from_the_device() -> None:
    row, found = disputed(TestDevice(), state="device")
    Contact.objects.filter(pk=row).update(first_name="Ina")
    bulk = resolve_many([found.pk], "server", author=BOSS)
    assert (bulk.decided[0].state, Contact.objects.get(pk=row).first_name) == (State.SERVER, "Eva")


def test_bulk_never_deletes_a_row_that_was_edited_since() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    found = conflict(device, row, {}, {"first_name": "Ana"}, op="delete")
    Contact.objects.filter(pk=row).update(note="new")
    assert reasons(resolve_many([found.pk], "device", author=BOSS).refused) == {found.pk: ["moved"]}
    assert Contact.objects.filter(pk=row).exists()


def test_bulk_takes_no_other_row_along() -> None:
    customer = new_customer()
    child = Contact.objects.create(first_name="Ana", customer=customer)
    found = conflict(TestDevice(), str(customer.pk), {}, {"name": "C"}, op="delete", entity="customer")
    assert reasons(resolve_many([found.pk], "device", author=BOSS).refused) == {found.pk: ["depended_on"]}
    child.delete()
    assert len(resolve_many([found.pk], "device", author=BOSS).decided) == 1
    assert not Customer.objects.exists()


def test_bulk_takes_no_half_of_what_belongs_together() -> None:
    customer = new_customer(name="A", address="1 Road", city="X")
    found = conflict(TestDevice(), str(customer.pk), {"city": "Y"}, {"address": "1 Road", "city": "X"},
                     entity="customer", fields=["address", "city"])  # fmt: skip
    assert reasons(resolve_many([found.pk], "device", author=BOSS).refused) == {found.pk: ["unknown_values"]}


@pytest.mark.parametrize(("field", "code"), [("code", "read_only_field"), ("no_longer", "unknown_field")])
def test_bulk_does_not_claim_to_take_what_devices_may_not_write_any_more(field: str, code: str) -> None:
    product = Product.objects.create(code="A", name="A")
    found = conflict(TestDevice(), str(product.pk), {field: "B"}, {field: "A"}, {field: "0"}, entity="product")
    assert reasons(resolve_many([found.pk], "device", author=BOSS).refused) == {found.pk: [code]}
    found.refresh_from_db()
    assert found.state == "open"


def test_bulk_asks_who_may() -> None:
    device = TestDevice()
    row, edit = disputed(device)
    other = str(Contact.objects.create(first_name="Ana").pk)
    gone = conflict(device, other, {}, {"first_name": "Ana"}, op="delete")
    bulk = resolve_many(
        [edit.pk, gone.pk], "device", author=BOSS, allowed=lambda _conflict, deletes, _creates: not deletes
    )
    assert reasons(bulk.refused) == {gone.pk: ["forbidden"]}
    assert Contact.objects.get(pk=row).first_name == "Ina"


def test_bulk_costs_the_same_queries_however_many() -> None:
    device = TestDevice()
    counts = []
    for many in (2, 20):
        ids = [disputed(device)[1].pk for _ in range(many)]
        with CaptureQueriesContext(connection) as counted:
            resolve_many(ids, "device", author=BOSS)
        counts.append(len(counted))
    assert counts[0] == counts[1]


def test_preview_tells_what_would_be_and_writes_nothing() -> None:
    device = TestDevice()
    (moved, first), (row, second) = disputed(device), disputed(device)
    Contact.objects.filter(pk=moved).update(first_name="Eve")
    previews = preview_many([first.pk, second.pk], "device")
    assert [preview.conflict.pk for preview in previews] == [first.pk, second.pk]
    assert [each.code for each in previews[0].errors] == ["moved"]
    assert (previews[1].before, previews[1].after) == ({"first_name": "Eva"}, {"first_name": "Ina"})
    assert not previews[1].deletes and not previews[1].creates
    assert (rev_of(row), Decision.objects.count(), Outcome.objects.count()) == (2, 0, 0)
    assert {preview.conflict.state for preview in previews} == {State.OPEN}
