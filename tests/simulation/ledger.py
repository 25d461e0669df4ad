"""What happened to every row and every mutation: put together from the history, the tables and the answers as they
came over the wire, each held against the others."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db import connection

from tests.simulation.oracle import Key, equal, server_rows

Row = Mapping[str, Any]
CLOCK_SECONDS = 0.005  # that two clocks of one machine may seem to be apart


@dataclass(frozen=True)
class Change:
    """An entry of the history."""

    rev: int
    op: str
    author: str
    mutation: str | None
    at: datetime
    old: Row
    new: Row


@dataclass(frozen=True)
class Answer:
    """The first answer to a mutation, what came with it in one batch, and between which moments it was given."""

    status: str
    result: Mapping[str, Any]
    batch: Sequence[Mapping[str, Any]]
    sent_at: datetime
    began: datetime
    ended: datetime

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(mutation["id"] for mutation in self.batch)

    def moments(self, made_at: str) -> tuple[datetime, datetime]:
        """Between which moments of the server's clock a mutation was made, as far as the device's clock tells."""
        made = datetime.fromisoformat(made_at)
        return min(made + (self.began - self.sent_at), self.began), min(made + (self.ended - self.sent_at), self.ended)


class Ledger:
    """`changes` by row, in order; `states`: each row right after each of its revisions (None: not there).

    Rows whose tombstone was forgotten are left out: they begin at revision 1 again.
    """

    def __init__(self, forgotten: Collection[Key], pushes: Path) -> None:
        self.changes: dict[Key, list[Change]] = defaultdict(list)
        self.written: dict[str, list[tuple[Key, Change]]] = defaultdict(list)  # by mutation, or decision
        for key, change in _history():
            if change.mutation:
                self.written[change.mutation].append((key, change))
            if key not in forgotten:
                self.changes[key].append(change)
        now = server_rows()
        self.states = {key: _states(key, changes, now[key[0]].get(key[1])) for key, changes in self.changes.items()}
        self.answers = dict(self._read_answers(pushes))

    def before(self, key: Key, rev: int) -> Row | None:
        """A row right before a revision."""
        return self.states[key].get(rev - 1)

    def employees(self, line: Row, at: datetime) -> dict[str, Any] | None:
        """Whose the order of a line was at that moment; None where that is not known. Of other rows, nothing."""
        if (order := line.get("order_id")) is None:
            return {}
        key = ("order", order)
        rev = max((change.rev for change in self.changes.get(key, ()) if change.at <= at), default=0)
        state = self.states[key].get(rev) if rev else None
        return None if state is None else {order: state["employee_id"]}

    def met(self, mutation: str, key: Key, rev: int) -> int:
        """The revision that a mutation met which wrote nothing; it is answered with the one after its batch."""
        order = [each["id"] for each in self.answers[mutation].batch]
        later = set(order[order.index(mutation) + 1 :])
        while any(change.rev == rev and change.mutation in later for change in self.changes[key]):
            rev -= 1
        return rev

    def told(self, key: Key) -> str:
        """A row's history, to be read."""
        return "; ".join(f"{c.rev} {c.op} by {c.author} in {c.mutation}: {c.new or ''}" for c in self.changes[key])

    def had(self, key: Key, field: str, value: Any) -> bool:
        """Whether a row ever held a value."""
        return any(state is not None and equal(field, state[field], value) for state in self.states[key].values())

    def _read_answers(self, path: Path) -> Iterator[tuple[str, Answer]]:
        """The first answer to each mutation. Every other one must say the same, and every row be that of its moment."""
        firsts: dict[str, Answer] = {}
        again: list[Mapping[str, Any]] = []
        for line in path.read_text().splitlines() if path.exists() else ():
            push = json.loads(line)
            if push["status"] != 200:
                assert push["status"] in {401, 410, 503}, f"a push was answered with {push['status']}: {push['answer']}"
                continue
            batch, results = push["request"]["mutations"], push["answer"]["results"]
            assert [mutation["id"] for mutation in batch] == [result["id"] for result in results]
            began, ended = (datetime.fromtimestamp(push[name], UTC) for name in ("began", "ended"))
            sent_at = datetime.fromisoformat(push["request"]["sent_at"])
            for mutation, result in zip(batch, results, strict=True):
                self._check_row((mutation["entity"], mutation["row"]), result, began, ended)
                if result.get("replayed"):
                    again.append(result)
                    continue
                assert result["id"] not in firsts, f"{mutation} was taken as new twice"
                firsts[result["id"]] = Answer(result["status"], result, batch, sent_at, began, ended)
        for result in again:
            first = firsts[result["id"]].result
            for name in ("status", "rev", "conflict", "state", "errors"):
                assert result.get(name) == first.get(name), f"first {first}, then {result}"
        return iter(firsts.items())

    def _check_row(self, key: Key, result: Mapping[str, Any], began: datetime, ended: datetime) -> None:
        """A row in an answer is a state that the row had while the answer was made."""
        row = result.get("row")
        assert row is None or result["status"] != "applied", f"{result} of {key} has a row"
        if row is None or key not in self.states:
            return
        rev = row["_rev"]
        state = self.states[key].get(rev)
        assert state is not None, f"answered with revision {rev} of {key}, which never was: {result}"
        wrong = {name for name, value in state.items() if not equal(name, row.get(name, ...), value)}
        assert not wrong, f"answered with another revision {rev} of {key} than there was, in {wrong}: {result}"
        assert result["status"] != "merged" or rev >= result["rev"], f"answered before it was written: {result}"
        after = next((change for change in self.changes[key] if change.rev == rev + 1), None)
        late = after is not None and (began - after.at).total_seconds() > CLOCK_SECONDS
        assert not late, f"answered with revision {rev} of {key}, which was none any more at {began}: {after}"


def _history() -> Iterator[tuple[Key, Change]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT entity, row_id::text, rev, op, author, mutation::text, at, old, new FROM sync_history"
            " ORDER BY at, rev"
        )
        for entity, row, rev, op, author, mutation, at, old, new in cursor.fetchall():
            yield (entity, row), Change(rev, op, author, mutation, at, _loaded(old), _loaded(new))


def _loaded(value: Any) -> Row:
    """A column of type `json`."""
    found = json.loads(value) if isinstance(value, str) else value or {}
    return {name: value for name, value in found.items() if name not in {"id", "_rev"}}


def _states(key: Key, changes: Iterable[Change], now: Row | None) -> dict[int, Row | None]:
    """Each state of a row, going back from what is in the table: every value that was replaced is in the history."""
    state: Row | None = (
        None if now is None else {name: value for name, value in now.items() if name not in {"id", "_rev"}}
    )
    states: dict[int, Row | None] = {}
    for change in sorted(changes, key=lambda change: -change.rev):
        states[change.rev] = state
        where = f"{key} at revision {change.rev}"
        if change.op == "delete":
            assert state is None, f"{where} was deleted, and is there"
            state = change.old
            continue
        assert state is not None, f"{where} is not there, and was not deleted"
        if change.op == "insert":
            state = None
            continue
        wrong = {
            name: (state.get(name), value) for name, value in change.new.items() if not equal(name, state[name], value)
        }
        assert not wrong, f"{where}: (was, the history says) {wrong}"
        state = {**state, **change.old}
    assert state is None, f"{key} was there before it was made"
    states[0] = None
    return states
