"""Deletions: seen in every way in which systems show them, confirmed, carried over, and never against an edit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from entities.models import Customer, Order, OrderLine, Product
from legacy.mapping import Mapping
from legacy.models import Cursor, DeadLetter, Link, Run, Waiting
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT, Killed, Ledger, an_order

pytestmark = pytest.mark.django_db(transaction=True)
NOW_AND_THEN = 24.0
EACH_RUN: dict[str, Any] = {"sweep_hours": 0}
BOTH = replace(CUSTOMER, deletes="both", **EACH_RUN)
PULL = replace(CUSTOMER, deletes="pull", **EACH_RUN)
ORDERS = (CUSTOMER, PRODUCT, replace(ORDER, deletes="both", **EACH_RUN))


def parties(ledger: Ledger, *mappings: Mapping, number: int = 4) -> Ledger:
    for n in range(number):
        ledger.put("party", code=f"C{n}", name=f"Customer {n}", city="Berlin")
    assert ledger.sync(*mappings).state == Run.State.DONE
    return ledger


def codes() -> list[str]:
    return sorted(code or "" for code in Customer.objects.values_list("code", flat=True))


# --- Seen -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["shown", "keys"])
@pytest.mark.parametrize(
    ("deletes", "here", "there"),
    [
        ("none", ["C0", "C2", "C3"], 3),
        ("pull", ["C2", "C3"], 3),
        ("push", ["C0", "C2", "C3"], 2),
        ("both", ["C2", "C3"], 2),
    ],
)
def test_deletions_go_in_the_directions_that_the_mapping_names(
    how: str, deletes: Any, here: list[str], there: int
) -> None:
    """C0 is deleted there, C1 here."""
    mapping = replace(CUSTOMER, deletes=deletes, **EACH_RUN)
    ledger = parties(Ledger(deletes=how), mapping)
    ledger.remove("party", "1")
    Customer.objects.get(code="C1").delete()
    for _ in range(3):
        assert ledger.sync(mapping).state == Run.State.DONE
        assert (codes(), len(ledger.records["party"])) == (here, there)


@pytest.mark.legacy("L8")
def test_deletion_is_in_the_history_with_the_run_as_author() -> None:
    ledger = parties(Ledger(), PULL)
    row = Customer.objects.get(code="C0").pk
    ledger.remove("party", "1")
    run = ledger.sync(PULL)
    assert run.counts["customer"]["deleted"] == 1
    assert History.objects.get(row_id=row, op="delete").author == run.author


def test_keys_are_compared_as_often_as_the_mapping_says_and_each_time_for_a_snapshot() -> None:
    rarely = replace(PULL, sweep_hours=NOW_AND_THEN)
    ledger = parties(Ledger(), rarely)
    ledger.remove("party", "1")
    ledger.sync(rarely)
    assert len(codes()) == 4
    ledger.sync(replace(rarely, mode="snapshot"))
    assert len(codes()) == 3
    ledger.remove("party", "2")
    Cursor.objects.update(swept_at="2020-01-01T00:00Z")
    ledger.sync(rarely)
    assert len(codes()) == 2


class Dump(Ledger):
    """A system that can only tell all of it, and nothing of one record: what is missing from a whole pass is gone."""

    def __init__(self) -> None:
        super().__init__(deletes="pass", fetches=False, writes=frozenset())


SNAPSHOT = replace(CUSTOMER, direction="pull", mode="snapshot", deletes="pull")


def test_record_that_a_whole_pass_did_not_tell_is_deleted() -> None:
    ledger = parties(Dump(), SNAPSHOT)
    ledger.remove("party", "2")
    assert ledger.sync(SNAPSHOT).state == Run.State.DONE
    assert codes() == ["C0", "C2", "C3"]


@pytest.mark.slow
def test_whole_pass_that_was_killed_in_the_middle_deletes_nothing_until_it_has_come_to_its_end() -> None:
    ledger = parties(Dump(), SNAPSHOT, number=7)
    ledger.remove("party", "2")
    for at in (3, 2):
        ledger.break_off(at, Killed, answered=False)
        with pytest.raises(Killed):
            ledger.sync(SNAPSHOT)
        assert (len(codes()), Waiting.objects.filter(gone=True).count()) == (7, 0)
    ledger.mend()
    assert ledger.sync(SNAPSHOT).state == Run.State.DONE
    assert codes() == ["C0", "C2", "C3", "C4", "C5", "C6"]


def test_pass_over_what_has_changed_alone_deletes_nothing() -> None:
    mapping = replace(SNAPSHOT, mode="incremental")
    ledger = parties(Dump(), mapping)
    ledger.remove("party", "2")
    ledger.put("party", "1", city="Oslo")
    ledger.sync(mapping)
    assert len(codes()) == 4


@pytest.mark.legacy("S8")
def test_key_that_the_list_lost_by_mistake_is_confirmed_and_stays() -> None:
    ledger = parties(Ledger(), PULL)
    ledger.listed = lambda source: iter(["1", "2", "4"])
    run = ledger.sync(PULL)
    assert (run.state, len(codes())) == (Run.State.DONE, 4)
    assert "deleted" not in run.counts["customer"]


def test_record_that_is_made_and_deleted_before_it_was_taken_over_leaves_no_row() -> None:
    ledger = parties(Ledger(deletes="shown"), PULL)
    key = ledger.put("party", code="SHORT", name="x")

    def dies(what: str, records: int) -> None:
        if Waiting.objects.exists():
            raise Killed(what)

    with pytest.raises(Killed):
        ledger.sync(PULL, tell=dies)
    ledger.remove("party", key)
    ledger.sync(PULL)
    assert "SHORT" not in codes()


def test_dry_run_names_what_would_be_deleted_and_deletes_nothing() -> None:
    ledger = parties(Ledger(), BOTH)
    ledger.remove("party", "1")
    Customer.objects.get(code="C1").delete()
    lines: list[str] = []
    ledger.sync(BOTH, pretend=True, show=lambda change: lines.append(str(change)))
    assert any(line.startswith("customer 1: deleted there") for line in lines)
    assert any("would be deleted" in line and "→ ledger" in line for line in lines)
    assert (len(codes()), len(ledger.records["party"])) == (3, 3)


# --- Against edits ----------------------------------------------------------------------------------------------------


def test_row_that_was_edited_here_since_they_deleted_it_is_given_back_to_them() -> None:
    ledger = parties(Ledger(), BOTH)
    ledger.remove("party", "1")
    row = Customer.objects.get(code="C0")
    Customer.objects.filter(pk=row.pk).update(city="Graz")
    assert ledger.sync(BOTH).state == Run.State.DONE
    assert Customer.objects.get(pk=row.pk).city == "Graz"
    assert sorted(party["city"] for party in ledger.records["party"].values()) == ["Berlin"] * 3 + ["Graz"]
    written = len(ledger.written)
    ledger.sync(BOTH)
    assert len(ledger.written) == written


def test_record_that_was_edited_there_since_we_deleted_it_is_given_back_to_us_whole() -> None:
    ledger = parties(Ledger(), BOTH)
    Customer.objects.filter(code="C0").update(fax="7", country="DE")  # which no line maps
    ledger.sync(BOTH)
    row = Customer.objects.get(code="C0")
    id = row.pk
    row.delete()
    ledger.put("party", "1", city="Oslo")
    assert ledger.sync(BOTH).state == Run.State.DONE
    found = Customer.objects.get(code="C0")
    assert (found.pk, found.city, found.name, found.fax, found.country) == (id, "Oslo", "Customer 0", "7", "DE")
    assert "1" in ledger.records["party"]


def test_edit_that_comes_between_our_look_and_our_delete_brings_the_row_back() -> None:
    ledger = parties(Ledger(), BOTH)
    Customer.objects.get(code="C0").delete()

    def faster(call: str, number: int) -> None:
        if call == "delete" and ledger.records["party"]["1"]["city"] == "Berlin":
            ledger.put("party", "1", city="Oslo")

    ledger.before = faster
    ledger.sync(BOTH)
    ledger.mend()
    ledger.sync(BOTH, retry_all=True)
    assert Customer.objects.get(code="C0").city == "Oslo"


@pytest.mark.parametrize("deletes", ["none", "pull"])
def test_row_deleted_here_stays_deleted_whatever_they_do_to_their_record(deletes: Any) -> None:
    mapping = replace(CUSTOMER, deletes=deletes, **EACH_RUN)
    ledger = parties(Ledger(), mapping)
    Customer.objects.get(code="C0").delete()
    for city in ("Oslo", "Rome"):
        ledger.put("party", "1", city=city)
        assert ledger.sync(mapping).state == Run.State.DONE
        assert len(codes()) == 3
    assert ledger.records["party"]["1"]["city"] == "Rome"
    ledger.remove("party", "1")
    assert ledger.sync(mapping).state == Run.State.DONE


def test_deletes_of_both_sides_meet() -> None:
    ledger = parties(Ledger(), BOTH)
    ledger.remove("party", "1")
    Customer.objects.get(code="C0").delete()
    assert ledger.sync(BOTH).state == Run.State.DONE
    assert Link.objects.count() == 3
    assert ledger.written == []


# --- What hangs together ----------------------------------------------------------------------------------------------


def test_row_that_others_refer_to_is_kept_as_dead_letter_and_deleted_when_they_are_gone() -> None:
    ledger = Ledger()
    an_order(ledger)
    ledger.put("party", code="BO", name="Bo")
    mappings = (PULL, PRODUCT, ORDER)
    ledger.sync(*mappings)
    party = ledger.records["sale"].popitem()[1]["party"]  # which nobody tells us
    ledger.remove("party", party)
    run = ledger.sync(*mappings)
    assert run.state == Run.State.PARTIAL
    assert "other rows here refer to it" in DeadLetter.objects.get().error
    assert codes() == ["ANA", "BO"]
    Order.objects.all().delete()
    assert ledger.sync(*mappings, retry_all=True).state == Run.State.DONE
    assert (codes(), DeadLetter.objects.count()) == (["BO"], 0)


def test_protected_row_whose_deletion_was_shown_once_is_tried_again_too() -> None:
    ledger = Ledger(deletes="shown")
    an_order(ledger)
    mappings = (replace(CUSTOMER, deletes="pull", stop_deleted_share=1), PRODUCT, ORDER)
    ledger.put("party", code="BO", name="Bo")
    ledger.sync(*mappings)
    ledger.remove("party", "1")
    ledger.sync(*mappings)
    ledger.removed.clear()
    Order.objects.all().delete()
    ledger.sync(*mappings, retry_all=True)
    assert codes() == ["BO"]


def test_lines_go_with_their_order_either_way() -> None:
    ledger = Ledger()
    keys = [an_order(ledger, number=str(n)) for n in range(4)]
    ledger.sync(*ORDERS)
    ledger.remove("sale", keys[0])
    Order.objects.get(number="1").delete()
    assert ledger.sync(*ORDERS).state == Run.State.DONE
    assert sorted(Order.objects.values_list("number", flat=True)) == ["2", "3"]
    assert OrderLine.objects.count() == 4
    assert ledger.records["sale"].keys() == {*keys[2:]}
    assert Link.objects.filter(mapping="order_line").count() == 4


def edit_line(ledger: Ledger, key: str) -> None:
    line, *rest = ledger.records["sale"][key]["lines"]
    ledger.put("sale", key, lines=[{**line, "quantity": 9}, *rest])


def add_line(ledger: Ledger, key: str) -> None:
    lines = ledger.records["sale"][key]["lines"]
    ledger.put("sale", key, lines=[*lines, {**lines[0], "id": "900", "quantity": 9}])


@pytest.mark.parametrize("edit", [edit_line, add_line])
@pytest.mark.parametrize("faster", [False, True], ids=["before the run", "between its pull and its push"])
def test_order_whose_lines_they_edited_comes_back_with_them(edit: Any, faster: bool) -> None:
    ledger = Ledger()
    keys = [an_order(ledger, number=str(n)) for n in range(3)]
    ledger.sync(*ORDERS)
    OrderLine.objects.update(discount="0.25")  # which no line maps
    Order.objects.get(number="0").delete()
    done: list[Any] = []

    def between(call: str, number: int) -> None:
        if call == "fetch" and not done:
            done.append(edit(ledger, keys[0]))

    if faster:
        ledger.before = between
    else:
        edit(ledger, keys[0])
    assert ledger.sync(*ORDERS).state == Run.State.DONE
    order = Order.objects.get(number="0")
    assert 9 in order.lines.values_list("quantity", flat=True)
    assert {str(discount) for discount in order.lines.values_list("discount", flat=True)} >= {"0.2500"}
    assert keys[0] in ledger.records["sale"]


@pytest.mark.slow
def test_order_whose_line_was_edited_here_since_they_deleted_it_is_given_back() -> None:
    ledger = Ledger()
    keys = [an_order(ledger, number=str(n)) for n in range(3)]
    ledger.sync(*ORDERS)
    ledger.remove("sale", keys[0])
    OrderLine.objects.filter(order__number="0", quantity=2).update(quantity=7)
    assert ledger.sync(*ORDERS).state == Run.State.DONE
    assert [7 in [line["quantity"] for line in sale["lines"]] for sale in ledger.records["sale"].values()].count(
        True
    ) == 1
    assert Order.objects.count() == 3


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    assert not Waiting.objects.exists()
    assert not Product.objects.filter(name="").exists()


def half_made(earlier: bool = True) -> tuple[Ledger, Customer]:
    """A row of ours whose record was made there, by a run that died before it knew, and was passed over by another."""
    ledger = Ledger()
    if earlier:  # a push that came to its end
        ledger.sync(BOTH)
    row = Customer.objects.create(name="Bo", city="Oslo")
    for when in ("create", "find"):
        ledger.mend()

        def dies(call: str, number: int, when: str = when) -> None:
            if call == when:
                raise Killed(call)

        ledger.after = dies
        with pytest.raises(Killed):
            ledger.sync(BOTH)
    ledger.mend()
    assert len(ledger.records["party"]) == 1 and not Link.objects.exists()
    return ledger, row


@pytest.mark.parametrize("earlier", [False, True])
def test_row_that_is_deleted_before_its_record_was_linked_is_deleted_there_too(earlier: bool) -> None:
    ledger, row = half_made(earlier)
    row.delete()
    assert ledger.sync(BOTH).state == Run.State.DONE
    assert ledger.records["party"] == {}


def test_what_they_changed_in_a_record_before_it_was_linked_is_not_overwritten() -> None:
    ledger, row = half_made()
    Customer.objects.filter(pk=row.pk).update(city="Graz", phone="1")
    ledger.put("party", next(iter(ledger.records["party"])), name="Bo Ltd")
    assert ledger.sync(BOTH).state == Run.State.DONE
    (party,) = ledger.records["party"].values()
    assert (party["name"], party["city"], party["phone"]) == ("Bo Ltd", "Graz", "1")
    assert list(Customer.objects.values_list("name", "city", "phone")) == [("Bo Ltd", "Graz", "1")]
