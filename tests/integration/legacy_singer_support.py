"""A table that a Singer tap of the tests reads, and what the connector tells of it."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from entities.models import Customer
from legacy.connector import Page
from legacy.connectors import singer_stream
from legacy.connectors.singer import Singer, Stream
from legacy.mapping import F, Mapping
from legacy.models import Run
from legacy.runs import run
from legacy.systems import System
from tests.integration.legacy_support import killed_at

FAULTY = (sys.executable, str(Path(__file__).with_name("singer_fault_tap.py")))
USERS = Stream("users", key=("id",), overlap_seconds=0)
WHOLE = Stream("users", key=("id",), method="FULL_TABLE")
PLACES = ("id", "name", "city")
CUSTOMER = Mapping(
    "customer", Customer, USERS, match="code", fields=(F("code", "id"), F("name", "name"), F("city", "city"))
)


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


def sync(connector: Singer, mapping: Mapping = CUSTOMER, dies_at: int = 0) -> Run:
    """A run; `dies_at`: the call of `changes` in which its process is killed, after the page was read."""
    killed_at(connector, dies_at)
    return run(System("tap", lambda: connector, (mapping,)))


def names() -> dict[str | None, str]:
    return dict(Customer.objects.values_list("code", "name"))


# --- Fixtures, for every test file: see tests/conftest.py ------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Source:
    source = Source(tmp_path)
    source.put(*((number, number, f"Name {number}") for number in range(1, 8)))
    return source


@pytest.fixture
def pages_of_two_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singer_stream, "PAGE_RECORDS", 2)
    monkeypatch.setattr(singer_stream, "PAGE_RECORDS_MAX", 4)
