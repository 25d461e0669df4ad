"""A run is taken back: what it wrote to our database, where nothing has changed since."""

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from entities.models import Contact, Customer, Order, OrderLine, Product
from legacy.mapping import F, Mapping
from legacy.models import Link, Run
from legacy.rollback import TakenBack
from legacy.runs import resume, roll_back_run
from sync import wire
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, DAY, ORDER, PRODUCT, Killed, Ledger, an_order, declared_systems

pytestmark = pytest.mark.django_db(transaction=True)
BOTH = replace(CUSTOMER, deletes="both", sweep_hours=0, stop_deleted_share=1, stop_changed_share=1)
ITEM = replace(
    PRODUCT, deletes="pull", sweep_hours=0, fields=(*PRODUCT.fields, F("unit_cost", "cost")), stop_deleted_share=1
)
SALE = replace(ORDER, deletes="both", sweep_hours=0, stop_deleted_share=1)
MAPPINGS = (BOTH, ITEM, SALE)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Two parties of which both sides know."""
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.put("party", code="BO", name="Bo", city="Oslo")
    ledger.sync(*MAPPINGS)
    with declared_systems(ledger.system(*MAPPINGS)):
        yield ledger


def undo(ledger: Ledger, run: Run, **options: Any) -> TakenBack:
    return roll_back_run(ledger.system(*MAPPINGS), str(run.id), **options)


def customers() -> dict[str | None, str]:
    return dict(Customer.objects.order_by("code").values_list("code", "city"))


def everything() -> list[list[Any]]:
    return [list(model._default_manager.order_by("pk").values()) for model in (Customer, Product, Order, OrderLine)]


def work(ledger: Ledger) -> Run:
    """A run that makes, changes and deletes."""
    ledger.put("party", "1", city="Graz")
    ledger.remove("party", "2")
    ledger.put("party", code="CY", name="Cy", city="Rome")
    return ledger.sync(*MAPPINGS)


@pytest.mark.legacy("L5")
def test_what_a_run_made_changed_and_deleted_is_as_it_was(ledger: Ledger) -> None:
    before = everything()
    found = undo(ledger, work(ledger))
    assert found.counts == {"deleted again": 1, "restored": 1, "made again": 1}
    assert found.left == []
    assert everything() == before


@pytest.mark.slow
def test_dry_run_says_the_same_and_writes_nothing(ledger: Ledger) -> None:
    run = work(ledger)
    before = everything()
    found = undo(ledger, run, pretend=True)
    assert found.counts == {"deleted again": 1, "restored": 1, "made again": 1}
    assert everything() == before
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE, "it is not paused"


def test_devices_get_it_back_and_the_history_says_who_did_it(ledger: Ledger) -> None:
    undo(ledger, work(ledger))
    again = Run.objects.latest("started_at")
    assert again.undoes and again.trigger == "rollback"
    row = Customer.objects.get(code="ANA").pk
    latest = History.objects.filter(row_id=row).latest("rev")
    assert (latest.author, latest.rev, latest.new) == (again.author, 3, {"city": "Berlin"})
    with connection.cursor() as cursor:
        cursor.execute("SELECT rev, data::json ->> 'city' FROM sync_feed WHERE row_id = %s", [row])
        assert cursor.fetchall() == [(3, "Berlin")]


@pytest.mark.slow
def test_system_is_paused_until_what_was_wrong_is_mended_and_then_it_is_read_again(ledger: Ledger) -> None:
    run = work(ledger)
    after = everything()
    undo(ledger, run)
    assert ledger.sync(*MAPPINGS).state == Run.State.PAUSED
    assert customers() == {"ANA": "Berlin", "BO": "Oslo"}
    resume("ledger")
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE
    assert customers() == {"ANA": "Graz", "CY": "Rome"}
    assert [row["city"] for row in everything()[0]] and len(everything()[0]) == len(after[0])


@pytest.mark.slow
def test_what_was_rolled_back_is_not_sent_there_as_a_change_of_ours(ledger: Ledger) -> None:
    undo(ledger, work(ledger))
    there = {key: dict(party) for key, party in ledger.records["party"].items()}
    resume("ledger")
    ledger.sync(*MAPPINGS)
    assert ledger.written == []
    assert ledger.records["party"] == there


def test_record_that_was_deleted_by_mistake_is_the_same_row_again_without_any_natural_key() -> None:
    mapping = replace(BOTH, match=())
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana")
    ledger.put("party", code="BO", name="Bo")
    ledger.sync(mapping)
    rows = set(Customer.objects.values_list("pk", flat=True))
    hidden = ledger.records["party"].pop("1")  # a filter of theirs that was wrong for a while
    run = ledger.sync(mapping)
    assert Customer.objects.count() == 1
    roll_back_run(ledger.system(mapping), str(run.id))
    ledger.records["party"]["1"] = hidden
    resume("ledger")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert set(Customer.objects.values_list("pk", flat=True)) == rows


@pytest.mark.legacy("L5")
def test_row_that_was_changed_since_is_left_and_listed(ledger: Ledger) -> None:
    run = work(ledger)
    Customer.objects.filter(code="ANA").update(phone="1")
    Customer.objects.filter(code="CY").update(phone="2")
    found = undo(ledger, run)
    assert found.counts == {"made again": 1}
    assert sorted(line.split(": ")[1] for line in found.left) == ["changed since", "changed since"]
    assert customers() == {"ANA": "Graz", "BO": "Oslo", "CY": "Rome"}


@pytest.mark.legacy("L5")
def test_what_somebody_else_refers_to_by_now_is_left_and_listed(ledger: Ledger) -> None:
    run = work(ledger)
    cy = Customer.objects.get(code="CY")
    Order.objects.create(customer=cy, ordered_on=DAY)
    assert [line.split(": ")[1] for line in undo(ledger, run).left] == ["other rows refer to it"]
    assert Customer.objects.filter(code="CY").exists()


def test_row_of_a_device_does_not_go_with_one_that_the_run_made(ledger: Ledger) -> None:
    run = work(ledger)
    Contact.objects.create(customer=Customer.objects.get(code="CY"), first_name="Di")  # would be cascaded away
    assert len(undo(ledger, run).left) == 1
    assert Contact.objects.exists()


@pytest.mark.slow
def test_hidden_columns_of_a_deleted_row_come_back(ledger: Ledger) -> None:
    ledger.put("item", code="1", name="Chai", cost="2.5")
    ledger.put("item", code="2", name="Chang", cost="3.5")
    ledger.sync(*MAPPINGS)
    before = everything()
    ledger.remove("item", next(iter(ledger.records["item"])))
    run = ledger.sync(*MAPPINGS)
    assert Product.objects.count() == 1
    undo(ledger, run)
    assert everything() == before


@pytest.mark.slow
def test_order_comes_back_with_its_lines_and_its_lines_with_it(ledger: Ledger) -> None:
    keys = [an_order(ledger, number=str(n)) for n in range(3)]
    ledger.sync(*MAPPINGS)
    before = everything()
    line, _ = ledger.records["sale"][keys[0]]["lines"]
    ledger.put("sale", keys[0], note="x", lines=[{**line, "quantity": 50}, {**line, "id": "900", "quantity": 60}])
    ledger.remove("sale", keys[1])
    an_order(ledger, number="9")
    run = ledger.sync(*MAPPINGS)
    after = sorted(OrderLine.objects.values_list("quantity", flat=True))
    assert undo(ledger, run).left == []
    assert everything() == before
    resume("ledger")
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE
    assert ledger.written == []
    assert sorted(OrderLine.objects.values_list("quantity", flat=True)) == after
    assert set(Order.objects.values_list("number", flat=True)) == {"0", "2", "9"}


@pytest.mark.slow
def test_lines_alone_that_a_run_changed_are_put_back_and_not_sent(ledger: Ledger) -> None:
    key = an_order(ledger)
    ledger.sync(*MAPPINGS)
    line, _ = ledger.records["sale"][key]["lines"]
    ledger.put("sale", key, lines=[{**line, "quantity": 50}])
    run = ledger.sync(*MAPPINGS)
    undo(ledger, run)
    assert sorted(OrderLine.objects.values_list("quantity", flat=True)) == [1, 2]
    resume("ledger")
    Order.objects.update(note="ours")  # which makes the order one to be sent
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE
    assert (ledger.records["sale"][key]["note"], len(ledger.records["sale"][key]["lines"])) == ("ours", 1)
    assert list(OrderLine.objects.values_list("quantity", flat=True)) == [50]


def test_what_is_put_back_is_not_sent_whichever_object_stands_for_the_entity(ledger: Ledger) -> None:
    key = an_order(ledger)
    ledger.sync(*MAPPINGS)
    line, _ = ledger.records["sale"][key]["lines"]
    ledger.put("sale", key, lines=[{**line, "quantity": 50}])
    run = ledger.sync(*MAPPINGS)
    wire._entities.cache_clear()  # the mappings have those of before
    undo(ledger, run)
    resume("ledger")
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE
    assert ledger.written == []
    assert list(OrderLine.objects.values_list("quantity", flat=True)) == [50]


@pytest.mark.slow
def test_row_that_a_run_wrote_twice_is_as_it_was_before_the_first(ledger: Ledger) -> None:
    before = everything()
    ledger.put("party", "1", city="Graz")

    def again(call: str, number: int) -> None:
        if call == "keys" and ledger.records["party"]["1"]["city"] == "Graz":
            ledger.put("party", "1", city="Rome")

    Customer.objects.filter(code="ANA").update(phone="7")  # so it is sent, and theirs is read once more
    run = ledger.sync(*MAPPINGS)
    Customer.objects.filter(code="ANA").update(phone="")
    found = undo(ledger, run)
    assert len(found.left) == 1, "a person's change came after it"
    ledger.records["party"]["1"].update(city="Rome")
    ledger.before = again
    resume("ledger")
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE
    assert len(everything()[0]) == len(before[0])


@pytest.mark.legacy("L5")
def test_killed_run_is_taken_back_and_read_again_from_its_beginning() -> None:
    ledger = Ledger()
    for n in range(7):
        ledger.put("party", code=f"C{n}", name="x")
    ledger.break_off(4, Killed, answered=False)
    with pytest.raises(Killed):
        ledger.sync(*MAPPINGS)
    ledger.mend()
    run = Run.objects.get()
    assert 0 < Customer.objects.count() < 7
    undo(ledger, run)
    assert not Customer.objects.exists()
    assert not Link.objects.exists()
    resume("ledger")
    assert ledger.sync(*MAPPINGS).state == Run.State.DONE
    assert Customer.objects.count() == 7


def test_killed_run_that_nobody_came_after_is_shown_as_killed_by_its_rollback(ledger: Ledger) -> None:
    ledger.put("party", "1", city="Graz")
    ledger.break_off(6, Killed, answered=False)
    with pytest.raises(Killed):
        ledger.sync(*MAPPINGS)
    run = Run.objects.latest("started_at")
    ledger.mend()
    undo(ledger, run)
    run.refresh_from_db()
    assert run.state == Run.State.KILLED
    assert customers() == {"ANA": "Berlin", "BO": "Oslo"}


@pytest.mark.slow
def test_taken_back_twice_is_taken_back_once(ledger: Ledger) -> None:
    run = work(ledger)
    undo(ledger, run)
    before = everything()
    assert not undo(ledger, run).counts
    assert everything() == before


@pytest.mark.slow
def test_rollback_is_carried_to_the_other_systems(ledger: Ledger) -> None:
    other = Ledger(name="other")
    other.sync(BOTH)
    run = work(ledger)
    other.sync(BOTH)
    assert sorted(party["city"] for party in other.records["party"].values()) == ["Graz", "Rome"]
    undo(ledger, run)
    assert other.sync(BOTH).state == Run.State.DONE
    assert sorted(party["city"] for party in other.records["party"].values()) == ["Berlin", "Oslo"]


@pytest.mark.slow
def test_command_tells_what_was_taken_back_and_what_was_left(ledger: Ledger) -> None:
    run = work(ledger)
    Customer.objects.filter(code="ANA").update(phone="1")
    out, err = StringIO(), StringIO()
    call_command("sync_legacy", "--json", "--rollback", str(run.id), stdout=out, stderr=err)
    told = json.loads(out.getvalue())
    assert told["taken_back"] == {"deleted again": 1, "made again": 1}
    assert len(told["left"]) == 1
    assert "--resume" in err.getvalue()


@pytest.mark.slow
def test_rows_of_more_than_one_page_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legacy.rollback.PAGE_CHANGES", 5)
    ledger = Ledger(page_records=50)
    for n in range(23):
        ledger.put("party", code=f"C{n}", name="x", city="Berlin")
    ledger.sync(BOTH)
    for n in range(23):
        ledger.put("party", str(n + 1), city="Oslo")
        ledger.put("party", code=f"D{n}", name="y")
    run = ledger.sync(BOTH, force=True)
    found = roll_back_run(ledger.system(BOTH), str(run.id))
    assert (found.counts, found.left) == ({"deleted again": 23, "restored": 23}, [])
    assert set(customers().values()) == {"Berlin"}


@pytest.mark.slow
def test_dates_and_decimals_are_put_back_as_they_were(ledger: Ledger) -> None:
    dated: Mapping = replace(SALE, fields=(*SALE.fields, F("required_on", "until"), F("freight", "freight")))
    key = an_order(ledger, until=dt.date(2026, 12, 24), freight="1.25")
    mappings = (BOTH, ITEM, dated)
    ledger.sync(*mappings)
    before = everything()
    ledger.put("sale", key, until=None, freight="7")
    run = ledger.sync(*mappings)
    assert everything() != before
    roll_back_run(ledger.system(*mappings), str(run.id))
    assert everything() == before
