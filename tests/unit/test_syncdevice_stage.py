"""A run of pages gets into the tables all at once, under the edits that wait, and survives being killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from syncdevice import Change, ProtocolError, database
from syncdevice.errors import SchemaMoved
from syncdevice.stage import Stage

from tests.unit.syncdevice_server import FakeServer
from tests.unit.syncdevice_support import changes, enrolled, ids, outbox, wire

A, B, C = ids(3)
NOW = "2026-11-21T09:00:00.000000Z"


def apply(conn: sqlite3.Connection, path: Path, *pages: dict[str, Any], base: str | None = "t0") -> dict[str, Change]:
    """One run of pages, from the token `base`, applied."""
    stage = Stage(conn, str(path), database.read_state(conn).entities, base)
    for number, page in enumerate(pages, start=1):
        stage.lay(page, f"t{number}", last=number == len(pages))
    return stage.merge(NOW)


def contacts(conn: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT id, _rev, name, visits FROM contact ORDER BY id").fetchall()


def test_rows_take_the_columns_types(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    row = wire(A, 1, name="Ana", visits=str(2**60), credit="1.50", tags={"a": [1, "é"]}, photo="AAE=")
    with closing(enrolled(path)) as conn:
        apply(conn, path, changes(row))
        assert conn.execute("SELECT * FROM contact").fetchall() == [
            (A, 1, "Ana", 2**60, "1.50", '{"a":[1,"é"]}', b"\x00\x01")
        ]
        assert outbox(conn) == []


@pytest.mark.parametrize("base", [None, "t0"], ids=["first load", "later run"])
def test_last_state_in_a_run_wins(tmp_path: Path, base: str | None) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        changed = apply(
            conn,
            path,
            changes(wire(A, 1, name="old"), wire(B, 1, name="goes")),
            changes(wire(A, 2, name="new"), wire(C, 1, name="was gone"), deletes=(B,)),
            changes(wire(C, 3, name="back")),
            base=base,
        )
        assert contacts(conn) == [(A, 2, "new", None), (C, 3, "back", None)]
        assert changed["contact"].upserted_ids is not None
        assert set(changed["contact"].upserted_ids) == {A, C}
        assert database.read_state(conn).token == "t3"
        assert not list(tmp_path.glob("*-stage*"))


def test_run_changes_rows_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        apply(conn, path, changes(wire(A, 1, name="a"), wire(B, 1, name="b")), base=None)
        changed = apply(conn, path, changes(wire(A, 2, name="aa"), deletes=(B, C)))
        assert contacts(conn) == [(A, 2, "aa", None)]
        assert changed == {"contact": Change(1, 1, (A,), (B,))}


def test_application_never_sees_half_a_run(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        with closing(sqlite3.connect(path, timeout=10)) as own:
            while not done.is_set():
                seen.add(own.execute("SELECT count(*) FROM contact").fetchone()[0])

    rows = [wire(row, 1) for row in ids(6_000)]
    with closing(enrolled(path)) as conn:
        reader = threading.Thread(target=read)
        reader.start()
        apply(conn, path, *(changes(*rows[n : n + 500]) for n in range(0, 6_000, 500)), base=None)
        done.set()
        reader.join()
    assert seen <= {0, 6_000}


def test_application_can_write_while_a_run_is_staged(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        stage = Stage(conn, str(path), database.read_state(conn).entities, None)
        stage.lay(changes(wire(A, 1)), "t1", last=False)
        with closing(sqlite3.connect(path, timeout=0)) as own, own:
            own.execute("INSERT INTO contact (id, name) VALUES (?, 'mine')", (B,))
        stage.lay(changes(wire(C, 1)), "t2", last=True)
        stage.merge(NOW)
        assert [row[0] for row in contacts(conn)] == [A, B, C]


def test_edits_that_wait_stay_on_top(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        apply(conn, path, changes(*(wire(row, 1, name="old", visits=1) for row in (A, B, C))), base=None)
        conn.execute("UPDATE contact SET name = 'mine', visits = visits + 5 WHERE id = ?", (A,))
        conn.execute("UPDATE contact SET name = 'kept' WHERE id = ?", (B,))
        conn.execute("DELETE FROM contact WHERE id = ?", (C,))
        before = outbox(conn)
        apply(conn, path, changes(wire(A, 2, name="theirs", visits=10), wire(C, 2, name="theirs"), deletes=(B,)))
        assert contacts(conn) == [(A, 2, "mine", 15), (B, 1, "kept", 1)]
        assert outbox(conn) == before  # the base of what waits stays what it was


def test_fresh_load_drops_what_it_did_not_bring_unless_edits_wait(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        apply(conn, path, changes(*(wire(row, 5, name="old") for row in (A, B, C))), base=None)
        conn.execute("UPDATE contact SET name = 'mine' WHERE id = ?", (B,))
        changed = apply(conn, path, changes(wire(A, 2, name="restored")), base=None)
        assert contacts(conn) == [
            (A, 2, "restored", None),
            (B, 5, "mine", None),
        ]  # a restored server may have older revisions
        assert changed["contact"].deleted_ids == (C,)


def test_fresh_load_of_nothing_empties_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        apply(conn, path, changes(wire(A, 1)), base=None)
        apply(conn, path, {}, base=None)
        assert contacts(conn) == []


def test_resumed_run_does_not_undo_what_was_acknowledged_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        apply(conn, path, changes(wire(A, 3, name="acknowledged")), base=None)
        apply(conn, path, changes(wire(A, 2, name="staged before")))
        assert contacts(conn) == [(A, 3, "acknowledged", None)]


def test_bulk_load_keeps_triggers_indexes_and_columns_of_the_application(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    rows = [wire(row, 1, name="x") for row in ids(2_000)]
    with closing(enrolled(path)) as conn:
        conn.execute("CREATE INDEX by_name ON contact (name)")
        conn.execute("ALTER TABLE contact ADD COLUMN mine TEXT DEFAULT 'local'")
        conn.execute("CREATE TABLE search (name TEXT)")
        conn.execute("CREATE TRIGGER fill AFTER INSERT ON contact BEGIN INSERT INTO search VALUES (NEW.name); END")
        apply(conn, path, changes(*rows), base=None)
        assert conn.execute("SELECT count(*) FROM search").fetchone() == (2_000,)
        assert conn.execute("SELECT DISTINCT mine FROM contact").fetchall() == [("local",)]
        conn.execute("UPDATE contact SET mine = 'edited', name = 'y' WHERE id = ?", (A,))
        assert [m["set"] for m in outbox(conn)] == [{"name": "y"}]
        apply(conn, path, changes(wire(A, 2, name="z", visits=1)))
        assert conn.execute("SELECT mine, name, visits FROM contact WHERE id = ?", (A,)).fetchone() == (
            "edited",
            "y",
            1,
        )
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_bulk_load_counts_instead_of_listing(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        changed = apply(conn, path, changes(*(wire(row, 1) for row in ids(10_001))), base=None)
        assert (changed["contact"].upserted, changed["contact"].upserted_ids) == (10_001, None)


@pytest.mark.parametrize(
    "page",
    [
        {"invoice": {"upserts": [{"id": A, "_rev": 1}], "deletes": []}},
        changes({**wire(A, 1), "city": "MVD"}),
        changes({"id": A, "_rev": 1, "name": "x"}),
    ],
    ids=["new entity", "new field", "field gone"],
)
def test_page_of_another_schema_is_noticed(tmp_path: Path, page: dict[str, Any]) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn, pytest.raises(SchemaMoved):
        apply(conn, path, page)


@pytest.mark.parametrize("base", [None, "t0"], ids=["first load", "later run"])
def test_deletes_of_an_entity_that_is_no_more_are_passed_over(tmp_path: Path, base: str | None) -> None:
    path = tmp_path / "r.db"
    gone = {"invoice": {"upserts": [], "deletes": [A]}}
    with closing(enrolled(path)) as conn:
        assert set(apply(conn, path, gone, {**gone, **changes(wire(B, 1))}, gone, base=base)) >= {"contact"}
        assert [row[0] for row in contacts(conn)] == [B]
        assert database.read_state(conn).token == "t3"


def test_sync_goes_on_where_rows_of_an_entity_that_is_no_more_are_deleted(tmp_path: Path) -> None:
    server = FakeServer(changes=[{"invoice": {"upserts": [], "deletes": [A]}}])
    report = server.replica(tmp_path / "r.db").sync()
    assert not report.reloaded and server.paths().count("/sync/pull") == 1
    server.changes = [{"invoice": {"upserts": [{"id": A, "_rev": 1}], "deletes": []}} for _ in range(3)]
    with pytest.raises(ProtocolError, match="invoice"):
        server.replica(tmp_path / "r.db").sync()


def test_value_of_a_wrong_shape_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        with pytest.raises(ProtocolError, match="contact"):
            apply(conn, path, changes(wire(A, 1, name={"first": "Ana"})))
        assert contacts(conn) == []


LOADER = """
import sys, time
from syncdevice import database
from syncdevice import stage as module
from tests.unit.syncdevice_support import changes, ids, wire
module.SAVE_SECONDS = 0.0
conn = database.connect(sys.argv[1])
stage = module.Stage(conn, sys.argv[1], database.read_state(conn).entities, None)
for n, row in enumerate(ids(100_000)):
    stage.lay(changes(wire(row, 1)), f"t{n + 1}", last=False)
    print(n, flush=True)
"""


def test_killed_load_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    root = Path(__file__).parents[2]
    source = os.pathsep.join([str(root), str(Path(database.__file__).parents[1])])
    with closing(enrolled(path)) as conn:
        loader = subprocess.Popen(
            [sys.executable, "-c", LOADER, str(path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}
        )
        assert loader.stdout is not None
        with loader.stdout as lines:
            for line in lines:
                if int(line) == 20:
                    loader.send_signal(signal.SIGKILL)
                    break
            told = [20, *(int(line) for line in lines if line.endswith(b"\n"))]
        loader.wait(30)
        assert contacts(conn) == []
        stage = Stage(conn, str(path), database.read_state(conn).entities, None)
        assert stage.rows >= told[-1] + 1
        assert stage.token == f"t{stage.rows}"
        stage.lay({}, "end", last=True)
        stage.merge(NOW)
        assert [row[0] for row in contacts(conn)] == ids(len(contacts(conn)))
        assert len(contacts(conn)) >= 21


@pytest.mark.parametrize("content", [b"", b"torn by a power failure" * 1000])
def test_stage_that_is_torn_or_of_another_run_is_read_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.db"
    with closing(enrolled(path)) as conn:
        (tmp_path / "r.db-stage").write_bytes(content)
        stage = Stage(conn, str(path), database.read_state(conn).entities, "t0")
        assert (stage.token, stage.rows) == ("t0", 0)
        stage.lay(changes(wire(A, 1)), "t1", last=False)
        stage.close()
        other = Stage(conn, str(path), database.read_state(conn).entities, "t9")
        assert (other.token, other.rows) == ("t9", 0)
        assert not list(tmp_path.glob("*-stage*"))
