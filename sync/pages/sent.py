"""What the admin's lists of what devices sent share: each line names its device, and nobody adds or deletes one."""

from typing import Any

from django.contrib import admin
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from devices.models import Device
from sync.permissions import visible


class SentAdmin(ModelAdmin):
    """Of a model with `device`, an id; those that the user may see."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        name = Device.objects.filter(pk=OuterRef("device")).values("name")
        found = visible(request.user, super().get_queryset(request))
        annotated: QuerySet[Any] = found.annotate(device_name=Subquery(name))
        return annotated

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False  # it stays to be read, until sync_prune forgets it

    @admin.display(description="device", ordering="device_name")
    def device_link(self, sent: Any) -> SafeString:
        address = reverse("admin:devices_device_change", args=[sent.device])
        return format_html('<a href="{}">{}</a>', address, sent.device_name or sent.device)
