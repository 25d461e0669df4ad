"""The algebra of merging, for random histories: what holds whatever the devices, the policies and the order."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from sync.decide import AS_SENT, Candidate, RowKey, RowState, Verdict, judge
from sync.merge import Decision, Policy, Rules, Since
from sync.mutation import Mutation, Values

FIELDS = ("name", "phone", "street", "city")
UNIT = ("street", "city")
START = {"name": "0", "phone": "0", "street": "0", "city": "0", "stock": 10}
KEY = RowKey("thing", "00000000-0000-0000-0000-000000000001")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def joins(_base: Mapping[str, Any] | None, server: Mapping[str, Any], device: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: "+".join(sorted({*value.split("+"), *device[name].split("+")})) for name, value in server.items()}


class Change(NamedTuple):
    """One entry of the row's history."""

    rev: int
    author: str
    at: datetime
    old: Mapping[str, Any]
    mixed: frozenset[str]


class Edit(NamedTuple):
    """What a device did to the row, as it was at `base`."""

    device: str
    base: int
    set: Mapping[str, str]
    add: int
    hour: int

    @property
    def made_at(self) -> datetime:
        return NOON + timedelta(hours=self.hour)


class Server:
    """A row with its history, which carries out what is decided: the plainest one there can be."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.rev = rules, 1
        self.row: dict[str, Any] = dict(START)
        self.history: list[Change] = []
        self.verdicts: list[Verdict] = []

    def push(self, edit: Edit) -> Verdict:
        state = RowState(self.rev, True, True, dict(self.row), {edit.base: self._since(edit)})
        mutation = Mutation(KEY.row, "thing", KEY.row, "update", edit.base)
        values = Values(edit.set, {"stock": edit.add} if edit.add else {})
        verdict = judge(Candidate(KEY, mutation, values, (), (), self.rules, edit.made_at), state)
        if verdict.write is not None:
            mixed = verdict.record.mixed if verdict.record else frozenset()
            self._write(edit, values if verdict.write is AS_SENT else verdict.write.values, mixed)
        self.verdicts.append(verdict)
        return verdict

    def _write(self, edit: Edit, values: Values, mixed: frozenset[str]) -> None:
        new = self.row | dict(values.fields) | {n: self.row[n] + amount for n, amount in values.amounts.items()}
        old = {name: value for name, value in self.row.items() if new[name] != value}
        if old:
            self.rev += 1
            self.history.append(Change(self.rev, edit.device, edit.made_at, old, mixed))
            self.row = new

    def _since(self, edit: Edit) -> Since:
        base: dict[str, Any] = {}
        changed: dict[str, datetime] = {}
        for change in self.history:
            for name, old in change.old.items() if change.rev > edit.base else ():
                if change.author == edit.device and name not in change.mixed:
                    base.pop(name, None)
                    changed.pop(name, None)
                else:
                    base.setdefault(name, old)
                    changed[name] = change.at
        return Since(changed=changed, base=base)


POLICIES: Sequence[Policy] = ("server_wins", "device_wins", "latest_wins", "manual", joins)
rules = st.builds(
    lambda name, phone, unit: Rules(
        policies={"name": name, "phone": phone, "street": unit, "city": unit},
        units=dict.fromkeys(UNIT, UNIT),
        kinds={**dict.fromkeys(FIELDS, "text"), "stock": "integer"},
    ),
    *[st.sampled_from(POLICIES)] * 3,
)
values = st.sampled_from("123456789")


def edits(devices: str = "abc") -> st.SearchStrategy[Edit]:
    sets = st.dictionaries(st.sampled_from(FIELDS), values, max_size=3)
    return st.builds(Edit, st.sampled_from(devices), st.just(1), sets, st.integers(-3, 3), st.integers(-5, 5))


@given(rules, st.lists(edits(), max_size=8))
def test_nothing_that_anyone_entered_is_in_neither_the_row_nor_the_history_nor_a_record(
    by: Rules, pushed: list[Edit]
) -> None:
    server = Server(by)
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
    server = Server(by)
    for edit in pushed:
        server.push(edit)
    last = pushed[-1]._replace(add=0)
    row, first = dict(server.row), server.verdicts[-1]
    again = server.push(last)
    assert server.row == row
    if first.record is None or first.record.decision in {Decision.OPEN, Decision.SERVER}:
        assert (again.record is None) == (first.record is None)


@given(rules, st.permutations(FIELDS[:2]), values, values, st.integers(-3, 3), st.integers(-3, 3))
def test_edits_of_different_fields_commute_without_a_conflict(
    by: Rules, names: Sequence[str], one: str, other: str, first: int, second: int
) -> None:
    both = [Edit("a", 1, {names[0]: one}, first, 0), Edit("b", 1, {names[1]: other}, second, 0)]
    rows = []
    for order in permutations(both):
        server = Server(by)
        for edit in order:
            assert server.push(edit).record is None
        rows.append(server.row)
    assert rows[0] == rows[1] == START | {names[0]: one, names[1]: other, "stock": 10 + first + second}


@given(rules, st.lists(edits(), max_size=6), st.randoms())
def test_counters_add_up_whatever_the_order_and_the_conflicts(by: Rules, pushed: list[Edit], random: Any) -> None:
    shuffled = list(pushed)
    random.shuffle(shuffled)
    for order in (pushed, shuffled):
        server = Server(by)
        for edit in order:
            server.push(edit)
        assert server.row["stock"] == 10 + sum(edit.add for edit in pushed)


@given(rules, st.lists(edits("a"), max_size=8))
def test_a_device_alone_never_meets_a_conflict(by: Rules, pushed: list[Edit]) -> None:
    server = Server(by)
    expected: dict[str, Any] = dict(START)
    for edit in pushed:
        assert server.push(edit).status == "applied"
        expected |= edit.set
        expected["stock"] += edit.add
    assert server.row == expected


@given(rules, st.lists(edits(), max_size=8))
def test_a_unit_is_never_torn(by: Rules, pushed: list[Edit]) -> None:
    """Whatever a unit holds is what the server, or one device, had in it as a whole."""
    server = Server(by)
    for edit in pushed:
        if by.policies["street"] is joins:
            return  # a function may make what it likes of a unit
        before = (server.row["street"], server.row["city"])
        since = server._since(edit)
        device = tuple(edit.set.get(name, since.base.get(name, server.row[name])) for name in UNIT)
        server.push(edit)
        assert (server.row["street"], server.row["city"]) in {before, device}


@given(rules, st.lists(edits(), max_size=8))
def test_the_status_says_whether_all_was_taken(by: Rules, pushed: list[Edit]) -> None:
    server = Server(by)
    for edit in pushed:
        verdict = server.push(edit)
        decisions = {verdict.record.decision} if verdict.record else set()
        if verdict.status == "conflict":
            assert decisions & {Decision.OPEN, Decision.SERVER, Decision.MIXED}
        else:
            assert not decisions & {Decision.OPEN, Decision.SERVER}
            assert verdict.status in {"applied", "merged"}
