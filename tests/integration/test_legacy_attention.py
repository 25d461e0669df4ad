"""Systems that stand still and records that go nowhere reach the alerts, `/metrics` and the front page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from legacy import systems
from legacy.attention import KINDS, found
from legacy.models import Counterpart, DeadLetter, Run
from legacy.webhooks.outbox import resume
from legacy.webhooks.subscriptions import Subscription
from sync.alerts import texts
from sync.alerts.run import run as tell
from sync.models import Alert
from tests.integration import legacy_pages_support as scene
from tests.integration.legacy_pages_support import failed
from tests.integration.pages_support import EVIL, clerk
from tests.integration.test_metrics import scraped

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def declared(settings: Settings) -> Iterator[None]:
    settings.LEGACY_SYSTEMS = [scene.__name__]
    settings.SYNC_METRICS_TOKEN = "a-token-of-prometheus"
    systems.modules.cache_clear()
    yield
    systems.modules.cache_clear()


def ended(state: str, **more: Any) -> Run:
    return Run.objects.create(system="ledger", state=state, ended_at=timezone.now(), **more)


def kinds() -> dict[str, str]:
    return {each.kind: each.subject for each in found(timezone.now())}


def test_systems_that_do_their_work_are_no_alert() -> None:
    ended(Run.State.DONE)
    failed(first_at=NOW)
    failed(key="8", kind="ignored", first_at=NOW - timedelta(days=9))
    assert kinds() == {}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("legacy_letters_late", {"first_at": NOW - timedelta(days=2)}),
        ("legacy_letters_late", {"first_at": NOW - timedelta(days=2), "kind": "unclear"}),
        ("legacy_loop", {"kind": "loop"}),
    ],
)
def test_dead_letter_that_nobody_looks_at_is_an_alert(kind: str, more: dict[str, Any]) -> None:
    failed(**more)
    assert kinds() == {kind: "ledger"}


@pytest.mark.parametrize(
    ("state", "kind"), [(Run.State.STOPPED, "legacy_stopped"), (Run.State.MISCONFIGURED, "legacy_misconfigured")]
)
def test_system_that_stands_still_is_an_alert_unless_somebody_paused_it(state: str, kind: str) -> None:
    ended(state)
    assert kinds() == {kind: "ledger"}
    Counterpart.objects.create(system="ledger", paused_at=timezone.now(), paused_why="stocktaking")
    assert kinds() == {}


def test_system_that_is_not_reached_is_an_alert_after_some_runs(settings: Settings) -> None:
    ended(Run.State.UNREACHABLE)
    Counterpart.objects.create(system="ledger", failures=settings.LEGACY_FAILURES_MAX - 1)
    assert kinds() == {}
    Counterpart.objects.update(failures=settings.LEGACY_FAILURES_MAX)
    assert kinds() == {"legacy_unreachable": "ledger"}


def test_systems_that_cannot_be_read_are_an_alert_and_break_nothing(settings: Settings) -> None:
    settings.LEGACY_SYSTEMS = ["no.such.module"]
    systems.modules.cache_clear()
    assert kinds() == {"legacy_misconfigured": "what LEGACY_SYSTEMS names"}
    tell()
    assert scraped()


def test_alert_is_raised_said_led_to_and_cleared(settings: Settings) -> None:
    settings.SYNC_PUBLIC_URL = "https://sync.example"
    ended(Run.State.STOPPED)
    failed(kind="loop")
    tell()
    stopped, loop = (Alert.objects.get(kind=kind) for kind in ("legacy_stopped", "legacy_loop"))
    assert texts.sentence(stopped, {}).startswith(
        "The runs of ledger stopped for safety, and a person must look, since "
    )
    assert texts.link(stopped) == "https://sync.example/admin/legacy/counterpart/"
    assert texts.sentence(loop, {}).startswith("ledger: 1 record goes round and round, since ")
    assert texts.link(loop) == "https://sync.example/admin/legacy/deadletter/?system=ledger&kind=loop"
    ended(Run.State.DONE)
    DeadLetter.objects.all().delete()
    tell()
    assert not Alert.objects.filter(cleared_at=None).exists()


def test_every_kind_has_a_sentence_and_a_link() -> None:
    for kind in KINDS:
        alert = Alert(kind=kind, subject="ledger", since=NOW, count=2, raised_at=NOW)
        assert texts.sentence(alert, {}).startswith(("ledger", "The runs of ledger"))
        texts.link(alert)


def test_subscriber_that_was_given_up_is_an_alert_until_somebody_goes_on() -> None:
    subscriber = Subscription.objects.create(name="webshop", url="https://shop.example", entities=["customer"])
    assert kinds() == {}
    Subscription.objects.update(stopped_at=NOW)
    assert kinds() == {"legacy_subscription_stopped": "webshop"}
    resume(subscriber)
    assert kinds() == {}


@pytest.mark.legacy("L8")
def test_metrics_tell_of_each_system() -> None:
    run = ended(Run.State.STOPPED)
    Counterpart.objects.create(system="ledger", failures=2)
    failed()
    told = scraped()
    assert told["syncserver_legacy_run_timestamp_seconds", ("ledger",)] == run.started_at.timestamp()
    assert told["syncserver_legacy_failures", ("ledger",)] == 2
    assert told["syncserver_legacy_stopped", ("ledger",)] == 1
    assert told["syncserver_legacy_dead_letters", ("failed", "ledger")] == 1
    assert told["syncserver_legacy_dead_letters", ("loop", "crm")] == 0


def test_front_page_tells_systems_to_whom_may_see_them(admin_client: Client) -> None:
    ended(Run.State.STOPPED, error=f"too much {EVIL}")
    page = admin_client.get("/admin/").content.decode()
    assert "stopped for safety" in page and EVIL not in page
    assert "Pre-existing systems" not in clerk("entities.view_customer").get("/admin/").content.decode()
