"""SQL databases as pre-existing systems: PostgreSQL, MariaDB and SQLite, by table or query."""

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from legacy.connector import MARKER, Capabilities, Changed, Misconfigured, Page, Record, Refused, marker_in
from legacy.connectors.sql_database import Clock, Database, fetched
from legacy.connectors.sql_stamps import Form, packed, unpacked, window
from legacy.connectors.sql_tables import Shape, Table, is_timestamp, key_text, places_of, split

PAGE_RECORDS = 2_000  # of one answer: bounds the memory of both sides
OVERLAP_SECONDS = 60  # longer than the source's longest transaction: rows are stamped before they are committed
TIMEOUT_SECONDS = 60  # of one statement, which where no index helps reads a whole table

KEPT = (None, 0, "", b"\0")  # in the column `deleted`, of a record that is not


class Sql:
    """Records of one database. Its texts name it as `name`, for people."""

    def __init__(
        self,
        url: str,
        *,
        name: str = "the database",
        overlap_seconds: float = OVERLAP_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        page_records: int = PAGE_RECORDS,
    ) -> None:
        self._database = Database(url, name, timeout_seconds)
        self._overlap, self._page = overlap_seconds, page_records
        self._shapes: dict[str, Shape] = {}

    def __repr__(self) -> str:
        return f"Sql({str(self._database)!r})"

    @property
    def capabilities(self) -> Capabilities:
        kind, inexact = self._database.kind, self._database.inexact
        late = "late commits by the overlap"
        if kind == "postgresql":
            late = inexact or "late commits exactly, by the oldest open transaction"
        return Capabilities(
            stamp="the `stamp` of each table",
            precision_seconds=1e-6 if kind == "postgresql" else 1,
            clock="of whoever sets the stamp; without a zone, in the table's `zone`",
            ties=f"a pass reads from a stamp on, by key, and drops what was seen before; {late}",
            paging="key",
            hidden="nothing is hidden but by `only` and `deleted`",
            deletes="keys",
            locking="version",  # locked, compared with what was read, written: in one transaction
            idempotency="marker",
            whoami={"postgresql": "current_user", "mariadb": "current_user()"}.get(kind, "the file"),
            ahead=True,
            writes=frozenset({"create", "update", "delete"}),
        )

    def open(self) -> str:
        return self._database.whoami()

    def close(self) -> None:
        self._database.close()

    def changes(self, source: Table, places: Collection[str], cursor: Mapping[str, Any]) -> Page:
        """A pass over all that changed since the cursor, by key, so that no edit meanwhile shifts its pages.

        What bounds it is fixed when it begins, and kept in the cursor until it ends: see `sql_stamps.window`.
        """
        clock = None if "pass" in cursor or not source.stamps else self._database.clock()

        def work(connection: Connection) -> Page:
            bounds = cursor.get("pass") or self._bounds(connection, source, cursor, clock)
            if bounds.get("quiet"):
                return Page([], bounds["then"], more=False)
            where = []
            if "after" in cursor:
                where.append(self._key(connection, source) > unpacked(cursor["after"]))
            if bounds["from"] is not None:
                where.append(self._touched(connection, source, unpacked(bounds["from"]), bounds["strict"]))
            records, gone, last = self._read(connection, source, places, where, self._page)
            if len(records) + len(gone) < self._page:
                return Page(records, bounds["then"], more=False, gone=gone)
            # What the pass leaves behind is kept beside where it is.
            return Page(records, {**cursor, "pass": bounds, "after": packed(last)}, more=True, gone=gone)

        return self._database.read(work)

    def fetch(self, source: Table, places: Collection[str], keys: Collection[str]) -> list[Record]:
        wanted = sorted(keys)
        found: list[Record] = []
        for start in range(0, len(wanted), self._page):

            def work(connection: Connection, some: Sequence[str] = wanted[start : start + self._page]) -> list[Record]:
                natives = [key for text in some if (key := self._native(connection, source, text)) is not None]
                return self._read(connection, source, places, [self._key(connection, source).in_(natives)])[0]

            found += self._database.read(work)
        return found

    def keys(self, source: Table) -> Iterator[str]:
        after: Any = None

        def work(connection: Connection) -> Sequence[Any]:
            key = self._key(connection, source)
            columns = [key, *([self._shape(connection, source.name).column(source.deleted)] if source.deleted else [])]
            query = sa.select(*columns).where(*_only(source)).order_by(key).limit(self._page)
            return connection.execute(query if after is None else query.where(key > after)).all()

        while found := self._database.read(work):
            yield from (key_text(row[0]) for row in found if not source.deleted or row[1] in KEPT)
            after = found[-1][0]

    def find(self, source: Table, marker: str) -> str | None:
        def work(connection: Connection) -> list[Any]:
            key = self._key(connection, source)
            if source.marker:
                where = self._shape(connection, source.name).column(source.marker) == marker
            else:
                where = key == self._native(connection, source, marker.removeprefix(MARKER))
            return list(connection.execute(sa.select(key).where(where).limit(2)).scalars())

        if not source.marker and source.keys == "database":
            return None
        found = self._database.read(work)
        if len(found) > 1:
            raise Refused(f"{self._database.name}: {source.name} has several rows with our id {marker}.")
        return key_text(found[0]) if found else None

    def create(self, source: Table, marker: str, values: Mapping[str, Any]) -> str:
        now = self._database.clock().now if source.touch else None

        def work(connection: Connection) -> str:
            shape = self._writable(connection, source.name)
            made = {name: value for name, value in values.items() if not (source.rows and name == source.rows.place)}
            if source.marker:
                made[source.marker] = marker
            if source.keys == "ours":
                made[source.key] = self._native(connection, source, marker.removeprefix(MARKER))
            made |= self._touch(shape, source, source.stamps, now)
            key = _insert(connection, shape, source.key, _stored(shape, source, made))
            if source.rows:
                self._write_lines(connection, source, key, values.get(source.rows.place, ()), [])
            return key_text(key)

        return self._database.write(work)

    def update(self, source: Table, record: Record, values: Mapping[str, Any], changed: Collection[str]) -> None:
        now = self._database.clock().now if source.touch else None

        def work(connection: Connection) -> None:
            shape = self._writable(connection, source.name)
            there = self._locked(connection, source, record)
            if there is None:
                raise Changed(f"{self._database.name}: the record {record.key} of {source.name} is gone.")
            key = self._native(connection, source, record.key)
            made = {name: values[name] for name in changed if not (source.rows and name == source.rows.place)}
            made |= self._touch(shape, source, source.stamps[:1], now)
            self._set(connection, shape, source, key, record, _stored(shape, source, made))
            if source.rows and source.rows.place in changed:
                place = source.rows.place
                self._write_lines(connection, source, key, values[place], there.values[place])

        self._database.write(work)

    def delete(self, source: Table, record: Record) -> None:
        now = self._database.clock().now if source.touch or source.deleted else None

        def work(connection: Connection) -> None:
            shape = self._writable(connection, source.name)
            if self._locked(connection, source, record) is None:
                return
            key = self._native(connection, source, record.key)
            if source.deleted:
                flag = isinstance(shape.types[source.deleted], sa.Boolean | sa.Integer)
                made = {source.deleted: 1 if flag else now, **self._touch(shape, source, source.stamps[:1], now)}
                self._set(connection, shape, source, key, record, _stored(shape, source, made))
                return
            if source.rows:
                lines = self._writable(connection, source.rows.table)
                connection.execute(sa.delete(lines.table).where(lines.column(source.rows.parent) == key))
            connection.execute(sa.delete(shape.table).where(shape.column(source.key) == key))

        self._database.write(work)

    # --- What a source is over there ----------------------------------------------------------------------------------

    def _shape(self, connection: Connection, declared: str) -> Shape:
        if declared not in self._shapes:
            self._shapes[declared] = Shape(connection, declared)
        return self._shapes[declared]

    def _writable(self, connection: Connection, declared: str) -> Shape:
        shape = self._shape(connection, declared)
        if not shape.written:
            raise Misconfigured(f"{self._database.name}: {shape.label} can only be read: name a table.")
        return shape

    def _key(self, connection: Connection, source: Table) -> Any:
        return self._shape(connection, source.name).column(source.key)

    def _native(self, connection: Connection, source: Table, text: str) -> Any:
        """A key as the database compares it; None for a text that is the key of no row."""
        key = self._key(connection, source)
        shape = self._shape(connection, source.name)
        return shape.key_from(source.key, text, lambda: connection.execute(sa.select(key).limit(1)).scalar())

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _bounds(
        self, connection: Connection, source: Table, cursor: Mapping[str, Any], clock: Clock | None
    ) -> dict[str, Any]:
        """The bounds of the pass that begins now, as JSON."""
        if clock is None:
            return {"from": None, "strict": False, "then": {}}
        columns = self._stamps(connection, source)
        # Each by itself: that is one look into an index.
        result = connection.execute(sa.select(*(sa.select(sa.func.max(each)).scalar_subquery() for each in columns)))
        in_utc = is_timestamp(result)
        found = [each for each in result.one() if each is not None]
        try:
            newest = max(found, default=None)
        except TypeError:
            raise Misconfigured(f"{source.name}: its stamps {source.stamp} are of different types.") from None
        form = Form(ZoneInfo("UTC" if in_utc else source.zone), source.ticks)
        bounds = window(cursor, newest, clock, form, self._overlap, time.time())
        required = self._shape(connection, source.name).required
        quiet = (
            bounds.strict and packed(bounds.after) == bounds.then["since"] and not required.isdisjoint(source.stamps)
        )
        return {"from": packed(bounds.after), "strict": bounds.strict, "then": bounds.then, "quiet": quiet}

    def _stamps(self, connection: Connection, source: Table) -> list[Any]:
        found = [self._shape(connection, source.name).column(name) for name in source.stamps]
        if source.rows:
            lines = self._shape(connection, source.rows.table)
            found += [lines.column(name) for name in source.rows.stamps]
        return found

    def _touched(self, connection: Connection, source: Table, after: Any, strict: bool) -> Any:
        def since(column: Any) -> Any:
            return column > after if strict else column >= after

        shape = self._shape(connection, source.name)
        own = [shape.column(name) for name in source.stamps]
        clauses = [since(column) for column in own]
        if shape.required.isdisjoint(source.stamps):  # a row that has no stamp may be news at any time
            clauses.append(sa.and_(*(column.is_(None) for column in own)))
        if source.rows and source.rows.stamps:
            lines = self._shape(connection, source.rows.table)
            moved = sa.select(lines.column(source.rows.parent)).where(
                sa.or_(*(since(lines.column(name)) for name in source.rows.stamps))
            )
            clauses.append(shape.column(source.key).in_(moved))
        return sa.or_(*clauses)

    def _read(
        self,
        connection: Connection,
        source: Table,
        places: Collection[str],
        where: Collection[Any],
        limit: int | None = None,
        lock: bool = False,
    ) -> tuple[list[Record], list[str], Any]:
        """Records by key, keys of those that are kept as deleted, and the last key of all, as the database has it."""
        shape = self._shape(connection, source.name)
        own, leaves = split(source.rows, places)
        names = [*own, source.key, source.version or source.key, source.marker or source.key]
        names.append(source.deleted or source.key)
        query = sa.select(*map(shape.column, names)).where(*_only(source), *where)
        query = query.order_by(shape.column(source.key)).limit(limit)
        rows, description = fetched(connection, query.with_for_update() if lock else query)
        keys = [row[len(own)] for row in rows]
        values = shape.values(own, rows, description, source.zone)
        if source.rows and leaves is not None and rows:
            lists = self._read_lines(connection, source, leaves, keys, lock)
            for key, each in zip(keys, values, strict=True):
                each[source.rows.place] = lists.get(key, [])
        texts = list(map(key_text, keys))
        last = keys[-1] if keys else None
        if not (source.version or source.marker or source.deleted or source.keys == "ours"):
            return list(map(Record, texts, values)), [], last
        records, gone = [], []
        for text, each, (version, marker, deleted) in zip(texts, values, (row[-3:] for row in rows), strict=True):
            if source.deleted and deleted not in KEPT:
                gone.append(text)
                continue
            mark = marker if source.marker else MARKER + text if source.keys == "ours" else ""
            records.append(Record(text, each, version if source.version else None, marker_in(mark)))
        return records, gone, last

    def _read_lines(
        self, connection: Connection, source: Table, leaves: Sequence[str], parents: Sequence[Any], lock: bool
    ) -> dict[Any, list[dict[str, Any]]]:
        declared = source.rows
        assert declared is not None
        shape = self._shape(connection, declared.table)
        parent, key = shape.column(declared.parent), shape.column(declared.key)
        query = sa.select(*map(shape.column, leaves), key, parent).where(parent.in_(parents)).order_by(parent, key)
        rows, description = fetched(connection, query.with_for_update() if lock else query)
        lists: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for row, values in zip(rows, shape.values(leaves, rows, description, source.zone), strict=True):
            lists[row[-1]].append({"id": row[-2], **values})
        return lists

    # --- Writing ------------------------------------------------------------------------------------------------------

    def _locked(self, connection: Connection, source: Table, record: Record) -> Record | None:
        """The record, which nobody else can change until the transaction ends; None where it is gone.

        Raises Changed where it is not as it was read. It is read and compared as it was then, and not by the
        database: there, `ANA` may equal `ana`, and a JSON value nothing at all.
        """
        key = self._native(connection, source, record.key)
        where = [self._key(connection, source) == key]
        found = self._read(connection, source, places_of(source.rows, record.values), where, lock=True)[0]
        if not found:
            return None
        if (found[0].version, found[0].values) != (record.version, record.values):
            raise Changed(f"{self._database.name}: the record {record.key} of {source.name} was changed meanwhile.")
        return found[0]

    def _set(
        self, connection: Connection, shape: Shape, source: Table, key: Any, record: Record, made: dict[Any, Any]
    ) -> None:
        where = [shape.column(source.key) == key]
        if source.version:
            version = shape.column(source.version)
            where.append(version == record.version)
            if isinstance(shape.types[source.version], sa.Integer):
                made = {**made, version: version + 1}
        # MariaDB counts the rows that it found, not those that are other ones now: SQLAlchemy asks it to.
        if made and not connection.execute(sa.update(shape.table).where(*where).values(made)).rowcount:
            raise Changed(f"{self._database.name}: the record {record.key} of {source.name} was changed meanwhile.")

    def _touch(self, shape: Shape, source: Table, names: Sequence[str], now: dt.datetime | None) -> dict[str, Any]:
        if now is None or not source.touch:
            return {}
        numbers = {name for name in names if isinstance(shape.types.get(name), sa.Integer)}
        return {name: int(now.timestamp() * (source.ticks or 1)) if name in numbers else now for name in names}

    def _write_lines(
        self,
        connection: Connection,
        source: Table,
        parent: Any,
        wanted: Sequence[Mapping[str, Any]],
        there: Sequence[Mapping[str, Any]],
    ) -> None:
        declared = source.rows
        assert declared is not None
        if not (wanted or there):
            return
        shape = self._writable(connection, declared.table)
        key = shape.column(declared.key)
        known = {key_text(row["id"]): row for row in there}
        kept = {str(row["id"]) for row in wanted if row["id"] is not None}
        if kept - known.keys():
            raise Changed(f"{self._database.name}: a line of {declared.table} is gone: {sorted(kept - known.keys())}.")
        if gone := [row["id"] for text, row in known.items() if text not in kept]:
            connection.execute(sa.delete(shape.table).where(key.in_(gone)))
        for row in wanted:
            leaves = {name: value for name, value in row.items() if name != "id"}
            if row["id"] is None:
                own = {declared.key: str(uuid4())} if declared.keys == "ours" else {}
                made = _stored(shape, source, {**leaves, **own}) | {shape.column(declared.parent): parent}
                connection.execute(sa.insert(shape.table).values(made))
                continue
            before = known[str(row["id"])]
            if news := {name: value for name, value in leaves.items() if before.get(name) != value}:
                connection.execute(
                    sa.update(shape.table).where(key == before["id"]).values(_stored(shape, source, news))
                )


def _only(source: Table) -> list[Any]:
    return [sa.literal_column(f"({source.only})")] if source.only else []


def _stored(shape: Shape, source: Table, values: Mapping[str, Any]) -> dict[Any, Any]:
    return {shape.column(name): shape.stored(name, value, source.zone) for name, value in values.items()}


def _insert(connection: Connection, shape: Shape, key: str, made: Mapping[Any, Any]) -> Any:
    """The key of the row that was made, whoever made the key."""
    column = shape.column(key)
    insert = sa.insert(shape.table).values(dict(made))
    if connection.dialect.insert_returning:
        return connection.execute(insert.returning(column)).scalar_one()
    return made.get(column) or connection.execute(insert).lastrowid  # MariaDB before 10.5
