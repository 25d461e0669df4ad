"""What a restore of the database has lost, and devices bring back: which revision of a row it was meant for.

A row that was restored has fewer revisions than devices know. What one of them had pushed before comes with the
revision that it had then, and per field the last of these wins, whoever comes first. What was written since the restore
by anybody who had not seen it is another's change, as ever. (`docs/protocol.md`, R1 to R4.)
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sync.checker import checker
from sync.decide import NEVER, TAKEN, Candidate, RowKey, RowState, Verdict
from sync.epoch import standing_of
from sync.merge import added
from sync.mutation import REVISION_MAX, Id, Mutation, Values, error
from sync.sql import Uuids, array, block, cursor
from sync.wire import entities
from syncserver.errors import Problem

SQL = "lost.sql"
DELETED = ""  # in the place of a field: the row's delete
UNKNOWN_IDS_MAX = 1_000  # of one call


class Fork(NamedTuple):
    """A row's revision when the database was restored, and what of before that has been brought back to it.

    `sets`: by field the last lost revision that wrote it (DELETED: that deleted the row); `adds`: by counter the lost
    revisions that added to it, and how much. `has`: the mutations that its history knows.

    Whatever comes back, and in whatever order, the row is what it would be if all of it were done in the order of the
    lost revisions: of each field the last value, and what was added after that; there, unless the last was its delete.
    """

    rev: int
    sets: Mapping[str, int]
    adds: Mapping[str, Sequence[tuple[int, Any]]]
    has: Collection[str] = ()

    @property
    def last(self) -> int:
        """The last lost revision that was brought back."""
        return max((*self.sets.values(), *(rev for added in self.adds.values() for rev, _ in added)), default=0)

    def meant(self, candidate: Candidate, state: RowState) -> Candidate:
        """A candidate of before the restore as it is meant for the row as it is."""
        mutation, rev = candidate.mutation, candidate.mutation.lost or 0
        if mutation.id in self.has or (mutation.op == "delete" and rev <= self.last):
            return msgspec.structs.replace(candidate, done=True)
        buried = not state.alive and rev <= self.sets.get(DELETED, 0)
        if mutation.op == "delete" or not (state.alive or buried):
            waits = mutation.op == "update" and self._waits(candidate, state)
            return msgspec.structs.replace(candidate, errors=(error("not_found"),)) if waits else candidate
        values = Values(self._fields_of(candidate, rev), _newer(candidate.values.amounts, self.sets, rev))
        mutation = msgspec.structs.replace(mutation, op="update")
        return msgspec.structs.replace(candidate, mutation=mutation, values=values, buried=buried)

    def _waits(self, candidate: Candidate, state: RowState) -> bool:
        """Whether an edit of a row that is not there is of one that somebody else brings back, or makes anew.

        Unless edits win over deletes: then it may have brought the row back itself, and whatever others did to the row
        before it comes to lie beneath it. A row that was deleted since the restore is another's change, as ever.
        """
        lost_delete = state.rev == self.rev or 0 < self.last == self.sets.get(DELETED, 0)
        return lost_delete and candidate.rules is not None and candidate.rules.delete != "edit_wins"

    def _fields_of(self, candidate: Candidate, rev: int) -> dict[str, Any]:
        """The fields that nothing later has written, with what was added to them later."""
        given: Mapping[str, Any] = candidate.values.fields
        if candidate.mutation.op == "create":  # perhaps anew: then nothing was left of what was there before
            given = {**_made_of(candidate.key.entity), **given}
        fields = _newer(given, self.sets, rev)
        for name in fields.keys() & self.adds.keys():
            kind = candidate.rules.kinds[name] if candidate.rules else "integer"
            for at, amount in self.adds[name]:
                fields[name] = added(kind, fields[name], amount) if at >= rev else fields[name]
        return fields

    def after(self, candidate: Candidate) -> "Fork":
        """The same when this one has been brought back too."""
        sets, adds, rev = dict(self.sets), dict(self.adds), candidate.mutation.lost or 0
        for name in _written_by(candidate):
            sets[name] = max(rev, sets.get(name, 0))
        for name, amount in candidate.values.amounts.items():
            adds[name] = (*adds.get(name, ()), (rev, amount))
        return self._replace(sets=sets, adds=adds)


def _newer(given: Mapping[str, Any], sets: Mapping[str, int], rev: int) -> dict[str, Any]:
    return {name: value for name, value in given.items() if sets.get(name, 0) < rev}


def _written_by(candidate: Candidate) -> set[str]:
    """The fields that a mutation writes."""
    mutation = candidate.mutation
    made = _made_of(mutation.entity).keys() if mutation.op == "create" else ()
    return {DELETED} if mutation.op == "delete" else {*candidate.values.fields, *made}


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    ids: Sequence[Id]


def unknown(body: bytes) -> bytes:
    """Of the mutations `{"ids": […]}` those that this database has lost, as `{"unknown": […]}`.

    Raises Problem: invalid_json, invalid_request, unknown_field, batch_too_large.
    """
    try:
        ids = [id.lower() for id in msgspec.json.decode(body, type=_Asked).ids]
    except msgspec.ValidationError as problem:
        code = "unknown_field" if "unknown field" in str(problem) else "invalid_request"
        raise Problem(code, f"{problem}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Problem("invalid_json", f"The body is not JSON in UTF-8: {problem}.") from None
    if len(ids) > UNKNOWN_IDS_MAX:
        raise Problem("batch_too_large", f"Ask for at most {UNKNOWN_IDS_MAX} ids at once, not {len(ids)}.")
    standing_of(None)
    with cursor() as bound:
        bound.execute(block(SQL, "unknown"), {"ids": Uuids(ids)})
        return msgspec.json.encode({"unknown": [id for (id,) in bound.fetchall()]})


def rebased(
    candidates: Sequence[Candidate], places: Iterable[int], states: Mapping[RowKey, RowState]
) -> tuple[Sequence[Candidate], Mapping[RowKey, Fork]]:
    """The candidates, with a base that the restored rows have for those at `places` that are of before the restore.

    With the forks of their rows, which say what those that were lost are meant to do.
    """
    found = [at for at in places if not candidates[at].errors and _is_of_before(candidates[at], states)]
    if not found:
        return candidates, {}
    forks = _forks({candidates[at].key for at in found}, [candidates[at].mutation.id for at in found])
    moved = list(candidates)
    for at in found:
        key = candidates[at].key
        moved[at] = rebase(candidates[at], forks.get(key), states.get(key, NEVER))
    return moved, forks


def _is_of_before(candidate: Candidate, states: Mapping[RowKey, RowState]) -> bool:
    """Whether it says so, or has a base that its row has not come to yet."""
    base = candidate.mutation.base or 0
    return candidate.mutation.lost is not None or base > states.get(candidate.key, NEVER).rev


def _forks(keys: Collection[RowKey], ids: Sequence[str]) -> dict[RowKey, Fork]:
    names, rows = zip(*keys, strict=True)
    with cursor() as bound:
        bound.execute(block(SQL, "forks"), {"entities": array(names), "rows": Uuids(rows), "ids": Uuids(ids)})
        found = bound.fetchall()
    return {
        RowKey(e, row): Fork(rev, msgspec.json.decode(sets), msgspec.json.decode(adds), has)
        for e, row, rev, sets, adds, has in found
    }


def rebase(candidate: Candidate, fork: Fork | None, state: RowState) -> Candidate:
    """The candidate with a base that the restored row has. `fork` is None where the database was never restored."""
    mutation = candidate.mutation
    if fork is None:  # what was answered once, and is not known any more, was forgotten
        return msgspec.structs.replace(candidate, done=bool(mutation.lost))
    if not mutation.lost:
        base, seen = min(mutation.base or 0, fork.rev), mutation.base or 0
    else:  # where the row was restored as deleted, what brings it back is of before that
        base, seen = fork.rev - (state.rev == fork.rev and not state.alive), REVISION_MAX
    moved = msgspec.structs.replace(mutation, base=max(base, 0) or None)
    return msgspec.structs.replace(candidate, mutation=moved, seen=seen)


def _made_of(name: str) -> dict[str, Any]:
    """What a new row of an entity has in the fields that its mutation does not set."""
    entity = entities()[name]
    defaults = checker(entity).defaults
    return {field.name: defaults[field.name]() for field in entity.fields if field.name in defaults}


def note(
    mutations: Mapping[int, Mutation],
    candidates: Sequence[Candidate],
    verdicts: Mapping[int, Verdict],
    states: Mapping[RowKey, RowState],
) -> None:
    """Remember what was brought back. `mutations`, as they came, by place: those of before a restore.

    `states`: of their rows after them; where an edit comes before its row's deletion, that deletes the row as edited.
    """
    healed: list[dict[str, Any]] = []
    gone: dict[RowKey, Mapping[str, Any]] = {}
    for at, mutation in mutations.items():
        candidate, verdict = candidates[at], verdicts[at]
        rev = mutation.lost or mutation.base
        if rev and verdict.status in TAKEN and not candidate.done:
            named = {"row_id": mutation.row, "entity": mutation.entity, "rev": rev}
            healed += [named | {"field": field} for field in _written_by(candidate)]
            healed += [named | {"field": n, "amount": str(a)} for n, a in candidate.values.amounts.items()]
            if verdict.buried and (row := states[candidate.key].since_base(candidate.mutation.base).gone):
                gone[candidate.key] = row
    with cursor() as bound:
        parameters = {
            "ids": Uuids([mutation.id for mutation in mutations.values()]),
            "revs": array(mutation.lost or 0 for mutation in mutations.values()),
            "healed": msgspec.json.encode(healed).decode(),
        }
        bound.execute(block(SQL, "note"), parameters)
        if gone:
            rows = [{"entity": key.entity, "row_id": key.row, "old": row} for key, row in gone.items()]
            bound.execute(block(SQL, "deleted_as"), {"rows": msgspec.json.encode(rows).decode()})
