"""Changes that meet others' changes, through the whole of push: U10 of `docs/protocol.md`.

Every cell of the merge itself is in tests/unit/test_merge_table.py; here is what is read and written around it.
"""

import threading
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.utils import timezone

from entities.models import Contact, Customer, Order, Product
from sync import candidates, push
from sync.models import Conflict
from sync.rules import rules_of
from sync.wire import Entity
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    create,
    delete,
    employee,
    history,
    new_customer,
    order,
    sql,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)


def contact(**values: Any) -> str:
    return str(Contact.objects.create(**{"first_name": "base", **values}).pk)


def product(**values: Any) -> str:
    return str(Product.objects.create(code="1", name="Chai", **values).pk)


def record(row: str) -> tuple[str, list[str], Any, Any]:
    found = Conflict.objects.get(row_id=row)
    return found.state, found.fields, found.base, found.server


@pytest.mark.protocol("U10")
def test_push_merges_different_fields_and_answers_with_the_row_as_it_is() -> None:
    row = contact(phone="1")
    Contact.objects.filter(pk=row).update(phone="2")
    (result,) = TestDevice().push(update(row, 1, title="Dr."))
    assert (result["status"], result["rev"]) == ("merged", 3)
    assert {name: result["row"][name] for name in ("phone", "title", "_rev")} == {
        "phone": "2",
        "title": "Dr.",
        "_rev": 3,
    }
    assert not Conflict.objects.exists()


@pytest.mark.protocol("U10")
def test_push_writes_what_is_not_in_dispute_beside_what_is() -> None:
    row = contact(phone="1")
    Contact.objects.filter(pk=row).update(phone="2")
    (result,) = TestDevice().push(update(row, 1, phone="3", title="Dr."))
    assert (result["status"], result["row"]["phone"], result["row"]["title"]) == ("conflict", "2", "Dr.")
    assert record(row) == ("open", ["phone"], {"phone": "1", "title": ""}, {"phone": "2", "title": ""})


@pytest.mark.protocol("U10")
def test_push_takes_the_same_value_as_no_conflict_and_writes_nothing() -> None:
    row = contact()
    Contact.objects.filter(pk=row).update(phone="2")
    (result,) = TestDevice().push(update(row, 1, phone="2"))
    assert (result["status"], result["rev"], len(history(row))) == ("merged", 2, 2)


@pytest.mark.protocol("U10")
def test_push_field_policy_and_unit_decide_together() -> None:
    row = str(new_customer(address="Obere Str. 57", city="Berlin", fax="1").pk)
    Customer.objects.filter(pk=row).update(city="Bonn", fax="2")
    (result,) = TestDevice().push(update(row, 1, "customer", address="Am Markt 1", fax="3"))
    shown = {name: result["row"][name] for name in ("address", "city", "fax")}
    assert (result["status"], shown) == ("conflict", {"address": "Obere Str. 57", "city": "Bonn", "fax": "3"})
    state, fields, base, server = record(row)
    assert (state, sorted(fields)) == ("mixed", ["address", "city", "country", "fax", "postal_code", "region"])
    assert (base["city"], server["city"], base["fax"], server["fax"]) == ("Berlin", "Bonn", "1", "2")
    assert Conflict.objects.get().policy == "device_wins + server_wins"


@pytest.mark.protocol("U10")
def test_push_function_of_the_deployment_decides_and_asks_a_person_where_it_cannot() -> None:
    rows = [contact(note="base") for _ in range(2)]
    notes = ["from the office", "o" * 9_000]
    for row, note in zip(rows, notes, strict=True):
        Contact.objects.filter(pk=row).update(note=note)
    results = TestDevice().push(*(update(row, 1, note="d" * 2_000) for row in rows))
    assert [result["status"] for result in results] == ["merged", "conflict"]
    assert results[0]["row"]["note"] == "from the office\n" + "d" * 2_000
    assert [record(row)[0] for row in rows] == ["mixed", "open"]


@pytest.mark.protocol("U10")
@pytest.mark.parametrize("answer", [{"first_name": 1}, {"first_name": "x" * 61}, {"phone": "1"}, "text", None])
def test_push_function_that_fails_leaves_the_dispute_to_a_person(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def bad(*_: Any) -> Any:
        if answer is None:
            raise RuntimeError("broken")
        return answer

    with_policy(monkeypatch, "contact", first_name=bad)
    row = contact()
    Contact.objects.filter(pk=row).update(first_name="server")
    (result,) = TestDevice().push(update(row, 1, first_name="device"))
    assert (result["status"], record(row)[0]) == ("conflict", "open")


def test_push_function_that_writes_into_what_it_is_given_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def into_the_server(_base: Any, server: Any, device: Any) -> Any:
        server["first_name"] += f" {device['first_name']}"
        device["first_name"] = server["first_name"]
        return server

    with_policy(monkeypatch, "contact", first_name=into_the_server)
    row = contact()
    Contact.objects.filter(pk=row).update(first_name="server")
    (result,) = TestDevice().push(update(row, 1, first_name="device"))
    assert (result["status"], result["state"], result["row"]["first_name"]) == ("merged", "mixed", "server device")
    assert record(row)[3] == {"first_name": "server"}


def test_push_function_that_asks_the_database_leaves_the_dispute_to_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    with_policy(monkeypatch, "contact", first_name=lambda *_: sql("SELECT nothing FROM nowhere"))
    row = contact()
    Contact.objects.filter(pk=row).update(first_name="server")
    assert TestDevice().statuses(update(row, 1, first_name="device"), create()) == ["conflict", "applied"]
    assert record(row)[0] == "open"


def with_policy(monkeypatch: pytest.MonkeyPatch, entity: str, delete: str | None = None, **policies: Any) -> None:
    """Merge an entity by other policies than it declares."""

    def changed(found: Entity) -> Any:
        rules_of.cache_clear()
        rules = rules_of(found)
        if found.name == entity:
            guarded = {name: _guarded(found, policy) for name, policy in policies.items()}
            rules = msgspec.structs.replace(
                rules, policies={**rules.policies, **guarded}, delete=delete or rules.delete
            )
        return rules

    monkeypatch.setattr(candidates, "rules_of", changed)


def _guarded(entity: Entity, policy: Any) -> Any:
    from sync import rules

    return policy if isinstance(policy, str) else rules._guarded(entity, policy)


@pytest.mark.protocol("U10")
@pytest.mark.parametrize("together", [True, False])
def test_push_later_edit_does_not_overwrite_what_a_function_mixed_in_unseen(together: bool) -> None:
    device, row = TestDevice(), contact(note="")
    Contact.objects.filter(pk=row).update(note="office")
    edits = [update(row, 1, note="device", title="Dr."), update(row, 1, note="device, later", title="Prof.")]
    for batch in [edits] if together else [[edit] for edit in edits]:
        assert set(device.statuses(*batch)) == {"merged"}
    found = Contact.objects.get()
    assert (found.note, found.title) == ("office\ndevice\ndevice, later", "Prof.")


# --- latest_wins ---


def note(row: str, text: str, made_at: str | None) -> dict[str, Any]:
    return update(row, 1, "order", note=text) | ({"made_at": made_at} if made_at else {})


def at(**ago: float) -> str:
    return (timezone.now() - timedelta(**ago)).isoformat()


@pytest.mark.protocol("U10")
def test_push_latest_wins_compares_when_both_were_made_and_not_when_they_came() -> None:
    who = employee(1)
    row = str(order(who).pk)
    first, second = TestDevice(*SHARED, f"employee:{who}"), TestDevice(*SHARED, f"employee:{who}")
    assert first.statuses(note(row, "made at three", at(hours=3))) == ["applied"]
    assert second.statuses(note(row, "made at two", at(hours=2))) == ["merged"]
    assert first.statuses(note(row, "made at one, but four", at(hours=4))) == ["conflict"]
    assert Order.objects.get().note == "made at two"
    assert list(Conflict.objects.order_by("created_at").values_list("state", flat=True)) == ["device", "server"]


@pytest.mark.protocol("U10")
def test_push_latest_wins_corrects_a_wrong_clock_and_never_believes_the_future() -> None:
    who = employee(1)
    row = str(order(who).pk)
    device = TestDevice(*SHARED, f"employee:{who}")
    Order.objects.update(note="office")
    # The clock is a day ahead; on ours the change was made an hour before the office's.
    early = note(row, "early", at(hours=-23))
    (result,) = device.push(early, sent_at=at(hours=-24))
    assert result["status"] == "conflict"
    # What claims to be of next year was made now.
    (result,) = device.push(note(row, "now", "2027-11-21T00:00:00Z"))
    assert (result["status"], result["row"]["note"]) == ("merged", "now")
    Order.objects.update(note="office again")
    (result,) = device.push(note(row, "older", None))
    assert (result["status"], result["row"]["note"]) == ("conflict", "office again")


@pytest.mark.parametrize("made_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"])
@pytest.mark.parametrize("sent_at", [None, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00"])
def test_push_at_the_ends_of_the_calendar_is_answered_and_its_record_can_be_read(
    made_at: str, sent_at: str | None
) -> None:
    who = employee(1)
    row = str(order(who).pk)
    Order.objects.update(note="office")
    device = TestDevice(*SHARED, f"employee:{who}")
    device.push(note(row, "device", made_at), sent_at=sent_at)
    assert Conflict.objects.get().made_at is not None


def test_push_made_long_before_it_was_sent_is_no_later_than_anything() -> None:
    who = employee(1)
    row = str(order(who).pk)
    Order.objects.update(note="office")
    device = TestDevice(*SHARED, f"employee:{who}")
    (result,) = device.push(note(row, "device", "0001-01-05T00:00:00Z"), sent_at="9999-12-25T00:00:00Z")
    assert (result["status"], result["row"]["note"]) == ("conflict", "office")


# --- what the history tells ---


@pytest.mark.protocol("U10")
def test_push_a_devices_own_changes_are_never_concurrent_and_its_base_is_what_it_had() -> None:
    device, other, row = TestDevice(), TestDevice(), contact(phone="0")
    assert device.statuses(update(row, 1, phone="1")) == ["applied"]
    assert device.statuses(update(row, 1, phone="2")) == ["applied"]
    assert other.statuses(update(row, 3, phone="9")) == ["applied"]
    assert device.statuses(update(row, 1, title="Dr.")) == ["merged"]
    assert device.statuses(update(row, 1, phone="3")) == ["conflict"]
    assert record(row) == ("open", ["phone"], {"phone": "2"}, {"phone": "9"})


@pytest.mark.protocol("U10")
def test_push_row_that_the_device_deleted_and_made_again_is_its_own() -> None:
    device, row = TestDevice(), contact(title="Dr.")
    assert device.statuses(delete(row, 1), create(row=row, first_name="again")) == ["applied", "applied"]
    assert device.statuses(update(row, None, title="Prof.")) == ["applied"]
    assert Contact.objects.get(pk=row).title == "Prof."


@pytest.mark.protocol("U10")
def test_push_with_a_base_older_than_the_history_puts_what_differs_in_dispute() -> None:
    device, row = TestDevice(), contact(phone="0")
    for phone in ("1", "2", "3"):
        Contact.objects.filter(pk=row).update(phone=phone)
    sql("DELETE FROM sync_history WHERE row_id = %s AND rev < 4", [row])
    results = device.push(update(row, 1, phone="3"), update(row, 1, title="Dr."), update(row, 3, last_name="X"))
    assert [result["status"] for result in results] == ["merged", "conflict", "merged"]
    assert record(row) == ("open", ["title"], None, {"title": ""})


@pytest.mark.protocol("U10")
def test_push_row_that_was_deleted_and_made_again_is_in_dispute_where_it_differs() -> None:
    device, row = TestDevice(), contact(phone="0")
    Contact.objects.all().delete()
    Contact.objects.create(pk=row, first_name="again", phone="7")
    results = device.push(*(update(row, 1, **{name: "again"}) for name in ("first_name", "title", "phone")))
    assert [result["status"] for result in results] == ["merged", "merged", "conflict"]
    assert record(row) == ("open", ["phone"], {"phone": "0"}, {"phone": "7"})


# --- delete against edit ---


@pytest.mark.protocol("U10")
def test_push_edit_of_a_deleted_row_brings_it_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with_policy(monkeypatch, "product", delete="edit_wins")
    row = product(unit_cost="1.2345", unit_price="18.5000", units_in_stock=39, category="Tea")
    Product.objects.all().delete()
    (result,) = TestDevice().push(update(row, 1, "product", name="Chai, green") | {"add": {"units_in_stock": -9}})
    assert (result["status"], result["rev"], result["row"]["name"]) == ("merged", 3, "Chai, green")
    back = Product.objects.get(pk=row)
    found = (str(back.unit_cost), str(back.unit_price), back.units_in_stock, back.code, back.category)
    assert found == ("1.2345", "18.5000", 30, "1", "Tea")
    assert record(row) == ("device", [], {"name": "Chai"}, None)


@pytest.mark.protocol("U10")
def test_push_later_edits_of_the_batch_go_on_with_the_row_that_came_back() -> None:
    row = contact(phone="1", note="n")
    Contact.objects.all().delete()
    results = TestDevice().push(update(row, 1, phone="2"), update(row, 1, title="Dr."), update(row, 1, phone="3"))
    assert [result["status"] for result in results] == ["merged", "applied", "applied"]
    back = Contact.objects.get(pk=row)
    assert (back.phone, back.title, back.note, back.first_name) == ("3", "Dr.", "n", "base")


@pytest.mark.protocol("U10")
def test_push_edit_of_a_deleted_row_whose_parent_is_gone_is_rejected_and_kept() -> None:
    customer = new_customer()
    row = contact(customer=customer)
    customer.delete()
    (result,) = TestDevice().push(update(row, 1, phone="2"))
    assert (result["status"], result["errors"][0]["code"]) == ("rejected", "missing_reference")


@pytest.mark.protocol("U10")
def test_push_devices_that_bring_a_row_back_at_once_both_get_what_they_wrote() -> None:
    rows = [contact() for _ in range(10)]
    Contact.objects.all().delete()
    answers: list[Any] = []

    def push(**values: str) -> None:
        try:
            answers.extend(TestDevice().push(*(update(row, 1, **values) for row in rows)))
        finally:
            connection.close()

    threads = [threading.Thread(target=push, kwargs=values) for values in ({"phone": "1"}, {"title": "Dr."})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer["status"] for answer in answers} == {"merged"}
    assert set(Contact.objects.values_list("phone", "title")) == {("1", "Dr.")}


@pytest.mark.protocol("U10")
@pytest.mark.parametrize("moment", ["states_of", "with_what_others_did"])
def test_push_row_that_comes_back_while_it_is_looked_up_is_merged(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    row, others = contact(), []
    Contact.objects.all().delete()
    real = getattr(push, moment)

    def bring_back() -> None:
        others.extend(TestDevice().statuses(update(row, 1, phone="1")))
        connection.close()

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(push, moment, real)
        thread = threading.Thread(target=bring_back)
        thread.start()
        thread.join()
        return real(*arguments)

    monkeypatch.setattr(push, moment, slowly)
    assert TestDevice().statuses(update(row, 1, title="Dr.")) == others == ["merged"]
    assert set(Contact.objects.values_list("phone", "title")) == {("1", "Dr.")}


@pytest.mark.protocol("U10")
def test_push_delete_of_an_edited_row_goes_by_its_policy_and_keeps_what_it_took_away() -> None:
    kept, gone = contact(), product(category="Tea")
    Contact.objects.update(phone="2")
    Product.objects.update(category="Drinks")
    results = TestDevice().push(delete(kept, 1), delete(gone, 1, "product"))
    assert [(result["status"], result["row"] is None) for result in results] == [("conflict", False), ("merged", True)]
    assert (Contact.objects.count(), Product.objects.count()) == (1, 0)
    state, fields, base, server = record(gone)
    assert (state, fields, base["category"], server["category"]) == ("device", [], "Tea", "Drinks")
    assert "unit_cost" not in server


# --- answers ---


@pytest.mark.protocol("U10")
def test_push_of_a_merged_mutation_again_gets_its_first_answer_and_merges_nothing_twice() -> None:
    device, row = TestDevice(), product(units_in_stock=10)
    Product.objects.update(category="Tea")
    mutation = update(row, 1, "product", name="Chai, green") | {"add": {"units_in_stock": 5}}
    (first,), (again,) = device.push(mutation), device.push(mutation)
    assert first["status"] == "merged"
    assert again == first | {"replayed": True}
    assert Product.objects.get().units_in_stock == 15


@pytest.mark.protocol("U10")
def test_push_group_with_a_conflict_writes_nothing_and_tells_each_member_why() -> None:
    device, mine, other = TestDevice(), contact(phone="1"), contact()
    Contact.objects.filter(pk=mine).update(phone="2")
    group = {"group": "00000000-0000-0000-0000-00000000000a"}
    results = device.push(
        update(mine, 1, phone="3", title="Dr.") | group, update(other, 1, title="Dr.") | group, create() | group
    )
    assert [result["status"] for result in results] == ["conflict", "rejected", "rejected"]
    assert [result["errors"][0]["code"] for result in results[1:]] == ["group_failed"] * 2
    assert not Contact.objects.filter(title="Dr.").exists()
    kept = Conflict.objects.get()
    assert (kept.device_values, str(kept.group)) == ({"set": {"phone": "3", "title": "Dr."}}, group["group"])
