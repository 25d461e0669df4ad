"""What was refused is mended and replayed as if it were pushed now, and nothing of it is lost, torn or done twice."""

import json
import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from entities.models import Contact, Customer, Order, OrderLine, Product
from sync.amend import Invalid
from sync.models import Conflict, Outcome, Rejection
from sync.quarantine import Replayed, discard, replay
from sync.resolve import resolve, stakes_of
from sync.together import waiting_with
from tests.integration.conflict_support import BOSS, OTHER, told
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    create,
    delete,
    employee,
    history,
    new_customer,
    new_id,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)


def refused(device: TestDevice, *mutations: dict[str, Any]) -> list[Rejection]:
    """Push what is refused; the rejections in the order of the mutations."""
    device.push(*mutations)
    found = {str(each.mutation): each for each in Rejection.objects.all()}
    return [found[mutation["id"]] for mutation in mutations if mutation["id"] in found]


def outcomes(device: TestDevice) -> list[tuple[str, str, int | None]]:
    found = Outcome.objects.filter(device=device.device.id).order_by("number")
    return [(str(mutation), outcome, rev) for mutation, outcome, rev in found.values_list("mutation", "outcome", "rev")]


def statuses(replayed: list[Replayed]) -> list[str]:
    return [each.status for each in replayed]


def line_of(order: str, product: str, **values: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"order_id": order, "product_id": product, "unit_price": "1", "quantity": 1} | values
    return create("order_line", **given)


# --- one mutation ---


def test_replay_with_a_mended_value_writes_the_row_and_tells_the_device() -> None:
    device = TestDevice()
    made = create(first_name="Ana", email="nobody")
    (rejection,) = refused(device, made)
    (done,) = replay(rejection.pk, {"first_name": "Ana", "email": "a@b.com"}, author=BOSS, comment="typo")
    assert (done.status, done.rev) == ("applied", 1)
    assert Contact.objects.get(pk=made["row"]).email == "a@b.com"
    assert history(made["row"])[0][:3] == (1, "insert", BOSS)
    rejection.refresh_from_db()
    assert (rejection.state, rejection.decided_by, rejection.comment, rejection.rev) == ("replayed", BOSS, "typo", 1)
    assert rejection.mended == {"first_name": "Ana", "email": "a@b.com"}
    assert '"nobody"' in rejection.body
    assert outcomes(device) == [(made["id"], "replayed", 1)]
    device.pull()
    assert device.of("contact")[made["row"]]["email"] == "a@b.com"


def test_replay_with_a_bad_value_tells_its_field_and_leaves_everything_as_it_was() -> None:
    device = TestDevice()
    made = create(first_name="Ana", email="nobody")
    (rejection,) = refused(device, made)
    before = Rejection.objects.values().get()
    for mended, errors in (
        (None, [("email", "invalid_value")]),
        ({"first_name": "", "email": "x"}, [("first_name", "invalid_value")]),
        ({"first_name": "A", "hat": 1}, [("hat", "unknown_field")]),
        ({"email": "a@b.com"}, [("first_name", "required")]),
        ({"first_name": "\x00"}, [("first_name", "invalid_value")]),
        ({"first_name": "\ud800"}, [(None, "invalid_value")]),
    ):
        with pytest.raises(Invalid) as why:
            replay(rejection.pk, mended, author=BOSS)
        assert told(why) == errors
    assert Rejection.objects.values().get() == before
    assert not Contact.objects.exists() and not Outcome.objects.exists()


def test_replay_is_done_once_even_by_two_people_at_once() -> None:
    device = TestDevice()
    product = Product.objects.create(code="A", name="A")
    (rejection,) = refused(device, update(str(product.pk), 1, "product", name="") | {"add": {"units_in_stock": 5}})
    done: list[Any] = []

    def go(author: str) -> None:
        try:
            done.append(replay(rejection.pk, {"name": "B"}, author=author))
        except Invalid as invalid:
            done.append(invalid.errors[0].code)
        finally:
            connection.close()

    threads = [threading.Thread(target=go, args=[author]) for author in (BOSS, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each for each in done if isinstance(each, str)] == ["decided"]
    product.refresh_from_db()
    assert (product.name, product.units_in_stock) == ("B", 5)


def test_replayed_mutation_that_the_device_sends_again_is_not_applied_again() -> None:
    device = TestDevice()
    made = create(first_name="")
    (rejection,) = refused(device, made)
    replay(rejection.pk, {"first_name": "Ana"}, author=BOSS)
    assert device.statuses(made) == ["rejected"]
    assert (Contact.objects.count(), Rejection.objects.count()) == (1, 1)


def test_replay_goes_beyond_the_devices_scopes_but_not_beyond_what_devices_may_write() -> None:
    who = employee(1)
    device = TestDevice(*SHARED, f"employee:{who}")
    customer = new_customer()
    other = employee(2)
    made = create("order", customer_id=str(customer.pk), employee_id=other, ordered_on="2026-11-21")
    (rejection,) = refused(device, made)
    assert rejection.cause in {"forbidden_scope", "missing_reference"}
    assert statuses(replay(rejection.pk, None, author=BOSS)) == ["applied"]
    assert Order.objects.get().employee_id == UUID(other)
    (priced,) = refused(device, create("product", name="P", unit_price="3"))
    with pytest.raises(Invalid) as why:
        replay(priced.pk, {"name": "P", "unit_price": "3"}, author=BOSS)
    assert ("unit_price", "read_only_field") in told(why)


def test_replay_of_an_amount_for_what_is_no_counter_takes_the_mended_value() -> None:
    product = Product.objects.create(code="A", name="A")
    bad = update(str(product.pk), 1, "product") | {"add": {"reorder_level": 2, "units_in_stock": 1}}
    (rejection,) = refused(TestDevice(), bad)
    replay(rejection.pk, {"reorder_level": 2}, author=BOSS)
    product.refresh_from_db()
    assert (product.reorder_level, product.units_in_stock) == (2, 1)


# --- what changed since ---


def test_replay_is_merged_with_what_others_changed_since() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    (rejection,) = refused(device, update(row, 1, first_name="Ina", email="x"))
    Contact.objects.filter(pk=row).update(phone="7")
    assert statuses(replay(rejection.pk, {"first_name": "Ina", "email": "a@b.com"}, author=BOSS)) == ["merged"]
    assert Contact.objects.values_list("first_name", "email", "phone").get(pk=row) == ("Ina", "a@b.com", "7")


def test_replay_that_meets_a_conflict_keeps_it_as_one_of_the_device() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    sent = update(row, 1, first_name="Ina", email="x")
    (rejection,) = refused(device, sent)
    Contact.objects.filter(pk=row).update(first_name="Eva")
    (done,) = replay(rejection.pk, {"first_name": "Ina", "email": "a@b.com"}, author=BOSS)
    found = Conflict.objects.get()
    assert (done.status, done.conflict) == ("conflict", found.pk)
    assert (str(found.mutation), found.device, found.state) == (sent["id"], device.device.id, "open")
    rejection.refresh_from_db()
    assert (rejection.state, rejection.conflict) == ("replayed", found.pk)
    assert Contact.objects.values_list("first_name", "email").get(pk=row) == ("Eva", "a@b.com")
    resolve(found.pk, {"first_name": "Ina"}, rev=stakes_of(found).rev, author=BOSS)
    assert [outcome for _, outcome, _ in outcomes(device)] == ["open", "device"]
    assert {mutation for mutation, *_ in outcomes(device)} == {sent["id"]}


def test_replay_is_of_the_time_when_the_device_made_it() -> None:
    who = employee(1)
    device = TestDevice(*SHARED, f"employee:{who}")
    customer = new_customer()
    order = Order.objects.create(customer=customer, employee_id=who, ordered_on="2026-11-21", number="1")
    # The device's clock is a day fast: by it, the change was made later than everything that follows.
    now = timezone.now()
    day, hour = timedelta(days=1), timedelta(hours=1)
    gone = new_id()
    sent = update(str(order.pk), 1, "order", note="device", customer_id=gone) | {
        "made_at": (now + day - hour).isoformat()
    }
    device.send({"sent_at": (now + day).isoformat(), "mutations": [sent]})
    Order.objects.filter(pk=order.pk).update(note="office")
    rejection = Rejection.objects.get()
    assert rejection.cause == "missing_reference"
    new_customer(pk=gone, name="D")
    (done,) = replay(rejection.pk, None, author=BOSS)
    order.refresh_from_db()
    assert (done.status, order.note, str(order.customer_id)) == ("conflict", "office", gone)


def test_replay_does_not_bring_back_what_the_device_itself_has_changed_since() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    (rejection,) = refused(device, update(row, 1, first_name="Ina", email="x"))
    assert device.statuses(update(row, 1, first_name="Una")) == ["applied"]
    (done,) = replay(rejection.pk, {"first_name": "Ina", "email": "a@b.com"}, author=BOSS)
    assert (done.status, done.overtaken) == ("applied", ("first_name",))
    assert Contact.objects.values_list("first_name", "email").get(pk=row) == ("Una", "a@b.com")
    assert not Conflict.objects.exists()


def test_replay_of_an_edit_of_an_own_row_that_had_no_base_meets_no_conflict() -> None:
    device, made = TestDevice(), create(first_name="Ana")
    bad = update(made["row"], None, email="x")
    (rejection,) = refused(device, made, bad)
    assert statuses(replay(rejection.pk, {"email": "a@b.com"}, author=BOSS)) == ["applied"]


# --- what waited for it ---


def test_replay_of_a_parent_replays_what_waited_for_it_in_order() -> None:
    device = TestDevice()
    customer = create("customer", name="")
    child = create(first_name="Ana", customer_id=customer["row"])
    named, called = update(child["row"], None, last_name="1"), update(child["row"], None, last_name="2")
    other = create(first_name="", customer_id=customer["row"])
    rejections = refused(device, customer, child, named, called, other)
    assert len(rejections) == 5
    assert waiting_with(rejections[0]) == rejections[:4]
    done = replay(rejections[0].pk, {"name": "C"}, author=BOSS)
    assert statuses(done) == ["applied"] * 4
    contact = Contact.objects.get()
    assert (contact.last_name, str(contact.customer_id)) == ("2", customer["row"])
    assert [mutation for mutation, *_ in outcomes(device)] == [m["id"] for m in (customer, child, named, called)]
    rejections[4].refresh_from_db()
    assert rejections[4].state == "open"


def test_replay_leaves_waiting_what_is_refused_again_with_the_new_reason() -> None:
    device = TestDevice()
    Product.objects.create(code="A", name="A")
    customer = create("customer", name="")
    child = create(first_name="Ana", customer_id=customer["row"])
    gone = create("order", customer_id=customer["row"], employee_id=new_id(), ordered_on="2026-11-21")
    rejections = refused(device, customer, child, gone)
    done = replay(rejections[0].pk, {"name": "C"}, author=BOSS)
    assert statuses(done) == ["applied", "applied", "rejected"]
    rejections[2].refresh_from_db()
    assert (rejections[2].state, rejections[2].errors[0]["field"]) == ("open", "employee_id")
    assert Rejection.objects.count() == 3


def test_replay_leaves_what_was_refused_for_another_reason_to_a_decision_of_its_own() -> None:
    device, made = TestDevice(), create(first_name="")
    later = update(made["row"], None, email="x")
    rejections = refused(device, made, later)
    assert waiting_with(rejections[0]) == rejections[:1]


def test_replay_of_one_device_touches_nothing_of_another() -> None:
    device, other = TestDevice(), TestDevice()
    customer = create("customer", name="")
    (rejection,) = refused(device, customer)
    refused(other, create(first_name="Ana", customer_id=customer["row"]))
    assert statuses(replay(rejection.pk, {"name": "C"}, author=BOSS)) == ["applied"]


# --- groups ---


def grouped() -> tuple[TestDevice, list[dict[str, Any]], list[Rejection]]:
    who = employee(1)
    device = TestDevice(*SHARED, f"employee:{who}")
    customer = new_customer()
    product = Product.objects.create(code="A", name="A")
    order = create("order", customer_id=str(customer.pk), employee_id=who, ordered_on="2026-11-21")
    lines = [line_of(order["row"], str(product.pk), quantity=n) for n in (1, 0)]
    group = new_id()
    mutations = [mutation | {"group": group} for mutation in (order, *lines)]
    return device, mutations, refused(device, *mutations)


def test_replay_of_a_group_is_all_or_nothing() -> None:
    _, _, rejections = grouped()
    assert [each.cause for each in rejections] == ["group_failed", "group_failed", "invalid_value"]
    with pytest.raises(Invalid) as why:
        replay(rejections[0].pk, None, author=BOSS)
    assert told(why) == [("quantity", "invalid_value")]
    assert not Order.objects.exists()
    mended = _sent(rejections[2]) | {"quantity": 3}
    assert statuses(replay(rejections[2].pk, mended, author=BOSS)) == ["applied"] * 3
    assert sorted(OrderLine.objects.values_list("quantity", flat=True)) == [1, 3]


def test_replay_of_a_group_waits_for_the_decision_of_its_conflict() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    Contact.objects.filter(pk=row).update(first_name="Eva")
    group = new_id()
    made = create(first_name="New") | {"group": group}
    (rejection,) = refused(device, update(row, 1, first_name="Ina") | {"group": group}, made)
    with pytest.raises(Invalid) as why:
        replay(rejection.pk, None, author=BOSS)
    assert told(why) == [(None, "group_in_conflict")]
    found = Conflict.objects.get()
    resolve(found.pk, {"first_name": "Ina"}, rev=2, author=BOSS)
    assert statuses(replay(rejection.pk, None, author=BOSS)) == ["applied"]


def test_replay_of_a_group_that_meets_a_conflict_writes_nothing_and_leaves_the_rest_waiting() -> None:
    device = TestDevice()
    row = str(Contact.objects.create(first_name="Ana").pk)
    group = new_id()
    edit = update(row, 1, first_name="Ina") | {"group": group}
    made = create(first_name="") | {"group": group}
    rejections = refused(device, edit, made)
    Contact.objects.filter(pk=row).update(first_name="Eva")
    done = replay(rejections[1].pk, {"first_name": "New"}, author=BOSS)
    assert statuses(done) == ["conflict", "rejected"]
    assert set(Contact.objects.values_list("first_name", flat=True)) == {"Eva"}
    for each in rejections:
        each.refresh_from_db()
    assert [each.state for each in rejections] == ["replayed", "open"]


def _sent(rejection: Rejection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rejection.body)["set"]
    return found


# --- who may, and discarding ---


def test_replay_asks_who_may_and_leaves_out_what_they_may_not() -> None:
    device = TestDevice()
    customer = create("customer", name="")
    child = create(first_name="Ana", customer_id=customer["row"])
    parent, waiting = refused(device, customer, child)
    with pytest.raises(Invalid) as why:
        replay(parent.pk, {"name": "C"}, author=BOSS, allowed=lambda each: each.entity == "contact")
    assert told(why) == [(None, "forbidden")]
    replay(parent.pk, {"name": "C"}, author=BOSS, allowed=lambda each: each.entity == "customer")
    waiting.refresh_from_db()
    assert (waiting.state, Contact.objects.count()) == ("open", 0)


def test_discard_leaves_no_half_of_a_group_to_be_replayed() -> None:
    device, group = TestDevice(), new_id()
    bad, good = create(first_name="A", email="x") | {"group": group}, create(first_name="B") | {"group": group}
    first, second = refused(device, bad, good)
    with pytest.raises(Invalid):
        discard([first.pk], author=BOSS, comment="no", allowed=lambda each: each.pk == first.pk)
    assert discard([first.pk], author=BOSS, comment="no") == 2
    with pytest.raises(Invalid):
        replay(second.pk, None, author=BOSS)
    assert not Contact.objects.exists()


def test_discard_needs_a_comment_is_told_and_ends_it() -> None:
    device = TestDevice()
    bad = create(first_name="")
    (rejection,) = refused(device, bad)
    with pytest.raises(Invalid) as why:
        discard([rejection.pk], author=BOSS, comment=" ")
    assert told(why) == [("comment", "required")]
    assert discard([rejection.pk, uuid4()], author=BOSS, comment="a test") == 1
    assert discard([rejection.pk], author=BOSS, comment="again") == 0
    assert outcomes(device) == [(bad["id"], "discarded", None)]
    with pytest.raises(Invalid) as why:
        replay(rejection.pk, {"first_name": "Ana"}, author=BOSS)
    assert told(why) == [(None, "decided")]
    rejection.refresh_from_db()
    assert (rejection.comment, rejection.state) == ("a test", "discarded")


def test_replay_of_what_names_no_entity_tells_so() -> None:
    (rejection,) = refused(TestDevice(), {**create(), "entity": "hat"})
    with pytest.raises(Invalid) as why:
        replay(rejection.pk, None, author=BOSS)
    assert told(why) == [(None, "unknown_entity")]
    with pytest.raises(Rejection.DoesNotExist):
        replay(uuid4(), None, author=BOSS)


def test_replay_of_a_delete_of_a_row_that_others_need_is_refused() -> None:
    customer = new_customer()
    order = Order.objects.create(customer=customer, ordered_on="2026-11-21")
    (rejection,) = refused(TestDevice(), delete(str(customer.pk), 1, "customer"))
    with pytest.raises(Invalid) as why:
        replay(rejection.pk, None, author=BOSS)
    assert told(why) == [(None, "protected")]
    order.delete()
    (done,) = replay(rejection.pk, None, author=BOSS)
    assert (done.status, done.rev, Customer.objects.count()) == ("applied", None, 0)
