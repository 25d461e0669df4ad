"""Alerts are raised and cleared, by the command too, which says how it went."""

from io import StringIO

import pytest
from django.core.management import call_command
from pytest_django import Settings

from devices.models import Device
from sync.alone import alone
from sync.models import Alert, AlertChannel, Telling
from sync.prune import prune
from tests.integration.alert_support import Post, Receiver, at, command, decide, late, standing
from tests.integration.attention_support import NOW, ago, conflict, device, rejection
from tests.integration.sync_support import sql

pytestmark = pytest.mark.django_db(transaction=True)


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


# --- the command


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
