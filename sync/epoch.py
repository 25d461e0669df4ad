"""Which database this is: one that was restored or replaced begins a new epoch, of which older tokens know nothing."""

import enum
from collections.abc import Callable
from uuid import UUID

from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg.errors import LockNotAvailable

from sync.sql import block
from sync.token import Token
from syncserver.errors import Problem

SQL = "epoch.sql"
PAGES_A_STEP = 2_048  # of 8 kB: some tenths of a second
LOCK_SECONDS_MAX = 5  # to wait for who is writing
Progress = Callable[[int, int], None]


class Standing(enum.StrEnum):
    """What `sync_standing` found."""

    NEW_EPOCH = "new_epoch"  # another cluster, timeline, database or table
    NEW_START = "new_start"  # the database server was started since
    LOST_FUTURE = "lost_future"  # the token tells of what a restore has lost
    TOKEN_EXPIRED = "token_expired"  # the token is of another epoch


def catch_up(standing: Standing, token: Token | None) -> None:
    """Note what `sync_standing` found. Raises Problem `service_unavailable` while another process does it."""
    match standing:
        case Standing.NEW_EPOCH:
            begin_epoch()
        case Standing.LOST_FUTURE:
            assert token is not None
            begin_epoch(token.epoch, token.witness)
        case Standing.NEW_START:
            with connection.cursor() as plain:
                plain.execute(block(SQL, "new_start"))


def standing_of(token: Token | None) -> Standing | None:
    """Whether the database is the one that a token speaks of (None: it is), after noting what there is to note.

    Raises Problem `service_unavailable` while another process does that.
    """
    parameters = {
        "epoch": token.epoch if token else None,
        "base": token.base.text if token and token.base else None,
        "witness": token.witness if token else None,
    }
    while True:
        with connection.cursor() as plain:
            plain.execute(block(SQL, "standing"), parameters)
            (found,) = plain.fetchone()
        if found is None or found == Standing.TOKEN_EXPIRED:
            return found and Standing(found)
        catch_up(Standing(found), token)


def begin_epoch(seen: UUID | None = None, witness: str | None = None, progress: Progress = lambda *_: None) -> bool:
    """Answer the tokens of the epoch `seen` with 410 from now on; None: of whatever epoch, if this is another database.

    `witness`: of a token that tells of what was lost. Positions that mean nothing here are stamped anew, which takes
    seconds where there are millions; `progress` gets how many pages of how many are done. False where it was done
    already. Raises Problem `service_unavailable` while another process does it, or others write for too long.
    """
    try:
        with transaction.atomic(), connection.cursor() as plain:
            plain.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s'")
            plain.execute(block(SQL, "lock"))
            if plain.fetchone() == (False,):
                raise Problem(
                    "service_unavailable", "The database was restored; this takes a moment.", retry_after_seconds=2
                )
            plain.execute(block(SQL, "new_start"))
            plain.execute(block(SQL, "lock_feed"))
            plain.execute(block(SQL, "new_epoch"), {"seen": seen, "witness": witness})
            if not plain.rowcount:
                return False
            plain.execute(block(SQL, "restamp_grants"))
            _restamp(plain, progress)
    except OperationalError as problem:
        if not isinstance(problem.__cause__, LockNotAvailable):
            raise
        raise Problem(
            "service_unavailable", "The database was restored; others write to it.", retry_after_seconds=2
        ) from None
    return True


def _restamp(plain: CursorWrapper, progress: Progress) -> None:
    plain.execute(block(SQL, "parts"))
    parts = plain.fetchall()
    total, done = sum(pages for _, pages in parts), 0
    for table, pages in parts:
        statement = block(SQL, "restamp", table=table, cast="" if table == "sync_feed" else "::text::bigint")
        for first in range(0, pages, PAGES_A_STEP):
            last = min(first + PAGES_A_STEP, pages)
            plain.execute(statement, {"first": first, "last": last})
            progress(done + last, total)
        done += pages
