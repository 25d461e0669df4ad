"""What goes wrong with webhooks that come in: processes die, records and systems fail, and much waits its turn."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from entities.models import Customer
from legacy.connector import Misconfigured, Unreachable
from legacy.mapping import Window
from legacy.runs import pause
from legacy.systems import System
from legacy.webhooks.inbox import process_due
from legacy.webhooks.models import Hint, Operation
from legacy.webhooks.take import ATTEMPTS_MAX, LEASE_SECONDS
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, Killed, Ledger
from tests.integration.webhook_support import ASYNC, SECRET, about, city, later, listening, send, signed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("webhook_secrets")]


def test_killed_while_processing_is_taken_up_again_when_its_lease_runs_out(ledger: Ledger) -> None:
    with listening(ledger, ASYNC):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        send(about(key))
        ledger.break_off(2, Killed, answered=True)  # it was fetched, and nothing was written
        with pytest.raises(Killed):
            process_due()
        ledger.mend()
        assert process_due() == {}
        assert process_due(later(LEASE_SECONDS + 1)) == {"ledger": "done"}
    assert (city(key), History.objects.count(), Hint.objects.get().attempts) == ("Berlin", 1, 2)


PROCESS = textwrap.dedent("""
    import django, os, signal
    django.setup()
    from django.conf import settings
    settings.DATABASES["default"]["NAME"] = os.environ["NAME"]
    from legacy.webhooks.inbox import process_due
    from tests.integration.legacy_support import Ledger
    from tests.integration.webhook_support import listening
    ledger = Ledger()
    ledger.put("party", "1", code="1", name="Ana", city="Berlin")
    def dies(call, number):
        if call == "fetch" and os.environ["DIES"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
    ledger.after = dies
    from datetime import timedelta
    from django.utils import timezone
    with listening(ledger):
        print(process_due(timezone.now() + timedelta(seconds=float(os.environ["LATER"]))))
""")


def another_process(dies: bool, later: float) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "syncserver.settings",
        "NAME": connection.settings_dict["NAME"],
        "DIES": str(int(dies)),
        "LATER": str(later),
    }
    return subprocess.run([sys.executable, "-c", PROCESS], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.legacy("F17")
@pytest.mark.slow
def test_process_that_is_really_killed_leaves_a_lease_and_no_lock(ledger: Ledger) -> None:
    with listening(ledger, ASYNC):
        send(about("1"))
    assert another_process(dies=True, later=0).returncode == -signal.SIGKILL
    hint = Hint.objects.get()
    assert (hint.state, hint.attempts, hint.claim is not None) == ("waiting", 1, True)
    assert another_process(dies=False, later=0).stdout == "{}\n"
    assert another_process(dies=False, later=LEASE_SECONDS + 1).stdout == "{'ledger': 'done'}\n"
    assert (History.objects.count(), Hint.objects.get().outcome) == (1, "created")


def test_hint_that_ends_the_process_each_time_is_given_up(ledger: Ledger) -> None:
    with listening(ledger, ASYNC):
        send(about(ledger.put("party", code="1", name="Ana", city="Berlin")))
        Hint.objects.update(attempts=ATTEMPTS_MAX)
        process_due()
    assert Hint.objects.get().state == "dead"


def test_fault_of_one_record_is_put_off_then_given_up_and_holds_no_other_up(ledger: Ledger) -> None:
    def broken(values: Any) -> bool:
        if values["city"] == "Ulm":
            raise RuntimeError("nobody foresaw this")
        return True

    with listening(ledger, ASYNC, (replace(CUSTOMER, only_if=broken),)):
        good, bad = (ledger.put("party", code=city, name="Ana", city=city) for city in ("Berlin", "Ulm"))
        operation = send(about(bad, good))["Location"]
        process_due()
        assert city(good) == "Berlin"
        hint = Hint.objects.get(key=bad)
        assert (hint.state, hint.attempts, hint.error) == ("waiting", 1, "RuntimeError: nobody foresaw this")
        for days in range(1, ATTEMPTS_MAX):
            process_due(later(3600 * 24 * days))
        assert Client().get(operation).json()["state"] == "failed"
    assert (Hint.objects.get(key=bad).state, Hint.objects.get(key=bad).attempts) == ("dead", ATTEMPTS_MAX)


@pytest.mark.parametrize("error", [Unreachable, Misconfigured])
def test_system_that_is_away_uses_up_no_attempts(ledger: Ledger, error: type[Exception]) -> None:
    with listening(ledger, ASYNC):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        send(about(key))
        ledger.break_off(2, error, answered=False)
        for days in (1, 2):  # the third time, its circuit breaker opens
            ledger.calls = 0
            process_due(later(3600 * 24 * days))
        assert (Hint.objects.get().state, Hint.objects.get().attempts) == ("waiting", 0)
        ledger.mend()
        process_due(later(3600 * 24 * 4))
    assert city(key) == "Berlin"


def test_fault_of_a_connector_is_no_error_of_the_webhook(ledger: Ledger, system: System) -> None:
    ledger.break_off(1, RuntimeError, answered=False)
    assert send(about("1")).status_code == 202


def test_paused_system_is_left_alone(ledger: Ledger, system: System) -> None:
    pause("ledger", "stocktaking")
    assert send(about(ledger.put("party", code="1", name="Ana", city="Berlin"))).status_code == 202
    assert (ledger.calls, Customer.objects.count()) == (0, 0)


def test_webhook_outside_of_the_hours_of_its_mapping_waits_for_them(ledger: Ledger) -> None:
    now = timezone.now()
    closed = Window((now + timedelta(hours=2)).strftime("%H:%M"), (now + timedelta(hours=3)).strftime("%H:%M"))
    with listening(ledger, mappings=(replace(CUSTOMER, window=closed),)):
        answer = send(about(ledger.put("party", code="1", name="Ana", city="Berlin")))
        assert (answer.status_code, Customer.objects.count()) == (202, 0)
        process_due(now + timedelta(hours=2, minutes=30))
    assert Customer.objects.count() == 1


def test_everything_about_a_record_is_taken_up_together(ledger: Ledger) -> None:
    """So what is newer about it cannot overtake what waits for another try."""
    with listening(ledger, ASYNC):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        send(about(key, n=1))
        Hint.objects.update(next_at=later(3600))
        send(about(key, n=2))
        process_due()
    assert list(Hint.objects.values_list("state", "outcome")) == [("done", "created")] * 2


def test_secrets_can_be_changed_one_by_one(system: System, settings: Any) -> None:
    new = "whsec_" + "bmV3IHNlY3JldCBmb3IgdGhlIGxlZGdlciwgbG9uZw=="
    settings.LEGACY_WEBHOOK_SECRETS = [f"ledger:{SECRET}", f"ledger:{new}"]
    assert [send(about("1"), signed(about("1"), secret=each)).status_code for each in (SECRET, new)] == [200, 200]
    settings.LEGACY_WEBHOOK_SECRETS = [f"ledger:{new}"]
    assert [send(about("1"), signed(about("1"), secret=each)).status_code for each in (SECRET, new)] == [401, 200]


@pytest.mark.legacy("F15")
def test_body_over_its_limit_is_refused(system: System, settings: Any) -> None:
    settings.LEGACY_WEBHOOK_BODY_BYTES_MAX = 1_000
    answer = send(about("1", pad="x" * 1_000))
    assert (answer.status_code, answer.json()["code"], answer.json()["bytes_max"]) == (413, "body_too_large", 1_000)


def test_what_is_finished_is_forgotten_after_a_while(ledger: Ledger, system: System) -> None:
    send(about(ledger.put("party", code="1", name="Ana", city="Berlin")))
    process_due(later(3600 * 24 * 29))
    assert Operation.objects.exists()
    process_due(later(3600 * 24 * 31))
    assert not Operation.objects.exists()
