"""The admin's pages of webhooks: what came in and what became of it."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline

from legacy.webhooks.bodies import told
from legacy.webhooks.models import Hint, Operation

BODY_CHARS_SHOWN_MAX = 20_000


class _Kept:
    """What came in is for looking at."""

    def has_add_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        return False


class HintInline(_Kept, TabularInline):
    model = Hint
    fields = ("mapping", "key", "state", "outcome", "error", "attempts")
    extra = 0
    hide_title = True


@admin.register(Operation)
class OperationAdmin(_Kept, ModelAdmin):
    list_display = ("came_at", "system", "state", "error")
    list_filter = ("system", "came_at", ("error", admin.EmptyFieldListFilter))
    search_fields = ("id", "hints__key")
    search_help_text = "The id that the sender was told, or a record's key"
    fields = ("id", "system", "came_at", "state", "error", "text")
    readonly_fields = ("id", "state", "text")
    inlines = (HintInline,)
    ordering = ("-came_at",)

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        return super().get_queryset(request).prefetch_related("hints")

    @admin.display
    def state(self, operation: Operation) -> str:
        return told(operation).state

    @admin.display(description="body")
    def text(self, operation: Operation) -> str:
        return bytes(operation.body).decode(errors="replace")[:BODY_CHARS_SHOWN_MAX]


@admin.register(Hint)
class HintAdmin(_Kept, ModelAdmin):
    list_display = ("mapping", "key", "system", "state", "outcome", "error", "attempts", "next_at")
    list_filter = ("state", "outcome", "system", "mapping")
    search_fields = ("key",)
    fields = ("operation", "mapping", "key", "at", "state", "outcome", "error", "attempts", "next_at", "done_at")
    ordering = ("-pk",)
    actions = ("try_again",)

    @admin.action(description="Try again now", permissions=["retry"])
    def try_again(self, request: HttpRequest, hints: "QuerySet[Hint]") -> None:
        again = hints.exclude(state=Hint.State.DONE)
        count = again.update(state=Hint.State.WAITING, claim=None, attempts=0, next_at=timezone.now())
        self.message_user(request, f"{count} will be tried again within seconds, or by the next run.", messages.SUCCESS)

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("legacy.change_hint")
