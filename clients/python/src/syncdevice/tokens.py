"""Swapping the device's token, so that neither a lost answer nor a kill locks the device out.

The old token goes on until the server sees the new one for the first time, so it stays in the file beside it. It is
taken up again where the server does not know the new one: a rotation that was sent twice arrived the second time after
its answer, or the server was restored from a backup of the time before.
"""

import sqlite3
from datetime import datetime

from syncdevice import database
from syncdevice.reports import age
from syncdevice.transport import Transport, http_date

DAY_SECONDS = 86_400


def is_due(conn: sqlite3.Connection, days: float | None, now: datetime) -> bool:
    """Whether the token is older than that; None: it never is. From the first time that it is asked, where unknown."""
    if days is None:
        return False
    state = database.read_state(conn)
    known = _known(conn, state.device)
    if known is None:
        _save(conn, state.device, state.device_token, None, http_date(now))
        return False
    return (age(known[0], now) or 0.0) >= days * DAY_SECONDS


def rotate(conn: sqlite3.Connection, transport: Transport, now: str) -> None:
    """Get a new token and keep it. `transport` still uses the old one."""
    state = database.read_state(conn)
    _save(conn, state.device, transport.rotate(), state.device_token, now)


def fall_back(conn: sqlite3.Connection, transport: Transport, now: str) -> bool:
    """After the token was refused: whether the server takes the one before it, which is used from now on then."""
    state = database.read_state(conn)
    known = _known(conn, state.device)
    if known is None or known[1] is None:
        return False
    transport.use(known[1])
    if not transport.accepts():
        return False
    _save(conn, state.device, known[1], None, now)
    return True


def _known(conn: sqlite3.Connection, device: str) -> tuple[str, str | None] | None:
    """Since when the device has its token, and the one before it; None: nobody has noted it."""
    database.prepare(conn)
    found: tuple[str, str | None] | None = conn.execute(
        'SELECT "at", "old_token" FROM "_sync_rotation" WHERE "device" = ?', (device,)
    ).fetchone()
    return found


def _save(conn: sqlite3.Connection, device: str, token: str, old: str | None, now: str) -> None:
    """Keep the token and the one before it, in one transaction that outlives a power cut.

    Once the new token was used, the minutes of the old one are counted: a file that lost the new one is locked out.
    """
    database.prepare(conn)
    table = "_sync_enrolled" if database.has_table(conn, "_sync_enrolled") else "_sync_state"
    conn.execute("PRAGMA synchronous = FULL")
    with database.immediate(conn):
        conn.execute(f'UPDATE {database.quote(table)} SET "device_token" = ?', (token,))
        conn.execute('INSERT OR REPLACE INTO "_sync_rotation" VALUES (?, ?, ?)', (device, now, old))
    conn.execute("PRAGMA synchronous = NORMAL")
