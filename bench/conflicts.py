"""`conflicts`: 1,000 changes that are all stale and merge, beside 1,000 plain ones of the same rows, over HTTP.

A stale change costs a look into the history, the merge, and the whole row in the answer; one in dispute a record too.
"""

import time
from statistics import median
from typing import Any

import msgspec
import psycopg

from bench.load import Client
from bench.report import Demand, Outcome
from bench.rows import contacts, creates, uuid7
from bench.server import Server

ROWS = 1_000
ROUNDS = 7


def run(server: Server) -> Outcome:
    client = Client(server.devices(1)[0])
    rows = [row["id"] for row in contacts(ROWS)]
    _send(client, creates(contacts_with(rows)), "applied")
    taken: dict[str, list[float]] = {"plain": [], "merged": [], "disputed": []}
    with server.connect() as connection:
        rev = 1
        for at in range(ROUNDS + 1):
            spent = {"plain": _push(client, rows, rev, f"plain {at}", "applied")}
            _write(connection, "phone", at)
            spent["merged"] = _push(client, rows, rev + 1, f"stale {at}", "merged")
            _write(connection, "title", at)
            spent["disputed"] = _push(client, rows, rev + 3, f"disputed {at}", "conflict")
            rev += 4  # the last one wrote nothing
            for kind, seconds in spent.items() if at else ():  # the first is a warm-up of all
                taken[kind].append(seconds)
    client.close()
    base, stale, dispute = (median(found) for found in taken.values())
    return Outcome(
        "conflicts",
        f"{ROWS:,} stale changes that merge: {stale * 1000:.0f} ms, in dispute: {dispute * 1000:.0f} ms",
        f"{ROWS:,} plain changes of the same rows: {base * 1000:.0f} ms",
        {"merged": stale / base, "disputed": dispute / base, "plain_ms": base * 1000},
        [Demand("merged", at_most=4), Demand("disputed", at_most=4)],
    )


def contacts_with(ids: list[str]) -> list[dict[str, str]]:
    return [row | {"id": id} for row, id in zip(contacts(len(ids)), ids, strict=True)]


def _write(connection: psycopg.Connection, column: str, at: int) -> None:
    """Somebody else changes every row."""
    connection.execute(f"UPDATE entities_contact SET {column} = 'another''s ' || %s::text", [at])


def _push(client: Client, rows: list[str], base: int, title: str, status: str) -> float:
    """The seconds of a batch that gives every row another title."""
    now = int(time.time() * 1000)
    mutations: list[dict[str, Any]] = [
        {"id": uuid7(now + at), "entity": "contact", "row": row, "op": "update", "base": base, "set": {"title": title}}
        for at, row in enumerate(rows)
    ]
    return _send(client, msgspec.json.encode({"mutations": mutations}), status)


def _send(client: Client, body: bytes, status: str) -> float:
    request = client.target.request("POST", "/sync/push", body)
    started = time.perf_counter()
    answer = client.send(request)
    spent = time.perf_counter() - started
    if answer.count(f'"status":"{status}"'.encode()) != ROWS:
        raise RuntimeError(f"Not every row was {status}: {answer[:500]!r}")
    return spent
