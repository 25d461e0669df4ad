"""What follows a write: its results are remembered, and the rows are held against what was expected of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import Model, ProtectedError

from sync.checker import checker
from sync.decide import AS_SENT, Candidate, RowKey, RowState, Write
from sync.follow import moving_fields
from sync.mutation import Error, Values, error
from sync.refusal import Displaced
from sync.sql import Uuids, array, block, cursor
from sync.states import Pusher, states_of
from sync.wire import Entity, entities


def as_written(candidate: Candidate, write: Write) -> Candidate:
    """The candidate with what is written for it in the place of what it says."""
    if write is AS_SENT:
        return candidate
    values = write.values
    if write.op == "create":
        kept = {
            name: value
            for name, value in values.fields.items()
            if name not in checker(entities()[candidate.key.entity]).touched
        }
        values = Values({**write.hidden, **kept}, {})
    mutation = msgspec.structs.replace(candidate.mutation, op=write.op)
    return msgspec.structs.replace(candidate, mutation=mutation, values=values)


def settlement(
    pusher: Pusher,
    candidates: Sequence[Candidate],
    digests: Sequence[str],
    revs: Sequence[int],
    applied: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What `settle` needs: the results of a wave, with the revisions that are expected, ready to be sent.

    `applied`: the places of those whose result is just that (None: all); the others are remembered with the answer.
    """
    mutations = [candidate.mutation for candidate in candidates]
    told: dict[str, Sequence[Any]] = {"ids": [m.id for m in mutations], "digests": digests, "revs": revs}
    times = [candidate.made_at for candidate in candidates]
    if applied is not None and len(applied) < len(mutations):
        told = {name: [values[at] for at in applied] for name, values in told.items()}
        times = [times[at] for at in applied]
    expected = array(revs)
    return {
        "device": pusher.device,
        "scopes": list(pusher.scopes),
        "entities": array([mutation.entity for mutation in mutations]),
        "rows": Uuids([mutation.row for mutation in mutations]),
        "revs": expected,
        "deleted": array(["t" if mutation.op == "delete" else "f" for mutation in mutations]),
        "ids": Uuids(told["ids"]),
        "digests": Uuids(told["digests"]),
        "applied_revs": expected if told["revs"] is revs else array(told["revs"]),
        "made_at": times if any(times) else None,
    }


def settle(
    pusher: Pusher,
    candidates: Sequence[Candidate],
    prepared: Mapping[str, Any],
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[RowKey, RowState]:
    """Remember the results of a wave that was written. `meanwhile` is called while PostgreSQL does it.

    Returns the states of the rows that have another revision than expected, or are outside the device's scopes. Raises
    ProtectedError where a delete took a row along that the device may not know of, and Displaced where an update took
    one into another scope.
    """
    with cursor() as bound:
        with bound.connection.pipeline():
            bound.execute(block("push.sql", "settle"), prepared)
            meanwhile()
            odd = [RowKey(*found) for found in bound.fetchall()]
        states = states_of(pusher, odd)
        told = [(c.mutation.id, states[c.key].rev) for c in candidates if c.key in states] if states else []
        if told:
            ids, revs = zip(*told, strict=True)
            bound.execute(block("push.sql", "correct_revisions"), {"ids": Uuids(ids), "revs": array(revs)})
        if any(candidate.mutation.op == "delete" for candidate in candidates):
            bound.execute(block("push.sql", "takes_along_unseen"), {"scopes": list(pusher.scopes)})
            if bound.fetchone() == (True,):
                raise ProtectedError("A row that the device may not know of refers to this one.", set())
        if any(
            candidate.mutation.op == "update"
            and not moving_fields(candidate.key.entity).isdisjoint(candidate.values.fields)
            for candidate in candidates
        ):
            bound.execute(block("push.sql", "moves_unseen"), {"scopes": list(pusher.scopes)})
            if bound.fetchone() == (True,):
                raise Displaced
    return states


def broken_by_clean(written: Iterable[Candidate]) -> dict[RowKey, tuple[Error, ...]]:
    """The rows that do not hold against their model's own `clean()`, where it has one, and why."""
    rows: dict[str, set[str]] = {}
    for candidate in written:
        if candidate.mutation.op != "delete":
            rows.setdefault(candidate.key.entity, set()).add(candidate.key.row)
    broken: dict[RowKey, tuple[Error, ...]] = {}
    for name, ids in rows.items():
        broken |= unclean(entities()[name], ids)
    return broken


def unclean(entity: Entity, rows: Collection[str]) -> dict[RowKey, tuple[Error, ...]]:
    """The same for rows of one entity."""
    broken: dict[RowKey, tuple[Error, ...]] = {}
    if entity.model.clean is Model.clean:
        return broken
    for row, instance in entity.model._default_manager.in_bulk(list(rows)).items():
        try:
            instance.clean()
        except ValidationError as problem:
            broken[RowKey(entity.name, str(row))] = _told_by_clean(problem)
    return broken


def _told_by_clean(problem: ValidationError) -> tuple[Error, ...]:
    if not hasattr(problem, "error_dict"):
        return (error("constraint", None, " ".join(problem.messages)),)
    named = (
        (None if name == NON_FIELD_ERRORS else name, " ".join(told)) for name, told in problem.message_dict.items()
    )
    return tuple(error("invalid_value" if name else "constraint", name, told) for name, told in named)
