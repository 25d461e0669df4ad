"""The connector of Singer taps where the tap fails: what is told, and that nothing of it is left behind."""

from pathlib import Path
from typing import Any

import pytest

from legacy.connector import Misconfigured, Unreachable
from legacy.connectors import singer_tap
from legacy.connectors.singer import Singer, Stream
from tests.integration.legacy_singer_support import PLACES, USERS, Source, gone, keys, passed

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
