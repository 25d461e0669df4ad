"""When something is due, on the clock of a wall, on the nights when clocks change too."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from legacy.schedule import is_due, next_at, problem

BERLIN = "Europe/Berlin"


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def all_between(expression: str, zone: str, begin: str, end: str) -> list[str]:
    """What is run by a worker that looks every minute, each run beginning as soon as it is due."""
    now, last, found = utc(begin), utc(begin), []
    while now < utc(end):
        now += dt.timedelta(minutes=1)
        if is_due(expression, zone, last, now):
            last = now + dt.timedelta(seconds=2)
            found.append(now.astimezone(ZoneInfo(zone)).strftime("%d %H:%M %Z"))
    return found


@pytest.mark.legacy("F19")
@pytest.mark.parametrize(
    ("expression", "begin", "end", "runs"),
    [
        # The night with an hour twice: 2:30 comes first in summer time, and is not repeated.
        ("30 2 * * *", "2026-10-24 12:00", "2026-10-26 12:00", ["25 02:30 CEST", "26 02:30 CET"]),
        # The night without 2:30: it is run when the clock has jumped.
        ("30 2 * * *", "2026-03-28 12:00", "2026-03-30 12:00", ["29 03:00 CEST", "30 02:30 CEST"]),
        # What goes on all day is run by the hour that passes, in both of the hours.
        (
            "*/30 * * * *",
            "2026-10-24 23:50",
            "2026-10-25 02:10",
            ["25 02:00 CEST", "25 02:30 CEST", "25 02:00 CET", "25 02:30 CET", "25 03:00 CET"],
        ),
        ("0 * * * *", "2026-03-28 23:50", "2026-03-29 02:10", ["29 01:00 CET", "29 03:00 CEST", "29 04:00 CEST"]),
        # By the wall: one hour earlier in UTC once summer has begun.
        ("0 6 * * *", "2026-03-28 00:00", "2026-03-29 12:00", ["28 06:00 CET", "29 06:00 CEST"]),
        ("0 8 * * 1-5", "2026-11-20 00:00", "2026-11-23 12:00", ["20 08:00 CET", "23 08:00 CET"]),  # a weekend
    ],
)
def test_schedule_runs_once_on_each_night(expression: str, begin: str, end: str, runs: list[str]) -> None:
    assert all_between(expression, BERLIN, begin, end) == runs


@pytest.mark.parametrize(
    ("expression", "last", "now", "due"),
    [
        ("*/15 * * * *", "2026-11-21 12:00:03", "2026-11-21 12:14:59", False),
        ("*/15 * * * *", "2026-11-21 12:00:03", "2026-11-21 12:15", True),
        ("*/15 * * * *", "2026-11-21 12:00:03", "2026-11-24 09:07", True),  # three days without a worker: once
        ("", "2026-11-21 12:00", "2026-11-21 12:00:01", True),  # without a schedule: whenever it is asked for
    ],
)
def test_due_by_the_last_run(expression: str, last: str, now: str, due: bool) -> None:
    assert is_due(expression, "UTC", utc(last), utc(now)) is due


def test_what_never_ran_is_due_at_once() -> None:
    assert is_due("0 3 * * *", BERLIN, None, utc("2026-11-21 12:00"))


def test_next_moment_is_told_in_utc() -> None:
    assert next_at("30 2 * * *", BERLIN, utc("2026-07-01 12:00")) == utc("2026-07-02 00:30")


@pytest.mark.parametrize(
    ("expression", "zone", "told"),
    [
        ("*/15 6-22 * * *", BERLIN, ""),
        ("", "UTC", ""),
        ("every minute", "UTC", "no schedule"),
        ("0 25 * * *", "UTC", "no schedule"),
        ("0 0 31 2 *", "UTC", "no schedule"),  # a day that there is not
        ("0 3 * * *", "Europe/Atlantis", "no time zone"),
        ("0 3 * * *", "../../etc/passwd", "no time zone"),
    ],
)
def test_bad_schedule_is_told(expression: str, zone: str, told: str) -> None:
    assert told in problem(expression, zone) if told else problem(expression, zone) == ""
