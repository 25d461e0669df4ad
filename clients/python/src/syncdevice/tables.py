"""Rows of the synced tables, between wire form and column form."""

import base64
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any

from syncdevice.database import Entity, quote
from syncdevice.outbox import COLUMNS, Mutation, Row


def column_values(entity: Entity) -> Callable[[Iterable[Row]], Iterator[Any]]:
    """A function from rows in wire form to their columns' values. It raises KeyError for a row that lacks a field."""
    get = itemgetter(*entity.columns)
    places = [(i, entity.kinds.get(c)) for i, c in enumerate(entity.columns)]
    json_places = [i for i, kind in places if kind == "json"]
    binary_places = [i for i, kind in places if kind == "binary"]
    if not json_places and not binary_places:
        return lambda rows: map(get, rows)  # SQLite's column types do the rest

    def convert(rows: Iterable[Row]) -> Iterator[list[Any]]:
        for row in rows:
            values = list(get(row))
            for i in json_places:
                if values[i] is not None:
                    values[i] = json.dumps(values[i], ensure_ascii=False, separators=(",", ":"))
            for i in binary_places:
                if values[i] is not None:
                    values[i] = base64.b64decode(values[i])
            yield values

    return convert


def waiting_mutations(conn: sqlite3.Connection, entity: str, row: str | None = None) -> dict[str, list[Mutation]]:
    """What waits in the outbox for an entity (or one row of it), by row, in order."""
    columns = ", ".join(map(quote, COLUMNS))
    query = f'SELECT {columns} FROM "_sync_outbox" WHERE "entity" = ? AND (?2 IS NULL OR "row" = ?2) ORDER BY "seq"'
    waiting: dict[str, list[Mutation]] = {}
    for values in conn.execute(query, (entity, row)):
        mutation = Mutation(*values)
        waiting.setdefault(mutation.row, []).append(mutation)
    return waiting


def get_row(conn: sqlite3.Connection, entity: Entity, row: str) -> Row | None:
    """A row in column form."""
    columns = ", ".join(map(quote, entity.columns))
    values = conn.execute(f"SELECT {columns} FROM main.{quote(entity.name)} WHERE id = ?", (row,)).fetchone()
    return None if values is None else dict(zip(entity.columns, values, strict=True))


def put_row(conn: sqlite3.Connection, entity: Entity, row: str, values: Row | None) -> None:
    """Make the table's row what `values` says, in column form; None deletes it. An application's own columns stay."""
    if values is None:
        conn.execute(f"DELETE FROM main.{quote(entity.name)} WHERE id = ?", (row,))
        return
    columns = ", ".join(map(quote, entity.columns))
    marks = ", ".join("?" * len(entity.columns))
    sets = ", ".join(f"{quote(c)} = excluded.{quote(c)}" for c in entity.columns[1:])
    conn.execute(
        f"INSERT INTO main.{quote(entity.name)} ({columns}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {sets}",
        tuple(values[c] for c in entity.columns),
    )
