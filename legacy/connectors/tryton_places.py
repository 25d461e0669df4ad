"""Where values stand in a Tryton record: finding them, and the commands that put them there. Functions of values.

A place is a field (`name`), a field of the record that a field names (`shipment_address.city`), or a field of one
record in a list: `addresses[].city` of the first, `contact_mechanisms[type=phone].value` of the first one that is so.
Records are taken as Tryton answers them:
`{"id": 7, "party.": {"id": 3, "name": "Ana"}, "lines.": [{"id": 1, "quantity": 2.0}]}`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

from legacy.connector import marker_in

Raw = Mapping[str, Any]
Commands = dict[str, Any]
# (path of lists and records, field, value) → what Tryton is to be given: a name becomes the id of what it names.
Resolve = Callable[[str, str, Any], tuple[str, Any]]


class Spot(NamedTuple):
    """A place, taken apart."""

    among: str  # the list, or nothing
    where: tuple[tuple[str, str], ...]
    leaf: str


@cache
def spot(place: str) -> Spot:
    """Raises ValueError for what is no place."""
    found = re.fullmatch(r"(?:([\w.]+)\[((?:[\w.]+=[^,\]]+,?)*)\]\.)?(\w[\w.]*)", place)
    if not found:
        raise ValueError(f"{place!r} is no place in a Tryton record")
    among, where, leaf = found.groups(default="")
    pairs = (pair.partition("=") for pair in where.split(",") if pair)
    return Spot(among, tuple((name, value) for name, _, value in pairs), leaf)


def look(raw: Raw | None, path: str) -> Any:
    """The value at a dotted path; None where anything on the way is missing."""
    outer, _, name = path.rpartition(".")
    return ((_related(raw, outer) if outer else raw) or {}).get(name)


def value_at(raw: Raw, place: str) -> Any:
    at = spot(place)
    return look(_member(raw, at), at.leaf) if at.among else look(raw, at.leaf)


def marker_at(raw: Raw, place: str) -> str:
    """Our marker in a record, wherever in the list it stands; nothing where a person wrote something else there."""
    at = spot(place)
    found = [look(each, at.leaf) for each in _list(raw, at.among)] if at.among else [look(raw, at.leaf)]
    return next(filter(None, map(marker_in, found)), "")


def fields_of(places: Collection[str], rows: str = "") -> list[str]:
    """The fields to ask Tryton for, with the stamps by which `update` notices that another was faster."""
    names = {"_timestamp"}
    for at in map(spot, places):
        prefix = f"{at.among}." if at.among else ""
        names |= {prefix + at.leaf, *(prefix + name for name, _ in at.where)}
        if at.among and "." not in at.among:
            names.add(f"{at.among}._timestamp")
    return sorted(names | ({f"{rows}._timestamp"} if rows else set()))


def commands(values: Mapping[str, Any], raw: Raw | None, resolve: Resolve) -> Commands:
    """What to give Tryton's `create` (`raw` None) or `write`, so that every place of `values` has its value.

    A record of a list is written where it is there, made where it is not, and deleted where a place that names it by
    what it is (`[type=phone]`) is emptied: Tryton keeps no empty telephone.
    """
    written: Commands = {}
    among: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Any]] = {}
    for place, value in values.items():
        at = spot(place)
        if at.among:
            among.setdefault((at.among, at.where), {})[at.leaf] = value
        else:
            name, resolved = resolve("", at.leaf, value)
            written[name] = resolved
    for (path, where), leaves in among.items():
        found = _member(raw, Spot(path, where, ""))
        blank = all(value in (None, "") for value in leaves.values())
        new = leaves if found else {**dict(where), **leaves}
        content = dict(resolve(path, name, value) for name, value in new.items())
        if found and blank and where:
            written.setdefault(path, []).append(["delete", [found["id"]]])
        elif found:
            written.setdefault(path, []).append(["write", [found["id"]], content])
        elif not blank:
            written.setdefault(path, []).append(["create", [content]])
    return written


def row_commands(
    rows: list[Mapping[str, Any]],
    there: Mapping[str, Mapping[str, Any]],
    resolve: Callable[[str, Any], tuple[str, Any]],
) -> list[Any]:
    """The same for a whole list: `rows` as they shall be (`id` None: new), `there` as they are now, by id."""
    result: list[Any] = []
    for row in rows:
        now = there.get(str(row["id"]))
        if now and all(row[place] == value for place, value in now.items() if place in row and place != "id"):
            continue
        command = dict(resolve(place, value) for place, value in row.items() if place != "id")
        result.append(["write", [int(row["id"])], command] if now else ["create", [command]])
    gone = there.keys() - {str(row["id"]) for row in rows}
    return result + ([["delete", sorted(map(int, gone))]] if gone else [])


def stamps(raw: Any, model: str, relation: Callable[[str, str], str]) -> dict[str, str]:
    """The version of a record and of the records in its lists, as Tryton wants them back."""
    found = {f"{model},{raw['id']}": raw["_timestamp"]}
    for name, value in raw.items():
        if name.endswith(".") and isinstance(value, list):
            child = relation(model, name[:-1])
            found |= {f"{child},{each['id']}": each["_timestamp"] for each in value if each.get("_timestamp")}
    return found


def _member(raw: Raw | None, at: Spot) -> Raw | None:
    for child in _list(raw, at.among):
        if all(str(look(child, name)) == value for name, value in at.where):
            return child
    return None


def _list(raw: Raw | None, path: str) -> list[Raw]:
    return _related(raw, path) or []


def _related(raw: Raw | None, path: str) -> Any:
    """The record, or the list of records, that a dotted path of relations leads to."""
    for name in path.split("."):
        raw = (raw or {}).get(f"{name}.")
    return raw
