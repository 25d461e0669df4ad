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

    `outranked`: fields that a system of a higher rank gave their value here, which this one does not overrule.
    """
    news, own = both_changed(mapping, agreed, theirs, ours)
    if not own:
        return Merged(
            {name: value for name, value in news.items() if mapping.settled({name: ours.get(name)}) != {name: value}}
        )
    base = {name: agreed[name] for name in own}
    since = Since(changed=dict.fromkeys(own, LONG_AGO), base=base)
    found = merge(_rules(mapping, news, ours, frozenset(outranked)), news, ours, since)
    return Merged(dict(found.write), found.disputes)


def first_merged(mapping: Mapping, theirs: Document, ours: Document) -> Merged:
    """The same at first contact, when nothing was ever agreed: what is empty here is filled, the rest is disputed."""
    given = {name: value for name, value in theirs.items() if name in mapping.pulled}
    filled = {
        name: value for name, value in given.items() if ours.get(name) in (None, "", {}) and value not in (None, "", {})
    }
    given = {name: value for name, value in given.items() if name not in filled}
    rules = _rules(
        mapping, given, {name: ours.get(name) for name in (*given, mapping.newest) if name in ours}, frozenset()
    )
    found = merge(rules, given, ours, Since(known=False))
    return Merged(filled | dict(found.write), found.disputes)


def both_changed(mapping: Mapping, agreed: Document, theirs: Document, ours: Document) -> tuple[Document, set[str]]:
    """What they changed since, and the names of what we changed since and would send."""
    news = {name: value for name, value in changed(agreed, theirs).items() if name in mapping.pulled}
    return news, {name for name in differs(mapping, ours, agreed) if name in agreed} if news else set()


def differs(mapping: Mapping, ours: Document, agreed: Document) -> set[str]:
    """The names that go to them and are not as agreed. Of what they never spoke of, only what is not empty here."""
    now = mapping.settled(ours)
    return {
        name
        for name in mapping.pushed & now.keys()
        if (now[name] != agreed[name] if name in agreed else now[name] not in EMPTY)
    }


def _rules(mapping: Mapping, theirs: Document, ours: Document, outranked: frozenset[str]) -> Rules:
    """The entity's rules with the mapping's word on who wins; the other system is what a device is elsewhere."""
    entity = rules_of(mapping.entity)
    names = {*ours, *theirs}
    fields = {field.attname: field for field in mapping.model._meta.concrete_fields}
    kinds = {name: (wire_type(fields[name]) if name in fields else None) or "json" for name in names}
    policies = {name: _policy(mapping, entity, name, theirs, ours, outranked) for name in names}
    units = {
        name: unit
        for name, unit in entity.units.items()
        if set(unit) <= names and len({policies[member] for member in unit}) == 1
    }
    return Rules(policies, units, kinds, entity.delete, entity.counters)


def _policy(
    mapping: Mapping, entity: Rules, name: str, theirs: Document, ours: Document, outranked: frozenset[str]
) -> Policy:
    if name in outranked:
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
