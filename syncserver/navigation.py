"""The admin's frame: its icon, its stylesheet, and the sidebar, which goes by task."""

from collections.abc import Iterable
from typing import Any

from django.contrib.admin import site
from django.db.models import Model
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils.text import capfirst

from devices.models import Device, EnrollmentCode, Grant
from sync.declare import declarations
from sync.models import Conflict, Rejection

WAITING_SHOWN_MAX = 999  # a badge is to be read at a glance


def icon(_request: HttpRequest | None = None) -> str:
    return static("sync/favicon.svg")


def stylesheet(_request: HttpRequest | None = None) -> str:
    return static("sync/admin.css")


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """What the user may open, in the order in which people need it; a badge says how much waits for a person."""
    conflicts, rejections = _waiting(request)
    groups = [
        (
            "",
            [
                {"title": "Overview", "icon": "space_dashboard", "link": reverse("admin:index")},
                _item(request, Conflict, "Conflicts", "call_split", conflicts),
                _item(request, Rejection, "Quarantine", "shield", rejections),
            ],
        ),
        (
            "Devices",
            [
                _item(request, Device, "Devices", "devices"),
                _item(request, EnrollmentCode, "Enrolment codes", "qr_code_2"),
                _item(request, Grant, "Grants", "key"),
            ],
        ),
        ("Data that syncs", [_item(request, d.model, icon="table_rows") for d in declarations()]),
        ("Pre-existing systems", _of_app(request, "legacy", {"run": "sync_alt", "link": "link", "deadletter": "mail"})),
        ("People", _of_app(request, "auth", {"user": "person", "group": "group"})),
    ]
    return [
        {"title": title, "separator": bool(title), "items": [item for item in items if item]} for title, items in groups
    ]


def _of_app(request: HttpRequest, label: str, icons: dict[str, str]) -> list[dict[str, Any]]:
    models = {m._meta.model_name or "": m for m in site._registry if m._meta.app_label == label}
    return [_item(request, models[name], icon=icon) for name, icon in icons.items() if name in models]


def _item(request: HttpRequest, model: type[Model], title: str = "", icon: str = "", badge: int = 0) -> dict[str, Any]:
    """A link to the list of a model, or nothing where the user may not see it."""
    page = site._registry.get(model)
    if page is None or not page.has_view_or_change_permission(request):
        return {}
    meta = model._meta
    item = {
        "title": title or capfirst(str(meta.verbose_name_plural)),
        "icon": icon,
        "link": reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"),
    }
    if badge:
        item["badge"] = str(badge) if badge <= WAITING_SHOWN_MAX else f"{WAITING_SHOWN_MAX}+"
    return item


def _waiting(request: HttpRequest) -> Iterable[int]:
    """How many conflicts and rejections wait for a person, of those whose list the user may see."""
    for model, state in ((Conflict, Conflict.State.OPEN), (Rejection, Rejection.State.OPEN)):
        page = site._registry[model]
        seen = page.has_view_or_change_permission(request)
        yield model._default_manager.filter(state=state).count() if seen else 0
