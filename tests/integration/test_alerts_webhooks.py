"""Alerts by webhook: what a real receiver is sent, how it is signed, and how often it is tried."""

import json
from datetime import timedelta

import pytest
from django.test import Client
from pytest_django import Settings

from sync.alerts.attention import attention
from sync.alerts.run import run
from sync.models import AlertMessage, Conflict
from sync.outbound import PAUSES_MINUTES
from tests.integration.alert_support import Post, Receiver, at, decide
from tests.integration.attention_support import NOW, ago, conflict, device, rejection
from tests.integration.sync_support import sql

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_webhook_gets_signed_events_with_ids_and_counts_and_no_values(hook: Receiver) -> None:
    opened = conflict(at=ago(hours=25), device_values={"first_name": "secret name"})
    tablet = device("secret device", last_seen_at=ago(days=8))
    at()
    decide()
    at(1)
    assert hook.alerts("alert.raised") == ["contact", str(tablet.pk)]
    assert hook.alerts("alert.cleared") == ["contact"]
    (news,) = hook.events("conflict.opened")
    assert (news["count"], news["entities"], news["conflicts"]) == (1, {"contact": 1}, [str(opened.pk)])
    assert "secret" not in json.dumps(hook.tries)


def test_each_open_conflict_is_announced_once_and_again_when_it_is_open_again(hook: Receiver) -> None:
    first = conflict()
    at()
    at(1)
    second = conflict()
    at(2)
    decide()
    at(3)
    Conflict.objects.filter(pk=first.pk).update(state="open")
    at(4)
    assert [news["conflicts"] for news in hook.events("conflict.opened")] == [
        [str(first.pk)],
        [str(second.pk)],
        [str(first.pk)],
    ]


@pytest.mark.slow
def test_what_is_refused_is_sent_again_with_the_same_id_after_growing_pauses(hook: Receiver) -> None:
    hook.answers = [500, 302, 400, 204]
    hook.headers = {"Location": "/elsewhere"}
    conflict(at=ago(hours=25), state="open")
    assert (at().state, len(hook.tries)) == ("partial", 1)
    sql("UPDATE sync_alertmessage SET next_at = NULL WHERE event = 'conflict.opened'")  # only one message
    for minutes, tries in ((4, 1), (5, 2), (19, 2), (20, 3), (49, 3), (50, 4), (500, 4)):
        at(minutes=minutes)
        assert len(hook.tries) == tries, minutes
    assert len({id for id, _ in hook.tries}) == 1
    assert len(hook.accepted) == 1


def test_retry_after_makes_a_pause_longer(hook: Receiver) -> None:
    hook.answers, hook.headers = [429], {"Retry-After": "7200"}
    conflict(at=ago(hours=25))
    at()
    assert AlertMessage.objects.get(tries=1).next_at == NOW + timedelta(hours=2)


@pytest.mark.slow
def test_a_message_is_given_up_after_about_three_days(hook: Receiver) -> None:
    assert 2.5 < sum(PAUSES_MINUTES) / 1440 < 3.5
    hook.answers = [500]
    conflict()
    for hour in range(24 * 5):
        at(hour)
    (message,) = AlertMessage.objects.filter(event="conflict.opened")
    assert (message.tries, message.next_at, message.told_at, message.error) == (11, None, None, "answered 500")


def test_a_webhook_that_answers_410_is_told_no_more_until_it_is_enabled(hook: Receiver) -> None:
    hook.answers = [410]
    conflict(at=ago(hours=25))
    at()
    for hours in (1, 48):
        assert at(hours).state == "done"
    assert (len(hook.tries), [each.disabled_at for each in attention().channels]) == (1, [NOW])
    hook.answers = [204]
    run(enable=True, now=NOW + timedelta(hours=49))
    assert (hook.alerts("alert.raised"), attention().channels) == (["contact"], [])


@pytest.mark.parametrize(
    "url",
    [
        "http://alerts.example.org/",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "https://",
        "https://[",
        "http://127.0.0.1.example.org/",
    ],
)
def test_a_webhook_must_be_https_unless_it_is_loopback_and_that_is_allowed(url: str, settings: Settings) -> None:
    settings.SYNC_ALERT_WEBHOOK_URLS = [url]
    settings.SYNC_ALERT_WEBHOOK_SECRETS = ["whsec_" + "A" * 32]
    settings.SYNC_ALERT_WEBHOOK_LOOPBACK = True
    assert at().state == "misconfigured"
    assert "https://" in attention().channels[0].error


def test_plain_http_to_loopback_is_refused_where_it_is_not_allowed(hook: Receiver, settings: Settings) -> None:
    settings.SYNC_ALERT_WEBHOOK_LOOPBACK = False
    conflict(at=ago(hours=25))
    assert (at().state, hook.tries) == ("misconfigured", [])


@pytest.mark.parametrize("secrets", [[], ["whsec_AAAA"], ["A" * 32], ["whsec_" + "A" * 32, "whsec_!"]])
def test_a_webhook_needs_good_secrets(secrets: list[str], hook: Receiver, settings: Settings) -> None:
    settings.SYNC_ALERT_WEBHOOK_SECRETS = secrets
    assert (at().state, hook.tries) == ("misconfigured", [])


def test_both_secrets_sign_while_one_replaces_the_other(hook: Receiver, settings: Settings) -> None:
    settings.SYNC_ALERT_WEBHOOK_SECRETS = ["whsec_" + "A" * 32, *settings.SYNC_ALERT_WEBHOOK_SECRETS]
    conflict(at=ago(hours=25))
    assert (at().state, hook.alerts("alert.raised")) == ("done", ["contact"])


@pytest.mark.slow
def test_many_alerts_come_in_few_messages_none_missing_and_none_twice(hook: Receiver, post: Post) -> None:
    wanted = {str(device(f"Tablet {number}", last_seen_at=ago(days=8)).pk) for number in range(250)}
    at()
    told = hook.alerts("alert.raised")
    assert (len(told), set(told), len(hook.accepted)) == (250, wanted, 3)
    assert "and 150 more" in post.mails[0].get_body(("plain",)).get_content()  # type: ignore[union-attr]


@pytest.mark.slow
def test_links_of_alerts_lead_to_pages_of_the_admin(hook: Receiver, settings: Settings, admin_client: Client) -> None:
    settings.SYNC_PUBLIC_URL = "https://sync.example.org"
    conflict(at=ago(hours=25))
    rejection(at=ago(hours=25))
    device(last_seen_at=ago(days=8))
    at()
    told = [
        *hook.events("conflict.opened"),
        *(alert for data in hook.events("alert.raised") for alert in data["alerts"]),
    ]
    pages = [each["url"].removeprefix("https://sync.example.org") for each in told]
    assert [admin_client.get(page).status_code for page in pages] == [200] * 4
