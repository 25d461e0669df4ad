"""`manage.py check`: the declarations are sound, and (with `--database default`) the triggers are in force."""

from collections.abc import Sequence
from typing import Any

from django.core import checks

from sync.declare import declarations, grantings
from sync.grantings import granting_errors
from sync.wire import declaration_errors


def register() -> None:
    checks.register(check_declarations, "sync")
    checks.register(check_triggers, checks.Tags.database)


def check_declarations(**_: Any) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = [
        checks.Error(f"@synced {declaration.model.__name__} {error}.", obj=declaration.model, id="sync.E001")
        for declaration in declarations()
        for error in declaration_errors(declaration)
    ]
    return found + [
        checks.Error(f"@grants {granting.model.__name__} {error}.", obj=granting.model, id="sync.E003")
        for granting in grantings()
        for error in granting_errors(granting)
    ]


def check_triggers(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    if not databases:
        return []
    from django.db import connection

    from sync.install import out_of_date

    if "sync_capture" not in connection.introspection.table_names():
        return []  # the very first `migrate` is just about to make it
    return [
        # A warning, since `migrate`, which mends it, refuses to run on an error. /readyz fails on it.
        checks.Warning(
            f"The capture of {entity!r} is missing, switched off or older than its declaration.",
            hint="Run manage.py migrate. Until then devices may miss changes of this entity.",
            id="sync.W002",
        )
        for entity in out_of_date()
    ]
