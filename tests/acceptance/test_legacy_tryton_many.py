"""`sync_legacy` against a real Tryton with Northwind and thousands of parties more: `--parties 20000` for all of it."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.db import connection

from entities.models import Customer
from legacy.connectors.tryton import Tryton
from legacy.models import Link, Run
from sync.models import History
from tests.acceptance.erp_support import Erp, command_environment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
COMMAND = [sys.executable, "manage.py", "sync_legacy", "--json", "--mapping", "customer"]
MEMORY_MAX = 150_000_000  # bytes more than idle
SLOW = 1_500
KILLS = 20

PARTIES = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO party_party (active, code, name, create_date, create_uid)
SELECT 1, :code || i, 'Generated ' || i, :now, 1 FROM n;
INSERT INTO "party_party-party_category" (party, category, create_date, create_uid)
SELECT id, (SELECT id FROM party_category WHERE name = 'Customer'), :now, 1
FROM party_party WHERE code LIKE :code || '%';
INSERT INTO party_address (active, party, city, street_unstructured, postal_code, sequence, create_date, create_uid)
SELECT 1, id, 'City ' || (id % 97), 'Street ' || id, printf('%05d', id), 1, :now, 1
FROM party_party WHERE code LIKE :code || '%';
INSERT INTO party_contact_mechanism (active, party, type, value, value_compact, sequence, create_date, create_uid)
SELECT 1, id, 'phone', '+49' || id, '+49' || id, 1, :now, 1 FROM party_party WHERE code LIKE :code || '%'
"""


def _make(erp: Erp, code: str, count: int, stamp: str) -> None:
    """Parties with an address and a telephone each, all in one transaction, in Tryton's own database."""
    with closing(sqlite3.connect(erp.database)) as database, database:
        for statement in PARTIES.split(";\n"):
            database.execute(statement, {"code": code, "count": count, "now": stamp})


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime(at))


@pytest.fixture(scope="module")
def erp(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Erp]:
    """A Tryton with the parties of `--parties`, written to its database while it is not running."""
    erp = Erp(tmp_path_factory.mktemp("erp"))
    erp.start()
    erp.do("stop")
    _make(erp, "GEN", request.config.getoption("--parties"), _stamp(time.time() - 3600))
    erp.start()
    yield erp
    erp.do("stop")


@pytest.fixture
def parties(erp: Erp) -> Iterator[Tryton]:
    """Somebody at the ERP's side. Nothing was ever read from it."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")
    person = Tryton(erp.url, "northwind", "admin", "northwind")
    person.open()
    yield person
    person.close()


def sync(erp: Erp) -> dict[str, Any]:
    """One run, as cron has it."""
    ended = subprocess.run(
        COMMAND, cwd=settings.BASE_DIR, env=command_environment(erp), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def peak_of(erp: Erp) -> int:
    """The most memory, in bytes, that a run has had beyond what it had when it was signed in and had read nothing."""
    process = psutil.Popen(COMMAND, cwd=settings.BASE_DIR, env=command_environment(erp), stdout=subprocess.DEVNULL)
    idle = peak = 0
    while process.poll() is None:
        memory = process.memory_info().rss
        idle = idle if idle and Link.objects.exists() else memory
        peak = max(peak, memory)
        time.sleep(0.02)
    assert process.returncode == 0
    return peak - idle


def both_sides(parties: Tryton) -> tuple[dict[str, str], dict[str, str]]:
    """The names of all customers by code, here and there."""
    category = parties.session.named("party.category", "name", "Customer")
    found = parties.session.call(
        "party.party", "search_read", [["categories", "=", category]], 0, None, None, ["code", "name"]
    )
    theirs = {row["code"]: row["name"] for row in found}
    assert len(theirs) == len(found), "nothing is there twice"
    return {code or "": name for code, name in Customer.objects.values_list("code", "name")}, theirs


def test_first_pull_of_many_is_flat_in_memory_and_the_second_run_writes_nothing(erp: Erp, parties: Tryton) -> None:
    peak = peak_of(erp)
    ours, theirs = both_sides(parties)
    assert ours == theirs
    print(f"{len(ours):,} parties; {peak / 1e6:.0f} MB more than idle")
    assert peak < MEMORY_MAX
    history, stamp = History.objects.count(), _newest(parties)
    run = sync(erp)
    assert run["counts"]["customer"].keys() <= {"unchanged"}
    assert (History.objects.count(), _newest(parties)) == (history, stamp), "nothing was written on either side"


@pytest.mark.legacy("S1")
def test_parties_made_in_one_slow_transaction_while_runs_go_on_are_all_there(erp: Erp, parties: Tryton) -> None:
    """Tryton stamps records when their transaction begins, and shows them when it ends. SQLite lets nobody else write
    in between, not even sign in; so the records are written at the end, with the stamp of the beginning."""
    sync(erp)
    began = _stamp(time.time())
    for _ in range(2):
        sync(erp)
    _make(erp, "SLOW", SLOW, began)
    sync(erp)
    assert Customer.objects.filter(code__startswith="SLOW").count() == SLOW
    ours, theirs = both_sides(parties)
    assert ours == theirs


@pytest.mark.legacy("L2")
@pytest.mark.legacy("F17")
def test_run_killed_at_twenty_random_moments_ends_with_both_sides_equal(erp: Erp, parties: Tryton) -> None:
    sync(erp)
    chance = random.Random(20)
    category = parties.session.search("party.category", [["name", "=", "Customer"]])
    for number in range(KILLS):
        Customer.objects.create(name=f"Ours {number}", city="Graz")
        Customer.objects.filter(code=f"GEN{number + 1}").update(city=f"Moved {number}")
        parties.session.call(
            "party.party",
            "create",
            [{"name": f"Theirs {number}", "code": f"T{number}", "categories": [["add", category]]}],
        )
        key = parties.session.search("party.party", [["code", "=", f"GEN{number + 50}"]])
        parties.session.call("party.party", "write", key, {"name": f"Renamed {number}"})
        process = subprocess.Popen(
            COMMAND, cwd=settings.BASE_DIR, env=command_environment(erp), stdout=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.8, 3.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(2):
        sync(erp)
    ours, theirs = both_sides(parties)
    assert ours == theirs
    names = list(ours.values())
    for number in range(KILLS):
        assert [names.count(f"{who} {number}") for who in ("Ours", "Theirs", "Renamed")] == [1, 1, 1], number
    assert Run.objects.filter(state=Run.State.KILLED).exists()
    written = History.objects.count()
    assert sync(erp)["counts"]["customer"].keys() <= {"unchanged"}
    assert History.objects.count() == written


def _newest(parties: Tryton) -> Any:
    return parties.session.call("party.party", "search_read", [], 0, 1, [["write_date", "DESC"]], ["write_date"])
