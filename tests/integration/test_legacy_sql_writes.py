"""The SQL connector against real databases: what is written, what is refused, and what somebody else wrote first."""

import datetime as dt
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa

from legacy.connector import Changed, Misconfigured, Record, Refused, Unreachable
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Lines, Table
from tests.integration.legacy_sql_support import NOON, Base, read, statements

ID = "7a6f1c52-3d7e-4b8a-9c1d-2e3f4a5b6c7d"
MARKER = f"sync:{ID}"
CUSTOMERS = Table("customers", marker="marker")
VERSIONED = replace(CUSTOMERS, version="version")
ORDERS = Table("orders", marker="marker", rows=Lines("lines", "order_lines", "order_id", stamp="updated_at"))
ORDER = ("customer_id", "note", "lines.item", "lines.quantity", "lines.price")


def line(item: str, quantity: int = 1, price: str = "1.00", key: Any = None) -> dict[str, Any]:
    return {"id": key, "item": item, "quantity": quantity, "price": Decimal(price)}


def get(sql: Sql, table: Table, places: Any, key: str) -> Record:
    (record,) = sql.fetch(table, places, [key])
    return record


@pytest.fixture
def order(base: Base, sql: Sql) -> Record:
    """An order with two lines."""
    base.customers(["Ana"], NOON)
    lines = [line("tea", 2, "4.50"), line("rum")]
    return get(sql, ORDERS, ORDER, sql.create(ORDERS, MARKER, {"customer_id": "1", "note": "soon", "lines": lines}))


# --- Lines ------------------------------------------------------------------------------------------------------------


def test_lines_are_made_changed_and_deleted_with_their_record(base: Base, sql: Sql, order: Record) -> None:
    tea, rum = order.values["lines"]
    assert (tea["item"], tea["quantity"], tea["price"], rum["item"]) == ("tea", 2, Decimal("4.50"), "rum")
    wanted = [line("tea", 3, "4.50", str(tea["id"])), line("gin", 7)]
    sql.update(ORDERS, order, {**order.values, "note": "later", "lines": wanted}, ["note", "lines"])
    now = get(sql, ORDERS, ORDER, order.key)
    assert now.values["note"] == "later"
    assert [(each["item"], each["quantity"]) for each in now.values["lines"]] == [("tea", 3), ("gin", 7)]
    assert now.values["lines"][0]["id"] == tea["id"]
    sql.delete(ORDERS, now)
    assert base.execute("SELECT * FROM order_lines") == base.execute("SELECT * FROM orders") == []


def test_lines_of_a_page_are_read_at_once(base: Base, sql: Sql) -> None:
    base.customers(["Ana"], NOON)
    for number in range(4):
        sql.create(ORDERS, f"sync:{number}", {"customer_id": 1, "lines": [line(f"item {number}")] * number})
    sent = statements(sql)
    found, _ = read(sql, ORDERS, ORDER)
    assert [len(record.values["lines"]) for record in found.values()] == [0, 1, 2, 3]
    assert len([each for each in sent if "FROM order_lines" in each and "max(" not in each]) == 1


def test_change_of_a_line_is_a_change_of_its_record(base: Base, sql: Sql, order: Record) -> None:
    base.execute("UPDATE orders SET updated_at = :at", {"at": base.time(NOON)})
    _, cursor = read(sql, ORDERS, ORDER)
    base.execute("UPDATE order_lines SET quantity = 9, updated_at = :at", {"at": base.time(NOON)})
    (record,) = read(sql, ORDERS, ORDER, cursor)[0].values()
    assert {each["quantity"] for each in record.values["lines"]} == {9}


def test_refused_line_takes_the_whole_write_back(base: Base, sql: Sql, order: Record) -> None:
    wanted = [*order.values["lines"], line("void", quantity=-1)]
    with pytest.raises(Refused, match=r"(?i)check|constraint"):
        sql.update(ORDERS, order, {**order.values, "note": "new", "lines": wanted}, ["note", "lines"])
    assert get(sql, ORDERS, ORDER, order.key) == order
    with pytest.raises(Refused):
        sql.create(ORDERS, "sync:2", {"customer_id": 1, "lines": [line("void", quantity=-1)]})
    assert len(base.execute("SELECT * FROM orders")) == 1


# --- Somebody else was faster -----------------------------------------------------------------------------------------


@pytest.mark.legacy("S11")
@pytest.mark.parametrize(
    "theirs",
    [
        "UPDATE orders SET note = 'SOON'",  # which some databases hold for equal to `soon`
        "UPDATE orders SET note = NULL",
        "UPDATE order_lines SET price = 5 WHERE item = 'tea'",
        "DELETE FROM order_lines WHERE item = 'rum'",
        "INSERT INTO order_lines (order_id, item) VALUES (1, 'new')",
        "DELETE FROM order_lines; DELETE FROM orders",
    ],
)
def test_write_to_a_record_that_somebody_changed_is_not_made(base: Base, sql: Sql, order: Record, theirs: str) -> None:
    for statement in theirs.split(";"):
        base.execute(statement)
    before = base.execute("SELECT * FROM orders"), base.execute("SELECT * FROM order_lines")
    with pytest.raises(Changed):
        sql.update(ORDERS, order, {**order.values, "note": "ours", "lines": []}, ["note", "lines"])
    if before[0]:
        with pytest.raises(Changed):
            sql.delete(ORDERS, order)
    else:
        sql.delete(ORDERS, order)  # what is gone already is no error
    assert (base.execute("SELECT * FROM orders"), base.execute("SELECT * FROM order_lines")) == before


def test_version_tells_of_a_change_to_what_is_not_mapped(base: Base, sql: Sql) -> None:
    base.customers(["Ana"], NOON)
    record = get(sql, VERSIONED, ["name"], "1")
    base.execute("UPDATE customers SET credit = 5, version = version + 1")
    with pytest.raises(Changed):
        sql.update(VERSIONED, record, {"name": "x"}, ["name"])
    with pytest.raises(Changed):
        sql.delete(VERSIONED, record)
    fresh = get(sql, VERSIONED, ["name"], "1")
    sql.update(VERSIONED, fresh, {"name": "Eva"}, ["name"])
    assert base.execute("SELECT name, version FROM customers") == [("Eva", 3)]


def test_write_of_what_is_there_already_is_no_conflict(base: Base, sql: Sql, order: Record) -> None:
    sql.update(ORDERS, order, dict(order.values), ["note", "lines"])
    assert get(sql, ORDERS, ORDER, order.key) == order


# --- Refusals and keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (CUSTOMERS, {"name": "Ana"}),  # unique
        (CUSTOMERS, {"name": None}),
        (ORDERS, {"customer_id": 999}),  # a customer that there is not
        (ORDERS, {"customer_id": "not a number"}),
        (CUSTOMERS, {"name": "x", "version": 2**70}),
    ],
)
def test_values_that_the_database_refuses_are_refused_with_its_words(
    base: Base, sql: Sql, table: Table, values: dict[str, Any]
) -> None:
    base.customers(["Ana"], NOON)
    with pytest.raises(Refused, match=r"(Head office|table).+\w+"):
        sql.create(table, MARKER, values)
    assert sql.find(table, MARKER) is None


def test_text_that_is_too_long_is_not_cut(base: Base, sql: Sql) -> None:
    if base.kind == "sqlite":
        assert (
            get(sql, CUSTOMERS, ["name"], sql.create(CUSTOMERS, MARKER, {"name": "x" * 41})).values["name"] == "x" * 41
        )
        return
    with pytest.raises(Refused):
        sql.create(CUSTOMERS, MARKER, {"name": "x" * 41})


def test_key_may_be_made_from_our_id(base: Base, sql: Sql) -> None:
    parts = Table("parts", key="code", stamp="", keys="ours")
    assert sql.find(parts, MARKER) is None
    assert sql.create(parts, MARKER, {"name": "nut"}) == ID == sql.find(parts, MARKER)
    assert get(sql, parts, ["name"], ID).marker == MARKER
    with pytest.raises(Refused):
        sql.create(parts, MARKER, {"name": "again"})


def test_marker_of_two_records_is_a_case_for_people(base: Base, sql: Sql) -> None:
    base.execute("INSERT INTO customers (name, marker) VALUES ('a', :at), ('b', :at)", {"at": MARKER})
    with pytest.raises(Refused, match="several"):
        sql.find(CUSTOMERS, MARKER)
    base.execute("UPDATE customers SET marker = 'call Tuesday'")
    assert get(sql, CUSTOMERS, ["name"], "1").marker == ""


def test_stamps_are_set_where_the_database_does_not(base: Base, sql: Sql) -> None:
    table = Table("customers", stamp=("updated_at", "created_at"), touch=True, marker="marker")
    key = sql.create(table, MARKER, {"name": "Ana"})
    _, cursor = read(sql, table, ["name"])
    record = get(sql, table, ["name", "updated_at", "created_at"], key)
    assert abs(record.values["created_at"] - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    sql.update(table, record, {"name": "Eva"}, ["name"])
    assert get(sql, table, ["updated_at"], key).values["updated_at"] >= record.values["updated_at"]
    assert read(sql, table, ["name"], cursor)[0].keys() == {key}


# --- Locks ------------------------------------------------------------------------------------------------------------


# Of MariaDB, the first is broken off as a statement, or as a lock; the second always as a lock.
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 2])
def test_lock_that_is_not_let_go_is_not_waited_for_for_ever(base: Base, order: Record, seconds: int) -> None:
    sql = Sql(base.url, timeout_seconds=seconds)
    with base.engine.connect() as theirs, theirs.begin():
        theirs.execute(sa.text("UPDATE orders SET note = 'theirs'"))
        with pytest.raises(Unreachable):
            sql.update(ORDERS, order, {"note": "ours"}, ["note"])
    sql.close()


@pytest.mark.legacy("S11")
def test_write_waits_for_one_that_is_on_its_way_and_then_sees_it(base: Base, sql: Sql, order: Record) -> None:
    asked = Event()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FOR UPDATE" in statement or statement.startswith("BEGIN IMMEDIATE"):
            asked.set()

    sa.event.listen(sql._database._engine, "before_cursor_execute", note)
    with base.engine.connect() as theirs, ThreadPoolExecutor(1) as pool:
        theirs.execute(sa.text("UPDATE orders SET note = 'theirs'"))
        ours = pool.submit(sql.update, ORDERS, order, {"note": "ours"}, ["note"])
        asked.wait(30)
        wait_for_lock(base)
        theirs.commit()
        with pytest.raises(Changed):
            ours.result(30)
    assert get(sql, ORDERS, ORDER, order.key).values["note"] == "theirs"


@pytest.mark.slow
@pytest.mark.parametrize("base", ["postgresql", "mariadb"], indirect=True)
def test_write_that_loses_a_deadlock_is_made_again(base: Base, sql: Sql, order: Record) -> None:
    with base.engine.connect() as theirs, ThreadPoolExecutor(1) as pool:
        if base.kind == "postgresql":
            theirs.execute(sa.text("SET deadlock_timeout = '1min'"))  # so that ours is the one to be broken off
        theirs.execute(sa.text("UPDATE order_lines SET item = item || ''" if base.kind != "mariadb" else WEIGHTY))
        ours = pool.submit(sql.update, ORDERS, order, {"note": "ours", "lines": []}, ["note", "lines"])
        wait_for_lock(base)
        theirs.execute(sa.text("UPDATE orders SET note = note"))
        theirs.rollback()
        ours.result(30)
    assert get(sql, ORDERS, ORDER, order.key).values == {**order.values, "note": "ours", "lines": []}


def wait_for_lock(base: Base) -> None:
    """Until somebody waits for a lock, where the database can tell."""
    until = time.monotonic() + 30
    while base.kind in WAITING and not base.execute(WAITING[base.kind]) and time.monotonic() < until:
        pass


WEIGHTY = "UPDATE order_lines SET item = concat(item, ''), price = 3"
WAITING = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mariadb": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


def test_query_cannot_be_written(base: Base, sql: Sql) -> None:
    with pytest.raises(Misconfigured, match="only be read"):
        sql.create(Table("SELECT * FROM customers"), MARKER, {"name": "x"})
