"""What push promises (rules U1 to U9 of docs/protocol.md)."""

import json
import threading
from typing import Any

import pytest
from pytest_django import Settings

from devices.models import Device
from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.models import Conflict, Rejection
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    codes,
    create,
    delete,
    employee,
    feed,
    history,
    new_customer,
    new_id,
    order,
    other_connection,
    problem,
    sql,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)


# --- U1: what is reported is committed ---


@pytest.mark.protocol("U1")
def test_push_create_update_delete_are_in_the_table_the_feed_and_the_history() -> None:
    device, made = TestDevice(), create(first_name="Ana")
    row = made["row"]
    assert device.push(made) == [{"id": made["id"], "status": "applied", "rev": 1}]
    assert device.push(update(row, 1, first_name="Ina"))[0]["rev"] == 2
    assert Contact.objects.get(pk=row).first_name == "Ina"
    assert device.push(delete(row, 2))[0]["rev"] == 3
    assert not Contact.objects.filter(pk=row).exists()
    assert feed(row) == {"global": (3, False)}
    assert {author for _, _, author, *_ in history(row)} == {f"device:{device.id}"}


@pytest.mark.protocol("U1")
def test_push_counters_add_up_and_never_conflict() -> None:
    product = Product.objects.create(code="A", name="A", units_in_stock=10)
    amounts = [
        {**update(str(product.pk), 1, "product"), "set": {}, "add": {"units_in_stock": n}} for n in (-2, "-3", 4)
    ]
    Product.objects.filter(pk=product.pk).update(name="B")
    assert TestDevice().statuses(*amounts) == ["merged"] * 3
    assert Product.objects.get(pk=product.pk).units_in_stock == 9


@pytest.mark.protocol("U1")
def test_push_that_changes_nothing_is_applied_and_keeps_the_revision() -> None:
    row = str(Contact.objects.create(first_name="Ana").pk)
    assert TestDevice().push(update(row, 1, first_name="Ana"))[0]["rev"] == 1


# --- U2: order, and a device's own changes ---


@pytest.mark.protocol("U2")
def test_push_takes_effect_in_the_order_of_the_list_several_of_one_row_too() -> None:
    device, made = TestDevice(), create(first_name="1")
    row = made["row"]
    results = device.push(made, update(row, None, first_name="2"), update(row, None, first_name="3"), delete(row, None))
    assert [result["rev"] for result in results] == [1, 2, 3, 4]
    assert not Contact.objects.filter(pk=row).exists()


@pytest.mark.protocol("U2")
def test_push_own_earlier_mutations_are_never_concurrent_with_later_ones() -> None:
    device, row = TestDevice(), str(Contact.objects.create(first_name="0").pk)
    assert device.statuses(update(row, 1, first_name="1"), update(row, 1, first_name="2")) == ["applied"] * 2
    assert device.statuses(update(row, 1, first_name="3")) == ["applied"]
    assert Contact.objects.get(pk=row).first_name == "3"


@pytest.mark.protocol("U2")
def test_push_edit_of_an_own_row_that_was_not_acknowledged_has_no_base() -> None:
    device, made = TestDevice(), create()
    device.push(made)
    assert device.statuses(update(made["row"], None, note="x")) == ["applied"]


@pytest.mark.protocol("U2")
def test_push_row_may_refer_to_a_row_that_is_created_later_in_the_batch() -> None:
    parent = create("customer", name="C")
    child = create(customer_id=parent["row"], first_name="Ana")
    bad = create(first_name="x" * 61)  # makes the batch take the slow way
    assert TestDevice().statuses(child, bad, parent) == ["applied", "rejected", "applied"]


@pytest.mark.protocol("U2")
def test_push_row_that_comes_back_in_another_scope_goes_on_counting_its_revisions() -> None:
    here, there = (str(Employee.objects.create(number=n, first_name="E", last_name="E").pk) for n in (1, 2))
    customer = str(new_customer().pk)
    device = TestDevice(*SHARED, f"employee:{here}", f"employee:{there}")
    values = {"customer_id": customer, "ordered_on": "2026-11-21"}
    made = create("order", **values, employee_id=here)
    device.push(made)
    device.push(delete(made["row"], 1, "order"))
    (result,) = device.push(create("order", made["row"], **values, employee_id=there))
    assert (result["status"], result["rev"]) == ("applied", 3)


# --- U4: groups ---


@pytest.mark.protocol("U4")
def test_push_group_is_applied_all_together_or_not_at_all_with_the_reason_for_each() -> None:
    device, group = TestDevice(), new_id()
    bad = [{**m, "group": group} for m in (create(), create(first_name="x" * 61), create())]
    good = [{**m, "group": new_id()} for m in (create(),)]
    results = device.push(*bad, *good, create())
    assert [result["status"] for result in results] == ["rejected"] * 3 + ["applied"] * 2
    assert [codes(result)[0][1] for result in results[:3]] == ["group_failed", "invalid_value", "group_failed"]
    assert Contact.objects.count() == 2


@pytest.mark.protocol("U4")
def test_push_group_fails_whole_where_one_of_its_rows_conflicts() -> None:
    device, row, group = TestDevice(), str(Contact.objects.create(first_name="A").pk), new_id()
    Contact.objects.filter(pk=row).update(first_name="B")
    results = device.push({**create(), "group": group}, {**update(row, 1, first_name="C"), "group": group})
    assert [result["status"] for result in results] == ["rejected", "conflict"]
    assert Contact.objects.count() == 1


@pytest.mark.protocol("U4")
def test_push_child_of_a_rejected_parent_is_rejected_too() -> None:
    parent = create("customer", name="x" * 200)
    results = TestDevice().push(parent, create(first_name="A", customer_id=parent["row"]), create())
    assert [result["status"] for result in results] == ["rejected", "rejected", "applied"]
    assert codes(results[1]) == [("customer_id", "missing_reference")]


@pytest.mark.protocol("U4")
def test_push_group_that_encloses_another_change_of_its_row_returns_400() -> None:
    device, group, made = TestDevice(), new_id(), create()
    row = made["row"]
    enclosing = [{**made, "group": group}, update(row, None, note="1"), {**update(row, None, note="2"), "group": group}]
    assert problem(device.send({"mutations": enclosing})) == (400, "invalid_request")
    assert Contact.objects.count() == 0


# --- U5: idempotent ---


@pytest.mark.protocol("U5")
def test_push_sent_again_is_not_applied_again_and_gets_its_first_result() -> None:
    device, made = TestDevice(), create()
    changed, bad = update(made["row"], None, note="1"), create(first_name="x" * 61)
    first = device.push(made, changed, bad)
    again = device.push(made, changed, bad, create())
    assert again[:3] == [{**result, "replayed": True} for result in first]
    assert len(history(made["row"])) == 2
    assert Rejection.objects.count() == 1


@pytest.mark.protocol("U5")
def test_push_same_id_twice_in_a_batch_is_applied_once() -> None:
    device, made = TestDevice(), create()
    assert [result.get("replayed", False) for result in device.push(made, made)] == [False, True]
    assert len(history(made["row"])) == 1


@pytest.mark.protocol("U5")
def test_push_same_id_with_other_content_is_rejected_and_kept() -> None:
    device, made = TestDevice(), create(first_name="A")
    device.push(made)
    (result,) = device.push({**made, "set": {"first_name": "B"}})
    assert (result["status"], codes(result)) == ("rejected", [("id", "id_reused")])
    assert json.loads(Rejection.objects.get(mutation=made["id"]).body)["set"] == {"first_name": "B"}


@pytest.mark.protocol("U5")
def test_push_white_space_key_order_and_case_of_ids_make_no_other_content() -> None:
    device, made = TestDevice(), create(first_name="A", note="B")
    device.push(made)
    body = json.dumps(
        {"mutations": [{**made, "id": made["id"].upper(), "set": {"note": "B", "first_name": "A"}}]}, indent=3
    )
    assert device.send(body).json()["results"][0]["replayed"] is True


@pytest.mark.protocol("U5")
def test_push_two_identical_batches_at_once_are_applied_once() -> None:
    device, batch = TestDevice(), [create() for _ in range(50)]
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(push_in_a_thread(device, batch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [{result["status"] for result in answer} for answer in answers] == [{"applied"}] * 4
    assert Contact.objects.count() == 50
    assert {len(history(made["row"])) for made in batch} == {1}


def push_in_a_thread(device: TestDevice, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from django.db import connection

    try:
        return device.push(*batch)
    finally:
        connection.close()


@pytest.mark.protocol("U5")
def test_push_of_a_device_that_enrolled_anew_is_replayed_and_shows_rows_it_may_see_only() -> None:
    who = Employee.objects.create(number=1, first_name="E", last_name="E")
    old, new, blind = (
        TestDevice(*SHARED, f"employee:{who.pk}"),
        TestDevice(*SHARED, f"employee:{who.pk}"),
        TestDevice(),
    )
    customer = new_customer()
    made = create("order", customer_id=str(customer.pk), employee_id=str(who.pk), ordered_on="2026-11-21")
    old.push(made)
    Order.objects.update(note="newer")
    stale = update(made["row"], 1, "order", note="older")
    assert old.statuses(stale) == ["conflict"]
    assert [result["status"] for result in new.push(made, stale)] == ["applied", "conflict"]
    assert new.push(stale)[0]["row"]["note"] == "newer"
    assert blind.push(stale)[0]["row"] is None
    assert len(history(made["row"])) == 2


@pytest.mark.protocol("U5")
@pytest.mark.parametrize(("op", "said", "again"), [("create", '{"title": 1}', '{ "title":1}'), ("delete", "{}", "{ }")])
def test_push_white_space_makes_no_other_content_of_what_was_refused(op: str, said: str, again: str) -> None:
    body = json.dumps({"mutations": [create() | {"op": op, "set": {}}]})
    device = TestDevice()
    (first,) = device.send(body.replace("{}", said)).json()["results"]
    (second,) = device.send(body.replace("{}", again)).json()["results"]
    assert first["status"] == "rejected"
    assert second == first | {"replayed": True}


# --- U6: conflicts ---


@pytest.mark.protocol("U6")
def test_push_on_a_stale_base_keeps_the_servers_row_and_records_both() -> None:
    device, row = TestDevice(), str(Contact.objects.create(first_name="base", note="n").pk)
    Contact.objects.filter(pk=row).update(first_name="server")
    (result,) = device.push(update(row, 1, first_name="device"))
    assert (result["status"], result["row"]["first_name"], result["row"]["_rev"]) == ("conflict", "server", 2)
    kept = Conflict.objects.get(pk=result["conflict"])
    assert (kept.base, kept.server, kept.device_values) == (
        {"first_name": "base"},
        {"first_name": "server"},
        {"set": {"first_name": "device"}},
    )
    assert Contact.objects.get(pk=row).first_name == "server"


@pytest.mark.protocol("U6")
@pytest.mark.parametrize(
    ("field", "status", "state"),
    [("name", "conflict", "server"), ("phone", "conflict", "open"), ("fax", "merged", "device")],
)
def test_push_says_whether_a_conflict_waits_for_a_person(field: str, status: str, state: str) -> None:
    device, row = TestDevice(), str(new_customer(name="base").pk)
    Customer.objects.filter(pk=row).update(**{field: "server"})
    mutation = update(row, 1, "customer", **{field: "device"})
    (result,), (again,) = device.push(mutation), device.push(mutation)
    assert (result["status"], result["state"]) == (status, state)
    assert (again["replayed"], again["state"]) == (True, state)


@pytest.mark.protocol("U6")
def test_push_edit_of_a_row_that_was_deleted_is_a_conflict_without_a_row_where_deletes_win() -> None:
    device, product = TestDevice(), Product.objects.create(code="1", name="A")
    row = str(product.pk)
    product.delete()
    (result,) = device.push(update(row, 1, "product", name="B"))
    assert (result["status"], result["row"]) == ("conflict", None)
    assert Conflict.objects.get().device_values == {"set": {"name": "B"}}


@pytest.mark.protocol("U6")
def test_push_delete_of_a_row_that_others_changed_is_a_conflict_and_of_a_deleted_one_is_applied() -> None:
    device, contact = TestDevice(), Contact.objects.create(first_name="A")
    row = str(contact.pk)
    Contact.objects.update(first_name="B")
    (result,) = device.push(delete(row, 1))
    assert (result["status"], result["row"]["first_name"]) == ("conflict", "B")
    contact.delete()
    assert device.push(delete(row, 2))[0]["rev"] == 3


@pytest.mark.protocol("U6")
def test_push_with_a_base_that_the_server_never_gave_is_a_conflict() -> None:
    row = str(Contact.objects.create(first_name="A").pk)
    assert TestDevice().statuses(update(row, 9, first_name="B")) == ["conflict"]


@pytest.mark.protocol("U6")
def test_push_create_of_a_row_that_is_there_is_a_conflict() -> None:
    row = str(Contact.objects.create(first_name="A").pk)
    (result,) = TestDevice().push(create(row=row, first_name="B"))
    assert (result["status"], result["row"]["first_name"]) == ("conflict", "A")


# --- U7: scopes ---


@pytest.fixture
def foreign() -> tuple[TestDevice, Order, Employee, Employee]:
    """A device of one employee, and an order of another who reports to them, so that the device has that row."""
    mine = Employee.objects.create(number=1, first_name="E", last_name="E")
    other = Employee.objects.create(number=2, first_name="E", last_name="E", reports_to=mine)
    order = Order.objects.create(customer=new_customer(), employee=other, ordered_on="2026-11-21")
    return TestDevice(*SHARED, f"employee:{mine.pk}"), order, mine, other


@pytest.mark.protocol("U7")
def test_push_cannot_create_a_row_outside_the_scopes(foreign: tuple[TestDevice, Order, Employee, Employee]) -> None:
    device, order, mine, other = foreign
    values = {"customer_id": str(order.customer_id), "ordered_on": "2026-11-21"}
    results = device.push(
        create("order", **values, employee_id=str(other.pk)),
        create("order", **values),
        create("order", **values, employee_id=str(mine.pk)),
    )
    assert [result["status"] for result in results] == ["rejected", "rejected", "applied"]
    assert codes(results[0]) == codes(results[1]) == [(None, "forbidden_scope")]
    assert Order.objects.count() == 2


@pytest.mark.protocol("U7")
def test_push_cannot_move_a_row_out_of_the_scopes(foreign: tuple[TestDevice, Order, Employee, Employee]) -> None:
    device, order, mine, other = foreign
    order.employee = mine
    order.save()
    (result,) = device.push(update(str(order.pk), 2, "order", employee_id=str(other.pk)))
    assert codes(result) == [(None, "forbidden_scope")]
    assert Order.objects.get().employee_id == mine.pk


@pytest.mark.protocol("U7")
def test_push_answers_a_row_outside_the_scopes_like_one_that_does_not_exist(
    foreign: tuple[TestDevice, Order, Employee, Employee],
) -> None:
    device, order, _, _ = foreign
    line = {"product_id": new_id(), "unit_price": "1"}

    def answers(row: str) -> list[Any]:
        told = device.push(
            update(row, 1, "order", note="x"), delete(row, 1, "order"), create("order_line", **line, order_id=row)
        )
        return [{name: value for name, value in result.items() if name != "id"} for result in told]

    assert answers(str(order.pk)) == answers(new_id())
    assert feed(str(order.pk)) and Order.objects.count() == 1


@pytest.mark.protocol("U7")
def test_push_delete_takes_no_row_along_that_is_outside_the_scopes() -> None:
    mine, theirs = employee(1), employee(2)
    product = Product.objects.create(code="A", name="A")
    kept, gone = order(mine), order(mine)
    lines = [OrderLine.objects.create(order=of, product=product, unit_price=1) for of in (kept, gone)]
    # As of an entity whose rows do not follow those that they refer to.
    sql("UPDATE sync_feed SET scope = %s WHERE row_id = %s", [f"employee:{theirs}", lines[0].pk])
    device = TestDevice(*SHARED, f"employee:{mine}")
    first, second = device.push(delete(str(kept.pk), 1, "order"), delete(str(gone.pk), 1, "order"))
    assert (codes(first), second["status"]) == ([(None, "protected")], "applied")
    assert list(Order.objects.values_list("pk", flat=True)) == [kept.pk]
    assert list(OrderLine.objects.values_list("order", flat=True)) == [kept.pk]


# --- others at the same time ---


@pytest.mark.protocol("U1")
def test_push_devices_that_write_the_same_rows_in_opposite_order_both_get_an_answer() -> None:
    rows = [str(Contact.objects.create(first_name="A").pk) for _ in range(20)]
    devices, answers = [TestDevice(), TestDevice()], []
    batches = [[update(row, 1, note=str(n)) for row in order] for n, order in enumerate((rows, rows[::-1]))]
    threads = [
        threading.Thread(target=lambda d=device, b=batch: answers.append(push_in_a_thread(d, b)))
        for device, batch in zip(devices, batches, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result["status"] for answer in answers for result in answer) == ["applied"] * 20 + ["merged"] * 20
    assert set(Contact.objects.values_list("note", flat=True)) <= {"0\n1", "1\n0"}


@pytest.mark.slow
@pytest.mark.protocol("U1")
def test_push_waits_for_a_writer_that_holds_the_row_and_then_sees_what_it_wrote() -> None:
    device, row, told = TestDevice(), str(Contact.objects.create(first_name="A").pk), []
    with other_connection() as other:
        other.execute("UPDATE entities_contact SET first_name = 'B' WHERE id = %s", [row])
        pushing = threading.Thread(
            target=lambda: told.extend(push_in_a_thread(device, [update(row, 1, first_name="C")]))
        )
        pushing.start()
        pushing.join(0.3)
        assert told == []
        other.commit()
        pushing.join()
    assert told[0]["status"] == "conflict"


@pytest.mark.protocol("U3")
def test_push_never_tells_a_hidden_field() -> None:
    product = Product.objects.create(code="A", name="A", unit_cost=7)
    Product.objects.update(name="B")
    answers = TestDevice().push(
        update(str(product.pk), 1, "product", name="C"), update(str(product.pk), 2, "product", unit_cost="1")
    )
    assert "unit_cost" not in str(answers[0])
    assert codes(answers[1]) == [("unit_cost", "unknown_field")]
    assert Device.objects.count() == 1


@pytest.mark.slow
@pytest.mark.protocol("U1")
def test_push_that_waits_too_long_for_another_writer_returns_503_and_applies_nothing(settings: Settings) -> None:
    settings.SYNC_PUSH_LOCK_SECONDS_MAX = 1
    device, row = TestDevice(), str(Contact.objects.create(first_name="A").pk)
    with other_connection() as other:
        other.execute("UPDATE entities_contact SET first_name = 'B' WHERE id = %s", [row])
        answer = device.send({"mutations": [create(), update(row, 1, first_name="C")]})
        other.rollback()
    assert (problem(answer), "Retry-After" in answer) == ((503, "service_unavailable"), True)
    assert Contact.objects.count() == 1
