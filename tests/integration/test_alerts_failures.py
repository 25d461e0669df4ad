"""Alerts where a channel fails or a run is killed: every channel is told of each alert all the same, and once."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.db import connection
from pytest_django import Settings

from sync.alerts.attention import attention
from sync.models import Alert, AlertChannel, AlertMessage, Conflict, Telling
from tests.integration.alert_support import SECRET, Post, Receiver, at, command, decide, late, standing
from tests.integration.attention_support import ago, conflict
from tests.integration.sync_support import sql

pytestmark = pytest.mark.django_db(transaction=True)


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
