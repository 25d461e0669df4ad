"""The admin's pages of how devices get in and what they may see; that of the devices themselves is in `sync`."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from devices.enroll import code_hash, create_code
from devices.grants import check_count
from devices.models import EnrollmentCode, Grant, validate_scope


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


class GrantFormSet(PaginationInlineFormSet):
    def clean(self) -> None:
        super().clean()
        kept = [form for form in self.forms if form.has_changed() and not form.cleaned_data.get("DELETE")]
        if added := [form for form in kept if form.instance.pk is None]:
            check_count(self.instance, more=len(added) - len(self.deleted_forms))


class GrantInline(TabularInline):
    model = Grant
    formset = GrantFormSet
    fields = ("scope",)
    extra = 1
    hide_title = True
    verbose_name_plural = "scopes granted to this device"

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> forms.Field | None:
        found = super().formfield_for_dbfield(db_field, request, **kwargs)
        if found is not None:
            found.widget.attrs["aria-label"] = str(found.label)  # the column's head is no label of each field in it
        return found


@admin.register(Grant)
class GrantAdmin(ModelAdmin):
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
class EnrollmentCodeAdmin(ModelAdmin):
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
