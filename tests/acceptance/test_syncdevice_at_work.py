"""The Python SDK and the life of its device: tokens that are swapped, limits, expiry and a wipe, at a real server."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from syncdevice import DeviceRevoked, NotReachable, Replica

from tests.acceptance.acceptance_support import Server

SECONDS_MAX = 60


@pytest.fixture
def phone(server: Server, tmp_path: Path) -> Replica:
    (code,) = server.codes([["global"]])
    return Replica.enroll(server.url, code, tmp_path / "phone.db", name="phone")


@pytest.fixture
def database(server: Server) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    with server.connect() as connected:
        yield connected


def do(replica: Replica, sql: str) -> list[tuple[Any, ...]]:
    with closing(replica.connect()) as conn:
        rows = conn.execute(sql).fetchall()
        conn.commit()
        return rows


def token(replica: Replica) -> str:
    return str(do(replica, 'SELECT "device_token" FROM "_sync_state"')[0][0])


def edit(replica: Replica) -> str:
    return str(do(replica, "INSERT INTO contact (first_name) VALUES ('Ana') RETURNING id")[0][0])


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "syncdevice.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL)


def status(server: Server, secret: str) -> int:
    return httpx.get(f"{server.url}/devices/me", headers={"Authorization": f"Bearer {secret}"}).status_code


class Lossy(httpx.HTTPTransport):
    """A network that loses the answer of every rotation."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.url.path == "/devices/me/rotate":
            answer.close()
            raise httpx.ReadError("lost", request=request)
        return answer


@pytest.mark.protocol("T1")
def test_rotation_whose_answers_are_lost_locks_nobody_out(server: Server, phone: Replica) -> None:
    edit(phone)
    first = token(phone)
    with pytest.raises(NotReachable):
        Replica(phone.path, http=Lossy(), retry_seconds=0).rotate()
    assert token(phone) == first
    phone.rotate()
    assert token(phone) != first
    assert status(server, first) == 200  # until the new one is used
    assert phone.sync().pushed == 1


@pytest.mark.protocol("T1")
def test_rotation_that_arrives_twice_locks_nobody_out(server: Server, phone: Replica) -> None:
    edit(phone)
    first = token(phone)
    phone.rotate()
    late = httpx.post(f"{server.url}/devices/me/rotate", headers={"Authorization": f"Bearer {first}"})
    assert late.status_code == 200  # and the token that the device has is dead
    assert phone.sync().pushed == 1
    assert token(phone) == first
    phone.rotate()
    assert phone.sync().pushed == 0
    assert token(phone) != first


def test_sync_rotates_a_token_that_is_old_enough(phone: Replica) -> None:
    phone.sync()
    first = token(phone)
    Replica(phone.path, rotate_days=None).sync()
    phone.sync()
    assert token(phone) == first
    do(phone, """UPDATE "_sync_rotation" SET "at" = '2026-01-01T00:00:00.000000Z' RETURNING 1""")
    Replica(phone.path, rotate_days=None).sync()
    assert token(phone) == first
    phone.sync()
    second = token(phone)
    assert second != first
    phone.sync()
    assert token(phone) == second


def test_sync_goes_well_where_the_rotation_does_not(phone: Replica) -> None:
    phone.sync()
    edit(phone)
    assert Replica(phone.path, http=Lossy(), retry_seconds=0, rotate_days=0).sync().pushed == 1
    assert phone.sync().pushed == 0


@pytest.mark.protocol("T1")
def test_rotation_that_is_killed_anywhere_locks_nobody_out(phone: Replica) -> None:
    for number in range(6):
        edit(phone)
        line = [sys.executable, "-m", "syncdevice.cli", "rotate", phone.path]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.2 + 0.04 * number)
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS_MAX)
        assert phone.sync(lock_wait=5).pushed == 1
    assert command("rotate", phone.path).returncode == 0
    assert phone.sync().pushed == 0


@pytest.mark.protocol("T2")
def test_wiped_device_has_no_file_and_the_server_knows(
    phone: Replica, database: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    phone.sync()
    edit(phone)
    folder, device = Path(phone.path).parent, phone.status().device
    database.execute("UPDATE devices_device SET revoked_at = now(), wipe = true WHERE id = %s", [device])
    done = command("sync", phone.path)
    assert done.returncode == 4
    assert "data deleted here; the server knows of it" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["phone.db-lock"]
    assert database.execute("SELECT wiped_at IS NOT NULL FROM devices_device WHERE id = %s", [device]).fetchone() == (
        True,
    )


def test_wipe_is_reported_with_the_token_that_works(
    server: Server, phone: Replica, database: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    first = token(phone)
    phone.rotate()
    httpx.post(f"{server.url}/devices/me/rotate", headers={"Authorization": f"Bearer {first}"}).raise_for_status()
    database.execute("UPDATE devices_device SET revoked_at = now(), wipe = true WHERE id = %s", [phone.status().device])
    with pytest.raises(DeviceRevoked) as raised:
        phone.sync()
    assert (raised.value.wiped, raised.value.reported, Path(phone.path).exists()) == (True, True, False)


class Unreported(httpx.HTTPTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/devices/me/wiped":
            raise httpx.ConnectError("gone", request=request)
        return super().handle_request(request)


def test_device_is_wiped_where_the_server_cannot_be_told(
    phone: Replica, database: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    database.execute("UPDATE devices_device SET revoked_at = now(), wipe = true WHERE id = %s", [phone.status().device])
    with pytest.raises(DeviceRevoked) as raised:
        Replica(phone.path, http=Unreported(), retry_seconds=0).rotate()
    assert (raised.value.wiped, raised.value.reported, Path(phone.path).exists()) == (True, False, False)


@pytest.mark.protocol("T3")
def test_expired_device_is_refused_and_enrolled_anew_sends_what_waited(
    server: Server, phone: Replica, database: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    phone.sync()
    row = edit(phone)
    database.execute(
        "UPDATE devices_device SET last_seen_at = now() - interval '181 days' WHERE id = %s", [phone.status().device]
    )
    with pytest.raises(DeviceRevoked) as raised:
        phone.sync()
    assert not raised.value.wiped
    assert phone.status().pending == 1
    (code,) = server.codes([["global"]])
    assert Replica.enroll(server.url, code, phone.path, name="phone again").sync().pushed == 1
    found = database.execute("SELECT first_name FROM entities_contact WHERE id = %s", [row]).fetchone()
    assert found == ("Ana",)


@pytest.mark.protocol("T4")
def test_changes_over_the_limit_wait_in_the_outbox_and_go_later(
    phone: Replica, database: "psycopg.Connection[tuple[Any, ...]]"
) -> None:
    phone.sync()
    edit(phone)
    database.execute(
        "INSERT INTO devices_usage (device_id, kind, at, hour, day) VALUES (%s, 'changes', now(), 0, 500000)",
        [phone.status().device],
    )
    with pytest.raises(NotReachable) as raised:
        phone.sync()
    assert raised.value.retry_after is not None
    assert 0 < raised.value.retry_after <= 86_400
    done = command("sync", phone.path)
    assert done.returncode == 3
    assert "too many requests or changes (429); edits wait in the outbox, sync again in " in done.stderr
    assert phone.status().pending == 1
    database.execute("UPDATE devices_usage SET at = at - interval '1 day'")
    assert phone.sync().pushed == 1
