"""What must be true, asked of the entities' own tables and the devices' files, never of the feed."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connection

from tests.simulation.device import Device, Made
from tests.simulation.world import World

Key = tuple[str, str]
Rows = dict[str, dict[str, dict[str, Any]]]

TABLES = {
    "employee": "entities_employee",
    "customer": "entities_customer",
    "contact": "entities_contact",
    "product": "entities_product",
    "order": "entities_order",
    "order_line": "entities_orderline",
}
SCOPED = frozenset({"order", "order_line"})  # by their employee; all other rows are global
HIDDEN = {"product": {"unit_cost"}}
READ_ONLY = {
    "customer": {"code"},
    "product": {"code", "unit_price"},
    "order": {"number"},
}  # a device may write them in vain
DECIMALS = frozenset({"unit_price", "freight", "discount"})
COUNTER = ("product", "units_in_stock")


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


def visible(rows: Rows, scopes: Iterable[str]) -> Rows:
    """The rows in these scopes."""
    granted = set(scopes)

    def seen(entity: str, row: Mapping[str, Any]) -> bool:
        return (f"employee:{row['employee_id']}" if entity in SCOPED else "global") in granted

    return {entity: {i: row for i, row in found.items() if seen(entity, row)} for entity, found in rows.items()}


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
        if name not in unsure and not _equal(name, found.get(name), value)
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


def check_mutations(devices: Iterable[Device], world: World) -> dict[str, int]:
    """Every mutation that a device ever made has one answer and its trace. Returns the counts by status."""
    made = {mutation.id: mutation for device in devices for mutation in device.made.values()}
    with connection.cursor() as cursor:
        cursor.execute("SELECT id::text, status, rev, conflict::text FROM sync_result")
        results = {mutation: (status, rev, conflict) for mutation, status, rev, conflict in cursor.fetchall()}
        cursor.execute("SELECT * FROM sync_conflict")
        conflicts = {str(row["mutation"]): row for row in _dicts(cursor)}
        cursor.execute("SELECT * FROM sync_rejection")
        rejections = {str(row["mutation"]): row for row in _dicts(cursor)}
        cursor.execute(
            "SELECT entity, row_id::text AS row, rev, op, mutation::text, old, new FROM sync_history ORDER BY rev"
        )
        history = list(_dicts(cursor))
    assert results.keys() == made.keys(), (
        f"no answer: {made.keys() - results.keys()}; nobody made: {results.keys() - made.keys()}"
    )
    written: dict[str, list[dict[str, Any]]] = defaultdict(list)
    of_row: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for change in history:
        of_row[change["entity"], change["row"]].append(change)
        if change["mutation"]:
            written[change["mutation"]].append(change)
    rows = server_rows()
    counts: dict[str, int] = defaultdict(int)
    for mutation in made.values():
        status, rev, conflict = results[mutation.id]
        counts[status] += 1
        name = f"{status} {mutation}"
        assert len(written[mutation.id]) <= 1, f"{name} was written more than once: {written[mutation.id]}"
        assert not (mutation.invalid and status in {"applied", "merged"}), f"{name} is not valid"
        if status == "rejected":
            assert not written[mutation.id], f"{name} was written: {written[mutation.id]}"
            _check_rejection(name, mutation, rejections)
        elif status == "conflict":
            _check_conflict(name, mutation, conflict, conflicts)
        else:
            key = (mutation.entity, mutation.row)
            assert all((c["entity"], c["row"], c["rev"]) == (*key, rev) for c in written[mutation.id]), name
            if status == "applied" and key not in world.forgotten:
                _check_applied(name, mutation, rev, written[mutation.id], of_row[key], rows)
        assert (
            not mutation.add
            or status == "rejected"
            or not written[mutation.id]
            or _added(mutation, written[mutation.id][0])
        ), f"{name}: {written[mutation.id]} is not what it added"
    _check_groups(made.values(), results)
    _check_stock(made.values(), results, rows, world)
    return dict(counts)


def _dicts(cursor: Any) -> Iterator[dict[str, Any]]:
    names = [column.name for column in cursor.description]
    return (dict(zip(names, values, strict=True)) for values in cursor.fetchall())


def _check_rejection(name: str, mutation: Made, rejections: Mapping[str, dict[str, Any]]) -> None:
    assert mutation.id in rejections, f"{name} is not in quarantine"
    kept = rejections[mutation.id]
    body = json.loads(kept["body"])
    for member in ("id", "entity", "row", "op", "base", "set", "add", "group"):
        assert body.get(member) == getattr(mutation, member) or not (body.get(member) or getattr(mutation, member)), (
            f"{name}: the quarantine has {member}={body.get(member)!r}"
        )
    errors = kept["errors"] if isinstance(kept["errors"], list) else json.loads(kept["errors"])
    assert errors and all(error["code"] for error in errors), f"{name} has no reason"


def _check_conflict(name: str, mutation: Made, conflict: str, conflicts: Mapping[str, dict[str, Any]]) -> None:
    assert mutation.id in conflicts, f"{name} has no conflict record"
    kept = conflicts[mutation.id]
    values = kept["device_values"]
    values = values if isinstance(values, dict) else json.loads(values)
    assert str(kept["id"]) == conflict, name
    assert (kept["entity"], str(kept["row_id"]), kept["op"]) == (mutation.entity, mutation.row, mutation.op), name
    assert (values.get("set", {}), values.get("add", {})) == (mutation.set, mutation.add), f"{name}: kept {values}"


def _check_applied(
    name: str, mutation: Made, rev: int, own: list[dict[str, Any]], changes: list[dict[str, Any]], rows: Rows
) -> None:
    """Written exactly as sent: right after it, the row has the values that it set."""
    if mutation.op != "update":
        op = {"create": "insert", "delete": "delete"}[mutation.op]
        assert [change["op"] for change in own] == [op] or (mutation.op == "delete" and not own), f"{name}: {own}"
    if mutation.op == "update" and mutation.add and any(int(amount) for amount in mutation.add.values()):
        assert own, f"{name} left no trace"
    if mutation.op == "delete":
        return
    for field, value in mutation.set.items():
        found = _value_at(mutation.entity, mutation.row, field, rev, changes, rows)
        assert _equal(field, found, value), f"{name}: {field} was {found!r} at revision {rev}"


def _value_at(entity: str, row: str, field: str, rev: int, changes: list[dict[str, Any]], rows: Rows) -> Any:
    """A field of a row right after a revision: the oldest value that a later change replaced, else what it is now."""
    for change in changes:
        if change["rev"] > rev and change["old"] is not None:
            old = change["old"] if isinstance(change["old"], dict) else json.loads(change["old"])
            if field in old:
                return old[field]
    return rows[entity][row][field]


def _equal(field: str, one: Any, other: Any) -> bool:
    if field in DECIMALS and one is not None and other is not None:
        return Decimal(str(one)) == Decimal(str(other))
    return bool(one == other)


def _added(mutation: Made, change: dict[str, Any]) -> bool:
    old, new = ((v if isinstance(v, dict) else json.loads(v or "{}")) for v in (change["old"], change["new"]))
    return all(int(new.get(f, 0)) - int(old.get(f, 0)) == int(amount) for f, amount in mutation.add.items())


def _check_groups(made: Iterable[Made], results: Mapping[str, tuple[str, Any, Any]]) -> None:
    groups: dict[str, set[bool]] = defaultdict(set)
    for mutation in made:
        if mutation.group:
            groups[mutation.group].add(results[mutation.id][0] in {"applied", "merged"})
    halves = [group for group, done in groups.items() if len(done) > 1]
    assert not halves, f"groups that were applied in part: {halves}"


def _check_stock(made: Iterable[Made], results: Mapping[str, tuple[str, Any, Any]], rows: Rows, world: World) -> None:
    """A product's stock is what it began with and every amount that was acknowledged, each once."""
    entity, field = COUNTER
    sums = dict(world.stock)
    for mutation in made:
        if mutation.entity == entity and results[mutation.id][0] in {"applied", "merged"}:
            began = int(mutation.set.get(field, 0)) if mutation.op == "create" else 0
            sums[mutation.row] = sums.get(mutation.row, 0) + began + int(mutation.add.get(field, 0))
    wrong = {i: (row[field], sums.get(i)) for i, row in rows[entity].items() if row[field] != sums.get(i)}
    assert not wrong, f"stock (is, should be): {wrong}"
