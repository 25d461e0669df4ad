"""One run of `sync_legacy` against one system: first their changes, then ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection
from django.utils import timezone
from psycopg.errors import LockNotAvailable

from legacy.connector import Misconfigured, Unreachable
from legacy.exchange import Exchange
from legacy.models import Run
from legacy.pull import pull
from legacy.push import push
from legacy.systems import System

LOCK_MILLISECONDS_MAX = 500  # to wait for: a run that was just killed holds its lock until PostgreSQL notices
EXIT_CODES = {
    Run.State.DONE: 0,
    Run.State.PARTIAL: 1,
    Run.State.UNREACHABLE: 2,
    Run.State.MISCONFIGURED: 3,
}


class Busy(Exception):
    """Another run of this system is at work, here or on another machine."""


def run(
    system: System,
    *,
    pretend: bool = False,
    retry_all: bool = False,
    tell: Callable[[str, int], None] | None = None,
    show: Callable[[str], None] | None = None,
) -> Run:
    """Execute one run and return it with its counts. Raises Busy; whatever else goes wrong is in the run's `state`.

    What was committed before it went wrong stays: the next run goes on from there.
    """
    tell = tell or (lambda *_: None)
    show = show or (lambda *_: None)
    with alone(system.name):
        # Nobody else is at work, so a run that still says so was killed.
        Run.objects.filter(system=system.name, state=Run.State.RUNNING).update(state=Run.State.KILLED)
        this = Run(system=system.name, started_at=timezone.now())
        if not pretend:
            this.save()
        try:
            connector = system.connect()
            try:
                exchange = Exchange(
                    system.name,
                    connector,
                    {each.name: each for each in system.mappings},
                    this,
                    pretend,
                    retry_all,
                    tell,
                    show,
                )
                tell(f"signed in as {connector.open()}", 0)
                _exchange(exchange)
                this.state = Run.State.PARTIAL if exchange.failed else Run.State.DONE
                this.counts = {name: dict(counts) for name, counts in exchange.counts.items()}
            finally:
                connector.close()
        except Unreachable as error:
            this.state, this.error = Run.State.UNREACHABLE, str(error)
        except Misconfigured as error:
            this.state, this.error = Run.State.MISCONFIGURED, str(error)
        this.ended_at = timezone.now()
        if not pretend:
            this.save(update_fields=["state", "error", "ended_at", "counts"])
        return this


def _exchange(exchange: Exchange) -> None:
    # Theirs first: where both changed the same field, the pre-existing system wins.
    for mapping in exchange.mappings.values():
        pull(exchange, mapping)
    for mapping in exchange.mappings.values():
        if mapping.both:
            push(exchange, mapping)


@contextmanager
def alone(system: str) -> Iterator[None]:
    """Raises Busy unless this is the only run of the system, wherever cron fires.

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
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sync_legacy'), hashtext(%s))", [system])
            except OperationalError as error:
                if isinstance(error.__cause__, LockNotAvailable):
                    raise Busy(f"Another run of {system} is at work.") from None
                raise
        yield
        lock.rollback()  # closing alone lets go of the lock a moment later
    finally:
        lock.close()
