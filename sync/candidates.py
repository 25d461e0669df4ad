"""Mutations with their checked values: what `sync.decide` and `sync.write` work on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sync.checker import checker
from sync.decide import Candidate, RowKey
from sync.mutation import Batch, Mutation, Values, error
from sync.rules import rules_of
from sync.wire import Entity, entities, references_of

# Nearer to the ends of the calendar a moment cannot be shown in every time zone, and not even be read back.
FIRST_MOMENT = datetime.min.replace(tzinfo=UTC) + timedelta(days=2)
LAST_MOMENT = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)


def within_calendar(at: datetime) -> datetime:
    """A device's time in UTC. Its clock may say anything."""
    return max(FIRST_MOMENT, min(at, LAST_MOMENT)).astimezone(UTC)


@dataclass(frozen=True)
class Clock:
    """Turns the times of a device into the server's, by what both said when the batch was sent; never beyond now."""

    now: datetime
    sent_at: datetime | None

    def server_time(self, made_at: datetime | None) -> datetime | None:
        if made_at is None:
            return None
        made = within_calendar(made_at)
        if self.sent_at is None:
            return min(made, self.now)
        skew = self.now - within_calendar(self.sent_at)
        try:
            return min(made + skew, self.now)
        except OverflowError:
            return FIRST_MOMENT if skew < timedelta() else self.now


def candidates_of(batch: Batch, now: datetime) -> list[Candidate]:
    """The mutations with their checked values, those of one kind checked together."""
    clock = Clock(now, batch.sent_at)
    kinds: dict[tuple[str, str], list[Mutation]] = {}
    for mutation in batch.mutations:
        kinds.setdefault((mutation.entity, mutation.op), []).append(mutation)
    checked = {kind: iter(_of_kind(kind[0], found, clock)) for kind, found in kinds.items()}
    return [next(checked[mutation.entity, mutation.op]) for mutation in batch.mutations]


def _of_kind(name: str, mutations: Sequence[Mutation], clock: Clock) -> Iterable[Candidate]:
    """The candidates of one entity and one `op`."""
    entity = entities().get(name)
    if entity is None:
        return [Candidate(RowKey(name, m.row), m, errors=(error("unknown_entity"),)) for m in mutations]
    references, rules = references_in(entity), rules_of(entity)
    return [
        Candidate(
            RowKey(name, mutation.row),
            mutation,
            values,
            (),
            references(values),
            rules,
            clock.server_time(mutation.made_at) if rules.timed else None,
        )
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
