"""The admin's list of what was refused: counted by device and cause, to be replayed or discarded, many at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Min, Model, OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from devices.models import Device
from sync.amend import Invalid
from sync.models import Rejection
from sync.pages import words
from sync.pages.conflict_filters import AgeFilter, DeviceFilter, EntityFilter, as_uuid
from sync.pages.mend import sent_by
from sync.pages.names import row_names
from sync.pages.rejection import BECAME, STATES, Case, DiscardForm, author_of, change_label, rejection_page, told
from sync.pages.sent import SentAdmin
from sync.pages.values import field_label
from sync.permissions import may_mend, may_view, visible
from sync.quarantine import discard, replay
from sync.wire import entities
from syncserver.errors import REJECTIONS, Problem

GROUPS_MAX = 12  # of the summary, the largest first
LINES_MAX = 20  # that are told one by one, of many
NAME_CHARS = 40  # of a row's name, in the list
CONFIRM = "admin/sync/rejections_confirm.html"


class StateFilter(admin.SimpleListFilter):
    """Those that wait, unless one asks for others."""

    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [("all", "All"), *((state, state) for state in Rejection.State.values if state != "open")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        return [first | {"display": "open"}, *others]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        value = self.value() or Rejection.State.OPEN
        return queryset if value == "all" else queryset.filter(state=value)


class CauseFilter(admin.SimpleListFilter):
    title = "cause"
    parameter_name = "cause"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [(code, cause_label(code)) for code in REJECTIONS]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        return queryset.filter(cause=self.value()) if self.value() else queryset


class RejectionAdmin(SentAdmin):
    change_list_template = "admin/sync/rejections.html"
    list_display = ("what", "first_error", "device_link", "when", "state_badge")
    list_display_links = ("what",)
    list_filter = (StateFilter, EntityFilter, DeviceFilter, CauseFilter, AgeFilter)
    list_per_page = 50
    search_fields = ("=row_id", "=mutation", "=device")
    search_help_text = "The whole id of a row, a mutation or a device"

    class Media:
        css = {"all": ["sync/record.css"]}

    actions = ("replay_selected", "discard_selected")
    ordering = ("-created_at", "-place")

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("sync.change_rejection"))

    # --- the list ---

    @admin.display(description="refused change", ordering="entity")
    def what(self, rejection: Rejection) -> str:
        known: str | None = getattr(rejection, "row_name", None)
        name = known or words.name_of(entities().get(rejection.entity), rejection.row_id, sent_by(rejection).values)
        return f"{change_label(rejection)} · {Truncator(name).chars(NAME_CHARS)}"

    @admin.display(description="what was wrong", ordering="cause")
    def first_error(self, rejection: Rejection) -> str:
        error, *more = rejection.errors or [{"message": rejection.cause}]
        name = error.get("field")
        place = f"{field_label(rejection.entity, name)}: " if name else ""
        return f"{place}{words.plain(error['message'])}" + (f" (and {len(more)} more)" if more else "")

    @admin.display(description="received", ordering="created_at")
    def when(self, rejection: Rejection) -> SafeString:
        return words.moment(rejection.created_at)

    @admin.display(description="state", ordering="state")
    def state_badge(self, rejection: Rejection) -> SafeString:
        return format_html('<span class="sy">{}</span>', words.badge(STATES[rejection.state], rejection.state))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        groups = [] if request.method == "POST" else self._groups(request)
        more = {"title": "Quarantine", "groups": groups[:GROUPS_MAX], "groups_more": len(groups) > GROUPS_MAX}
        response = super().changelist_view(request, more | (extra_context or {}))
        if isinstance(response, TemplateResponse) and (cl := (response.context_data or {}).get("cl")):
            _name(cl.result_list)
        return response

    def _groups(self, request: HttpRequest) -> list[dict[str, Any]]:
        """What waits, counted by device and cause, the largest first. One query."""
        name = Device.objects.filter(pk=OuterRef("device")).values("name")
        waiting = visible(request.user, Rejection.objects.filter(state=Rejection.State.OPEN))
        counted = waiting.values("device", "cause", "entity").annotate(
            count=Count("pk"), oldest=Min("created_at"), device_name=Subquery(name)
        )
        return [
            {
                "device": group["device_name"] or group["device"],
                "cause": cause_label(group["cause"]),
                "entity": words.kind_of(group["entity"]),
                "count": group["count"],
                "oldest": words.moment(group["oldest"]),
                "address": "?" + urlencode({key: group[key] for key in ("device", "cause", "entity")}),
                "chosen": all(str(group[key]) == request.GET.get(key) for key in ("device", "cause", "entity")),
            }
            for group in counted.order_by("-count", "oldest")[: GROUPS_MAX + 1]
        ]

    # --- one ---

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if object_id is None:
            raise PermissionDenied  # none is made by hand
        key = as_uuid(object_id)
        rejection = Rejection.objects.filter(pk=key).first() if key else None
        if rejection is None:
            raise Http404
        if not may_view(request.user, rejection):
            raise PermissionDenied
        context = self.admin_site.each_context(request) | (extra_context or {})
        return rejection_page(Case(request, rejection, context))

    # --- many ---

    @admin.action(description="Replay as they are", permissions=["replay"])
    def replay_selected(self, request: HttpRequest, chosen: QuerySet[Rejection]) -> HttpResponse | None:
        return self._many(request, chosen, "replay")

    @admin.action(description="Discard", permissions=["replay"])
    def discard_selected(self, request: HttpRequest, chosen: QuerySet[Rejection]) -> HttpResponse | None:
        return self._many(request, chosen, "discard")

    def _many(self, request: HttpRequest, chosen: QuerySet[Rejection], verb: str) -> HttpResponse | None:
        """Ask first, then do it to those that still wait, in the order in which they came."""
        most = settings.SYNC_REPLAYS_MAX
        found = list(chosen.filter(state=Rejection.State.OPEN).order_by("created_at", "place")[: most + 1])
        if not found:
            self.message_user(request, "None of them waits any more.", messages.WARNING)
            return None
        if len(found) > most:
            self.message_user(request, f"Choose at most {most} at once.", messages.ERROR)
            return None
        if not may_mend(request.user, found):
            raise PermissionDenied
        reason = DiscardForm(request.POST) if "confirmed" in request.POST and verb == "discard" else None
        if "confirmed" not in request.POST or (reason is not None and not reason.is_valid()):
            return self._confirm(request, found, verb, reason)
        if reason is not None:
            self._discard(request, found, reason.cleaned_data["reason"])
        else:
            _tell(request, _replay_all(request, found))
        return HttpResponseRedirect(request.get_full_path())

    def _discard(self, request: HttpRequest, found: Sequence[Rejection], comment: str) -> None:
        ids, author = [each.pk for each in found], author_of(request)
        try:
            count = discard(ids, author=author, comment=comment, allowed=lambda each: may_mend(request.user, [each]))
        except Invalid as invalid:
            self.message_user(request, str(invalid), messages.ERROR)
            return
        self.message_user(request, f"{count} discarded. Their devices are told with their next sync.", messages.SUCCESS)

    def _confirm(
        self, request: HttpRequest, found: Sequence[Rejection], verb: str, reason: DiscardForm | None
    ) -> HttpResponse:
        _name(found[:LINES_MAX])
        context = self.admin_site.each_context(request) | {
            "title": f"{verb.capitalize()} {len(found)} refused change{'s' * (len(found) != 1)}",
            "opts": self.opts,
            "verb": verb,
            "action": f"{verb}_selected",
            "found": found,
            "shown": [
                {
                    "what": self.what(each),
                    "why": self.first_error(each),
                    "device": getattr(each, "device_name", None),
                    "when": self.when(each),
                }
                for each in found[:LINES_MAX]
            ],
            "rest": len(found) - min(len(found), LINES_MAX),
            "reason": reason,
            "address": request.get_full_path(),
        }
        return TemplateResponse(request, CONFIRM, context)


def _name(found: Iterable[Any]) -> None:
    """Give each what its row is called, for `what`: many in one query an entity."""
    listed = list(found)
    names = row_names((each.entity, str(each.row_id)) for each in listed)
    for each in listed:
        each.row_name = names.get((each.entity, str(each.row_id)))


@dataclass(frozen=True)
class _Done:
    """What became of many: how many of which kind, and a line for each that needs another look."""

    counts: dict[str, int]
    lines: list[SafeString]


def _replay_all(request: HttpRequest, found: Sequence[Rejection]) -> _Done:
    """Replay each as it is, in order. One that went with another, as it waited for it, is told once."""
    counts: dict[str, int] = {}
    lines: list[SafeString] = []
    gone: set[Any] = set()
    for each in found:
        if each.pk in gone:
            continue
        try:
            done = replay(each.pk, None, author=author_of(request), allowed=lambda each: may_mend(request.user, [each]))
        except (Invalid, Problem) as problem:
            counts["rejected"] = counts.get("rejected", 0) + 1
            address = reverse("admin:sync_rejection_change", args=[each.pk])
            lines.append(format_html('<a href="{}">{}</a>: {}', address, change_label(each), str(problem)))
            continue
        for replayed in done:
            if replayed.rejection.pk not in gone:
                gone.add(replayed.rejection.pk)
                counts[replayed.status] = counts.get(replayed.status, 0) + 1
                lines += [told(replayed)] if replayed.status in {"conflict", "rejected"} else []
    return _Done(counts, lines)


def _tell(request: HttpRequest, done: _Done) -> None:
    counted = ", ".join(f"{count} {BECAME.get(status, status)}" for status, count in done.counts.items())
    lines = format_html_join("", "<li>{}</li>", ((line,) for line in done.lines[:LINES_MAX]))
    tell = messages.warning if done.lines else messages.success
    tell(request, format_html("Replayed: {}.{}", counted, format_html("<ul>{}</ul>", lines) if done.lines else ""))


def cause_label(code: str) -> str:
    return code.replace("_", " ")


def register() -> None:
    """Give what was refused its pages."""
    admin.site.register(Rejection, RejectionAdmin)
