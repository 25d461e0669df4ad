"""/metrics: what Prometheus is told, by whom it may be asked, and what it never tells."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from pytest_django import Settings

from legacy.models import Run
from sync.alerts.run import run
from sync.models import Operation
from tests.integration.alert_support import receiver
from tests.integration.attention_support import conflict, device, rejection
from tests.integration.sync_support import TestDevice, create, problem, sql

pytestmark = pytest.mark.django_db(transaction=True)
TOKEN = "a-token-of-prometheus"
Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture(autouse=True)
def configured(settings: Settings) -> None:
    settings.SYNC_METRICS_TOKEN = TOKEN


def ask(token: str = f"Bearer {TOKEN}", accept: str = "text/plain") -> Any:
    return Client().get("/metrics", headers={"authorization": token, "accept": accept})


def scraped(accept: str = "text/plain", parse: Callable[[str], Any] = plain) -> Samples:
    """The value of each sample by its name and its labels' values."""
    answer = ask(accept=accept)
    assert answer.status_code == 200, answer.content
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parse(answer.content.decode())
        for sample in family.samples
    }


def test_metrics_are_off_without_a_token_in_the_settings(settings: Settings) -> None:
    settings.SYNC_METRICS_TOKEN = ""
    for token in ("Bearer ", "Bearer x", ""):
        assert problem(ask(token)) == (404, "not_found")


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ä\udcff"])
def test_metrics_are_refused_without_the_right_token(token: str) -> None:
    assert problem(ask(token)) == (401, "unauthorized")


def test_metrics_are_only_for_reading() -> None:
    assert problem(Client().post("/metrics", headers={"authorization": f"Bearer {TOKEN}"})) == (
        405,
        "method_not_allowed",
    )


def test_metrics_count_what_waits_by_entity_with_0_for_those_with_nothing() -> None:
    now = datetime.now(UTC)
    conflict(at=now - timedelta(hours=25))
    conflict(at=now)
    rejection("order", at=now)
    found = scraped()
    assert found["syncserver_conflicts_open", ("contact",)] == 2
    assert found["syncserver_conflicts_late", ("contact",)] == 1
    assert found["syncserver_quarantine_open", ("order",)] == 1
    assert found["syncserver_conflicts_open", ("order",)] == 0
    oldest = found["syncserver_conflicts_oldest_timestamp_seconds", ("contact",)]
    assert oldest == pytest.approx((now - timedelta(hours=25)).timestamp())
    assert ("syncserver_conflicts_oldest_timestamp_seconds", ("order",)) not in found


def test_metrics_count_devices_by_state_and_what_is_in_their_outboxes() -> None:
    now = datetime.now(UTC)
    device(last_seen_at=now)
    device(last_seen_at=now, pending=3, oldest_pending_at=now - timedelta(hours=25))
    device(last_seen_at=now - timedelta(days=8), pending=4)
    device(last_seen_at=now, revoked_at=now, pending=100)
    found = scraped()
    states = {labels[0]: value for (name, labels), value in found.items() if name == "syncserver_devices"}
    assert states == {"well": 1, "limited": 0, "expired": 0, "stuck": 1, "silent": 1, "refused": 1}
    assert found["syncserver_device_mutations_pending", ()] == 7


def test_metrics_count_pushed_mutations_by_answer() -> None:
    sql("DELETE FROM sync_result")  # of other tests: it has no model, so nothing empties it
    TestDevice().push(create(), create(), create(entity="nothing"))
    found = scraped()
    answers = [found["syncserver_mutations_last_hour", (status,)] for status in ("applied", "rejected", "merged")]
    assert answers == [2, 1, 0]


def test_metrics_tell_of_alerts_and_of_channels_that_fail(settings: Settings) -> None:
    conflict(at=datetime.now(UTC) - timedelta(hours=25))
    with receiver(settings) as hook:
        hook.answers = [500]
        run()
    found = scraped()
    assert found["syncserver_alerts_active", ("conflicts_late",)] == 1
    (waiting,) = [value for (name, _), value in found.items() if name == "syncserver_alert_messages_waiting"]
    (failing,) = [value for (name, _), value in found.items() if name == "syncserver_alert_channel_failing"]
    assert (waiting, failing) == (2, 1)
    ran = found["syncserver_alerts_run_timestamp_seconds", ()]
    assert ran == pytest.approx(datetime.now(UTC).timestamp(), abs=60)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "application/openmetrics-text; version=1.0.0, */*",
        "application/openmetrics-text;version=x",
    ],
)
def test_metrics_are_openmetrics_for_those_who_ask(accept: str) -> None:
    conflict(at=datetime.now(UTC))
    told, plain = scraped(accept, openmetrics), scraped()
    age = ("syncserver_oldest_writer_age_seconds", ())  # of any writer of this PostgreSQL, at that moment
    assert told | {age: 0.0} == plain | {age: 0.0}


def test_metrics_hold_no_values_and_no_names_of_devices() -> None:
    secret = device("secret device", last_seen_at=datetime.now(UTC) - timedelta(days=8))
    conflict(device=secret.pk, at=datetime.now(UTC), device_values={"first_name": "secret name"})
    text = ask().content.decode()
    assert "secret" not in text
    assert str(secret.pk) not in text


def test_operating_lists_exactly_the_metrics_that_there_are(settings: Settings) -> None:
    conflict(at=datetime.now(UTC))
    rejection(at=datetime.now(UTC))
    run()
    with receiver(settings):
        run()
    Run.objects.create(system="tryton", state=Run.State.DONE, ended_at=datetime.now(UTC))
    Operation.objects.create(device=device().pk, received_at=datetime.now(UTC))
    page = (settings.BASE_DIR / "docs" / "operating.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(syncserver_\w+)`", page)) == {name for name, _ in scraped()}


def test_metrics_cost_the_same_queries_for_much_and_for_nothing(django_assert_max_num_queries: Any) -> None:
    for _ in range(20):
        conflict(at=datetime.now(UTC), device=device().pk)
    with django_assert_max_num_queries(16):
        ask()


def test_every_metric_has_help_and_a_unit_at_its_end_where_it_has_one() -> None:
    conflict(at=datetime.now(UTC))
    for family in plain(ask().content.decode()):
        assert family.documentation.endswith(".")
        assert family.name.startswith("syncserver_")
        assert ("_age_" in family.name or "timestamp" in family.name) == family.name.endswith("_seconds")
