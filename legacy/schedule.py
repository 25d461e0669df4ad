"""When something is due, by the clock on a wall: pure functions of moments."""

import datetime as dt
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError


def problem(expression: str, zone: str) -> str:
    """What is wrong with a schedule; empty: nothing. No expression at all is none, and right."""
    try:
        at = dt.datetime.now(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return f"There is no time zone {zone!r}; it is a name such as Europe/Berlin."
    try:
        next(CronSim(expression, at), None) if expression else None
    except CronSimError as error:
        return f"{expression!r} is no schedule as cron has them, such as */15 * * * *: {error}"
    return ""


def is_due(expression: str, zone: str, last: dt.datetime | None, now: dt.datetime) -> bool:
    """Whether a moment of the schedule has come since the last run began; it never ran: at once.

    What was missed is done once, however often it was missed. On the nights when clocks change, a fixed time that there
    is twice counts once, and one that there is not counts when the clock has jumped.
    """
    after = next_at(expression, zone, last) if last else None
    return last is None or (after is not None and after <= now)


def next_at(expression: str, zone: str, after: dt.datetime) -> dt.datetime | None:
    """The first moment of the schedule after `after`, in UTC; without a schedule: at once; None: never again."""
    if not expression:
        return after
    found = next(CronSim(expression, after.astimezone(ZoneInfo(zone))), None)
    return found.astimezone(dt.UTC) if found else None
