"""What is checked about each mutation alone, with its model's own rules, before the database is asked."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache, cached_property
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import DecimalValidator, MaxLengthValidator, MaxValueValidator, MinValueValidator
from django.db import connection, models
from django.utils.functional import LazyObject

from sync.mutation import EMPTY, NO_VALUES, REVISION_MAX, Error, Id, Mutation, Values, error
from sync.wire import INTEGER_SAFE_MAX, Entity, Field

_INTEGER_DIGITS_MAX = 19  # of an integer that travels as a string
_plain = msgspec.json.Decoder(dict[str, Any])
_plain_list = msgspec.json.Decoder(list[dict[str, Any]])
Rule = Callable[[Any], str | None]  # tells what is wrong with a value, or None
NUL_MESSAGE = "Text may not hold the character NUL or half a character."


class Checker:
    """Validates the `set` and `add` of one entity's mutations with the model's own rules. Values stay in wire form.

    `fields`: those that may be written; what devices may write unless others are given.
    """

    def __init__(self, entity: Entity, fields: Iterable[Field] | None = None) -> None:
        self.entity = entity
        self.writable = fields is not None or entity.declaration.writable
        self.fields = {field.name: field for field in (entity.writable_fields if fields is None else fields)}
        self.required = frozenset(name for name, field in self.fields.items() if not _may_be_absent(field))
        self._types = {
            "set": _decoder({name: _type(field) for name, field in self.fields.items()}),
            "add": _decoder({name: _type(field, amount=True) for name, field in self.fields.items() if field.counter}),
        }
        self._set_list = msgspec.json.Decoder(_list_of(self._types["set"].type))
        self._rules = [(name, rules) for name, field in self.fields.items() if (rules := _rules(field))]
        self._own_rules = [(name, rules) for name, field in self.fields.items() if (rules := _own_rules(field))]

    def check_all(self, mutations: Sequence[Mutation]) -> list[Values | list[Error]]:
        """`check` of many that have one `op`: all together, at half the cost, where nothing is wrong with any."""
        if mutations[0].op != "delete" and self.writable and all(m.add is EMPTY for m in mutations):
            sets = joined_sets(mutations)
            try:
                found = plain_values(sets)
            except (RecursionError, msgspec.DecodeError):
                found = []
            if found and self.are_sound(mutations[0].op, sets, found):
                return [Values(fields, {}) for fields in found]
        return [self.check(mutation) for mutation in mutations]

    def are_sound(self, op: str, sets: bytes, fields: Sequence[Mapping[str, Any]]) -> bool:
        """Whether nothing at all is wrong with the `set`s of creates or updates, which `plain_values` read."""
        return self.look_sound(op, sets, fields) and self.keep_own_rules(fields)

    def look_sound(self, op: str, sets: bytes, fields: Sequence[Mapping[str, Any]]) -> bool:
        """The same as far as it can be told for certain without the database."""
        try:
            self._set_list.decode(sets)
        except (msgspec.ValidationError, RecursionError):
            return False
        if b"\\u0000" in sets or (op == "create" and not all(self.required <= found.keys() for found in fields)):
            return False
        return _kept(self._rules, fields)

    def keep_own_rules(self, fields: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all values hold against the deployment's own validators, which may ask the database."""
        return _kept(self._own_rules, fields)

    def check(self, mutation: Mutation) -> Values | list[Error]:
        """The mutation's values, or everything that is wrong with them."""
        if not self.writable:
            return [error("read_only_entity")]
        if mutation.op == "delete":
            empty = {bytes(members).translate(None, b" \t\r\n") for members in (mutation.set, mutation.add)} == {b"{}"}
            return NO_VALUES if empty else [error("invalid_mutation", "set")]
        try:
            self._types["set"].decode(mutation.set)
            fields = _plain.decode(mutation.set)
            amounts: dict[str, Any] = {}
            if mutation.add is not EMPTY:
                self._types["add"].decode(mutation.add)
                amounts = _plain.decode(mutation.add)
        except msgspec.ValidationError:
            return self._explain(mutation)
        except RecursionError:
            return [error("invalid_mutation", "set", "The values are nested too deeply.")]
        if mutation.op == "create":
            if amounts:
                return [error("invalid_mutation", "add", "A create sets its counters; it adds nothing.")]
            if not self.required <= fields.keys():
                return self._explain(mutation)
        if amounts and (twice := fields.keys() & amounts.keys()):
            return [error("invalid_mutation", name, "A field is either set or added to.") for name in sorted(twice)]
        errors = [error("invalid_value", *found) for found in self._broken_rules(fields)]
        if b"\\u0000" in bytes(mutation.set):
            errors += [error("invalid_value", name, NUL_MESSAGE) for name, value in fields.items() if holds_nul(value)]
        return errors or Values(fields, amounts)

    def _broken_rules(self, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, rules in (*self._rules, *self._own_rules):
            value = fields.get(name)
            for rule in rules if value is not None else ():
                if message := rule(value):
                    yield name, message

    def _explain(self, mutation: Mutation) -> list[Error]:
        """Look at the fields one by one, to tell what is wrong, SYNC_PUSH_ERRORS_MAX at most."""
        found = list(islice(self._all_wrong(mutation), settings.SYNC_PUSH_ERRORS_MAX))
        return found or [error("invalid_mutation")]

    def _all_wrong(self, mutation: Mutation) -> Iterator[Error]:
        given = msgspec.json.decode(mutation.set, type=dict[str, msgspec.Raw])
        added = msgspec.json.decode(mutation.add, type=dict[str, msgspec.Raw])
        for name, raw in given.items():
            if found := self._explain_field(name, raw, amount=False):
                yield found
        for name, raw in added.items():
            if name in self.fields and not self.fields[name].counter:
                yield error("not_a_counter", name)
            elif found := self._explain_field(name, raw, amount=True):
                yield found
        if mutation.op == "create":
            yield from (error("required", name) for name in self.fields if name in self.required - given.keys())

    def _explain_field(self, name: str, raw: msgspec.Raw, *, amount: bool) -> Error | None:
        field = self.fields.get(name)
        if field is None:
            return error("read_only_field" if self.entity.field(name) else "unknown_field", name)
        try:
            msgspec.json.decode(raw, type=_type(field, amount=amount))
        except msgspec.ValidationError as problem:
            return error("invalid_value", name, f"{problem}.")
        return None

    @cached_property
    def defaults(self) -> dict[str, Callable[[], Any]]:
        """What a created row gets in each column that its mutation does not set, by field name."""
        concrete = self.entity.model._meta.concrete_fields
        return {f.attname: _default(f) for f in concrete if not f.primary_key and not f.generated}

    @cached_property
    def touched(self) -> dict[str, Callable[[], Any]]:
        """What every update sets as well (`auto_now`), by field name."""
        concrete = self.entity.model._meta.concrete_fields
        return {f.attname: _default(f) for f in concrete if getattr(f, "auto_now", False)}


def joined_sets(mutations: Iterable[Mutation]) -> bytes:
    """The `set`s of mutations as one JSON array."""
    return b"[" + b",".join([mutation.set for mutation in mutations]) + b"]"


def plain_values(sets: bytes) -> list[dict[str, Any]]:
    """The members of an array of objects, in wire form. Raises RecursionError, and DecodeError for a huge number."""
    return _plain_list.decode(sets)


@cache
def checker(entity: Entity) -> Checker:
    return Checker(entity)


@cache
def checker_of(entity: Entity, names: frozenset[str]) -> Checker:
    """One for writers that are no devices: any columns, also those that devices may not write or see."""
    return Checker(entity, [entity.column(name) for name in sorted(names)])


def _default(field: models.Field[Any, Any]) -> Callable[[], Any]:
    if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
        instance = field.model()
        return lambda: field.pre_save(instance, add=True)
    return field.get_default


def _may_be_absent(field: Field) -> bool:
    """Whether a create may leave the field out: it has a default, or may be empty."""
    model_field = field.model_field
    return model_field.has_default() or model_field.null or (model_field.blank and field.type == "text")


def _type(field: Field, *, amount: bool = False) -> Any:
    """The msgspec type that decodes the field's wire form and holds its size."""
    kind: Any
    model_field = field.model_field
    match field.type:
        case "text":
            kind = Annotated[
                str, msgspec.Meta(min_length=None if model_field.blank else 1, max_length=field.max_length)
            ]
        case "integer":
            low, high = connection.ops.integer_field_range(_target(model_field).get_internal_type())
            low, high = (-REVISION_MAX - 1 if low is None else low), (REVISION_MAX if high is None else high)
            kind = Annotated[int, msgspec.Meta(ge=-high if amount else low, le=high)]
            if amount or high > INTEGER_SAFE_MAX:
                kind = kind | Annotated[str, msgspec.Meta(pattern=rf"^-?[0-9]{{1,{_INTEGER_DIGITS_MAX}}}(?!\n)$")]
        case "decimal":
            assert isinstance(model_field, models.DecimalField)
            digits, places = model_field.max_digits or 1000, model_field.decimal_places or 0
            fraction = rf"(\.[0-9]{{1,{places}}})?" if places else ""
            kind = Annotated[str, msgspec.Meta(pattern=rf"^-?[0-9]{{1,{max(digits - places, 1)}}}{fraction}(?!\n)$")]
        case "boolean":
            kind = bool
        case "real":
            kind = float
        case "datetime":
            kind = Annotated[datetime, msgspec.Meta(tz=True)]
        case "date":
            kind = date
        case "time":
            kind = Annotated[time, msgspec.Meta(tz=False)]
        case "uuid":
            kind = Id
        case "binary":
            kind = bytes
        case _:
            kind = Any
    return kind | None if field.nullable and not amount and kind is not Any else kind


def _target(field: models.Field[Any, Any]) -> models.Field[Any, Any]:
    return _target(field.target_field) if isinstance(field, models.ForeignKey) else field


def _decoder(types: Mapping[str, Any]) -> msgspec.json.Decoder[Any]:
    fields = [(name, kind | msgspec.UnsetType, msgspec.UNSET) for name, kind in types.items()]
    return msgspec.json.Decoder(msgspec.defstruct("Fields", fields, forbid_unknown_fields=True, gc=False))


def _list_of(kind: Any) -> Any:
    return list[kind]


def _kept(rules_of: Iterable[tuple[str, Sequence[Rule]]], fields: Sequence[Mapping[str, Any]]) -> bool:
    return not any(
        rule(value)
        for name, rules in rules_of
        for found in fields
        if (value := found.get(name)) is not None
        for rule in rules
    )


def _rules(field: Field) -> list[Rule]:
    """The model field's rules that its type does not hold already, without the deployment's own validators."""
    rules: list[Rule] = []
    if field.choices:
        allowed = {*field.choices, ""}  # an empty text is a matter of `blank`
        rules.append(lambda value: None if value in allowed else "This is none of the choices.")
    if field.type == "datetime":
        rules.append(_representable)
    if field.type == "integer" and field.db_type == "bigint":
        rules.append(lambda value: None if abs(int(value)) <= REVISION_MAX else "The number is too large.")
    return rules + [_validator_rule(field, found) for found in _validators(field) if _asks_nobody(found)]


def _own_rules(field: Field) -> list[Rule]:
    return [_validator_rule(field, found) for found in _validators(field) if not _asks_nobody(found)]


def _validators(field: Field) -> list[Callable[[Any], None]]:
    if isinstance(field.model_field, models.ForeignKey):
        return []
    return [found for found in field.model_field.validators if not _held_by_type(field, found)]


def _asks_nobody(validator: Any) -> bool:
    """Whether it is one of Django's, with a limit that is no function of the deployment."""
    return validator.__module__ == "django.core.validators" and not callable(getattr(validator, "limit_value", None))


def _representable(value: str) -> str | None:
    try:
        datetime.fromisoformat(value).astimezone(UTC)
    except (OverflowError, ValueError):
        return "This moment is not in the years 1 to 9999 in UTC."
    return None


def _held_by_type(field: Field, validator: Any) -> bool:
    if isinstance(validator, MaxLengthValidator):
        return field.type == "text" and validator.limit_value == field.max_length
    if isinstance(validator, MinValueValidator | MaxValueValidator) and field.type == "integer":
        low, high = connection.ops.integer_field_range(field.model_field.get_internal_type())
        return bool(validator.limit_value == (low if isinstance(validator, MinValueValidator) else high))
    return isinstance(validator, DecimalValidator)


def _validator_rule(field: Field, validator: Callable[[Any], None]) -> Rule:
    python = _PYTHON.get(field.type)
    validator = _resolved(validator)

    def rule(value: Any) -> str | None:
        if value == "":
            return None
        try:
            validator(python(value) if python else value)
        except ValidationError as problem:
            return " ".join(problem.messages)
        return None

    return rule


def _resolved(validator: Callable[[Any], None]) -> Callable[[Any], None]:
    """The validator with its lazy patterns compiled: Django looks each up again at every call, at 7 us a time."""
    lazy = {
        name: getattr(validator, name) for name in dir(validator) if isinstance(getattr(validator, name), LazyObject)
    }
    if lazy:
        validator = copy(validator)
        for name, value in lazy.items():
            setattr(validator, name, re.compile(value.pattern, value.flags))
    return validator


# What a validator expects instead of the wire form.
_PYTHON: dict[str, Callable[[Any], Any]] = {
    "decimal": Decimal,
    "integer": int,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "uuid": UUID,
    "binary": b64decode,
}


def holds_nul(value: Any) -> bool:
    """Whether a JSON value holds the character NUL, which PostgreSQL cannot store."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(holds_nul(key) or holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(map(holds_nul, value))
