"""The admin's list of runs with its charts, the page of one, and the way back."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from legacy.connector import Misconfigured, Unreachable
from legacy.models import Counterpart, DeadLetter, Run
from legacy.pages import access
from legacy.pages.charts import DAYS, charts, days
from legacy.pages.systems import ORDER, summary
from legacy.rollback import TakenBack
from legacy.runs import roll_back_run
from legacy.start import COMMAND, start
from legacy.systems import declared, system
from legacy.templatetags.legacy_pages import KINDS, RUNS, duration
from sync.alone import Busy, at_work
from sync.models import History
from sync.pages import words
from sync.pages.conflict_filters import Choice, as_uuid
from sync.pages.names import row_names
from sync.permissions import viewable_entities
from sync.sql import block
from sync.wire import entities

LIST, PAGE, ROLL_BACK = "admin/legacy/runs.html", "admin/legacy/run.html", "admin/legacy/rollback.html"
WRITTEN_SHOWN_MAX = 50  # rows that a run wrote
LETTERS_SHOWN_MAX = 50
LEFT_SHOWN_MAX = 100  # rows that a rollback would leave


class SystemFilter(Choice):
    """The declared systems, and a link may choose one that there was."""

    title = "system"
    parameter_name = "system"

    def lookups(self, request: HttpRequest, _page: Any) -> list[tuple[str, str]]:
        try:
            names = [each.name for each in declared()]
        except Misconfigured:
            names = []
        asked = request.GET.get("system", "")
        return [(name, name) for name in dict.fromkeys([*names, *([asked] if asked else [])])]

    def has_output(self) -> bool:
        return True

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(system=value)


class TriggerFilter(Choice):
    title = "trigger"
    parameter_name = "trigger"

    def lookups(self, _request: HttpRequest, _page: Any) -> list[tuple[str, str]]:
        return [(each, each) for each in ("command", "every", "schedule", "button", "webhook", "rollback")]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(trigger=value)


class StateFilter(Choice):
    title = "state"
    parameter_name = "state"

    def lookups(self, _request: HttpRequest, _page: Any) -> list[tuple[str, str]]:
        return [(state.value, RUNS[state][1]) for state in Run.State]

    def chosen(self, found: QuerySet[Any], value: str) -> QuerySet[Any]:
        return found.filter(state=value)


class RunAdmin(access.Kept, ModelAdmin):
    """What a run wrote is signed with it, so that it is not deleted."""

    change_list_template = LIST
    list_display = ("when", "system", "state_badge", "trigger", "took", "did")
    list_display_links = ("when",)
    list_filter = (SystemFilter, StateFilter, TriggerFilter)
    date_hierarchy = "started_at"
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-started_at",)
    search_fields = ("error",)
    search_help_text = "Text of the error, or the whole id of a run"

    class Media:
        css = {"all": ["sync/record.css", "legacy/legacy.css"]}
        js = ["legacy/refresh.js"]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.rollback_view)
        return [path("<uuid:id>/rollback/", view, name="legacy_run_rollback"), *super().get_urls()]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        known = as_uuid(search_term)
        return (
            (queryset.filter(pk=known), False) if known else super().get_search_results(request, queryset, search_term)
        )

    # --- the list ---

    @admin.display(description="started", ordering="started_at")
    def when(self, run: Run) -> SafeString:
        return words.moment(run.started_at)

    @admin.display(description="state", ordering="state")
    def state_badge(self, run: Run) -> SafeString:
        return format_html(
            '<span class="sy">{}</span>', words.badge(*RUNS.get(Run.State(run.state), ("plain", run.state)))
        )

    @admin.display(description="took")
    def took(self, run: Run) -> str:
        return duration(run)

    @admin.display(description="what it did")
    def did(self, run: Run) -> str:
        return summary(run)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        name = request.GET.get("system", "")
        found = days(name or None)
        more = {
            "title": f"Runs of {name}" if name else "Runs",
            "charts": charts(found, name or "all systems") if any(day.runs for day in found) else [],
            "days": [day for day in reversed(found) if day.runs],
            "days_count": DAYS,
            "of": name or "all systems",
        }
        return super().changelist_view(request, more | (extra_context or {}))

    # --- one ---

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        run = self._run(request, object_id or "")
        working = run.state == Run.State.RUNNING and run.system in at_work(COMMAND, [run.system])
        last = Run.objects.filter(system=run.system).exclude(trigger="rollback").order_by("-started_at").first()
        context = self.admin_site.each_context(request) | {
            "title": f"Run of {run.system}",
            "opts": self.opts,
            "run": run,
            "working": working,
            "started": words.moment(run.started_at),
            "started_at": words.absolute(run.started_at),
            "columns": columns(run),
            "rows": counted(run),
            "written": _written(request, run),
            "letters": _letters(request, run),
            "undone_by": run.undone_by.order_by("-started_at").first(),
            "may_roll_back": access.may(request, access.ROLL_BACK) and not working and run.trigger != "rollback",
            "may_force": access.may(request, access.RUN) and run.state == Run.State.STOPPED and last == run,
            "runs_address": f"{reverse('admin:legacy_run_changelist')}?system={run.system}",
            "notes": access.notes(run),
        }
        return TemplateResponse(request, PAGE, context | (extra_context or {}))

    def _run(self, request: HttpRequest, id: str) -> Run:
        if not self.has_view_permission(request):
            raise PermissionDenied
        key = as_uuid(id)
        run = Run.objects.filter(pk=key).first() if key else None
        if run is None:
            raise Http404
        return run

    # --- the way back ---

    def rollback_view(self, request: HttpRequest, id: Any) -> HttpResponse:
        """What rolling a run back would undo and leave; and, once that is confirmed, the rollback."""
        access.require(request, access.ROLL_BACK)
        run = self._run(request, str(id))
        address = reverse("admin:legacy_run_change", args=[run.pk])
        if request.method == "POST":
            if start(run.system, "--rollback", str(run.pk)):
                access.note(
                    request,
                    [run, Counterpart(system=run.system)],
                    f"rolled back the run of {run.started_at:%Y-%m-%d %H:%M} ({run.system})",
                )
                self.message_user(
                    request, f"The rollback begins. {run.system} is paused when it has ended.", messages.SUCCESS
                )
            else:
                self.message_user(
                    request, f"A run of {run.system} is at work. Try again when it has ended.", messages.WARNING
                )
            return HttpResponseRedirect(address)
        found, wrong = _preview(run)
        context = self.admin_site.each_context(request) | {
            "title": "Roll a run back",
            "opts": self.opts,
            "run": run,
            "started": words.moment(run.started_at),
            "started_at": words.absolute(run.started_at),
            "found": sorted(found.counts.items()) if found else [],
            "left": _left(found.left[:LEFT_SHOWN_MAX]) if found else [],
            "left_count": len(found.left) if found else 0,
            "left_more": max(len(found.left) - LEFT_SHOWN_MAX, 0) if found else 0,
            "wrong": access.told(wrong),
            "address": address,
        }
        return TemplateResponse(request, ROLL_BACK, context)


def _preview(run: Run) -> tuple[TakenBack | None, str]:
    """What a rollback would do; or why that cannot be told."""
    try:
        return roll_back_run(system(run.system), str(run.pk), pretend=True), ""
    except (Busy, Misconfigured, Unreachable) as error:
        return None, str(error)


def _left(left: Sequence[str]) -> list[tuple[str, str, str]]:
    """Kind of row, its name, and why it stays: from `entity id: why`."""
    found = []
    for line in left:
        at, _, why = line.partition(": ")
        entity, _, row = at.partition(" ")
        found.append((entity, row, why))
    names = row_names((entity, row) for entity, row, _ in found)
    return [(words.kind_of(entity), names.get((entity, row), row), why) for entity, row, why in found]


# --- what is shown of a run -------------------------------------------------------------------------------------------


def columns(run: Run) -> list[str]:
    """What happened in it, in the order in which people look for it."""
    happened = {what for counts in run.counts.values() for what, number in counts.items() if number}
    return [*(what for what in ORDER if what in happened), *sorted(happened - set(ORDER))]


def counted(run: Run) -> list[tuple[str, list[int]]]:
    """Its counts by mapping, in the order of `columns`."""
    what = columns(run)
    return [(mapping or "all", [counts.get(each, 0) for each in what]) for mapping, counts in run.counts.items()]


def _written(request: HttpRequest, run: Run) -> dict[str, Any]:
    """The rows that it wrote, as the history has them: how many of which entity, and the first of them."""
    seen = viewable_entities(request.user)
    span = (run.started_at - timedelta(minutes=1), (run.ended_at or timezone.now()) + timedelta(minutes=1))
    # The history is partitioned by month: without the time all of it would be looked through.
    changes = History.objects.filter(author=run.author, at__range=span)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                block("pages/device.sql", "count_seconds"), {"seconds": settings.SYNC_ADMIN_COUNT_SECONDS_MAX}
            )
            newest = list(changes.order_by("-rev").values_list("entity", "row_id", "op")[: WRITTEN_SHOWN_MAX * 4])
    except OperationalError:
        return {"slow": True}
    rows = list({(entity, str(row)): op for entity, row, op in reversed(newest) if entity in seen}.items())[::-1]
    names = row_names(at for at, _ in rows[:WRITTEN_SHOWN_MAX])
    shown = []
    for (entity, row), op in rows[:WRITTEN_SHOWN_MAX]:
        meta = entities()[entity].model._meta
        address = reverse(f"admin:{meta.app_label}_{meta.model_name}_history", args=[row])
        shown.append((words.kind_of(entity), names.get((entity, row), row), op, address))
    return {"rows": shown, "more": len(newest) == WRITTEN_SHOWN_MAX * 4 or len(rows) > WRITTEN_SHOWN_MAX}


def _letters(request: HttpRequest, run: Run) -> list[dict[str, Any]]:
    if not request.user.has_perm("legacy.view_deadletter"):
        return []
    found = access.visible(request.user, DeadLetter.objects.filter(run=run)).order_by("mapping", "first_at")
    return [
        {
            "letter": letter,
            "badge": words.badge(*KINDS[DeadLetter.Kind(letter.kind)]),
            "error": access.told(letter.error),
            "address": reverse("admin:legacy_deadletter_change", args=[letter.pk]),
        }
        for letter in found[:LETTERS_SHOWN_MAX]
    ]
