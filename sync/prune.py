"""Forgetting what is old: tombstones, answers, months of history. Meant for once a day; any time will do."""

from django.conf import settings
from django.db import connection, transaction

from sync.sql import block, quote

HISTORY_AGE_DAYS_MIN = 30  # merges find their base in it


def prune() -> dict[str, int]:
    """Forget what the settings say, and make the history's partitions of the coming months. Returns counts by kind.

    Tombstones go only when no transaction of their time can still be open, however long that is after their age: the
    ages are measured by the ticks that earlier runs left.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(block("maintain.sql", "partitions"))
        cursor.execute(block("maintain.sql", "tick"))
        cursor.execute(block("maintain.sql", "forget_tombstones"), {"days": settings.SYNC_TOMBSTONE_AGE_DAYS_MAX})
        tombstones = cursor.fetchone()[0]
        cursor.execute(block("maintain.sql", "forget_results"), {"days": settings.SYNC_RESULT_AGE_DAYS_MAX})
        results = cursor.fetchone()[0]
        days = max(settings.SYNC_HISTORY_AGE_DAYS_MAX, HISTORY_AGE_DAYS_MIN)
        cursor.execute(block("maintain.sql", "old_partitions"), {"days": days})
        months = [name for (name,) in cursor.fetchall()]
        for name in months:
            cursor.execute(f"DROP TABLE {quote(name)}")
    return {"tombstones": tombstones, "answers": results, "months of history": len(months)}
