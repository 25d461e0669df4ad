"""What is old is forgotten in short steps, beside traffic, and nobody misses a deletion."""

import json
import threading
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from devices.models import Device
from entities.models import Contact
from sync.prune import prune
from tests.integration.sync_support import TestDevice, create, delete, new_id, settled, update

pytestmark = pytest.mark.django_db(transaction=True)


def sql(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def aged() -> None:
    """All that was deleted so far was deleted long ago."""
    sql("DELETE FROM sync_tick")
    settled()
    horizon = "pg_snapshot_xmin(pg_current_snapshot())"
    sql(f"INSERT INTO sync_tick (at, horizon) VALUES (now() - interval '1 year', {horizon})")


def tombstones() -> int:
    return int(sql("SELECT count(*) FROM sync_feed WHERE data IS NULL")[0][0])


def gone(count: int) -> list[str]:
    """Rows that were deleted, and are all that there is to forget."""
    aged()
    prune()
    rows = [Contact.objects.create(id=new_id(), first_name="gone").pk for _ in range(count)]
    Contact.objects.filter(pk__in=rows).delete()
    return [str(row) for row in rows]


def test_prune_takes_a_few_rows_at_a_time_and_takes_them_all(settings: Settings) -> None:
    settings.SYNC_PRUNE_ROWS_MAX = 2
    gone(5)
    aged()
    steps: list[tuple[str, int]] = []
    assert prune(lambda *step: steps.append(step))["tombstones"] == 5
    assert tombstones() == 0
    assert steps == [("tombstones", 2), ("tombstones", 4), ("tombstones", 5)]


def test_dry_run_says_what_would_go_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    gone(3)
    aged()
    TestDevice()
    Device.objects.update(last_seen_at="2020-01-01T00:00:00Z")
    call_command("sync_prune", "--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["counts"]["tombstones"], told["tombstones"], told["tokens"]) == (3, {"contact": 3}, 1)
    call_command("sync_prune", "--dry-run")
    shown = capsys.readouterr().out
    assert "3 tombstones (3 contact)" in shown and "1 devices were away so long" in shown
    assert tombstones() == 3


@pytest.mark.parametrize("by_push", [True, False])
def test_row_that_comes_back_after_its_tombstone_was_forgotten_goes_on_counting(by_push: bool) -> None:
    """A device may still have an edit of it with a base of before, which must not be taken for another revision."""
    device, made = TestDevice(), create()
    device.push(made, update(made["row"], 1, title="two"), delete(made["row"], 2))
    aged()
    prune()
    assert sql("SELECT FROM sync_feed WHERE row_id = %s", made["row"]) == []
    if by_push:
        assert device.push(create(row=made["row"]))[0]["rev"] == 4
    else:
        Contact.objects.create(id=made["row"], first_name="back")
    assert sql("SELECT rev FROM sync_feed WHERE row_id = %s", made["row"]) == [(4,)]
    assert sql("SELECT max(rev) FROM sync_history WHERE row_id = %s", made["row"]) == [(4,)]


def test_prune_beside_traffic_loses_no_deletion(settings: Settings) -> None:
    """Tombstones are forgotten at once; who pulls meanwhile has what there is, or is told to load afresh."""
    settings.SYNC_TOMBSTONE_AGE_DAYS_MAX = 0
    settings.SYNC_PRUNE_ROWS_MAX = 3
    reader, writer = TestDevice(), TestDevice()
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            rows: list[str] = []
            for number in range(40):
                made = create(first_name=str(number))
                rows.append(made["row"])
                assert writer.statuses(made) == ["applied"]
                if number % 3:
                    assert writer.statuses(delete(rows.pop(0), 1)) == ["applied"]
        except BaseException as failure:
            failures.append(failure)
        finally:
            stop.set()
            connection.close()

    def forget() -> None:
        try:
            while not stop.is_set():
                prune()
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=write), threading.Thread(target=forget)]
    for thread in threads:
        thread.start()
    while True:
        last = stop.is_set()
        try:
            reader.step()
        except AssertionError:
            assert reader.ask(reader.token).status_code == 410
            reader.token, reader.rows = None, {}
        if last and not any(thread.is_alive() for thread in threads):
            break
    for thread in threads:
        thread.join()
    assert failures == []
    if reader.ask(reader.token).status_code == 410:
        reader.token, reader.rows = None, {}
    reader.pull()
    assert set(reader.of("contact")) == {str(id) for id in Contact.objects.values_list("pk", flat=True)}
