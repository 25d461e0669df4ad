"""A value that a person enters for a field: its form field, its widget by type, and its way to and from the wire."""

from collections.abc import Container
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.db import models
from django.utils import timezone
from django.utils.text import capfirst

from sync.wire import INTEGER_SAFE_MAX, Entity, Field


def own_possible(entity: Entity, name: str) -> bool:
    """Whether a person can enter a value of this field."""
    found = entity.field(name)
    return found is not None and not found.read_only and found.type != "binary"


def own_field(entity: Entity, name: str, value: Any, viewable: Container[str]) -> forms.Field | None:
    """The form field in which a person enters a value, starting from `value` in wire form; None where none can.

    `viewable`: the entities whose rows the person may see, and so may look for.
    """
    found = entity.field(name)
    if found is None or not own_possible(entity, name):
        return None
    made = _form_field(found, viewable)
    if made is not None:
        made.label = capfirst(str(found.model_field.verbose_name))
        made.initial = from_wire(found, value)
        told = {"aria-label": f"Another value of {made.label}", "autocomplete": "off"}
        made.widget.attrs |= {"data-own": name, **told}
    return made


def _form_field(found: Field, viewable: Container[str]) -> forms.Field | None:
    model_field = found.model_field
    if isinstance(model_field, models.ForeignKey):
        page = admin.site._registry.get(model_field.related_model)
        if found.references in viewable and page is not None and page.search_fields:
            return model_field.formfield(widget=AutocompleteSelect(model_field, admin.site))
        return forms.UUIDField(required=not found.nullable)
    if found.type == "boolean":
        return _yes_no(found)
    options: dict[str, Any] = {"widget": widget} if (widget := _widget(found)) else {}
    return model_field.formfield(**options)


def _widget(found: Field) -> forms.Widget | None:
    """The widget of a type; None: that of the model field."""
    if found.choices:
        return None
    match found.type:
        case "date":
            return forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})
        case "datetime":
            return forms.DateTimeInput(format="%Y-%m-%dT%H:%M:%S", attrs={"type": "datetime-local", "step": "1"})
        case "time":
            return forms.TimeInput(format="%H:%M:%S", attrs={"type": "time", "step": "1"})
        case "integer" | "decimal" | "real":
            return forms.NumberInput(attrs={"step": "1" if found.type == "integer" else "any"})
        case "text" if not isinstance(found.model_field, models.CharField):
            return forms.Textarea(attrs={"rows": 5})
    return None


def _yes_no(found: Field) -> forms.Field:
    choices = [("true", "yes"), ("false", "no")]
    return forms.TypedChoiceField(
        choices=[("", "(none)"), *choices] if found.nullable else choices,
        coerce=lambda value: value == "true",
        empty_value=None,
        required=not found.nullable,
    )


def from_wire(found: Field, value: Any) -> Any:
    """A value in wire form as its form field takes it; None for what is none, of a field that was of another type."""
    if value is None:
        return None
    try:
        match found.type:
            case "boolean":
                return "true" if value else "false"
            case "datetime":
                return timezone.localtime(datetime.fromisoformat(str(value)))
            case "time":
                return time.fromisoformat(str(value))
            case "uuid":
                return str(UUID(str(value)))
    except (ValueError, OverflowError):
        return None
    return value


def to_wire(found: Field, value: Any) -> Any:
    """What a form field cleaned, in wire form."""
    match value:
        case models.Model():
            return str(value.pk)
        case UUID():
            return str(value)
        case time():
            return value.isoformat(timespec="microseconds")
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Decimal():
            return format(value, "f")
        case int() if abs(value) > INTEGER_SAFE_MAX:
            return str(value)
        case str() if value and found.type == "text":
            return value.replace("\r\n", "\n")  # browsers send lines so
        case "" if found.nullable and found.type != "text":
            return None
    return value
