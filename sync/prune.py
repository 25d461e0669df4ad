"""Forgetting what is old: tombstones, answers, months of history. Meant for once a day; any time will do."""

import logging
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from sync.sql import block, quote

log = logging.getLogger(__name__)

HISTORY_AGE_DAYS_MIN = 30  # merges find their base in it
LOCK_SECONDS_MAX = 5  # others queue behind one that waits for a whole table, so it gives up soon


def prune() -> dict[str, int]:
    """Forget what the settings say, and make the history's partitions of the coming months. Returns counts by kind.

    It runs beside traffic: each step is a transaction of its own, and what a writer holds is left to the next run.
    Tombstones go only when no transaction of their time can still be open, however long that is after their age: the
    ages are measured by the ticks that earlier runs left.
    """
    _run(block("maintain.sql", "partitions"))
    _run(block("maintain.sql", "tick"))
    tombstones = _run(block("maintain.sql", "forget_tombstones"), days=settings.SYNC_TOMBSTONE_AGE_DAYS_MAX)
    _run(block("maintain.sql", "forget_grants"))
    results = _run(block("maintain.sql", "forget_results"), days=settings.SYNC_RESULT_AGE_DAYS_MAX)
    operations = _run(block("maintain.sql", "forget_operations"), days=settings.SYNC_RESULT_AGE_DAYS_MAX)
    alerts = _run(block("alerts/alerts.sql", "forget"), days=settings.SYNC_ALERT_AGE_DAYS_MAX)
    mismatches = _run(block("maintain.sql", "forget_mismatches"), days=settings.SYNC_MISMATCH_AGE_DAYS_MAX)
    days = max(settings.SYNC_HISTORY_AGE_DAYS_MAX, HISTORY_AGE_DAYS_MIN)
    outcomes = _run(block("maintain.sql", "forget_outcomes"), days=days)
    months = _run(block("maintain.sql", "old_partitions"), days=days) or []
    dropped = [name for (name,) in months if _run(f"DROP TABLE {quote(name)}") is not None]
    return {
        "tombstones": _count(tombstones),
        "answers": _count(results),
        "operations": _count(operations),
        "outcomes": _count(outcomes),
        "alerts": _count(alerts),
        "mismatches": _count(mismatches),
        "months of history": len(dropped),
    }


def _count(rows: list[tuple[int]] | None) -> int:
    return rows[0][0] if rows else 0


def _run(statement: str, **parameters: int) -> list[tuple[Any, ...]] | None:
    """The rows of a statement, in a transaction of its own; None where others were in its way for too long."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s'")
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            log.warning("Others were in the way for %s s; the next run does it: %s", LOCK_SECONDS_MAX, statement[:60])
            return None
        raise
