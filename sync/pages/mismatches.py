"""The admin's list of what devices found wrong in their files: which device, which rows, and whether it is repaired."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from sync.models import Mismatch
from sync.pages import words
from sync.pages.conflict_filters import AgeFilter, Choice, DeviceFilter, EntityFilter, Lookups
from sync.pages.names import row_names
from sync.pages.sent import SentAdmin
from sync.permissions import holds
from sync.wire import entities


class RepairedFilter(Choice):
    title = "repaired"
    parameter_name = "repaired"

    def lookups(self, _request: HttpRequest, _page: Any) -> Lookups:
        return [("yes", "Yes"), ("no", "No")]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(repaired=value == "yes")


class FoundFilter(AgeFilter):
    title = "found"
    since = "at"


class MismatchAdmin(SentAdmin):
    list_display = ("what", "device_link", "when", "changed", "missing", "surplus", "repaired_badge")
    list_display_links = ("what",)
    list_filter = (EntityFilter, DeviceFilter, RepairedFilter, FoundFilter)
    list_per_page = 50
    search_fields = ("=device",)
    search_help_text = "The whole id of a device"
    ordering = ("-at", "entity")
    fields = ("device_link", "when", "changed", "missing", "surplus", "repaired_badge", "rows_table")
    readonly_fields = fields

    class Media:
        css = {"all": ["sync/record.css"]}

    def has_change_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False  # it is what a device told

    def has_view_permission(self, request: HttpRequest, _obj: Model | None = None) -> bool:
        return holds(request.user, "view", Mismatch)

    @admin.display(description="rows of", ordering="entity")
    def what(self, mismatch: Mismatch) -> str:
        return words.kind_of(mismatch.entity)

    @admin.display(description="found", ordering="at")
    def when(self, mismatch: Mismatch) -> SafeString:
        return words.moment(mismatch.at)

    @admin.display(description="repaired", ordering="repaired")
    def repaired_badge(self, mismatch: Mismatch) -> SafeString:
        badge = words.badge("good", "repaired") if mismatch.repaired else words.badge("bad", "not repaired")
        return format_html('<span class="sy">{}</span>', badge)

    @admin.display(description="the first of them")
    def rows_table(self, mismatch: Mismatch) -> SafeString:
        """Each row with its revisions; its name leads to its history."""
        names = row_names((mismatch.entity, row["id"]) for row in mismatch.rows)
        lines = format_html_join("", _LINE, _lines(mismatch, names))
        return format_html(_TABLE, lines)


_TABLE = (
    '<div class="sy"><table class="sy-table"><thead><tr><th scope="col">Row</th><th scope="col">Id</th>'
    '<th scope="col" class="sy-number">Revision on the device</th>'
    '<th scope="col" class="sy-number">on the server</th></tr></thead><tbody>{}</tbody></table></div>'
)
_LINE = (
    '<tr><th scope="row">{}</th><td class="sy-mono">{}</td>'
    '<td class="sy-number">{}</td><td class="sy-number">{}</td></tr>'
)


def _lines(
    mismatch: Mismatch, names: dict[tuple[str, str], str]
) -> Iterable[tuple[str | SafeString, str, int | str, int | str]]:
    known = entities().get(mismatch.entity)
    for row in mismatch.rows:
        name: str | SafeString = names.get((mismatch.entity, row["id"]), "not known")
        if known is not None and (mismatch.entity, row["id"]) in names:
            meta = known.model._meta
            address = reverse(f"admin:{meta.app_label}_{meta.model_name}_history", args=[row["id"]])
            name = format_html('<a class="sy-link" href="{}">{}</a>', address, name)
        yield name, row["id"], row["device"] or words.NONE, row["server"] or words.NONE


def register() -> None:
    """Give mismatches their pages."""
    admin.site.register(Mismatch, MismatchAdmin)
