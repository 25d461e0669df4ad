"""What a run does not do without a person who says so, and when it does not run at all."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone

from entities.models import Customer, Product
from legacy.mapping import F, Mapping
from legacy.models import Counterpart, DeadLetter, Run, Waiting
from legacy.runs import pause, resume
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, PRODUCT, Ledger, down

pytestmark = pytest.mark.django_db(transaction=True)
DELETING = replace(CUSTOMER, deletes="pull", sweep_hours=0)
State = Run.State


@pytest.fixture(autouse=True)
def _few_are_many(settings: LazySettings) -> None:
    settings.LEGACY_STOP_RECORDS_MIN = 2


def parties(number: int = 10, **values: Any) -> Ledger:
    """A ledger with so many parties, all of them taken over."""
    ledger = Ledger(page_records=4)
    for n in range(number):
        ledger.put("party", code=f"C{n}", name=f"Customer {n}", city="Berlin", **values)
    assert ledger.sync(DELETING).state == State.DONE
    return ledger


def move(ledger: Ledger, number: int, city: str = "Oslo") -> None:
    for key in list(ledger.records["party"])[:number]:
        ledger.put("party", key, city=city)


def cities() -> list[str]:
    return sorted(set(Customer.objects.values_list("city", flat=True)))


# --- Too much at once -------------------------------------------------------------------------------------------------


def test_run_that_would_change_too_much_stops_before_it_writes_anything_anywhere() -> None:
    ledger = parties()
    move(ledger, 6)
    Customer.objects.create(name="Bo")  # would be sent
    before = History.objects.count()
    run = ledger.sync(DELETING)
    assert run.state == State.STOPPED
    assert "would change 6 of 10 linked rows of customer" in run.error
    assert "--force" in run.error
    assert (History.objects.count(), ledger.written, cities()) == (before, [], ["", "Berlin"])


def test_what_waits_goes_on_with_force() -> None:
    ledger = parties()
    move(ledger, 10)
    ledger.sync(DELETING)
    assert Waiting.objects.count() == 10
    assert ledger.sync(DELETING).state == State.STOPPED, "it is asked again as long as nobody has said so"
    assert ledger.sync(DELETING, force=True).state == State.DONE
    assert cities() == ["Oslo"]
    assert not Waiting.objects.exists()
    assert ledger.sync(DELETING).state == State.DONE


def test_what_is_over_there_as_before_again_waits_no_more() -> None:
    ledger = parties()
    move(ledger, 10)
    ledger.sync(DELETING)
    move(ledger, 10, "Berlin")
    assert ledger.sync(DELETING).state == State.DONE
    assert cities() == ["Berlin"]
    assert not Waiting.objects.exists()


def test_share_is_of_rows_that_would_change_and_not_of_records_that_were_touched() -> None:
    ledger = parties()
    for key in ledger.records["party"]:
        ledger.put("party", key, remark="not mapped")
    assert ledger.sync(DELETING).state == State.DONE


def test_run_that_would_delete_too_much_stops() -> None:
    ledger = parties()
    for key in list(ledger.records["party"])[:3]:
        ledger.remove("party", key)
    run = ledger.sync(DELETING)
    assert (run.state, Customer.objects.count()) == (State.STOPPED, 10)
    assert "would delete 3 of 10" in run.error
    assert ledger.sync(DELETING, force=True).state == State.DONE
    assert Customer.objects.count() == 7


@pytest.mark.legacy("L6")
def test_empty_key_list_deletes_nothing_however_small_the_table() -> None:
    ledger = parties(1)
    ledger.listed = lambda source: iter([])
    run = ledger.sync(DELETING)
    assert (run.state, Customer.objects.count()) == (State.STOPPED, 1)


def test_keys_that_are_listed_again_do_not_stop_the_next_run() -> None:
    ledger = parties()
    ledger.listed = lambda source: iter([])
    assert ledger.sync(DELETING).state == State.STOPPED
    ledger.listed = lambda source: iter(ledger.records[source])
    assert ledger.sync(DELETING).state == State.DONE
    assert Customer.objects.count() == 10


def test_few_changes_are_never_too_many_in_a_small_table() -> None:
    ledger = parties(3)
    move(ledger, 2)
    ledger.remove("party", "3")
    assert ledger.sync(DELETING).state == State.DONE
    assert Customer.objects.count() == 2


@pytest.mark.legacy("L6")
def test_first_contact_that_would_overwrite_too_much_stops() -> None:
    ledger, mapping = Ledger(page_records=4), replace(CUSTOMER, match="code")
    for n in range(10):
        ledger.put("party", code=f"C{n}", name="theirs", city="Berlin")
        Customer.objects.create(code=f"C{n}", name="ours" if n < 6 else "theirs")
    run = ledger.sync(mapping)
    assert (run.state, cities()) == (State.STOPPED, [""])
    assert "would change 6 of 10 linked rows of customer" in run.error
    assert ledger.sync(mapping, force=True).state == State.DONE
    assert (cities(), Customer.objects.filter(name="theirs").count()) == (["Berlin"], 10)


def test_first_contact_that_fills_what_is_empty_is_not_too_much() -> None:
    ledger, mapping = Ledger(page_records=4), replace(CUSTOMER, match="code")
    for n in range(10):
        ledger.put("party", code=f"C{n}", name="same", city="Berlin")
        Customer.objects.create(code=f"C{n}", name="same")
    assert ledger.sync(mapping).state == State.DONE
    assert cities() == ["Berlin"]


@pytest.mark.slow
def test_first_contact_that_replaces_what_is_as_every_new_row_has_it_is_not_too_much() -> None:
    ledger = Ledger(page_records=4)
    for n in range(10):
        ledger.put("item", code=f"P{n}", name="same", price="18.5")
        Product.objects.create(code=f"P{n}", name="same")
    priced = replace(PRODUCT, fields=(*PRODUCT.fields, F("unit_price", "price")))
    assert ledger.sync(priced).state == State.DONE
    assert set(Product.objects.values_list("unit_price", flat=True)) == {Decimal("18.5")}


def test_first_load_is_not_too_much() -> None:
    ledger = Ledger()
    for n in range(50):
        ledger.put("party", code=f"C{n}", name="x")
    assert ledger.sync(DELETING).state == State.DONE


@pytest.mark.parametrize(("share", "state"), [(0.5, State.STOPPED), (0.7, State.DONE)])
def test_mapping_has_its_own_share(share: float, state: State) -> None:
    ledger = parties()
    move(ledger, 6)
    assert ledger.sync(replace(DELETING, stop_changed_share=share)).state == state


# --- Too many failures ------------------------------------------------------------------------------------------------


def spoil(ledger: Ledger, number: int) -> None:
    for key in list(ledger.records["party"])[:number]:
        ledger.put("party", key, code="C" * 99)


@pytest.mark.legacy("L6")
def test_run_in_which_too_many_fail_stops_and_keeps_what_went_well() -> None:
    ledger = parties()
    spoil(ledger, 3)
    ledger.put("party", "10", city="Oslo")
    run = ledger.sync(DELETING)
    assert run.state == State.STOPPED
    assert "3 of the first 4 records of customer failed" in run.error
    assert cities() == ["Berlin", "Oslo"]


def test_first_load_in_which_too_many_fail_stops_with_its_first_page() -> None:
    ledger = Ledger(page_records=4)
    for _ in range(12):
        ledger.put("party", code="C" * 99, name="x")
    run = ledger.sync(DELETING)
    assert (run.state, DeadLetter.objects.count()) == (State.STOPPED, 4)


def test_dead_letters_that_fail_again_do_not_stop_a_run() -> None:
    ledger = parties(30)
    spoil(ledger, 6)
    ledger.sync(DELETING, force=True)
    ledger.put("party", "20", city="Oslo")
    assert ledger.sync(DELETING, retry_all=True).state == State.PARTIAL
    assert cities() == ["Berlin", "Oslo"]


def test_run_takes_back_what_it_wrote_where_the_mapping_says_so_and_the_next_reads_it_again() -> None:
    mapping = replace(DELETING, undo_failed=True)
    ledger = parties()
    spoil(ledger, 3)
    ledger.put("party", "10", city="Oslo")
    run = ledger.sync(mapping)
    assert run.state == State.STOPPED
    assert "1 restored" in run.error
    assert cities() == ["Berlin"]
    assert Counterpart.objects.get().paused_at is None
    for n in range(3):
        ledger.records["party"][str(n + 1)]["code"] = f"C{n}"  # mended
    assert ledger.sync(mapping, retry_all=True).state == State.DONE
    assert cities() == ["Berlin", "Oslo"]


# --- Who we are, and whether we may ---------------------------------------------------------------------------------


@pytest.mark.legacy("S6")
def test_system_that_knows_us_as_somebody_else_stops_the_run_until_a_person_says_so() -> None:
    ledger = parties()
    ledger.identity = "a guest"
    ledger.put("party", "1", city="Oslo")
    run = ledger.sync(DELETING)
    assert run.state == State.STOPPED
    assert "'a guest'" in run.error and "'a test'" in run.error
    assert cities() == ["Berlin"]
    assert ledger.sync(DELETING, force=True).state == State.DONE
    assert ledger.sync(DELETING).state == State.DONE


@pytest.mark.legacy("S12")
@pytest.mark.parametrize(
    ("mapping", "capabilities", "error"),
    [
        (replace(CUSTOMER, deletes="pull"), {"deletes": "never"}, "does not show deletions"),
        (replace(CUSTOMER, deletes="push"), {"writes": frozenset({"create", "update"})}, "deletes nothing for us"),
        (CUSTOMER, {"writes": frozenset()}, "takes no writes"),
        (CUSTOMER, {"idempotency": "none"}, "made twice"),
        (CUSTOMER, {"fetches": False}, "cannot look a record up"),
    ],
)
def test_mapping_that_asks_for_what_the_system_cannot_do_is_wrong_configuration(
    mapping: Mapping, capabilities: dict[str, Any], error: str
) -> None:
    ledger = Ledger(**capabilities)
    ledger.put("party", code="ANA", name="Ana")
    run = ledger.sync(mapping)
    assert run.state == State.MISCONFIGURED
    assert error in run.error
    assert not Customer.objects.exists()


def test_bug_of_a_connector_is_in_the_run_too() -> None:
    ledger = parties()

    def breaks(call: str, number: int) -> None:
        raise ZeroDivisionError("page size")

    ledger.before = breaks
    with pytest.raises(ZeroDivisionError):
        ledger.sync()
    latest = Run.objects.latest("started_at")
    assert (latest.state, latest.error) == (State.KILLED, "ZeroDivisionError: page size")
    assert latest.ended_at


# --- The circuit breaker ----------------------------------------------------------------------------------------------


@pytest.mark.legacy("F1")
def test_system_that_does_not_answer_is_left_alone_longer_and_longer_and_asked_again(settings: LazySettings) -> None:
    ledger = parties()
    down(ledger)
    for _ in range(settings.LEGACY_FAILURES_MAX):
        assert ledger.sync(DELETING).error == "It does not answer."
    rested = ledger.sync(DELETING)
    assert (rested.state, ledger.calls) == (State.UNREACHABLE, 0)
    assert "left alone until" in rested.error
    for minutes in (2, 4, 8):
        Counterpart.objects.update(rests_until=timezone.now())  # the time is up
        assert ledger.sync(DELETING).error == "It does not answer."
        until = Counterpart.objects.get().rests_until
        assert until
        assert round((until - timezone.now()).total_seconds() / 60) == minutes
    ledger.mend()
    Counterpart.objects.update(rests_until=timezone.now())
    assert ledger.sync(DELETING).state == State.DONE
    assert Counterpart.objects.get().failures == 0


def test_force_and_resume_ask_a_system_that_is_left_alone(settings: LazySettings) -> None:
    ledger = parties()
    down(ledger)
    for _ in range(settings.LEGACY_FAILURES_MAX):
        ledger.sync(DELETING)
    ledger.mend()
    assert ledger.sync(DELETING).state == State.UNREACHABLE
    assert ledger.sync(DELETING, force=True).state == State.DONE
    Counterpart.objects.update(failures=3, rests_until=timezone.now() + dt.timedelta(hours=1))
    resume("ledger")
    assert ledger.sync(DELETING).state == State.DONE


def test_paused_system_is_left_alone_until_it_is_resumed() -> None:
    ledger = parties()
    pause("ledger", "stocktaking")
    ledger.put("party", "1", city="Oslo")
    run = ledger.sync(DELETING)
    assert (run.state, ledger.calls, cities()) == (State.PAUSED, 0, ["Berlin"])
    assert "stocktaking" in run.error and "--resume" in run.error
    resume("ledger")
    assert ledger.sync(DELETING).state == State.DONE
    assert cities() == ["Berlin", "Oslo"]
