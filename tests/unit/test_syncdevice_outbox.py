"""Batches of the outbox, and a user's edits laid over the server's rows."""

import json
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syncdevice.outbox import Mutation, envelope, first_batch, lay_over

NOON = "2026-11-21T12:00:00.000000Z"
KINDS = {"name": "text", "visits": "integer", "credit": "decimal", "tags": "json", "photo": "binary"}


def mutation(seq: int = 1, op: str = "update", group: str | None = None, **changes: Any) -> Mutation:
    values = {name: json.dumps(changes[name]) if changes.get(name) else None for name in ("set", "add")}
    return Mutation(seq, f"id-{seq}", "contact", "row", op, 3, values["set"], values["add"], group, NOON)


@st.composite
def outboxes(draw: st.DrawFn) -> list[Mutation]:
    """Groups are stretches with an id of their own, as one transaction leaves them."""
    mutations: list[Mutation] = []
    for number, (size, grouped) in enumerate(draw(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12))):
        for _ in range(size):
            text = "x" * draw(st.integers(0, 200))
            group = f"group-{number}" if grouped else None
            mutations.append(mutation(len(mutations), group=group, set={"name": text}))
    return mutations


@given(outboxes(), st.integers(1, 8), st.integers(300, 2_000))
def test_batches_keep_order_and_limits_and_split_no_group(waiting: list[Mutation], count: int, size: int) -> None:
    rest, sent = waiting, []
    while rest:
        batch = first_batch(rest, count, size)
        if not batch:  # the first group alone is over a limit: it is set aside whole
            unit = list(next(groupby(rest, key=lambda m: m.group or m.id))[1])
            assert len(unit) > count or len(envelope((m.encode() for m in unit), NOON)) > size - 100
            batch = [(m, m.encode()) for m in unit]
        else:
            assert len(batch) <= count
            assert len(envelope((body for _, body in batch), NOON)) <= size
        groups = {m.group for m, _ in batch if m.group}
        rest = rest[len(batch) :]
        assert groups.isdisjoint(m.group for m in rest)
        sent += [m for m, _ in batch]
    assert sent == waiting


@given(outboxes(), st.integers(1, 8))
def test_batch_of_a_window_is_the_batch_of_all(waiting: list[Mutation], count: int) -> None:
    assert first_batch(waiting[: count + 1], count) == first_batch(waiting, count)


def test_mutation_on_the_wire_has_only_what_it_needs() -> None:
    assert json.loads(mutation(set={"name": "é"}, add={"visits": 2}).encode()) == {
        "id": "id-1",
        "entity": "contact",
        "row": "row",
        "op": "update",
        "base": 3,
        "set": {"name": "é"},
        "add": {"visits": 2},
        "made_at": NOON,
    }
    assert json.loads(mutation(op="delete", group="g").encode()).keys() == {
        *("id", "entity", "row", "op", "base", "group", "made_at")
    }


ROW: dict[str, Any] = {
    "id": "row",
    "_rev": 4,
    "name": "server",
    "visits": 10,
    "credit": "1.10",
    "tags": None,
    "photo": None,
}


@pytest.mark.parametrize(
    ("row", "edits", "seen"),
    [
        (ROW, [], ROW),
        (ROW, [mutation(set={"name": "mine"})], {**ROW, "name": "mine"}),
        # counters add to what the server has now
        (ROW, [mutation(add={"visits": -2, "credit": "0.25"})], {**ROW, "visits": 8, "credit": "1.35"}),
        (ROW, [mutation(add={"visits": str(2**60)}), mutation(add={"visits": 1})], {**ROW, "visits": 2**60 + 11}),
        (ROW, [mutation(set={"tags": [1], "photo": "AAE="})], {**ROW, "tags": "[1]", "photo": b"\x00\x01"}),
        (ROW, [mutation(op="delete")], None),
        # deleted and made again
        (
            ROW,
            [mutation(op="delete"), mutation(op="create", set={"name": "n"})],
            {**dict.fromkeys(ROW), "id": "row", "name": "n"},
        ),
        (None, [mutation(set={"name": "mine"})], None),
        # a field that a newer schema took away
        (ROW, [mutation(set={"gone": 1}, add={"gone_too": 1})], ROW),
        # what the user entered may be nonsense: the server will say so
        (ROW, [mutation(set={"photo": "???", "visits": "many"})], {**ROW, "photo": "???", "visits": "many"}),
    ],
)
def test_edits_lie_over_the_servers_row(row: Any, edits: list[Mutation], seen: Any) -> None:
    before = None if row is None else dict(row)
    assert lay_over(row, edits, KINDS) == seen
    assert row == before
