"""Our changes become theirs: one record at a time, each remembered as soon as it has arrived."""

from collections.abc import Callable, Collection, Iterator
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from legacy.apply import apply, comes_back
from legacy.connector import MARKER, Changed, Misconfigured, Record, Refused
from legacy.disputes import open_disputes
from legacy.document import Document, Unmappable
from legacy.exchange import SQL, Agreement, Change, Exchange, Kind, What
from legacy.mapping import Mapping as Declared
from legacy.merging import differs
from legacy.models import Cursor, DeadLetter, Link, Run
from legacy.rows import Ours, read
from legacy.safety import guard_their_records
from sync.models import History
from sync.sql import Uuids, array, block, cursor, quote

PUSH = Cursor.Direction.PUSH.value
PAGE_ROWS = 200
TRIES_MAX = 3  # of one record that others change at the same time
FIRST = UUID(int=0)


def push(exchange: Exchange, mapping: Declared) -> None:
    """Send every row that others than this system's runs changed since the last run and that differs from the agreed.

    The cursor moves at the end only. A run that was killed looks at the same rows again; what had arrived is agreed,
    so nothing is sent twice. Raises Stopped before anything is sent where too much was deleted.
    """
    at = exchange.cursor(mapping, PUSH)
    position: dict[str, Any] = _now()
    guard_their_records(exchange, mapping, _gone(exchange, mapping, at.state, position))
    seen, later = 0, set()
    for rows in _candidates(exchange, mapping, at.state, position):
        later |= _send_page(exchange, mapping, rows)
        seen += len(rows)
        exchange.tell(f"{mapping.name} to {exchange.system}", seen)
    if not exchange.pretend:
        at.state = position | {"later": sorted(later)}
        with exchange.writing():
            exchange.move(at)


def _send_page(exchange: Exchange, mapping: Declared, rows: list[str]) -> set[str]:
    """Send what differs. Returns the rows to look at again with the next run, since a person must say what they are."""
    links = {str(link.row): link for link in exchange.links_of(mapping.name, rows)}
    now = read(mapping, rows)
    held = open_disputes(exchange, mapping, rows)
    later = _unclear(exchange, mapping, now.keys() - links.keys())
    in_step = []
    for row in rows:
        ours, link, waits = now.get(row), links.get(row), frozenset(held.get(row, ()))
        if ours is None and mapping.deletes in ("push", "both"):
            _send_delete(exchange, mapping, row, link)
        elif ours and row not in later and _is_to_send(mapping, ours, link, waits):
            _send(exchange, mapping, row, ours, waits)
        elif not waits:
            in_step.append(row)
    exchange.settle(mapping, PUSH, in_step)
    if not exchange.pretend:
        Link.objects.filter(system=exchange.system, mapping=mapping.name, due=True, row__in=in_step).update(due=False)
    return later


def _is_to_send(mapping: Declared, ours: Ours, link: Link | None, held: frozenset[str]) -> bool:
    if link is None:
        return mapping.sends is None or mapping.sends(ours.document)
    return bool(_news(mapping, ours, link, held))


def _unclear(exchange: Exchange, mapping: Declared, rows: Collection[str]) -> set[str]:
    """Those of the rows that a record of theirs may be: a person says so first, or they would have it twice."""
    letters = DeadLetter.objects.filter(system=exchange.system, mapping=mapping.name, kind=Kind.UNCLEAR)
    found = letters.filter(candidates__has_any_keys=list(rows)).values_list("candidates", flat=True)
    return {row for candidates in found for row in candidates} & set(rows)


def _now() -> dict[str, str]:
    with connection.cursor() as plain:
        plain.execute(block(SQL, "now"))
        snapshot, database = plain.fetchone()
    return {"snapshot": snapshot, "database": database}


def _candidates(exchange: Exchange, mapping: Declared, since: Document, now: Document) -> Iterator[list[str]]:
    """Ids of rows to look at, by the page: what waited, then what was changed; at first, all rows.

    Where no push has come to its end yet, one may have died that made a record for a row which is deleted by now.
    """
    again = [*since.get("later", ()), *(letter.key for letter in exchange.due(mapping, PUSH))]
    yield from (again[at : at + PAGE_ROWS] for at in range(0, len(again), PAGE_ROWS))
    links = Link.objects.filter(system=exchange.system, mapping=mapping.name, due=True)
    yield from _pages(lambda after: _ids(links.filter(row__gt=after), "row"))
    if since.get("database") != now["database"]:
        yield from _pages(lambda after: _ids(mapping.model._default_manager.filter(pk__gt=after), "pk"))
    yield from _gone(exchange, mapping, since, now)


def _gone(exchange: Exchange, mapping: Declared, since: Document, now: Document) -> Iterator[list[str]]:
    """Ids of rows that were changed, those that were deleted among them; at first, of those that were deleted alone."""
    if since.get("database") == now["database"]:
        yield from _pages(lambda after: _changed(exchange, mapping, since["snapshot"], after))
    else:
        first = Run.objects.filter(system=exchange.system).order_by("started_at").values("started_at")[:1]
        gone = History.objects.filter(entity=mapping.entity.name, op="delete", at__gte=first).distinct()
        yield from _pages(lambda after: _ids(gone.filter(row_id__gt=after), "row_id"))


def _pages(page_after: Callable[[UUID], list[str]]) -> Iterator[list[str]]:
    """Pages of ids, each asked for with the last id of the one before it."""
    after = FIRST
    while page := page_after(after):
        yield page
        if len(page) < PAGE_ROWS:
            return
        after = UUID(page[-1])


def _ids(found: "QuerySet[Any]", field: str) -> list[str]:
    return [str(id) for id in found.order_by(field).values_list(field, flat=True)[:PAGE_ROWS]]


def _changed(exchange: Exchange, mapping: Declared, since: str, after: UUID) -> list[str]:
    arguments: dict[str, str | int | UUID] = {
        "entity": mapping.entity.name,
        "own": f"run:{exchange.system}:%",
        "since": since,
        "after": after,
        "limit": PAGE_ROWS,
    }
    sql = block(SQL, "rows")
    if part := mapping.rows:
        parent = part.model._meta.get_field(part.parent)
        sql = block(SQL, "rows_and_members", parent=str(parent.column), members=quote(part.model._meta.db_table))  # type: ignore[union-attr]
        arguments["member"] = part.entity.name
    with connection.cursor() as plain:
        plain.execute(sql, arguments)
        return [row for (row,) in plain.fetchall()]


def _news(mapping: Declared, ours: Ours, link: Link, held: Any) -> set[str]:
    return differs(mapping, ours.document, link.agreed) - set(held)


def _send(exchange: Exchange, mapping: Declared, row: str, ours: Ours | None, held: frozenset[str]) -> None:
    """Bring one row to them. What they refuse becomes a dead letter; fields in `held` wait for a person's decision."""
    for attempt in range(1, TRIES_MAX + 1):
        link = next(iter(exchange.links_of(mapping.name, [row])), None)
        if ours is None or (link and not _news(mapping, ours, link, held)):
            return None if held else exchange.settle(mapping, PUSH, [row])
        try:
            if exchange.pretend:
                return _pretend(exchange, mapping, ours, link, held)
            if link and (loop := _loops(exchange, mapping, ours, link, held)):
                Link.objects.filter(pk=link.pk).update(due=False)
                return exchange.bury(mapping, PUSH, row, loop, ours.document, Kind.LOOP)
            _deliver(exchange, mapping, row, ours, link, held)
            return None if held else exchange.settle(mapping, PUSH, [row])
        except Changed as error:  # they were faster: take theirs first
            if attempt == TRIES_MAX:
                return exchange.bury(mapping, PUSH, row, error, ours.document)
        except (Refused, Unmappable) as error:
            return exchange.bury(mapping, PUSH, row, error, ours.document)
        ours = read(mapping, [row]).get(row)
    return None


def _deliver(
    exchange: Exchange, mapping: Declared, row: str, ours: Ours, link: Link | None, held: frozenset[str]
) -> None:
    if link is None:
        record = _create(exchange, mapping, row, ours)
        what = "created there"
    else:
        record = _fetch(exchange, mapping, link.key)
        what = "updated there"
    fresh = _take(exchange, mapping, record, row)  # what they changed meanwhile, or made of a new record: its number
    link = exchange.links_of(mapping.name, [row])[0]
    if fresh and (names := _news(mapping, fresh, link, held)):
        members = _members(mapping, fresh)
        known = exchange.links_of(mapping.rows.name, members) if mapping.rows else []
        new_rows = set(members) - {str(each.row) for each in known}
        values = _outgoing(mapping, mapping.theirs(fresh.document, exchange.key_of, new_rows))
        exchange.connector.update(mapping.source, record, values, mapping.places_of(names) & values.keys())
        record = _fetch(exchange, mapping, record.key)
        sent = link.agreed | {name: mapping.settled(fresh.document)[name] for name in names}
        with exchange.writing():
            _pair(exchange, mapping, record, row, fresh.document)
            hops = _hops(exchange, mapping, record, link, sent, names)
            exchange.link(mapping.name, [Agreement(record.key, row, sent, "", hops=hops)], [record.key])
        _take(exchange, mapping, record, row)
    exchange.count(mapping, what)


def _members(mapping: Declared, ours: Ours) -> list[str]:
    """The ids of the rows that belong to this one."""
    return list(ours.document[mapping.rows.place]) if mapping.rows else []


def _create(exchange: Exchange, mapping: Declared, row: str, ours: Ours) -> Record:
    """Make the record, unless an earlier run did whose answer was lost, and link it."""
    marker = MARKER + row
    if key := exchange.connector.find(mapping.source, marker):
        record = _fetch(exchange, mapping, key)
        sent = None
    else:
        values = _outgoing(mapping, mapping.theirs(ours.document, exchange.key_of, new_rows=_members(mapping, ours)))
        early = {place: value for place, value in values.items() if place not in mapping.late_places}
        exchange.confirm()
        record = _fetch(exchange, mapping, exchange.connector.create(mapping.source, marker, early))
        made = mapping.ours(record.values, _nothing)
        sent = mapping.settled(ours.document) | {name: made[name] for name in mapping.late_names if name in made}
    with exchange.writing():
        _pair(exchange, mapping, record, row, ours.document, everything=sent is None)
        if sent is None:
            sent = _sent_then(exchange, mapping, record, ours)
        # What they alone tell is left out, so that it is news: the number they gave.
        agreed = {name: sent[name] for name in mapping.pushed if name in sent}
        exchange.link(mapping.name, [Agreement(record.key, row, agreed, "")])
    return record


def _sent_then(exchange: Exchange, mapping: Declared, record: Record, ours: Ours) -> Document:
    """Of a record that was made for our row, what we sent: all that our row ever had. The rest they have changed."""
    theirs = mapping.ours(record.values, exchange.row_of)
    past = History.objects.filter(entity=mapping.entity.name, row_id=ours.row, old__isnull=False)
    had = [ours.document, *(old or {} for old in past.values_list("old", flat=True))]
    settled = [mapping.settled({name: values[name] for name in theirs.keys() & values.keys()}) for values in had]
    # What they gave a new record until it says more, and its lines, which are not in the row's history.
    ours_alone = {*mapping.late_names, *([mapping.rows.place] if mapping.rows else [])}
    return {
        name: value
        for name, value in theirs.items()
        if name in ours_alone or any(name in values and values[name] == value for values in settled)
    }


def _pair(
    exchange: Exchange, mapping: Declared, record: Record, row: str, sent: Document, everything: bool = False
) -> None:
    """Link what belongs to a record and looks the same on both sides; with `everything`, also what does not."""
    if not (part := mapping.rows):
        return
    keys = [str(each["id"]) for each in mapping.members(record.values)]
    linked = exchange.rows_of((part.name, key) for key in keys)
    free = {member: document for member, document in sent[part.place].items() if member not in linked.values()}
    pairs: list[Agreement] = []
    for key, values in zip(keys, mapping.members(record.values), strict=True):
        if (part.name, key) not in linked:
            theirs = mapping.row_document(values, exchange.row_of)
            same = next((member for member, document in free.items() if document == theirs), None)
            free.pop(same or "", None)
            if same or everything:
                pairs.append(Agreement(key, same or str(uuid4()), {}, "", row))
    exchange.link(part.name, pairs)


def _send_delete(exchange: Exchange, mapping: Declared, row: str, link: Link | None) -> None:
    """Delete their record of a row that was deleted here; one that they have edited since brings our row back.

    A row without a link may have a record all the same, made by a run that died before it knew.
    """
    key = link.key if link else exchange.connector.find(mapping.source, MARKER + row)
    found = exchange.connector.fetch(mapping.source, mapping.places, [key]) if key else []
    edited = bool(link and found and _edited(exchange, mapping, link, found[0]))
    if not found and not link:
        return exchange.settle(mapping, PUSH, [row])
    if exchange.pretend:
        exchange.count(mapping, "created" if edited else "deleted there")
        what: What = "made again" if edited else "deleted"
        before = link.agreed if link else {}
        return exchange.show(Change(mapping.name, row, what, to=exchange.system, before=before))
    if edited:
        with exchange.writing():
            apply(exchange, mapping, found, counted=False)
        return exchange.settle(mapping, PUSH, [row])
    if found:
        exchange.confirm()
        try:
            exchange.connector.delete(mapping.source, found[0])
        except (Refused, Changed) as error:
            return exchange.bury(mapping, PUSH, row, error, link.agreed if link else {})
        exchange.count(mapping, "deleted there")
    with exchange.writing():
        exchange.forget(mapping, [row])
    return exchange.settle(mapping, PUSH, [row])


def _edited(exchange: Exchange, mapping: Declared, link: Link, record: Record) -> bool:
    try:
        return comes_back(mapping, link.agreed, mapping.ours(record.values, exchange.row_of))
    except Unmappable:  # a line of theirs, or what a field refers to, is new
        return True


def _is_rows(mapping: Declared, name: str) -> bool:
    return mapping.rows is not None and name == mapping.rows.place


# --- Nothing goes round and round, and nothing leaves that must not ---------------------------------------------------


def _hops(exchange: Exchange, mapping: Declared, record: Record, link: Link, sent: Document, names: set[str]) -> int:
    """How often in a row they gave back something else than they were sent."""
    theirs = mapping.ours(record.values, exchange.row_of)
    kept = all(theirs[name] == sent[name] for name in names if name in theirs and not _is_rows(mapping, name))
    return 0 if kept else link.hops + 1


def _loops(exchange: Exchange, mapping: Declared, ours: Ours, link: Link, held: frozenset[str]) -> str:
    """Why this is not sent once more: they never keep it, and nobody but systems has changed it since."""
    if link.hops < settings.LEGACY_HOPS_MAX:
        return ""
    names = sorted(_news(mapping, ours, link, held))
    parameters = {
        "entity": mapping.entity.name,
        "rows": Uuids([ours.row] * len(names)),
        "fields": array(names),
    }
    with cursor() as bound:
        authors = {author for _, _, author in bound.execute(block(SQL, "last_authors"), parameters)}
    if not authors or not all(author.startswith("run:") for author in authors):
        return ""
    return f"{exchange.system} did not keep {', '.join(names)} {link.hops} times, and nobody but systems changes it."


def _outgoing(mapping: Declared, values: dict[str, Any]) -> dict[str, Any]:
    """The values, held once more against what must never leave. Raises Misconfigured."""
    if leaks := mapping.forbidden_places & values.keys():
        raise Misconfigured(f"{mapping.name}: {', '.join(sorted(leaks))} must never leave, and would.")
    return values


def _nothing(_mapping: str, key: str) -> str:
    """For what is read of a new record's own fields alone: whatever it refers to."""
    return key


def _take(exchange: Exchange, mapping: Declared, record: Record, row: str) -> Ours | None:
    with exchange.writing():
        apply(exchange, mapping, [record], counted=False)
    return read(mapping, [row]).get(row)


def _fetch(exchange: Exchange, mapping: Declared, key: str) -> Record:
    """Raises Refused where it is gone."""
    if found := exchange.connector.fetch(mapping.source, mapping.places, [key]):
        return found[0]
    raise Refused(f"The record {key} is not in {exchange.system} any more, or no {mapping.name} there any more.")


def _pretend(exchange: Exchange, mapping: Declared, ours: Ours, link: Link | None, held: frozenset[str]) -> None:
    names = _news(mapping, ours, link, held) if link else differs(mapping, ours.document, {})
    changes = {name: ours.document[name] for name in sorted(names)}
    before = {name: link.agreed.get(name) for name in changes} if link else None
    what: What = "updated" if link else "created"
    exchange.show(Change(mapping.name, ours.row, what, to=exchange.system, before=before, after=changes))
    exchange.count(mapping, "updated there" if link else "created there")
