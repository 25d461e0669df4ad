"""The admin's list of links: which of our rows is which of their records."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import CharField, Q, QuerySet, TextField
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from legacy.models import Link
from legacy.pages import access
from legacy.pages.letters import MappingFilter
from legacy.pages.link import Case, link_page, unlink_page
from legacy.pages.runs import SystemFilter
from sync.pages import words
from sync.pages.conflict_filters import as_uuid
from sync.pages.names import row_names
from sync.permissions import viewable_entities
from sync.wire import Entity

NAMED_MAX = 200  # rows of an entity that a search by name looks at
GONE = "not there any more"


class LinkAdmin(access.Kept, ModelAdmin):
    """With a link that was changed by hand, two sides would agree on what neither has."""

    list_display = ("row_label", "mapping", "system", "key", "when")
    list_display_links = ("row_label", "key")
    list_filter = (SystemFilter, MappingFilter)
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-pk",)
    search_fields = ("key", "row")
    search_help_text = "Text of our row, its whole id, or their key"

    class Media:
        css = {"all": ["sync/record.css", "legacy/legacy.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return access.visible(request.user, super().get_queryset(request))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By their key, by our row's id, or by text of our row."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if (known := as_uuid(term)) is not None:
            return queryset.filter(Q(row=known) | Q(key=term) | Q(parent=known)), False
        seen = viewable_entities(request.user)
        entities = {each.entity.name: each.entity for each in access.mapped().values() if each.entity.name in seen}
        rows = [row for entity in entities.values() for row in _rows_named(entity, term)]
        return queryset.filter(Q(key=term) | Q(row__in=rows)), False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.unlink_view)
        return [path("<int:id>/unlink/", view, name="legacy_link_unlink"), *super().get_urls()]

    # --- the list ---

    @admin.display(description="our row")
    def row_label(self, link: Any) -> str:
        return str(getattr(link, "row_name", link.row))

    @admin.display(description="agreed", ordering="agreed_at")
    def when(self, link: Link) -> SafeString:
        return words.moment(link.agreed_at)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        response = super().changelist_view(request, {"title": "Links"} | (extra_context or {}))
        if isinstance(response, TemplateResponse) and (cl := (response.context_data or {}).get("cl")):
            _name(cl.result_list)
        return response

    # --- one ---

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return link_page(self._case(request, object_id or "", extra_context))

    def unlink_view(self, request: HttpRequest, id: int) -> HttpResponse:
        access.require(request, access.UNLINK)
        return unlink_page(self._case(request, str(id)))

    def _case(self, request: HttpRequest, id: str, extra: dict[str, Any] | None = None) -> Case:
        if not self.has_view_permission(request):
            raise PermissionDenied
        link = access.found(request, Link, id)
        return Case(request, link, self.admin_site.each_context(request) | (extra or {}))


def _rows_named(entity: Entity, term: str) -> list[Any]:
    """The first rows of an entity that have this text in one of their short fields."""
    fields = [f for f in entity.model._meta.concrete_fields if isinstance(f, CharField | TextField) and not f.choices]
    anywhere = Q(pk__in=[])
    for field in fields:
        anywhere |= Q(**{f"{field.name}__icontains": term})
    return list(entity.model._default_manager.filter(anywhere).values_list("pk", flat=True)[:NAMED_MAX])


def _name(links: Any) -> None:
    """Give each what our row is called: many in one query an entity."""
    known, listed = access.mapped(), list(links)
    at = {
        each.pk: (found.entity.name, str(each.row))
        for each in listed
        if (found := known.get((each.system, each.mapping)))
    }
    names = row_names(at.values())
    for each in listed:
        each.row_name = names.get(at.get(each.pk, ("", "")), f"{str(each.row)[:8]}, {GONE}")
