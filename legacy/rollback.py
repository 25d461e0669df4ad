"""Taking a run back: what it wrote to our database, where nothing has changed since. The other side stays as it is."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError, RestrictedError
from django.utils import timezone

from legacy.connector import Misconfigured
from legacy.exchange import SQL, Exchange
from legacy.mapping import Mapping
from legacy.models import Counterpart, Cursor, Link, Run, Waiting
from legacy.rows import read
from sync.sql import block, cursor
from sync.wire import Entity, entities
from sync.write import Change, insert_rows, update_rows

PAGE_CHANGES = 500
CLOCKS_APART = timedelta(days=1)  # at most: the run's is that of its machine, the history's that of the database
FIRST = UUID(int=0)


@dataclass(frozen=True)
class Written:
    """What a run made of one row. `old`: its fields before; None: it was not there. `last`: nobody changed it since."""

    entity: Entity
    row: str
    old: dict[str, Any] | None
    deleted: bool
    last: bool

    @property
    def made(self) -> bool:
        """Whether it is there since the run alone."""
        return self.old is None and not self.deleted


@dataclass
class TakenBack:
    """What a rollback did, by what happened, and what it left and why."""

    counts: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        done = ", ".join(f"{number} {what}" for what, number in sorted(self.counts.items())) or "nothing to undo"
        return f"Taken back: {done}." + (f" Left: {len(self.left)}." if self.left else "")


def roll_back(exchange: Exchange, undone: Run) -> TakenBack:
    """Undo what a run wrote to our database, and go back to where its mappings had read to before it.

    The system is paused afterwards: a run would read the same again. Raises Misconfigured for a run of another system.
    """
    if undone.system != exchange.system:
        raise Misconfigured(f"The run {undone.pk} is not of {exchange.system} but of {undone.system}.")
    found = take_back(exchange, undone)
    if not exchange.pretend:
        with exchange.writing():
            Counterpart.objects.filter(system=exchange.system).update(
                paused_at=timezone.now(), paused_why=f"the run {undone.pk} was rolled back"
            )
    return found


def take_back(exchange: Exchange, undone: Run | None = None) -> TakenBack:
    """The same without pausing; of the run at work itself where no other is named.

    What the run made goes first, children before their parents, then what it changed or deleted is put back. What it
    made and something else of the run still referred to goes at the end.
    """
    run, found = undone or exchange.run, TakenBack()
    for entity in entities().values():
        for page in _pages(entity, run):
            found.left += [f"{entity.name} {w.row}: changed since" for w in page if not w.last]
    _take_away(exchange, run, TakenBack(found.counts))
    for entity in entities().values():
        for page in _pages(entity, run):
            _undo(exchange, entity, run, [w for w in page if w.last and w.old is not None], found)
    if not exchange.pretend:
        _take_away(exchange, run, found)
        _read_again(exchange, run)
    return found


def _take_away(exchange: Exchange, run: Run, found: TakenBack) -> None:
    for entity in reversed(entities().values()):
        for page in _pages(entity, run):
            made = [w for w in page if w.last and w.made]
            used = _used(entity, [w.row for w in made]) if made and not exchange.pretend else set()
            found.left += [f"{entity.name} {row}: other rows refer to it" for row in sorted(used)]
            _undo(exchange, entity, run, [w for w in made if w.row not in used], found)


def _used(entity: Entity, rows: list[str]) -> set[str]:
    """Those of the rows that others refer to, which would go with them, or lose what they refer to."""
    found: set[str] = set()
    for relation in entity.model._meta.related_objects:
        name = relation.field.name
        others: Any = relation.related_model._default_manager.filter(**{f"{name}__in": rows})
        if relation.related_model is entity.model:
            others = others.exclude(pk__in=rows)
        found |= {str(row) for row in others.values_list(f"{name}_id", flat=True)}
    return found


def _read_again(exchange: Exchange, undone: Run) -> None:
    """Back to where the run began to read; what it read and did not apply yet is forgotten."""
    with exchange.writing():
        Waiting.objects.filter(system=exchange.system, read_at__gte=undone.started_at).delete()
        for name, state in undone.cursors.items():
            at = Cursor.objects.filter(system=exchange.system, mapping=name, direction=Cursor.Direction.PULL)
            at.update(state=state, midway=False, swept_at=None)


def _pages(entity: Entity, run: Run) -> Iterator[list[Written]]:
    """What a run wrote to an entity, each row once, by the page."""
    after = FIRST
    while True:
        with cursor() as bound:
            parameters = {
                "author": run.author,
                "entity": entity.name,
                "after": after,
                "since": run.started_at - CLOCKS_APART,  # leaves out the history's months before it
                "limit": PAGE_CHANGES,
            }
            changes = bound.execute(block(SQL, "written"), parameters).fetchall()
        if not changes:
            return
        rows = _by_row(changes)
        if len(changes) == PAGE_CHANGES and len(rows) > 1:
            rows.popitem()  # the page may end in the middle of its changes
        yield [_written(entity, row, steps) for row, steps in rows.items()]
        after = UUID(next(reversed(rows)))


def _by_row(changes: Sequence[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for change in changes:
        found.setdefault(change[1], []).append(change)
    return found


def _written(entity: Entity, row: str, steps: list[tuple[Any, ...]]) -> Written:
    """From a row's changes, the newest first, to what it was before all of them."""
    newest, oldest = steps[0], steps[-1]
    last = bool(newest[6])
    if oldest[3] == "insert":
        return Written(entity, row, None, newest[3] == "delete", last)
    before: dict[str, Any] = {}
    for step in steps:
        before |= (json.loads(step[4]) if step[4] else {}) | (json.loads(step[5]) if step[5] else {})
    return Written(
        entity, row, {n: v for n, v in before.items() if n not in ("id", "_rev")}, newest[3] == "delete", last
    )


def _undo(exchange: Exchange, entity: Entity, run: Run, written: Sequence[Written], found: TakenBack) -> None:
    """Put rows back; halved where another row's reference keeps one."""
    if not written:
        return
    try:
        with transaction.atomic():
            if not exchange.pretend:
                with exchange.writing():
                    _write(exchange, entity, run, written)
    except (ProtectedError, RestrictedError, IntegrityError) as error:
        if len(written) == 1:
            found.left.append(f"{entity.name} {written[0].row}: {error.args[0]}")
            return
        middle = len(written) // 2
        _undo(exchange, entity, run, written[:middle], found)
        _undo(exchange, entity, run, written[middle:], found)
        return
    for each in written:
        found.counts["deleted again" if each.old is None else "made again" if each.deleted else "restored"] += 1


def _write(exchange: Exchange, entity: Entity, run: Run, written: Sequence[Written]) -> None:
    rows = [each.row for each in written]
    parents = _parents(exchange, entity, rows)
    if made := [each.row for each in written if each.made]:
        entity.model._default_manager.filter(pk__in=made).delete()
        Link.objects.filter(system=exchange.system, row__in=made).delete()
    if again := [each for each in written if each.deleted and each.old is not None]:
        insert_rows(entity, [each.row for each in again], [each.old or {} for each in again])
    if restored := [each for each in written if not each.deleted and each.old]:
        update_rows(entity, [Change(each.row, each.old or {}) for each in restored])
    with cursor() as bound:
        bound.execute(block(SQL, "remember"), {"run": run.pk, "system": exchange.system, "rows": rows})
    for mapping in exchange.mappings.values():
        if mapping.model is entity.model:
            _agree_again(exchange, mapping, {each.row: each.old or {} for each in written})
        elif mapping.rows and mapping.rows.model is entity.model:
            whole = {mapping.rows.place: None}
            _agree_again(exchange, mapping, dict.fromkeys(parents | _parents(exchange, entity, rows), whole))


def _parents(exchange: Exchange, entity: Entity, members: list[str]) -> set[str]:
    """The rows that these belong to, as lines to an order."""
    parts = [m.rows for m in exchange.mappings.values() if m.rows and m.rows.model is entity.model]
    there = entity.model._default_manager.filter(pk__in=members)
    return {str(parent) for part in parts for parent in there.values_list(part.parent_column, flat=True)}


def _agree_again(exchange: Exchange, mapping: Mapping, fields: dict[str, dict[str, Any]]) -> None:
    """Their record is news again when it is read again, and what it says in these fields, by row, is their change."""
    now = read(mapping, list(fields))
    for link in exchange.links_of(mapping.name, list(fields)):
        if ours := now.get(str(link.row)):
            names = fields[ours.row].keys() & link.agreed.keys()
            link.agreed |= {name: ours.document[name] for name in names if name in ours.document}
            link.seen = ""
            link.save(update_fields=["agreed", "seen"])
