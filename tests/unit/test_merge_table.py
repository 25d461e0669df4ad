"""What becomes of a change that meets others' changes: every cell, to be read as the documentation of merging.

The row has a `name`, a `phone` and a counter `stock`; the device had it as `base/0/10`. A line of the table covers all
cells that it matches, and each cell is matched by exactly one line.

- device: what the mutation says.
- others: what somebody else did to the row after the mutation's base.
- base: `known`, or `unknown` where the history does not reach back to it. For a create: whether the device itself had
  made the row before (known), or another (unknown).
- policy: that of the fields. `later` and `earlier` are `latest_wins`, by when the device made its change; `joins` is a
  function that joins both values, and `asks` one that leaves it to a person.
- deletes: the policy where one side deleted the row and the other edited it.
- answer: the status that the device is told. row: what the server has then. kept: where the record of the conflict
  stands (`open` waits for a person, `server` and `device` are whose values were taken, `mixed` is neither); - for none.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, Literal

import pytest

from sync.decide import AS_SENT, NEVER, Candidate, RowKey, RowState, Verdict, judge
from sync.merge import ASK, NOTHING_SINCE, Ask, Policy, Rules, Since
from sync.mutation import Mutation, Values

TABLE = """
device         others       base     policy              deletes      answer    row                 kept

# Nobody else was there: the change is written as it is. Where the base is not known, what differs is in dispute.
sets name      nothing      known    any                 any          applied   device/0/10         -
sets name      nothing      unknown  server_wins         any          conflict  base/0/10           server
sets name      nothing      unknown  device_wins         any          merged    device/0/10         device
sets name      nothing      unknown  later earlier       any          conflict  base/0/10           server
sets name      nothing      unknown  manual asks         any          conflict  base/0/10           open
sets name      nothing      unknown  joins               any          merged    base+device/0/10    mixed
adds 2         nothing      known    any                 any          applied   base/0/12           -
adds 2         nothing      unknown  any                 any          merged    base/0/12           -
sets and adds  nothing      known    any                 any          applied   device/0/12         -
sets and adds  nothing      unknown  server_wins         any          conflict  base/0/12           server
sets and adds  nothing      unknown  device_wins         any          merged    device/0/12         device
sets and adds  nothing      unknown  later earlier       any          conflict  base/0/12           server
sets and adds  nothing      unknown  manual asks         any          conflict  base/0/12           open
sets and adds  nothing      unknown  joins               any          merged    base+device/0/12    mixed
deletes        nothing      known    any                 any          applied   gone                -
deletes        nothing      unknown  any                 edit_wins    conflict  base/0/10           server
deletes        nothing      unknown  any                 delete_wins  merged    gone                device
deletes        nothing      unknown  any                 manual       conflict  base/0/10           open
creates        nothing      known    any                 any          applied   device/0/10         -
creates        nothing      unknown  server_wins         any          conflict  base/0/10           server
creates        nothing      unknown  device_wins         any          merged    device/0/10         device
creates        nothing      unknown  later               any          merged    device/0/10         device
creates        nothing      unknown  earlier             any          conflict  base/0/10           server
creates        nothing      unknown  manual asks         any          conflict  base/0/10           open
creates        nothing      unknown  joins               any          merged    base+device/0/10    mixed

# The same field, another value: the field's policy decides. What is added is added all the same.
sets name      name=server  any      server_wins         any          conflict  server/0/10         server
sets name      name=server  any      device_wins         any          merged    device/0/10         device
sets name      name=server  known    later               any          merged    device/0/10         device
sets name      name=server  unknown  later               any          conflict  server/0/10         server
sets name      name=server  any      earlier             any          conflict  server/0/10         server
sets name      name=server  any      manual asks         any          conflict  server/0/10         open
sets name      name=server  any      joins               any          merged    server+device/0/10  mixed
adds 2         name=server  any      any                 any          merged    server/0/12         -
sets and adds  name=server  any      server_wins         any          conflict  server/0/12         server
sets and adds  name=server  any      device_wins         any          merged    device/0/12         device
sets and adds  name=server  known    later               any          merged    device/0/12         device
sets and adds  name=server  unknown  later               any          conflict  server/0/12         server
sets and adds  name=server  any      earlier             any          conflict  server/0/12         server
sets and adds  name=server  any      manual asks         any          conflict  server/0/12         open
sets and adds  name=server  any      joins               any          merged    server+device/0/12  mixed
deletes        name=server  any      any                 edit_wins    conflict  server/0/10         server
deletes        name=server  any      any                 delete_wins  merged    gone                device
deletes        name=server  any      any                 manual       conflict  server/0/10         open
creates        name=server  any      server_wins         any          conflict  server/0/10         server
creates        name=server  any      device_wins later   any          merged    device/0/10         device
creates        name=server  any      earlier             any          conflict  server/0/10         server
creates        name=server  any      manual asks         any          conflict  server/0/10         open
creates        name=server  any      joins               any          merged    server+device/0/10  mixed

# The same field, the same value: no conflict, whatever the policy.
sets name      name=device  any      any                 any          merged    device/0/10         -
adds 2         name=device  any      any                 any          merged    device/0/12         -
sets and adds  name=device  any      any                 any          merged    device/0/12         -
deletes        name=device  any      any                 edit_wins    conflict  device/0/10         server
deletes        name=device  any      any                 delete_wins  merged    gone                device
deletes        name=device  any      any                 manual       conflict  device/0/10         open
creates        name=device  any      any                 any          merged    device/0/10         -

# Another field: both are kept, unless the base is not known.
sets name      phone=1      known    any                 any          merged    device/1/10         -
sets name      phone=1      unknown  server_wins         any          conflict  base/1/10           server
sets name      phone=1      unknown  device_wins         any          merged    device/1/10         device
sets name      phone=1      unknown  later earlier       any          conflict  base/1/10           server
sets name      phone=1      unknown  manual asks         any          conflict  base/1/10           open
sets name      phone=1      unknown  joins               any          merged    base+device/1/10    mixed
adds 2         phone=1      any      any                 any          merged    base/1/12           -
sets and adds  phone=1      known    any                 any          merged    device/1/12         -
sets and adds  phone=1      unknown  server_wins         any          conflict  base/1/12           server
sets and adds  phone=1      unknown  device_wins         any          merged    device/1/12         device
sets and adds  phone=1      unknown  later earlier       any          conflict  base/1/12           server
sets and adds  phone=1      unknown  manual asks         any          conflict  base/1/12           open
sets and adds  phone=1      unknown  joins               any          merged    base+device/1/12    mixed
deletes        phone=1      any      any                 edit_wins    conflict  base/1/10           server
deletes        phone=1      any      any                 delete_wins  merged    gone                device
deletes        phone=1      any      any                 manual       conflict  base/1/10           open
creates        phone=1      known    any                 any          merged    device/1/10         -
creates        phone=1      unknown  server_wins         any          conflict  base/1/10           server
creates        phone=1      unknown  device_wins later   any          merged    device/1/10         device
creates        phone=1      unknown  earlier             any          conflict  base/1/10           server
creates        phone=1      unknown  manual asks         any          conflict  base/1/10           open
creates        phone=1      unknown  joins               any          merged    base+device/1/10    mixed

# The counter: amounts add up, whatever the base.
sets name      stock+5      known    any                 any          merged    device/0/15         -
sets name      stock+5      unknown  server_wins         any          conflict  base/0/15           server
sets name      stock+5      unknown  device_wins         any          merged    device/0/15         device
sets name      stock+5      unknown  later earlier       any          conflict  base/0/15           server
sets name      stock+5      unknown  manual asks         any          conflict  base/0/15           open
sets name      stock+5      unknown  joins               any          merged    base+device/0/15    mixed
adds 2         stock+5      any      any                 any          merged    base/0/17           -
sets and adds  stock+5      known    any                 any          merged    device/0/17         -
sets and adds  stock+5      unknown  server_wins         any          conflict  base/0/17           server
sets and adds  stock+5      unknown  device_wins         any          merged    device/0/17         device
sets and adds  stock+5      unknown  later earlier       any          conflict  base/0/17           server
sets and adds  stock+5      unknown  manual asks         any          conflict  base/0/17           open
sets and adds  stock+5      unknown  joins               any          merged    base+device/0/17    mixed
deletes        stock+5      any      any                 edit_wins    conflict  base/0/15           server
deletes        stock+5      any      any                 delete_wins  merged    gone                device
deletes        stock+5      any      any                 manual       conflict  base/0/15           open
creates        stock+5      known    any                 any          merged    device/0/15         -
creates        stock+5      unknown  server_wins         any          conflict  base/0/15           server
creates        stock+5      unknown  device_wins later   any          merged    device/0/15         device
creates        stock+5      unknown  earlier             any          conflict  base/0/15           server
creates        stock+5      unknown  manual asks         any          conflict  base/0/15           open
creates        stock+5      unknown  joins               any          merged    base+device/0/15    mixed

# The row was deleted: an edit brings it back whole, or waits beside it. A create makes it anew.
sets name      deleted      known    any                 edit_wins    merged    device/0/10         device
sets name      deleted      unknown  server_wins         edit_wins    conflict  base/0/10           mixed
sets name      deleted      unknown  device_wins         edit_wins    merged    device/0/10         device
sets name      deleted      unknown  later earlier       edit_wins    conflict  base/0/10           mixed
sets name      deleted      unknown  manual asks         edit_wins    conflict  base/0/10           open
sets name      deleted      unknown  joins               edit_wins    merged    base+device/0/10    mixed
sets name      deleted      any      any                 delete_wins  conflict  gone                server
sets name      deleted      any      any                 manual       conflict  gone                open
adds 2         deleted      any      any                 edit_wins    merged    base/0/12           device
adds 2         deleted      any      any                 delete_wins  conflict  gone                server
adds 2         deleted      any      any                 manual       conflict  gone                open
sets and adds  deleted      known    any                 edit_wins    merged    device/0/12         device
sets and adds  deleted      unknown  server_wins         edit_wins    conflict  base/0/12           mixed
sets and adds  deleted      unknown  device_wins         edit_wins    merged    device/0/12         device
sets and adds  deleted      unknown  later earlier       edit_wins    conflict  base/0/12           mixed
sets and adds  deleted      unknown  manual asks         edit_wins    conflict  base/0/12           open
sets and adds  deleted      unknown  joins               edit_wins    merged    base+device/0/12    mixed
sets and adds  deleted      any      any                 delete_wins  conflict  gone                server
sets and adds  deleted      any      any                 manual       conflict  gone                open
deletes        deleted      any      any                 any          applied   gone                -
creates        deleted      any      any                 any          applied   device              -
"""

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
KEY = RowKey("thing", "00000000-0000-0000-0000-000000000001")
BASE = {"name": "base", "phone": "0", "stock": 10}
BASE_REV = 3


def joins(_base: Mapping[str, Any] | None, server: Mapping[str, Any], device: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: f"{value}+{device[name]}" for name, value in server.items()}


def asks(_base: Mapping[str, Any] | None, _server: Mapping[str, Any], _device: Mapping[str, Any]) -> Ask:
    return ASK


Op = Literal["create", "update", "delete"]
DEVICE: Mapping[str, tuple[Op, Values]] = {
    "sets name": ("update", Values({"name": "device"}, {})),
    "adds 2": ("update", Values({}, {"stock": 2})),
    "sets and adds": ("update", Values({"name": "device"}, {"stock": 2})),
    "deletes": ("delete", Values({}, {})),
    "creates": ("create", Values({"name": "device"}, {})),
}
OTHERS: Mapping[str, Mapping[str, Any] | None] = {
    "nothing": {},
    "name=server": {"name": "server"},
    "name=device": {"name": "device"},
    "phone=1": {"phone": "1"},
    "stock+5": {"stock": 15},
    "deleted": None,
}
POLICIES: Mapping[str, Policy] = {
    "server_wins": "server_wins",
    "device_wins": "device_wins",
    "later": "latest_wins",
    "earlier": "latest_wins",
    "manual": "manual",
    "joins": joins,
    "asks": asks,
}
DELETES = ("edit_wins", "delete_wins", "manual")
BASES = ("known", "unknown")
Cell = tuple[str, str, str, str, str]
LINES = [[text.strip() for text in line.split("  ") if text.strip()] for line in TABLE.splitlines()[2:]]
LINES = [line for line in LINES if line and not line[0].startswith("#")]


def cells_of(line: list[str]) -> set[Cell]:
    device, others, base, policy, deletes = line[:5]
    return set(
        product(
            [device],
            [others],
            BASES if base == "any" else [base],
            POLICIES if policy == "any" else policy.split(),
            DELETES if deletes == "any" else [deletes],
        )
    )


def test_every_cell_is_in_exactly_one_line_of_the_table() -> None:
    covered = [cell for line in LINES for cell in cells_of(line)]
    assert set(covered) == set(product(DEVICE, OTHERS, BASES, POLICIES, DELETES))
    assert len(set(covered)) == len(covered)


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_merge(line: list[str]) -> None:
    for cell in cells_of(line):
        verdict, row = outcome(cell)
        kept = verdict.record.decision.value if verdict.record else "-"
        assert (verdict.status, row, kept) == (line[5], line[6], line[7]), cell


def outcome(cell: Cell) -> tuple[Verdict, str]:
    """The verdict of a cell, and the row after it."""
    device, others, base, policy, deletes = cell
    op, values = DEVICE[device]
    state = state_of(op, OTHERS[others], base == "known")
    rules = Rules(
        policies={"name": POLICIES[policy], "phone": "server_wins", "stock": "server_wins"},
        units={},
        kinds={"name": "text", "phone": "text", "stock": "integer"},
        delete=deletes,
    )
    made_at = NOW + timedelta(hours=-1 if policy == "earlier" else 1)
    mutation = Mutation(KEY.row, "thing", KEY.row, op, None if op == "create" else BASE_REV)
    verdict = judge(Candidate(KEY, mutation, values, (), (), rules, made_at), state)
    return verdict, after(verdict, op, values, dict(state.values) if state.values and state.alive else None)


def state_of(op: Op, change: Mapping[str, Any] | None, base_known: bool) -> RowState:
    """The row after others' change, as the shell reads it."""
    since = NOTHING_SINCE
    if not base_known:
        since = Since(made=NOW) if op == "create" else Since(known=False)
    elif change:
        since = Since(changed=dict.fromkeys(change, NOW), base={name: BASE[name] for name in change})
    if change is None:
        since = Since(known=base_known, gone=BASE)
    rev = BASE_REV + (0 if change == {} and base_known else 1)
    row = None if change is None else {**BASE, **change}
    return RowState(rev, change is not None, True, row, {0 if op == "create" else BASE_REV: since})


def after(verdict: Verdict, op: Op, values: Values, row: dict[str, Any] | None) -> str:
    """The row once the verdict is carried out, as the table writes it."""
    write = verdict.write
    if write is not None:
        op, values = (op, values) if write is AS_SENT else (write.op, write.values)  # type: ignore[assignment]
        if op == "delete":
            row = None
        elif op == "create":
            row = dict(values.fields)
        else:
            assert row is not None
            row |= values.fields
            row |= {name: row[name] + amount for name, amount in values.amounts.items()}
    return "gone" if row is None else "/".join(map(str, row.values()))


# --- what the table has no columns for ---


def update(rules: Rules, state: RowState, **values: Any) -> Verdict:
    mutation = Mutation(KEY.row, "thing", KEY.row, "update", BASE_REV)
    return judge(Candidate(KEY, mutation, Values(values, {}), (), (), rules), state)


ADDRESS = Rules(
    policies=dict.fromkeys(("street", "city"), "device_wins"),
    units=dict.fromkeys(("street", "city"), ("street", "city")),
    kinds={"street": "text", "city": "text"},
)
HOME = {"street": "Obere Str. 57", "city": "Berlin"}


def test_fields_of_a_unit_are_decided_together_though_each_side_changed_another_one() -> None:
    since = Since(changed={"city": NOW}, base={"city": "Berlin"})
    state = RowState(4, True, True, {**HOME, "city": "Bonn"}, {BASE_REV: since})
    verdict = update(ADDRESS, state, street="Am Markt 1")
    assert verdict.status == "merged"
    assert verdict.write and verdict.write.values.fields == {"street": "Am Markt 1", "city": "Berlin"}
    assert verdict.record and verdict.record.fields == ("street", "city")
    assert verdict.record.server == {"street": "Obere Str. 57", "city": "Bonn"}


def test_half_a_unit_without_a_known_base_is_left_to_a_person() -> None:
    state = RowState(4, True, True, HOME, {BASE_REV: Since(known=False)})
    verdict = update(ADDRESS, state, street="Am Markt 1")
    assert (verdict.status, verdict.write) == ("conflict", None)
    assert verdict.record and verdict.record.decision == "open"
    whole = update(ADDRESS, state, street="Am Markt 1", city="Bonn")
    assert (whole.status, whole.write and whole.write.values.fields["city"]) == ("merged", "Bonn")


@pytest.mark.parametrize(
    ("kind", "device", "server"),
    [
        ("decimal", "12.5", "12.5000"),
        ("datetime", "2026-11-21T10:00:00+01:00", "2026-11-21T09:00:00.000000Z"),
        ("time", "09:00:00", "09:00:00.000000"),
        ("integer", "9007199254740993", 9007199254740993),
        ("real", 1, 1.0),
        ("uuid", KEY.row.upper(), KEY.row),
        ("json", {"a": 1, "b": [True]}, {"b": [True], "a": 1}),
    ],
)
def test_one_value_in_two_spellings_is_no_conflict(kind: str, device: Any, server: Any) -> None:
    rules = Rules(policies={"value": "manual"}, units={}, kinds={"value": kind})
    state = RowState(4, True, True, {"value": server}, {BASE_REV: Since(changed={"value": NOW}, base={"value": None})})
    assert update(rules, state, value=device) == Verdict("merged")


def test_an_edit_of_a_row_that_even_the_history_has_forgotten_waits_for_a_person() -> None:
    rules = Rules(policies={"name": "device_wins"}, units={}, kinds={"name": "text"})
    verdict = update(rules, RowState(4, False, True, None, {BASE_REV: Since(known=False)}), name="device")
    assert verdict.status == "conflict"
    assert verdict.record and verdict.record.decision == "open"


def test_a_create_of_a_row_that_never_was_is_written() -> None:
    mutation = Mutation(KEY.row, "thing", KEY.row, "create")
    assert judge(Candidate(KEY, mutation, Values({"name": "x"}, {})), NEVER).write is AS_SENT
