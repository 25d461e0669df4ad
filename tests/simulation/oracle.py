"""What must be true, asked of the entities' own tables and the devices' files, never of the feed."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connection

from tests.simulation.device import Device
from tests.simulation.sight import HIDDEN, Rows, visible
from tests.simulation.world import World

Key = tuple[str, str]

TABLES = {
    "employee": "entities_employee",
    "customer": "entities_customer",
    "contact": "entities_contact",
    "product": "entities_product",
    "order": "entities_order",
    "order_line": "entities_orderline",
}
READ_ONLY = {
    "customer": {"code"},
    "product": {"code", "unit_price"},
    "order": {"number"},
}  # a device may write them in vain
DECIMALS = frozenset({"unit_price", "freight", "discount"})


# --- reading both sides ---


def server_rows() -> Rows:
    """Every row of the entities' tables as a device must have it, with its revision from the history, and its scope."""
    with connection.cursor() as cursor:
        # The last one: a row whose tombstone was forgotten begins at revision 1 again when it comes back.
        cursor.execute(
            "SELECT DISTINCT ON (entity, row_id) entity, row_id::text, rev FROM sync_history"
            " ORDER BY entity, row_id, at DESC, rev DESC"
        )
        revisions = {(entity, row): rev for entity, row, rev in cursor.fetchall()}
        found: Rows = {}
        for entity, table in TABLES.items():
            cursor.execute(f"SELECT * FROM {table}")
            names = [column.name for column in cursor.description]
            rows = (dict(zip(names, map(_as_column, values), strict=True)) for values in cursor.fetchall())
            hidden = HIDDEN.get(entity, set())
            found[entity] = {
                row["id"]: {name: value for name, value in row.items() if name not in hidden}
                | {"_rev": revisions.get((entity, row["id"]))}
                for row in rows
            }
    return found


def _as_column(value: Any) -> Any:
    """A PostgreSQL value as the device's SQLite column has it."""
    match value:
        case bool():
            return int(value)
        case UUID() | Decimal():
            return str(value)
        case date():
            return value.isoformat()
    return value


def device_rows(path: Path) -> tuple[Rows, dict[Key, list[dict[str, Any]]]]:
    """Every row of a device's file, and what waits in its outbox, by row."""
    with closing(sqlite3.connect(path)) as conn:
        conn.row_factory = sqlite3.Row
        rows = {e: {row["id"]: dict(row) for row in conn.execute(f'SELECT * FROM "{e}"')} for e in TABLES}
        waiting: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        for mutation in conn.execute("SELECT * FROM _sync_outbox ORDER BY seq"):
            waiting[mutation["entity"], mutation["row"]].append(dict(mutation))
    return rows, waiting


# --- while it runs ---


def check_device(device: Device, world: World, server: Rows | None = None) -> None:
    """After a sync that went through: the device has what the server has, under what waits in its outbox."""
    expected = visible(server or server_rows(), device.scopes)
    held, waiting = device_rows(device.path)
    for entity in TABLES:
        wanted, found = dict(expected[entity]), dict(held[entity])
        for (name, row), mutations in waiting.items():
            if name == entity:
                known = wanted.pop(row, None)
                shown = found.pop(row, None)
                if known is not None and mutations[0]["op"] != "create":
                    unsure = READ_ONLY.get(entity, set())
                    _same(f"{device.name}: {entity} {row} under the outbox", _under(known, mutations), shown, unsure)
        _same_rows(f"{device.name}: {entity}", wanted, found)
    check_pairs(device, world, held)


def _under(row: dict[str, Any], mutations: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The server's row with the device's waiting mutations on top."""
    result: dict[str, Any] | None = dict(row)
    for mutation in mutations:
        if mutation["op"] == "delete":
            result = None
        elif mutation["op"] == "create" or result is None:
            return None  # the row came back; what the create left out is the server's to say
        else:
            result |= json.loads(mutation["set"] or "{}")
            for name, amount in json.loads(mutation["add"] or "{}").items():
                result[name] += int(amount)
    return result


def _same(what: str, expected: dict[str, Any] | None, found: dict[str, Any] | None, unsure: set[str]) -> None:
    if expected is None:
        return
    assert found is not None, f"{what} is not there; it should be {expected}"
    wrong = {
        name: (found.get(name), value)
        for name, value in expected.items()
        if name not in unsure and not equal(name, found.get(name), value)
    }
    assert not wrong and found.keys() == expected.keys(), f"{what}: (has, should have) {wrong}"


def _same_rows(what: str, expected: Mapping[str, dict[str, Any]], found: Mapping[str, dict[str, Any]]) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    assert not missing, f"{what}: lacks {[expected[i] for i in sorted(missing)]}"
    assert not extra, f"{what}: has what it should not: {[found[i] for i in sorted(extra)]}"
    for row, values in expected.items():
        if found[row] != values:
            wrong = {n: (found[row].get(n), v) for n, v in values.items() if found[row].get(n) != v}
            raise AssertionError(f"{what} {row}: (has, should have) {wrong}")


def check_pairs(device: Device, world: World, held: Rows | None = None) -> None:
    """Rows that are always written together have the same value, whatever happened to the sync."""
    rows = held or device_rows(device.path)[0]
    entity_of = {table: entity for entity, table in TABLES.items()}
    values = {
        (table, row): rows[entity_of[table]][str(row)][column]
        for table, column, row in world.pairs
        if str(row) in rows[entity_of[table]]
    }
    assert len(set(values.values())) <= 1, f"{device.name} has half of a transaction: {values}"


# --- at the end ---


def check_history(world: World) -> None:
    """Each row's revisions are 1 to n without a gap, and the feed's is n."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT entity, row_id::text, array_agg(rev ORDER BY at, rev) FROM sync_history GROUP BY 1, 2")
        history = {(entity, row): revisions for entity, row, revisions in cursor.fetchall()}
        cursor.execute(
            "SELECT entity, row_id::text, max(rev), bool_or(data IS NOT NULL),"
            " max(rev) FILTER (WHERE data IS NOT NULL), max((data::json ->> '_rev')::bigint)"
            " FROM sync_feed GROUP BY 1, 2"
        )
        feed = {(entity, row): values for entity, row, *values in cursor.fetchall()}
        cursor.execute("SELECT count(*) FROM sync_feed WHERE data IS NOT NULL AND scope = ''")
    rows = server_rows()
    for key, revisions in history.items():
        if key not in world.forgotten:
            assert revisions == list(range(1, len(revisions) + 1)), f"history of {key} has a gap: {revisions}"
            assert key in feed, f"{key} has a history but is not in the feed"
    for key, (rev, alive, *told) in feed.items():
        assert rev == history[key][-1], f"feed of {key} has revision {rev}, its history {history[key]}"
        assert alive == (key[1] in rows[key[0]]), f"feed of {key} says alive={alive}"
        assert not alive or told == [rev, rev], f"feed of {key} at revision {rev} tells {told}"
    lost = {(entity, row) for entity, found in rows.items() for row in found} - feed.keys()
    assert not lost, f"rows that no feed has: {lost}"


def equal(field: str, one: Any, other: Any) -> bool:
    """Whether two values of a field are one, in wire form or a column's."""
    if field in DECIMALS and one is not None and other is not None:
        return Decimal(str(one)) == Decimal(str(other))
    return bool(one == other)
