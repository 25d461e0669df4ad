"""What becomes of each mutation: a pure function of the mutations and of what the server knows of their rows.

No database, clock or Django here. The shell (`sync.push`) reads the state, asks `decide`, writes, and asks again where
the database refused something.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from sync.mutation import NO_VALUES, Error, Mutation, Values, error


class RowKey(NamedTuple):
    entity: str
    row: str


class RowState(msgspec.Struct, frozen=True, gc=False):
    """What the server knows of a row, for one device.

    `rev` is 0 for a row that never was. `known`: the device may know of it (it is, or was when it was deleted, in one
    of its scopes). `foreign_rev`: the last revision that somebody else wrote; None: not looked up, as nothing asked.
    """

    rev: int = 0
    alive: bool = False
    known: bool = False
    foreign_rev: int | None = None
    deleted_by_device: bool = False

    @property
    def visible(self) -> bool:
        return self.alive and self.known


NEVER = RowState()


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A mutation with its checked values, or with what was wrong with it already."""

    key: RowKey
    mutation: Mutation
    values: Values = NO_VALUES
    errors: tuple[Error, ...] = ()
    references: tuple[tuple[str, RowKey], ...] = ()


class Unit(NamedTuple):
    """What takes effect together or not at all: a group, or a mutation that stands alone."""

    group: str | None
    members: tuple[int, ...]


class Verdict(NamedTuple):
    """`write`: it is to be written. Otherwise `conflict`, `rejected` (with errors), or `applied` with nothing to do."""

    status: str
    errors: tuple[Error, ...] = ()


WRITE = Verdict("write")
CONFLICT = Verdict("conflict")
DONE = Verdict("applied")


def rejected(*errors: Error) -> Verdict:
    return Verdict("rejected", errors)


class Interleaved(ValueError):
    """A group's members stand around another mutation of one of their rows, so that no order would be right."""


def units_of(candidates: Sequence[Candidate], places: Iterable[int]) -> list[Unit]:
    """The units of the mutations at these places, in the order in which they take effect.

    That is as sent, but a parent that comes later is moved before its child, unless that would change the order of the
    mutations of some row. Raises Interleaved.
    """
    places = list(places)
    if not any(candidates[at].references or candidates[at].mutation.group for at in places):
        return [Unit(None, (at,)) for at in places]
    members: dict[str | int, list[int]] = {}
    for at in places:
        members.setdefault(candidates[at].mutation.group or at, []).append(at)
    _refuse_interleaved(candidates, members)
    units = [Unit(key if isinstance(key, str) else None, tuple(found)) for key, found in members.items()]
    place_of = {at: place for place, unit in enumerate(units) for at in unit.members}
    first: dict[RowKey, int] = {}
    for at in places:
        first.setdefault(candidates[at].key, at)
    # A row whose first mutation is no create was there before.
    creator = {key: place_of[at] for key, at in first.items() if candidates[at].mutation.op == "create"}
    parents = [
        {creator[key] for at in unit.members for _, key in candidates[at].references if key in creator}
        for unit in units
    ]
    if all(parent <= place for place, found in enumerate(parents) for parent in found):
        return units
    before = _row_order(candidates, units)
    order = _parents_first([found | before[place] for place, found in enumerate(parents)])
    now = {place: number for number, place in enumerate(order)}
    if any(now[earlier] > now[place] for place in now for earlier in before[place]):
        return units
    return [units[place] for place in order]


def _row_order(candidates: Sequence[Candidate], units: Sequence[Unit]) -> list[set[int]]:
    """For each unit the places of those that changed one of its rows just before it."""
    last: dict[RowKey, int] = {}
    before: list[set[int]] = []
    for place, unit in enumerate(units):
        rows = {candidates[at].key for at in unit.members}
        before.append({last[row] for row in rows if row in last})
        last |= dict.fromkeys(rows, place)
    return before


def _parents_first(parents: Sequence[set[int]]) -> list[int]:
    """The places in order, but each after its parents; where parents go round in a circle, as they come."""
    ordered: dict[int, None] = {}
    for start in range(len(parents)):
        path, entered = [start], {start}
        while path:
            place = path[-1]
            if waiting := parents[place] - entered - ordered.keys():
                path.append(min(waiting))
                entered.add(path[-1])
            else:
                ordered.setdefault(path.pop())
    return list(ordered)


def _refuse_interleaved(candidates: Sequence[Candidate], members: Mapping[str | int, Sequence[int]]) -> None:
    for found in members.values():
        if found[-1] - found[0] + 1 == len(found):
            continue
        inside = set(found)
        rows = {candidates[at].key for at in found}
        between = (at for at in range(found[0], found[-1]) if at not in inside)
        if any(candidates[at].key in rows for at in between):
            raise Interleaved(str(candidates[found[0]].mutation.group))


def decide(
    candidates: Sequence[Candidate],
    units: Iterable[Unit],
    states: Mapping[RowKey, RowState],
    failures: Mapping[int, tuple[Error, ...]],
) -> tuple[dict[int, Verdict], dict[RowKey, RowState]]:
    """The verdict of every member of `units`, and the states of the rows after them.

    `failures` are the mutations that the database has refused so far. A mutation that refers to a row which is not
    there, or whose creation fails in this very batch, is rejected; so is every member of a group one of whose members
    is not written. Both may bring down further ones, so it goes round until nothing changes.
    """
    units = list(units)
    failed = dict(failures)
    while True:
        verdicts, after = _pass(candidates, units, states, failed)
        more = _missing_references(candidates, verdicts, after) | _broken_groups(units, verdicts)
        if not more:
            return verdicts, after
        failed |= more


def _pass(
    candidates: Sequence[Candidate],
    units: Sequence[Unit],
    states: Mapping[RowKey, RowState],
    failed: Mapping[int, tuple[Error, ...]],
) -> tuple[dict[int, Verdict], dict[RowKey, RowState]]:
    verdicts: dict[int, Verdict] = {}
    after = dict(states)
    for unit in units:
        for at in unit.members:
            candidate = candidates[at]
            state = after.get(candidate.key, NEVER)
            errors = failed.get(at, candidate.errors)
            verdicts[at] = rejected(*errors) if errors else judge(candidate, state)
            if verdicts[at] is WRITE:
                after[candidate.key] = _written(candidate.mutation, state)
    return verdicts, after


def judge(candidate: Candidate, state: RowState) -> Verdict:
    """The verdict of one mutation on one row. Policy of this version: after any concurrent change the server's wins."""
    mutation = candidate.mutation
    match mutation.op:
        case "create":
            if state.visible:
                return CONFLICT
            return rejected(error("already_exists", "id")) if state.alive else WRITE
        case "update":
            if not state.known or (not state.alive and state.deleted_by_device):
                return rejected(error("not_found"))
            if not state.alive:
                return CONFLICT
            if not candidate.values.fields:  # amounts add up whoever wrote before
                return WRITE if candidate.values.amounts else DONE
            return CONFLICT if is_stale(mutation.base, state) else WRITE
        case _:
            if not state.known:
                return rejected(error("not_found"))
            if not state.alive:
                return DONE
            return CONFLICT if is_stale(mutation.base, state) else WRITE


def is_stale(base: int | None, state: RowState) -> bool:
    """Whether anybody but the device itself wrote the row after `base`."""
    if base is not None and base == state.rev:
        return False
    assert state.foreign_rev is not None, "a row whose base is not its revision is looked up in the history"
    return state.foreign_rev > (base or 0) or (base or 0) > state.rev


def _written(mutation: Mutation, state: RowState) -> RowState:
    deleted = mutation.op == "delete"
    foreign = state.foreign_rev if state.foreign_rev is not None else mutation.base or 0
    return RowState(state.rev + 1, not deleted, True, foreign, deleted)


def _missing_references(
    candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict], after: Mapping[RowKey, RowState]
) -> dict[int, tuple[Error, ...]]:
    missing = {}
    for at, verdict in verdicts.items():
        if verdict is not WRITE or not candidates[at].references:
            continue
        gone = [name for name, key in candidates[at].references if not after.get(key, NEVER).visible]
        if gone:
            missing[at] = tuple(error("missing_reference", name) for name in gone)
    return missing


def _broken_groups(units: Sequence[Unit], verdicts: Mapping[int, Verdict]) -> dict[int, tuple[Error, ...]]:
    return {
        at: (error("group_failed"),)
        for unit in units
        if unit.group and any(verdicts[at].status in {"conflict", "rejected"} for at in unit.members)
        for at in unit.members
        if verdicts[at].status in {"write", "applied"}
    }


def waves_of(candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict]) -> list[list[int]]:
    """The mutations to write, in waves: the n-th holds the n-th write of each row, so each is one set of statements."""
    waves: list[list[int]] = []
    seen: dict[RowKey, int] = {}
    for at, verdict in verdicts.items():
        if verdict is WRITE:
            number = seen.get(candidates[at].key, 0)
            seen[candidates[at].key] = number + 1
            if number == len(waves):
                waves.append([])
            waves[number].append(at)
    return waves
