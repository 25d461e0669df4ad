"""The algebra of merging, for random histories: what holds whatever the devices, the policies and the order."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sync.merge import Decision, Policy, Rules
from tests.unit.merge_model import Edit, Server

FIELDS = ("name", "phone", "street", "city")
UNIT = ("street", "city")
START = {"name": "0", "phone": "0", "street": "0", "city": "0", "stock": 10}


def joins(_base: Mapping[str, Any] | None, server: Mapping[str, Any], device: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: "+".join(sorted({*value.split("+"), *device[name].split("+")})) for name, value in server.items()}


POLICIES: Sequence[Policy] = ("server_wins", "device_wins", "latest_wins", "manual", joins)
rules = st.builds(
    lambda name, phone, unit: Rules(
        policies={"name": name, "phone": phone, "street": unit, "city": unit},
        units=dict.fromkeys(UNIT, UNIT),
        kinds={**dict.fromkeys(FIELDS, "text"), "stock": "integer"},
        counters=frozenset({"stock"}),
    ),
    *[st.sampled_from(POLICIES)] * 3,
)
values = st.sampled_from("123456789")
amounts = st.dictionaries(st.just("stock"), st.integers(-3, 3))


def edits(devices: str = "abc") -> st.SearchStrategy[Edit]:
    sets = st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)
    return st.builds(Edit, st.sampled_from(devices), st.just(1), sets, amounts, st.integers(-5, 5))


@given(rules, st.lists(edits(), max_size=8))
def test_nothing_that_anyone_entered_is_in_neither_the_row_nor_the_history_nor_a_record(
    by: Rules, pushed: list[Edit]
) -> None:
    server = Server(by, START)
    for edit in pushed:
        before, revs = dict(server.row), server.rev
        verdict = server.push(edit)
        record = verdict.record
        for name, value in edit.set.items():
            taken = server.row[name] == value or value in str(server.row[name]).split("+")
            assert taken or (record is not None and name in record.fields)
        for name, value in before.items():
            if server.row[name] != value:
                assert server.history[-1].rev > revs
                assert server.history[-1].old[name] == value
        if record is not None:
            assert record.server is not None
            assert all(record.server[name] == before[name] for name in record.fields)


@given(rules, st.lists(edits(), min_size=1, max_size=6))
def test_merging_a_mutation_twice_is_merging_it_once(by: Rules, pushed: list[Edit]) -> None:
    server = Server(by, START)
    for edit in pushed:
        server.push(edit)
    last = pushed[-1]._replace(add={})
    row, first = dict(server.row), server.verdicts[-1]
    again = server.push(last)
    assert server.row == row
    if first.record is None or first.record.decision in {Decision.OPEN, Decision.SERVER}:
        assert (again.record is None) == (first.record is None)


@given(rules, st.permutations(FIELDS[:2]), values, values, st.integers(-3, 3), st.integers(-3, 3))
def test_edits_of_different_fields_commute_without_a_conflict(
    by: Rules, names: Sequence[str], one: str, other: str, first: int, second: int
) -> None:
    both = [Edit("a", 1, {names[0]: one}, {"stock": first}, 0), Edit("b", 1, {names[1]: other}, {"stock": second}, 0)]
    rows = []
    for order in permutations(both):
        server = Server(by, START)
        for edit in order:
            assert server.push(edit).record is None
        rows.append(server.row)
    assert rows[0] == rows[1] == START | {names[0]: one, names[1]: other, "stock": 10 + first + second}


@given(rules, st.lists(edits(), max_size=6), st.randoms())
def test_counters_add_up_whatever_the_order_and_the_conflicts(by: Rules, pushed: list[Edit], random: Any) -> None:
    shuffled = list(pushed)
    random.shuffle(shuffled)
    for order in (pushed, shuffled):
        server = Server(by, START)
        for edit in order:
            server.push(edit)
        assert server.row["stock"] == 10 + sum(edit.add.get("stock", 0) for edit in pushed)


@given(rules, st.lists(edits("a"), max_size=8))
def test_a_device_alone_never_meets_a_conflict(by: Rules, pushed: list[Edit]) -> None:
    server = Server(by, START)
    expected: dict[str, Any] = dict(START)
    for edit in pushed:
        assert server.push(edit).status == "applied"
        expected |= edit.set
        expected["stock"] += edit.add.get("stock", 0)
    assert server.row == expected


@given(rules, st.lists(edits(), max_size=8))
def test_a_unit_is_never_torn(by: Rules, pushed: list[Edit]) -> None:
    """Whatever a unit holds is what the server, or one device, had in it as a whole."""
    server = Server(by, START)
    for edit in pushed:
        if by.policies["street"] is joins:
            return  # a function may make what it likes of a unit
        before = (server.row["street"], server.row["city"])
        since = server.since(edit)
        device = tuple(edit.set.get(name, since.base.get(name, server.row[name])) for name in UNIT)
        server.push(edit)
        assert (server.row["street"], server.row["city"]) in {before, device}


@given(rules, st.lists(edits(), max_size=8))
def test_the_status_says_whether_all_was_taken(by: Rules, pushed: list[Edit]) -> None:
    server = Server(by, START)
    for edit in pushed:
        verdict = server.push(edit)
        decisions = {verdict.record.decision} if verdict.record else set()
        if verdict.status == "conflict":
            assert decisions & {Decision.OPEN, Decision.SERVER, Decision.MIXED}
        else:
            assert not decisions & {Decision.OPEN, Decision.SERVER}
            assert verdict.status in {"applied", "merged"}
