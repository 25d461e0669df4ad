"""The SQLite replica of a device, as one SQL script made from the document of `GET /sync/schema`.

Pure: no Django, no clock, no I/O. A device in any language runs the script once, in one transaction, and from then on
its application writes plain SQL: triggers keep every change in `_sync_outbox`, already in wire form.
The script may be run again on a replica that has it; what waits in the outbox stays. `docs/protocol.md` has the conventions.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Field = dict[str, Any]

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
_NOW = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
_NOT_APPLYING = 'NOT EXISTS (SELECT 1 FROM "_sync_state" WHERE "applying")'
_GROUP = '(SELECT "group" FROM "_sync_state")'

_CORE = f"""\
CREATE TABLE IF NOT EXISTS "_sync_state" (
  "one" INTEGER PRIMARY KEY CHECK ("one" = 1),
  "applying" INTEGER NOT NULL DEFAULT 0,
  "group" TEXT,
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
    old = _object(("1", f["name"], f"json_quote({_remembered(f, _column(None, f))} || '')") for f in fields)
    return f"""BEFORE INSERT ON "{name}"
WHEN {_NOT_APPLYING}
BEGIN
  DELETE FROM "_sync_replaced" WHERE "entity" = '{name}' AND "row" = NEW."id";
  INSERT INTO "_sync_replaced" ("entity", "row", "rev", "old", "seq")
    SELECT '{name}', "id", "_rev", {old}, (SELECT coalesce(max("seq"), 0) FROM "_sync_outbox")
    FROM "{name}" WHERE "id" = NEW."id";
END;"""


def _after_insert(name: str, fields: list[Field]) -> str:
    # A NULL is sent only where the column has a default: elsewhere it cannot be told from a column left out,
    # and leaving it out lets the server fill it.
    created = _object(
        (
            "1" if f.get("default") is not None else f"{_column('NEW', f)} IS NOT NULL",
            f["name"],
            _wire(f, _column("NEW", f)),
        )
        for f in fields
    )

    def was(field: Field) -> str:
        return f"""json_extract(r."old", '$."{field["name"]}"')"""

    def old(field: Field) -> str:
        value = f"json_extract({was(field)}, '$')"
        return f"CAST({value} AS INTEGER)" if field["type"] == "integer" else value

    def changed(field: Field) -> str:
        if field["type"] == "decimal":
            return _unequal_decimals(_column("NEW", field), old(field))
        return f"{_remembered(field, _column('NEW', field))} IS NOT {was(field)}"

    this = f""""entity" = '{name}' AND "row" = NEW."id\""""
    bad_id = _text(f"the id of a row of {name} must be a uuid in lower case")
    known_rev = f'(SELECT "rev" FROM "_sync_replaced" WHERE {this})'
    changes, amounts = _differences(fields, changed, old)
    return f"""AFTER INSERT ON "{name}"
WHEN {_NOT_APPLYING}
BEGIN
  SELECT RAISE(ABORT, {bad_id}) WHERE length(NEW."id") <> 36 OR NEW."id" GLOB '*[^-0-9a-f]*';
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


def _after_update(name: str, fields: list[Field]) -> str | None:
    if not fields:
        return None

    def changed(field: Field) -> str:
        new, old = _column("NEW", field), _column("OLD", field)
        return _unequal_decimals(new, old) if field["type"] == "decimal" else f"{new} IS NOT {old}"

    columns = ", ".join(f'"{f["name"]}"' for f in fields)
    changes, amounts = _differences(fields, changed, lambda f: _column("OLD", f))
    return f"""AFTER UPDATE OF {columns} ON "{name}"
WHEN {_NOT_APPLYING} AND ({_tree([changed(f) for f in fields], " OR ")})
BEGIN
  INSERT INTO "_sync_outbox" ("entity", "row", "op", "base", "set", "add", "group")
    VALUES ('{name}', NEW."id", 'update', OLD."_rev",
      {changes},
      {amounts}, {_GROUP});
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


# Expressions ------------------------------------------------------------------------------------------------------


def _differences(fields: list[Field], changed: Callable[[Field], str], old: Callable[[Field], str]) -> tuple[str, str]:
    """Two expressions, `set` and `add`, each JSON text or NULL when empty. What a counter cannot add exactly is set."""
    sets, adds = [], []
    for field in fields:
        new = _column("NEW", field)
        condition = changed(field)
        if field.get("counter") and field["type"] in _DIFFERENCE:
            exact, amount = _DIFFERENCE[field["type"]](new, old(field))
            adds.append((f"{condition} AND {exact}", field["name"], f"json_quote({amount})"))
            condition += f" AND NOT coalesce({exact}, 0)"
        sets.append((condition, field["name"], _wire(field, new)))
    return f"nullif({_object(sets)}, '{{}}')", f"nullif({_object(adds)}, '{{}}')" if adds else "NULL"


def _object(members: Iterable[tuple[str, str, str]]) -> str:
    """A JSON object as text, of (condition, name, JSON text). Concatenated, since functions take 100 arguments at most."""
    pieces = []
    for condition, name, value in members:
        piece = f"',\"{name}\":' || {value}"
        pieces.append(piece if condition == "1" else f"CASE WHEN {condition} THEN {piece} ELSE '' END")
    return f"'{{' || substr({_tree(pieces, ' || ')}, 2) || '}}'" if pieces else "'{}'"


def _tree(terms: list[str], operator: str) -> str:
    """`terms` joined two levels deep: SQLite limits the depth of an expression (1,000) and of brackets (100)."""
    chunks = [operator.join(terms[i : i + 40]) for i in range(0, len(terms), 40)]
    return operator.join(f"({chunk})" for chunk in chunks) if len(chunks) > 1 else chunks[0]


def _column(row: str | None, field: Field) -> str:
    return f'{row}."{field["name"]}"' if row else f'"{field["name"]}"'


def _wire(field: Field, value: str) -> str:
    """JSON text of a column's value, as protocol.md wants it. What is not of the type goes as it is: the server says why not."""
    match field["type"]:
        case "boolean":
            return f"CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE json_quote({value}) END"
        case "integer":
            return (
                f"CASE WHEN typeof({value}) = 'integer' AND {value} NOT BETWEEN -9007199254740992 AND 9007199254740992"
                f" THEN '\"' || {value} || '\"' ELSE json_quote({value}) END"
            )
        case "real":
            # 15 digits where they are enough, else 17: json_quote() always writes 15 and loses the last bits.
            return (
                f"CASE WHEN typeof({value}) <> 'real' OR CAST(json_quote({value}) AS REAL) = {value}"
                f" THEN json_quote({value}) WHEN abs({value}) > 1.7976931348623157e308 THEN json_quote({value} || '')"
                f" ELSE printf('%!.17g', {value}) END"
            )
        case "datetime":
            # SQLite's datetime() and most languages leave the zone of a UTC time out.
            return (
                f"json_quote(CASE WHEN {value} GLOB '????-??-??[ T]??:??:??*' AND substr({value}, 20) NOT GLOB '*[-+Zz]*'"
                f" THEN replace({value}, ' ', 'T') || 'Z' ELSE {value} END)"
            )
        case "json":
            return f"coalesce(json({value}), 'null')"
        case "binary":
            return f"json_quote({_base64(value)})"
        case _:
            return f"json_quote({value})"


def _remembered(field: Field, value: str) -> str:
    """As `_wire`, to compare only. Hexadecimal is quick where base64 would read a stored blob anew for every three bytes."""
    return (
        f"json_quote(CASE WHEN {value} IS NOT NULL THEN hex({value}) END)"
        if field["type"] == "binary"
        else _wire(field, value)
    )


def _unequal_decimals(new: str, old: str) -> str:
    """Not merely written otherwise: 12.50, read as a number and written back as 12.5, is no edit."""
    return (
        f"({new} IS NOT {old} AND ({new} IS NULL OR {old} IS NULL"
        f" OR max(length({new}), length({old})) > 15 OR {new} + 0 <> {old} + 0))"
    )


def _base64(value: str) -> str:
    """Base64 text of a blob with SQLite's own functions only: three bytes at a time."""

    def sextet(shift: int) -> str:
        return f"substr('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 1 + (v >> {shift} & 63), 1)"

    def nibble(digit: int) -> str:
        return f"instr('123456789ABCDEF', substr(h, {digit}, 1)) << {24 - 4 * digit}"

    return (
        f"CASE WHEN typeof({value}) <> 'blob' THEN {value} ELSE (SELECT coalesce(group_concat({sextet(18)} || {sextet(12)} ||"
        f" CASE WHEN n > 2 THEN {sextet(6)} ELSE '=' END || CASE WHEN n > 4 THEN {sextet(0)} ELSE '=' END, ''), '') FROM ("
        f"SELECT n, {' | '.join(f'({nibble(d)})' for d in range(1, 7))} AS v FROM ("
        f"SELECT length(b) * 2 AS n, hex(b) || '0000' AS h FROM (SELECT substr({value}, 1 + 3 * key, 3) AS b FROM json_each('[' || substr(replace("
        f"hex(zeroblob((length({value}) + 2) / 3)), '00', ',0'), 2) || ']'))))) END"
    )


def _integer_difference(new: str, old: str) -> tuple[str, str]:
    exact = f"typeof({new}) = 'integer' AND typeof({old}) = 'integer' AND typeof({new} - {old}) = 'integer'"
    return exact, f"CAST({new} - {old} AS TEXT)"


def _decimal_difference(new: str, old: str) -> tuple[str, str]:
    """Exact up to 18 digits: both numbers as integers of the finer one's scale, never through a binary float."""

    def places(value: str) -> str:
        return f"(CASE instr({value}, '.') WHEN 0 THEN 0 ELSE length({value}) - instr({value}, '.') END)"

    def scaled(value: str) -> str:
        return f"(replace({value}, '.', '') || substr('000000000000000000', 1, s - {places(value)}))"

    def plain(value: str) -> str:
        return (
            f"{value} GLOB '*[0-9]*' AND {value} NOT GLOB '*[^-0-9.]*'"
            f" AND {value} NOT GLOB '?*-*' AND {value} NOT GLOB '*.*.*'"
        )

    scale = f"(SELECT max({places(new)}, {places(old)}) AS s)"
    exact = (
        f"{plain(new)} AND {plain(old)}"
        f" AND (SELECT max(length({scaled(new)}), length({scaled(old)})) <= 18 FROM {scale})"
    )
    amount = (
        "(SELECT CASE WHEN d < 0 THEN '-' ELSE '' END || CASE s WHEN 0 THEN abs(d) ELSE"
        " substr(p, 1, length(p) - s) || '.' || substr(p, -s) END"
        " FROM (SELECT s, d, printf('%0*d', s + 1, abs(d)) AS p"
        f" FROM (SELECT s, CAST({scaled(new)} AS INTEGER) - CAST({scaled(old)} AS INTEGER) AS d FROM {scale})))"
    )
    return exact, amount


_DIFFERENCE = {"integer": _integer_difference, "decimal": _decimal_difference}


def _text(value: str) -> str:
    """A SQL string literal. A NUL cannot stand in SQL text, and JSON writes it as an escape."""
    return "'" + value.replace("'", "''") + "'"


def _one_line(value: str) -> str:
    return " ".join(value.split())
