"""What a mapping is about in an SQL database: tables, their lists of rows, and what their values look like to us."""

import datetime as dt
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.types import TypeEngine, UserDefinedType

from legacy.connector import Misconfigured, Refused

QUERY = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
# Of PyMySQL's result columns.
TIMESTAMP, BIT, DATES = 7, 16, frozenset({7, 10, 12})


Columns = str | tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """A list of rows that belongs to each record: `values[place]` is `[{"id": 7, "quantity": 2}, …]`, by key."""

    place: str
    table: str  # or the text of a query, which is only read
    parent: str  # the column that has the record's key
    key: str = "id"  # unique in the table, not only within its record
    # Where a line is changed without its record: the column that tells. A line that was deleted tells nothing.
    stamp: Columns = ""
    keys: Literal["database", "ours"] = "database"  # who makes those of new lines; ours: any text or uuid

    @property
    def stamps(self) -> tuple[str, ...]:
        return _columns(self.stamp)


@dataclass(frozen=True)
class Table:
    """Which rows of which table, or of which query's answer, are records, and what is special about them."""

    name: str  # `customers`, `sales.customers`, or the text of a query, which is only read
    key: str = "id"  # unique, and never changed
    stamp: Columns = (
        "updated_at"  # when a row was changed; several: the first that is not null; "": every pass reads all
    )
    marker: str = ""  # the text column that keeps our id, so that a created record can be found again
    only: str = ""  # a condition in SQL, written by who declares it: values from elsewhere have no place in it
    version: str = ""  # a column that changes with the row; one of whole numbers is raised by us
    deleted: str = ""  # the column, a flag or a time, that is set where a record counts as deleted and is kept
    rows: Lines | None = None
    keys: Literal["database", "ours"] = "database"  # who makes them; ours: the id of our row, for text or uuid
    zone: str = "UTC"  # of times that have none; MariaDB's TIMESTAMP is told in UTC whatever this is
    ticks: int = 0  # a second, of stamps that are numbers: 1, 1000; 0: those are no times
    touch: bool = False  # whether our writes set the stamps, where the database itself does not

    @property
    def stamps(self) -> tuple[str, ...]:
        return _columns(self.stamp)


def _columns(declared: Columns) -> tuple[str, ...]:
    return tuple(filter(None, (declared,) if isinstance(declared, str) else declared))


class Plain(UserDefinedType[Any]):
    """Values go to the driver and come from it as they are: no casts, and nothing to pay for each of them."""

    cache_ok = True


class Shape:
    """A table or a query as the database describes it, once a run."""

    def __init__(self, connection: Connection, declared: str) -> None:
        self.declared = declared
        self.kind = connection.dialect.name
        self.types: dict[str, TypeEngine[Any]] = {}
        self.required: frozenset[str] = frozenset()  # columns that are never null
        self.written = not QUERY.match(declared)
        self.table: Any = self._table(connection) if self.written else self._query(connection)

    @property
    def label(self) -> str:
        return f"the table {self.declared}" if self.written else "the query " + " ".join(self.declared.split())[:60]

    def column(self, name: str) -> Any:
        """Raises Misconfigured for one that there is not."""
        try:
            return self.table.c[name]
        except KeyError:
            there = ", ".join(self.table.c.keys())
            raise Misconfigured(f"{self.label} has no column {name!r}; it has {there}.") from None

    def key_from(self, name: str, text: str, sample: Callable[[], Any]) -> Any:
        """A key that was a text meanwhile, as the database compares it; `sample`: any of its keys, for a query's."""
        try:
            kind = self.types[name].python_type if name in self.types else type(sample())
        except NotImplementedError:
            return text
        try:
            return bytes.fromhex(text) if kind is bytes else kind(text) if kind in (int, Decimal, UUID) else text
        except (ValueError, ArithmeticError):
            return None  # no record has it

    def stored(self, name: str, value: Any, zone: str) -> Any:
        """A value as this column takes it. Raises Refused for one that cannot be said in it."""
        at = self.types.get(name)
        try:
            if isinstance(value, str) and value and isinstance(at, sa.Integer):
                return int(value)
            if isinstance(value, bool | int) and isinstance(at, sa.Boolean | sa.Integer):
                return bool(value) if isinstance(at, sa.Boolean) else int(value)
        except ValueError:
            raise Refused(f"{self.label}: {value!r} is no whole number, as {name} takes it.") from None
        if isinstance(value, dt.datetime):
            value = self._time(at, value, zone)
        if self.kind == "sqlite" and isinstance(value, dt.date | Decimal | UUID | dt.time):
            return value.isoformat(" ") if isinstance(value, dt.datetime) else str(value)
        return value

    def values(self, names: Sequence[str], rows: Sequence[Any], description: Any, zone: str) -> list[dict[str, Any]]:
        """Each row, which begins with these columns, by name. What has no zone gets one.

        A column is looked at as a whole: most need nothing to be done, and cost nothing.
        """
        columns = list(zip(*rows, strict=True))[: len(names)]
        dull = True
        for at, (name, values) in enumerate(zip(names, columns, strict=True) if rows else ()):
            code = description[at][1] if self.kind == "mariadb" else None
            if reader := self._reader(name, set(map(type, values)), values, code, zone):
                columns[at] = tuple(map(reader, values))
                dull = False
        found = rows if dull else zip(*columns, strict=True)
        return [dict(zip(names, row, strict=False)) for row in found]

    def _reader(self, name: str, kinds: set[type], values: Iterable[Any], code: int | None, zone: str) -> Any:
        at = self.types.get(name)
        if self.kind == "sqlite" and at is not None:
            if isinstance(at, sa.DateTime | sa.Date) and str in kinds:
                return _from_text(at, ZoneInfo(zone))
            if isinstance(at, sa.Numeric) and not isinstance(at, sa.Float) and kinds & {int, float, str}:
                return _decimal
        elif code == BIT and bytes in kinds:
            return lambda value: int.from_bytes(value) if type(value) is bytes else value
        elif code in DATES and str in kinds:
            return _no_zero_date(ZoneInfo("UTC" if code == TIMESTAMP else zone))
        if dt.datetime in kinds:
            first = next(value for value in values if type(value) is dt.datetime)
            if first.tzinfo is None:
                return _aware(ZoneInfo("UTC" if code == TIMESTAMP else zone))
        return None

    def _time(self, at: TypeEngine[Any] | None, value: dt.datetime, zone: str) -> dt.datetime | dt.date:
        utc = type(at).__name__ == "TIMESTAMP" and self.kind == "mariadb"
        local = value.astimezone(dt.UTC if utc else ZoneInfo(zone)) if value.tzinfo else value
        if isinstance(at, sa.Date):
            return local.date()
        if self.kind == "postgresql" and getattr(at, "timezone", False):
            return value if value.tzinfo else value.replace(tzinfo=ZoneInfo(zone))
        return local.replace(tzinfo=None)

    def _table(self, connection: Connection) -> Any:
        schema, _, name = self.declared.rpartition(".")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", exc.SAWarning)  # of types that it does not know: neither need we
                found = sa.inspect(connection).get_columns(name, schema=schema or None)
        except exc.NoSuchTableError:
            raise Misconfigured(f"There is no table {self.declared} (any more), or we may not see it.") from None
        self.types = {each["name"]: each["type"] for each in found}
        self.required = frozenset(each["name"] for each in found if not each["nullable"])
        return sa.table(name, *(sa.column(each, Plain()) for each in self.types), schema=schema or None)

    def _query(self, connection: Connection) -> Any:
        text = self.declared.strip().rstrip(";").replace(":", r"\:")
        names = list(connection.execute(sa.text(f"SELECT * FROM ({text}) AS source WHERE 1 = 0")).keys())
        return sa.text(text).columns(*(sa.column(each, Plain()) for each in names)).subquery("source")


def is_timestamp(result: CursorResult[Any]) -> bool:
    """Whether the first column is MariaDB's TIMESTAMP, which is told in UTC."""
    dialect = result.context.dialect.name
    return bool(result.cursor and dialect == "mariadb" and result.cursor.description[0][1] == TIMESTAMP)


def key_text(key: Any) -> str:
    return key.hex() if isinstance(key, bytes) else str(key)


def _aware(zone: ZoneInfo) -> Callable[[Any], Any]:
    return lambda value: value.replace(tzinfo=zone) if type(value) is dt.datetime else value


def _no_zero_date(zone: ZoneInfo) -> Callable[[Any], Any]:
    """MariaDB's `0000-00-00` is what it had for no date, and no date that anybody else can say."""
    aware = _aware(zone)
    return lambda value: None if isinstance(value, str) and value.startswith("0000-00-00") else aware(value)


def _decimal(value: Any) -> Any:
    try:
        return Decimal(str(value)) if type(value) in (int, float, str) else value
    except ArithmeticError:
        return value


def _from_text(at: TypeEngine[Any], zone: ZoneInfo) -> Callable[[Any], Any]:
    """SQLite keeps times as texts, and anything else as well if it was told to: that is left to the mapping."""

    def read(value: Any) -> Any:
        try:
            if isinstance(at, sa.Date):
                return dt.date.fromisoformat(value)
            time = dt.datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return value
        return time if time.tzinfo else time.replace(tzinfo=zone)

    return read


def split(lines: Lines | None, places: Collection[str]) -> tuple[list[str], list[str] | None]:
    """The record's own columns among the places, and those of its lines; None where its lines are not asked for."""
    if not lines:
        return list(dict.fromkeys(places)), None
    start = f"{lines.place}."
    inner = [place for place in places if place == lines.place or place.startswith(start)]
    own = dict.fromkeys(place for place in places if place not in inner)
    leaves = dict.fromkeys(place.removeprefix(start) for place in inner if place != lines.place)
    return list(own), list(leaves) if inner else None


def places_of(lines: Lines | None, values: Mapping[str, Any]) -> list[str]:
    """The places that a record was read with, as its values show them."""
    if not lines or lines.place not in values:
        return list(values)
    leaves = [leaf for row in values[lines.place][:1] for leaf in row if leaf != "id"]
    return [*values, *(f"{lines.place}.{leaf}" for leaf in leaves)]
