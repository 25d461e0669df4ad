"""Alerts are raised and cleared, and every channel is told: by a real webhook receiver and a real mail server."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test import Client
from pytest_django import Settings

from devices.models import Device
from sync.alerts.attention import attention
from sync.alerts.run import Report, run
from sync.alone import alone
from sync.models import Alert, AlertChannel, AlertMessage, Conflict, Telling
from sync.outbound import PAUSES_MINUTES
from sync.prune import prune
from tests.integration.alert_support import SECRET, Post, Receiver, post_office, receiver
from tests.integration.attention_support import NOW, ago, conflict, device, rejection
from tests.integration.sync_support import sql

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def hook(settings: Settings) -> Iterator[Receiver]:
    with receiver(settings) as here:
        yield here


@pytest.fixture
def post(settings: Settings) -> Iterator[Post]:
    with post_office(settings) as here:
        yield here


def at(hours: float = 0, **more: float) -> Report:
    """A run at a time after NOW."""
    return run(now=NOW + timedelta(hours=hours, **more))


def decide() -> None:
    Conflict.objects.update(state="server")


def standing() -> list[tuple[str, str]]:
    return list(Alert.objects.filter(cleared_at=None).order_by("kind", "subject").values_list("kind", "subject"))


# --- raising and clearing


def test_what_is_late_or_in_trouble_raises_one_alert_each_and_what_is_over_clears_it() -> None:
    conflict(at=ago(hours=25))
    conflict(at=ago(hours=30))
    conflict("order", at=ago(hours=1))
    rejection("order", at=ago(hours=25))
    stuck = device(pending=2, oldest_pending_at=ago(hours=25))
    silent = device(last_seen_at=ago(days=8))
    report = at()
    assert (report.raised, report.cleared, report.standing, report.state) == (4, 0, 4, "done")
    assert standing() == [
        ("conflicts_late", "contact"),
        ("device_silent", str(silent.pk)),
        ("device_stuck", str(stuck.pk)),
        ("quarantine_late", "order"),
    ]
    decide()
    Device.objects.filter(pk=stuck.pk).update(pending=0)
    assert (at(1).cleared, len(standing())) == (2, 2)


def test_an_alert_that_stands_tells_how_much_it_is_now_and_is_raised_anew_after_it_was_over() -> None:
    conflict(at=ago(hours=25))
    at()
    conflict(at=ago(hours=26))
    assert (at(1).raised, Alert.objects.get().count, Alert.objects.get().since) == (0, 2, ago(hours=26))
    decide()
    at(2)
    conflict(at=ago(hours=25))
    assert (at(3).raised, Alert.objects.count()) == (1, 2)


def test_a_revoked_device_raises_nothing_and_revoking_clears() -> None:
    device(last_seen_at=ago(days=8), revoked_at=ago(days=1))
    lost = device(last_seen_at=ago(days=8))
    assert at().standing == 1
    Device.objects.filter(pk=lost.pk).update(revoked_at=NOW)
    assert at(1).standing == 0


# --- e-mail


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


# --- webhooks


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


# --- channels fail


@pytest.mark.slow
def test_a_failing_channel_hides_no_other_and_is_told_of_by_the_others(
    hook: Receiver, post: Post, settings: Settings
) -> None:
    settings.SYNC_ALERT_WEBHOOK_URLS = ["https://127.0.0.1:9/", *settings.SYNC_ALERT_WEBHOOK_URLS]
    post.refuse = "451 not now"
    conflict(at=ago(hours=25))
    report = at()
    assert {told.error for told in report.channels.values()} == {"SMTPDataError 451", "ConnectError", ""}
    assert hook.alerts("alert.raised") == ["contact"]
    assert [each.error for each in attention().channels] == ["SMTPDataError 451", "ConnectError"]
    at(2)
    assert sorted(subject.split()[0] for subject in hook.alerts("alert.raised")) == ["contact", "mail", "webhook"]
    post.refuse = ""
    at(3)
    assert hook.alerts("alert.cleared") == []
    at(4)
    assert hook.alerts("alert.cleared") == ["mail"]
    assert len(post.subjects) == len(post.mails) == 2  # what was late, and that the other webhook fails


def test_a_run_without_the_settings_of_the_others_makes_nothing_be_told_twice(
    hook: Receiver, settings: Settings
) -> None:
    conflict(at=ago(hours=25))
    at()
    urls, settings.SYNC_ALERT_WEBHOOK_URLS = settings.SYNC_ALERT_WEBHOOK_URLS, []
    at(1)
    settings.SYNC_ALERT_WEBHOOK_URLS = urls
    at(2)
    assert hook.alerts("alert.raised") == ["contact"]


def test_a_channel_that_is_long_out_of_the_settings_is_forgotten_and_no_trouble_before(
    hook: Receiver, post: Post, settings: Settings
) -> None:
    hook.answers = [500]
    conflict(at=ago(hours=25))
    at()
    settings.SYNC_ALERT_WEBHOOK_URLS = []
    at(2)
    assert (attention().channels, standing()) == ([], [("conflicts_late", "contact")])
    settings.SYNC_ALERT_MAIL_TO = []
    at(24 * 8)
    assert (AlertChannel.objects.count(), AlertMessage.objects.count(), Telling.objects.count()) == (0, 0, 0)


@pytest.mark.slow
def test_a_channel_that_was_away_for_longer_than_a_message_lives_is_told_what_still_stands(hook: Receiver) -> None:
    hook.answers = [500]
    conflict(at=ago(hours=25))
    for hour in range(24 * 5):
        at(hour)
    hook.answers = [204]
    for hour in range(24 * 5, 24 * 7):
        at(hour)
    assert hook.alerts("alert.raised") == ["contact"]


# --- killed runs


class Killed(BaseException):
    """The process ends here, for all that the program knows."""


def killed_at(statement: int, before: bool) -> Callable[..., Any]:
    """A wrapper that ends the process before or after its n-th statement."""
    seen = 0

    def execute(call: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if before and seen == statement:
            raise Killed
        found = call(*arguments)
        if seen == statement:
            raise Killed
        return found

    return execute


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_any_statement_every_channel_is_told_of_each_alert_once(
    before: bool, hook: Receiver, post: Post
) -> None:
    """Once for who knows message ids: between the receiver's answer and our noting it, only a second try is safe."""
    statement, finished = 0, False
    while not finished:
        statement += 1
        for model in (Alert, AlertChannel, Conflict):
            model.objects.all().delete()
        sql("DELETE FROM sync_announced")
        hook.tries, hook.accepted, post.mails = [], [], []
        opened = conflict(at=ago(hours=25))
        try:
            with connection.execute_wrapper(killed_at(statement, before)):
                at()
            finished = True
        except Killed:
            pass
        at(minutes=1)
        try:
            decide()
            with connection.execute_wrapper(killed_at(statement, before)):
                at(1)
        except Killed:
            pass
        at(1, minutes=1)
        assert hook.alerts("alert.raised") == hook.alerts("alert.cleared") == ["contact"], statement
        assert [news["conflicts"] for news in hook.events("conflict.opened")] == [[str(opened.pk)]], statement
        assert post.subjects == ["Syncserver alerts: 1 new", "Syncserver alerts: 1 over"], statement
    assert statement > 25  # it was killed at every statement of a run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_whatever_fails_or_is_killed_each_alert_is_told_once(seed: int, hook: Receiver, post: Post) -> None:
    chance, minutes = random.Random(seed), 0
    for _ in range(30):
        minutes += chance.choice([1, 5, 60, 90])
        hook.answers, post.refuse = [chance.choice([204, 204, 500])], chance.choice(["", "", "451 not now"])
        match chance.randrange(4):
            case 0:
                conflict(chance.choice(["contact", "order", "product"]), at=ago(days=9))
            case 1:
                Conflict.objects.filter(entity=chance.choice(["contact", "order", "product"])).update(state="server")
        kill = killed_at(chance.choice([5, 15, 25, 35, 45, 10_000]), chance.random() < 0.5)
        with suppress(Killed), connection.execute_wrapper(kill):
            at(minutes=minutes)
    hook.answers, post.refuse = [204], ""
    for hour in range(30):
        at(hour, minutes=minutes)
    others = Alert.objects.exclude(subject__startswith="webhook")  # that it failed itself, it is not told
    wanted = {"alert.raised": others, "alert.cleared": others.exclude(cleared_at=None)}
    for kind, alerts in wanted.items():
        told = [alert["id"] for data in hook.events(kind) for alert in data["alerts"]]
        assert sorted(told) == sorted(str(alert.pk) for alert in alerts)
    digests = AlertMessage.objects.filter(event="digest")
    assert len(post.subjects) == digests.count() == digests.exclude(told_at=None).count()


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_sends_leaves_the_rest_to_the_next(hook: Receiver) -> None:
    late()
    hook.hold.clear()
    database = connection.settings_dict
    query = urlencode({"host": database["HOST"], **database["OPTIONS"]})
    environment = {
        "DATABASE_URL": f"postgresql://{database['USER']}@/{database['NAME']}?{query}",
        "SYNC_ALERT_WEBHOOK_URLS": hook.url,
        "SYNC_ALERT_WEBHOOK_SECRETS": SECRET,
        "SYNC_ALERT_WEBHOOK_LOOPBACK": "1",
    }
    program = [sys.executable, "manage.py", "sync_alerts"]
    with subprocess.Popen(program, cwd=settings.BASE_DIR, env=os.environ | environment) as process:
        assert hook.arrived.wait(30)
        process.kill()
    hook.hold.set()
    assert command()["state"] == "done"
    ids = [id for id, _ in hook.tries]
    assert (len(ids), len(set(ids)), ids[0]) == (3, 2, ids[1])
    assert hook.alerts("alert.raised") == ["contact"]


# --- the command


def command(*arguments: str, code: int = 0) -> dict[str, Any]:
    out = StringIO()
    try:
        call_command("sync_alerts", "--json", *arguments, stdout=out)
    except SystemExit as end:
        assert end.code == code
    else:
        assert code == 0
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def late() -> None:
    conflict(at=datetime.now(NOW.tzinfo) - timedelta(hours=25))


def test_the_command_prints_one_line_of_json_and_exits_by_how_it_went(hook: Receiver) -> None:
    late()
    told = command()
    assert (told["state"], told["raised"], told["standing"]) == ("done", 1, 1)
    assert [(each["sent"], each["waiting"]) for each in told["channels"].values()] == [(2, 0)]
    hook.answers = [503]
    decide()
    assert command(code=1)["state"] == "partial"


def test_a_dry_run_says_what_would_be_told_and_writes_and_sends_nothing(hook: Receiver, post: Post) -> None:
    late()
    told = command("--dry-run")
    assert (told["raised"], sorted(each["waiting"] for each in told["channels"].values())) == (1, [1, 2])
    assert (hook.tries, post.mails, Alert.objects.count(), AlertChannel.objects.count()) == ([], [], 0, 0)
    out = StringIO()
    call_command("sync_alerts", "--dry-run", stdout=out)
    assert hook.tries == []


def test_wrong_settings_of_one_channel_exit_with_3_after_the_others_were_told(
    hook: Receiver, settings: Settings
) -> None:
    settings.SYNC_ALERT_MAIL_TO = ["nobody"]
    late()
    assert command(code=3)["state"] == "misconfigured"
    assert hook.alerts("alert.raised") == ["contact"]


@pytest.mark.slow
def test_one_run_at_a_time(hook: Receiver) -> None:
    late()
    with alone("sync_alerts"):
        assert command()["state"] == "busy"
    assert hook.tries == []


@pytest.mark.slow
def test_prune_forgets_alerts_that_were_over_long_ago_and_what_was_told_of_them(hook: Receiver) -> None:
    conflict(at=ago(hours=25))
    rejection(at=ago(hours=25))
    at()
    decide()
    at(1)
    days = "now() - interval '91 days'"
    sql(f"UPDATE sync_alert SET raised_at = {days}, cleared_at = {days} WHERE cleared_at IS NOT NULL")
    sql(f"UPDATE sync_alertmessage SET created_at = {days}")
    assert prune()["alerts"] == 1
    assert standing() == [("quarantine_late", "contact")]
    assert Telling.objects.count() == 1
    at(2)
    assert len(hook.alerts("alert.raised")) == 2  # what stands is not told again
