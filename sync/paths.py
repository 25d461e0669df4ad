"""Where a scope's value stands: in a column of the row, or of a row that its foreign keys lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from sync.sql import quote

# Whose text is the same in every session, whatever its time zone and date style.
_NAMING = (models.IntegerField, models.CharField, models.TextField, models.UUIDField, models.BooleanField)


class BadPath(ValueError):
    """A path does not lead anywhere; the message is the end of a sentence about it."""


@dataclass(frozen=True)
class Hop:
    """One foreign key of the way: `column` of the row before it refers to `key` of `table`, all as quoted SQL."""

    column: str
    table: str
    key: str
    field: models.ForeignKey[Any, Any]


@dataclass(frozen=True)
class Path:
    """The hops from a row to the one that has the value, and the value's column there."""

    hops: tuple[Hop, ...]
    column: str
    field: models.Field[Any, Any]

    @property
    def own_column(self) -> str:
        """The column of the row itself with which the way begins."""
        return self.hops[0].column if self.hops else self.column

    def column_at(self, place: int) -> str:
        """The column that is read of the table that hop number `place` (from 0) leads to."""
        return self.hops[place + 1].column if place + 1 < len(self.hops) else self.column

    def value_sql(self, row: str) -> str:
        """The SQL of the value, as text, for the row called `row`; NULL where the way ends early."""
        if not self.hops:
            return f"{row}.{self.column}::text"
        first, *others = self.hops
        joins = "".join(
            f" JOIN {hop.table} t{at} ON t{at}.{hop.key} = t{at - 1}.{hop.column}"
            for at, hop in enumerate(others, start=1)
        )
        last = f"t{len(others)}.{self.column}::text"
        return f"(SELECT {last} FROM {first.table} t0{joins} WHERE t0.{first.key} = {row}.{first.column})"


def path_of(model: type[models.Model], text: str) -> Path:
    """The path that `text` says, such as `order__customer__country`. Raises BadPath."""
    *names, last = text.split("__")
    hops = []
    for name in names:
        key = _foreign_key(model, name)
        model = key.remote_field.model
        assert key.column is not None and key.target_field.column is not None  # of concrete fields
        hops.append(Hop(quote(key.column), quote(model._meta.db_table), quote(key.target_field.column), key))
    field = _naming_field(model, last)
    assert field.column is not None
    return Path(tuple(hops), quote(field.column), field)


def _foreign_key(model: type[models.Model], name: str) -> models.ForeignKey[Any, Any]:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    if not isinstance(field, models.ForeignKey):
        raise BadPath(f"follows {name!r}, which is no foreign key of {model.__name__}")
    if not getattr(field, "db_constraint", True):
        raise BadPath(f"follows {name!r}, whose rows PostgreSQL does not keep in step (db_constraint=False)")
    if not _indexed(field):
        raise BadPath(f"follows {name!r}, which has no index: a row that moves could not find those that follow it")
    return field


def _indexed(field: models.Field[Any, Any]) -> bool:
    meta = field.model._meta
    first = [index.fields[0].lstrip("-") for index in meta.indexes if index.fields and index.condition is None]
    first += [
        each.fields[0]
        for each in meta.constraints
        if isinstance(each, models.UniqueConstraint) and each.fields and each.condition is None
    ]
    return getattr(field, "db_index", False) or field.unique or field.name in first


def _naming_field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    field = next((f for f in model._meta.concrete_fields if f.attname == name), None)
    if field is None or field.column is None:
        raise BadPath(f"names {name!r}, which is no column (a foreign key is named with its `_id`)")
    kind = field.target_field if isinstance(field, models.ForeignKey) else field
    if not isinstance(kind, _NAMING):
        raise BadPath(f"names {name!r} ({type(kind).__name__}), whose values cannot name a scope")
    return field
