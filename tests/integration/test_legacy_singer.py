"""The connector of Singer taps: pages and states, and what the tap is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from legacy.connector import Record, Unreachable
from legacy.connectors import singer_stream
from legacy.connectors.singer import Singer, Stream
from tests.integration.legacy_singer_support import FAULTY, PLACES, USERS, WHOLE, Source, gone, keys, passed

# --- State and pages --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("pages_of_two_records")
def test_page_is_closed_at_a_state_and_the_next_run_goes_on_there(table: Source) -> None:
    pages = passed(table.connect())
    assert [[record.key for record in page.records] for page in pages] == [["1", "2"], ["3", "4"], ["5", "6"], ["7"]]
    assert [page.cursor["state"] for page in pages] == [{"at": 2}, {"at": 4}, {"at": 6}, None]
    table.put((3, 9, "New"), (1, 1, "Old"), (7, 7, "Name 7"))
    assert keys(passed(table.connect(), cursor=pages[-1].cursor)) == ["7", "3"]
    assert [start["state"] for start in table.starts] == [{}, {"at": 7}]


@pytest.mark.usefixtures("pages_of_two_records")
@pytest.mark.parametrize("after", range(1, 4))
def test_process_that_is_killed_between_pages_goes_on_from_the_last_state(table: Source, after: int) -> None:
    connector = table.connect()
    cursor: dict[str, Any] = {}
    found: list[str] = []
    for _ in range(after):
        page = connector.changes(USERS, PLACES, cursor)
        cursor, found = page.cursor, found + keys([page])
    connector.close()
    rest = passed(table.connect(), cursor=cursor)
    assert set(found + keys(rest)) == {str(number) for number in range(1, 8)}
    assert table.starts[1]["state"] == {"at": 2 * after}


@pytest.mark.usefixtures("pages_of_two_records")
def test_without_states_pages_are_closed_all_the_same_and_the_next_run_reads_it_all_again(table: Source) -> None:
    table.config["state_every"] = 0
    pages = passed(table.connect())
    assert [len(page.records) for page in pages] == [4, 3]
    assert keys(passed(table.connect(), cursor=pages[-1].cursor)) == keys(pages)
    assert [start["state"] for start in table.starts] == [{}, {}]


@pytest.mark.usefixtures("pages_of_two_records")
def test_state_counts_for_the_records_before_it_only(table: Source) -> None:
    table.config |= {"state_every": 3, "after_5": [{"exit": 1}]}
    connector = table.connect()
    pages = [connector.changes(USERS, PLACES, {})]
    pages.append(connector.changes(USERS, PLACES, pages[-1].cursor))
    assert [(keys([page]), page.cursor["state"]) for page in pages] == [
        (["1", "2", "3"], {"at": 3}),
        (["4", "5"], {"at": 3}),
    ]
    with pytest.raises(Unreachable, match="exit code 1"):
        connector.changes(USERS, PLACES, pages[-1].cursor)
    del table.config["after_5"]
    assert keys(passed(table.connect(), cursor=pages[-1].cursor)) == ["3", "4", "5", "6", "7"]


@pytest.mark.slow
@pytest.mark.legacy("S1")
def test_record_that_is_committed_late_with_an_earlier_stamp_is_found(table: Source, monkeypatch: Any) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(singer_stream, "time", lambda: clock[0])
    monkeypatch.setattr("legacy.connectors.singer.time.time", lambda: clock[0])
    source = Stream("users", key=("id",), overlap_seconds=60)
    cursor: dict[str, Any] = {}
    states = []
    rows = [(1, 1, "first")]
    for minutes in range(6):
        clock[0] = 1_000 + 300 * minutes
        table.put(*rows)
        pages = passed(table.connect(), source, cursor)
        cursor = pages[-1].cursor
        states.append(table.starts[-1]["state"])
        rows.append((10 + minutes, 10 + minutes, "next"))
    # Each pass begins where the one before the last ended: what became visible since the last one read is told.
    assert states == [{}, {}, {"at": 1}, {"at": 10}, {"at": 11}, {"at": 12}]
    assert len(json.dumps(cursor)) < 300


def test_however_often_it_runs_the_cursor_stays_small(table: Source, monkeypatch: Any) -> None:
    cursor = singer_stream.Cursor()
    for second in range(1, 1_000):
        cursor.state = cursor.since(60)
        cursor.began, cursor.state = second, {"at": second}
        cursor.end(second, 60)
        assert len(cursor.ends) <= 13
    assert 1_000 - 60 - 10 <= cursor.since(60)["at"] <= 1_000 - 60


@pytest.mark.usefixtures("pages_of_two_records")
def test_full_table_is_told_as_a_whole_from_its_beginning_whatever_state_there_is(table: Source) -> None:
    connector = table.connect()
    first = connector.changes(WHOLE, PLACES, {})
    connector.close()
    pages = passed(table.connect(), WHOLE, first.cursor)
    assert keys(pages) == [str(number) for number in range(1, 8)]
    assert (pages[-1].more, pages[-1].whole) == (False, True)
    assert [start["state"] for start in table.starts] == [{}, {}]


def test_incremental_pass_does_not_tell_what_is_gone(table: Source) -> None:
    assert not passed(table.connect())[-1].whole


@pytest.mark.slow
def test_version_that_is_new_is_told_as_a_whole(table: Source) -> None:
    wholes = []
    cursor: dict[str, Any] = {}
    for version in (7, 7, 8):
        table.config["version"] = version
        pages = passed(table.connect(), cursor=cursor)
        cursor = pages[-1].cursor
        wholes.append(pages[-1].whole)
    assert wholes == [True, False, True]


def test_records_with_sdc_deleted_at_are_gone(table: Source) -> None:
    rows = [
        {"id": 1, "at": 1, "name": "Ana"},
        {"id": 2, "at": 2, "name": "Bo", "_sdc_deleted_at": None},
        {"id": 1, "at": 3, "_sdc_deleted_at": "2026-11-21T00:00:00Z"},
    ]
    Path(table.config["rows"]).write_text(json.dumps(rows))
    (page,) = passed(table.connect())
    assert (keys([page]), page.gone) == (["2"], ["1"])


def test_record_that_is_told_twice_in_a_page_counts_as_told_at_last(table: Source) -> None:
    table.put((1, 1, "Ana"), (1, 2, "Bo"), (1, 2, "Bo"))
    (page,) = passed(table.connect())
    assert page.records == [Record("1", {"id": 1, "name": "Bo"})]  # no city: absent is not null


# --- What the tap is given --------------------------------------------------------------------------------------------


def test_only_what_is_mapped_is_selected(table: Source) -> None:
    passed(table.connect())
    (start,) = table.starts
    chosen = {
        (stream["stream"], *each["breadcrumb"][1:])
        for stream in start["catalog"]["streams"]
        for each in stream["metadata"]
        if each["metadata"].get("selected") and stream["selected"]
    }
    assert chosen == {("users",), *(("users", name) for name in (*PLACES, "_sdc_deleted_at"))}


def test_secrets_stand_in_a_file_of_ours_alone_and_only_until_the_tap_speaks(table: Source, monkeypatch: Any) -> None:
    monkeypatch.setenv("SECRET_KEY", "of the server")
    connector = table.connect(environment={"TAP_REGION": "eu"})
    monkeypatch.setattr(singer_stream, "PAGE_RECORDS", 2)
    assert connector.changes(USERS, PLACES, {}).more
    (start,) = table.starts
    assert start["mode"] == "0o600"
    assert not Path(start["config"]).exists()
    assert start["environment"]["TAP_REGION"] == "eu"
    assert "SECRET_KEY" not in start["environment"]
    connector.close()
    assert gone(start["pid"])


def test_who_we_are_is_the_same_for_another_password_and_not_for_another_host() -> None:
    words = [Singer(FAULTY, {"host": host, "password": password}).open() for host, password in ("ab", "ac", "xb")]
    assert words[0] == words[1] != words[2]
