"""Three systems and this server: whatever anybody does, in the end all agree, and nothing that was entered is lost."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from unittest import mock

import pytest
from django.conf import LazySettings

from entities.models import Customer, Product
from legacy.connector import Unreachable
from legacy.convert import By, Number
from legacy.mapping import F, Mapping
from legacy.models import DeadLetter, Link, Run
from sync.models import Conflict, History
from tests.integration.legacy_support import CUSTOMER, Killed, Ledger

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
RANKS = {"a": 1, "b": 2, "c": 3}
STEPS = 24
SEEDS = 40
QUIET_ROUNDS_MAX = 6


def products(*fields: F) -> Mapping:
    return Mapping("product", Product, "item", fields, direction="both", match="code", deletes="both", sweep_hours=0)


MAPPINGS = {
    "a": products(F("code", "code"), F("name", "name"), F("category", "group"), F("unit_price", "price")),
    "b": products(
        F("code", "no"),
        F("name", "title"),
        F("category", "group", By(str.lower, str.upper, rounds=True)),  # it shouts, as we know
        F("unit_price", "price", Number(1)),
    ),
    "c": products(
        F("code", "code"),
        F("name", "name"),
        F("category", "kind"),
        F("unit_price", "cents", Number(0, factor=Decimal("0.01"))),
    ),
}
# Of each system: its places for code, name, category and price, and a price as its people enter it.
PLACES: dict[str, tuple[str, str, str, str, Callable[[Decimal], Any]]] = {
    "a": ("code", "name", "group", "price", lambda price: price),
    "b": ("no", "title", "group", "price", lambda price: price.quantize(Decimal("0.1"))),
    "c": ("code", "name", "kind", "cents", lambda price: int(price * 100)),
}


class World:
    """We and three systems, in which people work and runs begin, end and die."""

    def __init__(self, seed: int) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.ledgers = {name: Ledger(page_records=3, name=name) for name in RANKS}
        self.ledgers["b"].keeps = shouting
        self.entered: set[str] = set()  # names that nobody has written over by hand
        self.number = 0

    def token(self, before: str = "") -> str:
        self.number += 1
        self.entered.discard(before)
        self.entered.add(found := f"name-{self.seed}-{self.number}-")
        return found

    def price(self) -> Decimal:
        return Decimal(self.random.randrange(1, 99999)) / 10000

    def step(self) -> None:
        who = self.random.choice(["a", "b", "c", "here"])
        act = self.random.choices(["make", "edit", "delete", "run"], [2, 4, 1, 5])[0]
        if act == "run":
            self.run(self.random.choice(list(RANKS)), faulty=self.random.random() < 0.5)
        elif who == "here":
            self.work_here(act)
        else:
            self.work_there(act, self.ledgers[who], who)

    def work_here(self, act: str) -> None:
        found = self.random.choice(list(Product.objects.order_by("code")) or [None])
        if act == "make":
            code = f"H{self.number}"
            Product.objects.create(code=code, name=self.token(), category="tea", unit_price=self.price())
        elif found and act == "delete":
            self.entered.discard(found.name)
            found.delete()
        elif found:
            field = self.random.choice(["name", "category", "unit_price"])
            values = {"name": lambda: self.token(found.name), "category": self.category, "unit_price": self.price}
            Product.objects.filter(pk=found.pk).update(**{field: values[field]()})

    def work_there(self, act: str, ledger: Ledger, who: str) -> None:
        code, name, category, price, entered = PLACES[who]
        key = self.random.choice(sorted(ledger.records["item"]) or [None])
        if act == "make":
            values = {name: self.token(), category: self.category(), price: entered(self.price())}
            ledger.put("item", **{code: f"{who}{self.number}", **values})
        elif key and act == "delete":
            self.entered.discard(ledger.records["item"][key][name])
            ledger.remove("item", key)
        elif key:
            before = ledger.records["item"][key]
            made: list[tuple[str, Callable[[], Any]]] = [
                (name, lambda: self.token(before[name])),
                (category, self.category),
                (price, lambda: entered(self.price())),
            ]
            field, value = self.random.choice(made)
            values = {field: value()}
            ledger.put("item", key, **values)

    def category(self) -> str:
        return self.random.choice(["tea", "coffee", "bread", "cheese"])

    def run(self, name: str, faulty: bool = False, force: bool = False) -> Run | None:
        ledger = self.ledgers[name]
        ledger.mend()
        if faulty:
            error = self.random.choice([Killed, Unreachable])
            ledger.break_off(self.random.randrange(1, 12), error, self.random.random() < 0.5)
        try:
            return ledger.sync(MAPPINGS[name], force=force)
        except Killed:
            return None
        finally:
            ledger.mend()

    # --- what must be so in the end ---

    def come_to_rest(self) -> None:
        for _ in range(QUIET_ROUNDS_MAX):
            before = self.writes()
            for name in RANKS:
                run = self.run(name, force=True)  # all of a few rows may well be deleted
                assert run and run.state == Run.State.DONE, (run and run.error, self.letters())
            if self.writes() == before:
                return
        raise AssertionError("they go on correcting each other")

    def writes(self) -> tuple[int, ...]:
        return (History.objects.count(), *(len(ledger.written) for ledger in self.ledgers.values()))

    def letters(self) -> list[str]:
        return [f"{each.system} {each.direction} {each}" for each in DeadLetter.objects.all()]

    def all_agree(self) -> None:
        ours = {row.code: (row.name, row.category, row.unit_price) for row in Product.objects.all()}
        for who, ledger in self.ledgers.items():
            code, name, category, price, _ = PLACES[who]
            theirs = {r[code]: (r[name], r[category].lower(), r[price]) for r in ledger.records["item"].values()}
            assert len(theirs) == len(ledger.records["item"]), f"{who} has one twice"
            assert theirs == {key: (n, c, rounded(who, p)) for key, (n, c, p) in ours.items()}, who
            assert Link.objects.filter(system=who).count() == len(ours)

    def nothing_is_lost(self) -> None:
        kept = [list(Product.objects.values_list("name", flat=True)), [each.records for each in self.ledgers.values()]]
        kept.append(list(History.objects.values_list("old", "new")))
        kept.append(list(Conflict.objects.values_list("base", "server", "device_values")))
        text = json.dumps(kept, default=str)
        assert [token for token in self.entered if token not in text] == []


def shouting(values: dict[str, Any]) -> dict[str, Any]:
    given = dict(values)
    if given.get("group"):
        given["group"] = given["group"].upper()
    return {place: value for place, value in given.items() if place != "code"}


def rounded(who: str, price: Decimal) -> Any:
    match who:
        case "b":
            return price.quantize(Decimal("0.1"), ROUND_HALF_UP)
        case "c":
            return int((price * 100).quantize(Decimal(1), ROUND_HALF_UP))
    return price


@pytest.fixture(autouse=True)
def _ranked(settings: LazySettings) -> Any:
    settings.LEGACY_STOP_RECORDS_MIN = settings.LEGACY_FAILURES_MAX = 10_000
    with mock.patch("legacy.runs.ranks", lambda: RANKS):
        yield


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_agree_in_the_end_and_nothing_is_lost(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    world.come_to_rest()
    world.all_agree()
    world.nothing_is_lost()


# --- Loops ------------------------------------------------------------------------------------------------------------


def opposed(how: Any = None) -> tuple[Ledger, Ledger, list[Mapping]]:
    """One system shouts, the other whispers; `how`: whether their mappings know it."""
    loud, quiet = Ledger(name="a"), Ledger(name="b")
    loud.keeps = lambda values: {p: v.upper() if p == "city" and v else v for p, v in values.items()}
    quiet.keeps = lambda values: {p: v.lower() if p == "city" and v else v for p, v in values.items()}
    city = [F("city", "city", By(str.title, way, rounds=True) if how else None) for way in (str.upper, str.lower)]
    mappings = [replace(CUSTOMER, fields=(F("code", "code", only="pull"), F("name", "name"), line)) for line in city]
    return loud, quiet, mappings


def rounds(loud: Ledger, quiet: Ledger, mappings: list[Mapping], number: int) -> int:
    """How many writes there were in the last of so many rounds."""
    before = 0
    for _ in range(number):
        before = len(loud.written) + len(quiet.written)
        loud.sync(mappings[0])
        quiet.sync(mappings[1])
    return len(loud.written) + len(quiet.written) - before


@pytest.mark.legacy("L4")
def test_systems_that_correct_each_other_for_ever_are_stopped_and_shown(settings: LazySettings) -> None:
    loud, quiet, mappings = opposed()
    Customer.objects.create(name="Ana", city="Berlin")
    assert rounds(loud, quiet, mappings, 3 * settings.LEGACY_HOPS_MAX) == 0
    letter = DeadLetter.objects.filter(kind="loop").first()
    assert letter and "did not keep city" in letter.error
    count = DeadLetter.objects.count()
    assert rounds(loud, quiet, mappings, 3) == 0
    assert DeadLetter.objects.count() == count


def test_person_who_edits_what_goes_round_is_heard(settings: LazySettings) -> None:
    loud, quiet, mappings = opposed()
    Customer.objects.create(name="Ana", city="Berlin")
    rounds(loud, quiet, mappings, 3 * settings.LEGACY_HOPS_MAX)
    Customer.objects.update(name="Anna")
    rounds(loud, quiet, mappings, 2)
    assert [next(iter(each.records["party"].values()))["name"] for each in (loud, quiet)] == ["Anna", "Anna"]


def test_systems_whose_ways_are_declared_do_not_correct_each_other() -> None:
    loud, quiet, mappings = opposed(how=True)
    Customer.objects.create(name="Ana", city="Berlin")
    rounds(loud, quiet, mappings, 2)
    assert rounds(loud, quiet, mappings, 1) == 0
    assert not DeadLetter.objects.exists()
    assert Customer.objects.get().city == "Berlin"
