"""Deciding conflicts: one, or many at once; and undoing decisions. A decision is a new revision of the row."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from sync.amend import (
    Change,
    Invalid,
    RowMoved,
    Side,
    in_turn,
    lock_devices,
    lock_rows,
    refusal,
    sides_of,
    write_changes,
)
from sync.decide import RowKey
from sync.models import Conflict, Decision
from sync.mutation import Error
from sync.outcomes import tell
from sync.sql import array, block, cursor
from sync.stakes import Stakes, change_to, key_of, moved, stakes_in, state_of, values_of
from sync.undo import later_decisions, referred_to, reversal
from sync.wire import entities

__all__ = [
    "Bulk",
    "Invalid",
    "Preview",
    "RowMoved",
    "Stakes",
    "Undone",
    "preview_many",
    "resolve",
    "resolve_many",
    "stakes_of",
    "undo",
]

# Whether a person may decide this conflict, where that deletes the row, and where it brings it back.
Allowed = Callable[[Conflict, bool, bool], bool]


@dataclass(frozen=True)
class Bulk:
    """What became of a decision about many conflicts. `refused`: why not, by conflict."""

    id: UUID
    decided: list[Decision] = field(default_factory=list)
    refused: dict[UUID, tuple[Error, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Preview:
    """What taking a side would do to one row: (before, after) by field. None for `before` or `after`: not there."""

    conflict: Conflict
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    errors: tuple[Error, ...] = ()

    @property
    def deletes(self) -> bool:
        return self.after is None and self.before is not None

    @property
    def creates(self) -> bool:
        return self.before is None and self.after is not None


@dataclass(frozen=True)
class _Choice:
    """What was decided about a conflict, not written yet."""

    id: UUID
    stakes: Stakes
    state: Conflict.State
    change: Change | None


def stakes_of(conflict: Conflict) -> Stakes:
    """What is at stake in a conflict, with its row as it is now."""
    return _stakes([conflict])[0]


def resolve(
    conflict_id: UUID,
    values: Mapping[str, Any] | None,
    *,
    rev: int,
    author: str,
    comment: str = "",
    seen: int = 0,
    allowed: Allowed | None = None,
) -> Decision:
    """Decide a conflict; one that was decided before is decided anew.

    `values`: in wire form, what the row shall have in the fields at stake that they name; none of them: the row stays
    as it is. None: it shall be deleted. A row that is not there comes back with what it had, and the values.
    `rev` and `seen` are those of the Stakes that the person saw. `author`: `user:<name>`. `allowed`: whether they may.
    Raises RowMoved, Invalid, Conflict.DoesNotExist and Problem `service_unavailable`; then nothing was written.
    """

    def work() -> Decision:
        (stakes,) = _stakes(_locked([conflict_id]))
        if (stakes.rev, stakes.seen) != (rev, seen):
            raise RowMoved(stakes.side)
        change = change_to(stakes, values, str(id := uuid4()))
        if allowed is not None and not allowed(stakes.conflict, *_effect(change)):
            raise Invalid(refusal("forbidden"))
        choice = _Choice(id, stakes, state_of(stakes, values), change)
        decided, refused = _write([choice], author, comment, None)
        if refused:
            raise _why(stakes, refused[stakes.conflict.pk])
        return decided[0]

    return in_turn(work)


def _why(stakes: Stakes, errors: tuple[Error, ...]) -> Exception:
    """The exception for a decision that the database refused: a row that came back meanwhile is refused for its id."""
    key = key_of(stakes.conflict)
    now = sides_of([key])[key]
    return Invalid(*errors) if now.rev == stakes.rev else RowMoved(now)


def resolve_many(
    ids: Iterable[UUID], side: str, *, author: str, comment: str = "", allowed: Allowed | None = None
) -> Bulk:
    """Take the server's or the device's side of many conflicts, in the order in which they came.

    Those that cannot be are told in `refused`, by conflict: what is at stake was changed since (`moved`), a delete
    would touch other rows (`depended_on`), a rule forbids it, or the person may not (`forbidden`). Raises ValueError
    for more than SYNC_DECISIONS_MAX of them, and Problem `service_unavailable`; then nothing was written.
    """
    wanted = _few(ids)
    return in_turn(lambda: _take(side, wanted, author, comment, allowed))


def _few(ids: Iterable[UUID]) -> set[UUID]:
    few = set(ids)
    if len(few) > settings.SYNC_DECISIONS_MAX:
        raise ValueError(f"At most {settings.SYNC_DECISIONS_MAX} conflicts are decided at once.")
    return few


def preview_many(ids: Iterable[UUID], side: str, *, allowed: Allowed | None = None) -> list[Preview]:
    """What `resolve_many` would do, in the same order. It is done, and rolled back: so it is what would be."""
    found: list[Preview] = []
    wanted = _few(ids)

    def work() -> None:
        found.clear()
        bulk = _take(side, wanted, "user:", "", allowed)
        decided = {decision.conflict_id: decision for decision in bulk.decided}
        for conflict in Conflict.objects.filter(pk__in=[*decided, *bulk.refused]).order_by("created_at", "pk"):
            decision, errors = decided.get(conflict.pk), bulk.refused.get(conflict.pk, ())
            before, after = _changed(decision) if decision else ({}, {})
            found.append(Preview(conflict, before, after, errors))
        transaction.set_rollback(True)

    def rolled_back() -> None:
        with transaction.atomic():
            work()

    in_turn(rolled_back)
    # As they are, and not as they would be.
    now = Conflict.objects.in_bulk([preview.conflict.pk for preview in found])
    return [Preview(now[p.conflict.pk], p.before, p.after, p.errors) for p in found]


def _changed(decision: Decision) -> tuple[Any, Any]:
    """What a decision replaced, and with what, without what stays the same."""
    before, after = decision.before, decision.after
    if before is None or after is None:
        return before, after
    names = [name for name in after if after[name] != before[name]]
    return {name: before[name] for name in names}, {name: after[name] for name in names}


def _take(side: str, ids: Collection[UUID], author: str, comment: str, allowed: Allowed | None) -> Bulk:
    bulk = Bulk(uuid4())
    conflicts = _locked(ids)
    overwritten = {stakes.conflict.pk for stakes in _stakes(conflicts) if moved(stakes)}
    for wave in _waves(conflicts, key_of):
        choices = []
        for stakes in _stakes(wave):
            conflict = stakes.conflict
            try:
                values = values_of(stakes, side)
                choice = _Choice(id := uuid4(), stakes, _side_state(side), change_to(stakes, values, str(id)))
            except Invalid as invalid:
                bulk.refused[conflict.pk] = invalid.errors
                continue
            if choice.change is not None and conflict.pk in overwritten:
                bulk.refused[conflict.pk] = (refusal("moved"),)
            elif choice.change is not None and choice.change.op == "delete" and referred_to(choice.change.key):
                bulk.refused[conflict.pk] = (refusal("depended_on"),)
            elif allowed is not None and not allowed(conflict, *_effect(choice.change)):
                bulk.refused[conflict.pk] = (refusal("forbidden"),)
            else:
                choices.append(choice)
        decided, refused = _write(choices, author, comment, bulk.id)
        bulk.decided.extend(decided)
        bulk.refused.update(refused)
    return bulk


def _side_state(side: str) -> Conflict.State:
    return {"server": Conflict.State.SERVER, "device": Conflict.State.DEVICE}[side]


def _effect(change: Change | None) -> tuple[bool, bool]:
    """Whether a change deletes its row, and whether it brings it back."""
    return (change is not None and change.op == "delete", change is not None and change.op == "create")


def _waves(records: Sequence[Any], key: Callable[[Any], RowKey]) -> list[list[Any]]:
    """The records in waves: the n-th has the n-th of each row."""
    waves: list[list[Any]] = []
    count: dict[RowKey, int] = {}
    for record in records:
        number = count[key(record)] = count.get(key(record), -1) + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(record)
    return waves


def _locked(ids: Collection[UUID]) -> list[Conflict]:
    """The conflicts, the oldest first, with everything locked that a decision about them needs. Raises DoesNotExist."""
    found = Conflict.objects.filter(pk__in=ids)
    lock_devices(found.values_list("device", flat=True))
    with cursor() as bound:
        bound.execute(block("resolve.sql", "lock_conflicts"), {"ids": array(ids)})
    conflicts = list(found.all().order_by("created_at", "pk"))
    if len(conflicts) < len(ids):
        raise Conflict.DoesNotExist("There is no such conflict.")
    lock_rows({key_of(conflict) for conflict in conflicts})
    return conflicts


def _stakes(conflicts: Sequence[Conflict]) -> list[Stakes]:
    sides = sides_of({key_of(conflict) for conflict in conflicts})
    decisions: dict[UUID, list[Decision]] = {conflict.pk: [] for conflict in conflicts}
    for decision in Decision.objects.filter(conflict__in=[c.pk for c in conflicts]).order_by("at", "rev"):
        decisions[decision.conflict_id].append(decision)
    return [stakes_in(conflict, sides[key_of(conflict)], decisions[conflict.pk]) for conflict in conflicts]


def _write(
    choices: Sequence[_Choice], author: str, comment: str, bulk: UUID | None
) -> tuple[list[Decision], dict[UUID, tuple[Error, ...]]]:
    """Write what was decided, each about another row, and record it; return the refused ones by conflict."""
    errors = write_changes([choice.change for choice in choices if choice.change], author)
    refused = {choice.stakes.conflict.pk: told for choice in choices if (told := errors.get(str(choice.id)))}
    done = [choice for choice in choices if str(choice.id) not in errors]
    now = sides_of({key_of(choice.stakes.conflict) for choice in done})
    decisions = [_decision(choice, now[key_of(choice.stakes.conflict)], author, comment, bulk) for choice in done]
    Decision.objects.bulk_create(decisions)
    for decision in decisions:
        conflict = decision.conflict
        conflict.state, conflict.decided_by, conflict.decided_at = decision.state, author, decision.at
    Conflict.objects.bulk_update([d.conflict for d in decisions], ["state", "decided_by", "decided_at"])
    tell([(d.conflict, d.state, d.rev) for d in decisions], author, comment)
    return decisions, refused


def _decision(choice: _Choice, now: Side, author: str, comment: str, bulk: UUID | None) -> Decision:
    conflict, change, side = choice.stakes.conflict, choice.change, choice.stakes.side
    before, after = before_and_after(change, side, now)
    return Decision(
        id=choice.id,
        conflict=conflict,
        at=timezone.now(),
        by=author,
        comment=comment,
        state_before=conflict.state,
        state=choice.state,
        before=before,
        after=after,
        rev=None if now.row is None else now.rev,
        bulk=bulk,
    )


def before_and_after(change: Change | None, side: Side, now: Side) -> tuple[Any, Any]:
    """What a change replaced, and with what: the whole row where it made or deleted it.

    A unit is told whole, so that undoing never puts a half of it back beside what somebody has made of the other.
    """
    if change is None:
        return {}, {}
    if change.op == "update":
        assert side.row is not None
        assert now.row is not None
        units = [unit for unit in entities()[change.key.entity].declaration.units if change.fields.keys() & set(unit)]
        names = list(dict.fromkeys([*change.fields, *(name for unit in units for name in unit)]))
        return {name: side.row.get(name) for name in names}, {name: now.row.get(name) for name in names}
    return side.row, now.row


@dataclass(frozen=True)
class Undone:
    """`kept`: why a decision was not undone, by its id."""

    done: list[Decision] = field(default_factory=list)
    kept: dict[UUID, tuple[Error, ...]] = field(default_factory=dict)


def undo(decisions: Iterable[UUID] | UUID, *, author: str, comment: str = "", allowed: Allowed | None = None) -> Undone:
    """Undo decisions by their ids, or all of a bulk by its id, the newest first.

    What a decision replaced is put back where the row still has what it wrote. Where anybody changed that since, or
    decided anew, the decision stays and `kept` says why. Raises Problem `service_unavailable`; then nothing was
    written.
    """
    chosen = Q(bulk=decisions) if isinstance(decisions, UUID) else Q(pk__in=_few(decisions))
    return in_turn(lambda: _undo(chosen, author, comment, allowed))


def _undo(chosen: Q, author: str, comment: str, allowed: Allowed | None) -> Undone:
    conflicts = {c.pk: c for c in _locked(set(Decision.objects.filter(chosen).values_list("conflict", flat=True)))}
    found = list(Decision.objects.filter(chosen).order_by("-at", "-rev"))
    undone, rewritten = Undone(), Counter[RowKey]()
    for wave in _waves(found, lambda decision: key_of(conflicts[decision.conflict_id])):
        later = later_decisions(wave)
        sides = sides_of({key_of(conflicts[decision.conflict_id]) for decision in wave})
        changes: dict[UUID, list[Change]] = {}
        for decision in wave:
            decision.conflict = conflicts[decision.conflict_id]
            key = key_of(decision.conflict)
            try:
                changes[decision.pk] = reversal(decision, sides[key], later, rewritten[key])
            except Invalid as invalid:
                undone.kept[decision.pk] = invalid.errors
                continue
            if allowed is not None and not _may_write(changes[decision.pk], decision.conflict, allowed):
                undone.kept[decision.pk] = (refusal("forbidden"),)
                del changes[decision.pk]
        errors = write_changes([change for each in changes.values() for change in each], author)
        undone.kept.update((UUID(id), told) for id, told in errors.items())
        done = [decision for decision in wave if decision.pk in changes and str(decision.pk) not in errors]
        rewritten.update(key_of(decision.conflict) for decision in done if changes[decision.pk])
        _record_undone(done, author, comment)
        undone.done.extend(done)
    return undone


def _may_write(changes: Sequence[Change], conflict: Conflict, allowed: Allowed) -> bool:
    """Whether a person may put all of these back: the row of the conflict, and those that went with it."""
    about = {change.key: Conflict(entity=change.key.entity, row_id=change.key.row) for change in changes}
    return all(allowed(about[change.key], *_effect(change)) for change in changes) and (
        bool(changes) or allowed(conflict, False, False)
    )


def _record_undone(decisions: Sequence[Decision], author: str, comment: str) -> None:
    """The conflicts stand where they stood before."""
    before = {
        each.conflict_id: each
        for each in Decision.objects.filter(conflict__in=[d.conflict_id for d in decisions], undone_at=None)
        .exclude(pk__in=[d.pk for d in decisions])
        .order_by("at", "rev")
    }
    now = timezone.now()
    for decision in decisions:
        conflict, earlier = decision.conflict, before.get(decision.conflict_id)
        decision.undone_at, decision.undone_by = now, author
        conflict.state = decision.state_before
        conflict.decided_by, conflict.decided_at = (earlier.by, earlier.at) if earlier else ("", None)
    Decision.objects.bulk_update(decisions, ["undone_at", "undone_by"])
    Conflict.objects.bulk_update([d.conflict for d in decisions], ["state", "decided_by", "decided_at"])
    sides = sides_of({key_of(decision.conflict) for decision in decisions})
    told = [(d.conflict, d.state_before, sides[key_of(d.conflict)]) for d in decisions]
    tell([(c, state, None if side.row is None else side.rev) for c, state, side in told], author, comment)
