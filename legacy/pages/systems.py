"""The admin's overview of the pre-existing systems, and the buttons that start, pause and resume them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Model, Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from legacy.exchange import id_of
from legacy.models import Counterpart, Link, Plan, Run, Waiting
from legacy.pages import access
from legacy.pages.plan import plan_page
from legacy.runs import pause, resume
from legacy.standing import NEEDS_SOMEBODY, Standing, State, problem, standings
from legacy.start import start
from legacy.templatetags.legacy_pages import KINDS, STATES
from sync.models import Conflict
from sync.pages import words
from sync.pages.names import row_names
from sync.permissions import holds

CARDS_MAX = 12  # more systems than that are a grid, with a card for each that needs somebody
REASON_CHARS_MAX = 500
ORDER = ["created", "updated", "deleted", "unchanged", "created there", "updated there", "deleted there", "failed"]
ROWS_SHOWN_MAX = 20  # that going on would delete
# Which of many are shown first.
URGENCY = sorted(
    State, key=lambda state: (state not in NEEDS_SOMEBODY, state == State.RESTING, list(State).index(state))
)
OVERVIEW, FORCE = "admin/legacy/systems.html", "admin/legacy/force.html"


class PauseForm(forms.Form):
    reason = forms.CharField(max_length=REASON_CHARS_MAX, error_messages={"required": "Say why it is paused."})


class SystemAdmin(access.Kept, ModelAdmin):
    """Systems are declared in code: there is an overview, and nothing to add, change or delete."""

    def has_view_permission(self, request: HttpRequest, _obj: Model | None = None) -> bool:
        return holds(request.user, "view", Run)

    def get_urls(self) -> list[URLPattern]:
        views = {
            "sync": self.sync_view,
            "pause": self.pause_view,
            "resume": self.resume_view,
            "force": self.force_view,
            "plan": self.plan_view,
        }
        own = [
            path(f"<str:name>/{action}/", self.admin_site.admin_view(view), name=f"legacy_system_{action}")
            for action, view in views.items()
        ]
        return [*own, *super().get_urls()]

    # --- the overview ---

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return self._overview(request, extra_context)

    def changeform_view(self, request: HttpRequest, object_id: str | None = None, *_: Any, **__: Any) -> HttpResponse:
        """A system's own page is that of its runs."""
        self._standing(request, object_id or "")
        return HttpResponseRedirect(f"{reverse('admin:legacy_run_changelist')}?system={object_id}")

    def _overview(self, request: HttpRequest, extra_context: dict[str, Any] | None = None, **more: Any) -> HttpResponse:
        wrong = problem()
        found = [] if wrong else standings()
        chosen = request.GET.get("system", "")
        many = len(found) > CARDS_MAX
        shown = [each for each in found if not many or each.needs_somebody or each.is_busy or each.name == chosen]
        if many:
            shown.sort(key=lambda each: (each.name != chosen, URGENCY.index(each.state)))
        context = self.admin_site.each_context(request) | {
            "title": "Pre-existing systems",
            "opts": self.opts,
            "problem": access.told(wrong),
            "cards": [card(request, each) for each in shown[:CARDS_MAX]],
            "cards_more": max(len(shown) - CARDS_MAX, 0),
            "groups": grid(found) if many else [],
            "states": _counted(found),
            "count": len(found),
            "busy": any(each.is_busy for each in found),
            "may_run": access.may(request, access.RUN),
            "notes": access.notes(),
            "reason_chars_max": REASON_CHARS_MAX,
        }
        return TemplateResponse(request, OVERVIEW, context | more | (extra_context or {}))

    def _standing(self, request: HttpRequest, name: str, permission: str = "") -> Standing:
        """Raises PermissionDenied, and Http404 for a system that there is not."""
        if not self.has_view_permission(request) or (permission and not access.may(request, permission)):
            raise PermissionDenied
        found = [] if problem() else standings([name])
        if not found:
            raise Http404
        return found[0]

    # --- the buttons ---

    def sync_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Start a run; what has failed is tried again with `retry`."""
        standing = self._button(request, name)
        if standing.state in (State.PAUSED, State.OFF):
            what = "is paused. Resume it first." if standing.state == State.PAUSED else "is switched off."
            self.message_user(request, f"{name} {what}", messages.WARNING)
            return self._back()
        options = ["--retry"] if "retry" in request.POST else []
        options += ["--resume"] if standing.state == State.RESTING else []
        self._start(request, standing, "started a run" + (" that tries all failed ones again" * bool(options)), options)
        return self._back()

    def pause_view(self, request: HttpRequest, name: str) -> HttpResponse:
        standing = self._button(request, name)
        form = PauseForm(request.POST)
        if not form.is_valid():
            return self._overview(request, pausing=name, pause_form=form)
        reason = form.cleaned_data["reason"]
        pause(name, reason)
        access.note(request, [standing.counterpart], f"paused {name}: {reason}")
        self.message_user(request, f"{name} is paused. A run that is at work goes on to its end.", messages.SUCCESS)
        return self._back()

    def resume_view(self, request: HttpRequest, name: str) -> HttpResponse:
        standing = self._button(request, name)
        resume(name)
        access.note(request, [standing.counterpart], f"resumed {name}")
        self.message_user(request, f"{name} is no longer paused.", messages.SUCCESS)
        return self._back()

    def force_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """What the safety stop held back; and, once that is confirmed, a run that does it."""
        standing = self._standing(request, name, access.RUN)
        if request.method == "POST":
            self._start(request, standing, f"let {name} do what the safety stop held back", ["--force"])
            return HttpResponseRedirect(self._address())
        context = self.admin_site.each_context(request) | {
            "title": f"Go on with {name}",
            "opts": self.opts,
            "standing": standing,
            "held": held_back(request, name),
            "overview": self._address(),
            "plan": reverse("admin:legacy_system_plan", args=[name]),
        }
        return TemplateResponse(request, FORCE, context)

    def plan_view(self, request: HttpRequest, name: str) -> HttpResponse:
        return plan_page(self, request, self._standing(request, name, access.RUN))

    def _button(self, request: HttpRequest, name: str) -> Standing:
        standing = self._standing(request, name, access.RUN)
        if request.method != "POST":
            raise PermissionDenied
        return standing

    def _start(self, request: HttpRequest, standing: Standing, what: str, options: Sequence[str]) -> None:
        if start(standing.name, *options):
            access.note(request, [Counterpart(system=standing.name)], f"{what} ({standing.name})")
            self.message_user(request, f"A run of {standing.name} begins.", messages.SUCCESS)
        else:
            self.message_user(request, f"A run of {standing.name} is at work already.", messages.WARNING)

    def _address(self) -> str:
        return reverse("admin:legacy_counterpart_changelist")

    def _back(self) -> HttpResponse:
        return HttpResponseRedirect(self._address())


# --- what is shown of a system ----------------------------------------------------------------------------------------


def card(request: HttpRequest, standing: Standing) -> dict[str, Any]:
    """One system at a glance."""
    counterpart, last, name = standing.counterpart, standing.last, standing.name
    runs, letters = reverse("admin:legacy_run_changelist"), reverse("admin:legacy_deadletter_changelist")
    conflicts = reverse("admin:sync_conflict_changelist")
    return {
        "standing": standing,
        "name": name,
        "state": standing.state.name.lower(),
        "why": why(standing),
        "last": last,
        "last_address": reverse("admin:legacy_run_change", args=[last.pk]) if last else "",
        "started": words.moment(last.started_at) if last else "",
        "good": words.moment(standing.good_at),
        "good_is_last": last is not None and last.ended_at == standing.good_at,
        "summary": summary(last) if last else "",
        "runs_address": f"{runs}?system={name}",
        "letters": [
            (words.badge(*KINDS[kind]), count, f"{letters}?system={name}&kind={kind.value}")
            for kind in KINDS
            if (count := standing.letters.get(kind.value, 0))
        ],
        "letters_address": f"{letters}?system={name}",
        "may_see_letters": request.user.has_perm("legacy.view_deadletter"),
        "conflicts_address": f"{conflicts}?state=open&device={id_of(name)}",
        "may_see_conflicts": holds(request.user, "view", Conflict),
        "paused": counterpart.paused_at is not None,
        "plan": Plan.objects.filter(system=name).values_list("ended_at", flat=True).first(),
    }


def why(standing: Standing) -> SafeString | str:
    """What one should know about its state."""
    counterpart, last = standing.counterpart, standing.last
    match standing.state:
        case State.PAUSED:
            by = counterpart.paused_why or "somebody paused it"
            return f"Since {words.ago(counterpart.paused_at)}: {by}"
        case State.RESTING:
            assert counterpart.rests_until is not None
            until = f"{counterpart.rests_until:%H:%M %Z}"
            told = f"It did not answer {counterpart.failures} times and is asked again at {until}."
            return f"{told} {access.told(last.error)}" if last and last.error else told
        case State.OFF:
            return "Somebody switched it off among the branches: no run begins."
        case State.STARTING:
            return "It was asked for a moment ago and begins."
        case State.WORKING if last is None or last.state != Run.State.RUNNING:
            return "A dry run or a rollback is at work."
        case State.NEVER if counterpart.asked_at:
            return "A run was asked for and did not begin: the server's log says why."
        case State.KILLED:
            return (
                access.told(last.error)
                if last and last.error
                else "The run ended without a word. The next one goes on from there."
            )
    return access.told(last.error) if last else ""


def summary(run: Run) -> str:
    """What a run did, in a line: `12 created, 3 updated, 1 failed`."""
    counts: Counter[str] = Counter()
    for each in run.counts.values():
        counts.update({what: number for what, number in each.items() if number and what != "unchanged"})
    names = sorted(counts, key=lambda what: ORDER.index(what) if what in ORDER else len(ORDER))
    return ", ".join(f"{counts[what]:,} {what}" for what in names) or "nothing new"


def grid(found: Sequence[Standing]) -> list[dict[str, Any]]:
    """Many systems as small cells, by what their names begin with: `<kind>-<name>`."""
    kinds = Counter(each.name.partition("-")[0] for each in found)
    groups: dict[str, list[Standing]] = defaultdict(list)
    for each in found:
        kind = each.name.partition("-")[0]
        groups[kind if kinds[kind] > 1 else ""].append(each)
    return [
        {
            "kind": kind or "One of its kind",
            "states": _counted(members),
            "cells": [
                {
                    "name": (each.name.partition("-")[2] if kind else "") or each.name,
                    "whole": each.name,
                    "tone": STATES[each.state][0],
                    "state": STATES[each.state][1],
                    "ago": words.ago(each.last.started_at) if each.last else "never",
                    "letters": each.letters_waiting,
                    "conflicts": each.conflicts,
                }
                for each in members
            ],
        }
        for kind, members in groups.items()
    ]


def _counted(found: Sequence[Standing]) -> list[tuple[SafeString, int]]:
    counts = Counter(each.state for each in found)
    return [(words.badge(*STATES[state]), counts[state]) for state in State if counts[state]]


def held_back(request: HttpRequest, name: str) -> list[dict[str, Any]]:
    """What waits to be carried out, by mapping: how many records would be deleted, and changed or made."""
    counted = (
        Waiting.objects.filter(system=name)
        .values("mapping")
        .annotate(deleted=Count("pk", filter=Q(gone=True)), others=Count("pk", filter=Q(gone=False)))
    )
    found = []
    for each in counted.order_by("mapping"):
        seen = each["deleted"] and access.may_see(request.user, name, each["mapping"])
        rows = _rows_gone(name, each["mapping"]) if seen else []
        found.append({**each, "rows": rows, "more": each["deleted"] - len(rows) if rows else 0})
    return found


def _rows_gone(system: str, mapping: str) -> list[str]:
    """What the first of the rows are called that would be deleted."""
    keys = (
        Waiting.objects.filter(system=system, mapping=mapping, gone=True).order_by("pk").values_list("key", flat=True)
    )
    rows = list(
        Link.objects.filter(system=system, mapping=mapping, key__in=list(keys[:ROWS_SHOWN_MAX])).values_list(
            "row", flat=True
        )
    )
    known = access.mapped().get((system, mapping))
    if known is None:
        return [str(row) for row in rows]
    names = row_names((known.entity.name, str(row)) for row in rows)
    return sorted(names.get((known.entity.name, str(row)), str(row)) for row in rows)
