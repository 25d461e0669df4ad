"""What follows a write: its results are remembered, and the rows are held against what was expected of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import Model

from sync.decide import Candidate, RowKey, RowState
from sync.mutation import Error, error
from sync.sql import Uuids, array, block, cursor
from sync.wire import entities


@dataclass(frozen=True)
class Pusher:
    """Who pushes: the device and the scopes granted to it."""

    device: UUID
    scopes: Sequence[str]

    @property
    def author(self) -> str:
        return f"device:{self.device}"

    @property
    def lock(self) -> dict[str, Any]:
        """The parameters of the SQL block `lock_device`."""
        return {"device": self.device, "seconds": settings.SYNC_PUSH_LOCK_SECONDS_MAX}


def states_of(pusher: Pusher, keys: Collection[RowKey]) -> dict[RowKey, RowState]:
    """What is known of the rows, for this device; rows that never were are left out."""
    if not keys:
        return {}
    names, rows = zip(*keys, strict=True)
    parameters = {"scopes": list(pusher.scopes), "entities": array(names), "rows": Uuids(rows)}
    with cursor() as bound:
        bound.execute(block("push.sql", "row_states", state=block("push.sql", "state")), parameters)
        return {RowKey(entity, row): RowState(rev, alive, known) for entity, row, rev, alive, known in bound.fetchall()}


def settlement(
    pusher: Pusher, candidates: Sequence[Candidate], digests: Sequence[str], revs: Iterable[int]
) -> dict[str, Any]:
    """What `settle` needs: the results of a wave, with the revisions that are expected, ready to be sent."""
    mutations = [candidate.mutation for candidate in candidates]
    return {
        "device": pusher.device,
        "scopes": list(pusher.scopes),
        "entities": array([mutation.entity for mutation in mutations]),
        "rows": Uuids([mutation.row for mutation in mutations]),
        "revs": array(revs),
        "deleted": array(["t" if mutation.op == "delete" else "f" for mutation in mutations]),
        "ids": Uuids([mutation.id for mutation in mutations]),
        "digests": Uuids(digests),
    }


def settle(
    pusher: Pusher,
    candidates: Sequence[Candidate],
    prepared: Mapping[str, Any],
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[RowKey, RowState]:
    """Remember the results of a wave that was written. `meanwhile` is called while PostgreSQL does it.

    Returns the states of the rows that have another revision than expected, or are outside the device's scopes.
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
    return states


def broken_by_clean(written: Iterable[Candidate]) -> dict[RowKey, tuple[Error, ...]]:
    """The rows that do not hold against their model's own `clean()`, where it has one, and why."""
    names = {name for name, entity in entities().items() if entity.model.clean is not Model.clean}
    keys = {c.key for c in written if c.mutation.op != "delete" and c.key.entity in names} if names else set()
    broken: dict[RowKey, tuple[Error, ...]] = {}
    for name in {key.entity for key in keys}:
        rows = entities()[name].model._default_manager.in_bulk([key.row for key in keys if key.entity == name])
        for row, instance in rows.items():
            try:
                instance.clean()
            except ValidationError as problem:
                broken[RowKey(name, str(row))] = _told_by_clean(problem)
    return broken


def _told_by_clean(problem: ValidationError) -> tuple[Error, ...]:
    if not hasattr(problem, "error_dict"):
        return (error("constraint", None, " ".join(problem.messages)),)
    named = (
        (None if name == NON_FIELD_ERRORS else name, " ".join(told)) for name, told in problem.message_dict.items()
    )
    return tuple(error("invalid_value" if name else "constraint", name, told) for name, told in named)
