"""Pure: mutations as they wait in the outbox, cut into batches, and laid over a row that the server sent."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from itertools import groupby
from typing import Any

Row = dict[str, Any]

BATCH_MUTATIONS_MAX = 1_000
BATCH_BYTES_MAX = 8_000_000
_EXACT = Context(prec=100)


@dataclass(frozen=True)
class Mutation:
    """One row of `_sync_outbox`. `set` and `add` are JSON text, already in wire form."""

    seq: int
    id: str
    entity: str
    row: str
    op: str
    base: int | None
    set: str | None
    add: str | None
    group: str | None
    made_at: str
    lost: int | None = None  # of before a restore of the server: the revision that it had then; 0: it was not pushed

    def encode(self) -> bytes:
        """The mutation on the wire. Always the same bytes, since a resent mutation must be the very same."""
        members = [("id", self.id), ("entity", self.entity), ("row", self.row), ("op", self.op), ("base", self.base)]
        text = [f'"{name}":{json.dumps(value)}' for name, value in members]
        text += [f'"{name}":{value}' for name, value in (("set", self.set), ("add", self.add)) if value is not None]
        if self.group is not None:
            text.append(f'"group":{json.dumps(self.group)}')
        text.append(f'"made_at":{json.dumps(self.made_at)}')
        if self.lost is not None:
            text.append(f'"lost":{self.lost}')
        return ("{" + ",".join(text) + "}").encode()


COLUMNS = tuple(name for name in Mutation.__dataclass_fields__ if name != "lost")


def first_batch(
    waiting: Sequence[Mutation], count_max: int = BATCH_MUTATIONS_MAX, bytes_max: int = BATCH_BYTES_MAX
) -> list[tuple[Mutation, bytes]]:
    """The longest start of `waiting` within the limits that splits no group, each with its encoding.

    A group is a stretch of mutations with the same group id. Empty when the first mutation or group alone
    is over a limit. Give at least `count_max + 1` mutations where there are as many, so that a group's end is seen.
    """
    batch: list[tuple[Mutation, bytes]] = []
    size = 100  # of the envelope: sent_at and the brackets
    for _, stretch in groupby(waiting, key=lambda m: m.group or m.id):
        unit = [(mutation, mutation.encode()) for mutation in stretch]
        size += sum(len(body) + 1 for _, body in unit)
        if len(batch) + len(unit) > count_max or size > bytes_max:
            break
        batch += unit
    return batch


def first_unit(waiting: Sequence[Mutation]) -> list[Mutation]:
    """The first mutation, or its group."""
    return list(next(groupby(waiting, key=lambda m: m.group or m.id))[1])


def envelope(bodies: Iterable[bytes], sent_at: str, token: str | None = None) -> bytes:
    """The body of a push. With `token` the server says first where it was restored since."""
    head = b'{"sent_at":' + json.dumps(sent_at).encode()
    if token is not None:
        head += b',"token":' + json.dumps(token).encode()
    return head + b',"mutations":[' + b",".join(bodies) + b"]}"


def to_column(kind: str, value: Any) -> Any:
    """A value in wire form, of the schema's type `kind`, as SQLite keeps it; the column's affinity does the rest."""
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if kind == "binary":
        try:
            return base64.b64decode(value, validate=True)
        except (ValueError, TypeError):
            return value  # what the user entered is no binary: the server will say so
    return value


def lay_over(row: Row | None, mutations: Iterable[Mutation], kinds: Mapping[str, str]) -> Row | None:
    """The server's `row` with the user's `mutations`, in order, on top: what the user shall see. None: no row.

    `row` is in column form and stays as it is; `kinds` are the entity's fields and their types.
    """
    result = None if row is None else dict(row)
    for mutation in mutations:
        if mutation.op == "delete":
            result = None
            continue
        if mutation.op == "create" and result is None:
            result = {"id": mutation.row, "_rev": None, **dict.fromkeys(kinds)}
        if result is None:
            continue
        for name, value in json.loads(mutation.set or "{}").items():
            if name in kinds:
                result[name] = to_column(kinds[name], value)
        for name, amount in json.loads(mutation.add or "{}").items():
            if name in kinds:
                result[name] = _added(kinds[name], result[name], amount)
    return result


def _added(kind: str, value: Any, amount: str | int) -> Any:
    if kind == "integer":
        return int(value or 0) + int(amount)
    return str(_EXACT.add(Decimal(value or 0), Decimal(amount)))
