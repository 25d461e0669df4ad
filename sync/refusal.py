"""What PostgreSQL refuses becomes an error of ours, here and nowhere else, by constraint."""

from django.core.exceptions import FieldDoesNotExist
from django.db import OperationalError, models
from django.db.models import ProtectedError, RestrictedError

from sync.mutation import Error, error
from sync.wire import Entity, entities

_BY_SQLSTATE = {
    "23502": "required",
    "23503": "missing_reference",
    "23505": "unique",
    "23514": "constraint",
    "23P01": "constraint",
}


class Displaced(Exception):
    """A row that the device may not know of would follow one that it moves."""


LOST_RACES = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected


def lost_race(problem: OperationalError) -> bool:
    """Whether the transaction was broken off for the sake of another one, and may simply be done again."""
    return getattr(problem.__cause__, "sqlstate", None) in LOST_RACES


def is_of_a_row(problem: OperationalError) -> bool:
    """Whether a row is too much for PostgreSQL (for an index, say), as psycopg's class of error does not tell."""
    return (getattr(problem.__cause__, "sqlstate", None) or "").startswith("54")


def errors_of(problem: Exception, names: set[str]) -> tuple[str | None, tuple[Error, ...]]:
    """The entity whose table the refusal names (None where it names none of `names`), and the errors for the device.

    The message is ours or the model's: the database's own could show another row's values.
    """
    if isinstance(problem, Displaced):
        return None, (error("forbidden_scope"),)
    if isinstance(problem, ProtectedError | RestrictedError):
        return None, (error("protected"),)
    cause = problem.__cause__
    diag = getattr(cause, "diag", None)
    state = getattr(cause, "sqlstate", None) or ""
    entity = next(
        (e for n, e in entities().items() if n in names and diag and e.model._meta.db_table == diag.table_name), None
    )
    code = _BY_SQLSTATE.get(state, "invalid_value" if state.startswith(("22", "54")) else "constraint")
    if entity is None:
        return None, (error("protected" if code == "missing_reference" else code),)
    fields, message = _named(entity, diag.constraint_name, diag.column_name) if diag else ([], None)
    return entity.name, tuple(error(code, name, message) for name in fields) or (error(code, None, message),)


def _named(entity: Entity, constraint: str | None, column: str | None) -> tuple[list[str], str | None]:
    """The wire fields that a constraint or a column of the entity's table stands for, and the model's own message."""
    for declared in entity.model._meta.constraints:
        if declared.name == constraint:
            fields = getattr(declared, "fields", ())
            return [_wire_name(entity, name) for name in fields], str(declared.get_violation_error_message())
    for field in entity.model._meta.concrete_fields:
        if field.column == column:
            return [field.attname], None
        # Django names a constraint <table>_<column>_<hash>…, shortened to 63 characters.
        if constraint and constraint.startswith(f"{entity.model._meta.db_table}_{field.column}_"):
            return ["id" if field.primary_key else field.attname], None
    if constraint == f"{entity.model._meta.db_table}_pkey":
        return ["id"], None
    return [], None


def _wire_name(entity: Entity, name: str) -> str:
    try:
        field = entity.model._meta.get_field(name)
    except FieldDoesNotExist:
        return name
    return field.attname if isinstance(field, models.Field) else name
