"""The SQL by which rows of a deployment's own models grant scopes, made from `@grants`."""

from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.db import connection, models

from devices.models import SCOPE_LENGTH_MAX, Device
from sync.declare import Granting
from sync.follow import Follow, Follower, follow_of, locks_on_insert, locks_on_update
from sync.paths import BadPath, Path, path_of
from sync.sql import block, literal, quote

_OPERATIONS = ("insert", "update", "delete", "truncate")


class Grants(NamedTuple):
    """What is installed for a declaration: on its own table, and on those that its paths lead through."""

    function: str
    triggers: str
    restamp: str
    follow: Follow | None


def grants_function_name(label: str) -> str:
    """Unquoted."""
    return f"sync_grants_{label}"


def grants_of(granting: Granting) -> Grants:
    """The SQL of a declaration that has no errors."""
    holder = path_of(granting.model, granting.to)
    value = None if granting.path is None else path_of(granting.model, granting.path)
    paths = (holder,) if value is None else (holder, value)
    key = granting.model._meta.pk
    assert key is not None and key.column is not None
    columns = sorted({path.own_column for path in paths})
    own = {
        "table": quote(granting.model._meta.db_table),
        "key": quote(key.column),
        "key_type": key.rel_db_type(connection) or "",
        "prefix": literal(granting.label + ":"),
    }
    move = block(
        "grantings.sql",
        "move",
        **{name: own[name] for name in ("table", "key", "prefix")},
        holder=holder.value_sql("n"),
        holder_type=holder.field.db_type(connection) or "",
        holder_column=_holder_column(holder),
        scope=literal(granting.name)
        if value is None
        else f"{literal(granting.name + ':')} || nullif({value.value_sql('n')}, '')",
        length_max=str(SCOPE_LENGTH_MAX),
    )
    function = quote(grants_function_name(granting.label))
    names = {f"{op}_trigger": quote(f"sync_grants_{granting.label}_{op}") for op in _OPERATIONS}
    return Grants(
        block(
            "grantings.sql",
            "function",
            function=function,
            **{name: own[name] for name in ("key", "key_type", "prefix")},
            old_columns=", ".join(f"o.{column}" for column in columns),
            new_columns=", ".join(f"n.{column}" for column in columns),
            locks_on_insert=locks_on_insert(paths),
            locks_on_update=locks_on_update(paths, own["key"]),
            move=move,
        ),
        block("grantings.sql", "triggers", function=function, table=own["table"], **names),
        block("grantings.sql", "restamp", **own, holder_column=_holder_column(holder), move=move),
        follow_of(Follower(granting.label, own["table"], own["key"], own["key_type"], paths, move)),
    )


def granting_errors(granting: Granting) -> list[str]:
    """What is wrong with a declaration, a sentence each."""
    errors = [] if ":" not in granting.name else [f"scope name {granting.name!r} may not hold ':'"]
    for text in (granting.path, granting.to):
        try:
            path = None if text is None else path_of(granting.model, text)
        except BadPath as problem:
            errors.append(f"scope {granting.name!r} {problem}")
        else:
            if path is not None and text == granting.to and _holder(path) is None:
                errors.append(f"grants to {text!r}, which is no foreign key to a user or a device")
    return errors


def _holder(path: Path) -> type[models.Model] | None:
    field: Any = path.field
    model = field.related_model if isinstance(field, models.ForeignKey) else None
    return model if model in {Device, get_user_model()} else None


def _holder_column(path: Path) -> str:
    return "device_id" if _holder(path) is Device else "user_id"
