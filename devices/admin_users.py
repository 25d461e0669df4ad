"""The admin's pages of the people who log in here: Django's own, in the admin's look."""

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm


class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    pass


def register() -> None:
    """Put these in the place of the pages that `django.contrib.auth` registered."""
    for model, page in ((User, UserAdmin), (Group, GroupAdmin)):
        admin.site.unregister(model)
        admin.site.register(model, page)
