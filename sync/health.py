"""`/readyz`: whether this server can do its work, and what stands in the way."""

from typing import Any

from django.conf import settings
from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor

from sync.install import out_of_date
from sync.sql import block


def readiness() -> dict[str, Any]:
    """Each check with what it found, and `status`: `ready`, or `not_ready` when one failed. Raises nothing."""
    checks: dict[str, dict[str, Any]] = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute(block("maintain.sql", "oldest_writer"))
            seconds, partitions = cursor.fetchone()
        checks["database"] = {"ok": True}
        pending = MigrationExecutor(connection).migration_plan(MigrationExecutor(connection).loader.graph.leaf_nodes())
        checks["migrations"] = {"ok": not pending, "pending": [str(migration) for migration, _ in pending]}
        stale = out_of_date()
        checks["capture"] = {"ok": not stale, "out_of_date": stale}
        checks["oldest_writer"] = {
            "ok": seconds <= settings.SYNC_WRITER_AGE_SECONDS_MAX,
            "age_seconds": round(seconds, 1),
        }
        checks["history"] = {"ok": True, "partitions_ahead": partitions}
    except Error as problem:
        checks["database"] = {"ok": False, "error": type(problem).__name__}
    ready = all(check["ok"] for check in checks.values())
    return {"status": "ready" if ready else "not_ready", "checks": checks}
