"""What became of one row: its changes with their authors, what it was at a revision, and which devices have it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from sync.models import History
from sync.pages.names import author_names
from sync.sql import array, block
from sync.wire import Entity

CHANGES_MAX = 200  # of a page of the timeline, the newest first
DEVICES_MAX = 50  # of those that have the row, those that are behind first

# What devices never get as a field.
_NAMES = frozenset({"id", "_rev"})


@dataclass(frozen=True)
class Now:
    """A row as it is: its last revision (0: it never was) and its values in wire form (None: it is not there)."""

    rev: int
    values: Mapping[str, Any] | None


@dataclass(frozen=True)
class Author:
    """Who made a change: `kind` is device, user, run, migrate or sql; `name` is what people call them."""

    kind: str
    name: str
    device: str | None = None


@dataclass(frozen=True)
class FieldChange:
    name: str
    old: Any
    new: Any
    had_old: bool = True
    has_new: bool = True


@dataclass(frozen=True)
class Change:
    """One revision of the row. `fields` of an insert are what it was created with, of a delete what it was."""

    rev: int
    at: datetime
    op: str
    author: Author
    mutation: UUID | None
    fields: Sequence[FieldChange]


@dataclass(frozen=True)
class Page:
    changes: Sequence[Change]
    older: int | None = None  # the revision before which the next page begins


@dataclass(frozen=True)
class Holder:
    """A device that is granted the row. `called`: it made the row's last change, or was in touch after it."""

    id: UUID
    name: str
    last_seen_at: datetime | None
    pending: int | None
    oldest_pending_at: datetime | None
    called: bool
    scopes: Sequence[str]


@dataclass(frozen=True)
class Holders:
    """The first of the devices that are granted the row, how many there are in all, and how many called since."""

    shown: Sequence[Holder] = field(default_factory=list)
    total: int = 0
    called: int = 0


def row_now(entity: str, row: UUID) -> Now:
    found = _rows("row_now", entity=entity, row=row)
    rev, data = found[0] if found else (0, None)
    return Now(rev, msgspec.json.decode(data) if data else None)


def values_at(entity: Entity, row: UUID, revs: Iterable[int]) -> dict[int, dict[str, Any]]:
    """What the row was at each of these revisions, which must be kept; in wire form, by today's fields."""
    wanted = list(revs)
    if not wanted:
        return {}
    found = _rows("rows_at", entity=entity.name, row=row, revs=array(wanted))
    return {
        rev: {field.name: values[field.name] for field in entity.fields if field.name in values}
        for rev, values in ((rev, msgspec.json.decode(text)) for rev, text in found)
    }


def timeline(entity: Entity, row: UUID, before: int | None = None) -> Page:
    """A page of the row's changes, the newest first; those before a revision, where one is given."""
    known = History.objects.filter(row_id=row, entity=entity.name).order_by("-rev")
    found = list((known.filter(rev__lt=before) if before else known)[: CHANGES_MAX + 1])
    shown = found[:CHANGES_MAX]
    names = author_names(change.author for change in shown)
    created = values_at(entity, row, (change.rev for change in shown if change.op == "insert"))
    changes = [
        Change(
            change.rev, change.at, change.op, _author(change.author, names), change.mutation, _fields(change, created)
        )
        for change in shown
    ]
    return Page(changes, shown[-1].rev if len(found) > CHANGES_MAX else None)


def holders(entity: str, row: UUID, last: History) -> Holders:
    """Which devices are granted the row, and which of them made its last change or were in touch after it."""
    by = last.author.removeprefix("device:") if last.author.startswith("device:") else None
    found = _rows("devices_of_row", entity=entity, row=row, at=last.at, by=by, limit=DEVICES_MAX)
    if not found:
        return Holders()
    return Holders([Holder(*row[:7]) for row in found], *found[0][7:])


def _author(text: str, names: Mapping[str, str]) -> Author:
    kind, _, name = text.partition(":")
    return Author(kind, names[text], name if kind == "device" else None)


def _fields(change: History, created: Mapping[int, Mapping[str, Any]]) -> list[FieldChange]:
    if change.op == "insert":
        values = created.get(change.rev, {})
        return [
            FieldChange(name, None, value, had_old=False)
            for name, value in values.items()
            if value is not None and value != ""
        ]
    old, new = change.old or {}, change.new or {}
    return [
        FieldChange(name, old.get(name), new.get(name), name in old, name in new)
        for name in dict.fromkeys([*old, *new])
        if name not in _NAMES
    ]


def _rows(name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(block("pages/row.sql", name), parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
