"""A row as it was: from what it is, back along its history."""

from typing import Any
from uuid import UUID, uuid4

from sync.amend import (
    Change,
    Invalid,
    Row,
    RowMoved,
    Side,
    differing,
    in_turn,
    lock_rows,
    refusal,
    revived,
    sides_of,
    write_changes,
)
from sync.decide import RowKey
from sync.mutation import error
from sync.sql import block, cursor
from sync.wire import Entity, entities


def version_of(entity: str, row_id: UUID, version_rev: int) -> Row | None:
    """The row as it was at a revision, as devices see it; None: it was not there. Raises Invalid: `forgotten`."""
    key = RowKey(entity, str(row_id))
    return _version(key, sides_of([key])[key], version_rev)


def restore_version(entity: str, row_id: UUID, version_rev: int, *, rev: int, author: str) -> int:
    """Make a row what it was at a revision; return its new revision. It is unchanged where nothing differs.

    A row that was deleted comes back with what devices never saw of it as it was then; otherwise that stays. So do the
    counters of a row that is there, since amounts were added since.
    `rev`: of the row that the person saw. Raises RowMoved, Invalid and Problem `service_unavailable`; then nothing was
    written.
    """
    key, known = RowKey(entity, str(row_id)), entities().get(entity)
    if known is None:
        raise Invalid(error("unknown_entity"))

    def work() -> int:
        lock_rows({key})
        side = sides_of([key])[key]
        if side.rev != rev:
            raise RowMoved(side)
        row = _version(key, side, version_rev)
        if row is None:
            raise Invalid(refusal("not_there"))
        change = _change(known, key, side, row)
        if change is None:
            return side.rev
        if errors := write_changes([change], author):
            now = sides_of([key])[key]
            raise RowMoved(now) if now.rev != rev else Invalid(*errors[change.id])
        return sides_of([key])[key].rev

    return in_turn(work)


def _change(entity: Entity, key: RowKey, side: Side, row: Row) -> Change | None:
    """What is written. Columns that write themselves are left to that, and counters to what was added since."""
    own = {f.attname for f in entity.model._meta.concrete_fields if f.generated or getattr(f, "auto_now", False)}
    fields = {f.name for f in entity.fields} - own
    wanted = {name: value for name, value in row.items() if name in fields}
    if side.row is None:
        return Change(str(uuid4()), key, "create", revived(entity.name, side, wanted))
    kept = {name: value for name, value in wanted.items() if name not in entity.declaration.counters}
    changed = differing(entity, kept, side.row)
    return Change(str(uuid4()), key, "update", changed) if changed else None


def _version(key: RowKey, side: Side, version_rev: int) -> Row | None:
    if not 1 <= version_rev <= side.rev:
        raise Invalid(refusal("forgotten"))
    with cursor() as bound:
        parameters = {"row": key.row, "entity": key.entity, "rev": version_rev}
        bound.execute(block("resolve.sql", "since"), parameters)
        changes = bound.fetchall()
    if [rev for rev, _, _ in changes] != list(range(side.rev, version_rev, -1)):
        raise Invalid(refusal("forgotten"))
    row: dict[str, Any] | None = None if side.row is None else dict(side.row)
    for _, op, old in changes:
        match op:
            case "insert":
                row = None
            case "delete":
                row = dict(old or {})
            case _:
                row = {**(row or {}), **(old or {})}
    return row and {name: value for name, value in row.items() if name not in {"id", "_rev"}}
