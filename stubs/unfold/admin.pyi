from typing import Any

from django.contrib import admin

class ModelAdmin(admin.ModelAdmin[Any]):
    list_fullwidth: bool
    list_filter_sheet: bool
    list_filter_submit: bool
    list_before_template: str | None
    list_after_template: str | None
    warn_unsaved_form: bool

class TabularInline(admin.TabularInline[Any, Any]): ...
