"""The admin's frame: its icon, its stylesheet, and the sidebar, which goes by task."""

from typing import Any

from django.contrib.admin import site
from django.db.models import Model
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils.text import capfirst

from devices.models import Device, EnrollmentCode, Grant
from legacy.branches.models import Branch
from legacy.models import Counterpart, DeadLetter, Link, Run
from legacy.pages.access import visible as visible_letters
from legacy.webhooks.models import Hint
from legacy.webhooks.subscriptions import Subscription
from sync.declare import declarations
from sync.models import Conflict, Mismatch, Rejection
from sync.permissions import visible

WAITING_SHOWN_MAX = 999  # a badge is to be read at a glance


def icon(_request: HttpRequest | None = None) -> str:
    return static("sync/favicon.svg")


def stylesheet(_request: HttpRequest | None = None) -> str:
    return static("sync/admin.css")


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """What the user may open, in the order in which people need it; a badge says how much waits for a person."""
    groups: dict[str, list[dict[str, Any]]] = {
        "": [
            {"title": "Overview", "icon": "space_dashboard", "link": reverse("admin:index")},
            _item(request, Conflict, "Conflicts", "call_split", "state=open"),
            _item(request, Rejection, "Quarantine", "shield"),
        ],
        "Devices": [
            _item(request, Device, "Devices", "devices"),
            _item(request, EnrollmentCode, "Enrolment codes", "qr_code_2"),
            _item(request, Grant, "Grants", "key"),
            _item(request, Mismatch, "Replica mismatches", "difference"),
        ],
        "Data that syncs": [_item(request, d.model, icon="table_rows") for d in declarations()],
        "Pre-existing systems": [
            _item(request, Counterpart, "Systems", "hub"),
            _item(request, Branch, icon="store"),
            _item(request, Run, "Runs", "sync_alt"),
            _item(request, DeadLetter, "Dead letters", "mail"),
            _item(request, Link, "Links", "link"),
            _item(request, Hint, icon="webhook"),
            _item(request, Subscription, icon="campaign"),
        ],
        "People": _of_app(request, "auth", {"user": "person", "group": "group"}),
    }
    _badge(request, groups[""])
    _badge_letters(request, groups["Pre-existing systems"])
    told = {item["link"].partition("?")[0] for items in groups.values() for item in items if item}
    others = [_item(request, model, icon="database") for model in site._registry]
    groups["More"] = [item for item in others if item and item["link"] not in told]
    return [
        {"title": title, "separator": bool(title), "items": [item for item in items if item]}
        for title, items in groups.items()
    ]


def _of_app(request: HttpRequest, label: str, icons: dict[str, str]) -> list[dict[str, Any]]:
    models = {m._meta.model_name or "": m for m in site._registry if m._meta.app_label == label}
    return [_item(request, models[name], icon=icon) for name, icon in icons.items() if name in models]


def _item(request: HttpRequest, model: type[Model], title: str = "", icon: str = "", query: str = "") -> dict[str, Any]:
    """A link to the list of a model, or nothing where the user may not see it."""
    page = site._registry.get(model)
    if page is None or not page.has_view_or_change_permission(request):
        return {}
    meta = model._meta
    address = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
    return {
        "title": title or capfirst(str(meta.verbose_name_plural)),
        "icon": icon,
        "link": f"{address}?{query}" if query else address,
    }


def _badge(request: HttpRequest, items: list[dict[str, Any]]) -> None:
    """Say on the links to conflicts and quarantine how many of them wait for a person, of those the user may see."""
    for item, model in zip(items[1:], (Conflict, Rejection), strict=True):
        count = visible(request.user, model._default_manager.filter(state="open")).count() if item else 0
        _say(item, count)


def _badge_letters(request: HttpRequest, items: list[dict[str, Any]]) -> None:
    """The same of dead letters: those that wait for a person, and those that are tried again."""
    letters = items[3]
    if letters:
        waiting = DeadLetter.objects.exclude(kind=DeadLetter.Kind.IGNORED)
        _say(letters, visible_letters(request.user, waiting).count())


def _say(item: dict[str, Any], count: int) -> None:
    if count:
        item["badge"] = str(count) if count <= WAITING_SHOWN_MAX else f"{WAITING_SHOWN_MAX}+"
