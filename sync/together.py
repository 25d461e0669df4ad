"""What in quarantine waits for another mutation of its device, and is replayed with it."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from sync.amend import Invalid
from sync.candidates import references_in
from sync.checker import checker
from sync.decide import RowKey
from sync.models import Rejection
from sync.mutation import Mutation, Values, error
from sync.wire import entities

WAITING = frozenset({"not_found", "missing_reference", "group_failed"})  # for another mutation, as far as one can tell


def waiting_with(rejection: Rejection) -> list[Rejection]:
    """What is replayed with a rejection, itself included, in the order in which it came."""
    known = {candidate.pk: candidate for candidate in _waiting(rejection)}
    units: dict[UUID, list[Rejection]] = {}
    for each in known.values():
        units.setdefault(each.group or each.pk, []).append(each)
    chosen = {each.pk for each in units[rejection.group or rejection.pk]}
    others = [unit for unit in units.values() if unit[0].pk not in chosen and all(r.cause in WAITING for r in unit)]
    needed = {each.pk: _references(each) for unit in others for each in unit}
    while True:
        made, first = _made(known[pk] for pk in chosen)
        more = [
            unit
            for unit in others
            if unit[0].pk not in chosen
            and any(_place(r) > first.get(key_of(r), _place(r)) or not made.isdisjoint(needed[r.pk]) for r in unit)
        ]
        if not more:
            return [each for pk, each in known.items() if pk in chosen]
        chosen |= {each.pk for unit in more for each in unit}


def _made(rejections: Iterable[Rejection]) -> tuple[set[RowKey], dict[RowKey, tuple[Any, ...]]]:
    """The rows that these make, and for each row that they change the place of the first of them."""
    made: set[RowKey] = set()
    first: dict[RowKey, tuple[Any, ...]] = {}
    for each in rejections:
        key, place = key_of(each), _place(each)
        first[key] = min(place, first.get(key, place))
        if each.op == "create":
            made.add(key)
    return made, first


def _waiting(rejection: Rejection) -> list[Rejection]:
    """The device's rejections that may wait for this one, itself included."""
    found = Rejection.objects.filter(device=rejection.device, state=Rejection.State.OPEN)
    together = found.filter(group=rejection.group) if rejection.group else found.filter(pk=rejection.pk)
    groups = found.filter(cause__in=WAITING, group__isnull=False).values("group")
    return list((found.filter(cause__in=WAITING) | found.filter(group__in=groups) | together).order_by(*_ORDER))


_ORDER = ("created_at", "place", "pk")


def _place(rejection: Rejection) -> tuple[Any, ...]:
    return rejection.created_at, rejection.place


def key_of(rejection: Rejection) -> RowKey:
    """The row that it is about."""
    return RowKey(rejection.entity, str(rejection.row_id))


def needs_of(rejection: Rejection) -> set[RowKey]:
    """The rows without which it is refused again, as far as one can tell. Raises Invalid."""
    return {key_of(rejection)} if rejection.cause == "not_found" else _references(rejection)


def _references(rejection: Rejection) -> set[RowKey]:
    """The rows that a mutation which lacked one refers to."""
    entity = entities().get(rejection.entity)
    if entity is None or not any(each["code"] == "missing_reference" for each in rejection.errors):
        return set()
    values = checker(entity).check(mutation_of(rejection))
    return {key for _, key in references_in(entity)(values)} if isinstance(values, Values) else set()


def mutation_of(rejection: Rejection) -> Mutation:
    """The mutation as it came. Raises Invalid where it cannot be read any more."""
    try:
        return msgspec.json.decode(rejection.body, type=Mutation)
    except (msgspec.DecodeError, RecursionError):
        raise Invalid(error("invalid_mutation")) from None
