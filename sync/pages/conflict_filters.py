"""How the list of conflicts is narrowed down."""

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils import timezone

from devices.models import Device
from sync.declare import declarations
from sync.merge import CONFLICT_POLICIES, DELETE_POLICIES, policy_name
from sync.models import Conflict
from sync.pages.values import entity_label, field_label
from sync.permissions import viewable_entities
from sync.wire import entities

DEVICES_LISTED_MAX = 200  # to choose from; any other is found by the search
AGES = {  # days, and whether those before them are meant
    "1": ("last 24 hours", 1, False),
    "7": ("last 7 days", 7, False),
    "1+": ("older than a day", 1, True),
    "7+": ("older than a week", 7, True),
    "30+": ("older than 30 days", 30, True),
}

Lookups = list[tuple[str, str]]
Conflicts = QuerySet[Conflict]


class Choice(admin.SimpleListFilter, ABC):
    """A filter of which only its own choices mean something: nothing is found by any other."""

    def queryset(self, _request: HttpRequest, found: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return found
        known = self.value() in dict(self.lookup_choices)
        return self.chosen(found, str(self.value())) if known else found.none()

    @abstractmethod
    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        """The conflicts of a choice."""


class StateFilter(Choice):
    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _page: Any) -> Lookups:
        return [(state.value, state.label) for state in Conflict.State]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(state=value)


class EntityFilter(Choice):
    title = "entity"
    parameter_name = "entity"

    def lookups(self, request: HttpRequest, _page: Any) -> Lookups:
        return [(name, entity_label(name)) for name in sorted(viewable_entities(request.user))]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(entity=value)


class DeviceFilter(admin.SimpleListFilter):
    title = "device"
    parameter_name = "device"

    def lookups(self, request: HttpRequest, page: Any) -> Lookups:
        seen = page.get_queryset(request).order_by()
        met = Device.objects.filter(Exists(seen.filter(device=OuterRef("pk")))).order_by("name")
        named = []
        if page.model is Conflict:  # which may be with a system that is no device
            named += seen.exclude(source="").order_by("source").values_list("device", "source").distinct()
        named += [*met.values_list("pk", "name")[:DEVICES_LISTED_MAX]]
        return [(str(pk), name) for pk, name in named]

    def has_output(self) -> bool:
        return True  # even with one device to choose from, a link may have chosen another

    def queryset(self, _request: HttpRequest, found: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return found
        device = as_uuid(str(self.value()))
        return found.filter(device=device) if device else found.none()


class FieldFilter(Choice):
    title = "field"
    parameter_name = "field"

    def lookups(self, request: HttpRequest, _page: Any) -> Lookups:
        """Those of the chosen entity, or of all that the user may see."""
        seen = viewable_entities(request.user)
        chosen = seen & {request.GET.get("entity", "")} or seen
        labels = {field.name: field_label(name, field.name) for name in chosen for field in entities()[name].fields}
        return sorted(labels.items(), key=lambda label: label[1])

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(fields__contains=[value])


class PolicyFilter(Choice):
    title = "policy"
    parameter_name = "policy"

    def lookups(self, _request: HttpRequest, _page: Any) -> Lookups:
        own = {policy_name(p) for d in declarations() for p in (d.conflict, *d.conflict_fields.values())}
        names = [*CONFLICT_POLICIES, *DELETE_POLICIES, *sorted(own)]
        return [(name, name.replace("_", " ")) for name in dict.fromkeys(names)]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(policy__contains=value)


class AgeFilter(Choice):
    title = "age"
    parameter_name = "age"
    since = "created_at"  # the field that it goes by

    def lookups(self, _request: HttpRequest, _page: Any) -> Lookups:
        return [(key, label) for key, (label, _, _) in AGES.items()]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        _, days, before = AGES[value]
        border = timezone.now() - timedelta(days=days)
        return found.filter(**{f"{self.since}__{'lt' if before else 'gte'}": border})


def search(found: QuerySet[Any], term: str) -> QuerySet[Any]:
    """Conflicts by the whole id of a row, mutation or device, by a device's name, or by text of any side's values."""
    term = term.strip()
    if not term:
        return found
    if (known := as_uuid(term)) is not None:
        return found.filter(Q(pk=known) | Q(row_id=known) | Q(mutation=known) | Q(device=known))
    named = Device.objects.filter(name__icontains=term).values("pk")
    sides = {f"{side}_text": Cast(side, TextField()) for side in ("base", "server", "device_values")}
    in_json = json.dumps(term, ensure_ascii=False)[1:-1]
    anywhere = Q(device__in=named) | Q(source__icontains=term)
    for side in sides:
        anywhere |= Q(**{f"{side}__icontains": in_json})
    matching: QuerySet[Any] = found.alias(**sides).filter(anywhere)
    return matching


def as_uuid(text: str) -> uuid.UUID | None:
    """The id that a text is, if it is one."""
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


def narrowed(specs: Iterable[Any]) -> bool:
    """Whether any filter but that of the state is set."""
    return any(spec.value() for spec in specs if not isinstance(spec, StateFilter))
