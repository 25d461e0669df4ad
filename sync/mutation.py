"""Mutations as they come over the wire, and what is checked about each of them alone, before the database is asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache, cached_property
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.core.exceptions import ValidationError
from django.core.validators import DecimalValidator, MaxLengthValidator, MaxValueValidator, MinValueValidator
from django.db import connection, models

from sync.wire import INTEGER_SAFE_MAX, Entity, Field
from syncserver.errors import REJECTIONS, Problem

EMPTY = msgspec.Raw(b"{}")
REVISION_MAX = 2**63 - 1
_INTEGER_DIGITS_MAX = 19  # of an integer that travels as a string


class Mutation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One change that a device made. `set` and `add` stay unread until the entity is known."""

    id: UUID
    entity: str
    row: UUID
    op: Literal["create", "update", "delete"]
    base: Annotated[int, msgspec.Meta(ge=1, le=REVISION_MAX)] | None = None
    set: msgspec.Raw = EMPTY
    add: msgspec.Raw = EMPTY
    group: UUID | None = None
    made_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    @property
    def digest(self) -> bytes:
        """What is the same when a mutation is sent again, whatever its white space and the order of its keys."""
        content = (
            self.entity,
            self.row,
            self.op,
            self.base,
            msgspec.json.decode(self.set),
            msgspec.json.decode(self.add),
            self.group,
            self.made_at,
        )
        return hashlib.blake2b(msgspec.json.encode(content, order="deterministic"), digest_size=16).digest()


class Batch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of a push."""

    mutations: list[Mutation]
    sent_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Error(msgspec.Struct, frozen=True):
    """Why a mutation was rejected: the field (None: the mutation as a whole), a stable code, a sentence."""

    field: str | None
    code: str
    message: str


def error(code: str, field: str | None = None, message: str | None = None) -> Error:
    return Error(field, code, message or REJECTIONS[code])


_batch_decoder = msgspec.json.Decoder(Batch)
_ESCAPES = re.compile(rb"\\(?:u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*|.)", re.S)


def parse_batch(body: bytes, mutations_max: int) -> Batch:
    """The batch of a request body. Raises Problem: invalid_json, invalid_request, unknown_field, batch_too_large."""
    try:
        try:
            batch = _batch_decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            batch = _batch_decoder.decode(_ESCAPES.sub(_without_lone_surrogates, body))
    except msgspec.ValidationError as problem:
        raise _problem(str(problem)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Problem("invalid_json", f"The body is not JSON in UTF-8: {problem}.") from None
    if len(batch.mutations) > mutations_max:
        raise Problem(
            "batch_too_large", f"A batch holds at most {mutations_max} mutations, not {len(batch.mutations)}."
        )
    for mutation in batch.mutations:
        for name in ("set", "add"):
            if not bytes(getattr(mutation, name)).startswith(b"{"):
                raise Problem("invalid_request", f"`{name}` of mutation {mutation.id} must be an object.")
    return batch


def _problem(message: str) -> Problem:
    unknown = re.search(r"unknown field `(.*?)`", message)
    return Problem("unknown_field" if unknown else "invalid_request", f"{message}.")


def _without_lone_surrogates(escapes: re.Match[bytes]) -> bytes:
    """Half a character cannot be stored. As NUL it is refused with its field, and the rest of the batch goes on."""
    text = escapes[0]
    if not text.startswith(b"\\u"):
        return text
    units = [text[i : i + 6] for i in range(0, len(text), 6)]
    kinds = [int(unit[2:], 16) >> 10 for unit in units]
    at = 0
    while at < len(units):
        if kinds[at] == 0x36 and at + 1 < len(units) and kinds[at + 1] == 0x37:
            at += 1
        elif kinds[at] in {0x36, 0x37}:
            units[at] = b"\\u0000"
        at += 1
    return b"".join(units)


@dataclass(frozen=True)
class Values:
    """The checked content of a mutation: `fields` and `amounts` ready to be written as JSON, by field name."""

    fields: Mapping[str, Any]
    amounts: Mapping[str, Any]


class Checker:
    """Decodes and validates the `set` and `add` of one entity's mutations, with the model's own rules."""

    def __init__(self, entity: Entity) -> None:
        self.entity = entity
        self.fields = {field.name: field for field in entity.writable_fields}
        optional = [(name, _type(field) | msgspec.UnsetType, msgspec.UNSET) for name, field in self.fields.items()]
        created = [
            (name, _type(field), msgspec.field(default_factory=field.model_field.get_default))
            if _may_be_absent(field)
            else (name, _type(field))
            for name, field in self.fields.items()
        ]
        amounts = [
            (n, _type(f, amount=True) | msgspec.UnsetType, msgspec.UNSET) for n, f in self.fields.items() if f.counter
        ]
        self._decoders = {
            "update": self._decoder(optional),
            "create": self._decoder(created),
            "add": self._decoder(amounts),
        }
        self._rules = [(name, rules) for name, field in self.fields.items() if (rules := _rules(field))]

    @staticmethod
    def _decoder(fields: list[Any]) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(msgspec.defstruct("Fields", fields, kw_only=True, forbid_unknown_fields=True))

    def check(self, mutation: Mutation) -> Values | list[Error]:
        """The mutation's values, or everything that is wrong with them."""
        if not self.entity.declaration.writable:
            return [error("read_only_entity")]
        if mutation.op == "delete":
            return Values({}, {}) if mutation.set == mutation.add == EMPTY else [error("invalid_mutation", "set")]
        if mutation.op == "create" and mutation.add != EMPTY:
            return [error("invalid_mutation", "add", "A create sets its counters; it adds nothing.")]
        try:
            fields = msgspec.structs.asdict(self._decoders[mutation.op].decode(mutation.set))
            amounts = (
                {} if mutation.add == EMPTY else msgspec.structs.asdict(self._decoders["add"].decode(mutation.add))
            )
        except msgspec.ValidationError:
            return self._explain(mutation)
        if mutation.op == "update":
            fields = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
        amounts = {name: value for name, value in amounts.items() if value is not msgspec.UNSET}
        if twice := fields.keys() & amounts.keys():
            return [error("invalid_mutation", name, "A field is either set or added to.") for name in sorted(twice)]
        errors = [
            error("invalid_value", name, message)
            for name, rules in self._rules
            if name in fields
            for rule in rules
            if (message := rule(fields[name]))
        ]
        return errors or Values(fields, amounts)

    def _explain(self, mutation: Mutation) -> list[Error]:
        """Look at the fields one by one, to tell everything that is wrong."""
        given = msgspec.json.decode(mutation.set, type=dict[str, msgspec.Raw])
        added = msgspec.json.decode(mutation.add, type=dict[str, msgspec.Raw])
        errors = []
        for name, raw in given.items():
            if found := self._explain_field(name, raw, amount=False):
                errors.append(found)
        for name, raw in added.items():
            if name in self.fields and not self.fields[name].counter:
                errors.append(error("not_a_counter", name))
            elif found := self._explain_field(name, raw, amount=True):
                errors.append(found)
        if mutation.op == "create":
            errors += [
                error("required", name)
                for name, field in self.fields.items()
                if name not in given and not _may_be_absent(field)
            ]
        return errors or [error("invalid_mutation")]

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
    def server_defaults(self) -> dict[str, Callable[[], Any]]:
        """What a created row gets in the columns that devices do not write, by field name."""
        concrete = self.entity.model._meta.concrete_fields
        return {
            f.attname: _server_default(f)
            for f in concrete
            if f.attname not in self.fields and not f.primary_key and not f.generated
        }

    @cached_property
    def touched_columns(self) -> dict[str, Callable[[], Any]]:
        """What every update sets as well (`auto_now`), by field name."""
        concrete = self.entity.model._meta.concrete_fields
        return {f.attname: _server_default(f) for f in concrete if getattr(f, "auto_now", False)}


@cache
def checker(entity: Entity) -> Checker:
    return Checker(entity)


def _server_default(field: models.Field[Any, Any]) -> Callable[[], Any]:
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
            kind = Annotated[str, msgspec.Meta(max_length=field.max_length)] if field.max_length else str
        case "integer":
            low, high = connection.ops.integer_field_range(_target(model_field).get_internal_type())
            low, high = (-REVISION_MAX - 1 if low is None else low), (REVISION_MAX if high is None else high)
            kind = Annotated[int, msgspec.Meta(ge=-high if amount else low, le=high)]
            if high > INTEGER_SAFE_MAX:
                kind = kind | Annotated[str, msgspec.Meta(pattern=rf"^-?\d{{1,{_INTEGER_DIGITS_MAX}}}$")]
        case "decimal":
            assert isinstance(model_field, models.DecimalField)
            digits, places = model_field.max_digits or 1000, model_field.decimal_places or 0
            fraction = rf"(\.\d{{1,{places}}})?" if places else ""
            kind = Annotated[str, msgspec.Meta(pattern=rf"^-?\d{{1,{max(digits - places, 1)}}}{fraction}$")]
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
            kind = UUID
        case "binary":
            kind = bytes
        case _:
            kind = Any
    return kind | None if field.nullable and not amount and kind is not Any else kind


def _target(field: models.Field[Any, Any]) -> models.Field[Any, Any]:
    return _target(field.target_field) if isinstance(field, models.ForeignKey) else field


def _rules(field: Field) -> list[Callable[[Any], str | None]]:
    """The model field's rules that its type does not hold already: each returns what is wrong, or None."""
    model_field = field.model_field
    rules: list[Callable[[Any], str | None]] = []
    if field.type in {"text", "json"}:
        rules.append(_no_nul)
    if field.type == "text" and not model_field.blank:
        rules.append(lambda value: "This field may not be empty." if value == "" else None)
    if field.choices:
        allowed = frozenset(field.choices)
        rules.append(lambda value: None if value in allowed or value in {None, ""} else "This is none of the choices.")
    if field.type == "integer" and field.db_type == "bigint":
        rules.append(
            lambda value: None if value is None or abs(int(value)) <= REVISION_MAX else "The number is too large."
        )
    if not isinstance(model_field, models.ForeignKey):
        rules += [
            _validator_rule(field, validator)
            for validator in model_field.validators
            if not _held_by_type(field, validator)
        ]
    return rules


def _held_by_type(field: Field, validator: Any) -> bool:
    if isinstance(validator, MaxLengthValidator):
        return field.type == "text" and validator.limit_value == field.max_length
    if isinstance(validator, DecimalValidator):
        return True
    if isinstance(validator, MinValueValidator | MaxValueValidator) and field.type == "integer":
        low, high = connection.ops.integer_field_range(field.model_field.get_internal_type())
        return validator.limit_value == (low if isinstance(validator, MinValueValidator) else high)
    return False


def _validator_rule(field: Field, validator: Callable[[Any], None]) -> Callable[[Any], str | None]:
    def rule(value: Any) -> str | None:
        if value is None or value in field.model_field.empty_values:
            return None
        try:
            validator(_python(field, value))
        except ValidationError as problem:
            return " ".join(problem.messages)
        return None

    return rule


def _python(field: Field, value: Any) -> Any:
    match field.type:
        case "decimal":
            return Decimal(value)
        case "integer":
            return int(value)
    return value


def _no_nul(value: Any) -> str | None:
    if isinstance(value, str):
        return "Text may not hold the character NUL or half a character." if "\x00" in value else None
    if isinstance(value, dict):
        return next((found for item in value.items() for part in item if (found := _no_nul(part))), None)
    if isinstance(value, list):
        return next((found for part in value if (found := _no_nul(part))), None)
    return None
