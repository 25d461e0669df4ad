"""Keeps functions, triggers, the feed and the history's partitions in step with the declarations: part of `migrate`."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from django.db import connection, transaction

from sync.capture import authored
from sync.declare import Granting, grantings
from sync.epoch import standing_of
from sync.follow import (
    Follow,
    follow_function_name,
    follow_of,
    locks_on_insert,
    locks_on_update,
    rows_that_follow,
)
from sync.grantings import grants_function_name, grants_of
from sync.sql import block, blocks, literal, quote
from sync.wire import Entity, entities

MIGRATE_AUTHOR = "migrate"
_LOCK = 5_021_974_301  # any number that is ours: two `migrate` at once take turns


@dataclass(frozen=True)
class Capture:
    """The SQL that captures an entity, or what rows grant; `digest` and `wire_digest` tell whether it has changed.

    `functions`: by name. `tables`: the own one first, then those that have triggers of it too. `restamp` makes up for
    what came before the triggers.
    """

    name: str
    functions: dict[str, str]
    triggers: str
    restamp: str
    tables: tuple[str, ...]

    @property
    def trigger_count(self) -> int:
        """Four on its own table, two on each other one that its paths lead through."""
        return 4 + 2 * (len(self.tables) - 1)

    @property
    def digest(self) -> str:
        return _digest(*self.functions.values(), self.triggers)

    @property
    def wire_digest(self) -> str:
        return _digest(self.restamp)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _function_names(name: str) -> dict[str, str]:
    """Of every function that what is captured under this name may have; unquoted."""
    names = {f"{op}_function": f"sync_capture_{name}_{op}" for op in ("insert", "update", "delete", "truncate")}
    return names | {"follow_function": follow_function_name(name), "grants_function": grants_function_name(name)}


def capture_of(entity: Entity) -> Capture:
    """The capture SQL of an entity, made from its declaration."""
    names = _function_names(entity.name)
    name = {"entity": literal(entity.name)}
    new = {"new_row": entity.row_sql("n", "r.rev"), "new_scopes": entity.scopes_sql("n")}
    now = {kind: block("capture.sql", kind, table=entity.table, **new) for kind in ("row_now", "scopes_now")}
    first = {"first_row": entity.row_sql("n", "1"), "locks": locks_on_insert(entity.paths)}
    old = {"old_row": entity.row_sql("o", "r.rev - 1")}
    gone = old | {"hidden_row": entity.hidden_sql("o")}
    columns = {"old_columns": entity.columns_sql("o"), "new_columns": entity.columns_sql("n")}
    feed = {"feed": block("capture.sql", "feed_of_captured", **name)}
    locks = {"locks": locks_on_update(entity.paths, "id")}

    def function(op: str, kind: str, **parts: str) -> tuple[str, str]:
        own = names[f"{op}_function"]
        return own, block("capture.sql", f"{kind}_function", **{f"{kind}_function": quote(own)}, **name, **parts)

    functions = dict(
        (
            function("insert", "insert", table=entity.table, **now, **new, **first),
            function("update", "update", table=entity.table, **now, **old, **columns, **feed, **locks),
            function("delete", "delete", source="old_rows", **gone),
            function("truncate", "delete", source=entity.table, **gone),
        )
    )
    quoted = {kind: quote(names[kind]) for kind in names if names[kind] in functions}
    triggers = block("capture.sql", "triggers", table=entity.table, **quoted)
    restamp = block("capture.sql", "restamp", table=entity.table, **name, **new, **feed)
    capture = Capture(entity.name, functions, triggers, restamp, (entity.table,))
    return _following(capture, follow_of(rows_that_follow(entity)))


def granting_capture(granting: Granting) -> Capture:
    """What keeps the grants in step with the rows that grant them."""
    grants = grants_of(granting)
    functions = {grants_function_name(granting.label): grants.function}
    table = quote(granting.model._meta.db_table)
    return _following(Capture(granting.label, functions, grants.triggers, grants.restamp, (table,)), grants.follow)


def _following(capture: Capture, follow: Follow | None) -> Capture:
    if follow is None:
        return capture
    return replace(
        capture,
        functions=capture.functions | {follow_function_name(capture.name): follow.function},
        triggers=f"{capture.triggers}\n{follow.triggers}",
        tables=capture.tables + follow.tables,
    )


@cache
def captures() -> dict[str, Capture]:
    """Of every declared entity and granting, by name; only the name of a granting has a dot in it."""
    return {name: capture_of(entity) for name, entity in entities().items()} | {
        granting.label: granting_capture(granting) for granting in grantings()
    }


def after_migrate(**_: Any) -> None:
    """Bring the database in step with the declarations, in one transaction. Does nothing where nothing changed."""
    if "sync_start" not in connection.introspection.table_names():
        return  # the tables themselves were migrated away, or not all of them are there yet
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        cursor.execute(blocks("functions.sql")["all"])
        cursor.execute(block("epoch.sql", "first_epoch"))
        cursor.execute(block("epoch.sql", "new_start"))
        tables = {quote(table) for table in connection.introspection.table_names(cursor)}
        installed = {name: (digest, wire) for name, digest, wire in _installed(cursor)}
        for name in installed.keys() - captures().keys():
            _drop(cursor, name)
            if "." in name:
                cursor.execute(block("grantings.sql", "retire"), {"label": name})
            else:
                cursor.execute(block("capture.sql", "retire_entity"), {"entity": name})
        for name, capture in captures().items():
            if capture.tables[0] in tables:
                _install(cursor, capture, *installed.get(name, ("", "")))
        cursor.execute(block("maintain.sql", "partitions"))
    standing_of(None)  # a database that was restored is noticed before anybody writes to it


def _installed(cursor: Any) -> list[tuple[str, str, str]]:
    cursor.execute("SELECT entity, digest, wire_digest FROM sync_capture")
    return [(name, digest, wire) for name, digest, wire in cursor.fetchall()]


def _drop(cursor: Any, name: str) -> None:
    """The triggers go with their functions."""
    names = ", ".join(f"{quote(function)}()" for function in _function_names(name).values())
    cursor.execute(f"DROP FUNCTION IF EXISTS {names} CASCADE")


def _install(cursor: Any, capture: Capture, digest: str, wire_digest: str) -> None:
    if digest == capture.digest and wire_digest == capture.wire_digest:
        return
    # No writer may come between the new triggers and the comparison of the rows; readers may.
    cursor.execute(f"LOCK TABLE {', '.join(capture.tables)} IN SHARE ROW EXCLUSIVE MODE")
    _drop(cursor, capture.name)
    for function in capture.functions.values():
        cursor.execute(function)
    cursor.execute(capture.triggers)
    if wire_digest != capture.wire_digest:
        with authored(MIGRATE_AUTHOR):
            cursor.execute(capture.restamp)
    cursor.execute(
        block("capture.sql", "remember"),
        {
            "entity": capture.name,
            "table": capture.tables[0],
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
    bodies = "".join(capture.functions[name].split("$body$")[1] for name in sorted(capture.functions))
    known = (capture.digest, capture.wire_digest, capture.trigger_count)
    return (digest, wire_digest, triggers) == known and source == bodies
