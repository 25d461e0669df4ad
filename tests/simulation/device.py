"""One simulated device: its file, what it ever put into its outbox, and its syncs over a bad network."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import syncdevice.replica
import syncdevice.session
from syncdevice import Progress, Replica, SyncError
from syncdevice.transport import http_date

from tests.simulation.edits import Desk, Edit
from tests.simulation.faults import Faults, Network, Recorder, run_and_kill
from tests.simulation.sight import check_answer

RETRY_SECONDS = 60.0  # without pauses: the simulation sets the first pause to 0
MADE_MINUTES_MAX = 180  # before, or by a clock that was set since, after now
COLUMNS = ("seq", "id", "entity", "row", "op", "base", "set", "add", "group", "made_at")


@dataclass(frozen=True)
class Made:
    """A mutation as the device recorded it. `invalid`: no server may apply it."""

    id: str
    entity: str
    row: str
    op: str
    base: int | None
    set: dict[str, Any]
    add: dict[str, Any]
    group: str | None
    made_at: str
    invalid: bool


@dataclass
class Device:
    """`scopes` are those granted on the server at the moment, whatever the device knows of it. `skew`: of its clock."""

    name: str
    path: Path
    id: str
    scopes: set[str]
    inner: Recorder
    skew: timedelta
    made: dict[str, Made] = field(default_factory=dict)
    outbox_seen: int = 0

    def replica(
        self, faults: Faults, mailbox: list[httpx.Request], inner: httpx.BaseTransport | None = None
    ) -> Replica:
        retry_seconds = 0.0 if faults.budget is None else RETRY_SECONDS
        modules: list[Any] = [syncdevice.replica, syncdevice.session]
        for module in modules:
            module.now = lambda: http_date(datetime.now(UTC) + self.skew)
        http = Network(inner or self.inner, faults, mailbox, self._check)
        return Replica(self.path, http=http, retry_seconds=retry_seconds)

    def _check(self, request: httpx.Request, answer: httpx.Response) -> None:
        check_answer(request, answer, self.scopes)

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection | None]:
        """A connection as an application has it, for one or more edits; None where there are no tables yet."""
        with closing(sqlite3.connect(self.path)) as conn:
            made = conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'contact'").fetchone()
            conn.execute("PRAGMA synchronous = OFF")
            yield conn if made else None

    def edit(self, desk: Desk, edit: Edit, invalid: bool) -> str | None:
        """Let the user do something; None where there was nothing to do it with."""
        what = edit(desk)
        # It was made some time ago, by the device's own clock.
        ago = timedelta(minutes=desk.rng.randint(-MADE_MINUTES_MAX, MADE_MINUTES_MAX))
        made_at = http_date(datetime.now(UTC) + self.skew - ago)
        desk.conn.execute("UPDATE _sync_outbox SET made_at = ? WHERE seq > ?", (made_at, self.outbox_seen))
        desk.conn.commit()
        self._note_outbox(desk.conn, invalid)
        return what

    def _note_outbox(self, conn: Any, invalid: bool) -> None:
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        query = f"SELECT {names} FROM _sync_outbox WHERE seq > ? ORDER BY seq"
        for seq, *made in conn.execute(query, (self.outbox_seen,)):
            self.outbox_seen = seq
            name, entity, row, op, base, changes, amounts, group, made_at = made
            entered = json.loads(changes or "{}"), json.loads(amounts or "{}")
            self.made[name] = Made(name, entity, row, op, base, *entered, group, made_at, invalid)

    def sync(
        self, faults: Faults, mailbox: list[httpx.Request], meanwhile: Callable[[Progress], None] | None = None
    ) -> str:
        """One sync. Returns `finished`, or `failed: …` where the network was too bad."""
        try:
            self.replica(faults, mailbox).sync(meanwhile)
        except SyncError as error:
            if faults.budget is not None:
                raise AssertionError(f"{self.name} could not sync after {faults.met}: {error!r}") from error
            return f"failed: {type(error).__name__}"
        return "finished"

    def check(self, faults: Faults, mailbox: list[httpx.Request]) -> None:
        """Let it compare what it holds with the server, which is to find nothing."""
        report = self.replica(faults, mailbox).check()
        assert report.checked and not report.differences, f"{self.name} {report}"

    def sync_and_be_killed(self, faults: Faults, statement: int) -> str:
        """One sync in a process of its own, which is killed at that SQLite statement. It shares no connection."""

        def work() -> None:
            with self.inner.another() as inner:
                self.replica(faults, [], inner).sync()

        return run_and_kill(work, statement)
