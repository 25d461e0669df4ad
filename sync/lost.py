"""What a restore of the database has lost, and devices bring back: which revision of a row it was meant for.

A row that was restored has fewer revisions than devices know. What one of them had pushed before comes with the
revision that it had then, and per field the last of these wins, whoever comes first. What was written since the restore
by anybody who had not seen it is another's change, as ever. (`docs/protocol.md`, R1 to R4.)
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sync.checker import checker
from sync.decide import NEVER, Candidate, RowKey, RowState, Verdict
from sync.epoch import standing_of
from sync.mutation import REVISION_MAX, Id, Mutation
from sync.sql import Uuids, array, block, cursor
from sync.wire import entities
from syncserver.errors import Problem

SQL = "lost.sql"
DELETED = ""  # in the place of a field: the row's delete
UNKNOWN_IDS_MAX = 1_000  # of one call


class Fork(NamedTuple):
    """A row's revision when the database was restored, and by field the last lost revision that was brought back.

    `has`: the mutations that its history knows.
    """

    rev: int
    healed: Mapping[str, int]
    has: Collection[str] = ()


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
) -> Sequence[Candidate]:
    """The candidates, those at `places` that are of before a restore as they are meant for the rows as restored."""
    found = [at for at in places if not candidates[at].errors and _is_of_before(candidates[at], states)]
    if not found:
        return candidates
    forks = _forks({candidates[at].key for at in found}, [candidates[at].mutation.id for at in found])
    moved = list(candidates)
    for at in found:
        key = candidates[at].key
        moved[at] = rebase(candidates[at], forks.get(key), states.get(key, NEVER))
    return moved


def _is_of_before(candidate: Candidate, states: Mapping[RowKey, RowState]) -> bool:
    """Whether it says so, or has a base that its row has not come to yet."""
    base = candidate.mutation.base or 0
    return candidate.mutation.lost is not None or base > states.get(candidate.key, NEVER).rev


def _forks(keys: Collection[RowKey], ids: Sequence[str]) -> dict[RowKey, Fork]:
    names, rows = zip(*keys, strict=True)
    with cursor() as bound:
        bound.execute(block(SQL, "forks"), {"entities": array(names), "rows": Uuids(rows), "ids": Uuids(ids)})
        found = bound.fetchall()
    return {RowKey(e, row): Fork(rev, msgspec.json.decode(healed), has) for e, row, rev, healed, has in found}


def rebase(candidate: Candidate, fork: Fork | None, state: RowState) -> Candidate:
    """The candidate as it is meant for the restored row. `fork` is None where the database was never restored."""
    mutation, values = candidate.mutation, candidate.values
    if fork is None:  # what was answered once, and is not known any more, was forgotten
        return msgspec.structs.replace(candidate, done=bool(mutation.lost))
    if not mutation.lost:
        base = min(mutation.base or 0, fork.rev)
        moved = msgspec.structs.replace(mutation, base=base or None)
        return msgspec.structs.replace(candidate, mutation=moved, seen=mutation.base or 0)
    if _is_there(mutation, mutation.lost, fork):
        return msgspec.structs.replace(candidate, done=True)
    op = "update" if mutation.op == "create" and state.alive else mutation.op
    if op != mutation.op:  # perhaps it had been made anew: then nothing was left of what was there before
        values = msgspec.structs.replace(values, fields={**_made_of(candidate.key.entity), **values.fields})
    if state.alive:
        left = {name: value for name, value in values.fields.items() if fork.healed.get(name, 0) < mutation.lost}
        values = msgspec.structs.replace(values, fields=left)
    moved = msgspec.structs.replace(mutation, op=op, base=fork.rev or None)
    return msgspec.structs.replace(candidate, mutation=moved, values=values, seen=REVISION_MAX)


def _is_there(mutation: Mutation, rev: int, fork: Fork) -> bool:
    """Whether the restored row has it, or what was brought back has overtaken all of it."""
    last = max(fork.healed.values(), default=0) if mutation.op == "delete" else fork.healed.get(DELETED, 0)
    return rev <= last or mutation.id in fork.has


def _made_of(name: str) -> dict[str, Any]:
    """What a new row of an entity has in the fields that its mutation does not set."""
    entity = entities()[name]
    defaults = checker(entity).defaults
    return {field.name: defaults[field.name]() for field in entity.fields if field.name in defaults}


def note(mutations: Mapping[int, Mutation], candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict]) -> None:
    """Remember what was brought back. `mutations`, as they came, by place: those of before a restore."""
    healed = []
    for at, mutation in mutations.items():
        rev = mutation.lost or mutation.base
        if rev and verdicts[at].status in {"applied", "merged"} and not candidates[at].done:
            fields = {DELETED} if mutation.op == "delete" else set(candidates[at].values.fields)
            if mutation.op == "create":
                fields |= _made_of(mutation.entity).keys()
            named = {"row_id": mutation.row, "entity": mutation.entity, "rev": rev}
            healed += [named | {"field": field} for field in fields]
    with cursor() as bound:
        parameters = {
            "ids": Uuids([mutation.id for mutation in mutations.values()]),
            "revs": array(mutation.lost or 0 for mutation in mutations.values()),
            "healed": msgspec.json.encode(healed).decode(),
        }
        bound.execute(block(SQL, "note"), parameters)
