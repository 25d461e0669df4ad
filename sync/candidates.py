"""Mutations with their checked values: what `sync.decide` and `sync.write` work on."""

from collections.abc import Callable, Iterable, Sequence

from sync.checker import checker
from sync.decide import Candidate, RowKey
from sync.mutation import Mutation, Values, error
from sync.wire import Entity, entities, references_of


def candidates_of(mutations: Sequence[Mutation]) -> list[Candidate]:
    """The mutations with their checked values, those of one kind checked together."""
    kinds: dict[tuple[str, str], list[Mutation]] = {}
    for mutation in mutations:
        kinds.setdefault((mutation.entity, mutation.op), []).append(mutation)
    checked = {kind: iter(_of_kind(kind[0], found)) for kind, found in kinds.items()}
    return [next(checked[mutation.entity, mutation.op]) for mutation in mutations]


def _of_kind(name: str, mutations: Sequence[Mutation]) -> Iterable[Candidate]:
    """The candidates of one entity and one `op`."""
    entity = entities().get(name)
    if entity is None:
        return [Candidate(RowKey(name, m.row), m, errors=(error("unknown_entity"),)) for m in mutations]
    references = references_in(entity)
    return [
        Candidate(RowKey(name, mutation.row), mutation, values, (), references(values))
        if isinstance(values, Values)
        else Candidate(RowKey(name, mutation.row), mutation, errors=tuple(values))
        for mutation, values in zip(mutations, checker(entity).check_all(mutations), strict=True)
    ]


def references_in(entity: Entity) -> Callable[[Values], tuple[tuple[str, RowKey], ...]]:
    """The function from the values of a mutation to the rows that they refer to, by field."""
    known = [(field.name, field.references) for field in references_of(entity) if field.references]
    names = frozenset(name for name, _ in known)

    def references(values: Values) -> tuple[tuple[str, RowKey], ...]:
        given = values.fields
        if names.isdisjoint(given):
            return ()
        return tuple(
            [(name, RowKey(to, str(given[name]).lower())) for name, to in known if given.get(name) is not None]
        )

    return references
