"""Where a run of pages waits until it is whole, and how it then gets into the tables in one transaction.

A short run waits in memory, one of more than two seconds in a file of its own beside the replica: the application's
writers are held up only while the whole run is moved in, and a load that was killed goes on where it was.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from syncdevice.database import STAGE_FILES, Entity, applying, create_private, quote, remove_files, set_state
from syncdevice.errors import ProtocolError, SchemaMoved
from syncdevice.fates import forget_foreign_values
from syncdevice.healing import regain_position
from syncdevice.outbox import Row, lay_over
from syncdevice.reports import Change
from syncdevice.tables import column_values, get_row, put_row, waiting_mutations

SAVE_SECONDS = 2.0  # what a kill costs at most, of the time it took to load
MEMORY = ""  # SQLite's name for a database that is gone with its connection
IDS_MAX = 10_000
BULK_ROWS = 1_000


class Stage:
    """The staged run that starts at token `base`. `token` says how far it is, `rows` how many rows it has."""

    def __init__(self, conn: sqlite3.Connection, path: str, entities: dict[str, Entity], base: str | None) -> None:
        self.token, self.rows = base, 0
        self._conn, self._replica, self._entities, self._base = conn, path, entities, base
        self._path = path + STAGE_FILES[0]
        self._tables: dict[str, tuple[str, Callable[[Iterable[Row]], Iterator[Any]]]] = {}
        self._attached: str | None = None
        self._saved_at = 0.0
        if os.path.exists(self._path):
            self._resume()

    def _resume(self) -> None:
        try:
            self._attach(self._path)
            base, schema, self.token, self.rows = self._conn.execute("SELECT * FROM stage.run").fetchone()
            names = [n for (n,) in self._conn.execute("SELECT name FROM stage.sqlite_master WHERE type = 'table'")]
            if base == self._base and schema == self._schema():
                for name in names:
                    if name in self._entities:
                        self._writer(name)
                return
        except (sqlite3.DatabaseError, TypeError):
            pass  # torn by a power failure: read again
        self.discard()

    def discard(self) -> None:
        """Forget the run."""
        if self._attached is not None:
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")
            self._conn.execute("DETACH stage")
        remove_files(self._replica, STAGE_FILES)
        self.token, self.rows, self._attached, self._tables = self._base, 0, None, {}

    def close(self) -> None:
        """Keep what is staged for another day."""
        if self._attached is not None:
            if self._conn.in_transaction:
                self._save()
            self._conn.execute("DETACH stage")
            self._attached = None

    def _schema(self) -> str:
        return json.dumps([(e.name, e.kinds) for e in self._entities.values()])

    def _attach(self, where: str) -> None:
        if where != MEMORY:
            create_private(where)
        self._conn.execute("ATTACH ? AS stage", (where,))
        self._attached, self._saved_at = where, time.monotonic()
        self._conn.execute(f"PRAGMA stage.journal_mode = {'MEMORY' if where == MEMORY else 'TRUNCATE'}")
        self._conn.execute("PRAGMA stage.synchronous = NORMAL")
        self._conn.execute("PRAGMA stage.cache_size = -65536")
        self._conn.execute("CREATE TABLE IF NOT EXISTS stage.run (base TEXT, schema TEXT, token TEXT, rows INTEGER)")
        self._conn.execute(
            "CREATE TABLE IF NOT EXISTS stage.gone (entity TEXT, id TEXT, PRIMARY KEY (entity, id)) WITHOUT ROWID"
        )

    def _writer(self, name: str) -> tuple[str, Callable[[Iterable[Row]], Iterator[Any]]]:
        """How to stage rows of an entity: the statement, and the function from rows to its parameters."""
        if name not in self._tables:
            entity = self._entities[name]
            # The very same table, since SQLite copies between equal tables without looking at the rows.
            query = "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?"
            (sql,) = self._conn.execute(query, (name,)).fetchone()
            body = sql[sql.index("(") :]
            self._conn.execute(f"CREATE TABLE IF NOT EXISTS stage.{quote(name)} {body}")
            columns = ", ".join(map(quote, entity.columns))
            marks = ", ".join("?" * len(entity.columns))
            statement = f"INSERT OR REPLACE INTO stage.{quote(name)} ({columns}) VALUES ({marks})"
            self._tables[name] = (statement, column_values(entity))
        return self._tables[name]

    def lay(self, changes: dict[str, Any], token: str, last: bool) -> None:
        """Add one page. `last`: the run ends with it. Raises SchemaMoved for what the replica has no column for."""
        if self._attached is None:
            if last and self._base is not None and not changes:
                self.token = token
                return
            self._attach(MEMORY)
        if not self._conn.in_transaction:
            self._conn.execute("BEGIN")
        for name, change in changes.items():
            upserts, deletes = change.get("upserts") or [], change.get("deletes") or []
            if name in self._entities:
                self._lay_entity(name, upserts, deletes)
            elif upserts:  # deletes alone change nothing: the file has no such row, and a new entity is loaded whole
                raise SchemaMoved(f"the server sent {name}, of which this replica knows nothing")
        self.token = token
        if last:
            self._conn.execute("COMMIT")
        elif time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        """Commit what is staged, to the file from which it can be resumed."""
        if self._attached == MEMORY:
            self._move_to_file()
        values = (self._base, self._schema(), self.token, self.rows)
        self._conn.execute("DELETE FROM stage.run")
        self._conn.execute("INSERT INTO stage.run VALUES (?, ?, ?, ?)", values)
        self._conn.execute("COMMIT")
        self._saved_at = time.monotonic()

    def _move_to_file(self) -> None:
        self._conn.execute("COMMIT")
        create_private(self._path)
        self._conn.execute("ATTACH ? AS file", (self._path,))
        self._conn.execute("BEGIN")
        tables = self._conn.execute("SELECT name, sql FROM stage.sqlite_master WHERE type = 'table'").fetchall()
        for name, sql in tables:
            self._conn.execute(f"CREATE TABLE file.{quote(name)} {sql[sql.index('(') :]}")
            self._conn.execute(f"INSERT INTO file.{quote(name)} SELECT * FROM stage.{quote(name)}")
        self._conn.execute("COMMIT")
        self._conn.execute("DETACH file")
        self._conn.execute("DETACH stage")
        self._attach(self._path)
        self._conn.execute("BEGIN")

    def _lay_entity(self, name: str, upserts: list[Row], deletes: list[str]) -> None:
        statement, values = self._writer(name)
        if upserts:
            unknown = upserts[0].keys() - set(self._entities[name].columns)
            if unknown:
                raise SchemaMoved(f"the server sent {name}.{min(unknown)}, of which this replica knows nothing")
            try:
                self._conn.executemany(statement, values(upserts))
            except KeyError as error:
                raise SchemaMoved(f"the server no longer sends {name}.{error.args[0]}") from error
            except (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.IntegrityError, ValueError) as error:
                raise ProtocolError(f"a row of {name} is not of its schema ({error}): upgrade the SDK") from error
        if self._conn.execute("SELECT 1 FROM stage.gone LIMIT 1").fetchone():
            self._conn.executemany(
                "DELETE FROM stage.gone WHERE entity = ? AND id = ?", ((name, row["id"]) for row in upserts)
            )
        if deletes:
            self._conn.executemany("INSERT OR IGNORE INTO stage.gone VALUES (?, ?)", ((name, i) for i in deletes))
            self._conn.executemany(f"DELETE FROM stage.{quote(name)} WHERE id = ?", ((i,) for i in deletes))
        self.rows += len(upserts) + len(deletes)

    def keep_torn(self, token: str | None) -> dict[str, dict[str, int]]:
        """Of a whole load, keep the rows that the table has with other values under the same revision, and return that.

        Rows of which edits wait are none. The run then changes nothing else, and leaves the replica at `token`.
        """
        torn: dict[str, dict[str, int]] = {}
        for name in list(self._tables):
            staged, table = f"stage.{quote(name)}", f"main.{quote(name)}"
            differs = " OR ".join(f"s.{quote(c)} IS NOT t.{quote(c)}" for c in self._entities[name].columns)
            query = (
                f"SELECT s.id, s._rev FROM {staged} AS s JOIN {table} AS t ON t.id = s.id AND t._rev = s._rev"
                f' WHERE ({differs}) AND s.id NOT IN (SELECT "row" FROM "_sync_outbox" WHERE "entity" = ?)'
            )
            found = dict(self._conn.execute(query, (name,)).fetchall())
            self._conn.execute("CREATE TEMP TABLE IF NOT EXISTS torn (id TEXT PRIMARY KEY)")
            self._conn.execute("DELETE FROM temp.torn")
            self._conn.executemany("INSERT INTO temp.torn VALUES (?)", ((row,) for row in found))
            self._conn.execute(f"DELETE FROM {staged} WHERE id NOT IN (SELECT id FROM temp.torn)")
            if found:
                torn[name] = found
        if self._attached is not None:
            self._conn.execute("DELETE FROM stage.gone")
        self.token = self._base = token
        return torn

    def merge(self, now: str, doubted: Mapping[str, Iterable[str]] | None = None) -> dict[str, Change]:
        """Move the whole run into the tables, under what waits in the outbox, in one transaction. Then it is over.

        A run from the beginning (no base token) replaces everything: rows that it did not bring go, unless edits of
        them wait. Forgets the token where the run told nothing of a row that a push found gone. Rows that are `doubted`
        take what the run says of them, whatever revision the table has.
        """
        changes: dict[str, Change] = {}
        with applying(self._conn):
            self._conn.execute('DELETE FROM "_sync_replaced"')
            for name, rows in (doubted or {}).items():
                forget = f"UPDATE main.{quote(name)} SET _rev = NULL WHERE id = ?"
                self._conn.executemany(forget, ((row,) for row in rows))
            for entity in self._entities.values():
                if self._attached is not None and (self._base is None or entity.name in self._tables):
                    change = self._merge_entity(entity)
                    if change.upserted or change.deleted:
                        changes[entity.name] = change
                    if change.deleted:
                        forget_foreign_values(self._conn, entity.name)
            token = self.token if self._missing_are_told() else None
            self._conn.execute('DELETE FROM "_sync_missing"')
            set_state(self._conn, token=token, token_at=now, last_sync_at=now)
            if self._base is None:
                regain_position(self._conn)
        self.discard()
        return changes

    def _missing_are_told(self) -> bool:
        if self._base is None:
            return True
        missing = self._conn.execute('SELECT "entity", "row" FROM "_sync_missing"').fetchall()
        return all(self._attached is not None and self._tells(name, row) for name, row in missing)

    def _tells(self, name: str, row: str) -> bool:
        if self._conn.execute("SELECT 1 FROM stage.gone WHERE entity = ? AND id = ?", (name, row)).fetchone():
            return True
        query = f"SELECT 1 FROM stage.{quote(name)} WHERE id = ?"
        return name in self._tables and self._conn.execute(query, (row,)).fetchone() is not None

    def _merge_entity(self, entity: Entity) -> Change:
        table, reload = f"main.{quote(entity.name)}", self._base is None
        self._writer(entity.name)
        staged = f"stage.{quote(entity.name)}"
        waiting = waiting_mutations(self._conn, entity.name)
        if reload:
            gone = f"id NOT IN (SELECT id FROM {staged})"
        else:
            gone = f"id IN (SELECT id FROM stage.gone WHERE entity = '{entity.name}')"
        gone += f" AND id NOT IN (SELECT \"row\" FROM _sync_outbox WHERE entity = '{entity.name}')"
        deleted = [i for (i,) in self._conn.execute(f"SELECT id FROM {table} WHERE {gone}")]
        self._conn.execute(f"DELETE FROM {table} WHERE {gone}")
        # A run that was resumed may have staged a row before the device's own later edit of it was acknowledged.
        known = f"{quote(entity.name)}._rev"
        newer = "" if reload else f"WHERE {known} IS NULL OR excluded._rev >= {known}"
        (upserted,) = self._conn.execute(f"SELECT count(*) FROM {staged}").fetchone()
        ids = [i for (i,) in self._conn.execute(f"SELECT id FROM {staged}")] if upserted <= IDS_MAX else None
        under = [i for i in waiting if self._wins(entity.name, i, reload)]
        if self._conn.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():
            columns = ", ".join(map(quote, entity.columns))
            sets = ", ".join(f"{quote(c)} = excluded.{quote(c)}" for c in entity.columns[1:])
            self._conn.execute(
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {staged} WHERE true"
                f" ON CONFLICT (id) DO UPDATE SET {sets} {newer}"
            )
        else:
            self._copy(entity.name, bulk=upserted >= BULK_ROWS)
        for row in under:
            put_row(self._conn, entity, row, lay_over(get_row(self._conn, entity, row), waiting[row], entity.kinds))
        return Change(
            upserted,
            len(deleted),
            None if ids is None else tuple(ids),
            tuple(deleted) if len(deleted) <= IDS_MAX else None,
        )

    def _wins(self, name: str, row: str, reload: bool) -> bool:
        """Whether the staged state of a row, if there is one, replaces the table's."""
        query = (
            f"SELECT ? OR t._rev IS NULL OR s._rev >= t._rev FROM stage.{quote(name)} AS s"
            f" LEFT JOIN main.{quote(name)} AS t ON t.id = s.id WHERE s.id = ?"
        )
        found = self._conn.execute(query, (reload, row)).fetchone()
        return bool(found and found[0])

    def _copy(self, name: str, bulk: bool) -> None:
        """Copy everything into an empty table. Without triggers SQLite copies records unread: ten times as fast."""
        query = "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? AND name GLOB ?"
        triggers = self._conn.execute(query, (name, "_sync_*")).fetchall() if bulk else []
        for trigger, _ in triggers:
            self._conn.execute(f"DROP TRIGGER main.{quote(trigger)}")
        self._conn.execute(f"INSERT INTO main.{quote(name)} SELECT * FROM stage.{quote(name)}")
        for _, sql in triggers:
            self._conn.execute(sql)
