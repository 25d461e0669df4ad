"""The SQL by which rows follow the rows that they refer to from scope to scope, made from the paths of their scopes."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from django.db import connection

from sync.paths import Hop, Path
from sync.sql import block, literal, quote
from sync.wire import Entity, column_of, entities

Hops = tuple[Hop, ...]


class Follow(NamedTuple):
    """What is installed for an entity: the function, the triggers that call it, and the tables that have them."""

    function: str
    triggers: str
    tables: tuple[str, ...]


def follow_function_name(entity: str) -> str:
    """Unquoted."""
    return f"sync_follow_{entity}"


def locks_on_insert(entity: Entity) -> str:
    """The PL/pgSQL that locks what the rows of `new_rows` refer to on their way to a scope."""
    return _locks(_starts(entity.paths), "SELECT n.{column} FROM new_rows n")


def locks_on_update(entity: Entity) -> str:
    """The same for the rows that refer to another one than before; to the others, the lock on the row itself does."""
    changed = (
        "SELECT n.{column} FROM new_rows n LEFT JOIN old_rows o USING (id) WHERE o.{column} IS DISTINCT FROM n.{column}"
    )
    return _locks(_starts(entity.paths), changed)


def follow_of(entity: Entity) -> Follow | None:
    """What moves the rows of an entity when others move; None where its scopes lead through no other table."""
    if not (starts := _starts(entity.paths)):
        return None
    function = quote(follow_function_name(entity.name))
    tables = tuple(sorted({hops[-1].table for hops in starts}))
    steps = "\n".join(_step(entity, hops) for hops in starts)
    names = {f"{op}_trigger": quote(f"sync_follow_{entity.name}_{op}") for op in ("insert", "update")} | {
        "follow_function": function
    }
    return Follow(
        block("follow.sql", "function", entity=entity.name, follow_function=function, steps=steps),
        "\n".join(block("follow.sql", "triggers", table=table, **names) for table in tables),
        tables,
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


def _step(entity: Entity, hops: Hops) -> str:
    """What is done where a row moves that these hops lead to."""
    last = hops[-1]
    onward = [path for path in entity.paths if path.hops[: len(hops)] == hops]
    columns = sorted({path.column_at(len(hops) - 1) for path in onward})
    beyond = _starts(Path(path.hops[len(hops) :], path.column) for path in onward)
    moved = f"SELECT m.{{column}} FROM {last.table} m WHERE m.{last.key} = ANY (v_moved)"
    return block(
        "follow.sql",
        "step",
        regclass=literal(last.table),
        table=last.table,
        key=last.key,
        key_type=last.field.db_type(connection) or "",
        old_columns=", ".join(f"o.{column}" for column in columns),
        new_columns=", ".join(f"n.{column}" for column in columns),
        entity=entity.name,
        followers=entity.table,
        reach=_reach(hops),
        locks=_locks(beyond, moved),
        move=block(
            "follow.sql",
            "move",
            entity_literal=literal(entity.name),
            followers=entity.table,
            new_scopes=entity.scopes_sql("n"),
        ),
    )


def _reach(hops: Hops) -> str:
    """The condition on the row `e` that these hops lead from it to one of v_moved."""
    found = "v_moved"
    for hop, before in zip(reversed(hops[1:]), reversed(hops[:-1]), strict=True):
        found = f"ARRAY(SELECT p.{before.key} FROM {before.table} p WHERE p.{hop.column} = ANY ({found}))"
    return f"e.{hops[0].column} = ANY ({found})"
