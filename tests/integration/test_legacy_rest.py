"""How the connector for JSON APIs reads lists: by the page, and what changed since."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from legacy.connector import Misconfigured, Unreachable
from legacy.connectors.rest import Rest
from legacy.connectors.rest_paging import Cursor, LinkHeader, Offset, PageNumber, Paging, Patience, Whole
from legacy.connectors.rest_resource import Resource
from tests.integration.misbehaving import Misbehaving, after, pass_on
from tests.integration.rest_support import PLACES, START, THINGS, Api, a_pass, keys

PAGINGS: dict[str, Paging] = {
    "whole": Whole(),
    "page": PageNumber(size=3),
    "offset": Offset(size=3),
    "cursor": Cursor(next="next", size=3),
    "key": Cursor(param="starting_after", more="more", size=3),
    "link": LinkHeader(size=3),
    "body": LinkHeader(body="next", size=3),
}


def settled(rest: Rest, source: Resource) -> dict[str, Any]:
    """A cursor with which all that there was has been seen, and nothing of it can still be on its way."""
    _, cursor = a_pass(rest, source, {})
    _, cursor = a_pass(rest, source, cursor)
    return {**cursor, "seen": 0.0}


# --- Lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("kind", PAGINGS)
def test_every_kind_of_paging_brings_all_records(api: Api, rest: Rest, kind: str, count: int) -> None:
    api.paging, source = kind, replace(THINGS, paging=PAGINGS[kind])
    for _ in range(count):
        api.put()
    found, _ = a_pass(rest, source, {})
    assert keys(found) == list(dict.fromkeys(keys(found))) or kind == "offset"
    assert set(keys(found)) == set(api.records) == set(rest.keys(source))


@pytest.mark.legacy("S7")
@pytest.mark.legacy("F6")
@pytest.mark.parametrize("order", ["id", "changed", "newest"])
@pytest.mark.parametrize(
    "shift", ["one deleted", "two deleted", "a page deleted", "one edited", "one made", "all edited"]
)
@pytest.mark.parametrize("kind", PAGINGS)
def test_records_that_shift_between_pages_are_not_lost(
    api: Api, rest: Rest, proxy: Misbehaving, kind: str, shift: str, order: str
) -> None:
    api.paging, api.order, source = kind, order, replace(THINGS, paging=PAGINGS[kind])
    for number in range(10):
        api.put(name=str(number))
    gone = {"one deleted": ["1"], "two deleted": ["1", "3"], "a page deleted": ["1", "2", "3", "4"]}.get(shift, [])
    edited = {"one edited": ["2"], "all edited": list("123456789")}.get(shift, [])

    def move() -> None:
        for key in gone:
            api.drop(key)
        for key in edited:
            api.put(key, name="new")
        if shift == "one made":
            api.put(name="new")

    proxy.when(after(move), path="/things")
    found, cursor = a_pass(rest, source, {})
    again, _ = a_pass(rest, source, cursor)
    latest = {record.key: record.values["name"] for record in found + again}
    assert {key: latest.get(key) for key in api.records} == {key: raw["name"] for key, raw in api.records.items()}


@pytest.mark.legacy("S7")
def test_shift_at_a_later_page_is_repaired_from_the_page_before_it(api: Api, rest: Rest, proxy: Misbehaving) -> None:
    api.paging, source = "page", replace(THINGS, paging=PAGINGS["page"])
    for _ in range(12):
        api.put()
    proxy.when(after(lambda: api.drop("2")), path="&page=3")
    found, _ = a_pass(rest, source, {})
    assert set(api.records) <= set(keys(found))
    assert [query["page"] for _, _, query in api.asked].count("1") == 2  # read, and read again to see that 2 joins it


@pytest.mark.legacy("S7")
def test_list_that_never_holds_still_is_given_up(api: Api, rest: Rest, proxy: Misbehaving) -> None:
    api.paging, source = "page", replace(THINGS, paging=PAGINGS["page"])
    for _ in range(6):
        api.put()

    def replace_all() -> None:
        for key in list(api.records):
            api.drop(key)
            api.put()

    proxy.when(after(replace_all), path="/things", times=None)
    with pytest.raises(Unreachable, match="faster than it can be read"):
        a_pass(rest, source, {})
    with pytest.raises(Unreachable, match="faster than it can be read"):
        list(rest.keys(source))


@pytest.mark.legacy("S7")
@pytest.mark.parametrize("kind", ["page", "offset"])
def test_run_after_one_that_gave_up_goes_on_from_where_it_was(
    api: Api, rest: Rest, proxy: Misbehaving, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience.__init__, "__defaults__", (1, 1))
    api.paging, source = kind, replace(THINGS, paging=PAGINGS[kind])
    for _ in range(12):
        api.put()
    page = rest.changes(source, PLACES, {})
    api.drop("1")
    with pytest.raises(Unreachable):
        rest.changes(source, PLACES, page.cursor)
    monkeypatch.setattr(Patience.__init__, "__defaults__", (50, 5))
    another = Rest(proxy.url)
    found, _ = a_pass(another, source, page.cursor)
    another.close()
    assert set(api.records) <= set(keys(page.records + found))


@pytest.mark.slow
@pytest.mark.legacy("F6")
def test_long_list_may_move_often(api: Api, rest: Rest, proxy: Misbehaving) -> None:
    api.paging, source = "page", replace(THINGS, paging=PAGINGS["page"])
    for _ in range(300):
        api.put()

    def drop_first() -> None:
        if len(api.records) > 200:
            api.drop(next(iter(api.records)))

    for _ in range(100):
        proxy.next(pass_on, pass_on, pass_on, pass_on, after(drop_first))
    found, _ = a_pass(rest, source, {})
    assert len(api.records) < 250
    assert set(api.records) <= set(keys(found))


@pytest.mark.parametrize("kind", ["page", "offset"])
def test_paging_that_the_api_does_not_know_is_a_wrong_configuration(api: Api, rest: Rest, kind: str) -> None:
    for _ in range(3):
        api.put()
    with pytest.raises(Misconfigured, match="same page again"):
        a_pass(rest, replace(THINGS, paging=PAGINGS[kind]), {})


def test_cursor_that_comes_back_is_a_wrong_configuration(api: Api, rest: Rest) -> None:
    api.paging = "cursor"
    for _ in range(9):
        api.put()
    with pytest.raises(Misconfigured, match="the cursor that it was asked with"):
        a_pass(rest, replace(THINGS, paging=Cursor(next="next", param="after")), {})


def test_cursor_of_theirs_that_expired_begins_the_list_again(api: Api, rest: Rest) -> None:
    api.paging, source = "cursor", replace(THINGS, paging=PAGINGS["cursor"])
    for _ in range(9):
        api.put()
    page = rest.changes(source, PLACES, {})
    api.max_cursor_uses = 0
    found, _ = a_pass(rest, source, page.cursor)
    assert keys(found) == list("123456789")


def test_page_past_the_end_may_be_told_with_404(api: Api, rest: Rest) -> None:
    api.paging, api.past_the_end = "page", 404
    for _ in range(6):
        api.put()
    assert keys(a_pass(rest, replace(THINGS, paging=PAGINGS["page"]), {})[0]) == list("123456")


def test_page_that_is_smaller_than_asked_for_is_not_the_last(api: Api, rest: Rest) -> None:
    for kind, paging in (("page", PageNumber(size=100)), ("offset", Offset(size=100))):
        api.paging = kind
        api.records.clear()
        for _ in range(8):
            api.put()
        assert set(keys(a_pass(rest, replace(THINGS, paging=paging), {})[0])) == set(api.records)


@pytest.mark.legacy("L2")
@pytest.mark.parametrize("kind", PAGINGS)
def test_pass_goes_on_after_the_process_was_killed(api: Api, rest: Rest, proxy: Misbehaving, kind: str) -> None:
    api.paging, source = kind, replace(THINGS, paging=PAGINGS[kind])
    for _ in range(8):
        api.put()
    page = rest.changes(source, PLACES, {})
    another = Rest(proxy.url)
    rest_of_it = a_pass(another, source, page.cursor)[0] if page.more else []
    another.close()
    assert set(keys(page.records + rest_of_it)) == set(api.records)


def test_memory_holds_a_page_and_the_cursor_no_more_than_one(api: Api, rest: Rest) -> None:
    api.paging, source = "page", replace(THINGS, paging=PAGINGS["page"])
    for _ in range(40):
        api.put()
    cursor: dict[str, Any] = {}
    sizes, more = [], True
    while more:
        page = rest.changes(source, PLACES, cursor)
        cursor, more = page.cursor, page.more
        sizes.append((len(page.records), len(str(cursor))))
    assert max(records for records, _ in sizes) == 3
    assert max(length for _, length in sizes) < 500


# --- Changed since ----------------------------------------------------------------------------------------------------


def test_quiet_source_is_asked_once_and_has_no_news(api: Api, rest: Rest) -> None:
    for _ in range(5):
        api.put()
    cursor = settled(rest, THINGS)
    api.asked.clear()
    found, _ = a_pass(rest, THINGS, cursor)
    assert len(api.asked) == 1
    assert keys(found) == list("12345")  # all of the newest second: some APIs have no finer one


@pytest.mark.legacy("S2")
@pytest.mark.legacy("F7")
@pytest.mark.parametrize("whole_seconds", [True, False])
@pytest.mark.parametrize("kind", PAGINGS)
def test_records_with_the_stamp_of_the_newest_that_come_later_are_seen(
    api: Api, rest: Rest, kind: str, whole_seconds: bool
) -> None:
    api.paging, api.whole_seconds, source = kind, whole_seconds, replace(THINGS, paging=PAGINGS[kind])
    for _ in range(4):
        api.put()
    cursor = settled(rest, source)
    late = api.put()  # in the same second
    assert late in keys(a_pass(rest, source, cursor)[0])


@pytest.mark.legacy("S1")
def test_record_that_is_committed_late_with_an_early_stamp_is_seen(api: Api, rest: Rest) -> None:
    api.put()
    api.tick(60)
    api.put()
    _, cursor = a_pass(rest, THINGS, {})
    late = api.put(updated_at=START + dt.timedelta(seconds=30))
    assert late in keys(a_pass(rest, THINGS, cursor)[0])


@pytest.mark.legacy("S7")
def test_edit_behind_the_reader_is_not_hidden_by_a_newer_one_before_it(
    api: Api, rest: Rest, proxy: Misbehaving
) -> None:
    """The newest stamp of a pass says nothing of what was edited on its first page while its last was read."""
    api.paging, source = "cursor", replace(THINGS, paging=PAGINGS["cursor"], overlap_seconds=1)
    for _ in range(7):
        api.put()
    cursor = settled(rest, source)
    for _ in range(4):
        api.put()

    def edit() -> None:
        api.tick(10)
        api.put("1", name="behind")
        api.tick(1_000)
        api.put("11", name="before")

    api.tick(5)
    for key in ("8", "9", "10", "11"):
        api.put(key)
    proxy.when(after(edit), path="/things")
    found, cursor = a_pass(rest, source, cursor)
    again, _ = a_pass(rest, source, cursor)
    assert "behind" in {record.values["name"] for record in found + again}


@pytest.mark.legacy("F18")
def test_clock_of_theirs_that_was_put_back_hides_nothing(api: Api, rest: Rest) -> None:
    api.tick(3_600)  # an hour fast
    api.put()
    cursor = settled(rest, THINGS)
    api.tick(-3_000)
    made = api.put()
    rest.open()
    assert made in keys(a_pass(rest, THINGS, cursor)[0])


@pytest.mark.legacy("F18")
@pytest.mark.parametrize("hours", [-1, 1])
def test_web_server_whose_clock_is_an_hour_off_the_database_s_loses_nothing(api: Api, rest: Rest, hours: int) -> None:
    api.date_off = dt.timedelta(hours=hours)
    api.put()
    cursor = settled(rest, THINGS)
    api.tick(100)
    made = api.put()
    rest.open()
    assert made in keys(a_pass(rest, THINGS, cursor)[0])


@pytest.mark.legacy("S3")
def test_stamp_that_is_null_until_the_first_update_is_the_one_of_its_creation(api: Api, rest: Rest) -> None:
    api.null_until_update, source = True, replace(THINGS, since=("updated_since", "created_since"))
    old = api.put()
    cursor = settled(rest, source)
    api.tick(1_000)
    made = api.put()
    api.put(old, name="edited")
    found, cursor = a_pass(rest, source, cursor)
    assert set(keys(found)) == {old, made}
    assert cursor["since"].startswith("2026-11-21T12:16:40")


@pytest.mark.parametrize("kind", PAGINGS)
def test_what_the_first_pass_read_is_read_once_more_and_not_again(api: Api, rest: Rest, kind: str) -> None:
    api.paging, source = kind, replace(THINGS, paging=PAGINGS[kind])
    for _ in range(9):
        api.tick(1_000)
        api.put()
    cursor = settled(rest, source)
    assert set(keys(a_pass(rest, source, cursor)[0])) == {"9"}


def test_newest_stamp_may_be_asked_for(api: Api, rest: Rest) -> None:
    """Then nothing has to be read again after the first pass."""
    api.paging, source = (
        "page",
        replace(THINGS, paging=PAGINGS["page"], newest={"sort": "-updated_at", "per_page": "1"}),
    )
    for _ in range(9):
        api.tick(1_000)
        api.put()
    _, cursor = a_pass(rest, source, {})
    assert cursor["since"] == cursor["newest"]
    found, _ = a_pass(rest, source, cursor)
    assert keys(found) == ["9"]


@pytest.mark.parametrize(
    ("form", "told"), [("iso", "2026-11-21T11:59:00Z"), ("seconds", "1795262340"), ("milliseconds", "1795262340000")]
)
def test_since_is_asked_in_the_form_that_the_api_takes(api: Api, rest: Rest, form: Any, told: str) -> None:
    api.put()
    source = replace(THINGS, since_format=form)
    _, cursor = a_pass(rest, source, {})
    api.asked.clear()
    if form == "milliseconds":
        api.records.clear()  # ours does not understand it; what counts is what it is asked
        assert source.since_text(START - dt.timedelta(seconds=60)) == told
        return
    assert keys(a_pass(rest, source, cursor)[0]) == ["1"]
    assert api.asked[0][2] == {"updated_since": told}


@pytest.mark.legacy("F19")
@pytest.mark.parametrize(
    ("zone", "stamp", "since"),
    [
        ("UTC", "2026-11-21T12:00:00", "2026-11-21T12:00:00Z"),
        ("Europe/Berlin", "2026-11-21T13:00:00", "2026-11-21T13:00:00+01:00"),
        ("Europe/Berlin", "2026-11-21 12:00:00Z", "2026-11-21T13:00:00+01:00"),
        ("Asia/Kolkata", 1795262400, "2026-11-21T17:30:00+05:30"),
    ],
)
def test_stamp_without_a_zone_is_in_the_declared_one(zone: str, stamp: Any, since: str) -> None:
    source = replace(THINGS, zone=zone)
    at = source.stamp_of({"updated_at": stamp})
    assert at == START
    assert source.since_text(START) == since


def test_without_a_stamp_every_pass_reads_all(api: Api, rest: Rest) -> None:
    source = replace(THINGS, stamp=(), since=())
    for _ in range(3):
        api.put()
    _, cursor = a_pass(rest, source, {})
    assert keys(a_pass(rest, source, cursor)[0]) == ["1", "2", "3"]
