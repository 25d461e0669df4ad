"""One sync: the outbox goes up, then what changed comes down."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from syncdevice import database, fates, healing
from syncdevice.database import State
from syncdevice.errors import ProtocolError, SchemaMoved, SyncError, TokenExpired
from syncdevice.healing import BACK
from syncdevice.outbox import Mutation
from syncdevice.pull import pull_changes
from syncdevice.push import Result, pending, push_outbox, record
from syncdevice.reports import Change, Progress, SyncReport
from syncdevice.transport import Transport, http_date

FRESH_STARTS_MAX = 3


def now() -> str:
    """As the server writes times."""
    return http_date(datetime.now(UTC))


def refresh_schema(conn: sqlite3.Connection, transport: Transport, etag: str | None) -> bool:
    """Bring the tables to the server's schema. True where that means to load everything anew."""
    answer = transport.schema(etag)
    return database.install(conn, *answer) if answer else False


@dataclass(frozen=True)
class Session:
    """What one sync works with. `report` is filled as it goes on; `changed` is called after each commit of rows."""

    conn: sqlite3.Connection
    path: str
    transport: Transport
    report: SyncReport
    tell: Callable[[Progress], None]
    changed: Callable[[dict[str, Change]], None]

    def sync(self, wait: int) -> None:
        """Push until the outbox is empty, then pull to the end. Raises as `Replica.sync` does."""
        problem: SyncError | None = None
        fates.take_up(self.conn)
        for start in range(FRESH_STARTS_MAX):
            # On a fresh start the schema is asked for whatever our ETag says: a page may have told that it moved.
            state = database.read_state(self.conn)
            if state.schema is not None:
                try:
                    if state.token is None:
                        self._heal(state)
                    self._push(state)
                except TokenExpired as error:
                    healing.lose_position(self.conn, error.restored)
                    problem = error
                    continue
            self.report.schema_changed |= refresh_schema(
                self.conn, self.transport, None if start else state.schema_etag
            )
            state = database.read_state(self.conn)
            self.report.reloaded |= state.token is None
            try:
                self._pull(state, wait)
                state = database.read_state(self.conn)
                if state.token is None:
                    problem = ProtocolError("a row that a push found gone was not told")
                    continue
                decided = fates.ask_outcomes(self.conn, self.transport, state.device)
                self.report.decided += decided
                if decided:  # perhaps after what was pulled: an application that is told of it shall find the rows
                    self._pull(state)
                return
            except (TokenExpired, SchemaMoved) as error:
                problem = error
        raise ProtocolError(f"every fresh start failed ({problem}): tell the server's administrator") from problem

    def _pull(self, state: State, wait: int = 0) -> None:
        self.changed(pull_changes(self.conn, self.path, self.transport, state, now, self.tell, wait))

    def _heal(self, state: State) -> None:
        """Before everything is read anew: bring back what a restored server has lost."""

        def keep(mutations: Sequence[Mutation], results: Sequence[Result]) -> None:
            self.changed(record(self.conn, state.entities, mutations, results))

        statuses = healing.offer(self.conn, self.transport, now, keep, lambda done: self.tell(Progress("heal", done)))
        self.report.healed += sum(statuses[status] for status in BACK)
        self._count(statuses)

    def _push(self, state: State) -> None:
        self._note_pending()

        def on_batch(done: int, corrected: dict[str, Change]) -> None:
            left = self._note_pending()
            self.tell(Progress("push", done, done + left))
            self.changed(corrected)

        token = state.token or healing.token_before(self.conn)
        statuses = push_outbox(self.conn, self.transport, state.entities, now, on_batch, token)
        self.report.pushed += statuses.total()
        self._count(statuses)

    def _note_pending(self) -> int:
        """Tell the server with each request from now on how many changes wait; return that number."""
        waiting, oldest = pending(self.conn)
        self.transport.client_note = f"; pending={waiting}" + (f"; oldest={oldest}" if oldest else "")
        return waiting

    def _count(self, statuses: Counter[str]) -> None:
        for status in statuses.keys() - {"applied"}:
            self.report.outcomes[status] = self.report.outcomes.get(status, 0) + statuses[status]
