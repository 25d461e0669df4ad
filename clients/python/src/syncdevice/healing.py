"""After a restore of the server: what was acknowledged before is kept for some days, and offered to who has lost it."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from syncdevice.database import immediate, quote, set_state
from syncdevice.errors import BatchTooLarge
from syncdevice.fates import forget_cursors
from syncdevice.outbox import BATCH_MUTATIONS_MAX, COLUMNS, Mutation, envelope, first_batch, first_unit
from syncdevice.transport import Transport, http_date

ACKNOWLEDGED_DAYS = 7.0
ACKNOWLEDGED_DAYS_MAX = 29.0  # a server remembers its answers for 30, and must not take for lost what it forgot
EVER = 9_223_372_036_854_775_807  # the largest number that a sequence can reach
BACK = frozenset({"applied", "merged"})
_NAMES = ", ".join(map(quote, COLUMNS))


def keep(conn: sqlite3.Connection, mutations: Sequence[Mutation], results: Sequence[dict[str, Any]]) -> None:
    """Keep what a batch of the outbox changed on the server, with its revisions, in the current transaction."""
    revs = [
        (mutation.seq, result["rev"])
        for mutation, result in zip(mutations, results, strict=True)
        if result["status"] in BACK and result.get("rev") is not None
    ]
    columns = ", ".join(f"o.{quote(name)}" for name in COLUMNS)
    conn.execute(
        f"""INSERT OR REPLACE INTO "_sync_acknowledged" ({_NAMES}, "rev")
        SELECT {columns}, json_extract(j.value, '$[1]') FROM json_each(?) AS j
        JOIN "_sync_outbox" AS o ON o."seq" = json_extract(j.value, '$[0]')""",
        (json.dumps(revs),),
    )


def prune(conn: sqlite3.Connection, now: datetime, days: float) -> None:
    """Forget what was acknowledged more than `days` ago."""
    before = http_date(now - timedelta(days=min(days, ACKNOWLEDGED_DAYS_MAX)))
    oldest = conn.execute('SELECT "at" FROM "_sync_acknowledged" ORDER BY "seq" LIMIT 1').fetchone()
    if oldest and oldest[0] < before:
        first = 'SELECT "seq" FROM "_sync_acknowledged" WHERE "at" >= ? ORDER BY "seq" LIMIT 1'
        with immediate(conn):
            conn.execute(f'DELETE FROM "_sync_acknowledged" WHERE "seq" < coalesce(({first}), {EVER})', (before,))


def lose_position(conn: sqlite3.Connection, restored: bool) -> None:
    """The server does not know how far this device has read: it reads all anew.

    `restored`: what waits, and what is entered until then, is made on revisions that the server may have lost.
    """
    with immediate(conn):
        set_state(conn, token=None)
        forget_cursors(conn)
        conn.execute('DELETE FROM "_sync_before"')
        if restored:
            conn.execute('INSERT OR REPLACE INTO "_sync_lost" VALUES (1, ?)', (EVER,))
            conn.execute('DELETE FROM "_sync_seen"')


def regain_position(conn: sqlite3.Connection) -> None:
    """All was read anew, in the current transaction: what is entered from now on is made on what the server has."""
    conn.execute('DELETE FROM "_sync_before"')
    last = 'SELECT coalesce(max("seq"), 0) FROM "_sync_outbox"'
    conn.execute(f'UPDATE "_sync_lost" SET "upto" = min("upto", ({last}))')


def regain_rows(conn: sqlite3.Connection, revs: Iterable[tuple[str, str, int]]) -> None:
    """The file has these rows (entity, id, revision) as the server has them, in the current transaction."""
    if lost_upto(conn) != EVER:
        return
    last = "SELECT coalesce(max(\"seq\"), 0) FROM sqlite_sequence WHERE name = '_sync_outbox'"
    for entity, row, rev in revs:
        known = f'SELECT 1 FROM {quote(entity)} WHERE "id" = ? AND "_rev" = ?'
        if conn.execute(known, (row, rev)).fetchone():
            conn.execute(f'INSERT OR REPLACE INTO "_sync_seen" SELECT ?, ?, ({last})', (entity, row))


def token_before(conn: sqlite3.Connection) -> str | None:
    """The token of the device that this file was before it was enrolled anew, if all was not read anew since."""
    found = conn.execute('SELECT "token" FROM "_sync_before"').fetchone()
    return str(found[0]) if found else None


def lost_upto(conn: sqlite3.Connection) -> int:
    """The last place in the outbox of what was made on revisions that the server may have lost; 0: none."""
    found = conn.execute('SELECT "upto" FROM "_sync_lost"').fetchone()
    return int(found[0]) if found else 0


def marked(conn: sqlite3.Connection, waiting: Sequence[Mutation]) -> list[Mutation]:
    """Those of the outbox, with `lost` where they were made on revisions that the server may have lost."""
    upto = lost_upto(conn)
    found = conn.execute('SELECT "entity", "row", "seq" FROM "_sync_seen"')
    seen: dict[tuple[str, str], int] = {(entity, row): seq for entity, row, seq in found}
    last = [min(upto, seen.get((mutation.entity, mutation.row), upto)) for mutation in waiting]
    return [replace(m, lost=0) if m.seq <= seq else m for m, seq in zip(waiting, last, strict=True)]


def offer(
    conn: sqlite3.Connection,
    transport: Transport,
    now: Callable[[], str],
    record: Callable[[Sequence[Mutation], Sequence[dict[str, Any]]], None],
    on_batch: Callable[[int], None],
) -> Counter[str]:
    """Push again what was acknowledged and the server does not know. Returns how many got which status.

    `record` keeps the results of a batch. An older server is offered nothing.
    """
    statuses: Counter[str] = Counter()
    after, count_max = 0, BATCH_MUTATIONS_MAX
    while kept := _kept(conn, after):
        unit = first_unit(kept)
        whole = [mutation for mutation, _ in first_batch(kept, count_max)] or unit
        unknown = transport.unknown([mutation.id for mutation in whole])
        if unknown is None:
            break
        offered = [mutation for mutation in whole if mutation.id in unknown]
        if offered:
            try:
                results = transport.push(envelope((mutation.encode() for mutation in offered), now()))
            except BatchTooLarge:
                if len(whole) <= len(unit):
                    raise
                count_max = len(whole) // 2
                continue
            record(offered, results)
            _settle(conn, offered, results)
            statuses.update(result["status"] for result in results)
            on_batch(statuses.total())
        after = whole[-1].seq
    return statuses


def _kept(conn: sqlite3.Connection, after: int) -> list[Mutation]:
    query = f'SELECT {_NAMES}, "rev" FROM "_sync_acknowledged" WHERE "seq" > ? ORDER BY "seq" LIMIT ?'
    return [Mutation(*row) for row in conn.execute(query, (after, BATCH_MUTATIONS_MAX + 1))]


def _settle(conn: sqlite3.Connection, offered: Sequence[Mutation], results: Sequence[dict[str, Any]]) -> None:
    """What came back has another revision; what did not is an outcome of its own, and not offered again."""
    told = list(zip(offered, results, strict=True))
    back = [(result.get("rev"), mutation.seq) for mutation, result in told if result["status"] in BACK]
    gone = [(mutation.seq,) for mutation, result in told if result["status"] not in BACK]
    with immediate(conn):
        conn.executemany('UPDATE "_sync_acknowledged" SET "rev" = ? WHERE "seq" = ?', back)
        conn.executemany('DELETE FROM "_sync_acknowledged" WHERE "seq" = ?', gone)
