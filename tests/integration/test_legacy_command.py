"""The hours in which a mapping runs, and what the command tells cron."""

import datetime as dt
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.utils import timezone

from entities.models import Customer, Product
from legacy.connector import Misconfigured, Unreachable
from legacy.mapping import Window
from legacy.models import Counterpart, DeadLetter, Link, Run
from legacy.runs import run
from legacy.systems import System, modules
from sync.alone import alone
from tests.integration.legacy_support import CUSTOMER, PRODUCT, Ledger, declared_systems, down

pytestmark = pytest.mark.django_db(transaction=True)
DELETING = replace(CUSTOMER, deletes="pull", sweep_hours=0)
State = Run.State

# --- The window -------------------------------------------------------------------------------------------------------

BERLIN = "Europe/Berlin"


@pytest.mark.legacy("F19")
@pytest.mark.parametrize(
    ("begin", "end", "zone", "at", "is_open"),
    [
        ("09:00", "17:00", "UTC", "2026-11-21T08:59:59", False),
        ("09:00", "17:00", "UTC", "2026-11-21T09:00:00", True),
        ("09:00", "17:00", "UTC", "2026-11-21T17:00:00", False),  # its end is not in it
        ("09:00", "17:00", BERLIN, "2026-11-21T08:00:00", True),  # 9 there
        ("22:00", "05:30", "UTC", "2026-11-21T23:59:00", True),  # over midnight
        ("22:00", "05:30", "UTC", "2026-11-22T05:29:00", True),
        ("22:00", "05:30", "UTC", "2026-11-22T05:30:00", False),
        ("22:00", "05:30", BERLIN, "2026-11-21T20:59:00", False),
        # the night that has no 02:30 (the clock goes from 02:00 to 03:00 at 01:00 UTC)
        ("02:15", "02:45", BERLIN, "2026-03-29T01:20:00", True),
        ("02:15", "02:45", BERLIN, "2026-03-29T00:59:00", False),
        ("02:15", "02:45", BERLIN, "2026-03-29T01:46:00", False),
        ("01:00", "03:30", BERLIN, "2026-03-29T01:29:00", True),
        ("01:00", "03:30", BERLIN, "2026-03-29T01:30:00", False),
        # the night that has 02:00 to 03:00 twice (again at 01:00 UTC)
        ("02:00", "03:00", BERLIN, "2026-10-25T00:30:00", True),
        ("02:00", "03:00", BERLIN, "2026-10-25T01:30:00", True),
        ("02:00", "03:00", BERLIN, "2026-10-25T02:00:00", False),
        ("22:00", "05:30", BERLIN, "2026-10-25T04:29:00", True),
    ],
)
def test_window_is_open_on_the_clock_on_the_wall(begin: str, end: str, zone: str, at: str, is_open: bool) -> None:
    assert Window(begin, end, zone).is_open(dt.datetime.fromisoformat(at).replace(tzinfo=dt.UTC)) is is_open


def test_mapping_runs_in_its_window_only_unless_it_is_forced() -> None:
    ledger = Ledger()
    ledger.put("party", code="ANA", name="Ana")
    ledger.put("item", code="1", name="Chai")
    now = timezone.now()
    hours = [(now + dt.timedelta(hours=n)).strftime("%H:%M") for n in (1, 2)]
    told: list[str] = []
    closed = replace(CUSTOMER, window=Window(*hours))
    run = ledger.sync(closed, PRODUCT, tell=lambda what, records: told.append(what))
    assert (run.state, Customer.objects.count(), Product.objects.count()) == (State.DONE, 0, 1)
    assert f"customer runs from {hours[0]} to {hours[1]} only" in told
    ledger.sync(closed, force=True)
    assert Customer.objects.count() == 1


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger(page_records=4)
    with declared_systems(System("ledger", lambda: ledger, (DELETING,))):
        yield ledger


def command(*options: str) -> tuple[int, dict[str, Any]]:
    """The exit code of `sync_legacy`, and its one line of JSON."""
    out, code = StringIO(), 0
    try:
        call_command("sync_legacy", "--json", *options, stdout=out)
    except SystemExit as end:
        code = int(str(end.code))
    (line,) = out.getvalue().splitlines()
    return code, json.loads(line)


@pytest.mark.legacy("L7")
def test_exit_codes_say_what_cron_can_act_on(ledger: Ledger, settings: LazySettings) -> None:
    for n in range(8):
        ledger.put("party", code=f"C{n}", name="x", city="Berlin")
    code, line = command()
    assert (code, line["state"], line["counts"]["customer"]["created"]) == (0, "done", 8)
    assert line.keys() == {"run", "system", "state", "seconds", "counts", "error"}
    bad = ledger.put("party", code="C" * 99, name="x")
    code, line = command()
    assert (code, line["state"], line["counts"]["customer"]["failed"]) == (1, "partial", 1)
    ledger.remove("party", bad)
    down(ledger)
    assert command()[0] == 2
    ledger.mend()
    ledger.open = lambda: _raise(Misconfigured("wrong password"))  # type: ignore[method-assign]
    code, line = command()
    assert (code, line["error"]) == (3, "wrong password")
    del ledger.open
    settings.LEGACY_STOP_RECORDS_MIN = 2
    for key in list(ledger.records["party"]):
        ledger.put("party", key, city="Oslo")
    assert command()[0] == 4
    assert command("--force")[0] == 0
    assert set(Customer.objects.values_list("city", flat=True)) == {"Oslo"}


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.slow
@pytest.mark.legacy("L1")
def test_run_while_another_is_at_work_is_no_error(ledger: Ledger) -> None:
    with alone("sync_legacy", "ledger"):
        code, line = command()
    assert (code, line["state"]) == (0, "busy")


def test_unknown_mapping_is_wrong_configuration(ledger: Ledger) -> None:
    code, line = command("--mapping", "nothing")
    assert code == 3
    assert "there is: customer" in line["error"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "LEGACY_SYSTEMS names their_system: ModuleNotFoundError: No module named 'their_system'"),
        ("import os\nURL = os.environ['NOWHERE']\n", "KeyError: 'NOWHERE' (line 2)"),
        ("x = (\n", "SyntaxError"),
        ("x = 1\n", "has no attribute 'SYSTEMS'"),
        ("SYSTEMS = ()\n", "There is no system ''; LEGACY_SYSTEMS declares none."),
    ],
)
def test_module_that_cannot_be_read_is_wrong_configuration(
    source: str | None, told: str, tmp_path: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "their_system.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_system", raising=False)
    settings.LEGACY_SYSTEMS = ["their_system"]
    modules.cache_clear()
    code, line = command()
    modules.cache_clear()
    assert (code, line["state"]) == (3, "misconfigured")
    assert told in line["error"]


def test_connect_of_the_deployment_that_fails_is_wrong_configuration() -> None:
    def connect() -> Ledger:
        raise KeyError("LEDGER_URL")

    this = run(System("ledger", connect, (CUSTOMER,)))
    assert this.state == State.MISCONFIGURED
    assert this.error == "ledger cannot be connected to: KeyError: 'LEDGER_URL'"


@pytest.mark.parametrize("option", [("--pause", "stocktaking"), ("--resume",)])
def test_system_that_there_is_not_is_neither_paused_nor_resumed(ledger: Ledger, option: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="There is no system 'leger'; there is: ledger") as refused:
        call_command("sync_legacy", "--system", "leger", *option, stdout=StringIO())
    assert refused.value.returncode == 3
    assert not Counterpart.objects.filter(system="leger").exists()


def test_paused_and_resumed_by_command(ledger: Ledger) -> None:
    call_command("sync_legacy", "--pause", "stocktaking", stdout=StringIO())
    assert command()[1]["state"] == "paused"
    assert command("--resume")[1]["state"] == "done"


def test_rollback_of_a_run_that_there_is_not_is_wrong_configuration(ledger: Ledger) -> None:
    with pytest.raises(CommandError, match="There is no run 'x'") as error:
        call_command("sync_legacy", "--rollback", "x")
    assert error.value.returncode == 3


def test_run_counts_volumes_duration_and_errors(ledger: Ledger) -> None:
    ledger.put("party", code="ANA", name="Ana")
    ledger.put("party", code="C" * 99, name="x")
    command()
    run = Run.objects.get()
    assert run.counts["customer"] == {"created": 1, "failed": 1}
    assert run.ended_at and run.ended_at >= run.started_at
    assert DeadLetter.objects.get().run == run
    assert Link.objects.count() == 1


def test_unreachable_in_the_middle_keeps_the_counts_of_what_was_done(ledger: Ledger) -> None:
    for n in range(8):
        ledger.put("party", code=f"C{n}", name="x")
    ledger.break_off(3, Unreachable, answered=False)
    found = run(System("ledger", lambda: ledger, (DELETING,)))
    assert (found.state, found.counts["customer"]["created"]) == (State.UNREACHABLE, 4)
