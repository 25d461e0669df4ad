"""How far a pass over an SQL table looks back: whatever stamps, clocks and commits do, nothing is missed."""

import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from legacy.connectors.sql_database import Clock
from legacy.connectors.sql_stamps import Form, packed, unpacked, window

BERLIN = ZoneInfo("Europe/Berlin")
OVERLAP_SECONDS = 600
NIGHT = dt.datetime(2026, 10, 24, 23, tzinfo=dt.UTC)  # two hours before Berlin's clocks go from 3:00 back to 2:00
FORMS: dict[str, tuple[Form, Callable[[dt.datetime], Any]]] = {
    "aware": (Form(dt.UTC), lambda at: at),
    "local": (Form(BERLIN), lambda at: at.astimezone(BERLIN).replace(tzinfo=None, fold=0)),
    "local seconds": (Form(BERLIN), lambda at: at.astimezone(BERLIN).replace(tzinfo=None, fold=0, microsecond=0)),
    "day": (Form(BERLIN), lambda at: at.astimezone(BERLIN).date()),
    "text": (Form(dt.UTC), lambda at: at.replace(tzinfo=None).isoformat(" ")),
    "text, zone": (Form(dt.UTC), lambda at: at.isoformat("T", "seconds").replace("+00:00", "Z")),
    "local text": (Form(BERLIN), lambda at: at.astimezone(BERLIN).strftime("%Y-%m-%d %H:%M:%S")),
    "day text": (Form(BERLIN), lambda at: at.astimezone(BERLIN).date().isoformat()),
    "seconds": (Form(dt.UTC, 1), lambda at: int(at.timestamp())),
    "milliseconds": (Form(dt.UTC, 1000), lambda at: int(at.timestamp() * 1000)),
}
# Of the hours around, to the minute and a little, so that things meet.
seconds = st.builds(lambda minute, little: minute * 60 + little, st.integers(0, 5 * 60), st.sampled_from((0, 0.4, 0.8)))
# (when it begins, which is its stamp; how long until it is committed)
writes = st.lists(st.tuples(seconds, st.integers(0, OVERLAP_SECONDS)), max_size=12)
long_writes = st.lists(st.tuples(seconds, st.sampled_from((0, 1, 600, 5400))), max_size=12)
kinds = st.sampled_from(sorted(FORMS))
passes = st.lists(seconds, min_size=1, max_size=12)
jumps = st.integers(-70, 70).map(lambda minutes: minutes * 60)

Written = list[tuple[float, int]]
Clocked = Callable[[float], float]  # the true second → what a clock shows then


def missed(
    kind: str,
    written: Written,
    times: list[float],
    *,
    overlap: int = OVERLAP_SECONDS,
    exact: bool = False,
    ours: Clocked = lambda at: at,
    theirs: Clocked = lambda at: at,
    apart: int = 0,  # seconds by which the stamps are ahead of the database's clock
) -> set[int]:
    """The writes that no pass has seen, after a last one when all is committed."""
    form, stamp = FORMS[kind]

    def moment(at: float) -> dt.datetime:
        return NIGHT + dt.timedelta(seconds=theirs(at))

    cursor: dict[str, Any] = {}
    seen: set[int] = set()
    for at in [*sorted(times), 8 * 3600]:
        there = {n: stamp(moment(begun + apart)) for n, (begun, took) in enumerate(written) if begun + took <= at}
        open_ = [moment(begun) for begun, took in written if begun <= at < begun + took]
        clock = Clock(moment(at), min(open_) if exact and open_ else None)
        bounds = window(cursor, max(there.values(), default=None), clock, form, overlap, ours(at))
        after = unpacked(json.loads(json.dumps(packed(bounds.after))))
        for n, each in there.items():
            if after is None or each > after or (each == after and not bounds.strict):
                seen.add(n)
        cursor = json.loads(json.dumps(bounds.then))
    return set(range(len(written))) - seen


@pytest.mark.legacy("F19")
@settings(max_examples=300)
@given(kind=kinds, written=writes, times=passes)
def test_nothing_is_missed_through_the_night_that_has_an_hour_twice(
    kind: str, written: Written, times: list[float]
) -> None:
    assert missed(kind, written, times) == set()


@pytest.mark.legacy("S1")
@settings(max_examples=300)
@given(kind=kinds, written=long_writes, times=passes)
def test_no_overlap_is_needed_where_open_transactions_are_known(
    kind: str, written: Written, times: list[float]
) -> None:
    assert missed(kind, written, times, overlap=0, exact=True) == set()


@pytest.mark.slow
@pytest.mark.legacy("F18")
@settings(max_examples=300)
@given(kind=kinds, written=writes, times=passes, jump=jumps, when=seconds)
def test_nothing_is_missed_when_our_own_clock_jumps(
    kind: str, written: Written, times: list[float], jump: int, when: float
) -> None:
    assert missed(kind, written, times, ours=lambda at: at + jump if at > when else at) == set()


@pytest.mark.legacy("F18")
@settings(max_examples=300)
@given(kind=kinds, written=writes, times=passes, jump=jumps, when=seconds)
def test_nothing_is_missed_when_their_clock_jumps(
    kind: str, written: Written, times: list[float], jump: int, when: float
) -> None:
    assert missed(kind, written, times, theirs=lambda at: at + jump if at > when else at) == set()


@pytest.mark.slow
@pytest.mark.legacy("F18")
@example(kind="aware", written=[(3000, 0), (2900, 300)], times=[3001], apart=-3600)  # looks settled at once
@example(kind="local", written=[(10440.4, 437), (15900, 291), (8100, 450)], times=[8820.8, 9660.4], apart=-3180)
@settings(max_examples=300)
@given(kind=kinds, written=writes, times=passes, apart=jumps)
def test_nothing_is_missed_when_stamps_are_made_by_another_clock(
    kind: str, written: Written, times: list[float], apart: int
) -> None:
    assert missed(kind, written, times, apart=apart) == set()


@pytest.mark.parametrize("kind", FORMS)
def test_quiet_table_is_settled_and_read_no_more(kind: str) -> None:
    form, stamp = FORMS[kind]
    newest = stamp(NIGHT)
    cursor: dict[str, Any] = {}
    for hours in (60, 61):
        clock = Clock(NIGHT + dt.timedelta(hours=hours))
        cursor = window(cursor, newest, clock, form, OVERLAP_SECONDS, hours * 3600).then
    bounds = window(cursor, newest, clock, form, OVERLAP_SECONDS, hours * 3600)
    assert bounds.strict and bounds.after == newest


def test_clock_over_there_that_is_put_back_hides_nothing() -> None:
    form = Form(dt.UTC)
    cursor: dict[str, Any] = {}
    for minute in (0, 20, 30):  # an hour ahead, and settled
        clock = Clock(NIGHT + dt.timedelta(hours=1, minutes=minute))
        cursor = window(cursor, NIGHT + dt.timedelta(hours=1), clock, form, 60, minute * 60).then
    assert cursor["settled"]
    mended = NIGHT + dt.timedelta(minutes=33)  # made after the clock was mended
    bounds = window(cursor, NIGHT + dt.timedelta(hours=1), Clock(NIGHT + dt.timedelta(minutes=35)), form, 60, 35 * 60)
    assert not bounds.strict and bounds.after is not None and bounds.after <= mended


@pytest.mark.parametrize(
    "newest",
    [
        7,
        b"\x00\x07",
        "000017",
        dt.datetime.max,
        dt.datetime.max.replace(tzinfo=dt.UTC),
        "9999-12-31 23:59:59",
        "2026-99-99",
    ],
)
def test_anything_ordered_is_a_stamp(newest: Any) -> None:
    clock = Clock(NIGHT)
    first = window({}, newest, clock, Form(BERLIN), 60, 0)
    again = window(json.loads(json.dumps(first.then)), newest, clock, Form(BERLIN), 60, 0)
    assert first.after is None
    assert again.after <= newest and not again.strict
