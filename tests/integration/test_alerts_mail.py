"""Alerts by e-mail: a digest of what is new, what still stands and what is over, by a real mail server."""

import pytest
from pytest_django import Settings

from devices.models import Device
from tests.integration.alert_support import Post, at, decide, post_office
from tests.integration.attention_support import ago, conflict, device, rejection
from tests.integration.sync_support import sql

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_digest_tells_what_is_new_in_text_and_html_with_links(post: Post, settings: Settings) -> None:
    settings.SYNC_PUBLIC_URL = "https://sync.example.org/"
    conflict(at=ago(hours=25))
    tablet = device("Ann's <b>tablet</b>\nBcc: x@example.org", last_seen_at=ago(days=8), pending=1)
    at()
    (mail,) = post.mails
    text, html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))  # type: ignore[union-attr]
    assert (mail["To"], mail["Subject"]) == ("ops@example.org", "Syncserver alerts: 2 new")
    assert "contact: 1 conflict waits too long for a decision, since 2026-11-20 11:00 UTC." in text
    assert "Ann's <b>tablet</b> Bcc: x@example.org has not called, with 1 mutation in its outbox" in text
    assert "Ann&#x27;s &lt;b&gt;tablet&lt;/b&gt;" in html
    assert f"https://sync.example.org/admin/devices/device/{tablet.pk}/change/" in text
    assert "https://sync.example.org/admin/sync/conflict/?entity=contact" in text


@pytest.mark.slow
def test_a_digest_is_sent_when_something_is_new_once_a_day_while_it_stands_and_when_all_is_over(post: Post) -> None:
    conflict(at=ago(hours=25))
    for hours in (0, 1, 22):
        at(hours)
    assert len(post.mails) == 1
    at(24)
    assert post.subjects[1:] == ["Syncserver alerts: 1 still there"]
    rejection(at=ago(hours=1))
    at(25)
    assert post.subjects[2:] == ["Syncserver alerts: 1 new, 1 still there"]
    decide()
    at(26)  # something else stands, and is told of once a day
    assert len(post.mails) == 3
    at(49)
    assert post.subjects[3:] == ["Syncserver alerts: 1 still there, 1 over"]
    sql("UPDATE sync_rejection SET state = 'discarded'")
    for hours in (50, 51, 99):
        at(hours)
    assert post.subjects[4:] == ["Syncserver alerts: 1 over"]


def test_who_is_named_later_is_told_what_stands(settings: Settings) -> None:
    conflict(at=ago(hours=25))
    at()
    with post_office(settings) as post:
        at(1)
        assert post.subjects == ["Syncserver alerts: 1 new"]


def test_nobody_is_told_of_a_stuck_device_that_had_only_come_back(post: Post) -> None:
    back = device(pending=2, oldest_pending_at=ago(hours=25))
    at()
    Device.objects.filter(pk=back.pk).update(pending=0)
    at(minutes=5)
    assert post.mails == []
    Device.objects.filter(pk=back.pk).update(pending=2)
    for minutes in (10, 15, 20, 25):
        at(minutes=minutes)
    assert post.subjects == ["Syncserver alerts: 1 new"]
