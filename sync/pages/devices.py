"""The admin's pages of devices: who syncs, who lags or is stuck, and what became of what they pushed."""

from datetime import date
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.db import OperationalError, connection, transaction
from django.db.models import Count, IntegerField, Min, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from devices.admin import GrantInline
from devices.enroll import let_in_again, revoke
from devices.models import Device, Trouble
from sync.models import Conflict, Rejection
from sync.pages import words
from sync.pages.device_access import access, wipe_of
from sync.permissions import visible
from sync.sql import block

SCOPES_SHOWN_MAX = 3  # of a device, in the list
PUSHED_DAYS = 30  # on a device's page; answers are kept for SYNC_RESULT_AGE_DAYS_MAX
CAUSES_MAX = 20  # on a device's page, the largest first
STATES = {
    "active": ("good", "active"),
    Trouble.LIMITED: ("bad", "over its limits"),
    Trouble.EXPIRED: ("warn", "expired"),
    Trouble.STUCK: ("bad", "stuck"),
    Trouble.SILENT: ("warn", "silent"),
    "user_inactive": ("plain", "refused: its user is not active"),
    "revoked": ("plain", "revoked"),
    "told_to_wipe": ("plain", "revoked, told to wipe"),
}
# How its page calls out a trouble: the kind, the icon and the words.
ALERTS = {
    Trouble.LIMITED: ("bad", "speed", "This device is over its limits."),
    Trouble.EXPIRED: ("warn", "hourglass_disabled", "This device has expired."),
    Trouble.STUCK: ("bad", "error", "This device is stuck."),
    Trouble.SILENT: ("warn", "notifications_paused", "This device is silent."),
}
OPEN = Q(state=Conflict.State.OPEN)


class Day(NamedTuple):
    """How a device's mutations of one day were answered."""

    day: date
    applied: int
    merged: int
    conflict: int
    rejected: int

    @property
    def total(self) -> int:
        return self.applied + self.merged + self.conflict + self.rejected


class TroubleFilter(admin.SimpleListFilter):
    title = "trouble"
    parameter_name = "trouble"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [*((trouble, STATES[trouble][1].capitalize()) for trouble in Trouble), ("none", "None")]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[Model]) -> QuerySet[Model]:
        wanted = self.value()
        return queryset.filter(trouble="" if wanted == "none" else wanted) if wanted else queryset


class DeviceAdmin(ModelAdmin):
    change_form_outer_before_template = "admin/sync/device_glance.html"
    list_display = ("name", "state_badge", "contact", "outbox", "refused", "in_conflict", "user", "scope_list")
    list_filter = (TroubleFilter, ("revoked_at", admin.EmptyFieldListFilter), "last_seen_at", "platform", "app_version")
    list_select_related = ("user",)
    search_fields = ("id", "name", "user__username", "platform", "app_version")
    search_help_text = "Name, id, user, platform or app version"
    ordering = ("-last_seen_at",)
    autocomplete_fields = ("user",)
    inlines = (GrantInline,)

    class Media:
        css = {"all": ["sync/record.css"]}

    actions = ("revoke", "revoke_and_wipe", "let_in")
    fieldsets = (
        (None, {"fields": ("name", "user")}),
        ("What it told", {"fields": ("platform", "app_version", "client", "created_at", "id")}),
    )
    readonly_fields = ("id", "platform", "app_version", "client", "created_at")

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False  # a device enrols with a code

    def has_delete_permission(self, _request: HttpRequest, _obj: Device | None = None) -> bool:
        return False  # history keeps its author: a device is revoked

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Each with what is the matter with it and how much of what it sent waits, as far as the user may see that."""
        found = Device.objects.with_trouble(timezone.now()).prefetch_related("grants", "user__sync_grants")
        annotated: QuerySet[Any] = found.annotate(
            refused_count=_count_of(visible(request.user, Rejection.objects.filter(state=Rejection.State.OPEN))),
            conflict_count=_count_of(visible(request.user, Conflict.objects.filter(state=Conflict.State.OPEN))),
        )
        return annotated

    # --- the list ---

    @admin.display(description="state", ordering="trouble")
    def state_badge(self, device: Any) -> SafeString:
        return format_html('<span class="sy">{}</span>', words.badge(*state_of(device)))

    @admin.display(description="last contact", ordering="last_seen_at")
    def contact(self, device: Device) -> SafeString:
        return words.moment(device.last_seen_at)

    @admin.display(description="outbox", ordering="pending")
    def outbox(self, device: Device) -> str:
        return outbox_of(device)

    @admin.display(description="refused", ordering="refused_count")
    def refused(self, device: Any) -> str | SafeString:
        return _link("admin:sync_rejection_changelist", device, device.refused_count)

    @admin.display(description="conflicts", ordering="conflict_count")
    def in_conflict(self, device: Any) -> str | SafeString:
        return _link("admin:sync_conflict_changelist", device, device.conflict_count)

    @admin.display(description="scopes")
    def scope_list(self, device: Device) -> str:
        names = scopes_of(device)
        more = f" and {len(names) - SCOPES_SHOWN_MAX} more" if len(names) > SCOPES_SHOWN_MAX else ""
        return ", ".join(names[:SCOPES_SHOWN_MAX]) + more or "none"

    # --- the page of one ---

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        device = self.get_object(request, object_id)
        more = {"glance": glance(request, device)} if device and self.has_view_or_change_permission(request) else {}
        return super().change_view(request, object_id, form_url, more | (extra_context or {}))

    # --- revoking ---

    @admin.action(description="Revoke: refuse from now on", permissions=["change"])
    def revoke(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        self._revoke(request, devices, wipe=False)

    @admin.action(description="Revoke and wipe: the app also deletes its data", permissions=["change"])
    def revoke_and_wipe(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        self._revoke(request, devices, wipe=True)

    @admin.action(description="Let it in again, after it expired", permissions=["change"])
    def let_in(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        let_in = [device for device in devices if let_in_again(device)]
        for device in let_in:
            self.log_change(request, device, "Let in again.")
        if let_in:
            self.message_user(request, f"Let in again: {', '.join(map(str, let_in))}.", messages.SUCCESS)
        if others := [device for device in devices if device not in let_in]:
            self.message_user(request, f"Not expired: {', '.join(map(str, others))}.", messages.WARNING)

    def _revoke(self, request: HttpRequest, devices: QuerySet[Device], wipe: bool) -> None:
        done = "Revoked, with wipe" if wipe else "Revoked"
        for device in devices:
            revoke(device, wipe)
            self.log_change(request, device, f"{done}.")
        self.message_user(request, f"{done}: {', '.join(map(str, devices))}.", messages.SUCCESS)


# --- what is shown of a device ---


def state_of(device: Any) -> tuple[str, str]:
    """The kind of its badge, and the word."""
    if device.state == "wiped":
        return "plain", f"revoked, wiped {words.ago(device.wiped_at)}"
    return STATES[device.state]


def outbox_of(device: Device) -> str:
    """What waits in its outbox, as it last told."""
    if device.pending is None:
        return "not told"
    if not device.pending:
        return "empty"
    oldest = device.oldest_pending_at
    return f"{device.pending} waiting" + (f", oldest {words.ago(oldest)}" if oldest else "")


def scopes_of(device: Device) -> list[str]:
    held = [*device.grants.all(), *(device.user.sync_grants.all() if device.user else ())]
    return sorted({grant.scope for grant in held})


def lag_of(device: Any) -> str:
    """How far behind it may be, in words."""
    if device.last_seen_at is None and device.trouble != Trouble.EXPIRED:
        return "It was enrolled and has not called yet."
    called = words.ago(device.last_seen_at)
    match device.trouble:
        case Trouble.STUCK:
            waits = words.lasting(device.last_seen_at - device.oldest_pending_at)
            return f"It calls, and does not get rid of its outbox: when it called {called}, its oldest was {waits} old."
        case Trouble.SILENT:
            return f"It last called {called}, and lacks every change since."
        case Trouble.EXPIRED:
            days = settings.SYNC_DEVICE_UNUSED_DAYS_MAX
            return f"It last called {called}; after {days} days it is refused. Let it in again, or revoke it."
        case Trouble.LIMITED:
            return f"It came to a limit {words.ago(device.limited_at)}: then it is refused until the next hour or day."
    if device.pending:
        return f"It called {called}, with {device.pending} of its own changes still to be sent."
    return f"It called {called}; of what was changed since, it has nothing yet."


def glance(request: HttpRequest, device: Any) -> dict[str, Any]:
    """How one device is: what waits, what was refused or met a conflict, and what it pushed lately."""
    kind, state = state_of(device)
    days = pushed(device)
    rejections = visible(request.user, Rejection.objects.filter(device=device.pk))
    conflicts = visible(request.user, Conflict.objects.filter(device=device.pk))
    return {
        "device": device,
        "state": words.badge(kind, state),
        "alert": ALERTS.get(device.trouble),
        "access": access(device),
        "wipe": wipe_of(device),
        "lag": lag_of(device),
        "seen": words.moment(device.last_seen_at),
        "oldest": words.moment(device.oldest_pending_at) if device.oldest_pending_at else "",
        "causes": _causes(rejections, device),
        "refused": device.refused_count,
        "refused_address": _address("admin:sync_rejection_changelist", device),
        "refused_all_address": _address("admin:sync_rejection_changelist", device, state="all"),
        "conflicts": conflicts.aggregate(
            open=Count("pk", filter=OPEN), decided=Count("pk", filter=~OPEN), all=Count("pk")
        ),
        "conflicts_address": _address("admin:sync_conflict_changelist", device),
        "may_see_rejections": request.user.has_perm("sync.view_rejection"),
        "may_see_conflicts": request.user.has_perm("sync.view_conflict"),
        "days": _bars(days),
        "pushed": _pushed(days),
        "pushed_days": PUSHED_DAYS,
    }


def pushed(device: Device) -> list[Day] | None:
    """How its mutations were answered, day by day; None where counting them takes too long."""
    parameters: dict[str, Any] = {
        "device": device.pk,
        "days": PUSHED_DAYS,
        "last": timezone.localdate(),
        "zone": timezone.get_current_timezone_name(),
    }
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                block("pages/device.sql", "count_seconds"), {"seconds": settings.SYNC_ADMIN_COUNT_SECONDS_MAX}
            )
            cursor.execute(block("pages/device.sql", "pushed_by_device"), parameters)
            return [Day(*row) for row in cursor.fetchall()]
    except OperationalError:
        return None


def _causes(rejections: QuerySet[Rejection], device: Device) -> list[dict[str, Any]]:
    counted = rejections.filter(state=Rejection.State.OPEN).values("cause", "entity")
    return [
        {
            "cause": group["cause"].replace("_", " "),
            "entity": words.kind_of(group["entity"]),
            "count": group["count"],
            "oldest": words.moment(group["oldest"]),
            "address": _address(
                "admin:sync_rejection_changelist", device, cause=group["cause"], entity=group["entity"]
            ),
        }
        for group in counted.annotate(count=Count("pk"), oldest=Min("created_at")).order_by("-count")[:CAUSES_MAX]
    ]


def _pushed(days: list[Day] | None) -> dict[str, int] | None:
    if days is None:
        return None
    return {
        name: sum(getattr(day, name) for day in days) for name in ("total", "applied", "merged", "conflict", "rejected")
    }


def _bars(days: list[Day] | None) -> list[dict[str, Any]]:
    """The days as bars, in per cent of the highest."""
    most = max((day.total for day in days or []), default=0) or 1
    return [
        {
            "day": day.day,
            "total": day.total,
            "good": (day.applied + day.merged) * 100 / most,
            "warn": day.conflict * 100 / most,
            "bad": day.rejected * 100 / most,
        }
        for day in days or []
    ]


def _count_of(records: QuerySet[Any]) -> Coalesce:
    """How many of these records each device has."""
    counted = (
        records.filter(device=OuterRef("pk")).order_by().values("device").annotate(count=Count("pk")).values("count")
    )
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def _address(name: str, device: Device, **more: str) -> str:
    return f"{reverse(name)}?{urlencode({'device': device.pk, **more})}"


def _link(name: str, device: Device, count: int) -> str | SafeString:
    return format_html('<a href="{}">{}</a>', _address(name, device), count) if count else "–"


def register() -> None:
    """Give devices their pages."""
    admin.site.register(Device, DeviceAdmin)
