"""What is at stake in a conflict, and what taking a side would write: functions of the record and of the row as it is.

No side is taken blindly where somebody has changed the fields at stake since the conflict was recorded.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sync.amend import Change, Invalid, Row, Side, checked, differing, refusal, revived
from sync.decide import RowKey
from sync.merge import added, same
from sync.models import Conflict, Decision
from sync.mutation import Error, error
from sync.wire import Entity, entities

State = Conflict.State
UNWRITTEN = frozenset({State.OPEN, State.SERVER})  # what the device sent, as far as it is in dispute, is not in the row


@dataclass(frozen=True)
class Stakes:
    """What a page shows of one conflict. All values are in wire form, by field, and only of `names`.

    `names`: the fields in dispute (`disputed`) and the others that the device set, in the model's order. `base`: as the
    device had them (None: unknown). `device`: as it wants them; a field that cannot be known is left out, and nothing
    is in it where it deleted the row. `server`: the row now, and `server_then`: when the mutation came (None: it is, or
    was, not there). `rev`: of the row now; `seen`: how often it was decided about the conflict. Both are what `resolve`
    is given back, so that nobody decides about anything else than was shown. `standing`: the decision in force, if a
    person took one. `without`: counters as they would be without what the device added to them, where that waits for
    the decision.
    """

    conflict: Conflict
    names: list[str]
    disputed: frozenset[str]
    base: Row | None
    device: Row
    server: Row | None
    server_then: Row | None
    rev: int
    seen: int
    row_deleted: bool
    standing: Decision | None
    without: Row
    side: Side

    @property
    def server_side(self) -> Row | None:
        """What the row had when the mutation came, without the device's amounts; None: it was not there."""
        return None if self.server_then is None else {**self.server_then, **self.without}

    @property
    def contested(self) -> list[str]:
        """The fields that one side or the other loses: those in dispute, or all where nothing was applied."""
        whole = not self.disputed or self.conflict.group is not None
        return self.names if whole else [name for name in self.names if name in self.disputed]


def kinds_of(entity: str) -> dict[str, str]:
    """The wire types of an entity's fields; none where there is no such entity."""
    return {field.name: field.type for field in entities()[entity].fields} if entity in entities() else {}


def key_of(conflict: Conflict) -> RowKey:
    return RowKey(conflict.entity, str(conflict.row_id))


def stakes_in(conflict: Conflict, side: Side, decisions: list[Decision]) -> Stakes:
    """What is at stake in a conflict about this row, after these decisions, the oldest first."""
    entity = entities().get(conflict.entity)
    amounts = _amounts(conflict, entity, decisions)
    names = _names(conflict, entity, amounts)
    sent = conflict.device_values.get("set") or {}
    base, then = conflict.base, conflict.server
    device = {name: base[name] for name in conflict.fields if base and name in base} | sent
    row, kinds = side.row if side.row is not None else side.gone or {}, kinds_of(conflict.entity)
    device |= {n: row.get(n) if in_row else added(kinds[n], row.get(n), by) for n, (by, in_row) in amounts.items()}
    return Stakes(
        conflict=conflict,
        names=names,
        disputed=frozenset(conflict.fields),
        base=None if base is None else _only(names, base),
        device={} if conflict.op == "delete" else _only(names, device),
        server=None if side.row is None else _only(names, side.row),
        server_then=None if then is None else _only(names, then),
        rev=side.rev,
        seen=sum(1 if decision.undone_at is None else 2 for decision in decisions),
        row_deleted=side.row is None,
        standing=next((d for d in reversed(decisions) if d.undone_at is None), None),
        without={
            n: _taken_off(kinds[n], row.get(n), by) if in_row else row.get(n) for n, (by, in_row) in amounts.items()
        },
        side=side,
    )


def _names(conflict: Conflict, entity: Entity | None, amounts: Iterable[str]) -> list[str]:
    found = {*conflict.fields, *(conflict.device_values.get("set") or {}), *amounts}
    if conflict.op == "delete":
        found |= {*(conflict.server or {}), *(conflict.base or {})}
    # A field that devices may not see any more is nobody's business here either.
    return [field.name for field in entity.fields if field.name in found] if entity else []


def _amounts(conflict: Conflict, entity: Entity | None, decisions: Sequence[Decision]) -> dict[str, tuple[Any, bool]]:
    """What the device added to counters, and whether a decision has added it since, where it was not applied at once.

    Amounts never wait for a decision about fields. A counter that a person gave a value of its own is left out.
    """
    arrived = decisions[0].state_before if decisions else conflict.state
    if entity is None or arrived not in UNWRITTEN or (conflict.server is not None and conflict.group is None):
        return {}
    sent: Mapping[str, Any] = conflict.device_values.get("add") or {}
    counters = {field.name: field.type for field in entity.fields if field.counter and field.name in sent}
    in_row = {name: _in_row(name, kind, sent[name], decisions) for name, kind in counters.items()}
    return {name: (sent[name], there) for name, there in in_row.items() if there is not None}


def _in_row(name: str, kind: str, amount: Any, decisions: Iterable[Decision]) -> bool | None:
    there: bool | None = False
    for decision in decisions:
        before, after = decision.before, decision.after
        if after is None:
            continue
        if before is None:
            there = True  # for good: a row that is deleted again goes with it, and comes back with it
        elif name in after and decision.undone_at is None:
            plus, minus = added(kind, before.get(name), amount), _taken_off(kind, before.get(name), amount)
            there = True if same(kind, after[name], plus) else False if same(kind, after[name], minus) else None
    return there


def _taken_off(kind: str, value: Any, amount: Any) -> Any:
    return added(kind, value, -Decimal(amount))


def _only(names: list[str], row: Row) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


# --- what is written ---


def change_to(stakes: Stakes, values: Row | None, id: str) -> Change | None:
    """What a decision writes; None: nothing. `values` are those of `resolve`. Raises Invalid."""
    key, side = key_of(stakes.conflict), stakes.side
    entity = entities().get(key.entity)
    if entity is None:
        raise Invalid(error("unknown_entity"))
    if values is None:
        return None if side.row is None else Change(id, key, "delete", {})
    if outside := [name for name in values if name not in stakes.names]:
        raise Invalid(*(refusal("not_at_stake", name) for name in outside))
    if not values:
        return None
    if side.row is None:
        forgotten = side.gone is None
        return Change(
            id,
            key,
            "create",
            revived(key.entity, side, checked(key.entity, values, "create" if forgotten else "update")),
        )
    if apart := [name for unit in entity.declaration.units for name in _apart(stakes, unit, values)]:
        raise Invalid(*(refusal("unit_apart", name) for name in apart))
    changed = differing(entity, checked(key.entity, values), side.row)
    return Change(id, key, "update", changed) if changed else None


def _apart(stakes: Stakes, unit: tuple[str, ...], values: Row) -> list[str]:
    """The fields of a disputed unit that a decision leaves out while it gives others: half of each would be left."""
    if stakes.disputed.isdisjoint(unit) or values.keys().isdisjoint(unit):
        return []
    return [name for name in unit if name in stakes.names and name not in values]


def state_of(stakes: Stakes, values: Row | None) -> State:
    """Where the conflict stands once a person has decided for these values."""
    conflict, now = stakes.conflict, stakes.server
    if values is None:
        if conflict.op == "delete":
            return State.DEVICE
        return State.SERVER if stakes.row_deleted or stakes.server_then is None else State.MIXED
    if not values:
        return State.SERVER if conflict.state in UNWRITTEN else State(conflict.state)
    result = {**(now or {}), **values}
    if conflict.op != "delete" and _equal(stakes, result, stakes.device):
        return State.DEVICE
    as_now = now is not None and _equal(stakes, result, now)
    as_then = stakes.server_side is not None and _equal(stakes, result, stakes.server_side)
    return State.SERVER if as_now or as_then else State.MIXED


def _equal(stakes: Stakes, one: Row, other: Row) -> bool:
    kinds = kinds_of(stakes.conflict.entity)
    return all(name in other and same(kinds[name], one.get(name), other[name]) for name in stakes.contested)


# --- taking a side, without a look at the values ---


def values_of(stakes: Stakes, side: str) -> Row | None:
    """What `resolve` is given to take the server's or the device's side as a whole. Raises Invalid."""
    conflict = stakes.conflict
    if side == "device":
        if conflict.op == "delete":
            return None
        wanted: Row | None = stakes.device
    elif conflict.state in UNWRITTEN:
        return {}
    else:
        wanted = stakes.server_side
    if wanted is None:
        return None
    if conflict.entity not in entities():
        raise Invalid(error("unknown_entity"))
    writable = {field.name for field in entities()[conflict.entity].writable_fields}
    names = [name for name in stakes.contested if name in writable]
    if side == "device" and (lost := _unwritable(stakes, writable)):
        raise Invalid(*lost)  # else the device would be told that its values were taken
    if side == "device" and not wanted.keys() >= set(names):
        raise Invalid(refusal("unknown_values"))
    return _only(names, wanted)


def _unwritable(stakes: Stakes, writable: Container[str]) -> list[Error]:
    """What the device sent in fields at stake that it could write then, and that nobody writes for it now."""
    conflict, names = stakes.conflict, {field.name for field in entities()[stakes.conflict.entity].fields}
    sent = conflict.device_values.get("set") or {}
    whole = not conflict.fields or conflict.group is not None
    lost = [name for name in sent if name not in writable and (whole or name in conflict.fields)]
    return [error("read_only_field" if name in names else "unknown_field", name) for name in lost]


def moved(stakes: Stakes) -> bool:
    """Whether somebody has changed what is at stake, so that a side taken blindly would overwrite it."""
    conflict, standing = stakes.conflict, stakes.standing
    ours = {str(conflict.mutation)} | ({str(standing.pk)} if standing else set())
    if stakes.rev == conflict.server_rev or stakes.side.written_by in ours:
        return False
    if stakes.server is None or stakes.server_then is None or conflict.op == "delete":
        return stakes.server is not None or stakes.server_then is not None
    kinds = kinds_of(conflict.entity)
    # Where the device's values were taken, those of the server are there only if somebody has put them back.
    then = None if conflict.state == State.DEVICE else stakes.server_then
    known = [row for row in (then, stakes.device, standing and standing.after) if row]
    return not all(
        any(name in row and same(kinds[name], stakes.server.get(name), row[name]) for row in known)
        for name in stakes.contested
        if name not in stakes.without  # amounts add up, whatever others added
    )
