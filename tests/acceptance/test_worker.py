"""`manage.py worker` as real processes, which are killed, stopped, and run beside each other."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.acceptance.fleet_support import Deployment, answering, made_of_northwind, move

pytestmark = pytest.mark.slow
ORDERS = 830
SECONDS_MAX = 90  # for anything to happen on a busy machine
NIGHTLY = "0 3 * * *"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Deployment]:
    """One store with all of Northwind's orders, which is due."""
    settings = {"WORKER_DEAD_SECONDS": "3", "WORKER_STOP_SECONDS": "2"}
    with made_of_northwind(tmp_path, 1, **settings) as stores:
        stores.rows("UPDATE legacy_branch SET schedule = %s RETURNING 1", NIGHTLY)
        yield stores


@contextmanager
def working(stores: Deployment) -> Iterator["subprocess.Popen[str]"]:
    """A worker; killed with all that it started where the test did not end it."""
    process = stores.start("worker")
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(what: Callable[[], object], process: "subprocess.Popen[str]", stores: Deployment) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not what():
        assert process.poll() is None, f"the worker ended:\n{stores.log()[-4000:]}"
        assert time.monotonic() < deadline, f"nothing happened:\n{stores.log()[-4000:]}"


def states(stores: Deployment) -> list[str]:
    return [state for (state,) in stores.rows("SELECT state FROM legacy_run ORDER BY started_at")]


def jobs(stores: Deployment) -> list[tuple[str, int]]:
    query = "SELECT status::text, attempts FROM procrastinate_jobs WHERE task_name = 'legacy.sync' ORDER BY id"
    return [(status, attempts) for status, attempts in stores.rows(query)]


def orders(stores: Deployment) -> int:
    return int(stores.rows("SELECT count(*) FROM entities_order")[0][0])


def links(stores: Deployment) -> int:
    return int(stores.rows("SELECT count(*) FROM legacy_link")[0][0])


@pytest.mark.legacy("L2")
@pytest.mark.legacy("F17")
def test_run_of_a_killed_worker_is_taken_up_by_the_next_and_nothing_is_twice(one: Deployment) -> None:
    with working(one) as first:
        until(lambda: links(one), first, one)  # its customers are known, and its orders are still to come
        family = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert psutil.wait_procs(family, timeout=20)[1] == []
    assert orders(one) < ORDERS
    assert (states(one), jobs(one)) == (["running"], [("doing", 0)])
    with working(one) as second:
        until(lambda: "done" in states(one), second, one)
    assert states(one) == ["killed", "done"]
    assert orders(one) == ORDERS
    assert one.rows("SELECT number FROM entities_order GROUP BY 1 HAVING count(*) > 1") == []
    assert one.rows("SELECT count(*) FROM legacy_deadletter") == [(0,)]


def test_worker_that_is_told_to_stop_gives_back_what_does_not_end_in_time(one: Deployment) -> None:
    file = one.folder / "stores" / "s01.sqlite"
    with answering(None) as hanging:
        move(one, "s01", f"postgresql://sync:hunter2@127.0.0.1:{hanging}/pos", 60)
        with working(one) as first:
            until(lambda: states(one) == ["running"], first, one)
            first.send_signal(signal.SIGTERM)
            assert first.wait(SECONDS_MAX) == 0
    assert (states(one), jobs(one)) == (["killed"], [("todo", 1)])
    move(one, "s01", f"sqlite:///{file}", 60)
    with working(one) as second:
        until(lambda: "done" in states(one), second, one)
    assert orders(one) == ORDERS
    assert "hunter2" not in one.log()


def test_worker_that_is_told_to_stop_ends_what_it_has_begun(one: Deployment) -> None:
    one.environment["WORKER_STOP_SECONDS"] = str(SECONDS_MAX)
    with working(one) as worker:
        until(lambda: links(one), worker, one)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS_MAX) == 0
    assert (states(one), orders(one), jobs(one)) == (["done"], ORDERS, [])


@pytest.mark.legacy("L1")
@pytest.mark.legacy("F16")
def test_two_workers_share_what_is_due_and_each_store_is_run_once(tmp_path: Path) -> None:
    with made_of_northwind(tmp_path, 6) as stores:
        stores.rows("UPDATE legacy_branch SET schedule = %s RETURNING 1", NIGHTLY)
        with working(stores) as first, working(stores) as second:
            until(lambda: states(stores).count("done") == 6, first, stores)
            assert second.poll() is None
            until(lambda: not jobs(stores), first, stores)
        assert stores.rows("SELECT system, count(*), min(trigger) FROM legacy_run GROUP BY 1 ORDER BY 1") == [
            (f"store-s{n:02}", 1, "schedule") for n in range(1, 7)
        ]
        told = [json.loads(line) for line in stores.log().splitlines() if '"sync_legacy"' in line]
        assert {each["state"] for each in told} == {"done"}


def test_button_asks_the_worker_where_there_is_one(one: Deployment) -> None:
    is_there = "from sync.operations import worker_is_there; print(worker_is_there())"
    press = f"{is_there}; from legacy import button; button.sync_now(['store-s01'])"
    with working(one) as worker:
        until(lambda: states(one) == ["done"], worker, one)
        assert one.manage("shell", "--no-imports", "-c", press) == "True\n"
        until(lambda: states(one) == ["done", "done"], worker, one)
    assert one.rows("SELECT trigger FROM legacy_run ORDER BY started_at") == [("schedule",), ("button",)]
