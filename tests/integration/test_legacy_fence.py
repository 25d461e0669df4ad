"""Runs that die, meet, or read what no database can store; and what a run may cost."""

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from entities.models import Customer, Employee, Order, Product
from legacy.connector import Page, Record
from legacy.mapping import F, Mapping
from legacy.models import Counterpart, Cursor, DeadLetter, Link, Run, SweptKey, Waiting
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT, Killed, Ledger, an_order

pytestmark = pytest.mark.django_db(transaction=True)
DELETING = replace(CUSTOMER, deletes="both", sweep_hours=0, stop_deleted_share=1)
PEOPLE = Mapping(
    "employee",
    Employee,
    "person",
    match="number",
    fields=(
        F("number", "number"),
        F("first_name", "first"),
        F("last_name", "last"),
        F("reports_to", "boss", ref="employee"),
    ),
)


def people(ledger: Ledger, **bosses: int | None) -> None:
    """`_3=1`: number 3 reports to number 1."""
    ledger.records["person"] = {}
    for name, boss in bosses.items():
        number = name.removeprefix("_")
        values = {"number": int(number), "first": "x", "last": "y", "boss": boss and str(boss)}
        ledger.put("person", number, **values)


def settle(ledger: Ledger, *mappings: Mapping) -> None:
    assert ledger.sync(*mappings).state == Run.State.DONE
    before = History.objects.count(), len(ledger.written)
    assert ledger.sync(*mappings).state == Run.State.DONE
    assert (History.objects.count(), len(ledger.written)) == before, "not settled"


# --- Killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.legacy("L2")
@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["before the call", "after the call, the answer lost"])
def test_run_with_deletes_and_waiting_records_killed_at_any_call_is_finished_by_the_next(answered: bool) -> None:
    for at in range(1, 100):
        ledger = Ledger()
        for n in range(6):
            ledger.put("party", code=f"C{n}", name=f"N{n}", city="Berlin")
        ledger.sync(DELETING)
        ledger.put("party", "1", city="Oslo")
        ledger.put("party", "2", phone="2")
        ledger.remove("party", "3")
        ledger.put("party", code="NEW", name="new")
        Customer.objects.filter(code="C1").update(city="Graz")
        Customer.objects.get(code="C4").delete()
        Customer.objects.create(name="Bo", city="Rome")
        ledger.break_off(at, Killed, answered)
        try:
            ledger.sync(DELETING)
            survived = True
        except Killed:
            survived = False
        ledger.mend()
        settle(ledger, DELETING)
        here = sorted(Customer.objects.values_list("name", "city", "phone"))
        there = sorted((p["name"], p.get("city") or "", p.get("phone") or "") for p in ledger.records["party"].values())
        wanted = [
            ("Bo", "Rome", ""),
            ("N0", "Oslo", ""),
            ("N1", "Graz", "2"),
            ("N3", "Berlin", ""),
            ("N5", "Berlin", ""),
        ]
        assert here == there == [*wanted, ("new", "", "")], f"killed at call {at}"
        assert not Waiting.objects.exists() and not DeadLetter.objects.exists()
        for model in (Customer, Link, Run, Cursor, Counterpart):
            model._default_manager.all().delete()
        if survived:
            return
    raise AssertionError("the run never came to its end")


# --- Two at once ------------------------------------------------------------------------------------------------------


def taken_over(ledger: Ledger, when: str, *mappings: Mapping) -> Run:
    """A run whose lock's connection dies as it makes this call: another one begins, does all, and it goes on."""
    other: list[Run] = []

    def loses_its_lock(call: str, number: int) -> None:
        if call == when and not other:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            before, ledger.before = ledger.before, lambda call, number: None
            other.append(ledger.sync(*mappings))
            ledger.before = before

    ledger.before = loses_its_lock
    found = ledger.sync(*mappings)
    assert [run.state for run in other] == [Run.State.DONE]
    ledger.mend()
    return found


@pytest.mark.slow
@pytest.mark.legacy("L1")
@pytest.mark.parametrize("when", ["changes party", "keys", "fetch", "find", "delete"])
def test_run_that_lost_its_lock_is_superseded_and_writes_nothing_more(when: str) -> None:
    ledger = Ledger()
    for n in range(5):
        ledger.put("party", code=f"C{n}", name=f"N{n}", city="Berlin")
    ledger.sync(DELETING)
    ledger.put("party", "1", city="Oslo")
    ledger.remove("party", "2")
    Customer.objects.get(code="C2").delete()
    Customer.objects.filter(code="C3").update(city="Graz")
    Customer.objects.create(name="Bo")
    run = taken_over(ledger, when, DELETING)
    assert run.state == Run.State.KILLED
    assert "Another run" in run.error
    assert Run.objects.filter(state=Run.State.DONE).count() == 2
    assert sorted(Customer.objects.values_list("name", flat=True)) == ["Bo", "N0", "N3", "N4"]
    assert sorted(p["name"] for p in ledger.records["party"].values()) == ["Bo", "N0", "N3", "N4"]
    settle(ledger, DELETING)


@pytest.mark.legacy("F16")
def test_superseded_run_does_not_mix_up_the_keys_of_its_successor() -> None:
    ledger = Ledger(fetches=False, writes=frozenset())
    mapping = replace(DELETING, direction="pull", deletes="pull")
    for n in range(3):
        ledger.put("party", code=f"C{n}", name="x")
    ledger.sync(mapping)
    assert taken_over(ledger, "keys", mapping).state == Run.State.KILLED
    assert SweptKey.objects.count() == 3
    assert Customer.objects.count() == 3


# --- What cannot be stored, or is in the way --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.legacy("F8")
@pytest.mark.parametrize(
    "value", ["a\x00b", "half \ud800", float("nan"), float("inf")], ids=["NUL", "half", "nan", "inf"]
)
@pytest.mark.parametrize("place", ["name", "code", "not mapped"])
@pytest.mark.parametrize("later", [False, True], ids=["first load", "later run"])
def test_record_with_what_no_database_stores_is_a_dead_letter_and_holds_nothing_up(
    value: Any, place: str, later: bool
) -> None:
    ledger = Ledger()
    if later:
        ledger.put("party", code="BO", name="Bo")
        ledger.sync()
    bad = ledger.put("party", **{"code": "X", "name": "x", place: value})
    ledger.put("party", code="ANA", name="Ana")
    assert ledger.sync().state == Run.State.PARTIAL
    assert Customer.objects.filter(code="ANA").exists()
    assert DeadLetter.objects.get().key == bad
    ledger.put("party", bad, **{place: "y"})
    assert ledger.sync().state == Run.State.DONE
    assert not DeadLetter.objects.exists()


def test_backslash_is_no_nul() -> None:
    ledger = Ledger()
    for name in ("C:\\u0000", "emoji 🙂", "ümlaut"):
        ledger.put("party", code=name[:5], name=name)
        assert ledger.sync().state == Run.State.DONE
    assert Customer.objects.count() == 3


@pytest.mark.legacy("F9")
@pytest.mark.parametrize("later", [False, True], ids=["first load", "later run"])
def test_collision_with_a_unique_key_of_ours_is_a_dead_letter_and_holds_nothing_up(later: bool) -> None:
    mapping = replace(CUSTOMER, match=())
    ledger = Ledger(page_records=10)
    if later:
        Customer.objects.create(code="TAKEN", name="ours")
    ledger.put("party", code="TAKEN", name="x")
    bad = ledger.put("party", code="TAKEN", name="y")
    ledger.put("party", code="ANA", name="Ana")
    assert ledger.sync(mapping).state == Run.State.PARTIAL
    assert set(Customer.objects.values_list("code", flat=True)) == {"TAKEN", "ANA"}
    assert bad in set(DeadLetter.objects.filter(direction="pull").values_list("key", flat=True))
    assert "unique" in DeadLetter.objects.filter(key=bad, direction="pull").get().error.lower()


@pytest.mark.legacy("F10")
@pytest.mark.parametrize("page_records", [1, 2, 10])
@pytest.mark.parametrize("fetches", [True, False])
def test_records_that_refer_to_each_other_are_taken_over_in_whatever_order(page_records: int, fetches: bool) -> None:
    ledger = Ledger(page_records=page_records, fetches=fetches)
    people(ledger, _1=4, _2=2, _3=1, _4=3, _5=None)  # a circle, and one of its own
    for _ in range(1 if fetches else 6):
        run = ledger.sync(PEOPLE, retry_all=True)
    if fetches or page_records == 10:
        assert run.state == Run.State.DONE
        found = dict(Employee.objects.values_list("number", "reports_to__number"))
        assert found == {1: 4, 2: 2, 3: 1, 4: 3, 5: None}


@pytest.mark.legacy("F10")
def test_circle_that_cannot_be_looked_up_is_taken_over_from_its_dead_letters() -> None:
    ledger = Ledger(page_records=1, fetches=False)
    people(ledger, _1=2, _2=1)
    ledger.sync(PEOPLE)
    assert ledger.sync(PEOPLE, retry_all=True).state == Run.State.DONE
    assert Employee.objects.count() == 2


def test_parent_that_is_not_wanted_is_not_taken_over_with_its_child() -> None:
    ledger = Ledger()
    an_order(ledger)
    picky = replace(CUSTOMER, only_if=lambda values: values.get("city") != "Berlin")
    assert ledger.sync(picky, PRODUCT, ORDER).state == Run.State.PARTIAL
    assert not Customer.objects.exists() and not Order.objects.exists()
    assert "is not among those that are taken over" in DeadLetter.objects.get().error


# --- A mapping that changed overnight ---------------------------------------------------------------------------------


@pytest.mark.legacy("F20")
def test_mapping_that_changed_reads_everything_again_and_writes_only_what_differs() -> None:
    ledger = Ledger()
    for n in range(6):
        ledger.put("party", code=f"C{n}", name="x", fax="1" if n == 3 else "")
    ledger.sync(CUSTOMER)
    before = History.objects.count()
    more = replace(CUSTOMER, fields=(*CUSTOMER.fields, F("fax", "fax")))
    run = ledger.sync(more)
    assert run.counts["customer"] == {"updated": 1, "unchanged": 5}
    assert (History.objects.count(), ledger.written) == (before + 1, [])
    assert ledger.sync(more).counts["customer"] == {"unchanged": 1}


@pytest.mark.slow
def test_record_that_waited_is_known_again_when_it_is_told_again() -> None:
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana", zzz=1, a=2)
    ledger.sync()
    ledger.put("party", "1", city="Oslo")  # not into an empty table: it waits, as JSON that PostgreSQL puts in order
    ledger.sync()
    run = ledger.sync()
    assert run.counts["customer"] == {"unchanged": 1}


# --- What it costs ----------------------------------------------------------------------------------------------------

RECORDS = 20_000
PEAK_BYTES_MAX = 40 * 1024 * 1024


class Flood(Ledger):
    """So many records that are made as they are asked for."""

    def __init__(self, records: int = RECORDS) -> None:
        super().__init__(page_records=500, deletes="keys")
        self.total = records

    def changes(self, source: str, places: Any, cursor: Any) -> Page:
        at = cursor.get("at", 0)
        page = [self.record(n) for n in range(at, min(at + self.page_records, self.total))]
        last = at + len(page)
        return Page(page, {"at": 0 if last >= self.total else last}, last < self.total)

    def record(self, n: int) -> Record:
        return Record(str(n), {"code": f"C{n}", "name": f"Customer {n}", "city": "Berlin" * 5, "phone": "1" * 30})


@pytest.mark.slow
def test_memory_of_a_run_does_not_grow_with_the_records() -> None:
    ledger = Flood()
    mapping = replace(CUSTOMER, direction="pull")
    for what, count in (("created", RECORDS), ("unchanged", RECORDS)):
        tracemalloc.start()
        run = ledger.sync(mapping)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert run.counts["customer"] == {what: count}
        assert peak < PEAK_BYTES_MAX, f"{what}: {peak / 1024 / 1024:.0f} MB"


@pytest.fixture
def statements() -> Iterator[Callable[[Callable[[], Any]], int]]:
    """How many statements something takes; those on the raw cursor too, which Django does not see."""
    executed: list[str] = []

    def traced(act: Callable[[], Any]) -> int:
        executed.clear()
        execute = psycopg.Cursor.execute

        def counting(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            executed.append(str(query))
            return execute(self, query, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch, CaptureQueriesContext(connection):
            patch.setattr(psycopg.Cursor, "execute", counting)
            act()
        return len(executed)

    yield traced


@pytest.mark.parametrize("records", [50, 400])
def test_number_of_statements_does_not_depend_on_the_records_of_a_page(
    statements: Callable[[Callable[[], Any]], int], records: int
) -> None:
    mapping = replace(CUSTOMER, direction="pull", stop_changed_share=1)
    ledger = Ledger(page_records=500)
    for n in range(records):
        ledger.put("party", code=f"C{n}", name="x")
    first = statements(lambda: ledger.sync(mapping))
    again = statements(lambda: ledger.sync(mapping))
    for key in list(ledger.records["party"]):
        ledger.put("party", key, city="Oslo")
    updated = statements(lambda: ledger.sync(mapping))
    assert Customer.objects.filter(city="Oslo").count() == records
    assert (first < 60, again < 50, updated < 90) == (True, True, True), (first, again, updated)
    assert not Product.objects.exists()
