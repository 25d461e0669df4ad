"""Their changes become ours: page by page, each committed with its cursor."""

from collections import defaultdict
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, transaction

from legacy.connector import Record
from legacy.exchange import Exchange, described
from legacy.mapping import Document, Mapping, Unmappable, changed, digest
from legacy.models import Cursor
from legacy.rows import Ours, Plan, read, write
from sync.capture import authored

Known = dict[tuple[str, str], str]  # (mapping, their key) → our row
PULL = Cursor.Direction.PULL.value
RETRIES_PER_CALL = 100  # dead letters fetched again at once


def pull(exchange: Exchange, mapping: Mapping) -> None:
    """Take over every record that changed since the last run. What has failed before is tried again first."""
    cursor = exchange.cursor(mapping, PULL)
    again = exchange.due(mapping, PULL)
    for start in range(0, len(again), RETRIES_PER_CALL):
        keys = again[start : start + RETRIES_PER_CALL]
        found = exchange.connector.fetch(mapping.source, mapping.places, keys)
        exchange.settle(mapping, PULL, set(keys) - {record.key for record in found})  # gone over there
        take(exchange, mapping, found, cursor)
    seen, more = 0, True
    while more:
        page = exchange.connector.changes(mapping.source, mapping.places, cursor)
        cursor, more = page.cursor, page.more
        take(exchange, mapping, page.records, cursor)
        seen += len(page.records)
        exchange.tell(f"{mapping.name} from {exchange.system}", seen)


def take(exchange: Exchange, mapping: Mapping, records: list[Record], cursor: dict[str, object]) -> None:
    """Apply some records, and commit them together with the cursor."""
    records = _with_parents(exchange, mapping, _arrived(exchange, mapping, records))
    if exchange.pretend:
        return apply(exchange, mapping, records)
    with transaction.atomic(), authored(exchange.run.author):
        apply(exchange, mapping, records)
        exchange.move(mapping, PULL, cursor)
    return None


def apply(exchange: Exchange, mapping: Mapping, records: list[Record], counted: bool = True) -> None:
    """Write what is new in the records, within the caller's transaction.

    `counted`: whether it is part of what the run took over, and not the other end of something that it sent.
    A page is written as a whole. Where the database or a validator refuses it, it is halved until the record that is
    to blame stands alone; that one becomes a dead letter.
    """
    if not records:
        return None
    try:
        with transaction.atomic():
            known = _known(exchange, mapping, records)
            plans = _plans(exchange, mapping, records, known)
            if exchange.pretend:
                return _pretend(exchange, mapping, records, plans)
            write(mapping, [plan for plan in plans if plan.changes or not plan.now])
            _agree(exchange, mapping, plans, records, known)
    except (ValidationError, IntegrityError, DataError, Unmappable) as error:
        if len(records) == 1:
            return exchange.bury(mapping, PULL, records[0].key, error, records[0].values)
        middle = len(records) // 2
        apply(exchange, mapping, records[:middle], counted)
        return apply(exchange, mapping, records[middle:], counted)
    if counted:
        _count(exchange, mapping, records, plans)
    return exchange.settle(mapping, PULL, {record.key for record in records})


def _arrived(exchange: Exchange, mapping: Mapping, records: list[Record]) -> list[Record]:
    """The records without those that a run of ours made and died before it could link them: push finishes that."""
    made = {record.key: UUID(record.marker.removeprefix("sync:")) for record in records if record.marker}
    linked = {link.key for link in exchange.links(mapping.name, keys=made)}
    open_ = {key: row for key, row in made.items() if key not in linked}
    ours = set(mapping.model._default_manager.filter(pk__in=open_.values()).values_list("pk", flat=True))
    return [record for record in records if open_.get(record.key) not in ours]


def _with_parents(exchange: Exchange, mapping: Mapping, records: list[Record]) -> list[Record]:
    """The records, after what they refer to and we do not have yet was fetched: a parent may come after its child."""
    records = list(records)
    asked: set[tuple[str, str]] = set()
    while True:
        wanted = {at for record in records for at in mapping.references(record.values)} - asked
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
                take(exchange, parent, found, exchange.cursor(parent, PULL))


def _known(exchange: Exchange, mapping: Mapping, records: list[Record]) -> Known:
    """Our rows for the records, for what they refer to and what belongs to them; new ones get their id here."""
    keys = {(mapping.name, record.key) for record in records}
    references = {at for record in records for at in mapping.references(record.values)}
    known = exchange.rows_of(keys | references)
    known |= _first_contact(
        exchange, mapping, [record for record in records if (mapping.name, record.key) not in known]
    )
    if part := mapping.rows:
        members = {(part.name, str(row["id"])) for record in records for row in record.values[part.place]}
        known |= {at: str(uuid4()) for at in members} | exchange.rows_of(members)
    return known


def _plans(exchange: Exchange, mapping: Mapping, records: list[Record], known: Known) -> list[Plan]:
    """What is new in the records; those that say what was agreed before are left out. Raises Unmappable."""

    def refer(name: str, key: str) -> str:
        if (name, key) in known:
            return known[name, key]
        raise Unmappable(f"the {name} {key} that it refers to is not among those that are taken over")

    links = {link.key: link for link in exchange.links(mapping.name, keys=[record.key for record in records])}
    theirs = {record.key: mapping.ours(record.values, refer) for record in records}
    news = {
        key: document for key, document in theirs.items() if key not in links or links[key].digest != digest(document)
    }
    rows = {key: UUID(known[mapping.name, key]) for key in news}
    now = read(mapping, list(rows.values()), lock=not exchange.pretend)
    plans = []
    for key, document in news.items():
        link, ours = links.get(key), now.get(rows[key])
        if link and not ours:  # deleted on our side: it stays so, whatever they do with theirs
            continue
        plans.append(Plan(key, rows[key], document, _changes(link.agreed if link else {}, document, ours), ours))
    return plans


def _changes(agreed: Document, document: Document, ours: Ours | None) -> Document:
    """What they changed since we agreed, where it is not so on our side already. What only we changed stays."""
    return changed(ours.document if ours else {}, changed(agreed, document))


def _first_contact(exchange: Exchange, mapping: Mapping, records: list[Record]) -> Known:
    """Which row an unknown record is: ours with the same natural key where there is one, else a new one.

    A record that we made and whose row is gone (our database was restored) gets the id back that devices know it by.
    """
    rows = {(mapping.name, record.key): record.marker.removeprefix("sync:") or str(uuid4()) for record in records}
    if not (mapping.match and records):
        return rows
    values = {record.key: mapping.natural_key(record.values) for record in records}
    wanted = {value for value in values.values() if value not in (None, "")}
    same = dict(
        mapping.model._default_manager.filter(**{f"{mapping.match}__in": wanted}).values_list(mapping.match, "pk")
    )
    taken = {link.row for link in exchange.links(mapping.name, rows=list(same.values()))}
    free = {value: str(row) for value, row in same.items() if row not in taken}
    return rows | {(mapping.name, key): free[value] for key, value in values.items() if value in free}


def _agree(exchange: Exchange, mapping: Mapping, plans: list[Plan], records: list[Record], known: Known) -> None:
    """Remember that both sides look like this now."""
    exchange.link(mapping.name, [(plan.key, plan.row, plan.document, None) for plan in plans])
    if part := mapping.rows:
        planned = {plan.key: plan.row for plan in plans}
        members: list[tuple[str, UUID, Document, UUID | None]] = [
            (str(row["id"]), UUID(known[part.name, str(row["id"])]), {}, planned[record.key])
            for record in records
            if record.key in planned
            for row in record.values[part.place]
        ]
        exchange.unlink(part.name, planned.values(), but=[key for key, *_ in members])
        exchange.link(part.name, members)


def _pretend(exchange: Exchange, mapping: Mapping, records: list[Record], plans: list[Plan]) -> None:
    for plan in plans:
        exchange.pretended[mapping.name, plan.key] = str(plan.row)
        if plan.changes:
            exchange.show(
                described(f"{mapping.name} {plan.key}", plan.changes, plan.now.document if plan.now else None)
            )
    _count(exchange, mapping, records, plans)


def _count(exchange: Exchange, mapping: Mapping, records: list[Record], plans: list[Plan]) -> None:
    for plan in plans:
        exchange.count(mapping, "created" if not plan.now else "updated" if plan.changes else "unchanged")
    exchange.count(mapping, "unchanged", len(records) - len(plans))
