"""Webhooks that come in: none is lost, none leaks, none tears what a run writes, none is applied twice."""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from rest_framework.authtoken.models import Token

from entities.models import Customer
from legacy.models import DeadLetter, Waiting
from legacy.systems import System
from legacy.webhooks.hook import Hook, Where
from legacy.webhooks.inbox import process_due
from legacy.webhooks.models import Hint, Operation
from legacy.webhooks.verifiers import SecretPath, Signed
from sync.alone import alone
from sync.models import History
from tests.integration.legacy_support import Ledger, down
from tests.integration.webhook_support import ASYNC, WHERE, about, city, hub, later, listening, outcomes, send, signed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("webhook_secrets")]
UNSTAMPED = Hook(Signed(), WHERE)  # whose deliveries have no id of their own


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
