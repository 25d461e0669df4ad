"""The SQL connector against real databases: what they do to those who read them."""

import datetime as dt
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from legacy.connector import Misconfigured
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Table
from tests.integration.legacy_sql_support import NOON, Base, names, read, statements

MARKER = "sync:7a6f1c52-3d7e-4b8a-9c1d-2e3f4a5b6c7d"
CUSTOMERS = Table("customers", stamp=("updated_at", "created_at"), marker="marker")
UNCREATED = Table("customers", stamp="updated_at")


@pytest.mark.legacy("S2")
@pytest.mark.legacy("F7")
def test_records_with_one_stamp_all_come_across_pages(base: Base, sql: Sql) -> None:
    base.customers([f"c{number}" for number in range(10)], NOON)
    found, cursor = read(sql, CUSTOMERS, ["name"])
    assert len(found) == 10
    base.customers([f"d{number}" for number in range(9)], NOON)  # the same stamp again, after the pass
    found, _ = read(sql, CUSTOMERS, ["name"], cursor)
    assert {f"d{number}" for number in range(9)} <= names(found)


@pytest.mark.legacy("S1")
def test_rows_that_are_committed_late_with_the_stamp_of_their_beginning_are_found(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legacy.connectors.sql_stamps.PRECISION_SECONDS", 0)  # which would do, as all goes so fast
    # Where the source tells which transactions are open, no overlap is needed at all.
    sql = Sql(base.url, page_records=400, overlap_seconds=0 if base.kind == "postgresql" else 60)
    base.customers(["first"], NOON)
    found, cursor = read(sql, CUSTOMERS, ["name"])
    now = dt.datetime.now(dt.UTC)
    with base.engine.connect() as late, base.engine.connect() as later, late.begin() as transaction:
        if base.kind == "postgresql":
            now = late.execute(sa.text("SELECT now()")).scalar_one()
        later.execute(sa.text("SELECT now()" if base.kind != "sqlite" else "SELECT 1"))  # open too, but not as long
        if base.kind != "sqlite":  # where one writes at a time
            base.customers(["second"], now + dt.timedelta(microseconds=1))
        base.customers([f"late {number}" for number in range(1_500)], now, connection=late)
        if base.kind == "postgresql":
            assert sql._database.clock().oldest == now
        for _ in range(3):
            more, cursor = read(sql, CUSTOMERS, ["name"], cursor)
            found |= more
        assert len(found) <= 2
        transaction.commit()
    more, cursor = read(sql, CUSTOMERS, ["name"], cursor)
    sql.close()
    assert len(names(found | more)) == (1_501 if base.kind == "sqlite" else 1_502)


@pytest.mark.legacy("S7")
@pytest.mark.legacy("F6")
def test_records_that_move_while_paging_are_in_this_pass_or_the_next(base: Base, sql: Sql) -> None:
    base.customers([f"c{number:02}" for number in range(12)], NOON)

    def edit(number: int) -> None:
        base.execute(f"UPDATE customers SET city = 'page {number}', updated_at = :at", {"at": base.time(NOON)})
        base.execute("DELETE FROM customers WHERE name = :name", {"name": f"c{number:02}"})

    _, cursor = read(sql, CUSTOMERS, ["name", "city"], between=edit)
    again, _ = read(sql, CUSTOMERS, ["name", "city"], cursor)
    there = dict(base.execute("SELECT name, city FROM customers"))
    assert {each.values["name"]: each.values["city"] for each in again.values()} == there


@pytest.mark.slow
@pytest.mark.legacy("S3")
def test_record_without_a_changed_at_counts_from_its_creation(base: Base, sql: Sql) -> None:
    base.customers(["old"], NOON)
    _, cursor = read(sql, CUSTOMERS, ["name"])
    base.execute(
        "INSERT INTO customers (name, created_at) VALUES ('new', :at)", {"at": base.time(NOON + dt.timedelta(hours=1))}
    )
    assert "new" in names(read(sql, CUSTOMERS, ["name"], cursor)[0])


@pytest.mark.legacy("S3")
def test_record_that_never_got_a_stamp_is_read_in_every_pass(base: Base, sql: Sql) -> None:
    base.customers(["stamped"], NOON)
    _, cursor = read(sql, UNCREATED, ["name"])
    base.customers(["unstamped"], None)
    assert "unstamped" in names(read(sql, UNCREATED, ["name"], cursor)[0])


@pytest.mark.legacy("S2")
def test_whole_seconds_lose_nothing_that_comes_within_the_same_second(base: Base, sql: Sql) -> None:
    second = dt.datetime.now(dt.UTC).replace(microsecond=0)
    base.customers(["a"], second)
    _, cursor = read(sql, CUSTOMERS, ["name"])
    for name in "bcd":
        base.customers([name], second)
        found, cursor = read(sql, CUSTOMERS, ["name"], cursor)
        assert name in names(found)


def test_table_without_a_stamp_is_read_whole_by_key(base: Base, sql: Sql) -> None:
    base.customers([f"c{number}" for number in range(9)], None)
    table = Table("customers", stamp="")
    found, cursor = read(sql, table, ["name"])
    assert len(found) == 9
    assert read(sql, table, ["name"], cursor)[0].keys() == found.keys() == set(sql.keys(table))


def test_quiet_source_is_asked_for_its_newest_stamp_and_nothing_else(base: Base) -> None:
    base.execute(f"CREATE TABLE extra (id integer PRIMARY KEY, changed {_time(base)} NOT NULL)")
    base.execute("INSERT INTO extra VALUES (1, :at)", {"at": base.time(NOON)})
    sql = Sql(base.url, overlap_seconds=0)
    table = Table("extra", stamp="changed")
    _, cursor = read(sql, table, ["id"])
    _, cursor = read(sql, table, ["id"], cursor)
    sent = statements(sql)
    assert read(sql, table, ["id"], cursor)[0] == {}
    assert [each for each in sent if "extra" in each and "max(" not in each] == []
    base.execute("INSERT INTO extra VALUES (2, :at)", {"at": base.time(NOON + dt.timedelta(seconds=1))})
    assert read(sql, table, ["id"], cursor)[0].keys() == {"2"}
    sql.close()


@pytest.mark.legacy("F18")
def test_stamps_of_a_clock_that_was_an_hour_ahead_hide_nothing(base: Base, sql: Sql) -> None:
    now = dt.datetime.now(dt.UTC)
    base.customers(["ahead"], now + dt.timedelta(hours=1))
    _, cursor = read(sql, CUSTOMERS, ["name"])
    base.customers(["mended"], now)
    assert "mended" in names(read(sql, CUSTOMERS, ["name"], cursor)[0])


@pytest.mark.legacy("F18")
@pytest.mark.parametrize("hours", [-1, 1])
def test_our_own_clock_may_be_an_hour_off(base: Base, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    sql, now = Sql(base.url, overlap_seconds=30), dt.datetime.now(dt.UTC)
    base.customers(["a"], now)
    _, cursor = read(sql, CUSTOMERS, ["name"])
    monkeypatch.setattr("time.time", lambda: now.timestamp() + hours * 3600)
    for name in "bc":  # committed late, with a stamp that is older than what was seen
        base.customers([name], now - dt.timedelta(seconds=10))
        found, cursor = read(sql, CUSTOMERS, ["name"], cursor)
        assert name in names(found)
    sql.close()


@pytest.mark.legacy("F19")
def test_night_that_has_an_hour_twice_hides_nothing(base: Base, sql: Sql) -> None:
    parts = Table("parts", key="code", stamp="changed", zone="Europe/Berlin")
    add = "INSERT INTO parts (code, name, changed) VALUES (:code, :code, :at)"
    base.execute(add, {"code": "first 2:50", "at": base.local(dt.datetime(2026, 10, 25, 2, 50))})
    found, cursor = read(sql, parts, ["name", "changed"])
    assert found["first 2:50"].values["changed"].utcoffset() == dt.timedelta(hours=2)
    base.execute(add, {"code": "second 2:10", "at": base.local(dt.datetime(2026, 10, 25, 2, 10))})
    assert "second 2:10" in read(sql, parts, ["name"], cursor)[0]


def test_keys_may_be_texts(base: Base, sql: Sql) -> None:
    codes = ["ALFKI", "Ä 1", "b'; DROP TABLE parts", "c:d%s", "e\\f", "9", "10"]
    base.execute("INSERT INTO parts (code, name) VALUES (:code, :code)", *({"code": code} for code in codes))
    table = Table("parts", key="code", stamp="")
    assert names(read(sql, table, ["name"])[0]) == set(codes) == set(sql.keys(table))
    assert {record.key for record in sql.fetch(table, ["name"], [*codes, "none"])} == set(codes)


def test_query_is_a_source_to_read(base: Base, sql: Sql) -> None:
    base.customers(["Ana", "Ben"], NOON)
    query = "SELECT id, upper(name) AS loud, updated_at FROM customers WHERE name <> 'x:y' AND name LIKE 'A%';"
    table = Table(query, key="id")
    found, _ = read(sql, table, ["loud"])
    (record,) = found.values()
    assert record.values == {"loud": "ANA"}
    assert sql.fetch(table, ["loud"], [record.key, "999"]) == [record]
    with pytest.raises(Misconfigured, match="only be read"):
        sql.update(table, record, {"loud": "x"}, ["loud"])


def test_condition_leaves_records_out_everywhere(base: Base, sql: Sql) -> None:
    base.customers(["in", "out"], NOON)
    table = Table("customers", only="name <> 'out' OR name = 'a:b'")
    found, _ = read(sql, table, ["name"])
    assert names(found) == {"in"} and set(sql.keys(table)) == found.keys()
    assert sql.fetch(table, ["name"], ["1", "2", "x"]) == list(found.values())


def test_row_that_is_marked_as_deleted_is_gone(base: Base, sql: Sql) -> None:
    base.customers(["a", "b"], NOON)
    table = Table("customers", deleted="deleted_at", touch=True)
    found, cursor = read(sql, table, ["name"])
    sql.delete(table, next(each for each in found.values() if each.values["name"] == "a"))
    page = sql.changes(table, ["name"], cursor)
    assert page.gone == ["1"] and [each.key for each in page.records] == ["2"]
    assert list(sql.keys(table)) == ["2"] and sql.fetch(table, ["name"], ["1"]) == []


@pytest.mark.slow
def test_memory_of_a_pass_is_that_of_a_page(base: Base) -> None:
    base.customers([f"customer {number:030}" for number in range(20_000)], NOON)
    sql = Sql(base.url, page_records=500)
    sql.changes(CUSTOMERS, ["name"], {})  # what is loaded once
    tracemalloc.start()
    cursor: dict[str, Any] = {}
    more, seen = True, 0
    while more:
        page = sql.changes(CUSTOMERS, ["name", "city", "credit", "updated_at"], cursor)
        cursor, more, seen = page.cursor, page.more, seen + len(page.records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sql.close()
    assert seen == 20_000
    assert peak < 4_000_000, f"{peak} bytes"


def test_values_come_exact_and_go_back_exact(base: Base, sql: Sql) -> None:
    values = {
        "name": "Ünï 'x' %s :y",
        "city": None,
        "credit": Decimal("1234567890.12"),
        "since": dt.date(2026, 2, 28),
        "active": True,
        "logo": b"\x00\xff'",
        "deleted_at": dt.datetime(2026, 3, 29, 1, 30, 0, 123456, dt.UTC),
    }
    key = sql.create(CUSTOMERS, MARKER, values)
    (record,) = sql.fetch(CUSTOMERS, [*values], [key])
    assert record.values == values and type(record.values["credit"]) is Decimal
    assert record.marker == MARKER and sql.find(CUSTOMERS, MARKER) == key
    sql.update(CUSTOMERS, record, {**values, "credit": Decimal("0.10"), "active": 0}, ["credit", "active"])
    (record,) = sql.fetch(CUSTOMERS, [*values], [key])
    assert record.values == {**values, "credit": Decimal("0.10"), "active": False}


def _time(base: Base) -> str:
    return {"postgresql": "timestamptz", "mariadb": "datetime(6)"}.get(base.kind, "timestamp")


@pytest.mark.slow
@pytest.mark.parametrize("base", ["mariadb"], indirect=True)
def test_types_that_only_mariadb_has_become_ours(base: Base, sql: Sql) -> None:
    base.execute(
        "CREATE TABLE extra (id integer PRIMARY KEY, flag bit(1), local datetime, day date, at timestamp NULL)"
    )
    base.execute("INSERT INTO extra VALUES (1, b'0', '2026-07-01 12:00:00', '0000-00-00', from_unixtime(1782900000))")
    table = Table("extra", stamp="at", zone="Europe/Berlin")
    (record,) = read(sql, table, ["flag", "local", "day", "at"])[0].values()
    assert record.values["flag"] == 0 and record.values["day"] is None
    assert record.values["local"].astimezone(dt.UTC) == dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC)
    assert record.values["at"] == dt.datetime.fromtimestamp(1782900000, dt.UTC)
    at = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    sql.update(table, record, {"at": at, "local": at, "flag": 1}, ["at", "local", "flag"])
    (record,) = sql.fetch(table, ["flag", "local", "at"], ["1"])
    assert record.values["flag"] == 1 and record.values["at"] == record.values["local"] == at
    assert base.execute("SELECT local, unix_timestamp(at) FROM extra") == [
        (dt.datetime(2026, 1, 1, 13), at.timestamp())
    ]
    _, cursor = read(sql, table, ["id"])
    assert cursor["since"] == ["datetime", "2026-01-01T12:00:00"]  # UTC, and not yet of Berlin
