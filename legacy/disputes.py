"""Fields that both sides changed and that a person must decide: the queue and the page of the devices' conflicts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from django.db.models import QuerySet

from legacy.document import Document
from legacy.exchange import SQL, Exchange
from legacy.mapping import Mapping as Declared
from legacy.rows import Plan
from sync.merge import Decision, Dispute
from sync.models import Conflict
from sync.sql import Uuids, array, block, cursor


@dataclass
class Stakes:
    """Plans, what was agreed before by their key, and by our row the fields that both sides changed."""

    plans: list[Plan] = field(default_factory=list)
    agreed: dict[str, Document] = field(default_factory=dict)
    disputes: dict[str, Sequence[Dispute]] = field(default_factory=dict)


def keep_disputes(exchange: Exchange, mapping: Declared, stakes: Stakes) -> None:
    """Put what is left to a person into the queue, by row; until it is decided these fields are not sent.

    A record that changes again before anybody has decided is one conflict still, with its newest values.
    """
    left = {row: [d for d in found if d.decision is Decision.OPEN] for row, found in stakes.disputes.items()}
    left = {row: found for row, found in left.items() if found}
    if not left:
        return
    revs = _revisions(mapping, left)
    waiting = {str(each.row_id): each for each in _open(exchange, mapping).filter(row_id__in=list(left))}
    plans = {plan.row: plan for plan in stakes.plans}
    for row, found in left.items():
        plan, base = plans[row], stakes.agreed.get(plans[row].key, {})
        conflict = waiting.get(row) or Conflict(
            entity=mapping.entity.name,
            row_id=row,
            mutation=uuid4(),
            device=exchange.id,
            source=exchange.system,
            op="update",
            state=Conflict.State.OPEN,
        )
        names = sorted({*conflict.fields, *(name for dispute in found for name in dispute.fields)})
        now = plan.now.document if plan.now else {}
        conflict.fields, conflict.server_rev = names, revs.get(row)
        conflict.base = {name: base.get(name) for name in names} | (conflict.base or {}) if base else None
        conflict.server = {name: now.get(name) for name in names}
        conflict.device_values = {"set": {name: plan.document.get(name) for name in names}}
        conflict.policy = " + ".join(sorted({dispute.policy for dispute in found}))
        conflict.save()
        exchange.count(mapping, "conflicts")


def open_disputes(exchange: Exchange, mapping: Declared, rows: Collection[str]) -> dict[str, set[str]]:
    """The fields of these rows that wait for a decision, which are not sent before it."""
    found = _open(exchange, mapping).filter(row_id__in=list(rows))
    return {str(row): set(fields) for row, fields in found.values_list("row_id", "fields")}


def _open(exchange: Exchange, mapping: Declared) -> "QuerySet[Conflict]":
    return Conflict.objects.filter(device=exchange.id, entity=mapping.entity.name, state=Conflict.State.OPEN)


def _revisions(mapping: Declared, rows: Collection[str]) -> dict[str, int]:
    with cursor() as bound:
        return dict(bound.execute(block(SQL, "revisions"), {"entity": mapping.entity.name, "rows": Uuids(list(rows))}))


def outranked(
    exchange: Exchange, mapping: Declared, contested: Callable[[], Mapping[str, Collection[str]]]
) -> dict[str, set[str]]:
    """Of the fields that both sides changed, by row, those that a system of a higher rank gave their value here."""
    own = exchange.ranks.get(exchange.system, 0)
    if not any(rank < own for rank in exchange.ranks.values()):
        return {}
    pairs = [(row, name) for row, names in contested().items() for name in names]
    parameters = {
        "entity": mapping.entity.name,
        "rows": Uuids([row for row, _ in pairs]),
        "fields": array(name for _, name in pairs),
    }
    found: dict[str, set[str]] = {}
    with cursor() as bound:
        for row, name, author in bound.execute(block(SQL, "last_authors"), parameters) if pairs else ():
            kind, _, rest = author.partition(":")
            if kind == "run" and exchange.ranks.get(rest.partition(":")[0], own) < own:
                found.setdefault(row, set()).add(name)
    return found
