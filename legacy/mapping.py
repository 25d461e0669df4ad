"""How a record becomes our row, and back: a declaration that reads like a table, one line a field.

    Mapping("customer", Customer, Model("party.party"), direction="both", match="code", fields=(
        F("code", "code", only="pull"),
        F("name", "name"),
        F("hired_on", "eintritt", Day("%d.%m.%Y")),
        F("customer", "party", ref="customer"),
    ))

`legacy.document` is what runs make of it.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from collections.abc import Mapping as Map
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from zoneinfo import ZoneInfo

from django.db import models

from legacy.connector import Place, Source
from legacy.convert import By, How
from legacy.document import (
    Document,
    Reader,
    Refer,
    Unmappable,
    Writer,
    canonical,
    fingerprint,
    natural,
    plain,
    reader,
    writer,
)
from sync.wire import Entity, entities

Wins = Literal["legacy", "server", "newest", "merge", "manual"]


@dataclass(frozen=True)
class F:
    """One line: our field, where theirs stands, and how one becomes the other."""

    ours: str | tuple[str, ...]  # several: `how` takes theirs apart; none: a constant of theirs
    theirs: Place | tuple[Place, ...]  # several: the first that is not empty, written to the first; or `how` joins them
    how: How | None = None
    ref: str = field(default="", kw_only=True)  # the mapping that links what the field refers to
    only: Literal["", "pull", "push"] = field(default="", kw_only=True)  # goes one way; "push": ours is the master
    late: bool = field(default=False, kw_only=True)  # written once the record exists: what it says is done, not stored
    # What a record that lacks the place says: nothing; that it is empty; that the two never agreed about it.
    absent: Literal["keep", "clear", "ignore"] = field(default="keep", kw_only=True)
    wins: Wins | None = field(default=None, kw_only=True)  # who wins here, if not as in the rest of the mapping

    @property
    def names(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

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
    wins: Wins | None = None  # who wins where both changed them, if not as in the rest of the mapping

    @cached_property
    def readers(self) -> dict[str, Reader]:
        return _readers(self.model, [line for line in self.fields if line.only != "push"])

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        return _writers(self.model, self.fields)

    @cached_property
    def entity(self) -> Entity:
        return _entity(self.model)

    @cached_property
    def referring(self) -> tuple[F, ...]:
        return tuple(line for line in self.fields if line.ref)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.readers)

    @property
    def parent_column(self) -> str:
        return attname(self.model, self.parent)


@dataclass(frozen=True)
class Same:
    """First contact: what has the same value in this field is the same thing; not `sure`: a person is asked."""

    field: str
    by: Literal["exact", "folded", "letters"] = "exact"  # as it is; without case and spaces around; letters and digits
    sure: bool = True

    def key(self, value: Any) -> str:
        return natural(self.by, value)


@dataclass(frozen=True)
class Window:
    """The hours in which a mapping runs, on a wall clock. One that ends before it begins goes over midnight.

    In the night that lacks an hour, one that begins in it is open as long, and an hour later.
    """

    begin: str  # "22:00"
    end: str  # "05:30"
    zone: str = "UTC"

    def is_open(self, at: dt.datetime) -> bool:
        today = at.astimezone(ZoneInfo(self.zone)).date()
        return any(begin <= at < end for begin, end in map(self._of, (today - dt.timedelta(days=1), today)))

    def _of(self, day: dt.date) -> tuple[dt.datetime, dt.datetime]:
        """From when to when it is open that begins on a day."""
        begin, end = dt.time.fromisoformat(self.begin), dt.time.fromisoformat(self.end)
        last = day + dt.timedelta(days=0 if begin <= end else 1)
        ends = (dt.datetime.combine(*at, ZoneInfo(self.zone)) for at in ((day, begin), (last, end)))
        opens, closes = (each.astimezone(dt.UTC) for each in ends)
        return opens, closes


@dataclass(frozen=True)
class Mapping:
    """`mode`: snapshot reads all of it each time, and what is missing was deleted; incremental and merge read what has
    changed. `merge` (and any other with direction "both") compares both sides with what they last agreed on.
    """

    name: str
    model: type[models.Model]
    source: Source
    fields: tuple[F, ...]
    direction: Literal["pull", "push", "both"] = "pull"
    mode: Literal["snapshot", "incremental", "merge"] = "incremental"
    wins: Wins = "legacy"  # where both sides changed the same field
    newest: str = ""  # for wins="newest": the field of ours, a date or a revision, that both sides keep
    match: str | tuple[Same, ...] = ()  # first contact; a plain name is Same(name)
    deletes: Literal["none", "pull", "push", "both"] = "none"
    sweep_hours: float = 24.0  # how often keys are compared, where deletions show in no other way
    rows: Rows | None = None
    only_if: Callable[[Map[Place, Any]], bool] | None = None  # which of their records are taken over
    sends: Callable[[Document], bool] | None = None  # which of our rows are sent
    never: tuple[str, ...] = ()  # fields of ours that must not leave, whatever a line says
    window: Window | None = None
    # The safety stop, each a share of the linked rows (None: as in the settings).
    stop_changed_share: float | None = None
    stop_deleted_share: float | None = None
    stop_failed_share: float | None = None
    undo_failed: bool = False  # a run that stopped since too many records failed takes back what it wrote

    # --- what is read and written ---

    @property
    def pulls(self) -> bool:
        return self.direction != "push"

    @property
    def both(self) -> bool:
        """Whether ours go back."""
        return self.direction != "pull"

    @cached_property
    def entity(self) -> Entity:
        return _entity(self.model)

    @cached_property
    def readers(self) -> dict[str, Reader]:
        """Field of ours, by its name on the wire → what reads it from their record."""
        return _readers(self.model, [line for line in self.fields if line.only != "push"])

    @cached_property
    def _mirrors(self) -> dict[str, Reader]:
        """The same of fields that only go there: so it is seen where somebody changed them over there.

        A function of the deployment's own may have no sense backwards, so what it wrote is not read.
        """
        lines = [x for x in self.fields if self.both and x.only == "push" and not x.late and not isinstance(x.how, By)]
        return _readers(self.model, lines)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        return _writers(self.model, self.fields)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every field of ours that is mapped, by its name on the wire, whichever way it goes."""
        return tuple(dict.fromkeys(attname(self.model, name) for line in self.fields for name in line.names))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        own = tuple(dict.fromkeys(place for line in self.fields for place in line.places))
        rows = self.rows
        return own + tuple(f"{rows.place}.{p}" for line in rows.fields for p in line.places) if rows else own

    @cached_property
    def pulled(self) -> frozenset[str]:
        """The names in a document that come from them."""
        return frozenset(self.readers) | ({self.rows.place} if self.rows else set())

    @cached_property
    def pushed(self) -> frozenset[str]:
        """The names in a document that go back."""
        lines = [line for line in self.fields if line.only != "pull"] if self.both else []
        own = {attname(self.model, name) for line in lines for name in line.names}
        return frozenset(own | ({self.rows.place} if self.rows and self.both else set()))

    @cached_property
    def refers(self) -> bool:
        """Whether records, or their rows, refer to anything."""
        return bool(self.referring or (self.rows and self.rows.referring))

    @cached_property
    def referring(self) -> tuple[F, ...]:
        """The lines that are taken over and refer to something."""
        return tuple(line for line in self.fields if line.ref and line.only != "push")

    @cached_property
    def late_places(self) -> frozenset[Place]:
        return frozenset(line.places[0] for line in self.fields if line.late)

    @cached_property
    def late_names(self) -> tuple[str, ...]:
        return tuple(name for line in self.fields if line.late for name in self.wire_names(line))

    @cached_property
    def forbidden_places(self) -> frozenset[Place]:
        """Where a field that must never leave would stand, but for places that another field is written to."""
        lines = [line for line in self.fields if set(line.names) & set(self.never)]
        allowed = {place for line in self.fields if line not in lines and line.only != "pull" for place in line.places}
        return frozenset(place for line in lines for place in line.places) - allowed

    @cached_property
    def matches(self) -> tuple[Same, ...]:
        found = (Same(self.match),) if isinstance(self.match, str) and self.match else self.match
        return found if isinstance(found, tuple) else ()

    @cached_property
    def defaults(self) -> Document:
        """What our fields have that nobody gave a value, as it stands in a document."""
        fields: dict[str, Any] = {field.attname: field for field in self.model._meta.concrete_fields}
        found = {name: fields[name] for name in self.readers if name in fields and fields[name].has_default()}
        return {name: plain(f, f.default) for name, f in found.items() if not callable(f.default)}

    @cached_property
    def fingerprint(self) -> str:
        """Another one says that records must be read again: what they become may be something else now."""
        return fingerprint(self)

    @cached_property
    def canonical(self) -> dict[str, Callable[[Any], Any]]:
        """Field → a value of ours as it would come back from them, where their side cannot hold all of it."""
        found = {}
        for line in self.fields:
            if line.how and line.how.rounds and len(line.names) == 1:
                found[attname(self.model, line.names[0])] = canonical(self.model, line.names[0], line.how)
        return found

    def wire_names(self, line: F) -> tuple[str, ...]:
        """The names on the wire of a line's fields."""
        return tuple(attname(self.model, name) for name in line.names)

    def winner(self, name: str) -> Wins:
        """Who wins where both changed this field, by its name on the wire."""
        return self._winners.get(name, self.wins)

    @cached_property
    def _winners(self) -> dict[str, Wins]:
        own = {attname(self.model, name): line.wins for line in self.fields if line.wins for name in line.names}
        return own | ({self.rows.place: self.rows.wins} if self.rows and self.rows.wins else {})

    # --- pure functions of records and documents ---

    def ours(self, values: Map[Place, Any], refer: Refer) -> Document:
        """Their record as our document: what it has a place for. Raises Unmappable."""
        document = {name: value for name, read in self.readers.items() if (value := read(values, refer)) is not ABSENT}
        for name, read in self._mirrors.items():
            with suppress(Unmappable):  # whatever it is, it is not ours
                document[name] = None
                document[name] = read(values, refer)
            if document[name] is ABSENT:
                del document[name]
        if self.rows and values.get(self.rows.place) is not None:
            document[self.rows.place] = {
                refer(self.rows.name, str(row["id"])): self.row_document(row, refer) for row in self.members(values)
            }
        return document

    def members(self, values: Map[Place, Any]) -> list[Any]:
        """A record's rows; none where it does not tell of them."""
        return values.get(self.rows.place) or [] if self.rows else []

    def row_document(self, row: Map[Place, Any], refer: Refer) -> Document:
        """One of a record's rows. Raises Unmappable."""
        readers = self.rows.readers if self.rows else {}
        return {name: value for name, read in readers.items() if (value := read(row, refer)) is not ABSENT}

    def theirs(self, document: Document, refer: Refer, new_rows: Iterable[str] = ()) -> dict[Place, Any]:
        """Our document as the values of their record; `new_rows`: those of its rows that they do not have yet."""
        values: dict[Place, Any] = {}
        for write in self.writers:
            write(document, refer, values)
        if self.rows:
            fresh = set(new_rows)
            values[self.rows.place] = []
            for key, row in document[self.rows.place].items():
                line: dict[Place, Any] = {"id": None if key in fresh else refer(self.rows.name, key)}
                for write in self.rows.writers:
                    write(row, refer, line)
                values[self.rows.place].append(line)
        return values

    def places_of(self, names: Iterable[str]) -> set[Place]:
        """Where the fields of a document are written to."""
        names = set(names)
        lines = [line for line in self.fields if names & {attname(self.model, name) for name in line.names}]
        own = {place for line in lines for place in (line.places if line.how else line.places[:1])}
        return own | ({self.rows.place} & names if self.rows else set())

    def settled(self, document: Document) -> Document:
        """The document as their side can hold it."""
        if not self.canonical:
            return document
        return {n: self.canonical[n](v) if n in self.canonical and v is not None else v for n, v in document.items()}


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()


def attname(model: type[models.Model], name: str) -> str:
    """A field's name on the wire: a foreign key's has its `_id`. Raises FieldDoesNotExist."""
    found: Any = model._meta.get_field(name)
    return str(found.attname)


def _readers(model: type[models.Model], lines: Iterable[F]) -> dict[str, Reader]:
    return {
        attname(model, name): reader(model, line, at, ABSENT) for line in lines for at, name in enumerate(line.names)
    }


def _writers(model: type[models.Model], lines: tuple[F, ...]) -> tuple[Writer, ...]:
    return tuple(writer(model, line) for line in lines if line.only != "pull" and line.places)


def _entity(model: type[models.Model]) -> Entity:
    return next(entity for entity in entities().values() if entity.model is model)
