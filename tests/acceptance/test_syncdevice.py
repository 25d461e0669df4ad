"""The Python SDK against the real server: what an application and a person at the command line see."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from syncdevice import Busy, DeviceRevoked, NotReachable, Replica, Unusable

from tests.acceptance.acceptance_support import SHARED, Server, running_server

SECONDS_MAX = 60


@pytest.fixture
def phone(server: Server, tmp_path: Path) -> Replica:
    (code,) = server.codes([SHARED])
    return Replica.enroll(server.url, code, tmp_path / "phone.db", name="phone")


@pytest.fixture
def tablet(server: Server, tmp_path: Path) -> Replica:
    (code,) = server.codes([SHARED])
    return Replica.enroll(server.url, code, tmp_path / "tablet.db", name="tablet")


def do(replica: Replica, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with closing(replica.connect()) as conn:
        rows = conn.execute(sql, parameters).fetchall()
        conn.commit()
        return rows


def new_contact(replica: Replica, name: str) -> str:
    return str(do(replica, "INSERT INTO contact (first_name) VALUES (?) RETURNING id", name)[0][0])


def test_sync_brings_an_edit_from_one_device_to_the_other_and_back(phone: Replica, tablet: Replica) -> None:
    row = new_contact(phone, "Zoë ☃")
    assert phone.sync().pushed == 1
    tablet.sync()
    assert do(tablet, "SELECT first_name, _rev FROM contact WHERE id = ?", row) == [("Zoë ☃", 1)]
    do(tablet, "DELETE FROM contact WHERE id = ?", row)
    tablet.sync()
    changed: dict[str, Any] = {}
    phone.sync(on_change=changed.update)
    assert do(phone, "SELECT * FROM contact WHERE id = ?", row) == []
    assert row in changed["contact"].deleted_ids


def test_sync_shows_the_servers_row_on_a_conflict_and_keeps_what_was_entered(phone: Replica, tablet: Replica) -> None:
    row = new_contact(phone, "first")
    phone.sync()
    tablet.sync()
    do(phone, "UPDATE contact SET title = 'phone' WHERE id = ?", row)
    do(tablet, "UPDATE contact SET title = 'tablet' WHERE id = ?", row)
    tablet.sync()
    assert phone.sync().outcomes == {"conflict": 1}
    (outcome,) = phone.outcomes("conflict")
    assert outcome.entered == {"title": "phone"}
    assert do(phone, "SELECT title FROM contact WHERE id = ?", row) == [("tablet",)]


def test_sync_tells_what_was_rejected_and_why_and_the_rest_arrives(phone: Replica, tablet: Replica) -> None:
    do(phone, "INSERT INTO contact (first_name, email) VALUES ('bad', 'no address')")
    good = new_contact(phone, "good")
    assert phone.sync().outcomes == {"rejected": 1}
    (outcome,) = phone.outcomes("rejected")
    assert [(told["field"], told["code"]) for told in outcome.errors] == [("email", "invalid_value")]
    tablet.sync()
    assert do(tablet, "SELECT first_name FROM contact WHERE id = ?", good) == [("good",)]


def test_sync_group_arrives_whole_or_not_at_all(phone: Replica, tablet: Replica) -> None:
    names = ["x" * 61, "with it"]
    with closing(phone.connect()) as conn, phone.group(conn):
        rows = [
            conn.execute("INSERT INTO contact (first_name) VALUES (?) RETURNING id", [n]).fetchone()[0] for n in names
        ]
    assert phone.sync().outcomes == {"rejected": 2}
    tablet.sync()
    assert do(tablet, "SELECT count(*) FROM contact WHERE id IN (?, ?)", *rows) == [(0,)]


def test_sync_does_not_load_afresh_for_a_row_that_the_server_never_took(phone: Replica) -> None:
    phone.sync()
    (row,) = do(phone, "INSERT INTO contact (first_name, email) VALUES ('bad', 'no address') RETURNING id")[0]
    do(phone, "UPDATE contact SET note = 'later' WHERE id = ?", row)
    report = phone.sync()
    assert (report.outcomes, report.reloaded) == ({"rejected": 2}, False)


def test_enroll_says_what_is_wrong_with_an_address_or_a_file_before_it_sends_the_code(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not a database")
    foreign.chmod(0o644)
    for url in ("http://[::1", "http://", "http://127.0.0.1:99999", "http://exa mple", "not-a-url", "ftp://x"):
        with pytest.raises(Unusable, match="no address of a server"):
            Replica.enroll(url, "CODE", tmp_path / "new.db", name="x")
    assert not (tmp_path / "new.db").exists()
    for file in (foreign, tmp_path, tmp_path / "nowhere" / "a.db"):
        with pytest.raises(Unusable, match=r"give a(nother)? file"):
            Replica.enroll("http://127.0.0.1:1", "CODE", file, name="x")
    assert foreign.read_text() == "not a database"
    assert foreign.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_sync_makes_the_table_that_an_older_replica_lacks(phone: Replica) -> None:
    phone.sync()
    do(phone, 'DROP TABLE "_sync_missing"')
    new_contact(phone, "older")
    assert phone.sync().pushed == 1


class PushOnly(httpx.HTTPTransport):
    """A network that is gone before anything can be pulled."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/sync/pull":
            raise httpx.ConnectError("gone", request=request)
        return super().handle_request(request)


@pytest.mark.parametrize(
    "edit", ["UPDATE contact SET note = 'refused' WHERE id = ?", "DELETE FROM contact WHERE id = ?"]
)
def test_sync_brings_a_row_back_whose_scope_was_away_only_while_an_edit_of_it_was_pushed(
    server: Server, phone: Replica, edit: str
) -> None:
    scope, device = "global", phone.status().device
    row = new_contact(phone, "kept")
    phone.sync()
    do(phone, edit, row)
    with server.connect() as database:
        database.execute("DELETE FROM devices_grant WHERE device_id = %s AND scope = %s", [device, scope])
        with pytest.raises(NotReachable):
            Replica(phone.path, http=PushOnly(), retry_seconds=0).sync()
        assert do(phone, "SELECT * FROM contact WHERE id = ?", row) == []
        database.execute("INSERT INTO devices_grant (device_id, scope) VALUES (%s, %s)", [device, scope])
    assert not phone.sync().reloaded
    assert do(phone, "SELECT first_name, note FROM contact WHERE id = ?", row) == [("kept", "")]
    assert [outcome.status for outcome in phone.outcomes()] == ["rejected"]


@pytest.mark.parametrize("wipe", [False, True])
def test_sync_of_a_revoked_device_stops_and_wipes_where_asked(server: Server, phone: Replica, wipe: bool) -> None:
    phone.sync()
    with server.connect() as database:
        database.execute(
            "UPDATE devices_device SET revoked_at = now(), wipe = %s WHERE id = %s", [wipe, phone.status().device]
        )
    with pytest.raises(DeviceRevoked):
        phone.sync()
    assert Path(phone.path).exists() is not wipe


def test_sync_that_is_killed_anywhere_loses_and_doubles_nothing(
    server: Server, phone: Replica, tablet: Replica
) -> None:
    entered = set()
    for number in range(8):
        entered |= {new_contact(phone, f"kill {number}.{n}") for n in range(5)}
        process = subprocess.Popen(
            [sys.executable, "-m", "syncdevice.cli", "sync", str(phone.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.08 + 0.04 * number)
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS_MAX)
    phone.sync(lock_wait=5)
    tablet.sync()
    assert {row for (row,) in do(tablet, "SELECT id FROM contact WHERE first_name LIKE 'kill %'")} == entered
    assert {rev for (rev,) in do(phone, "SELECT _rev FROM contact WHERE first_name LIKE 'kill %'")} == {1}
    assert do(phone, "PRAGMA integrity_check") == [("ok",)]


def test_sync_of_two_processes_on_one_file_exclude_each_other(phone: Replica) -> None:
    for n in range(200):
        new_contact(phone, f"two {n}")
    command = [sys.executable, "-m", "syncdevice.cli", "sync", "--json", str(phone.path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=SECONDS_MAX)
    assert {process.returncode for process in processes} <= {0, 6}
    try:
        phone.sync()
    except Busy as error:
        raise AssertionError("the lock of a process that ended is held") from error
    assert do(phone, "SELECT count(*), count(_rev), max(_rev) FROM contact WHERE first_name LIKE 'two %'") == [
        (200, 200, 1)
    ]


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with running_server(tmp_path / "server") as server:
        yield server


def test_sync_waits_in_the_outbox_while_the_server_is_down(private: Server, tmp_path: Path) -> None:
    (code,) = private.codes([SHARED])
    replica = Replica.enroll(private.url, code, tmp_path / "phone.db", name="phone", retry_seconds=0)
    new_contact(replica, "offline")
    private.kill()
    with pytest.raises(NotReachable):
        replica.sync()
    assert replica.status().pending == 1
    private.start()
    assert replica.sync().pushed == 1


def test_command_line_from_enrolment_to_log(server: Server, tmp_path: Path) -> None:
    file = str(tmp_path / "cli.db")
    (code,) = server.codes([SHARED])

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "syncdevice.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL)

    assert run("enroll", server.url, code, file, "--name", "CLI").returncode == 0
    assert run("enroll", server.url, code, str(tmp_path / "again.db"), "--name", "CLI").returncode == 5
    assert run("sync", file).returncode == 0
    do(Replica(file), "INSERT INTO contact (first_name, email) VALUES ('bad', 'no address')")
    assert json.loads(run("status", file, "--json").stdout)["pending"] == 1
    assert "1" in run("sync", file).stdout
    assert "email" in run("log", file).stdout


def test_sync_of_a_replica_that_is_older_than_what_the_server_remembers_loads_afresh_and_keeps_its_edits(
    server: Server, phone: Replica, tablet: Replica
) -> None:
    edited, deleted, deleted_too = (new_contact(phone, name) for name in ("edited", "deleted", "deleted too"))
    phone.sync()
    tablet.sync()
    do(tablet, "UPDATE contact SET note = 'offline for a year' WHERE id = ?", edited)
    do(tablet, "UPDATE contact SET note = 'edited, and gone since' WHERE id = ?", deleted)
    made = new_contact(tablet, "made offline")
    for row in (deleted, deleted_too):
        do(phone, "DELETE FROM contact WHERE id = ?", row)
    do(phone, "UPDATE contact SET phone = '1' WHERE id = ?", edited)
    phone.sync()
    with server.connect() as database:
        # As pruning leaves it: the deletions are not known any more.
        database.execute("DELETE FROM sync_feed WHERE row_id = %s", [deleted_too])
        database.execute("UPDATE sync_epoch SET forgotten_before = pg_current_xact_id()")
    report = tablet.sync()
    assert report.reloaded and report.pushed == 3
    assert do(tablet, "SELECT note, phone FROM contact WHERE id = ?", edited) == [("offline for a year", "1")]
    assert do(tablet, "SELECT note FROM contact WHERE id = ?", deleted) == [
        ("edited, and gone since",)
    ]  # the edit wins
    assert do(tablet, "SELECT 1 FROM contact WHERE id = ?", deleted_too) == []
    assert do(tablet, "SELECT 1 FROM contact WHERE id = ?", made) == [(1,)]
    with server.connect() as database:
        database.execute("UPDATE sync_epoch SET forgotten_before = '0'")
