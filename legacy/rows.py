"""Our side of a mapping: rows as documents, read, checked and written a page at a time."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import connection, models

from legacy.document import Document, plain
from legacy.mapping import Mapping as Declared
from legacy.mapping import Rows
from sync.amend import sides_of
from sync.checker import Checker, checker_of
from sync.decide import RowKey
from sync.mutation import Mutation
from sync.settle import unclean
from sync.wire import Entity
from sync.write import Change, insert_rows, update_rows


@dataclass
class Ours:
    """One of our rows as it is now, with the rows that belong to it."""

    row: str
    document: Document


@dataclass(frozen=True)
class Plan:
    """What a record makes of one of our rows: `document` is the whole of it, `changes` what is to be written."""

    key: str
    row: str
    document: Document
    changes: Document
    now: Ours | None  # None: the row is new
    # Of a row that comes back, what it and its members had besides, by their ids.
    kept: Mapping[str, Document] = field(default_factory=dict)


class Invalid(Exception):
    """Some rows do not hold against their model: what is wrong, by the row's id."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = errors


def read(mapping: Declared, rows: Collection[str], lock: bool = False) -> dict[str, Ours]:
    """Those of the rows that exist, by id. `lock`: nobody else changes them until the transaction ends."""
    found = mapping.model._default_manager.filter(pk__in=rows).order_by("pk")
    if lock:
        # Not their keys: other runs insert rows that refer to these in any order, and would lock each other out.
        found = found.select_for_update(of=("self",), no_key=True)
    ours = {row: Ours(row, document) for row, document in _documents(mapping.model, mapping.names, found)}
    if part := mapping.rows:
        for each in ours.values():
            each.document[part.place] = {}
        names = (part.parent_column, *part.names)
        members = part.model._default_manager.filter(**{f"{part.parent}__in": list(ours)}).order_by("pk")
        for key, document in _documents(part.model, names, members):
            owner = ours[document[part.parent_column]]
            owner.document[part.place][key] = {name: document[name] for name in part.names}
    return ours


def _documents(
    model: type[models.Model], names: Sequence[str], found: "models.QuerySet[Any]"
) -> list[tuple[str, Document]]:
    fields: dict[str, Any] = {f.attname: f for f in model._meta.concrete_fields}
    columns = [(name, fields[name]) for name in dict.fromkeys(names)]
    return [
        (str(row), {name: plain(column, value) for (name, column), value in zip(columns, values, strict=True)})
        for row, *values in found.values_list("pk", *(name for name, _ in columns))
    ]


def gone(entity: Entity, rows: Collection[str]) -> dict[str, Document]:
    """What deleted rows had, in wire form and with what devices never saw, by id; those that the history knows."""
    sides = sides_of([RowKey(entity.name, row) for row in rows])
    return {key.row: {**side.gone, **(side.hidden or {})} for key, side in sides.items() if side.gone}


def write(mapping: Declared, plans: Sequence[Plan], meanwhile: Callable[[], object]) -> None:
    """Write what the plans say, set-wise. Raises Invalid or the database's errors, for the caller to roll back.

    `meanwhile` is called while PostgreSQL is at work on new rows, if there are any; what it raises is dropped.
    """
    part = mapping.rows
    own = [(plan, {n: v for n, v in plan.changes.items() if not (part and n == part.place)}) for plan in plans]
    made = [(plan.row, values) for plan, values in own if plan.now is None]
    altered = [(plan.row, values) for plan, values in own if plan.now is not None and values]
    kept = {row: document for plan in plans for row, document in plan.kept.items()}
    _write(mapping.entity, frozenset(mapping.readers), made, altered, kept, meanwhile)
    if part:
        _write_members(part, plans, kept)
    connection.check_constraints()  # now, where the failing record can still be told, and not at commit


def _write_members(part: Rows, plans: Sequence[Plan], kept: Mapping[str, Document]) -> None:
    made: list[tuple[str, Document]] = []
    altered: list[tuple[str, Document]] = []
    gone: list[str] = []
    for plan in plans:
        now = plan.now.document if plan.now else {}
        there: Mapping[str, Document] = now.get(part.place, {})
        wanted = plan.changes.get(part.place, there)
        for key, values in wanted.items():
            if key not in there:
                made.append((key, {**values, part.parent_column: plan.row}))
            elif news := {name: value for name, value in values.items() if there[key].get(name) != value}:
                altered.append((key, news))
        gone += there.keys() - wanted.keys()
    if gone:
        part.model._default_manager.filter(pk__in=gone).delete()
    _write(part.entity, frozenset({*part.names, part.parent_column}), made, altered, kept)


def _write(
    entity: Entity,
    names: frozenset[str],
    made: Sequence[tuple[str, Document]],
    altered: Sequence[tuple[str, Document]],
    kept: Mapping[str, Document],
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    check = checker_of(entity, names)
    wrong = _wrong(check, "create", made) | _wrong(check, "update", altered)
    if wrong:
        raise Invalid(wrong)
    if made:
        values = [{**kept.get(row, {}), **values} for row, values in made]
        insert_rows(entity, [row for row, _ in made], values, meanwhile)
    if altered:
        update_rows(entity, [Change(row, values) for row, values in altered])
    if broken := unclean(entity, [row for row, _ in (*made, *altered)]):
        raise Invalid({key.row: _told(errors) for key, errors in broken.items()})


def _wrong(check: Checker, op: Any, rows: Sequence[tuple[str, Document]]) -> dict[str, str]:
    """What is wrong with these values, by row; all are looked at together where nothing is."""
    if not rows or check.are_sound(op, msgspec.json.encode([values for _, values in rows]), [v for _, v in rows]):
        return {}
    found = {
        row: check.check(Mutation("", check.entity.name, row, op, set=msgspec.Raw(msgspec.json.encode(values))))
        for row, values in rows
    }
    return {row: _told(errors) for row, errors in found.items() if isinstance(errors, list)}


def _told(errors: Sequence[Any]) -> str:
    return "; ".join(f"{error.field}: {error.message}" if error.field else error.message for error in errors)
