"""`push`: new rows over HTTP by one client, beside a plain INSERT of the same rows into a bare table.

The project writes four rows for one (the row, its feed entry, its history, the mutation's result).
"""

import time
from statistics import median

import msgspec
import psycopg

from bench.load import Client
from bench.report import Demand, Outcome
from bench.rows import COLUMNS, TYPES, batches, contacts, creates
from bench.server import Server

ROWS = 10_000
BATCH_ROWS = 1_000
ROUNDS = 7
BARE = "CREATE TABLE bench_bare (LIKE entities_contact INCLUDING DEFAULTS, PRIMARY KEY (id))"
INSERT = f"""INSERT INTO bench_bare ({COLUMNS}) SELECT {COLUMNS} FROM jsonb_to_recordset(%s::jsonb) AS v({TYPES})"""


def run(server: Server) -> Outcome:
    client = Client(server.devices(1)[0])
    ours, limits = [], []
    with server.connect() as connection:
        connection.execute(BARE)
        for at in range(ROUNDS + 1):
            spent, least = _push(client), _insert(connection)
            if at:  # the first is a warm-up of both
                ours.append(ROWS / spent)
                limits.append(ROWS / least)
        connection.execute("DROP TABLE bench_bare")
    client.close()
    found, limit = median(ours), median(limits)
    return Outcome(
        "push",
        f"{ROWS:,} rows over HTTP, {BATCH_ROWS:,} a batch: {found:,.0f} rows/s",
        f"INSERT … SELECT FROM jsonb_to_recordset: {limit:,.0f} rows/s",
        {"rows_per_s": found, "limit_rows_per_s": limit, "ratio": found / limit},
        [Demand("ratio", at_least=0.2), Demand("rows_per_s", at_least=11_600, aim=True)],
    )


def _push(client: Client) -> float:
    bodies = [creates(batch) for batch in batches(contacts(ROWS), BATCH_ROWS)]
    requests = [client.target.request("POST", "/sync/push", body) for body in bodies]
    started = time.perf_counter()
    answers = [client.send(request) for request in requests]
    spent = time.perf_counter() - started
    if sum(answer.count(b'"status":"applied"') for answer in answers) != ROWS:
        raise RuntimeError(f"Not every row was applied: {answers[0][:500]!r}")
    return spent


def _insert(connection: psycopg.Connection) -> float:
    documents = [msgspec.json.encode(batch).decode() for batch in batches(contacts(ROWS), BATCH_ROWS)]
    started = time.perf_counter()
    for document in documents:
        connection.execute(INSERT, [document])  # commits
    return time.perf_counter() - started
