from typing import TypeVar

from django.contrib import admin
from django.db.models import Model

M = TypeVar("M", bound=Model)
P = TypeVar("P", bound=Model)

class ModelAdmin(admin.ModelAdmin[M]):
    list_fullwidth: bool
    list_filter_sheet: bool
    list_filter_submit: bool
    list_before_template: str | None
    list_after_template: str | None
    warn_unsaved_form: bool

class TabularInline(admin.TabularInline[M, P]): ...
