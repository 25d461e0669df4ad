"""`pull`: a first load over HTTP, uncompressed, into nothing, beside COPY of the same rows as JSON."""

import re
import time
from statistics import median

import psycopg

from bench.load import Client
from bench.report import Demand, Outcome
from bench.rows import COLUMNS
from bench.server import Server

ROWS = 100_000
PAGE_ROWS = 10_000
ROUNDS = 7
COPY = f"COPY (SELECT row_to_json(r) FROM (SELECT {COLUMNS} FROM entities_contact) r) TO STDOUT"
_TAIL = re.compile(rb'"token":"([^"]+)","has_more":(true|false)\}$')


def run(server: Server) -> Outcome:
    server.fill(ROWS)
    client = Client(server.devices(1)[0])
    ours, limits = [], []
    with server.connect() as connection:
        for at in range(ROUNDS + 1):
            spent, least = first_load(client), _copy(connection)
            if at:  # the first is a warm-up of both
                ours.append(ROWS / spent)
                limits.append(ROWS / least)
    client.close()
    found, limit = median(ours), median(limits)
    return Outcome(
        "pull",
        f"first load of {ROWS:,} rows over HTTP: {found:,.0f} rows/s",
        f"COPY (SELECT row_to_json) TO STDOUT: {limit:,.0f} rows/s",
        {"rows_per_s": found, "limit_rows_per_s": limit, "ratio": found / limit},
        [Demand("ratio", at_least=0.3)],
    )


def tail(page: bytes) -> tuple[str, bool]:
    """The token of a page, and whether there is more."""
    found = _TAIL.search(page, max(0, len(page) - 4096))
    if not found:
        raise RuntimeError(f"This is no page of a pull: {page[-200:]!r}")
    return found[1].decode(), found[2] == b"true"


def first_load(client: Client) -> float:
    pages, path = [], f"/sync/pull?limit={PAGE_ROWS}"
    started = time.perf_counter()
    while True:
        pages.append(client.get(path))
        token, has_more = tail(pages[-1])
        path = f"/sync/pull?limit={PAGE_ROWS}&token={token}"
        if not has_more:
            break
    spent = time.perf_counter() - started
    if (rows := sum(page.count(b'"_rev":') for page in pages)) < ROWS:
        raise RuntimeError(f"Only {rows} rows came.")
    return spent


def _copy(connection: psycopg.Connection) -> float:
    started = time.perf_counter()
    with connection.cursor() as cursor, cursor.copy(COPY) as rows:
        count = sum(bytes(part).count(b"\n") for part in rows)
    spent = time.perf_counter() - started
    if count < ROWS:
        raise RuntimeError(f"Only {count} rows came.")
    return spent
