"""Fifty stores, each a SQLite file of its own with its share of Northwind's orders, and what goes wrong with some."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.acceptance.acceptance_support import ROOT
from tests.acceptance.fleet_support import Deployment, answering, made_of_northwind, move

pytestmark = pytest.mark.slow
STORES = 50
ORDERS = 830
POLL_SECONDS = 0.1  # between two looks at what other processes do
TIMEOUT_SECONDS = 8  # longer than a store's first run takes on a busy machine


@pytest.fixture
def fifty(tmp_path: Path) -> Iterator[Deployment]:
    with made_of_northwind(tmp_path, STORES) as stores:
        yield stores


@pytest.fixture
def ten(tmp_path: Path) -> Iterator[Deployment]:
    with made_of_northwind(tmp_path, 10) as stores:
        yield stores


def base(stores: Deployment, name: str) -> Path:
    return stores.folder / "stores" / f"{name}.sqlite"


def execute(stores: Deployment, name: str, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(base(stores, name))) as connection, connection:
        return connection.execute(sql).fetchall()


def orders(stores: Deployment) -> dict[str, int]:
    return dict(stores.rows("SELECT split_part(number, '-', 1), count(*) FROM entities_order GROUP BY 1"))


@pytest.mark.legacy("L7")
@pytest.mark.legacy("F20")
def test_fifty_stores_of_which_six_fail_each_in_its_own_way(fifty: Deployment) -> None:
    stores = fifty
    base(stores, "s02").unlink()  # the file server of the store is down
    execute(stores, "s03", "ALTER TABLE products RENAME COLUMN unit_price TO price")  # changed overnight
    base(stores, "s04").write_bytes(b"<html>Not a database</html>" * 400)
    with answering(None) as hanging, answering(b"HTTP/1.1 200 OK\r\n\r\n<html>") as wrong, answering(b"") as gone:
        move(stores, "s01", f"postgresql://sync:hunter2@127.0.0.1:{hanging}/pos", TIMEOUT_SECONDS)
        move(stores, "s05", f"postgresql://sync:hunter2@127.0.0.1:{wrong}/pos", 60)
        move(stores, "s06", f"postgresql://sync:hunter2@127.0.0.1:{gone}/pos", 60)
        told = stores.sync("--kind", "store", "--parallel", "3", code=3)
    assert len(told) == STORES
    bad = {name.removeprefix("store-"): each["state"] for name, each in told.items() if each["state"] != "done"}
    assert bad == {
        "s01": "unreachable",
        "s02": "misconfigured",
        "s03": "misconfigured",
        "s04": "misconfigured",
        "s05": "unreachable",
        "s06": "unreachable",
    }
    # The one that hangs began first and was cut off; others ended meanwhile, and did not wait for it.
    assert "cut off" in told["store-s01"]["error"]
    assert next(iter(told)) != "store-s01"
    assert "price" in told["store-s03"]["error"]
    assert "hunter2" not in json.dumps(told) + stores.log()
    # Every other store's orders are here, under its own name.
    found = orders(stores)
    assert set(found) == {f"s{n:02}" for n in range(7, STORES + 1)}
    for name in ("s07", "s23", "s50"):
        assert execute(stores, name, "SELECT count(*) FROM orders") == [(found[name],)]
    # What was wrong is mended: the next round takes over what is missing, and nothing twice.
    execute(stores, "s03", "ALTER TABLE products RENAME COLUMN price TO unit_price")
    move(stores, "s01", f"sqlite:///{base(stores, 's01')}", 60)
    told = stores.sync("--system", "store-s01", "store-s03")
    assert {each["state"] for each in told.values()} == {"done"}
    assert orders(stores) == found | {
        name: execute(stores, name, "SELECT count(*) FROM orders")[0][0] for name in ("s01", "s03")
    }


@pytest.mark.legacy("L4")
def test_master_data_goes_to_every_store_and_their_orders_come_here(ten: Deployment) -> None:
    stores = ten
    assert {each["state"] for each in stores.sync("--kind", "store").values()} == {"done"}
    assert sum(orders(stores).values()) == ORDERS
    stores.manage(
        "shell",
        "--no-imports",
        "-c",
        "from entities.models import Product; Product.objects.filter(code='1').update(unit_price='19.5')",
    )
    execute(stores, "s09", "UPDATE products SET name = 'Tea', updated_at = '2026-11-21 12:00:00' WHERE code = '2'")
    told = stores.sync("--kind", "store")
    assert all(each["counts"]["product"]["updated there"] for each in told.values())
    stores.sync("--kind", "store")  # those that came before the ninth hear of its tea now
    for name in ("s01", "s09", "s10"):
        sold = execute(stores, name, "SELECT name, unit_price FROM products WHERE code IN ('1', '2') ORDER BY id")
        assert sold == [("Chai", 19.5), ("Tea", 19)]
    again = stores.sync("--kind", "store")
    assert {what for each in again.values() for counts in each["counts"].values() for what in counts} <= {"unchanged"}


@pytest.mark.legacy("L2")
def test_round_that_is_killed_takes_its_runs_with_it_and_the_next_one_goes_on(ten: Deployment) -> None:
    stores = ten
    process = stores.start("sync_legacy", "--kind", "store", "--parallel", "3")
    assert process.stdout is not None
    process.stdout.readline()  # one store is done, and others are at work
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    begun = sum(orders(stores).values())
    assert 0 < begun < ORDERS
    assert {each["state"] for each in stores.sync("--kind", "store").values()} == {"done"}
    assert sum(orders(stores).values()) == ORDERS
    assert stores.rows("SELECT number FROM entities_order GROUP BY 1 HAVING count(*) > 1") == []
    assert {state for (state,) in stores.rows("SELECT DISTINCT state FROM legacy_run")} <= {"done", "killed"}


@pytest.mark.legacy("L7")
def test_person_at_a_terminal_sees_how_far_it_is_and_then_what_was_done(tmp_path: Path) -> None:
    with made_of_northwind(tmp_path, 1) as stores:
        ours, theirs = pty.openpty()
        command = [sys.executable, "manage.py", "sync_legacy", "--system", "store-s01"]
        environment = stores.environment | {"TERM": "xterm", "COLUMNS": "100"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            seen = b""
            with suppress(OSError):  # how Linux says that nobody has the other end any more
                while piece := os.read(ours, 65_536):
                    seen += piece
        os.close(ours)
        assert process.returncode == 0
        steps, _, told = seen.decode().rpartition("store-s01: done")
        assert re.search(r"(customer|product|order) (from|to) store-s01: \d+", steps), steps[-2000:]
        assert re.search(rf"order +│.* {ORDERS} ", told), told


@pytest.mark.legacy("L1")
def test_store_that_is_at_work_elsewhere_is_left_to_it(ten: Deployment) -> None:
    stores = ten
    with answering(None) as hanging:
        move(stores, "s01", f"postgresql://sync:x@127.0.0.1:{hanging}/pos", 60)
        first = stores.start("sync_legacy", "--system", "store-s01")
        while not stores.rows("SELECT 1 FROM legacy_run WHERE system = 'store-s01' AND state = 'running'"):
            assert first.poll() is None
        assert json.loads(stores.manage("sync_legacy", "--system", "store-s01"))["state"] == "busy"
        assert stores.rows("SELECT count(*), min(state) FROM legacy_run") == [(1, "running")]
        first.kill()
        first.communicate()


def test_button_tests_a_connection_and_begins_a_run_where_there_is_no_worker(ten: Deployment) -> None:
    base(ten, "s02").unlink()
    press = "import json; from legacy import button; names = ['store-s01', 'store-s02']; button.sync_now(names); "
    told = json.loads(ten.manage("shell", "--no-imports", "-c", press + "print(json.dumps(button.test(names)))"))
    assert told["store-s01"] == [True, f"store-s01: signed in as {base(ten, 's01')}"]
    assert (told["store-s02"][0], "no file" in told["store-s02"][1]) == (False, True)
    query = "SELECT system, trigger, state FROM legacy_run WHERE state <> 'running' ORDER BY 1"
    while len(found := ten.rows(query)) < 2:
        time.sleep(POLL_SECONDS)
    assert found == [("store-s01", "button", "done"), ("store-s02", "button", "misconfigured")]
