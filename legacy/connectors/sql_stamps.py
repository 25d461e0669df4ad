"""How far a pass over an SQL table has to look back. Functions of values: no database, and no clock of their own.

A stamp is compared in the database's own form: a time with or without a zone, a day, a number, a text such as
`2026-11-21 13:04:05`. Anything ordered will do. How long ago it was is only known of what is a time.
"""

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from legacy.connectors.sql_database import Clock

ISO = re.compile(r"\d{4}-\d\d-\d\d(?:([ T])\d\d:\d\d(:\d\d.*)?)?")
PRECISION_SECONDS = 2  # stamps may be whole seconds, rounded up or down
DAY_SECONDS = 24 * 60 * 60
DAY_LETTERS = len("2026-11-21")

Stamp = Any


@dataclass(frozen=True)
class Window:
    """What one pass reads, and the cursor that it leaves behind."""

    after: Stamp | None  # None: everything
    strict: bool  # whether records stamped exactly `after` have been seen for good
    then: dict[str, Any]


@dataclass(frozen=True)
class Form:
    """How the stamps of one table tell the time."""

    zone: dt.tzinfo
    ticks: int = 0  # a second, of numbers

    def instant(self, stamp: Stamp) -> dt.datetime | None:
        """When it was, at the earliest: a local time in the night that has an hour twice is taken for the first.

        None for what is no time.
        """
        try:
            match stamp:
                case dt.datetime():
                    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=self.zone, fold=0)).astimezone(dt.UTC)
                case dt.date():
                    return dt.datetime.combine(stamp, dt.time(), self.zone).astimezone(dt.UTC)
                case int() | float() | Decimal() if self.ticks:
                    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=float(stamp) / self.ticks)
                case str() if ISO.fullmatch(stamp):
                    return self.instant(dt.datetime.fromisoformat(stamp))
        except OverflowError:  # the end of time, which some write for "never"
            return dt.datetime.max.replace(tzinfo=dt.UTC)
        except ValueError:  # looks like a time
            pass
        return None

    def floor(self, instant: dt.datetime, like: Stamp) -> Stamp:
        """Not later than any stamp that is made from the instant on, in the form of `like`, which must be a time."""
        match like:
            case dt.datetime() if like.tzinfo:
                return instant
            case dt.datetime():
                return self._local(instant)
            case dt.date():
                return self._local(instant).date()
            case str():
                time = dt.datetime.fromisoformat(like)
                local = instant.astimezone(time.tzinfo).replace(tzinfo=None) if time.tzinfo else self._local(instant)
                if len(like) == DAY_LETTERS:
                    return local.date().isoformat()
                return local.isoformat(like[10], "seconds")  # shorter texts come before longer ones
            case _:
                return math.floor(instant.timestamp() * self.ticks)

    def doubt(self, stamp: Stamp) -> dt.timedelta:
        """How long after its instant a stamp may still be made that is not greater."""
        day = type(stamp) is dt.date or (isinstance(stamp, str) and len(stamp) == DAY_LETTERS)
        time = dt.datetime.fromisoformat(stamp) if isinstance(stamp, str) else stamp
        local = isinstance(time, dt.datetime) and time.tzinfo is None
        twice = _repeated(time.replace(tzinfo=self.zone)) if local else 0
        # Three times: the machine that stamps may be more than an hour behind the database, and in that hour still.
        return dt.timedelta(seconds=3 * twice + (DAY_SECONDS if day else 0))

    def _local(self, instant: dt.datetime) -> dt.datetime:
        local = instant.astimezone(self.zone)
        seconds = 0 if local.fold else _repeated(local)  # the clock is about to be put back
        return local.replace(tzinfo=None, fold=0) - dt.timedelta(seconds=seconds)


def window(
    cursor: Mapping[str, Any], newest: Stamp, clock: Clock, form: Form, overlap_seconds: float, ours: float
) -> Window:
    """What the next pass reads. `newest`: the greatest stamp now; `ours`: our own clock, in seconds.

    Stamps are made before they are committed. So a pass begins `overlap_seconds` before the newest one that the pass
    before saw, or before the oldest transaction that was open then. Once a pass ran a whole overlap after a stamp was
    first seen as the newest, by both clocks, nothing that is not greater can be on its way: it is settled, and only
    what is greater is read. Stamps of the future count as the present, and where the clock over there was put back
    since, a pass begins where that put it.
    """
    since = unpacked(cursor.get("since"))
    if newest is None:
        return Window(None, False, {})
    at = form.instant(newest)
    known = _comparable(since, newest) and (form.instant(since) is None) == (at is None)
    if at is None:
        return Window(since if known else None, False, {"since": packed(newest)})
    limit = min(clock.now, clock.oldest or clock.now) - dt.timedelta(seconds=PRECISION_SECONDS)
    doubt = form.doubt(newest)
    final = at < limit - doubt
    told = newest if final else min(newest, form.floor(limit, newest))
    clocks = [ours, clock.now.timestamp()]
    seen = cursor["seen"] if known and since == told and "seen" in cursor else clocks
    ages = [now - first for now, first in zip(clocks, seen, strict=True)]
    settled = final and min(*ages, (clock.now - doubt - at).total_seconds()) >= overlap_seconds
    then = {"since": packed(told), "seen": seen, "settled": settled, "began": ours}
    start = form.instant(since) if known else None
    if start is None:
        return Window(None, False, then)
    back = clock.now - dt.timedelta(seconds=max(0.0, ours - cursor.get("began", ours)))
    if cursor.get("settled") and start <= back:
        return Window(since, True, then)
    early = min(start, back) - dt.timedelta(seconds=overlap_seconds)
    return Window(min(since, form.floor(early, since)), False, then)


def packed(value: Any) -> Any:
    """A stamp or a key as JSON, so that `unpacked` makes the same of it again."""
    match value:
        case dt.datetime():
            return ["datetime", value.isoformat()]
        case dt.date():
            return ["date", value.isoformat()]
        case Decimal():
            return ["decimal", str(value)]
        case UUID():
            return ["uuid", str(value)]
        case bytes():
            return ["bytes", value.hex()]
    return value


def unpacked(value: Any) -> Any:
    return READERS[value[0]](value[1]) if isinstance(value, list) else value


READERS: dict[str, Any] = {
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": bytes.fromhex,
}


def _comparable(one: Stamp, other: Stamp) -> bool:
    """Whether both are of one kind: a column may have become another one overnight."""
    try:
        return one is not None and (one <= other or one > other)
    except TypeError:
        return False


def _repeated(local: dt.datetime) -> float:
    """Seconds by which the clock is put back in the night of this local time, if it comes twice."""
    first, second = local.replace(fold=0).utcoffset(), local.replace(fold=1).utcoffset()
    return max(0.0, (first - second).total_seconds()) if first is not None and second is not None else 0.0
