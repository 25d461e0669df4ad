"""One SQL database: a connection with time-outs, transactions that are tried again, and its errors told as ours."""

import datetime as dt
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, make_url

from legacy.connector import Misconfigured, Refused, Unreachable

CONNECT_SECONDS = 10
TRIES_MAX = 5  # of a transaction that was broken off because another one waited for it
PROGRESS_STEPS = 10_000  # of SQLite's machine, between two looks at the clock
DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql", "sqlite": "sqlite+pysqlite"}
ALIASES = {"postgres": "postgresql", "mysql": "mariadb"}

T = TypeVar("T")


class Kind(Enum):
    BUSY = "two transactions wait for each other"
    AWAY = "it does not answer"
    WRONG = "it does not fit what was declared"
    REFUSED = "it will not have these values"


@dataclass(frozen=True)
class Clock:
    """The time over there, and since when the oldest transaction is open that may still commit, where that is known."""

    now: dt.datetime
    oldest: dt.datetime | None = None


class Database:
    """Any call may raise Unreachable or Misconfigured. No text that it makes holds the password."""

    def __init__(self, url: str, name: str, timeout_seconds: float) -> None:
        self.name = name
        try:
            parsed = make_url(url)
        except exc.ArgumentError:
            raise Misconfigured(
                f"The address of {name} is no URL such as postgresql://user:password@host/base."
            ) from None
        kind = parsed.drivername.partition("+")[0]
        self.kind = ALIASES.get(kind, kind)
        if self.kind not in DRIVERS:
            raise Misconfigured(f"{name}: {kind!r} is none of {', '.join(DRIVERS)}.")
        self._url = parsed.set(drivername=DRIVERS[self.kind])
        self._timeout = timeout_seconds
        self._until = float("inf")  # when a statement of SQLite, which has no time-outs, is broken off
        self._engine = self._made()
        self.exact = False  # whether `clock` tells which transactions are open; known once it was asked
        self.inexact = ""  # why not, and what to do about it

    def __repr__(self) -> str:
        # Some drivers take a password in the query too.
        return self._url.set(query={}).render_as_string(hide_password=True)

    def close(self) -> None:
        self._engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` makes of one transaction, all of which sees the same moment."""
        return self._attempt(self._engine.execution_options(**self._isolation("REPEATABLE READ")), work, writes=False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction; it is called again after a deadlock. Raises Refused."""
        options = self._isolation("READ COMMITTED")
        return self._attempt(self._engine.execution_options(writes=True, **options), work, writes=True)

    def whoami(self) -> str:
        """The account and the database, in the same words as long as they are the same."""
        match self.kind:
            case "postgresql":
                sql = "SELECT current_user || ' at ' || current_database()"
            case "mariadb":
                sql = "SELECT concat(current_user(), ' at ', coalesce(database(), ''))"
            case _:
                if self._url.database and not Path(self._url.database).is_file():
                    raise Misconfigured(f"{self.name}: there is no file {self._url.database}.")
                sql = "SELECT file FROM pragma_database_list WHERE name = 'main'"
        return str(self.read(lambda connection: connection.exec_driver_sql(sql).scalar_one()))

    def clock(self) -> Clock:
        """To be read in a transaction of its own, before what is compared with it.

        A transaction that ended before that is then visible to what comes after; one that is open is in `oldest`.
        """
        match self.kind:
            case "postgresql":
                now, oldest, sees, standby = self.read(lambda connection: connection.exec_driver_sql(OPEN).one())
                self.exact = sees and not standby
                if standby:
                    self.inexact = "late commits by the overlap, as a standby does not show the primary's transactions"
                elif not sees:
                    self.inexact = (
                        "late commits by the overlap, as this user may not see when others' transactions began: "
                        "GRANT pg_read_all_stats to it makes that exact"
                    )
                return Clock(now, oldest if self.exact else None)
            case "mariadb":
                now = self.read(lambda connection: connection.exec_driver_sql("SELECT utc_timestamp(6)").scalar_one())
                return Clock(now.replace(tzinfo=dt.UTC))
            case _:
                return Clock(dt.datetime.now(dt.UTC))  # a file has no clock but that of who writes it

    @property
    def _driver_error(self) -> type[Exception]:
        return self._engine.dialect.loaded_dbapi.Error

    def _made(self) -> sa.Engine:
        seconds, url = self._timeout, self._url
        options: dict[str, Any] = {}
        match self.kind:
            case "postgresql":
                options = {
                    "connect_timeout": CONNECT_SECONDS,
                    "tcp_user_timeout": int(seconds * 1000),
                    "keepalives_idle": CONNECT_SECONDS,
                    # A plan for any value at all is a bad one for a window; and poolers lose prepared statements.
                    "prepare_threshold": None,
                }
            case "mariadb":
                whole = max(1, int(seconds))
                options = {"connect_timeout": CONNECT_SECONDS, "read_timeout": whole + 1, "write_timeout": whole + 1}
            case _:
                options = {"timeout": seconds}
                url = _existing(url)
        # One connection, which is looked at before it is used again: it may have been cut while the run did other work.
        made = sa.create_engine(
            url, connect_args=options, pool_size=1, max_overflow=0, pool_pre_ping=True, poolclass=sa.pool.QueuePool
        )
        sa.event.listen(made, "connect", self._prepare)
        if self.kind == "sqlite":
            sa.event.listen(made, "begin", _begin_sqlite)
            sa.event.listen(made, "before_cursor_execute", self._limit)
        return made

    def _prepare(self, driver: Any, _record: object) -> None:
        seconds = self._timeout
        match self.kind:
            case "postgresql":
                milliseconds = int(seconds * 1000)
                statements = [f"SET statement_timeout = {milliseconds}", "SET TIME ZONE 'UTC'"]
            case "mariadb":
                wait = max(1, int(seconds) - 1)
                # Strict: older servers cut what is too long, and say nothing.
                statements = [
                    f"SET SESSION max_statement_time = {seconds}, innodb_lock_wait_timeout = {wait}, "
                    "time_zone = '+00:00', sql_mode = concat(@@sql_mode, ',STRICT_ALL_TABLES')"
                ]
            case _:
                driver.isolation_level = None  # transactions begin where we say so
                statements = ["PRAGMA foreign_keys = ON"]
                driver.set_progress_handler(lambda: int(time.monotonic() > self._until), PROGRESS_STEPS)
        cursor = driver.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        driver.commit()

    def _limit(self, *_: object) -> None:
        self._until = time.monotonic() + self._timeout

    def _isolation(self, level: str) -> dict[str, Any]:
        return {} if self.kind == "sqlite" else {"isolation_level": level}

    def _attempt(self, engine: sa.Engine, work: Callable[[Connection], T], writes: bool) -> T:
        for attempt in range(1, TRIES_MAX + 1):
            try:
                with engine.begin() as connection:
                    return work(connection)
            except (exc.DBAPIError, self._driver_error) as error:  # the latter from `fetched`
                kind, words = self._told(getattr(error, "orig", error))
                # What was cut may have been committed: only a read is made again.
                cut = isinstance(error, exc.DBAPIError) and error.connection_invalidated
                again = kind is Kind.BUSY or (cut and not writes)
                if attempt == TRIES_MAX or not again:
                    raise self._error(kind, words, writes) from None
            except (OverflowError, UnicodeError) as error:  # the driver has no form for the value
                raise self._error(Kind.REFUSED, str(error), writes) from None
            except exc.InvalidRequestError as error:
                raise Misconfigured(f"{self.name}: {error}") from None
            time.sleep(random.uniform(0.5, 1) * 2**attempt / 20)
        raise AssertionError("the last attempt returns or raises")

    def _error(self, kind: Kind, words: str, writes: bool) -> Exception:
        if kind is Kind.REFUSED and writes:
            return Refused(f"{self.name}: {words}")
        if kind in (Kind.WRONG, Kind.REFUSED):  # a read has nothing to refuse but the declaration
            return Misconfigured(f"{self.name} does not fit what is declared of it: {words}")
        return Unreachable(f"{self.name} does not answer: {words}")

    def _told(self, error: Any) -> tuple[Kind, str]:
        kind, words = TOLD[self.kind](error)
        if self._url.password:
            words = words.replace(str(self._url.password), "***")
        return kind, " ".join(words.split())


def fetched(connection: Connection, query: sa.Select[Any]) -> tuple[Sequence[Any], Any]:
    """The driver's own rows, and its description of their columns: SQLAlchemy's cost as much again."""
    with connection.execute(query) as result:
        cursor = result.cursor
        assert cursor is not None  # a SELECT has one
        return cursor.fetchall(), cursor.description


# A transaction that only reads so far may write next, stamped with its beginning; what never writes rows is left out.
OPEN = """
SELECT statement_timestamp(),
       least((SELECT min(xact_start) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND backend_type NOT IN ('autovacuum worker', 'walsender', 'parallel worker')),
             (SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database())),
       pg_has_role('pg_read_all_stats', 'USAGE'),
       pg_is_in_recovery()
"""


def _existing(url: URL) -> URL:
    """SQLite would make a file that is not there, and find no table in it."""
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return url
    return url.set(database=f"file:{quote(url.database)}").update_query_dict({"mode": "rw", "uri": "true"})


def _begin_sqlite(connection: Connection) -> None:
    # A write takes its lock first: what it reads is then still so when it writes.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


SIGN_IN = (
    "password authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "not permitted",
    "permission denied",
)


def _postgresql(error: Any) -> tuple[Kind, str]:
    state, diag = error.sqlstate, getattr(error, "diag", None)
    words = " ".join(filter(None, (diag.message_primary, diag.message_detail))) if diag and state else str(error)
    if state is None:  # refused at the door, cut, or not even sent
        if type(error).__name__ not in ("OperationalError", "ConnectionTimeout", "InterfaceError"):
            return Kind.REFUSED, words
        return (Kind.WRONG if any(sign in words for sign in SIGN_IN) else Kind.AWAY), words
    if state in ("40001", "40P01"):
        return Kind.BUSY, words
    if state[:2] in ("08", "53", "55", "57", "58", "XX"):
        return Kind.AWAY, words
    if state[:2] in ("0A", "25", "28", "3D", "3F", "42") and state != "428C9":  # that one: a generated column
        return Kind.WRONG, words
    return Kind.REFUSED, words


# Of the server's own errors, by number; those of the client, from 2000 on, are all of the connection.
MARIADB_BUSY = frozenset({1020, 1213})
_AWAY = "0 1021 1028 1037 1040 1041 1053 1077 1129 1158 1159 1160 1161 1203 1205 1206 1226 1290 1317 1836 1927 1969"
_WRONG = "1044 1045 1046 1049 1054 1064 1103 1109 1142 1143 1146 1227 1347 1356 1370 1698 4031"
MARIADB_AWAY, MARIADB_WRONG = (frozenset(map(int, numbers.split())) for numbers in (_AWAY, _WRONG))


def _mariadb(error: Any) -> tuple[Kind, str]:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    words = str(error.args[1]) if len(error.args) > 1 else str(error)
    if number in MARIADB_BUSY:
        return Kind.BUSY, words
    if number in MARIADB_AWAY or (number is not None and 2000 <= number < 3000):
        return Kind.AWAY, words or "the connection is gone"
    return (Kind.WRONG if number in MARIADB_WRONG else Kind.REFUSED), words


SQLITE_KINDS = {
    sqlite3.SQLITE_BUSY: Kind.AWAY,  # it was waited for as long as a statement may take
    sqlite3.SQLITE_LOCKED: Kind.AWAY,
    sqlite3.SQLITE_INTERRUPT: Kind.AWAY,
    sqlite3.SQLITE_IOERR: Kind.AWAY,
    sqlite3.SQLITE_FULL: Kind.AWAY,
    sqlite3.SQLITE_CANTOPEN: Kind.AWAY,
    sqlite3.SQLITE_PROTOCOL: Kind.AWAY,
    sqlite3.SQLITE_ERROR: Kind.WRONG,
    sqlite3.SQLITE_PERM: Kind.WRONG,
    sqlite3.SQLITE_READONLY: Kind.WRONG,
    sqlite3.SQLITE_CORRUPT: Kind.WRONG,
    sqlite3.SQLITE_NOTADB: Kind.WRONG,
}


def _sqlite(error: Any) -> tuple[Kind, str]:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return (Kind.AWAY if isinstance(error, sqlite3.OperationalError) else Kind.REFUSED), str(error)
    return SQLITE_KINDS.get(code & 0xFF, Kind.REFUSED), str(error)  # the rest of the number says more than we need


TOLD: dict[str, Callable[[Any], tuple[Kind, str]]] = {
    "postgresql": _postgresql,
    "mariadb": _mariadb,
    "sqlite": _sqlite,
}
