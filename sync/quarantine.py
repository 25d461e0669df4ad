"""The quarantine: a person mends what was refused and replays it as if it were pushed now, or discards it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgspec
from django.db.models import ForeignKey, Model, Q
from django.utils import timezone

from sync import decide as core
from sync.amend import Invalid, in_turn, lock_devices, refusal
from sync.answer import Result
from sync.candidates import candidates_of
from sync.capture import set_author
from sync.checker import checker
from sync.decide import Candidate
from sync.models import Conflict, Rejection
from sync.mutation import Batch, Error, Mutation, error
from sync.outcomes import tell
from sync.push import Push
from sync.sql import array, block, cursor
from sync.states import Pusher
from sync.together import key_of, mutation_of, waiting_with
from sync.units import Interleaved
from sync.wire import Entity, entities

State = Rejection.State
Allowed = Callable[[Rejection], bool]


@dataclass(frozen=True)
class Replayed:
    """What became of one rejection. `status` is that of a push; `rejected`: it still waits, now for `errors`.

    `overtaken`: fields that were left as they are, since the device itself has changed them after this mutation.
    """

    rejection: Rejection
    status: str
    rev: int | None = None
    conflict: UUID | None = None
    errors: tuple[Error, ...] = ()
    overtaken: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Mender(Pusher):
    """A person who pushes what a device made: its base and its own earlier changes are the device's."""

    person: str = field(kw_only=True)

    @property
    def author(self) -> str:
        return self.person


class _Replay(Push):
    """A push of what is in quarantine already."""

    def _quarantine(self) -> None:
        pass


def replay(
    rejection_id: UUID,
    mended: Mapping[str, Any] | None,
    *,
    author: str,
    comment: str = "",
    allowed: Allowed | None = None,
    scopes: Sequence[str] | None = None,
) -> list[Replayed]:
    """Apply a mutation that was refused, with its group and all that waited for it, in the order in which they came.

    `mended`: the `set` to apply in the place of its own (None: as it came); an amount for a field that it names is
    left out. The others are applied as they came, or as they were mended before (`keep`). It is merged as a push is:
    its base stays what it was, so that what changed since is not overwritten. Scopes do not bind a person; read-only
    fields do. A group is applied all together or not at all. What waited and is refused again goes on waiting.
    `allowed`: whether the person may replay a rejection; what waited and they may not is left. `scopes`: those that
    bind all the same, where it is no person. Raises Invalid where
    the mutation itself, or its group, is refused, Rejection.DoesNotExist, and Problem `service_unavailable`; then
    nothing was written and the rejection is as it was.
    """
    return in_turn(lambda: _replay(rejection_id, mended, author, comment, allowed, scopes))


def keep(rejection_id: UUID, mended: Mapping[str, Any] | None) -> None:
    """Note the `set` that a mutation shall have when another one takes it along: a group may need more than one mended.

    None: as it came. Nothing is applied. Raises Invalid where it was decided already, and Rejection.DoesNotExist.
    """

    def work() -> None:
        rejection = Rejection.objects.get(pk=rejection_id)
        lock_devices([rejection.device])
        rejection.refresh_from_db()
        if rejection.state != State.OPEN:
            raise Invalid(refusal("decided"))
        rejection.mended = None if mended is None else dict(mended)
        rejection.save(update_fields=["mended"])

    return in_turn(work)


def discard(rejection_ids: Iterable[UUID], *, author: str, comment: str, allowed: Allowed | None = None) -> int:
    """Leave mutations unapplied for good, groups as a whole, and return how many still waited. They stay on record.

    Raises Invalid without a comment, which tells the device's user why, and where the person may not (`allowed`).
    """
    if not comment.strip():
        raise Invalid(error("required", "comment"))
    chosen = set(rejection_ids)

    def work() -> int:
        wanted = Rejection.objects.filter(pk__in=chosen, state=State.OPEN)
        lock_devices(wanted.values_list("device", flat=True))
        which = Q(pk__in=chosen)
        for device, group in set(wanted.exclude(group=None).values_list("device", "group")):
            which |= Q(device=device, group=group)  # else the rest of it could still be applied
        found = list(Rejection.objects.filter(which, state=State.OPEN).select_for_update().order_by("pk"))
        if allowed is not None and not all(map(allowed, found)):
            raise Invalid(refusal("forbidden"))
        for rejection in found:
            _decided(rejection, State.DISCARDED, author, comment)
            rejection.mended = None  # nothing of it was applied
        Rejection.objects.bulk_update(found, ["state", "decided_by", "decided_at", "comment", "mended"])
        tell([(rejection, State.DISCARDED, None) for rejection in found], author, comment)
        return len(found)

    return in_turn(work)


# --- applying ---


def _replay(
    rejection_id: UUID,
    mended: Mapping[str, Any] | None,
    author: str,
    comment: str,
    allowed: Allowed | None,
    scopes: Sequence[str] | None,
) -> list[Replayed]:
    main = Rejection.objects.get(pk=rejection_id)
    lock_devices([main.device])
    main.refresh_from_db()
    if main.state != State.OPEN:
        raise Invalid(refusal("decided"))
    if main.group and Conflict.objects.filter(device=main.device, group=main.group, state=Conflict.State.OPEN).exists():
        raise Invalid(refusal("group_in_conflict"))
    found = _permitted(main, waiting_with(main), allowed)
    overtaken = _overtaken(found)
    given = {each.pk: each.mended for each in found if each.mended is not None and each.pk != main.pk}
    given |= {main.pk: mended} if mended is not None else {}
    mutations = [_as_new(each, given.get(each.pk), overtaken.get(each.pk, frozenset())) for each in found]
    candidates = _when_made(found, candidates_of(Batch([mutation for mutation, _ in mutations]), timezone.now()))
    pusher = _Mender(main.device, _scopes(candidates) if scopes is None else scopes, person=author)
    try:
        pushed = _Replay(pusher, [mutation for mutation, _ in mutations], candidates, may_try_again=False)
        results = pushed.run()
    except Interleaved:
        raise Invalid(error("invalid_mutation", "group")) from None
    _refuse_whole(main, found, results)
    set_author("")  # whoever writes next in this transaction says so
    conflicts = _adopt(found, [mutation.id for mutation, _ in mutations])
    told = [
        Replayed(each, result.status, _rev(pushed, each), conflicts.get(each.pk), result.errors, left)
        for each, result, (_, left) in zip(found, results, mutations, strict=True)
    ]
    _record(told, given, author, comment)
    return told


def _when_made(found: Sequence[Rejection], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with the times of their making as they were corrected when they came, where that is known."""
    with cursor() as bound:
        bound.execute(block("resolve.sql", "when_made"), {"ids": array(each.mutation for each in found)})
        known = dict(bound.fetchall())
    return [
        msgspec.structs.replace(candidate, made_at=known.get(each.mutation, candidate.made_at))
        for each, candidate in zip(found, candidates, strict=True)
    ]


def _rev(pushed: Push, rejection: Rejection) -> int | None:
    """The revision of a mutation's row after all that was pushed; None where it is not there."""
    state = pushed.states.get(key_of(rejection), core.NEVER)
    return state.rev if state.alive else None


def _permitted(main: Rejection, found: Sequence[Rejection], allowed: Allowed | None) -> list[Rejection]:
    """Those that the person may replay, whole groups only. Raises Invalid where that leaves out the mutation itself."""
    if allowed is None:
        return list(found)
    out = {each.group or each.pk for each in found if not allowed(each)}
    if (main.group or main.pk) in out:
        raise Invalid(refusal("forbidden"))
    return [each for each in found if (each.group or each.pk) not in out]


def _refuse_whole(main: Rejection, found: Sequence[Rejection], results: Sequence[Result]) -> None:
    """Raise Invalid where the mutation is refused, with the reasons of its group; not where that met a conflict."""
    unit = [r for each, r in zip(found, results, strict=True) if (each.group or each.pk) == (main.group or main.pk)]
    if any(result.status == "conflict" for result in unit):
        return
    own = next(result for each, result in zip(found, results, strict=True) if each.pk == main.pk)
    reasons = [each for result in [own, *unit] for each in result.errors if each.code != "group_failed"]
    if own.status == "rejected":
        raise Invalid(*(dict.fromkeys(reasons) or own.errors))


def _as_new(
    rejection: Rejection, mended: Mapping[str, Any] | None, overtaken: frozenset[str]
) -> tuple[Mutation, tuple[str, ...]]:
    """The mutation under an id of its own, with the fields of it that the device has changed since, which it lacks."""
    mutation = mutation_of(rejection)
    came, amounts = _members(mutation.set), _members(mutation.add)
    wanted = came if mended is None else dict(mended)
    left = tuple(name for name, value in wanted.items() if name in overtaken and came.get(name) == value)
    try:
        given = msgspec.json.encode({name: value for name, value in wanted.items() if name not in left})
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError, OverflowError):
        raise Invalid(error("invalid_value", None, "A text holds half a character, or is nested too deeply.")) from None
    kept = {name: amount for name, amount in amounts.items() if mended is None or name not in mended}
    changed: dict[str, Any] = {}
    if mended is not None or left:
        changed = {"set": msgspec.Raw(given), "add": _raw(kept)}
    if left and mutation.op == "create":
        changed["op"] = "update"  # the row is there: the device itself has made it
    return msgspec.structs.replace(mutation, id=str(uuid4()), **changed), left


def _members(raw: msgspec.Raw) -> dict[str, Any]:
    try:
        members: dict[str, Any] = msgspec.json.decode(raw)
        return members
    except (msgspec.DecodeError, RecursionError):
        return {}


def _raw(members: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(members))


def _overtaken(found: Sequence[Rejection]) -> dict[UUID, frozenset[str]]:
    """By rejection: the fields that the device itself has changed since, so that the older value must not come back.

    Where it has made the row since, that is every field.
    """
    names_of = {each.pk: _field_names(each.entity) for each in found if each.op != "delete"}
    with cursor() as bound:
        bound.execute(block("resolve.sql", "overtaken"), {"ids": array(names_of)})
        return {UUID(id): names_of[UUID(id)] if made else frozenset(names) for id, names, made in bound.fetchall()}


def _field_names(entity: str) -> frozenset[str]:
    return frozenset(field.name for field in entities()[entity].fields) if entity in entities() else frozenset()


def _scopes(candidates: Sequence[Candidate]) -> list[str]:
    """Every scope that there is, and those that these mutations bring a row into."""
    with cursor() as bound:
        bound.execute(block("resolve.sql", "scopes"))
        found = {scope for (scope,) in bound.fetchall()} | {""}
    made: dict[tuple[type[Model], str], dict[str, Any]] = {}
    known = [(entity, each) for each in candidates if (entity := entities().get(each.key.entity))]
    for entity, each in known:
        row = made.setdefault((entity.model, each.key.row), {n: d() for n, d in checker(entity).defaults.items()})
        row.update(each.values.fields, id=each.key.row)
    for entity, each in known:
        for rule in entity.declaration.scopes:
            value = rule.path and _value_at(rule.path, entity, each, made)
            found.add(rule.name if rule.path is None else f"{rule.name}:{_text(value)}")
    return sorted(found)


def _value_at(
    path: str, entity: Entity, candidate: Candidate, made: Mapping[tuple[type[Model], str], Mapping[str, Any]]
) -> Any:
    """What is where the path leads from a row, once these mutations have made what they make."""
    *names, last = path.split("__")
    model = entity.model
    row: Mapping[str, Any] = made[model, candidate.key.row]
    for name in names:
        field = model._meta.get_field(name)
        assert isinstance(field, ForeignKey)  # of a path
        model, key = field.remote_field.model, row.get(field.attname)
        there = model._default_manager.filter(**{field.target_field.attname: key}).values()
        row = made.get((model, str(key))) or there.first() or {}
    return row.get(last)


def _text(value: Any) -> str:
    """A value as PostgreSQL writes it: ids in lower case, truth in full."""
    return str(value).lower() if isinstance(value, bool | UUID) or _is_id(value) else str(value)


def _is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and UUID(value) is not None
    except ValueError:
        return False


def _adopt(found: Sequence[Rejection], ids: Sequence[str]) -> dict[UUID, UUID]:
    """Give the conflicts that were met the ids of the mutations that the device knows; return them by rejection."""
    met = {str(conflict.mutation): conflict for conflict in Conflict.objects.filter(mutation__in=ids)}
    taken = set(
        Conflict.objects.filter(mutation__in=[each.mutation for each in found]).values_list("mutation", flat=True)
    )
    adopted = {}
    for rejection, id in zip(found, ids, strict=True):
        if conflict := met.get(id):
            adopted[rejection.pk] = conflict.pk
            if rejection.mutation not in taken:  # one whose id was used twice has a conflict of its own
                conflict.mutation = rejection.mutation
                taken.add(rejection.mutation)
    Conflict.objects.bulk_update(met.values(), ["mutation"])
    return adopted


def _record(told: Sequence[Replayed], mended: Mapping[UUID, Mapping[str, Any]], author: str, comment: str) -> None:
    """Note what became of each, and tell the device."""
    states = dict(Conflict.objects.filter(pk__in=[e.conflict for e in told if e.conflict]).values_list("pk", "state"))
    outcomes = []
    for each in told:
        rejection = each.rejection
        if each.status == "rejected":
            rejection.errors, rejection.cause = msgspec.to_builtins(each.errors), each.errors[0].code
            continue
        _decided(rejection, State.REPLAYED, author, comment)
        rejection.mended, rejection.rev, rejection.conflict = mended.get(rejection.pk), each.rev, each.conflict
        outcome = states[each.conflict] if each.status == "conflict" and each.conflict else State.REPLAYED
        outcomes.append((rejection, outcome, each.rev))
    names = ["state", "decided_by", "decided_at", "comment", "mended", "rev", "conflict", "errors", "cause"]
    Rejection.objects.bulk_update([each.rejection for each in told], names)
    tell(outcomes, author, comment)


def _decided(rejection: Rejection, state: Rejection.State, author: str, comment: str) -> None:
    rejection.state, rejection.decided_by, rejection.decided_at = state, author, timezone.now()
    rejection.comment = comment
