"""What push refuses, and what goes on beside it: U3, U8 and U9 of `docs/protocol.md`."""

import json
import random
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from pytest_django import Settings

from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from sync.checker import Checker
from sync.models import Rejection
from tests.integration.sync_support import (
    SHARED,
    TestDevice,
    codes,
    create,
    delete,
    employee,
    new_customer,
    new_id,
    order,
    problem,
    sql,
    update,
)

pytestmark = pytest.mark.django_db(transaction=True)


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
    order = Order.objects.create(customer=new_customer(), employee=employee, ordered_on="2026-11-21")
    product = Product.objects.create(code="A", name="A")
    sql("ALTER TABLE entities_orderline ADD CONSTRAINT few CHECK (quantity < 1000)")
    try:
        lines = [
            create(
                "order_line",
                order_id=str(order.pk),
                product_id=str(product.pk),
                unit_price="1",
                quantity=5_000 if n in {3, 120} else 1,
            )
            for n in range(200)
        ]
        results = TestDevice(*SHARED, f"employee:{employee.pk}").push(*lines)
    finally:
        sql("ALTER TABLE entities_orderline DROP CONSTRAINT few")
    assert [n for n, result in enumerate(results) if result["status"] == "rejected"] == [3, 120]
    assert codes(results[3]) == [(None, "constraint")]
    assert OrderLine.objects.count() == 198


@pytest.mark.protocol("U3")
def test_push_unknown_entity_and_read_only_entity_and_field_are_rejected() -> None:
    employee = Employee.objects.create(number=1, first_name="E", last_name="E")
    customer = new_customer()
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


@pytest.mark.protocol("U3")
def test_push_row_too_large_for_an_index_is_rejected_alone() -> None:
    sql("CREATE INDEX too_small ON entities_contact (note)")
    try:
        device, large = TestDevice(), "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9FFF), k=5_000)))
        assert device.statuses(create(first_name="A", note=large), create(first_name="B")) == ["rejected", "applied"]
    finally:
        sql("DROP INDEX too_small")


@pytest.mark.protocol("U3")
def test_push_entity_of_any_name_is_refused_alone() -> None:
    names = ["", ",", "{", '"', "\\", "made up", "NULL", "\u00a6,\u00dd", "x" * 5_000]
    results = TestDevice().push(create(), *(create(name, x=1) for name in names))
    assert [result["status"] for result in results] == ["applied", *["rejected"] * len(names)]
    assert {codes(result)[0][1] for result in results[1:]} == {"unknown_entity"}
    assert Rejection.objects.count() == len(names)


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


def test_push_of_many_and_long_names_that_there_are_not_is_answered_and_kept_in_short(settings: Settings) -> None:
    device = TestDevice()
    many = create() | {"set": {f"field{number}": number for number in range(10_000)}}
    long = create() | {"set": {"f" * 100_000: 1}}
    other = create() | {"entity": "e" * 100_000}
    answer = device.send({"mutations": [many, long, other]})
    assert len(answer.content) < 30_000
    assert len(answer.json()["results"][0]["errors"]) == settings.SYNC_PUSH_ERRORS_MAX
    kept = Rejection.objects.defer("body").order_by("place")
    assert [(len(each.errors), len(each.entity)) for each in kept] == [(100, 7), (2, 7), (1, 200)]


# --- U8: the model's rules ---


@pytest.mark.protocol("U8")
def test_push_holds_validators_choices_digits_and_unique_of_the_model() -> None:
    who = Employee.objects.create(number=1, first_name="E", last_name="E")
    customer = new_customer()
    values = {"customer_id": str(customer.pk), "employee_id": str(who.pk), "ordered_on": "2026-11-21"}
    device = TestDevice(*SHARED, f"employee:{who.pk}")
    wrong: dict[str, Any] = {"status": "lost", "freight": "-1", "freight ": "1.23456", " freight": 1.5}
    results = device.push(*(create("order", **values, **{name.strip(): value}) for name, value in wrong.items()))
    assert [codes(result) for result in results] == [[(name.strip(), "invalid_value")] for name in wrong]


@pytest.mark.protocol("U8")
def test_push_delete_of_a_row_that_others_refer_to_is_rejected() -> None:
    referring = order(employee(1))
    (result,) = TestDevice().push(delete(str(referring.customer_id), 1, "customer"))
    assert codes(result) == [(None, "protected")]
    assert Customer.objects.count() == 1


@pytest.mark.protocol("U8")
def test_push_validator_may_ask_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_known(value: str) -> None:
        if Contact.objects.filter(note=value).exists():
            raise ValidationError("There is one already.")

    field = Contact._meta.get_field("note")
    monkeypatch.setattr(field, "validators", [*field.validators, refuse_known])
    for module in ("push_new", "candidates"):
        monkeypatch.setattr(f"sync.{module}.checker", Checker)  # one that was made with this validator
    device = TestDevice()
    assert device.statuses(create(first_name="A", note="one")) == ["applied"]
    assert device.statuses(create(first_name="B", note="one"), create(first_name="C")) == ["rejected", "applied"]


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
