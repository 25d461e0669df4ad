"""The replica's file: who may read it, who may sync it, and how its tables follow the schema."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from syncdevice import Busy, NotEnrolled, ProtocolError, Replica, database, group

from sync.sqlite_ddl import sqlite_ddl
from tests.unit.syncdevice_support import CONTACT, ORDER, PRODUCT, enrolled, entity, field, ids, outbox, schema

A, B = ids(2)


def upgrade(conn: sqlite3.Connection, *entities: dict[str, Any]) -> bool:
    database.set_state(conn, token="t1")
    return database.install(conn, sqlite_ddl(schema(*entities)), '"2"')


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")):
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("r.db*")}
    assert modes == {0o600}


def test_enrolment_is_kept_before_the_tables_are_made(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    database.create_private(path)
    with closing(database.connect(path)) as conn:
        database.save_enrolment(conn, "http://x", None, {"device": "d", "token": "secret", "scopes": ["global"]})
    status = Replica(path).status()
    assert (status.device, status.schema, status.loaded) == ("d", None, False)


def test_new_enrolment_keeps_the_outbox_and_loads_afresh(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")) as conn:
        conn.execute("INSERT INTO contact (id) VALUES (?)", (A,))
        database.set_state(conn, token="t1")
        database.save_enrolment(conn, "http://y", None, {"device": "d2", "token": "secret2", "scopes": []})
        assert database.read_state(conn).token is None
        assert database.install(conn, sqlite_ddl(schema(CONTACT, ORDER, PRODUCT)), '"1"')
        state = database.read_state(conn)
        assert (state.url, state.device_token, state.token) == ("http://y", "secret2", None)
        assert len(outbox(conn)) == 1


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but some text" * 100])
def test_file_that_is_no_replica_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "r.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotEnrolled, match="enroll"):
        Replica(path)


def test_same_schema_changes_nothing(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")) as conn:
        assert not upgrade(conn, CONTACT, ORDER, PRODUCT)
        assert database.read_state(conn).token == "t1"


def test_new_field_and_entity_come_with_a_fresh_load_and_edits_wait_on(tmp_path: Path) -> None:
    grown = entity("contact", *CONTACT["fields"], field("city", "text", default="MVD"))
    with closing(enrolled(tmp_path / "r.db")) as conn:
        conn.execute("INSERT INTO contact (id, name) VALUES (?, 'Ana')", (A,))
        assert upgrade(conn, grown, ORDER, PRODUCT, entity("visit", field("note", "text")))
        assert database.read_state(conn).token is None
        assert conn.execute("SELECT name, city FROM contact").fetchall() == [("Ana", "MVD")]
        conn.execute("UPDATE contact SET city = 'Salto'")
        conn.execute("INSERT INTO visit (id, note) VALUES (?, 'x')", (B,))
        assert [m["set"] for m in outbox(conn)] == [{"name": "Ana"}, {"city": "Salto"}, {"note": "x"}]


def test_field_that_is_gone_is_erased_and_the_token_stays(tmp_path: Path) -> None:
    shrunk = entity("contact", *(f for f in CONTACT["fields"] if f["name"] not in {"tags", "photo"}))
    with closing(enrolled(tmp_path / "r.db")) as conn:
        conn.execute("INSERT INTO contact (id, name, tags, photo) VALUES (?, 'Ana', '1', x'01')", (A,))
        conn.execute("CREATE INDEX mine ON contact (tags)")  # SQLite cannot drop a column that an index uses
        assert not upgrade(conn, shrunk, PRODUCT)
        assert database.read_state(conn).token == "t1"
        columns = [row[1] for row in conn.execute("PRAGMA table_info(contact)")]
        assert columns == ["id", "_rev", "name", "visits", "credit", "tags"]
        assert conn.execute("SELECT tags FROM contact").fetchall() == [(None,)]
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            conn.execute('SELECT * FROM "order"')
        assert len(outbox(conn)) == 1


def test_field_that_changes_its_type_is_loaded_afresh(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")) as conn:
        assert upgrade(conn, entity("contact", field("name", "integer")), ORDER, PRODUCT)
        assert "name" in [row[1] for row in conn.execute("PRAGMA table_info(contact)") if row[2] == "INTEGER"]


def test_applications_own_tables_survive_an_upgrade(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")) as conn:
        conn.execute("CREATE TABLE draft (text TEXT)")
        conn.execute("CREATE TRIGGER mine AFTER INSERT ON contact BEGIN INSERT INTO draft VALUES (NEW.name); END")
        upgrade(conn, entity("contact", *CONTACT["fields"], field("city", "text")))
        conn.execute("INSERT INTO contact (id, name) VALUES (?, 'Ana')", (A,))
        assert conn.execute("SELECT * FROM draft").fetchall() == [("Ana",)]


@pytest.mark.parametrize("script", ["CREATE TABLE", "SELECT 1;", sqlite_ddl({**schema(CONTACT), "protocol": 2})])
def test_script_that_is_not_for_this_sdk_changes_nothing(tmp_path: Path, script: str) -> None:
    with closing(enrolled(tmp_path / "r.db")) as conn:
        before = conn.execute("SELECT name, sql FROM sqlite_master").fetchall()
        with pytest.raises(ProtocolError, match="upgrade"):
            database.install(conn, script, None)
        assert conn.execute("SELECT name, sql FROM sqlite_master").fetchall() == before


def test_script_is_split_at_its_statements() -> None:
    table = "CREATE TABLE a (x);\n-- a note; not an end\n"
    script = table + "CREATE TRIGGER t AFTER INSERT ON a\nBEGIN\n  SELECT ';\n';\nEND;\n"
    assert len(list(database.statements(script))) == 2


def test_second_sync_is_busy_until_the_first_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    with database.locked(path, 0.0), pytest.raises(Busy, match="another process"), database.locked(path, 0.1):
        pass
    with database.locked(path, 0.0):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    code = (
        "import os, sys, signal; from syncdevice import database\n"
        "with database.locked(sys.argv[1], 0.0): print('held', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    source = str(Path(database.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, env={**os.environ, "PYTHONPATH": source}, timeout=30
    )
    assert (done.stdout, done.returncode) == (b"held\n", -9)
    with database.locked(path, 0.0):
        pass


def test_group_is_one_transaction_with_one_id(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")) as sync, closing(Replica(tmp_path / "r.db").connect()) as conn:
        with group(conn) as outer:
            conn.execute("INSERT INTO contact (id) VALUES (?)", (A,))
            with group(conn) as inner:
                conn.execute("INSERT INTO contact (id) VALUES (?)", (B,))
            assert outbox(sync) == []
        assert inner == outer
        assert [m["group"] for m in outbox(sync)] == [outer, outer]
        conn.execute("DELETE FROM contact WHERE id = ?", (A,))
        conn.commit()
        assert "group" not in outbox(sync)[-1]


def test_group_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with closing(enrolled(tmp_path / "r.db")) as sync, closing(Replica(tmp_path / "r.db").connect()) as conn:
        with pytest.raises(KeyError), group(conn):
            conn.execute("INSERT INTO contact (id) VALUES (?)", (A,))
            raise KeyError
        assert not conn.in_transaction
        assert outbox(sync) == []
        assert sync.execute('SELECT "group" FROM "_sync_state"').fetchone() == (None,)
