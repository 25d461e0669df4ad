from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from legacy.branches.admin import BranchAdmin as BranchAdmin
from legacy.models import DeadLetter, Link, Run
from legacy.webhooks import admin as _webhooks  # noqa: F401  # Django looks for an application's pages here


class ReadOnly(ModelAdmin):
    """What runs keep is for looking at: a change by hand would make two sides agree on what neither has."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:  # noqa: ARG002
        return False


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = ["started_at", "system", "state", "counts", "error"]
    list_filter = ["system", "state"]


@admin.register(Link)
class LinkAdmin(ReadOnly):
    list_display = ["mapping", "system", "key", "row", "agreed_at"]
    list_filter = ["system", "mapping"]
    search_fields = ["key", "row"]


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly):
    list_display = ["mapping", "key", "direction", "error", "attempts", "first_at", "next_at"]
    list_filter = ["system", "mapping", "direction"]
