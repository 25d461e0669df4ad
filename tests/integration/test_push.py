"""What push promises (rules U1 to U9 of docs/protocol.md)."""

import json
import random
import threading
from typing import Any

import pytest
from pytest_django import Settings

from devices.models import Device
from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.checker import checker
from sync.models import Conflict, Rejection
from sync.wire import entities
from tests.integration.sync_support import (
    TestDevice,
    create,
    delete,
    feed,
    history,
    new_id,
    other_connection,
    sql,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)


def codes(result: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(told["field"], told["code"]) for told in result["errors"]]


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


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
    assert TestDevice().statuses(*amounts) == ["applied"] * 3
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


# --- U3: one bad row never blocks the rest ---

BAD: list[tuple[str, dict[str, Any], list[tuple[str | None, str]]]] = [
    ("too long", {"first_name": "x" * 61}, [("first_name", "invalid_value")]),
    ("wrong type", {"first_name": 1}, [("first_name", "invalid_value")]),
    ("null", {"first_name": None}, [("first_name", "invalid_value")]),
    ("empty", {"first_name": ""}, [("first_name", "invalid_value")]),
    ("left out", {"note": "x"}, [("first_name", "required")]),
    ("no address", {"first_name": "A", "email": "x"}, [("email", "invalid_value")]),
    ("no such day", {"first_name": "A", "met_on": "2026-02-30"}, [("met_on", "invalid_value")]),
    ("no such field", {"first_name": "A", "x": 1}, [("x", "unknown_field")]),
    ("NUL in a field's name", {"first_name": "A", "x\0": 1}, [("x\ufffd", "unknown_field")]),
    ("NUL", {"first_name": "A\0"}, [("first_name", "invalid_value")]),
    ("no such customer", {"first_name": "A", "customer_id": new_id()}, [("customer_id", "missing_reference")]),
    ("two at once", {"first_name": 1, "met_on": 2}, [("first_name", "invalid_value"), ("met_on", "invalid_value")]),
]


@pytest.mark.protocol("U3")
@pytest.mark.parametrize(("values", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_push_rejects_a_bad_value_with_its_field_and_nothing_else(
    values: dict[str, Any], expected: list[tuple[str | None, str]]
) -> None:
    device, good, bad = TestDevice(), create(), create(**values)
    results = device.push(good, bad, create())
    assert [result["status"] for result in results] == ["applied", "rejected", "applied"]
    assert codes(results[1]) == expected
    assert results[1]["row"] is None
    kept = Rejection.objects.get(mutation=bad["id"])
    assert json.loads(kept.body)["set"] == values


@pytest.mark.protocol("U3")
def test_push_half_a_character_is_refused_with_its_field_and_the_rest_goes_on() -> None:
    device, good, bad = TestDevice(), create(), create(first_name="HALF")
    body = json.dumps({"mutations": [good, bad]}).replace("HALF", "a\\ud800b")
    results = device.send(body).json()["results"]
    assert [result["status"] for result in results] == ["applied", "rejected"]
    assert codes(results[1]) == [("first_name", "invalid_value")]


@pytest.mark.protocol("U3")
def test_push_poison_rows_that_only_the_database_knows_are_rejected_alone() -> None:
    """A broken check constraint, twice, among two hundred good rows."""
    employee = Employee.objects.create(number=1, first_name="E", last_name="E")
    order = Order.objects.create(customer=Customer.objects.create(name="C"), employee=employee, ordered_on="2026-11-21")
    product = Product.objects.create(code="A", name="A")
    sql("ALTER TABLE entities_orderline ADD CONSTRAINT few CHECK (quantity < 1000)")
    try:
        lines = [
            create(
                "order_line",
                order_id=str(order.pk),
                employee_id=str(employee.pk),
                product_id=str(product.pk),
                unit_price="1",
                quantity=5_000 if n in {3, 120} else 1,
            )
            for n in range(200)
        ]
        results = TestDevice("global", f"employee:{employee.pk}").push(*lines)
    finally:
        sql("ALTER TABLE entities_orderline DROP CONSTRAINT few")
    assert [n for n, result in enumerate(results) if result["status"] == "rejected"] == [3, 120]
    assert codes(results[3]) == [(None, "constraint")]
    assert OrderLine.objects.count() == 198


@pytest.mark.protocol("U3")
def test_push_unknown_entity_and_read_only_entity_and_field_are_rejected() -> None:
    employee = Employee.objects.create(number=1, first_name="E", last_name="E")
    customer = Customer.objects.create(name="C")
    results = TestDevice().push(
        create("ghost", x=1),
        update(str(employee.pk), 1, "employee", first_name="X"),
        update(str(customer.pk), 1, "customer", code="X"),
        {**update(str(customer.pk), 1, "customer"), "set": {}, "add": {"name": 1}},
    )
    assert [codes(result)[0] for result in results] == [
        (None, "unknown_entity"),
        (None, "read_only_entity"),
        ("code", "read_only_field"),
        ("name", "not_a_counter"),
    ]


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
        TestDevice("global", f"employee:{who.pk}"),
        TestDevice("global", f"employee:{who.pk}"),
        TestDevice(),
    )
    customer = Customer.objects.create(name="C")
    made = create("order", customer_id=str(customer.pk), employee_id=str(who.pk), ordered_on="2026-11-21")
    old.push(made)
    Order.objects.update(note="newer")
    stale = update(made["row"], 1, "order", note="older")
    assert old.statuses(stale) == ["conflict"]
    assert [result["status"] for result in new.push(made, stale)] == ["applied", "conflict"]
    assert new.push(stale)[0]["row"]["note"] == "newer"
    assert blind.push(stale)[0]["row"] is None
    assert len(history(made["row"])) == 2


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
def test_push_edit_of_a_row_that_was_deleted_is_a_conflict_without_a_row() -> None:
    device, contact = TestDevice(), Contact.objects.create(first_name="A")
    row = str(contact.pk)
    contact.delete()
    (result,) = device.push(update(row, 1, first_name="B"))
    assert (result["status"], result["row"]) == ("conflict", None)
    assert Conflict.objects.get().device_values == {"set": {"first_name": "B"}}


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
    """A device of one employee, and an order of another."""
    mine, other = (Employee.objects.create(number=n, first_name="E", last_name="E") for n in (1, 2))
    order = Order.objects.create(customer=Customer.objects.create(name="C"), employee=other, ordered_on="2026-11-21")
    return TestDevice("global", f"employee:{mine.pk}"), order, mine, other


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
    device, order, mine, _ = foreign
    line = {"employee_id": str(mine.pk), "product_id": new_id(), "unit_price": "1"}

    def answers(row: str) -> list[Any]:
        told = device.push(
            update(row, 1, "order", note="x"), delete(row, 1, "order"), create("order_line", **line, order_id=row)
        )
        return [{name: value for name, value in result.items() if name != "id"} for result in told]

    assert answers(str(order.pk)) == answers(new_id())
    assert feed(str(order.pk)) and Order.objects.count() == 1


# --- U8: the model's rules ---


@pytest.mark.protocol("U8")
def test_push_holds_validators_choices_digits_and_unique_of_the_model() -> None:
    who = Employee.objects.create(number=1, first_name="E", last_name="E")
    customer = Customer.objects.create(name="C")
    values = {"customer_id": str(customer.pk), "employee_id": str(who.pk), "ordered_on": "2026-11-21"}
    device = TestDevice("global", f"employee:{who.pk}")
    wrong: dict[str, Any] = {"status": "lost", "freight": "-1", "freight ": "1.23456", " freight": 1.5}
    results = device.push(*(create("order", **values, **{name.strip(): value}) for name, value in wrong.items()))
    assert [codes(result) for result in results] == [[(name.strip(), "invalid_value")] for name in wrong]


@pytest.mark.protocol("U8")
def test_push_delete_of_a_row_that_others_refer_to_is_rejected(
    foreign: tuple[TestDevice, Order, Employee, Employee],
) -> None:
    device, order, *_ = foreign
    (result,) = device.push(delete(str(order.customer_id), 1, "customer"))
    assert codes(result) == [(None, "protected")]
    assert Customer.objects.count() == 1


# --- U9: malformed requests ---

MALFORMED: list[tuple[str, Any, tuple[int, str]]] = [
    ("no JSON", "{", (400, "invalid_json")),
    ("not UTF-8", b"\xff", (400, "invalid_json")),
    ("no object", "[]", (400, "invalid_request")),
    ("no mutations", "{}", (400, "invalid_request")),
    ("unknown member", {"mutations": [], "x": 1}, (400, "unknown_field")),
    ("misspelt key", {"mutations": [{**create(), "sett": {}}]}, (400, "unknown_field")),
    ("id is no uuid", {"mutations": [{**create(), "id": "1"}]}, (400, "invalid_request")),
    ("unknown op", {"mutations": [{**create(), "op": "upsert"}]}, (400, "invalid_request")),
    ("set is a list", {"mutations": [{**create(), "set": []}]}, (400, "invalid_request")),
    ("base is 0", {"mutations": [{**create(), "base": 0}]}, (400, "invalid_request")),
    ("made_at without zone", {"mutations": [{**create(), "made_at": "2026-11-21T09:00:00"}]}, (400, "invalid_request")),
    ("nested too deeply", '{"mutations": [{"set": ' + "[" * 100_000, (400, "invalid_json")),
    ("1,001 mutations", {"mutations": [create() for _ in range(1_001)]}, (413, "batch_too_large")),
]


@pytest.mark.protocol("U9")
@pytest.mark.parametrize(("body", "expected"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_push_malformed_body_is_refused_whole(body: Any, expected: tuple[int, str]) -> None:
    if isinstance(body, dict) and body.get("mutations"):
        body["mutations"].insert(0, create())
    assert problem(TestDevice().send(body)) == expected
    assert Contact.objects.count() == 0


@pytest.mark.protocol("U9")
def test_push_of_nothing_is_answered_with_nothing() -> None:
    assert TestDevice().push() == []


@pytest.mark.protocol("U9")
def test_push_of_a_full_batch_is_applied() -> None:
    assert set(TestDevice().statuses(*(create() for _ in range(1_000)))) == {"applied"}


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
    assert sorted(result["status"] for answer in answers for result in answer) == ["applied"] * 20 + ["conflict"] * 20


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


@pytest.mark.protocol("U2")
def test_push_row_that_comes_back_in_another_scope_goes_on_counting_its_revisions() -> None:
    here, there = (str(Employee.objects.create(number=n, first_name="E", last_name="E").pk) for n in (1, 2))
    customer = str(Customer.objects.create(name="C").pk)
    device = TestDevice("global", f"employee:{here}", f"employee:{there}")
    values = {"customer_id": customer, "ordered_on": "2026-11-21"}
    made = create("order", **values, employee_id=here)
    device.push(made)
    device.push(delete(made["row"], 1, "order"))
    (result,) = device.push(create("order", made["row"], **values, employee_id=there))
    assert (result["status"], result["rev"]) == ("applied", 3)


@pytest.mark.protocol("U8")
def test_push_validator_may_ask_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(value: str) -> str | None:
        return "There is one already." if Contact.objects.filter(note=value).exists() else None

    rules = checker(entities()["contact"])._rules
    monkeypatch.setattr(checker(entities()["contact"]), "_rules", [*rules, ("note", [known])])
    device = TestDevice()
    assert device.statuses(create(first_name="A", note="one")) == ["applied"]
    assert device.statuses(create(first_name="B", note="one"), create(first_name="C")) == ["rejected", "applied"]


@pytest.mark.protocol("U3")
def test_push_row_too_large_for_an_index_is_rejected_alone() -> None:
    sql("CREATE INDEX too_small ON entities_contact (note)")
    try:
        device, large = TestDevice(), "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9FFF), k=5_000)))
        assert device.statuses(create(first_name="A", note=large), create(first_name="B")) == ["rejected", "applied"]
    finally:
        sql("DROP INDEX too_small")


@pytest.mark.protocol("U3")
@pytest.mark.parametrize(
    "values",
    [
        b'{"first_name": 1e999}',
        b'{"first_name": "A", "nothing_of_ours": 1e999}',
        b'{"first_name": "A", "nothing_of_ours": ' + b"9" * 10_000 + b"}",
        b'{"first_name": "A", "customer_id": "00000000-0000-0000-0000-000000000001\\n"}',
    ],
)
def test_push_number_beyond_any_range_or_line_feed_is_rejected_alone(values: bytes) -> None:
    device = TestDevice()
    bodies = [json.dumps(create(first_name="B")).encode() for _ in range(3)]
    bodies[1] = bodies[1].replace(b'{"first_name": "B"}', values)
    answer = device.send(b'{"mutations": [' + b",".join(bodies) + b"]}")
    assert [result["status"] for result in answer.json()["results"]] == ["applied", "rejected", "applied"]


@pytest.mark.protocol("U9")
@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80"])
def test_push_body_that_is_not_utf8_is_refused_whole(bad: bytes) -> None:
    body = json.dumps({"mutations": [create(first_name="BAD")]}).encode().replace(b"BAD", bad)
    answer = TestDevice().send(body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


@pytest.mark.protocol("U9")
@pytest.mark.parametrize("member", ["id", "row", "group"])
def test_push_id_with_a_line_feed_is_refused_whole(member: str) -> None:
    mutation = create() | {"group": new_id()}
    mutation[member] += "\n"
    answer = TestDevice().send({"mutations": [mutation]})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
