"""The admin's pages of devices: who syncs, who lags, what they may see, and how a new one gets in."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from devices.enroll import code_hash, create_code, revoke
from devices.grants import check_count
from devices.models import Device, EnrollmentCode, Grant, validate_scope

SCOPES_SHOWN_MAX = 5  # of a device, in the list


class GrantForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Grant
        fields = ("device", "user", "scope")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        holder = cleaned.get("device") or cleaned.get("user")
        if holder is not None and self.instance.pk is None:
            check_count(holder, more=1)
        return cleaned


class GrantFormSet(PaginationInlineFormSet):  # type: ignore[type-arg]
    def clean(self) -> None:
        super().clean()
        kept = [form for form in self.forms if form.has_changed() and not form.cleaned_data.get("DELETE")]
        if added := [form for form in kept if form.instance.pk is None]:
            check_count(self.instance, more=len(added) - len(self.deleted_forms))


class GrantInline(TabularInline):  # type: ignore[type-arg]
    model = Grant
    formset = GrantFormSet
    fields = ("scope",)
    extra = 1
    verbose_name_plural = "scopes granted to this device"


@admin.register(Device)
class DeviceAdmin(ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "state", "user", "scope_list", "last_seen_at", "pending", "oldest_pending_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter), "last_seen_at", "platform", "app_version", "client")
    list_select_related = ("user",)
    search_fields = ("id", "name", "user__username", "platform", "app_version")
    search_help_text = "Name, id, user, platform or app version"
    ordering = ("-last_seen_at",)
    autocomplete_fields = ("user",)
    inlines = (GrantInline,)
    actions = ("revoke", "revoke_and_wipe")
    fieldsets = (
        (None, {"fields": ("name", "user", "state", "id")}),
        ("What it told", {"fields": ("platform", "app_version", "client")}),
        ("Where it stands", {"fields": ("created_at", "last_seen_at", "pending", "oldest_pending_at", "user_scopes")}),
        ("What it pushed", {"fields": ("outcomes",)}),
    )
    readonly_fields = (
        "id",
        "state",
        "platform",
        "app_version",
        "client",
        "created_at",
        "last_seen_at",
        "pending",
        "oldest_pending_at",
        "user_scopes",
        "outcomes",
    )

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False  # a device enrols with a code

    def has_delete_permission(self, _request: HttpRequest, _obj: Device | None = None) -> bool:
        return False  # history keeps its author: a device is revoked

    def get_queryset(self, request: HttpRequest) -> QuerySet[Device]:
        return super().get_queryset(request).prefetch_related("grants", "user__sync_grants")

    @admin.display(description="scopes")
    def scope_list(self, device: Device) -> str:
        held = [*device.grants.all(), *(device.user.sync_grants.all() if device.user else ())]
        names = sorted({grant.scope for grant in held})
        more = f" and {len(names) - SCOPES_SHOWN_MAX} more" if len(names) > SCOPES_SHOWN_MAX else ""
        return ", ".join(names[:SCOPES_SHOWN_MAX]) + more or "none"

    @admin.display(description="scopes granted to its user")
    def user_scopes(self, device: Device) -> str:
        return ", ".join(grant.scope for grant in device.user.sync_grants.all()) if device.user else ""

    @admin.display(description="met with")
    def outcomes(self, device: Device) -> SafeString:
        lists = {"conflicts": "admin:sync_conflict_changelist", "rejections": "admin:sync_rejection_changelist"}
        links = ((f"{reverse(address)}?device={device.pk}", name) for name, address in lists.items())
        return format_html_join(" · ", '<a href="{}">{}</a>', links)

    @admin.display(description="state", ordering="revoked_at")
    def state(self, device: Device) -> str:
        if device.revoked_at is not None:
            return "revoked, to be wiped" if device.wipe else "revoked"
        return "active" if device.user is None or device.user.is_active else "refused: its user is not active"

    @admin.action(description="Revoke: refuse from now on", permissions=["change"])
    def revoke(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        self._revoke(request, devices, wipe=False)

    @admin.action(description="Revoke and wipe: the app also deletes its data", permissions=["change"])
    def revoke_and_wipe(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        self._revoke(request, devices, wipe=True)

    def _revoke(self, request: HttpRequest, devices: QuerySet[Device], wipe: bool) -> None:
        done = "Revoked, with wipe" if wipe else "Revoked"
        for device in devices:
            revoke(device, wipe)
            self.log_change(request, device, f"{done}.")
        self.message_user(request, f"{done}: {', '.join(map(str, devices))}.", messages.SUCCESS)


@admin.register(Grant)
class GrantAdmin(ModelAdmin):  # type: ignore[type-arg]
    form = GrantForm
    list_display = ("scope", "user", "device")
    list_select_related = ("user", "device")
    search_fields = ("scope", "user__username", "device__name")
    autocomplete_fields = ("user", "device")

    def has_change_permission(self, _request: HttpRequest, _obj: Grant | None = None) -> bool:
        return False  # a grant is given or taken back; changing one would be both at once, unseen


class EnrollmentCodeForm(forms.ModelForm):  # type: ignore[type-arg]
    scope_lines = forms.CharField(
        label="Scopes",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}),
        initial="global",
        help_text="One a line, such as global or store:7.",
    )
    hours = forms.IntegerField(
        label="Valid for (hours)",
        widget=UnfoldAdminIntegerFieldWidget,
        min_value=1,
        max_value=settings.SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX,
        initial=settings.SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX,
    )

    class Meta:
        model = EnrollmentCode
        fields = ("user",)

    def clean_scope_lines(self) -> list[str]:
        scopes = [line.strip() for line in self.cleaned_data["scope_lines"].splitlines() if line.strip()]
        for scope in scopes:
            validate_scope(scope)
        if len(set(scopes)) > settings.SYNC_SCOPES_PER_DEVICE_MAX:
            raise ValidationError(f"At most {settings.SYNC_SCOPES_PER_DEVICE_MAX} scopes.")
        return scopes


@admin.register(EnrollmentCode)
class EnrollmentCodeAdmin(ModelAdmin):  # type: ignore[type-arg]
    form = EnrollmentCodeForm
    list_display = ("created_at", "state", "scope_list", "user", "expires_at", "used_at", "device", "created_by")
    list_filter = (("used_at", admin.EmptyFieldListFilter), "created_at")
    list_select_related = ("user", "device", "created_by")
    search_fields = ("user__username", "device__name", "created_by__username")
    autocomplete_fields = ("user",)

    def get_fields(self, _request: HttpRequest, obj: EnrollmentCode | None = None) -> tuple[str, ...]:
        return ("scope_lines", "user", "hours") if obj is None else self.list_display

    def has_change_permission(self, _request: HttpRequest, _obj: EnrollmentCode | None = None) -> bool:
        return False  # an open code can be deleted, and another one made

    def save_model(
        self, request: HttpRequest, obj: EnrollmentCode, form: "forms.ModelForm[Any]", _change: bool
    ) -> None:
        cleaned = form.cleaned_data
        by = request.user if request.user.is_authenticated else None
        code = create_code(cleaned["scope_lines"], cleaned["user"], cleaned["hours"], by)
        obj.pk = EnrollmentCode.objects.values_list("pk", flat=True).get(code_hash=code_hash(code))
        self.message_user(
            request, f"Enrolment code: {code}. Copy it now: it is shown only this once.", messages.WARNING
        )

    @admin.display(description="state")
    def state(self, code: EnrollmentCode) -> str:
        return code.state(timezone.now())

    @admin.display(description="scopes")
    def scope_list(self, code: EnrollmentCode) -> str:
        return ", ".join(code.scopes) or "none"
