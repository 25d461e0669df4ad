"""One row on the plainest server there can be: what the real one is held against."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sync.decide import AS_SENT, Candidate, RowKey, RowState, Verdict, judge
from sync.merge import Rules, Since
from sync.mutation import Mutation, Values

KEY = RowKey("thing", "00000000-0000-0000-0000-000000000001")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


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
    set: Mapping[str, Any]
    add: Mapping[str, int]
    hour: int = 0

    @property
    def made_at(self) -> datetime:
        return NOON + timedelta(hours=self.hour)


class Server:
    """A row with its history, which carries out what is decided: the plainest one there can be."""

    def __init__(self, rules: Rules, row: Mapping[str, Any]) -> None:
        self.rules, self.rev = rules, 1
        self.row: dict[str, Any] = dict(row)
        self.history: list[Change] = []
        self.verdicts: list[Verdict] = []

    def push(self, edit: Edit) -> Verdict:
        state = RowState(self.rev, True, True, dict(self.row), {edit.base: self.since(edit)})
        mutation = Mutation(KEY.row, "thing", KEY.row, "update", edit.base)
        values = Values(edit.set, edit.add)
        verdict = judge(Candidate(KEY, mutation, values, (), (), self.rules, edit.made_at), state)
        if verdict.write is not None:
            mixed = verdict.record.mixed if verdict.record else frozenset()
            written = values if verdict.write is AS_SENT else verdict.write.values
            self.write(edit.device, written, edit.made_at, mixed)
        self.verdicts.append(verdict)
        return verdict

    def write(self, author: str, values: Values, at: datetime = NOON, mixed: frozenset[str] = frozenset()) -> None:
        """Whoever writes."""
        new = self.row | dict(values.fields) | {n: self.row[n] + amount for n, amount in values.amounts.items()}
        old = {name: value for name, value in self.row.items() if new[name] != value}
        if old:
            self.rev += 1
            self.history.append(Change(self.rev, author, at, old, mixed))
            self.row = new

    def since(self, edit: Edit) -> Since:
        base: dict[str, Any] = {}
        changed: dict[str, datetime] = {}
        for change in self.history:
            for name, old in change.old.items() if change.rev > edit.base else ():
                if change.author == edit.device and name not in change.mixed:
                    if name not in self.rules.counters:
                        base.pop(name, None)
                        changed.pop(name, None)
                else:
                    base.setdefault(name, old)
                    changed[name] = change.at
        return Since(changed=changed, base=base)
