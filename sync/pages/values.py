"""Values in wire form as a person reads them: choices, references and moments by their names."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.utils import timezone
from django.utils.text import capfirst

from sync.pages.names import RowId, row_names, short_id
from sync.wire import Entity, Field, entities

EMPTY = "(empty)"
NONE = "(none)"


@dataclass(frozen=True)
class Labels:
    """The names of the rows that values refer to; of entities that the reader may not see it holds none."""

    rows: Mapping[RowId, str] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Iterable[tuple[Entity, Mapping[str, Any] | None]], viewable: Iterable[str]) -> "Labels":
        """Those of every reference in these values, in one query an entity."""
        seen = set(viewable)
        wanted = {
            (found.references, str(told[found.name]))
            for entity, told in values
            if told
            for found in entity.fields
            if found.references in seen and told.get(found.name)
        }
        return cls(row_names(wanted))

    def text(self, found: Field | None, value: Any) -> str:
        """A value as a person reads it."""
        if value is None:
            return NONE
        if value == "":
            return EMPTY
        if found is None:
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if found.references:
            return self.rows.get((found.references, str(value)), short_id(value))
        return _typed(found, value)


def _typed(found: Field, value: Any) -> str:
    if found.choices is not None:
        return str(dict(found.model_field.flatchoices).get(value, value))
    match found.type:
        case "boolean":
            return "yes" if value else "no"
        case "decimal":
            return _plain(value)
        case "datetime":
            return _moment(value)
        case "json":
            return json.dumps(value, ensure_ascii=False, indent=2)
        case _:
            return str(value)


def _plain(value: Any) -> str:
    """A decimal with the zeros at its end cut, but for two places."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    whole, _, places = format(number, "f").partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}" if places else whole


def _moment(value: Any) -> str:
    try:
        return f"{timezone.localtime(datetime.fromisoformat(str(value))):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return str(value)


def field_label(entity: str, name: str) -> str:
    """What a field is called on pages: by its model, and by its own name where the model has it no longer."""
    known = entities().get(entity)
    found = known.field(name) if known else None
    return capfirst(str(found.model_field.verbose_name)) if found else name


def entity_label(entity: str) -> str:
    """What an entity is called on pages."""
    known = entities().get(entity)
    return str(known.model._meta.verbose_name) if known else entity
