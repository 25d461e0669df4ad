"""Documents: a row as both sides can be held against each other, and what reads and writes its fields.

Our fields by their names on the wire, in plain JSON in wire form (a decimal as text at the field's own scale, a day as
`2026-11-21`, a reference as the other row's id), and a record's rows, if it has any, by their ids. Two sides are equal
when their documents are; so what the other side rounds, pads or leaves empty in its own way is no difference.
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable
from collections.abc import Mapping as Map
from decimal import Decimal
from functools import partial
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import msgspec
from django.db import models

from legacy.convert import How

if TYPE_CHECKING:
    from legacy.mapping import F, Mapping

Document = dict[str, Any]
Refer = Callable[[str, str], Any]  # (mapping, key on one side) → key on the other; raises Unmappable
Reader = Callable[[Map[str, Any], Refer], Any]  # their values → ours, or ABSENT
Writer = Callable[[Document, Refer, dict[str, Any]], None]  # our document, into their values

_encode = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode
_NO_LETTER = re.compile(r"[\W_]+")


class Unmappable(Exception):
    """One record cannot become one of our rows, or the other way round: which field, and why."""


def changed(base: Document, new: Document) -> Document:
    """The fields of `new` that `base` lacks or has differently: what happened since two sides agreed on `base`."""
    return {name: value for name, value in new.items() if name not in base or base[name] != value}


def digest(document: Document) -> str:
    """Equal for equal documents, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def seen(salt: str, values: Map[str, Any]) -> str:
    """What tells that a record is as it was when it was last read by the same mapping: 128 bits."""
    return hashlib.blake2b(_encode(values), digest_size=16, key=salt.encode()).hexdigest()


def natural(by: str, value: Any) -> str:
    """A value as natural keys are compared: as it is, without case and spaces around, or its letters and digits."""
    match by:
        case "folded":
            return normalize("NFC", str(value)).strip().lower()
        case "letters":
            return _NO_LETTER.sub("", normalize("NFC", str(value))).lower()
    return str(value)


def plain(field: "models.Field[Any, Any]", value: Any) -> Any:
    """A value of one of our fields, from our side or from theirs, as it stands in a document. Raises Unmappable."""
    return _plain(field)(value)


def _plain(field: "models.Field[Any, Any]") -> Callable[[Any], Any]:
    """The same for one field, with all that can be decided once decided."""
    if isinstance(field, models.ForeignKey):
        return _plain(field.target_field) if not field.null else _or_null(_plain(field.target_field))
    convert = _CONVERSIONS.get(next((kind for kind in _CONVERSIONS if isinstance(field, kind)), type(field)), _text)
    if isinstance(field, models.DecimalField):
        convert = partial(_decimal, Decimal(1).scaleb(-field.decimal_places))
    empty = None if field.null else _empty(field, convert)

    def form(value: Any) -> Any:
        if value is None or value == "":
            return empty
        try:
            return convert(value)
        except Unmappable:
            raise
        except (ValueError, ArithmeticError, TypeError, AttributeError):
            raise Unmappable(
                f"{field.name}: {value!r} is {_EXPECTED.get(convert, 'not what the field holds')}"
            ) from None

    return form


def _or_null(form: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value in (None, "") else form(value)


def _empty(field: "models.Field[Any, Any]", convert: Callable[[Any], Any]) -> Any:
    default = None if callable(field.default) else field.get_default()
    if default not in (None, ""):
        return convert(default)
    return "" if field.empty_strings_allowed else None


def _text(value: Any) -> Any:
    return str(value)


def _decimal(scale: Decimal, value: Any) -> Any:
    return str(Decimal(str(value)).quantize(scale))


def _integer(value: Any) -> Any:
    if int(value) != (Decimal(value) if isinstance(value, str) else value):
        raise ValueError
    return int(value)


def _boolean(value: Any) -> Any:
    if value in (0, 1):
        return bool(value)
    raise ValueError


def _day(value: Any) -> Any:
    day = value.date() if isinstance(value, dt.datetime) else value
    return day.isoformat() if isinstance(day, dt.date) else dt.date.fromisoformat(str(day)[:10]).isoformat()


def _moment(value: Any) -> Any:
    at = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    if at.tzinfo is None:
        raise Unmappable(f"{value} has no zone: say with Moment(zone=…) whose clock it is")
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _time(value: Any) -> Any:
    at = dt.time.fromisoformat(value) if isinstance(value, str) else value
    return at.strftime("%H:%M:%S.%f")


def _as_it_is(value: Any) -> Any:
    return value


_CONVERSIONS: dict[type[Any], Callable[[Any], Any]] = {
    models.DateTimeField: _moment,  # before its base
    models.DateField: _day,
    models.TimeField: _time,
    models.BooleanField: _boolean,
    models.IntegerField: _integer,
    models.FloatField: float,
    models.JSONField: _as_it_is,
}
_EXPECTED: dict[Callable[[Any], Any], str] = {
    _integer: "not a whole number",
    _boolean: "neither true nor false",
    _day: "not a day",
    _moment: "not a moment",
}


def reader(model: type[models.Model], line: "F", at: int, absent: Any) -> Reader:
    """What reads the line's field number `at` from their values."""
    name, places, how = line.names[at], line.places, line.how
    field: Any = model._meta.get_field(name)
    form, split = _plain(field), len(line.names) > 1
    empty = form(None)
    kept = absent if line.absent != "clear" else empty

    def convert(value: Any) -> Any:
        if how is None:
            return form(value)
        try:
            value = how.pull(value)
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise Unmappable(f"{name}: {error}") from None
        return form(value[at] if split else value)

    if line.ref:

        def read(values: Map[str, Any], refer: Refer) -> Any:
            if not any(place in values for place in places):
                return kept
            value = _first(places, values)
            return empty if value is None else refer(line.ref, str(value))
    elif not places:

        def read(values: Map[str, Any], refer: Refer) -> Any:  # noqa: ARG001
            return convert(None)
    elif len(places) == 1 and how is None:  # most lines: nothing comes between the two
        (place,) = places

        is_text = type(field) in (models.CharField, models.TextField)

        def read(values: Map[str, Any], refer: Refer) -> Any:  # noqa: ARG001
            value = values.get(place, absent)
            if is_text and value and type(value) is str:
                return value
            return kept if value is absent else form(value)
    elif len(places) == 1:
        (place,) = places

        def read(values: Map[str, Any], refer: Refer) -> Any:  # noqa: ARG001
            return convert(values[place]) if place in values else kept
    else:

        def read(values: Map[str, Any], refer: Refer) -> Any:  # noqa: ARG001
            if not any(place in values for place in places):
                return kept
            return convert(tuple(map(values.get, places)) if how else _first(places, values))

    return read


def writer(model: type[models.Model], line: "F") -> Writer:
    """What writes the line's fields to their place; what stays out of the document is not written."""
    fields: list[Any] = [model._meta.get_field(name) for name in line.names]
    names, places, how = [field.attname for field in fields], line.places, line.how

    def value_of(document: Document, refer: Refer) -> Any:
        if line.ref:
            return None if document[names[0]] is None else refer(line.ref, document[names[0]])
        values = [field.to_python(document[name]) for field, name in zip(fields, names, strict=True)]
        if how is None:
            return values[0] if values[0] != "" else None
        try:
            return how.push(tuple(values) if len(values) > 1 else values[0] if values else None)
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise Unmappable(f"{', '.join(names)}: {error}") from None

    def write(document: Document, refer: Refer, values: dict[str, Any]) -> None:
        if not all(name in document for name in names):
            return
        value = value_of(document, refer)
        if how and len(places) > 1:
            values.update(zip(places, value, strict=True))
        else:
            values[places[0]] = value

    return write


def _first(places: tuple[str, ...], values: Map[str, Any]) -> Any:
    return next((found for place in places if (found := values.get(place)) not in (None, "")), None)


def canonical(model: type[models.Model], name: str, how: How) -> Callable[[Any], Any]:
    """A value of ours as it would come back from them."""
    field: Any = model._meta.get_field(name)
    form = _plain(field)
    return lambda value: form(how.pull(how.push(field.to_python(value))))


def fingerprint(mapping: "Mapping") -> str:
    """Of all that decides what a record becomes: the lines, and the functions in them."""
    lines = [*mapping.fields, *(mapping.rows.fields if mapping.rows else ())]
    told = [_told(mapping.source), mapping.model._meta.label, *map(_told, lines), _told(mapping.only_if)]
    return hashlib.blake2b("\n".join(told).encode(), digest_size=16).hexdigest()


def _told(value: Any, closures: bool = True) -> str:
    """A value's content without addresses of this process, so that it is the same in the next one."""
    match value:
        case CodeType():
            constants = ", ".join(_told(each) for each in value.co_consts)
            return f"{value.co_name} {value.co_code.hex()} ({constants}) {value.co_names!r}"
        case FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()] if closures else []
            known = ", ".join(_told(each, closures=False) for each in (*(value.__defaults__ or ()), *cells))
            return f"{value.__qualname__} {_told(value.__code__)} [{known}]"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(_told, value)))}}}"
        case dict():
            return f"{{{', '.join(f'{_told(name)}: {_told(each)}' for name, each in value.items())}}}"
        case tuple() | list():
            return f"({', '.join(map(_told, value))})"
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(_told(getattr(value, n)) for n in value.__dataclass_fields__)})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
