"""Who may see and do what with the pre-existing systems, and what is noted of it.

A link or a dead letter shows values of a row, so that who may not see such rows may not see it.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from django.conf import settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import Http404, HttpRequest

from legacy.connector import Misconfigured
from legacy.document import Unmappable
from legacy.mapping import F, Mapping, Rows
from legacy.models import DeadLetter, Link
from legacy.systems import declared
from sync.permissions import Somebody, sees_everything, viewable_entities
from sync.wire import Entity

RUN, ROLL_BACK = "legacy.run_system", "legacy.roll_back_run"
DECIDE, UNLINK = "legacy.decide_deadletter", "legacy.unlink_link"
SECRET_CHARS_MIN = 5  # a shorter one is a word that texts are full of
NOTES_SHOWN_MAX = 12

Thing = TypeVar("Thing", Link, DeadLetter)


@dataclass(frozen=True)
class Mapped:
    """What a mapping's name stands for in one system: the mapping itself, or the rows that belong to its records."""

    mapping: Mapping
    part: Rows | None = None

    @property
    def entity(self) -> Entity:
        return self.part.entity if self.part else self.mapping.entity

    @property
    def lines(self) -> tuple[F, ...]:
        return self.part.fields if self.part else self.mapping.fields


def mapped() -> dict[tuple[str, str], Mapped]:
    """What is declared, by system and name; nothing where it cannot be read."""
    found: dict[tuple[str, str], Mapped] = {}
    try:
        systems = declared()
    except Misconfigured:
        return {}
    for system in systems:
        for mapping in system.mappings:
            found[system.name, mapping.name] = Mapped(mapping)
            if mapping.rows:
                found[system.name, mapping.rows.name] = Mapped(mapping, mapping.rows)
    return found


def name_of(known: Mapped | None, values: Any, key: str) -> str:
    """What their record would be called here; its key where that cannot be told."""
    if known is None or known.part is not None or not isinstance(values, dict):
        return key
    document = {}
    for name, reader in known.mapping.readers.items():
        with suppress(Unmappable, KeyError, TypeError, AttributeError):
            document[name] = reader(values, _nowhere)
    try:
        told = str(known.entity.model(**{n: v for n, v in document.items() if isinstance(v, str | int)})).strip()
    except Exception:  # a name may need what it refers to
        return key
    return told or key


def _nowhere(mapping: str, key: str) -> str:
    raise Unmappable(f"{mapping} {key} is not looked up for a name")


def require(request: HttpRequest, permission: str) -> None:
    """Raises PermissionDenied."""
    if not may(request, permission):
        raise PermissionDenied


def may(request: HttpRequest, permission: str) -> bool:
    return bool(request.user.has_perm(permission))


def visible(user: Somebody, records: "QuerySet[Any]") -> "QuerySet[Any]":
    """Those of links or dead letters whose rows the user may see; what is not declared any more, who sees all."""
    if sees_everything(user):
        return records
    seen = viewable_entities(user)
    names: dict[str, list[str]] = {}
    for (system, name), each in mapped().items():
        if each.entity.name in seen:
            names.setdefault(system, []).append(name)
    found = Q(pk__in=[])
    for system, its in names.items():
        found |= Q(system=system, mapping__in=its)
    return records.filter(found)


def may_see(user: Somebody, system: str, mapping: str) -> bool:
    """Whether the user may see the rows of a mapping."""
    known = mapped().get((system, mapping))
    return known.entity.name in viewable_entities(user) if known else sees_everything(user)


def found(request: HttpRequest, model: type[Thing], id: str) -> Thing:
    """The link or the dead letter of this id. Raises Http404 and PermissionDenied."""
    thing = model._default_manager.filter(pk=id).first() if id.isdecimal() and len(id) < 19 else None
    if thing is None:
        raise Http404
    if not may_see(request.user, thing.system, thing.mapping):
        raise PermissionDenied
    return thing


class Kept:
    """Of an admin: what it has is for looking at, and neither added, changed nor deleted by hand."""

    def has_add_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False


# --- What people did --------------------------------------------------------------------------------------------------


def note(request: HttpRequest, things: Iterable[Model], message: str) -> None:
    """Write down who did what to these, in Django's own log of actions."""
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=str(request.user.pk),
            content_type=ContentType.objects.get_for_model(thing),
            object_id=str(thing.pk),
            object_repr=str(thing)[:200],
            action_flag=CHANGE,
            change_message=message,
        )
        for thing in things
    )


def notes(thing: Model | None = None) -> "QuerySet[LogEntry]":
    """What people did to one thing, or to any of ours; the newest first."""
    found = LogEntry.objects.filter(content_type__app_label="legacy").select_related("user", "content_type")
    if thing is not None:
        found = found.filter(content_type=ContentType.objects.get_for_model(thing), object_id=str(thing.pk))
    return found.order_by("-action_time")[:NOTES_SHOWN_MAX]


# --- What is never shown ----------------------------------------------------------------------------------------------

_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_?KEY|CREDENTIAL|DATABASE_URL", re.I)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+@")
_IN_QUERY = re.compile(r"(?i)\b(token|key|api_?key|secret|password|passwd|pwd|authorization: *\w+)([=: ]+)[^\s&;,'\"]+")
HIDDEN = "•••"


def told(text: str) -> str:
    """A text of a connector without the secrets that it may have got into."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return _IN_QUERY.sub(rf"\1\2{HIDDEN}", _IN_ADDRESS.sub(f"{HIDDEN}@", text))


@cache
def _secrets() -> tuple[str, ...]:
    named = {name: getattr(settings, name) for name in dir(settings) if name.isupper()} | dict(os.environ)
    values = [v for name, v in named.items() if _SECRET_NAME.search(name) and isinstance(v, str)]
    return tuple(sorted((v for v in set(values) if len(v) >= SECRET_CHARS_MIN), key=len, reverse=True))
