"""Their changes become ours: read page by page, held until it is known that they are not too many, applied by the page.

A record that is as it was when it was last read is dropped by its digest. The rest waits in the database
(`legacy.models.Waiting`), committed with the cursor: a run that is killed loses nothing and reads nothing twice. Into
an empty table there is nothing to hold back, so a first load is written page by page as it is read.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.utils import timezone

from legacy.apply import (
    PAGE_RECORDS,
    apply,
    confirmed,
    delete,
    digest_of,
    references_in,
    storable_only,
    waiting,
)
from legacy.connector import Page, Record
from legacy.contact import row_marked
from legacy.exchange import SQL, Exchange, as_json, is_as_read
from legacy.mapping import Mapping
from legacy.models import Cursor, DeadLetter, Link, Run, Waiting
from legacy.safety import failures, guard, guard_failures
from legacy.stored import storable
from sync.models import History
from sync.sql import block, cursor, texts

PULL = Cursor.Direction.PULL.value
RETRIES_PER_CALL = 100  # dead letters fetched again at once


def pull(exchange: Exchange, mapping: Mapping) -> None:
    """Take over every record that changed since the last run. What has failed before is tried again first.

    Raises Stopped before anything is written where that would be too much.
    """
    at = exchange.cursor(mapping, PULL)
    mended = at.fingerprint not in ("", mapping.fingerprint)  # perhaps by who saw what failed
    if at.fingerprint != mapping.fingerprint or (mapping.mode == "snapshot" and not at.midway):
        at.state, at.midway, at.fingerprint = {}, False, mapping.fingerprint
    exchange.run.cursors.setdefault(mapping.name, at.state)
    _retry(exchange, mapping, exchange.due(mapping, PULL, everything=mended))
    _read(exchange, mapping, at)
    _sweep(exchange, mapping, at)
    guard(exchange, mapping)
    _apply_waiting(exchange, mapping)


def _read(exchange: Exchange, mapping: Mapping, at: Cursor) -> None:
    """One pass: what is news waits, or is written at once where there is nothing yet."""
    direct = not at.state and not exchange.pretend and not mapping.model._default_manager.exists()
    noting = exchange.connector.capabilities.deletes == "pass" and takes_deletes(mapping)
    if not at.midway:
        at.whole = not at.state
        if noting:
            _keys_begin(exchange, mapping)
    count, failed = 0, failures(exchange, mapping)
    for page in _pages(exchange, mapping, at.state, alone=not exchange.pretend and not (direct and mapping.refers)):
        at.state, at.midway = page.cursor, page.more
        if noting:
            _keys_add(exchange, mapping, [record.key for record in page.records])
        _take_page(exchange, mapping, page.records, page.gone, at, direct)
        exchange.refuse(mapping, page.refused)
        count += len(page.records)
        exchange.tell(f"{mapping.name} from {exchange.system}", count)
        guard_failures(exchange, mapping, failed, count)
    if noting and (at.whole if page.whole is None else page.whole):
        _hold_missing(exchange, mapping, at)


def _pages(exchange: Exchange, mapping: Mapping, state: dict[str, Any], alone: bool) -> Iterator[Page]:
    """One pass from `state` on. `alone`: nobody else asks the connector before it has ended.

    Where the connector can, it reads the next page while the last one is being written.
    """

    def read() -> Iterator[Page]:
        page = exchange.connector.changes(mapping.source, mapping.places, state)
        yield page
        while page.more:
            page = exchange.connector.changes(mapping.source, mapping.places, page.cursor)
            yield page

    pages = read()
    if not (alone and exchange.connector.capabilities.ahead):
        yield from pages
        return
    with ThreadPoolExecutor(1, "reader") as reader:
        coming = reader.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = reader.submit(next, pages, None)
            yield page


def _take_page(
    exchange: Exchange, mapping: Mapping, records: list[Record], gone: list[str], at: Cursor, direct: bool
) -> None:
    found, same = news(exchange, mapping, records)
    linked = exchange.known(mapping.name, gone)
    missing = [Record(key, {}) for key in gone if key in linked] if takes_deletes(mapping) else []
    if direct or exchange.pretend:
        found = _with_parents(exchange, mapping, found)
    if exchange.pretend:
        apply(exchange, mapping, found)
        return delete(exchange, mapping, confirmed(exchange, mapping, [record.key for record in missing]))

    def work() -> None:
        _waits_no_more(exchange, mapping, [*same, *gone])
        if direct:
            apply(exchange, mapping, found)
        else:
            hold(exchange, mapping, storable_only(exchange, mapping, found))
        hold(exchange, mapping, missing, gone=True)
        exchange.move(at)

    return exchange.commit(work)


def news(exchange: Exchange, mapping: Mapping, records: list[Record]) -> tuple[list[Record], list[str]]:
    """The records without those that a person is looking at or that we made; the keys of those that are as last read.

    A record that a run of ours made and died before it could link it is left to the push, which finishes that.
    """
    latest = {record.key: record for record in _wanted(mapping, records)}
    known = exchange.known(mapping.name, latest)
    aside = exchange.put_aside(mapping, latest.values()) if latest else set()
    unfinished = _unfinished(exchange, mapping, [record for key, record in latest.items() if key not in known])
    same = [key for key, record in latest.items() if key in known and known[key].seen == digest_of(mapping, record)]
    exchange.count(mapping, "unchanged", len(same))
    passed = {*same, *aside, *unfinished}
    return [record for key, record in latest.items() if key not in passed], same


def _wanted(mapping: Mapping, records: Collection[Record]) -> list[Record]:
    return [record for record in records if mapping.only_if is None or mapping.only_if(record.values)]


def _unfinished(exchange: Exchange, mapping: Mapping, records: Collection[Record]) -> set[str]:
    """The keys of records that we made for a row of ours and did not link, though it may be deleted by now.

    A copy that they made of one is theirs; one whose row the history does not know is of a database that was restored.
    """
    made = {record.key: row for record in records if (row := row_marked(record))}
    if not made or not mapping.both:
        return set()
    past = History.objects.filter(entity=mapping.entity.name, row_id__in=made.values())
    rows = {str(row) for row in past.values_list("row_id", flat=True)}
    rows |= {str(pk) for pk in mapping.model._default_manager.filter(pk__in=made.values()).values_list("pk", flat=True)}
    rows -= {str(link.row) for link in exchange.links_of(mapping.name, rows)}
    return {key for key, row in made.items() if row in rows}


def hold(exchange: Exchange, mapping: Mapping, records: Collection[Record], gone: bool = False) -> None:
    if not records:
        return
    kept = [
        {"key": record.key, "values": None if gone else record.values, "marker": record.marker, "gone": gone}
        for record in records
    ]
    with cursor() as bound:
        at = {"system": exchange.system, "mapping": mapping.name, "records": as_json(kept)}
        bound.execute(block(SQL, "wait"), at)


def _waits_no_more(exchange: Exchange, mapping: Mapping, keys: list[str]) -> None:
    if keys:
        with cursor() as bound:
            at = {"system": exchange.system, "mapping": mapping.name, "keys": keys}
            bound.execute(block(SQL, "waits_no_more"), at)


def _retry(exchange: Exchange, mapping: Mapping, due: list[DeadLetter]) -> None:
    """Try dead letters again: as they are over there now, or as they were read or mended."""
    for start in range(0, len(due), RETRIES_PER_CALL):
        letters = {letter.key: letter for letter in due[start : start + RETRIES_PER_CALL]}
        read = {key: Record(key, letter.payload) for key, letter in letters.items() if letter.payload}
        if exchange.connector.capabilities.fetches:
            found = exchange.connector.fetch(mapping.source, mapping.places, letters.keys())
            read = {record.key: record for record in _wanted(mapping, found)}
        _retry_gone(exchange, mapping, letters.keys() - read.keys())
        mended = {
            key for key, record in read.items() if letters[key].mended is not None and is_as_read(letters[key], record)
        }
        take_now(exchange, mapping, [record for key, record in read.items() if key not in mended])
        if mended:
            take_now(exchange, mapping, [Record(key, letters[key].mended or {}) for key in sorted(mended)])
            _as_read(exchange, mapping, [read[key] for key in mended])


def _as_read(exchange: Exchange, mapping: Mapping, records: Collection[Record]) -> None:
    """What was mended is known again by what they have, or it would be news with the next run."""
    if exchange.pretend:
        return
    with exchange.writing():
        for record in records:
            links = Link.objects.filter(system=exchange.system, mapping=mapping.name, key=record.key)
            links.update(seen=digest_of(mapping, Record(record.key, storable(dict(record.values)))))


def _retry_gone(exchange: Exchange, mapping: Mapping, keys: Collection[str]) -> None:
    """Letters of what is gone over there: what could not be deleted here is tried again, the rest is history."""
    linked = exchange.known(mapping.name, list(keys)) if takes_deletes(mapping) else {}
    exchange.settle(mapping, PULL, keys - linked.keys())
    if exchange.pretend:
        return delete(exchange, mapping, list(linked))
    if linked:
        with exchange.writing():
            delete(exchange, mapping, list(linked))
    return None


def take_now(
    exchange: Exchange, mapping: Mapping, records: list[Record], then: Callable[[], None] = lambda: None
) -> None:
    """Apply some records at once, outside of the plan: a dead letter, what another one refers to, a webhook's.

    `then` belongs to the same transaction.
    """
    records = _with_parents(exchange, mapping, records)
    if exchange.pretend:
        return apply(exchange, mapping, records)

    def work() -> None:
        apply(exchange, mapping, records)
        Waiting.objects.filter(
            system=exchange.system, mapping=mapping.name, key__in=[record.key for record in records]
        ).delete()
        then()

    return exchange.commit(work)


def _with_parents(exchange: Exchange, mapping: Mapping, records: list[Record]) -> list[Record]:
    """The records, after what they refer to and we do not have yet was fetched: a parent may come after its child."""
    if not (mapping.refers and exchange.connector.capabilities.fetches):
        return records
    records = list(records)
    asked: set[tuple[str, str]] = set()
    while True:
        wanted = {at for record in records for at in references_in(mapping, record)} - asked
        wanted -= {(mapping.name, record.key) for record in records}
        missing = defaultdict(set)
        for name, key in wanted - exchange.rows_of(wanted).keys():
            missing[name].add(key)
        if not missing:
            return records
        asked |= wanted
        for name, keys in missing.items():
            parent = exchange.mappings[name]
            found = _wanted(parent, exchange.connector.fetch(parent.source, parent.places, keys))
            if parent is mapping:
                records += found
            else:
                take_now(exchange, parent, found)


# --- Deletions --------------------------------------------------------------------------------------------------------


def takes_deletes(mapping: Mapping) -> bool:
    return mapping.deletes in ("pull", "both")


def _sweep(exchange: Exchange, mapping: Mapping, at: Cursor) -> None:
    """Where deletions show by missing keys alone: compare them all, now and then, or each time for a snapshot."""
    if exchange.connector.capabilities.deletes != "keys" or not takes_deletes(mapping):
        return
    hours = 0.0 if mapping.mode == "snapshot" else mapping.sweep_hours
    if at.swept_at and (timezone.now() - at.swept_at).total_seconds() < hours * 3600:
        return
    _keys_begin(exchange, mapping)
    batch: list[str] = []
    for count, key in enumerate(exchange.connector.keys(mapping.source), 1):
        batch.append(key)
        if len(batch) == PAGE_RECORDS:
            _keys_add(exchange, mapping, batch)
            batch = []
            exchange.tell(f"keys of {mapping.name} in {exchange.system}", count)
    _keys_add(exchange, mapping, batch)
    _hold_missing(exchange, mapping, at)


def _hold_missing(exchange: Exchange, mapping: Mapping, at: Cursor) -> None:
    """What is linked and was not among the keys is gone: it waits to be confirmed and deleted."""
    after = ""
    if not exchange.pretend:
        with exchange.writing(), cursor() as bound:
            bound.execute(block(SQL, "gone_no_more"), {"system": exchange.system, "mapping": mapping.name})
    while page := _missing(exchange, mapping, after):
        after = page[-1]
        if exchange.pretend:
            delete(exchange, mapping, confirmed(exchange, mapping, page))
        else:
            with exchange.writing():
                hold(exchange, mapping, [Record(key, {}) for key in page], gone=True)
    if not exchange.pretend:
        at.swept_at = timezone.now()
        with exchange.writing():
            exchange.move(at)


def _keys_begin(exchange: Exchange, mapping: Mapping) -> None:
    with _scratch(exchange), cursor() as bound:
        bound.execute(block(SQL, "keys_begin"), {"system": exchange.system, "mapping": mapping.name})


def _keys_add(exchange: Exchange, mapping: Mapping, keys: list[str]) -> None:
    with _scratch(exchange), cursor() as bound:
        bound.execute(block(SQL, "keys_add"), {"system": exchange.system, "mapping": mapping.name, "keys": texts(keys)})


def _scratch(exchange: Exchange) -> AbstractContextManager[None]:
    """The keys of a pass are one run's own: one that is superseded must not mix up those of its successor."""
    return nullcontext() if exchange.pretend else exchange.writing()


def _missing(exchange: Exchange, mapping: Mapping, after: str) -> list[str]:
    with cursor() as bound:
        parameters = {"system": exchange.system, "mapping": mapping.name, "after": after, "limit": PAGE_RECORDS}
        return [key for (key,) in bound.execute(block(SQL, "keys_missing"), parameters)]


# --- The plan ---------------------------------------------------------------------------------------------------------


def _apply_waiting(exchange: Exchange, mapping: Mapping) -> None:
    """Carry out what waits, a page in one transaction, in the order in which it was read; deletions at the end."""
    failed = failures(exchange, mapping)
    for gone in (False, True):
        done, last = 0, 0
        while page := waiting(exchange, mapping, last, gone):
            last = page[-1].pk
            _apply_page(exchange, mapping, page, gone)
            done += len(page)
            exchange.tell(f"{mapping.name}: {'deleting' if gone else 'writing'}", done)
            guard_failures(exchange, mapping, failed, done)


def _apply_page(exchange: Exchange, mapping: Mapping, page: Collection[Waiting], gone: bool) -> None:
    keys = confirmed(exchange, mapping, [each.key for each in page]) if gone else []
    records = [Record(each.key, each.values or {}, marker=each.marker) for each in page if not gone]
    records = _with_parents(exchange, mapping, records)

    def work() -> None:
        apply(exchange, mapping, records)
        delete(exchange, mapping, keys)
        if not exchange.pretend:
            Waiting.objects.filter(pk__in=[each.pk for each in page]).delete()
            Run.objects.filter(pk=exchange.run.pk).update(counts=exchange.counts)

    if exchange.pretend:
        work()
    else:
        exchange.commit(work)
