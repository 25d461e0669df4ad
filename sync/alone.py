"""One run of a command at a time, on whatever machine cron fires."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from django.db import DatabaseError, OperationalError, connection
from psycopg.errors import LockNotAvailable

LOCK_MILLISECONDS_MAX = 500  # to wait for: a run that was just killed holds its lock until PostgreSQL notices


class Busy(Exception):
    """Another run is at work, here or on another machine."""


@contextmanager
def alone(command: str, subject: str = "") -> Iterator[None]:
    """Raises Busy unless this is the only run of the command on its subject.

    A lock of a transaction on a connection of its own: it works through PgBouncer in transaction mode, where locks of a
    session do not, and PostgreSQL lets go of it the moment a killed run's connection is gone, where a lease would have
    to expire. That transaction reads and writes nothing, so it holds no snapshot and no transaction id: neither the
    feed nor vacuum waits for it.
    """
    lock = connection.copy()
    try:
        lock.set_autocommit(False)
        with lock.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS_MAX}")
            try:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s), hashtext(%s))", [command, subject])
            except OperationalError as error:
                if isinstance(error.__cause__, LockNotAvailable):
                    raise Busy(f"Another run of {subject or command} is at work.") from None
                raise
        yield
        with suppress(DatabaseError):  # its connection may be gone, and the lock with it
            lock.rollback()  # closing alone lets go of the lock a moment later
    finally:
        lock.close()


def at_work(command: str, subjects: Collection[str]) -> set[str]:
    """Those of the subjects that a run of the command is at work on now, on whatever machine."""
    if not subjects:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(_AT_WORK, {"command": command, "subjects": list(subjects)})
        return {subject for (subject,) in cursor.fetchall()}


# The two halves of the lock's key stand there without their sign.
_AT_WORK = """
SELECT s.subject FROM unnest(%(subjects)s::text[]) AS s(subject) JOIN pg_locks l
    ON l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
    AND l.classid::bigint = hashtext(%(command)s)::bigint & 4294967295
    AND l.objid::bigint = hashtext(s.subject)::bigint & 4294967295
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
