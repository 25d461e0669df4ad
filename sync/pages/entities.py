"""The admin of the synced entities: every declared model gets a page, and who edits there is the author in the history.

A deployment that wants another page for one of its models registers a subclass of `EntityAdmin` in `entities/admin.py`.
"""

import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib import admin
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from unfold.admin import ModelAdmin

from sync.capture import authored
from sync.declare import declarations
from sync.pages.row import history_page, restore_page, row_of

COLUMNS_MAX = 7  # in the list

P = ParamSpec("P")


def _by_user(
    view: "Callable[Concatenate[EntityAdmin, HttpRequest, P], HttpResponse]",
) -> "Callable[Concatenate[EntityAdmin, HttpRequest, P], HttpResponse]":
    """Run what a view writes in one transaction whose author is the user: forms, inlines, list edits, actions."""

    @wraps(view)
    def written(self: "EntityAdmin", request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if request.method != "POST":
            return view(self, request, *args, **kwargs)
        with transaction.atomic(), authored(f"user:{request.user.get_username()}"):
            return view(self, request, *args, **kwargs)

    return written


class EntityAdmin(ModelAdmin):
    """The page of one synced model. What a subclass does not say about its list and form follows from the model."""

    list_per_page = 50
    show_full_result_count = False  # a second count of the whole table
    search_help_text = "Text, or the whole id of a row"

    def __init__(self, model: type[models.Model], site: admin.AdminSite) -> None:
        for option, value in _options(model).items():
            if getattr(type(self), option) is getattr(ModelAdmin, option):
                setattr(self, option, value)
        super().__init__(model, site)

    def get_search_results(
        self, request: HttpRequest, queryset: "models.QuerySet[Any]", search_term: str
    ) -> tuple["models.QuerySet[Any]", bool]:
        try:
            return queryset.filter(pk=uuid.UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    # --- what writes ---

    @_by_user
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        return super().changeform_view(request, object_id, form_url, extra_context)

    @_by_user
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, extra_context)

    @_by_user
    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().delete_view(request, object_id, extra_context)

    # --- the history of a row ---

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_restore"
        view = self.admin_site.admin_view(self.restore_view)
        return [path("<path:object_id>/history/<int:rev>/restore/", view, name=name), *super().get_urls()]

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Everything that was ever captured of a row, by whomever; it is there for a deleted row too."""
        return history_page(row_of(self, request, object_id), extra_context)

    def restore_view(self, request: HttpRequest, object_id: str, rev: int) -> HttpResponse:
        """Go back to a version of a row, once it was shown what that changes."""
        return restore_page(row_of(self, request, object_id), rev)


def register() -> None:
    """Give every declared model a page, but for those that have one already."""
    for declaration in declarations():
        if not admin.site.is_registered(declaration.model):
            admin.site.register(declaration.model, EntityAdmin)


def _options(model: type[models.Model]) -> dict[str, tuple[str, ...]]:
    """How the admin shows a model: its first columns, and whatever of it can be searched, filtered and looked up."""
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    short = [field for field in fields if not isinstance(field, models.TextField | models.JSONField)]
    columns = tuple(field.name for field in short[:COLUMNS_MAX]) or ("__str__",)
    references = tuple(field.name for field in fields if isinstance(field, models.ForeignKey))
    texts = [field for field in fields if isinstance(field, models.CharField | models.TextField) and not field.choices]
    return {
        "list_display": columns,
        "list_display_links": columns[:2],  # two, since the first may be empty
        "list_filter": tuple(f.name for f in short if f.choices or isinstance(f, models.BooleanField)),
        "list_select_related": references,
        "search_fields": tuple(field.name for field in texts),
        "raw_id_fields": references,
    }
