"""Conversions, the merge and the checks of mappings are pure: their tables and their laws."""

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities.models import Order
from legacy.check import check
from legacy.connector import Misconfigured
from legacy.convert import Always, By, Day, Join, Moment, Money, Number, Split, Values
from legacy.document import Unmappable
from legacy.mapping import F, Mapping, Rows, Window
from legacy.merging import differs, merged
from legacy.stored import Decoder, Encoder, storable
from sync.merge import Decision
from sync.rules import rules_of
from tests.integration.legacy_support import CUSTOMER, ORDER, PRODUCT

UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("how", "theirs", "ours"),
    [
        (Values({"A": True, "X": False}), "X", False),
        (Values({1: "a", 2: "a"}), 2, "a"),
        (Values({"A": True}), None, None),  # empty stays empty
        (Values({None: "none", "A": "a"}), None, "none"),  # unless it is named
        (Day("%d.%m.%Y"), "29.02.2024", dt.date(2024, 2, 29)),
        (Day(), "", None),
        (Day(), dt.date(2026, 1, 1), dt.date(2026, 1, 1)),
        (Moment("Europe/Berlin"), dt.datetime(2026, 7, 1, 12), at("2026-07-01T10:00")),
        (Moment("Europe/Berlin", "%d.%m.%Y %H:%M"), "01.12.2026 12:00", at("2026-12-01T11:00")),
        (Moment("Europe/Berlin"), "2026-07-01T12:00:00+05:00", at("2026-07-01T07:00")),  # it says its own zone
        (Moment("Europe/Berlin"), dt.datetime(2026, 10, 25, 2, 30), at("2026-10-25T00:30")),  # twice that night: first
        (Moment("Europe/Berlin"), dt.datetime(2026, 3, 29, 2, 30), at("2026-03-29T01:30")),  # not that night
        (Number(2, comma=","), " 12,50 ", Decimal("12.50")),
        (Number(0, factor=Decimal("0.01")), 1250, Decimal("12.50")),
        (Number(2), "", None),
        (Money(2, currency="EUR"), "12.50 EUR", Decimal("12.50")),
        (Split(" "), "Ana Maria Moreno", ("Ana", "Maria Moreno")),
        (Split(" "), None, ("", "")),
        (Join(", "), ("Mitte 1", None), "Mitte 1"),
        (Always("x"), "whatever", "x"),
        (By(str.title), "ana", "Ana"),
    ],
)
def test_theirs_becomes_ours(how: Any, theirs: Any, ours: Any) -> None:
    assert how.pull(theirs) == ours


@pytest.mark.parametrize(
    ("how", "ours", "theirs"),
    [
        (Values({1: "a", 2: "a"}), "a", 1),  # of several the first
        (Values({1: "a"}), "", None),
        (Day("%d.%m.%Y"), None, None),
        (Moment("Europe/Berlin"), at("2026-07-01T10:00"), dt.datetime(2026, 7, 1, 12)),
        (Number(2), Decimal("12.345"), Decimal("12.35")),  # half away from zero, as their people round
        (Number(2), Decimal("-12.345"), Decimal("-12.35")),
        (Number(1, comma=","), Decimal("12.34"), "12,3"),
        (Number(0, factor=Decimal("0.01")), Decimal("12.5"), Decimal(1250)),
        (Money(2, currency="EUR"), Decimal("12.5"), "12.50 EUR"),
        (Split(" "), ("", "Moreno"), "Moreno"),
        (Split(" "), ("", ""), None),
        (Join(" "), "a b c", ("a", "b c")),
    ],
)
def test_ours_becomes_theirs(how: Any, ours: Any, theirs: Any) -> None:
    assert how.push(ours) == theirs


@pytest.mark.parametrize(
    ("how", "value"),
    [
        (Values({"A": 1}), "B"),
        (Day("%d.%m.%Y"), "2026-11-21"),
        (Day(), "31.02.2026"),
        (Moment(format="%Y"), "yesterday"),
        (Number(2), "a dozen"),
        (Number(2, comma=","), "1.234,50"),
        (Money(2, currency="EUR"), "12.50 USD"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_value(how: Any, value: Any) -> None:
    with pytest.raises(ValueError):
        how.pull(value)


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9)
scaled = st.decimals(-(10**9), 10**9, places=2)


@given(st.dates(dt.date(1900, 1, 1)), st.sampled_from(["%d.%m.%Y", "%Y%m%d", "%Y-%m-%d"]))
def test_day_goes_there_and_comes_back(day: dt.date, form: str) -> None:
    assert Day(form).pull(Day(form).push(day)) == day


@pytest.mark.legacy("F19")
@given(st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2099, 1, 1)), st.sampled_from(["UTC", "Europe/Berlin"]))
def test_moment_comes_back_but_for_the_hour_that_a_night_has_twice(naive: dt.datetime, zone: str) -> None:
    how, moment = Moment(zone), naive.replace(tzinfo=UTC)
    back = how.pull(how.push(moment))
    twice = moment.astimezone(ZoneInfo(zone)).fold == 1
    assert back == (moment - dt.timedelta(hours=1) if twice else moment)
    assert how.pull(how.push(back)) == back, "and then it stays"


@given(scaled, st.sampled_from([",", "."]), st.booleans())
def test_number_of_their_scale_goes_there_and_comes_back(number: Decimal, comma: str, text: bool) -> None:
    how = Number(2, comma=comma, text=text)
    assert how.pull(how.push(number)) == number


@given(st.decimals(-(10**6), 10**6, places=4))
def test_rounding_happens_once(number: Decimal) -> None:
    once = Number(2).pull(Number(2).push(number))
    assert Number(2).pull(Number(2).push(once)) == once
    assert abs(once - number) <= Decimal("0.005")


@given(words, words)
def test_split_name_is_joined_again(first: str, last: str) -> None:
    assert Split().pull(Split().push((first, last))) == (first, last)
    assert Join().pull(Join().push(f"{first} {last}")) == f"{first} {last}"


kept = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | words
    | st.dates()
    | st.times()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
)


@given(kept)
def test_what_is_kept_comes_back_as_it_was(value: Any) -> None:
    assert json.loads(json.dumps(value, cls=Encoder), cls=Decoder) == value


@given(st.text(st.characters(exclude_categories=[])) | st.floats())
def test_what_was_marked_can_be_stored(value: Any) -> None:
    found = storable(value)
    str(found).encode()
    assert "\x00" not in str(found)
    assert storable(found) == found


# --- The merge --------------------------------------------------------------------------------------------------------

MERGED = replace(CUSTOMER, fields=(F("name", "name"), F("city", "city"), F("phone", "phone"), F("fax", "fax")))
documents = st.fixed_dictionaries(
    {name: st.sampled_from(["", "a", "b", "c"]) for name in ("name", "city", "phone", "fax")}
)


@given(documents, documents, st.sampled_from(["legacy", "server", "merge", "manual"]))
def test_what_only_they_changed_is_theirs_and_what_only_we_changed_is_ours(
    agreed: dict[str, Any], other: dict[str, Any], wins: Any
) -> None:
    mapping = replace(MERGED, wins=wins)
    assert agreed | merged(mapping, agreed, other, agreed).write == other
    assert merged(mapping, agreed, agreed, other).write == {}
    assert merged(mapping, agreed, other, other).write == {}


@given(documents, documents, documents)
def test_merge_is_done_once_and_takes_each_field_from_one_side(
    agreed: dict[str, Any], theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    for wins in ("legacy", "server"):
        mapping = replace(MERGED, wins=wins)
        after = ours | merged(mapping, agreed, theirs, ours).write
        assert all(after[name] in (theirs[name], ours[name]) for name in after)
        assert merged(mapping, theirs, theirs, after).write == {}, "their record is no news any more"
        sent = theirs | {name: after[name] for name in differs(mapping, after, theirs)}
        assert sent == after, "and when ours has gone there, both are the same"


@given(documents, documents)
def test_first_contact_never_empties_what_one_side_has(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    units = rules_of(MERGED.entity).units
    for wins in ("legacy", "server"):
        after = ours | merged(replace(MERGED, wins=wins), {}, theirs, ours).write
        assert all(after[n] for n in after if (theirs[n] or ours[n]) and n not in units)


@given(documents, documents, documents)
def test_what_is_outranked_stays(agreed: dict[str, Any], theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert merged(MERGED, agreed, theirs, ours, outranked=set(ours)).write == {}


def test_field_that_nobody_may_decide_alone_is_open() -> None:
    agreed = dict.fromkeys(("name", "city", "phone", "fax"), "a")
    (dispute,) = merged(replace(MERGED, wins="manual"), agreed, agreed | {"city": "b"}, agreed | {"city": "c"}).disputes
    assert (dispute.fields, dispute.decision) == (("city",), Decision.OPEN)


# --- Checks -----------------------------------------------------------------------------------------------------------

LINES = Rows("order_line", ORDER.rows.model if ORDER.rows else Order, parent="order", place="lines", fields=())


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        (replace(CUSTOMER, fields=(*CUSTOMER.fields, F("name", "label"))), "'name' is mapped twice"),
        (replace(CUSTOMER, match="fax"), "match names 'fax', which no line takes over"),
        (replace(CUSTOMER, never=("nothing",)), "never names 'nothing', which Customer does not have"),
        (replace(CUSTOMER, never=("city",)), "'city' must never leave, and a line sends it"),
        (replace(CUSTOMER, wins="newest"), "wins='newest' needs newest="),
        (replace(CUSTOMER, direction="pull", deletes="push"), "deletes='push' sends deletions"),
        (replace(CUSTOMER, window=Window("25:00", "26:00")), "customer: window: "),
        (replace(CUSTOMER, window=Window("22:00", "05:00", "Europe/Atlantis")), "customer: window: .*Atlantis"),
        (
            replace(CUSTOMER, fields=(F("city", "city", wins="server"), F("address", "street"))),
            "address, city, region, postal_code, country are decided together",
        ),
        (replace(ORDER, wins="manual", rows=LINES), "nobody is asked about lines"),
        (
            replace(PRODUCT, direction="both", wins="manual", fields=(F("unit_cost", "cost"),), match=()),
            "line F.'unit_cost', 'cost'.: is hidden from devices",
        ),
        (replace(ORDER, fields=(F("customer", "party"),), rows=None), "is a reference; ref= says which"),
        (replace(CUSTOMER, fields=(F((), "kind"),)), "needs a constant: Always"),
        (
            replace(CUSTOMER, match=(), fields=(F("phone", "active", Values({"A": "x", "B": "x"})),)),
            "what goes back is the first",
        ),
        (
            replace(
                CUSTOMER,
                match=(),
                fields=(
                    F(
                        "name",
                        "name",
                        By(str, str, samples=(1,)),
                    ),
                ),
            ),
            None,
        ),
        (
            replace(CUSTOMER, match=(), fields=(F("name", "name", By(str.lower, str.upper, samples=("Ana",))),)),
            "is lossy: 'Ana' becomes 'ANA' there and 'ana' here again",
        ),
        (
            replace(PRODUCT, direction="both", match=(), fields=(F("unit_price", "price", Number(0)),)),
            r"is lossy: Decimal\('12.5'\) becomes Decimal\('13'\)",
        ),
    ],
)
def test_mapping_that_cannot_work_says_why(mapping: Mapping, problem: str | None) -> None:
    known = [replace(CUSTOMER, name="other"), replace(PRODUCT, name="item")]
    if problem is None:
        return check([*known, mapping])
    with pytest.raises(Misconfigured, match=problem):
        check([*known, mapping])
    return None


# --- Documents and fingerprints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value", "error"),
    [
        (F("unit_price", "x"), "a dozen", "unit_price: 'a dozen' is"),
        (F("units_in_stock", "x"), 1.5, "not a whole number"),
        (F("discontinued", "x"), "perhaps", "neither true nor false"),
        (F("category", "x", Values({"a": "b"})), "c", "category: 'c' is none of 'a'"),
    ],
)
def test_value_that_is_no_value_of_the_field_names_the_field(line: F, value: Any, error: str) -> None:
    mapping = replace(PRODUCT, fields=(line,), match=())
    with pytest.raises(Unmappable, match=error):
        mapping.ours({"x": value}, lambda name, key: key)


def scaled_by(factor: int) -> Callable[[Any], Any]:
    return lambda value: value * factor


def test_fingerprint_tells_functions_apart_by_what_they_do() -> None:
    def one(how: Any) -> str:
        return replace(PRODUCT, fields=(F("name", "name", how),), match=()).fingerprint

    assert one(By(scaled_by(2))) == one(By(scaled_by(2)))
    assert one(By(scaled_by(2))) != one(By(scaled_by(3)))
    assert one(By(lambda v: v in {"a", "b"})) != one(By(lambda v: v in {"a", "c"}))
    assert one(By(lambda v: [x for x in v if x == 1])) != one(By(lambda v: [x for x in v if x == 2]))


@pytest.mark.slow
def test_fingerprint_is_the_same_in_the_next_process() -> None:
    program = (
        "import django; django.setup()\n"
        "from dataclasses import replace\n"
        "from legacy.mapping import F\n"
        "from legacy.convert import By\n"
        "from tests.integration.legacy_support import PRODUCT\n"
        "names = frozenset('abcdefgh')\n"
        "how = By(lambda v: v in {'a', 'b', 'c', 'd'} or v in names)\n"
        "print(replace(PRODUCT, source=names, fields=(F('name', 'name', how),), match=()).fingerprint)"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "DJANGO_SETTINGS_MODULE": "syncserver.settings"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1
