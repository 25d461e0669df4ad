"""Writes one wave of checked mutations: one statement an entity and set of fields, whatever the number of rows."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec
import psycopg
from django.db import connection, models
from psycopg.abc import PQGen
from psycopg.copy import LibpqWriter
from psycopg.generators import copy_end
from psycopg.pq.abc import PGresult
from psycopg.waiting import WAIT_W

from sync.capture import set_author
from sync.checker import checker
from sync.decide import Candidate
from sync.mutation import Mutation
from sync.sql import block, cursor, quote
from sync.wire import Entity, column_of, entities

T = TypeVar("T")


def write_wave(wave: Sequence[Candidate], author: str, meanwhile: Callable[[], T]) -> T:
    """Write mutations that touch each row at most once, and return what `meanwhile` returns.

    It is called once, while PostgreSQL is busy if that can be. Raises what it raises, the database's errors, and
    Django's for a kept reference.
    """
    meanwhile = cache(meanwhile)
    by_entity: dict[str, list[Candidate]] = {}
    for candidate in wave:
        by_entity.setdefault(candidate.key.entity, []).append(candidate)
    parents_first = [(entity, by_entity[name]) for name, entity in entities().items() if name in by_entity]
    for entity, candidates in parents_first:
        creates = [c for c in candidates if c.mutation.op == "create"]
        if creates:
            insert(entity, [c.mutation for c in creates], [c.values.fields for c in creates], author, meanwhile)
        _update(entity, [c for c in candidates if c.mutation.op == "update"], author)
    for entity, candidates in reversed(parents_first):
        _delete(entity, [c for c in candidates if c.mutation.op == "delete"], author)
    return meanwhile()


def insert(
    entity: Entity,
    mutations: Sequence[Mutation],
    values: Sequence[Mapping[str, Any]],
    author: str,
    meanwhile: Callable[[], object],
) -> None:
    """Write the new rows of creates, with these fields in wire form. `meanwhile` is called while PostgreSQL is busy.

    What `meanwhile` raises is lost: call it again.
    """
    set_author(author, {mutation.row: mutation.id for mutation in mutations})
    insert_rows(entity, [mutation.row for mutation in mutations], values, meanwhile)


def insert_rows(
    entity: Entity,
    rows: Sequence[str],
    values: Sequence[Mapping[str, Any]],
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Write new rows with these fields in wire form; the transaction's author is set already.

    COPY is half the cost of an INSERT from JSON, and PostgreSQL writes the first rows while the last are sent.
    """
    defaults = checker(entity).defaults
    fixed = {name: default() for name, default in defaults.items() if not entity.callable_default(name)}
    records = [{"id": row, **fixed, **fields} for row, fields in zip(rows, values, strict=True)]
    for name in defaults.keys() - fixed.keys():
        for record in records:
            if name not in record:
                record[name] = defaults[name]()
    columns = _columns(entity, ["id", *defaults])
    _in_copy_form(columns.values(), records)
    names = ", ".join(quote(column_of(column)) for column in columns.values())
    statement = block("push.sql", "copy_rows", table=entity.table, columns=names)
    with cursor() as bound, bound.copy(statement, writer=_BusyWriter(bound, meanwhile)) as copy:
        for row in map(itemgetter(*columns), records):
            copy.write_row(row)


class _BusyWriter(LibpqWriter):
    """Does `meanwhile` between the end of a COPY and PostgreSQL's answer: then the triggers are at work."""

    def __init__(self, bound: psycopg.Cursor[Any], meanwhile: Callable[[], object]) -> None:
        super().__init__(bound)
        self._meanwhile = meanwhile

    def finish(self, exc: BaseException | None = None) -> None:
        if exc is not None:
            super().finish(exc)
        else:
            self.connection.wait(self._busily(copy_end(self._pgconn, None)))

    def _busily(self, ending: PQGen[PGresult]) -> PQGen[PGresult]:
        wanted = next(ending)
        while wanted == WAIT_W:
            wanted = ending.send((yield wanted))
        # Nothing may come between us and the answer.
        with suppress(Exception):
            self._meanwhile()
        while True:
            try:
                wanted = ending.send((yield wanted))
            except StopIteration as end:
                result: PGresult = end.value
                return result


def _in_copy_form(columns: Iterable[models.Field[Any, Any]], records: Iterable[dict[str, Any]]) -> None:
    """Replace what psycopg would not write as PostgreSQL reads it: JSON, and base64."""
    for column in columns:
        if isinstance(column, models.JSONField) or _is_binary(column):
            convert = b64decode if _is_binary(column) else _json
            for record in records:
                if (value := record[column.attname]) is not None:
                    record[column.attname] = convert(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _update(entity: Entity, candidates: Sequence[Candidate], author: str) -> None:
    if candidates:
        set_author(author, {c.key.row: c.mutation.id for c in candidates})
        update_rows(entity, [Change(c.key.row, c.values.fields, c.values.amounts) for c in candidates])


class Change(NamedTuple):
    """What one row gets: fields in wire form, and amounts that are added to its counters."""

    row: str
    fields: Mapping[str, Any]
    amounts: Mapping[str, Any] = MappingProxyType({})


def update_rows(entity: Entity, changes: Iterable[Change]) -> None:
    """One statement for each set of fields; the transaction's author is set already.

    Amounts travel under the name of their field in an array of their own.
    """
    for (fields, amounts), group in groupby(sorted(changes, key=_shape), key=_shape):
        same = list(group)
        touched = {name: default() for name, default in checker(entity).touched.items()}
        columns = _columns(entity, ["id", *fields, *touched, *amounts])
        given = [columns[name] for name in ("id", *fields, *touched)]
        added = [columns[name] for name in amounts]
        assignments = [f"{quote(column_of(column))} = {_value(column)}" for column in given[1:]]
        assignments += [f"{quote(column_of(c))} = t.{quote(column_of(c))} + v.{quote(column_of(c))}" for c in added]
        sql = block(
            "push.sql",
            "update_rows",
            table=entity.table,
            assignments=", ".join(assignments),
            records=", ".join(_recordset(name, found) for name, found in (("given", given), ("added", added)) if found),
        )
        records = {
            "given": [{"id": c.row, **c.fields, **touched} for c in same],
            "added": [dict(c.amounts) for c in same],
        }
        with cursor() as bound:
            bound.execute(sql, {name: msgspec.json.encode(rows).decode() for name, rows in records.items()})


def _delete(entity: Entity, candidates: Sequence[Candidate], author: str) -> None:
    """Django's own delete: it cascades, clears or protects as the model says."""
    if candidates:
        set_author(author, {c.key.row: c.mutation.id for c in candidates})
        entity.model._default_manager.filter(pk__in=[c.key.row for c in candidates]).delete()


def _shape(change: Change) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(sorted(change.fields)), tuple(sorted(change.amounts))


def _columns(entity: Entity, names: Iterable[str]) -> dict[str, models.Field[Any, Any]]:
    by_name = {field.attname: field for field in entity.model._meta.concrete_fields}
    return {name: by_name[name] for name in names}


def _recordset(parameter: str, columns: Sequence[models.Field[Any, Any]]) -> str:
    """`json_to_recordset` of a JSON array, with the columns' own types; base64 comes as text."""
    types = ", ".join(f"{quote(column_of(c))} {'text' if _is_binary(c) else c.db_type(connection)}" for c in columns)
    return f"json_to_recordset(%({parameter})s::json) AS ({types})"


def _value(column: models.Field[Any, Any]) -> str:
    name = f"v.{quote(column_of(column))}"
    return f"decode({name}, 'base64')" if _is_binary(column) else name


def _is_binary(column: models.Field[Any, Any]) -> bool:
    return isinstance(column, models.BinaryField)
