"""The SQLite replica of a device, as one SQL script made from the document of `GET /sync/schema`.

Pure: no Django, no clock, no I/O. A device in any language runs the script once, in one transaction, and from then on
its application writes plain SQL: triggers keep every change in `_sync_outbox`, already in wire form.
The script may be run again on a replica that has it; what waits in the outbox stays.

- Who applies the server's changes sets `_sync_state.applying` to 1 first and to 0 last, in one transaction.
- A group: set `_sync_state."group"` to a uuid at the start of a transaction and to NULL at its end.
- `_rev` is the row's last revision from the server; an application cannot change it.
- `_sync_outcome` is where who pushes keeps what was not simply applied; `_sync_replaced` serves the triggers alone.
"""

import base64
import json
import re
from typing import Any

from sync.sqlite_expressions import Field, column, comparable, differences, joined, json_object, unequal_decimals, wire

COLUMN_TYPES = {
    "text": "TEXT",
    "integer": "INTEGER",
    "real": "REAL",
    "decimal": "TEXT",
    "boolean": "INTEGER",
    "datetime": "TEXT",
    "date": "TEXT",
    "time": "TEXT",
    "uuid": "TEXT",
    "json": "TEXT",
    "binary": "BLOB",
}

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_UUID4 = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' ||"
    " substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
)
_UUID_GLOB = "-".join("[0-9a-f]" * digits for digits in (8, 4, 4, 4, 12))
_NOW = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
_NOT_APPLYING = 'NOT EXISTS (SELECT 1 FROM "_sync_state" WHERE "applying")'
_GROUP = '(SELECT "group" FROM "_sync_state")'

_CORE = f"""\
CREATE TABLE IF NOT EXISTS "_sync_state" (
  "one" INTEGER PRIMARY KEY CHECK ("one" = 1),
  "applying" INTEGER NOT NULL DEFAULT 0,
  "group" TEXT CHECK ("group" GLOB '{_UUID_GLOB}'),
  "protocol" INTEGER,
  "schema" TEXT,
  "schema_etag" TEXT,
  "token" TEXT,
  "token_at" TEXT,
  "url" TEXT,
  "device" TEXT,
  "device_token" TEXT,
  "device_name" TEXT,
  "scopes" TEXT,
  "last_sync_at" TEXT
);
INSERT OR IGNORE INTO "_sync_state" ("one") VALUES (1);

CREATE TABLE IF NOT EXISTS "_sync_outbox" (
  "seq" INTEGER PRIMARY KEY AUTOINCREMENT,
  "id" TEXT NOT NULL UNIQUE DEFAULT ({_UUID4}),
  "entity" TEXT NOT NULL,
  "row" TEXT NOT NULL,
  "op" TEXT NOT NULL,
  "base" INTEGER,
  "set" TEXT,
  "add" TEXT,
  "group" TEXT,
  "made_at" TEXT NOT NULL DEFAULT ({_NOW})
);
CREATE INDEX IF NOT EXISTS "_sync_outbox_row" ON "_sync_outbox" ("entity", "row");

CREATE TABLE IF NOT EXISTS "_sync_outcome" (
  "seq" INTEGER PRIMARY KEY AUTOINCREMENT,
  "id" TEXT NOT NULL UNIQUE,
  "entity" TEXT NOT NULL,
  "row" TEXT NOT NULL,
  "op" TEXT NOT NULL,
  "base" INTEGER,
  "set" TEXT,
  "add" TEXT,
  "group" TEXT,
  "made_at" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "rev" INTEGER,
  "conflict" TEXT,
  "errors" TEXT,
  "server_row" TEXT,
  "received_at" TEXT NOT NULL DEFAULT ({_NOW})
);

CREATE TABLE IF NOT EXISTS "_sync_replaced" (
  "entity" TEXT NOT NULL,
  "row" TEXT NOT NULL,
  "rev" INTEGER,
  "old" TEXT NOT NULL,
  "seq" INTEGER NOT NULL,
  PRIMARY KEY ("entity", "row")
);
"""


def sqlite_ddl(schema: dict[str, Any]) -> str:
    """The script for `schema`, the document of `GET /sync/schema`.

    Same document, same text. Raises ValueError for a name or a type that has no place in a replica.
    """
    parts = [
        f"-- Device replica, sync protocol {schema['protocol']}, schema {schema['schema']}.",
        "-- Run it in one transaction, at enrolment and again whenever the schema changes.",
        _CORE,
    ]
    for entity in schema["entities"]:
        _check_names(entity)
        parts += [_table(entity), _triggers(entity)]
    document = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    parts.append(f'UPDATE "_sync_state" SET "protocol" = {int(schema["protocol"])}, "schema" = {_text(document)};')
    return "\n".join(parts) + "\n"


def _check_names(entity: dict[str, Any]) -> None:
    names = [entity["name"], *(f["name"] for f in entity["fields"])]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a table or column of a replica: use lower-case letters, digits and _")
    for field in entity["fields"]:
        if field["name"] == "id":
            raise ValueError(f"{entity['name']}: id is the key of every entity and not one of its fields")
        if field["type"] not in COLUMN_TYPES:
            raise ValueError(f"{entity['name']}.{field['name']}: no SQLite column for type {field['type']!r}")


def _table(entity: dict[str, Any]) -> str:
    columns = [f'  "id" TEXT PRIMARY KEY NOT NULL DEFAULT ({_UUID4})', '  "_rev" INTEGER']
    for field in entity["fields"]:
        default = _default(field)
        columns.append(f'  "{field["name"]}" {COLUMN_TYPES[field["type"]]}{f" DEFAULT {default}" if default else ""}')
    notes = [f"-- {entity['name']}: {_one_line(entity.get('label') or entity['name'])}"]
    # No REFERENCES: the row referred to may lie outside the device's scopes, and then an application with
    # PRAGMA foreign_keys = ON could not write what the server allows.
    notes += [f"--   {f['name']} refers to {f['references']}" for f in entity["fields"] if f.get("references")]
    return "\n".join([*notes, f'CREATE TABLE IF NOT EXISTS "{entity["name"]}" (', ",\n".join(columns), ");"])


def _default(field: Field) -> str | None:
    value = field.get("default")
    if value is None:
        return None
    if field["type"] == "json":
        return _text(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    if field["type"] == "binary":
        return f"x'{base64.b64decode(value).hex()}'"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float) and COLUMN_TYPES[field["type"]] != "TEXT":
        return repr(value)
    return _text(str(value))


# Triggers ---------------------------------------------------------------------------------------------------------


def _triggers(entity: dict[str, Any]) -> str:
    name = entity["name"]
    writable = [f for f in entity["fields"] if not f.get("read_only")] if entity["writable"] else []
    wanted: dict[str, str | None]
    if not entity["writable"]:
        message = _text(f"{name} is read-only on devices")
        wanted = {f"{op.lower()}": _raise(name, f"BEFORE {op}", "", message) for op in ("INSERT", "UPDATE", "DELETE")}
    else:
        moved = _text(f"the id of a row of {name} cannot change: delete the row and insert another")
        wanted = {
            "before": _before_insert(name, writable),
            "insert": _after_insert(name, writable),
            "update": _after_update(name, writable),
            "delete": _after_delete(name),
            "id": _raise(name, 'BEFORE UPDATE OF "id"', ' AND NEW."id" IS NOT OLD."id"', moved),
            "rev": _keep_rev(name),
        }
    lines = []
    for suffix in ("before", "insert", "update", "delete", "id", "rev"):
        lines.append(f'DROP TRIGGER IF EXISTS "_sync_{name}_{suffix}";')
        if wanted.get(suffix):
            lines.append(f'CREATE TRIGGER "_sync_{name}_{suffix}" {wanted[suffix]}')
    return "\n".join(lines)


def _raise(name: str, event: str, when: str, message: str) -> str:
    return f'{event} ON "{name}"\nWHEN {_NOT_APPLYING}{when}\nBEGIN\n  SELECT RAISE(ABORT, {message});\nEND;'


def _before_insert(name: str, fields: list[Field]) -> str:
    # INSERT OR REPLACE deletes the old row without a word (or with a DELETE trigger, under recursive_triggers).
    # So the old row is remembered here, and the AFTER trigger finds out that it was an update.
    # || '' takes the JSON mark off a value, without which json_quote() would not quote it.
    old = json_object(("1", f["name"], f"json_quote({comparable(f, column(None, f))} || '')") for f in fields)
    return f"""BEFORE INSERT ON "{name}"
WHEN {_NOT_APPLYING}
BEGIN
  DELETE FROM "_sync_replaced" WHERE "entity" = '{name}' AND "row" = NEW."id";
  INSERT INTO "_sync_replaced" ("entity", "row", "rev", "old", "seq")
    SELECT '{name}', "id", "_rev", {old}, (SELECT coalesce(max("seq"), 0) FROM "_sync_outbox")
    FROM "{name}" WHERE "id" = NEW."id";
END;"""


def _after_insert(name: str, fields: list[Field]) -> str:
    # A NULL cannot be told from a column left out, and leaving it out lets the server fill it. Only where the column
    # may be NULL and has a default did the application mean it.
    created = json_object(
        (_sent_in_create(field), field["name"], wire(field, column("NEW", field))) for field in fields
    )

    def was(field: Field) -> str:
        return f"""json_extract(r."old", '$."{field["name"]}"')"""

    def old(field: Field) -> str:
        value = f"json_extract({was(field)}, '$')"
        return f"CAST({value} AS INTEGER)" if field["type"] == "integer" else value

    def changed(field: Field) -> str:
        if field["type"] == "decimal":
            return unequal_decimals(column("NEW", field), old(field))
        return f"{comparable(field, column('NEW', field))} IS NOT {was(field)}"

    this = f""""entity" = '{name}' AND "row" = NEW."id\""""
    bad_id = _text(f"the id of a row of {name} must be a uuid in lower case")
    known_rev = f'(SELECT "rev" FROM "_sync_replaced" WHERE {this})'
    changes, amounts = differences(fields, changed, old)
    return f"""AFTER INSERT ON "{name}"
WHEN {_NOT_APPLYING}
BEGIN
  SELECT RAISE(ABORT, {bad_id}) WHERE NEW."id" NOT GLOB '{_UUID_GLOB}';
  DELETE FROM "_sync_outbox" WHERE {this} AND "op" = 'delete'
    AND +"seq" > (SELECT "seq" FROM "_sync_replaced" WHERE {this});
  INSERT INTO "_sync_outbox" ("entity", "row", "op", "set", "group")
    SELECT '{name}', NEW."id", 'create', {created}, {_GROUP}
    WHERE NOT EXISTS (SELECT 1 FROM "_sync_replaced" WHERE {this});
  INSERT INTO "_sync_outbox" ("entity", "row", "op", "base", "set", "add", "group")
    SELECT '{name}', NEW."id", 'update', "rev", "changes", "amounts", {_GROUP} FROM (
      SELECT r."rev" AS "rev",
        {changes} AS "changes",
        {amounts} AS "amounts"
      FROM "_sync_replaced" AS r WHERE r."entity" = '{name}' AND r."row" = NEW."id")
    WHERE "changes" IS NOT NULL OR "amounts" IS NOT NULL;
  UPDATE "_sync_state" SET "applying" = 1 WHERE NEW."_rev" IS NOT {known_rev};
  UPDATE "{name}" SET "_rev" = {known_rev} WHERE "id" = NEW."id" AND "_rev" IS NOT {known_rev};
  UPDATE "_sync_state" SET "applying" = 0 WHERE "applying";
  DELETE FROM "_sync_replaced" WHERE {this};
END;"""


def _sent_in_create(field: Field) -> str:
    meant = field.get("nullable") and field.get("default") is not None
    return "1" if meant else f"{column('NEW', field)} IS NOT NULL"


def _after_update(name: str, fields: list[Field]) -> str | None:
    if not fields:
        return None

    def changed(field: Field) -> str:
        new, old = column("NEW", field), column("OLD", field)
        return unequal_decimals(new, old) if field["type"] == "decimal" else f"{new} IS NOT {old}"

    columns = ", ".join(f'"{f["name"]}"' for f in fields)
    changes, amounts = differences(fields, changed, lambda f: column("OLD", f))
    return f"""AFTER UPDATE OF {columns} ON "{name}"
WHEN {_NOT_APPLYING} AND ({joined([changed(f) for f in fields], " OR ")})
BEGIN
  INSERT INTO "_sync_outbox" ("entity", "row", "op", "base", "set", "add", "group")
    VALUES ('{name}', NEW."id", 'update', OLD."_rev",
      {changes},
      {amounts}, {_GROUP});
  DELETE FROM "_sync_replaced" WHERE "entity" = '{name}' AND "row" = NEW."id";
END;"""


def _after_delete(name: str) -> str:
    return f"""AFTER DELETE ON "{name}"
WHEN {_NOT_APPLYING}
BEGIN
  INSERT INTO "_sync_outbox" ("entity", "row", "op", "base", "group")
    VALUES ('{name}', OLD."id", 'delete', OLD."_rev", {_GROUP});
END;"""


def _keep_rev(name: str) -> str:
    # An application that writes a whole row back may write an older _rev than the one the sync has set meanwhile.
    return f"""AFTER UPDATE OF "_rev" ON "{name}"
WHEN {_NOT_APPLYING} AND NEW."_rev" IS NOT OLD."_rev"
BEGIN
  UPDATE "_sync_state" SET "applying" = 1;
  UPDATE "{name}" SET "_rev" = OLD."_rev" WHERE "id" = NEW."id";
  UPDATE "_sync_state" SET "applying" = 0;
END;"""


def _text(value: str) -> str:
    """A SQL string literal. A NUL cannot stand in SQL text, and JSON writes it as an escape."""
    return "'" + value.replace("'", "''") + "'"


def _one_line(value: str) -> str:
    return " ".join(value.split())
