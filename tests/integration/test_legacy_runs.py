"""What a run of sync_legacy promises, against a system in memory and the real PostgreSQL."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import current_thread, main_thread

import pytest
from django.db import connection, transaction

from entities.models import Customer, Order, OrderLine, Product
from legacy.connector import Unreachable
from legacy.convert import Values
from legacy.models import DeadLetter, Link, Run
from sync.alone import Busy, alone
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, DAY, Killed, Ledger, an_order, down
from tests.integration.sync_support import other_connection

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(autouse=True)
def _without_history() -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")


def customers() -> dict[str | None, str]:
    return dict(Customer.objects.values_list("code", "city"))


def revisions() -> int:
    return History.objects.count()


def our_order() -> Order:
    order = Order.objects.create(customer=Customer.objects.get(code="ANA"), ordered_on=DAY, status="confirmed")
    for quantity in (3, 4):
        OrderLine.objects.create(order=order, product=Product.objects.get(), quantity=quantity, unit_price="18")
    return order


def test_records_become_rows_page_by_page(ledger: Ledger) -> None:
    for number in range(7):
        ledger.put("party", code=f"C{number}", name=f"Customer {number}", city="Berlin")
    run = ledger.sync()
    assert run.state == Run.State.DONE
    assert customers() == {f"C{number}": "Berlin" for number in range(7)}
    assert run.counts["customer"]["created"] == 7


@pytest.mark.slow
def test_page_that_loses_a_deadlock_is_written_again_and_counted_once(ledger: Ledger) -> None:
    keys = [ledger.put("party", code=code, name="Ana", city="Berlin") for code in ("A", "B")]
    ledger.sync()
    first, second = Customer.objects.order_by("pk").values_list("pk", flat=True)
    for key in keys:
        ledger.put("party", key, city="Oslo")
    lock = "UPDATE entities_customer SET phone = '1' WHERE id = %s"
    with other_connection() as theirs, ThreadPoolExecutor(1) as pool:
        theirs.execute("SET deadlock_timeout = '1min'")  # so that ours is the one to be broken off
        theirs.execute(lock, [second])

        def run() -> Run:
            try:
                return ledger.sync()
            finally:
                connection.close()

        ours = pool.submit(run)
        while not theirs.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'").fetchall():
            pass
        theirs.execute(lock, [first])
        theirs.commit()
        done = ours.result(30)
    assert (done.state, done.counts["customer"]["updated"]) == (Run.State.DONE, 2)
    assert set(Customer.objects.values_list("city", "phone")) == {("Oslo", "1")}


def test_order_and_its_lines_refer_to_our_rows(ledger: Ledger) -> None:
    an_order(ledger)
    ledger.sync()
    order = Order.objects.get(number="10248")
    assert order.customer.name == "Ana"
    assert sorted(order.lines.values_list("product__code", "quantity")) == [("1", 1), ("1", 2)]


def test_second_run_changes_nothing(ledger: Ledger) -> None:
    an_order(ledger)
    ledger.sync()
    before = revisions()
    run = ledger.sync()
    assert run.state == Run.State.DONE
    assert revisions() == before
    assert ledger.written == []


def test_what_a_run_wrote_is_in_the_history_with_the_run_as_author(ledger: Ledger) -> None:
    ledger.put("party", code="ANA", name="Ana", city="Berlin")
    run = ledger.sync()
    assert set(History.objects.values_list("author", flat=True)) == {f"run:ledger:{run.id}"}


def test_our_edit_reaches_them_with_what_changed_only(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync()
    Customer.objects.update(city="Graz")
    ledger.records["party"][key]["remark"] = "theirs alone"
    ledger.sync()
    assert ledger.records["party"][key]["city"] == "Graz"
    assert ledger.records["party"][key]["remark"] == "theirs alone"
    assert ledger.written == [("update", key)]


def test_what_was_sent_and_comes_back_is_no_news(ledger: Ledger) -> None:
    ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync()
    Customer.objects.update(city="Graz")
    before = revisions()
    ledger.sync()
    ledger.sync()
    assert revisions() == before
    assert len(ledger.written) == 1


def test_our_order_is_made_there_and_its_number_comes_back(ledger: Ledger) -> None:
    an_order(ledger)
    ledger.sync()
    order = our_order()
    ledger.sync()
    order.refresh_from_db()
    assert order.number.startswith("S")
    theirs = ledger.records["sale"][Link.objects.get(mapping="order", row=order.pk).key]
    assert theirs["state"] == "confirmed"
    assert sorted(line["quantity"] for line in theirs["lines"]) == [3, 4]
    assert {link.parent for link in Link.objects.filter(mapping="order_line", row__in=order.lines.values("pk"))} == {
        order.pk
    }


def test_lines_added_edited_and_deleted_here_are_so_there(ledger: Ledger) -> None:
    key = an_order(ledger)
    ledger.sync()
    order = Order.objects.get()
    first, second = order.lines.order_by("quantity")
    first.delete()
    OrderLine.objects.filter(pk=second.pk).update(quantity=20)
    OrderLine.objects.create(order=order, product=Product.objects.get(), quantity=30, unit_price="1")
    ledger.sync()
    assert sorted(line["quantity"] for line in ledger.records["sale"][key]["lines"]) == [20, 30]
    before = revisions()
    ledger.sync()
    assert revisions() == before
    assert set(order.lines.values_list("quantity", flat=True)) == {20, 30}
    assert OrderLine.objects.filter(pk=second.pk).exists(), "a line that stayed keeps its identity"


def test_lines_added_and_deleted_there_are_so_here(ledger: Ledger) -> None:
    key = an_order(ledger)
    ledger.sync()
    line, *_ = ledger.records["sale"][key]["lines"]
    ledger.put("sale", key, lines=[{**line, "quantity": 9}, {**line, "id": "900", "quantity": 5}])
    ledger.sync()
    assert sorted(OrderLine.objects.values_list("quantity", flat=True)) == [5, 9]
    assert Link.objects.filter(mapping="order_line").count() == 2


@pytest.mark.slow
@pytest.mark.legacy("L2")
@pytest.mark.parametrize("answered", [False, True], ids=["before the call", "after the call, the answer lost"])
def test_run_killed_at_any_call_is_finished_by_the_next_and_nothing_is_there_twice(answered: bool) -> None:
    for at in range(1, 200):
        ledger = Ledger()
        an_order(ledger)
        Customer.objects.create(name="Bo", city="Oslo")  # a device's own
        our = Order.objects.create(customer=Customer.objects.get(name="Bo"), ordered_on=DAY, status="confirmed")
        ledger.break_off(at, Killed, answered)
        try:
            ledger.sync()
            survived = True
        except Killed:
            survived = False
        ledger.mend()
        run = ledger.sync()
        assert (run.state, run.counts.get("order", {}).get("failed")) == (Run.State.DONE, None), f"killed at call {at}"
        assert sorted(customers().values()) == ["Berlin", "Oslo"], f"killed at call {at}"
        assert sorted(party["name"] for party in ledger.records["party"].values()) == ["Ana", "Bo"], f"killed at {at}"
        assert sorted(sale["state"] for sale in ledger.records["sale"].values()) == ["confirmed", "draft"]
        our.refresh_from_db()
        assert our.number, f"killed at call {at}"
        assert OrderLine.objects.count() == 2
        before = revisions(), len(ledger.written)
        ledger.sync()
        assert (revisions(), len(ledger.written)) == before, f"killed at call {at}: not settled"
        for model in (OrderLine, Order, Customer, Product, Link, Run):
            model._default_manager.all().delete()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM legacy_cursor")
        if survived:
            return
    raise AssertionError("the run never came to its end")


@pytest.mark.legacy("F17")
def test_killed_run_is_shown_as_killed(ledger: Ledger) -> None:
    ledger.break_off(2, Killed, answered=False)
    with pytest.raises(Killed):
        ledger.sync()
    ledger.mend()
    ledger.sync()
    assert list(Run.objects.order_by("started_at").values_list("state", flat=True)) == ["killed", "done"]


def test_system_that_is_down_changes_nothing(ledger: Ledger) -> None:
    ledger.put("party", code="ANA", name="Ana")
    down(ledger)
    run = ledger.sync()
    assert (run.state, run.error) == (Run.State.UNREACHABLE, "It does not answer.")
    assert not Customer.objects.exists()


@pytest.mark.legacy("F2")
@pytest.mark.parametrize("ahead", [False, True])
def test_system_that_goes_down_midway_keeps_what_was_committed_and_goes_on(ahead: bool) -> None:
    ledger = Ledger(ahead=ahead)
    for number in range(6):
        ledger.put("party", code=f"C{number}", name="x")
    ledger.break_off(3, Unreachable, answered=False)
    assert ledger.sync().state == Run.State.UNREACHABLE
    assert 0 < Customer.objects.count() < 6
    ledger.mend()
    ledger.sync()
    assert Customer.objects.count() == 6


def test_next_page_is_read_beside_the_writing_and_nothing_else_is_asked_there() -> None:
    ledger, asked = Ledger(ahead=True), set()
    for number in range(6):
        ledger.put("party", code=f"C{number}", name="x")
    ledger.before = lambda call, _: asked.add((call.partition(" ")[0], current_thread() is main_thread()))
    assert ledger.sync(CUSTOMER).counts["customer"]["created"] == 6
    assert {call for call, here in asked if not here} == {"changes"}
    assert ("changes", True) not in asked


def test_bad_record_waits_as_dead_letter_and_holds_nothing_up(ledger: Ledger) -> None:
    bad = ledger.put("party", code="C" * 99, name="too long a code")
    ledger.put("party", code="ANA", name="Ana")
    run = ledger.sync()
    assert run.state == Run.State.PARTIAL
    assert set(customers()) == {"ANA"}
    letter = DeadLetter.objects.get()
    assert (letter.mapping, letter.direction, letter.key) == ("customer", "pull", bad)
    assert "length <= 20" in letter.error
    assert letter.payload["name"] == "too long a code"


def test_mended_dead_letter_is_taken_over_and_gone(ledger: Ledger) -> None:
    bad = ledger.put("party", code="C" * 99, name="Bo")
    ledger.sync()
    ledger.records["party"][bad]["code"] = "BO"  # not stamped: only the letter leads to it
    ledger.sync(retry_all=True)
    assert set(customers()) == {"BO"}
    assert not DeadLetter.objects.exists()


@pytest.mark.legacy("F8")
def test_dead_letter_is_tried_at_once_when_the_mapping_was_mended(ledger: Ledger) -> None:
    ledger.put("party", code="ANA", name="Ana", city="K")
    cities = {"B": "Berlin"}
    by_code = [replace(line, how=Values(cities)) if line.ours == "city" else line for line in CUSTOMER.fields]
    ledger.sync(replace(CUSTOMER, fields=tuple(by_code)))
    assert "'K' is none of 'B'" in DeadLetter.objects.get().error
    by_code = [replace(line, how=Values({**cities, "K": "Köln"})) if line.how else line for line in by_code]
    ledger.sync(replace(CUSTOMER, fields=tuple(by_code)))
    assert not DeadLetter.objects.exists()
    assert Customer.objects.get().city == "Köln"


@pytest.mark.legacy("L3")
def test_dead_letter_is_tried_again_later_and_later(ledger: Ledger) -> None:
    ledger.put("party", code="C" * 99, name="Bo")
    waits = []
    for _ in range(3):
        ledger.sync(retry_all=True)
        letter = DeadLetter.objects.get()
        waits.append(
            ((letter.next_at or dt.datetime.max.replace(tzinfo=dt.UTC)) - dt.datetime.now(dt.UTC)).total_seconds()
        )
    assert letter.attempts > 1
    assert waits == sorted(waits)


def test_row_that_they_refuse_waits_as_dead_letter(ledger: Ledger) -> None:
    row = Customer.objects.create(name="refuse me")
    Customer.objects.create(name="Bo")
    run = ledger.sync()
    assert run.state == Run.State.PARTIAL
    assert [party["name"] for party in ledger.records["party"].values()] == ["Bo"]
    assert DeadLetter.objects.get().key == str(row.pk)
    Customer.objects.filter(pk=row.pk).update(name="Cy")
    assert ledger.sync().state == Run.State.DONE
    assert not DeadLetter.objects.exists()


def test_first_contact_links_what_has_the_same_code(ledger: Ledger) -> None:
    row = Customer.objects.create(code="ANA", name="Anna", city="Berlin")
    ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync()
    assert Customer.objects.get().pk == row.pk
    assert Customer.objects.get().name == "Ana"
    assert ledger.written == []


def test_different_fields_changed_on_both_sides_both_survive(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana", city="Berlin", phone="1")
    ledger.sync()
    Customer.objects.update(city="Graz")
    ledger.put("party", key, phone="2")
    ledger.sync()
    assert list(Customer.objects.values_list("city", "phone")) == [("Graz", "2")]
    assert (ledger.records["party"][key]["city"], ledger.records["party"][key]["phone"]) == ("Graz", "2")


def test_same_field_changed_on_both_sides_is_theirs(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync()
    Customer.objects.update(city="Graz")
    ledger.put("party", key, city="Oslo")
    ledger.sync()
    assert customers() == {"ANA": "Oslo"}
    assert ledger.records["party"][key]["city"] == "Oslo"


@pytest.mark.legacy("S11")
def test_change_over_there_between_reading_and_writing_is_not_overwritten(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana", city="Berlin", phone="1")
    ledger.sync()
    Customer.objects.update(city="Graz")
    done: list[str] = []

    def faster(call: str, number: int) -> None:
        if call == "update" and not done:
            done.append(ledger.put("party", key, phone="2"))

    ledger.before = faster
    assert ledger.sync().state == Run.State.DONE
    assert (ledger.records["party"][key]["city"], ledger.records["party"][key]["phone"]) == ("Graz", "2")
    assert Customer.objects.get().phone == "2"


def test_change_that_commits_after_a_run_looked_is_sent_by_the_next(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync()
    late = connection.copy()
    try:
        late.set_autocommit(False)
        with late.cursor() as cursor:
            cursor.execute("UPDATE entities_customer SET city = 'Graz'")
        Product.objects.create(code="later", name="A later transaction that commits first")
        ledger.sync()
        late.commit()
    finally:
        late.close()
    ledger.sync()
    assert ledger.records["party"][key]["city"] == "Graz"


@pytest.mark.legacy("F10")
def test_parent_that_came_after_its_own_page_is_fetched(ledger: Ledger) -> None:
    an_order(ledger)

    def comes_later(call: str, number: int) -> None:
        if call == "changes sale" and len(ledger.records["sale"]) == 1:
            ledger.put("sale", number="2", party=ledger.put("party", code="BO", name="Bo"), state="draft", day=DAY)

    ledger.before = comes_later
    assert ledger.sync().state == Run.State.DONE
    assert Order.objects.get(number="2").customer.name == "Bo"
    ledger.mend()
    ledger.sync()
    assert Customer.objects.filter(code="BO").count() == 1


def test_row_deleted_here_is_not_made_again(ledger: Ledger) -> None:
    key = ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync()
    Customer.objects.all().delete()
    ledger.put("party", key, city="Oslo")
    assert ledger.sync().state == Run.State.DONE
    assert customers() == {}
    assert key in ledger.records["party"]


@pytest.mark.slow
def test_second_run_at_the_same_time_is_turned_away(ledger: Ledger) -> None:
    with alone("sync_legacy", "ledger"), pytest.raises(Busy):
        ledger.sync()
    assert ledger.sync().state == Run.State.DONE


def test_run_does_not_hold_the_feed_back(ledger: Ledger) -> None:
    with alone("sync_legacy", "ledger"), connection.cursor() as cursor, transaction.atomic():
        # Of this database: another one of the cluster may well have a writer just now.
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
        )
        assert cursor.fetchone() == (0,)


def test_dry_run_says_what_would_change_and_writes_nothing(ledger: Ledger) -> None:
    an_order(ledger)
    Customer.objects.create(name="Bo", city="Oslo")
    lines: list[str] = []
    before = revisions()
    run = ledger.sync(pretend=True, show=lambda change: lines.append(str(change)))
    assert run.counts["order"]["created"] == 1
    assert any(line.startswith("customer 1: new") and "Berlin" in line for line in lines)
    assert any("→ ledger: new" in line and "Oslo" in line for line in lines)
    assert revisions() == before
    assert not Link.objects.exists()
    assert not Run.objects.exists()
    assert ledger.written == []
