"""The Python SDK checks what its file holds: what is planted there is found, repaired row by row, and told."""

import gzip
import json
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connections
from django.test import Client
from syncdevice import Change, CheckReport, Damaged, Replica, check, database
from syncdevice.cli import main

from devices.enroll import create_code
from entities.models import Contact, Product
from sync.models import Mismatch
from tests.integration.sync_support import contact, sql

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 200
MANY = 3_000
Hook = Callable[[httpx.Request], httpx.Response | None]


class Server(httpx.BaseTransport):
    """This process's server, as a device reaches it. `hook` sees each request first, and may answer it."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.hook: Hook = lambda _: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.seen.append(request)
        try:
            if answer := self.hook(request):
                return answer
            headers = {name: value for name, value in request.headers.items() if name != "host"}
            target, kind = request.url.raw_path.decode(), headers.get("content-type", "")
            told: Any = Client().generic(request.method, target, body, kind, headers=headers)
            return httpx.Response(told.status_code, content=told.content, headers=dict(told.headers))
        finally:
            if threading.current_thread() is not threading.main_thread():
                connections.close_all()

    def asked(self, path: str) -> list[httpx.Request]:
        return [request for request in self.seen if request.url.path == path]

    def rows_asked(self) -> dict[str, list[str]]:
        """The ids that /sync/rows was asked for, by entity."""
        asked: dict[str, list[str]] = {}
        for request in self.asked("/sync/rows"):
            content = request.content
            if request.headers.get("content-encoding") == "gzip":
                content = gzip.decompress(content)
            for name, ids in json.loads(content).items():
                asked.setdefault(name, []).extend(ids)
        return {name: sorted(ids) for name, ids in asked.items()}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def replica(server: Server, tmp_path: Path) -> Iterator[Replica]:
    """A device that has loaded some contacts and products."""
    sql("DELETE FROM sync_feed")  # what other tests left in it
    contacts(ROWS)
    for number in range(5):
        Product.objects.create(code=str(number), name="P")
    made = Replica.enroll(
        "http://server.test", create_code(["global"]), tmp_path / "r.db", name="r", http=server, retry_seconds=0
    )
    made.check_days = None
    made.sync()
    server.seen.clear()
    yield made


def contacts(count: int) -> None:
    sql(
        "INSERT INTO entities_contact (id, first_name, last_name, title, email, phone, note)"
        " SELECT gen_random_uuid(), 'A', '', '', '', '', '' FROM generate_series(1, %s)",
        [count],
    )


def plant(replica: Replica, statement: str, *parameters: Any) -> None:
    """Change the file behind the triggers' back, as a fault would."""
    with closing(database.connect(replica.path)) as conn, database.applying(conn):
        conn.execute(statement, parameters)


def do(replica: Replica, statement: str, *parameters: Any) -> list[Any]:
    with closing(replica.connect()) as conn:
        rows = conn.execute(statement, parameters).fetchall()
        conn.commit()
        return rows


def outbox(replica: Replica) -> list[Any]:
    return do(replica, 'SELECT "row", "op", "base", "set" FROM "_sync_outbox" ORDER BY "seq"')


def held(replica: Replica, table: str = "contact") -> dict[str, list[Any]]:
    name = "first_name" if table == "contact" else "name"
    return {row: values for row, *values in do(replica, f"SELECT id, _rev, {name} FROM {table}")}


def on_server() -> dict[str, list[Any]]:
    found = sql("SELECT row_id::text, rev, data::json->>'first_name' FROM sync_feed"
                " WHERE entity = 'contact' AND data IS NOT NULL")  # fmt: skip
    return {row: values for row, *values in found}


def counts(report: CheckReport) -> dict[str, tuple[int, int, int]]:
    return {name: (d.changed, d.missing, d.surplus) for name, d in report.differences.items()}


def once(path: str, act: Callable[[], object]) -> Hook:
    """A hook that acts at the first request of a path."""
    left = [act]

    def hook(request: httpx.Request) -> None:
        if request.url.path == path and left:
            left.pop()()

    return hook


@pytest.mark.protocol("D3")
def test_what_is_planted_in_the_file_is_found_and_repaired_row_by_row(server: Server, replica: Replica) -> None:
    contacts(MANY - ROWS)
    replica.sync()
    ids = sorted(held(replica))
    changed, missing, surplus = ids[10:2000:600], ids[5:2900:900], [str(uuid.uuid4()) for _ in range(3)]
    plant(replica, "UPDATE contact SET _rev = 7, first_name = 'torn' WHERE id IN (?, ?)", *changed[:2])
    plant(replica, "UPDATE contact SET _rev = 0 WHERE id IN (?, ?)", *changed[2:])
    for row in missing:
        plant(replica, "DELETE FROM contact WHERE id = ?", row)
    for row in surplus:
        plant(replica, "INSERT INTO contact (id, _rev, first_name) VALUES (?, 3, 'ghost')", row)
    (product,) = list(held(replica, "product"))[:1]
    plant(replica, "UPDATE product SET _rev = 2 WHERE id = ?", product)
    told: dict[str, Change] = {}
    phases: set[str] = set()
    report = replica.check(lambda step: phases.add(step.phase), told.update)
    assert report.checked
    assert report.repaired
    assert counts(report) == {"contact": (len(changed), len(missing), 3), "product": (1, 0, 0)}
    assert report.differences["contact"].rows[changed[0]] == (7, 1)
    assert server.rows_asked() == {"contact": sorted([*changed, *missing, *surplus]), "product": [product]}
    assert held(replica) == on_server()
    assert held(replica, "product")[product] == [1, "P"]
    assert set(told["contact"].upserted_ids or ()) == {*changed, *missing}
    assert set(told["contact"].deleted_ids or ()) == set(surplus)
    assert "check" in phases
    assert outbox(replica) == []
    kept = {each.entity: each for each in Mismatch.objects.all()}
    assert (kept["contact"].changed, kept["contact"].missing, kept["contact"].surplus) == (4, len(missing), 3)
    assert kept["contact"].repaired
    assert {row["id"] for row in kept["contact"].rows} == {*changed, *missing, *surplus}
    server.seen.clear()
    again = replica.check()
    assert (again.checked, again.differences, again.rows) == (True, {}, MANY + 5)
    assert [request.url.path for request in server.seen[2:]] == ["/sync/digest"]


def test_a_file_of_another_world_is_repaired_whole(server: Server, replica: Replica, monkeypatch: Any) -> None:
    monkeypatch.setattr(check, "ASKED_ROWS", 64)
    plant(replica, "UPDATE contact SET _rev = 9 WHERE _rev = 1")
    report = replica.check()
    assert counts(report) == {"contact": (ROWS, 0, 0)}
    assert report.repaired
    assert len(report.differences["contact"].rows) == 50
    assert len(server.asked("/sync/rows")) == 4
    assert held(replica) == on_server()


def test_where_very_many_rows_differ_everything_is_loaded_anew(
    server: Server, replica: Replica, monkeypatch: Any
) -> None:
    monkeypatch.setattr(check, "REPAIRED_ROWS", 20)
    mine = sorted(held(replica))[0]
    plant(replica, "UPDATE contact SET _rev = 9, first_name = 'torn'")
    server.hook = once("/sync/digest", lambda: do(replica, "UPDATE contact SET first_name = 'mine' WHERE id = ?", mine))
    report = replica.check()
    assert report.repaired
    assert not server.asked("/sync/rows")
    assert held(replica) == on_server() | {mine: [1, "mine"]}
    assert len(outbox(replica)) == 1


def test_a_row_whose_id_is_no_uuid_is_taken_away(replica: Replica) -> None:
    plant(replica, "INSERT INTO contact (id, _rev, first_name) VALUES ('x y', 'odd', 'ghost')")
    report = replica.check()
    assert counts(report) == {"contact": (0, 0, 1)}
    assert report.repaired
    assert held(replica) == on_server()
    assert Mismatch.objects.get().rows == []


def test_edits_that_wait_are_no_difference(server: Server, replica: Replica) -> None:
    edited, gone, replaced = sorted(held(replica))[:3]

    def edit() -> None:
        do(replica, "UPDATE contact SET first_name = 'mine' WHERE id = ?", edited)
        do(replica, "DELETE FROM contact WHERE id = ?", gone)
        do(replica, "INSERT INTO contact (first_name) VALUES ('unacknowledged')")
        do(replica, "INSERT OR REPLACE INTO contact (id, first_name) VALUES (?, 'replaced')", replaced)

    server.hook = once("/sync/digest", edit)
    report = replica.check()
    assert (report.checked, report.differences, report.waiting) == (True, {}, 0)
    assert len(server.asked("/sync/digest")) == 1
    assert len(outbox(replica)) == 4


def test_rows_with_waiting_edits_are_left_alone_and_no_edit_is_lost(server: Server, replica: Replica) -> None:
    edited, other = sorted(held(replica))[:2]
    plant(replica, "UPDATE contact SET _rev = 5 WHERE id IN (?, ?)", edited, other)
    server.hook = once(
        "/sync/digest", lambda: do(replica, "UPDATE contact SET first_name = 'mine' WHERE id = ?", edited)
    )
    report = replica.check()
    assert counts(report) == {"contact": (1, 0, 0)}
    assert report.waiting == 1
    assert server.rows_asked() == {"contact": [other]}
    assert held(replica)[edited] == [5, "mine"]
    assert [(row, base) for row, _, base, _ in outbox(replica)] == [(edited, 5)]
    assert replica.check().checked
    assert held(replica) == on_server()


def test_an_edit_that_comes_during_the_repair_stays_on_top(server: Server, replica: Replica) -> None:
    row, gone = sorted(held(replica))[:2]
    ghost = str(uuid.uuid4())
    plant(replica, "UPDATE contact SET _rev = 5, first_name = 'torn' WHERE id IN (?, ?)", row, gone)
    plant(replica, "INSERT INTO contact (id, _rev, first_name) VALUES (?, 3, 'ghost')", ghost)

    def edit() -> None:
        do(replica, "UPDATE contact SET first_name = 'mine' WHERE id IN (?, ?)", row, ghost)
        do(replica, "DELETE FROM contact WHERE id = ?", gone)

    server.hook = once("/sync/rows", edit)
    replica.check()
    assert held(replica)[row] == [1, "mine"]
    assert gone not in held(replica)
    assert held(replica)[ghost] == [None, "mine"]
    assert {(row, op) for row, op, _, _ in outbox(replica)} == {(row, "update"), (ghost, "update"), (gone, "delete")}


def test_the_repair_tears_nothing_that_was_committed_meanwhile(server: Server, replica: Replica) -> None:
    row, other = sorted(held(replica))[:2]
    plant(replica, "DELETE FROM contact WHERE id = ?", row)
    server.hook = once("/sync/rows", lambda: Contact.objects.filter(pk__in=[row, other]).update(first_name="both"))
    report = replica.check()
    assert report.repaired
    assert (held(replica)[row], held(replica)[other]) == ([2, "both"], [2, "both"])
    assert held(replica) == on_server()


@pytest.mark.protocol("D2")
def test_a_check_that_meets_a_change_pulls_again(server: Server, replica: Replica) -> None:
    plant(replica, "DELETE FROM contact WHERE id = ?", sorted(held(replica))[0])
    server.hook = once("/sync/digest", contact)
    assert replica.check().repaired
    assert held(replica) == on_server()


def test_a_check_among_writers_without_a_pause_gives_up(server: Server, replica: Replica) -> None:
    def write(request: httpx.Request) -> None:
        if request.url.path == "/sync/digest":
            contact()

    server.hook = write
    report = replica.check()
    assert not report.checked
    assert not report.differences
    assert len(server.asked("/sync/digest")) == 5


def test_what_cannot_be_repaired_is_told_and_ends(server: Server, replica: Replica) -> None:
    row = sorted(held(replica))[0]
    sql("UPDATE sync_feed SET rev = 4 WHERE row_id = %s", [row])
    report = replica.check()
    assert (report.checked, report.repaired) == (True, False)
    assert counts(report) == {"contact": (1, 0, 0)}
    assert not Mismatch.objects.get().repaired
    assert len(server.asked("/sync/rows")) == 1


def test_a_report_that_the_server_does_not_take_fails_no_check(server: Server, replica: Replica) -> None:
    plant(replica, "DELETE FROM contact WHERE id = ?", sorted(held(replica))[0])

    def refuse(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(429, headers={"Retry-After": "9"}) if request.url.path.endswith("mismatch") else None

    server.hook = refuse
    assert replica.check().repaired


# --- when ---


def test_sync_checks_after_a_load_and_then_daily(server: Server, replica: Replica) -> None:
    replica.check_days = 1.0

    def checks() -> int:
        server.seen.clear()
        replica.sync()
        return len(server.asked("/sync/digest"))

    assert (checks(), checks()) == (1, 0)
    plant(replica, 'UPDATE "_sync_check" SET "at" = ?', "2020-01-01T00:00:00.000000Z")
    assert (checks(), checks()) == (1, 0)
    plant(replica, 'UPDATE "_sync_check" SET "at" = ?', "2099-01-01T00:00:00.000000Z")  # a clock that was turned back
    assert (checks(), checks()) == (1, 0)
    plant(replica, 'UPDATE "_sync_state" SET "token" = NULL')
    assert (checks(), checks()) == (1, 0)
    plant(replica, 'DELETE FROM "_sync_check"')
    replica.check_days = None
    assert checks() == 0


def test_sync_repairs_by_itself_and_says_so(replica: Replica) -> None:
    plant(replica, "DELETE FROM contact WHERE id = ?", sorted(held(replica))[0])
    replica.check_days = 1.0
    report = replica.sync()
    assert report.check is not None
    assert counts(report.check) == {"contact": (0, 1, 0)}
    assert report.upserted == 1


@pytest.mark.parametrize("status", [404, 500, 400])
def test_sync_works_where_the_server_cannot_be_asked(server: Server, replica: Replica, status: int) -> None:
    def refuse(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(status, json={}) if request.url.path == "/sync/digest" else None

    server.hook = refuse
    replica.check_days = 1.0
    report = replica.sync()
    assert not (report.check and report.check.checked)
    server.seen.clear()
    replica.sync()
    assert not server.asked("/sync/digest")
    hour = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-61 minutes')"
    plant(replica, f'UPDATE "_sync_check" SET "at" = {hour}')
    replica.sync()
    assert len(server.asked("/sync/digest")) == 1


# --- values ---


def test_torn_values_under_the_same_revision_are_found_where_values_are_compared(replica: Replica) -> None:
    row = sorted(held(replica))[0]
    plant(replica, "UPDATE contact SET first_name = 'torn', met_on = '' WHERE id = ?", row)
    assert replica.check().differences == {}
    told: dict[str, Change] = {}
    report = replica.check(None, told.update, values=True)
    assert counts(report) == {"contact": (1, 0, 0)}
    assert report.differences["contact"].rows == {row: (1, 1)}
    assert report.repaired
    assert told["contact"].upserted_ids == (row,)
    assert held(replica) == on_server()
    assert replica.check(values=True).differences == {}
    assert outbox(replica) == []


def test_comparing_values_leaves_waiting_edits_alone(server: Server, replica: Replica) -> None:
    row = sorted(held(replica))[0]
    server.hook = once("/sync/digest", lambda: do(replica, "UPDATE contact SET first_name = 'mine' WHERE id = ?", row))
    assert replica.check(values=True).differences == {}
    assert held(replica)[row] == [1, "mine"]
    assert len(outbox(replica)) == 1


def test_a_torn_file_is_found(replica: Replica) -> None:
    with closing(sqlite3.connect(replica.path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = conn.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_contact_1'"
        ).fetchone()
        (size,) = conn.execute("PRAGMA page_size").fetchone()
    with Path(replica.path).open("r+b") as file:
        file.seek(root * size - 1_000)
        file.write(b"\xff" * 1_000)
    with pytest.raises(Damaged):
        replica.check(values=True)


# --- at the command line ---


def test_check_command_says_what_differed(
    server: Server, replica: Replica, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "syncdevice.cli.Replica", lambda path: Replica(path, http=server, retry_seconds=0, check_days=None)
    )
    row = sorted(held(replica))[0]
    plant(replica, "DELETE FROM contact WHERE id = ?", row)
    assert main(["check", replica.path]) == 7
    out = capsys.readouterr().out
    assert "contact: 0 changed, 1 missing, 0 surplus" in out
    assert f"{row}  revision here none, on the server 1" in out
    assert main(["check", replica.path, "--json", "--values"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["checked"], told["differences"], told["rows"]) == (True, {}, ROWS + 5)
    server.hook = lambda r: httpx.Response(404, json={}) if r.url.path == "/sync/digest" else None
    assert main(["check", replica.path]) == 1
    assert "not checked" in capsys.readouterr().out
