"""A database that was restored or replaced is noticed, whatever it was restored from."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from entities.models import Contact
from sync.epoch import begin_epoch
from sync.token import Snapshot, Token, decode, encode
from syncserver.errors import Problem
from tests.integration.sync_support import TestDevice, new_id, other_connection, settled

pytestmark = pytest.mark.django_db(transaction=True)


def sql(statement: str, *parameters: Any) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def epoch() -> object:
    return sql("SELECT id FROM sync_epoch")[0][0]


def token_of(device: TestDevice) -> Token:
    assert device.token
    return decode(device.token, [settings.SECRET_KEY.encode()])


def with_(device: TestDevice, **changes: object) -> str:
    token = token_of(device)
    members = {"epoch": token.epoch, "device": token.device, "base": token.base, "witness": token.witness}
    return encode(Token(**(members | changes)), settings.SECRET_KEY.encode())  # type: ignore[arg-type]


def started_again() -> None:
    """As if the database server had been stopped and started here: the last start becomes one of before."""
    sql("UPDATE sync_start SET started_at = started_at - interval '1 day'")
    TestDevice().pull()
    sql(
        "UPDATE sync_start SET lsn = pg_current_wal_insert_lsn(), xid = pg_snapshot_xmax(pg_current_snapshot())"
        " WHERE started_at = pg_postmaster_start_time()"
    )


def restored_from_a_copy_of(witness: str) -> None:
    """As if it had then been a copy of the files, taken when the log was where a token's witness says."""
    started_again()
    sql("UPDATE sync_start SET lsn = %s::pg_lsn WHERE started_at = pg_postmaster_start_time()", witness.split()[1])


@pytest.fixture(autouse=True)
def one_start() -> Iterator[None]:
    yield
    sql("DELETE FROM sync_start WHERE started_at <> pg_postmaster_start_time()")


@pytest.mark.protocol("P8")
def test_pull_position_of_the_future_begins_a_new_epoch_for_every_device() -> None:
    """Else the server's transactions pass the lost ones, and the other devices' tokens look right."""
    ahead, other = TestDevice(), TestDevice()
    ahead.pull()
    other.pull()
    before = epoch()
    assert ahead.ask(with_(ahead, base=Snapshot("900000000:900000000:"))).status_code == 410
    assert epoch() != before
    assert other.ask(other.token).status_code == 410


@pytest.mark.protocol("P8")
def test_pull_after_a_start_of_the_database_server_goes_on() -> None:
    device = TestDevice()
    device.pull()
    before = epoch()
    started_again()
    assert device.page(device.token)["has_more"] is False
    assert epoch() == before


@pytest.mark.protocol("P8")
def test_pull_after_a_copy_of_the_files_was_put_back_returns_410_to_who_had_read_more() -> None:
    behind = TestDevice()
    behind.pull()
    witness = token_of(behind).witness
    Contact.objects.create(id=new_id(), first_name="lost")
    ahead = TestDevice()
    sql("SELECT pg_switch_wal()")
    ahead.pull()
    restored_from_a_copy_of(witness)
    before = epoch()
    assert behind.ask(behind.token).status_code == 200
    assert ahead.ask(ahead.token).status_code == 410
    assert epoch() != before
    assert behind.ask(behind.token).status_code == 410


@pytest.mark.protocol("P8")
def test_pull_token_that_names_a_start_which_the_copy_has_lost_returns_410() -> None:
    device = TestDevice()
    device.pull()
    assert device.ask(with_(device, witness="0123456789ab 0/1")).status_code == 410


def test_idle_pull_writes_nothing_for_the_witness() -> None:
    device = TestDevice()
    device.pull()
    before = sql("SELECT count(*), max(number) FROM sync_start")
    for _ in range(3):
        device.pull()
    assert sql("SELECT count(*), max(number) FROM sync_start") == before


def test_new_epoch_stamps_anew_what_means_nothing_here_and_leaves_the_rest() -> None:
    kept = Contact.objects.create(id=new_id(), first_name="kept")
    moved = Contact.objects.create(id=new_id(), first_name="moved")
    (before,) = sql("SELECT xid::text FROM sync_feed WHERE row_id = %s", kept.pk)
    sql("UPDATE sync_feed SET xid = '900000000' WHERE row_id = %s", moved.pk)
    sql("UPDATE sync_history SET xid = 900000000 WHERE row_id = %s", moved.pk)
    steps: list[tuple[int, int]] = []
    settled()
    sql("UPDATE sync_epoch SET database_identity = 'another'")
    assert begin_epoch(progress=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1] > 0
    assert sql("SELECT xid::text FROM sync_feed WHERE row_id = %s", kept.pk) == [before]
    now = "SELECT count(*) FROM {} WHERE row_id = %s AND xid::text::numeric < 900000000"
    assert [sql(now.format(table), moved.pk) for table in ("sync_feed", "sync_history")] == [[(1,)], [(1,)]]
    device = TestDevice()
    device.pull()
    assert set(device.of("contact")) == {str(kept.pk), str(moved.pk)}


def test_new_epoch_is_begun_once_and_who_meets_it_meanwhile_gets_503() -> None:
    device = TestDevice()
    device.pull()
    sql("UPDATE sync_epoch SET database_identity = 'another'")
    with other_connection() as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('sync_epoch', 0))")
        answer = device.ask(device.token)
        assert (answer.status_code, answer["Retry-After"]) == (503, "2")
    assert device.ask(device.token).status_code == 410
    first = epoch()
    assert begin_epoch() is False
    assert epoch() == first


def test_new_epoch_of_two_processes_at_once_is_one() -> None:
    sql("UPDATE sync_epoch SET database_identity = 'another'")
    begun: list[bool] = []

    def begin() -> None:
        try:
            begun.append(begin_epoch())
        except Problem:
            begun.append(False)
        finally:
            connection.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun) == [False, False, False, True]


def test_command_says_what_it_will_do_and_needs_a_yes(capsys: pytest.CaptureFixture[str]) -> None:
    device = TestDevice()
    device.pull()
    before = epoch()
    with pytest.raises(CommandError) as refused:
        call_command("new_epoch")
    assert refused.value.returncode == 1 and epoch() == before
    assert "makes 1 devices load afresh" in capsys.readouterr().out
    call_command("new_epoch", "--yes")
    assert epoch() != before
    assert device.ask(device.token).status_code == 410
