"""What became of a change is asked, kept with its cursor, told to the application once, and forgotten in time."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from syncdevice import DeviceRevoked, NotReachable, Outcome, ProtocolError, Replica, database, fates

from tests.simulation.faults import run_and_kill
from tests.unit.syncdevice_server import FakeServer, fate, problem
from tests.unit.syncdevice_support import changes, ids, wire

A, B, C = ids(3)
ERROR = {"field": "name", "code": "invalid_value", "message": "Too long."}


def answer(mutation: dict[str, Any]) -> dict[str, Any]:
    """Row A meets a conflict, row B is refused, row C is merged, any other is applied."""
    theirs = wire(mutation["row"], 8, name="theirs")
    answers: dict[str, dict[str, Any]] = {
        A: {"status": "conflict", "conflict": C, "state": "open", "row": theirs},
        B: {"status": "rejected", "errors": [ERROR], "row": None},
        C: {"status": "merged", "rev": 8, "row": wire(C, 8, name="mine", visits=5)},
    }
    return answers.get(mutation["row"], {"status": "applied", "rev": 1})


def edited(replica: Replica, *rows: str) -> dict[str, str]:
    """Let the user make these rows; the ids of the mutations by row."""
    with closing(replica.connect()) as conn, conn:
        conn.executemany("INSERT INTO contact (id, name) VALUES (?, 'mine')", [(row,) for row in rows])
        return dict(conn.execute('SELECT "row", "id" FROM "_sync_outbox"').fetchall())


def query(replica: Replica, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(replica.connect()) as conn, conn:
        return conn.execute(sql, values).fetchall()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(answer)


@pytest.fixture
def replica(server: FakeServer, tmp_path: Path) -> Replica:
    return server.replica(tmp_path / "r.db")


# Asking -----------------------------------------------------------------------------------------------------------


def test_device_whose_changes_were_all_applied_makes_no_extra_request(server: FakeServer, replica: Replica) -> None:
    edited(replica, ids(4)[3])
    replica.sync()
    replica.sync()
    assert "/sync/outcomes" not in server.paths()


@pytest.mark.parametrize("row", [A, B, C])
def test_what_may_still_change_is_asked_after_the_pull(server: FakeServer, replica: Replica, row: str) -> None:
    edited(replica, row)
    replica.sync()
    assert server.paths()[-2:] == ["/sync/pull", "/sync/outcomes"]


def test_what_was_never_sent_is_not_asked(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    server.refuse = lambda r: problem(413, "batch_too_large") if r.url.path == "/sync/push" else None
    replica.sync()
    assert "/sync/outcomes" not in server.paths()
    (outcome,) = replica.rejections()
    assert (outcome.state, outcome.reasons[0]["code"]) == ("local", "batch_too_large")


def test_pages_are_read_to_the_end_and_the_next_sync_goes_on_there(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    server.fates = [fate(mutation, state, n) for n, state in enumerate(["server", "open", "device"])]
    server.page = 2
    assert replica.sync().decided == 3
    server.fates.append(fate(mutation, "mixed", 3, by="bob", comment="Half of it."))
    assert (replica.sync().decided, replica.sync().decided) == (1, 0)
    assert server.cursors() == [None, "2", "3", "4"]
    (outcome,) = replica.conflicts()
    assert (outcome.state, outcome.by, outcome.comment, outcome.rev) == ("mixed", "bob", "Half of it.", 9)
    assert outcome.decided_at == "2026-11-21T09:00:03.000000Z"


def test_what_is_told_is_in_the_table_already(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    server.fates = [fate(mutation, "device")]
    server.changes = [changes(wire(A, 8, name="theirs")), changes(wire(A, 9, name="mine"))]
    told: list[Any] = []
    replica.sync(on_outcome=lambda o: told.extend(query(replica, "SELECT name, _rev FROM contact WHERE id = ?", o.row)))
    assert told == [("mine", 9)]


@pytest.mark.parametrize("missing", [problem(404, "not_found"), httpx.Response(404, text="Not Found")], ids=str)
def test_older_server_that_tells_nothing_is_tolerated(
    server: FakeServer, replica: Replica, missing: httpx.Response
) -> None:
    edited(replica, A)
    server.refuse = lambda r: missing if r.url.path == "/sync/outcomes" else None
    assert replica.sync().outcomes == {"conflict": 1}
    assert replica.conflicts()[0].state == "open"


def test_cursor_that_the_server_does_not_take_is_given_up_and_nothing_is_told_twice(
    server: FakeServer, replica: Replica
) -> None:
    mutation = edited(replica, A)[A]
    server.fates = [fate(mutation, "server")]
    told: list[Outcome] = []
    replica.on_outcome = told.append
    replica.sync()
    server.fates.append(fate(mutation, "device", 1))
    server.refuse = lambda r: problem(400, "invalid_request") if r.url.params.get("since") == "1" else None
    replica.sync()
    assert server.cursors() == [None, "1", None]
    assert [outcome.state for outcome in told] == ["server", "device"]


def test_new_epoch_keeps_the_outcomes_and_reads_them_anew(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    server.fates = [fate(mutation, "server")]
    replica.sync()
    expired = [problem(410, "token_expired")]
    server.refuse = lambda r: expired.pop() if expired and r.url.path == "/sync/pull" else None
    server.fates.append(fate(mutation, "device", 1))
    assert replica.sync().reloaded
    assert server.cursors() == [None, None]
    assert [outcome.state for outcome in replica.conflicts()] == ["device"]


def test_device_that_enrolled_anew_begins_anew_and_keeps_its_outcomes(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    server.fates = [fate(mutation, "server")]
    replica.sync()
    with closing(database.connect(replica.path)) as conn:
        new = {"device": "d2", "token": "secret2", "scopes": ["global"]}
        database.save_enrolment(conn, "http://server.test", None, new)
    replica.sync()
    assert server.cursors() == [None, None]
    assert [outcome.state for outcome in replica.conflicts()] == ["server"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"outcomes": {}, "cursor": "1", "has_more": False},
        {"outcomes": [], "cursor": 1},
        {"outcomes": [{"outcome": "server"}], "cursor": "1", "has_more": False},
        {"outcomes": ["server"], "cursor": "1", "has_more": False},
        {"outcomes": [{**fate(A, "server"), "rev": "x"}], "cursor": "1", "has_more": False},
        {"outcomes": [], "cursor": "1", "has_more": True},  # the same again and again
    ],
)
def test_answer_that_is_no_page_of_outcomes_is_an_error_and_keeps_what_is_known(
    server: FakeServer, replica: Replica, body: dict[str, Any]
) -> None:
    edited(replica, A)
    server.refuse = lambda r: httpx.Response(200, json=body) if r.url.path == "/sync/outcomes" else None
    with pytest.raises(ProtocolError):
        replica.sync()
    assert replica.conflicts()[0].state == "open"
    assert replica.status().pending == 0


def test_fate_of_a_change_that_the_application_deleted_is_passed_over(server: FakeServer, replica: Replica) -> None:
    gone, kept = edited(replica, A, B).values()
    replica.sync()
    query(replica, "DELETE FROM _sync_outcome WHERE id = ?", gone)
    server.fates = [fate(gone, "device"), fate(kept, "replayed", 1)]
    assert replica.sync().decided == 1
    assert [(o.id, o.state) for o in replica.outcomes()] == [(kept, "replayed")]


# Telling ----------------------------------------------------------------------------------------------------------


def test_each_event_is_told_once_in_order_after_its_commit(server: FakeServer, replica: Replica) -> None:
    a, b, _ = edited(replica, A, B, C).values()
    server.fates = [fate(a, "server"), fate(b, "discarded", 1)]
    told: list[tuple[str, str, str]] = []
    for kind in ("on_conflict", "on_rejection", "on_outcome"):
        setattr(replica, kind, lambda o, kind=kind: told.append((kind, o.row, o.state)))
    replica.sync()
    replica.sync()
    expected = [("on_conflict", A, "open"), ("on_rejection", B, "open")]
    assert told == [*expected, ("on_outcome", A, "server"), ("on_outcome", B, "discarded")]


def test_callback_of_one_sync_goes_before_that_of_the_replica(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    told: list[str] = []
    replica.on_conflict = lambda _: told.append("replica")
    replica.sync(on_conflict=lambda _: told.append("sync"))
    assert told == ["sync"]


def test_event_without_a_callback_waits_for_one(server: FakeServer, replica: Replica) -> None:
    edited(replica, A, B)
    replica.sync()
    told: list[Outcome] = []
    replica.sync(on_rejection=told.append)
    replica.sync(on_conflict=told.append, on_rejection=told.append)
    assert [outcome.status for outcome in told] == ["rejected", "conflict"]


def test_event_is_told_also_where_the_network_fails_after_it(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    server.refuse = lambda r: httpx.Response(503) if r.url.path == "/sync/pull" else None
    told: list[Outcome] = []
    with pytest.raises(NotReachable):
        replica.sync(on_conflict=told.append)
    server.refuse = lambda _: None
    replica.sync(on_conflict=told.append)
    assert [outcome.entered for outcome in told] == [{"name": "mine"}]


def test_revoked_device_tells_nothing(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    server.refuse = lambda r: problem(401, "device_revoked") if r.url.path == "/sync/pull" else None
    told: list[Outcome] = []
    with pytest.raises(DeviceRevoked):
        replica.sync(on_conflict=told.append)
    assert told == []


def test_event_whose_callback_raised_is_told_again_and_the_sync_is_done(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    told: list[Outcome] = []

    def fail(outcome: Outcome) -> None:
        told.append(outcome)
        raise KeyError(outcome.id)

    with pytest.raises(KeyError):
        replica.sync(on_conflict=fail)
    assert replica.status().last_sync_at is not None
    replica.sync(on_conflict=told.append)
    replica.sync(on_conflict=told.append)
    assert len(told) == 2


def test_callback_may_dismiss_what_it_is_told(server: FakeServer, replica: Replica) -> None:
    server.fates = [fate(edited(replica, A)[A], "server")]
    told: list[str] = []

    def seen(outcome: Outcome) -> None:
        told.append(outcome.state)
        assert replica.dismiss(outcome.id)  # and with it the decision, which was there already

    replica.sync(on_conflict=seen, on_outcome=seen)
    assert told == ["open"]
    assert replica.conflicts() == []


@pytest.mark.slow
def test_sync_that_is_killed_at_any_statement_tells_everything_and_keeps_each_fate_once(tmp_path: Path) -> None:
    server = FakeServer(answer, page=1)
    first = server.replica(tmp_path / "first.db")
    a, b, c = edited(first, A, B, C).values()
    server.fates = [fate(a, "server"), fate(b, "replayed", 1), fate(c, "mixed", 2), fate(a, "device", 3)]
    for statement in range(1, 1_000):
        path, log = tmp_path / f"{statement}.db", tmp_path / f"{statement}.log"
        shutil.copy(first.path, path)
        replica = server.replica(path)

        def note(outcome: Outcome, log: Path = log) -> None:
            with log.open("a") as file:
                file.write(f"{outcome.row} {outcome.state}\n")

        replica.on_conflict = replica.on_rejection = replica.on_outcome = note
        how = run_and_kill(replica.sync, statement)
        told_before = log.read_text().splitlines() if log.exists() else []
        replica.sync()
        told = log.read_text().splitlines()
        wanted = [f"{A} open", f"{B} open", f"{A} server", f"{B} replayed", f"{C} mixed", f"{A} device"]
        # Killed between a callback and the note of it, that one event is told a second time, first of all.
        again = told[len(told_before) :][:1] if len(told) > len(wanted) else []
        assert told_before + told[len(told_before) + len(again) :] == wanted, statement
        assert again in ([], told_before[-1:]), statement
        steps = query(replica, "SELECT mutation, state FROM _sync_fate WHERE NOT answer ORDER BY seq")
        assert steps == [(a, "server"), (b, "replayed"), (c, "mixed"), (a, "device")], statement
        assert query(replica, "SELECT min(told) FROM _sync_fate") == [(1,)]
        if how == "finished":
            break
    assert statement > 30


def test_merge_of_which_the_user_did_not_get_all_is_told_as_a_conflict(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    server.answer = lambda m: {"status": "merged", "rev": 8, "row": wire(A, 8, name="mine and theirs")}
    told: list[Outcome] = []
    replica.sync(on_conflict=told.append)
    assert [outcome.server for outcome in told] == [{"name": "mine and theirs"}]
    assert [outcome.state for outcome in replica.conflicts()] == ["mixed"]


# Seeing and forgetting --------------------------------------------------------------------------------------------


def test_lists_show_what_the_user_has_not_seen(server: FakeServer, replica: Replica) -> None:
    a, b, c = edited(replica, A, B, C).values()
    replica.sync()
    assert [o.id for o in replica.conflicts()] == [a]  # a merge in which nothing was in dispute is none
    assert [o.id for o in replica.rejections(unresolved_only=True)] == [b]
    assert [o.id for o in replica.outcomes()] == [a, b, c]
    assert replica.dismiss(a)
    assert not replica.dismiss("nothing")
    assert replica.conflicts() == []
    assert [o.dismissed for o in replica.conflicts(dismissed=True)] == [True]
    server.fates = [fate(a, "device"), fate(c, "mixed", 1)]
    replica.sync()
    assert [(o.id, o.state) for o in replica.conflicts()] == [(a, "device"), (c, "mixed")]
    assert replica.conflicts(unresolved_only=True) == []


def test_dismissing_what_was_seen_hides_no_decision_that_came_meanwhile(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    replica.sync()
    (seen,) = replica.conflicts()
    server.fates = [fate(mutation, "device")]
    replica.sync()
    assert replica.dismiss(seen)
    assert [outcome.state for outcome in replica.conflicts()] == ["device"]
    told: list[Outcome] = []
    replica.sync(on_conflict=told.append, on_outcome=told.append)
    assert [outcome.state for outcome in told] == ["device"]


def test_lists_of_a_replica_that_has_no_tables_yet_are_empty(tmp_path: Path) -> None:
    path = str(tmp_path / "r.db")
    database.create_private(path)
    with closing(database.connect(path)) as conn:
        database.save_enrolment(conn, "http://x", None, {"device": "d", "token": "secret", "scopes": []})
    assert (Replica(path).conflicts(), Replica(path).rejections(), Replica(path).dismiss(A)) == ([], [], False)


def test_older_replica_is_taken_up_and_its_old_outcomes_are_news_to_nobody(
    server: FakeServer, replica: Replica
) -> None:
    mutation = edited(replica, A)[A]
    replica.sync()
    for table in ("_sync_fate", "_sync_dismissed", "_sync_cursor"):
        query(replica, f"DROP TABLE {table}")
    (outcome,) = replica.conflicts()
    assert (outcome.id, outcome.entered, outcome.state) == (mutation, {"name": "mine"}, "server")
    server.fates = [fate(mutation, "device")]
    told: list[Outcome] = []
    replica.sync(on_conflict=told.append, on_outcome=told.append)
    assert [outcome.state for outcome in told] == ["device"]


def test_old_outcomes_go_once_they_are_decided_and_never_before(server: FakeServer, replica: Replica) -> None:
    a, b, c = edited(replica, A, B, C).values()
    server.fates = [fate(a, "server")]
    replica.sync()
    old = (datetime.now(UTC) - timedelta(days=91)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    query(replica, "UPDATE _sync_fate SET received_at = ?", old)
    kept = Replica(replica.path, http=httpx.MockTransport(server), outcome_days=None)
    kept.sync()
    assert [o.id for o in replica.outcomes()] == [a, b, c]
    replica.sync()
    assert [o.id for o in replica.outcomes()] == [b]
    assert query(replica, "SELECT DISTINCT mutation FROM _sync_fate") == [(b,)]


def test_decision_that_came_late_is_kept_from_the_day_it_was_learnt(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    replica.sync()
    query(replica, "UPDATE _sync_fate SET received_at = '2020-01-01T00:00:00.000000Z'")
    server.fates = [fate(mutation, "server", at=1)]
    replica.sync()
    replica.sync()
    assert [o.state for o in replica.conflicts()] == ["server"]


def test_what_the_server_never_had_stays_until_the_user_has_seen_it(server: FakeServer, replica: Replica) -> None:
    mutation = edited(replica, A)[A]
    server.refuse = lambda r: problem(413, "batch_too_large") if r.url.path == "/sync/push" else None
    replica.sync()
    query(replica, "UPDATE _sync_fate SET received_at = '2020-01-01T00:00:00.000000Z'")
    replica.sync()
    assert len(replica.rejections()) == 1
    replica.dismiss(mutation)
    query(replica, "UPDATE _sync_dismissed SET at = '2020-01-01T00:00:00.000000Z'")
    replica.sync()
    assert replica.outcomes() == []


def test_what_others_had_written_goes_with_the_row_and_what_the_user_entered_stays(
    server: FakeServer, replica: Replica
) -> None:
    edited(replica, A, C)
    replica.sync()
    server.changes = [changes(deletes=(A,))]
    replica.sync()
    gone, stays = replica.outcomes()
    assert (gone.entered, gone.server_row) == ({"name": "mine"}, None)
    assert gone.reasons[0]["code"] == "deleted"
    assert stays.server == {"name": "mine"}


def test_idle_sync_with_known_outcomes_writes_nothing_of_them(server: FakeServer, replica: Replica) -> None:
    server.fates = [fate(edited(replica, A)[A], "server")]
    replica.sync()
    with closing(sqlite3.connect(replica.path)) as conn:
        (before,) = conn.execute("SELECT group_concat(seq || state) FROM _sync_fate").fetchone()
        statements: list[str] = []
        with closing(database.connect(replica.path)) as own:
            own.set_trace_callback(statements.append)
            assert fates.can_change(own)
            fates.tell(own, None, None, None)
            fates.prune(own, datetime.now(UTC), 90)
        assert not [s for s in statements if s.startswith(("INSERT", "UPDATE", "DELETE", "BEGIN"))]
        assert conn.execute("SELECT group_concat(seq || state) FROM _sync_fate").fetchone() == (before,)


def test_outcome_is_plain_json(server: FakeServer, replica: Replica) -> None:
    edited(replica, A)
    replica.sync()
    (outcome,) = replica.conflicts()
    assert json.loads(json.dumps(outcome.server)) == {"name": "theirs"}
