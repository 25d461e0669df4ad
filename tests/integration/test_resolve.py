"""Deciding a conflict: nothing newer is overwritten, nothing is torn, and nothing is decided twice."""

import threading
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F

from entities.models import Contact, Product
from sync.models import Conflict, Decision, Outcome
from sync.resolve import Invalid, RowMoved, resolve, resolve_many, stakes_of, undo
from tests.integration.conflict_support import BOSS, OTHER, a_line, conflict, disputed, outcomes, rev_of, told
from tests.integration.sync_support import TestDevice, history, new_customer, other_connection, update

pytestmark = pytest.mark.django_db(transaction=True)
State = Conflict.State


# --- what is at stake ---


def test_stakes_show_each_side_and_the_row_as_it_is_now() -> None:
    row, found = disputed(TestDevice())
    Contact.objects.filter(pk=row).update(first_name="Eve")
    stakes = stakes_of(found)
    assert (stakes.names, set(stakes.disputed)) == (["first_name"], {"first_name"})
    assert (stakes.base, stakes.device) == ({"first_name": "Ana"}, {"first_name": "Ina"})
    assert (stakes.server, stakes.server_then) == ({"first_name": "Eve"}, {"first_name": "Eva"})
    assert (stakes.rev, stakes.seen, stakes.row_deleted) == (3, 0, False)


def test_stakes_of_an_entity_that_is_no_longer_declared_are_none() -> None:
    found = conflict(TestDevice(), str(uuid4()), {"a": 1}, {"a": 2}, entity="gone")
    assert stakes_of(found).names == []
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"a": 1}, rev=0, author=BOSS)
    assert told(refused) == [(None, "unknown_entity")]


def test_stakes_never_show_a_hidden_field() -> None:
    product = Product.objects.create(code="A", name="A", unit_cost="7")
    found = conflict(TestDevice(), str(product.pk), {}, {"name": "A", "unit_cost": "7"}, op="delete", entity="product")
    stakes = stakes_of(found)
    assert stakes.names == ["name"]
    assert stakes.server == stakes.server_then == {"name": "A"}


# --- one decision ---


def test_decision_for_the_device_is_a_new_revision_that_devices_pull() -> None:
    device = TestDevice()
    row, found = disputed(device)
    device.pull()
    decision = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS, comment="She rang")
    assert (decision.state, decision.rev, decision.comment) == (State.DEVICE, 3, "She rang")
    assert (decision.before, decision.after) == ({"first_name": "Eva"}, {"first_name": "Ina"})
    assert history(row)[-1][:3] == (3, "update", BOSS)
    device.pull()
    assert device.of("contact")[row]["first_name"] == "Ina"
    found.refresh_from_db()
    assert (found.state, found.decided_by) == (State.DEVICE, BOSS)
    assert outcomes(device) == [("device", 3, "boss")]


def test_decision_about_a_pushed_conflict_leaves_what_was_merged_beside_it() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    Contact.objects.filter(pk=row).update(first_name="Eva")
    assert device.statuses(update(row, 1, first_name="Ina", phone="5")) == ["conflict"]
    found = Conflict.objects.get()
    stakes = stakes_of(found)
    assert (stakes.names, stakes.contested, found.state) == (["first_name", "phone"], ["first_name"], State.OPEN)
    Contact.objects.filter(pk=row).update(phone="6")  # newer than the device's, which nobody disputed
    resolve_many([found.pk], "device", author=BOSS)
    assert Contact.objects.values_list("first_name", "phone").get(pk=row) == ("Ina", "6")


def test_decision_about_a_pushed_edit_of_a_deleted_row_adds_its_amounts_once() -> None:
    device = TestDevice()
    product = Product.objects.create(code="A", name="A", units_in_stock=3)
    row = str(product.pk)
    product.delete()
    sent = update(row, 1, "product", name="B") | {"add": {"units_in_stock": 4}}
    assert device.statuses(sent) == ["conflict"]
    found = Conflict.objects.get()
    resolve_many([found.pk], "device", author=BOSS)
    resolve_many([found.pk], "device", author=BOSS)
    assert Product.objects.get(pk=row).units_in_stock == 7


@pytest.mark.parametrize("deleted", [True, False])
@pytest.mark.parametrize("undone", [True, False])
def test_decision_that_is_overturned_or_undone_takes_its_amounts_along(deleted: bool, undone: bool) -> None:
    device, product = TestDevice(), Product.objects.create(code="A", name="A", units_in_stock=3)
    row, mine = str(product.pk), Product.objects.filter(pk=product.pk)
    mine.update(name="C")
    if deleted:
        mine.delete()
    sent = update(row, 1, "product", name="B") | {"add": {"units_in_stock": 4}, "group": str(uuid4())}
    assert device.statuses(sent) == ["conflict"]
    ids = [Conflict.objects.get().pk]
    bulk = resolve_many(ids, "device", author=BOSS)
    assert mine.get().units_in_stock == 7
    if undone:
        undo(bulk.id, author=BOSS)
    else:
        resolve_many(ids, "server", author=BOSS)
    assert list(mine.values_list("units_in_stock", flat=True)) == ([] if deleted else [3])
    resolve_many(ids, "device", author=BOSS)
    assert mine.get().units_in_stock == 7


def test_decision_that_is_overturned_keeps_what_others_added_meanwhile() -> None:
    device, product = TestDevice(), Product.objects.create(code="A", name="A", units_in_stock=3)
    mine = Product.objects.filter(pk=product.pk)
    mine.update(name="C")
    sent = update(str(product.pk), 1, "product", name="B") | {"add": {"units_in_stock": 4}, "group": str(uuid4())}
    assert device.statuses(sent) == ["conflict"]
    stock = []
    for side in ("device", "server", "device"):
        mine.update(units_in_stock=F("units_in_stock") + 10)
        assert not resolve_many([Conflict.objects.get().pk], side, author=BOSS).refused
        stock.append(mine.get().units_in_stock)
    assert stock == [17, 23, 37]


def test_decision_for_the_server_writes_no_revision() -> None:
    device = TestDevice()
    row, found = disputed(device)
    decision = resolve(found.pk, {}, rev=2, author=BOSS)
    assert (decision.state, decision.rev, decision.before, decision.after) == (State.SERVER, 2, {}, {})
    assert rev_of(row) == 2
    assert outcomes(device) == [("server", 2, "boss")]


def test_decision_of_some_of_each_or_of_other_values_is_mixed() -> None:
    device = TestDevice()
    _, found = disputed(device)
    assert resolve(found.pk, {"first_name": "Eva Ina"}, rev=2, author=BOSS).state == State.MIXED
    contact = Contact.objects.create(first_name="Eva", phone="2")
    both = conflict(device, str(contact.pk), {"first_name": "Ina", "phone": "3"}, {"first_name": "Eva", "phone": "2"})
    decision = resolve(both.pk, {"first_name": "Ina"}, rev=1, author=BOSS)
    contact.refresh_from_db()
    assert (decision.state, contact.first_name, contact.phone) == (State.MIXED, "Ina", "2")


def test_decision_on_a_stale_page_is_refused_and_writes_nothing() -> None:
    row, found = disputed(TestDevice())
    Contact.objects.filter(pk=row).update(phone="2")
    with pytest.raises(RowMoved) as moved:
        resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    assert moved.value.now.rev == 3
    assert moved.value.now.row is not None and moved.value.now.row["phone"] == "2"
    assert rev_of(row) == 3
    assert not Decision.objects.exists() and not Outcome.objects.exists()


def test_decision_with_an_invalid_value_is_refused_with_its_field() -> None:
    row, found = disputed(TestDevice(), device_values={"set": {"first_name": "Ina", "email": "x"}})
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"first_name": "", "email": "nobody"}, rev=2, author=BOSS)
    assert sorted(told(refused), key=str) == [("first_name", "invalid_value")]
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"email": "nobody"}, rev=2, author=BOSS)
    assert told(refused) == [("email", "invalid_value")]
    assert (rev_of(row), Decision.objects.count()) == (2, 0)


def test_decision_that_the_database_refuses_tells_the_field() -> None:
    line = a_line()
    found = conflict(
        TestDevice(), str(line.pk), {"order_id": "x"}, {"order_id": str(line.order_id)}, entity="order_line"
    )
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"order_id": str(uuid4())}, rev=1, author=BOSS)
    assert told(refused) == [("order_id", "missing_reference")]


def test_decision_about_a_field_that_is_not_at_stake_is_refused() -> None:
    _, found = disputed(TestDevice())
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"phone": "9"}, rev=2, author=BOSS)
    assert told(refused) == [("phone", "not_at_stake")]


def test_decision_changes_no_field_that_devices_may_not_write() -> None:
    product = Product.objects.create(code="A", name="A")
    found = conflict(TestDevice(), str(product.pk), {}, {"code": "A", "name": "A"}, op="delete", entity="product")
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"code": "B"}, rev=1, author=BOSS)
    assert told(refused) == [("code", "read_only_field")]


def test_decision_with_half_a_character_is_refused() -> None:
    _, found = disputed(TestDevice())
    for value in ("\ud800", "\x00"):
        with pytest.raises(Invalid):
            resolve(found.pk, {"first_name": value}, rev=2, author=BOSS)


def test_decision_about_half_of_a_unit_is_refused() -> None:
    customer = new_customer(name="A", address="1 Road", city="X")
    base, server = {"address": "0 Road", "city": "W"}, {"address": "1 Road", "city": "X"}
    found = conflict(TestDevice(), str(customer.pk), {"city": "Y"}, server, base,
                     entity="customer", fields=["address", "city"])  # fmt: skip
    with pytest.raises(Invalid) as refused:
        resolve(found.pk, {"city": "Y"}, rev=1, author=BOSS)
    assert told(refused) == [("address", "unit_apart")]
    assert resolve(found.pk, {"city": "Y", "address": "0 Road"}, rev=1, author=BOSS).state == State.DEVICE


def test_automatic_decision_can_be_overturned_by_who_saw_it() -> None:
    row, found = disputed(TestDevice(), state="server")
    first = resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    assert (first.state_before, first.state) == (State.SERVER, State.DEVICE)
    second = resolve(found.pk, {"first_name": "Eva"}, rev=3, author=OTHER, seen=1)
    assert (second.state_before, second.state) == (State.DEVICE, State.SERVER)
    assert Contact.objects.get(pk=row).first_name == "Eva"


@pytest.mark.parametrize("values", [{}, {"first_name": "Ina"}])
def test_two_people_decide_only_once_about_what_both_saw(values: dict[str, str]) -> None:
    _, found = disputed(TestDevice())
    done: list[object] = []

    def decide(author: str) -> None:
        try:
            done.append(resolve(found.pk, values, rev=2, author=author))
        except RowMoved as moved:
            done.append(moved)
        finally:
            connection.close()

    threads = [threading.Thread(target=decide, args=[author]) for author in (BOSS, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(each).__name__ for each in done) == ["Decision", "RowMoved"]
    assert Decision.objects.count() == Outcome.objects.count() == 1


@pytest.mark.slow
def test_decision_waits_for_a_writer_and_then_sees_that_the_row_has_moved() -> None:
    row, found = disputed(TestDevice())
    seen: list[BaseException | None] = []

    def decide() -> None:
        try:
            resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
        except RowMoved as moved:
            seen.append(moved)
        finally:
            connection.close()

    with other_connection() as writer:
        writer.execute("UPDATE entities_contact SET phone = '7' WHERE id = %s", [row])
        thread = threading.Thread(target=decide)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        writer.commit()
    thread.join()
    assert isinstance(seen[0], RowMoved)
    assert Contact.objects.get(pk=row).phone == "7"


def test_push_of_the_device_during_a_decision_neither_loses_nor_is_lost() -> None:
    device = TestDevice()
    row, found = disputed(device)
    results: list[Any] = []

    def decide() -> None:
        try:
            results.append(resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS))
        except RowMoved as moved:
            results.append(moved)
        finally:
            connection.close()

    thread = threading.Thread(target=decide)
    thread.start()
    status = device.statuses(update(row, 2, phone="8"))
    thread.join()
    now = Contact.objects.get(pk=row)
    if isinstance(results[0], Decision):
        assert now.first_name == "Ina"
    else:
        assert now.first_name == "Eva"
    assert (now.phone == "8") or status == ["conflict"]
