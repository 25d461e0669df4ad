"""What waits is pushed in order until nothing waits, and what the server says of it gets into the file."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from syncdevice import ProtocolError, Replica, database, group
from syncdevice.errors import BatchTooLarge
from syncdevice.push import push_outbox
from syncdevice.transport import Transport

from tests.unit.syncdevice_support import enrolled, ids, outbox, wire

A, B, C = ids(3)
NOW = "2026-11-21T09:00:00.000000Z"
Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Server:
    """Takes the place of the network: answers every mutation with `answer`, takes `most` in a batch."""

    def __init__(self, answer: Answer, most: int = 1_000) -> None:
        self.answer, self.most = answer, most
        self.batches: list[list[dict[str, Any]]] = []

    def push(self, body: bytes) -> list[dict[str, Any]]:
        mutations = json.loads(body)["mutations"]
        if len(mutations) > self.most:
            raise BatchTooLarge(413, "batch_too_large", "too many")
        self.batches.append(mutations)
        return [{"id": m["id"], **self.answer(m)} for m in mutations]


def applied(_mutation: dict[str, Any]) -> dict[str, Any]:
    return {"status": "applied", "rev": 8}


def put(conn: sqlite3.Connection, row: str, rev: int = 7, name: str = "server") -> None:
    with database.applying(conn):
        conn.execute("INSERT INTO contact (id, _rev, name, visits) VALUES (?, ?, ?, 1)", (row, rev, name))


def push(conn: sqlite3.Connection, server: Server) -> dict[str, int]:
    entities = database.read_state(conn).entities
    return dict(push_outbox(conn, cast(Transport, server), entities, lambda: NOW, lambda _done, _changes: None))


def contacts(conn: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT id, _rev, name, visits FROM contact ORDER BY id").fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.db"


def test_applied_mutation_leaves_and_its_revision_is_the_next_base(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'one'")
        conn.execute("UPDATE contact SET name = 'two'")
        server = Server(applied)
        assert push(conn, server) == {"applied": 2}
        assert [(m["base"], m["set"]) for m in server.batches[0]] == [(7, {"name": "one"}), (7, {"name": "two"})]
        assert outbox(conn) == []
        conn.execute("UPDATE contact SET name = 'three'")
        assert outbox(conn)[0]["base"] == 8
        assert Replica(path).outcomes() == []


def test_edit_made_during_the_push_keeps_its_base_and_stays_in_sight(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'one', visits = visits + 2")
        late = [("UPDATE contact SET name = 'late', visits = visits + 3", ())]

        def answer(mutation: dict[str, Any]) -> dict[str, Any]:
            if late:
                with closing(Replica(path).connect()) as own, own:
                    own.execute(*late.pop())
                return {"status": "merged", "rev": 9, "row": wire(A, 9, name="one", visits=50)}
            assert (mutation["base"], mutation["set"]) == (7, {"name": "late"})
            assert contacts(conn) == [(A, 9, "late", 53)]
            return {"status": "applied", "rev": 10}

        assert push(conn, Server(answer)) == {"merged": 1, "applied": 1}
        assert contacts(conn) == [(A, 10, "late", 53)]


def test_rejected_edit_gives_way_and_stays_readable(path: Path) -> None:
    error = {"field": "name", "code": "invalid_value", "message": "Too long."}
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'bad', visits = 9 WHERE id = ?", (A,))
        conn.execute("INSERT INTO contact (id, name) VALUES (?, 'bad too')", (B,))
        rows: dict[str, Any] = {A: wire(A, 8, name="theirs"), B: None}
        push(conn, Server(lambda m: {"status": "rejected", "errors": [error], "row": rows[m["row"]]}))
        assert contacts(conn) == [(A, 8, "theirs", None)]
        first, second = Replica(path).outcomes("rejected")
        assert (first.entered, first.added, first.errors) == ({"name": "bad"}, {"visits": 8}, [error])
        assert (second.op, second.entered, second.server_row) == ("create", {"name": "bad too"}, None)


def test_conflict_shows_the_servers_row(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        put(conn, B)
        conn.execute("UPDATE contact SET name = 'mine'")
        rows: dict[str, Any] = {A: wire(A, 9, name="theirs"), B: None}
        push(conn, Server(lambda m: {"status": "conflict", "conflict": C, "row": rows[m["row"]]}))
        assert contacts(conn) == [(A, 9, "theirs", None)]
        assert [o.conflict for o in Replica(path).outcomes("conflict")] == [C, C]


def test_replayed_answer_undoes_nothing_newer(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        put(conn, B)
        conn.execute("UPDATE contact SET name = 'mine'")
        with database.applying(conn):  # pulled since
            conn.execute("UPDATE contact SET _rev = 12, name = 'newest'")
        rows: dict[str, Any] = {A: wire(A, 9, name="older"), B: None}
        push(conn, Server(lambda m: {"status": "conflict", "conflict": C, "row": rows[m["row"]], "replayed": True}))
        assert contacts(conn) == [(A, 12, "newest", 1), (B, 12, "newest", 1)]


def test_conflict_in_part_shows_what_was_written_of_it_under_what_waits(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'mine', credit = '3.00'")
        late = ["UPDATE contact SET tags = '[1]'", "UPDATE contact SET visits = visits + 4"]

        def answer(mutation: dict[str, Any]) -> dict[str, Any]:
            if late:
                with closing(Replica(path).connect()) as own, own:
                    for statement in late:
                        own.execute(statement)
                late.clear()
                return {"status": "conflict", "conflict": C, "row": wire(A, 9, name="theirs", credit="3.00", visits=2)}
            assert mutation["base"] == 7
            seen = conn.execute("SELECT _rev, name, credit, tags, visits FROM contact").fetchall()
            assert seen == [(9, "theirs", "3.00", "[1]", 6)]
            return {"status": "merged", "rev": 11, "row": wire(A, 11, name="theirs", credit="3.00", tags=[1], visits=6)}

        assert push(conn, Server(answer)) == {"conflict": 1, "merged": 2}
        assert conn.execute("SELECT _rev, tags, visits FROM contact").fetchall() == [(11, "[1]", 6)]
        assert [o.state for o in Replica(path).outcomes()] == ["mixed", "device", "device"]
        conn.execute("UPDATE contact SET name = 'next'")
        assert outbox(conn)[0]["base"] == 11


def test_merged_row_that_the_user_deletes_meanwhile_stays_deleted(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'mine'")
        late = ["DELETE FROM contact"]
        told: list[Any] = []

        def answer(mutation: dict[str, Any]) -> dict[str, Any]:
            if late:
                with closing(Replica(path).connect()) as own, own:
                    own.execute(late.pop())
                return {"status": "merged", "rev": 9, "row": wire(A, 9, name="mine", visits=8)}
            assert (mutation["op"], mutation["base"], contacts(conn)) == ("delete", 7, [])
            return {"status": "conflict", "conflict": C, "row": wire(A, 9, name="mine", visits=8)}

        entities = database.read_state(conn).entities
        server = cast(Transport, Server(answer))
        push_outbox(conn, server, entities, lambda: NOW, lambda _, changes: told.append(changes))
        assert contacts(conn) == [(A, 9, "mine", 8)]  # others had changed it: the server kept the row
        assert told[0] == {}
        assert told[1]["contact"].upserted_ids == (A,)


def test_merged_delete_has_no_row_and_changes_nothing_here(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("DELETE FROM contact")
        told: list[Any] = []
        server = cast(Transport, Server(lambda m: {"status": "merged", "rev": 9, "row": None}))
        push_outbox(
            conn, server, database.read_state(conn).entities, lambda: NOW, lambda _, changes: told.append(changes)
        )
        assert (contacts(conn), told) == ([], [{}])
        assert [(o.status, o.state, o.rev) for o in Replica(path).outcomes()] == [("merged", "device", 9)]
        assert conn.execute("SELECT * FROM _sync_missing").fetchall() == []


def test_row_that_is_made_again_while_its_merged_delete_is_answered_stays(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("DELETE FROM contact")

        def answer(mutation: dict[str, Any]) -> dict[str, Any]:
            if mutation["op"] == "delete":
                with closing(Replica(path).connect()) as own, own:
                    own.execute("INSERT INTO contact (id, name) VALUES (?, 'again')", (A,))
                return {"status": "merged", "rev": 9, "row": None}
            assert contacts(conn) == [(A, None, "again", None)]
            return {"status": "applied", "rev": 10}

        push(conn, Server(answer))
        assert contacts(conn) == [(A, 10, "again", None)]


def test_edit_that_waits_stays_in_sight_when_the_row_before_it_was_deleted(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'mine'")
        late = ["UPDATE contact SET name = 'late'"]

        def answer(mutation: dict[str, Any]) -> dict[str, Any]:
            if late:
                with closing(Replica(path).connect()) as own, own:
                    own.execute(late.pop())
            else:
                assert contacts(conn) == [(A, 7, "late", 1)]
            return {"status": "conflict", "conflict": C, "row": None}

        push(conn, Server(answer))
        assert contacts(conn) == []
        assert [o.entered for o in Replica(path).conflicts()] == [{"name": "mine"}, {"name": "late"}]


@pytest.mark.parametrize("status", ["conflict", "merged"])
def test_repeated_answer_without_the_row_has_a_pull_tell_what_became_of_it(path: Path, status: str) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        conn.execute("UPDATE contact SET name = 'mine'")
        push(conn, Server(lambda m: {"status": status, "conflict": C, "row": None, "replayed": True}))
        assert contacts(conn) == []  # its scope may have been taken away, and be back before the pull
        assert conn.execute("SELECT * FROM _sync_missing").fetchall() == [("contact", A)]


def test_results_of_one_batch_end_with_the_last_state_of_a_row(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        put(conn, A)
        for name in ("one", "two", "three"):
            conn.execute("UPDATE contact SET name = ?", (name,))
        now = wire(A, 11, name="three", visits=2)  # the row of every answer is that at the end of the batch
        answers: list[dict[str, Any]] = [
            {"status": "merged", "rev": 9, "row": now},
            {"status": "conflict", "conflict": C, "row": now},
            {"status": "applied", "rev": 11},
        ]
        push(conn, Server(lambda _: answers.pop(0)))
        assert contacts(conn) == [(A, 11, "three", 2)]


def test_resent_mutations_are_the_same_to_the_byte(path: Path) -> None:
    sent: list[bytes] = []
    with closing(enrolled(path)) as conn:
        conn.execute(
            "INSERT INTO contact (id, name, credit, tags) VALUES (?, 'é', '1.50', '{\"b\": 1, \"a\": 2.0}')", (A,)
        )

        def lose(request: httpx.Request) -> httpx.Response:
            sent.append(request.read().split(b'"mutations"')[1])
            raise httpx.ReadError("lost")

        lossy = Transport("http://server.test", "t", http=httpx.MockTransport(lose), retry_seconds=0.0)
        for _ in range(2):
            with pytest.raises(Exception, match="sync again later"):
                push(conn, cast(Server, lossy))
        lossy.close()
        assert sent[0] == sent[1]
        assert len(outbox(conn)) == 1


def test_group_stays_whole_in_smaller_batches(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        for n, row in enumerate(ids(30)):
            if n == 10:
                with group(conn):
                    conn.executemany("INSERT INTO contact (id) VALUES (?)", [(i,) for i in ids(35)[30:]])
            conn.execute("INSERT INTO contact (id) VALUES (?)", (row,))
        order = [m["row"] for m in outbox(conn)]
        server = Server(applied, most=6)
        assert push(conn, server) == {"applied": 35}
        assert [m["row"] for batch in server.batches for m in batch] == order
        assert [{m["row"] for m in batch if "group" in m} for batch in server.batches if "group" in str(batch)] == [
            set(ids(35)[30:])
        ]


@pytest.mark.parametrize("count", [1, 8, 1_001])
def test_what_no_batch_can_hold_is_set_aside_and_the_rest_goes_on(path: Path, count: int) -> None:
    with closing(enrolled(path)) as conn:
        database.set_state(conn, token="t1")
        with group(conn):
            conn.executemany("INSERT INTO contact (id) VALUES (?)", [(i,) for i in ids(count)])
        conn.execute("INSERT INTO contact (id, name) VALUES (?, 'fits')", (ids(count + 1)[-1],))

        def refuse_groups(mutation: dict[str, Any]) -> dict[str, Any]:
            if "group" in mutation:
                raise BatchTooLarge(413, "batch_too_large", "too large")
            return applied(mutation)

        assert push(conn, Server(refuse_groups)) == {"rejected": count, "applied": 1}
        assert {o.errors[0]["code"] for o in Replica(path).outcomes()} == {"batch_too_large"}
        assert database.read_state(conn).token is None  # only a fresh load can say what the server has


def test_group_left_open_ends_with_the_push(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        conn.execute('UPDATE "_sync_state" SET "group" = ?', (C,))
        conn.execute("INSERT INTO contact (id) VALUES (?)", (A,))
        push(conn, Server(applied))
        conn.execute("INSERT INTO contact (id) VALUES (?)", (B,))
        assert "group" not in outbox(conn)[0]


@pytest.mark.parametrize(
    "answer",
    [lambda _: {"status": "perhaps"}, lambda _: {"id": "another", "status": "applied"}, lambda _: {}],
)
def test_answer_that_does_not_match_keeps_the_outbox(path: Path, answer: Answer) -> None:
    with closing(enrolled(path)) as conn:
        conn.execute("INSERT INTO contact (id) VALUES (?)", (A,))
        with pytest.raises(ProtocolError, match="upgrade"):
            push(conn, Server(answer))
        assert len(outbox(conn)) == 1


def test_text_that_is_no_utf8_does_not_block_the_outbox(path: Path) -> None:
    with closing(enrolled(path)) as conn:
        conn.execute("INSERT INTO contact (id, name) VALUES (?, CAST(x'41ff' AS TEXT))", (A,))
        server = Server(applied)
        push(conn, server)
        assert server.batches[0][0]["set"]["name"].startswith("A")
