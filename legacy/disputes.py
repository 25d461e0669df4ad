"""Fields that both sides changed and that a person must decide: the queue and the page of the devices' conflicts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from django.db.models import QuerySet
from django.utils import timezone

from legacy.document import Document
from legacy.exchange import SQL, Exchange
from legacy.mapping import Mapping as Declared
from legacy.rows import Plan
from sync.merge import Decision, Dispute, together
from sync.models import Conflict
from sync.sql import Uuids, array, block, cursor

State = Conflict.State


@dataclass
class Stakes:
    """Plans, what was agreed before by their key, and by our row the fields that both sides changed."""

    plans: list[Plan] = field(default_factory=list)
    agreed: dict[str, Document] = field(default_factory=dict)
    disputes: dict[str, Sequence[Dispute]] = field(default_factory=dict)


def keep_disputes(exchange: Exchange, mapping: Declared, stakes: Stakes) -> None:
    """Keep what is not in the history: the queue gets what is left to a person, and what was decided against theirs.

    Until the former is decided, these fields are not sent. A record that changes again before that is one conflict
    still, with its newest values.
    """
    kept = {row: [d for d in found if _is_kept(mapping, d)] for row, found in stakes.disputes.items()}
    kept = {row: found for row, found in kept.items() if found}
    if not kept:
        return
    revs = _revisions(mapping, kept)
    waiting = {str(each.row_id): each for each in _open(exchange, mapping).filter(row_id__in=list(kept))}
    plans = {plan.row: plan for plan in stakes.plans}
    for row, found in kept.items():
        base = stakes.agreed.get(plans[row].key, {})
        if left := [dispute for dispute in found if dispute.decision is Decision.OPEN]:
            _keep(
                exchange, mapping, plans[row], waiting.get(row) or Conflict(state=State.OPEN), left, base, revs.get(row)
            )
            exchange.count(mapping, "conflicts")
        if decided := [dispute for dispute in found if dispute.decision is not Decision.OPEN]:
            state = State(together(dispute.decision for dispute in decided))
            conflict = Conflict(state=state, decided_at=timezone.now())
            _keep(exchange, mapping, plans[row], conflict, decided, base, revs.get(row))


def _is_kept(mapping: Declared, dispute: Dispute) -> bool:
    """What was decided for them is in the history; what devices do not know of is on no page."""
    return dispute.decision is not Decision.DEVICE and all(mapping.entity.field(name) for name in dispute.fields)


def _keep(
    exchange: Exchange,
    mapping: Declared,
    plan: Plan,
    conflict: Conflict,
    disputes: Sequence[Dispute],
    base: Document,
    rev: int | None,
) -> None:
    names = sorted({*conflict.fields, *(name for dispute in disputes for name in dispute.fields)})
    now = plan.now.document if plan.now else {}
    if conflict._state.adding:
        conflict.entity, conflict.row_id, conflict.op = mapping.entity.name, UUID(plan.row), "update"
        conflict.mutation, conflict.device, conflict.source = uuid4(), exchange.id, exchange.system
    conflict.fields, conflict.server_rev = names, rev
    conflict.base = {name: base.get(name) for name in names} | (conflict.base or {}) if base else None
    conflict.server = {name: now.get(name) for name in names}
    conflict.device_values = {"set": {name: plan.document.get(name, now.get(name)) for name in names}}
    conflict.policy = " + ".join(sorted({dispute.policy for dispute in disputes}))
    conflict.save()


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
