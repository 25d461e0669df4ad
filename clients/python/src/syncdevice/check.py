"""Whether the file holds what it must: compared with the server by digests, narrowed down, and repaired row by row.

The digest is over what the server has given: `<id> <_rev>` of each row. Edits that wait in the outbox change neither; a
row that was deleted meanwhile counts with the revision that its delete carries.
"""

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from syncdevice.database import State, immediate, quote, read_state, set_state
from syncdevice.errors import Damaged, DeviceRevoked, NotCurrent, ProtocolError, SyncError
from syncdevice.pull import lay_pages, pull_changes
from syncdevice.reports import Change, CheckReport, Difference, Progress
from syncdevice.stage import Stage
from syncdevice.transport import Transport, http_date

CHECK_DAYS = 1.0
AGAIN_HOURS = 1  # after which a check that failed is tried again
TRIES_MAX = 5  # while others write so fast that what was pulled is never current
BATCH_ROWS = 10_000
BUCKETS = 256
BUCKETS_AT_ONCE = 16  # whose rows are in memory
REPAIRED_ROWS = 20_000  # where more differ, everything is loaded anew: that costs less, and no memory
ASKED_ROWS = 1_000  # of one call
TOLD_ROWS_OF_ENTITY, TOLD_ROWS = 50, 300  # that a report names; its counts are of all

Revisions = tuple[int | None, int | None]  # of a row: in the file, and on the server
OnChange = Callable[[dict[str, Change]], None]
OnProgress = Callable[[Progress], None]

_UUID = re.compile("-".join(f"[0-9a-f]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))


# When ---------------------------------------------------------------------------------------------------------------


def is_due(conn: sqlite3.Connection, now: datetime, days: float) -> bool:
    """Whether the last check is `days` old, or one that failed an hour. A clock that was turned back makes it due."""
    found = conn.execute('SELECT "at", "done" FROM "_sync_check"').fetchone()
    if found is None:
        return True
    wait = timedelta(days=days) if found[1] else timedelta(hours=AGAIN_HOURS)
    return not http_date(now - wait) < found[0] <= http_date(now)


def note(conn: sqlite3.Connection, now: datetime, done: bool) -> None:
    """Keep when the file was checked, or when that failed."""
    with immediate(conn):
        conn.execute('INSERT OR REPLACE INTO "_sync_check" VALUES (1, ?, ?)', (http_date(now), done))


# Checking -----------------------------------------------------------------------------------------------------------


def check(
    conn: sqlite3.Connection,
    path: str,
    transport: Transport,
    now: Callable[[], str],
    tell: OnProgress,
    changed: OnChange,
    values: bool = False,
) -> CheckReport:
    """Compare, repair, compare again, and report to the server what was found. Needs a replica that was just pulled.

    `values`: also look for a torn file, and for rows that have other values than the server under the same revision,
    for which everything is loaded beside the file. Where others write without a pause, or the server is too old to be
    asked, the report says that nothing was checked. Raises Damaged, and what a pull raises.
    """
    report = CheckReport()
    if values:
        _demand_sound(conn)
    for _ in range(TRIES_MAX):
        state = read_state(conn)
        try:
            found = _differences(conn, transport, state, report, tell)
        except NotCurrent:
            changed(pull_changes(conn, path, transport, state, now, lambda _: None))
            continue
        if found is None:
            return report
        report.checked = True
        if not found or report.differences:
            report.repaired = not found
            break
        _add(report, found)
        if sum(map(len, found.values())) <= REPAIRED_ROWS:
            changed(_repair(conn, path, transport, state, found, now))
        else:
            with immediate(conn):
                set_state(conn, token=None)
            changed(pull_changes(conn, path, transport, read_state(conn), now, tell))
    if values and report.checked:
        state = read_state(conn)
        torn, changes = _repair_values(conn, path, transport, state, now, tell)
        _add(report, torn)
        changed(changes)
    if report.differences:
        _report(transport, report)
    return report


def _demand_sound(conn: sqlite3.Connection) -> None:
    try:
        found = [text for (text,) in conn.execute("PRAGMA quick_check(10)")]
    except sqlite3.DatabaseError as error:
        found = [str(error)]
    if found != ["ok"]:
        raise Damaged(f"the file itself is damaged ({found[0]}): sync what waits, then enroll with another file")


def _add(report: CheckReport, found: Mapping[str, Mapping[str, Revisions]]) -> None:
    for name, rows in found.items():
        difference = report.differences.setdefault(name, Difference())
        for row, (device, server) in rows.items():
            if device is None:
                difference.missing += 1
            elif server is None:
                difference.surplus += 1
            else:
                difference.changed += 1
            if len(difference.rows) < TOLD_ROWS_OF_ENTITY:
                difference.rows[row] = (device, server)


def _differences(
    conn: sqlite3.Connection, transport: Transport, state: State, report: CheckReport, tell: OnProgress
) -> dict[str, dict[str, Revisions]] | None:
    """The rows that differ, without those of which edits wait; None where the server cannot be asked."""
    told = transport.digest(state.token or "")
    if told is None:
        return None
    named = [name for name in state.entities if name in told]
    total = sum(_member(told[name], "count", int) for name in named)
    found: dict[str, dict[str, Revisions]] = {}
    report.rows = report.waiting = 0
    for name in named:
        digest = hashlib.sha256()
        for lines in _lines(conn, name):
            digest.update(b"".join(line for (line,) in lines))
            report.rows += len(lines)
            tell(Progress("check", report.rows, max(total, report.rows)))
        if digest.hexdigest() == _member(told[name], "digest", str):
            continue
        rows = _narrow(conn, transport, state.token or "", name)
        edited = {row for row in rows if _waits(conn, name, row)}
        report.waiting += len(edited)
        if rows := {row: revisions for row, revisions in rows.items() if row not in edited}:
            found[name] = rows
    return found


def _narrow(conn: sqlite3.Connection, transport: Transport, token: str, name: str) -> dict[str, Revisions]:
    digests = [hashlib.sha256() for _ in range(BUCKETS)]
    for row, rev in _rows(conn, name):
        digests[_bucket(row)].update(f"{row} {rev}\n".encode())
    told = _member(transport.digest(token, entity=name), "buckets", list)
    if len(told) != BUCKETS:
        raise ProtocolError("a digest is not of protocol version 1: upgrade the application")
    wrong = [number for number in range(BUCKETS) if digests[number].hexdigest() != told[number]]
    found: dict[str, Revisions] = {}
    for first in range(0, len(wrong), BUCKETS_AT_ONCE):
        some = set(wrong[first : first + BUCKETS_AT_ONCE])
        here = {row: rev for row, rev in _rows(conn, name) if _bucket(row) in some}
        there = {row: rev for number in sorted(some) for row, rev in _told(transport, token, name, number)}
        for row in here.keys() | there.keys():
            if here.get(row) != there.get(row):
                found[row] = (here.get(row), there.get(row))
        if len(found) > REPAIRED_ROWS:
            break
    return dict(sorted(found.items()))


def _told(transport: Transport, token: str, name: str, bucket: int) -> Iterator[tuple[str, int]]:
    after: dict[str, str] = {}
    while True:
        page = transport.digest(token, entity=name, bucket=f"{bucket:02x}", **after)
        rows = _member(page, "rows", dict)
        yield from rows.items()
        if not (rows and _member(page, "has_more", bool)):
            return
        after = {"after": max(rows)}


def _bucket(row: str) -> int:
    return hashlib.sha256(row.encode()).digest()[0]


# What the server has given, in byte order of id: rows that it acknowledged, and those of which a delete waits.
_HELD = (
    'SELECT "id" AS "id", "_rev" AS "rev" FROM main.{table} WHERE "_rev" IS NOT NULL'
    ' UNION ALL SELECT "row", max("base") FROM "_sync_outbox" WHERE "entity" = ? AND "op" = \'delete\''
    ' AND "base" IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main.{table} WHERE "id" = "row" AND "_rev" IS NOT NULL)'
    ' GROUP BY "row"'
    " ORDER BY 1"
)


def _lines(conn: sqlite3.Connection, name: str) -> Iterator[list[tuple[bytes]]]:
    line = 'CAST("id" || \' \' || "rev" || char(10) AS BLOB)'
    cursor = conn.execute(f"SELECT {line} FROM ({_HELD.format(table=quote(name))})", (name,))
    while lines := cursor.fetchmany(BATCH_ROWS):
        yield lines


def _rows(conn: sqlite3.Connection, name: str) -> Iterator[tuple[str, int]]:
    return iter(conn.execute(_HELD.format(table=quote(name)), (name,)))


def _waits(conn: sqlite3.Connection, name: str, row: str) -> bool:
    query = 'SELECT 1 FROM "_sync_outbox" WHERE "entity" = ? AND "row" = ?'
    return conn.execute(query, (name, row)).fetchone() is not None


def _member(document: Any, name: str, kind: type) -> Any:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, kind):
        raise ProtocolError("a digest is not of protocol version 1: upgrade the application")
    return found


# Repairing ----------------------------------------------------------------------------------------------------------


def _repair(
    conn: sqlite3.Connection,
    path: str,
    transport: Transport,
    state: State,
    found: Mapping[str, Mapping[str, Revisions]],
    now: Callable[[], str],
) -> dict[str, Change]:
    """Fetch these rows and apply them.

    They may be newer than the token. So they are laid under a run of pages from there on, and all gets into the tables
    at once: nothing of what was committed together is torn.
    """
    stage = Stage(conn, path, state.entities, state.token)
    try:
        for name, rows in found.items():
            known = [row for row in rows if _UUID.fullmatch(row)]
            strange = [row for row in rows if not _UUID.fullmatch(row)]
            stage.lay({name: {"upserts": [], "deletes": strange}}, state.token or "", last=False)
            for first in range(0, len(known), ASKED_ROWS):
                for changes in _fetched(transport, name, known[first : first + ASKED_ROWS]):
                    stage.lay(changes, state.token or "", last=False)
        lay_pages(stage, transport, 0, lambda _: None)
        return stage.merge(now(), found)
    except BaseException:
        stage.discard()
        raise
    finally:
        stage.close()


def _fetched(transport: Transport, name: str, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The `changes` of the answers until all of these rows are answered."""
    left = set(wanted)
    while left:
        answer = transport.rows({name: sorted(left)})
        changes = _member(answer, "changes", dict)
        told = _member(changes.get(name), "upserts", list), _member(changes.get(name), "deletes", list)
        answered = {row["id"] for row in told[0]} | set(told[1])
        if not answered & left:
            raise ProtocolError("the server does not answer for rows that it was asked for: tell its administrator")
        left -= answered
        yield {name: {"upserts": told[0], "deletes": told[1]}}


def _repair_values(
    conn: sqlite3.Connection, path: str, transport: Transport, state: State, now: Callable[[], str], tell: OnProgress
) -> tuple[dict[str, dict[str, Revisions]], dict[str, Change]]:
    """Find and mend rows whose values differ from the server's under the same revision."""
    stage = Stage(conn, path, state.entities, None)
    try:
        lay_pages(stage, transport, 0, tell)
        torn = stage.keep_torn(state.token)
        changes = stage.merge(now(), torn) if torn else {}
        return {name: {row: (rev, rev) for row, rev in rows.items()} for name, rows in torn.items()}, changes
    finally:
        stage.discard()
        stage.close()


def _report(transport: Transport, report: CheckReport) -> None:
    """Tell the server what was found. That it cannot be told is no failure of the check."""
    room = TOLD_ROWS
    entities: dict[str, Any] = {}
    for name, difference in report.differences.items():
        rows = [
            {"id": row, "device": _revision(device), "server": _revision(server)}
            for row, (device, server) in difference.rows.items()
            if _UUID.fullmatch(row)
        ][:room]
        room -= len(rows)
        counts = {"changed": difference.changed, "missing": difference.missing, "surplus": difference.surplus}
        entities[name] = {**counts, "rows": rows}
    try:
        transport.mismatch({"entities": entities, "repaired": report.repaired})
    except DeviceRevoked:
        raise
    except SyncError:
        pass


def _revision(rev: object) -> int | None:
    return rev if isinstance(rev, int) and 0 < rev < 1 << 63 else None
