"""The SQL by which rows follow the rows that they refer to from scope to scope, made from the paths of their scopes."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from django.db import connection

from sync.paths import Hop, Path
from sync.sql import block, literal, quote
from sync.wire import Entity, column_of, entities

Hops = tuple[Hop, ...]


class Follower(NamedTuple):
    """Rows that follow others: their table and its key, the paths, and the PL/pgSQL that moves the rows of `v_rows`."""

    name: str
    table: str
    key: str
    key_type: str
    paths: tuple[Path, ...]
    move: str


class Follow(NamedTuple):
    """What is installed for a follower: the function, the triggers that call it, and the tables that have them."""

    function: str
    triggers: str
    tables: tuple[str, ...]


def follow_function_name(follower: str) -> str:
    """Unquoted."""
    return f"sync_follow_{follower}"


def locks_on_insert(paths: Iterable[Path]) -> str:
    """The PL/pgSQL that locks what the rows of `new_rows` refer to on these paths."""
    return _locks(_starts(paths), "SELECT n.{column} FROM new_rows n")


def locks_on_update(paths: Iterable[Path], key: str) -> str:
    """The same for the rows that refer to another one than before; to the others, the lock on the row itself does."""
    other = f"LEFT JOIN old_rows o USING ({key}) WHERE o.{{column}} IS DISTINCT FROM n.{{column}}"
    return _locks(_starts(paths), f"SELECT n.{{column}} FROM new_rows n {other}")


def rows_that_follow(entity: Entity) -> Follower:
    """The rows of an entity, which move from scope to scope in the feed."""
    name = literal(entity.name)
    move = block("follow.sql", "move", entity_literal=name, followers=entity.table, new_scopes=entity.scopes_sql("n"))
    return Follower(entity.name, entity.table, "id", "uuid", entity.paths, move)


def follow_of(follower: Follower) -> Follow | None:
    """What moves the rows when others move; None where their paths lead through no other table."""
    if not (starts := _starts(follower.paths)):
        return None
    function = quote(follow_function_name(follower.name))
    tables = tuple(sorted({hops[-1].table for hops in starts}))
    steps = "\n".join(_step(follower, hops) for hops in starts)
    names = {
        "follow_function": function,
        "insert_trigger": quote(f"sync_follow_{follower.name}_insert"),
        "update_trigger": quote(f"sync_follow_{follower.name}_update"),
    }
    parts = {"follower": follower.name, "key_type": follower.key_type, "steps": steps}
    return Follow(
        block("follow.sql", "function", follow_function=function, **parts),
        "\n".join(block("follow.sql", "triggers", table=table, **names) for table in tables),
        tables,
    )


def late_of(entity: Entity, rows_max: int) -> str | None:
    """The statement that moves rows which came before their parents, so many; None where its rows follow no others."""
    if not (starts := _starts(entity.paths)):
        return None
    return block(
        "follow.sql",
        "late",
        entity_literal=literal(entity.name),
        followers=entity.table,
        new_scopes=entity.scopes_sql("n"),
        rows_max=str(rows_max),
        locks=_locks(starts, f"SELECT n.{{column}} FROM {entity.table} n WHERE n.id = ANY (v_rows)"),
        move=rows_that_follow(entity).move,
    )


@cache
def moving_fields(entity: str) -> frozenset[str]:
    """The fields of an entity whose change takes rows that refer to its rows from scope to scope."""
    table = entities()[entity].table
    columns = {
        path.column_at(place)
        for other in entities().values()
        for path in other.paths
        for place, hop in enumerate(path.hops)
        if hop.table == table
    }
    fields = entities()[entity].model._meta.concrete_fields
    return frozenset(field.attname for field in fields if quote(column_of(field)) in columns)


def _starts(paths: Iterable[Path]) -> list[Hops]:
    """Every way that begins one of the paths, each once, the shorter ones first."""
    found = {path.hops[:length] for path in paths for length in range(1, len(path.hops) + 1)}
    return sorted(found, key=lambda hops: (len(hops), [(hop.table, hop.column) for hop in hops]))


def _locks(ways: Iterable[Hops], first: str) -> str:
    """Lock the rows at the end of each way. `first` selects the keys of the rows that its first hop leads to."""

    def wanted(hops: Hops) -> str:
        *before, last = hops
        if not before:
            return first.format(column=last.column)
        at = before[-1]
        return f"SELECT p.{last.column} FROM {at.table} p WHERE p.{at.key} = ANY (ARRAY({wanted(tuple(before))}))"

    return "\n".join(
        block("follow.sql", "lock", table=hops[-1].table, key=hops[-1].key, wanted=wanted(hops)) for hops in ways
    )


def _step(follower: Follower, hops: Hops) -> str:
    """What is done where a row moves that these hops lead to."""
    last = hops[-1]
    onward = [path for path in follower.paths if path.hops[: len(hops)] == hops]
    columns = sorted({path.column_at(len(hops) - 1) for path in onward})
    beyond = _starts(replace(path, hops=path.hops[len(hops) :]) for path in onward)
    moved = f"SELECT m.{{column}} FROM {last.table} m WHERE m.{last.key} = ANY (v_moved)"
    return block(
        "follow.sql",
        "step",
        regclass=literal(last.table),
        table=last.table,
        key=last.key,
        moved_type=last.field.db_type(connection) or "",
        old_columns=", ".join(f"o.{column}" for column in columns),
        new_columns=", ".join(f"n.{column}" for column in columns),
        follower=follower.name,
        followers=follower.table,
        followers_key=follower.key,
        reach=_reach(hops),
        locks=_locks(beyond, moved),
        move=follower.move,
    )


def _reach(hops: Hops) -> str:
    """The condition on the row `e` that these hops lead from it to one of v_moved."""
    found = "v_moved"
    for hop, before in zip(reversed(hops[1:]), reversed(hops[:-1]), strict=True):
        found = f"ARRAY(SELECT p.{before.key} FROM {before.table} p WHERE p.{hop.column} = ANY ({found}))"
    return f"e.{hops[0].column} = ANY ({found})"
