"""What becomes of a mutation: each cell of operation, state of the row and base, and the laws of groups and order."""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.decide import NEVER, Candidate, RowKey, RowState, decide
from sync.merge import Policy, Rules, Since
from sync.mutation import Mutation, Values, error
from sync.units import Interleaved, units_of, waves_of

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ROW = "00000000-0000-0000-0000-000000000001"
OTHERS = Since(changed={"name": NOW}, base={"name": "base"})
ROW_NOW = {"name": "server"}
HERE = RowState(rev=3, alive=True, known=True, values=ROW_NOW, since={0: Since(made=NOW), 9: Since(known=False)})
CHANGED = RowState(rev=3, alive=True, known=True, values=ROW_NOW, since={2: OTHERS})
OWN = RowState(rev=3, alive=True, known=True, values=ROW_NOW)
HIDDEN = RowState(rev=3, alive=True, known=False)
GONE = RowState(rev=3, alive=False, known=True, since={2: Since(gone={"name": "base"})})
GONE_BY_DEVICE = RowState(rev=3, alive=False, known=True, deleted_by_device=True)
GONE_ELSEWHERE = RowState(rev=3, alive=False, known=False)
RULES = Rules(
    policies={"name": "server_wins", "stock": "server_wins"}, units={}, kinds={"name": "text", "stock": "integer"}
)

Op = Literal["create", "update", "delete"]


def candidate(
    op: Op,
    base: int | None = None,
    row: str = ROW,
    group: str | None = None,
    amounts: Any = None,
    parent: str | None = None,
) -> Candidate:
    fields = {"name": "x", **({"parent_id": parent} if parent else {})}
    values = Values({} if amounts or op == "delete" else fields, amounts or {})
    references = (("parent_id", RowKey("thing", parent)),) if parent else ()
    mutation = Mutation(id=ROW, entity="thing", row=row, op=op, base=base, group=group)
    return Candidate(RowKey("thing", row), mutation, values, (), references, RULES)


def number(n: int) -> str:
    return f"00000000-0000-0000-0000-{n:012}"


# operation, base, state of the row → status (how fields are merged is in test_merge_table.py)
CELLS: list[tuple[Op, int | None, RowState, str]] = [
    ("create", None, NEVER, "applied"),
    ("create", None, HERE, "conflict"),
    ("create", None, HIDDEN, "rejected"),  # the id is taken by a row that the device may not see
    ("create", None, GONE, "applied"),  # it comes back
    ("create", None, GONE_ELSEWHERE, "applied"),
    ("update", 3, HERE, "applied"),  # the base is the revision
    ("update", 2, CHANGED, "conflict"),  # somebody else wrote after the base
    ("update", 2, OWN, "applied"),  # only the device itself did
    ("update", None, HERE, "conflict"),  # somebody else made the row
    ("update", 9, HERE, "conflict"),  # a base that the server never gave
    ("update", 3, NEVER, "rejected"),
    ("update", 3, HIDDEN, "rejected"),
    ("update", 2, GONE, "merged"),
    ("update", 2, GONE_BY_DEVICE, "rejected"),
    ("update", 2, GONE_ELSEWHERE, "rejected"),
    ("delete", 3, HERE, "applied"),
    ("delete", 2, CHANGED, "conflict"),
    ("delete", 2, OWN, "applied"),
    ("delete", 2, GONE, "applied"),  # both want it gone
    ("delete", 3, NEVER, "rejected"),
    ("delete", 3, HIDDEN, "rejected"),
    ("delete", 2, GONE_ELSEWHERE, "rejected"),
]


@pytest.mark.parametrize(("op", "base", "state", "status"), CELLS)
def test_decide_each_cell(op: Op, base: int | None, state: RowState, status: str) -> None:
    one = [candidate(op, base)]
    verdicts, _ = decide(one, units_of(one, [0]), {one[0].key: state}, {})
    assert verdicts[0].status == status


def test_decide_nothing_of_a_group_is_written_where_one_member_is_in_conflict() -> None:
    group = number(9)
    member = msgspec.structs.replace(
        candidate("update", 2, group=group), values=Values({"name": "device"}, {"stock": 1})
    )
    some = [candidate("update", 3, row=number(2), group=group), member]
    states = {some[0].key: OWN, member.key: CHANGED}
    verdicts, after = decide(some, units_of(some, range(2)), states, {})
    assert [verdicts[at].status for at in range(2)] == ["rejected", "conflict"]
    assert [verdicts[at].write for at in range(2)] == [None, None]
    assert after == states


def test_decide_a_device_never_conflicts_with_what_it_wrote_itself_in_the_same_batch() -> None:
    values = [{"name": "one"}, {"name": "two"}, {"name": "three"}]
    some = [msgspec.structs.replace(candidate("update", 2), values=Values(found, {})) for found in values]
    policies: list[tuple[Policy, list[str]]] = [
        ("device_wins", ["merged", "applied", "applied"]),  # in dispute once, then its own
        ("server_wins", ["conflict"] * 3),
    ]
    for policy, statuses in policies:
        rules = msgspec.structs.replace(RULES, policies={"name": policy})
        again = [msgspec.structs.replace(one, rules=rules) for one in some]
        verdicts, after = decide(again, units_of(again, range(3)), {some[0].key: CHANGED}, {})
        assert [verdicts[at].status for at in range(3)] == statuses
        records = [verdicts[at].record is not None for at in range(3)]
        assert records == [True, policy == "server_wins", policy == "server_wins"]
        row = after[some[0].key].values
        assert row == {"name": "three" if policy == "device_wins" else "server"}


def test_decide_a_missing_parent_brings_down_all_that_hangs_on_it() -> None:
    chain = [candidate("create", row=number(n), parent=number(n - 1)) for n in range(1, 5)]
    verdicts, _ = decide(chain, units_of(chain, range(4)), {}, {})
    assert {verdict.status for verdict in verdicts.values()} == {"rejected"}
    assert {told.code for verdict in verdicts.values() for told in verdict.errors} == {"missing_reference"}


def test_decide_a_failure_in_a_group_fails_the_group_and_what_refers_to_it() -> None:
    some = [
        candidate("create", row=number(1), group=number(9)),
        candidate("create", row=number(2), group=number(9)),
        candidate("create", row=number(3), parent=number(1)),
        candidate("create", row=number(4)),
    ]
    verdicts, _ = decide(some, units_of(some, range(4)), {}, {1: (error("unique"),)})
    assert [verdicts[at].status for at in range(4)] == ["rejected", "rejected", "rejected", "applied"]
    assert [verdicts[at].errors[0].code for at in range(3)] == ["group_failed", "unique", "missing_reference"]


def test_units_put_a_parent_before_its_child_also_in_a_long_chain_backwards() -> None:
    count = 3_000
    chain = [candidate("create", row=number(n), parent=number(n + 1)) for n in range(count)]
    order = [unit.members[0] for unit in units_of(chain, range(count))]
    assert order == list(reversed(range(count)))


def test_units_never_change_the_order_of_the_mutations_of_a_row() -> None:
    child, parent = number(1), number(2)
    # The parent was there before: its create brings it back after its delete, and is not what the child refers to.
    brought_back = [
        candidate("create", row=child, parent=parent),
        candidate("delete", row=child),
        candidate("delete", row=parent),
        candidate("create", row=parent),
    ]
    assert [unit.members for unit in units_of(brought_back, range(4))] == [(0,), (1,), (2,), (3,)]
    # The parent comes later, in a group that also changes what the child changed before.
    circle = [
        candidate("create", row=child, parent=parent),
        candidate("create", row=parent, group="g"),
        candidate("update", row=child, group="g"),
    ]
    assert [unit.members for unit in units_of(circle, range(3))] == [(0,), (1, 2)]
    # The same with another row: both keep their places, and the parent is still moved.
    other = number(3)
    moved = [
        candidate("create", row=child, parent=parent),
        candidate("update", row=other),
        candidate("create", row=parent, group="g"),
        candidate("update", row=other, group="g"),
    ]
    assert [unit.members for unit in units_of(moved, range(4))] == [(1,), (2, 3), (0,)]


def test_units_leave_a_circle_of_parents_as_it_comes() -> None:
    circle = [candidate("create", row=number(n), parent=number(1 - n)) for n in range(2)]
    assert len(units_of(circle, range(2))) == 2


def test_units_refuse_a_group_around_another_change_of_its_row() -> None:
    some = [candidate("update", 1, group=number(9)), candidate("update", 1), candidate("update", 1, group=number(9))]
    with pytest.raises(Interleaved):
        units_of(some, range(3))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["create", "update", "delete"])), max_size=30))
def test_waves_hold_each_row_once_and_keep_the_order_of_each_rows_changes(steps: list[tuple[int, Op]]) -> None:
    some = [candidate(op, None, number(row)) for row, op in steps]
    verdicts, after = decide(some, units_of(some, range(len(some))), {}, {})
    waves = waves_of(some, verdicts)
    for wave in waves:
        assert len({some[at].key for at in wave}) == len(wave)
    for key in {one.key for one in some}:
        written = [at for wave in waves for at in wave if some[at].key == key]
        assert written == sorted(
            at for at, verdict in verdicts.items() if verdict.write is not None and some[at].key == key
        )
        alive = bool(written) and some[written[-1]].mutation.op != "delete"
        assert after.get(key, NEVER).visible == alive
