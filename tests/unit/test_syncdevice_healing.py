"""What a device keeps of what the server has, and how it brings it back to one that was restored."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from syncdevice import NotReachable, Replica, database, healing
from syncdevice.reports import SyncReport

from tests.unit.syncdevice_server import FakeServer, problem
from tests.unit.syncdevice_support import ids

A, B, C = ids(3)


@pytest.fixture
def server() -> FakeServer:
    revs = iter(range(1, 1_000))
    return FakeServer(answer=lambda _: {"status": "applied", "rev": next(revs)})


@pytest.fixture
def replica(server: FakeServer, tmp_path: Path) -> Replica:
    return server.replica(tmp_path / "device.db")


def do(replica: Replica, *statements: str) -> None:
    with closing(replica.connect()) as conn:
        for statement in statements:
            conn.execute(statement)
        conn.commit()


def made(replica: Replica, *rows: str) -> None:
    do(replica, *(f"INSERT INTO contact (id, name) VALUES ('{row}', 'mine')" for row in rows))


def kept(replica: Replica) -> list[tuple[str, int]]:
    with closing(replica.connect()) as conn:
        return conn.execute('SELECT "row", "rev" FROM "_sync_acknowledged" ORDER BY "seq"').fetchall()


def pushed(server: FakeServer) -> list[dict[str, Any]]:
    return [json.loads(request.read()) for request in server.seen if request.url.path == "/sync/push"]


def mutations(server: FakeServer) -> list[tuple[str, str, int | None]]:
    return [(m["row"], m["op"], m.get("lost")) for body in pushed(server) for m in body["mutations"]]


def restored(server: FakeServer, replica: Replica, *lost: str) -> SyncReport:
    """Sync with a server that was restored, and knows nothing of these rows any more."""
    with closing(replica.connect()) as conn:
        query = 'SELECT "id" FROM "_sync_acknowledged" WHERE "row" = ?'
        server.unknown = {id for row in lost for (id,) in conn.execute(query, (row,))}
    server.seen.clear()
    expired = [problem(410, "token_expired", restored=True)]
    server.refuse = lambda r: expired.pop() if expired and r.url.path in {"/sync/push", "/sync/pull"} else None
    return replica.sync()


def test_what_is_applied_or_merged_is_kept_with_its_revision_and_the_rest_is_not(
    server: FakeServer, replica: Replica
) -> None:
    merged = {"status": "merged", "rev": 5, "row": None}
    answers: dict[str, Any] = {A: {"status": "applied", "rev": 4}, B: merged, C: {"status": "rejected"}}
    server.answer = lambda m: answers[m["row"]]
    made(replica, A, B, C)
    replica.sync()
    assert kept(replica) == [(A, 4), (B, 5)]
    assert replica.status().acknowledged == 2


def test_what_is_older_than_the_days_is_forgotten(server: FakeServer, replica: Replica) -> None:
    made(replica, A)
    replica.sync()
    with closing(database.connect(replica.path)) as conn:
        now = datetime.now(UTC)
        healing.prune(conn, now + timedelta(days=6.9), 7)
        assert kept(replica) == [(A, 1)]
        healing.prune(conn, now + timedelta(days=7.1), 7)
        assert kept(replica) == []
    replica.acknowledged_days = 0
    made(replica, B)
    replica.sync()
    assert kept(replica) == []


def test_push_tells_how_far_the_device_has_read(server: FakeServer, replica: Replica) -> None:
    made(replica, A)
    replica.sync()
    assert [body["token"] for body in pushed(server)] == ["t1"]


@pytest.mark.parametrize("waiting", [True, False], ids=["told by the push", "told by the pull"])
def test_restored_server_gets_back_what_it_does_not_know_before_what_waits(
    server: FakeServer, replica: Replica, waiting: bool
) -> None:
    made(replica, A, B)
    do(replica, f"UPDATE contact SET name = 'again' WHERE id = '{B}'")
    replica.sync()
    if waiting:
        do(replica, f"UPDATE contact SET name = 'waits' WHERE id = '{B}'")
    report = restored(server, replica, B)
    assert report.healed == 2 and report.reloaded
    later = [(B, "update", 0)] if waiting else []
    assert mutations(server)[1 if waiting else 0 :] == [(B, "create", 2), (B, "update", 3), *later]
    assert server.paths().index("/sync/unknown") < len(server.paths()) - 1 - server.paths()[::-1].index("/sync/pull")
    assert [rev for row, rev in kept(replica) if row == B][:2] == [4, 5]
    assert replica.sync().healed == 0


def test_what_is_entered_after_the_fresh_load_is_not_of_before(server: FakeServer, replica: Replica) -> None:
    restored(server, replica)
    made(replica, A)
    replica.sync()
    assert mutations(server) == [(A, "create", None)]


@pytest.mark.protocol("R3")
@pytest.mark.parametrize("second", [{}, {"restored": True}], ids=["then too old", "restored again"])
def test_what_is_entered_until_the_fresh_load_is_whole_is_of_before(
    server: FakeServer, replica: Replica, second: dict[str, Any]
) -> None:
    made(replica, A)
    replica.sync()
    answers = [problem(410, "token_expired", restored=True), problem(410, "token_expired", **second)]
    answers.append(problem(503, "service_unavailable"))
    server.refuse = lambda request: answers.pop(0) if answers and request.url.path == "/sync/pull" else None
    with pytest.raises(NotReachable):
        replica.sync()
    server.seen.clear()
    do(replica, f"UPDATE contact SET name = 'before it is whole' WHERE id = '{A}'")
    replica.sync()
    made(replica, B)
    replica.sync()
    assert mutations(server) == [(A, "update", 0), (B, "create", None)]


@pytest.mark.protocol("R3")
def test_what_is_entered_about_a_row_that_a_push_brought_up_to_date_is_not_of_before(
    server: FakeServer, replica: Replica
) -> None:
    made(replica, A)
    made(replica, B)
    replica.sync()
    answers = [problem(410, "token_expired", restored=True), *[problem(503, "service_unavailable")] * 2]
    server.refuse = lambda request: answers.pop(0) if answers and request.url.path == "/sync/pull" else None
    for name in ("at first", "up to date by then"):
        do(replica, f"UPDATE contact SET name = '{name}' WHERE id = '{A}'")
        with pytest.raises(NotReachable):
            replica.sync()
    server.seen.clear()
    for row in (A, B):
        do(replica, f"UPDATE contact SET name = 'at last' WHERE id = '{row}'")
    replica.sync()
    assert mutations(server) == [(A, "update", None), (B, "update", 0)]


@pytest.mark.protocol("R3")
def test_what_was_not_of_before_when_it_was_entered_is_not_after_the_fresh_load(
    server: FakeServer, replica: Replica
) -> None:
    made(replica, A)
    replica.sync()
    answers = [problem(410, "token_expired", restored=True), problem(503, "service_unavailable")]
    entered: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/sync/pull":
            return None
        if not answers and not entered:  # the row has come back from the push, and the load is under way
            entered.append(A)
            do(replica, f"UPDATE contact SET name = 'while it loads' WHERE id = '{A}'")
        return answers.pop(0) if answers else None

    server.refuse = refuse
    do(replica, f"UPDATE contact SET name = 'at first' WHERE id = '{A}'")
    with pytest.raises(NotReachable):
        replica.sync()
    do(replica, f"UPDATE contact SET name = 'of before' WHERE id = '{A}'")
    server.seen.clear()
    replica.sync()
    replica.sync()
    assert mutations(server)[-1] == (A, "update", None)


@pytest.mark.protocol("R3")
@pytest.mark.parametrize(("told", "lost"), [({"restored": True}, 0), ({}, None)], ids=["restored", "only too old"])
def test_what_is_entered_between_the_last_push_and_the_end_of_the_fresh_load_is_of_before(
    server: FakeServer, replica: Replica, told: dict[str, Any], lost: int | None
) -> None:
    restored(server, replica)
    made(replica, A)
    replica.sync()
    answers = [problem(410, "token_expired", **told)]

    def refuse(request: httpx.Request) -> httpx.Response | None:
        if request.url.path == "/sync/pull":
            if answers:
                return answers.pop()
            do(replica, f"UPDATE contact SET name = 'while it loads' WHERE id = '{A}'")
        return None

    server.refuse = refuse
    replica.sync()
    server.refuse = lambda _: None
    server.seen.clear()
    made(replica, B)
    replica.sync()
    assert mutations(server) == [(A, "update", lost), (B, "create", None)]


def test_load_that_breaks_off_at_its_last_statement_leaves_the_mark(server: FakeServer, replica: Replica) -> None:
    full = """CREATE TRIGGER full BEFORE UPDATE OF "applying" ON "_sync_state"
        WHEN NOT new."applying" AND new."token" IS NOT NULL BEGIN SELECT RAISE(ABORT, 'disk full'); END"""
    do(replica, full)
    with pytest.raises(sqlite3.Error, match="disk full"):
        restored(server, replica)
    do(replica, "DROP TRIGGER full")
    made(replica, A)
    replica.sync()
    assert mutations(server) == [(A, "create", 0)]


def test_what_a_restored_server_refuses_is_an_outcome_and_is_not_offered_again(
    server: FakeServer, replica: Replica
) -> None:
    made(replica, A)
    replica.sync()
    server.answer = lambda _: {
        "status": "rejected",
        "errors": [{"field": None, "code": "forbidden_scope", "message": ""}],
    }
    assert restored(server, replica, A).outcomes == {"rejected": 1}
    assert [outcome.row for outcome in replica.rejections()] == [A]
    assert kept(replica) == []


def test_group_is_brought_back_whole(server: FakeServer, replica: Replica) -> None:
    with closing(replica.connect()) as conn, Replica.group(conn):
        conn.execute(f"INSERT INTO contact (id) VALUES ('{A}')")
        conn.execute(f"INSERT INTO contact (id) VALUES ('{B}')")
    replica.sync()
    restored(server, replica, A, B)
    (body,) = pushed(server)
    assert len({m["group"] for m in body["mutations"]}) == 1


def test_device_that_is_enrolled_anew_at_the_same_server_offers_what_it_has(
    server: FakeServer, replica: Replica
) -> None:
    made(replica, A)
    replica.sync()
    with closing(database.connect(replica.path)) as conn:
        new = {"device": "d2", "token": "secret2", "scopes": ["global"]}
        database.save_enrolment(conn, "http://server.test", None, new)
        server.unknown = {id for (id,) in conn.execute('SELECT "id" FROM "_sync_acknowledged"')}
    replica.sync()  # makes the tables of the new enrolment
    with closing(database.connect(replica.path)) as conn:
        database.save_enrolment(conn, "http://another.test", None, new)
    assert mutations(server)[-1] == (A, "create", 1)
    replica.sync()
    assert kept(replica) == []


def test_older_server_that_knows_nothing_of_it_is_pushed_to_as_ever(server: FakeServer, replica: Replica) -> None:
    def refuse(request: httpx.Request) -> httpx.Response | None:
        if request.url.path == "/sync/unknown":
            return problem(404, "not_found")
        return problem(400, "unknown_field") if b'"token"' in request.read() or b'"lost"' in request.read() else None

    server.refuse = refuse
    made(replica, A)
    assert replica.sync().pushed == 1
    with closing(database.connect(replica.path)) as conn:
        healing.lose_position(conn, restored=True)
    do(replica, f"UPDATE contact SET name = 'again' WHERE id = '{A}'")
    assert replica.sync().pushed == 1


def test_edits_are_not_marked_as_lost_where_the_token_was_only_too_old(server: FakeServer, replica: Replica) -> None:
    replica.sync()
    do(replica, f"INSERT INTO contact (id, name) VALUES ('{A}', 'offline')")
    for restored, upto in ((False, 0), (True, 1)):
        with closing(database.connect(replica.path)) as conn:
            healing.lose_position(conn, restored)
            assert bool(healing.lost_upto(conn)) is bool(upto)
