"""Three-way merging of a row's fields, as git merges lines: a pure function of the base, the server and the device.

The base is the row as the device had it from the server. A field that only one side changed since is taken from that
side; both to the same value is no dispute; a dispute is decided by the field's policy. Fields of one unit are decided
together. Values are in wire form. (`docs/protocol.md`, "Merging".)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

CONFLICT_POLICIES = ("server_wins", "device_wins", "latest_wins", "manual")
DELETE_POLICIES = ("edit_wins", "delete_wins", "manual")
NO_TIMES: Mapping[str, datetime] = {}
NO_ROW: Mapping[str, Any] = {}


class Ask(enum.Enum):
    ASK = "ask a person"


ASK: Final = Ask.ASK
# A deployment's own policy: from the fields in dispute as they were at the base (None: unknown), on the server and from
# the device, all in wire form, to the values that shall be, or to ASK. It must be a function of these alone.
Resolver = Callable[[Mapping[str, Any] | None, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any] | Ask]
Policy = str | Resolver
Unit = tuple[str, ...]  # fields that are decided together; nearly always one


def policy_name(policy: Policy) -> str:
    """What a policy is called on pages and in records: a function by its own name."""
    return policy if isinstance(policy, str) else getattr(policy, "__name__", type(policy).__name__)


class Decision(enum.StrEnum):
    """Where a dispute stands: a person must decide, or one side's values are taken, or others."""

    OPEN = "open"
    SERVER = "server"
    DEVICE = "device"
    MIXED = "mixed"


def together(decisions: Iterable[Decision]) -> Decision:
    """What several decisions about one row come to."""
    found = set(decisions)
    if Decision.OPEN in found:
        return Decision.OPEN
    return found.pop() if len(found) == 1 else Decision.MIXED


class Rules(msgspec.Struct, frozen=True):
    """How one entity is merged. `policies`, `units` and `kinds` (wire types) are by field; a field alone is a unit."""

    policies: Mapping[str, Policy]
    units: Mapping[str, Unit]
    kinds: Mapping[str, str]
    delete: str = "edit_wins"
    counters: frozenset[str] = frozenset()

    @property
    def timed(self) -> bool:
        """Whether any policy asks whose change was later."""
        return "latest_wins" in self.policies.values()


class Since(msgspec.Struct, frozen=True):
    """What others did to a row since a base.

    `known`: the history reaches back to it. `made`: when another made the row, perhaps after it had been deleted.
    `changed`: when another last changed a field that the device did not write after that (to add to a counter is no
    such write); `base`: what the device had in it before. `gone`: the row as it was deleted, and its `hidden` columns.
    """

    known: bool = True
    made: datetime | None = None
    changed: Mapping[str, datetime] = NO_TIMES
    base: Mapping[str, Any] = NO_ROW
    gone: Mapping[str, Any] | None = None
    hidden: Mapping[str, Any] | None = None

    def by_others(self, own: Set[str] = frozenset()) -> bool:
        """Whether others did anything, but for fields that the device wrote itself after that."""
        return not self.known or self.made is not None or not self.changed.keys() <= own


NOTHING_SINCE = Since()


class Dispute(NamedTuple):
    """Fields that both sides changed differently, and what was decided; `values` are what they shall be (empty: as is).

    No fields: one side deleted the row.
    """

    fields: Unit
    policy: str
    decision: Decision
    values: Mapping[str, Any] = NO_ROW


class Merged(NamedTuple):
    """`write`: the fields that get another value. `base` and `server`: the values at stake (base None: unknown)."""

    write: Mapping[str, Any]
    disputes: tuple[Dispute, ...]
    base: Mapping[str, Any] | None
    server: Mapping[str, Any]


def merge(
    rules: Rules,
    given: Mapping[str, Any],
    server: Mapping[str, Any],
    since: Since,
    made_at: datetime | None = None,
    own: Collection[str] = (),
) -> Merged:
    """Merge the fields that a device sets into the server's row.

    `made_at`: when the device made the change, on the server's clock (None: unknown). `own`: fields that the device
    itself has written in the meantime, which are not in dispute. What a policy's function raises goes through.
    """
    sides = _Sides(rules, given, server, since, own)
    write: dict[str, Any] = {}
    disputed: list[Unit] = []
    for unit in dict.fromkeys(rules.units.get(name, (name,)) for name in given):
        if sides.agree(unit):
            continue
        if any(map(sides.changed_by_others, unit)):
            disputed.append(unit)
        else:
            write |= {name: given[name] for name in unit if name in given}
    disputes = _decide(sides, disputed, made_at)
    for dispute in disputes:
        write |= dispute.values
    names = list(dict.fromkeys([*given, *(name for unit in disputed for name in unit)]))
    base = {name: sides.base(name) for name in names} if sides.base_known(names) else None
    return Merged(write, disputes, base, {name: server.get(name) for name in names})


class _Sides(NamedTuple):
    """The three sides of a merge."""

    rules: Rules
    given: Mapping[str, Any]
    server: Mapping[str, Any]
    since: Since
    own: Collection[str]

    def base_known(self, unit: Iterable[str]) -> bool:
        """Of a row that another made since, only what the one before it had, if it was there before."""
        return self.since.known and (self.since.made is None or all(name in self.since.base for name in unit))

    def base(self, name: str) -> Any:
        """A field as the device had it: what nobody else changed is as it is."""
        return self.since.base[name] if name in self.since.base and name not in self.own else self.server.get(name)

    def changed_by_others(self, name: str) -> bool:
        if name in self.own:
            return False
        if not self.base_known((name,)) or name in self.since.changed:
            return True
        return self.since.made is not None and not self.equal((name,), self.since.base, self.server)

    def device(self, unit: Unit) -> dict[str, Any] | None:
        """The unit as the device has it; None where that cannot be known, as it sent a part of it only."""
        if self.base_known(unit):
            return {name: self.given[name] if name in self.given else self.base(name) for name in unit}
        return {name: self.given[name] for name in unit} if self.given.keys() >= set(unit) else None

    def agree(self, unit: Unit) -> bool:
        device = self.device(unit)
        return device is not None and self.equal(unit, device, self.server)

    def equal(self, unit: Unit, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return all(same(self.rules.kinds[name], one.get(name), other.get(name)) for name in unit)


def _decide(sides: _Sides, units: Iterable[Unit], made_at: datetime | None) -> tuple[Dispute, ...]:
    """Decide about units that both sides changed. A function is asked once, for all of its fields."""
    disputes: dict[Unit, Dispute] = {}
    asked: dict[Resolver, list[Unit]] = {}
    for unit in units:
        policy = sides.rules.policies[unit[0]]
        if not isinstance(policy, str):
            asked.setdefault(policy, []).append(unit)
            disputes[unit] = Dispute(unit, policy_name(policy), Decision.OPEN)
            continue
        decision, device = _by_policy(policy, unit, sides.since, made_at), sides.device(unit)
        if decision is Decision.DEVICE and device is None:
            decision = Decision.OPEN  # half of a unit would be torn from the other half
        disputes[unit] = Dispute(unit, policy, decision, device if decision is Decision.DEVICE and device else NO_ROW)
    for resolver, found in asked.items():
        disputes |= _by_function(sides, resolver, found)
    return tuple(disputes.values())


def _by_policy(policy: str, unit: Unit, since: Since, made_at: datetime | None) -> Decision:
    match policy:
        case "server_wins":
            return Decision.SERVER
        case "device_wins":
            return Decision.DEVICE
        case "latest_wins":
            times = (since.changed.get(name, since.made) for name in unit)
            theirs = [at for at in times if at is not None]
            later = since.known and made_at is not None and bool(theirs) and made_at > max(theirs)
            return Decision.DEVICE if later else Decision.SERVER
    return Decision.OPEN


def _by_function(sides: _Sides, resolver: Resolver, units: Sequence[Unit]) -> dict[Unit, Dispute]:
    names = [name for unit in units for name in unit]
    base = {name: sides.base(name) for name in names} if sides.base_known(names) else None
    server = {name: sides.server.get(name) for name in names}
    device = {name: sides.given.get(name, (base or server)[name]) for name in names}
    answer = resolver(base, server, device)
    if isinstance(answer, Ask):
        return {}
    values = server | dict(answer)
    found = {}
    for unit in units:
        if sides.equal(unit, values, server):
            found[unit] = Dispute(unit, policy_name(resolver), Decision.SERVER)
            continue
        decision = Decision.DEVICE if sides.equal(unit, values, device) else Decision.MIXED
        found[unit] = Dispute(unit, policy_name(resolver), decision, {name: values[name] for name in unit})
    return found


def same(kind: str, one: Any, other: Any) -> bool:
    """Whether two values in wire form are one value: "12.5" and "12.5000" are the same decimal."""
    if one is None or other is None:
        return one is other
    try:
        canonical = _CANONICAL.get(kind)
        return bool(canonical(one) == canonical(other)) if canonical else type(one) is type(other) and one == other
    except (ValueError, ArithmeticError, TypeError, OverflowError):
        return bool(one == other)


def added(kind: str, value: Any, amount: Any) -> Any:
    """A counter after an amount was added, in wire form. A counter that is NULL stays NULL, as in SQL."""
    if value is None:
        return None
    return str(Decimal(value) + Decimal(amount)) if kind == "decimal" else int(value) + int(amount)


_CANONICAL: Mapping[str, Callable[[Any], Any]] = {
    "decimal": Decimal,
    "integer": int,
    "real": float,
    "datetime": lambda value: datetime.fromisoformat(value).astimezone(UTC),
    "time": time.fromisoformat,
    "uuid": str.lower,
    "json": msgspec.json.Encoder(order="deterministic").encode,
}
