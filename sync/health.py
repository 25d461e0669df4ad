"""`/readyz`: whether this server can do its work, and what stands in the way."""

from contextlib import suppress
from functools import cache
from typing import Any

from django.conf import settings
from django.db import Error, connection
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from sync.epoch import standing_of
from sync.install import out_of_date
from sync.sql import block
from syncserver.errors import Problem


def readiness() -> dict[str, Any]:
    """Each check with what it found, and `status`: `ready`, or `not_ready` when one failed. Raises nothing."""
    checks: dict[str, dict[str, Any]] = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute(block("maintain.sql", "oldest_writer"))
            seconds, partitions = cursor.fetchone()
        checks["database"] = {"ok": True}
        pending = _pending()
        checks["migrations"] = {"ok": not pending, "pending": pending}
        if not pending:
            with suppress(Problem):  # a restored database is noticed before anybody is sent here; another does it
                standing_of(None)
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


def _pending() -> list[str]:
    """The migrations of this program that the database has not had."""
    applied = MigrationRecorder(connection).applied_migrations().keys()
    return [
        f"{key[0]}.{key[1]}"
        for key, migration in _migrations().items()
        if key not in applied and not (migration.replaces and set(migration.replaces) <= applied)
    ]


@cache
def _migrations() -> dict[tuple[str, str], Migration]:
    """Read once a process: they are files of the program, and reading them takes 30 ms."""
    return dict(sorted(MigrationLoader(None).graph.nodes.items()))
