"""Every mutation is accounted for, and no value that anybody entered is lost."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.db import connection

from tests.simulation.device import Device, Made
from tests.simulation.ledger import Change, Ledger
from tests.simulation.oracle import TABLES, Key, equal
from tests.simulation.reference import Expected, Unsure, expect
from tests.simulation.sight import scopes_of
from tests.simulation.world import World

COUNTER = ("product", "units_in_stock")
WRITTEN = {"create": {"insert", "update"}, "update": {"update", "insert"}, "delete": {"delete"}}
Record = Mapping[str, Any]


class Accounts:
    """What all devices ever made, with the answers to it and what is kept of it."""

    def __init__(self, devices: Iterable[Device], world: World) -> None:
        self.world = world
        self.made = {mutation.id: mutation for device in devices for mutation in device.made.values()}
        self.ledger = Ledger(world.forgotten, world.pushes)
        self.counts: Counter[str] = Counter()
        self.results = {str(row["id"]): row for row in _table("sync_result")}
        self.conflicts = {str(row["mutation"]): row for row in _table("sync_conflict")}
        self.mixed = {mutation: conflict["mixed"] for mutation, conflict in self.conflicts.items()}
        self.rejections = {str(row["mutation"]): row for row in _table("sync_rejection")}
        # What a device brought back after a restore before another one brought what it needs: replayed in its name.
        self.waited = [row for row in self.rejections.values() if row["decided_by"].startswith("device:")]

    def check(self, replays: int) -> dict[str, int]:
        """Returns the counts by status. `replays`: of mutations, by people, that were not refused again."""
        made, results, answers = self.made.keys(), self.results.keys(), self.ledger.answers.keys()
        assert results >= made, f"no result: {made - results}"
        others = {id for id in results - made if self.results[id]["status"] != "rejected"}
        expected = replays + len(self.waited)
        assert len(others) == expected, f"nobody made: {others}, {expected} were replayed"
        assert answers == made, f"no answer: {made - answers}; nobody made: {answers - made}"
        for mutation in self.made.values():
            self._check_mutation(mutation)
        self._check_groups()
        self._check_stock()
        self._check_office()
        self.counts.update(answer.status for answer in self.ledger.answers.values())
        return self.counts

    def _check_mutation(self, mutation: Made) -> None:
        answer, key = self.ledger.answers[mutation.id], (mutation.entity, mutation.row)
        status, kept = answer.status, self.results[mutation.id]
        name = f"{status} {mutation}"
        assert (status, answer.result.get("rev"), answer.result.get("conflict")) == (
            kept["status"],
            kept["rev"],
            kept["conflict"] and str(kept["conflict"]),
        ), f"{name}: answered with {answer.result}, kept as {kept}"
        written = self.ledger.written[mutation.id]
        own = [change for row, change in written if row == key]
        assert len(written) == len(own) <= 1, f"{name} was written more than once: {written}"
        assert not (mutation.invalid and status != "rejected"), f"{name} is not valid"
        if status == "rejected":
            self._check_rejection(name, mutation, written != [])
            return
        conflict = self.conflicts.get(mutation.id)
        assert (conflict is not None) or status != "conflict", f"{name} has no conflict record"
        if conflict is not None:
            self._check_conflict(name, mutation, conflict, answer.result.get("conflict"))
        if own:
            self._check_written(name, mutation, own[0], conflict)
        elif mutation.add and any(map(int, mutation.add.values())):
            assert status == "conflict", f"{name} left no trace"
        rev = answer.result.get("rev")
        if conflict is None and mutation.op != "delete" and key in self.ledger.states:
            assert rev is not None and own in ([], [c for c in own if c.rev == rev]), f"{name}: {answer.result}, {own}"
            state = self.ledger.states[key].get(rev if own else self.ledger.met(mutation.id, key, rev))
            assert state is not None, f"{name}: the row was not there at revision {rev}"
            lost = {f: (v, state[f]) for f, v in mutation.set.items() if not equal(f, v, state[f])}
            assert not lost, f"{name}: at revision {rev} (entered, was) {lost}"
        if key in self.ledger.states:
            self._check_merge(name, mutation, own, conflict)
        if mutation.op == "delete" and status != "conflict" and key in self.ledger.states:
            met = self.ledger.met(mutation.id, key, rev or 0)
            assert own or self.ledger.states[key].get(met) is None, f"{name} did not delete: {self.ledger.told(key)}"

    def _check_merge(self, name: str, mutation: Made, own: list[Change], conflict: Record | None) -> None:
        """What became of it is what the small model says."""
        key, result = (mutation.entity, mutation.row), self.ledger.answers[mutation.id].result
        if own:
            met = own[0].rev - 1
        elif conflict is not None:
            met = conflict["server_rev"]
        else:
            met = self.ledger.met(mutation.id, key, result.get("rev") or 0)
        try:
            device = str(self.results[mutation.id]["device"])
            expected = expect(mutation, met, device, self.ledger, self.made, self.mixed)
        except Unsure:
            self.counts["merges not modelled"] += 1
            return
        row = self.ledger.states[key].get(own[0].rev if own else met)
        state, fields = (result["state"], set(conflict["fields"])) if conflict else (None, set())
        found = Expected(result["status"], row, state, fields)
        assert (found.status, found.state, found.fields) == (expected.status, expected.state, expected.fields), (
            f"{name}, which met revision {met}: {found} instead of {expected}; {self.ledger.told(key)}"
        )
        assert (row is None) == (expected.row is None), f"{name}: {row}; {self.ledger.told(key)}"
        wrong = {f: (row[f], v) for f, v in (expected.row or {}).items() if not equal(f, row[f], v)} if row else {}
        assert not wrong, f"{name}: (is, should be) {wrong}; {self.ledger.told(key)}"
        self.counts["merges modelled" if met else "creates modelled"] += 1

    def _check_rejection(self, name: str, mutation: Made, written: bool) -> None:
        """It is in quarantine in full, whatever became of it, and was written only where it was replayed."""
        assert mutation.id in self.rejections, f"{name} is not in quarantine"
        kept = self.rejections[mutation.id]
        assert not written, f"{name} was written"
        body = json.loads(kept["body"])
        for member in ("id", "entity", "row", "op", "base", "set", "add", "group"):
            assert body.get(member) == getattr(mutation, member) or not (
                body.get(member) or getattr(mutation, member)
            ), f"{name}: the quarantine has {member}={body.get(member)!r}"
        errors = kept["errors"] if isinstance(kept["errors"], list) else json.loads(kept["errors"])
        assert errors and all(error["code"] for error in errors), f"{name} has no reason"

    def _check_conflict(self, name: str, mutation: Made, kept: Record, told: str | None) -> None:
        """What the device entered is kept as it is, and the server's values as they were."""
        assert told in {None, str(kept["id"])}, f"{name}: {kept}"
        which = (kept["entity"], str(kept["row_id"]), kept["op"], kept["base_rev"])
        assert which == (mutation.entity, mutation.row, mutation.op, mutation.base), f"{name}: kept as {which}"
        values = _json(kept["device_values"])
        assert (values.get("set", {}), values.get("add", {})) == (mutation.set, mutation.add), f"{name}: kept {values}"
        key = (mutation.entity, mutation.row)
        if key in self.ledger.states and kept["server"] is not None:
            state = self.ledger.states[key].get(kept["server_rev"])
            state = self.ledger.before(key, kept["server_rev"]) if state is None else state  # it came back
            assert state is not None, f"{name}: nothing was there at revision {kept['server_rev']}"
            wrong = {f: (v, state[f]) for f, v in _json(kept["server"]).items() if not equal(f, v, state[f])}
            assert not wrong, f"{name}: (kept as the server's, was) {wrong}"

    def _check_written(self, name: str, mutation: Made, change: Change, conflict: Record | None) -> None:
        """A device replaces no value of others that it had not seen, unless the dispute is on record."""
        key = (mutation.entity, mutation.row)
        assert change.op in WRITTEN[mutation.op], f"{name}: {change}"
        self._check_slice(name, mutation, change)
        if change.op == "update":
            for field, amount in mutation.add.items():
                delta = int(change.new.get(field, 0)) - int(change.old.get(field, 0))
                assert delta == int(amount), f"{name}: {change} is not what it added"
        if key not in self.ledger.states or (conflict is not None and not conflict["fields"]):
            return
        disputed = set(conflict["fields"]) if conflict is not None else set()
        replaced = change.old.keys() - disputed - mutation.add.keys()
        batch = self.ledger.answers[mutation.id].ids
        for other in self.ledger.changes[key]:
            unseen = (mutation.base or 0) < other.rev < change.rev
            if unseen and other.author != change.author and other.mutation not in batch and other.op == "update":
                lost = {field for field in replaced & other.new.keys() if self._stood(key, field, other, change)}
                assert not lost, f"{name} replaced {lost} of {other} without a record"

    def _check_slice(self, name: str, mutation: Made, change: Change) -> None:
        """The row was in the device's scopes before and after."""
        device, key = str(self.results[mutation.id]["device"]), (mutation.entity, mutation.row)
        scopes = self.world.granted(device, self.ledger.answers[mutation.id].began)
        for rev in (change.rev - 1, change.rev) if key in self.ledger.states else ():
            state = self.ledger.states[key].get(rev)
            if state is None or (orders := self.ledger.employees(state, change.at)) is None:
                continue
            seen = scopes_of(mutation.entity, {"id": mutation.row, **state}, orders) & scopes
            assert seen, f"{name} wrote {state} with {sorted(scopes)}"

    def _stood(self, key: Key, field: str, other: Change, change: Change) -> bool:
        """Whether another's value was still there when a device wrote; the device may have replaced it before."""
        between = (c for c in self.ledger.changes[key] if other.rev < c.rev < change.rev)
        return not any(c.author == change.author and (field in c.old or c.op != "update") for c in between)

    def _check_groups(self) -> None:
        groups: dict[str, set[bool]] = defaultdict(set)
        for mutation in self.made.values():
            if mutation.group:
                groups[mutation.group].add(self.ledger.answers[mutation.id].status in {"applied", "merged"})
                done = self.ledger.answers[mutation.id].status in {"applied", "merged"}
                replayed = self.rejections.get(mutation.id, {}).get("state") == "replayed"
                assert done or replayed or not self.ledger.written[mutation.id], (
                    f"{mutation} of a failed group is written"
                )
        halves = [group for group, done in groups.items() if len(done) > 1]
        assert not halves, f"groups that were applied in part: {halves}"

    def _check_stock(self) -> None:
        """A product's stock changed by amounts alone: those of the office, and of devices, each held against its
        mutation as it was written. (What people decided about it is held against their decisions.)
        """
        entity, field = COUNTER
        waited = {str(row["row_id"]) for row in self.waited}
        for (name, row), changes in self.ledger.changes.items():
            if name != entity or row not in self.world.stock:
                continue
            began = int((self.ledger.states[name, row][1] or {})[field])
            amounts = Counter({changes[0].author.partition(":")[0]: began})
            for change in changes:
                if change.op == "update" and field in change.old:
                    amounts[change.author.partition(":")[0]] += int(change.new[field]) - int(change.old[field])
                    device = change.author.startswith("device:")
                    known = change.mutation in self.made or (change.mutation in self.results and row in waited)
                    assert not device or known, f"{name} {row}: nobody made {change}"
            assert amounts["sql"] == self.world.stock[row], (
                f"{name} {row}: the office did {amounts}, {self.world.stock[row]}"
            )

    def _check_office(self) -> None:
        """What the office entered was there, whoever replaced it."""
        entity_of = {table: entity for entity, table in TABLES.items()}
        for table, row, field, value in self.world.entered:
            key = (entity_of[table], row)
            if key in self.ledger.states:
                value = float(value) if isinstance(value, float) else value
                assert self.ledger.had(key, field, value), f"nobody knows that {key} had {field}={value!r}"


def _table(name: str) -> Iterator[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {name}")
        names = [column.name for column in cursor.description]
        for values in cursor.fetchall():
            yield dict(zip(names, values, strict=True))


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
