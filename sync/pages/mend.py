"""The form in which an administrator mends a refused change: the entity's own fields, filled with what was sent."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import cached_property
from typing import Any

import msgspec
from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.db import models
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime, parse_time
from django.utils.text import capfirst

from sync.models import Rejection
from sync.mutation import Error
from sync.pages import words
from sync.wire import INTEGER_SAFE_MAX, Entity, Field

SET, OMIT = "set-", "omit-"
COMMENT_LENGTH_MAX = 1_000
TEXT_ROWS = 4  # of a long text, at first


@dataclass(frozen=True)
class Sent:
    """What a refused mutation holds, as far as it can be read; `text` is all of it, as it came."""

    text: str
    values: Mapping[str, Any]
    amounts: Mapping[str, Any]
    base: int | None
    made_at: str | None

    @property
    def pretty(self) -> str:
        """Indented, with what JSON would escape as it is; what is no JSON as it came."""
        try:
            return json.dumps(json.loads(self.text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.text


def sent_by(rejection: Rejection) -> Sent:
    try:
        body = msgspec.json.decode(rejection.body)
    except (msgspec.DecodeError, RecursionError):
        body = {}
    body = body if isinstance(body, dict) else {}
    base, made_at = body.get("base"), body.get("made_at")
    return Sent(
        rejection.body,
        _members(body.get("set")),
        _members(body.get("add")),
        base if isinstance(base, int) else None,
        made_at if isinstance(made_at, str) else None,
    )


def _members(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


class Reference(AutocompleteSelect):
    """Looks a row up as one types. What a device sent need not be an id at all: then nothing is chosen."""

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> Any:
        return super().optgroups(name, [each for each in value if words.is_id(each)], attr)


class MendForm(forms.Form):
    """The fields that were sent, and the others that may be set beside them.

    `kept` is how it was mended before, if it was. `mended` is then what is to be written: what was sent, as mended,
    less what is left as it is, and those of the others that were changed.
    """

    class Media:
        js = ("admin/js/core.js",)

    comment = forms.CharField(
        label="Comment",
        required=False,
        max_length=COMMENT_LENGTH_MAX,
        help_text="The person at the device can read it.",
    )

    def __init__(
        self,
        request: HttpRequest,
        entity: Entity,
        op: str,
        sent: Sent,
        now: Mapping[str, Any] | None,
        data: Any = None,
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data)
        self.entity, self.op, self.sent, self.now = entity, op, sent, now
        self.request = request
        self.kept = {} if kept is None else kept
        self.given = {**sent.values, **self.kept}
        for field in entity.writable_fields:
            known = field.name in sent.values
            made = _form_field(request, field)
            if made is None or field.name in sent.amounts:
                continue
            made.initial = initial(field, self.given.get(field.name, (now or {}).get(field.name, field.default)))
            made.required = made.required and (known or op == "create")
            odd = known and field.choices and _is_none_of(self.given[field.name], field)
            if odd and isinstance(made, forms.ChoiceField):
                made.choices = [("", "Choose…"), *model_choices(field)]  # or a browser would choose the first
            self.fields[SET + field.name] = made
            if known and op == "update":
                left = kept is not None and field.name not in kept
                self.fields[OMIT + field.name] = forms.BooleanField(
                    required=False, label="Leave as it is", initial=left
                )

    def full_clean(self) -> None:
        super().full_clean()
        if self.is_bound:
            for name in self.omitted:
                self.errors.pop(SET + name, None)  # what is not written need not be right

    @cached_property
    def omitted(self) -> frozenset[str]:
        """The fields that were sent and are to be left as they are."""
        names = (key.removeprefix(OMIT) for key in self.fields if key.startswith(OMIT) and self.data.get(key))
        return frozenset(names)

    @property
    def dropped(self) -> list[str]:
        """What was sent and cannot be written: no field of the entity, or not one for devices."""
        known = {field.name for field in self.entity.writable_fields}
        return [name for name in self.sent.values if name not in known]

    @property
    def mended(self) -> dict[str, Any] | None:
        """What is to be written instead of what was sent, in wire form; None: just what was sent."""
        wanted = {
            field.name: self._wire(field)
            for field in self.entity.writable_fields
            if field.name in self.sent.values and field.name not in self.omitted
        }
        for field in self.entity.writable_fields:
            if field.name not in self.sent.values and (
                SET + field.name in self.changed_data or field.name in self.kept
            ):
                value, before = self._wire(field), (self.now or {}).get(field.name, field.default)
                if value != before:
                    wanted[field.name] = value
        return None if wanted == dict(self.sent.values) else wanted

    def _wire(self, field: Field) -> Any:
        """The value in wire form; what was sent, to the letter, where the form was left as it was."""
        name, sent = SET + field.name, self.sent.values.get(field.name)
        if field.name in self.given and name not in self.changed_data:
            return self.given[field.name]
        value = to_wire(field, self.cleaned_data.get(name))
        # A browser ends each line of a text with two characters.
        return value.replace("\r\n", "\n") if isinstance(value, str) and "\r\n" not in str(sent) else value

    def add_refusals(self, errors: Iterable[Error], own: bool = True) -> None:
        """Show what the server refused at its field, or above all where it has none here.

        Not `own`: a group was refused, and a reason may be another member's.
        """
        for error in errors:
            name = SET + (error.field or "")
            place = name if own and name in self.fields else None
            prefix = f"{words.label(self.entity, error.field)}: " if error.field and not place else ""
            self.add_error(place, f"{prefix}{words.plain(error.message)}")


def _is_none_of(value: Any, field: Field) -> bool:
    return not isinstance(value, str | int) or value not in (field.choices or ())


def model_choices(field: Field) -> list[Any]:
    return list(field.model_field.get_choices(include_blank=False))


def to_wire(field: Field, value: Any) -> Any:
    """A value of the form in wire form."""
    if value is None or (value == "" and field.type != "text"):
        return None
    match value:
        case models.Model():
            return str(value.pk)
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case time():
            return value.strftime("%H:%M:%S.%f")
        case bytes() | memoryview():
            return b64encode(value).decode()
        case bool():
            return value
        case int() if field.type == "integer":
            return value if abs(value) <= INTEGER_SAFE_MAX else str(value)
    if field.type in {"decimal", "date", "uuid", "text"}:
        return f"{value:f}" if field.type == "decimal" else str(value)
    return value


def initial(field: Field, value: Any) -> Any:
    """A value in wire form as the form shows it; as it came where it is none of the field's."""
    if field.type == "datetime" and isinstance(value, str):
        with suppress(ValueError):
            return parse_datetime(value)
        return None
    if field.type == "time" and isinstance(value, str):
        with suppress(ValueError):
            return parse_time(value) or value
        return value
    if field.type in {"json", "boolean"} or value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)


def _form_field(request: HttpRequest, field: Field) -> forms.Field | None:
    """The field of the entity's own page, with its type, choices, help and checks; None where it is not for people."""
    model_field = field.model_field
    page = admin.site._registry.get(model_field.model)
    if page is None or not model_field.editable or field.type == "binary":
        return None
    if isinstance(model_field, models.ForeignKey):
        return _reference(request, model_field)
    made = page.formfield_for_dbfield(model_field, request)
    if isinstance(made, forms.CharField):
        made.strip = False  # what a device may send, a person may keep
    if isinstance(made, forms.Field) and isinstance(made.widget, forms.Textarea):
        made.widget.attrs["rows"] = TEXT_ROWS
    return made if isinstance(made, forms.Field) else None


def _reference(request: HttpRequest, model_field: "models.ForeignKey[Any, Any]") -> forms.Field:
    """A row to be looked up; the bare id for who may not see such rows, or where they cannot be searched."""
    related = model_field.related_model
    assert isinstance(related, type)
    page = admin.site._registry.get(related)
    help_text = str(model_field.help_text)
    if page is None or not page.search_fields or not words.may_see(request, related):
        bare = forms.UUIDField(required=not model_field.blank, label=capfirst(str(model_field.verbose_name)))
        bare.help_text = help_text or "The id of the row."
        return bare
    return forms.ModelChoiceField(
        related._default_manager.all(),
        required=not model_field.blank,
        label=capfirst(str(model_field.verbose_name)),
        help_text=help_text,
        widget=Reference(model_field, admin.site),
    )
