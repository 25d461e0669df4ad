"""The replica: what an application uses."""

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime

import httpx

from syncdevice import check, database, fates, healing, tokens
from syncdevice.errors import (
    Busy,
    DeviceRevoked,
    NotEnrolled,
    NotReachable,
    ProtocolError,
    Refused,
    SyncError,
)
from syncdevice.fates import OUTCOME_DAYS, OnOutcome
from syncdevice.healing import ACKNOWLEDGED_DAYS
from syncdevice.outcomes import Outcome
from syncdevice.push import pending
from syncdevice.reports import Change, CheckReport, Progress, Status, SyncReport, age
from syncdevice.session import Session, now, refresh_schema
from syncdevice.transport import RETRY_TOTAL_SECONDS, Transport

OnProgress = Callable[[Progress], None]
OnChange = Callable[[dict[str, Change]], None]
Checking = Callable[[sqlite3.Connection, Transport, OnProgress, OnChange, bool], CheckReport | None]
Callbacks = tuple[OnOutcome | None, OnOutcome | None, OnOutcome | None]

APP_BUSY_SECONDS = 10.0
ROTATE_DAYS = 30.0


@contextmanager
def group(conn: sqlite3.Connection) -> Iterator[str]:
    """What is written to `conn` inside takes effect on the server all together or not at all.

    Opens a write transaction and commits it (rolls it back on an exception); joins the one that is open, whose
    owner then commits. Gives the group's id. A group within a group is the outer one. Keep it below 1,000 rows.
    """
    own = not conn.in_transaction
    if own:
        conn.execute("BEGIN IMMEDIATE")
    try:
        (outer,) = conn.execute('SELECT "group" FROM "_sync_state"').fetchone()
        name = outer or str(uuid.uuid4())
        conn.execute('UPDATE "_sync_state" SET "group" = ?', (name,))
        try:
            yield name
        finally:
            if conn.in_transaction:
                conn.execute('UPDATE "_sync_state" SET "group" = ?', (outer,))
    except BaseException:
        if own and conn.in_transaction:
            conn.rollback()
        raise
    if own:
        conn.commit()


class Replica:
    """A device's SQLite file. The application reads and writes its tables with plain SQL, also during a sync.

    Holds no connection: every call opens its own, so one object may be used from many threads.
    `on_conflict`, `on_rejection` and `on_outcome` are what `sync()` calls where it is given no others.
    """

    on_conflict: OnOutcome | None = None
    on_rejection: OnOutcome | None = None
    on_outcome: OnOutcome | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        http: httpx.BaseTransport | None = None,
        retry_seconds: float = RETRY_TOTAL_SECONDS,
        outcome_days: float | None = OUTCOME_DAYS,
        check_days: float | None = check.CHECK_DAYS,
        rotate_days: float | None = ROTATE_DAYS,
        acknowledged_days: float = ACKNOWLEDGED_DAYS,
    ) -> None:
        """Raises NotEnrolled where `path` is no replica. `retry_seconds`: how long one request is tried again.

        `http` replaces the network (a proxy, a client certificate, a test). `outcome_days`: how long outcomes are kept
        once they are decided; None: until the application deletes them. `check_days`: how often a sync also checks
        what the file holds, besides after every load; None: only `check()` does. `rotate_days`: a device's token that
        is older is swapped for a new one at the end of a sync; None: never. `acknowledged_days`: how long changes are
        kept that the server has (29 at most), so that it gets them again if it is restored from a backup.
        """
        self.path = os.fspath(path)
        self._http, self._retry_seconds = http, retry_seconds
        self.outcome_days, self.check_days, self.rotate_days = outcome_days, check_days, rotate_days
        self.acknowledged_days = acknowledged_days
        if not os.path.exists(self.path):
            raise NotEnrolled(f"{self.path} is not there: enroll the device first")
        try:
            with closing(database.connect(self.path)) as conn:
                database.read_state(conn)
        except sqlite3.DatabaseError as error:
            raise NotEnrolled(f"{self.path} is no replica ({error}): enroll the device with another file") from error

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Replica":
        """The replica at `path`, as `Replica(path)`."""
        return cls(path)

    @classmethod
    def enroll(
        cls,
        url: str,
        code: str,
        path: str | os.PathLike[str],
        *,
        name: str,
        platform: str = "python",
        app_version: str = "",
        http: httpx.BaseTransport | None = None,
        retry_seconds: float = RETRY_TOTAL_SECONDS,
    ) -> "Replica":
        """Make the file at `path` the replica of a new device. No rows yet: `sync()` loads them.

        A file that is a replica already is enrolled anew: its waiting edits stay and are pushed by the new device.
        Raises Unusable, EnrollmentRefused, NotReachable. When only making the tables fails, the next `sync()` does it.
        """
        path = os.fspath(path)
        request = {"code": code, "name": name, "platform": platform, "app_version": app_version}
        with closing(Transport(url, http=http, retry_seconds=retry_seconds)) as transport:
            database.claim(path)
            with database.locked(path, 30.0), closing(database.connect(path)) as conn:
                answer = transport.enroll(request)
                database.save_enrolment(conn, url, name, answer)
                database.remove_files(path, database.STAGE_FILES)
                with closing(Transport(url, answer["token"], http=http, retry_seconds=retry_seconds)) as enrolled:
                    refresh_schema(conn, enrolled, None)
        return cls(path, http=http, retry_seconds=retry_seconds)

    def connect(self) -> sqlite3.Connection:
        """A connection for the application, as `sqlite3.connect(path)` with a time to wait for other writers."""
        conn = sqlite3.connect(self.path, timeout=APP_BUSY_SECONDS)
        conn.execute("PRAGMA synchronous = NORMAL")
        return conn

    group = staticmethod(group)

    def sync(
        self,
        progress: OnProgress | None = None,
        on_change: OnChange | None = None,
        *,
        wait: int = 0,
        lock_wait: float = 0.0,
        on_conflict: OnOutcome | None = None,
        on_rejection: OnOutcome | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> SyncReport:
        """Push until the outbox is empty, then pull to the end. What is pulled appears all at once.

        `progress` and `on_change` are called in this thread, `on_change` after the commit of what it tells.
        `on_conflict` and `on_rejection` get each change that was answered so, `on_outcome` each later decision about
        one: in this thread, last of all, after the commit of what they tell, also where the network fails half-way.
        Each event is told once; again only where the callback raised, or the process was killed while it ran. An event
        for which there is no callback waits for one. They may use the replica, except for a sync.
        `wait`: with nothing to pull, stay up to so many seconds (60 at most) for something. `lock_wait`: seconds to
        wait for another sync. After a load and every `check_days` it checks what the file holds too, as `check()` does;
        where that fails, a later sync does it. Safe to kill at any moment. Raises Busy, NotReachable, DeviceRevoked,
        Refused, ProtocolError, and sqlite3.Error when the disk is full; edits are kept.
        """
        callbacks = (on_conflict or self.on_conflict, on_rejection or self.on_rejection, on_outcome or self.on_outcome)
        return self._run(progress, on_change, wait, lock_wait, callbacks, self._check_if_due)

    def check(
        self,
        progress: OnProgress | None = None,
        on_change: OnChange | None = None,
        *,
        values: bool = False,
        lock_wait: float = 0.0,
    ) -> CheckReport:
        """Sync, then compare what the file holds with the server, repair what differs, and tell the server.

        Compared are ids and revisions, by digests; only rows that differ are fetched. Edits that wait in the outbox
        stay, and their rows are left alone. `values`: also find rows with other values under the same revision, and a
        torn file; everything is loaded for that. Raises as `sync()` does, and Damaged.
        """

        def checking(
            conn: sqlite3.Connection, transport: Transport, tell: OnProgress, changed: OnChange, _: bool
        ) -> CheckReport:
            report = check.check(conn, self.path, transport, now, tell, changed, values)
            check.note(conn, datetime.now(UTC), report.checked)
            return report

        callbacks = (self.on_conflict, self.on_rejection, self.on_outcome)
        return self._run(progress, on_change, 0, lock_wait, callbacks, checking).check or CheckReport()

    def _check_if_due(
        self, conn: sqlite3.Connection, transport: Transport, tell: OnProgress, changed: OnChange, reloaded: bool
    ) -> CheckReport | None:
        at = datetime.now(UTC)
        if self.check_days is None or not (reloaded or check.is_due(conn, at, self.check_days)):
            return None
        report = None
        try:
            report = check.check(conn, self.path, transport, now, tell, changed)
        except DeviceRevoked:
            raise
        except SyncError:
            pass  # the sync itself is done
        check.note(conn, at, report is not None and report.checked)
        return report

    def _run(
        self,
        progress: OnProgress | None,
        on_change: OnChange | None,
        wait: int,
        lock_wait: float,
        callbacks: Callbacks,
        checking: Checking,
    ) -> SyncReport:
        started = time.monotonic()
        report = SyncReport()
        tell = progress or (lambda _: None)

        def changed(changes: dict[str, Change]) -> None:
            report.upserted += sum(c.upserted for c in changes.values())
            report.deleted += sum(c.deleted for c in changes.values())
            if changes and on_change:
                on_change(changes)

        with self._online(lock_wait) as (conn, transport):
            with self._telling(conn, callbacks):
                session = Session(conn, self.path, transport, report, tell, changed)
                try:
                    session.sync(wait)
                except Refused as error:
                    if error.code != "unauthorized" or not tokens.fall_back(conn, transport, now()):
                        raise
                    session.sync(wait)
                report.check = checking(conn, transport, tell, changed, report.reloaded)
            with suppress(Busy, NotReachable, Refused, ProtocolError):  # the next sync tries again
                if tokens.is_due(conn, self.rotate_days, datetime.now(UTC)):
                    tokens.rotate(conn, transport, now())
        report.seconds = time.monotonic() - started
        return report

    def rotate(self, *, lock_wait: float = 0.0) -> None:
        """Swap the device's token for a new one. Safe to kill at any moment: the old one works until the new is used.

        `sync()` does it by itself every `rotate_days`. Raises Busy, NotReachable, DeviceRevoked, Refused and
        ProtocolError; then the device goes on with what it has.
        """
        with self._online(lock_wait) as (conn, transport):
            try:
                tokens.rotate(conn, transport, now())
            except Refused as error:
                if error.code != "unauthorized" or not tokens.fall_back(conn, transport, now()):
                    raise
                tokens.rotate(conn, transport, now())

    @contextmanager
    def _online(self, lock_wait: float) -> Iterator[tuple[sqlite3.Connection, Transport]]:
        """The file, held against other syncs, and the server. Deletes the file where the server asks for that."""
        with database.locked(self.path, lock_wait), closing(database.connect(self.path)) as conn:
            state = database.read_state(conn)
            transport = Transport(state.url, state.device_token, http=self._http, retry_seconds=self._retry_seconds)
            with closing(transport):
                try:
                    yield conn, transport
                except DeviceRevoked as error:
                    if not error.wiped:
                        raise
                    conn.close()  # before its file goes
                    raise self._wipe(transport) from error

    def _wipe(self, transport: Transport) -> DeviceRevoked:
        """Delete the file with everything beside it, then tell the server, as well as one can."""
        database.remove_files(self.path)
        reported = False
        with suppress(SyncError):
            transport.report_wiped()
            reported = True
        told = "the server knows of it" if reported else "the server could not be told"
        message = f"an administrator revoked this device and had its data deleted here; {told}"
        return DeviceRevoked(message, wiped=True, reported=reported)

    @contextmanager
    def _telling(self, conn: sqlite3.Connection, callbacks: Callbacks) -> Iterator[None]:
        """Tell the application what became of its changes when a sync ends, well or not; then forget what is old."""
        try:
            yield
        except DeviceRevoked:
            raise
        except SyncError:
            if database.has_table(conn, "_sync_outcome"):
                fates.tell(conn, *callbacks)
            raise
        fates.tell(conn, *callbacks)
        if self.outcome_days is not None:
            fates.prune(conn, datetime.now(UTC), self.outcome_days)
        healing.prune(conn, datetime.now(UTC), self.acknowledged_days)

    def status(self) -> Status:
        """Where the replica stands, without the network."""
        with closing(database.connect(self.path)) as conn:
            state = database.read_state(conn)
            made = state.schema is not None
            count, oldest = pending(conn) if made else (0, None)
            (outcomes,) = conn.execute('SELECT count(*) FROM "_sync_outcome"').fetchone() if made else (0,)
            has_kept = database.has_table(conn, "_sync_acknowledged")
            (kept,) = conn.execute('SELECT count(*) FROM "_sync_acknowledged"').fetchone() if has_kept else (0,)
            rows = {n: conn.execute(f"SELECT count(*) FROM {database.quote(n)}").fetchone()[0] for n in state.entities}
        return Status(
            path=self.path,
            url=state.url,
            device=state.device,
            name=state.device_name,
            scopes=state.scopes,
            schema=json.loads(state.schema)["schema"] if state.schema else None,
            pending=count,
            oldest=oldest,
            outcomes=outcomes,
            acknowledged=kept,
            last_sync_at=state.last_sync_at,
            token_age=age(state.token_at, datetime.now(UTC)) if state.token else None,
            loaded=state.token is not None,
            rows=rows,
        )

    def outcomes(self, status: str | None = None) -> list[Outcome]:
        """What was not simply applied, oldest first: all, or those with one status (merged, conflict, rejected)."""
        return self._outcomes('(:status IS NULL OR o."status" = :status)', status=status)

    def conflicts(self, *, unresolved_only: bool = False, dismissed: bool = False) -> list[Outcome]:
        """The changes that met those of others, oldest first; not those of which the user got all. Works offline.

        `unresolved_only`: those that wait for a person. `dismissed`: also those that the user has seen.
        """
        return self._shown(fates.IS_CONFLICT, unresolved_only, dismissed)

    def rejections(self, *, unresolved_only: bool = False, dismissed: bool = False) -> list[Outcome]:
        """The changes that were refused, with the reasons, oldest first. Takes the same as `conflicts()`."""
        return self._shown(fates.IS_REJECTION, unresolved_only, dismissed)

    def dismiss(self, seen: Outcome | str) -> bool:
        """Mark as seen what has become of a change; a later decision about it is shown again. False: not known.

        `seen`: what the user saw, or a mutation's id and thereby all that is known of it at the moment.
        """
        mutation, step = (seen.id, seen.step) if isinstance(seen, Outcome) else (seen, None)
        with closing(database.connect(self.path)) as conn:
            return fates.take_up(conn) and fates.dismiss(conn, mutation, step)

    def _shown(self, which: str, unresolved_only: bool, dismissed: bool) -> list[Outcome]:
        found = self._outcomes(f"{which} AND f.\"state\" = 'open'" if unresolved_only else which)
        return [outcome for outcome in found if dismissed or not outcome.dismissed]

    def _outcomes(self, which: str, **values: str | None) -> list[Outcome]:
        with closing(database.connect(self.path)) as conn:
            return fates.read_outcomes(conn, which, values) if fates.take_up(conn) else []
