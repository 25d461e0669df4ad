"""Push: the outbox to the server, batch by batch, and what the server says of each mutation back into the file."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from syncdevice.database import Entity, applying, immediate, quote, set_state
from syncdevice.errors import BatchTooLarge, ProtocolError, Refused
from syncdevice.fates import answered
from syncdevice.healing import keep, lost_upto, marked, regain_rows
from syncdevice.outbox import (
    BATCH_MUTATIONS_MAX,
    COLUMNS,
    Mutation,
    Row,
    envelope,
    first_batch,
    first_unit,
    lay_over,
    to_column,
)
from syncdevice.outcomes import LOCAL
from syncdevice.reports import Change
from syncdevice.tables import get_row, put_row, waiting_mutations
from syncdevice.transport import Transport

STATUSES = frozenset({"applied", "merged", "conflict", "rejected"})
Result = dict[str, Any]


def pending(conn: sqlite3.Connection) -> tuple[int, str | None]:
    """How many mutations wait, and since when."""
    count, oldest = conn.execute('SELECT count(*), min("made_at") FROM "_sync_outbox"').fetchone()
    return count, oldest


def push_outbox(
    conn: sqlite3.Connection,
    transport: Transport,
    entities: dict[str, Entity],
    now: Callable[[], str],
    on_batch: Callable[[int, dict[str, Change]], None],
    token: str | None = None,
) -> Counter[str]:
    """Push until the outbox is empty, or has only what came long after we began. Returns how many got which status.

    After each batch `on_batch` gets the count so far and the rows that the server corrected. Raises TokenExpired where
    the server was restored since it gave `token`.
    """
    if conn.execute('SELECT "group" FROM "_sync_state"').fetchone()[0] is not None:
        with immediate(conn):  # a group belongs to one transaction; this one was committed without being closed
            set_state(conn, group=None)
    statuses: Counter[str] = Counter()
    count_max = BATCH_MUTATIONS_MAX
    lost = lost_upto(conn)
    # An application that writes faster than we push must not keep us from ever pulling.
    (end,) = conn.execute('SELECT coalesce(max("seq"), 0) + ? FROM "_sync_outbox"', (BATCH_MUTATIONS_MAX,)).fetchone()
    while waiting := _waiting(conn, f'ORDER BY "seq" LIMIT {BATCH_MUTATIONS_MAX + 1}'):
        if waiting[0].seq > end:
            break
        waiting = marked(conn, waiting) if lost else waiting
        first = first_unit(waiting)
        batch = first_batch(waiting, count_max) or first_batch(first)
        results = None
        if batch:
            try:
                results = transport.push(envelope((body for _, body in batch), now(), token))
            except BatchTooLarge:
                if len(batch) > len(first):
                    count_max = len(batch) // 2
                    continue
            except Refused as refused:
                if refused.code != "unknown_field" or (token is None and not lost):
                    raise
                token, lost = None, 0  # the server is too old to be told
                continue
        if results is None:
            statuses["rejected"] += _set_aside(conn, first[0])
            corrected: dict[str, Change] = {}
        else:
            mutations = [mutation for mutation, _ in batch]
            corrected = record(conn, entities, mutations, results)
            statuses.update(result["status"] for result in results)
        on_batch(statuses.total(), corrected)
    return statuses


def _waiting(conn: sqlite3.Connection, which: str, *values: object) -> list[Mutation]:
    rows = conn.execute(f'SELECT {", ".join(map(quote, COLUMNS))} FROM "_sync_outbox" {which}', values)
    return [Mutation(*row) for row in rows]


def _check(mutations: Sequence[Mutation], results: Sequence[Result]) -> None:
    answered = [(r.get("id"), r.get("status") in STATUSES) for r in results if isinstance(r, dict)]
    if answered != [(m.id, True) for m in mutations]:
        raise ProtocolError("the answer to a push does not match what was pushed: upgrade the application")


def _set_aside(conn: sqlite3.Connection, first: Mutation) -> int:
    """Take a mutation or a group that is too large for any batch out of the way. It stays readable as an outcome."""
    whole = (_waiting(conn, 'WHERE "group" = ?', first.group) if first.group else []) or [first]
    error = {"field": None, "code": "batch_too_large", "message": "more than the server takes in one batch"}
    with immediate(conn):
        for mutation in whole:
            _take_out(conn, mutation, {"status": "rejected", "state": LOCAL, "errors": [error]}, None)
        set_state(conn, token=None)  # only a fresh load knows what the server has for these rows
    return len(whole)


def _take_out(conn: sqlite3.Connection, mutation: Mutation, result: Result, entity: Entity | None) -> None:
    """From the outbox to the outcomes, in the current transaction."""
    m, server = mutation, result.get("row")
    conn.execute('DELETE FROM "_sync_outbox" WHERE "seq" = ?', (m.seq,))
    conn.execute(
        'INSERT OR REPLACE INTO "_sync_outcome" ("id", "entity", "row", "op", "base", "set", "add", "group", "made_at",'
        ' "status", "rev", "conflict", "errors", "server_row") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
        (
            *(m.id, m.entity, m.row, m.op, m.base, m.set, m.add, m.group, m.made_at),
            *(result["status"], result.get("rev"), result.get("conflict"), json.dumps(result.get("errors") or [])),
            None if server is None else json.dumps(server, ensure_ascii=False),
        ),
    )
    answered(conn, entity, m.id, m.op, json.loads(m.set or "{}"), result)


def record(
    conn: sqlite3.Connection, entities: dict[str, Entity], mutations: Sequence[Mutation], results: Sequence[Result]
) -> dict[str, Change]:
    """Keep the results of one batch, in one transaction. Returns the rows that were corrected. Raises ProtocolError."""
    _check(mutations, results)
    corrections: dict[tuple[str, str], int] = {}
    changed: dict[str, tuple[list[str], list[str]]] = {}
    with applying(conn):
        conn.execute('DELETE FROM "_sync_replaced"')
        keep(conn, mutations, results)
        for place, (mutation, result) in enumerate(zip(mutations, results, strict=True)):
            if result["status"] != "applied":
                _take_out(conn, mutation, result, entities.get(mutation.entity))
                corrections[mutation.entity, mutation.row] = place
        conn.executemany('DELETE FROM "_sync_outbox" WHERE "seq" = ?', ((m.seq,) for m in mutations))
        for (name, row), place in corrections.items():
            if name in entities:
                exists = _correct(conn, entities[name], mutations[place], results[place])
                if exists is not None:
                    changed.setdefault(name, ([], []))[0 if exists else 1].append(row)
        for entity in entities.values():
            revs = [
                (result["rev"], mutation.row)
                for mutation, result in zip(mutations, results, strict=True)
                if mutation.entity == entity.name and result["status"] == "applied" and result.get("rev") is not None
            ]
            conn.executemany(
                f'UPDATE {quote(entity.name)} SET "_rev" = ?1 WHERE "id" = ?2 AND ("_rev" IS NULL OR "_rev" < ?1)', revs
            )
        told = [
            (m.entity, m.row, (r.get("row") or r).get("_rev", r.get("rev")))
            for m, r in zip(mutations, results, strict=True)
        ]
        regain_rows(conn, [(entity, row, rev) for entity, row, rev in told if rev is not None and entity in entities])
    return {n: Change(len(up), len(gone), tuple(up), tuple(gone)) for n, (up, gone) in changed.items()}


def _correct(conn: sqlite3.Connection, entity: Entity, mutation: Mutation, result: Result) -> bool | None:
    """Lay the server's row under the edits that wait. True: the row is there, False: deleted, None: as it was."""
    waiting = waiting_mutations(conn, entity.name, mutation.row).get(mutation.row, [])
    present = get_row(conn, entity, mutation.row)
    known_rev = (present or {}).get("_rev") or 0
    server = result.get("row")
    if server is None:
        # A replayed answer may be older than what was pulled since, and edits that still wait stay in sight.
        if waiting or (result.get("replayed") and known_rev > (mutation.base or 0)):
            return None
        # Gone with a scope, perhaps, which may be back before the next pull as if it had never been away. (A conflict
        # or a merge without a row met a delete, which a pull tells; a repeated answer shows what is there now.)
        taken = known_rev or mutation.base or not _was_refused(conn, mutation)
        if taken if result["status"] == "rejected" else result.get("replayed"):
            conn.execute('INSERT OR IGNORE INTO "_sync_missing" VALUES (?, ?)', (entity.name, mutation.row))
        put_row(conn, entity, mutation.row, None)
        return None if present is None else False
    rev = server.get("_rev", result.get("rev"))
    if rev is not None and known_rev > rev:
        return None
    under: Row = {"id": mutation.row, "_rev": rev}
    under |= {name: to_column(kind, server.get(name)) for name, kind in entity.kinds.items()}
    seen = lay_over(under, waiting, entity.kinds)
    put_row(conn, entity, mutation.row, seen)
    return None if present is None and seen is None else seen is not None


def _was_refused(conn: sqlite3.Connection, mutation: Mutation) -> bool:
    """Whether the server never took the row."""
    query = """SELECT 1 FROM "_sync_outcome" WHERE "entity" = ? AND "row" = ? AND "op" = 'create'"""
    return conn.execute(query, (mutation.entity, mutation.row)).fetchone() is not None
