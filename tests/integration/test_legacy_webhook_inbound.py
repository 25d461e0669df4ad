"""Webhooks that come in: none is lost, none leaks, none tears what a run writes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.utils import timezone
from rest_framework.authtoken.models import Token

from entities.models import Customer, Order
from legacy.connector import Misconfigured, Unreachable
from legacy.mapping import Window
from legacy.models import DeadLetter, Link, Run, Waiting
from legacy.runs import pause
from legacy.systems import System
from legacy.webhooks.hook import Event, Hook, Where
from legacy.webhooks.inbox import process_due
from legacy.webhooks.models import Hint, Operation
from legacy.webhooks.take import ATTEMPTS_MAX, LEASE_SECONDS
from legacy.webhooks.verifiers import SecretPath, Signed, StandardWebhooks
from sync.alone import alone
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, Killed, Ledger, down
from tests.integration.webhook_support import SECRET, WHERE, about, hub, listening, send, signed

pytestmark = pytest.mark.django_db(transaction=True)
ASYNC = Hook(StandardWebhooks(), WHERE)
UNSTAMPED = Hook(Signed(), WHERE)  # whose deliveries have no id of their own
DELETES = replace(CUSTOMER, deletes="both")
PULLED = replace(CUSTOMER, direction="pull", deletes="pull")


@pytest.fixture(autouse=True)
def _secrets(settings: Any) -> None:
    settings.LEGACY_WEBHOOK_SECRETS = [f"ledger:{SECRET}", "ledger:hub", "other:not yours"]
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE sync_history, sync_feed")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def system(ledger: Ledger) -> Iterator[System]:
    with listening(ledger) as named:
        yield named


def city(key: str) -> str:
    return Customer.objects.get(pk=Link.objects.get(mapping="customer", key=key).row).city


def outcomes(answer: Any) -> list[str]:
    return [record["outcome"] for record in answer.json()["records"]]


def later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


# --- It could lose: a hint is taken for one that is done, though the record was changed after that was read ---


def test_same_body_that_tells_of_a_second_change_is_not_taken_for_the_first(ledger: Ledger) -> None:
    """Without an id in it, `customer 1 changed` looks the same each time."""
    with listening(ledger, UNSTAMPED):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        body = about(key)
        first = send(body, hub(body))
        process_due()
        ledger.put("party", key, city="Bonn")
        second = send(body, hub(body))
        assert second.json()["operation"] == first.json()["operation"]
        process_due()
    assert city(key) == "Bonn"


def test_hint_that_comes_while_its_record_is_being_applied_is_not_swallowed(ledger: Ledger) -> None:
    with listening(ledger, UNSTAMPED):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        body = about(key)

        def changes_again(call: str, number: int) -> None:
            if call == "fetch":  # what was fetched is old by the time it arrives, and they tell so
                ledger.mend()
                ledger.put("party", key, city="Bonn")
                assert send(body, hub(body)).status_code == 202

        send(body, hub(body))
        ledger.after = changes_again
        process_due()
        assert Hint.objects.get().state == "waiting"
        process_due()
    assert city(key) == "Bonn"


def test_webhook_is_stored_before_it_is_answered_whatever_the_system_does(ledger: Ledger, system: System) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    down(ledger)
    assert send(about(key)).status_code == 202
    ledger.mend()
    process_due(later(120))
    assert city(key) == "Berlin"


# --- It could leak: what is forged is believed, or an answer or a log tells what it should not ---


@pytest.mark.legacy("F14")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(about("1"), secret="whsec_" + "A" * 32),
        signed(b"another body"),
        signed(about("1"), at=datetime(2026, 1, 1, tzinfo=UTC)),
        {"webhook-id": "a", "webhook-timestamp": "x", "webhook-signature": "v1,%%%"},
    ],
)
def test_forged_webhook_is_refused_and_leaves_nothing(system: System, headers: dict[str, str]) -> None:
    answer = send(about("1"), headers or {"X-Nothing": "1"})
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_refused")
    assert answer["WWW-Authenticate"] == "Signature"
    assert not Operation.objects.exists()


@pytest.mark.legacy("F14")
def test_secret_of_one_system_is_not_believed_for_another(ledger: Ledger) -> None:
    with listening(ledger, Hook(SecretPath(), WHERE)):
        assert send(about("1"), {"X": "1"}, "/legacy/ledger/webhook/not%20yours").status_code == 401
        assert send(about("1"), {"X": "1"}, "/legacy/ledger/webhook/hub").status_code == 202


def test_secret_in_the_path_is_not_logged(ledger: Ledger, caplog: Any) -> None:
    with listening(ledger, Hook(SecretPath(), WHERE)), caplog.at_level("INFO"):
        send(about("1"), {"X": "1"}, "/legacy/ledger/webhook/hub")
    (line,) = [each for each in caplog.records if hasattr(each, "access")]
    assert line.access["path"] == "/legacy/ledger/webhook/[redacted]"


def test_sender_is_not_told_the_texts_of_our_errors(ledger: Ledger, system: System) -> None:
    Customer.objects.create(code="2", name="Secret & Sons")
    key = ledger.put("party", code="1", name="Ana" * 100, city="Berlin")
    answer = send(about(key))
    assert outcomes(answer) == ["failed"]
    assert "error" not in answer.json()["records"][0]
    assert DeadLetter.objects.get().key == key


def test_operation_is_told_to_who_sent_it_and_to_staff_alone(ledger: Ledger, system: System) -> None:
    answer = send(about(ledger.put("party", code="1", name="Ana", city="Berlin")))
    link, bare = answer["Location"], answer["Location"].partition("?")[0]
    assert Client().get(link).json() == answer.json()
    other = send(about("1", n=1))["Location"]
    for wrong in (bare, f"{bare}?token=", f"{bare}?token=x", f"{bare}?{other.partition('?')[2]}"):
        refused = Client().get(wrong)
        assert (refused.status_code, refused.json()["code"]) == (401, "login_required")
    people = {
        name: User.objects.create(username=name, is_staff=name != "guest") for name in ("may", "may not", "guest")
    }
    for name in ("may", "guest"):
        people[name].user_permissions.add(
            Permission.objects.get(codename="view_operation", content_type__app_label="legacy")
        )
    for name, status in {"may": 200, "may not": 401, "guest": 401}.items():
        token = Token.objects.create(user=people[name]).key
        assert Client().get(bare, headers={"authorization": f"Token {token}"}).status_code == status


# --- It could tear: two writers, or something old over something new ---


@pytest.mark.legacy("F13")
def test_late_webhook_does_not_bring_back_what_was(ledger: Ledger, system: System) -> None:
    """Out of order: the record is fetched, so the order in which they arrive says nothing."""
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    early = about(key, city="Berlin", at="2026-11-21T12:00:00Z")
    ledger.put("party", key, city="Bonn")
    assert outcomes(send(about(key, city="Bonn", at="2026-11-21T12:00:01Z"))) == ["created"]
    assert outcomes(send(early)) == ["unchanged"]
    assert (city(key), History.objects.count()) == ("Bonn", 1)


@pytest.mark.slow
@pytest.mark.legacy("L1")
def test_webhook_during_a_run_waits_its_turn(ledger: Ledger, system: System) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    with alone("sync_legacy", "ledger"):
        answer = send(about(key))
        assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
        assert process_due() == {"ledger": "busy"}
        assert not Customer.objects.exists()
    assert process_due() == {"ledger": "done"}
    assert Client().get(answer["Location"]).json()["records"][0]["outcome"] == "created"


def test_what_an_unfinished_run_had_read_does_not_overwrite_what_a_webhook_brought(
    ledger: Ledger, system: System
) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    ledger.sync()
    Waiting.objects.create(
        system="ledger", mapping="customer", key=key, values={"code": "1", "name": "Ana", "city": "Ulm"}
    )
    ledger.put("party", key, city="Berlin")  # and back: there is no news in it
    send(about(key))
    assert not Waiting.objects.exists()


@pytest.mark.legacy("L4")
def test_webhook_makes_no_echo(ledger: Ledger, system: System) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    send(about(key))
    run = ledger.sync()
    assert (run.counts["customer"], ledger.written) == ({"unchanged": 1}, [])


# --- twice ---


@pytest.mark.legacy("F12")
def test_webhook_that_comes_twice_is_applied_once_and_answered_as_the_first_was(ledger: Ledger, system: System) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    body = about(key)
    first, second = (send(body, signed(body, "msg_1")) for _ in range(2))
    assert (first.status_code, first.json(), first["Location"]) == (
        second.status_code,
        second.json(),
        second["Location"],
    )
    assert outcomes(second) == ["created"]
    assert (Operation.objects.count(), Hint.objects.count(), History.objects.count()) == (1, 1, 1)


def test_event_is_known_by_the_id_in_its_body_too(ledger: Ledger) -> None:
    with listening(ledger, Hook(Signed(), Where(WHERE.kinds, "kind", "key", "id"), mode="sync")):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        bodies = [json.dumps({"kind": "party", "key": key, "id": "evt_1", "try": n}).encode() for n in (1, 2)]
        one, two = (send(body, hub(body)).json() for body in bodies)
    assert one == two


@pytest.mark.legacy("F12")
def test_same_webhook_from_many_at_once_is_stored_once(ledger: Ledger) -> None:
    with listening(ledger, ASYNC):
        body = about(ledger.put("party", code="1", name="Ana", city="Berlin"))
        told: list[str] = []

        def call() -> None:
            told.append(send(body, signed(body, "msg_1")).json()["operation"])
            connection.close()

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(told), len(set(told)), Hint.objects.count()) == (8, 1, 1)


# --- what becomes of it ---


def test_synchronous_webhook_says_what_became_of_each_record(ledger: Ledger) -> None:
    only = replace(DELETES, only_if=lambda values: values["city"] != "Rome")
    with listening(ledger, mappings=(only,)):
        same, gone, moved = (ledger.put("party", code=str(n), name="Ana", city="Berlin") for n in range(3))
        ledger.put("party", code="9", name="Bo", city="Ulm")
        ledger.sync(only)
        new, elsewhere = (ledger.put("party", code=n, name="Cy", city=n) for n in ("Oslo", "Rome"))
        bad = ledger.put("party", code="bad", name="x" * 200, city="Berlin")
        del ledger.records["party"][gone]
        ledger.put("party", moved, city="Paris")
        answer = send(about(same, gone, moved, new, elsewhere, "777", bad))
    assert answer.status_code == 200
    assert outcomes(answer) == ["unchanged", "deleted", "updated", "created", "not_taken", "unknown", "failed"]
    assert set(Customer.objects.values_list("city", flat=True)) == {"Berlin", "Paris", "Oslo", "Ulm"}


def test_asynchronous_webhook_is_stored_and_applied_later(ledger: Ledger) -> None:
    with listening(ledger, ASYNC):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        answer = send(about(key))
        assert (answer.status_code, answer.json()["state"], Customer.objects.count()) == (202, "waiting", 0)
        assert process_due() == {"ledger": "done"}
        told = Client().get(answer["Location"]).json()
    assert (told["state"], told["records"][0]["outcome"]) == ("done", "created")
    run = Run.objects.get()
    assert (run.trigger, History.objects.get().author) == ("webhook", run.author)


def test_run_of_sync_legacy_applies_what_waits(ledger: Ledger) -> None:
    """So plain cron is enough."""
    with listening(ledger, ASYNC) as named:
        send(about(ledger.put("party", code="1", name="Ana", city="Berlin")))
        ledger.sync(*named.mappings)
    assert Hint.objects.get().outcome == "created"


@pytest.mark.legacy("F10")
def test_parent_that_is_not_here_yet_comes_with_its_child(ledger: Ledger, system: System) -> None:
    customer = ledger.put("party", code="1", name="Ana", city="Berlin")
    item = ledger.put("item", code="7", name="Tea")
    line = {"id": "1", "item": item, "quantity": 1, "price": 2}
    day = datetime(2026, 11, 21).date()
    sale = ledger.put("sale", number="9", party=customer, state="draft", day=day, note="", lines=[line])
    assert outcomes(send(about(sale, kind="sale"))) == ["created"]
    assert Order.objects.get().customer.name == "Ana"


def test_kind_of_event_that_is_not_declared_is_taken_and_means_nothing(system: System) -> None:
    answer = send(about("1", kind="ping"))
    assert (answer.status_code, answer.json()["records"]) == (200, [])


def test_webhook_that_cannot_be_read_is_refused_and_kept_to_be_seen(system: System) -> None:
    for body in (b"nonsense", b'{"events": [{"kind": "party"}]}'):
        answer = send(body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert [bytes(each.body)[:8] for each in Operation.objects.exclude(error="").order_by("came_at")] == [
        b"nonsense",
        b'{"events',
    ]


def test_body_that_can_be_read_by_now_is_taken_when_it_comes_again(ledger: Ledger) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    body = about(key)
    with listening(ledger, Hook(StandardWebhooks(), lambda body: [Event("customers", "1")], "sync")):
        assert send(body, signed(body, "msg_1")).status_code == 400
    with listening(ledger):
        assert outcomes(send(body, signed(body, "msg_1"))) == ["created"]


@pytest.mark.parametrize("path", ["/legacy/nobody/webhook", "/legacy/nobody/webhook/x", "/legacy/%00/webhook"])
def test_unknown_system_is_not_found(system: System, path: str) -> None:
    answer = send(about("1"), path=path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_system_without_a_webhook_is_not_found() -> None:
    assert send(about("1"), path="/legacy/tryton/webhook").status_code == 404


def test_only_post_is_allowed(system: System) -> None:
    assert Client().get("/legacy/ledger/webhook").status_code == 405


# --- deletions ---


def test_told_deletion_of_what_is_still_there_deletes_nothing(ledger: Ledger) -> None:
    with listening(ledger, mappings=(DELETES,)):
        key = ledger.put("party", code="1", name="Ana", city="Berlin")
        ledger.sync(DELETES)
        assert outcomes(send(about(key, kind="party", deleted=True))) == ["unchanged"]
    assert Customer.objects.count() == 1


@pytest.mark.slow
@pytest.mark.legacy("L6")
def test_system_that_shows_nothing_any_more_does_not_empty_a_table(ledger: Ledger) -> None:
    """One at a time would pass the safety stop of each run; what comes within a day counts together."""
    with listening(ledger, mappings=(DELETES,)):
        keys = [ledger.put("party", code=str(n), name="Ana", city="Berlin") for n in range(60)]
        ledger.sync(DELETES)
        ledger.records["party"].clear()
        told = [outcomes(send(about(key, n=key)))[0] for key in keys]
        assert (told[:20], told[20:]) == (["deleted"] * 20, ["held"] * 40)
        assert ledger.sync(DELETES).state == Run.State.STOPPED
    assert Customer.objects.count() == 40


def test_deletion_is_not_taken_where_the_mapping_takes_none(ledger: Ledger, system: System) -> None:
    key = ledger.put("party", code="1", name="Ana", city="Berlin")
    ledger.sync()
    del ledger.records["party"][key]
    assert outcomes(send(about(key))) == ["kept"]


# --- systems that cannot be asked ---


def mute() -> Ledger:
    """Cannot be asked for one record."""
    return Ledger(fetches=False)


PAYLOAD = Where(
    {"put": "customer", "drop": "customer"}, "kind", "key", at="at", record="party", gone=frozenset({"drop"})
)


def told_of(city: str, at: str, kind: str = "put") -> bytes:
    party = {"code": "1", "name": "Ana", "city": city}
    return json.dumps({"kind": kind, "key": "1", "at": f"2026-11-21T12:{at}:00Z", "party": party}).encode()


def test_record_of_a_system_that_cannot_be_asked_is_left_to_the_next_run() -> None:
    with listening(mute(), mappings=(PULLED,)):
        assert outcomes(send(about("1"))) == ["left_to_run"]


def test_mapping_that_its_system_cannot_serve_is_not_applied_by_a_webhook_either() -> None:
    with listening(mute()):
        assert send(about("1")).json()["state"] == "waiting"
    assert Run.objects.get().state == Run.State.MISCONFIGURED


def test_payload_is_the_record_only_where_the_hook_says_so_and_the_newest_wins() -> None:
    hook = Hook(StandardWebhooks(), PAYLOAD, "sync", payload_is_record=True)
    with listening(mute(), hook, (PULLED,)):
        assert outcomes(send(told_of("Berlin", "02"))) == ["created"]
        assert outcomes(send(told_of("Ulm", "01"))) == ["superseded"]
        assert outcomes(send(told_of("Bonn", "03"))) == ["updated"]
        assert city("1") == "Bonn"


@pytest.mark.legacy("F13")
def test_payload_that_is_older_than_what_a_poll_read_is_dropped() -> None:
    silent = mute()
    silent.put("party", "1", code="1", name="Ana", city="Paris")
    hook = Hook(StandardWebhooks(), PAYLOAD, "sync", payload_is_record=True)
    with listening(silent, hook, (PULLED,)):
        silent.sync(PULLED)
        late = json.loads(told_of("Ulm", "01")) | {"at": later(-600).isoformat()}
        assert outcomes(send(json.dumps(late).encode())) == ["superseded"]
    assert city("1") == "Paris"


# --- what goes wrong ---


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
