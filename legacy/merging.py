"""What a record's changes make of a row that we changed too: a pure function of three documents.

The base is what both sides last agreed on. It is the merge of `sync.merge`, in which the other system takes the place
of a device, so that what is true of one conflict is true of all.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from legacy.document import Document, changed
from legacy.mapping import Mapping
from sync.merge import Dispute, Policy, Rules, Since, merge
from sync.rules import rules_of
from sync.wire import wire_type

EMPTY: tuple[Any, ...] = (None, "", {})
LONG_AGO = datetime.min.replace(tzinfo=UTC)  # when the change was, where nobody asks


@dataclass(frozen=True)
class Merged:
    """`write`: what our row gets; `disputes`: fields that both changed differently, and what was decided of each."""

    write: Document
    disputes: tuple[Dispute, ...] = ()


def merged(
    mapping: Mapping, agreed: Document, theirs: Document, ours: Document, outranked: Collection[str] = ()
) -> Merged:
    """Merge what changed over there since both sides agreed into our document as it is now.

    At first contact nothing is agreed (`{}`), and of a line that is new in the mapping neither: what is empty on one
    side is filled from the other, the rest is disputed. `outranked`: fields that a system of a higher rank gave their
    value here, which this one does not overrule.
    """
    found = news(mapping, agreed, theirs, ours)
    if not found:
        return Merged({})
    base = {name: agreed[name] for name in agreed.keys() & (differs(mapping, ours, agreed) | set(outranked))}
    if not base and found.keys() <= agreed.keys() and not outranked:
        return Merged(found)
    rules = _rules(mapping, theirs, ours, frozenset(outranked))
    first = _units(rules, found.keys() - agreed.keys())
    filled = {name: found[name] for unit in first if _empty(ours, unit) for name in unit if name in found}
    kept = {name for unit in first if _empty(theirs, unit) for name in unit}
    given = {name: value for name, value in found.items() if name not in filled and name not in kept}
    disputed = dict.fromkeys((*base, *(given.keys() - agreed.keys())), LONG_AGO)
    result = merge(rules, given, ours, Since(changed=disputed, base=base))
    return Merged(filled | dict(result.write), result.disputes)


def news(mapping: Mapping, agreed: Document, theirs: Document, ours: Document) -> Document:
    """What they changed since, but for what we have already, as far as their side can hold it."""
    return {
        name: value
        for name, value in changed(agreed, theirs).items()
        if name in mapping.pulled and (name not in ours or mapping.settled({name: ours[name]}) != {name: value})
    }


def contested(mapping: Mapping, agreed: Document, theirs: Document, ours: Document) -> set[str]:
    """The names in their news, and what is decided with them, that are not as agreed here, whether ours goes or not."""
    now, units = mapping.settled(ours), rules_of(mapping.entity).units
    told = {each for name in news(mapping, agreed, theirs, ours) for each in units.get(name, (name,))}
    return {n for n in told & mapping.pulled & now.keys() if n not in agreed or now[n] != agreed[n]}


def differs(mapping: Mapping, ours: Document, agreed: Document) -> set[str]:
    """The names that go to them and are not as agreed. Of what they never spoke of, only what is not empty here."""
    now = mapping.settled(ours)
    return {
        name
        for name in mapping.pushed & now.keys()
        if (now[name] != agreed[name] if name in agreed else now[name] not in EMPTY)
    }


def _units(rules: Rules, names: Collection[str]) -> set[tuple[str, ...]]:
    return {rules.units.get(name, (name,)) for name in names}


def _empty(document: Document, unit: Collection[str]) -> bool:
    return all(document.get(name) in EMPTY for name in unit)


def _rules(mapping: Mapping, theirs: Document, ours: Document, outranked: frozenset[str]) -> Rules:
    """The entity's rules with the mapping's word on who wins; the other system is what a device is elsewhere.

    A unit is decided by its first field: what is mapped of it stays whole, and is outranked as a whole.
    """
    entity = rules_of(mapping.entity)
    names = {*ours, *theirs}
    fields = {field.attname: field for field in mapping.model._meta.concrete_fields}
    kinds = {name: (wire_type(fields[name]) if name in fields else None) or "json" for name in names}
    mapped = {name: tuple(each for each in unit if each in mapping.pulled) for name, unit in entity.units.items()}
    units = {name: unit for name, unit in mapped.items() if name in unit}
    policies = {
        name: _policy(mapping, entity, name, theirs, ours, not outranked.isdisjoint(units.get(name, (name,))))
        for name in names
    }
    return Rules(policies, units, kinds, entity.delete, entity.counters)


def _policy(mapping: Mapping, entity: Rules, name: str, theirs: Document, ours: Document, outranked: bool) -> Policy:
    if outranked:
        return "server_wins"
    match mapping.winner(name):
        case "legacy":
            return "device_wins"
        case "newest":
            return "device_wins" if _newer(theirs.get(mapping.newest), ours.get(mapping.newest)) else "server_wins"
        case "manual":
            return "manual"
        case "merge":
            return entity.policies.get(name, "server_wins")
    return "server_wins"


def _newer(theirs: Any, ours: Any) -> bool:
    return theirs is not None and (ours is None or theirs > ours)
