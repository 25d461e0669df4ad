"""Their changes become ours: read page by page, held until it is known that they are not too many, applied by the page.

A record that is as it was when it was last read is dropped by its digest. The rest waits in the database
(`legacy.models.Waiting`), committed with the cursor: a run that is killed loses nothing and reads nothing twice. Into
an empty table there is nothing to hold back, so a first load is written page by page as it is read.
"""

from collections import defaultdict
from collections.abc import Collection

from django.utils import timezone

from legacy.apply import NUL, PAGE_RECORDS, apply, delete, references_in, storable, waiting
from legacy.connector import Record
from legacy.document import seen
from legacy.exchange import SQL, Exchange, as_json
from legacy.mapping import Mapping
from legacy.models import Cursor, Waiting
from legacy.safety import guard, guard_failures
from sync.sql import block, cursor, texts

PULL = Cursor.Direction.PULL.value
RETRIES_PER_CALL = 100  # dead letters fetched again at once


def pull(exchange: Exchange, mapping: Mapping) -> None:
    """Take over every record that changed since the last run. What has failed before is tried again first.

    Raises Stopped before anything is written where that would be too much.
    """
    at = exchange.cursor(mapping, PULL)
    if at.fingerprint != mapping.fingerprint or (mapping.mode == "snapshot" and not at.midway):
        at.state, at.midway, at.fingerprint = {}, False, mapping.fingerprint
    exchange.run.cursors.setdefault(mapping.name, at.state)
    _retry(exchange, mapping)
    _read(exchange, mapping, at)
    _sweep(exchange, mapping, at)
    guard(exchange, mapping)
    _apply_waiting(exchange, mapping)


def _read(exchange: Exchange, mapping: Mapping, at: Cursor) -> None:
    """One pass: what is news waits, or is written at once where there is nothing yet."""
    direct = not at.state and not exchange.pretend and not mapping.model._default_manager.exists()
    noting = exchange.connector.capabilities.deletes == "pass" and _takes_deletes(mapping)
    if not at.midway:
        at.whole = not at.state
        if noting:
            _keys_begin(exchange, mapping)
    count, more = 0, True
    while more:
        page = exchange.connector.changes(mapping.source, mapping.places, at.state)
        at.state, at.midway = page.cursor, page.more
        more = page.more
        if noting:
            _keys_add(exchange, mapping, [record.key for record in page.records])
        _take_page(exchange, mapping, page.records, page.gone, at, direct)
        count += len(page.records)
        exchange.tell(f"{mapping.name} from {exchange.system}", count)
    if noting and (at.whole if page.whole is None else page.whole):
        _hold_missing(exchange, mapping, at)


def _take_page(
    exchange: Exchange, mapping: Mapping, records: list[Record], gone: list[str], at: Cursor, direct: bool
) -> None:
    if exchange.pretend:
        news = _with_parents(exchange, mapping, _news(exchange, mapping, records))
        apply(exchange, mapping, news)
        return delete(exchange, mapping, _linked(exchange, mapping, gone))
    news = _news(exchange, mapping, records)
    if direct:
        news = _with_parents(exchange, mapping, news)
    with exchange.writing():
        if direct:
            apply(exchange, mapping, news)
        else:
            _wait(exchange, mapping, news)
        if _takes_deletes(mapping):
            _wait(exchange, mapping, [Record(key, {}) for key in _linked(exchange, mapping, gone)], gone=True)
        exchange.move(at)
    return None


def _news(exchange: Exchange, mapping: Mapping, records: list[Record]) -> list[Record]:
    """The records without those that are as they were when last read, that a person is looking at, or that we made.

    A record that a run of ours made and died before it could link it is left to the push, which finishes that.
    """
    latest = {record.key: record for record in records}
    known = exchange.known(mapping.name, latest)
    aside = exchange.put_aside(mapping, PULL, latest) if latest else set()
    made = {r.key: r.marker.removeprefix("sync:") for r in latest.values() if r.marker and r.key not in known}
    ours = set(mapping.model._default_manager.filter(pk__in=made.values()).values_list("pk", flat=True)) if made else ()
    unfinished = {key for key, row in made.items() if row in {str(pk) for pk in ours}}
    found, same = [], 0
    for key, record in latest.items():
        if mapping.only_if and not mapping.only_if(record.values):
            continue
        if key in known and known[key].seen == digest_of(mapping, record):
            same += 1
        elif key not in aside and key not in unfinished:
            found.append(record)
    exchange.count(mapping, "unchanged", same)
    return found


def digest_of(mapping: Mapping, record: Record) -> str:
    """The digest by which a record is known again; nothing for one that cannot be kept."""
    try:
        return seen(mapping.fingerprint, record.values)
    except UnicodeEncodeError:
        return ""


def _wait(exchange: Exchange, mapping: Mapping, records: Collection[Record], gone: bool = False) -> None:
    if not records:
        return
    kept = []
    for record in records:
        text = as_json(record.values)
        if "\\u0000" in text or not digest_of(mapping, record):
            exchange.bury(mapping, PULL, record.key, f"It holds {NUL}.", storable(record.values))
        else:
            kept.append(
                {"key": record.key, "values": None if gone else record.values, "marker": record.marker, "gone": gone}
            )
    with cursor() as bound:
        at = {"system": exchange.system, "mapping": mapping.name, "records": as_json(kept)}
        bound.execute(block(SQL, "wait"), at)


def _retry(exchange: Exchange, mapping: Mapping) -> None:
    """Try the dead letters again whose time has come: as they are over there now, or as they were read."""
    due = exchange.due(mapping, PULL)
    for start in range(0, len(due), RETRIES_PER_CALL):
        letters = due[start : start + RETRIES_PER_CALL]
        keys = {letter.key for letter in letters}
        if exchange.connector.capabilities.fetches:
            found = exchange.connector.fetch(mapping.source, mapping.places, keys)
            exchange.settle(mapping, PULL, keys - {record.key for record in found})  # gone over there
        else:
            found = [Record(letter.key, letter.payload) for letter in letters]
        _take_now(exchange, mapping, found)


def _take_now(exchange: Exchange, mapping: Mapping, records: list[Record]) -> None:
    """Apply some records at once, outside of the plan: a dead letter, what another one refers to, a webhook's."""
    records = _with_parents(exchange, mapping, records)
    if exchange.pretend:
        return apply(exchange, mapping, records)
    with exchange.writing():
        apply(exchange, mapping, records)
        Waiting.objects.filter(
            system=exchange.system, mapping=mapping.name, key__in=[record.key for record in records]
        ).delete()
    return None


def _with_parents(exchange: Exchange, mapping: Mapping, records: list[Record]) -> list[Record]:
    """The records, after what they refer to and we do not have yet was fetched: a parent may come after its child."""
    if not exchange.connector.capabilities.fetches:
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
            found = exchange.connector.fetch(parent.source, parent.places, keys)
            if parent is mapping:
                records += found
            else:
                _take_now(exchange, parent, found)


# --- Deletions --------------------------------------------------------------------------------------------------------


def _takes_deletes(mapping: Mapping) -> bool:
    return mapping.deletes in ("pull", "both")


def _sweep(exchange: Exchange, mapping: Mapping, at: Cursor) -> None:
    """Where deletions show by missing keys alone: compare them all, now and then, or each time for a snapshot."""
    if exchange.connector.capabilities.deletes != "keys" or not _takes_deletes(mapping):
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
    while page := _missing(exchange, mapping, after):
        after = page[-1]
        if exchange.pretend:
            delete(exchange, mapping, page)
        else:
            with exchange.writing():
                _wait(exchange, mapping, [Record(key, {}) for key in page], gone=True)
    if not exchange.pretend:
        at.swept_at = timezone.now()
        with exchange.writing():
            exchange.move(at)


def _keys_begin(exchange: Exchange, mapping: Mapping) -> None:
    with cursor() as bound:
        bound.execute(block(SQL, "keys_begin"), {"system": exchange.system, "mapping": mapping.name})


def _keys_add(exchange: Exchange, mapping: Mapping, keys: list[str]) -> None:
    with cursor() as bound:
        bound.execute(block(SQL, "keys_add"), {"system": exchange.system, "mapping": mapping.name, "keys": texts(keys)})


def _missing(exchange: Exchange, mapping: Mapping, after: str) -> list[str]:
    with cursor() as bound:
        parameters = {"system": exchange.system, "mapping": mapping.name, "after": after, "limit": PAGE_RECORDS}
        return [key for (key,) in bound.execute(block(SQL, "keys_missing"), parameters)]


def _linked(exchange: Exchange, mapping: Mapping, keys: Collection[str]) -> list[str]:
    return list(exchange.known(mapping.name, keys)) if keys else []


# --- The plan ---------------------------------------------------------------------------------------------------------


def _apply_waiting(exchange: Exchange, mapping: Mapping) -> None:
    """Carry out what waits, a page in one transaction, in the order in which it was read; deletions at the end."""
    for gone in (False, True):
        done, last = 0, 0
        while page := waiting(exchange, mapping, last, gone):
            last = page[-1].pk
            records = [Record(each.key, each.values or {}, marker=each.marker) for each in page]
            if not gone:
                records = _with_parents(exchange, mapping, records)
            with exchange.writing():
                if gone:
                    delete(exchange, mapping, [record.key for record in records])
                else:
                    apply(exchange, mapping, records)
                Waiting.objects.filter(pk__in=[each.pk for each in page]).delete()
                exchange.run.save(update_fields=["cursors"])
            done += len(page)
            exchange.tell(f"{mapping.name}: {'deleting' if gone else 'writing'}", done)
            guard_failures(exchange, mapping, done)
