"""What a person at the command line sees of changes that were not simply applied."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from syncdevice import Replica, cli

from tests.unit.syncdevice_server import FakeServer, fate
from tests.unit.syncdevice_support import ids, wire

A, B = ids(2)
ERROR = {"field": "name", "code": "invalid_value", "message": "Too long."}


def answer(mutation: dict[str, Any]) -> dict[str, Any]:
    if mutation["row"] == A:
        return {"status": "conflict", "state": "open", "conflict": B, "row": wire(A, 8, name="theirs")}
    return {"status": "rejected", "errors": [ERROR], "row": None}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A replica with a conflict that anna decided, and a rejection that waits."""
    server = FakeServer(answer)
    replica = server.replica(tmp_path / "r.db")
    with closing(replica.connect()) as conn, conn:
        conn.executemany("INSERT INTO contact (id, name) VALUES (?, 'Zoë')", [(A,), (B,)])
        (mutation,) = conn.execute('SELECT "id" FROM "_sync_outbox" WHERE "row" = ?', (A,)).fetchone()
    server.fates = [fate(mutation, "device", comment="You were right.")]
    replica.sync()
    return replica.path


def test_log_shows_what_became_of_each_change(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["log", path]) == 0
    first, first_fate, second, second_fate = capsys.readouterr().out.splitlines()
    assert "conflict" in first
    assert first_fate.endswith("-> your values are taken, anna 2026-11-21T09:00:00: You were right.")
    assert second.endswith('{"name": "Zoë"}  name: Too long.')
    assert second_fate.endswith("-> waits for a person")
    cli.main(["log", path, "--json"])
    told = json.loads(capsys.readouterr().out)["outcomes"]
    assert [(o["state"], o["by"]) for o in told] == [("device", "anna"), ("open", "")]


def test_conflicts_shows_both_sides_and_the_reason(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conflicts", path]) == 0
    shown = capsys.readouterr().out
    assert "Your new contact (name: “Zoë”) was taken (anna, 2026-11-21): “You were right”." in shown
    assert 'name:                entered "Zoë", server "theirs"' in shown
    assert "was refused: name: Too long. The server keeps it, and a person can mend it." in shown
    assert 'name:                entered "Zoë", server: the row was not there' in shown
    cli.main(["conflicts", path, "--unresolved"])
    assert "anna" not in capsys.readouterr().out


def test_conflicts_as_json_is_all_that_an_application_is_told(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["conflicts", path, "--json"])
    told = json.loads(capsys.readouterr().out)
    (conflict,), (rejection,) = told["conflicts"], told["rejections"]
    assert (conflict["entered"], conflict["server"], conflict["by"]) == ({"name": "Zoë"}, {"name": "theirs"}, "anna")
    assert (rejection["reasons"], rejection["state"]) == ([ERROR], "open")
    assert rejection["text"] == Replica(path).rejections()[0].describe()


def test_dismiss_takes_off_the_list_what_is_named(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (mutation,) = [outcome.id for outcome in Replica(path).conflicts()]
    assert cli.main(["dismiss", path, mutation]) == 0
    assert Replica(path).conflicts() == []
    assert cli.main(["dismiss", path, "unknown"]) == 1
    assert "unknown" in capsys.readouterr().err
    assert cli.main(["dismiss", path]) == 2
    assert cli.main(["dismiss", path, "--all"]) == 0
    capsys.readouterr()
    cli.main(["conflicts", path])
    assert capsys.readouterr().out == "no conflicts, and nothing was refused\n"
    cli.main(["conflicts", path, "--all"])
    assert capsys.readouterr().out.count("(dismissed)") == 2


@pytest.mark.parametrize("command", ["conflicts", "dismiss", "log"])
def test_help_says_what_a_command_is_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert cli.DESCRIPTIONS[command] in " ".join(capsys.readouterr().out.split())
