"""The admin's pages of conflicts: the list, one conflict, many at once, and the undo of either."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.admin import ModelAdmin

from sync.conflict_filters import (
    AgeFilter,
    DeviceFilter,
    EntityFilter,
    FieldFilter,
    PolicyFilter,
    StateFilter,
    narrowed,
    search,
)
from sync.conflict_list import lines
from sync.models import Conflict
from sync.permissions import viewable_entities

PER_PAGE = 100
TABS = {"open": "Open", "server": "Server kept", "device": "Device taken", "mixed": "Mixed", "": "All"}


@admin.register(Conflict)
class ConflictAdmin(ModelAdmin):  # type: ignore[type-arg]
    change_list_template = "admin/sync/conflict/list.html"
    list_display = ("created_at", "entity", "row_id", "device", "state")  # the template shows lines of its own
    list_filter = (StateFilter, EntityFilter, DeviceFilter, FieldFilter, PolicyFilter, AgeFilter)
    list_fullwidth = True
    list_per_page = PER_PAGE
    list_max_show_all = 1_000
    ordering = ("-created_at", "-id")
    search_fields = ("id",)  # `get_search_results` knows more
    search_help_text = "Device, value or id of a row"
    show_full_result_count = False

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Conflict | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conflict]:
        return super().get_queryset(request).filter(entity__in=viewable_entities(request.user))

    def get_search_results(
        self, _request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return search(queryset, search_term), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and (cl := (response.context_data or {}).get("cl")):
            shown = lines(list(cl.result_list), viewable_entities(request.user))
            response.context_data |= {
                "title": "Conflicts",
                "lines": shown,
                "tabs": _tabs(request, cl),
                "selects": [spec for spec in cl.filter_specs if not isinstance(spec, StateFilter)],
                "narrowed": narrowed(cl.filter_specs) or bool(cl.query),
                "may_decide": request.user.has_perm("sync.change_conflict"),
            }
        return response


def _tabs(request: HttpRequest, cl: Any) -> list[dict[str, Any]]:
    """A tab for each state with how many there are of what the other filters leave."""
    others = cl.get_queryset(request, exclude_parameters=[StateFilter.parameter_name])
    counts = dict(others.order_by().values_list("state").annotate(count=Count("pk")))
    now = request.GET.get(StateFilter.parameter_name, "")
    return [
        {
            "title": title,
            "state": state,
            "count": counts.get(state, 0) if state else sum(counts.values()),
            "link": cl.get_query_string({StateFilter.parameter_name: state}, ["p", "all"])
            if state
            else cl.get_query_string(remove=[StateFilter.parameter_name, "p", "all"]),
            "active": state == now,
        }
        for state, title in TABS.items()
    ]
