"""`manage.py sync_legacy` against a real Tryton with Northwind in it, as a process of its own.

The first start installs Tryton and loads it (about a minute); it is kept in `.erp/`, and later starts take a second.
"""

import csv
import datetime as dt
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from entities.models import Contact, Customer, Employee, Order, OrderLine, Product
from legacy.connector import Changed
from legacy.connectors import tryton_rpc
from legacy.connectors.tryton import Tryton
from legacy.mappings.tryton import CUSTOMER, MAPPINGS, ORDER
from legacy.models import DeadLetter, Link, Run
from legacy.runs import run
from legacy.systems import System, system
from sync.models import History
from tests.acceptance.erp_support import Erp, command_environment
from tests.integration.misbehaving import (
    Exchange,
    Fault,
    Misbehaving,
    answer,
    busy,
    cut_after,
    delay,
    empty,
    lose_answer,
    lose_request,
    pass_on,
    twice,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
WITHOUT_ORDERS = MAPPINGS[:-1]
# Northwind's last thirty orders and what comes after them: reading all 830 takes seconds.
LATEST = (*WITHOUT_ORDERS, replace(ORDER, source=replace(ORDER.source, only=(("id", ">", 800),))))
NORTHWIND = settings.BASE_DIR / "data" / "northwind"


@pytest.fixture(scope="module")
def shared_erp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Erp]:
    erp = Erp(tmp_path_factory.mktemp("erp"))
    try:
        yield erp
    finally:
        erp.do("stop")


@pytest.fixture
def erp(shared_erp: Erp, settings: Settings) -> Erp:
    """Northwind as it was first loaded, and settings that lead to it."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")
    shared_erp.do("reset")
    shared_erp.start()
    settings.LEGACY_URL, settings.LEGACY_DATABASE = shared_erp.url, "northwind"
    settings.LEGACY_USER, settings.LEGACY_PASSWORD = "admin", "northwind"
    return shared_erp


@pytest.fixture
def tryton(erp: Erp) -> Iterator[Tryton]:
    """Somebody at the ERP's side."""
    person = Tryton(erp.url, "northwind", "admin", "northwind")
    person.open()
    yield person
    person.close()


def sync(*mappings: Any) -> Run:
    found = system("tryton")
    return run(System(found.name, found.connect, mappings or found.mappings))


def rows(table: str) -> list[dict[str, str]]:
    with (NORTHWIND / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def party_of(tryton: Tryton, customer: Customer) -> dict[str, Any]:
    key = int(Link.objects.get(mapping="customer", row=customer.pk).key)
    fields = ["name", "code", "phone", "fax", "addresses.city", "addresses.street", "addresses.country.name"]
    return dict(tryton.session.call("party.party", "read", [key], fields)[0])


def sales(tryton: Tryton, *domain: Any) -> list[dict[str, Any]]:
    fields = ["number", "state", "reference", "comment", "sale_date", "untaxed_amount", "quoted_by", "party"]
    fields += ["lines.quantity", "lines.product", "lines.unit_price", "shipment_address.city"]
    return list(tryton.session.call("sale.sale", "search_read", list(domain), 0, None, None, fields))


def an_order(customer: Customer, **values: Any) -> Order:
    values = {
        "ordered_on": dt.date(2026, 11, 21),
        "status": "confirmed",
        "employee": Employee.objects.get(number=4),
    } | values
    order = Order.objects.create(customer=customer, **values)
    for code, quantity, discount in [("1", 3, "0.1"), ("2", 5, "0")]:
        product = Product.objects.get(code=code)
        OrderLine.objects.create(
            order=order,
            product=product,
            unit_price=product.unit_price,
            quantity=quantity,
            discount=discount,
        )
    return order


@pytest.mark.legacy("S5")
def test_northwind_arrives_as_its_own_tables_say(erp: Erp) -> None:
    assert sync().state == Run.State.DONE
    customers = {row["CustomerID"].strip(): row for row in rows("customers")}
    assert Customer.objects.count() == len(customers) == 93
    for customer in Customer.objects.all():
        row = customers[customer.code or ""]
        ours = [customer.name, customer.address, customer.city, customer.region, customer.country, customer.phone]
        theirs = [row[name] for name in ("CompanyName", "Address", "City", "Region", "Country", "Phone")]
        assert ours == theirs
    assert Contact.objects.get(customer__code="ALFKI").last_name == "Anders"
    products = {row["ProductID"]: row for row in rows("products")}
    for product in Product.objects.all():
        row = products[product.code]
        assert (product.name, product.unit_price) == (row["ProductName"], Decimal(row["UnitPrice"]))
        assert (product.units_in_stock, product.discontinued) == (int(row["UnitsInStock"]), row["Discontinued"] == "1")
    assert Product.objects.count() == len(products)
    employees = {row["EmployeeID"]: row for row in rows("employees")}
    for employee in Employee.objects.select_related("reports_to"):
        row = employees[str(employee.number)]
        assert (employee.first_name, employee.title, employee.notes) == (row["FirstName"], row["Title"], row["Notes"])
        assert str(employee.reports_to.number if employee.reports_to else "") == row["ReportsTo"]
    orders = {row["OrderID"]: row for row in rows("orders")}
    for order in Order.objects.select_related("customer", "employee"):
        row = orders[order.number]
        assert (order.customer.code, str(order.employee and order.employee.number)) == (
            row["CustomerID"],
            row["EmployeeID"],
        )
        assert (str(order.shipped_on or ""), order.freight) == (row["ShippedDate"][:10], Decimal(row["Freight"]))
        assert (str(order.required_on), order.ship_city) == (row["RequiredDate"][:10], row["ShipCity"])
        assert order.status == ("shipped" if row["ShippedDate"] else "confirmed")
    assert Order.objects.count() == len(orders) == 830
    lines = sorted(
        (line.order.number, line.product.code, line.quantity, line.unit_price, line.discount)
        for line in OrderLine.objects.select_related("order", "product")
    )
    assert lines == sorted(
        (row["OrderID"], row["ProductID"], int(row["Quantity"]), Decimal(row["UnitPrice"]), Decimal(row["Discount"]))
        for row in rows("order_details")
    )


@pytest.mark.legacy("L4")
def test_second_run_changes_nothing_on_either_side(erp: Erp, tryton: Tryton) -> None:
    sync(*WITHOUT_ORDERS)
    before = History.objects.count()
    stamp = tryton.session.call("party.party", "search_read", [], 0, 1, [["write_date", "DESC"]], ["write_date"])
    assert sync(*WITHOUT_ORDERS).state == Run.State.DONE
    assert History.objects.count() == before
    assert (
        tryton.session.call("party.party", "search_read", [], 0, 1, [["write_date", "DESC"]], ["write_date"]) == stamp
    )


@pytest.mark.legacy("S4")
def test_what_their_people_change_arrives(erp: Erp, tryton: Tryton) -> None:
    sync(*WITHOUT_ORDERS)
    call = tryton.session.call
    party = party_of(tryton, Customer.objects.get(code="ALFKI"))
    address = party["addresses."][0]["id"]
    call("party.address", "write", [address], {"city": "Bonn"})  # the address alone: the party itself is not stamped
    chai = int(Link.objects.get(mapping="product", row=Product.objects.get(code="1").pk).key)
    template = call("product.product", "read", [chai], ["template"])[0]["template"]
    call("product.template", "write", [template], {"list_price": Decimal("19.5")})
    gorgonzola = Product.objects.get(code="31", discontinued=False)
    key = int(Link.objects.get(mapping="product", row=gorgonzola.pk).key)
    call("product.product", "write", [key], {"active": False})
    run = sync(*WITHOUT_ORDERS)
    assert Customer.objects.get(code="ALFKI").city == "Bonn"
    assert Product.objects.get(code="1").unit_price == Decimal("19.5")
    assert Product.objects.get(code="31").discontinued, "what they archive stays here"
    assert run.counts["customer"].get("updated") == 1


@pytest.mark.legacy("L4")
def test_our_edit_arrives_there_and_its_echo_changes_nothing(erp: Erp, tryton: Tryton) -> None:
    sync(*WITHOUT_ORDERS)
    Customer.objects.filter(code="ALFKI").update(city="Graz", country="Austria", phone="", fax="+43 1")
    before = History.objects.count()
    run = sync(*WITHOUT_ORDERS)
    assert run.counts["customer"]["updated there"] == 1
    party = party_of(tryton, Customer.objects.get(code="ALFKI"))
    assert (party["phone"], party["fax"]) == ("", "+43 1")
    assert (party["addresses."][0]["city"], party["addresses."][0]["country."]["name"]) == ("Graz", "Austria")
    assert party["addresses."][0]["street"] == "Obere Str. 57"
    assert "updated there" not in sync(*WITHOUT_ORDERS).counts.get("customer", {})
    assert History.objects.count() == before


@pytest.mark.legacy("F1")
def test_order_made_while_the_erp_was_down_is_in_it_after_the_next_run(erp: Erp, tryton: Tryton) -> None:
    sync(*LATEST)
    erp.do("stop")
    customer = Customer.objects.create(name="Café Zentral", city="Wien", country="Austria", phone="+43 1 533")
    order = an_order(customer, freight="12.5", note="ring twice", required_on=dt.date(2026, 12, 1))
    run = sync(*LATEST)
    assert run.state == Run.State.UNREACHABLE
    assert "does not answer" in run.error
    erp.start()
    tryton.open()
    run = sync(*LATEST)
    assert (run.state, run.error) == (Run.State.DONE, "")
    order.refresh_from_db()
    customer.refresh_from_db()
    (sale,) = sales(tryton, ["number", "=", order.number])
    assert order.number == "11078"
    assert sale["state"] in {"confirmed", "processing"}
    assert sale["comment"] == "ring twice"
    assert sale["untaxed_amount"] == Decimal("156.10")  # 3 Chai less a tenth, 5 Chang, the freight
    assert sale["reference"] == f"sync:{order.pk}"
    assert party_of(tryton, customer)["code"] == customer.code
    before = History.objects.count()
    sync(*LATEST)
    assert History.objects.count() == before
    assert len(sales(tryton)) == 831


SLOW = 3  # seconds: longer than it is waited for
FAULTS: dict[str, Fault] = {
    "late": delay(SLOW),
    "cut": cut_after(20),
    "500": answer(500),
    "429": busy(429, "1"),
    "503": busy(503, "1"),
    "wrong key": answer(401),
    "empty": empty,
    "answer lost": lose_answer,
    "request lost": lose_request,
    "doubled": twice,
}
READ, CREATE, WRITE = (f'"model.party.party.{method}"' for method in ("read", "create", "write"))


def once(call: str, fault: Fault) -> Fault:
    """Of Tryton every call has the same path: this is for the first whose body has `call` in it."""
    left = [fault]

    def act(exchange: Exchange) -> None:
        (left.pop() if left and call.encode() in exchange.request.body else pass_on)(exchange)

    return act


@pytest.mark.legacy("S12")
@pytest.mark.legacy("F3")
@pytest.mark.legacy("F21")
@pytest.mark.parametrize("fault", FAULTS)
def test_both_sides_are_equal_after_a_fault_at_any_kind_of_call(
    erp: Erp, tryton: Tryton, settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(tryton_rpc, "TIMEOUT_SECONDS", SLOW / 2)
    monkeypatch.setattr(tryton_rpc, "WAIT_SECONDS_MAX", 0.1)
    category = tryton.session.search("party.category", [["name", "=", "Customer"]])
    # A create that the network doubles is two calls to Tryton, which has no key to know the second one by.
    calls = [READ, WRITE] if fault == "doubled" else [READ, CREATE, WRITE]
    with Misbehaving(erp.url) as proxy:
        settings.LEGACY_URL = proxy.url
        sync(CUSTOMER)
        for call in calls:
            Customer.objects.create(name=f"Ours {call}", city="Graz")
            Customer.objects.filter(code="ALFKI").update(name=f"Ours too {call}")
            new = {"name": f"Theirs {call}", "code": f"T{len(call)}", "categories": [["add", category]]}
            tryton.session.call("party.party", "create", [new])
            proxy.calm()
            proxy.when(once(call, FAULTS[fault]), times=None)
            for _ in range(2):
                sync(CUSTOMER)
            assert any(call.encode() in request.body for request in proxy.seen)
    assert not DeadLetter.objects.exists()
    places = ["code", "name"]
    found = tryton.session.call("party.party", "search_read", [["categories", "=", category[0]]], 0, None, None, places)
    assert sorted((row["code"], row["name"]) for row in found) == sorted(Customer.objects.values_list("code", "name"))
    names = [row["name"] for row in found]
    assert [names.count(f"{who} {call}") for who in ("Ours", "Theirs") for call in calls] == [1] * 2 * len(calls)


@pytest.mark.legacy("L3")
@pytest.mark.legacy("S9")
def test_what_the_erp_refuses_waits_with_its_own_words(erp: Erp) -> None:
    sync(*WITHOUT_ORDERS)
    Customer.objects.filter(code="ALFKI").update(country="Atlantis")
    Customer.objects.filter(code="ANATR").update(city="Puebla")
    run = sync(*WITHOUT_ORDERS)
    assert run.state == Run.State.PARTIAL
    assert run.counts["customer"]["updated there"] == 1
    assert "country.country whose name is 'Atlantis'" in DeadLetter.objects.get().error


def test_order_that_the_erp_is_working_on_is_theirs_to_change(erp: Erp, tryton: Tryton) -> None:
    sync(*LATEST)
    order = an_order(Customer.objects.get(code="ALFKI"))
    sync(*LATEST)
    order.refresh_from_db()
    Order.objects.filter(pk=order.pk).update(status="cancelled")
    assert sync(*LATEST).state == Run.State.PARTIAL
    assert "no way from processing to cancelled" in DeadLetter.objects.get().error
    assert sales(tryton, ["number", "=", order.number])[0]["state"] == "processing"


def test_draft_order_is_edited_and_then_confirmed(erp: Erp, tryton: Tryton) -> None:
    sync(*LATEST)
    order = an_order(Customer.objects.get(code="ALFKI"), status="draft", ship_name="Depot", ship_city="Graz")
    sync(*LATEST)
    first, second = order.lines.order_by("quantity")
    first.delete()
    OrderLine.objects.filter(pk=second.pk).update(quantity=7)
    Order.objects.filter(pk=order.pk).update(status="confirmed", note="now", freight="3")
    run = sync(*LATEST)
    assert (run.state, list(DeadLetter.objects.values_list("error", flat=True))) == (Run.State.DONE, [])
    (sale,) = sales(tryton, ["reference", "=", f"sync:{order.pk}"])
    assert sorted(line["quantity"] for line in sale["lines."]) == [1, 7]
    assert (sale["comment"], sale["shipment_address."]["city"]) == ("now", "Graz")
    assert sale["state"] in {"confirmed", "processing"}
    order.refresh_from_db()
    assert (order.number, order.lines.get().pk) == ("11078", second.pk)


@pytest.mark.legacy("S11")
def test_write_is_refused_when_somebody_was_faster(erp: Erp, tryton: Tryton) -> None:
    key = str(tryton.session.search("party.party", [["code", "=", "ALFKI"]])[0])
    (record,) = tryton.fetch(CUSTOMER.source, CUSTOMER.places, [key])
    tryton.session.call("party.party", "write", [int(key)], {"name": "Faster"})
    with pytest.raises(Changed):
        tryton.update(CUSTOMER.source, record, {"name": "Slower"}, {"name"})


@pytest.mark.legacy("S2")
@pytest.mark.legacy("F7")
def test_records_made_in_one_transaction_share_a_stamp_and_none_is_lost_between_pages(erp: Erp, tryton: Tryton) -> None:
    sync(*WITHOUT_ORDERS)
    category = tryton.session.search("party.category", [["name", "=", "Customer"]])
    many = [
        {"name": f"Bulk {number}", "code": f"BULK{number}", "categories": [["add", category]]} for number in range(250)
    ]
    tryton.session.call("party.party", "create", many)
    sync(*WITHOUT_ORDERS)
    assert Customer.objects.filter(code__startswith="BULK").count() == 250


@pytest.mark.legacy("L2")
@pytest.mark.legacy("F17")
def test_command_killed_midway_is_finished_by_the_next(erp: Erp) -> None:
    environment = command_environment(erp)
    command = [sys.executable, "manage.py", "sync_legacy"]
    process = subprocess.Popen(command, cwd=settings.BASE_DIR, env=environment, stdout=subprocess.DEVNULL)
    try:
        while Order.objects.count() < 200 and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < Order.objects.count() < 830
    ended = subprocess.run(command, cwd=settings.BASE_DIR, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, json.loads(ended.stdout)["state"]) == (0, "done"), ended.stderr
    assert (Order.objects.count(), OrderLine.objects.count()) == (830, 2155)
    assert not History.objects.filter(rev__gt=1).exists(), "nothing was written twice"


@pytest.mark.legacy("L1")
@pytest.mark.legacy("F16")
def test_two_runs_at_once_do_the_work_once(erp: Erp) -> None:
    codes: list[str] = []

    def one() -> None:
        try:
            codes.append(sync(*LATEST).state)
        except Exception as error:
            codes.append(type(error).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["Busy", "done"]
    assert Customer.objects.count() == 93


@pytest.mark.legacy("L7")
@pytest.mark.parametrize(
    ("name", "value", "code", "word"),
    [
        ("LEGACY_PASSWORD", "wrong", 3, "wrong user or password"),
        ("LEGACY_DATABASE", "other", 3, "no database 'other'"),
        ("LEGACY_URL", "", 3, "Set LEGACY_URL"),
        ("LEGACY_URL", "localhost", 3, "must begin with"),
        ("LEGACY_URL", "http://127.0.0.1:9", 2, "does not answer"),
    ],
)
def test_wrong_configuration_exits_3_and_a_system_that_is_down_2(
    erp: Erp, settings: Settings, capsys: pytest.CaptureFixture[str], name: str, value: str, code: int, word: str
) -> None:
    setattr(settings, name, value)
    with pytest.raises(SystemExit) as ended:
        call_command("sync_legacy", json=True)
    assert ended.value.code == code
    assert word in json.loads(capsys.readouterr().out)["error"]
