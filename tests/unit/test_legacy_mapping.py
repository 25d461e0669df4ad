"""Mappings are pure functions: what goes to the other side and comes back is what it was."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities.models import Customer, Employee, Order, OrderLine, Product
from legacy.check import check
from legacy.connector import Misconfigured
from legacy.connectors.tryton_places import commands, fields_of, marker_at, row_commands, spot, stamps, value_at
from legacy.convert import By
from legacy.document import Unmappable, changed, digest, plain
from legacy.mapping import F, Mapping
from legacy.mappings.tryton import CUSTOMER, EMPLOYEE, MAPPINGS, ORDER, PRODUCT

PARTY = {
    "id": 7,
    "_timestamp": "1.5",
    "code": "ANA",
    "addresses.": [
        {"id": 1, "_timestamp": "1.6", "city": "Graz", "country.": {"id": 3, "name": "Austria"}},
        {"id": 2, "_timestamp": "1.7", "city": "Oslo", "country.": None},
    ],
    "contact_mechanisms.": [
        {"id": 4, "_timestamp": "1.8", "type": "fax", "value": "22"},
        {"id": 5, "_timestamp": "1.9", "type": "phone", "value": "11"},
    ],
}


def refer(mapping: str, key: str) -> str:
    """A link that is its own inverse."""
    return key


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("code", "ANA"),
        ("nothing", None),
        ("addresses[].city", "Graz"),
        ("addresses[].country.name", "Austria"),
        ("addresses[city=Oslo].country.name", None),
        ("contact_mechanisms[type=phone].value", "11"),
        ("contact_mechanisms[type=email].value", None),
    ],
)
def test_value_is_found_at_its_place(place: str, value: object) -> None:
    assert value_at(PARTY, place) == value


@pytest.mark.parametrize("place", ["", "a b", "addresses[]", "addresses[type].city", "[].city"])
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        spot(place)


def test_fields_to_ask_for_include_stamps_of_what_may_be_written() -> None:
    assert fields_of(["name", "addresses[].city", "contact_mechanisms[type=phone].value", "party.lang.code"]) == [
        "_timestamp",
        "addresses._timestamp",
        "addresses.city",
        "contact_mechanisms._timestamp",
        "contact_mechanisms.type",
        "contact_mechanisms.value",
        "name",
        "party.lang.code",
    ]


@pytest.mark.parametrize(
    ("values", "raw", "expected"),
    [
        # a plain field
        ({"name": "Ana"}, PARTY, {"name": "Ana"}),
        # the first address is there: written; nobody's: made
        ({"addresses[].city": "Rome"}, PARTY, {"addresses": [["write", [1], {"city": "Rome"}]]}),
        ({"addresses[].city": "Rome"}, None, {"addresses": [["create", [{"city": "Rome"}]]]}),
        # two fields of one record are one command
        (
            {"addresses[].city": "Rome", "addresses[].street": "x"},
            None,
            {"addresses": [["create", [{"city": "Rome", "street": "x"}]]]},
        ),
        # a new one is made as what it is, an emptied one goes, an empty one that was never there stays away
        (
            {"contact_mechanisms[type=email].value": "a@b.c"},
            PARTY,
            {"contact_mechanisms": [["create", [{"type": "email", "value": "a@b.c"}]]]},
        ),
        ({"contact_mechanisms[type=fax].value": ""}, PARTY, {"contact_mechanisms": [["delete", [4]]]}),
        ({"contact_mechanisms[type=email].value": ""}, PARTY, {}),
        # a name becomes what it names
        ({"addresses[].country.name": "Norway"}, PARTY, {"addresses": [["write", [1], {"country": "id of Norway"}]]}),
    ],
)
def test_commands_put_values_at_their_places(values: dict[str, Any], raw: Any, expected: dict[str, Any]) -> None:
    def resolve(path: str, name: str, value: Any) -> tuple[str, Any]:
        first, _, rest = name.partition(".")
        return (first, f"id of {value}") if rest else (name, value)

    assert commands(values, raw, resolve) == expected


def test_row_commands_leave_alone_what_is_equal() -> None:
    there = {
        "1": {"id": 1, "quantity": 2.0, "price": Decimal("1.0000")},
        "2": {"id": 2, "quantity": 3.0, "price": Decimal(1)},
    }
    rows: list[Any] = [
        {"id": "1", "quantity": 2, "price": Decimal(1)},
        {"id": None, "quantity": 4, "price": Decimal(1)},
    ]
    assert row_commands(rows, there, lambda name, value: (name, value)) == [
        ["create", [{"quantity": 4, "price": Decimal(1)}]],
        ["delete", [2]],
    ]


def test_version_names_the_record_and_those_in_its_lists() -> None:
    models = {"addresses": "party.address", "contact_mechanisms": "party.contact_mechanism"}
    assert stamps(PARTY, "party.party", lambda model, name: models[name]) == {
        "party.party,7": "1.5",
        "party.address,1": "1.6",
        "party.address,2": "1.7",
        "party.contact_mechanism,4": "1.8",
        "party.contact_mechanism,5": "1.9",
    }


def test_marker_is_told_from_what_people_write() -> None:
    ours = "sync:0198c0de-0000-4000-8000-000000000001"
    identifiers = {"id": 1, "identifiers.": [{"code": "AT U123"}, {"code": ours}]}
    assert marker_at(identifiers, "identifiers[].code") == ours
    assert marker_at({"reference": "sync: please"}, "reference") == ""


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
customers = st.fixed_dictionaries(
    {line.ours: text for line in CUSTOMER.fields if line.ours not in {"code"}} | {"code": st.none() | text.filter(bool)}
)


@given(customers)
def test_customer_goes_there_and_comes_back_the_same(document: dict[str, Any]) -> None:
    values = {"code": document["code"], **CUSTOMER.theirs(document, refer)}
    assert CUSTOMER.ours(values, refer) == document


@given(
    st.dates(),
    st.decimals(0, 9999, places=4),
    st.lists(st.tuples(st.integers(1, 999), st.decimals(0, 9999, places=4), st.decimals(0, 1, places=4)), max_size=3),
)
def test_order_goes_there_and_comes_back_the_same(day: dt.date, freight: Decimal, rows: list[Any]) -> None:
    row = Order(ordered_on=day, freight=freight, status="confirmed")
    document = {
        field.attname: plain(field, getattr(row, field.attname))
        for field in Order._meta.fields
        if field.name in {line.ours for line in ORDER.fields if not line.ref}
    }
    document |= {"customer_id": "3", "employee_id": None}
    document["lines"] = {
        str(key): {"product_id": "8", "unit_price": str(price), "quantity": quantity, "discount": str(discount)}
        for key, (quantity, price, discount) in enumerate(rows)
    }
    values = dict.fromkeys(ORDER.places) | ORDER.theirs(document, refer)
    assert ORDER.ours(values, refer) == document


def test_northwind_employee_is_read() -> None:
    values = dict.fromkeys(EMPLOYEE.places) | {
        "party.code": "EMP5",
        "party.name": "Steven Buchanan",
        "start_date": dt.date(1993, 10, 17),
        "supervisor": 2,
        "party.contact_mechanisms[type=phone].value": "(71) 555-4848",
    }
    found = EMPLOYEE.ours(values, refer)
    assert (found["number"], found["first_name"], found["last_name"]) == (5, "Steven", "Buchanan")
    assert (found["hired_on"], found["reports_to_id"], found["title"]) == ("1993-10-17", "2", "")


@pytest.mark.parametrize(("salable", "active", "discontinued"), [(1, 1, False), (0, 1, True), (1, 0, True)])
def test_product_that_is_archived_or_not_for_sale_is_discontinued(
    salable: int, active: int, discontinued: bool
) -> None:
    values = {"code": "1", "template.salable": salable, "active": active}
    assert PRODUCT.ours(values, refer)["discontinued"] is discontinued


@pytest.mark.parametrize(
    ("field", "theirs", "ours"),
    [
        (Product._meta.get_field("unit_price"), Decimal("18"), "18.0000"),  # their scale is coarser or finer than ours
        (Product._meta.get_field("unit_price"), Decimal("18.00004"), "18.0000"),
        (Product._meta.get_field("units_in_stock"), 39.0, 39),
        (Product._meta.get_field("units_in_stock"), None, 0),
        (Customer._meta.get_field("city"), None, ""),
        (Customer._meta.get_field("code"), "", None),
        (Order._meta.get_field("ordered_on"), dt.datetime(2026, 11, 21, 9), "2026-11-21"),
        (OrderLine._meta.get_field("discount"), None, "0.0000"),
        (Employee._meta.get_field("hired_on"), None, None),
    ],
)
def test_value_has_one_form_whichever_side_it_comes_from(field: Any, theirs: Any, ours: Any) -> None:
    assert plain(field, theirs) == ours
    assert plain(field, field.to_python(ours)) == ours


def test_half_a_piece_is_no_whole_number() -> None:
    with pytest.raises(Unmappable, match="whole number"):
        plain(Product._meta.get_field("units_in_stock"), 0.5)


documents = st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers(0, 3))


@given(documents, documents)
def test_changed_is_what_turns_the_base_into_the_new(base: dict[str, Any], new: dict[str, Any]) -> None:
    assert {**base, **changed(base, new)} == {**base, **new}
    assert changed(new, new) == {}


@given(documents)
def test_digest_does_not_depend_on_the_order_of_fields(document: dict[str, Any]) -> None:
    assert digest(dict(reversed(document.items()))) == digest(document)


def test_declared_mappings_can_work() -> None:
    check(MAPPINGS)
    for mapping in MAPPINGS:
        for place in mapping.places:
            spot(place)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (F("nothing", "name"), "line F.'nothing', 'name'.: Customer has no such field"),
        (F("name", "name", By(str.upper)), "has no way back"),
        (F("name", "name", ref="country"), "refers to 'country', which must be mapped before it"),
    ],
)
def test_mapping_that_cannot_work_is_refused_with_its_line(line: F, problem: str) -> None:
    broken: Mapping = replace(CUSTOMER, fields=(line,))
    with pytest.raises(Misconfigured, match=problem):
        check([broken])
