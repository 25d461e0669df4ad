"""The form of a decision: for each field (or unit of fields) at stake, whose value shall stand, or one of one's own."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.db import models
from django.utils import timezone
from django.utils.text import capfirst

from sync.models import Conflict
from sync.mutation import Error
from sync.resolve import Stakes
from sync.wire import INTEGER_SAFE_MAX, Entity, Field, entities

WHOLE_ROW = "whole-row"
LONG_TEXT_CHARS = 120  # a text that may be longer gets several lines to be edited in
SIDES = ("base", "server", "device")


@dataclass(frozen=True)
class Block:
    """Fields that are decided as one: one field, or those at stake of a unit."""

    names: tuple[str, ...]
    disputed: bool

    @property
    def key(self) -> str:
        return f"pick-{self.names[0]}"


def blocks_of(stakes: Stakes) -> list[Block]:
    """The blocks in the order of the model, those in dispute first."""
    known = entities().get(stakes.conflict.entity)
    units = known.declaration.units if known else ()
    found: dict[tuple[str, ...], Block] = {}
    for name in stakes.names:
        unit = next((unit for unit in units if name in unit), (name,))
        names = tuple(each for each in stakes.names if each in unit)
        found.setdefault(names, Block(names, bool(stakes.disputed & {*names})))
    return sorted(found.values(), key=lambda block: not block.disputed)


class DecisionForm(forms.Form):
    """`values` is what `resolve` is to write, once the form is valid. `moved` are fields whose pick does not hold."""

    comment = forms.CharField(
        required=False,
        max_length=settings.SYNC_COMMENT_CHARS_MAX,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "Why, for those who look at it later"}),
    )

    def __init__(self, stakes: Stakes, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self.stakes = stakes
        self.entity = entities()[stakes.conflict.entity]
        self.blocks = blocks_of(stakes)
        self.values: dict[str, Any] | None = {}
        self.fields["rev"] = forms.IntegerField(initial=stakes.rev, widget=forms.HiddenInput)
        if self.whole_row:
            self.fields[WHOLE_ROW] = _pick_field(("server", "device"), self._first_whole_row())
        for block in self.blocks:
            self.fields[block.key] = _pick_field(self.sides(block), self._first_pick(block), required=not self.whole_row)
            for name in block.names:
                if (field := own_field(self.entity, name, self._first_value(name))) is not None:
                    self.fields[f"own-{name}"] = field

    # --- what can be picked, and what is ---

    @property
    def whole_row(self) -> bool:
        """Whether the row itself is at stake, since one side deleted it."""
        return self.stakes.row_deleted or self.stakes.conflict.op == "delete"

    def sides(self, block: Block) -> list[str]:
        """What can be picked for a block."""
        told = [side for side in SIDES if any(self.has(side, name) for name in block.names)]
        return [*told, "own"] if all(own_possible(self.entity, name) for name in block.names) else told

    def has(self, side: str, name: str) -> bool:
        """Whether a side has a value of a field."""
        return name in (self._side(side) or {}) or (side == "device" and self._device_kept(name))

    def value(self, side: str, name: str) -> Any:
        """A side's value of a field; that of the device where it changed only the rest of the unit is the base's."""
        values = self._side(side) or {}
        if side == "device" and name not in values:
            return (self.stakes.base or {}).get(name)
        return values.get(name)

    def picked(self, key: str) -> str:
        """The side that is picked for a block (or WHOLE_ROW), as the page is shown: "" for none."""
        return str(self[key].value() or "") if key in self.fields else ""

    def result(self, block: Block, name: str) -> Any:
        """The value that a field gets by the pick as the page is shown; the server's where there is none."""
        pick = self.picked(block.key) or ("device" if self.stakes.row_deleted else "server")
        if pick == "own":
            return self._own(name) if self.is_bound else self._first_value(name)
        return self.value(pick, name)

    def _side(self, side: str) -> Mapping[str, Any] | None:
        return {"base": self.stakes.base, "server": self.stakes.server, "device": self.stakes.device}[side]

    def _device_kept(self, name: str) -> bool:
        unit = next((block.names for block in self.blocks_known if name in block.names), ())
        return name in (self.stakes.base or {}) and any(each in self.stakes.device for each in unit)

    @property
    def blocks_known(self) -> Iterable[Block]:
        return getattr(self, "blocks", ())

    def _first_pick(self, block: Block) -> str:
        """What is picked before anybody does: nothing where a person must choose."""
        if self.stakes.row_deleted:
            return "device"
        if self.stakes.conflict.state != Conflict.State.OPEN or self.agreed(block):
            return "server"
        if block.disputed:
            return ""
        untouched = all(self.value("server", n) == self.value("base", n) for n in block.names if self.has("base", n))
        return "device" if untouched and any(self.has("base", n) for n in block.names) else "server"

    def agreed(self, block: Block) -> bool:
        """Whether the server has by now what the device sent."""
        return self.stakes.server is not None and all(
            self.value("server", name) == self.value("device", name) for name in block.names
        )

    def _first_whole_row(self) -> str:
        return "" if self.stakes.conflict.state == Conflict.State.OPEN else "server"

    def _first_value(self, name: str) -> Any:
        """What one's own value starts from."""
        return self.value("server" if self.stakes.server is not None else "device", name)

    # --- what is sent ---

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.whole_row and (row := cleaned.get(WHOLE_ROW)) != "device":
            self.values = {} if row == "server" else self.values
        elif self.stakes.conflict.op == "delete":
            self.values = None
        else:
            self.values = dict(self._values(cleaned))
        return cleaned

    def _values(self, cleaned: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for block in self.blocks:
            pick = cleaned.get(block.key) or ("device" if self.stakes.row_deleted else "")
            for name in block.names if pick and pick != "server" else ():
                if pick == "own":
                    yield name, self._own(name)
                elif self.has(pick, name):
                    yield name, self.value(pick, name)

    def _own(self, name: str) -> Any:
        """One's own value in wire form; where it is no value of the field, as it was typed."""
        key = f"own-{name}"
        if not hasattr(self, "cleaned_data") and not self._errors:
            self.full_clean()
        found = self.entity.field(name)
        cleaned = getattr(self, "cleaned_data", {})
        return to_wire(found, cleaned[key]) if key in cleaned and found else self[key].value()

    def _clean_fields(self) -> None:
        """Look only at those of one's own values that are picked: the others are not meant."""
        unmeant = {
            f"own-{name}"
            for block in self.blocks
            if self.data.get(block.key) != "own"
            for name in block.names
        }
        kept = self.fields
        self.fields = {name: field for name, field in kept.items() if name not in unmeant}
        try:
            super()._clean_fields()
        finally:
            self.fields = kept

    def refuse(self, errors: Iterable[Error]) -> None:
        """Show what was wrong with the values beside their fields."""
        for found in errors:
            block = next((b for b in self.blocks if found.field in b.names), None)
            self.add_error(block.key if block else None, found.message)


def _pick_field(sides: Iterable[str], first: str, required: bool = True) -> forms.ChoiceField:
    choices = [(side, side) for side in sides]
    messages = {"required": "Choose what shall stand.", "invalid_choice": "Choose what shall stand."}
    return forms.ChoiceField(choices=choices, required=required, initial=first, error_messages=messages)


# --- one's own value, by the type of its field ---


def own_possible(entity: Entity, name: str) -> bool:
    found = entity.field(name)
    return found is not None and found.type != "binary"


def own_field(entity: Entity, name: str, value: Any) -> forms.Field | None:
    """The form field in which a value of one's own is entered, with the widget that fits its type."""
    found = entity.field(name)
    if found is None or not own_possible(entity, name):
        return None
    model_field = found.model_field
    made = model_field.formfield(**_options(found))
    if made is None:
        return None
    made.label = capfirst(str(model_field.verbose_name))
    made.required = made.required and found.type != "boolean"
    made.initial = from_wire(found, value)
    made.widget.attrs |= {"data-own": name, "autocomplete": "off"}
    return made


def _options(found: Field) -> dict[str, Any]:
    model_field = found.model_field
    if isinstance(model_field, models.ForeignKey):
        searchable = admin.site._registry.get(model_field.related_model)
        if searchable is not None and searchable.search_fields:
            return {"widget": AutocompleteSelect(model_field, admin.site)}
        return {"widget": forms.TextInput()}
    if found.choices:
        return {}
    match found.type:
        case "boolean":
            return {"form_class": forms.TypedChoiceField, "choices_form_class": forms.TypedChoiceField, **_yes_no(found)}
        case "date":
            return {"widget": forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})}
        case "datetime":
            attrs = {"type": "datetime-local", "step": "1"}
            return {"widget": forms.DateTimeInput(format="%Y-%m-%dT%H:%M:%S", attrs=attrs)}
        case "time":
            return {"widget": forms.TimeInput(format="%H:%M:%S", attrs={"type": "time", "step": "1"})}
        case "integer" | "decimal" | "real":
            return {"widget": forms.NumberInput(attrs={"step": "1" if found.type == "integer" else "any"})}
        case "text" if (found.max_length or LONG_TEXT_CHARS + 1) > LONG_TEXT_CHARS and not _is_line(model_field):
            return {"widget": forms.Textarea(attrs={"rows": 4})}
    return {}


def _is_line(field: models.Field[Any, Any]) -> bool:
    return isinstance(field, models.CharField)


def _yes_no(found: Field) -> dict[str, Any]:
    choices = [("true", "yes"), ("false", "no")]
    empty = [("", "(none)")] if found.nullable else []
    return {"choices": [*empty, *choices], "coerce": lambda value: value == "true", "empty_value": None}


def from_wire(found: Field, value: Any) -> Any:
    """A value in wire form as a form field takes it."""
    if value is None:
        return None
    match found.type:
        case "boolean":
            return "true" if value else "false"
        case "datetime":
            return timezone.localtime(datetime.fromisoformat(str(value)))
        case "time":
            return time.fromisoformat(str(value))
    return value


def to_wire(found: Field, value: Any) -> Any:
    """What a form field cleaned, in wire form."""
    match value:
        case models.Model():
            return str(value.pk)
        case UUID() | time():
            return value.isoformat(timespec="microseconds") if isinstance(value, time) else str(value)
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case Decimal():
            return format(value, "f")
        case bool():
            return value
        case int() if abs(value) > INTEGER_SAFE_MAX:
            return str(value)
        case "" if found.nullable and found.type != "text":
            return None
    return value


def pretty_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
