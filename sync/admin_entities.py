"""The admin of the synced entities: every declared model gets a page, and who edits there is the author in the history.

A deployment that wants another page for one of its models registers a subclass of `EntityAdmin` in `entities/admin.py`.
"""

import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from devices.models import Device
from sync.admin import NOTHING, _shown, device_link
from sync.capture import authored
from sync.declare import Declaration, declarations
from sync.models import History

COLUMNS_MAX = 7  # in the list
CHANGES_SHOWN_MAX = 200  # of a row, the newest first

View = Callable[..., HttpResponseBase]


def _by_user(view: View) -> View:
    """Run what a view writes in one transaction whose author is the user: forms, inlines, list edits, actions."""

    @wraps(view)
    def written(self: "EntityAdmin", request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return view(self, request, *args, **kwargs)
        with transaction.atomic(), authored(f"user:{request.user.get_username()}"):
            return view(self, request, *args, **kwargs)

    return written


class EntityAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The page of one synced model. What it shows follows from the model and its declaration."""

    list_per_page = 50
    show_full_result_count = False  # a second count of the whole table

    def __init__(self, model: type[models.Model], site: admin.AdminSite) -> None:
        fields = [field for field in model._meta.concrete_fields if not field.primary_key]
        short = [field for field in fields if not isinstance(field, models.TextField | models.JSONField)]
        references = [field.name for field in fields if isinstance(field, models.ForeignKey)]
        self.list_display = self.list_display if self._chosen("list_display") else _names(short[:COLUMNS_MAX]) or ("__str__",)
        if not self._chosen("list_display_links"):
            self.list_display_links = tuple(map(str, self.list_display[:2]))  # two, since the first may be empty
        if not self._chosen("list_filter"):
            self.list_filter = _names([f for f in short if f.choices or isinstance(f, models.BooleanField)])
        if not self._chosen("search_fields"):
            texts = [f for f in fields if isinstance(f, models.CharField | models.TextField) and not f.choices]
            self.search_fields = _names(texts)
        if not self._chosen("raw_id_fields"):
            self.raw_id_fields = tuple(references)
        if not self._chosen("list_select_related"):
            self.list_select_related = tuple(references) or False
        self.search_help_text = self.search_help_text or "Text, or the whole id of a row"
        super().__init__(model, site)

    def _chosen(self, option: str) -> bool:
        """Whether a subclass says it."""
        return getattr(type(self), option) is not getattr(admin.ModelAdmin, option)

    def get_search_results(
        self, request: HttpRequest, queryset: "models.QuerySet[Any]", search_term: str
    ) -> tuple["models.QuerySet[Any]", bool]:
        try:
            return queryset.filter(pk=uuid.UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    # --- what writes ---

    @_by_user
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return super().changeform_view(request, *args, **kwargs)

    @_by_user
    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return super().changelist_view(request, *args, **kwargs)

    @_by_user
    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return super().delete_view(request, *args, **kwargs)

    # --- the history of a row ---

    def history_view(  # type: ignore[override]
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """Everything that was ever captured of a row, by whomever; it is there for a deleted row too."""
        try:
            row_id = uuid.UUID(object_id)
        except ValueError:
            raise Http404 from None
        row = self.get_object(request, object_id)  # type: ignore[arg-type]
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        entity = next(found.entity for found in declarations() if found.model is self.model)
        found = list(History.objects.filter(row_id=row_id, entity=entity).order_by("-rev")[:CHANGES_SHOWN_MAX])
        if row is None and not found:
            raise Http404
        context = self.admin_site.each_context(request) | {
            "title": f"History: {row}" if row else f"History of a deleted {self.opts.verbose_name}",
            "opts": self.opts,
            "object": row,
            "row_id": row_id,
            "module_name": capfirst(str(self.opts.verbose_name_plural)),
            "changes": _changes(found),
            "newest": CHANGES_SHOWN_MAX if len(found) == CHANGES_SHOWN_MAX else None,
        }
        return TemplateResponse(request, "admin/sync/row_history.html", context | (extra_context or {}))


def register() -> None:
    """Give every declared model a page, but for those that have one already."""
    for declaration in declarations():
        if not admin.site.is_registered(declaration.model):
            admin.site.register(declaration.model, EntityAdmin)


def _names(fields: list["models.Field[Any, Any]"]) -> tuple[str, ...]:
    return tuple(field.name for field in fields)


def _changes(found: list[History]) -> list[dict[str, Any]]:
    names = _device_names(change.author for change in found)
    return [
        {
            "rev": change.rev,
            "at": change.at,
            "op": change.op,
            "author": _author(change.author, names),
            "mutation": change.mutation,
            "fields": _fields(change),
        }
        for change in found
    ]


def _fields(change: History) -> list[tuple[str, str, str]]:
    """Name, old and new value of each field that a change touched. An insert is told as such: see sync_history."""
    old, new = change.old or {}, change.new or {}
    touched = [name for name in dict.fromkeys([*old, *new]) if name not in {"id", "_rev"}]
    return [
        (name, _shown(old[name]) if name in old else NOTHING, _shown(new[name]) if name in new else NOTHING)
        for name in touched
    ]


def _device_names(authors: Any) -> dict[str, str]:
    ids = {author.removeprefix("device:") for author in authors if author.startswith("device:")}
    return {str(pk): name for pk, name in Device.objects.filter(pk__in=ids).values_list("pk", "name")}


def _author(author: str, names: dict[str, str]) -> str | SafeString:
    kind, _, name = author.partition(":")
    return device_link(name, names.get(name)) if kind == "device" else author


__all__ = ["Declaration", "EntityAdmin", "register"]
