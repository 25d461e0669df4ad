"""First contact: which of our rows an unknown record is, where both sides had data before they were ever linked."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import models

from legacy.connector import MARKER, Record, marker_in
from legacy.document import Unmappable
from legacy.exchange import Exchange
from legacy.mapping import Mapping as Declared
from legacy.mapping import Same, attname
from legacy.models import DeadLetter

CANDIDATES_MAX = 20  # that a person is shown


class _Folded(models.Func):
    """A text without case and space around: `legacy.document.natural` in SQL."""

    template = r"regexp_replace(lower(normalize(%(expressions)s)), '^\s+|\s+$', '', 'g')"
    output_field = models.TextField()


class _Letters(models.Func):
    """The same: its letters and digits."""

    template = "regexp_replace(lower(normalize(%(expressions)s)), '[^[:alnum:]]+', '', 'g')"
    output_field = models.TextField()


_IN_SQL: dict[str, Any] = {"exact": models.F, "folded": _Folded, "letters": _Letters}


def first_contact(
    exchange: Exchange, mapping: Declared, records: Sequence[Record]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The row of each record that is surely one of ours, by key; and of the unclear ones the rows that each may be.

    What is in neither is new. A record that we made and whose row is gone (our database was restored) gets the id back
    that devices know it by.
    """
    rows = _made_before(exchange, mapping, records)
    unclear: dict[str, list[str]] = {}
    told = _told(exchange, mapping, records)
    waiting = {record.key: record for record in records if record.key not in told}
    for same in mapping.matches if waiting else ():
        keys = _keys(mapping, same, waiting.values())
        free, taken = _having(exchange, mapping, same, set(keys.values()))
        twice = Counter(keys.values())
        for key, value in keys.items():
            candidates = free.get(value, [])
            if len(candidates) == 1 and twice[value] == 1 and same.sure and value not in taken:
                rows[key] = candidates[0]
            elif candidates or (same.sure and value in taken):
                unclear[key] = candidates[:CANDIDATES_MAX]
            else:
                continue
            waiting.pop(key)
    return rows | {key: row for key, row in told.items() if row}, unclear


def new_ids(count: int) -> list[str]:
    """Ids of rows made together (UUID version 7): they begin with the time, so they stay together in an index."""
    head = f"{time.time_ns() // 1_000_000:012x}"
    tails = (os.urandom(10).hex() for _ in range(count))
    return [f"{head[:8]}-{head[8:]}-7{t[:3]}-{'89ab'[int(t[3], 16) & 3]}{t[4:7]}-{t[7:19]}" for t in tails]


def row_marked(record: Record) -> str:
    """The row of ours for which we made the record; empty where its marker is none of ours."""
    return marker_in(record.marker).removeprefix(MARKER)


def _made_before(exchange: Exchange, mapping: Declared, records: Sequence[Record]) -> dict[str, str]:
    """The row that each record was made for, by key. Where they have copied a record, the copy is a new one."""
    marked = {row: record.key for record in reversed(records) if (row := row_marked(record))}
    for link in exchange.links_of(mapping.name, marked) if marked else ():
        del marked[str(link.row)]
    return {key: row for row, key in marked.items()}


def _told(exchange: Exchange, mapping: Declared, records: Sequence[Record]) -> dict[str, str]:
    """What a person said of records that were unclear: the row, or nothing for a new one."""
    if not mapping.matches:
        return {}
    letters = DeadLetter.objects.filter(
        system=exchange.system,
        mapping=mapping.name,
        direction="pull",
        key__in=[r.key for r in records],
        said__isnull=False,
    )
    return {letter.key: letter.said or "" for letter in letters}


def _keys(mapping: Declared, same: Same, records: Any) -> dict[str, str]:
    """The natural key of each record that has one."""
    read = mapping.readers[attname(mapping.model, same.field)]
    found = {}
    for record in records:
        try:
            value = read(record.values, _no_reference)
        except Unmappable:
            continue
        if isinstance(value, str | int) and (key := same.key(value)):
            found[record.key] = key
    return found


def _having(
    exchange: Exchange, mapping: Declared, same: Same, values: set[str]
) -> tuple[Mapping[str, list[str]], set[str]]:
    """Our rows with one of these natural keys that are linked to nothing in this system yet, and the keys of others."""
    name = attname(mapping.model, same.field)
    found = mapping.model._default_manager.annotate(natural_key=_IN_SQL[same.by](name))
    pairs = [
        (str(row), same.key(value))
        for row, value in found.filter(natural_key__in=values).order_by("pk").values_list("pk", "natural_key")
    ]
    linked = {str(link.row) for link in exchange.links_of(mapping.name, [row for row, _ in pairs])}
    free = defaultdict(list)
    for row, value in pairs:
        if row not in linked:
            free[value].append(row)
    return free, {value for row, value in pairs if row in linked}


def _no_reference(mapping: str, key: str) -> str:
    raise Unmappable(f"a natural key cannot be a reference (to the {mapping} {key})")
