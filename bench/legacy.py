"""`legacy`: a first run of sync_legacy through the `sql` connector, beside what PostgreSQL alone needs for the rows.

The project reads every record, maps and validates it, and writes four rows for one: the row, its feed entry, its
history and its link. Two limits: the same rows sent as JSON by the page, as they must come from another system (as in
`push`); and one INSERT … SELECT within the database, which nothing that reads them can reach. Then two runs in which
nothing has changed: by the watermark, and by reading everything again.
"""

import time
from dataclasses import replace
from statistics import median

import msgspec
import psycopg
from sqlalchemy.engine import make_url

from bench.push import BATCH_ROWS, INSERT
from bench.report import Demand, Outcome
from bench.rows import COLUMNS, FIELDS, batches, contacts
from bench.server import FILL, Server
from entities.models import Contact
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Table
from legacy.mapping import F, Mapping
from legacy.models import Run
from legacy.runs import run as sync
from legacy.systems import System
from syncserver import collector

ROWS = 20_000
ROUNDS = 5
SOURCE = """
CREATE TABLE bench_source AS
SELECT n.nr, c.*, now() - interval '1 day' + n.nr * interval '1 second' AS changed_at
FROM (SELECT id, row_number() OVER (ORDER BY id)::int AS nr FROM entities_contact) n JOIN entities_contact c USING (id);
ALTER TABLE bench_source ADD PRIMARY KEY (nr);
CREATE INDEX ON bench_source (changed_at, nr);
CREATE TABLE bench_bare (LIKE entities_contact INCLUDING DEFAULTS, PRIMARY KEY (id));
ANALYZE bench_source
"""
EMPTY = """
TRUNCATE entities_contact, sync_feed, sync_history, legacy_link, legacy_cursor, legacy_run CASCADE;
TRUNCATE bench_bare
"""
MAPPING = Mapping(
    "contact",
    Contact,
    Table("bench_source", key="nr", stamp="changed_at"),
    fields=tuple(F(name, name) for name in FIELDS if name != "id"),
)


def run(server: Server) -> Outcome:
    collector.settle()  # as the command does
    url = make_url(server.database).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    found: dict[str, list[float]] = {"limit": [], "inside": [], "first": [], "quiet": [], "reread": []}
    with server.connect() as connection:
        connection.execute(FILL, [0, ROWS])
        connection.execute(SOURCE)
        for at in range(ROUNDS + 1):
            connection.execute(EMPTY)
            spent = {
                "limit": _insert(connection),
                "inside": _insert_inside(connection),
                "first": _sync(url, MAPPING, created=ROWS),
                "quiet": _sync(url, MAPPING),
                "reread": _sync(url, replace(MAPPING, mode="snapshot")),
            }
            for kind, seconds in spent.items() if at else ():  # the first is a warm-up of all
                found[kind].append(seconds)
        connection.execute("DROP TABLE bench_source, bench_bare")
    limit, inside, first, quiet, reread = (median(each) for each in found.values())
    return Outcome(
        "legacy",
        f"{ROWS:,} records through the sql connector: {ROWS / first:,.0f} rows/s; no change {quiet * 1000:.0f} ms, "
        f"read again {reread * 1000:.0f} ms",
        f"INSERT … SELECT FROM jsonb_to_recordset: {ROWS / limit:,.0f} rows/s; within the database: "
        f"{ROWS / inside:,.0f} rows/s",
        {
            "ratio": limit / first,
            "ratio_inside": inside / first,
            "rows_per_s": ROWS / first,
            "no_change": first / quiet,
            "reread": first / reread,
        },
        [
            Demand("ratio", at_least=0.1),
            Demand("ratio_inside", at_least=0.1, aim=True),
            Demand("no_change", at_least=5),
            Demand("reread", at_least=5, aim=True),
        ],
    )


def _insert(connection: psycopg.Connection) -> float:
    documents = [msgspec.json.encode(batch).decode() for batch in batches(contacts(ROWS), BATCH_ROWS)]
    started = time.perf_counter()
    for document in documents:
        connection.execute(INSERT, [document])  # commits
    return time.perf_counter() - started


def _insert_inside(connection: psycopg.Connection) -> float:
    connection.execute("TRUNCATE bench_bare")
    started = time.perf_counter()
    connection.execute(f"INSERT INTO bench_bare ({COLUMNS}) SELECT {COLUMNS} FROM bench_source")
    return time.perf_counter() - started


def _sync(url: str, mapping: Mapping, created: int = 0) -> float:
    """The seconds of one run."""
    started = time.perf_counter()
    this = sync(System("bench", lambda: Sql(url), (mapping,)))
    spent = time.perf_counter() - started
    if this.state != Run.State.DONE or this.counts.get("contact", {}).get("created", 0) != created:
        raise RuntimeError(f"The run did not do what it should: {this.state} {this.error} {this.counts}")
    return spent
