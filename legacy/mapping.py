"""How a record becomes our row, and back: a declaration that reads like a table, and pure functions of it.

    Mapping("customer", Customer, Model("party.party"), both=True, match="code", fields=(
        F("code", "code", only="pull"),
        F("name", "name"),
        F("city", "addresses[].city"),
    ))

A row travels as a *document*: our fields by name in plain JSON (a decimal as a string at the field's own scale, a day
as `2026-11-21`, a reference as the other row's id), and its rows, if it has any, by their ids. Two sides are equal when
their documents are; so what the other side rounds, pads or leaves empty in its own way is no difference.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from legacy.connector import Misconfigured, Place, Source

Document = dict[str, Any]
Refer = Callable[[str, str], str]  # (mapping, key on one side) → key on the other; raises Unmappable


class Unmappable(Exception):
    """One record cannot become one of our rows, or the other way round: which field, and why."""


@dataclass(frozen=True)
class F:
    """One line: our field, and where theirs stands."""

    ours: str
    theirs: Place | tuple[Place, ...]  # several: the first that is not empty; written to the first
    joined: bool = field(default=False, kw_only=True)  # several: `pull` is given them all
    pull: Callable[..., Any] | None = None  # theirs → ours
    push: Callable[[Any], Any] | None = None  # ours → theirs
    ref: str = ""  # the mapping that links what the field refers to
    only: Literal["", "pull"] = ""  # the field goes one way
    late: bool = False  # written once the record exists: what it says is done, not stored

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclass(frozen=True)
class Rows:
    """The rows that belong to a record as its lines belong to an order: `parent` is the foreign key to it."""

    name: str
    model: type[models.Model]
    parent: str
    place: Place
    fields: tuple[F, ...]
    copied: tuple[str, ...] = ()  # fields of ours that repeat the record's


@dataclass(frozen=True)
class Mapping:
    name: str
    model: type[models.Model]
    source: Source
    fields: tuple[F, ...]
    match: str = ""  # first contact: rows with the same value here are the same thing
    both: bool = False  # whether ours go back
    rows: Rows | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        own = tuple(place for line in self.fields for place in line.places)
        rows = self.rows
        return own + tuple(f"{rows.place}.{p}" for line in rows.fields for p in line.places) if rows else own

    @property
    def pushed(self) -> frozenset[str]:
        """The names in a document that go back."""
        names = {line.ours for line in self.fields if line.only != "pull"} if self.both else set()
        return frozenset(names | ({self.rows.place} if self.rows and self.both else set()))

    def places_of(self, names: Iterable[str]) -> set[Place]:
        """Where the fields of a document are written to."""
        names = set(names)
        own = {line.places[0] for line in self.fields if line.ours in names}
        return own | ({self.rows.place} & names if self.rows else set())

    def ours(self, values: Map[Place, Any], refer: Refer) -> Document:
        """Their record as our document. Raises Unmappable."""
        document = _ours(self.model, self.fields, values, refer)
        if self.rows:
            document[self.rows.place] = {
                refer(self.rows.name, str(row["id"])): _ours(self.rows.model, self.rows.fields, row, refer)
                for row in values[self.rows.place]
            }
        return document

    def natural_key(self, values: Map[Place, Any]) -> Any:
        """What `match` compares, of their record. Raises Unmappable."""
        line = next(line for line in self.fields if line.ours == self.match)
        return _ours(self.model, (line,), values, _no_reference)[self.match]

    def theirs(self, document: Document, refer: Refer, new_rows: Iterable[str] = ()) -> dict[Place, Any]:
        """Our document as the values of their record; `new_rows`: those of its rows that they do not have yet."""
        values = _theirs(self.model, self.fields, document, refer)
        if self.rows:
            fresh = set(new_rows)
            values[self.rows.place] = [
                {"id": None if key in fresh else refer(self.rows.name, key)}
                | _theirs(self.rows.model, self.rows.fields, row, refer)
                for key, row in document[self.rows.place].items()
            ]
        return values

    def same_row(self, values: Map[Place, Any], ours: Map[str, Document], refer: Refer) -> str | None:
        """Which of our rows looks like this one of their record's rows, if any does."""
        if not self.rows:
            return None
        theirs = _ours(self.rows.model, self.rows.fields, values, refer)
        return next((key for key, document in ours.items() if document == theirs), None)

    def references(self, values: Map[Place, Any]) -> Iterator[tuple[str, str]]:
        """The (mapping, their key) of everything that a record refers to."""
        for line in self.fields:
            if line.ref and (value := _first(line, values)) is not None:
                yield line.ref, str(value)
        for row in values[self.rows.place] if self.rows else ():
            for line in self.rows.fields if self.rows else ():
                if line.ref and (value := _first(line, row)) is not None:
                    yield line.ref, str(value)


def changed(base: Document, new: Document) -> Document:
    """The fields of `new` that `base` lacks or has differently: what happened since two sides agreed on `base`."""
    return {name: value for name, value in new.items() if name not in base or base[name] != value}


def digest(document: Document) -> str:
    """Equal for equal documents, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plain(field: "models.Field[Any, Any]", value: Any) -> Any:
    """A value of one of our fields, from our side or from theirs, as it stands in a document. Raises Unmappable."""
    if value is None or value == "":
        return None if field.null else _empty(field)
    match field:
        case models.DecimalField():
            return str(Decimal(str(value)).quantize(Decimal(1).scaleb(-field.decimal_places)))
        case models.DateField():
            day = value.date() if isinstance(value, dt.datetime) else value
            return day.isoformat() if isinstance(day, dt.date) else str(day)
        case models.BooleanField():
            return bool(value)
        case models.IntegerField():
            if int(value) != value:
                raise Unmappable(f"{field.name}: {value} is not a whole number")
            return int(value)
        case _:
            return str(value)


def check(mappings: Iterable[Mapping]) -> None:
    """Raises Misconfigured, naming the line, for a declaration that cannot work."""
    known: set[str] = set()
    for mapping in mappings:
        known.add(mapping.name)
        tables = [(mapping.model, mapping.fields, mapping.both)]
        if mapping.rows:
            tables.append((mapping.rows.model, mapping.rows.fields, mapping.both))
            known.add(mapping.rows.name)
        for model, lines, both in tables:
            for line in lines:
                where = f"mapping {mapping.name}, line {line.ours!r} ({line.theirs})"
                try:
                    model._meta.get_field(line.ours)
                except FieldDoesNotExist:
                    raise Misconfigured(f"{where}: {model.__name__} has no such field.") from None
                if both and line.only != "pull" and line.pull and not line.push:
                    raise Misconfigured(f'{where}: has no way back; give it push=, or only="pull".')
                if line.ref and line.ref not in known:
                    raise Misconfigured(f"{where}: refers to {line.ref!r}, which must be mapped before it.")


def _ours(model: type[models.Model], lines: tuple[F, ...], values: Map[Place, Any], refer: Refer) -> Document:
    document: Document = {}
    for line in lines:
        value = _first(line, values)
        at: models.Field[Any, Any] = model._meta.get_field(line.ours)  # type: ignore[assignment]
        try:
            if line.ref:
                document[line.ours] = None if value is None else refer(line.ref, str(value))
            else:
                found = [values.get(place) for place in line.places] if line.joined else [value]
                document[line.ours] = plain(at, line.pull(*found) if line.pull else value)
        except (ValueError, ArithmeticError, TypeError, AttributeError) as error:
            raise Unmappable(f"{line.ours}: {value!r} cannot be read ({error})") from error
    return document


def _theirs(model: type[models.Model], lines: tuple[F, ...], document: Document, refer: Refer) -> dict[Place, Any]:
    values: dict[Place, Any] = {}
    for line in lines:
        if line.only == "pull":
            continue
        value, place = document[line.ours], line.places[0]
        field = model._meta.get_field(line.ours)
        if line.ref:
            values[place] = None if value is None else int(refer(line.ref, value))
        elif line.push:
            values[place] = line.push(field.to_python(value))  # type: ignore[union-attr]
        else:
            values[place] = field.to_python(value) if value != "" else None  # type: ignore[union-attr]
    return values


def _no_reference(mapping: str, key: str) -> str:
    raise Unmappable(f"a natural key cannot be a reference (to the {mapping} {key})")


def _first(line: F, values: Map[Place, Any]) -> Any:
    return next((values[place] for place in line.places if values.get(place) not in (None, "")), None)


def _empty(field: "models.Field[Any, Any]") -> Any:
    default = field.get_default()
    return plain(field, default) if default not in (None, "") else ("" if field.empty_strings_allowed else None)
