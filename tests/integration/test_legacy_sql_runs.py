"""Whole runs between our rows and real SQL databases."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from entities.models import Customer, Order, OrderLine, Product
from legacy.connector import Page
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Lines, Table
from legacy.convert import Number
from legacy.letters import discard, mend, retry
from legacy.mapping import F, Mapping, Rows
from legacy.models import Counterpart, DeadLetter, Link, Run
from legacy.runs import resume, roll_back_run, run
from legacy.systems import System
from sync.models import History
from tests.integration.legacy_sql_support import NOON, Base, statements
from tests.integration.legacy_support import declared_systems

pytestmark = pytest.mark.django_db(transaction=True)

CUSTOMER = Mapping(
    "customer",
    Customer,
    Table("customers", stamp=("updated_at", "created_at"), marker="marker", touch=True),
    match="code",
    direction="both",
    fields=(F("code", "name"), F("name", "name", only="pull"), F("city", "city")),
)
PRODUCT = Mapping(
    "product", Product, Table("parts", key="code", stamp=""), fields=(F("code", "code"), F("name", "name"))
)
ORDER = Mapping(
    "order",
    Order,
    Table("orders", marker="marker", rows=Lines("lines", "order_lines", "order_id", stamp="updated_at")),
    direction="both",
    fields=(F("customer", "customer_id", ref="customer"), F("note", "note"), F("ordered_on", "day")),
    rows=Rows(
        "order_line",
        OrderLine,
        parent="order",
        place="lines",
        fields=(F("product", "item", ref="product"), F("quantity", "quantity"), F("unit_price", "price")),
    ),
)


TOO_LONG = "a code of over twenty letters"
State = Run.State


def shop(base: Base, *mappings: Mapping) -> System:
    return System("shop", lambda: Sql(base.url, page_records=2), mappings)


def sync(base: Base, *mappings: Mapping) -> dict[str, Any]:
    done = run(shop(base, *mappings))
    assert (done.state, done.error) == (State.DONE, "")
    return dict(done.counts)


def edit(base: Base, what: str, where: str = "1 = 1") -> None:
    """What their people do, and their database stamps."""
    base.execute(f"UPDATE customers SET {what}, updated_at = :at WHERE {where}", {"at": base.time(timezone.now())})


def cities() -> dict[str | None, str]:
    return dict(Customer.objects.values_list("code", "city"))


@pytest.fixture
def few_are_many(settings: LazySettings) -> None:
    settings.LEGACY_STOP_RECORDS_MIN = 2


@pytest.mark.slow
@pytest.mark.legacy("L4")
def test_runs_take_over_and_send_back_until_both_sides_are_equal(base: Base) -> None:
    base.customers(["ANA", "BEN", "EVA"], NOON)
    assert sync(base, CUSTOMER)["customer"]["created"] == 3
    Customer.objects.filter(code="BEN").update(city="Bonn")
    Customer.objects.create(code="IDA", name="Ida", city="Kiel")
    counts = sync(base, CUSTOMER)["customer"]
    assert (counts["updated there"], counts["created there"]) == (1, 1)
    rows = base.execute("SELECT name, city FROM customers ORDER BY id")
    assert rows == [("ANA", None), ("BEN", "Bonn"), ("EVA", None), ("IDA", "Kiel")]
    now = base.time(dt.datetime.now(dt.UTC))
    base.execute("UPDATE customers SET city = 'Ulm', updated_at = :at WHERE name = 'IDA'", {"at": now})
    sync(base, CUSTOMER)
    assert Customer.objects.get(code="IDA").city == "Ulm"
    news = {"created", "updated", "updated there", "created there"}
    assert news.isdisjoint(sync(base, CUSTOMER).get("customer", {}))


@pytest.mark.slow
def test_order_goes_both_ways_with_its_lines_and_keys_of_any_type(base: Base) -> None:
    base.customers(["ANA"], NOON)
    base.execute("ALTER TABLE orders ADD COLUMN day date")
    base.execute("INSERT INTO parts (code, name) VALUES ('TEA', 'Tea'), ('RUM', 'Rum')")
    base.execute("INSERT INTO orders (customer_id, note, day) VALUES (1, 'theirs', '2026-11-20')")
    base.execute("INSERT INTO order_lines (order_id, item, quantity, price) VALUES (1, 'TEA', 2, 4.5)")
    sync(base, CUSTOMER, PRODUCT, ORDER)
    theirs = Order.objects.get()
    assert list(theirs.lines.values_list("product__code", "quantity", "unit_price")) == [("TEA", 2, Decimal("4.5"))]
    OrderLine.objects.create(order=theirs, product=Product.objects.get(code="RUM"), quantity=7, unit_price=1)
    ours = Order.objects.create(customer=Customer.objects.get(), ordered_on=dt.date(2026, 11, 21), note="ours")
    OrderLine.objects.create(order=ours, product=Product.objects.get(code="TEA"), quantity=1, unit_price="0.10")
    sync(base, CUSTOMER, PRODUCT, ORDER)
    lines = base.execute("SELECT note, item, quantity FROM order_lines JOIN orders ON orders.id = order_id")
    assert sorted(lines) == [("ours", "TEA", 1), ("theirs", "RUM", 7), ("theirs", "TEA", 2)]
    theirs.lines.get(quantity=2).delete()
    sync(base, CUSTOMER, PRODUCT, ORDER)
    assert len(base.execute("SELECT * FROM order_lines")) == 2


# --- One bad record ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.legacy("L3")
@pytest.mark.legacy("F8")
def test_record_that_does_not_fit_waits_with_its_content_until_they_mend_it(base: Base) -> None:
    base.customers(["ANA", TOO_LONG, "EVA", "IDA"], NOON)
    done = run(shop(base, CUSTOMER))
    assert (done.state, done.counts["customer"]) == (State.PARTIAL, {"created": 3, "failed": 1})
    assert set(cities()) == {"ANA", "EVA", "IDA"}
    letter = DeadLetter.objects.get()
    assert (letter.run, letter.key, letter.payload["name"], letter.attempts) == (done, "2", TOO_LONG, 1)
    assert "length <= 20" in letter.error
    sync(base, CUSTOMER)
    assert DeadLetter.objects.get().attempts == 1, "not before its time"
    waits = []
    for _ in range(3):
        DeadLetter.objects.update(next_at=timezone.now())
        run(shop(base, CUSTOMER))
        letter.refresh_from_db()
        assert letter.next_at
        waits.append(round((letter.next_at - timezone.now()).total_seconds() / 60))
    assert (letter.attempts, waits) == (4, [2, 4, 8])
    edit(base, "name = 'BEA'", "id = 2")
    sync(base, CUSTOMER)
    assert "BEA" in cities() and not DeadLetter.objects.exists()


Says = Callable[[DeadLetter, User], object]
SAYS: dict[str, tuple[Says, str, list[tuple[str, int]]]] = {  # what, how the next run ends, the letters after it
    "mend": (lambda letter, person: mend(letter, {**letter.payload, "name": "BEA"}, person), "done", []),
    "discard": (lambda letter, person: discard([letter], "a test of theirs", person), "done", [("ignored", 1)]),
    "retry": (lambda letter, person: retry([letter], person), "partial", [("failed", 2)]),
}


@pytest.mark.slow
@pytest.mark.legacy("L3")
@pytest.mark.parametrize("what", SAYS)
def test_person_mends_discards_or_retries_a_record_of_theirs(
    base: Base, what: str, django_user_model: type[User]
) -> None:
    says, ends, letters = SAYS[what]
    base.customers(["ANA", TOO_LONG], NOON)
    run(shop(base, CUSTOMER))
    says(DeadLetter.objects.get(), django_user_model.objects.create(username="anna"))
    assert run(shop(base, CUSTOMER)).state == ends
    assert list(DeadLetter.objects.values_list("kind", "attempts")) == letters
    assert ("BEA" in cities()) == (what == "mend")


@pytest.mark.slow
@pytest.mark.legacy("F9")
def test_record_that_collides_with_a_row_of_ours_holds_nothing_up(base: Base) -> None:
    unmatched = replace(CUSTOMER, match=(), direction="pull")
    ours = Customer.objects.create(code="BEN", name="Somebody else", city="Kiel")
    base.customers(["ANA", "BEN", "EVA", "IDA"], NOON)
    assert run(shop(base, unmatched)).state == State.PARTIAL
    assert cities() == {"ANA": "", "BEN": "Kiel", "EVA": "", "IDA": ""}
    letter = DeadLetter.objects.get()
    assert letter.key == "2" and "unique" in letter.error.lower()
    ours.delete()
    assert run(shop(base, unmatched), retry_all=True).state == State.DONE
    assert Customer.objects.filter(code="BEN").count() == 1


@pytest.mark.slow
@pytest.mark.legacy("F10")
def test_parent_that_comes_after_its_child_is_fetched(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    base.customers(["ANA"], NOON)
    base.execute("ALTER TABLE orders ADD COLUMN day date DEFAULT '2026-11-20'")
    read = Sql.changes

    def busy(self: Sql, source: Table, *how: Any) -> Page:
        """All customers were read, and now a new one is entered with an order."""
        if source.name == "orders" and not base.execute("SELECT 1 FROM customers WHERE name = 'NEW'"):
            base.customers(["NEW"], timezone.now())
            base.execute("INSERT INTO orders (customer_id) SELECT id FROM customers WHERE name = 'NEW'")
        return read(self, source, *how)

    monkeypatch.setattr(Sql, "changes", busy)
    orders = replace(ORDER, direction="pull")
    sync(base, CUSTOMER, PRODUCT, orders)
    assert Order.objects.get().customer.code == "NEW"
    sync(base, CUSTOMER, PRODUCT, orders)
    assert set(cities()) == {"ANA", "NEW"}


# --- Looked at, stopped, taken back -----------------------------------------------------------------------------------


@pytest.mark.legacy("L5")
def test_dry_run_tells_each_field_of_both_sides_and_writes_on_neither(base: Base) -> None:
    base.customers(["ANA", "BEN"], NOON)
    sync(base, CUSTOMER)
    edit(base, "city = 'Ulm'", "name = 'ANA'")
    Customer.objects.filter(code="BEN").update(city="Bonn")
    Customer.objects.create(code="IDA", name="Ida", city="Kiel")
    before = base.execute("SELECT * FROM customers ORDER BY id"), cities(), History.objects.count()
    runs, links = Run.objects.count(), list(Link.objects.order_by("pk").values())
    told: list[str] = []
    connector = Sql(base.url, page_records=2)
    sent = statements(connector)
    looked = System("shop", lambda: connector, (CUSTOMER,))
    assert run(looked, pretend=True, show=lambda change: told.append(str(change))).state == State.DONE
    assert (base.execute("SELECT * FROM customers ORDER BY id"), cities(), History.objects.count()) == before
    assert (Run.objects.count(), list(Link.objects.order_by("pk").values())) == (runs, links)
    assert not [each for each in sent if each.startswith(("INSERT", "UPDATE", "DELETE"))]
    text = "\n".join(told)
    assert all(value in text for value in ("Ulm", "Bonn", "Kiel", "city")), text


@pytest.mark.slow
@pytest.mark.legacy("L6")
@pytest.mark.legacy("S8")
@pytest.mark.usefixtures("few_are_many")
def test_run_that_would_change_or_delete_too_much_stops_and_writes_nowhere(base: Base) -> None:
    mapping = replace(CUSTOMER, deletes="both", sweep_hours=0)
    names = [f"C{number}" for number in range(10)]
    base.customers(names, NOON)
    sync(base, mapping)
    Customer.objects.create(code="IDA", name="Ida")  # would be sent
    edit(base, "city = 'Ulm'", "id <= 6")
    stopped = run(shop(base, mapping))
    assert stopped.state == State.STOPPED and "would change 6 of 10" in stopped.error
    assert (set(cities().values()), len(base.execute("SELECT * FROM customers"))) == ({""}, 10)
    assert run(shop(base, mapping), force=True).state == State.DONE
    assert list(cities().values()).count("Ulm") == 6

    base.execute("DELETE FROM customers WHERE id <= 3")
    stopped = run(shop(base, mapping))
    assert stopped.state == State.STOPPED and "would delete 3 of 11" in stopped.error
    assert Customer.objects.count() == 11
    assert run(shop(base, mapping), force=True).state == State.DONE
    assert Customer.objects.count() == 8


@pytest.mark.slow
@pytest.mark.legacy("L6")
@pytest.mark.usefixtures("few_are_many")
def test_run_that_would_delete_too_much_over_there_stops_before_it_sends_anything(base: Base) -> None:
    mapping = replace(CUSTOMER, deletes="push")
    base.customers([f"C{number}" for number in range(10)], NOON)
    sync(base, mapping)
    Customer.objects.filter(code__in=("C7", "C8", "C9")).delete()
    Customer.objects.filter(code="C1").update(city="Bonn")
    before = base.execute("SELECT * FROM customers ORDER BY id")
    for _ in range(2):  # it is asked again as long as nobody has said so
        stopped = run(shop(base, mapping))
        assert stopped.state == State.STOPPED and "would delete in shop 3 of 10" in stopped.error
        assert base.execute("SELECT * FROM customers ORDER BY id") == before
    assert run(shop(base, mapping), force=True).state == State.DONE
    assert len(base.execute("SELECT * FROM customers")) == 7
    Customer.objects.filter(code__in=("C5", "C6")).delete()
    sync(base, mapping)
    assert len(base.execute("SELECT * FROM customers")) == 5, "few are never too many"


@pytest.mark.slow
@pytest.mark.legacy("L6")
@pytest.mark.usefixtures("few_are_many")
def test_run_in_which_too_many_fail_takes_back_what_it_wrote(base: Base) -> None:
    mapping = replace(CUSTOMER, direction="pull", undo_failed=True)
    base.customers([f"C{number}" for number in range(10)], NOON)
    sync(base, mapping)
    edit(base, "city = 'Ulm'", "id = 1")
    edit(base, f"name = concat('{TOO_LONG}', id)" if base.kind != "sqlite" else f"name = '{TOO_LONG}' || id", "id > 6")
    stopped = run(shop(base, mapping))
    assert stopped.state == State.STOPPED and "failed" in stopped.error and "1 restored" in stopped.error
    assert cities() == dict.fromkeys((f"C{number}" for number in range(10)), "")
    edit(base, "name = concat('D', id)" if base.kind != "sqlite" else "name = 'D' || id", "id > 6")
    assert run(shop(base, mapping), retry_all=True, force=True).state == State.DONE
    assert cities()["C0"] == "Ulm"


@pytest.mark.slow
@pytest.mark.legacy("L5")
def test_rollback_undoes_a_run_but_for_what_changed_since(base: Base) -> None:
    mapping = replace(CUSTOMER, deletes="pull", sweep_hours=0, stop_deleted_share=1, stop_changed_share=1)
    base.customers(["ANA", "BEN", "EVA"], NOON)
    sync(base, mapping)
    edit(base, "city = 'Ulm'", "name <> 'EVA'")
    base.customers(["IDA"], timezone.now())
    base.execute("DELETE FROM customers WHERE name = 'EVA'")
    bad = run(shop(base, mapping))
    assert cities() == {"ANA": "Ulm", "BEN": "Ulm", "IDA": ""}
    Customer.objects.filter(code="BEN").update(city="Bonn")
    theirs = base.execute("SELECT * FROM customers ORDER BY id")
    found = roll_back_run(shop(base, mapping), str(bad.id))
    assert found.counts == {"restored": 1, "made again": 1, "deleted again": 1}
    assert cities() == {"ANA": "", "BEN": "Bonn", "EVA": ""}
    (left,) = found.left
    assert str(Customer.objects.get(code="BEN").pk) in left
    assert base.execute("SELECT * FROM customers ORDER BY id") == theirs
    assert Counterpart.objects.get().paused_at, "the next run would read the same again"
    resume("shop")


# --- What is told -----------------------------------------------------------------------------------------------------


def command(*options: str) -> tuple[int, dict[str, Any]]:
    """The exit code of `sync_legacy`, and its one line of JSON."""
    out, code = StringIO(), 0
    try:
        call_command("sync_legacy", "--json", *options, stdout=out)
    except SystemExit as ended:
        code = int(str(ended.code))
    (line,) = out.getvalue().splitlines()
    return code, json.loads(line)


@pytest.mark.slow
@pytest.mark.legacy("L7")
@pytest.mark.usefixtures("few_are_many")
def test_exit_code_and_line_of_json_say_how_each_run_ended(base: Base) -> None:
    base.customers([f"C{number}" for number in range(8)], NOON)
    url = base.url
    with declared_systems(System("shop", lambda: Sql(url, page_records=2), (CUSTOMER,))):
        code, line = command()
        assert (code, line["state"], line["counts"]) == (0, "done", {"customer": {"created": 8}})
        assert line.keys() == {"run", "system", "state", "seconds", "counts", "error"}
        base.customers([TOO_LONG], NOON)
        assert command()[0] == 1
        edit(base, "city = 'Ulm'")
        assert command()[0] == 4
        url = "postgresql://ana:secret@127.0.0.1:1/base"
        code, line = command()
        assert (code, line["state"], "secret" in line["error"]) == (2, "unreachable", False)
        url = base.url
        base.execute("ALTER TABLE customers RENAME TO clients")
        code, line = command()
        base.execute("ALTER TABLE clients RENAME TO customers")
        assert (code, "no table customers" in line["error"]) == (3, True)


@pytest.mark.slow
@pytest.mark.legacy("L8")
def test_history_names_the_run_which_keeps_its_counts_times_and_errors(base: Base) -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")
    base.customers(["ANA", TOO_LONG], NOON)
    first = run(shop(base, CUSTOMER))
    edit(base, "city = 'Ulm'", "name = 'ANA'")
    second = run(shop(base, CUSTOMER))
    told = list(History.objects.order_by("rev").values_list("author", "op"))
    assert told == [(f"run:shop:{first.id}", "insert"), (f"run:shop:{second.id}", "update")]
    kept = Run.objects.get(pk=first.pk)
    assert kept.counts == {"customer": {"created": 1, "failed": 1}}
    assert kept.ended_at and kept.ended_at > kept.started_at
    assert DeadLetter.objects.get().run == kept


@pytest.mark.slow
@pytest.mark.legacy("S10")
def test_price_that_their_column_rounds_is_sent_once_and_stays_ours(base: Base) -> None:
    base.execute("ALTER TABLE parts ADD COLUMN price numeric(10, 2)")
    base.execute("INSERT INTO parts (code, name, price) VALUES ('TEA', 'Tea', 18)")
    fields = (*PRODUCT.fields, F("unit_price", "price", Number(2)))
    mapping = replace(PRODUCT, direction="both", fields=fields, match="code")
    mapping = replace(mapping, source=Table("parts", key="code", stamp="", keys="ours"))
    sync(base, mapping)
    Product.objects.update(unit_price="18.1249")
    assert sync(base, mapping)["product"]["updated there"] == 1
    for _ in range(2):
        assert sync(base, mapping)["product"] == {"unchanged": 1}
    assert Product.objects.get().unit_price == Decimal("18.1249")
    assert [Decimal(str(price)) for (price,) in base.execute("SELECT price FROM parts")] == [Decimal("18.12")]
