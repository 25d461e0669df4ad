"""The SQL connector against databases that are down, changed overnight, or not for us."""

import datetime as dt
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from legacy.connector import Misconfigured, Unreachable
from legacy.connectors.sql import Sql
from legacy.connectors.sql_tables import Table
from syncserver import postgres
from tests.integration.legacy_sql_support import NOON, Base, MariaDb, read

CUSTOMERS = Table("customers")


@pytest.fixture
def own_postgresql() -> Iterator[Path]:
    """The folder of a server that may be stopped."""
    with tempfile.TemporaryDirectory(prefix="legacy-postgresql-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        postgres.start(Path(folder) / "postgres")
        yield Path(folder) / "postgres"
        postgres.stop(Path(folder) / "postgres")


def test_same_account_is_told_in_the_same_words(base: Base, sql: Sql) -> None:
    again = Sql(base.url)
    assert sql.open() == again.open() != ""
    again.close()


@pytest.mark.legacy("F20")
def test_table_that_was_renamed_overnight_is_named(base: Base, sql: Sql) -> None:
    base.customers([f"c{number}" for number in range(9)], NOON)
    page = sql.changes(CUSTOMERS, ["name"], {})
    base.execute("ALTER TABLE customers RENAME TO clients")
    with pytest.raises(Misconfigured, match="customers"):
        sql.changes(CUSTOMERS, ["name"], page.cursor)
    fresh = Sql(base.url)
    with pytest.raises(Misconfigured, match="no table customers"):
        fresh.changes(CUSTOMERS, ["name"], page.cursor)
    fresh.close()
    base.execute("ALTER TABLE clients RENAME TO customers")


@pytest.mark.legacy("F20")
@pytest.mark.parametrize(
    ("table", "place", "named"),
    [
        (CUSTOMERS, "label", "label"),
        (Table("customers", stamp="changed"), "name", "changed"),
        (Table("customers", only="nowhere = 1"), "name", "nowhere"),
        (Table("SELECT id, nowhere FROM customers", stamp=""), "id", "nowhere"),
        (Table("SELECT id FROM customers WHERE", stamp=""), "id", "syntax|incomplete"),
    ],
)
def test_what_does_not_fit_is_named(base: Base, sql: Sql, table: Table, place: str, named: str) -> None:
    with pytest.raises(Misconfigured, match=named):
        sql.changes(table, [place], {})


@pytest.mark.legacy("F20")
def test_column_that_became_another_type_overnight_begins_again(base: Base, sql: Sql) -> None:
    base.customers(["Ana"], NOON)
    _, cursor = read(sql, CUSTOMERS, ["name"])
    assert cursor["since"]
    cursor = {**cursor, "since": 17}
    assert read(sql, CUSTOMERS, ["name"], cursor)[0].keys() == {"1"}


@pytest.mark.slow
def test_statement_that_takes_too_long_is_broken_off(base: Base) -> None:
    base.customers(["Ana"], NOON)
    sql = Sql(base.url, timeout_seconds=1)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        sql.changes(Table("customers", stamp="", only=SLOW[base.kind]), ["name"], {})
    assert time.monotonic() - began < 5
    assert read(sql, CUSTOMERS, ["name"])[0].keys() == {"1"}  # and the next one gets its own time
    sql.close()


SLOW = {
    "postgresql": "pg_sleep(30) IS NOT NULL",
    "mariadb": "sleep(30) = 0",
    "sqlite": "(WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t) > 0",
}


def test_nothing_stays_open(base: Base, sql: Sql) -> None:
    base.customers([f"c{number}" for number in range(9)], NOON)
    keys = sql.keys(CUSTOMERS)
    next(keys)
    sql.fetch(CUSTOMERS, ["name"], ["1"])  # while the keys are still being read
    sql.close()
    if base.kind == "sqlite":
        base.execute("PRAGMA locking_mode = EXCLUSIVE")
        base.customers(["last"], NOON)
    else:
        assert base.execute(OTHERS[base.kind]) == [(0,)]


OTHERS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE user = 'ana' AND id <> connection_id()",
}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////nowhere/base.db", "no file"),
        ("oracle://a:secret@host/base", "oracle"),
        ("secret", "URL"),
    ],
)
def test_address_that_cannot_be_right_is_told(url: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        Sql(url).open()
    assert "secret" not in str(caught.value).replace("no URL", "")


@pytest.mark.slow
@pytest.mark.legacy("F1")
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb", "mysql+pymysql"])
def test_server_that_is_not_there_is_unreachable(scheme: str) -> None:
    sql = Sql(
        f"{scheme}://ana:secret@127.0.0.1:1/base?password=secret"
        if scheme == "postgresql"
        else f"{scheme}://ana:secret@127.0.0.1:1/base"
    )
    with pytest.raises(Unreachable) as caught:
        sql.open()
    assert "secret" not in f"{caught.value} {sql!r} {caught.value.__cause__}"


@pytest.mark.legacy("S1")
def test_source_that_hides_its_transactions_is_said_to_be_inexact(base: Base, sql: Sql) -> None:
    if base.kind != "postgresql":
        read(sql, CUSTOMERS, ["name"])
        assert "overlap" in sql.capabilities.ties
        return
    base.execute("DROP ROLE IF EXISTS legacy_reader")
    base.execute("CREATE ROLE legacy_reader LOGIN PASSWORD 'secret'")
    base.execute("GRANT SELECT ON customers TO legacy_reader")
    reader = Sql(make_url(base.url).set(username="legacy_reader", password="secret").render_as_string(False))
    base.customers(["Ana"], dt.datetime.now(dt.UTC))
    _, cursor = read(reader, CUSTOMERS, ["name"])
    assert "GRANT pg_read_all_stats" in reader.capabilities.ties
    base.customers(["late"], dt.datetime.now(dt.UTC) - dt.timedelta(seconds=30))
    assert "2" in read(reader, CUSTOMERS, ["name"], cursor)[0]
    with pytest.raises(Misconfigured, match="permission denied"):
        reader.create(CUSTOMERS, "", {"name": "x"})
    reader.close()
    read(sql, CUSTOMERS, ["name"])
    assert "exactly" in sql.capabilities.ties
    base.execute("DROP OWNED BY legacy_reader")
    base.execute("DROP ROLE legacy_reader")


@pytest.mark.slow
def test_wrong_password_is_told_without_it(own_postgresql: Path, mariadb_server: MariaDb) -> None:
    with postgresql_with_password(own_postgresql) as url:
        for right in (url, mariadb_server.url):
            for wrong in (make_url(right).set(password="sesame"), make_url(right).set(database="nowhere")):
                sql = Sql(wrong.render_as_string(hide_password=False))
                with pytest.raises(Misconfigured, match=r"(?i)password|nowhere") as caught:
                    sql.open()
                assert "sesame" not in str(caught.value) + repr(sql)


@pytest.mark.legacy("F2")
@pytest.mark.slow
def test_database_that_stops_in_the_middle_is_gone_on_with_later(own_postgresql: Path, mariadb_server: MariaDb) -> None:
    folder = own_postgresql
    servers: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        (
            f"postgresql+psycopg://postgres@/postgres?host={folder}",
            lambda: postgres.stop(folder),
            lambda: postgres.start(folder),
        ),
        (mariadb_server.url, mariadb_server.stop, mariadb_server.start),
    ]
    for url, stop, start in servers:
        base, sql = Base(url), Sql(url, page_records=5)
        base.fill()
        base.customers([f"c{number}" for number in range(12)], NOON)
        first = sql.changes(CUSTOMERS, ["name"], {})
        stop()
        with pytest.raises(Unreachable, match="does not answer"):
            sql.changes(CUSTOMERS, ["name"], first.cursor)
        with pytest.raises(Unreachable, match="does not answer"):
            sql.update(CUSTOMERS, first.records[0], {"name": "x"}, ["name"])
        start()
        rest, _ = read(sql, CUSTOMERS, ["name"], first.cursor)  # by the same connector: it connects again
        assert len(rest) + len(first.records) == 12
        sql.close()


@contextmanager
def postgresql_with_password(folder: Path) -> Iterator[str]:
    admin = sa.create_engine(f"postgresql+psycopg://postgres@/postgres?host={folder}", poolclass=sa.NullPool)
    with admin.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE ana LOGIN PASSWORD 'secret'")
        hba = Path(connection.exec_driver_sql("SHOW hba_file").scalar_one())
        hba.write_text("local all ana scram-sha-256\n" + hba.read_text())
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    yield f"postgresql+psycopg://ana:secret@/postgres?host={folder}"
