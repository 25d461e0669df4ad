"""Undoing decisions puts back only what nobody has changed since; and a row can be made what it was at a revision."""

from uuid import uuid4

import pytest

from entities.models import Contact, Customer, Product
from sync.models import Conflict, Decision, Outcome
from sync.resolve import Invalid, RowMoved, resolve, resolve_many, undo
from sync.versions import restore_version, version_of
from tests.integration.conflict_support import BOSS, OTHER, conflict, disputed, reasons, rev_of, told
from tests.integration.sync_support import TestDevice, history, new_customer, sql

pytestmark = pytest.mark.django_db(transaction=True)
State = Conflict.State


# --- undo ---


def test_undo_puts_the_values_and_the_conflict_back_and_tells_the_device() -> None:
    device = TestDevice()
    row, found = disputed(device)
    decision = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    undone = undo([decision.pk], author=OTHER)
    assert [each.pk for each in undone.done] == [decision.pk] and not undone.kept
    assert Contact.objects.get(pk=row).first_name == "Eva"
    assert history(row)[-1][:3] == (4, "update", OTHER)
    decision.refresh_from_db()
    found.refresh_from_db()
    assert (decision.undone_by, found.state, found.decided_by, found.decided_at) == (OTHER, State.OPEN, "", None)
    assert list(Outcome.objects.order_by("number").values_list("outcome", "rev", "by")) == [
        ("device", 3, "boss"),
        ("open", 4, "other"),
    ]


def test_undo_leaves_what_somebody_changed_since_and_says_so() -> None:
    row, found = disputed(TestDevice())
    decision = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    Contact.objects.filter(pk=row).update(first_name="Eve")
    undone = undo([decision.pk], author=BOSS)
    assert [(e.field, e.code) for e in undone.kept[decision.pk]] == [("first_name", "moved")]
    assert Contact.objects.get(pk=row).first_name == "Eve"
    assert not Decision.objects.exclude(undone_at=None).exists()


def test_undo_puts_no_half_of_a_unit_back() -> None:
    device, rows = TestDevice(), []
    for _ in range(2):
        customer = new_customer(address="1 Road", city="X")
        server, sent = {"address": "1 Road", "city": "X"}, {"address": "1 Road", "city": "Y"}
        found = conflict(device, str(customer.pk), sent, server, entity="customer", fields=["address", "city"])
        rows.append((customer, resolve(found.pk, sent, rev=1, author=BOSS)))
    Customer.objects.filter(pk=rows[0][0].pk).update(address="2 Road")
    undone = undo([decision.pk for _, decision in rows], author=BOSS)
    assert reasons(undone.kept) == {rows[0][1].pk: ["moved"]}
    found_now = {each.pk: (each.address, each.city) for each in Customer.objects.all()}
    assert found_now == {rows[0][0].pk: ("2 Road", "Y"), rows[1][0].pk: ("1 Road", "X")}


def test_undo_keeps_what_others_changed_beside_it() -> None:
    row, found = disputed(TestDevice())
    decision = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    Contact.objects.filter(pk=row).update(phone="9")
    assert undo([decision.pk], author=BOSS).done
    assert Contact.objects.values_list("first_name", "phone").get(pk=row) == ("Eva", "9")


def test_undo_of_one_that_was_decided_anew_or_undone_is_refused() -> None:
    row, found = disputed(TestDevice())
    first = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    second = resolve(found.pk, {"first_name": "Una"}, rev=3, author=OTHER, seen=1)
    assert reasons(undo([first.pk], author=BOSS).kept) == {first.pk: ["decided_again"]}
    assert undo([second.pk], author=BOSS).done
    found.refresh_from_db()
    assert (Contact.objects.get(pk=row).first_name, found.state, found.decided_by) == ("Ina", State.DEVICE, BOSS)
    assert reasons(undo([second.pk], author=BOSS).kept) == {second.pk: ["already_undone"]}
    assert undo([first.pk], author=BOSS).done
    assert Contact.objects.get(pk=row).first_name == "Eva"


def test_undo_makes_a_page_that_was_shown_before_stale() -> None:
    _, found = disputed(TestDevice())
    decision = resolve(found.pk, {}, rev=2, author=BOSS)
    undo([decision.pk], author=BOSS)
    for seen in (0, 1):
        with pytest.raises(RowMoved):
            resolve(found.pk, {}, rev=2, author=BOSS, seen=seen)
    resolve(found.pk, {}, rev=2, author=BOSS, seen=2)


def test_undo_of_a_bulk_goes_back_through_the_decisions_of_one_row() -> None:
    device = TestDevice()
    row, first = disputed(device)
    second = conflict(TestDevice(), row, {"first_name": "Una"}, {"first_name": "Eva"})
    other, third = disputed(device)
    bulk = resolve_many([first.pk, second.pk, third.pk], "device", author=BOSS)
    Contact.objects.filter(pk=other).update(first_name="Eve")
    undone = undo(bulk.id, author=BOSS)
    assert {decision.conflict_id for decision in undone.done} == {first.pk, second.pk}
    assert list(undone.kept) == [d.pk for d in bulk.decided if d.conflict_id == third.pk]
    assert Contact.objects.get(pk=row).first_name == "Eva"


def test_undo_of_a_delete_brings_the_row_back_with_the_rows_that_went_with_it() -> None:
    customer = new_customer(code="7")
    child = Contact.objects.create(first_name="Ana", customer=customer)
    found = conflict(TestDevice(), str(customer.pk), {}, {"name": "C"}, op="delete", entity="customer")
    decision = resolve(found.pk, None, rev=1, author=BOSS)
    assert not Contact.objects.exists()
    assert undo([decision.pk], author=BOSS).done
    assert Customer.objects.get(pk=customer.pk).code == "7"
    assert Contact.objects.get(pk=child.pk).customer_id == customer.pk


def test_undo_of_a_delete_leaves_a_row_that_came_back_otherwise() -> None:
    row = str(Contact.objects.create(first_name="Ana").pk)
    found = conflict(TestDevice(), row, {}, {"first_name": "Ana"}, op="delete")
    decision = resolve(found.pk, None, rev=1, author=BOSS)
    Contact.objects.create(pk=row, first_name="New")
    assert reasons(undo([decision.pk], author=BOSS).kept) == {decision.pk: ["moved"]}
    assert Contact.objects.get(pk=row).first_name == "New"


def test_undo_takes_a_row_away_again_only_if_nobody_has_used_it() -> None:
    device = TestDevice()
    for spoil, kept in (
        (lambda row: None, None),
        (lambda row: Customer.objects.filter(pk=row).update(phone="1"), "moved"),
        (lambda row: Contact.objects.create(first_name="Ana", customer_id=row), "depended_on"),
    ):
        row = str(new_customer().pk)
        Customer.objects.filter(pk=row).delete()
        found = conflict(device, row, {"name": "D"}, None, entity="customer")
        decision = resolve(found.pk, {"name": "D"}, rev=2, author=BOSS)
        spoil(row)
        assert reasons(undo([decision.pk], author=BOSS).kept) == ({decision.pk: [kept]} if kept else {})
        assert Customer.objects.filter(pk=row).exists() == bool(kept)


def test_undo_asks_who_may() -> None:
    row, found = disputed(TestDevice())
    decision = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    assert reasons(undo([decision.pk], author=OTHER, allowed=lambda *_: False).kept) == {decision.pk: ["forbidden"]}
    assert Contact.objects.get(pk=row).first_name == "Ina"


# --- versions ---


def test_undo_of_a_delete_asks_who_may_of_the_rows_that_went_with_it_too() -> None:
    customer = new_customer(name="A")
    Contact.objects.create(first_name="Ana", customer=customer)
    found = conflict(TestDevice(), str(customer.pk), {}, {"name": "A"}, entity="customer", op="delete")
    decision = resolve(found.pk, None, rev=1, author=BOSS)
    kept = undo([decision.pk], author=OTHER, allowed=lambda about, *_: about.entity == "customer").kept
    assert reasons(kept) == {decision.pk: ["forbidden"]}
    assert (Customer.objects.count(), Contact.objects.count()) == (0, 0)


def test_version_is_the_row_as_it_was_at_each_revision() -> None:
    contact = Contact.objects.create(first_name="1")
    for name in ("2", "3"):
        Contact.objects.filter(pk=contact.pk).update(first_name=name)
    row_id = contact.pk
    contact.delete()
    Contact.objects.create(pk=row_id, first_name="5")
    names = []
    for rev in range(1, 6):
        row = version_of("contact", row_id, rev)
        names.append(row and row["first_name"])
    assert names == ["1", "2", "3", None, "5"]


def test_restore_makes_the_row_what_it_was_also_where_devices_may_not_write() -> None:
    product = Product.objects.create(code="A", name="A", unit_price="2", unit_cost="1")
    Product.objects.filter(pk=product.pk).update(code="B", name="B", unit_price="3", unit_cost="9")
    assert restore_version("product", product.pk, 1, rev=2, author=BOSS) == 3
    product.refresh_from_db()
    assert (product.code, product.name, str(product.unit_price), str(product.unit_cost)) == (
        "A",
        "A",
        "2.0000",
        "9.0000",
    )
    assert history(str(product.pk))[-1][:3] == (3, "update", BOSS)
    assert restore_version("product", product.pk, 1, rev=3, author=BOSS) == 3


def test_restore_leaves_a_counter_what_was_added_since() -> None:
    product = Product.objects.create(code="A", name="A", units_in_stock=10)
    Product.objects.filter(pk=product.pk).update(name="B", units_in_stock=7)
    assert restore_version("product", product.pk, 1, rev=2, author=BOSS) == 3
    product.refresh_from_db()
    assert (product.name, product.units_in_stock) == ("A", 7)


def test_restore_of_a_deleted_row_brings_back_its_hidden_columns() -> None:
    product = Product.objects.create(code="A", name="A", unit_cost="1.5")
    row = product.pk
    product.delete()
    assert restore_version("product", row, 1, rev=2, author=BOSS) == 3
    assert str(Product.objects.get(pk=row).unit_cost) == "1.5000"


def test_restore_refuses_a_stale_page_and_a_version_that_is_not_there() -> None:
    row = Contact.objects.create(first_name="1").pk
    Contact.objects.filter(pk=row).update(first_name="2")
    with pytest.raises(RowMoved):
        restore_version("contact", row, 1, rev=1, author=BOSS)
    for version in (0, 3):
        with pytest.raises(Invalid) as refused:
            restore_version("contact", row, version, rev=2, author=BOSS)
        assert told(refused) == [(None, "forgotten")]
    sql("DELETE FROM sync_history WHERE row_id = %s", [row])
    with pytest.raises(Invalid) as refused:
        restore_version("contact", row, 1, rev=2, author=BOSS)
    assert told(refused) == [(None, "forgotten")]
    with pytest.raises(Invalid):
        restore_version("nothing", uuid4(), 1, rev=2, author=BOSS)
    assert rev_of(str(row)) == 2


def test_restore_that_breaks_a_rule_is_refused() -> None:
    first = Product.objects.create(code="A", name="A")
    Product.objects.filter(pk=first.pk).update(code="B")
    Product.objects.create(code="A", name="A")
    with pytest.raises(Invalid) as refused:
        restore_version("product", first.pk, 1, rev=2, author=BOSS)
    assert told(refused) == [("code", "unique")]
