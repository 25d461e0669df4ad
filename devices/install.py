"""Keeps the functions and triggers of `identity.sql` and `usage.sql` up to date: part of `migrate`."""

from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection, transaction


def after_migrate(**_: Any) -> None:
    """Install them, for whatever user model the deployment has."""
    if "devices_granted" not in connection.introspection.table_names():
        return  # migrated back to before it
    key = get_user_model()._meta.pk
    assert key is not None and key.column is not None
    names = {
        "{users}": connection.ops.quote_name(key.model._meta.db_table),
        "{user_key}": connection.ops.quote_name(key.column),
        "{user_type}": key.rel_db_type(connection) or "",
    }
    script = "".join((Path(__file__).parent / file).read_text() for file in ("identity.sql", "usage.sql"))
    for name, value in names.items():
        script = script.replace(name, value)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(script)
