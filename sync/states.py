"""What is known of rows before a push writes them, for the device that pushes."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from django.conf import settings
from django.utils import timezone

from devices import usage
from devices.models import Usage
from sync.decide import Candidate, RowKey, RowState
from sync.merge import Since
from sync.rules import rules_of
from sync.sql import Uuids, array, block, cursor
from sync.wire import entities

NONE = 2**63 - 1  # no operation, so that it comes after all there are
_since = msgspec.json.Decoder(Since)
_row = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True)
class Pusher:
    """Who pushes: the device and the scopes granted to it."""

    device: UUID
    scopes: Sequence[str]
    operation: int = NONE  # the number of its `sync.models.Operation`, where the device does not wait for an answer

    @property
    def author(self) -> str:
        return self.own

    @property
    def own(self) -> str:
        """The author of the device's earlier changes, which are never concurrent with its later ones."""
        return f"device:{self.device}"


class Earlier(Exception):
    """The device has sent something before this that it did not wait for, and that has not been applied yet."""


@contextmanager
def locking(bound: psycopg.Cursor[Any], pusher: Pusher, changes: int) -> Iterator[None]:
    """Take the device's lock until the transaction ends, with time to do something meanwhile, and count its changes.

    Raises Earlier, and Problem `rate_limited` where the device has used up its changes: nothing may be applied then.
    """
    count = changes if pusher.operation == NONE else 0
    at = {"before": pusher.operation, "seconds": settings.SYNC_PUSH_LOCK_SECONDS_MAX}
    at |= usage.parameters(Usage.Kind.CHANGES, pusher.device, count)
    with bound.connection.pipeline():
        bound.execute(block("push.sql", "lock_device"), at)
        yield
    *_, earlier, sums = bound.fetchone() or (False, None)
    if earlier:
        raise Earlier
    if sums:
        usage.spend(sums, count, timezone.now())


def states_of(pusher: Pusher, keys: Collection[RowKey]) -> dict[RowKey, RowState]:
    """What is known of the rows, for this device; rows that never were are left out."""
    if not keys:
        return {}
    names, rows = zip(*keys, strict=True)
    parameters = {"scopes": list(pusher.scopes), "entities": array(names), "rows": Uuids(rows)}
    with cursor() as bound:
        bound.execute(block("push.sql", "row_states", state=block("push.sql", "state")), parameters)
        return {RowKey(entity, row): RowState(rev, alive, known) for entity, row, rev, alive, known in bound.fetchall()}


def with_what_others_did(
    pusher: Pusher, states: Mapping[RowKey, RowState], candidates: Iterable[Candidate], batch: Collection[str]
) -> dict[RowKey, RowState]:
    """The states of those rows a mutation of which has another base than the row's revision, with what that asks for.

    `batch`: the ids of all mutations that come with them; what these wrote before is not the work of others.
    """
    asked = _asked(states, candidates)
    if not asked:
        return {}
    parameters = {
        "author": pusher.own,
        "ids": Uuids(list(batch)),
        "entities": array(key.entity for key, _ in asked),
        "rows": Uuids([key.row for key, _ in asked]),
        "bases": array(base for _, base in asked),
        "seen": array(asked.values()),
        "timed": array("t" if rules_of(entities()[key.entity]).timed else "f" for key, _ in asked),
    }
    parameters["counters"] = array(
        f"{name}.{field}" for name in {key.entity for key, _ in asked} for field in rules_of(entities()[name]).counters
    )
    found: dict[RowKey, RowState] = {}
    with cursor() as bound:
        bound.execute(block("push.sql", "since"), parameters)
        for entity, row, base, by_device, data, since in bound.fetchall():
            key = RowKey(entity, row)
            state = found.get(key, states[key])
            found[key] = msgspec.structs.replace(
                state,
                values=_row.decode(data) if data is not None and state.values is None else state.values,
                since={**state.since, base: _since.decode(since)},
                deleted_by_device=by_device,
            )
    return found


def _asked(states: Mapping[RowKey, RowState], candidates: Iterable[Candidate]) -> dict[tuple[RowKey, int], int]:
    """The rows and bases to look up: a create of a row that is there, and whatever has an older base.

    With each the lost revision up to which what was brought back after a restore had been seen.
    """
    asked: dict[tuple[RowKey, int], int] = {}
    for candidate in candidates:
        state = states.get(candidate.key)
        made = (
            candidate.mutation.op == "create" and not candidate.mutation.lost
        )  # of before a restore, it may be an edit
        if state is None or not state.known or (made and not state.alive):
            continue
        base = 0 if made else candidate.mutation.base or 0
        if made or base != state.rev:
            asked[candidate.key, base] = min(candidate.seen, asked.get((candidate.key, base), candidate.seen))
    return asked
