"""Where values stand in a JSON record: finding them, and putting them there. Functions of values.

A place is a dotted path (`address.city`). On the way there may be a list: `contacts[].name` is of its first member,
`contacts[type=phone].value` of the first one that is so.
"""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

Raw = Mapping[str, Any]
ABSENT: Any = object()  # not the same as None: the record says nothing about it


class Step(NamedTuple):
    name: str
    where: tuple[tuple[str, str], ...] | None  # None: no list


@cache
def steps(place: str) -> tuple[Step, ...]:
    """Raises ValueError for what is no place."""
    parts = re.findall(r"(?:[^.\[\]]|\[[^\]]*\])+", place)
    found = [re.fullmatch(r"([^.\[\]]+)(?:\[((?:[^=,\]]+=[^,\]]*,?)*)\])?", part) for part in parts]
    if not parts or ".".join(parts) != place or not all(found):
        raise ValueError(f"{place!r} is no place in a JSON record")
    return tuple(_step(each[1], each[2]) for each in found if each)


def _step(name: str, where: str | None) -> Step:
    pairs = (pair.partition("=") for pair in (where or "").split(",") if pair)
    return Step(name, None if where is None else tuple((key, value) for key, _, value in pairs))


def value_at(raw: Any, place: str) -> Any:
    """ABSENT where the record does not tell; None where it tells that there is nothing, there or on the way."""
    for name, where in steps(place):
        if raw is None:
            return None
        if not isinstance(raw, dict) or name not in raw:
            return ABSENT
        raw = raw[name]
        if where is not None and raw is not None:
            raw = _member(raw, where) if isinstance(raw, list) else ABSENT
    return raw


def values_at(raw: Raw, places: Iterable[str], rows: str = "") -> dict[str, Any]:
    """What a record tells of the places; its rows as a list of such values, each with its `id`."""
    prefix = f"{rows}." if rows else "\0"
    places = list(places)
    values = _told(raw, (place for place in places if not place.startswith(prefix) and place != rows))
    found = value_at(raw, rows) if rows else ABSENT
    if found is not ABSENT:
        leaves = ["id", *(place.removeprefix(prefix) for place in places if place.startswith(prefix))]
        values[rows] = [_told(row, leaves) for row in found or []]
    return values


def body_of(values: Mapping[str, Any], raw: Raw | None, rows: str = "", whole: bool = False) -> dict[str, Any]:
    """What to send so that every place of `values` has its value; `whole`: with all that the record has now.

    A list is sent whole, since that is how JSON APIs take one: what the mapping does not know in it stays as it is.
    """
    body: dict[str, Any] = deepcopy(dict(raw)) if whole and raw else {}
    for place, value in values.items():
        content = _rows(value, value_at(raw, rows)) if place == rows else value
        _put(body, raw or {}, steps(place), content)
    return body


def _rows(rows: Iterable[Mapping[str, Any]], there: Any) -> list[dict[str, Any]]:
    now = {str(row.get("id")): row for row in there} if isinstance(there, list) else {}
    sent = []
    for row in rows:
        raw = now.get(str(row["id"]), {})
        known = {"id": raw["id"]} if "id" in raw else {} if row["id"] is None else {"id": row["id"]}
        leaves = {place: value for place, value in row.items() if place != "id"}
        sent.append(body_of(leaves, raw, whole=True) | known)
    return sent


def _put(body: dict[str, Any], raw: Any, way: tuple[Step, ...], value: Any) -> None:
    (name, where), *rest = way
    now = raw.get(name) if isinstance(raw, dict) else None
    if where is not None:
        members = body.setdefault(name, deepcopy(now) if isinstance(now, list) else [])
        member = _member(members, where)
        if member is None:
            member = dict(where)
            members.append(member)
        _put(member, member, tuple(rest), value)
    elif rest:
        if not isinstance(body.get(name), dict):
            body[name] = {}
        _put(body[name], now, tuple(rest), value)
    else:
        body[name] = value


def _told(raw: Any, places: Iterable[str]) -> dict[str, Any]:
    found = {place: value_at(raw, place) for place in places}
    return {place: value for place, value in found.items() if value is not ABSENT}


def _member(members: list[Any], where: tuple[tuple[str, str], ...]) -> Any:
    for each in members:
        if isinstance(each, dict) and all(str(each.get(name)) == value for name, value in where):
            return each
    return None
