"""Forgetting what is old: tombstones, answers, months of history. Meant for once a day; any time will do."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from sync.follow import late_of
from sync.healing import replay_waiting
from sync.sql import block, quote
from sync.wire import entities

log = logging.getLogger(__name__)

HISTORY_AGE_DAYS_MIN = 30  # merges find their base in it
RESULT_AGE_DAYS_MIN = 30  # what the protocol promises; what devices bring back after a restore is younger
LOCK_SECONDS_MAX = 5  # others queue behind one that waits for a whole table, so it gives up soon
Progress = Callable[[str, int], None]


class Plan(NamedTuple):
    """What a run would forget. `tombstones` are by entity; `tokens`: devices that load afresh, as far as is known."""

    counts: dict[str, int]
    tombstones: dict[str, int]
    months: list[str]
    tokens: int


class _Ages(NamedTuple):
    tombstone: int
    result: int
    history: int


def prune(progress: Progress = lambda *_: None) -> dict[str, int]:
    """Forget what the settings say, and make the history's partitions of the coming months. Returns counts by kind.

    It runs beside traffic: it takes SYNC_PRUNE_ROWS_MAX rows at a time, each time in a transaction of its own, and what
    a writer holds is left to the next run. Tombstones go only when no transaction of their time can still be open,
    however long that is after their age: the ages are measured by the ticks that earlier runs left. `progress` gets the
    kind and how many of it have gone.
    """
    ages = _ages()
    _run(block("maintain.sql", "partitions"))
    _run(block("maintain.sql", "tick"))
    _run(block("maintain.sql", "forget_before"), days=ages.tombstone)
    _run(block("maintain.sql", "forget_grants"))
    replay_waiting()
    for entity in entities().values():
        if statement := late_of(entity, settings.SYNC_PRUNE_ROWS_MAX):
            _run(statement)
    counts: dict[str, int] = {}
    for kind, name, days in _kinds(ages):
        counts[kind] = 0
        while gone := _count(_run(block("maintain.sql", name), days=days, rows=settings.SYNC_PRUNE_ROWS_MAX)):
            counts[kind] += gone
            progress(kind, counts[kind])
            if gone < settings.SYNC_PRUNE_ROWS_MAX:
                break
    dropped = [name for name in _months(ages) if _run(f"DROP TABLE {quote(name)}") is not None]
    return counts | {"months of history": len(dropped)}


def plan() -> Plan:
    """What a run would forget now; nothing is written."""
    ages = _ages()
    parameters = {f"{name}_days": days for name, days in ages._asdict().items()}
    counts: dict[str, int] = {}
    tombstones: dict[str, int] = {}
    for kind, entity, count in _run(block("maintain.sql", "plan"), **parameters) or []:
        if entity:
            tombstones[entity] = count
        counts[kind] = counts.get(kind, 0) + count
    return Plan(counts, tombstones, list(_months(ages)), counts.pop("tokens"))


def _ages() -> _Ages:
    """After how many days what is forgotten."""
    return _Ages(
        settings.SYNC_TOMBSTONE_AGE_DAYS_MAX,
        max(settings.SYNC_RESULT_AGE_DAYS_MAX, RESULT_AGE_DAYS_MIN),
        max(settings.SYNC_HISTORY_AGE_DAYS_MAX, HISTORY_AGE_DAYS_MIN),
    )


def _kinds(ages: _Ages) -> Iterator[tuple[str, str, int]]:
    """What is forgotten in steps: its name, the statement that does a step, and the age in days."""
    yield "tombstones", "forget_tombstones", ages.tombstone
    yield "answers", "forget_results", ages.result
    yield "operations", "forget_operations", ages.result
    yield "outcomes", "forget_outcomes", ages.history
    yield "mismatches", "forget_mismatches", settings.SYNC_MISMATCH_AGE_DAYS_MAX
    yield "alerts", "forget_alerts", settings.SYNC_ALERT_AGE_DAYS_MAX
    yield "revisions", "forget_revisions", max(ages.history, ages.tombstone)
    yield "brought back", "forget_healed", 2 * RESULT_AGE_DAYS_MIN


def _months(ages: _Ages) -> Iterator[str]:
    for (name,) in _run(block("maintain.sql", "old_partitions"), days=ages.history) or []:
        yield name


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
