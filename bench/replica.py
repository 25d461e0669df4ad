"""`replica`: a first load into a fresh SQLite file by the Python SDK, beside `executemany` of the parsed rows."""

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from syncdevice import Replica

from bench.report import Demand, Outcome
from bench.server import Server

ROWS = 100_000
ROUNDS = 5


def run(server: Server) -> Outcome:
    server.fill(ROWS)
    ours, limits = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for at in range(ROUNDS + 1):
            loaded = Path(folder, f"replica{at}.db")
            spent, least = _load(server, loaded), _executemany(loaded, Path(folder, f"bare{at}.db"))
            if at:  # the first is a warm-up of both
                ours.append(ROWS / spent)
                limits.append(ROWS / least)
    found, limit = median(ours), median(limits)
    return Outcome(
        "replica",
        f"first load of {ROWS:,} rows into SQLite by the SDK: {found:,.0f} rows/s",
        f"executemany of the parsed rows: {limit:,.0f} rows/s",
        {"rows_per_s": found, "limit_rows_per_s": limit, "ratio": found / limit},
        [Demand("ratio", at_least=0.4), Demand("rows_per_s", at_least=81_600, aim=True)],
    )


def _load(server: Server, path: Path) -> float:
    replica = Replica.enroll(server.url, server.code(), path, name=path.name)
    started = time.perf_counter()
    report = replica.sync()
    spent = time.perf_counter() - started
    if report.upserted < ROWS:
        raise RuntimeError(f"Only {report.upserted} rows came.")
    return spent


def _executemany(loaded: Path, path: Path) -> float:
    """The same rows into the same table, without triggers, in one transaction."""
    with closing(sqlite3.connect(loaded)) as source:
        (table,) = source.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'contact'").fetchone()
        (mode,) = source.execute("PRAGMA journal_mode").fetchone()
        rows = source.execute("SELECT * FROM contact").fetchall()
    with closing(sqlite3.connect(path)) as target:
        target.execute(f"PRAGMA journal_mode = {mode}")
        target.execute(table)
        marks = ", ".join("?" * len(rows[0]))
        started = time.perf_counter()
        with target:
            target.executemany(f"INSERT INTO contact VALUES ({marks})", rows)
        return time.perf_counter() - started
