"""By what lists of the staff API are filtered."""

from datetime import UTC, datetime
from typing import Any

import django_filters
import django_filters.fields
from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from devices.models import Device, Trouble
from sync.models import Conflict, Decision, History, Rejection


class _MomentField(django_filters.fields.IsoDateTimeField):
    """A moment in UTC: PostgreSQL does not read every offset that Python does."""

    def to_python(self, value: Any) -> datetime | None:
        found: datetime | None = super().to_python(value)
        try:
            return found and found.astimezone(UTC)
        except OverflowError:
            raise ValidationError("This moment is not in the years 1 to 9999 in UTC.") from None


class Moment(django_filters.IsoDateTimeFilter):
    field_class = _MomentField


class _Records(django_filters.FilterSet):
    entity = django_filters.CharFilter()
    row = django_filters.UUIDFilter("row_id")
    mutation = django_filters.UUIDFilter()
    device = django_filters.UUIDFilter()
    group = django_filters.UUIDFilter()
    created_after = Moment("created_at", "gt")
    created_before = Moment("created_at", "lt")


class ConflictFilters(_Records):
    state = django_filters.ChoiceFilter(choices=Conflict.State.choices)
    policy = django_filters.CharFilter()
    op = django_filters.CharFilter()

    class Meta:
        model = Conflict
        fields: list[str] = []


class RejectionFilters(_Records):
    state = django_filters.ChoiceFilter(choices=Rejection.State.choices)
    cause = django_filters.CharFilter()

    class Meta:
        model = Rejection
        fields: list[str] = []


class DecisionFilters(django_filters.FilterSet):
    conflict = django_filters.UUIDFilter()
    entity = django_filters.CharFilter("conflict__entity")
    by = django_filters.CharFilter(help_text="`user:<name>`")
    bulk = django_filters.UUIDFilter()
    undone = django_filters.BooleanFilter("undone_at", "isnull", exclude=True)

    class Meta:
        model = Decision
        fields: list[str] = []


class DeviceFilters(django_filters.FilterSet):
    name = django_filters.CharFilter(lookup_expr="icontains")
    user = django_filters.CharFilter("user__username")
    revoked = django_filters.BooleanFilter("revoked_at", "isnull", exclude=True)
    trouble = django_filters.ChoiceFilter(choices=Trouble.choices)
    silent_since = Moment(method="silent", help_text="Did not call since then.")

    class Meta:
        model = Device
        fields: list[str] = []

    def silent(self, devices: "QuerySet[Device]", _name: str, since: object) -> "QuerySet[Device]":
        return devices.exclude(last_seen_at__gte=since)


class HistoryFilters(django_filters.FilterSet):
    row = django_filters.UUIDFilter("row_id", required=True)
    entity = django_filters.CharFilter()
    op = django_filters.CharFilter()
    author = django_filters.CharFilter(help_text="Such as `device:<id>` or `user:<name>`")

    class Meta:
        model = History
        fields: list[str] = []
