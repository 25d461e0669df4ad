"""Writes rows for a person: held against the model's own rules as a push is, and set by set."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import ProtectedError, RestrictedError

from sync.capture import set_author
from sync.checker import checker
from sync.decide import Candidate, RowKey
from sync.merge import same
from sync.mutation import Error, Mutation, Op, Values, error
from sync.push import ATTEMPTS_MAX
from sync.refusal import LOST_RACES, errors_of, is_of_a_row
from sync.settle import broken_by_clean
from sync.sql import Uuids, array, block, cursor
from sync.wire import Entity, entities
from sync.write import write_wave
from syncserver.errors import DECISION_REFUSALS, Problem

T = TypeVar("T")
Row = Mapping[str, Any]
_LOCK_TIMEOUT = "55P03"


@dataclass(frozen=True)
class Side:
    """A row as it is now. `row`: in wire form; None: it is not there. `rev`: 0 where it never was, or was forgotten.

    `written_by`: the mutation, or decision, of its newest change. `gone`: what a row that is not there held when it was
    deleted, and `hidden` what devices never saw of it.
    """

    row: Row | None
    rev: int
    written_by: str | None = None
    gone: Row | None = None
    hidden: Row | None = None


class RowMoved(Exception):
    """The row, or what was decided about it, is not what the person saw. Nothing was written. `now`: the row now."""

    def __init__(self, now: Side) -> None:
        self.now = now
        super().__init__(f"The row is at revision {now.rev}.")


class Invalid(Exception):
    """The values, or the row with them, break a rule. Nothing was written."""

    def __init__(self, *errors: Error) -> None:
        self.errors = errors
        super().__init__(" ".join(each.message for each in errors))


class Change(NamedTuple):
    """What is written to one row. `id`: of the decision, which the history keeps as the change's mutation."""

    id: str
    key: RowKey
    op: Op
    fields: Row


def refusal(code: str, field: str | None = None) -> Error:
    """Why a decision is not taken: a code of DECISION_REFUSALS."""
    return Error(field, code, DECISION_REFUSALS[code])


def in_turn(work: Callable[[], T]) -> T:
    """Run `work` in a transaction, again where it lost a deadlock.

    No lock is waited for longer than SYNC_PUSH_LOCK_SECONDS_MAX.
    Raises Problem `service_unavailable` when other writers were in the way for too long; then nothing was written.
    """
    for _ in range(1 if connection.in_atomic_block else ATTEMPTS_MAX):
        try:
            with transaction.atomic():
                with cursor() as bound:
                    seconds = f"{settings.SYNC_PUSH_LOCK_SECONDS_MAX}s"
                    bound.execute("SELECT set_config('lock_timeout', %s, true)", [seconds])
                return work()
        except OperationalError as problem:
            state = getattr(problem.__cause__, "sqlstate", None)
            if state not in LOST_RACES | {_LOCK_TIMEOUT}:
                raise
            if state == _LOCK_TIMEOUT:
                break
    raise Problem("service_unavailable", "Other writers were in the way; nothing was written.", retry_after_seconds=1)


def lock_devices(devices: Iterable[UUID]) -> None:
    """Make pushes of these devices, and decisions about what they pushed, wait for this transaction.

    Before anything else is locked, in order of id: pushes do the same.
    """
    with cursor() as bound:
        bound.execute(block("resolve.sql", "lock_devices"), {"devices": array(set(devices))})


def lock_rows(keys: Collection[RowKey]) -> None:
    """Make other writers of these rows wait, in the order in which pushes lock them."""
    with cursor() as bound:
        for name in sorted({key.entity for key in keys} & entities().keys()):
            rows = array(sorted(key.row for key in keys if key.entity == name))
            bound.execute(block("push.sql", "lock_rows", table=entities()[name].table), {"rows": rows})


def sides_of(keys: Collection[RowKey]) -> dict[RowKey, Side]:
    """Each row as it is now."""
    found = dict.fromkeys(keys, Side(None, 0))
    if not keys:
        return found
    names, rows = zip(*found, strict=True)
    with cursor() as bound:
        bound.execute(block("resolve.sql", "sides"), {"entities": list(names), "rows": Uuids(rows)})
        for entity, row, rev, data, written_by, gone, hidden in bound.fetchall():
            now = _fields(msgspec.json.decode(data)) if data else None
            found[RowKey(entity, row)] = Side(now, rev, written_by, gone and _fields(gone), hidden)
    return found


def _fields(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in {"id", "_rev"}}


def checked(name: str, values: Row, op: Op = "update") -> Row:
    """The values, if devices may set them and the model's rules hold for them. Raises Invalid."""
    entity = entities().get(name)
    if entity is None:
        raise Invalid(error("unknown_entity"))
    try:
        encoded = msgspec.json.encode(values)
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError, OverflowError):
        raise Invalid(error("invalid_value", None, "A text holds half a character, or is nested too deeply.")) from None
    mutation = Mutation("", name, "", op, set=msgspec.Raw(encoded))
    found = checker(entity).check(mutation)
    if not isinstance(found, Values):
        raise Invalid(*found)
    return found.fields


def revived(entity: str, side: Side, fields: Row) -> Row:
    """All that a row holds that is made again: what it held, with `fields` over it, less what writes itself."""
    row = {**(side.gone or {}), **(side.hidden or {}), **fields}
    return {name: value for name, value in row.items() if name not in checker(entities()[entity]).touched}


def differing(entity: Entity, one: Row, other: Row) -> dict[str, Any]:
    """The fields of `one` that are other values than in `other`."""
    kinds = {field.name: field.type for field in entity.fields}
    return {name: value for name, value in one.items() if not same(kinds[name], value, other.get(name))}


def write_changes(changes: Sequence[Change], author: str) -> dict[str, tuple[Error, ...]]:
    """Write changes, each of another row; return the errors of those that were refused, by id. The others stand.

    Changes with the same id are written all together or not at all.
    """
    if not changes:
        return {}
    candidates = [_candidate(change) for change in changes]
    ids = list(dict.fromkeys(change.id for change in changes))
    try:
        with transaction.atomic():
            write_wave(candidates, author, lambda: None)
            with cursor() as bound:
                bound.execute(block("push.sql", "check_constraints"))
                bound.execute("SET CONSTRAINTS ALL DEFERRED")
            if broken := broken_by_clean(candidates):
                raise _Broken(broken)
            set_author("")  # whoever writes next in this transaction says so
    except _Broken as found:
        refused = {change.id: told for change in changes if (told := found.errors.get(change.key))}
        return refused | write_changes([change for change in changes if change.id not in refused], author)
    except (DatabaseError, ProtectedError, RestrictedError) as problem:
        if isinstance(problem, OperationalError) and not is_of_a_row(problem):
            raise
        if len(ids) == 1:
            return {ids[0]: errors_of(problem, {change.key.entity for change in changes})[1]}
        first = set(ids[: len(ids) // 2])
        halves = [change for change in changes if change.id in first], [c for c in changes if c.id not in first]
        return write_changes(halves[0], author) | write_changes(halves[1], author)
    return {}


class _Broken(Exception):
    def __init__(self, errors: Mapping[RowKey, tuple[Error, ...]]) -> None:
        self.errors = errors


def _candidate(change: Change) -> Candidate:
    mutation = Mutation(change.id, change.key.entity, change.key.row, change.op)
    return Candidate(change.key, mutation, Values(change.fields, {}))


def name_of(author: str) -> str:
    """A person's name without what marks an author as one."""
    with suppress(ValueError):
        kind, name = author.split(":", 1)
        return name if kind == "user" else author
    return author
