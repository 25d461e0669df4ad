"""Where values stand in a JSON record."""

from typing import Any

import pytest

from legacy.connectors.rest_places import ABSENT, body_of, steps, value_at, values_at

RAW: dict[str, Any] = {
    "name": "Ana",
    "fax": None,
    "address": {"city": "Bonn", "geo": None},
    "gone": None,
    "contacts": [{"type": "phone", "value": "1"}, {"type": "mail", "value": "a@b.c", "main": True}],
    "empty": [],
    "lines": [{"id": 7, "item": {"code": "x"}, "tax": 1}, {"id": 8}],
}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name", "Ana"),
        ("fax", None),
        ("phone", ABSENT),
        ("address.city", "Bonn"),
        ("address.zip", ABSENT),
        ("address.geo.lat", None),  # it says that there is nothing there
        ("gone.city", None),
        ("name.first", ABSENT),
        ("contacts[].value", "1"),
        ("contacts[type=mail].value", "a@b.c"),
        ("contacts[type=mail,main=True].value", "a@b.c"),
        ("contacts[type=fax].value", None),  # the list is there, and there is no fax in it
        ("contacts[type=mail].name", ABSENT),
        ("empty[].value", None),
        ("name[].value", ABSENT),
        ("contacts[type=mail]", RAW["contacts"][1]),
    ],
)
def test_value_at(place: str, value: Any) -> None:
    assert value_at(RAW, place) is value if value in (ABSENT, None) else value_at(RAW, place) == value


@pytest.mark.parametrize("place", ["", ".", "a..b", "a.", "a[", "a]b", "[x=1].b", "a[x].b"])
def test_what_is_no_place(place: str) -> None:
    with pytest.raises(ValueError, match="is no place"):
        steps(place)


def test_dot_in_a_condition_is_part_of_it() -> None:
    assert value_at({"rates": [{"for": "1.5", "value": 2}]}, "rates[for=1.5].value") == 2


def test_rows_are_told_with_their_ids_and_without_what_is_absent() -> None:
    found = values_at(RAW, ["name", "lines.item.code", "lines.note"], rows="lines")
    assert found == {"name": "Ana", "lines": [{"id": 7, "item.code": "x"}, {"id": 8}]}
    assert values_at({"lines": None}, ["lines.note"], rows="lines") == {"lines": []}
    assert values_at({}, ["lines.note"], rows="lines") == {}


@pytest.mark.parametrize(
    ("values", "body"),
    [
        ({"name": "Eva"}, {"name": "Eva"}),
        ({"address.city": "Köln", "address.zip": "5"}, {"address": {"city": "Köln", "zip": "5"}}),
        ({"gone.city": "Köln"}, {"gone": {"city": "Köln"}}),
        (
            {"contacts[type=phone].value": "2", "contacts[type=fax].value": "3"},
            {
                "contacts": [
                    {"type": "phone", "value": "2"},
                    RAW["contacts"][1],
                    {"type": "fax", "value": "3"},
                ]
            },
        ),
        ({"empty[].value": "1"}, {"empty": [{"value": "1"}]}),
        (
            {"lines": [{"id": "7", "item.code": "y"}, {"id": None, "item.code": "z"}]},
            {"lines": [{"id": 7, "item": {"code": "y"}, "tax": 1}, {"item": {"code": "z"}}]},
        ),
    ],
)
def test_body_holds_what_is_written_and_the_rest_of_a_list(values: dict[str, Any], body: dict[str, Any]) -> None:
    before = repr(RAW)
    assert body_of(values, RAW, rows="lines") == body
    assert body_of(values, RAW, rows="lines", whole=True) | {"address": None} == RAW | body | {"address": None}
    assert repr(RAW) == before


def test_whole_body_keeps_what_is_beside_a_written_place() -> None:
    assert body_of({"address.city": "Köln"}, RAW, whole=True)["address"] == {"city": "Köln", "geo": None}
