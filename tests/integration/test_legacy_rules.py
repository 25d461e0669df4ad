"""Who wins where both sides changed the same, field by field, at first contact and later."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.test import Client

from entities.models import Customer, Product
from legacy.convert import Always, Number
from legacy.exchange import id_of
from legacy.mapping import F, Mapping, Wins
from legacy.models import Link, Run
from sync.models import Conflict, History
from sync.resolve import resolve, stakes_of
from tests.integration.conflict_pages_support import LIST, address, read, text_of
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT, Ledger, an_order

pytestmark = pytest.mark.django_db(transaction=True)
UNIT = ("address", "city", "region", "postal_code", "country")
WHOLE = replace(CUSTOMER, fields=(*CUSTOMER.fields, F("address", "street"), F("country", "country"), F("fax", "stamp")))


def both_changed(mapping: Mapping, theirs: dict[str, Any], ours: dict[str, Any]) -> tuple[Ledger, Run]:
    """Both sides agreed on a party; then each changed it."""
    ledger = Ledger()
    values = {"city": "Berlin", "phone": "1", "street": "Mitte 1", "country": "DE", "stamp": "2026-01-01"}
    key = ledger.put("party", code="ANA", name="Ana", **values)
    ledger.sync(mapping)
    ledger.put("party", key, **theirs)
    Customer.objects.update(**ours)
    return ledger, ledger.sync(mapping)


def here() -> Customer:
    return Customer.objects.get()


def there(ledger: Ledger) -> dict[str, Any]:
    (party,) = ledger.records["party"].values()
    return party


def settled(ledger: Ledger, *mappings: Mapping) -> bool:
    """Whether another run finds nothing to do on either side."""
    before = History.objects.count(), len(ledger.written)
    ledger.sync(*mappings)
    return (History.objects.count(), len(ledger.written)) == before


@pytest.mark.parametrize(
    ("wins", "stamps", "winner"),
    [
        ("legacy", ("2026-01-01", "2026-01-01"), "Oslo"),
        ("server", ("2026-01-01", "2026-01-01"), "Graz"),
        ("newest", ("2026-01-03", "2026-01-02"), "Oslo"),
        ("newest", ("2026-01-02", "2026-01-03"), "Graz"),
        ("newest", ("2026-01-01", "2026-01-02"), "Graz"),  # they changed it and not the stamp
        ("newest", ("2026-01-02", "2026-01-01"), "Oslo"),
        ("newest", ("2026-01-02", "2026-01-02"), "Graz"),  # a draw: what devices have already stays
        ("merge", ("2026-01-01", "2026-01-01"), "Graz"),  # as the entity says: server_wins
    ],
)
def test_field_that_both_changed_is_the_winners_on_both_sides(wins: Wins, stamps: tuple[str, str], winner: str) -> None:
    mapping = replace(WHOLE, wins=wins, newest="fax")
    ledger, run = both_changed(mapping, {"city": "Oslo", "stamp": stamps[0]}, {"city": "Graz", "fax": stamps[1]})
    assert run.state == Run.State.DONE
    assert (here().city, there(ledger)["city"]) == (winner, winner)
    assert settled(ledger, mapping)


def test_loser_is_in_the_history() -> None:
    both_changed(CUSTOMER, {"city": "Oslo"}, {"city": "Graz"})
    assert History.objects.filter(row_id=here().pk).latest("rev").old == {"city": "Graz"}


def test_one_field_may_have_another_winner_than_the_rest() -> None:
    lines = [replace(line, wins="server") if line.ours == "phone" else line for line in CUSTOMER.fields]
    mapping = replace(CUSTOMER, fields=tuple(lines))
    ledger, _ = both_changed(mapping, {"city": "Oslo", "phone": "2"}, {"city": "Graz", "phone": "3"})
    assert (here().city, here().phone) == ("Oslo", "3")
    assert (there(ledger)["city"], there(ledger)["phone"]) == ("Oslo", "3")


@pytest.mark.parametrize(("wins", "found"), [("legacy", ("Mitte 1", "Oslo")), ("server", ("Am Ring 2", "Berlin"))])
def test_fields_of_a_unit_stay_together_though_each_side_changed_another_one(
    wins: Wins, found: tuple[str, str]
) -> None:
    mapping = replace(WHOLE, wins=wins)
    ledger, _ = both_changed(mapping, {"city": "Oslo"}, {"address": "Am Ring 2"})
    assert (here().address, here().city) == found
    assert (there(ledger)["street"], there(ledger)["city"]) == found


# --- First contact ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "name"), [("legacy", "theirs"), ("server", "ours"), ("merge", "ours"), ("newest", "theirs")]
)
def test_first_contact_fills_what_is_empty_and_lets_the_rule_decide_the_rest(wins: Wins, name: str) -> None:
    mapping = replace(WHOLE, wins=wins, newest="fax")
    ledger = Ledger()
    ledger.put("party", code="ANA", name="theirs", phone="2", street="", city="", country="", stamp="2026-02-02")
    Customer.objects.create(code="ANA", name="ours", city="Graz", address="Mitte 1", fax="2026-01-01")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert (here().name, here().phone, here().city, here().address) == (name, "2", "Graz", "Mitte 1")
    assert (there(ledger)["name"], there(ledger)["city"], there(ledger)["street"]) == (name, "Graz", "Mitte 1")
    assert settled(ledger, mapping)


@pytest.mark.parametrize(("wins", "found"), [("legacy", ("", "Oslo")), ("server", ("Mitte 1", "Berlin"))])
def test_first_contact_does_not_tear_a_unit(wins: Wins, found: tuple[str, str]) -> None:
    mapping = replace(WHOLE, wins=wins)
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana", street="", city="Oslo", country="NO")
    Customer.objects.create(code="ANA", name="Ana", address="Mitte 1", city="Berlin")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert (here().address, here().city) == found
    assert ((there(ledger)["street"] or ""), there(ledger)["city"]) == found
    assert not Conflict.objects.filter(state=Conflict.State.OPEN).exists()


def test_line_that_is_new_in_a_mapping_wipes_nothing_on_either_side() -> None:
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana", city="Berlin", stamp="")
    ledger.put("party", code="BO", name="Bo", city="Berlin", stamp="99")
    ledger.sync(CUSTOMER)
    Customer.objects.filter(code="ANA").update(fax="88")
    mapping = replace(CUSTOMER, fields=(*CUSTOMER.fields, F("fax", "stamp")))
    assert ledger.sync(mapping).state == Run.State.DONE
    assert dict(Customer.objects.values_list("code", "fax")) == {"ANA": "88", "BO": "99"}
    assert [party["stamp"] for party in ledger.records["party"].values()] == ["88", "99"]
    assert settled(ledger, mapping)


# --- A person decides -------------------------------------------------------------------------------------------------

MANUAL = replace(CUSTOMER, wins="manual")


def a_conflict() -> tuple[Ledger, Conflict]:
    ledger, run = both_changed(MANUAL, {"city": "Oslo", "phone": "2"}, {"city": "Graz"})
    assert (run.state, run.counts["customer"]["conflicts"]) == (Run.State.DONE, 1)
    return ledger, Conflict.objects.get()


def test_conflict_waits_in_the_devices_queue_and_is_sent_to_nobody_while_it_is_open() -> None:
    ledger, conflict = a_conflict()
    assert (conflict.state, conflict.fields, conflict.device) == ("open", ["city"], id_of("ledger"))
    assert (conflict.base, conflict.server) == ({"city": "Berlin"}, {"city": "Graz"})
    assert conflict.device_values == {"set": {"city": "Oslo"}}
    assert (here().city, here().phone) == ("Graz", "2"), "what is not in dispute is taken over"
    assert there(ledger)["city"] == "Oslo"
    Customer.objects.update(name="Anna")
    assert ledger.sync(MANUAL).state == Run.State.DONE
    assert (there(ledger)["city"], there(ledger)["name"]) == ("Oslo", "Anna"), "and what is not in dispute is sent"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "state"), [({}, "server"), ({"city": "Oslo"}, "device"), ({"city": "Rome"}, "mixed")]
)
@pytest.mark.parametrize("runs_between", [0, 2])
def test_decision_is_on_both_sides_after_the_next_run(values: dict[str, str], state: str, runs_between: int) -> None:
    ledger, conflict = a_conflict()
    for _ in range(runs_between):
        ledger.sync(MANUAL)
    stakes = stakes_of(conflict)
    resolve(conflict.pk, values, rev=stakes.rev, seen=stakes.seen, author="user:anna")
    city = values.get("city", "Graz")
    assert ledger.sync(MANUAL).state == Run.State.DONE
    assert (here().city, there(ledger)["city"]) == (city, city)
    assert Conflict.objects.get().state == state
    assert not Link.objects.filter(due=True).exists()
    assert settled(ledger, MANUAL)


def test_record_that_changes_again_while_it_waits_is_one_conflict_with_its_newest_values() -> None:
    ledger, conflict = a_conflict()
    ledger.put("party", "1", city="Rome")
    ledger.sync(MANUAL)
    conflict = Conflict.objects.get()
    assert conflict.device_values == {"set": {"city": "Rome"}}
    assert conflict.base == {"city": "Berlin"}
    stakes = stakes_of(conflict)
    resolve(conflict.pk, {"city": "Rome"}, rev=stakes.rev, seen=stakes.seen, author="user:anna")
    ledger.sync(MANUAL)
    assert (here().city, there(ledger)["city"], Conflict.objects.get().state) == ("Rome", "Rome", "device")


def test_row_that_we_change_again_while_it_waits_is_sent_once_it_is_decided() -> None:
    ledger, conflict = a_conflict()
    Customer.objects.update(city="Linz")
    ledger.sync(MANUAL)
    assert there(ledger)["city"] == "Oslo"
    stakes = stakes_of(conflict)
    resolve(conflict.pk, {}, rev=stakes.rev, seen=stakes.seen, author="user:anna")
    ledger.sync(MANUAL)
    assert (here().city, there(ledger)["city"]) == ("Linz", "Linz")


@pytest.mark.slow
def test_people_see_the_name_of_the_system(admin_client: Client) -> None:
    conflict = a_conflict()[1]
    for at in (address(conflict), LIST, f"{LIST}?q=ledg"):
        html = read(admin_client, at)
        seen = text_of(html)
        assert "ledger" in seen
        assert "no more" not in seen
    assert "offline" not in text_of(read(admin_client, address(conflict)))
    (found,) = admin_client.get("/api/conflicts").json()["results"]
    assert found["source"] == "ledger"


# --- Several systems --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["both", "pull"])
def test_what_a_system_of_higher_rank_says_is_not_overruled_by_a_lower_one(direction: Any) -> None:
    mapping = replace(CUSTOMER, direction=direction)
    first, second = Ledger(name="first"), Ledger(name="second")
    with mock.patch("legacy.runs.ranks", lambda: {"first": 1, "second": 2}):
        for ledger in (first, second):
            ledger.put("party", code="ANA", name="Ana", city="Berlin", phone="1")
            ledger.sync(mapping)
        first.put("party", "1", city="Graz")
        second.put("party", "1", city="Oslo", phone="2")
        first.sync(mapping)
        second.sync(mapping)
        assert (here().city, here().phone) == ("Graz", "2")
        first.put("party", "1", phone="3")
        second.sync(mapping)
        first.sync(mapping)
        second.put("party", "1", phone="4")
        second.sync(mapping)
    assert here().city == "Graz"
    if direction == "both":
        assert there(second)["city"] == "Graz"


def test_whole_unit_is_outranked_with_one_of_its_fields() -> None:
    first, second = Ledger(name="first"), Ledger(name="second")
    with mock.patch("legacy.runs.ranks", lambda: {"first": 1, "second": 2}):
        for ledger in (first, second):
            ledger.put("party", code="ANA", name="Ana", city="Berlin", street="Mitte 1", country="DE", stamp="")
            ledger.sync(WHOLE)
        first.put("party", "1", city="Graz")
        second.put("party", "1", street="Karl Johans 2", country="NO")
        first.sync(WHOLE)
        second.sync(WHOLE)
    assert (here().city, here().address, here().country) == ("Graz", "Mitte 1", "DE")
    assert (there(second)["city"], there(second)["street"]) == ("Graz", "Mitte 1")


@pytest.mark.slow
def test_change_of_one_system_reaches_the_others_through_us() -> None:
    ledgers = [Ledger(name=name) for name in ("a", "b", "c")]
    ledgers[0].put("party", code="ANA", name="Ana", city="Berlin")
    for ledger in (*ledgers, *ledgers):
        assert ledger.sync(CUSTOMER).state == Run.State.DONE
    ledgers[1].put("party", next(iter(ledgers[1].records["party"])), city="Oslo")
    for ledger in (*ledgers, *ledgers):
        ledger.sync(CUSTOMER)
    assert [there(ledger)["city"] for ledger in ledgers] == ["Oslo"] * 3
    assert all(settled(ledger, CUSTOMER) for ledger in ledgers)


# --- One way, absent, rounded, forbidden ------------------------------------------------------------------------------


def with_city(**line: Any) -> Mapping:
    fields = [replace(each, **line) if each.ours == "city" else each for each in CUSTOMER.fields]
    return replace(CUSTOMER, fields=tuple(fields))


def test_field_of_which_ours_is_the_master_corrects_their_edit() -> None:
    mapping = with_city(only="push")
    ledger, _ = both_changed(mapping, {"city": "Oslo"}, {"city": "Graz"})
    assert (here().city, there(ledger)["city"]) == ("Graz", "Graz")
    ledger.put("party", "1", city="Rome")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert (here().city, there(ledger)["city"]) == ("Graz", "Graz")
    assert settled(ledger, mapping)


def test_field_of_which_theirs_is_the_master_is_never_sent() -> None:
    ledger, _ = both_changed(with_city(only="pull"), {}, {"city": "Graz"})
    assert there(ledger)["city"] == "Berlin"


@pytest.mark.legacy("S14")
@pytest.mark.parametrize(("absent", "city"), [("keep", "Berlin"), ("clear", ""), ("ignore", "Berlin")])
def test_place_that_a_record_lacks_is_not_null(absent: Any, city: str) -> None:
    mapping = with_city(absent=absent)
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana", city="Berlin")
    ledger.sync(mapping)
    del there(ledger)["city"]
    ledger.put("party", "1", phone="2")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert (here().city, here().phone) == (city, "2")
    ledger.put("party", "1", city=None)
    ledger.sync(with_city(absent=absent, only="pull"))
    assert here().city in {"", city}


@pytest.mark.legacy("S14")
def test_lines_that_a_record_does_not_tell_of_are_kept() -> None:
    ledger = Ledger()
    key = an_order(ledger)
    ledger.sync()
    kept = ledger.records["sale"][key].pop("lines")
    ledger.put("sale", key, note="x")
    with mock.patch.object(Ledger, "_record", _without_lines):
        assert ledger.sync(CUSTOMER, PRODUCT, replace(ORDER, direction="pull")).state == Run.State.DONE
    order = ORDER.model._default_manager.get()
    assert (order.note, order.lines.count()) == ("x", len(kept))  # type: ignore[attr-defined]


_record = Ledger._record


def _without_lines(self: Ledger, source: str, key: str) -> Any:
    found = _record(self, source, key)
    return replace(found, values={place: value for place, value in found.values.items() if place != "lines"})


PRICED = replace(
    PRODUCT, direction="both", fields=(F("code", "code"), F("name", "name"), F("unit_price", "price", Number(2)))
)


@pytest.mark.slow
@pytest.mark.legacy("S10")
def test_price_that_their_scale_cannot_hold_never_flips() -> None:
    ledger = Ledger()
    ledger.put("item", code="1", name="Chai", price=Decimal("18.00"))
    ledger.sync(PRICED)
    for price in ("18.1234", "18.12", "18.1249", "18.125"):
        Product.objects.update(unit_price=price)
        ledger.sync(PRICED)
        assert settled(ledger, PRICED)
        assert Product.objects.get().unit_price == Decimal(price)
    (item,) = ledger.records["item"].values()
    assert item["price"] == Decimal("18.13")
    ledger.put("item", next(iter(ledger.records["item"])), price=Decimal("20.00"))
    ledger.sync(PRICED)
    assert Product.objects.get().unit_price == Decimal(20)


def test_price_that_their_scale_cannot_hold_is_the_same_at_first_contact() -> None:
    ledger = Ledger()
    ledger.put("item", code="1", name="Chai", price=Decimal("18.12"))
    Product.objects.create(code="1", name="Chai", unit_price="18.1234")
    ledger.sync(PRICED)
    assert Product.objects.get().unit_price == Decimal("18.1234")
    assert ledger.written == []


def test_what_must_never_leave_stops_the_run_before_it_leaves() -> None:
    mapping = replace(CUSTOMER, never=("city",))
    ledger = Ledger()
    Customer.objects.create(name="Bo", city="Oslo")
    run = ledger.sync(mapping)
    assert run.state == Run.State.MISCONFIGURED
    assert "city must never leave" in run.error
    assert ledger.records["party"] == {}


def test_place_that_a_secret_shares_with_another_field_may_be_written() -> None:
    fields = (*CUSTOMER.fields, F("fax", "phone", only="pull"))
    mapping = replace(CUSTOMER, fields=fields, never=("fax",))
    ledger = Ledger()
    Customer.objects.create(name="Bo", phone="1", fax="secret")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert there(ledger)["phone"] == "1"


def test_constant_of_theirs_goes_with_each_write() -> None:
    mapping = replace(CUSTOMER, fields=(*CUSTOMER.fields, F((), "kind", Always("customer"))))
    ledger = Ledger()
    Customer.objects.create(name="Bo")
    assert ledger.sync(mapping).state == Run.State.DONE
    assert there(ledger)["kind"] == "customer"
    assert settled(ledger, mapping)
