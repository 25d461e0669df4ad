"""The admin's pages of what needs a person: conflicts and the quarantine. Both are read-only: they are the evidence."""

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin

from devices.models import Device
from sync.models import Conflict, Rejection
from sync.wire import entities
from syncserver.errors import REJECTIONS

NOTHING = "–"


class EntityFilter(admin.SimpleListFilter):
    title = "entity"
    parameter_name = "entity"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [(name, str(entity.model._meta.verbose_name)) for name, entity in sorted(entities().items())]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.filter(entity=self.value()) if self.value() else queryset


class CodeFilter(admin.SimpleListFilter):
    title = "reason"
    parameter_name = "code"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [(code, code.replace("_", " ")) for code in REJECTIONS]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.filter(errors__contains=[{"code": self.value()}]) if self.value() else queryset


class Evidence(ModelAdmin):  # type: ignore[type-arg]
    """A record of one pushed mutation, with links to its row and its device."""

    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    list_per_page = 50
    search_fields = ("=row_id", "=mutation", "=device")
    search_help_text = "The whole id of a row, a mutation or a device"

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        name = Device.objects.filter(pk=OuterRef("device")).values("name")
        records: QuerySet[Any] = super().get_queryset(request).annotate(device_name=Subquery(name))
        return records

    @admin.display(description="when", ordering="created_at")
    def when(self, record: Any) -> str:
        young = timezone.now() - record.created_at < timedelta(minutes=1)
        return "just now" if young else f"{timesince(record.created_at, depth=1)} ago"

    @admin.display(description="received at", ordering="created_at")
    def received_at(self, record: Any) -> str:
        return f"{timezone.localtime(record.created_at):%Y-%m-%d %H:%M:%S} ({self.when(record)})"

    @admin.display(description="row")
    def row_short(self, record: Any) -> SafeString:
        return row_link(record.entity, record.row_id, f"{record.row_id}"[:8])

    @admin.display(description="row")
    def row_full(self, record: Any) -> SafeString:
        known = entities().get(record.entity)
        row = known.model._default_manager.filter(pk=record.row_id).first() if known else None
        name = f"{row} · {record.row_id}" if row else f"{record.row_id} (there is no such row now)"
        return row_link(record.entity, record.row_id, name)

    @admin.display(description="change")
    def change(self, record: Any) -> str:
        return str(record.op)

    @admin.display(description="entity", ordering="entity")
    def entity_name(self, record: Any) -> str:
        known = entities().get(record.entity)
        return str(known.model._meta.verbose_name) if known else record.entity

    @admin.display(description="device", ordering="device_name")
    def device_link(self, record: Any) -> SafeString:
        return device_link(record.device, record.device_name)


@admin.register(Rejection)
class RejectionAdmin(Evidence):
    list_display = ("when", "entity_name", "first_error", "row_short", "device_link")
    list_display_links = ("when",)
    list_filter = (EntityFilter, CodeFilter)
    fieldsets = (
        (None, {"fields": ("error_table", "mutation_body")}),
        ("Which change", {"fields": ("entity_name", "row_full", "device_link", "received_at")}),
        ("For support", {"fields": ("mutation", "id"), "classes": ("collapse",)}),
    )
    readonly_fields = ("error_table", "mutation_body", "entity_name", "row_full", "device_link", "received_at")

    @admin.display(description="why")
    def first_error(self, rejection: Rejection) -> str:
        error, *more = rejection.errors or [{"message": NOTHING}]
        place = f"{error['field']}: " if error.get("field") else ""
        return f"{place}{error['message']}" + (f" (and {len(more)} more)" if more else "")

    @admin.display(description="why")
    def error_table(self, rejection: Rejection) -> SafeString:
        rows = ((error.get("field") or NOTHING, error["code"], error["message"]) for error in rejection.errors)
        return table(("Field", "Code", "What is wrong"), rows)

    @admin.display(description="the mutation, as it came")
    def mutation_body(self, rejection: Rejection) -> SafeString:
        return format_html('<pre style="margin: 0; white-space: pre-wrap">{}</pre>', _pretty(rejection.body))


def device_link(device: object, name: str | None) -> SafeString:
    """A link to the device's page, by its name."""
    return format_html('<a href="{}">{}</a>', reverse("admin:devices_device_change", args=[device]), name or device)


def row_link(entity: str, row_id: object, text: str) -> SafeString:
    """A link to the history of a row, which is there for a deleted one too. Only text where there is no such entity."""
    known = entities().get(entity)
    if known is None:
        return format_html("{}", text)
    address = f"admin:{known.model._meta.app_label}_{known.model._meta.model_name}_history"
    return format_html('<a href="{}" title="{}">{}</a>', reverse(address, args=[row_id]), row_id, text)


def table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> SafeString:
    """A small table in the admin's own look. Everything in it is escaped unless it is marked safe."""
    head = format_html_join("", '<th scope="col">{}</th>', ((each,) for each in heads))
    body = format_html_join(
        "", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((c,) for c in row)),) for row in rows)
    )
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)


def _in_order(entity: str, names: set[str]) -> list[str]:
    """Fields in the order of the model; those that it has no longer come last."""
    known = [field.name for field in entities()[entity].fields] if entity in entities() else []
    return [name for name in known if name in names] + sorted(names.difference(known))


def shown(value: object) -> str:
    """A value in wire form, as a person reads it."""
    if value is None:
        return "(none)"
    if isinstance(value, str):
        return value or "(empty)"
    return json.dumps(value, ensure_ascii=False)


def _from_device(conflict: Conflict) -> dict[str, str]:
    """What the device sent, by field, as text: the values that it set, and the amounts that it added."""
    sent = conflict.device_values or {}
    added = {name: f"add {shown(amount)}" for name, amount in (sent.get("add") or {}).items()}
    return {name: shown(value) for name, value in (sent.get("set") or {}).items()} | added


def _pretty(body: object) -> str:
    """Indented JSON, with what JSON would show as it is; a body that is no JSON as it came."""
    try:
        value = json.loads(body) if isinstance(body, str) else body
    except ValueError:
        return str(body)
    return json.dumps(value, indent=2, ensure_ascii=False)
