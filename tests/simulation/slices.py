"""One seed of the slices: random models with random scopes, and devices that pull and push while everything moves.

The oracle knows nothing of the feed: it reads the tables, walks the paths in Python, and says what a device may have.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
from django.contrib.auth.models import User
from django.db import OperationalError, transaction

from devices.models import Device, Grant
from sync.declare import grants
from tests.integration.model_support import installed, key_to, model
from tests.integration.sync_support import TestDevice, create, delete, new_id, other_connection, sql, update
from tests.simulation.random_models import KINDS, Kind, a_rule, a_token, random_kinds

DEVICES, USERS, ROWS = 4, 2, 6
TOKEN = re.compile(r"(?:shown|hidden)-[0-9a-f]{12}")
WAIT = "SET lock_timeout = '150ms'"  # of a step that meets the transaction which is open: it is not taken

Row = Mapping[str, Any]
Key = tuple[str, str]


@dataclass
class Slices:
    """`log` tells what happened, a line a step; `devices` are what is watched."""

    rng: Random
    kinds: list[Kind]
    granting: Kind
    log: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    open: "psycopg.Connection[Any] | None" = None

    def __post_init__(self) -> None:
        sql(WAIT)
        self.users = [User.objects.create(username=f"user {new_id()}") for _ in range(USERS)]
        for _ in range(ROWS):
            for kind in self.kinds:
                self._insert(kind)
        self.devices = [Watched(self) for _ in range(DEVICES)]
        for device in self.devices:
            for scope in self.rng.sample(self._scopes_there_are(), 3):
                device.grant(scope)

    # --- the oracle ---

    def tables(self) -> dict[str, dict[str, Row]]:
        """Everything that is committed, by entity and id, as texts."""
        kinds = (*self.kinds, self.granting)
        found: dict[str, dict[str, Row]] = {kind.entity: {} for kind in kinds}
        each = (f"SELECT '{kind.entity}', row_to_json(t) FROM {kind.table} t" for kind in kinds)
        for entity, row in sql(" UNION ALL ".join(f"({query})" for query in each)):
            found[entity][row["id"]] = {n: v if v is None or n == "id" else str(v) for n, v in row.items()}
        return found

    def scopes_of(self, kind: Kind, row: Row, tables: Mapping[str, Mapping[str, Row]]) -> set[str]:
        found = set()
        for name, path in kind.rules:
            value = None if path is None else self._walk(kind, row, path, tables)
            if path is None or value is not None:
                found.add(name if path is None else f"{name}:{value}")
        return found

    def _walk(self, kind: Kind, row: Row, path: str, tables: Mapping[str, Mapping[str, Row]]) -> str | None:
        *names, last = path.split("__")
        for name in names:
            kind, key = kind.keys[name], row[f"{name}_id"]
            if key is None:
                return None
            row = tables[kind.entity][key]
        value: str | None = row[last]
        return value

    def granted(self, device: "Watched", tables: Mapping[str, Mapping[str, Row]]) -> set[str]:
        user = Device.objects.values_list("user_id", flat=True).get(pk=device.id)
        whose = Grant.objects.filter(source="", device=device.device)
        if user is not None:
            whose |= Grant.objects.filter(source="", user=user)
        found = set(whose.values_list("scope", flat=True))
        for row in tables[self.granting.entity].values():
            if user is not None and row["user_id"] == str(user):
                found |= self.scopes_of(self.granting, row, tables)
        return found

    def allowed(self, device: "Watched") -> dict[Key, Row]:
        """The rows that the device may have, as they are."""
        tables = self.tables()
        granted = self.granted(device, tables)
        return {
            (kind.entity, id): row
            for kind in self.kinds
            if kind.synced
            for id, row in tables[kind.entity].items()
            if self.scopes_of(kind, row, tables) & granted
        }

    def check_feed(self) -> None:
        """Every row is alive in its scopes, and in no others."""
        tables = self.tables()
        for kind in self.kinds:
            if kind.synced:
                found: dict[str, set[str]] = {}
                live = "SELECT row_id::text, scope FROM sync_feed WHERE entity = %s AND data IS NOT NULL"
                for id, scope in sql(live, [kind.entity]):
                    found.setdefault(id, set()).add(scope)
                rows = tables[kind.entity].items()
                assert found == {id: self.scopes_of(kind, row, tables) or {""} for id, row in rows}, kind.entity

    # --- what happens ---

    def _scopes_there_are(self) -> list[str]:
        tables = self.tables()
        found = {
            scope
            for kind in self.kinds
            for row in tables[kind.entity].values()
            for scope in self.scopes_of(kind, row, tables)
        }
        return sorted(found | {f"kind:{value}" for value in KINDS})

    def any_row(self, kind: Kind) -> str | None:
        ids = sorted(str(id) for id in kind.model._default_manager.values_list("pk", flat=True))
        return self.rng.choice(ids) if ids else None

    def _some_rows(self, kind: Kind) -> list[str]:
        ids = sorted(str(id) for id in kind.model._default_manager.values_list("pk", flat=True))
        return [id for id in ids if self.rng.random() < 0.5]

    def values(self, kind: Kind, secret: bool = True) -> dict[str, Any] | None:
        """Of a new row; None where a key must lead somewhere and there is nothing."""
        values: dict[str, Any] = {"label": a_token(self.rng), "kind": self.rng.choice(KINDS)}
        if secret:
            values["secret"] = a_token(self.rng, "hidden")
        for key, target in kind.keys.items():
            may_lack = kind.model._meta.get_field(key).null
            values[f"{key}_id"] = None if may_lack and self.rng.random() < 0.2 else self.any_row(target)
            if values[f"{key}_id"] is None and not may_lack:
                return None
        return values

    def _insert(self, kind: Kind) -> str | None:
        values = self.values(kind)
        return None if values is None else str(kind.model._default_manager.create(**values).pk)

    def insert(self) -> str:
        kind = self.rng.choice(self.kinds)
        return f"{kind.entity} {self._insert(kind)} is made"

    def change(self) -> str:
        """One row: its label, its kind, or where a key leads."""
        kind = self.rng.choice(self.kinds)
        row, values = self.any_row(kind), self.values(kind)
        if row is None or values is None:
            return "nothing to change"
        some = {name: values[name] for name in self.rng.sample(sorted(values), self.rng.randint(1, 2))}
        kind.model._default_manager.filter(pk=row).update(**some)
        return f"{kind.entity} {row} gets {some}"

    def change_many(self) -> str:
        kind = self.rng.choice(self.kinds)
        to = self.rng.choice(KINDS)
        some = self._some_rows(kind)
        sql(f"UPDATE {kind.table} SET kind = %s WHERE kind <> %s AND id = ANY (%s::uuid[])", [to, to, some])
        return f"{some} of {kind.entity} become {to}"

    def swap_many(self) -> str:
        """Keys of many rows lead elsewhere, by one statement."""
        kind = self.rng.choice([kind for kind in self.kinds if kind.keys])
        key = self.rng.choice(sorted(kind.keys))
        target = self.any_row(kind.keys[key])
        if target is None:
            return "nothing to lead to"
        some = self._some_rows(kind)
        sql(f'UPDATE {kind.table} SET "{key}_id" = %s WHERE id = ANY (%s::uuid[])', [target, some])
        return f"{key} of {some} of {kind.entity} lead to {target}"

    def child_before_parent(self) -> str:
        kind = self.rng.choice([kind for kind in self.kinds if any(each is not kind for each in kind.keys.values())])
        key, parent = self.rng.choice([(key, each) for key, each in sorted(kind.keys.items()) if each is not kind])
        child, above = self.values(kind), self.values(parent)
        if child is None or above is None:
            return "nothing to lead to"
        id = new_id()
        with transaction.atomic():
            row = kind.model._default_manager.create(**child | {f"{key}_id": id})
            parent.model._default_manager.create(**above, pk=id)
        return f"{kind.entity} {row.pk} is made before its {key} {id}"

    def remove(self) -> str:
        kind = self.rng.choice(self.kinds)
        row = self.any_row(kind)
        if row is None:
            return "nothing to remove"
        kind.model._default_manager.filter(pk=row).delete()
        return f"{kind.entity} {row} is removed"

    def several(self) -> str:
        """Some of it in one transaction, which may be rolled back."""
        undone = self.rng.random() < 0.2
        with transaction.atomic():
            told = [self.rng.choice((self.insert, self.change, self.swap_many, self.remove))() for _ in range(3)]
            transaction.set_rollback(undone)
        return f"{'not ' if undone else ''}{told}"

    def begin(self) -> str:
        """Another program changes a row, and does not commit yet."""
        if self.open is not None:
            return self.end()
        kind = self.rng.choice(self.kinds)
        row = self.any_row(kind)
        self.open = other_connection()
        self.open.execute(WAIT)
        to = self.rng.choice(KINDS)
        self.open.execute(f"UPDATE {kind.table} SET kind = %s, label = %s WHERE id = %s", [to, a_token(self.rng), row])
        return f"{kind.entity} {row} becomes {to}, in an open transaction"

    def end(self) -> str:
        if self.open is None:
            return "nothing is open"
        undone = self.rng.random() < 0.2
        self.open.rollback() if undone else self.open.commit()
        self.open.close()
        self.open = None
        return f"the open transaction is {'rolled back' if undone else 'committed'}"

    def grant(self) -> str:
        scope = self.rng.choice(self._scopes_there_are())
        whose = self._holder()
        Grant.objects.get_or_create(scope=scope, source="", **whose)
        return f"{scope} is granted to {whose}"

    def revoke(self) -> str:
        whose = self._holder()
        there = Grant.objects.filter(source="", **whose).order_by("scope")
        if not there:
            return "nothing to revoke"
        scope = self.rng.choice([grant.scope for grant in there])
        Grant.objects.filter(source="", scope=scope, **whose).delete()
        return f"{scope} is taken from {whose}"

    def _holder(self) -> dict[str, Any]:
        if self.rng.random() < 0.3:
            return {"user": self.rng.choice(self.users)}
        return {"device_id": self.rng.choice(self.devices).id}

    def hand_over(self) -> str:
        device, user = self.rng.choice(self.devices), self.rng.choice([*self.users, None])
        Device.objects.filter(pk=device.id).update(user=user)
        return f"{device.id} is now of {user}"

    def row_that_grants(self) -> str:
        rows = self.granting.model._default_manager
        ids = list(rows.values_list("pk", flat=True))
        target = self.any_row(next(iter(self.granting.keys.values())))
        values = {"user": self.rng.choice(self.users), f"{next(iter(self.granting.keys))}_id": target}
        if target is not None and (not ids or self.rng.random() < 0.5):
            rows.create(**values)
            return f"a row grants by {values}"
        if ids and target is not None and self.rng.random() < 0.5:
            rows.filter(pk=self.rng.choice(ids)).update(**values)
            return f"a row that grants gets {values}"
        rows.filter(pk__in=ids[:1]).delete()
        return "a row that granted is gone"

    def page(self) -> str:
        device = self.rng.choice(self.devices)
        more = device.step(self.rng.choice((1, 2, 3, 5)))
        return f"{device.id} reads a page{', and has more to read' if more else ''}"

    def pull(self) -> str:
        device = self.rng.choice(self.devices)
        device.pull(self.rng.choice((2, 3, 7, 100)))
        return f"{device.id} pulls {len(device.rows)} rows"

    def push(self) -> str:
        device = self.rng.choice(self.devices)
        return f"{device.id}: {device.push_something()}"

    def run(self, steps: int) -> None:
        """Raises AssertionError where a device has a row too many or too few, or is told of one, at any moment."""
        for number in range(steps):
            (step,) = self.rng.choices([step for step, _ in WEIGHTS], [weight for _, weight in WEIGHTS])
            self.counts[step.__name__] += 1
            self.log.append(f"{number}: {step.__name__}")
            try:
                with transaction.atomic():
                    what = step(self)
            except OperationalError as problem:  # it met what is not committed yet
                assert "lock" in str(problem), problem
                what = "waits for the open transaction, and gives up"
            self.log[-1] = f"{number}: {what}"
        self.end()
        self.check_feed()
        for device in self.devices:
            device.pull(self.rng.choice((2, 7, 100)))

    def close(self) -> None:
        if self.open is not None:
            self.open.close()


WEIGHTS: tuple[tuple[Callable[[Slices], str], int], ...] = (
    (Slices.insert, 4),
    (Slices.change, 10),
    (Slices.change_many, 3),
    (Slices.swap_many, 4),
    (Slices.child_before_parent, 3),
    (Slices.remove, 3),
    (Slices.several, 4),
    (Slices.begin, 4),
    (Slices.end, 4),
    (Slices.grant, 6),
    (Slices.revoke, 5),
    (Slices.hand_over, 2),
    (Slices.row_that_grants, 4),
    (Slices.page, 12),
    (Slices.pull, 6),
    (Slices.push, 10),
)


class Watched(TestDevice):
    """A device every answer of which is looked at."""

    def __init__(self, slices: Slices) -> None:
        super().__init__("nothing")
        self.slices = slices

    def page(self, token: str | None, limit: int = 10_000) -> dict[str, Any]:
        if token is None:
            self.rows.clear()  # a first load replaces everything
        page = super().page(token, limit)
        allowed = self.slices.allowed(self)
        for entity, change in page["changes"].items():
            for row in change["upserts"]:
                assert_equal(row, allowed.get((entity, row["id"])), "it was told a row that it may not have")
        self._look_for_leaks(json.dumps(page), allowed, "")
        return page

    def pull(self, limit: int = 10_000) -> None:
        super().pull(limit)
        allowed = self.slices.allowed(self)
        assert self.rows.keys() - allowed.keys() == set(), "it has a row too many"
        assert allowed.keys() - self.rows.keys() == set(), "it lacks a row"
        for key, row in self.rows.items():
            assert_equal(row, allowed[key], "it has another state of a row")

    def _look_for_leaks(self, text: str, allowed: Mapping[Key, Row], sent: str) -> None:
        """No value of a row that it may not have, and no hidden value at all, but what it sent itself."""
        seen = {str(row["label"]) for row in allowed.values()} | set(TOKEN.findall(sent))
        assert set(TOKEN.findall(text)) <= seen

    def push_something(self) -> str:
        """One to three mutations of any rows, known to the device or not. What is applied is in its rows."""
        mutations = [each for _ in range(self.slices.rng.randint(1, 3)) if (each := self._mutation())]
        before = self.slices.allowed(self)
        answer = self.send({"mutations": mutations})
        assert answer.status_code in {200, 503}, answer.content
        if answer.status_code == 503:
            return "its push meets what is not committed yet"
        after = self.slices.allowed(self)
        text = answer.content.decode()
        self._look_for_leaks(text, before | after, json.dumps(mutations))
        results = answer.json()["results"]
        for sent, result in zip(mutations, results, strict=True):
            key = (sent["entity"], sent["row"])
            if result.get("row"):
                assert_equal(result["row"], after.get(key), "a push told it a row that it may not have")
            if result["status"] == "applied":
                # With others in its batch it may be gone with another row, or follow it out of the slice.
                alone = len(mutations) == 1
                assert sent["op"] == "delete" or key in after or not alone, "it wrote a row that it may not have"
                if sent["op"] == "delete":
                    self.rows.pop(key, None)
                elif sent["op"] == "create" or key in self.rows:
                    self.rows[key] = {**self.rows.get(key, {"id": sent["row"]}), **sent["set"], "_rev": result["rev"]}
        return f"pushes {[(*list(m.values())[1:4], r['status']) for m, r in zip(mutations, results, strict=True)]}"

    def _mutation(self) -> dict[str, Any] | None:
        rng, kinds = self.slices.rng, [kind for kind in self.slices.kinds if kind.synced]
        kind = rng.choice(kinds)
        values = self.slices.values(kind, secret=False)
        row = self.slices.any_row(kind)
        known = sorted(id for entity, id in self.rows if entity == kind.entity)
        if known and rng.random() < 0.7:
            row = rng.choice(known)
        op = rng.choice(("create", "update", "update", "update", "delete"))
        if values is None or (row is None and op != "create"):
            return None
        if op == "create":
            return create(kind.entity, new_id(), **values)
        base = self.rows.get((kind.entity, str(row)), {}).get("_rev", 1)
        if op == "delete":
            return delete(str(row), base, kind.entity)
        some = {name: values[name] for name in rng.sample(sorted(values), rng.randint(1, 2))}
        return update(str(row), base, kind.entity, **some)


def assert_equal(told: Row, there: Row | None, what: str) -> None:
    assert there is not None, (what, told)
    shown = {name: value for name, value in there.items() if name not in {"secret"}}
    assert {name: value for name, value in told.items() if name != "_rev"} == shown, what


@contextmanager
def slices_of(seed: int) -> Iterator[Slices]:
    """The models of a seed are there, and everything of them is gone afterwards."""
    rng = Random(f"slices {seed}")
    kinds = random_kinds(rng)
    target = rng.choice(kinds)
    made = model("Grantor", user=key_to(User), **{f"to_{target.entity}": key_to(target.model)})
    rule = a_rule(rng, Kind(made, {f"to_{target.entity}": target}, [], synced=False), along=True)
    grants(*rule, to="user_id")(made)
    granting = Kind(made, {f"to_{target.entity}": target}, [rule], synced=False)
    with installed([*(kind.model for kind in kinds), made]):
        slices = Slices(rng, kinds, granting)
        try:
            yield slices
        finally:
            slices.close()
            for kind in (granting, *reversed(kinds)):
                sql(f"DELETE FROM {kind.table}")
