"""A second, small model of the merge, from the protocol's text and the history alone: both must come to the same.

It leaves out what is rare and long: rows that were deleted and made again since the base, and moments that the clocks
cannot tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sync.declare import ASK, Declaration, declarations
from sync.merge import Policy, policy_name
from tests.simulation.device import Made
from tests.simulation.ledger import Answer, Change, Ledger, Row
from tests.simulation.oracle import Key, equal

DECLARED: Mapping[str, Declaration] = {declaration.entity: declaration for declaration in declarations()}
BY_DELETE = {"edit_wins": "server", "delete_wins": "device", "manual": "open"}
BY_EDIT = {"edit_wins": "device", "delete_wins": "server", "manual": "open"}


class Unsure(Exception):
    """This model does not say."""


@dataclass
class Expected:
    """`row`: right after the mutation. `state`: of the conflict record; None: there is none."""

    status: str
    row: Row | None
    state: str | None = None
    fields: set[str] = field(default_factory=set)


class Case(NamedTuple):
    """One mutation and what it met: the row, and what others and its own device had done since its base."""

    made: Made
    answer: Answer
    row: Row | None
    changes: Sequence[tuple[Change, bool]]  # and whether it is the device's own
    ledger: Ledger
    all_made: Mapping[str, Made]
    mixed: Mapping[
        str, Sequence[str]
    ]  # by mutation: the fields to which a function gave a value that is neither side's

    @property
    def policies(self) -> Declaration:
        return DECLARED[self.made.entity]


def expect(
    made: Made,
    met: int,
    device: str,
    ledger: Ledger,
    all_made: Mapping[str, Made],
    mixed: Mapping[str, Sequence[str]],
) -> Expected:
    """What should become of a mutation of a device that met the row at this revision. Raises Unsure."""
    key: Key = (made.entity, made.row)
    answer = ledger.answers[made.id]
    base = 0 if made.op == "create" else made.base or 0
    changes = [
        (change, change.author == f"device:{device}" or change.mutation in answer.ids)
        for change in ledger.changes[key]
        if base < change.rev <= met
    ]
    # A row that the device itself deleted, and made again, is its own.
    deleted = max((c.rev for c, own in changes if own and c.op == "delete"), default=0)
    if deleted < met:
        changes = [(change, own) for change, own in changes if change.rev > deleted]
    case = Case(made, answer, ledger.states[key].get(met), changes, ledger, all_made, mixed)
    if base > met:
        raise Unsure
    if made.op == "delete":
        return _delete(case)
    if case.row is None:
        return Expected("applied", dict(made.set)) if made.op == "create" else _edit_of_deleted(case)
    if made.op == "create":
        return _create_of_present(case)
    if any(change.op != "update" for change, own in changes if not own):
        raise Unsure
    return _update(case, case.row)


def _by_others(case: Case) -> set[str]:
    """The fields that others changed after the device itself last did."""
    return {
        name for change, _ in case.changes if change.op == "update" for name in change.old if _new(case, name, change)
    }


def _new(case: Case, name: str, change: Change) -> bool:
    """Whether the device cannot know what a change did to a field: it is another's, or mixed, and still stands."""
    if (change, True) in case.changes and name not in case.mixed.get(change.mutation or "", ()):
        return False
    counter = name in case.policies.counters
    return counter or not any(
        own and mine.rev > change.rev and name in mine.old and name not in case.mixed.get(mine.mutation or "", ())
        for mine, own in case.changes
    )


def _base(case: Case, name: str, row: Row) -> Any:
    """What the device had in a field: the first value that was replaced without its knowledge."""
    replaced = (c.old[name] for c, _ in case.changes if name in c.old and _new(case, name, c))
    return next(replaced, row[name])


def _update(case: Case, row: Row) -> Expected:
    changed = _by_others(case)
    values, states, disputed = _three_way(case, row, changed)
    kept = states & {"open", "server"}
    state = _together(states)
    if kept and case.made.group:
        return Expected("conflict", row, "open" if "open" in states else "server", disputed)
    after = _with_amounts(case.made, {**row, **values})
    return Expected("conflict" if kept else "merged" if changed else "applied", after, state, disputed)


def _three_way(case: Case, row: Row, changed: set[str]) -> tuple[dict[str, Any], set[str], set[str]]:
    """The values to be written, how the disputes were decided, and the fields in dispute."""
    sent, values, states, disputed = case.made.set, dict[str, Any](), set[str](), set[str]()
    asked: dict[Policy, list[tuple[str, ...]]] = {}
    for unit in dict.fromkeys(_unit(case, name) for name in sent):
        device = {name: sent[name] if name in sent else _base(case, name, row) for name in unit}
        if all(equal(name, device[name], row[name]) for name in unit):
            continue
        if not changed & set(unit):
            values |= {name: sent[name] for name in unit if name in sent}
            continue
        disputed |= set(unit)
        policy = case.policies.conflict_fields.get(unit[0], case.policies.conflict)
        if not isinstance(policy, str):
            asked.setdefault(policy, []).append(unit)
            continue
        state = _decided(case, policy, unit)
        states.add(state)
        values |= device if state == "device" else {}
    for function, units in asked.items():
        names = [name for unit in units for name in unit]
        assert not isinstance(function, str)
        base, server = ({name: get(name) for name in names} for get in (lambda n: _base(case, n, row), row.__getitem__))
        device = {name: sent.get(name, base[name]) for name in names}
        answer = function(base, server, device)
        if answer is ASK:
            states.add("open")
            continue
        assert isinstance(answer, Mapping)
        result = server | dict(answer)
        states.add("server" if result == server else "device" if result == device else "mixed")
        values |= result
    return values, states, disputed


def _unit(case: Case, name: str) -> tuple[str, ...]:
    return next((unit for unit in case.policies.units if name in unit), (name,))


def _decided(case: Case, policy: str, unit: tuple[str, ...]) -> str:
    if policy != "latest_wins":
        return {"server_wins": "server", "device_wins": "device", "manual": "open"}[policy]
    theirs = [_moments(case, c) for c, _ in case.changes if any(name in c.old and _new(case, name, c) for name in unit)]
    began, ended = case.answer.moments(case.made.made_at)
    latest = theirs[-1]
    if began > latest[1]:
        return "device"
    if ended < latest[0]:
        return "server"
    raise Unsure


def _moments(case: Case, change: Change) -> tuple[datetime, datetime]:
    if change.mutation and (made := case.all_made.get(change.mutation)):
        return case.ledger.answers[made.id].moments(made.made_at)
    return change.at, change.at


def _together(states: set[str]) -> str | None:
    if "open" in states or not states:
        return "open" if states else None
    return states.pop() if len(states) == 1 else "mixed"


def _with_amounts(made: Made, row: dict[str, Any]) -> dict[str, Any]:
    for name, amount in made.add.items():
        row[name] = str(Decimal(row[name]) + Decimal(amount)) if isinstance(row[name], str) else row[name] + int(amount)
    return row


def _delete(case: Case) -> Expected:
    if case.row is None:
        return Expected("applied", None)
    others = {change.op for change, own in case.changes if not own}
    if others and any(own and change.op == "insert" for change, own in case.changes):
        raise Unsure
    if "insert" not in others and not _by_others(case):
        return Expected("applied", None)
    state = BY_DELETE[case.policies.delete_conflict]
    if state == "device":
        return Expected("merged", None, state)
    return Expected("conflict", case.row, state)


def _edit_of_deleted(case: Case) -> Expected:
    """The row comes back where edits win, as it was when it was deleted, with the edit merged into it."""
    gone = case.changes[-1][0] if case.changes else None
    if gone is None or gone.op != "delete" or case.changes[-1][1]:
        raise Unsure
    if any(change.op != "update" for change, _ in case.changes[:-1]):
        raise Unsure
    state = BY_EDIT[case.policies.delete_conflict]
    if state != "device":
        return Expected("conflict", None, state)
    before = case._replace(changes=case.changes[:-1], row=gone.old)
    values, states, disputed = _three_way(before, gone.old, _by_others(before))
    if states & {"open", "server"}:
        if case.made.group:
            return Expected("conflict", None, "open" if "open" in states else "server", disputed)
        status = "conflict"
    else:
        status = "merged"
    after = _with_amounts(case.made, {**gone.old, **values})
    return Expected(status, after, _together({"device", *states}), disputed)


def _create_of_present(case: Case) -> Expected:
    """A row that another made with the same id: whatever differs is in dispute."""
    if not case.changes:
        raise Unsure
    first, own = case.changes[0]
    if own or first.op != "insert" or any(change.op != "update" or mine for change, mine in case.changes[1:]):
        raise Unsure
    row = case.row
    assert row is not None
    differs = {name for name, value in case.made.set.items() if not equal(name, value, row[name])}
    if any(len(_unit(case, name)) > 1 for name in differs):
        raise Unsure
    if not all(isinstance(case.policies.conflict_fields.get(name, ""), str) for name in differs):
        raise Unsure
    states = {_decided(case, str(case.policies.conflict_fields.get(n, case.policies.conflict)), (n,)) for n in differs}
    if not states:
        return Expected("merged", row)
    if states & {"open", "server"} and case.made.group:
        return Expected("conflict", row, "open" if "open" in states else "server", differs)
    taken = {n for n in differs if case.policies.conflict_fields.get(n, case.policies.conflict) == "device_wins"}
    after = {**row, **{name: case.made.set[name] for name in taken}}
    return Expected("conflict" if states & {"open", "server"} else "merged", after, _together(states), differs)


def policies_of(expected: Expected, entity: str) -> set[str]:
    """The names of the policies that decide about these fields."""
    declared = DECLARED[entity]
    return {policy_name(declared.conflict_fields.get(name, declared.conflict)) for name in expected.fields}
