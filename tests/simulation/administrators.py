"""People who decide: about conflicts, one or many, anew, from a page that is out of date; who undo, replay, discard."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

from django.db import connection

from sync.amend import Invalid, RowMoved
from sync.models import Conflict, Decision, Rejection
from sync.quarantine import Replayed, discard, replay
from sync.resolve import Stakes, resolve, resolve_many, stakes_of, undo
from sync.stakes import values_of
from tests.simulation import office
from tests.simulation.edits import CITIES
from tests.simulation.oracle import equal, server_rows
from tests.simulation.world import World

PEOPLE = ("user:anna", "user:bert")
COMMENTS = ("", "as agreed", "漢字\n…")
SIDES = ("server", "device")
MANY = 6


class Administrators:
    """`told`: by device what its outcomes must be, in order. `replays`: of mutations that were not refused again."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world, self.rng = world, rng
        self.told: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.counts: Counter[str] = Counter()
        self.replays = 0

    def work(self) -> str:
        """One thing that somebody does. What is refused writes nothing."""
        does, weights = zip(*WORK, strict=True)
        (what,) = self.rng.choices(does, weights)
        try:
            done = str(what(self) or f"{what.__name__}: nothing to do")
        except Invalid as invalid:
            done = f"{what.__name__}: refused for {sorted({error.code for error in invalid.errors})}"
            self.counts[f"{what.__name__} refused"] += 1
        return done

    def _person(self) -> str:
        return self.rng.choice(PEOPLE)

    def _tell(self, record: Conflict | Rejection, outcome: str) -> None:
        self.told[str(record.device)].append((str(record.mutation), outcome))

    # --- conflicts ---

    def _conflicts(self, count: int) -> list[Conflict]:
        """Mostly open ones; others are decided anew."""
        found = Conflict.objects.order_by("created_at", "mutation")
        if self.rng.random() < 0.7:
            found = found.filter(state="open")
        rows = list(found)
        return self.rng.sample(rows, min(count, len(rows)))

    def _wanted(self, stakes: Stakes) -> tuple[str, Mapping[str, Any] | None]:
        """What a person wants the row to be."""
        kind = self.rng.choice(("server", "device", "device", "some of each", "something else", "nothing"))
        if kind in SIDES:
            return kind, values_of(stakes, kind)
        if kind == "nothing" and self.rng.random() < 0.3:
            return kind, None
        values = {}
        for name in stakes.names:
            side = self.rng.choice((stakes.base, stakes.device, stakes.server, None))
            if side and name in side and name not in UNDECIDABLE:
                values[name] = side[name]
        if kind == "something else" and (texts := [n for n in values if isinstance(values[n], str) and n in FREE]):
            values[self.rng.choice(texts)] = self.rng.choice((*CITIES, "x" * 10_001))
        return kind, values

    def decide(self) -> str | None:
        """One conflict. Now and then the row, or what was decided, has changed since the page was shown."""
        if not (found := self._conflicts(1)):
            return None
        stakes = stakes_of(found[0])
        kind, values = self._wanted(stakes)
        if self.rng.random() < 0.3:
            office.write(self.world)
        if self.rng.random() < 0.1:
            self._take(found, self.rng.choice(SIDES))
        now = stakes_of(Conflict.objects.get(pk=found[0].pk))
        moved = (now.rev, now.seen) != (stakes.rev, stakes.seen)
        author, comment = self._person(), self.rng.choice(COMMENTS)
        where = f"{found[0].entity} {found[0].row_id}"
        try:
            with _nothing_written_if_refused(where):
                decision = resolve(
                    found[0].pk, values, rev=stakes.rev, seen=stakes.seen, author=author, comment=comment
                )
        except RowMoved as error:
            assert moved, f"{where} had not moved"
            assert error.now.rev == now.rev, where
            self.counts["moved"] += 1
            return f"the page about {where} is out of date"
        assert not moved, f"a decision about {where} that was based on an older revision was taken"
        self._tell(found[0], decision.state)
        self._check_decided(decision, stakes, values)
        self.counts[f"decided: {decision.state}"] += 1
        return f"{author} decides about {where}: {kind}, {decision.state}"

    def _check_decided(self, decision: Decision, stakes: Stakes, values: Mapping[str, Any] | None) -> None:
        """The row is what the person said it shall be, and the rest of it as it was."""
        conflict = decision.conflict
        row = server_rows()[conflict.entity].get(str(conflict.row_id))
        if values is None:
            assert row is None, f"{decision} was to delete {row}"
            return
        if row is None:
            assert not values, f"{decision} lost {values}"
            return
        expected = {**(stakes.side.row or {}), **values}
        wrong = {name: (row[name], value) for name, value in expected.items() if not equal(name, row[name], value)}
        assert not wrong, f"{decision} about {conflict}: (is, should be) {wrong}"

    def decide_many(self) -> str | None:
        if not (found := self._conflicts(self.rng.randint(1, MANY))):
            return None
        side = self.rng.choice(SIDES)
        if self.rng.random() < 0.3:
            office.write(self.world)
        decided, refused = self._take(found, side)
        return f"{decided} of {len(found)} conflicts: the {side}'s side, refused for {refused}"

    def _take(self, conflicts: Sequence[Conflict], side: str) -> tuple[int, list[str]]:
        bulk = resolve_many([c.pk for c in conflicts], side, author=self._person(), comment=self.rng.choice(COMMENTS))
        assert len(bulk.decided) + len(bulk.refused) == len(conflicts), bulk
        for decision in bulk.decided:
            self._tell(decision.conflict, decision.state)
        reasons = sorted({error.code for errors in bulk.refused.values() for error in errors})
        self.counts.update(f"not decided: {reason}" for reason in reasons)
        self.counts["decided in bulk"] += len(bulk.decided)
        return len(bulk.decided), reasons

    def take_back(self) -> str | None:
        """One decision, or all of a bulk."""
        standing = list(Decision.objects.filter(undone_at=None).order_by("at", "rev"))
        if not standing:
            return None
        decision = self.rng.choice(standing)
        as_bulk = decision.bulk is not None and self.rng.random() < 0.7
        what = decision.bulk if as_bulk and decision.bulk else [decision.pk]
        undone = undo(what, author=self._person())
        for done in undone.done:
            self._tell(done.conflict, done.state_before)
        reasons = sorted({error.code for errors in undone.kept.values() for error in errors})
        self.counts["undone"] += len(undone.done)
        self.counts.update(f"not undone: {reason}" for reason in reasons)
        return f"{len(undone.done)} decisions are undone, kept for {reasons}"

    # --- the quarantine ---

    def _rejections(self, count: int) -> list[Rejection]:
        rows = list(Rejection.objects.filter(state="open").order_by("created_at", "place"))
        return self.rng.sample(rows, min(count, len(rows)))

    def mend(self) -> str | None:
        """Replay a mutation, mended or as it came."""
        if not (found := self._rejections(1)):
            return None
        (rejection,) = found
        body = json.loads(rejection.body)
        mended = _mended(body.get("set", {}), rejection.errors) if self.rng.random() < 0.7 else None
        author, comment = self._person(), self.rng.choice(COMMENTS)
        with _nothing_written_if_refused(f"replay of {rejection}"):
            told = replay(rejection.pk, mended, author=author, comment=comment)
        self.replays += sum(each.status != "rejected" for each in told)
        self._check_replayed(rejection, mended if mended is not None else body.get("set", {}), told)
        for each in told:
            self.counts[f"replayed: {each.status}"] += 1
            if each.status == "conflict":
                self._tell(each.rejection, Conflict.objects.get(mutation=each.rejection.mutation).state)
            elif each.status != "rejected":
                self._tell(each.rejection, "replayed")
        return f"{author} replays {rejection}: {[each.status for each in told]}"

    def _check_replayed(self, rejection: Rejection, entered: Mapping[str, Any], told: Sequence[Replayed]) -> None:
        """What was mended is in the row, but for fields that the device has changed since and those in dispute."""
        (own,) = (each for each in told if each.rejection.pk == rejection.pk)
        alone = sum(each.rejection.row_id == rejection.row_id for each in told) == 1
        if rejection.op == "delete" or own.status not in {"applied", "merged"} or own.conflict or not alone:
            return
        if entered and entered.keys() <= set(own.overtaken):
            return  # nothing of it was left to write
        row = server_rows()[rejection.entity].get(str(rejection.row_id))
        assert row is not None, f"{own} is not there"
        wrong = {n: (row[n], v) for n, v in entered.items() if n not in own.overtaken and not equal(n, row[n], v)}
        assert not wrong, f"{own}: (is, should be) {wrong}"

    def throw_away(self) -> str | None:
        if not (found := self._rejections(self.rng.randint(1, 2))):
            return None
        groups = {(rejection.device, rejection.group) for rejection in found if rejection.group}
        waiting = Rejection.objects.filter(state="open", group__isnull=False)
        chosen = {rejection.pk: rejection for rejection in found}  # and whatever is of one group with these
        chosen |= {other.pk: other for other in waiting if (other.device, other.group) in groups}
        count = discard([rejection.pk for rejection in found], author=self._person(), comment="of no use")
        assert count == len(chosen)
        for _, rejection in sorted(chosen.items()):
            self._tell(rejection, "discarded")
        self.counts["discarded"] += count
        return f"{count} rejections are discarded"


# A person decides about what an office form shows; whose order it is and which customer a row has are left alone.
UNDECIDABLE = frozenset({"customer_id", "employee_id", "order_id", "product_id", "reports_to_id"})
FREE = frozenset({"last_name", "title", "phone", "note", "city", "address", "fax", "ship_city"})
GOOD = {"email": "mended@example.org", "first_name": "Mended", "status": "draft", "quantity": 1, "customer_id": None}


def _mended(values: Mapping[str, Any], errors: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The same with something good in the place of what was refused."""
    wrong = {error["field"] for error in errors if error["field"]}
    return {**values, **{name: GOOD[name] for name in sorted(wrong & GOOD.keys())}}


@contextmanager
def _nothing_written_if_refused(where: str) -> Iterator[None]:
    before = _changes()
    try:
        yield
    except (Invalid, RowMoved) as error:
        assert _changes() == before, f"{where} was refused and wrote: {error}"
        raise


def _changes() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sync_history")
        return int(cursor.fetchone()[0])


Work = Callable[[Administrators], str | None]
WORK: Sequence[tuple[Work, int]] = (
    (Administrators.decide, 8),
    (Administrators.decide_many, 3),
    (Administrators.take_back, 4),
    (Administrators.mend, 6),
    (Administrators.throw_away, 1),
)
