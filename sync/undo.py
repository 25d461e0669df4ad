"""What undoing a decision writes, if nobody has touched since what the decision wrote."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS
from django.db.models import ProtectedError, RestrictedError
from django.db.models.deletion import Collector

from sync.amend import Change, Invalid, Row, Side, refusal, revived
from sync.decide import RowKey
from sync.merge import same
from sync.models import Decision
from sync.mutation import error
from sync.sql import block, cursor
from sync.stakes import key_of, kinds_of
from sync.wire import entities, references_of


def later_decisions(decisions: Iterable[Decision]) -> Mapping[UUID, UUID]:
    """The newest decision in force of each of these decisions' conflicts."""
    standing = Decision.objects.filter(conflict__in=[d.conflict_id for d in decisions], undone_at=None)
    return dict(standing.order_by("at", "rev").values_list("conflict", "pk"))


def reversal(decision: Decision, side: Side, newest: Mapping[UUID, UUID], rewritten: int) -> list[Change]:
    """The changes that undo a decision, that of its own row first. Raises Invalid, saying why not.

    `rewritten`: how many later decisions about the row were undone just now, each of which wrote twice.
    """
    key, id = key_of(decision.conflict), str(decision.pk)
    if decision.undone_at is not None:
        raise Invalid(refusal("already_undone"))
    if newest.get(decision.conflict_id) != decision.pk:
        raise Invalid(refusal("decided_again"))
    if decision.before == decision.after:
        return []
    if key.entity not in entities():
        raise Invalid(error("unknown_entity"))
    if decision.after is None:
        if side.row is not None or side.written_by != id or side.gone is None:
            raise Invalid(refusal("moved"))
        return [Change(id, key, "create", revived(key.entity, side, {})), *_gone_with(id, key, side.rev)]
    if decision.before is None:
        if side.row is None or side.rev != (decision.rev or 0) + 2 * rewritten:
            raise Invalid(refusal("moved"))
        if referred_to(key):
            raise Invalid(refusal("depended_on"))
        return [Change(id, key, "delete", {})]
    return [Change(id, key, "update", _put_back(key, decision.before, decision.after, side.row))]


def _put_back(key: RowKey, before: Row, after: Row, now: Row | None) -> Row:
    kinds = kinds_of(key.entity)
    if now is None:
        raise Invalid(refusal("moved"))
    if changed := [n for n, value in after.items() if n not in kinds or not same(kinds[n], now.get(n), value)]:
        raise Invalid(*(refusal("moved", name) for name in changed))
    return before


def referred_to(key: RowKey) -> bool:
    """Whether a delete would touch any other row; from now on none can come to refer to it."""
    entity = entities()[key.entity]
    model = entity.model
    with cursor() as bound:
        bound.execute(block("resolve.sql", "lock_from_references", table=entity.table), {"row": key.row})
    collector = Collector(using=DEFAULT_DB_ALIAS)
    try:
        collector.collect(list(model._default_manager.filter(pk=key.row)))
    except (ProtectedError, RestrictedError):
        return True
    rows = sum(map(len, collector.data.values()))
    return rows > 1 or bool(collector.field_updates) or any(found.exists() for found in collector.fast_deletes)


def _gone_with(id: str, key: RowKey, rev: int) -> list[Change]:
    """The rows that a deleted row took along, and those that they took: they come back with it."""
    referring = {name: references_of(entity) for name, entity in entities().items()}
    if not any(field.references == key.entity for fields in referring.values() for field in fields):
        return []
    with cursor() as bound:
        parameters = {"row": key.row, "entity": key.entity, "rev": rev}
        bound.execute(block("resolve.sql", "deleted_with"), parameters)
        gone = {RowKey(e, row): Side(None, 0, None, old, hidden) for e, row, old, hidden in bound.fetchall()}
    taken, wave = {key}, {key}
    changes = []
    while wave:
        wave = {
            child
            for child, side in gone.items()
            if child not in taken
            and any(
                RowKey(f.references or "", str((side.gone or {}).get(f.name))) in wave for f in referring[child.entity]
            )
        }
        taken |= wave
        changes += [Change(id, child, "create", revived(child.entity, gone[child], {})) for child in sorted(wave)]
    return changes
