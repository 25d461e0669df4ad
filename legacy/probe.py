"""Measures what a system can do against what its connector declares: `manage.py legacy_probe`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from legacy.connector import MARKER, Changed, Connector, Record, Refused, Source
from legacy.mapping import Mapping

PAGES = 3  # read of each source at most
KEYS_MAX = 10_000  # looked through at most
PASSES = 3  # until one reads only what has changed: the second may read all again, to be sure
STAMPS = 500  # looked at
LONG = timedelta(hours=1)  # more than what is read again before the newest stamp
PRECISIONS = (1e-6, 1e-3, 1.0, 60.0, 86_400.0)  # seconds, the finest first
SKEW_SECONDS_MAX = 5.0


@runtime_checkable
class Stamped(Protocol):
    """What a connector may offer besides, so that its stamps and its clock can be measured."""

    def sample_stamps(self, source: Source, limit: int) -> list[datetime | None]:
        """When the newest records changed, by the first of the declared fields."""

    def their_clock(self) -> datetime | None:
        """What time it is over there."""


@dataclass(frozen=True)
class Finding:
    """One thing that was declared and measured. `right` None: it could not be told."""

    what: str
    declared: str
    measured: str
    right: bool | None


def probe(connector: Connector, mapping: Mapping, write: bool = False) -> Iterator[Finding]:
    """Compare one mapping's source with the declaration; `write`: also make, change and delete a record of its own.

    Raises Unreachable and Misconfigured.
    """
    declared = connector.capabilities
    records, pages, milliseconds = _read(connector, mapping)
    yield Finding("records", declared.paging, f"{len(records)} in {pages} pages of {milliseconds:.0f} ms", None)
    yield _fields(mapping, records)
    if isinstance(connector, Stamped):
        yield from _stamps(connector, mapping)
        if declared.stamp and pages < PAGES:
            yield _since(connector, mapping, len(records))
    if records and declared.fetches:
        yield _fetched(connector, mapping, records)
    if mapping.both and declared.idempotency == "marker":
        yield _unknown(connector, mapping)
    if declared.deletes == "keys":
        yield _keys(connector, mapping, records)
    if write and records:
        yield from _writes(connector, mapping, records[0])


def _read(connector: Connector, mapping: Mapping) -> tuple[list[Record], int, float]:
    records: list[Record] = []
    cursor: dict[str, Any] = {}
    started, pages = time.perf_counter(), 0
    for pages in range(1, PAGES + 1):  # noqa: B007 - counted
        page = connector.changes(mapping.source, mapping.places, cursor)
        records += page.records
        cursor = page.cursor
        if not page.more:
            break
    return records, pages, (time.perf_counter() - started) * 1000 / pages


def _fields(mapping: Mapping, records: Sequence[Record]) -> Finding:
    part = f"{mapping.rows.place}." if mapping.rows else "\0"
    places = [place for place in mapping.places if not place.startswith(part)]
    empty = [p for p in places if records and all(r.values.get(p) in (None, "") for r in records)]
    told = f"never filled: {', '.join(empty)}" if empty else f"{len(places)} places, each filled in some record"
    return Finding("fields", ", ".join(places[:3]) + " …", told, None if empty else True)


def _stamps(connector: Stamped, mapping: Mapping) -> Iterator[Finding]:
    declared: Any = connector.capabilities  # type: ignore[attr-defined]
    found = connector.sample_stamps(mapping.source, STAMPS)
    known = [stamp for stamp in found if stamp is not None]
    if known:
        finest = next((p for p in reversed(PRECISIONS) if all(_fits(stamp, p) for stamp in known)), PRECISIONS[0])
        told = f"{finest:g} s in {len(known)} records"
        right = finest <= declared.precision_seconds if declared.precision_seconds else None
        yield Finding("precision", f"{declared.precision_seconds:g} s", told, right if len(known) > 1 else None)
        equal = len(known) - len(set(known))
        yield Finding("ties", declared.ties or "none", f"{equal} of {len(known)} share a stamp", None)
    if empty := len(found) - len(known):
        yield Finding("stamp", declared.stamp, f"{empty} of {len(found)} have none: name a second field", False)
    if now := connector.their_clock():
        skew = abs(now - datetime.now(UTC))
        told = f"{skew.total_seconds():.1f} s beside ours"
        yield Finding("clock", declared.clock, told, skew < timedelta(seconds=SKEW_SECONDS_MAX) or None)


def _since(connector: Stamped, mapping: Mapping, everything: int) -> Finding:
    """Whether a later pass reads less than the first. An API that does not know a parameter often says nothing."""
    reads: Any = connector
    cursor: dict[str, Any] = {}
    count = 0
    for _ in range(PASSES):
        count, more = 0, True
        while more:
            page = reads.changes(mapping.source, mapping.places, cursor)
            cursor, more = page.cursor, page.more
            count += len(page.records)
    known = [stamp for stamp in connector.sample_stamps(mapping.source, STAMPS) if stamp]
    telling = bool(known) and max(known) - min(known) > LONG
    told = f"{count} of {everything} records again"
    return Finding("changed since", "less than all", told, count < everything if telling else None)


def _fits(stamp: datetime, precision: float) -> bool:
    return round(stamp.timestamp() * 1e6) % round(precision * 1e6) == 0


def _fetched(connector: Connector, mapping: Mapping, records: Sequence[Record]) -> Finding:
    """Whether a record looks the same alone as among others: a list may show less, or without its context."""
    asked = {record.key: record for record in records[-5:]}
    found = {record.key: record for record in connector.fetch(mapping.source, mapping.places, list(asked))}
    differ = {
        place
        for key, record in asked.items()
        for place in mapping.places
        if key in found and found[key].values.get(place) != record.values.get(place)
    }
    if missing := asked.keys() - found.keys():
        return Finding("one by key", "found", f"{len(missing)} of {len(asked)} not found: {min(missing)}", False)
    told = f"differs in {', '.join(sorted(differ))}" if differ else "as in the list"
    return Finding("one by key", "as in the list", told, not differ)


def _unknown(connector: Connector, mapping: Mapping) -> Finding:
    key = connector.find(mapping.source, f"{MARKER}{uuid4()}")
    return Finding("a marker that nobody has", "none", "none" if key is None else f"the record {key}", key is None)


def _keys(connector: Connector, mapping: Mapping, records: Sequence[Record]) -> Finding:
    keys = set(islice(connector.keys(mapping.source), KEYS_MAX))
    missing = [record.key for record in records if record.key not in keys]
    if len(keys) == KEYS_MAX:
        return Finding("all keys", "every record's", f"more than {KEYS_MAX:,}: not compared", None)
    hidden = len(keys) - len(records)
    if missing:
        return Finding("all keys", "every record's", f"{len(missing)} records are not among them: {missing[0]}", False)
    return Finding("all keys", "every record's", f"{len(keys)}" + (f", {hidden} not read yet" if hidden else ""), True)


def _writes(connector: Connector, mapping: Mapping, sample: Record) -> Iterator[Finding]:
    """Make a record like an existing one, change it behind our own back, and delete it."""
    declared = connector.capabilities
    values = {place: value for place, value in sample.values.items() if place in _sent(mapping)}
    marker = f"{MARKER}{uuid4()}"
    try:
        key = connector.create(mapping.source, marker, values)
    except Refused as error:
        yield Finding("create", "create" if "create" in declared.writes else "no", f"refused: {error}", None)
        return
    yield Finding("create", "create" if "create" in declared.writes else "no", f"the record {key}", True)
    if declared.idempotency == "marker":
        found = connector.find(mapping.source, marker)
        yield Finding("found by its marker", key, str(found), found == key)
    elif declared.idempotency == "key":
        again = connector.create(mapping.source, marker, values)
        yield Finding("the same create again", key, again, again == key)
    (record,) = connector.fetch(mapping.source, mapping.places, [key])
    yield _locking(connector, mapping, record)
    if "delete" in declared.writes:
        (record,) = connector.fetch(mapping.source, mapping.places, [key])
        connector.delete(mapping.source, record)
        left = connector.fetch(mapping.source, mapping.places, [key])
        yield Finding("delete", "gone", "still there" if left else "gone", not left)


def _sent(mapping: Mapping) -> set[str]:
    lines = [line for line in mapping.fields if line.only != "pull" and line.names]
    return {place for line in lines for place in line.places} - mapping.late_places


def _locking(connector: Connector, mapping: Mapping, record: Record) -> Finding:
    """Whether a write on what was read before another write is turned away."""
    texts = [p for p in _sent(mapping) if isinstance(record.values.get(p), str) and record.values[p]]
    if not texts:
        return Finding("locking", connector.capabilities.locking, "no text field to try it on", None)
    place = min(texts)
    write: Callable[[str], None] = lambda text: connector.update(  # noqa: E731 - twice the same write
        mapping.source, record, {**record.values, place: text}, {place}
    )
    write(f"{record.values[place]} 1")
    try:
        write(f"{record.values[place]} 2")
    except Changed:
        return Finding("locking", connector.capabilities.locking, "a second writer is turned away", True)
    wanted = connector.capabilities.locking == "none"
    return Finding("locking", connector.capabilities.locking, "a second writer overwrites the first", wanted)
