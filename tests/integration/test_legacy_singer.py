"""The connector of Singer taps: with a living tap that reads a real PostgreSQL, and with one that misbehaves."""

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.db import connection

from entities.models import Customer
from legacy.connector import Misconfigured, Page, Record, Unreachable
from legacy.connectors import singer_stream, singer_tap
from legacy.connectors.singer import Singer, Stream
from legacy.mapping import F, Mapping
from legacy.models import Run
from legacy.runs import run
from legacy.systems import System
from sync.models import History
from tests.integration.legacy_support import Killed, killed_at

FAULTY = (sys.executable, str(Path(__file__).with_name("singer_fault_tap.py")))
REAL = "meltanolabs-tap-postgres==0.10.0"
USERS = Stream("users", key=("id",), overlap_seconds=0)
WHOLE = Stream("users", key=("id",), method="FULL_TABLE")
PLACES = ("id", "name", "city")


class Source:
    """A table that the tap of the tests reads, and what it was told to do."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.config = {"rows": str(folder / "rows.json"), "log": str(folder / "log"), "state_every": 2, **config}
        self.put()

    def put(self, *rows: tuple[int, int, str], **more: Any) -> None:
        """(id, at, name) of all rows."""
        made = [{"id": key, "at": at, "name": name, **more} for key, at, name in rows]
        Path(self.config["rows"]).write_text(json.dumps(made))

    def connect(self, **options: Any) -> Singer:
        return Singer(FAULTY, self.config, **options)

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What each run of the tap was given."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def table(tmp_path: Path) -> Source:
    source = Source(tmp_path)
    source.put(*((number, number, f"Name {number}") for number in range(1, 8)))
    return source


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singer_stream, "PAGE_RECORDS", 2)
    monkeypatch.setattr(singer_stream, "PAGE_RECORDS_MAX", 4)


def passed(connector: Singer, source: Stream = USERS, cursor: dict[str, Any] | None = None) -> list[Page]:
    pages: list[Page] = []
    cursor, more = cursor or {}, True
    try:
        while more:
            pages.append(connector.changes(source, PLACES, cursor))
            cursor, more = json.loads(json.dumps(pages[-1].cursor)), pages[-1].more
    finally:
        connector.close()
    return pages


def keys(pages: list[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def gone(pid: int) -> bool:
    """Whether a process has ended, or does within five seconds of being told to."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        # One that nobody has asked about keeps its number.
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


# --- State and pages --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("small_pages")
def test_page_is_closed_at_a_state_and_the_next_run_goes_on_there(table: Source) -> None:
    pages = passed(table.connect())
    assert [[record.key for record in page.records] for page in pages] == [["1", "2"], ["3", "4"], ["5", "6"], ["7"]]
    assert [page.cursor["state"] for page in pages] == [{"at": 2}, {"at": 4}, {"at": 6}, None]
    table.put((3, 9, "New"), (1, 1, "Old"), (7, 7, "Name 7"))
    assert keys(passed(table.connect(), cursor=pages[-1].cursor)) == ["7", "3"]
    assert [start["state"] for start in table.starts] == [{}, {"at": 7}]


@pytest.mark.usefixtures("small_pages")
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


@pytest.mark.usefixtures("small_pages")
def test_without_states_pages_are_closed_all_the_same_and_the_next_run_reads_it_all_again(table: Source) -> None:
    table.config["state_every"] = 0
    pages = passed(table.connect())
    assert [len(page.records) for page in pages] == [4, 3]
    assert keys(passed(table.connect(), cursor=pages[-1].cursor)) == keys(pages)
    assert [start["state"] for start in table.starts] == [{}, {}]


@pytest.mark.usefixtures("small_pages")
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


@pytest.mark.usefixtures("small_pages")
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


# --- Faults -----------------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    # what the tap does: what is said of it
    "is told nonsense": (
        {"first": [{"stderr": "no such region"}, {"exit": 1}]},
        Misconfigured,
        "code 1.*no such region",
    ),
    "finds its system away": ({"first": [{"stderr": "Connection refused"}, {"exit": 1}]}, Unreachable, "refused"),
    "dies in the middle": ({"after_1": [{"stderr": "boom"}, {"exit": 3}]}, Unreachable, "exit code 3.*boom"),
    "is killed": ({"after_1": [{"killed": True}]}, Unreachable, "signal 9"),
    "prints garbage": ({"after_1": [{"print": "Reading users ..."}]}, Misconfigured, "no message of Singer: Reading"),
    "prints JSON garbage": ({"after_1": [{"print": "[1]"}]}, Misconfigured, "no message of Singer"),
    "writes batches": ({"after_1": [{"print": '{"type": "BATCH"}'}]}, Misconfigured, "turn that off"),
    "says nothing": ({"after_1": [{"silent": True}]}, Unreachable, "said nothing for 1 s"),
    "says nothing at all": ({"first": [{"silent": True}]}, Unreachable, "said nothing for 1 s"),
    "never ends a line": ({"after_1": [{"flood": 200_000}]}, Misconfigured, "a line of more than 100000 bytes"),
    "has no such catalog": ({"catalog": "{}"}, Misconfigured, "is none of a Singer tap"),
    "has no catalog": ({"catalog": "hello"}, Misconfigured, "is no catalog"),
    "lacks a place": (
        {"schema": {"properties": {"id": {}, "name": {}}}},
        Misconfigured,
        "has no city .any more.; it has",
    ),
    "lacks a key": ({"schema": {"properties": {"name": {}, "city": {}}}}, Misconfigured, "has no id .any more."),
    "begins with records": (
        {"first": [{"print": '{"type": "RECORD", "stream": "users", "record": {}}'}], "catalog": ""},
        Misconfigured,
        "before their SCHEMA",
    ),
    "has a record without key": (
        {"after_1": [{"print": '{"type": "RECORD", "stream": "users", "record": {"name": "x"}}'}]},
        Misconfigured,
        "cannot be told apart: it has no id",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FAILURES)
def test_tap_that_fails_is_told_with_its_last_words(table: Source, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singer_tap, "MESSAGE_BYTES_MAX", 100_000)
    config, error, words = FAILURES[what]
    catalog = None
    if what == "begins with records":  # which discovering would stumble over
        config = {"first": config["first"]}
        catalog = {"streams": [{"tap_stream_id": "users", "stream": "users"}]}
    table.config |= config
    found: list[str] = []
    with pytest.raises(error, match=f"(?s){words}"):
        connector = table.connect(silence_seconds=1, catalog=catalog)
        cursor: dict[str, Any] = {}
        more = True
        try:
            while more:
                page = connector.changes(USERS, PLACES, cursor)
                cursor, more, found = page.cursor, page.more, found + keys([page])
        finally:
            connector.close()
    assert found == (["1"] if "after_1" in config else [])
    for start in table.starts if (table.folder / "log").exists() else []:
        assert gone(start["pid"])
        assert not Path(start["config"]).exists()


def test_secrets_are_masked_in_what_is_told(table: Source) -> None:
    table.config |= {
        "db": {"password": "p@ss/1"},
        "address": "postgres://me:s3cr%2Ft@host/db",
        "first": [{"stderr": "bad login p@ss/1 or p%40ss%2F1 or s3cr%2Ft or s3cr/t at host"}, {"exit": 1}],
    }
    with pytest.raises(Misconfigured, match=r"bad login \*\*\* or \*\*\* or \*\*\* or \*\*\* at host") as caught:
        passed(table.connect())
    assert "s3cr" not in str(caught.value)


def test_last_words_are_the_last(table: Source) -> None:
    table.config["first"] = [*({"stderr": f"line {number} " + "x" * 2_000} for number in range(100)), {"exit": 1}]
    with pytest.raises(Misconfigured, match=r"(?s)line 99") as caught:
        passed(table.connect())
    assert "line 79" not in str(caught.value)
    assert len(str(caught.value)) < 12_000


@pytest.mark.slow
@pytest.mark.parametrize("end", ["silent", "exit"])
def test_what_the_tap_started_is_ended_with_it(table: Source, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singer_tap, "END_SECONDS", 0.5)
    pid_file = table.folder / "child"
    table.config["after_1"] = [
        {"stubborn": True},
        {"child": str(pid_file)},
        {end: True} if end == "silent" else {end: 0},
    ]
    if end == "silent":
        with pytest.raises(Unreachable, match="said nothing"):
            passed(table.connect(silence_seconds=1))
    else:
        passed(table.connect(silence_seconds=5))
    assert gone(int(pid_file.read_text()))
    assert gone(table.starts[0]["pid"])


def test_tap_that_is_not_there_is_told(tmp_path: Path) -> None:
    connector = Singer([str(tmp_path / "tap-nothing")], {})
    with pytest.raises(Misconfigured, match="There is no tap"):
        connector.open()
    with pytest.raises(Misconfigured, match="cannot be started"):
        connector.changes(USERS, PLACES, {})


def test_stream_that_is_not_there_is_told(table: Source) -> None:
    with pytest.raises(Misconfigured, match="no stream 'people'; it has: other, users"):
        table.connect().changes(Stream("people"), PLACES, {})


def test_cursor_of_something_else_is_told(table: Source) -> None:
    with pytest.raises(Misconfigured, match="not one of a Singer tap"):
        table.connect().changes(USERS, PLACES, {"page": "seven"})


# --- Whole runs -------------------------------------------------------------------------------------------------------

CUSTOMER = Mapping(
    "customer", Customer, USERS, match="code", fields=(F("code", "id"), F("name", "name"), F("city", "city"))
)


def sync(connector: Singer, mapping: Mapping = CUSTOMER, dies_at: int = 0) -> Run:
    """A run; `dies_at`: the call of `changes` in which its process is killed, after the page was read."""
    killed_at(connector, dies_at)
    return run(System("tap", lambda: connector, (mapping,)))


def names() -> dict[str | None, str]:
    return dict(Customer.objects.values_list("code", "name"))


@pytest.mark.slow
@pytest.mark.legacy("L2")
@pytest.mark.usefixtures("small_pages")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state_every", [0, 1, 2, 3])
def test_run_that_is_killed_between_pages_loses_nothing_and_applies_nothing_twice(
    table: Source, state_every: int
) -> None:
    History.objects.all().delete()
    table.config["state_every"] = state_every
    with pytest.raises(Killed):
        sync(table.connect(), dies_at=2)
    done = sync(table.connect())
    assert (done.state, done.error) == (Run.State.DONE, "")
    assert names() == {str(number): f"Name {number}" for number in range(1, 8)}
    table.put((3, 9, "New"))
    sync(table.connect())
    assert names()["3"] == "New"
    assert History.objects.count() == 7 + 1


@pytest.mark.slow
@pytest.mark.legacy("S8")
@pytest.mark.legacy("F2")
@pytest.mark.usefixtures("small_pages")
@pytest.mark.django_db(transaction=True)
def test_what_a_full_table_lacks_is_deleted_but_not_after_a_tap_that_died(table: Source) -> None:
    mapping = replace(CUSTOMER, source=WHOLE, deletes="pull", stop_deleted_share=1.0)
    sync(table.connect(), mapping)
    Path(table.config["rows"]).write_text('[{"id": 1}]')  # over which it dies
    died = sync(table.connect(), mapping)
    assert (died.state, died.error[:7]) == (Run.State.UNREACHABLE, "The tap")
    assert len(names()) == 7
    table.put((1, 1, "Name 1"), (2, 2, "Name 2"), (8, 8, "Name 8"))
    sync(table.connect(), mapping)
    assert set(names()) == {"1", "2", "8"}


# --- The real thing ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tap_postgres() -> str:
    """The program of a tap that people use, in a virtual environment of its own, installed once per checkout."""
    folder = Path(__file__).parents[2] / ".data" / "taps" / REAL
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True)
            pip = [str(folder / "venv/bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", REAL], check=True)
            (folder / "installed").touch()
    return str(folder / "venv/bin/tap-postgres")


@pytest.fixture
def users(transactional_db: None) -> Iterator[dict[str, Any]]:
    """A table in a schema of its own, and the tap's configuration to read it."""
    at = connection.settings_dict
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DROP SCHEMA IF EXISTS crm CASCADE;
            CREATE SCHEMA crm;
            CREATE TABLE crm.users (
                id int PRIMARY KEY, name text, city text, unmapped text,
                at timestamptz NOT NULL DEFAULT clock_timestamp()
            );
            CREATE TABLE crm.other (id int PRIMARY KEY);
            INSERT INTO crm.users (id, name) SELECT n, 'Name ' || n FROM generate_series(1, 25) n
            """
        )
        user, password = at["USER"] or "postgres", at["PASSWORD"] or "none"
        host, port = at["HOST"], at["PORT"] or 5432
        url = f"postgresql+psycopg2://{user}:{password}@socket:{port}/{at['NAME']}?host={host}"
        yield {"sqlalchemy_url": url, "filter_schemas": ["crm"]}
        cursor.execute("DROP SCHEMA crm CASCADE")


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.slow
def test_real_tap_reads_what_changed_since_its_state(tap_postgres: str, users: dict[str, Any]) -> None:
    source = Stream("crm-users", method="INCREMENTAL", replication_key="at", overlap_seconds=0)
    mapping = Mapping("customer", Customer, source, match="code", fields=CUSTOMER.fields)
    assert sync(Singer([tap_postgres], users), mapping).counts == {"customer": {"created": 25}}
    execute("UPDATE crm.users SET name = 'Eve', at = clock_timestamp() WHERE id = 7")
    again = sync(Singer([tap_postgres], users), mapping)
    assert (again.state, again.error) == (Run.State.DONE, "")
    assert again.counts["customer"]["updated"] == 1
    assert names()["7"] == "Eve"


@pytest.mark.slow
@pytest.mark.usefixtures("small_pages")
def test_real_tap_tells_a_full_table_as_a_whole(tap_postgres: str, users: dict[str, Any]) -> None:
    pages = passed(Singer([tap_postgres], users), Stream("crm-users", method="FULL_TABLE"))
    assert keys(pages) == [str(number) for number in range(1, 26)]
    assert pages[0].records[0].values == {"id": 1, "name": "Name 1", "city": None}
    assert len(pages) > 5
    assert pages[-1].whole


@pytest.mark.legacy("F20")
@pytest.mark.slow
def test_real_tap_names_a_column_that_went_away(tap_postgres: str, users: dict[str, Any]) -> None:
    execute("ALTER TABLE crm.users DROP COLUMN city")
    with pytest.raises(Misconfigured, match=r"crm-users has no city .any more.; it has: id, name, unmapped, at"):
        passed(Singer([tap_postgres], users), Stream("crm-users"))


@pytest.mark.legacy("F1")
@pytest.mark.slow
def test_real_tap_whose_database_is_away_is_unreachable(tap_postgres: str, users: dict[str, Any]) -> None:
    away = {**users, "sqlalchemy_url": "postgresql+psycopg2://me:hushhush@127.0.0.1:1/none"}
    with pytest.raises(Unreachable, match="Connection refused") as caught:
        passed(Singer([tap_postgres], away), Stream("crm-users"))
    assert "hushhush" not in str(caught.value)


@pytest.mark.slow
def test_real_tap_with_a_wrong_configuration_is_misconfigured(tap_postgres: str) -> None:
    with pytest.raises(Misconfigured, match="exit code 1"):
        passed(Singer([tap_postgres], {"host": 7}), Stream("crm-users"))
