"""The admin's pages of conflicts: the list, one conflict, many at once, and the undo of either."""

from copy import copy
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.admin import ModelAdmin

from sync.models import Conflict
from sync.pages import conflict_bulk, conflict_undo
from sync.pages.conflict_decide import decide
from sync.pages.conflict_filters import (
    AgeFilter,
    DeviceFilter,
    EntityFilter,
    FieldFilter,
    PolicyFilter,
    StateFilter,
    narrowed,
    search,
)
from sync.pages.conflict_list import lines
from sync.permissions import holds, may_view, viewable_entities, visible

PER_PAGE = 100
TABS = {"open": "Open", "server": "Server kept", "device": "Device taken", "mixed": "Mixed", "": "All"}


class ConflictAdmin(ModelAdmin):
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
    actions = ("keep_server", "take_device")

    # --- who may ---

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Conflict | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Conflict | None = None) -> bool:
        return may_view(request.user, obj) if obj else holds(request.user, "view", Conflict)

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return holds(request.user, "change", Conflict)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conflict]:
        found: QuerySet[Conflict] = visible(request.user, super().get_queryset(request))
        return found

    def found(self, request: HttpRequest, conflict_id: str) -> Conflict | None:
        """The conflict of this id; None where there is none. Raises PermissionDenied."""
        try:
            conflict = Conflict.objects.filter(pk=UUID(conflict_id)).first()
        except ValueError:
            return None
        if conflict is not None and not may_view(request.user, conflict):
            raise PermissionDenied
        return conflict

    # --- the list ---

    def get_search_results(
        self, _request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return search(queryset, search_term), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and (cl := (response.context_data or {}).get("cl")):
            assert response.context_data is not None
            response.context_data |= {
                "title": "Conflicts",
                "lines": lines(list(cl.result_list), viewable_entities(request.user)),
                "tabs": _tabs(request, cl),
                "selects": [spec for spec in cl.filter_specs if not isinstance(spec, StateFilter)],
                "narrowed": narrowed(cl.filter_specs) or bool(cl.query),
                "may_decide": self.has_decide_permission(request),
            }
        return response

    def queue(self, request: HttpRequest) -> QuerySet[Conflict]:
        """The conflicts that the user goes through: those of the list that they came from, or all that are open."""
        filters = QueryDict(request.GET.get("_changelist_filters", ""))
        listed = copy(request)
        listed.GET = filters  # as the list's own request had them
        try:
            found: QuerySet[Conflict] = self.get_changelist_instance(listed).get_queryset(listed)
        except (IncorrectLookupParameters, SuspiciousOperation):  # an address that was made by hand
            found, filters = self.get_queryset(request), QueryDict()
        return found if filters.get(StateFilter.parameter_name) else found.filter(state=Conflict.State.OPEN)

    # --- many at once ---

    @admin.action(description="Keep the server's values", permissions=["decide"])
    def keep_server(self, request: HttpRequest, conflicts: QuerySet[Conflict]) -> HttpResponse | None:
        return conflict_bulk.decide_many(self, request, conflicts, "server")

    @admin.action(description="Take the devices' values", permissions=["decide"])
    def take_device(self, request: HttpRequest, conflicts: QuerySet[Conflict]) -> HttpResponse | None:
        return conflict_bulk.decide_many(self, request, conflicts, "device")

    # --- one ---

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002 - Django's own signature, here and below
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        conflict = self.found(request, object_id)
        if conflict is not None:
            return decide(self, request, conflict)
        messages.warning(request, "There is no such conflict.")
        return HttpResponseRedirect(self.list_address(request))

    def history_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        return self.change_view(request, object_id)  # which shows it all

    def get_urls(self) -> list[URLPattern]:
        undo, undo_many = self.admin_site.admin_view(self.undo_view), self.admin_site.admin_view(self.undo_many_view)
        return [
            path("undo/<uuid:decision>/", undo, name="sync_conflict_undo"),
            path("undo-many/<uuid:bulk>/", undo_many, name="sync_conflict_undo_many"),
            *super().get_urls(),
        ]

    def undo_view(self, request: HttpRequest, decision: UUID) -> HttpResponse:
        return conflict_undo.undo_shown(self, request, Q(pk=decision), [decision])

    def undo_many_view(self, request: HttpRequest, bulk: UUID) -> HttpResponse:
        return conflict_undo.undo_shown(self, request, Q(bulk=bulk), bulk)

    def list_address(self, request: HttpRequest) -> str:
        """The list as the user left it."""
        address, filters = reverse("admin:sync_conflict_changelist"), request.GET.get("_changelist_filters", "")
        return f"{address}?{filters or 'state=open'}"


def _tabs(request: HttpRequest, cl: Any) -> list[dict[str, Any]]:
    """A tab for each state with how many there are of what the other filters leave."""
    others = cl.get_queryset(request, exclude_parameters=[StateFilter.parameter_name])
    counts = dict(others.order_by().values_list("state").annotate(count=Count("pk")))
    now = request.GET.get(StateFilter.parameter_name, "")
    kept = {"p": None, "all": None}
    return [
        {
            "title": title,
            "state": state,
            "count": counts.get(state, 0) if state else sum(counts.values()),
            "link": cl.get_query_string({StateFilter.parameter_name: state or None} | kept),
            "active": state == now,
        }
        for state, title in TABS.items()
    ]


def register() -> None:
    """Give conflicts their pages."""
    admin.site.register(Conflict, ConflictAdmin)
