"""The view of one conflict: what it shows, and what it does with a decision."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from sync.models import Conflict, Decision
from sync.pages.conflict_form import WHOLE_ROW, DecisionForm
from sync.pages.conflict_page import ConflictPage, Past
from sync.permissions import may_decide, viewable_entities
from sync.resolve import Invalid, RowMoved, Stakes, resolve, stakes_of
from sync.stakes import UNWRITTEN
from sync.wire import entities
from syncserver.errors import Problem

BUSY = "Another change of this row is being written. Nothing was saved; save once more."


def decide(page: Any, request: HttpRequest, conflict: Conflict) -> HttpResponse:
    """Show a conflict, or take the decision that was sent."""
    if conflict.entity not in entities():
        return TemplateResponse(request, "admin/sync/conflict/unknown.html", _frame(page, request, conflict))
    stakes = stakes_of(conflict)
    if request.method != "POST":
        return _shown(page, request, DecisionForm(stakes, viewable_entities(request.user)))
    if not may_decide(request.user, conflict):
        raise PermissionDenied
    data = request.POST.copy()
    if (data.get("rev"), data.get("seen")) != (str(stakes.rev), str(stakes.seen)):
        return _moved(page, request, stakes, data)
    form = DecisionForm(stakes, viewable_entities(request.user), _picked_all(stakes, data))
    if "_pick" in data or "_preview" in data:
        return _shown(page, request, form, quiet=True)
    return _taken(page, request, form) or _shown(page, request, form)


def _picked_all(stakes: Stakes, data: QueryDict) -> QueryDict:
    """The data with one side picked everywhere, where that was asked for."""
    if (side := data.get("_pick")) in {"server", "device"}:
        form = DecisionForm(stakes, ())
        for block in form.blocks:
            if side in form.sides(block):
                data[block.key] = side
        data[WHOLE_ROW] = side
    return data


def _taken(page: Any, request: HttpRequest, form: DecisionForm) -> HttpResponse | None:
    """What follows a decision that was taken; None where the form says why it was not."""
    if not form.is_valid():
        return None
    stakes, conflict = form.stakes, form.stakes.conflict
    deletes = form.values is None and not stakes.row_deleted
    creates = stakes.row_deleted and bool(form.values)
    if not may_decide(request.user, conflict, deletes=deletes, creates=creates):
        raise PermissionDenied
    cleaned = form.cleaned_data
    seen = {"rev": cleaned["rev"], "seen": cleaned["seen"]}
    try:
        author = f"user:{request.user.get_username()}"
        decision = resolve(conflict.pk, form.values, **seen, author=author, comment=cleaned["comment"])
    except RowMoved:
        return _moved(page, request, stakes_of(conflict), request.POST.copy())
    except Invalid as invalid:
        form.refuse(invalid.errors)
        return None
    except (Problem, Conflict.DoesNotExist):
        form.add_error(None, BUSY)
        return None
    return _left(page, request, decision)


def _left(page: Any, request: HttpRequest, decision: Decision) -> HttpResponse:
    """Tell what was done, and go on to the next conflict or back to the list."""
    undo = reverse("admin:sync_conflict_undo", args=[decision.pk])
    this = reverse("admin:sync_conflict_change", args=[decision.conflict_id])
    told = 'Decided: {}. <a href="{}">Look at it</a> <a href="{}">Undo</a>'
    messages.success(request, format_html(told, decision.get_state_display(), this, undo))
    if "_next" in request.POST:
        waiting = page.queue(request).filter(state=Conflict.State.OPEN)
        if (following := _after(waiting, decision.conflict).first() or waiting.first()) is not None:
            return HttpResponseRedirect(_address(request, following))
        messages.info(request, "That was the last one.")
    return HttpResponseRedirect(page.list_address(request))


def _moved(page: Any, request: HttpRequest, stakes: Stakes, data: QueryDict) -> HttpResponse:
    """Show the row as it is by now, with what was picked as far as it still means the same."""
    rev = int(seen) if (seen := data.get("rev", "")).isdecimal() and len(seen) < 19 else 0
    changed = {name for change in Past.of(stakes).since(rev) for name in {**(change.old or {}), **(change.new or {})}}
    data["rev"], data["seen"] = str(stakes.rev), str(stakes.seen)
    blank = DecisionForm(stakes, ())
    for block in blank.blocks:
        shown_row = "server" if stakes.conflict.state in UNWRITTEN else "now"
        if data.get(block.key) not in blank.sides(block) or (
            changed & {*block.names} and data.get(block.key) == shown_row
        ):
            data.pop(block.key, None)
    form = DecisionForm(stakes, viewable_entities(request.user), data)
    return _shown(page, request, form, quiet=True, moved_from=rev, moved=changed)


def _shown(
    page: Any,
    request: HttpRequest,
    form: DecisionForm,
    quiet: bool = False,
    moved_from: int | None = None,
    moved: set[str] | None = None,
) -> HttpResponse:
    """The page. `quiet`: nothing is said to be missing. `moved_from`: the revision that the user had seen."""
    conflict = form.stakes.conflict
    shown = ConflictPage(form, request.user, moved or ())
    context = _frame(page, request, conflict) | {
        "page": shown,
        "form": form,
        "quiet": quiet,
        "may_decide": may_decide(request.user, conflict),
        "meanwhile": shown.meanwhile(moved_from) if moved_from is not None else [],
        "moved": moved_from is not None,
        "media": form.media,
        "title": shown.row_name,
    }
    return TemplateResponse(request, "admin/sync/conflict/page.html", context)


def _frame(page: Any, request: HttpRequest, conflict: Conflict) -> dict[str, Any]:
    """What stands around it: the way back to the list, and to the conflicts before and after."""
    queue = page.queue(request)
    before, after = _before(queue, conflict), _after(queue, conflict)
    previous, following = before.first(), after.first()
    return admin.site.each_context(request) | {
        "opts": page.opts,
        "conflict": conflict,
        "title": "Conflict",
        "is_fullwidth": "1",
        "list_address": page.list_address(request),
        "previous": _address(request, previous) if previous else "",
        "next": _address(request, following) if following else "",
        "place": before.count() + 1,
        "total": queue.exclude(pk=conflict.pk).count() + 1,
    }


def _address(request: HttpRequest, conflict: Conflict) -> str:
    """The address of a conflict's page, which remembers the list that the user came from."""
    query = QueryDict(mutable=True)
    if filters := request.GET.get("_changelist_filters"):
        query["_changelist_filters"] = filters
    address = reverse("admin:sync_conflict_change", args=[conflict.pk])
    return f"{address}?{query.urlencode()}" if query else address


def _after(queue: QuerySet[Conflict], conflict: Conflict) -> QuerySet[Conflict]:
    same = Q(created_at=conflict.created_at, pk__lt=conflict.pk)
    return queue.filter(Q(created_at__lt=conflict.created_at) | same).order_by("-created_at", "-pk")


def _before(queue: QuerySet[Conflict], conflict: Conflict) -> QuerySet[Conflict]:
    same = Q(created_at=conflict.created_at, pk__gt=conflict.pk)
    return queue.filter(Q(created_at__gt=conflict.created_at) | same).order_by("created_at", "pk")
