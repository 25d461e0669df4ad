"""Schemas and real SQLite replicas for the tests of the device side."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syncdevice import database

from sync.sqlite_ddl import sqlite_ddl


def field(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    plain = {"nullable": True, "max_length": None, "choices": None, "references": None}
    return {"name": name, "type": kind, **plain, "read_only": False, "default": None, "counter": False, **changes}


def entity(name: str, *fields: dict[str, Any], writable: bool = True) -> dict[str, Any]:
    return {"name": name, "label": name, "writable": writable, "conflict": "server_wins", "fields": list(fields)}


def schema(*entities: dict[str, Any]) -> dict[str, Any]:
    return {"protocol": 1, "schema": "test", "entities": list(entities)}


CONTACT = entity(
    "contact",
    field("name", "text"),
    field("visits", "integer", counter=True),
    field("credit", "decimal", counter=True),
    field("tags", "json"),
    field("photo", "binary"),
)
ORDER = entity("order", field("contact_id", "uuid", references="contact"), field("total", "decimal", read_only=True))
PRODUCT = entity("product", field("name", "text"), writable=False)


def enrolled(path: Path, *entities: dict[str, Any]) -> sqlite3.Connection:
    """A replica as an enrolment leaves it, and the sync's own connection to it."""
    database.create_private(str(path))
    conn = database.connect(str(path))
    answer = {"device": "d", "token": "secret", "scopes": ["global"]}
    database.save_enrolment(conn, "http://server.test", "Tablet 12", answer)
    database.install(conn, sqlite_ddl(schema(*(entities or (CONTACT, ORDER, PRODUCT)))), '"1"')
    return conn


def outbox(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """What waits, with `set` and `add` read; members that are NULL are left out."""
    cursor = conn.execute(
        'SELECT "entity", "row", "op", "base", "set", "add", "group" FROM "_sync_outbox" ORDER BY "seq"'
    )
    names = [column[0] for column in cursor.description]
    return [
        {n: json.loads(v) if n in {"set", "add"} else v for n, v in zip(names, row, strict=True) if v is not None}
        for row in cursor
    ]


def wire(row: str, rev: int, **values: Any) -> dict[str, Any]:
    """A contact as a pull brings it."""
    return {"id": row, "_rev": rev, "name": None, "visits": None, "credit": None, "tags": None, "photo": None, **values}


def changes(*upserts: Mapping[str, Any], deletes: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"contact": {"upserts": list(upserts), "deletes": list(deletes)}}


def ids(count: int) -> list[str]:
    return [f"00000000-0000-4000-8000-{n:012x}" for n in range(count)]
