"""`delta`: pulls of a hundred changed rows of a hundred thousand, beside the bare SQL that reads these rows."""

import time
from statistics import median, quantiles

import psycopg

from bench.load import Client
from bench.pull import tail
from bench.report import Demand, Outcome
from bench.server import Server

ROWS = 100_000
CHANGED_ROWS = 100
PULLS = 200
WARM_UP_PULLS = 20
CHANGE = """
UPDATE entities_contact SET note = left('%(at)s ' || note, 120)
WHERE id IN (SELECT id FROM entities_contact TABLESAMPLE SYSTEM (5) LIMIT %(rows)s)
RETURNING pg_current_xact_id()::text
"""
BARE = "SELECT data FROM sync_feed WHERE scope = 'global' AND xid >= %s::text::xid8 ORDER BY xid, seq"


def run(server: Server) -> Outcome:
    server.fill(ROWS)
    client = Client(server.devices(1)[0])
    token, has_more = "", True
    while has_more:
        token, has_more = tail(client.get("/sync/pull?limit=10000" + (f"&token={token}" if token else "")))
    ours: list[float] = []
    bare: list[float] = []
    with server.connect() as connection:
        for at in range(WARM_UP_PULLS + PULLS):
            xid = _change(connection, at)
            bare.append(_read(connection, xid))
            started = time.perf_counter()
            page = client.get(f"/sync/pull?token={token}")
            ours.append((time.perf_counter() - started) * 1000)
            token, has_more = tail(page)
            if page.count(b'"_rev":') != CHANGED_ROWS or has_more:
                raise RuntimeError(f"Not the rows that changed: {page[:500]!r}")
    client.close()
    ours, bare = ours[WARM_UP_PULLS:], bare[WARM_UP_PULLS:]
    figures = {
        "ms_median": median(ours),
        "ms_p99": quantiles(ours, n=100)[98],
        "limit_ms_median": median(bare),
        "limit_ms_p99": quantiles(bare, n=100)[98],
        "extra_ms_median": median(ours) - median(bare),
    }
    return Outcome(
        "delta",
        f"{CHANGED_ROWS} changed rows of {ROWS:,}: {figures['ms_median']:.2f} ms, p99 {figures['ms_p99']:.2f} ms",
        f"the SQL alone: {figures['limit_ms_median']:.2f} ms, p99 {figures['limit_ms_p99']:.2f} ms",
        figures,
        [Demand("extra_ms_median", at_most=3), Demand("ms_median", at_most=1.9, aim=True)],
    )


def _change(connection: psycopg.Connection, at: int) -> str:
    """Change rows by SQL; return the transaction that did it."""
    changed = connection.execute(CHANGE % {"at": at, "rows": CHANGED_ROWS}).fetchall()
    if len(changed) != CHANGED_ROWS:
        raise RuntimeError(f"{len(changed)} rows were changed.")
    return str(changed[0][0])


def _read(connection: psycopg.Connection, xid: str) -> float:
    started = time.perf_counter()
    rows = connection.execute(BARE, [xid]).fetchall()
    spent = (time.perf_counter() - started) * 1000
    if len(rows) != CHANGED_ROWS:
        raise RuntimeError(f"{len(rows)} rows came.")
    return spent
