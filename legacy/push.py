"""Our changes become theirs: one record at a time, each remembered as soon as it has arrived."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

from django.db import connection, transaction

from legacy.connector import Changed, Record, Refused
from legacy.exchange import Exchange, described
from legacy.mapping import Document, Mapping, Unmappable
from legacy.models import Cursor, Link
from legacy.pull import apply
from legacy.rows import Ours, read
from sync.capture import authored
from sync.sql import block, quote

PUSH = Cursor.Direction.PUSH.value
PAGE_ROWS = 200
TRIES_MAX = 3  # of one record that others change at the same time
SQL = str(Path(__file__).with_name("changes.sql"))
FIRST = UUID(int=0)


def push(exchange: Exchange, mapping: Mapping) -> None:
    """Send every row that others than this system's runs changed since the last run and that differs from the agreed.

    The cursor moves at the end only. A run that was killed looks at the same rows again; what had arrived is agreed,
    so nothing is sent twice.
    """
    cursor = exchange.cursor(mapping, PUSH)
    position = _now()
    seen = 0
    for rows in _candidates(exchange, mapping, cursor, position):
        links = {link.row: link for link in exchange.links(mapping.name, rows=rows)}
        now = read(mapping, rows)
        for row, ours in now.items():
            if row not in links or _differs(mapping, ours.document, links[row].agreed):
                _send(exchange, mapping, row, ours)
        exchange.settle(mapping, PUSH, [str(row) for row in rows if row not in now])  # deleted here meanwhile
        seen += len(rows)
        exchange.tell(f"{mapping.name} to {exchange.system}", seen)
    if not exchange.pretend:
        with transaction.atomic():
            exchange.move(mapping, PUSH, position)


def _now() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, "now"))
        snapshot, database = cursor.fetchone()
    return {"snapshot": snapshot, "database": database}


def _candidates(exchange: Exchange, mapping: Mapping, cursor: Document, now: Document) -> Iterator[list[UUID]]:
    """Ids of rows to look at, by the page: dead letters that are due, then what was changed; at first, all rows."""
    if again := [UUID(key) for key in exchange.due(mapping, PUSH)]:
        yield again
    everything = mapping.model._default_manager.order_by("pk").values_list("pk", flat=True)
    after = FIRST
    while True:
        if cursor.get("database") == now["database"]:
            page = _changed(exchange, mapping, cursor["snapshot"], after)
        else:
            page = list(everything.filter(pk__gt=after)[:PAGE_ROWS])
        if page:
            yield page
        if len(page) < PAGE_ROWS:
            return
        after = page[-1]


def _changed(exchange: Exchange, mapping: Mapping, since: str, after: UUID) -> list[UUID]:
    arguments: dict[str, str | int | UUID] = {
        "entity": mapping.name,
        "own": f"run:{exchange.system}:%",
        "since": since,
        "after": after,
        "limit": PAGE_ROWS,
    }
    sql = block(SQL, "rows")
    if part := mapping.rows:
        parent = part.model._meta.get_field(part.parent)
        sql = block(SQL, "rows_and_members", parent=str(parent.column), members=quote(part.model._meta.db_table))  # type: ignore[union-attr]
        arguments["member"] = part.name
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments)
        return [row for (row,) in cursor.fetchall()]


def _send(exchange: Exchange, mapping: Mapping, row: UUID, ours: Ours | None) -> None:
    """Bring one row to them. What they refuse becomes a dead letter."""
    for attempt in range(1, TRIES_MAX + 1):
        link = next(iter(exchange.links(mapping.name, rows=[row])), None)
        if ours is None or (link and not _differs(mapping, ours.document, link.agreed)):
            return exchange.settle(mapping, PUSH, [str(row)])
        try:
            if exchange.pretend:
                return _pretend(exchange, mapping, ours, link)
            _deliver(exchange, mapping, row, ours, link)
            return exchange.settle(mapping, PUSH, [str(row)])
        except Changed as error:  # they were faster: take theirs first
            if attempt == TRIES_MAX:
                return exchange.bury(mapping, PUSH, str(row), error, ours.document)
        except (Refused, Unmappable) as error:
            return exchange.bury(mapping, PUSH, str(row), error, ours.document)
        ours = read(mapping, [row]).get(row)
    return None


def _deliver(exchange: Exchange, mapping: Mapping, row: UUID, ours: Ours, link: Link | None) -> None:
    if link is None:
        record = _create(exchange, mapping, row, ours)
        what = "created there"
    else:
        record = _fetch(exchange, mapping, link.key)
        what = "updated there"
    fresh = _take(exchange, mapping, record, row)  # what they changed meanwhile, or made of a new record: its number
    agreed = exchange.links(mapping.name, rows=[row])[0].agreed
    if fresh and (names := _differs(mapping, fresh.document, agreed)):
        known = exchange.links(mapping.rows.name, rows=list(fresh.members)) if mapping.rows else []
        new_rows = fresh.members.keys() - {str(each.row) for each in known}
        values = mapping.theirs(fresh.document, exchange.key_of, new_rows)
        exchange.connector.update(mapping.source, record, values, mapping.places_of(names))
        record = _fetch(exchange, mapping, record.key)
        with transaction.atomic():
            _pair(exchange, mapping, record, row, fresh.document)
            sent = agreed | {name: fresh.document[name] for name in names}
            exchange.link(mapping.name, [(record.key, row, sent, None)])
        _take(exchange, mapping, record, row)
    exchange.count(mapping, what)


def _create(exchange: Exchange, mapping: Mapping, row: UUID, ours: Ours) -> Record:
    """Make the record, unless an earlier run did whose answer was lost, and link it."""
    marker = f"sync:{row}"
    late = [line for line in mapping.fields if line.late]
    if key := exchange.connector.find(mapping.source, marker):
        record = _fetch(exchange, mapping, key)
        _pair(exchange, mapping, record, row, ours.document, everything=True)
        sent = mapping.ours(record.values, exchange.row_of)  # what we sent then; ours may have changed since
    else:
        values = mapping.theirs(ours.document, exchange.key_of, new_rows=ours.members)
        early = {place: value for place, value in values.items() if place not in {line.places[0] for line in late}}
        record = _fetch(exchange, mapping, exchange.connector.create(mapping.source, marker, early))
        _pair(exchange, mapping, record, row, ours.document)
        sent = ours.document | {line.ours: line.pull(record.values[line.places[0]]) for line in late if line.pull}
    # What they alone tell is left out, so that it is news: the number they gave.
    exchange.link(mapping.name, [(record.key, row, {name: sent[name] for name in mapping.pushed}, None)])
    return record


def _pair(
    exchange: Exchange, mapping: Mapping, record: Record, row: UUID, sent: Document, everything: bool = False
) -> None:
    """Link what belongs to a record and looks the same on both sides; with `everything`, also what does not."""
    if not (part := mapping.rows):
        return
    keys = [str(each["id"]) for each in record.values[part.place]]
    linked = exchange.rows_of((part.name, key) for key in keys)
    free = {member: document for member, document in sent[part.place].items() if member not in linked.values()}
    pairs: list[tuple[str, UUID, Document, UUID | None]] = []
    for key, values in zip(keys, record.values[part.place], strict=True):
        if (part.name, key) not in linked:
            same = mapping.same_row(values, free, exchange.row_of)
            free.pop(same or "", None)
            if same or everything:
                pairs.append((key, UUID(same) if same else uuid4(), {}, row))
    exchange.link(part.name, pairs)


def _take(exchange: Exchange, mapping: Mapping, record: Record, row: UUID) -> Ours | None:
    with transaction.atomic(), authored(exchange.run.author):
        apply(exchange, mapping, [record], counted=False)
    return read(mapping, [row]).get(row)


def _fetch(exchange: Exchange, mapping: Mapping, key: str) -> Record:
    """Raises Refused where it is gone."""
    if found := exchange.connector.fetch(mapping.source, mapping.places, [key]):
        return found[0]
    raise Refused(f"The record {key} is not in {exchange.system} any more, or no {mapping.name} there any more.")


def _differs(mapping: Mapping, document: Document, agreed: Document) -> set[str]:
    """The names that go to them and are not as agreed."""
    return {name for name in mapping.pushed if name not in agreed or document[name] != agreed[name]}


def _pretend(exchange: Exchange, mapping: Mapping, ours: Ours, link: Link | None) -> None:
    names = _differs(mapping, ours.document, link.agreed if link else {})
    changes = {name: ours.document[name] for name in sorted(names)}
    exchange.show(described(f"{mapping.name} {ours.row} → {exchange.system}", changes, link.agreed if link else None))
    exchange.count(mapping, "updated there" if link else "created there")
