"""What becomes of a webhook that comes in, of the deletions that it tells, and where its system cannot be asked."""

import json
from dataclasses import replace
from datetime import datetime

import pytest
from django.test import Client

from entities.models import Customer, Order
from legacy.models import Run
from legacy.systems import System
from legacy.webhooks.hook import Event, Hook, Where
from legacy.webhooks.inbox import process_due
from legacy.webhooks.models import Hint, Operation
from legacy.webhooks.verifiers import StandardWebhooks
from sync.models import History
from tests.integration.legacy_support import CUSTOMER, Ledger
from tests.integration.webhook_support import ASYNC, about, city, later, listening, outcomes, send, signed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("webhook_secrets")]
DELETES = replace(CUSTOMER, deletes="both")
PULLED = replace(CUSTOMER, direction="pull", deletes="pull")


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
