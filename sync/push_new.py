"""The short way of a batch of new rows, the nearly always right one: they are checked while PostgreSQL writes them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from sync import decide as core
from sync.candidates import references_in
from sync.checker import checker, joined_sets, plain_values
from sync.decide import Candidate, RowKey
from sync.mutation import EMPTY, Mutation, Values
from sync.settle import broken_by_clean, settle, settlement
from sync.sql import cursor
from sync.states import Pusher, locking, states_of
from sync.units import units_of
from sync.wire import Entity, entities
from sync.write import insert


class NotNew(Exception):
    """Something that was taken to be new, or to be right, may not be."""


def push_new(pusher: Pusher, mutations: Sequence[Mutation]) -> list[int]:
    """Create the rows, in a transaction that is the caller's to commit, and return their revisions.

    Nothing is asked: a row or a mutation that was here before breaks a unique index. Raises NotNew, the database's
    errors and Interleaved; then the caller rolls back and takes the long way, which tells each mutation what is wrong.
    Raises Earlier and Problem too, which are not for the long way.
    """
    creates = _by_entity(mutations)
    if len({(mutation.entity, mutation.row) for mutation in mutations}) < len(mutations):
        raise NotNew
    with cursor() as bound, locking(bound, pusher, len(mutations)):
        kinds = [_Creates(entity, creates[name]) for name, entity in entities().items() if name in creates]

    @cache
    def prepare() -> tuple[list[Candidate], dict[str, Any]]:
        """The candidates, and what `settle` needs. Raises NotNew where a value does not look sound."""
        if not all(kind.look_sound() for kind in kinds):
            raise NotNew
        candidates = [candidate for kind in kinds for candidate in kind.candidates()]
        digests = [candidate.mutation.digest(candidate.values) for candidate in candidates]
        return candidates, settlement(pusher, candidates, digests, [1] * len(candidates))

    for kind in kinds:
        insert(kind.entity, kind.mutations, kind.fields, pusher.author, prepare)
    candidates, prepared = prepare()
    order = {candidate.key: 1 for candidate in candidates}
    referred = {key for candidate in candidates for _, key in candidate.references} - order.keys()
    states = states_of(pusher, referred)

    def check() -> None:
        # Not before: a validator may ask the database, which can be done while a pipeline is open, but not during COPY.
        if not all(kind.keep_own_rules() for kind in kinds):
            raise NotNew
        verdicts, _ = core.decide(candidates, units_of(candidates, range(len(candidates))), states, {})
        if any(verdict is not core.WRITE for verdict in verdicts.values()):
            raise NotNew

    unexpected = settle(pusher, candidates, prepared, check)
    if not all(state.visible for state in unexpected.values()) or broken_by_clean(candidates):
        raise NotNew
    if not unexpected:
        return [1] * len(mutations)
    order |= {key: state.rev for key, state in unexpected.items()}
    return [order[RowKey(mutation.entity, mutation.row)] for mutation in mutations]


class _Creates:
    """The creates of one entity, read but not checked yet. Raises NotNew where they cannot be read."""

    def __init__(self, entity: Entity, mutations: Sequence[Mutation]) -> None:
        self.entity, self.mutations = entity, mutations
        self.sets = joined_sets(mutations)
        try:
            self.fields = plain_values(self.sets)
        except (RecursionError, msgspec.DecodeError):
            raise NotNew from None

    def candidates(self) -> list[Candidate]:
        name = self.entity.name
        references = references_in(self.entity)
        return [
            Candidate(RowKey(name, mutation.row), mutation, values := Values(fields, {}), (), references(values))
            for mutation, fields in zip(self.mutations, self.fields, strict=True)
        ]

    def look_sound(self) -> bool:
        return checker(self.entity).look_sound("create", self.sets, self.fields)

    def keep_own_rules(self) -> bool:
        return checker(self.entity).keep_own_rules(self.fields)


def _by_entity(mutations: Sequence[Mutation]) -> dict[str, list[Mutation]]:
    """The creates of each entity. Raises NotNew where a mutation is anything else."""
    found: dict[str, list[Mutation]] = {}
    for mutation in mutations:
        if mutation.op != "create" or mutation.add is not EMPTY or mutation.lost is not None:
            raise NotNew
        found.setdefault(mutation.entity, []).append(mutation)
    if not all(name in entities() and entities()[name].declaration.writable for name in found):
        raise NotNew
    return found
