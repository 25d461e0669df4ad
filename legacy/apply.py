"""Records become rows: compared with what was agreed, merged with what we changed, written as a page.

A page is written as a whole. Where the database or a validator refuses it, the records that are to blame are found and
become dead letters; they hold nothing else up.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from typing import Any, NamedTuple

from django.db import DataError, IntegrityError, transaction
from django.db.models import ProtectedError, RestrictedError

from legacy.connector import Record
from legacy.contact import first_contact, new_ids
from legacy.disputes import Stakes, keep_disputes, outranked
from legacy.document import Document, Unmappable, changed, seen
from legacy.exchange import Agreement, Change, Exchange, Kind, Links, What
from legacy.exchange import Known as Linked
from legacy.mapping import Mapping as Declared
from legacy.merging import EMPTY, contested, differs, merged
from legacy.models import Cursor, Waiting
from legacy.rows import Invalid, Plan, gone, read, write
from legacy.stored import storable

PULL = Cursor.Direction.PULL.value
PUSH = Cursor.Direction.PUSH.value
PAGE_RECORDS = 500  # applied in one transaction
UNSTORABLE = "the character NUL, half a character, or a number that is none, which PostgreSQL cannot store"
References = dict[tuple[str, str], str]  # (mapping, their key) → our row


class Item(NamedTuple):
    """A record on its way: as our document, and the row that it is or will be."""

    record: Record
    document: Document
    row: str
    known: bool  # whether the row may be there already


@dataclass
class Planned(Stakes):
    """What some records come to."""

    left: list[Item] = field(default_factory=list)  # deleted here, and it stays so


def apply(exchange: Exchange, mapping: Declared, records: Sequence[Record], counted: bool = True) -> None:
    """Write what is new in the records, within the caller's transaction.

    `counted`: whether it is part of what the run took over, and not the other end of something that it sent.
    """
    latest = storable_only(exchange, mapping, {record.key: record for record in records}.values())
    linked = exchange.known(mapping.name, [record.key for record in latest])
    items = _items(exchange, mapping, latest, linked)
    _apply(exchange, mapping, items, linked, counted)


def _items(exchange: Exchange, mapping: Declared, records: list[Record], linked: Mapping[str, Linked]) -> list[Item]:
    """The records as documents of our rows. What is unclear, or cannot be mapped, is put aside."""
    fresh = [record for record in records if record.key not in linked]
    rows = {record.key: id for record, id in zip(fresh, new_ids(len(fresh)), strict=True)}
    matched, unclear = first_contact(exchange, mapping, fresh)
    rows |= matched
    rows |= {key: known.row for key, known in linked.items()}
    known = _references(exchange, mapping, records, rows)

    def refer(name: str, key: str) -> str:
        if (name, key) in known:
            return known[name, key]
        raise Unmappable(f"the {name} {key} that it refers to is not among those that are taken over")

    items = []
    for record in records:
        if (candidates := unclear.get(record.key)) is not None:
            told = f"It may be {'this row' if len(candidates) == 1 else f'one of {len(candidates)} rows'} of ours."
            if len(candidates) == 0:
                told = "It has the natural key of a row of ours that another record of theirs is linked to."
            exchange.bury(mapping, PULL, record.key, told, record.values, Kind.UNCLEAR, candidates)
            continue
        try:
            document = mapping.ours(record.values, refer)
            items.append(Item(record, document, rows[record.key], record.key in matched or record.key in linked))
        except Unmappable as error:
            exchange.bury(mapping, PULL, record.key, error, record.values)
    return items


def _references(exchange: Exchange, mapping: Declared, records: list[Record], rows: Mapping[str, str]) -> References:
    """Our rows for the records, for what they refer to and what belongs to them; new ones get their id here."""
    wanted = {at for record in records for at in references_in(mapping, record)} if mapping.refers else set()
    known: References = exchange.rows_of(wanted) if wanted else {}
    known |= {(mapping.name, key): row for key, row in rows.items()}
    if part := mapping.rows:
        members = {(part.name, str(row["id"])) for record in records for row in mapping.members(record.values)}
        known |= dict(zip(members, new_ids(len(members)), strict=True)) | exchange.rows_of(members)
    return known


def references_in(mapping: Declared, record: Record) -> set[tuple[str, str]]:
    """The (mapping, their key) of everything that a record refers to."""
    lines = [(line, record.values) for line in mapping.referring]
    if part := mapping.rows:
        lines += [(line, row) for row in mapping.members(record.values) for line in part.referring]
    found = {
        (line.ref, next((v for place in line.places if (v := values.get(place)) not in (None, "")), None))
        for line, values in lines
    }
    return {(name, str(value)) for name, value in found if value is not None}


def _apply(
    exchange: Exchange, mapping: Declared, items: list[Item], linked: Mapping[str, Linked], counted: bool
) -> None:
    if not items:
        return None
    try:
        with transaction.atomic():
            planned = plan(exchange, mapping, items, linked)
            if exchange.pretend:
                return _pretend(exchange, mapping, items, planned)

            @cache
            def links() -> Links:
                return exchange.links(mapping.name, _agreements(mapping, items, planned), linked)

            write(mapping, [each for each in planned.plans if each.changes or not each.now], meanwhile=links)
            keep_disputes(exchange, mapping, planned)
            exchange.keep(links())
            _agree_on_members(exchange, mapping, items, planned)
    except Invalid as invalid:
        bad = [item for item in items if _is_to_blame(mapping, item, invalid)] or items
        for item in bad:
            exchange.bury(mapping, PULL, item.record.key, invalid, item.record.values)
        return _apply(exchange, mapping, [item for item in items if item not in bad], linked, counted)
    except (IntegrityError, DataError, ProtectedError, RestrictedError) as error:
        if len(items) == 1:
            return exchange.bury(mapping, PULL, items[0].record.key, error, items[0].record.values)
        middle = len(items) // 2
        _apply(exchange, mapping, items[:middle], linked, counted)
        return _apply(exchange, mapping, items[middle:], linked, counted)
    if counted:
        _count(exchange, mapping, len(items), planned.plans)
    return exchange.settle(mapping, PULL, [item.record.key for item in items])


def _is_to_blame(mapping: Declared, item: Item, invalid: Invalid) -> bool:
    members: Mapping[str, Any] = item.document.get(mapping.rows.place, {}) if mapping.rows else {}
    return item.row in invalid.errors or not invalid.errors.keys().isdisjoint(members)


def plan(exchange: Exchange, mapping: Declared, items: Sequence[Item], linked: Mapping[str, Linked]) -> Planned:
    """What is new in the records, with their rows locked, and what becomes of fields that both sides changed."""
    keys = [item.record.key for item in items if item.record.key in linked]
    planned = Planned(agreed=exchange.agreed(mapping.name, keys))
    theirs = {item.row: item.document for item in items}
    # A row that was just given its id is not there yet, and needs no look.
    there = [item.row for item in items if item.known]
    now = read(mapping, there, lock=not exchange.pretend) if there else {}
    base = {item.row: planned.agreed.get(item.record.key) for item in items}
    ranked = outranked(
        exchange,
        mapping,
        lambda: {row: contested(mapping, base[row] or {}, theirs[row], ours.document) for row, ours in now.items()},
    )
    for item in items:
        agreed, ours = base[item.row], now.get(item.row)
        key, document = item.record.key, item.document
        if agreed is not None and ours is None and not comes_back(mapping, agreed, document):
            planned.left.append(item)
        elif ours is None:
            whole = agreed | document if agreed else document
            own = whole.keys() <= mapping.pulled
            changes = whole if own else {name: value for name, value in whole.items() if name in mapping.pulled}
            kept = {} if agreed is None else _had(mapping, item.row, whole)
            planned.plans.append(Plan(key, item.row, whole, changes, None, kept))
        else:
            result = merged(mapping, agreed or {}, document, ours.document, ranked.get(item.row, ()))
            planned.plans.append(Plan(key, item.row, document, result.write, ours))
            if result.disputes:
                planned.disputes[item.row] = result.disputes
    return planned


def _had(mapping: Declared, row: str, document: Document) -> dict[str, Document]:
    """What a row that comes back, and what belonged to it, had besides what is mapped, by their ids."""
    part = mapping.rows
    return gone(mapping.entity, [row]) | (gone(part.entity, [*document.get(part.place, {})]) if part else {})


def plan_waiting(exchange: Exchange, mapping: Declared) -> tuple[int, int]:
    """How many rows the records that wait would change, and how many of them they would meet for the first time.

    By the page, and without writing anything. To fill what nobody gave a value when they first meet is no change.
    """
    changes, met, last = 0, 0, 0
    while page := waiting(exchange, mapping, last, gone=False):
        last = page[-1].pk
        linked = exchange.known(mapping.name, [each.key for each in page])
        records = [Record(each.key, each.values or {}, marker=each.marker) for each in page]
        matched, _ = first_contact(exchange, mapping, [each for each in records if each.key not in linked])
        rows = matched | {key: known.row for key, known in linked.items()}
        records = [each for each in records if each.key in rows]
        known = _references(exchange, mapping, records, rows)
        items = [Item(r, d, rows[r.key], True) for r in records if (d := _mapped(mapping, r, known)) is not None]
        with transaction.atomic():
            plans = plan(exchange, mapping, items, linked).plans
        met += sum(each.now is not None and each.key in matched for each in plans)
        changes += sum(bool(each.changes) if each.key in linked else _replaces(mapping, each) for each in plans)
    return changes, met


def _replaces(mapping: Declared, each: Plan) -> bool:
    """Whether a value that somebody gave the row is replaced by another one."""
    now = each.now.document if each.now else {}
    given = {name for name, value in now.items() if value not in EMPTY and value != mapping.defaults.get(name)}
    return not given.isdisjoint(each.changes)


def _mapped(mapping: Declared, record: Record, known: References) -> Document | None:
    with suppress(Unmappable):
        return mapping.ours(record.values, lambda name, key: known.get((name, key), ""))
    return None


def waiting(exchange: Exchange, mapping: Declared, after: int, gone: bool) -> list[Waiting]:
    """A page of what waits, in the order in which it was first read."""
    found = Waiting.objects.filter(system=exchange.system, mapping=mapping.name, gone=gone, pk__gt=after)
    return list(found.order_by("pk")[:PAGE_RECORDS])


def comes_back(mapping: Declared, agreed: Document, document: Document) -> bool:
    """Whether a row that was deleted here is made again: they have edited it since, and edits win over deletes."""
    edited = changed(agreed, document).keys() & mapping.pulled
    return mapping.deletes in ("push", "both") and bool(edited)


def _agreements(mapping: Declared, items: Sequence[Item], planned: Planned) -> list[Agreement]:
    """What is to be remembered: that both sides look like this now."""
    records = {item.record.key: item.record for item in items}
    forgotten = {name for line in mapping.fields if line.absent == "ignore" for name in mapping.wire_names(line)}
    agreements = []
    for each in planned.plans:
        if each.now is None and each.key not in planned.agreed and each.changes is each.document:
            agreements.append(Agreement(each.key, each.row, each.document, digest_of(mapping, records[each.key])))
            continue
        before, after = planned.agreed.get(each.key, {}), (each.now.document if each.now else {}) | each.changes
        agreed = {n: v for n, v in before.items() if n in each.document or n not in forgotten}
        # Of what only goes there: that nothing is here is no word of ours about what they had before we met.
        told = {n for n in each.document if n in before or n in mapping.pulled or after.get(n) not in EMPTY}
        agreed |= {name: each.document[name] for name in told}
        due = bool(differs(mapping, after, agreed))
        agreements.append(Agreement(each.key, each.row, agreed, digest_of(mapping, records[each.key]), due=due))
    agreements += [
        Agreement(item.record.key, item.row, planned.agreed[item.record.key], digest_of(mapping, item.record))
        for item in planned.left
    ]
    return agreements


def _agree_on_members(exchange: Exchange, mapping: Declared, items: Sequence[Item], planned: Planned) -> None:
    """The same of what belongs to the rows."""
    if part := mapping.rows:
        records = {item.record.key: item.record for item in items}
        members = [
            Agreement(str(row["id"]), member, {}, "", each.row)
            for each in planned.plans
            if part.place in each.document
            for row, member in zip(mapping.members(records[each.key].values), each.document[part.place], strict=True)
        ]
        parents = [each.row for each in planned.plans if part.place in each.document]
        exchange.unlink(part.name, parents, but=[each.key for each in members])
        exchange.link(part.name, members, exchange.known(part.name, [each.key for each in members]))


def digest_of(mapping: Declared, record: Record) -> str:
    """The digest by which a record is known again."""
    return seen(mapping.fingerprint, record.values)


def _pretend(exchange: Exchange, mapping: Declared, items: Sequence[Item], planned: Planned) -> None:
    for each in planned.plans:
        exchange.pretended[mapping.name, each.key] = each.row
        if each.changes:
            before = {name: each.now.document.get(name) for name in each.changes} if each.now else None
            what: What = "updated" if each.now else "created"
            exchange.show(Change(mapping.name, each.key, what, before=before, after=each.changes))
    _count(exchange, mapping, len(items), planned.plans)


def _count(exchange: Exchange, mapping: Declared, records: int, plans: Sequence[Plan]) -> None:
    for each in plans:
        what = "created" if not each.now else "updated" if each.changes else "unchanged"
        exchange.count(mapping, what)
        exchange.became(mapping.name, each.key, what)
    exchange.count(mapping, "unchanged", records - len(plans))


def confirmed(exchange: Exchange, mapping: Declared, keys: Collection[str]) -> list[str]:
    """Those of the keys whose record is gone indeed, as far as that can be asked. Not within a transaction."""
    if not keys or not exchange.connector.capabilities.fetches:
        return list(keys)
    there = {record.key for record in exchange.connector.fetch(mapping.source, mapping.places, keys)}
    return [key for key in keys if key not in there]


def delete(exchange: Exchange, mapping: Declared, keys: Collection[str]) -> None:
    """Delete the rows of records that are gone, within the caller's transaction.

    A row that was changed here since is not deleted: they get it back with the next push, as edits win over deletes.
    """
    if not keys:
        return None
    linked = exchange.known(mapping.name, list(keys))
    agreed = exchange.agreed(mapping.name, list(linked))
    rows = {known.row: key for key, known in linked.items()}
    now = read(mapping, list(rows), lock=not exchange.pretend)
    edited = {row for row, ours in now.items() if mapping.both and differs(mapping, ours.document, agreed[rows[row]])}
    if exchange.pretend:
        for row in now.keys() - edited:
            exchange.show(Change(mapping.name, rows[row], "deleted", before=now[row].document))
        return exchange.count(mapping, "deleted", len(now.keys() - edited))
    exchange.forget(mapping, edited | (rows.keys() - now.keys()))
    return _delete(exchange, mapping, {row: rows[row] for row in now.keys() - edited})


def _delete(exchange: Exchange, mapping: Declared, rows: Mapping[str, str]) -> None:
    """Delete rows, and halve them where something that refers to one of them keeps it."""
    if not rows:
        return
    try:
        with transaction.atomic():
            mapping.model._default_manager.filter(pk__in=list(rows)).delete()
            exchange.forget(mapping, list(rows))
    except (ProtectedError, RestrictedError, IntegrityError) as error:
        if len(rows) == 1:
            ((_, key),) = rows.items()
            kept = f"It was deleted there, and other rows here refer to it: {error.args[0]}"
            exchange.bury(mapping, PULL, key, kept, {})
            return
        names = sorted(rows)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            _delete(exchange, mapping, {row: rows[row] for row in half})
        return
    exchange.count(mapping, "deleted", len(rows))
    for key in rows.values():
        exchange.became(mapping.name, key, "deleted")
    exchange.settle(mapping, PULL, list(rows.values()))


def storable_only(exchange: Exchange, mapping: Declared, records: Collection[Record]) -> list[Record]:
    """The records without those that cannot be kept, which become dead letters with a mark in that place."""
    if _are_plain([value for record in records for value in record.values.values()]):
        return list(records)
    kept = []
    for record in records:
        values = storable(dict(record.values))
        if values == record.values:
            kept.append(record)
        else:
            exchange.bury(mapping, PULL, record.key, f"It holds {UNSTORABLE}.", values)
    return kept


def _are_plain(values: Sequence[Any]) -> bool:
    """Whether no record of a page needs a look, as nearly always: their texts are looked at together."""
    if not {list, dict}.isdisjoint(map(type, values)):
        return False
    text = "".join([value for value in values if type(value) is str])
    with suppress(UnicodeEncodeError):
        text.encode()
        return "\x00" not in text and all(isfinite(value) for value in values if type(value) is float)
    return False
