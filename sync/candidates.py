"""Mutations with their checked values: what `sync.decide` and `sync.write` work on."""

from collections.abc import Iterable, Sequence

from sync.checker import checker
from sync.decide import Candidate, RowKey
from sync.mutation import Mutation, Values, error
from sync.wire import entities, references_of


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
    references = [(field.name, field.references) for field in references_of(entity) if field.references]
    return [
        Candidate(RowKey(name, mutation.row), mutation, values, (), _references(values, references))
        if isinstance(values, Values)
        else Candidate(RowKey(name, mutation.row), mutation, errors=tuple(values))
        for mutation, values in zip(mutations, checker(entity).check_all(mutations), strict=True)
    ]


def _references(values: Values, references: Iterable[tuple[str, str]]) -> tuple[tuple[str, RowKey], ...]:
    """The rows that a mutation's values refer to, by field."""
    given = values.fields
    return tuple(
        [(name, RowKey(entity, given[name].lower())) for name, entity in references if given.get(name) is not None]
    )
