"""The replica's SQLite file: opening it, its state, its lock, and making or upgrading its tables."""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from syncdevice.errors import Busy, NotEnrolled, ProtocolError, Unusable

BUSY_SECONDS = 30.0
REPLICA_FILES = ("", "-wal", "-shm", "-journal")
STAGE_FILES = ("-stage", "-stage-journal")

OWN_TABLES = (
    # Rows that a push found gone, until a pull tells of them.
    '"_sync_missing" ("entity" TEXT NOT NULL, "row" TEXT NOT NULL, PRIMARY KEY ("entity", "row"))',
    # What became of each mutation of `_sync_outcome`, step by step: the server's answer, then what was decided later.
    # `told`: a callback of the application had it.
    """"_sync_fate" (
      "seq" INTEGER PRIMARY KEY AUTOINCREMENT,
      "mutation" TEXT NOT NULL,
      "state" TEXT NOT NULL,
      "answer" INTEGER NOT NULL DEFAULT 0,
      "rev" INTEGER,
      "by" TEXT NOT NULL DEFAULT '',
      "comment" TEXT NOT NULL DEFAULT '',
      "at" TEXT,
      "received_at" TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
      "told" INTEGER NOT NULL DEFAULT 0,
      UNIQUE ("mutation", "state", "at")
    )""",
    # What the user has seen of it: the last step at the time.
    """"_sync_dismissed" (
      "mutation" TEXT PRIMARY KEY NOT NULL,
      "seq" INTEGER NOT NULL,
      "at" TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
    )""",
    # When the file was last checked against the server, and whether that could be done.
    '"_sync_check" ("one" INTEGER PRIMARY KEY CHECK ("one" = 1), "at" TEXT NOT NULL, "done" INTEGER NOT NULL)',
    # What was applied or merged, for some days: a server that was restored from a backup is offered it again.
    """"_sync_acknowledged" (
      "seq" INTEGER PRIMARY KEY,
      "id" TEXT NOT NULL,
      "entity" TEXT NOT NULL,
      "row" TEXT NOT NULL,
      "op" TEXT NOT NULL,
      "base" INTEGER,
      "set" TEXT,
      "add" TEXT,
      "group" TEXT,
      "made_at" TEXT NOT NULL,
      "rev" INTEGER,
      "at" TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
    )""",
    # Up to which place in the outbox edits were made on revisions that the server may have lost; until a load: all.
    '"_sync_lost" ("one" INTEGER PRIMARY KEY CHECK ("one" = 1), "upto" INTEGER NOT NULL)',
    # Until then: rows that a push has brought up to date, and the place after which edits of them are none of these.
    """"_sync_seen" (
      "entity" TEXT NOT NULL, "row" TEXT NOT NULL, "seq" INTEGER NOT NULL, PRIMARY KEY ("entity", "row")
    )""",
    # The token of before an enrolment, until all is read anew: by it the server says whether it was restored since.
    '"_sync_before" ("one" INTEGER PRIMARY KEY CHECK ("one" = 1), "token" TEXT NOT NULL)',
    # How far `GET /sync/outcomes` was read, by device: one that was enrolled anew begins anew.
    '"_sync_cursor" ("device" TEXT PRIMARY KEY NOT NULL, "cursor" TEXT NOT NULL)',
    # Since when the device has its token, and the one before it: see `tokens`.
    '"_sync_rotation" ("device" TEXT PRIMARY KEY NOT NULL, "at" TEXT NOT NULL, "old_token" TEXT)',
)


@dataclass(frozen=True)
class Entity:
    """One synced table: its fields with their types, in the order of the schema, and the policies that are told of."""

    name: str
    kinds: dict[str, str]
    label: str
    policy: str
    policies: dict[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        return ("id", "_rev", *self.kinds)


@dataclass(frozen=True)
class State:
    """What `_sync_state` holds. `entities` is empty and `schema` None until the tables are made."""

    url: str
    device: str
    device_token: str
    device_name: str | None
    scopes: list[str]
    token: str | None
    token_at: str | None
    last_sync_at: str | None
    schema: str | None
    schema_etag: str | None
    entities: dict[str, Entity]


def quote(name: str) -> str:
    """`name` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


_MAGIC = b"SQLite format 3\0"


def claim(path: str) -> None:
    """Make the file of a replica, or take one that is there. Raises Unusable where that cannot be."""
    try:
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read(len(_MAGIC)) not in {b"", _MAGIC}:
                    raise Unusable(f"{path!r} is no SQLite file, and stays as it is: give another file")
        create_private(path)
    except OSError as error:
        raise Unusable(f"{path!r}: {error.strerror}: give a file in a folder that is there and yours") from error


def create_private(path: str) -> None:
    """Make sure that the file is there and only its owner can read it: it holds the device's token."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.chmod(path, 0o600)


def connect(path: str) -> sqlite3.Connection:
    """A connection for the sync itself: autocommit, WAL, no foreign keys (a row's parent may be out of scope)."""
    conn = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    # Text that is no UTF-8 must not block the outbox for ever: it goes with replacement characters.
    conn.text_factory = lambda text: text.decode(errors="replace")
    conn.execute("PRAGMA journal_mode = WAL")
    for pragma in ("synchronous = NORMAL", "foreign_keys = OFF", "cache_size = -65536", "wal_autocheckpoint = 10000"):
        conn.execute(f"PRAGMA {pragma}")
    return conn


def remove_files(path: str, suffixes: tuple[str, ...] = REPLICA_FILES + STAGE_FILES) -> None:
    """Delete the replica with everything beside it, except the lock; or only the files with these suffixes."""
    for suffix in suffixes:
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)


@contextmanager
def immediate(conn: sqlite3.Connection) -> Iterator[None]:
    """One write transaction. Raises Busy where an application's transaction holds the file too long."""
    try:
        conn.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise Busy(f"another transaction has held the file for {BUSY_SECONDS:.0f} s: end it and sync again") from error
    try:
        yield
    except BaseException:
        conn.execute("ROLLBACK")
        raise
    conn.execute("COMMIT")


@contextmanager
def applying(conn: sqlite3.Connection) -> Iterator[None]:
    """One write transaction whose changes the triggers do not record. Other connections never see the flag."""
    with immediate(conn):
        conn.execute('UPDATE "_sync_state" SET "applying" = 1')
        yield
        conn.execute('UPDATE "_sync_state" SET "applying" = 0')


@contextmanager
def locked(path: str, wait: float) -> Iterator[None]:
    """The only sync of this file, in all processes and threads. Raises Busy after `wait` seconds.

    The operating system drops the lock when its process dies. The lock file stays: deleting it would let two in.
    """
    with open(path + "-lock", "a+b") as file:
        end = time.monotonic() + wait
        while not _try_lock(file.fileno()):
            if time.monotonic() >= end:
                raise Busy("another process syncs this file at the moment: sync again later")
            time.sleep(0.05)
        yield  # closing the file unlocks it


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


# State ------------------------------------------------------------------------------------------------------------


def has_table(conn: sqlite3.Connection, name: str) -> bool:
    """Whether the file has a table of this name."""
    return conn.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone() is not None


def save_enrolment(conn: sqlite3.Connection, url: str, name: str | None, answer: dict[str, Any]) -> None:
    """Keep who we are before anything else can fail: the code works only once. `install` moves it to its place."""
    with immediate(conn):
        conn.execute(
            'CREATE TABLE IF NOT EXISTS "_sync_enrolled"'
            ' ("url" TEXT, "device" TEXT, "device_token" TEXT, "device_name" TEXT, "scopes" TEXT)'
        )
        conn.execute('DELETE FROM "_sync_enrolled"')
        conn.execute(
            'INSERT INTO "_sync_enrolled" VALUES (?, ?, ?, ?, ?)',
            (url, answer["device"], answer["token"], name, json.dumps(answer["scopes"])),
        )


def prepare(conn: sqlite3.Connection) -> None:
    """Make the SDK's own tables, which older replicas lack. Takes no lock where they are there."""
    for table in OWN_TABLES:
        conn.execute(f"CREATE TABLE IF NOT EXISTS {table}")


def read_state(conn: sqlite3.Connection) -> State:
    """Raises NotEnrolled where the file is no replica."""
    fresh = has_table(conn, "_sync_enrolled")
    names = ["url", "device", "device_token", "device_name", "scopes"]
    values: dict[str, Any] = {}
    if has_table(conn, "_sync_state"):
        names_all = [*names, "token", "token_at", "last_sync_at", "schema", "schema_etag"]
        row = conn.execute(f'SELECT {", ".join(map(quote, names_all))} FROM "_sync_state"').fetchone()
        values = dict(zip(names_all, row, strict=True))
    if fresh:
        row = conn.execute(f'SELECT {", ".join(map(quote, names))} FROM "_sync_enrolled"').fetchone()
        # A new enrolment may have other scopes: everything is read anew, the outbox stays.
        values |= dict(zip(names, row, strict=True)) | {"token": None, "schema_etag": None}
    if not values or not values["device_token"]:
        raise NotEnrolled("the file is no replica yet: enroll the device first")
    schema = values.get("schema")
    return State(
        url=values["url"],
        device=values["device"],
        device_token=values["device_token"],
        device_name=values["device_name"],
        scopes=json.loads(values["scopes"] or "[]"),
        token=values.get("token"),
        token_at=values.get("token_at"),
        last_sync_at=values.get("last_sync_at"),
        schema=schema,
        schema_etag=values.get("schema_etag"),
        entities=_entities(schema),
    )


def set_state(conn: sqlite3.Connection, **values: str | None) -> None:
    """Set columns of `_sync_state`, in the current transaction if there is one."""
    conn.execute(f'UPDATE "_sync_state" SET {", ".join(f"{quote(n)} = ?" for n in values)}', tuple(values.values()))


def _entities(schema: str | None) -> dict[str, Entity]:
    document = json.loads(schema) if schema else {"entities": []}
    return {e["name"]: _entity(e) for e in document["entities"]}


def _entity(described: dict[str, Any]) -> Entity:
    fields = [f for f in described["fields"] if f["name"] != "id"]
    return Entity(
        described["name"],
        {f["name"]: f["type"] for f in fields},
        described.get("label") or described["name"],
        described.get("conflict") or "",
        {f["name"]: f["conflict"] for f in fields if f.get("conflict")},
    )


# Tables -----------------------------------------------------------------------------------------------------------


def statements(script: str) -> Iterator[str]:
    """The single statements of a SQL script whose statements end at a line's end."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def install(conn: sqlite3.Connection, ddl: str, etag: str | None) -> bool:
    """Make the tables, or upgrade them to a new schema, in one transaction. True: everything is to be read anew.

    What waits in the outbox stays. Raises ProtocolError where the script is not one for a replica of protocol 1.
    """
    wanted = _rehearse(ddl)
    with immediate(conn):
        prepare(conn)
        known = read_state(conn)
        trigger_names = conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB '_sync_*'")
        for (trigger,) in trigger_names.fetchall():
            conn.execute(f"DROP TRIGGER {quote(trigger)}")
        grown = False
        for name, kinds in wanted.items():
            grown |= name not in known.entities or _reshape(conn, name, known.entities[name].kinds, kinds)
        for name in known.entities.keys() - wanted.keys():
            conn.execute(f"DROP TABLE IF EXISTS {quote(name)}")
            conn.execute('UPDATE "_sync_outcome" SET "server_row" = NULL WHERE "entity" = ?', (name,))
        for statement in statements(ddl):
            conn.execute(statement)
        if has_table(conn, "_sync_enrolled"):
            grown = True
            conn.execute(
                'DELETE FROM "_sync_acknowledged" WHERE (SELECT "url" FROM "_sync_state")'
                ' IS NOT (SELECT "url" FROM "_sync_enrolled")'
            )  # another server has lost nothing of it
            before = 'SELECT 1, "token" FROM "_sync_state" WHERE "token" IS NOT NULL'
            conn.execute(f'INSERT OR REPLACE INTO "_sync_before" {before}')
            conn.execute(
                'UPDATE "_sync_state" SET ("url", "device", "device_token", "device_name", "scopes") ='
                ' (SELECT * FROM "_sync_enrolled")'
            )
            conn.execute('DROP TABLE "_sync_enrolled"')
        set_state(conn, schema_etag=etag)
        if grown:
            set_state(conn, token=None, token_at=None)
    return grown


def _rehearse(ddl: str) -> dict[str, dict[str, tuple[str, str, str | None]]]:
    """The tables that `ddl` makes, tried out in memory: for each field its type, column type and default."""
    trial = sqlite3.connect(":memory:", isolation_level=None)
    try:
        trial.executescript(ddl)
        (protocol, schema) = trial.execute('SELECT "protocol", "schema" FROM "_sync_state"').fetchone()
        if protocol != 1:
            raise ProtocolError(f"the server speaks protocol {protocol}: upgrade the application")
        tables = {}
        for entity in _entities(schema).values():
            info = trial.execute(f"PRAGMA table_info({quote(entity.name)})").fetchall()
            columns = {name: (column, default) for _, name, column, _, default, _ in info}
            tables[entity.name] = {f: (kind, *columns[f]) for f, kind in entity.kinds.items()}
        return tables
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the server's schema is not for this SDK ({error}): upgrade the application") from error
    finally:
        trial.close()


def _reshape(
    conn: sqlite3.Connection, table: str, old: dict[str, str], new: dict[str, tuple[str, str, str | None]]
) -> bool:
    """Give `table` the fields of `new`, take those that only `old` has. True where a field came or changed its type."""
    grown = False
    for field in old:
        if field not in new or new[field][0] != old[field]:
            try:
                conn.execute(f"ALTER TABLE {quote(table)} DROP COLUMN {quote(field)}")
            except sqlite3.OperationalError:  # an index or a view of the application uses it
                conn.execute(f"UPDATE {quote(table)} SET {quote(field)} = NULL")
    present = {name for _, name, *_ in conn.execute(f"PRAGMA table_info({quote(table)})")}
    for field, (kind, column, default) in new.items():
        grown |= old.get(field) != kind
        if field not in present:
            tail = f" DEFAULT {default}" if default is not None else ""
            conn.execute(f"ALTER TABLE {quote(table)} ADD COLUMN {quote(field)} {column}{tail}")
    return grown
