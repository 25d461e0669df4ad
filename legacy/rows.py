"""Our side of a mapping: rows as documents, read and written a page at a time."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import connection, models

from legacy.mapping import Document, F, Mapping, plain


@dataclass
class Ours:
    """One of our rows as it is now, with the rows that belong to it."""

    row: models.Model
    document: Document
    members: dict[str, models.Model] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a record makes of one of our rows: `document` is the whole of it, `changes` what is to be written."""

    key: str
    row: UUID
    document: Document
    changes: Document
    now: Ours | None  # None: the row is new


def read(mapping: Mapping, rows: Collection[UUID], lock: bool = False) -> dict[UUID, Ours]:
    """Those of the rows that exist. `lock`: nobody else changes them until the transaction ends."""
    found = mapping.model._default_manager.filter(pk__in=rows)
    if lock:
        found = found.select_for_update(of=("self",)).order_by("pk")
    ours = {row.pk: Ours(row, _document(row, mapping.fields)) for row in found}
    if part := mapping.rows:
        for each in ours.values():
            each.document[part.place] = {}
        for member in part.model._default_manager.filter(**{f"{part.parent}__in": list(ours)}).order_by("pk"):
            owner = ours[getattr(member, f"{part.parent}_id")]
            owner.members[str(member.pk)] = member
            owner.document[part.place][str(member.pk)] = _document(member, part.fields)
    return ours


def write(mapping: Mapping, plans: Collection[Plan]) -> None:
    """Write what the plans say, set-wise. Raises ValidationError or IntegrityError, for the caller to roll back."""
    made: list[models.Model] = []
    updated: list[models.Model] = []
    names: set[str] = set()
    for plan in plans:
        own = {name: value for name, value in plan.changes.items() if not (mapping.rows and name == mapping.rows.place)}
        row = plan.now.row if plan.now else mapping.model(pk=plan.row)
        _fill(row, own)
        if not plan.now:
            made.append(row)
        elif own:
            updated.append(row)
            names |= own.keys()
    mapping.model._default_manager.bulk_create(made)
    if updated:
        mapping.model._default_manager.bulk_update(updated, sorted(names))
    if mapping.rows:
        _write_members(mapping, plans, {row.pk: row for row in made})
    connection.check_constraints()  # now, where the failing record can still be told, and not at commit


def _write_members(mapping: Mapping, plans: Collection[Plan], made: dict[Any, models.Model]) -> None:
    part = mapping.rows
    assert part is not None
    new: list[models.Model] = []
    updated: list[models.Model] = []
    gone: list[str] = []
    for plan in plans:
        parent = plan.now.row if plan.now else made[plan.row]
        there = plan.now.members if plan.now else {}
        wanted = plan.changes.get(part.place)
        copied = {f"{name}_id": getattr(parent, f"{name}_id") for name in part.copied}
        for key in there if wanted is None else wanted:
            member = there.get(key) or part.model(pk=UUID(key), **{f"{part.parent}_id": parent.pk})
            before = {name: value for name, value in vars(member).items() if name != "_state"}
            _fill(member, wanted[key] if wanted is not None else {})
            vars(member).update(copied)
            if key not in there:
                new.append(member)
            elif before != {name: value for name, value in vars(member).items() if name != "_state"}:
                updated.append(member)
        gone += there.keys() - wanted.keys() if wanted is not None else []
    manager = part.model._default_manager
    manager.filter(pk__in=gone).delete()
    manager.bulk_create(new)
    if updated:
        manager.bulk_update(updated, [*(line.ours for line in part.fields), *part.copied])


def _fill(row: models.Model, values: Document) -> None:
    """Give a row its values. Raises ValidationError."""
    references = set()
    for name, value in values.items():
        at = row._meta.get_field(name)
        assert isinstance(at, models.Field)
        setattr(row, at.attname, at.to_python(value))
        if at.is_relation:
            references.add(name)
    others = {each.name for each in row._meta.fields if each.name not in values}
    row.clean_fields(exclude=others | references)  # what a reference refers to, the database checks for all at once
    row.clean()


def _document(row: models.Model, lines: Iterable[F]) -> Document:
    document: Document = {}
    for line in lines:
        at = row._meta.get_field(line.ours)
        assert isinstance(at, models.Field)
        document[line.ours] = plain(at, getattr(row, at.attname))
    return document
