"""Forgetting old runs: their logs, not what they wrote, which is in the history."""

import datetime as dt

from django.conf import settings
from django.db import connection
from django.utils import timezone

from legacy.exchange import SQL
from sync.sql import block


def prune() -> dict[str, int]:
    """Forget runs that ended longer ago than LEGACY_RUN_AGE_DAYS_MAX, but for the last of each system. How many.

    A run that is forgotten cannot be undone any more.
    """
    before = timezone.now() - dt.timedelta(days=settings.LEGACY_RUN_AGE_DAYS_MAX)
    with connection.cursor() as cursor:
        cursor.execute(block(SQL, "forget_runs"), {"before": before})
        return {"runs": cursor.rowcount}
