"""Who may see and decide what: the permissions on conflicts and rejections, and on the entity's own model beside them.

One record shows values of a row, so that who may not see the row may not see the record.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, PermissionsMixin
from django.db import DEFAULT_DB_ALIAS, models
from django.db.models import ProtectedError, RestrictedError
from django.db.models.deletion import Collector

from sync.models import Conflict, Decision, History, Mismatch, Outcome, Rejection
from sync.wire import entities

Somebody = AbstractBaseUser | AnonymousUser
_ACTIONS = {"create": "add", "update": "change", "delete": "delete"}  # of a mutation, as permissions are called


def holds(user: Somebody, action: str, model: type[models.Model]) -> bool:
    """Whether the user has a permission on a model. Who may change it may see it, as in the admin."""
    assert isinstance(user, PermissionsMixin | AnonymousUser)
    actions = {"view", "change"} if action == "view" else {action}
    meta = model._meta
    return any(user.has_perm(f"{meta.app_label}.{each}_{meta.model_name}") for each in actions)


def viewable_entities(user: Somebody) -> set[str]:
    """The entities whose rows the user may see."""
    return {name for name, entity in entities().items() if holds(user, "view", entity.model)}


def sees_everything(user: Somebody) -> bool:
    """Whether the user may see every entity, and so also what names none: that may be any entity's, misspelt."""
    return len(viewable_entities(user)) == len(entities())


def visible(user: Somebody, records: "models.QuerySet[Any]") -> "models.QuerySet[Any]":
    """Those of conflicts, decisions, rejections, outcomes, mismatches or history that the user may see."""
    model = records.model
    # What became of a mutation is seen by who sees what it met; the history by who sees the rows.
    kinds: dict[type[models.Model], tuple[type[models.Model], ...]] = {
        Conflict: (Conflict,),
        Decision: (Conflict,),
        Rejection: (Rejection,),
        Outcome: (Conflict, Rejection),
        History: (),
        Mismatch: (Mismatch,),
    }
    if not all(holds(user, "view", kind) for kind in kinds[model]):
        return records.none()
    if sees_everything(user):
        return records
    field = "conflict__entity__in" if model is Decision else "entity__in"
    return records.filter(**{field: sorted(viewable_entities(user))})


def may_view(user: Somebody, record: Conflict | Rejection) -> bool:
    """Whether the user may see this conflict or rejection."""
    return holds(user, "view", type(record)) and _may_on(user, record.entity, {"view"})


def may_decide(user: Somebody, conflict: Conflict, deletes: bool = False, creates: bool = False) -> bool:
    """Whether the user may decide a conflict, where that deletes the row, or brings it back."""
    actions = {"view", "change"} | ({"delete"} if deletes else set()) | ({"add"} if creates else set())
    permitted = holds(user, "change", Conflict) and _may_on(user, conflict.entity, actions)
    return permitted and (not deletes or _may_take_along(user, conflict.entity, conflict.row_id))


def may_mend(user: Somebody, rejections: Iterable[Rejection]) -> bool:
    """Whether the user may replay or discard these, each of which does with its row what its mutation says."""
    return holds(user, "change", Rejection) and all(
        _may_on(user, each.entity, {"view", "change", _ACTIONS.get(each.op, "change")})
        and (each.op != "delete" or _may_take_along(user, each.entity, each.row_id))
        for each in rejections
    )


def may_restore(user: Somebody, entity: str, creates: bool = False) -> bool:
    """Whether the user may put a row back to what it was, where that brings it back."""
    return _may_on(user, entity, {"view", "change"} | ({"add"} if creates else set()))


def _may_on(user: Somebody, name: str, actions: set[str]) -> bool:
    known = entities().get(name)
    if known is None:
        return sees_everything(user)
    return all(holds(user, action, known.model) for action in actions)


def _may_take_along(user: Somebody, name: str, row_id: UUID) -> bool:
    """Whether the user may do to other rows what deleting a row does to them, as in the admin."""
    known = entities().get(name)
    if known is None or getattr(user, "is_superuser", False):
        return True
    collector = Collector(using=DEFAULT_DB_ALIAS)
    with suppress(ProtectedError, RestrictedError):  # which refuse it themselves
        collector.collect(list(known.model._default_manager.filter(pk=row_id)))
    gone = {*collector.data, *(rows.model for rows in collector.fast_deletes if rows.exists())}
    changed = {field.model for (field, _), rows in collector.field_updates.items() if any(map(bool, rows))}
    return all(holds(user, "delete", model) for model in gone - {known.model}) and all(
        holds(user, "change", model) for model in changed
    )
