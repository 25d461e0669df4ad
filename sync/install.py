"""Keeps functions, triggers, the feed and the history's partitions in step with the declarations: part of `migrate`."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import connection, transaction

from sync.capture import authored
from sync.follow import follow_function_name, follow_of, locks_on_insert, locks_on_update
from sync.sql import block, blocks, literal, quote
from sync.wire import Entity, entities

MIGRATE_AUTHOR = "migrate"
_LOCK = 5_021_974_301  # any number that is ours: two `migrate` at once take turns


@dataclass(frozen=True)
class Capture:
    """The SQL that captures one entity, and what tells whether it has changed."""

    entity: Entity
    functions: dict[str, str]
    triggers: str
    restamp: str
    tables: tuple[str, ...]

    @property
    def trigger_count(self) -> int:
        """Four on its own table, two on each other one that its scopes lead through."""
        return 4 + 2 * (len(self.tables) - 1)

    @property
    def digest(self) -> str:
        return _digest(*self.functions.values(), self.triggers)

    @property
    def wire_digest(self) -> str:
        return _digest(self.restamp)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _function_names(entity: str) -> dict[str, str]:
    names = {f"{op}_function": f"sync_capture_{entity}_{op}" for op in ("insert", "update", "delete", "truncate")}
    names["follow_function"] = follow_function_name(entity)
    return {name: quote(function) for name, function in names.items()}


def capture_of(entity: Entity) -> Capture:
    """The capture SQL of an entity, made from its declaration."""
    names = _function_names(entity.name)
    name = {"entity": literal(entity.name)}
    new = {"new_row": entity.row_sql("n", "r.rev"), "new_scopes": entity.scopes_sql("n")}
    first = {"first_row": entity.row_sql("n", "1")}
    old = {"old_row": entity.row_sql("o", "r.rev - 1")}
    gone = old | {"hidden_row": entity.hidden_sql("o")}
    columns = {"old_columns": entity.columns_sql("o"), "new_columns": entity.columns_sql("n")}
    feed = {"feed": block("capture.sql", "feed_of_captured", **name)}

    def function(op: str, kind: str, **parts: str) -> str:
        return block(
            "capture.sql", f"{kind}_function", **{f"{kind}_function": names[f"{op}_function"]}, **name, **parts
        )

    functions = {
        "insert": function("insert", "insert", **new, **first, locks=locks_on_insert(entity)),
        "update": function("update", "update", **new, **old, **columns, **feed, locks=locks_on_update(entity)),
        "delete": function("delete", "delete", source="old_rows", **gone),
        "truncate": function("truncate", "delete", source=entity.table, **gone),
    }
    triggers = block("capture.sql", "triggers", table=entity.table, **names)
    restamp = block("capture.sql", "restamp", table=entity.table, **name, **new, **feed)
    others: tuple[str, ...] = ()
    if follow := follow_of(entity):
        functions["follow"] = follow.function
        triggers += "\n" + follow.triggers
        others = follow.tables
    return Capture(entity, functions, triggers, restamp, (entity.table, *others))


@cache
def captures() -> dict[str, Capture]:
    """The capture of every declared entity, by its name."""
    return {name: capture_of(entity) for name, entity in entities().items()}


def after_migrate(**_: Any) -> None:
    """Bring the database in step with the declarations, in one transaction. Does nothing where nothing changed."""
    if "sync_capture" not in connection.introspection.table_names():
        return  # the tables themselves were migrated away
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        cursor.execute(blocks("functions.sql")["all"])
        cursor.execute(block("maintain.sql", "first_epoch"))
        tables = set(connection.introspection.table_names(cursor))
        installed = {name: (digest, wire) for name, digest, wire in _installed(cursor)}
        for name in installed.keys() - entities().keys():
            cursor.execute(block("capture.sql", "drop_functions", **_function_names(name)))
            cursor.execute(block("capture.sql", "retire_entity"), {"entity": name})
        for name, capture in captures().items():
            if capture.entity.model._meta.db_table in tables:
                _install(cursor, capture, *installed.get(name, ("", "")))
        cursor.execute(block("maintain.sql", "partitions"))


def _installed(cursor: Any) -> list[tuple[str, str, str]]:
    cursor.execute("SELECT entity, digest, wire_digest FROM sync_capture")
    return [(name, digest, wire) for name, digest, wire in cursor.fetchall()]


def _install(cursor: Any, capture: Capture, digest: str, wire_digest: str) -> None:
    if digest == capture.digest and wire_digest == capture.wire_digest:
        return
    # No writer may come between the new triggers and the comparison of the rows; readers may.
    cursor.execute(f"LOCK TABLE {', '.join(capture.tables)} IN SHARE ROW EXCLUSIVE MODE")
    cursor.execute(block("capture.sql", "drop_functions", **_function_names(capture.entity.name)))
    for function in capture.functions.values():
        cursor.execute(function)
    cursor.execute(capture.triggers)
    if wire_digest != capture.wire_digest:
        with authored(MIGRATE_AUTHOR):
            cursor.execute(capture.restamp)
    cursor.execute(
        block("capture.sql", "remember"),
        {
            "entity": capture.entity.name,
            "table": capture.entity.table,
            "digest": capture.digest,
            "wire_digest": capture.wire_digest,
        },
    )


def out_of_date() -> list[str]:
    """The entities whose capture is missing, switched off or older than their declaration; empty when all is well."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('sync_capture') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return sorted(captures())
        cursor.execute(block("capture.sql", "installed"))
        found = {row[0]: row[1:] for row in cursor.fetchall()}
    return sorted(name for name, capture in captures().items() if not _in_force(capture, found.get(name)))


def _in_force(capture: Capture, found: tuple[str, str, int, str] | None) -> bool:
    if found is None:
        return False
    digest, wire_digest, triggers, source = found
    in_order = ("delete", "insert", "truncate", "update", "follow")  # of the functions' names
    bodies = (capture.functions[op].split("$body$")[1] for op in in_order if op in capture.functions)
    known = (capture.digest, capture.wire_digest, capture.trigger_count)
    return (digest, wire_digest, triggers) == known and source == "".join(bodies)
