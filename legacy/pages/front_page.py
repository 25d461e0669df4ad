"""The front page's section of the pre-existing systems, beside what `sync` tells there."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from legacy.models import Run
from legacy.pages import access
from legacy.pages.systems import why
from legacy.standing import problem, standings
from legacy.templatetags.legacy_pages import STATES
from sync.pages import front_page, words
from sync.permissions import holds

SECTION = "admin/legacy/front_page.html"
VIEW_LETTERS = "legacy.view_deadletter"
SYSTEMS_SHOWN_MAX = 8  # those that need somebody first


def told(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the front page shows, of what the user may see."""
    found = front_page.told(request, context)
    if not holds(request.user, "view", Run):
        return found
    return found | {"sections": [SECTION], "systems": _systems(request)}


def _systems(request: HttpRequest) -> dict[str, Any]:
    if wrong := problem():
        return {"problem": access.told(wrong)}
    systems = sorted(standings(), key=lambda each: not each.needs_somebody)
    letters = reverse("admin:legacy_deadletter_changelist")
    return {
        "address": reverse("admin:legacy_counterpart_changelist"),
        "count": len(systems),
        "more": max(len(systems) - SYSTEMS_SHOWN_MAX, 0),
        "shown": [
            {
                "standing": each,
                "tone": STATES[each.state][0],
                "state": STATES[each.state][1],
                "why": str(why(each)),
                "ran": words.moment(each.last.started_at if each.last else None),
                "runs": f"{reverse('admin:legacy_run_changelist')}?system={each.name}",
                "letters": each.letters_waiting,
                "letters_address": f"{letters}?system={each.name}" if access.may(request, VIEW_LETTERS) else "",
            }
            for each in systems[:SYSTEMS_SHOWN_MAX]
        ],
    }
